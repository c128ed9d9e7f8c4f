//! What an agent is told by its operator.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::images::ImageSettings;
use tokio::net::{TcpListener, UdpSocket};
use waggle_overlay::edge::EdgeMode;
use waggle_overlay::forward::ForwardConfig;
use waggle_overlay_plan::zone::{HealthPolicy, Scope};
use waggle_types::{Custom, Domain, Milli, PortSet, Resources};

use crate::{
    fetch::FetchSettings,
    flow_log::FlowLogConfig,
    logs::LogSettings,
    networks::NetworkSettings,
    reconfiguration::Reconfiguration,
    requests::{TraceInject, TraceRequests},
    storage::StorageSettings,
};

/// Settings of one agent. [`AgentConfig::new`] fills in every default.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Name of the node, as offers and DNS show it.
    pub hostname: String,
    /// The node's address on the underlay: where its tasks' host ports are reached.
    pub ip: Ipv4Addr,
    /// The same over IPv6, where the node has one.
    pub ip6: Option<Ipv6Addr>,
    /// Session addresses of the master candidates, tried in turn.
    pub masters: Vec<SocketAddr>,
    /// Cluster name, for telemetry.
    pub cluster: String,
    /// Everything durable: the agent's id, checkpoints, sandboxes.
    pub work_dir: PathBuf,
    /// The node's cgroup2 directory; tasks are put into `<cgroup_root>/tasks/<task_id>`, or below `waggle.tasks` where
    /// it is the mount itself. `None` runs tasks
    /// without cgroups: no limits, no per-task counters.
    pub cgroup_root: Option<PathBuf>,
    /// Where BPF maps and links are pinned (on a bpffs).
    pub pin_dir: PathBuf,
    /// What to do about the kernel data plane.
    pub dataplane: DataPlanePolicy,
    /// Whether to answer DNS and keep VIP tables on this node at all. Off: desired state is
    /// acknowledged as not applied.
    pub network: bool,
    /// The node's DNS server.
    pub dns: DnsSettings,
    /// The node's part in traffic from outside; none: nothing of it is loaded, and what an earlier run left is removed.
    pub edge: Option<EdgeSettings>,
    /// Devices whose packets to and from VIPs are translated, for what the socket hooks can't see: other network
    /// namespaces, raw sockets in them, the uplink. None: what an earlier run attached is taken off.
    pub packet_devices: BTreeSet<String>,
    /// UDP port of WireGuard, where packets of overlay networks are encrypted between nodes; the same on every node. None:
    /// they are not, and what an earlier run made for it is removed.
    pub encrypt: Option<u16>,
    /// Resources to offer where the operator does not want what was detected.
    pub resources: ResourceOverrides,
    /// Attributes for constraints: `rack:a1`.
    pub attributes: BTreeMap<String, String>,
    /// Where the node stands.
    pub domain: Option<Domain>,
    /// What of the agent may be other than when it ran before.
    pub reconfiguration: Reconfiguration,
    /// How to start a shim.
    pub shim: ShimCommand,
    /// How to start the shim of a command that `exec` runs in a task.
    pub exec_shim: ShimCommand,
    /// How tasks with images are run.
    pub runtime: RuntimeSettings,
    /// What tasks of this node may ask for.
    pub policy: NodePolicy,
    /// Networks of the node's own.
    pub networks: NetworkSettings,
    /// Whether tasks here can be on the cluster's overlay networks.
    pub overlay: bool,
    /// Device nodes of GPUs; `None`: those that are found.
    pub gpu_devices: Option<Vec<PathBuf>>,
    /// Whether what a task asks of CPU time is also the most that it gets (Mesos: `--cgroups_enable_cfs`), where it
    /// names no ceiling.
    pub cpu_hard_limits: bool,
    /// Disks, drivers of storage outside of the node.
    pub storage: StorageSettings,
    /// What is put into sandboxes before tasks start.
    pub fetch: FetchSettings,
    /// Tells one boot of the machine from another; recorded process numbers mean nothing after the next one.
    pub boot_id: PathBuf,
    /// Time between metric readings and log shipments.
    pub tick: Duration,
    /// Finished tasks whose sandboxes are kept at most; beyond that the oldest are removed, whatever their age.
    pub kept_sandboxes: usize,
    /// Checks of tasks that may be under way at the same moment; others wait for their turn. One that gets no answer is
    /// under way until its timeout.
    pub max_concurrent_checks: usize,
    /// Where images come from, and how many stay.
    pub images: ImageSettings,
    /// Which connections are remembered.
    pub flows: FlowLogConfig,
    /// Whose requests become spans.
    pub trace_requests: TraceRequests,
    /// Whether tasks may have a `traceparent` put into their requests; only those of whom requests are traced.
    pub trace_inject: TraceInject,
    /// What becomes of tasks' output.
    pub logs: LogSettings,
}

impl AgentConfig {
    /// With defaults: resources as detected, ports 31000-32000, DNS on 198.51.100.1:53 without upstreams,
    /// data plane when possible, the running executable's hidden `shim` command, a tick of 5 s.
    pub fn new(hostname: &str, ip: Ipv4Addr, masters: Vec<SocketAddr>, work_dir: &Path) -> Self {
        Self {
            hostname: hostname.to_owned(),
            ip,
            ip6: None,
            masters,
            cluster: "waggle".to_owned(),
            work_dir: work_dir.to_owned(),
            cgroup_root: None,
            pin_dir: PathBuf::from("/sys/fs/bpf/waggle"),
            dataplane: DataPlanePolicy::Prefer,
            network: true,
            dns: DnsSettings::default(),
            edge: None,
            packet_devices: BTreeSet::new(),
            encrypt: None,
            resources: ResourceOverrides::default(),
            attributes: BTreeMap::new(),
            domain: None,
            reconfiguration: Reconfiguration::default(),
            shim: ShimCommand::current_exe("shim"),
            exec_shim: ShimCommand::current_exe("exec-shim"),
            runtime: RuntimeSettings::default(),
            policy: NodePolicy::default(),
            networks: NetworkSettings::default(),
            overlay: true,
            gpu_devices: None,
            cpu_hard_limits: false,
            storage: StorageSettings::default(),
            fetch: FetchSettings::default(),
            boot_id: PathBuf::from("/proc/sys/kernel/random/boot_id"),
            tick: Duration::from_secs(5),
            kept_sandboxes: 10_000,
            max_concurrent_checks: 256,
            images: ImageSettings::default(),
            flows: FlowLogConfig::default(),
            trace_requests: TraceRequests::default(),
            trace_inject: TraceInject::default(),
            logs: LogSettings::default(),
        }
    }
}

/// The node's part in VIP traffic from outside of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeSettings {
    /// The device that such traffic comes and goes by.
    pub uplink: String,
    /// This node balances it, in this mode.
    pub edge: Option<EdgeMode>,
    /// Edges whose packets for tasks here are taken.
    pub edges: BTreeSet<Ipv4Addr>,
}

/// What to do about the kernel data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataPlanePolicy {
    /// Do not load it.
    Off,
    /// Load it; without it go on, degraded, and say so.
    Prefer,
    /// Load it or fail to start.
    Require,
}

/// The node's DNS server.
#[derive(Debug, Clone)]
pub struct DnsSettings {
    /// Addresses to listen on; they are put on a local device where they are missing.
    pub ips: Vec<IpAddr>,
    /// Port, UDP and TCP.
    pub port: u16,
    /// Where other names are asked, and what is kept.
    pub forward: ForwardConfig,
    /// Whether names of services follow health.
    pub health: HealthPolicy,
    /// Which names are the cluster's.
    pub scope: Scope,
    /// Log one of so many questions; 0 logs none.
    pub log_one_in: u64,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            ips: vec![Ipv4Addr::new(198, 51, 100, 1).into()],
            port: 53,
            forward: ForwardConfig::new(Vec::new()),
            health: HealthPolicy::default(),
            scope: Scope::default(),
            log_one_in: 0,
        }
    }
}

/// Resources to offer instead of the detected ones, and beside them. What is named here is not reserved, but for
/// `reserved`, which comes on top.
#[derive(Debug, Clone, Default)]
pub struct ResourceOverrides {
    /// CPUs.
    pub cpus: Option<Milli>,
    /// Memory in MiB.
    pub mem: Option<Milli>,
    /// Disk in MiB.
    pub disk: Option<Milli>,
    /// Whole GPUs; without devices ([`AgentConfig::gpu_devices`]) they are only counted.
    pub gpus: Option<Milli>,
    /// Host ports; default 31000-32000.
    pub ports: Option<PortSet>,
    /// Kinds of the cluster's own.
    pub custom: Custom,
    /// Reserved for a role each, each role once.
    pub reserved: Vec<(String, Resources)>,
}

/// How tasks with images are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// The OCI runtime, a path or a name to look up in `PATH`.
    pub program: PathBuf,
    /// Where seccomp profiles are: `<dir>/<name>.json`, as docker writes them. `None`: only the built-in one.
    pub seccomp_dir: Option<PathBuf>,
    /// First of the 65536 user and group ids of the host that tasks with a user namespace have.
    pub user_namespace_base: u32,
    /// Processes of a task whose spec has no ceiling of its own.
    pub pids: u32,
}

impl Default for RuntimeSettings {
    fn default() -> Self {
        Self {
            program: PathBuf::from("runc"),
            seccomp_dir: None,
            user_namespace_base: 0x4000_0000,
            pids: 4096,
        }
    }
}

/// What tasks of this node may ask for beyond the isolation that everybody has. The default lets nothing through
/// that gives power over the node, but for its network, which is what tasks without a network of their own have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePolicy {
    /// The node's network namespace.
    pub host_network: bool,
    /// All capabilities and devices, no seccomp, nothing masked.
    pub privileged: bool,
    /// The node's IPC namespace.
    pub host_ipc: bool,
    /// No seccomp profile.
    pub unconfined: bool,
    /// Capabilities beyond the default ones.
    pub capabilities: bool,
    /// Device nodes of the host.
    pub devices: bool,
    /// Directories of the host that may be mounted, with all below them.
    pub host_paths: Vec<PathBuf>,
}

impl Default for NodePolicy {
    fn default() -> Self {
        Self {
            host_network: true,
            privileged: false,
            host_ipc: false,
            unconfined: false,
            capabilities: false,
            devices: false,
            host_paths: Vec::new(),
        }
    }
}

/// The command that becomes a shim: `<exe> <args..> <task directory>` must call [`crate::shim_main`], and
/// `<exe> <args..>` of the other one [`crate::exec_shim_main`].
#[derive(Debug, Clone)]
pub struct ShimCommand {
    /// The program.
    pub exe: PathBuf,
    /// Arguments before the directory.
    pub args: Vec<OsString>,
}

impl ShimCommand {
    /// The running program with this hidden command.
    pub fn current_exe(command: &str) -> Self {
        Self {
            // An unreadable /proc shows when the first task is launched, with the path in the message.
            exe: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe")),
            args: vec![OsString::from(command)],
        }
    }
}

/// Sockets that are already bound.
#[derive(Debug)]
pub struct AgentListeners {
    /// The agent's HTTP API (default port 5051).
    pub http: TcpListener,
    /// Prometheus `GET /metrics` (default port 61091).
    pub metrics: TcpListener,
    /// OTLP of tasks, on an address that they reach (default port 61317); none where nothing of them is taken.
    pub otlp: Option<TcpListener>,
    /// statsd of tasks, likewise (default port 61318).
    pub statsd: Option<UdpSocket>,
    /// dcos-net's API about names, VIPs and nodes (default 127.0.0.1:62080); none where nobody is to ask.
    pub dns: Option<TcpListener>,
}
