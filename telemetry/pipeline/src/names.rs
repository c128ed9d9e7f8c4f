//! The registry: every metric's name, unit, kind and attributes, written down once.
//!
//! Names without the prefix `waggle.` are taken verbatim from the semantic conventions 1.44.0; the
//! rest fills their gaps. To add a metric, add it to the table below: its constant, its place in
//! [`ALL`] and its documentation come from there.

use crate::hist::SECONDS_BOUNDS;

/// Schema that names follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";
/// Instrumentation scope of metrics.
pub const SCOPE_METRICS: &str = "waggle.metrics";
/// Instrumentation scope of log records.
pub const SCOPE_LOGS: &str = "waggle.logs";
/// Instrumentation scope of spans.
pub const SCOPE_SPANS: &str = "waggle.spans";

/// How a metric's values behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Only grows; cumulative.
    Counter,
    /// Goes up and down, adds up over series.
    UpDownCounter,
    /// Goes up and down, does not add up.
    Gauge,
    /// A distribution; cumulative.
    Histogram,
}

/// One metric. Can only be made in this crate, by the table below, so that nothing else is ever emitted.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub struct MetricDef {
    /// OpenTelemetry name.
    pub name: &'static str,
    /// UCUM unit.
    pub unit: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Help text.
    pub description: &'static str,
    /// Attribute keys that points may have.
    pub attributes: &'static [&'static str],
    /// Bucket bounds of histograms recorded in user space; empty for other kinds.
    pub bounds: &'static [f64],
}

impl PartialOrd for MetricDef {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MetricDef {
    /// By name: names are unique.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.name.cmp(other.name)
    }
}

impl Eq for MetricDef {}

/// Finds a definition by its OpenTelemetry name.
pub fn find(name: &str) -> Option<&'static MetricDef> {
    ALL.iter().copied().find(|d| d.name == name)
}

/// Whether what arrived at an endpoint is as the registry has it; the error names what is not.
pub fn check<'a>(
    name: &str,
    unit: &str,
    attributes: impl IntoIterator<Item = &'a str>,
) -> Result<(), String> {
    let def = find(name).ok_or_else(|| format!("{name}: not in the registry"))?;
    if def.unit != unit {
        return Err(format!("{name}: unit is {unit:?}, must be {:?}", def.unit));
    }
    for a in attributes {
        if a != OVERFLOW && !def.attributes.contains(&a) {
            return Err(format!("{name}: attribute {a} is not registered"));
        }
    }
    Ok(())
}

/// Attribute of the series into which others are folded when the series limit is reached.
pub const OVERFLOW: &str = "otel.metric.overflow";
/// `transmit` or `receive`.
pub const DIRECTION: &str = "network.io.direction";
/// VIP or server name.
pub const SERVER_ADDRESS: &str = "server.address";
/// VIP port.
pub const SERVER_PORT: &str = "server.port";
/// Backend address.
pub const PEER_ADDRESS: &str = "network.peer.address";
/// Backend port.
pub const PEER_PORT: &str = "network.peer.port";
/// `tcp` or `udp`.
pub const TRANSPORT: &str = "network.transport";
/// `user` or `system`.
pub const CPU_MODE: &str = "cpu.mode";
/// Why something failed.
pub const ERROR_TYPE: &str = "error.type";
/// Why something was dropped.
pub const DROP_REASON: &str = "waggle.drop.reason";
/// `logs`, `spans` or `metrics`.
pub const SIGNAL: &str = "waggle.telemetry.signal";
/// An overlay network.
pub const NETWORK: &str = "waggle.network.name";
/// How something ended.
pub const OUTCOME: &str = "waggle.outcome";
/// A persistent volume's id.
pub const VOLUME: &str = "waggle.volume.id";
/// A state's name.
pub const STATE: &str = "waggle.state";
/// `exec` or `attach`.
pub const SESSION_KIND: &str = "waggle.session.kind";
/// Role of the allocator.
pub const ROLE: &str = "waggle.role";
/// Framework name.
pub const FRAMEWORK: &str = "waggle.framework.name";
/// `cpus`, `mem`, `disk`, `gpus`, `ports`.
pub const RESOURCE: &str = "waggle.resource";
/// What became of a connect to a VIP: `new`, `no_backend`.
pub const VIP_OUTCOME: &str = "waggle.vip.outcome";
/// A kernel program.
pub const PROGRAM: &str = "waggle.ebpf.program";
/// A kernel map.
pub const MAP: &str = "waggle.ebpf.map";
/// Who answered a DNS question: `zone`, `cache`, `stale`, `upstream`, `nobody`.
pub const DNS_SOURCE: &str = "waggle.dns.source";
/// A DNS answer's code: `NOERROR`, `NXDOMAIN`, ...
pub const DNS_RCODE: &str = "waggle.dns.rcode";
/// `some` or `full`.
pub const PRESSURE_KIND: &str = "waggle.pressure.kind";
/// `cpu`, `memory`, `io`.
pub const PRESSURE_RESOURCE: &str = "waggle.pressure.resource";

macro_rules! bounds {
    (Histogram) => {
        SECONDS_BOUNDS
    };
    ($other:ident) => {
        &[]
    };
}

macro_rules! registry {
    ($($id:ident = $kind:ident $name:literal [$unit:literal] {$($attr:expr),*} $desc:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "` (", $unit, "): ", $desc, ".")]
            pub static $id: MetricDef = MetricDef {
                name: $name,
                unit: $unit,
                kind: Kind::$kind,
                description: $desc,
                attributes: &[$($attr),*],
                bounds: bounds!($kind),
            };
        )*
        /// Every metric, in the order of the table.
        pub static ALL: &[&MetricDef] = &[$(&$id),*];
    };
}

registry! {
    // Containers, verbatim.
    CONTAINER_UPTIME = Gauge "container.uptime" ["s"] {} "Time that the task's first process has been running";
    CONTAINER_CPU_TIME = Counter "container.cpu.time" ["s"] {CPU_MODE} "CPU time used by the task's cgroup";
    CONTAINER_MEMORY_USAGE = UpDownCounter "container.memory.usage" ["By"] {} "Memory charged to the task's cgroup";
    CONTAINER_MEMORY_AVAILABLE = UpDownCounter "container.memory.available" ["By"] {} "Memory limit less the working set";
    CONTAINER_MEMORY_RSS = UpDownCounter "container.memory.rss" ["By"] {} "Anonymous memory of the task's cgroup";
    CONTAINER_MEMORY_WORKING_SET = UpDownCounter "container.memory.working_set" ["By"] {} "Memory usage less inactive file pages";
    CONTAINER_PAGING_FAULTS = Counter "container.paging.faults" ["{fault}"] {"system.paging.fault.type"} "Page faults of the task's cgroup";
    CONTAINER_DISK_IO = Counter "container.disk.io" ["By"] {"disk.io.direction", "system.device"} "Bytes read from and written to disks";
    CONTAINER_NETWORK_IO = Counter "container.network.io" ["By"] {DIRECTION, "network.interface.name"} "Bytes sent and received by the task's sockets, IP headers included";

    // Containers, gaps.
    CONTAINER_DNS_QUERIES = Counter "waggle.container.dns.queries" ["{query}"] {} "Questions of the task's sockets to this node's DNS server, as far as they were attributed";
    CONTAINER_PACKETS = Counter "waggle.container.network.packet.count" ["{packet}"] {DIRECTION, "network.interface.name"} "Packets sent and received by the task's sockets";
    CONTAINER_PACKETS_DROPPED = Counter "waggle.container.network.packet.dropped" ["{packet}"] {DIRECTION, "network.interface.name", DROP_REASON} "Packets of the task that were dropped";
    CONTAINER_CONNECTIONS = UpDownCounter "waggle.container.network.connection.count" ["{connection}"] {"network.connection.state", TRANSPORT} "Connections of the task";
    CONTAINER_CPU_THROTTLED_TIME = Counter "waggle.container.cpu.throttled.time" ["s"] {} "Time that the task was kept from running by its CPU limit";
    CONTAINER_CPU_THROTTLED_PERIODS = Counter "waggle.container.cpu.throttled.periods" ["{period}"] {} "Periods in which the task hit its CPU limit";
    CONTAINER_CPU_LIMIT = UpDownCounter "waggle.container.cpu.limit" ["{cpu}"] {} "CPUs that the task may use";
    CONTAINER_MEMORY_LIMIT = UpDownCounter "waggle.container.memory.limit" ["By"] {} "Memory that the task may use";
    CONTAINER_PRESSURE = Counter "waggle.container.pressure.stall.time" ["s"] {PRESSURE_RESOURCE, PRESSURE_KIND} "Time that the task's processes stalled for a resource";
    CONTAINER_OOM = Counter "waggle.container.oom.count" ["{event}"] {} "Processes of the task killed for its memory limit";
    CONTAINER_DISK_USAGE = UpDownCounter "waggle.container.disk.usage" ["By"] {} "Space that the task's sandbox takes, its volumes apart";
    CONTAINER_VOLUME_USAGE = UpDownCounter "waggle.container.volume.usage" ["By"] {VOLUME} "Space that a volume of the task takes";
    CONTAINER_PIDS = UpDownCounter "waggle.container.process.count" ["{process}"] {} "Processes and threads of the task";
    CONTAINER_PIDS_REFUSED = Counter "waggle.container.process.refused" ["{event}"] {} "Processes and threads that the task's limit kept from being made";
    TASK_RESTARTS = Counter "waggle.task.restarts" ["{event}"] {} "Instances started in place of one that ended";
    TASK_EXITS = Counter "waggle.task.exits" ["{event}"] {STATE, ERROR_TYPE} "Tasks that ended, by final state";

    // TCP, from the kernel.
    TCP_CONNECT_DURATION = Histogram "waggle.tcp.client.connect.duration" ["s"] {SERVER_ADDRESS, SERVER_PORT, ERROR_TYPE} "Time from connect to an established connection";
    TCP_CONNECT_FAILURES = Counter "waggle.tcp.client.connect.failures" ["{connection}"] {SERVER_ADDRESS, SERVER_PORT, ERROR_TYPE} "Connects that ended without an established connection";
    TCP_ACCEPTS = Counter "waggle.tcp.server.accept.count" ["{connection}"] {} "Connections that the task accepted";
    TCP_RETRANSMITS = Counter "waggle.tcp.retransmits" ["{segment}"] {SERVER_ADDRESS, SERVER_PORT} "Segments sent again";
    TCP_RTT = Histogram "waggle.tcp.rtt" ["s"] {SERVER_ADDRESS, SERVER_PORT} "Smoothed round-trip time, as the kernel samples it";
    TCP_IO = Counter "waggle.tcp.io" ["By"] {DIRECTION, SERVER_ADDRESS, SERVER_PORT} "Payload bytes acknowledged by the peer and received";

    // VIPs.
    VIP_CONNECTIONS = Counter "waggle.vip.connections" ["{connection}"] {SERVER_ADDRESS, SERVER_PORT, TRANSPORT, VIP_OUTCOME} "Connects to a VIP, by outcome";
    VIP_BACKEND_SELECTED = Counter "waggle.vip.backend.selected" ["{connection}"] {SERVER_ADDRESS, SERVER_PORT, TRANSPORT, PEER_ADDRESS, PEER_PORT} "Connects sent to a backend";
    VIP_BACKEND_FAILURES = Counter "waggle.vip.backend.failures" ["{connection}"] {SERVER_ADDRESS, SERVER_PORT, TRANSPORT, PEER_ADDRESS, PEER_PORT} "Connects that a backend refused, left unanswered or reset before its first byte";
    VIP_BACKEND_EJECTIONS = Counter "waggle.vip.backend.ejections" ["{ejection}"] {SERVER_ADDRESS, SERVER_PORT, TRANSPORT, PEER_ADDRESS, PEER_PORT} "Times that this node left a backend out for a while";
    VIP_NO_BACKEND = Counter "waggle.vip.no_backend" ["{connection}"] {SERVER_ADDRESS, SERVER_PORT, TRANSPORT} "Connects refused because the VIP has no backend";
    VIP_BACKENDS = Gauge "waggle.vip.backend.count" ["{backend}"] {SERVER_ADDRESS, SERVER_PORT, TRANSPORT} "Backends in this node's table";
    VIP_BACKEND_HEALTH = Gauge "waggle.vip.backend.health" ["1"] {SERVER_ADDRESS, SERVER_PORT, TRANSPORT, PEER_ADDRESS, PEER_PORT} "1 for an eligible backend, 0 for one that gets no new connections";
    VIP_MAP_UPDATE_DURATION = Histogram "waggle.vip.map.update.duration" ["s"] {} "Time to bring a change of the VIP table into the kernel's maps";
    VIP_PACKETS = Counter "waggle.vip.packets" ["{packet}"] {OUTCOME} "Packets to and from VIPs on devices with packet programs, by what became of them";
    NET_GENERATION = Gauge "waggle.net.generation" ["{generation}"] {} "Generation of the network snapshot that this node has applied";
    NET_APPLY_FAILURES = Counter "waggle.net.apply.failures" ["{failure}"] {ERROR_TYPE} "Map operations that failed";

    // VIP traffic from outside.
    EDGE_PACKETS = Counter "waggle.edge.packets" ["{packet}"] {SERVER_ADDRESS, SERVER_PORT, TRANSPORT, OUTCOME} "Packets from outside to a VIP that this node, an edge, sent to backends, refused or denied";
    EDGE_IO = Counter "waggle.edge.io" ["By"] {SERVER_ADDRESS, SERVER_PORT, TRANSPORT} "Bytes from outside to a VIP that this node sent to backends";
    EDGE_EVENTS = Counter "waggle.edge.events" ["{packet}"] {OUTCOME} "Packets from outside that did not simply go to a backend, by what was unusual";
    EDGE_FLOWS = Gauge "waggle.edge.flows" ["{flow}"] {} "Flows that this node remembers because their slot of a ring changed";
    EDGE_DELIVERIES = Counter "waggle.edge.deliveries" ["{packet}"] {OUTCOME} "Packets that edges sent to tasks of this node, and answers, by what became of them";

    // Overlay networks.
    NETWORK_SUBNETS = UpDownCounter "waggle.network.subnets" ["{subnet}"] {NETWORK, STATE} "Subnets of a network's pool, by whether a node holds them";
    NETWORK_EXHAUSTED = Counter "waggle.network.exhausted" ["{lease}"] {NETWORK, OUTCOME} "Nodes that there was no subnet for, and containers that there was no address for";
    NETWORK_ADDRESSES = UpDownCounter "waggle.network.addresses" ["{address}"] {NETWORK, STATE} "Addresses of this node's subnets, by whether containers have them";

    NETWORK_PACKETS = Counter "waggle.network.packets" ["{packet}"] {OUTCOME} "Packets to and from this node's containers on overlay networks, by what became of them";
    POLICY_PACKETS = Counter "waggle.policy.packets" ["{packet}"] {OUTCOME} "Packets that policies were asked about on this node, by verdict";

    // DNS.
    DNS_LOOKUP_DURATION = Histogram "dns.lookup.duration" ["s"] {"dns.question.name", ERROR_TYPE} "Time to answer or forward a DNS question";
    DNS_QUERIES = Counter "waggle.dns.queries" ["{query}"] {DNS_SOURCE, DNS_RCODE, TRANSPORT} "Questions that this node's DNS server answered, by who knew the answer";
    DNS_DROPPED = Counter "waggle.dns.dropped" ["{query}"] {DROP_REASON} "Answers, connections and log lines that were lost";
    DNS_FAULTS = Counter "waggle.dns.faults" ["{query}"] {ERROR_TYPE} "Messages that were no question that can be answered";
    DNS_OUTCOMES = Counter "waggle.dns.outcomes" ["{query}"] {OUTCOME} "Questions with something unusual about their answer";
    DNS_FORWARDS = Counter "waggle.dns.forwards" ["{query}"] {SERVER_ADDRESS, OUTCOME} "Questions sent to an upstream resolver, by what came of them";
    DNS_CACHE_LOOKUPS = Counter "waggle.dns.cache.lookups" ["{query}"] {OUTCOME} "Questions about other names, by whether an answer was kept";
    DNS_CACHE_EVICTIONS = Counter "waggle.dns.cache.evictions" ["{record}"] {} "Kept answers that were dropped before their time";
    DNS_CACHE_ENTRIES = Gauge "waggle.dns.cache.entries" ["{record}"] {} "Answers that are kept now";
    DNS_RECORDS = Gauge "waggle.dns.zone.records" ["{record}"] {} "Records in this node's zone";

    // Scheduler.
    SCHED_ALLOCATION_DURATION = Histogram "waggle.scheduler.allocation.duration" ["s"] {} "Time that one allocation takes";
    SCHED_ALLOCATION_LATENCY = Histogram "waggle.scheduler.allocation.latency" ["s"] {} "Time from taking an event in to handing out the offers that it causes";
    SCHED_OFFER_LIFETIME = Histogram "waggle.scheduler.offer.lifetime" ["s"] {OUTCOME, FRAMEWORK} "Time from an offer to its end";
    SCHED_OFFER_TO_LAUNCH = Histogram "waggle.scheduler.offer.to_launch.duration" ["s"] {FRAMEWORK} "Time from an offer to the launch of a task on it";
    SCHED_LAUNCH_TO_RUNNING = Histogram "waggle.scheduler.launch.to_running.duration" ["s"] {FRAMEWORK} "Time from a task's launch to its running";
    SCHED_STORE_DURATION = Histogram "waggle.scheduler.registry.store.duration" ["s"] {ERROR_TYPE} "Time to store a change durably";
    SCHED_DEPLOYMENT_DURATION = Histogram "waggle.scheduler.deployment.duration" ["s"] {OUTCOME} "Time from an API request to the end of its deployment";
    JOB_RUN_DURATION = Histogram "waggle.job.run.duration" ["s"] {OUTCOME} "Time from the beginning of a job's run to its end";
    JOB_SKIPPED = Counter "waggle.job.skipped" ["{run}"] {DROP_REASON} "Times of jobs' schedules that had no run";
    SCHED_OFFERS = Counter "waggle.scheduler.offers" ["{offer}"] {OUTCOME, FRAMEWORK, ROLE} "Offers, by outcome";
    SCHED_DECLINES = Counter "waggle.scheduler.declines" ["{offer}"] {"waggle.decline.reason", FRAMEWORK} "Offers that the service framework declined, by reason";
    SCHED_TASKS = UpDownCounter "waggle.scheduler.tasks" ["{task}"] {STATE, FRAMEWORK} "Tasks that the master knows, by state";
    SCHED_STATUS_UPDATES = Counter "waggle.scheduler.status_updates" ["{update}"] {STATE} "Status updates received from agents";
    SCHED_AGENTS = UpDownCounter "waggle.scheduler.agent.count" ["{agent}"] {STATE} "Agents, by state";
    SCHED_FRAMEWORKS = UpDownCounter "waggle.scheduler.framework.count" ["{framework}"] {STATE} "Frameworks, by state";
    SCHED_HTTP_CLOSED = Counter "waggle.scheduler.http.closed" ["{connection}"] {DROP_REASON} "HTTP connections, and streams of events for operators, that the master ended by itself";
    SCHED_DEPLOYMENTS = UpDownCounter "waggle.scheduler.deployment.count" ["{deployment}"] {} "Deployments in progress";
    SCHED_EVENT_QUEUE = UpDownCounter "waggle.scheduler.event_queue.size" ["{event}"] {} "Events that wait for the master's loop";
    SCHED_EVENT_DURATION = Histogram "waggle.scheduler.event.duration" ["s"] {} "Time that the core takes for one event";
    SCHED_TOTAL = Gauge "waggle.scheduler.resources.total" ["{resource}"] {RESOURCE, ROLE} "Resources of all agents; CPUs, or bytes of memory and disk";
    SCHED_ALLOCATED = Gauge "waggle.scheduler.resources.allocated" ["{resource}"] {RESOURCE, ROLE} "Resources used by tasks; CPUs, or bytes of memory and disk";
    SCHED_OFFERED = Gauge "waggle.scheduler.resources.offered" ["{resource}"] {RESOURCE, ROLE} "Resources in open offers; CPUs, or bytes of memory and disk";
    SCHED_DOMINANT_SHARE = Gauge "waggle.scheduler.role.dominant_share" ["1"] {ROLE} "A role's largest share of any resource";
    SCHED_RESERVATIONS_FAILED = Counter "waggle.scheduler.reservations.failed" ["{reservation}"] {ROLE} "Changes of reservations that were refused, and reservations that their agent has no room for";

    // Sessions and agents.
    SESSION_CONNECTS = Counter "waggle.session.connects" ["{connection}"] {OUTCOME} "Attempts to open a session between agent and master";
    SESSION_MESSAGES = Counter "waggle.session.messages" ["{message}"] {DIRECTION, "waggle.message.type"} "Messages on sessions";
    SESSION_DROPPED = Counter "waggle.session.dropped" ["{session}"] {DROP_REASON} "Sessions ended by the master";
    AGENT_TASKS = UpDownCounter "waggle.agent.tasks" ["{task}"] {STATE} "Tasks of this agent, by state";
    AGENT_LAUNCH_DURATION = Histogram "waggle.agent.launch.duration" ["s"] {OUTCOME} "Time from receiving a task to its first process running";
    IMAGE_PULLS = Counter "waggle.agent.image.pulls" ["{pull}"] {OUTCOME} "Images that were asked of registries, by outcome";
    IMAGE_PULL_DURATION = Histogram "waggle.agent.image.pull.duration" ["s"] {OUTCOME} "Time from asking a registry to an unpacked image";
    IMAGE_PULL_BYTES = Counter "waggle.agent.image.pull.io" ["By"] {} "Bytes of layers that came from registries, compressed";
    IMAGE_CACHE_HITS = Counter "waggle.agent.image.cache.hits" ["{image}"] {} "Images that were there when a task asked for them";
    IMAGE_STORE_SIZE = UpDownCounter "waggle.agent.image.store.size" ["By"] {} "Unpacked layers on disk";
    IMAGES_COLLECTED = Counter "waggle.agent.image.collected" ["{image}"] {} "Images removed for their age or the store's bound";
    AGENT_TICK_DURATION = Histogram "waggle.agent.tick.duration" ["s"] {} "Time to read all counters of this node's tasks";
    AGENT_STATUS_PENDING = UpDownCounter "waggle.agent.status_updates.pending" ["{update}"] {} "Status updates that the master has not acknowledged";
    AGENT_HEALTH_CHECKS = Counter "waggle.agent.health_checks" ["{check}"] {OUTCOME} "Health checks that were run";
    AGENT_HEALTH_CHECK_DURATION = Histogram "waggle.agent.health_check.duration" ["s"] {OUTCOME} "Time that a health check took";
    AGENT_CHECKS_LATE = Counter "waggle.agent.checks.late" ["{check}"] {} "Checks that began more than 100 ms after they were due, since too many were under way";
    AGENT_LOG_LINES = Counter "waggle.agent.log.lines" ["{line}"] {"log.iostream"} "Lines read from tasks' output";
    AGENT_LOG_BYTES = Counter "waggle.agent.log.bytes" ["By"] {"log.iostream"} "Bytes read from tasks' output";
    AGENT_SESSIONS = UpDownCounter "waggle.agent.sessions" ["{session}"] {} "Sessions that people have in tasks: exec and attach";
    AGENT_SESSIONS_ENDED = Counter "waggle.agent.sessions.ended" ["{session}"] {SESSION_KIND, OUTCOME} "Sessions in tasks that have ended";
    AGENT_REQUESTS_REFUSED = Counter "waggle.agent.requests.refused" ["{request}"] {DROP_REASON} "Requests for sessions and files that were refused since too many were under way";
    AGENT_FILES_READ = Counter "waggle.agent.files.read" ["By"] {} "Bytes of sandboxes' files that were sent";
    AGENT_LOG_LOST = Counter "waggle.agent.log.lost" ["By"] {DROP_REASON} "Bytes of tasks' output that could not be written to its files";
    SANDBOXES_KEPT = UpDownCounter "waggle.agent.sandboxes.kept" ["{sandbox}"] {} "Sandboxes of ended tasks that are kept";
    SANDBOXES_REMOVED = Counter "waggle.agent.sandboxes.removed" ["{sandbox}"] {} "Sandboxes of ended tasks that were removed for their age, their number or a full disk";
    FETCHES = Counter "waggle.agent.fetches" ["{fetch}"] {OUTCOME} "Things that were fetched into sandboxes";
    FETCH_BYTES = Counter "waggle.agent.fetch.bytes" ["By"] {} "Bytes that were fetched into sandboxes, unpacked ones too";
    FETCH_DURATION = Histogram "waggle.agent.fetch.duration" ["s"] {OUTCOME} "Time that fetching took, unpacking included";
    FETCH_CACHE_REQUESTS = Counter "waggle.agent.fetch.cache.requests" ["{request}"] {OUTCOME} "Things asked of the fetcher's cache";
    FETCH_CACHE_SIZE = Gauge "waggle.agent.fetch.cache.size" ["By"] {} "Bytes in the fetcher's cache";
    FETCH_CACHE_EVICTED = Gauge "waggle.agent.fetch.cache.evicted" ["{file}"] {} "Files that left the fetcher's cache for others since the agent began";
    VOLUMES_UNCLAIMED = Counter "waggle.volume.unclaimed" ["{volume}"] {} "Volumes that the master did not know and that were put aside";
    AGENT_LOG_SEGMENTS_LOST = Counter "waggle.agent.log.segments.lost" ["{segment}"] {DROP_REASON} "Segments of tasks' output that were replaced before they were read to their end";

    // Own kernel programs.
    EBPF_LOST = Counter "waggle.ebpf.lost" ["{event}"] {DROP_REASON} "What the kernel programs could not count";
    EBPF_RUN_TIME = Counter "waggle.ebpf.program.run.time" ["s"] {PROGRAM} "Time spent in a kernel program";
    EBPF_RUN_COUNT = Counter "waggle.ebpf.program.run.count" ["{run}"] {PROGRAM} "Runs of a kernel program";
    EBPF_MAP_ENTRIES = UpDownCounter "waggle.ebpf.map.entries" ["{entry}"] {MAP} "Entries of a kernel map";
    EBPF_MAP_LIMIT = UpDownCounter "waggle.ebpf.map.limit" ["{entry}"] {MAP} "Most entries of a kernel map";
    EBPF_MAP_UPDATE_FAILURES = Counter "waggle.ebpf.map.update.failures" ["{failure}"] {MAP, ERROR_TYPE} "Writes to a kernel map that failed";

    // Own telemetry.
    TELEMETRY_IN = Counter "waggle.telemetry.in" ["{item}"] {SIGNAL} "Items handed in for export";
    TELEMETRY_EXPORTED = Counter "waggle.telemetry.exported" ["{item}"] {SIGNAL} "Items that the OTLP endpoint took";
    TELEMETRY_DROPPED = Counter "waggle.telemetry.dropped" ["{item}"] {SIGNAL, DROP_REASON} "Items that were not delivered, by reason";
    TELEMETRY_HELD = UpDownCounter "waggle.telemetry.held" ["{item}"] {SIGNAL} "Items queued, in flight or on disk";
    TELEMETRY_LIMIT = UpDownCounter "waggle.telemetry.limit" ["{item}"] {SIGNAL} "Most items that the queue holds";
    TELEMETRY_SPOOL_SIZE = UpDownCounter "waggle.telemetry.spool.size" ["By"] {SIGNAL} "Bytes that wait on disk for the OTLP endpoint";
    TELEMETRY_SPOOL_LIMIT = UpDownCounter "waggle.telemetry.spool.limit" ["By"] {SIGNAL} "Most bytes that wait on disk";
    TELEMETRY_SPOOL_AGE = Gauge "waggle.telemetry.spool.oldest.age" ["s"] {SIGNAL} "How long the oldest items on disk have waited";
    TELEMETRY_EXPORT_DURATION = Histogram "waggle.telemetry.export.duration" ["s"] {SIGNAL, ERROR_TYPE} "Time that one export request took";
    TELEMETRY_SERIES = UpDownCounter "waggle.telemetry.series" ["{series}"] {} "Metric series held in this process";

    // Own APIs and process.
    HTTP_SERVER_DURATION = Histogram "http.server.request.duration" ["s"] {"http.request.method", "http.route", "http.response.status_code", "url.scheme", ERROR_TYPE} "Time to answer an HTTP request";
    RPC_SERVER_DURATION = Histogram "rpc.server.call.duration" ["s"] {"rpc.system.name", "rpc.method", "rpc.response.status_code", ERROR_TYPE} "Time to answer an RPC";
    PROCESS_CPU_TIME = Counter "process.cpu.time" ["s"] {CPU_MODE} "CPU time used by this process";
    PROCESS_MEMORY_USAGE = UpDownCounter "process.memory.usage" ["By"] {} "Resident memory of this process";
    PROCESS_UPTIME = Gauge "process.uptime" ["s"] {} "Time that this process has been running";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        let names: BTreeSet<_> = ALL.iter().map(|d| d.name).collect();
        assert_eq!(names.len(), ALL.len());
        let prom: BTreeSet<_> = ALL.iter().map(|d| crate::prometheus_name(d)).collect();
        assert_eq!(prom.len(), ALL.len(), "two metrics share a Prometheus name");
        for d in ALL {
            assert!(
                d.name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c)),
                "{}",
                d.name
            );
            assert!(!d.description.is_empty() && !d.description.ends_with('.'));
            assert_eq!(
                d.kind == Kind::Histogram,
                !d.bounds.is_empty(),
                "{}",
                d.name
            );
            assert!(
                !d.attributes
                    .iter()
                    .any(|a| a.contains("offer.id") || a.contains("task.id")),
                "{}: ids never go on points",
                d.name
            );
            assert_eq!(find(d.name), Some(*d));
        }
    }

    #[test]
    fn check_names_what_is_wrong() {
        assert_eq!(check("container.network.io", "By", [DIRECTION]), Ok(()));
        for (name, unit, attr, want) in [
            ("nope", "By", DIRECTION, "not in the registry"),
            ("container.network.io", "s", DIRECTION, "must be \"By\""),
            ("container.network.io", "By", "x", "attribute x"),
        ] {
            let err = check(name, unit, [attr]).unwrap_err();
            assert!(err.contains(want), "{err}");
        }
    }
}
