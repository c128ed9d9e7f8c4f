//! What the server counts.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use waggle_overlay_plan::wire::Fault;

use super::log::Source;
use crate::forward::{CacheCounters, UpstreamCounters};

/// Buckets of the distribution of latencies: bucket `i` is below 2^(i+1) us, the last one is open.
pub const LATENCY_BUCKETS: usize = 24;
/// Codes on the wire that are told apart; all above are counted as the last one.
const N_CODES: usize = 24;

impl DnsCounters {
    /// Answers of `zone`, `cache`, `stale`, `upstream` or `nobody`.
    pub fn answered_by(&self, source: &str) -> u64 {
        let of = self
            .answers
            .iter()
            .filter(|((_, from, _), _)| *from == source);
        of.map(|(_, n)| n).sum()
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What the server has counted since it started.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct DnsCounters {
            $($(#[$doc])* pub $name: u64,)*
            /// Answers by code on the wire (0 NOERROR, 2 SERVFAIL, 3 NXDOMAIN, 5 REFUSED).
            pub rcodes: BTreeMap<u16, u64>,
            /// The same, told apart by transport (`udp`, `tcp`) and by who answered (`zone`, `cache`, `stale`,
            /// `upstream`, `nobody`).
            pub answers: BTreeMap<(&'static str, &'static str, u16), u64>,
            /// Messages that were no question that can be answered, by what is wrong with them.
            pub faults: BTreeMap<&'static str, u64>,
            /// Answers by the time that they took: bucket `i` is below 2^(i+1) us, the last one is open.
            pub latency: [u64; LATENCY_BUCKETS],
            /// Sum of these times, microseconds.
            pub latency_sum_us: u64,
            /// Questions over UDP whose asker is not known.
            pub unattributed: u64,
            /// What was kept of upstreams' answers.
            pub cache: CacheCounters,
            /// What came of asking each upstream, in the order of the configuration.
            pub upstreams: Vec<UpstreamCounters>,
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counting {
            $(pub(crate) $name: AtomicU64,)*
            answers: [[[AtomicU64; N_CODES]; Source::ALL.len()]; 2],
            faults: [AtomicU64; Fault::ALL.len()],
            latency: [AtomicU64; LATENCY_BUCKETS],
            latency_sum_us: AtomicU64,
        }

        impl Counting {
            pub(crate) fn read(&self) -> DnsCounters {
                let n = |a: &AtomicU64| a.load(Ordering::Relaxed);
                DnsCounters {
                    $($name: n(&self.$name),)*
                    rcodes: self.answers().fold(BTreeMap::new(), |mut all, ((_, _, code), n)| {
                        *all.entry(code).or_default() += n;
                        all
                    }),
                    answers: self.answers().collect(),
                    faults: Fault::ALL
                        .iter()
                        .zip(&self.faults)
                        .map(|(fault, count)| (fault.name(), n(count)))
                        .filter(|(_, n)| *n > 0)
                        .collect(),
                    latency: std::array::from_fn(|i| n(&self.latency[i])),
                    latency_sum_us: n(&self.latency_sum_us),
                    unattributed: 0,
                    cache: CacheCounters::default(),
                    upstreams: Vec::new(),
                }
            }
        }
    };
}

counters! {
    /// Questions over UDP.
    udp_queries,
    /// Questions over TCP.
    tcp_queries,
    /// Answers with TC, to be asked again over TCP.
    truncated,
    /// Questions that no upstream answered in time or at all.
    forward_failures,
    /// Questions turned away because too many were in flight.
    forward_dropped,
    /// Questions that joined the same one in flight.
    coalesced,
    /// Questions about other names where nobody is to be asked.
    no_upstream,
    /// Questions turned away because too many waited for an answer.
    wait_dropped,
    /// Questions about cluster names before there was a zone.
    no_zone,
    /// Answers withheld, SERVFAIL instead, because network policies could not be told of their addresses first.
    told_failures,
    /// Answers that could not be sent.
    send_failures,
    /// Connections that were ended for being silent or reading too slowly.
    tcp_timeouts,
    /// Lines of the query log that were dropped because it was full.
    log_dropped,
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counting {
    /// An answer was made.
    pub(crate) fn answered(&self, tcp: bool, from: Source, code: u16) {
        let at = usize::from(code).min(N_CODES - 1);
        add(&self.answers[usize::from(tcp)][from as usize][at]);
    }

    fn answers(&self) -> impl Iterator<Item = ((&'static str, &'static str, u16), u64)> {
        let transports = ["udp", "tcp"].into_iter().zip(&self.answers);
        transports.flat_map(|(transport, by_source)| {
            let sources = Source::ALL.into_iter().zip(by_source);
            sources.flat_map(move |(from, codes)| {
                (0u16..).zip(codes).filter_map(move |(code, n)| {
                    let n = n.load(Ordering::Relaxed);
                    (n > 0).then_some(((transport, from.name(), code), n))
                })
            })
        })
    }

    pub(crate) fn fault(&self, fault: Fault) {
        if let Some(at) = Fault::ALL.iter().position(|f| *f == fault) {
            add(&self.faults[at]);
        }
    }

    /// `n` answers that took this long each.
    pub(crate) fn took(&self, time: Duration, n: u64) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let at = (us.max(1).ilog2() as usize).min(LATENCY_BUCKETS - 1);
        self.latency[at].fetch_add(n, Ordering::Relaxed);
        self.latency_sum_us
            .fetch_add(us.saturating_mul(n), Ordering::Relaxed);
    }
}
