//! The query log: one of so many questions, as a line each. Off unless configured.

use std::{net::IpAddr, sync::atomic::Ordering};

use tokio::sync::mpsc;
use waggle_overlay_plan::{DnsName, RType, wire::Query};

use super::{Shared, counters::add};

/// Lines that may wait to be written; more are dropped and counted.
pub(super) const MAX_WAITING: usize = 1024;

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The cluster's zones.
    Zone,
    /// What was kept of an upstream's answer.
    Cache,
    /// The same, after its time.
    Stale,
    /// An upstream.
    Upstream,
    /// There was nobody to ask.
    Nobody,
}

impl Source {
    /// In the order of their numbers.
    pub(super) const ALL: [Self; 5] = [
        Self::Zone,
        Self::Cache,
        Self::Stale,
        Self::Upstream,
        Self::Nobody,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Cache => "cache",
            Self::Stale => "stale",
            Self::Upstream => "upstream",
            Self::Nobody => "nobody",
        }
    }
}

/// Who asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    /// From where. Processes of the node show with the address of the resolver that they asked, since a local route's
    /// source is its target; containers with addresses of their own show with these.
    pub(super) ip: IpAddr,
    /// The cgroup of the socket (its inode), where it is known: [`super::askers`].
    pub(super) cgroup: Option<u64>,
    /// Over TCP.
    pub(super) tcp: bool,
}

/// A question and what was said.
#[derive(Debug)]
pub(super) struct Entry {
    name: DnsName,
    rtype: RType,
    asker: Asker,
    code: u16,
    from: Source,
}

impl Entry {
    pub(super) fn new(query: &Query<'_>, asker: Asker, code: u16, from: Source) -> Self {
        Self {
            name: query.name(),
            rtype: query.rtype,
            asker,
            code,
            from,
        }
    }
}

impl Shared {
    /// Logs a question if it is its turn.
    pub(super) fn log(&self, entry: impl FnOnce() -> Entry) {
        let Some(log) = &self.log else { return };
        let n = self.n_logged.fetch_add(1, Ordering::Relaxed);
        if n.is_multiple_of(log.one_in) && log.lines.try_send(entry()).is_err() {
            add(&self.counting.log_dropped);
        }
    }
}

/// Where lines go.
pub(super) struct Log {
    /// One of so many.
    pub(super) one_in: u64,
    /// Bounded by [`MAX_WAITING`].
    pub(super) lines: mpsc::Sender<Entry>,
}

/// Writes what comes until all senders are gone.
pub(super) async fn write(mut lines: mpsc::Receiver<Entry>) {
    while let Some(entry) = lines.recv().await {
        tracing::info!(
            target: "waggle_overlay::dns::query",
            name = %entry.name,
            kind = %entry.rtype,
            from = %entry.asker.ip,
            cgroup = entry.asker.cgroup,
            transport = if entry.asker.tcp { "tcp" } else { "udp" },
            rcode = entry.code,
            by = entry.from.name(),
            "dns question"
        );
    }
}
