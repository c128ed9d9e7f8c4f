//! Figures of traffic from outside, from readings to points. Pure.

use std::collections::BTreeMap;

use waggle_overlay::{VipNames, edge::EdgeReading};
use waggle_telemetry::names;
use waggle_telemetry_pipeline::{MetricDef, Point, PointData};
use waggle_types::VipKey;

use crate::meter::Out;

/// The node's points.
pub fn edge_points(r: &EdgeReading, vips: &VipNames, start_ns: u64, now_ns: u64) -> Vec<Point> {
    let mut out = Out::new(start_ns, now_ns);
    let known: BTreeMap<VipKey, &str> = vips
        .values()
        .map(|(key, name)| (*key, name.as_str()))
        .collect();
    for (key, traffic) in &r.vips {
        // One that is not among the node's VIPs any more is on its way out here, too.
        let Some(name) = known.get(key) else { continue };
        let attrs = vec![
            (names::SERVER_ADDRESS, (*name).into()),
            (names::SERVER_PORT, key.port.into()),
            (names::TRANSPORT, key.protocol.name().into()),
        ];
        for (outcome, packets) in [
            ("sent", traffic.packets),
            ("no_backend", traffic.refused),
            ("denied", traffic.denied),
        ] {
            let mut attrs = attrs.clone();
            attrs.push((names::OUTCOME, outcome.into()));
            out.push(&names::EDGE_PACKETS, attrs, PointData::Sum(packets));
        }
        out.push(&names::EDGE_IO, attrs, PointData::Sum(traffic.bytes));
    }
    for (def, counts) in [
        (&names::EDGE_EVENTS, &r.events),
        (&names::EDGE_DELIVERIES, &r.deliveries),
    ] {
        for (outcome, packets) in counts {
            let attrs = vec![(names::OUTCOME, (*outcome).into())];
            out.push(def, attrs, PointData::Sum(*packets));
        }
    }
    if let Some(flows) = r.flows {
        let flows = PointData::Gauge(flows as f64);
        out.push(&names::EDGE_FLOWS, Vec::new(), flows);
    }
    out.into_points()
}

/// The points of packets that are counted by what became of them.
pub fn packet_points(
    def: &'static MetricDef,
    counts: &[(&'static str, u64)],
    start_ns: u64,
    now_ns: u64,
) -> Vec<Point> {
    let mut out = Out::new(start_ns, now_ns);
    for (outcome, packets) in counts {
        let attrs = vec![(names::OUTCOME, (*outcome).into())];
        out.push(def, attrs, PointData::Sum(*packets));
    }
    out.into_points()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use waggle_ebpf_common::edge::Traffic;
    use waggle_types::Protocol;

    use super::*;

    #[test]
    fn traffic_has_the_name_of_its_vip_and_what_is_unknown_is_left_out() {
        let key = |port| VipKey {
            protocol: Protocol::Tcp,
            ip: Ipv4Addr::new(11, 0, 0, 1).into(),
            port,
        };
        let traffic = Traffic {
            packets: 5,
            bytes: 500,
            refused: 1,
            denied: 0,
        };
        let reading = EdgeReading {
            vips: vec![(key(80), traffic), (key(81), traffic)],
            events: vec![("adopted", 3)],
            flows: Some(2),
            deliveries: vec![("delivered", 7)],
        };
        let vips = VipNames::from([(9, (key(80), "web".to_owned()))]);
        let points = edge_points(&reading, &vips, 1, 2);
        // Three outcomes and bytes of the one VIP; an event, a delivery, flows.
        assert_eq!(points.len(), 7);
        assert_eq!(edge_points(&EdgeReading::default(), &vips, 1, 2), vec![]);
    }
}
