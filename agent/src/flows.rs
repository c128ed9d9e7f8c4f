//! Who a task speaks with: from the kernel's edges to points with names, few and with right totals.
//!
//! An edge's peer is a service where its address is a task's own, or it is a backend of the VIP that was dialled; else a class of
//! addresses. Addresses themselves are never shown: they have no bound.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::AddAssign,
};

use crate::{meter::Out, peers::Peers};
use waggle_ebpf_common::{
    flow::{ACCEPTED, FlowKey, FlowStats, MAX_FLOWS},
    ip_of,
};
use waggle_overlay::VipNames;
use waggle_telemetry_pipeline::{Amount, Attrs, Busiest, Point, PointData, names};

/// Edges of one task with series of their own.
const PLACES: usize = 32;
/// From this part of the map's room on, edges that rest are taken out of it.
const FULL: usize = MAX_FLOWS as usize / 2;

/// One task's edge, by names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    peer: String,
    vip_id: u32,
    port: u16,
    accepted: bool,
}

/// An edge of a task with open connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenEdge<'a> {
    /// Who is at the other end.
    pub peer: &'a str,
    /// By which VIP; 0 for none.
    pub vip_id: u32,
    /// Whether the other end dialled.
    pub accepted: bool,
}

/// What went over an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Flow(FlowStats);

impl AddAssign for Flow {
    fn add_assign(&mut self, other: Self) {
        self.0.opened += other.0.opened;
        self.0.closed += other.0.closed;
        self.0.failed += other.0.failed;
        self.0.tx_bytes += other.0.tx_bytes;
        self.0.rx_bytes += other.0.rx_bytes;
    }
}

impl Amount for Flow {
    fn weight(&self) -> u64 {
        let f = &self.0;
        // A connection weighs as much as a small request.
        let connections = f.opened + f.closed + f.failed;
        f.tx_bytes + f.rx_bytes + connections.saturating_mul(100)
    }
}

impl Flow {
    fn since(&self, earlier: &Self) -> Self {
        let (now, was) = (&self.0, &earlier.0);
        Self(FlowStats {
            opened: now.opened.saturating_sub(was.opened),
            closed: now.closed.saturating_sub(was.closed),
            failed: now.failed.saturating_sub(was.failed),
            tx_bytes: now.tx_bytes.saturating_sub(was.tx_bytes),
            rx_bytes: now.rx_bytes.saturating_sub(was.rx_bytes),
        })
    }

    /// Whether nothing is open: until something comes, nothing changes.
    fn is_idle(&self) -> bool {
        self.0.opened <= self.0.closed
    }
}

/// The edges of all tasks of a node, over time.
#[derive(Default)]
pub struct Flows {
    seen: BTreeMap<FlowKey, Flow>,
    /// Those that were begun and not forgotten.
    tasks: BTreeMap<u64, Busiest<Named, Flow>>,
    /// Open connections now.
    active: BTreeMap<u64, BTreeMap<Named, u64>>,
}

impl Flows {
    /// A task is there from now on; what its edges have counted already is its.
    pub fn begin(&mut self, cgroup_id: u64) {
        let task = self.tasks.entry(cgroup_id);
        task.or_insert_with(|| Busiest::new(PLACES));
    }

    /// Takes in what the kernel's map holds of tasks that are known, and what is to be taken out of it: when it is half full, edges that rest.
    pub fn read(&mut self, now: &BTreeMap<FlowKey, FlowStats>, peers: &Peers) -> Vec<FlowKey> {
        let mut news: BTreeMap<u64, BTreeMap<Named, Flow>> = BTreeMap::new();
        let mut resting = Vec::new();
        self.active.clear();
        for (key, stats) in now {
            let flow = Flow(*stats);
            if !self.tasks.contains_key(&key.cgroup_id) {
                // Of a task that is not begun yet, or is gone; or of what is no task.
                if flow.is_idle() && key.cgroup_id != 0 && now.len() > FULL {
                    resting.push(*key);
                }
                continue;
            }
            let open = stats.opened.saturating_sub(stats.closed);
            if open > 0 {
                let task = self.active.entry(key.cgroup_id).or_default();
                *task.entry(name(key, peers)).or_default() += open;
            }
            let seen = self.seen.insert(*key, flow).unwrap_or_default();
            let came = flow.since(&seen);
            if came.weight() > 0 {
                let named = name(key, peers);
                *news
                    .entry(key.cgroup_id)
                    .or_default()
                    .entry(named)
                    .or_default() += came;
            } else if flow.is_idle() && key.cgroup_id != 0 && now.len() > FULL {
                resting.push(*key);
            }
        }
        self.seen.retain(|key, _| now.contains_key(key));
        for (cgroup_id, news) in news {
            if let Some(task) = self.tasks.get_mut(&cgroup_id) {
                task.add(&news);
            }
        }
        resting
    }

    /// An edge was taken out of the kernel's map with what it had then.
    pub fn taken(&mut self, key: &FlowKey, last: FlowStats, peers: &Peers) {
        let seen = self.seen.remove(key).unwrap_or_default();
        let came = Flow(last).since(&seen);
        if came.weight() > 0
            && let Some(task) = self.tasks.get_mut(&key.cgroup_id)
        {
            task.add(&BTreeMap::from([(name(key, peers), came)]));
        }
    }

    /// Tasks are gone, and the kernel's edges of them.
    pub fn forget(&mut self, gone: &BTreeSet<u64>) {
        for cgroup_id in gone {
            self.tasks.remove(cgroup_id);
            self.active.remove(cgroup_id);
        }
        self.seen.retain(|key, _| !gone.contains(&key.cgroup_id));
    }

    /// A task's edges as of the last reading.
    pub fn edges_of(&self, cgroup_id: u64) -> impl Iterator<Item = (&FlowKey, &FlowStats)> + Clone {
        let first = FlowKey {
            cgroup_id,
            ..FlowKey::default()
        };
        let from = self.seen.range(first..);
        from.take_while(move |(key, _)| key.cgroup_id == cgroup_id)
            .map(|(key, flow)| (key, &flow.0))
    }

    /// Open connections as of the last reading: of which task, over which edge, how many.
    pub fn open(&self) -> impl Iterator<Item = (u64, OpenEdge<'_>, u64)> {
        self.active.iter().flat_map(|(cgroup_id, edges)| {
            edges.iter().map(move |(named, n)| {
                let edge = OpenEdge {
                    peer: &named.peer,
                    vip_id: named.vip_id,
                    accepted: named.accepted,
                };
                (*cgroup_id, edge, *n)
            })
        })
    }

    /// The points of a task, whose service has the name `own`.
    pub fn points(
        &self,
        cgroup_id: u64,
        own: &str,
        vips: &VipNames,
        start_ns: u64,
        now_ns: u64,
    ) -> Vec<Point> {
        let mut out = Out::new(start_ns, now_ns);
        let Some(task) = self.tasks.get(&cgroup_id) else {
            return Vec::new();
        };
        let shown = task.shown();
        let mut active = self.active.get(&cgroup_id).cloned().unwrap_or_default();
        let open: u64 = active.values().sum();
        let attrs = vec![
            ("network.connection.state", "established".into()),
            (names::TRANSPORT, "tcp".into()),
        ];
        let open = PointData::UpDown(i64::try_from(open).unwrap_or(i64::MAX));
        out.push(&names::CONTAINER_CONNECTIONS, attrs, open);
        for (edge, flow) in &shown.own {
            let open = active.remove(edge).unwrap_or(0);
            push(&mut out, &attributes(edge, own, vips), flow, open);
        }
        if let Some(other) = &shown.other {
            let attrs = vec![(names::DESTINATION_ADDRESS, "other".into())];
            push(&mut out, &attrs, other, active.into_values().sum());
        }
        out.into_points()
    }
}

fn name(key: &FlowKey, peers: &Peers) -> Named {
    let accepted = u32::from(key.side) == ACCEPTED;
    let port = u16::from_be(key.port);
    let is_overflow = key.peer == [0; 4];
    let peer = if is_overflow {
        "other"
    } else {
        // A client's port is anybody's.
        peers.name(ip_of(key.peer), (!accepted).then_some(port))
    };
    // What dials many ports of the world outside is one edge.
    let is_own = accepted || key.vip_id != 0 || !matches!(peer, "public" | "private");
    Named {
        peer: peer.to_owned(),
        vip_id: key.vip_id,
        port: if is_own || port < 1024 { port } else { 0 },
        accepted,
    }
}

fn attributes(edge: &Named, own: &str, vips: &VipNames) -> Attrs {
    let (observer, source, destination) = if edge.accepted {
        ("destination", edge.peer.as_str(), own)
    } else {
        ("source", own, edge.peer.as_str())
    };
    let mut attrs: Attrs = vec![
        (names::SOURCE_ADDRESS, source.into()),
        (names::DESTINATION_ADDRESS, destination.into()),
        (names::FLOW_OBSERVER, observer.into()),
        (names::TRANSPORT, "tcp".into()),
    ];
    if edge.port != 0 {
        attrs.push((names::DESTINATION_PORT, edge.port.into()));
    }
    if let Some((key, name)) = vips.get(&edge.vip_id) {
        attrs.push((names::SERVER_ADDRESS, name.as_str().into()));
        attrs.push((names::SERVER_PORT, key.port.into()));
    }
    attrs
}

fn push(out: &mut Out, attrs: &Attrs, Flow(flow): &Flow, open: u64) {
    for (direction, bytes) in [("transmit", flow.tx_bytes), ("receive", flow.rx_bytes)] {
        let mut attrs = attrs.clone();
        attrs.push((names::DIRECTION, direction.into()));
        out.push(&names::FLOW_IO, attrs, PointData::Sum(bytes));
    }
    let opened = PointData::Sum(flow.opened);
    out.push(&names::FLOW_CONNECTIONS, attrs.clone(), opened);
    // Failures are news: a series that has none is left out.
    if flow.failed > 0 {
        let failed = PointData::Sum(flow.failed);
        out.push(&names::FLOW_FAILURES, attrs.clone(), failed);
    }
    let open = PointData::UpDown(i64::try_from(open).unwrap_or(i64::MAX));
    out.push(&names::FLOW_ACTIVE, attrs.clone(), open);
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use waggle_ebpf_common::addr_of;
    use waggle_telemetry_pipeline::AttrValue;
    use waggle_types::{Protocol, VipKey};

    use super::*;
    use crate::peers;

    fn key(cgroup_id: u64, peer: [u8; 4], port: u16, side: u32, vip_id: u32) -> FlowKey {
        FlowKey {
            cgroup_id,
            peer: addr_of(IpAddr::V4(Ipv4Addr::from(peer))),
            vip_id,
            port: port.to_be(),
            side: u16::try_from(side).unwrap(),
        }
    }

    fn flow(opened: u64, closed: u64, bytes: u64) -> FlowStats {
        FlowStats {
            opened,
            closed,
            failed: 0,
            tx_bytes: bytes,
            rx_bytes: 2 * bytes,
        }
    }

    fn peers() -> Peers {
        let named = [
            ("web", None, Some(31000)),
            ("cart", Some([9, 0, 1, 2]), None),
        ];
        peers::tests::peers([192, 168, 1, 2], &named)
    }

    fn vips() -> VipNames {
        let key = VipKey {
            protocol: Protocol::Tcp,
            ip: Ipv4Addr::new(11, 1, 2, 3).into(),
            port: 80,
        };
        VipNames::from([(7, (key, "web.marathon.l4lb.thisdcos.directory".to_owned()))])
    }

    fn lines(flows: &Flows) -> Vec<String> {
        let points = flows.points(1, "shop.marathon", &vips(), 1, 2);
        assert!(points.iter().all(|p| p.violation().is_none()));
        let of = |p: &Point| {
            let text = |v: &AttrValue| match v {
                AttrValue::I64(n) => n.to_string(),
                other => other.as_str().unwrap_or_default().to_owned(),
            };
            let attrs = p.attrs.iter().map(|(_, v)| text(v));
            let attrs: Vec<String> = attrs.collect();
            format!("{} {} {:?}", p.def.name, attrs.join(" "), p.data)
        };
        points.iter().map(of).collect()
    }

    #[test]
    fn edges_have_names_and_no_addresses() {
        let mut flows = Flows::default();
        flows.begin(1);
        let now = BTreeMap::from([
            (key(1, [192, 168, 1, 2], 31000, 0, 7), flow(3, 2, 10)),
            (key(1, [9, 0, 1, 2], 8080, 1, 0), flow(1, 1, 5)),
            (key(1, [93, 184, 216, 34], 443, 0, 0), flow(1, 1, 1)),
            (key(2, [127, 0, 0, 1], 80, 0, 0), flow(1, 1, 1)),
        ]);
        assert_eq!(flows.read(&now, &peers()), []);
        let lines = lines(&flows);
        for line in [
            "waggle.network.flow.io shop.marathon web.marathon source tcp 31000 \
             web.marathon.l4lb.thisdcos.directory 80 transmit Sum(10)",
            "waggle.network.flow.active shop.marathon web.marathon source tcp 31000 \
             web.marathon.l4lb.thisdcos.directory 80 UpDown(1)",
            "waggle.network.flow.io cart.marathon shop.marathon destination tcp 8080 receive Sum(10)",
            "waggle.network.flow.connections shop.marathon public source tcp 443 Sum(1)",
        ] {
            assert!(lines.iter().any(|l| l == line), "{line}\n{lines:#?}");
        }
        let open: Vec<_> = flows
            .open()
            .map(|(id, e, n)| (id, e.peer, e.vip_id, n))
            .collect();
        assert_eq!(open, [(1, "web.marathon", 7, 1)]);
        assert!(
            !lines
                .iter()
                .any(|l| l.contains("93.184") || l.contains("loopback"))
        );
        flows.forget(&BTreeSet::from([1]));
        assert!(flows.points(1, "shop.marathon", &vips(), 1, 2).is_empty());
    }

    #[test]
    fn what_is_taken_out_of_the_map_is_counted_once() {
        let mut flows = Flows::default();
        flows.begin(1);
        let edge = key(1, [192, 168, 1, 2], 31000, 0, 0);
        flows.read(&BTreeMap::from([(edge, flow(2, 2, 10))]), &peers());
        // Something came between the reading and the taking.
        flows.taken(&edge, flow(3, 3, 12), &peers());
        // The same edge again, from nothing.
        flows.read(&BTreeMap::from([(edge, flow(1, 1, 4))]), &peers());
        let lines = lines(&flows);
        let io =
            "waggle.network.flow.io shop.marathon web.marathon source tcp 31000 transmit Sum(16)";
        assert!(lines.iter().any(|l| l == io), "{lines:#?}");
    }

    #[test]
    fn a_map_that_fills_up_loses_what_rests() {
        let mut flows = Flows::default();
        flows.begin(1);
        let now: BTreeMap<FlowKey, FlowStats> = (0..=u32::try_from(FULL).unwrap())
            .map(|n| {
                let [a, b, c, d] = n.to_be_bytes();
                let is_open = u64::from(n == 0);
                (
                    key(1, [a | 0x0a, b, c, d], 9, 1, 0),
                    flow(1, 1 - is_open, 1),
                )
            })
            .collect();
        assert_eq!(flows.read(&now, &peers()), [], "all are news");
        let resting = flows.read(&now, &peers());
        assert_eq!(resting.len(), now.len() - 1, "but the one that is open");
    }

    #[test]
    fn only_tasks_that_are_known_are_kept_and_what_came_before_is_theirs() {
        let mut flows = Flows::default();
        let now = BTreeMap::from([
            (key(1, [192, 168, 1, 2], 31000, 0, 0), flow(1, 1, 7)),
            (key(9, [192, 168, 1, 2], 31000, 0, 0), flow(1, 1, 7)),
        ]);
        flows.read(&now, &peers());
        assert!(flows.tasks.is_empty() && flows.seen.is_empty());
        flows.begin(1);
        flows.begin(1);
        flows.read(&now, &peers());
        let io =
            "waggle.network.flow.io shop.marathon web.marathon source tcp 31000 transmit Sum(7)";
        assert!(lines(&flows).iter().any(|l| l == io));
        flows.forget(&BTreeSet::from([1]));
        flows.read(&now, &peers());
        assert!(flows.tasks.is_empty() && flows.seen.is_empty() && flows.active.is_empty());
    }
}
