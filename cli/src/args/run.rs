//! Flags of the commands that run a node.

use std::{net::IpAddr, path::PathBuf};

use clap::Args;

/// Flags of `waggle node`, `waggle master` and `waggle agent`. A flag wins over the file's key of the same name.
#[derive(Debug, Args, Default, Clone, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunArgs {
    /// TOML file with the same keys as these flags (`http-address` is `http_address` there)
    #[arg(long, value_name = "FILE", env = "WAGGLE_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Name of this node [default: the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Name of the cluster, on every signal [default: waggle]
    #[arg(long)]
    pub cluster: Option<String>,
    /// Address of this node on the underlay: where its tasks are reached [default: 127.0.0.1]
    #[arg(long, value_name = "IPV4")]
    pub ip: Option<String>,
    /// The same over IPv6, for VIPs over IPv6
    #[arg(long, value_name = "IPV6")]
    pub ip6: Option<String>,
    /// Masters, IP[:PORT] of their session listener, the first one leads [default: this node]
    #[arg(long, value_delimiter = ',', value_name = "IP[:PORT]")]
    pub masters: Vec<String>,
    /// Address for the plain HTTP and gRPC listeners; they bind loopback unless this is given
    #[arg(long, value_name = "IP")]
    pub http_address: Option<IpAddr>,
    /// Port of the Mesos-style master API [default: 5050]
    #[arg(long, value_name = "PORT")]
    pub master_port: Option<u16>,
    /// Port of the agent API [default: 5051]
    #[arg(long, value_name = "PORT")]
    pub agent_port: Option<u16>,
    /// Port of the agents' session [default: 5060]
    #[arg(long, value_name = "PORT")]
    pub session_port: Option<u16>,
    /// Port of the Marathon API [default: 8080]
    #[arg(long, value_name = "PORT")]
    pub marathon_port: Option<u16>,
    /// Port of the Prometheus page [default: 61091]
    #[arg(long, value_name = "PORT")]
    pub metrics_port: Option<u16>,
    /// State, sandboxes and checkpoints [default: /var/lib/waggle]
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    /// cgroup2 directory whose processes see VIPs, with the tasks below it [default: the cgroup2 root,
    /// so that every process of the node does]
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Where programs and maps are pinned [default: /sys/fs/bpf/waggle/<name>]
    #[arg(long, value_name = "DIR")]
    pub bpf_dir: Option<PathBuf>,
    /// OTLP endpoint for metrics, logs and traces, once or several times: URL[;protocol=grpc|http/protobuf|http/json][;header=NAME:VALUE]
    /// [;ca=FILE][;cert=FILE;key=FILE] [default: OTEL_EXPORTER_OTLP_ENDPOINT with its fellows, else none]
    #[arg(long, value_name = "URL[;OPTION..]")]
    #[serde(deserialize_with = "super::one_or_many")]
    pub otlp: Vec<String>,
    /// Where telemetry waits on disk for the endpoint; `none`: in memory alone [default: WORK_DIR/telemetry]
    #[arg(long, value_name = "DIR")]
    pub otlp_spool: Option<String>,
    /// Most of it in MiB; the oldest goes first [default: 256]
    #[arg(long, value_name = "MIB")]
    pub otlp_spool_size: Option<u64>,
    /// How long any of it waits, such as 6h [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub otlp_spool_age: Option<String>,
    /// Most MiB of ended connections that are kept for `waggle flows`; the oldest go first, 0 keeps none [default: 128]
    #[arg(long, value_name = "MIB")]
    pub flow_log_size: Option<u64>,
    /// How long they are kept, such as 6h [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub flow_log_age: Option<String>,
    /// Whose plain HTTP and gRPC requests become spans, without a word from them: `off`, `labelled` (tasks with the label
    /// WAGGLE_TRACE=requests) or `all` (tasks without WAGGLE_TRACE=none) [default: labelled]
    #[arg(long, value_name = "WHOSE")]
    pub trace_requests: Option<String>,
    /// Whether a `traceparent` is put into plain HTTP/1.1 requests of tasks with the label WAGGLE_TRACE=inject, which traces them,
    /// too: `off`, `labelled`, or `labelled-without-send-zc`, which puts up with io_uring's SEND_ZC being refused to them. A
    /// self-test of the kernel at the start may refuse it with a reason [default: off]
    #[arg(long, value_name = "WHOSE")]
    pub trace_inject: Option<String>,
    /// Port on the node's address at which its tasks' OTLP is taken, gRPC and HTTP, where there is an endpoint to pass it on
    /// to; `none` takes nothing [default: 61317]
    #[arg(long, value_name = "PORT")]
    pub task_otlp: Option<String>,
    /// UDP port on the node's address at which its tasks' statsd is taken, likewise; `none` takes nothing [default: 61318]
    #[arg(long, value_name = "PORT")]
    pub task_statsd: Option<String>,
    /// CPUs that this process may spend on telemetry before features of it are left off, one after the other: edges, requests,
    /// scrapes, metrics and spans of tasks, figures at every tick [default: 1]
    #[arg(long, value_name = "CPUS")]
    pub telemetry_cpu: Option<f64>,
    /// Memory in MiB that telemetry may hold before the same is done [default: 128]
    #[arg(long, value_name = "MIB")]
    pub telemetry_memory: Option<u64>,
    /// How often metrics and logs are collected, such as 5s or 500ms [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub tick: Option<String>,
    /// How long an agent may be silent before it is unreachable [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub agent_timeout: Option<String>,
    /// How long a framework may sit on an offer [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub offer_timeout: Option<String>,
    /// Most deployments that run at once; one more is refused [default: 100]
    #[arg(long, value_name = "N")]
    pub max_running_deployments: Option<usize>,
    /// Launches of services that may be under way at once, sent and not yet running [default: as many as offers hold]
    #[arg(long, value_name = "N")]
    pub launch_tokens: Option<u32>,
    /// A launch that is under way for longer does not count any more [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub launch_token_refresh_interval: Option<String>,
    /// Services ask for offers again at most this often; 0s: whenever something waits [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub min_revive_offers_interval: Option<String>,
    /// Most instances that are launched on one offer [default: 5]
    #[arg(long, value_name = "N")]
    pub max_instances_per_offer: Option<u32>,
    /// How long services do not want to see an offer again that was of no use [default: 120s]
    #[arg(long, value_name = "DURATION")]
    pub decline_offer_duration: Option<String>,
    /// An instance that is not running after this long is killed, and launched again [default: 300s]
    #[arg(long, value_name = "DURATION")]
    pub task_launch_timeout: Option<String>,
    /// Resources instead of what is detected, as Mesos writes them: `cpus:4;mem:8192;disk:10000;ports:[31000-32000]`.
    /// `cpus(prod):2` is reserved for role prod, on top of `cpus:4`; other kinds are the cluster's own:
    /// `licenses:3;vlans:[1-100];zones:{a,b}`. A kind that is named is not detected
    #[arg(long)]
    pub resources: Option<String>,
    /// Where the node stands: what is far apart, and what fails together
    #[arg(long, value_name = "REGION/ZONE")]
    pub domain: Option<String>,
    /// Attributes for constraints: `rack:a1;zone:eu`
    #[arg(long)]
    pub attributes: Option<String>,
    /// Addresses of this node's resolver; `none` runs no resolver [default: 198.51.100.1, .2, .3 and, where there is
    /// IPv6, fd01:d::c633:6401]
    #[arg(long, value_delimiter = ',', value_name = "IP")]
    pub dns: Vec<String>,
    /// Resolvers for other names, IP[:PORT], or tls://IP[:PORT]#NAME for DNS over TLS, two at once [default: those of
    /// /etc/resolv.conf]; `none` forwards nothing
    #[arg(long, value_delimiter = ',', value_name = "UPSTREAM")]
    pub dns_upstreams: Vec<String>,
    /// Resolvers for names below a suffix: `corp.example=10.0.0.53+10.0.0.54`; `=none` refuses such names
    #[arg(long, value_delimiter = ',', value_name = "SUFFIX=UPSTREAM[+UPSTREAM]")]
    pub dns_forward: Vec<String>,
    /// PEM file of who may sign for resolvers over TLS [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub dns_tls_roots: Option<PathBuf>,
    /// Answers of resolvers that are kept; 0 keeps none [default: 10000]
    #[arg(long, value_name = "N")]
    pub dns_cache: Option<usize>,
    /// How long after its time a kept answer may be given when no resolver answers (RFC 8767) [default: never]
    #[arg(long, value_name = "DURATION")]
    pub dns_stale: Option<String>,
    /// `aware`: names of services leave out tasks that fail their checks or are out of reach, unless none would
    /// remain; `ignore`: they hold every running task, as in DC/OS [default: aware]
    #[arg(long, value_name = "aware|ignore")]
    pub dns_health: Option<String>,
    /// The cluster's crypto id: `<zone>.<id>.dcos.directory` is `<zone>.thisdcos.directory`
    #[arg(long, value_name = "ID")]
    pub dns_crypto_id: Option<String>,
    /// Log one of so many DNS questions; 0 logs none [default: 0]
    #[arg(long, value_name = "N")]
    pub dns_log: Option<u64>,
    /// Port of dcos-net's API about names, on 127.0.0.1 [default: 62080]
    #[arg(long, value_name = "PORT")]
    pub dns_api_port: Option<u16>,
    /// Balance VIP traffic from outside that this device receives
    #[arg(long, value_name = "DEVICE")]
    pub edge: Option<String>,
    /// `native`: in the device's driver; `generic`: in the kernel, for drivers that can't [default: native]
    #[arg(long, value_name = "native|generic")]
    pub edge_mode: Option<String>,
    /// Edges whose VIP traffic for tasks of this node is taken
    #[arg(long, value_delimiter = ',', value_name = "IP")]
    pub edges: Vec<String>,
    /// Device that traffic of `--edges` comes and goes by [default: that of --edge]
    #[arg(long, value_name = "DEVICE")]
    pub uplink: Option<String>,
    /// Devices whose packets to and from VIPs are translated one by one, for what no socket of this node sends: veths of
    /// other network namespaces (their host side), the uplink. Not also a bridge that they are ports of
    #[arg(long, value_delimiter = ',', value_name = "DEVICE")]
    pub packet_vips: Vec<String>,
    /// How long sandboxes of ended tasks are kept while the disk has room; they go sooner the fuller it is [default: 168h]
    #[arg(long, value_name = "DURATION")]
    pub gc_delay: Option<String>,
    /// Most of a task's output that is kept, in MiB; its label WAGGLE_LOG_QUOTA_BYTES may say less [default: 40]
    #[arg(long, value_name = "MIB")]
    pub task_log_size: Option<u64>,
    /// How long a task's output is kept; its label WAGGLE_LOG_MAX_AGE_SECONDS may say less [default: as long as there is room]
    #[arg(long, value_name = "DURATION")]
    pub task_log_age: Option<String>,
    /// Most of all running tasks' output in MiB; beyond that the oldest goes [default: 16384]
    #[arg(long, value_name = "MIB")]
    pub node_log_size: Option<u64>,
    /// Units whose entries in systemd's journal are logged, too, with patterns as journalctl has them
    #[arg(long, value_delimiter = ',', value_name = "UNIT")]
    pub journal: Vec<String>,
    /// Kill tasks whose sandbox or volume is larger than what they asked for
    #[arg(long)]
    pub enforce_disk_quota: bool,
    /// Disks beside the work directory's, of which volumes named ID@NAME are made: NAME=path:DIR:MIB for a directory that
    /// volumes share, NAME=mount:DIR[:MIB] for a mount point that is one volume
    #[arg(long, value_delimiter = ',', value_name = "NAME=KIND:DIR[:MIB]")]
    pub disk: Vec<String>,
    /// Size of the cache of fetched files in MiB; 0 keeps none [default: 2048]
    #[arg(long, value_name = "MIB")]
    pub fetch_cache: Option<u64>,
    /// PEM file of who may sign for servers that files are fetched from, beside the system's
    #[arg(long, value_name = "FILE")]
    pub fetch_tls_roots: Option<PathBuf>,
    /// Drivers of storage outside of the node (CSI), by the name that tasks give: NAME=unix:///path/csi.sock
    #[arg(long, value_delimiter = ',', value_name = "NAME=unix:///PATH")]
    pub csi: Vec<String>,
    /// OCI runtime for tasks with images, a path or a name in PATH [default: runc]
    #[arg(long, value_name = "PATH")]
    pub runtime: Option<PathBuf>,
    /// What tasks may ask for: host-network, privileged, host-ipc, unconfined (no seccomp), capabilities (beyond the
    /// default ones), devices [default: host-network]
    #[arg(long, value_delimiter = ',', value_name = "WHAT")]
    pub allow: Vec<String>,
    /// What of the default they may not: host-network
    #[arg(long, value_delimiter = ',', value_name = "WHAT")]
    pub deny: Vec<String>,
    /// Directories of this node that tasks may mount, with all below them
    #[arg(long, value_delimiter = ',', value_name = "DIR")]
    pub allow_host_paths: Vec<PathBuf>,
    /// Bridge for tasks with network mode bridge, and name of the table in the packet filter [default: waggle0]
    #[arg(long, value_name = "DEVICE")]
    pub bridge: Option<String>,
    /// Addresses behind the bridge [default: 172.31.254.0/24]
    #[arg(long, value_name = "SUBNET")]
    pub bridge_subnet: Option<String>,
    /// Tasks of this node can't be on overlay networks
    #[arg(long)]
    pub no_overlay: bool,
    /// Overlay networks of a new cluster, later changed by `waggle network`: NAME=NET/BITS, where BITS is the length of each
    /// node's part; an IPv4 and an IPv6 one are joined by + [default: dcos=9.0.0.0/8/24,dcos6=fd01:b::/64/80]
    #[arg(long, value_delimiter = ',', value_name = "NAME=NET/BITS")]
    pub overlay_network: Vec<String>,
    /// VXLAN network identifier of overlay networks [default: 1024]
    #[arg(long, value_name = "VNI")]
    pub overlay_vni: Option<u32>,
    /// UDP port of overlay networks between nodes [default: 64000]
    #[arg(long, value_name = "PORT")]
    pub overlay_port: Option<u16>,
    /// Encrypt what overlay networks send between nodes with the kernel's WireGuard, and take nothing in clear; all nodes must,
    /// with the same UDP port [default port: 51820]
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "51820")]
    pub encrypt: Option<u16>,
    /// Addresses of nodes in overlay networks [default: 44.128.0.0/20]
    #[arg(long, value_name = "NET")]
    pub vtep_subnet: Option<String>,
    /// The same over IPv6 [default: fd01:a::/64]
    #[arg(long, value_name = "NET")]
    pub vtep_subnet6: Option<String>,
    /// What of this node may be other than when it ran before: `equal` (nothing), `additive` (it may have more resources and
    /// attributes) or `any`; a node that may not change refuses to start and says what differs [default: any]
    #[arg(long, value_name = "POLICY")]
    pub reconfiguration_policy: Option<String>,
    /// A task gets no more CPU time than it asks for, where it names no limit of its own
    #[arg(long)]
    pub cpu_hard_limits: bool,
    /// Device nodes of GPUs, instead of those that are found
    #[arg(long, value_delimiter = ',', value_name = "PATH")]
    pub gpu_devices: Vec<PathBuf>,
    /// Directory of seccomp profiles, NAME.json each, for tasks that name one
    #[arg(long, value_name = "DIR")]
    pub seccomp_profiles: Option<PathBuf>,
    /// Registries that images may come from, HOST[:PORT][/PREFIX] [default: any]
    #[arg(long, value_delimiter = ',', value_name = "REGISTRY")]
    pub registries: Vec<String>,
    /// Registries that are asked before another one: `docker.io=10.0.0.5:5000/hub`
    #[arg(long, value_delimiter = ',', value_name = "HOST=MIRROR")]
    pub registry_mirror: Vec<String>,
    /// Registries that are asked without TLS; passwords are sent to those on loopback alone
    #[arg(long, value_delimiter = ',', value_name = "HOST[:PORT]")]
    pub registry_plain_http: Vec<String>,
    /// Docker's config.json with passwords for registries; with a name for images that ask for these
    #[arg(long, value_delimiter = ',', value_name = "[NAME=]FILE")]
    pub registry_auth: Vec<String>,
    /// PEM file of who may sign for registries, beside the system's
    #[arg(long, value_name = "FILE")]
    pub registry_tls_roots: Option<PathBuf>,
    /// Size of the node's images above which those without tasks go, such as 20GiB [default: 20GiB]
    #[arg(long, value_name = "SIZE")]
    pub image_store_size: Option<String>,
    /// Time without use after which an image without tasks goes [default: 14d]
    #[arg(long, value_name = "DURATION")]
    pub image_max_age: Option<String>,
    /// Refuse to start without the eBPF data plane, instead of running without VIPs
    #[arg(long)]
    pub require_dataplane: bool,
    /// What to log: an env-filter such as debug or info,waggle_agent=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Log as JSON lines
    #[arg(long)]
    pub log_json: bool,
}
