//! The exporters: one task per signal, from its queue to the endpoint.
//!
//! A batch in hand is retried until the endpoint takes it; meanwhile its queue drops its oldest items
//! when full. What a retry cannot mend is dropped at once, under its reason.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use waggle_telemetry_pipeline::{AttrValue, Batch, DropReason, HostFacts, names};

use crate::{
    State, TelemetryConfig,
    disks::{Disks, Others},
    link::{Link, Sendable},
    otlp,
    pipe::{Lane, LogItem, MetricItem, Pipe, Signal, SpanItem, Way},
    sdk,
    spooled::Halve,
};

/// Shortest and longest wait between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a disk may take at the end.
const GRACE: Duration = Duration::from_secs(1);
/// Between two looks at spools of no endpoint.
const SWEEP: Duration = Duration::from_hours(1);
/// Attempts on a batch that fails in a way that may or may not be the connection's fault.
const DOUBTFUL_ATTEMPTS: u32 = 5;

/// One signal's way to an endpoint.
pub(crate) trait Export: Send + Sync + 'static {
    type Item: Send + Sync + 'static;
    type Request: Sendable + Halve;
    const SIGNAL: Signal;

    fn lane(way: &Way) -> &Lane<Arc<Self::Item>>;
    fn request(batch: &Batch<Arc<Self::Item>>, host: &HostFacts) -> Self::Request;
}

macro_rules! export {
    ($of:ident, $item:ident, $lane:ident, $request:ident) => {
        pub(crate) struct $of;

        impl Export for $of {
            type Item = $item;
            type Request = $request;
            const SIGNAL: Signal = Signal::$of;

            fn lane(way: &Way) -> &Lane<Arc<$item>> {
                &way.$lane
            }

            fn request(batch: &Batch<Arc<$item>>, host: &HostFacts) -> $request {
                otlp::$lane(batch.items().map(AsRef::as_ref), host)
            }
        }
    };
}
export!(Logs, LogItem, logs, ExportLogsServiceRequest);
export!(Spans, SpanItem, spans, ExportTraceServiceRequest);
export!(Metrics, MetricItem, metrics, ExportMetricsServiceRequest);

/// When to stop, and until when to try.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    pub(crate) token: CancellationToken,
    deadline: Arc<OnceLock<Instant>>,
}

impl Stop {
    fn at(&self, deadline: Instant) {
        // The first deadline stands.
        let _ = self.deadline.set(deadline);
        self.token.cancel();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.deadline.get().is_some_and(|d| Instant::now() >= *d)
    }
}

/// The running tasks.
#[derive(Debug)]
pub(crate) struct Exporters {
    /// Stops the collector, logs and spans.
    first: Stop,
    /// Stops metrics, which go last so that the final books are as late as can be.
    last: Stop,
    first_tasks: Vec<JoinHandle<()>>,
    last_tasks: Vec<JoinHandle<()>>,
}

impl Exporters {
    pub(crate) fn spawn(
        runtime: &Handle,
        pipe: &Arc<Pipe>,
        ways: Vec<(Link, Option<Disks>)>,
        others: Option<Others>,
        config: &TelemetryConfig,
    ) -> Self {
        let (first, last) = (Stop::default(), Stop::default());
        let (mut first_tasks, mut last_tasks) = (Vec::new(), Vec::new());
        for (way, (link, disks)) in pipe.ways.iter().zip(ways) {
            let worker = |stop: &Stop| Worker {
                pipe: Arc::clone(pipe),
                way: Arc::clone(way),
                link: link.clone(),
                stop: stop.clone(),
                batch_items: config.batch_items,
                batch_bytes: config.batch_bytes,
                delay: config.batch_delay,
                timeout: config.export_timeout,
            };
            let disks = disks.as_ref();
            first_tasks.extend(worker(&first).begin::<Logs>(runtime, disks));
            first_tasks.extend(worker(&first).begin::<Spans>(runtime, disks));
            last_tasks.extend(worker(&last).begin::<Metrics>(runtime, disks));
        }
        let interval = config.metric_interval;
        let (collect, stop) = (Arc::clone(pipe), first.token.clone());
        let collector = runtime.spawn(async move {
            while timeout(interval, stop.cancelled()).await.is_err() {
                collect.cpu.run(|| collect.collect());
            }
        });
        first_tasks.push(collector);
        if let Some(others) = others {
            first_tasks.push(runtime.spawn(sweep(others, first.token.clone())));
        }
        Self {
            first,
            last,
            first_tasks,
            last_tasks,
        }
    }

    /// Drains logs and spans, then the metrics with the final books. Each endpoint drains by itself, and what has logs for an
    /// endpoint that is away gives up half-way: the others' last metrics need the rest of the time.
    pub(crate) async fn shutdown(mut self, pipe: &Pipe, deadline: Instant) {
        let now = Instant::now();
        let half = now + deadline.saturating_duration_since(now) / 2;
        self.first.at(half);
        drain(&mut self.first_tasks, half).await;
        pipe.collect();
        self.last.at(deadline);
        drain(&mut self.last_tasks, deadline).await;
    }
}

/// Spools of no endpoint go when they are too old, be it long after the start.
async fn sweep(others: Others, stop: CancellationToken) {
    let others = Arc::new(others);
    while timeout(SWEEP, stop.cancelled()).await.is_err() {
        let others = Arc::clone(&others);
        // It panics nowhere.
        let _ = tokio::task::spawn_blocking(move || others.sweep()).await;
    }
}

/// Waits for tasks that end by themselves at a deadline, but for what a disk takes.
async fn drain(tasks: &mut Vec<JoinHandle<()>>, deadline: Instant) {
    for task in tasks.drain(..) {
        if timeout_at(deadline + GRACE, task).await.is_err() {
            tracing::warn!("an exporter does not end in time");
        }
    }
}

impl Drop for Exporters {
    fn drop(&mut self) {
        let now = Instant::now();
        self.first.at(now);
        self.last.at(now);
    }
}

/// One signal's task: what it needs of all.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) pipe: Arc<Pipe>,
    pub(crate) way: Arc<Way>,
    link: Link,
    pub(crate) stop: Stop,
    pub(crate) batch_items: usize,
    batch_bytes: usize,
    delay: Duration,
    timeout: Duration,
}

/// What became of a request.
pub(crate) enum Outcome {
    /// The endpoint has it, but for so many items.
    Taken(u64),
    /// The endpoint wants less at a time.
    TooLarge,
    /// It is given up.
    Lost(DropReason),
    /// There is no time left.
    Stopped,
}

/// What to do about a failed request.
enum Failure {
    /// The endpoint is not there: wait and try again, for as long as it takes.
    Away,
    /// Perhaps: try a few times.
    Doubtful,
    /// Less at a time.
    TooLarge,
    /// Never.
    Refused,
}

/// OTLP specification, "Failures": which codes are retryable. An endpoint that is none, or that does not know this node,
/// is mended by people: until then everything waits. Where tonic reports a broken connection as `Unknown` or `Internal`,
/// a few attempts tell it from a real refusal.
fn classify(status: &Status) -> Failure {
    match (State::of(status), status.code()) {
        (
            State::Unreachable | State::Certificate | State::Unauthenticated | State::WrongEndpoint,
            _,
        )
        | (_, Code::Aborted | Code::DataLoss) => Failure::Away,
        (_, Code::ResourceExhausted | Code::OutOfRange) => Failure::TooLarge,
        (_, Code::Unknown | Code::Internal | Code::Ok) => Failure::Doubtful,
        _ => Failure::Refused,
    }
}

impl Worker {
    /// Begins to export a signal, by way of a disk where there is one.
    fn begin<E: Export>(self, runtime: &Handle, disks: Option<&Disks>) -> Vec<JoinHandle<()>> {
        let Some(disks) = disks else {
            let cpu = self.pipe.cpu.clone();
            return vec![runtime.spawn(cpu.wrap(self.run::<E>()))];
        };
        let (disk, cpu) = (disks.of(E::SIGNAL).clone(), self.pipe.cpu.clone());
        let spool = self.clone().spool::<E>(disk.clone());
        let ship = self.ship::<E>(disk, disks.replay_bytes_s);
        vec![
            runtime.spawn(cpu.wrap(spool)),
            runtime.spawn(cpu.wrap(ship)),
        ]
    }

    async fn run<E: Export>(self) {
        let mut batch_items = self.batch_items;
        while let Some(batch) = self.next_batch::<E>(batch_items, false).await {
            let n = batch.len();
            let shrink = self.deliver::<E>(batch).await;
            batch_items = if shrink {
                (n / 2).max(1)
            } else {
                (batch_items * 2).min(self.batch_items)
            };
        }
        E::lane(&self.way).with(|q| q.drop_queued(DropReason::Shutdown));
    }

    /// Waits for items and for their company; `None` when it is time to end, and for a disk when nothing is left then.
    pub(crate) async fn next_batch<E: Export>(
        &self,
        max: usize,
        to_disk: bool,
    ) -> Option<Batch<Arc<E::Item>>> {
        let lane = E::lane(&self.way);
        loop {
            while !self.stop.token.is_cancelled() && lane.with(|q| q.queued()) == 0 {
                tokio::select! {
                    () = lane.wake.notified() => {}
                    () = self.stop.token.cancelled() => {}
                }
            }
            let gather = async {
                while lane.with(|q| q.queued()) < max {
                    lane.wake.notified().await;
                }
            };
            tokio::select! {
                _ = timeout(self.delay, gather) => {}
                () = self.stop.token.cancelled() => {}
            }
            if self.stop.is_over() && !to_disk {
                return None;
            }
            let batch = lane.with(|q| q.take(max, self.batch_bytes));
            if batch.is_some() || self.stop.token.is_cancelled() {
                return batch;
            }
        }
    }

    /// Settles one batch; `true` when it must be cut smaller.
    async fn deliver<E: Export>(&self, batch: Batch<Arc<E::Item>>) -> bool {
        let lane = E::lane(&self.way);
        let request = E::request(&batch, &self.pipe.host);
        match self.push::<E>(&request).await {
            Outcome::Taken(rejected) => lane.with(|q| q.exported(batch, rejected)),
            Outcome::TooLarge if batch.len() > 1 => {
                lane.with(|q| q.requeue(batch));
                return true;
            }
            Outcome::TooLarge => lane.with(|q| q.failed(batch, DropReason::TooLarge)),
            Outcome::Lost(why) => lane.with(|q| q.failed(batch, why)),
            Outcome::Stopped => lane.with(|q| q.failed(batch, DropReason::Shutdown)),
        }
        false
    }

    /// Sends a request until the endpoint has answered for it.
    pub(crate) async fn push<E: Export>(&self, request: &E::Request) -> Outcome {
        let mut backoff = BACKOFF.0;
        let mut doubtful = 0;
        loop {
            let began = Instant::now();
            let limit = began + self.timeout;
            let until = self.stop.deadline.get().map_or(limit, |d| limit.min(*d));
            self.way.sending(E::SIGNAL, request.items());
            let answer = timeout_at(until, request.clone().send(&self.link))
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            self.way.sending(E::SIGNAL, 0);
            self.observe(E::SIGNAL, began.elapsed(), answer.as_ref().err());
            let watch = self.way.watch(E::SIGNAL);
            let before = watch.state().0;
            let changed = watch.saw(answer.as_ref().map(|_| ()));
            let to = self.way.name.as_str();
            let status = match answer {
                Ok((rejected, message)) => {
                    let rejected = u64::try_from(rejected).unwrap_or(0);
                    if rejected > 0 || !message.is_empty() {
                        tracing::warn!(to, signal = %E::SIGNAL, rejected, message, "otlp endpoint took a batch in part");
                    }
                    if changed && before != State::Idle {
                        tracing::info!(to, signal = %E::SIGNAL, "otlp export works again");
                    }
                    return Outcome::Taken(rejected);
                }
                Err(status) => status,
            };
            if changed {
                let (state, why) = watch.state();
                tracing::warn!(to, signal = %E::SIGNAL, %state, why, "otlp export fails");
            }
            match classify(&status) {
                Failure::Away => {}
                Failure::Doubtful => {
                    doubtful += 1;
                    if doubtful >= DOUBTFUL_ATTEMPTS {
                        return Outcome::Lost(DropReason::ExportFailed);
                    }
                }
                Failure::TooLarge => return Outcome::TooLarge,
                Failure::Refused => return Outcome::Lost(DropReason::Rejected),
            }
            if self.stop.is_over() {
                return Outcome::Stopped;
            }
            // At the end there is a deadline to meet: short waits, not long ones.
            let wait = if self.stop.token.is_cancelled() {
                BACKOFF.0
            } else {
                backoff
            };
            let waited = timeout(wait, self.stop.token.cancelled()).await.is_err();
            if !waited {
                tokio::time::sleep(BACKOFF.0).await;
            }
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    fn observe(&self, signal: Signal, took: Duration, error: Option<&Status>) {
        let mut attrs = vec![
            (names::SIGNAL, AttrValue::from(signal.name())),
            (names::DESTINATION, self.way.name.as_str().into()),
        ];
        let mut same = sdk::exporter(signal, self.way.protocol, &self.way.name);
        if let Some(status) = error {
            let code = AttrValue::from(format!("{:?}", status.code()));
            attrs.push((names::ERROR_TYPE, code.clone()));
            same.push((names::ERROR_TYPE, code));
        }
        let took = took.as_secs_f64();
        self.pipe
            .own_record(&names::TELEMETRY_EXPORT_DURATION, attrs, took);
        self.pipe
            .own_record(&names::OTEL_EXPORT_DURATION, same, took);
    }
}
