//! What is read of tasks on each tick: cgroup files, kernel counters, output.

use std::{collections::BTreeMap, fs, sync::Arc};

use waggle_ebpf::Observer;
use waggle_ebpf_common::{CgroupNet, MAX_CGROUPS, MAX_TCP_SERIES, MAX_VIP_SERIES, TcpStats};
use waggle_overlay::{NodeNet, VipNames, packet::PacketNet};
use waggle_telemetry::{Feature, IoStream, Telemetry, names};
use waggle_telemetry_pipeline::{
    LogBudget, LogPolicy, LogRules, TaskLabels, decode_entry, line_uid,
};
use waggle_types::{AgentId, TaskSpec};

use crate::{
    AgentConfig,
    backend_points::backend_points,
    cgroup::{Stats, TaskCgroup, disks, waited},
    checkpoint::TaskDir,
    clock,
    dns_points::dns_points,
    edge_points::{edge_points, packet_points},
    figures::Reading,
    flow_log::Owner,
    logs::{
        self, Came, FileEntry, FollowedFiles, MAX_PER_POLL, NodeQuota, OutputDir, Shipped, Tail,
    },
    meter::{self, NodeReading, TaskReading},
    net::Net,
    peers::service_name,
    requests, shim,
    sys::{self, ProcessId},
    traffic::Awaiting,
    watch_points::{WatchReading, watch_points},
};

/// Everything that is observed of one running task.
pub struct Watched {
    labels: Arc<TaskLabels>,
    cgroup: TaskCgroup,
    start_ns: u64,
    // The last reading was taken: a tick that began before comes too late.
    is_over: bool,
    // Its id where the controller of disks is.
    disk_id: Option<u64>,
    // Most that was ever known: a thread that ends between two readings is missing in one of them.
    waited_ns: u64,
    tails: [(IoStream, Tail); 2],
    files: FollowedFiles,
    dir: TaskDir,
    shipped: Shipped,
    rules: LogRules,
    budget: LogBudget,
    // Since this agent began to watch.
    dropped_lines: u64,
    traffic: Awaiting,
    // What it says about traces of its requests.
    traced: requests::Said,
}

impl Watched {
    /// Continues where an agent before left off.
    pub fn new(
        config: &AgentConfig,
        agent_id: &AgentId,
        (spec, dir): (&TaskSpec, &TaskDir),
        cgroup: TaskCgroup,
        process: ProcessId,
        traffic: Awaiting,
    ) -> Self {
        let start_ns = boot_ns() + process.start_ticks * (1_000_000_000 / sys::ticks_per_second());
        let labels = TaskLabels {
            cluster: config.cluster.clone(),
            framework_id: spec.framework_id.clone(),
            framework: spec.framework_name.clone(),
            role: spec.role.clone(),
            agent_id: agent_id.clone(),
            hostname: config.hostname.clone(),
            task_id: spec.task_id.clone(),
            task_name: spec.name.clone(),
            service: spec.service.clone(),
            service_version: spec.service_version.clone(),
            cgroup_path: cgroup.v2_path.clone(),
            cgroup_id: cgroup.id(),
            pid: process.pid,
            pid_start_ns: start_ns,
        };
        let shipped = Shipped::read(dir.path()).unwrap_or_default();
        let tail = |stream: IoStream| {
            let name = stream.name();
            let place = OutputDir::new(&dir.sandbox(), dir.path(), name);
            (stream, Tail::new(place, shipped.of(name)))
        };
        let rules = logs::rules(config.logs.defaults, spec);
        let disk_id = disks::id(&cgroup);
        let traced = requests::Said::read(spec, &labels.service_name());
        Self {
            labels: Arc::new(labels),
            is_over: false,
            disk_id,
            waited_ns: 0,
            cgroup,
            start_ns,
            tails: [tail(IoStream::Stdout), tail(IoStream::Stderr)],
            files: FollowedFiles::new(&dir.sandbox(), dir.path(), &rules.files),
            dir: dir.clone(),
            shipped,
            budget: LogBudget::new(rules.rate, clock::now_ns()),
            dropped_lines: 0,
            traffic,
            traced,
            rules,
        }
    }

    /// Who its signals are about.
    pub fn labels(&self) -> Arc<TaskLabels> {
        Arc::clone(&self.labels)
    }

    /// Where its output is, and the most that it can be.
    pub fn output_dirs(&self) -> ([OutputDir; 2], u64) {
        let of = |name| OutputDir::new(&self.dir.sandbox(), self.dir.path(), name);
        (["stdout", "stderr"].map(of), self.rules.quota_bytes)
    }

    /// Has counted what is counted only of those that were asked for. Blocking, briefly.
    pub fn watch(&self, net: &Net, telemetry: &Telemetry) {
        if self.labels.cgroup_id == 0 {
            return;
        }
        net.flows(|flows| flows.begin(self.labels.cgroup_id));
        // Without programs nobody looks, and nobody would forget.
        if net.plane().is_some() {
            net.requests().begin(&self.labels, &self.traced);
            net.flow_log().begin(self.labels.cgroup_id, || Owner {
                name: service_name(&self.labels.task_name, &self.labels.framework),
                task_id: self.labels.task_id.to_string(),
                service: self.labels.service.clone(),
            });
            self.traffic.begin(self.labels.cgroup_id, net);
        }
        if let Some(observer) = net.observer()
            && let Err(e) = observer.watch(self.labels.cgroup_id, self.disk_id)
        {
            tracing::debug!(error = %e, "a task's waiting is not watched");
            let attrs = [(names::MAP, "RUN_DELAY".into())];
            telemetry.count(&names::EBPF_MAP_UPDATE_FAILURES, &attrs, 1);
        }
    }

    /// Its ids where the kernel counts: its cgroup's, and the one where the controller of disks is.
    pub fn counted_as(&self) -> (u64, Option<u64>) {
        (self.labels.cgroup_id, self.disk_id)
    }

    /// One tick; the kernel's figures are left out where there are none. Answers with what was read. Blocking.
    pub fn tick(
        &mut self,
        net: &Net,
        kernel: Option<&Kernel>,
        vips: &VipNames,
        telemetry: &Telemetry,
    ) -> Option<Reading> {
        if self.is_over {
            return None;
        }
        // Also those that were there before the programs were.
        self.watch(net, telemetry);
        let read = kernel.map(|kernel| self.figures(net, kernel, vips, telemetry));
        self.first_traffic(net, telemetry);
        self.output(telemetry, false);
        read
    }

    /// The last reading, after the task's end and before its cgroup goes; then the kernel's counters of it
    /// may go too. Blocking.
    pub fn last(&mut self, net: &Net, kernel: &Kernel, vips: &VipNames, telemetry: &Telemetry) {
        self.is_over = true;
        self.figures(net, kernel, vips, telemetry);
        self.first_traffic(net, telemetry);
        self.output(telemetry, true);
        if let Some(shim::ExitRecord {
            lost_output_bytes, ..
        }) = self.dir.exit()
            && lost_output_bytes > 0
        {
            let attrs = [(names::DROP_REASON, "write_failed".into())];
            telemetry.count(&names::AGENT_LOG_LOST, &attrs, lost_output_bytes);
        }
    }

    fn first_traffic(&mut self, net: &Net, telemetry: &Telemetry) {
        let (id, at) = (self.labels.cgroup_id, &self.labels.hostname);
        self.traffic.look(id, &self.dir, net, (at, telemetry));
    }

    fn figures(
        &mut self,
        net: &Net,
        kernel: &Kernel,
        vips: &VipNames,
        telemetry: &Telemetry,
    ) -> Reading {
        let id = self.labels.cgroup_id;
        let watched = self.watched(net, kernel);
        let mut points = meter::task_points(&TaskReading {
            stats: Stats::read(&self.cgroup),
            disks: disks::read(&self.cgroup),
            net: kernel.net.get(&id).copied(),
            dns: kernel.dns_since_ns.map(|since| {
                let n = kernel.dns.get(&id).copied().unwrap_or_default();
                (n, since)
            }),
            tcp: kernel.tcp.get(&id).cloned().unwrap_or_default(),
            log_blocked_ms: (self.rules.policy == LogPolicy::Block)
                .then(|| self.tails[0].1.blocked_ms()),
            vips,
            start_ns: self.start_ns,
            now_ns: clock::now_ns(),
        });
        points.extend(watch_points(&watched, self.start_ns, clock::now_ns()));
        let own = service_name(&self.labels.task_name, &self.labels.framework);
        let (start_ns, now_ns) = (self.start_ns, clock::now_ns());
        if telemetry.allows(Feature::Edges) {
            points.extend(net.flows(|flows| flows.points(id, &own, vips, start_ns, now_ns)));
        }
        let read = Reading::of(&points, (start_ns, now_ns), self.dropped_lines);
        telemetry.task_points(&self.labels, points);
        read
    }

    fn watched(&mut self, net: &Net, kernel: &Kernel) -> WatchReading {
        let observer = net.observer();
        // Those that ended first: who ends meanwhile is missing once, never there twice.
        let ended = observer.and_then(|o| o.run_delay(self.labels.cgroup_id).ok().flatten());
        let waited_ns = ended.zip(waited(&self.cgroup)).map(|(ended, alive)| {
            self.waited_ns = self.waited_ns.max(ended.saturating_add(alive));
            self.waited_ns
        });
        let disk_times = observer
            .zip(self.disk_id)
            .and_then(|(o, id)| o.disk(id).ok().flatten());
        WatchReading {
            waited_ns,
            disk_times,
            drops: kernel.drops_of(self.labels.cgroup_id),
        }
    }

    fn output(&mut self, telemetry: &Telemetry, last: bool) {
        for i in 0..self.tails.len() {
            // At its end all of it, which the quota bounds; should the task have made its file longer, no more than that.
            let mut polls = 4 + 2 * self.rules.quota_bytes / MAX_PER_POLL;
            while self.read_on(i, telemetry, last) && last && polls > 0 {
                polls -= 1;
            }
        }
        self.read_files(telemetry, last);
        self.tell_dropped(telemetry);
        let [(_, stdout), (_, stderr)] = &self.tails;
        let shipped = Shipped {
            stdout: stdout.position(),
            stderr: stderr.position(),
        };
        if shipped != self.shipped {
            self.shipped = shipped;
            if let Err(e) = shipped.write(self.dir.path()) {
                tracing::debug!(error = %e, "log position not written: lines may come twice");
            }
        }
    }

    /// Files that the task wants logged. Nobody waits for them: what is beyond its rate is dropped.
    fn read_files(&mut self, telemetry: &Telemetry, last: bool) {
        let now_ns = clock::now_ns();
        for FileEntry {
            path,
            stream,
            entry,
        } in self.files.poll(last)
        {
            let (lines, bytes) = (u64::from(entry.n_lines), entry.bytes.len() as u64);
            if !self.budget.take(lines, bytes, now_ns) {
                continue;
            }
            let mut record = decode_entry(&entry, IoStream::Stdout, now_ns);
            record.stream = None;
            // When it was written nobody knows, unless it says so; what is read again must have the same id.
            let said_ns = Some(record.time_ns).filter(|t| *t != now_ns);
            let task = self.labels.task_id.as_str();
            let uid = line_uid(task, &stream, entry.start_offset, said_ns.unwrap_or(0));
            record.uid = Some(uid);
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            record.attrs.push(("log.file.name".into(), name.into()));
            record.attrs.push(("log.file.path".into(), path.into()));
            telemetry.task_log(&self.labels, record);
        }
        let left_out = self.files.left_out();
        if left_out > 0 {
            let attrs = [(names::DROP_REASON, "too_long".into())];
            telemetry.count(&names::AGENT_LOG_LOST, &attrs, left_out);
        }
        let beyond = self.files.beyond();
        if beyond > 0 {
            let task = &self.labels.task_id;
            tracing::warn!(%task, files = beyond, "a task names more files than are followed: these are not logged");
            telemetry.count(&names::AGENT_LOG_FILES_BEYOND, &[], beyond);
        }
    }

    /// Reads one stream on; whether there was anything.
    fn read_on(&mut self, i: usize, telemetry: &Telemetry, last: bool) -> bool {
        let Some((stream, tail)) = self.tails.get_mut(i) else {
            return false;
        };
        let now_ns = clock::now_ns();
        // Who may be kept waiting is: what is not read is not removed.
        let waits = self.rules.policy == LogPolicy::Block;
        let room = if waits && !last {
            self.budget.room(now_ns)
        } else {
            u64::MAX
        };
        let polled = tail.poll(last, room);
        let attrs = [("log.iostream", stream.name().into())];
        if polled.n_bytes > 0 {
            telemetry.count(&names::AGENT_LOG_LINES, &attrs, polled.n_lines);
            telemetry.count(&names::AGENT_LOG_BYTES, &attrs, polled.n_bytes);
        }
        if polled.lost_bytes > 0 {
            let attrs = [(names::DROP_REASON, "removed".into())];
            telemetry.count(&names::AGENT_LOG_LOST, &attrs, polled.lost_bytes);
        }
        for Came { entry, us } in polled.entries {
            let (lines, bytes) = (u64::from(entry.n_lines), entry.bytes.len() as u64);
            if waits {
                self.budget.charge(lines, bytes);
            } else if !self.budget.take(lines, bytes, now_ns) {
                continue;
            }
            let came_ns = if us == 0 { now_ns } else { us * 1000 };
            let mut record = decode_entry(&entry, *stream, came_ns);
            let task = self.labels.task_id.as_str();
            let uid = line_uid(task, stream.name(), entry.start_offset, came_ns);
            record.uid = Some(uid);
            telemetry.task_log(&self.labels, record);
        }
        polled.n_bytes > 0
    }
}

impl Watched {
    /// What the task said beyond its rate is counted, and its readers are told.
    fn tell_dropped(&mut self, telemetry: &Telemetry) {
        let dropped = self.budget.take_dropped();
        if dropped.lines == 0 {
            return;
        }
        self.dropped_lines += dropped.lines;
        let reason = [(names::DROP_REASON, "rate".into())];
        telemetry.count(&names::AGENT_LOG_DROPPED, &reason, dropped.lines);
        let attrs = vec![
            ("waggle.log.dropped.lines", dropped.lines.into()),
            ("waggle.log.dropped.bytes", dropped.bytes.into()),
        ];
        telemetry.event("waggle.log.dropped", Some(&self.labels), attrs);
    }
}

/// One reading of the counters per cgroup: the kernel's, and the resolver's.
#[derive(Default)]
pub struct Kernel {
    net: BTreeMap<u64, CgroupNet>,
    tcp: BTreeMap<u64, Vec<(u32, TcpStats)>>,
    dns: BTreeMap<u64, u64>,
    dns_since_ns: Option<u64>,
    drops: BTreeMap<(u64, String), u64>,
}

impl Kernel {
    /// Reads them, where there is a data plane. Blocking.
    pub fn read(net: &Net) -> Self {
        let mut out = Self::default();
        if let Some(dns) = net.node().and_then(NodeNet::dns) {
            out.dns = dns.by_cgroup();
            out.dns_since_ns = Some(net.since_ns());
        }
        out.drops = net.observer().map(drops).unwrap_or_default();
        let Some(plane) = net.plane() else {
            return out;
        };
        match plane.counters().cgroup_net() {
            Ok(all) => out.net = all.into_iter().collect(),
            Err(e) => tracing::warn!(error = %e, "network counters not read"),
        }
        match plane.counters().tcp() {
            Ok(all) => {
                for (key, stats) in all {
                    out.tcp
                        .entry(key.cgroup_id)
                        .or_default()
                        .push((key.vip_id, stats));
                }
            }
            Err(e) => tracing::warn!(error = %e, "tcp counters not read"),
        }
        out
    }
}

impl Kernel {
    /// Bytes and packets of a cgroup; none without a data plane.
    pub fn net_of(&self, cgroup_id: u64) -> Option<CgroupNet> {
        self.net.get(&cgroup_id).copied()
    }

    fn drops_of(&self, cgroup_id: u64) -> Vec<(String, u64)> {
        let from = (cgroup_id, String::new());
        self.drops
            .range(from..)
            .take_while(|((id, _), _)| *id == cgroup_id && cgroup_id != 0)
            .map(|((_, reason), n)| (reason.clone(), *n))
            .collect()
    }
}

/// Packets that the kernel dropped, by task's cgroup and reason.
fn drops(observer: &Observer) -> BTreeMap<(u64, String), u64> {
    let all = observer.drops().unwrap_or_else(|e| {
        tracing::warn!(error = %e, "dropped packets not read");
        BTreeMap::new()
    });
    all.into_iter()
        .map(|((id, reason), n)| ((id, reason.to_owned()), n))
        .collect()
}

/// Keeps running tasks' output within what the node has for it. Blocking.
pub fn keep_output(quota: NodeQuota, tasks: &[([OutputDir; 2], u64)], telemetry: &Telemetry) {
    // All of them together rarely could be too much: then nothing is looked at.
    if !quota.may_be_over(tasks.iter().map(|(_, most)| most).sum()) {
        return;
    }
    let streams: Vec<OutputDir> = tasks.iter().flat_map(|(dirs, _)| dirs.clone()).collect();
    let gone = quota.keep(&streams);
    if gone > 0 {
        telemetry.count(&names::AGENT_LOG_REDUCED, &[], gone);
        tracing::warn!(
            bytes = gone,
            "tasks' older output was removed: the node's quota is full"
        );
    }
}

/// Reads and hands in the node's own figures. Blocking.
pub fn node(net: &Net, kernel: &Kernel, telemetry: &Telemetry, start_ns: u64) {
    let generation = net.generation().0 as f64;
    telemetry.set(&names::NET_GENERATION, &[], generation);
    if let Some(dns) = net.node().and_then(NodeNet::dns) {
        let n_records = dns.zone().map_or(0, |zone| zone.n_records());
        let points = dns_points(&dns.counters(), n_records, start_ns, clock::now_ns());
        telemetry.node_points(points);
    }
    if let Some(edge) = net.edge() {
        match edge.read() {
            Ok(reading) => {
                let now_ns = clock::now_ns();
                let points = edge_points(&reading, &net.vip_names(), start_ns, now_ns);
                telemetry.node_points(points);
            }
            Err(e) => tracing::warn!(error = %e, "the edge's counters not read"),
        }
    }
    let overlay = net.overlay();
    for (def, counts) in [
        (&names::VIP_PACKETS, net.packets().map(PacketNet::read)),
        (&names::NETWORK_PACKETS, Some(overlay.counts())),
        (&names::POLICY_PACKETS, Some(overlay.policy_counts())),
    ] {
        match counts {
            Some(Ok(counts)) => {
                let points = packet_points(def, &counts, start_ns, clock::now_ns());
                telemetry.node_points(points);
            }
            Some(Err(e)) => tracing::warn!(error = %e, metric = def.name, "counters not read"),
            None => {}
        }
    }
    let Some(plane) = net.plane() else { return };
    let counters = plane.counters();
    let vip_stats = counters.vip_stats().unwrap_or_default();
    let losses = counters.losses().unwrap_or_default();
    let mut programs = plane.programs();
    programs.extend(net.observer().map(Observer::programs).unwrap_or_default());
    programs.extend(net.requests().programs());
    let observer = net.observer();
    let drops = observer.and_then(|o| o.node_drops().ok());
    let drops = drops.unwrap_or_default().into_iter();
    let missed = observer.and_then(|o| o.missed().ok());
    let n_tcp = kernel.tcp.values().map(Vec::len).sum();
    if let Some(table) = net.node().map(NodeNet::table) {
        telemetry.node_points(backend_points(&table, clock::now_ns()));
    }
    let maps = vec![
        ("CGROUP_NET", kernel.net.len(), MAX_CGROUPS),
        ("TCP_STATS", n_tcp, MAX_TCP_SERIES),
        ("VIP_STATS", vip_stats.len(), MAX_VIP_SERIES),
    ];
    let points = meter::node_points(&NodeReading {
        vip_stats,
        losses,
        maps,
        drops: drops.map(|(reason, n)| (reason.to_owned(), n)).collect(),
        missed: missed.unwrap_or_default(),
        programs: programs
            .into_iter()
            .map(|p| (p.name.to_string(), p.run_ns, p.run_cnt))
            .collect(),
        vips: &net.vip_names(),
        start_ns,
        now_ns: clock::now_ns(),
    });
    telemetry.node_points(points);
}

/// When the machine was booted, Unix nanoseconds.
fn boot_ns() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines()
        .find_map(|l| l.strip_prefix("btime ")?.trim().parse::<u64>().ok())
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
}
