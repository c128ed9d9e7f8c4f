//! Connects through a VIP that were slow or failed, as spans: made of what the kernel says of a connection when it is over.

use std::net::SocketAddr;

use waggle_ebpf_common::{
    flow::{DIALLED, FlowRecord, outcome},
    ip_of,
};
use waggle_types::TraceContext;

use super::{RequestSpan, ids::Hop};
use crate::names::SpanSide;

/// Which connects become spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connects {
    /// Those that took so long, and those that failed.
    pub slow_ns: u64,
}

impl Default for Connects {
    fn default() -> Self {
        // A lost SYN is sent again after a second.
        Self {
            slow_ns: 900_000_000,
        }
    }
}

/// A span of a connect, if it was one through a VIP that was slow or failed.
///
/// `vip` is the VIP by its number in the record and its name, `shop.cart:80`; `offset_ns` is Unix time less `CLOCK_MONOTONIC`. Such a span is a
/// trace by itself: which request it was for is not known.
pub fn slow_connect(
    record: &FlowRecord,
    vip: (SocketAddr, &str),
    offset_ns: u64,
    which: Connects,
) -> Option<RequestSpan> {
    let is_call = u32::from(record.side) == DIALLED && record.vip_id != 0 && record.began_ns != 0;
    let took = u64::from(record.connect_us) * 1000;
    let failed = match record.outcome {
        outcome::REFUSED | outcome::FAILED | outcome::NO_BACKEND => {
            outcome::NAMES.get(usize::from(record.outcome))
        }
        _ => None,
    };
    if !is_call || failed.is_none() && took < which.slow_ns {
        return None;
    }
    let address = |addr, port: u16| SocketAddr::new(ip_of(addr).to_canonical(), u16::from_be(port));
    let (local, peer) = (
        address(record.local, record.local_port),
        address(record.peer, record.peer_port),
    );
    let low = |n: u64| u32::try_from(n & u64::from(u32::MAX)).unwrap_or(0);
    let hop = Hop {
        client: local,
        server: peer,
        // No request: its time stands for what tells it from others.
        sequence: low(record.began_ns),
        stream: low(record.began_ns >> 32) | 1 << 31,
    };
    let start_ns = record.began_ns.saturating_add(offset_ns);
    let end_ns = match failed {
        Some(_) => record.ended_ns.saturating_add(offset_ns),
        None => start_ns.saturating_add(took),
    };
    let (vip, name) = vip;
    let mut attrs = vec![
        ("server.address", vip.ip().to_string().into()),
        ("server.port", vip.port().into()),
        ("network.transport", "tcp".into()),
        ("waggle.vip.address", vip.to_string().into()),
    ];
    if record.outcome != outcome::NO_BACKEND {
        attrs.push(("network.peer.address", peer.ip().to_string().into()));
        attrs.push(("network.peer.port", peer.port().into()));
    }
    attrs.extend(failed.map(|why| ("error.type", (*why).into())));
    Some(RequestSpan {
        cgroup: record.cgroup_id,
        context: TraceContext {
            trace_id: hop.trace(),
            span_id: hop.client_span(),
            flags: 1,
        },
        parent: None,
        parent_is_remote: false,
        links: Vec::new(),
        side: SpanSide::Client,
        name: format!("connect {name}"),
        start_ns,
        end_ns: end_ns.max(start_ns),
        attrs,
        failed: failed.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use waggle_ebpf_common::{addr_of, flow::ACCEPTED};

    use super::*;
    use crate::names;

    fn record() -> FlowRecord {
        let addr = |text: &str| addr_of(text.parse::<IpAddr>().unwrap());
        FlowRecord {
            began_ns: 5_000,
            ended_ns: 9_000_000_000,
            cgroup_id: 7,
            local: addr("10.0.0.1"),
            peer: addr("10.0.0.2"),
            vip_id: 3,
            connect_us: 1_000_100,
            local_port: 40_000_u16.to_be(),
            peer_port: 8080_u16.to_be(),
            side: u8::try_from(DIALLED).unwrap(),
            outcome: outcome::CLOSED,
            ..FlowRecord::default()
        }
    }

    fn span(record: &FlowRecord) -> Option<RequestSpan> {
        let vip = ("11.0.0.1:80".parse().unwrap(), "web.shop:80");
        let span = slow_connect(record, vip, 1_000, Connects::default())?;
        let keys = span.attrs.iter().map(|(key, _)| *key);
        assert_eq!(names::check_span(&span.name, keys), Ok(()));
        Some(span)
    }

    #[test]
    fn slow_ones_and_failed_ones_through_a_vip() {
        let slow = span(&record()).unwrap();
        assert_eq!(slow.name, "connect web.shop:80");
        assert_eq!((slow.start_ns, slow.end_ns), (6_000, 1_000_106_000));
        assert_eq!((slow.failed, slow.cgroup), (false, 7));
        let failed = FlowRecord {
            outcome: outcome::NO_BACKEND,
            connect_us: 0,
            began_ns: 5_500,
            ended_ns: 6_000,
            ..record()
        };
        let failed = span(&failed).unwrap();
        assert_eq!((failed.end_ns, failed.failed), (7_000, true));
        let attr = |key| failed.attrs.iter().find(|(k, _)| *k == key);
        assert_eq!(attr("error.type").unwrap().1.as_str(), Some("no_backend"));
        assert_eq!(attr("network.peer.address"), None);
        assert_ne!(failed.context, slow.context);
        assert_eq!(span(&record()), Some(slow));
    }

    #[test]
    fn others_are_none() {
        let change = |f: fn(&mut FlowRecord)| {
            let mut record = record();
            f(&mut record);
            span(&record)
        };
        assert_eq!(change(|r| r.connect_us = 20), None);
        assert_eq!(change(|r| r.vip_id = 0), None);
        assert_eq!(change(|r| r.began_ns = 0), None);
        assert_eq!(change(|r| r.side = u8::try_from(ACCEPTED).unwrap()), None);
        let reset = |r: &mut FlowRecord| (r.outcome, r.connect_us) = (outcome::RESET, 20);
        assert_eq!(change(reset), None);
    }
}
