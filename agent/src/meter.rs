//! From readings to metric points: one task's, and the node's own.

use std::collections::BTreeMap;

use waggle_ebpf_common::{CgroupNet, TcpStats, VipStat, VipStatKey, ip_of, loss};
use waggle_overlay::VipNames;
use waggle_telemetry_pipeline::{Attrs, Point, PointData, log2_us_histogram, names};

use crate::cgroup::{DiskIo, Stats};

/// Figures of one task at one time.
pub struct TaskReading<'a> {
    /// Its cgroup's files.
    pub stats: Stats,
    /// Its disks.
    pub disks: Vec<DiskIo>,
    /// Its bytes and packets, where the data plane counts them.
    pub net: Option<CgroupNet>,
    /// Its TCP counters by VIP number.
    pub tcp: Vec<(u32, TcpStats)>,
    /// Questions to the node's resolver, and since when it counts; where there is one.
    pub dns: Option<(u64, u64)>,
    /// Milliseconds that its output kept it waiting, where it asked for that.
    pub log_blocked_ms: Option<u64>,
    /// VIP numbers to names.
    pub vips: &'a VipNames,
    /// When it was started, Unix nanoseconds.
    pub start_ns: u64,
    /// When this was read.
    pub now_ns: u64,
}

/// A task's points.
pub fn task_points(r: &TaskReading<'_>) -> Vec<Point> {
    let mut out = Out {
        points: Vec::new(),
        start_ns: r.start_ns,
        now_ns: r.now_ns,
    };
    let uptime = seconds(r.now_ns.saturating_sub(r.start_ns));
    out.push(&names::CONTAINER_UPTIME, vec![], PointData::Gauge(uptime));
    let s = &r.stats;
    if let (Some(user), Some(system)) = (s.cpu_user_ns, s.cpu_system_ns) {
        for (mode, ns) in [("user", user), ("system", system)] {
            let attrs = vec![(names::CPU_MODE, mode.into())];
            out.push(
                &names::CONTAINER_CPU_TIME,
                attrs,
                PointData::SumF64(seconds(ns)),
            );
        }
    }
    let working_set = s
        .memory_bytes
        .map(|m| m.saturating_sub(s.inactive_file_bytes.unwrap_or(0)));
    let available = match (s.memory_limit_bytes, working_set) {
        (Some(limit), Some(used)) => Some(limit.saturating_sub(used)),
        _ => None,
    };
    for (def, value) in [
        (&names::CONTAINER_MEMORY_USAGE, s.memory_bytes),
        (&names::CONTAINER_MEMORY_RSS, s.rss_bytes),
        (&names::CONTAINER_MEMORY_WORKING_SET, working_set),
        (&names::CONTAINER_MEMORY_AVAILABLE, available),
        (&names::CONTAINER_MEMORY_LIMIT, s.memory_limit_bytes),
    ] {
        if let Some(v) = value {
            let v = i64::try_from(v).unwrap_or(i64::MAX);
            out.push(def, vec![], PointData::UpDown(v));
        }
    }
    for (kind, value) in [("minor", s.faults_minor), ("major", s.faults_major)] {
        if let Some(v) = value {
            let attrs = vec![("system.paging.fault.type", kind.into())];
            out.push(&names::CONTAINER_PAGING_FAULTS, attrs, PointData::Sum(v));
        }
    }
    if let Some(v) = s.throttled_periods {
        let def = &names::CONTAINER_CPU_THROTTLED_PERIODS;
        out.push(def, vec![], PointData::Sum(v));
    }
    if let Some(v) = s.throttled_ns {
        let def = &names::CONTAINER_CPU_THROTTLED_TIME;
        out.push(def, vec![], PointData::SumF64(seconds(v)));
    }
    if let Some(ms) = r.log_blocked_ms {
        let def = &names::TASK_LOG_BLOCKED_TIME;
        out.push(def, vec![], PointData::SumF64(ms as f64 / 1000.0));
    }
    if let Some(v) = s.oom_kills {
        out.push(&names::CONTAINER_OOM, vec![], PointData::Sum(v));
    }
    if let Some(v) = s.pids {
        let v = i64::try_from(v).unwrap_or(i64::MAX);
        out.push(&names::CONTAINER_PIDS, vec![], PointData::UpDown(v));
    }
    if let Some(v) = s.pids_refused {
        let def = &names::CONTAINER_PIDS_REFUSED;
        out.push(def, vec![], PointData::Sum(v));
    }
    stalls(&mut out, s);
    disks(&mut out, &r.disks);
    if let Some(net) = &r.net {
        for (direction, bytes, packets) in [
            ("transmit", net.tx_bytes, net.tx_packets),
            ("receive", net.rx_bytes, net.rx_packets),
        ] {
            let attrs = || -> Attrs { vec![(names::DIRECTION, direction.into())] };
            out.push(&names::CONTAINER_NETWORK_IO, attrs(), PointData::Sum(bytes));
            out.push(&names::CONTAINER_PACKETS, attrs(), PointData::Sum(packets));
        }
    }
    tcp_points(&mut out, r);
    if let Some((n, since_ns)) = r.dns {
        // The resolver counts from its own start on, which is after the task's if the agent was restarted.
        out.start_ns = out.start_ns.max(since_ns);
        out.push(&names::CONTAINER_DNS_QUERIES, vec![], PointData::Sum(n));
    }
    out.points
}

fn stalls(out: &mut Out, s: &Stats) {
    if let Some(v) = s.cpu_limit_millis {
        let cpus = PointData::UpDownF64(v as f64 / 1000.0);
        out.push(&names::CONTAINER_CPU_LIMIT, vec![], cpus);
    }
    for (resource, stalled) in ["cpu", "memory", "io"].into_iter().zip(s.stalled) {
        for (kind, us) in [("some", stalled.some_us), ("full", stalled.full_us)] {
            let Some(us) = us else { continue };
            let attrs = vec![
                (names::PRESSURE_RESOURCE, resource.into()),
                (names::PRESSURE_KIND, kind.into()),
            ];
            let time = PointData::SumF64(us as f64 / 1e6);
            out.push(&names::CONTAINER_PRESSURE, attrs, time);
        }
    }
}

fn disks(out: &mut Out, disks: &[DiskIo]) {
    for disk in disks {
        for (direction, bytes, operations) in [
            ("read", disk.read_bytes, disk.reads),
            ("write", disk.written_bytes, disk.writes),
        ] {
            let attrs = || -> Attrs {
                vec![
                    ("disk.io.direction", direction.into()),
                    ("system.device", disk.device.as_str().into()),
                ]
            };
            out.push(&names::CONTAINER_DISK_IO, attrs(), PointData::Sum(bytes));
            let operations = PointData::Sum(operations);
            out.push(&names::CONTAINER_DISK_OPERATIONS, attrs(), operations);
        }
    }
}

fn tcp_points(out: &mut Out, r: &TaskReading<'_>) {
    let accepts: u64 = r.tcp.iter().map(|(_, t)| t.accepts).sum();
    if !r.tcp.is_empty() {
        out.push(&names::TCP_ACCEPTS, vec![], PointData::Sum(accepts));
    }
    for (vip_id, t) in &r.tcp {
        let server: Attrs = match r.vips.get(vip_id) {
            Some((key, name)) => vec![
                (names::SERVER_ADDRESS, name.as_str().into()),
                (names::SERVER_PORT, key.port.into()),
            ],
            None => vec![],
        };
        let connect = log2_us_histogram(&t.connect_hist, t.connect_sum_us);
        out.push(&names::TCP_CONNECT_DURATION, server.clone(), connect);
        let rtt = log2_us_histogram(&t.rtt_hist, t.rtt_sum_us);
        out.push(&names::TCP_RTT, server.clone(), rtt);
        for (def, value) in [
            (&names::TCP_CONNECT_FAILURES, t.connect_failures),
            (&names::TCP_RETRANSMITS, t.retransmits),
        ] {
            out.push(def, server.clone(), PointData::Sum(value));
        }
        for (direction, bytes) in [("transmit", t.tx_bytes), ("receive", t.rx_bytes)] {
            let mut attrs = server.clone();
            attrs.push((names::DIRECTION, direction.into()));
            out.push(&names::TCP_IO, attrs, PointData::Sum(bytes));
        }
    }
}

/// Figures of the data plane.
pub struct NodeReading<'a> {
    /// VIP counters.
    pub vip_stats: Vec<(VipStatKey, VipStat)>,
    /// What the programs could not count, by reason.
    pub losses: [u64; loss::COUNT as usize],
    /// Programs: name, run time in nanoseconds, run count.
    pub programs: Vec<(String, u64, u64)>,
    /// Entries of maps, and the most that they hold.
    pub maps: Vec<(&'static str, usize, u32)>,
    /// Packets that the kernel dropped, whosever they were, by reason.
    pub drops: Vec<(String, u64)>,
    /// What the watching programs could not count.
    pub missed: Vec<(&'static str, u64)>,
    /// VIP numbers to names.
    pub vips: &'a VipNames,
    /// Since when the maps count, Unix nanoseconds.
    pub start_ns: u64,
    /// When this was read.
    pub now_ns: u64,
}

/// The node's points.
pub fn node_points(r: &NodeReading<'_>) -> Vec<Point> {
    let mut out = Out {
        points: Vec::new(),
        start_ns: r.start_ns,
        now_ns: r.now_ns,
    };
    // New connects per VIP are the sum over its backends.
    let mut sums: BTreeMap<(u32, bool), u64> = BTreeMap::new();
    for (key, stat) in &r.vip_stats {
        let Some(mut attrs) = vip_attrs(r.vips, key.vip_id) else {
            continue;
        };
        let refused = key.port == 0;
        *sums.entry((key.vip_id, refused)).or_default() += stat.count;
        if refused {
            out.push(&names::VIP_NO_BACKEND, attrs, PointData::Sum(stat.count));
        } else {
            let ip = ip_of(key.addr).to_string();
            attrs.push((names::PEER_ADDRESS, ip.into()));
            attrs.push((names::PEER_PORT, u16::from_be(key.port).into()));
            // Failures are news: a series that has none is left out.
            for (def, value) in [
                (&names::VIP_BACKEND_FAILURES, stat.failures),
                (&names::VIP_BACKEND_EJECTIONS, stat.ejections),
            ] {
                if value > 0 {
                    out.push(def, attrs.clone(), PointData::Sum(value));
                }
            }
            out.push(
                &names::VIP_BACKEND_SELECTED,
                attrs,
                PointData::Sum(stat.count),
            );
        }
    }
    for ((vip_id, refused), count) in sums {
        if let Some(mut attrs) = vip_attrs(r.vips, vip_id) {
            let outcome = if refused { "no_backend" } else { "new" };
            attrs.push((names::VIP_OUTCOME, outcome.into()));
            out.push(&names::VIP_CONNECTIONS, attrs, PointData::Sum(count));
        }
    }
    let losses = loss::NAMES.into_iter().zip(r.losses);
    for (reason, count) in losses.chain(r.missed.iter().copied()) {
        let attrs = vec![(names::DROP_REASON, reason.into())];
        out.push(&names::EBPF_LOST, attrs, PointData::Sum(count));
    }
    for (reason, count) in &r.drops {
        let attrs = vec![(names::DROP_REASON, reason.as_str().into())];
        let def = &names::NETWORK_PACKETS_DROPPED;
        out.push(def, attrs, PointData::Sum(*count));
    }
    for (map, n_entries, limit) in &r.maps {
        let attrs = || -> Attrs { vec![(names::MAP, (*map).into())] };
        let n = i64::try_from(*n_entries).unwrap_or(i64::MAX);
        out.push(&names::EBPF_MAP_ENTRIES, attrs(), PointData::UpDown(n));
        let limit = PointData::UpDown(i64::from(*limit));
        out.push(&names::EBPF_MAP_LIMIT, attrs(), limit);
    }
    for (name, run_ns, run_cnt) in &r.programs {
        let attrs = || -> Attrs { vec![(names::PROGRAM, name.as_str().into())] };
        let time = PointData::SumF64(seconds(*run_ns));
        out.push(&names::EBPF_RUN_TIME, attrs(), time);
        out.push(&names::EBPF_RUN_COUNT, attrs(), PointData::Sum(*run_cnt));
    }
    out.points
}

fn vip_attrs(vips: &VipNames, vip_id: u32) -> Option<Attrs> {
    let (key, name) = vips.get(&vip_id)?;
    Some(vec![
        (names::SERVER_ADDRESS, name.as_str().into()),
        (names::SERVER_PORT, key.port.into()),
        (names::TRANSPORT, key.protocol.name().into()),
    ])
}

pub(crate) struct Out {
    points: Vec<Point>,
    start_ns: u64,
    now_ns: u64,
}

impl Out {
    pub(crate) const fn new(start_ns: u64, now_ns: u64) -> Self {
        Self {
            points: Vec::new(),
            start_ns,
            now_ns,
        }
    }

    pub(crate) fn into_points(self) -> Vec<Point> {
        self.points
    }

    pub(crate) fn push(&mut self, def: &'static names::MetricDef, attrs: Attrs, data: PointData) {
        let point = Point::new(def, attrs, data, self.start_ns, self.now_ns);
        debug_assert_eq!(point.violation(), None);
        self.points.push(point);
    }
}

pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use waggle_types::{Protocol, VipKey};

    use super::*;

    fn vips() -> VipNames {
        let key = VipKey {
            protocol: Protocol::Tcp,
            ip: std::net::Ipv4Addr::new(11, 1, 2, 3).into(),
            port: 80,
        };
        VipNames::from([(7, (key, "web".to_owned()))])
    }

    #[test]
    fn every_point_is_in_the_registry() {
        let mut stats = Stats {
            cpu_user_ns: Some(1),
            cpu_system_ns: Some(1),
            periods: Some(1),
            throttled_periods: Some(1),
            throttled_ns: Some(1),
            memory_bytes: Some(10),
            rss_bytes: Some(1),
            file_bytes: Some(5),
            mapped_file_bytes: Some(2),
            inactive_file_bytes: Some(4),
            memory_limit_bytes: Some(100),
            faults_minor: Some(1),
            faults_major: Some(1),
            oom_kills: Some(1),
            pids: Some(3),
            pids_refused: Some(1),
            cpu_limit_millis: Some(500),
            ..Stats::default()
        };
        for stalled in &mut stats.stalled {
            (stalled.some_us, stalled.full_us) = (Some(2), Some(1));
        }
        let points = task_points(&TaskReading {
            stats,
            disks: vec![DiskIo::default()],
            net: Some(CgroupNet::default()),
            dns: Some((3, 1)),
            tcp: vec![(0, TcpStats::default()), (7, TcpStats::default())],
            log_blocked_ms: Some(1500),
            vips: &vips(),
            start_ns: 1,
            now_ns: 2,
        });
        assert!(points.iter().all(|p| p.violation().is_none()));
        let available = points
            .iter()
            .find(|p| p.def == &names::CONTAINER_MEMORY_AVAILABLE);
        assert_eq!(
            available.map(|p| p.data.clone()),
            Some(PointData::UpDown(94))
        );
    }

    #[test]
    fn vip_connects_are_summed_over_backends() {
        let key = |last: u32| VipStatKey {
            vip_id: 7,
            addr: [0, 0, 0, last],
            port: if last == 0 { 0 } else { 80u16.to_be() },
            pad: 0,
        };
        let stat = |count| VipStat {
            count,
            failures: count / 2,
            ejections: count / 3,
        };
        let points = node_points(&NodeReading {
            vip_stats: vec![(key(1), stat(2)), (key(2), stat(3)), (key(0), stat(1))],
            losses: [0; loss::COUNT as usize],
            programs: vec![("connect4".to_owned(), 5, 6)],
            maps: vec![("CGROUP_NET", 2, 16)],
            drops: vec![("no_socket".to_owned(), 9)],
            missed: vec![("drops_map_full", 1)],
            vips: &vips(),
            start_ns: 1,
            now_ns: 2,
        });
        assert!(points.iter().all(|p| p.violation().is_none()));
        let sums: Vec<&PointData> = points
            .iter()
            .filter(|p| p.def == &names::VIP_CONNECTIONS)
            .map(|p| &p.data)
            .collect();
        assert_eq!(sums, [&PointData::Sum(5), &PointData::Sum(1)]);
        let n = |def| points.iter().filter(|p| p.def == def).count();
        assert_eq!(n(&names::VIP_BACKEND_FAILURES), 2);
        assert_eq!(n(&names::VIP_BACKEND_EJECTIONS), 1);
        assert_eq!(n(&names::EBPF_MAP_LIMIT), 1);
        assert_eq!(n(&names::NETWORK_PACKETS_DROPPED), 1);
        assert_eq!(n(&names::EBPF_LOST), loss::COUNT as usize + 1);
    }
}
