//! The DNS server's counters as metric points.

use waggle_overlay::dns::DnsCounters;
use waggle_telemetry::names;
use waggle_telemetry_pipeline::{Point, PointData, log2_us_histogram};

use crate::meter::Out;

/// Codes by their names in the registry of DNS.
fn code_name(code: u16) -> String {
    match code {
        0 => "NOERROR".to_owned(),
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        16 => "BADVERS".to_owned(),
        other => format!("RCODE{other}"),
    }
}

/// All that the server has counted. Series are bounded: by transports, sources, codes, faults, and by the upstreams
/// that are configured.
pub fn dns_points(c: &DnsCounters, n_records: usize, start_ns: u64, now_ns: u64) -> Vec<Point> {
    let mut out = Out::new(start_ns, now_ns);
    let lookups = log2_us_histogram(&c.latency, c.latency_sum_us);
    out.push(&names::DNS_LOOKUP_DURATION, vec![], lookups);
    out.push(
        &names::DNS_RECORDS,
        vec![],
        PointData::Gauge(n_records as f64),
    );
    for ((transport, source, code), n) in &c.answers {
        let attrs = vec![
            (names::TRANSPORT, (*transport).into()),
            (names::DNS_SOURCE, (*source).into()),
            (names::DNS_RCODE, code_name(*code).into()),
        ];
        out.push(&names::DNS_QUERIES, attrs, PointData::Sum(*n));
    }
    for (fault, n) in &c.faults {
        let attrs = vec![(names::ERROR_TYPE, (*fault).into())];
        out.push(&names::DNS_FAULTS, attrs, PointData::Sum(*n));
    }
    for (reason, n) in [
        ("send_failed", c.send_failures),
        ("connection_timeout", c.tcp_timeouts),
        ("log_full", c.log_dropped),
    ] {
        let attrs = vec![(names::DROP_REASON, reason.into())];
        out.push(&names::DNS_DROPPED, attrs, PointData::Sum(n));
    }
    for (outcome, n) in [
        ("coalesced", c.coalesced),
        ("failed", c.forward_failures),
        ("too_many_in_flight", c.forward_dropped),
        ("too_many_waiting", c.wait_dropped),
        ("no_upstream", c.no_upstream),
        ("policy_not_told", c.told_failures),
        ("no_zone", c.no_zone),
        ("truncated", c.truncated),
        ("unattributed", c.unattributed),
    ] {
        let attrs = vec![(names::OUTCOME, outcome.into())];
        out.push(&names::DNS_OUTCOMES, attrs, PointData::Sum(n));
    }
    for upstream in &c.upstreams {
        for (outcome, n) in [
            ("answered", upstream.answered),
            ("failed", upstream.failed),
            ("foreign", upstream.foreign),
            ("malformed", upstream.malformed),
        ] {
            let attrs = vec![
                (names::SERVER_ADDRESS, upstream.upstream.as_str().into()),
                (names::OUTCOME, outcome.into()),
            ];
            out.push(&names::DNS_FORWARDS, attrs, PointData::Sum(n));
        }
    }
    let cache = &c.cache;
    for (outcome, n) in [("hit", cache.hits), ("miss", cache.misses)] {
        let attrs = vec![(names::OUTCOME, outcome.into())];
        out.push(&names::DNS_CACHE_LOOKUPS, attrs, PointData::Sum(n));
    }
    out.push(
        &names::DNS_CACHE_EVICTIONS,
        vec![],
        PointData::Sum(cache.evictions),
    );
    out.push(
        &names::DNS_CACHE_ENTRIES,
        vec![],
        PointData::Gauge(cache.entries as f64),
    );
    out.into_points()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use waggle_overlay::forward::UpstreamCounters;

    use super::*;

    #[test]
    fn every_point_is_in_the_registry_and_nothing_is_lost() {
        let counters = DnsCounters {
            answers: BTreeMap::from([(("udp", "zone", 0), 5), (("tcp", "nobody", 23), 1)]),
            faults: BTreeMap::from([("short", 2)]),
            latency: std::array::from_fn(|i| i as u64),
            upstreams: vec![UpstreamCounters {
                upstream: "10.0.0.53:53".to_owned(),
                asked: 3,
                answered: 2,
                failed: 1,
                foreign: 0,
                malformed: 0,
                took_us: 9,
            }],
            ..DnsCounters::default()
        };
        let points = dns_points(&counters, 7, 1, 2);
        assert!(points.iter().all(|p| p.violation().is_none()));
        let answers = points.iter().filter(|p| p.def == &names::DNS_QUERIES);
        let sum: u64 = answers
            .map(|p| match p.data {
                PointData::Sum(n) => n,
                _ => 0,
            })
            .sum();
        assert_eq!(sum, 6);
    }
}
