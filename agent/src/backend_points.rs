//! Points of the VIP table that this node has applied: how many backends each VIP has, and which get new connections.

use std::net::IpAddr;

use waggle_overlay_plan::VipTable;
use waggle_telemetry_pipeline::{Attrs, Point, PointData, names};

use crate::meter::Out;

/// Backends with a series of their own. With more, those that get no new connections have one before the others.
const MAX_SERIES: usize = 4096;

/// The table's points.
pub fn backend_points(table: &VipTable, now_ns: u64) -> Vec<Point> {
    let mut out = Out::new(now_ns, now_ns);
    let (mut out_of_use, mut in_use) = (Vec::new(), Vec::new());
    for (key, set) in table {
        let host = set
            .name
            .as_ref()
            .map_or_else(|| key.ip.to_string(), ToString::to_string);
        let attrs = || -> Attrs {
            vec![
                (names::SERVER_ADDRESS, host.as_str().into()),
                (names::SERVER_PORT, key.port.into()),
                (names::TRANSPORT, key.protocol.name().into()),
            ]
        };
        let n = u32::try_from(set.backends.len()).unwrap_or(u32::MAX);
        let count = PointData::Gauge(f64::from(n));
        out.push(&names::VIP_BACKENDS, attrs(), count);
        for (at, share) in &set.backends {
            let is_eligible = share.weight_milli > 0;
            let those = if is_eligible {
                &mut in_use
            } else {
                &mut out_of_use
            };
            if those.len() < MAX_SERIES {
                let mut attrs = attrs();
                let ip: IpAddr = at.ip();
                attrs.push((names::PEER_ADDRESS, ip.to_string().into()));
                attrs.push((names::PEER_PORT, at.port().into()));
                those.push((attrs, is_eligible));
            }
        }
    }
    for (attrs, is_eligible) in out_of_use.into_iter().chain(in_use).take(MAX_SERIES) {
        let health = PointData::Gauge(f64::from(u8::from(is_eligible)));
        out.push(&names::VIP_BACKEND_HEALTH, attrs, health);
    }
    out.into_points()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::SocketAddr};

    use waggle_overlay_plan::{BackendSet, Share};
    use waggle_types::{Protocol, VipKey};

    use super::*;

    #[test]
    fn backends_are_counted_and_those_out_of_use_come_first() {
        let key = VipKey {
            protocol: Protocol::Tcp,
            ip: "198.51.100.9".parse().unwrap(),
            port: 80,
        };
        let at = |n: u16| SocketAddr::from(([192, 0, 2, 1], n));
        let shares = (1..=5000).map(|n| (at(n), Share::ONE));
        let mut backends: BTreeMap<SocketAddr, Share> = shares.collect();
        backends.insert(at(5000), Share::DRAINING);
        let set = BackendSet {
            backends,
            ..BackendSet::default()
        };
        let points = backend_points(&BTreeMap::from([(key, set)]), 7);
        assert!(points.iter().all(|p| p.violation().is_none()));
        let of = |def| points.iter().filter(move |p| p.def == def);
        let count: Vec<_> = of(&names::VIP_BACKENDS).map(|p| p.data.clone()).collect();
        assert_eq!(count, [PointData::Gauge(5000.0)]);
        assert_eq!(of(&names::VIP_BACKEND_HEALTH).count(), MAX_SERIES);
        let first = of(&names::VIP_BACKEND_HEALTH)
            .next()
            .map(|p| p.data.clone());
        assert_eq!(first, Some(PointData::Gauge(0.0)));
    }
}
