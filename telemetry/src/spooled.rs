//! Export by way of the disk: one task writes what comes, one sends what is there, in order.
//!
//! A record is settled when the endpoint has answered for all of it. What is not when the process ends waits for the next one.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
use prost::Message as _;
use tokio::time::Instant;
use waggle_telemetry_pipeline::DropReason;

use crate::{
    export::{Export, Outcome, Worker},
    spool::{
        Lost,
        disk::{Disk, now_ms},
    },
};

/// How often what was written is made to last.
const SYNC: Duration = Duration::from_secs(1);
/// Before a disk that fails is tried again.
const DISK_PAUSE: Duration = Duration::from_secs(1);
/// From this age on a record is an old one: the endpoint was away, and is spared when it is back.
const OLD_MS: u64 = 5000;

impl Worker {
    /// Writes all that comes, until the process ends; then what is queued, which the next process sends.
    pub(crate) async fn spool<E: Export>(self, disk: Disk) {
        let lane = E::lane(&self.way);
        let (mut failing, mut synced) = (false, Instant::now());
        while let Some(batch) = self.next_batch::<E>(self.batch_items, true).await {
            let payload = E::request(&batch, &self.pipe.host).encode_to_vec();
            let items = u32::try_from(batch.len()).unwrap_or(u32::MAX);
            // Before it is there: who sends it may be done with it before this task goes on.
            lane.with(|q| q.spooled(batch));
            let (done, lost) = disk.append(payload, items).await;
            self.book::<E>(lost);
            match done {
                Ok(()) => failing = false,
                Err(e) => {
                    lane.with(|q| q.lost(u64::from(items), DropReason::SpoolFailed));
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(signal = %E::SIGNAL, error = %e, "the spool can't be written");
                    }
                }
            }
            if synced.elapsed() >= SYNC {
                // What the next sync makes up for, or says again.
                let _ = disk.sync().await;
                synced = Instant::now();
            }
        }
        // What came meanwhile: nobody hands in any more.
        lane.with(|q| q.drop_queued(DropReason::Shutdown));
        let _ = disk.sync().await;
        disk.end();
    }

    /// Sends what is there, until it is told to end and nothing is left, or its time is over.
    pub(crate) async fn ship<E: Export>(self, disk: Disk, replay_bytes_s: u64) {
        let mut unread = false;
        while !self.stop.is_over() {
            let (record, lost) = disk.next().await;
            self.book::<E>(lost);
            let record = match record {
                Ok(Some(record)) => {
                    unread = false;
                    record
                }
                Ok(None) if disk.has_ended() => return,
                Ok(None) => {
                    disk.wait().await;
                    continue;
                }
                Err(e) => {
                    if !std::mem::replace(&mut unread, true) {
                        tracing::warn!(signal = %E::SIGNAL, error = %e, "the spool can't be read");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(DISK_PAUSE) => continue,
                        () = self.stop.token.cancelled() => return,
                    }
                }
            };
            let outcome = match E::Request::decode(record.payload.as_slice()) {
                Ok(request) => self.whole::<E>(request).await,
                Err(_) => Some(Sent {
                    rejected: 0,
                    lost: vec![(record.items, DropReason::Damaged)],
                }),
            };
            let Some(sent) = outcome else {
                // The next process has it.
                let lost = disk.give_back().await;
                self.book::<E>(lost);
                return;
            };
            self.settle::<E>(&disk, &sent).await;
            if now_ms().saturating_sub(record.at) > OLD_MS && !self.stop.token.is_cancelled() {
                let bytes = record.payload.len() as u64;
                let pause = Duration::from_millis(bytes * 1000 / replay_bytes_s.max(1));
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.stop.token.cancelled() => {}
                }
            }
        }
    }

    /// Sends a request, in parts where the endpoint wants less at a time; `None` when there is no time left.
    async fn whole<E: Export>(&self, request: E::Request) -> Option<Sent> {
        let mut sent = Sent::default();
        let mut parts = vec![request];
        while let Some(request) = parts.pop() {
            let n = request.items();
            match self.push::<E>(&request).await {
                Outcome::Taken(rejected) => sent.rejected += rejected.min(n),
                Outcome::Lost(why) => sent.lost.push((n, why)),
                Outcome::Stopped => return None,
                Outcome::TooLarge => match request.halve() {
                    Some((first, second)) => parts.extend([second, first]),
                    None => sent.lost.push((n, DropReason::TooLarge)),
                },
            }
        }
        Some(sent)
    }

    async fn settle<E: Export>(&self, disk: &Disk, sent: &Sent) {
        match disk.settle().await {
            Ok(0) => {}
            Ok(items) => E::lane(&self.way).with(|q| {
                let lost: u64 = sent.lost.iter().map(|(n, _)| n).sum();
                q.unspooled(items.saturating_sub(lost), sent.rejected);
                for (n, why) in &sent.lost {
                    q.lost((*n).min(items), *why);
                }
            }),
            // The runtime ends: the next process finds the record again.
            Err(e) => tracing::debug!(signal = %E::SIGNAL, error = %e, "a record is not settled"),
        }
    }

    fn book<E: Export>(&self, lost: Lost) {
        if lost.total() > 0 {
            E::lane(&self.way).with(|q| {
                q.lost(lost.full, DropReason::SpoolFull);
                q.lost(lost.old, DropReason::TooOld);
                q.lost(lost.damaged, DropReason::Damaged);
            });
        }
    }
}

/// What became of a record's items; those that are not here were taken.
#[derive(Debug, Default)]
struct Sent {
    rejected: u64,
    lost: Vec<(u64, DropReason)>,
}

/// A request that can be cut.
pub(crate) trait Halve: Sized {
    /// How many items it holds, as the books count them.
    fn items(&self) -> u64;
    /// Two of about half of it each; `None` when it can't be cut.
    fn halve(self) -> Option<(Self, Self)>;
}

/// Moves the second half of all items that can be told apart into a request of its own.
macro_rules! halve {
    ($request:ident, $resources:ident, $scopes:ident, $leaves:ident, $count:expr) => {
        impl Halve for $request {
            fn items(&self) -> u64 {
                let scopes = self.$resources.iter().flat_map(|r| &r.$scopes);
                scopes.flat_map(|s| &s.$leaves).map($count).sum()
            }

            fn halve(mut self) -> Option<(Self, Self)> {
                let scopes = self.$resources.iter().flat_map(|r| &r.$scopes);
                let n: usize = scopes.map(|s| s.$leaves.len()).sum();
                if n < 2 {
                    return None;
                }
                let mut second = self.clone();
                let (mut keep, mut skip) = (n / 2, n / 2);
                for scope in self.$resources.iter_mut().flat_map(|r| &mut r.$scopes) {
                    let here = keep.min(scope.$leaves.len());
                    scope.$leaves.truncate(here);
                    keep -= here;
                }
                for scope in second.$resources.iter_mut().flat_map(|r| &mut r.$scopes) {
                    let here = skip.min(scope.$leaves.len());
                    scope.$leaves.drain(..here);
                    skip -= here;
                }
                for request in [&mut self, &mut second] {
                    for r in &mut request.$resources {
                        r.$scopes.retain(|s| !s.$leaves.is_empty());
                    }
                    request.$resources.retain(|r| !r.$scopes.is_empty());
                }
                Some((self, second))
            }
        }
    };
}
halve!(
    ExportLogsServiceRequest,
    resource_logs,
    scope_logs,
    log_records,
    |_| 1
);
halve!(
    ExportTraceServiceRequest,
    resource_spans,
    scope_spans,
    spans,
    |_| 1
);
halve!(
    ExportMetricsServiceRequest,
    resource_metrics,
    scope_metrics,
    metrics,
    crate::otlp::points
);
