//! The argument grammar: plain data, no behavior.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Waggle: your apps and frameworks as they are, a data plane in the kernel, and traces of everything.
#[derive(Debug, Parser)]
#[command(
    name = "waggle",
    version,
    about,
    max_term_width = 120,
    propagate_version = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run this node (agent and master candidate), or list the cluster's nodes
    Node(NodeCommand),
    /// Run a master alone, for clusters with dedicated masters
    Master(RunArgs),
    /// Run an agent alone, without a master candidate
    Agent(RunArgs),
    /// Say whether this machine can run Waggle, and what is missing
    Doctor(DoctorArgs),
    /// Services: add, list, show, scale, restart, roll back, remove
    App(AppCommand),
    /// Tasks: list them, read their output
    Task(TaskCommand),
    /// Frameworks: who gets offers
    Framework(FrameworkCommand),
    /// Offers that are out
    Offer(OfferCommand),
    /// Roles and their shares
    Role(RoleCommand),
    /// Virtual IPs and their backends
    Vip(VipCommand),
    /// Ask a node's resolver
    Dns(DnsCommand),
    /// Say why something is not where it should be
    Explain(ExplainCommand),
    /// Print a completion script for a shell
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Supervise one task (started by the agent, never by hand)
    #[command(hide = true)]
    Shim {
        /// The task's directory.
        dir: PathBuf,
    },
}

/// `waggle node [list | flags]`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct NodeCommand {
    /// Without a subcommand the node itself runs.
    #[command(subcommand)]
    pub command: Option<NodeSub>,
    /// Flags of the node.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `waggle node ...`.
#[derive(Debug, Subcommand)]
pub enum NodeSub {
    /// List the cluster's nodes
    List(Output),
}

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
    /// OTLP/gRPC endpoint for metrics, logs and traces, with scheme [default: none]
    #[arg(long, value_name = "URL")]
    pub otlp: Option<String>,
    /// How often metrics and logs are collected, such as 5s or 500ms [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub tick: Option<String>,
    /// How long an agent may be silent before it is unreachable [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub agent_timeout: Option<String>,
    /// Resources instead of what is detected: `cpus:4;mem:8192;disk:10000;ports:[31000-32000]`
    #[arg(long)]
    pub resources: Option<String>,
    /// Attributes for constraints: `rack:a1;zone:eu`
    #[arg(long)]
    pub attributes: Option<String>,
    /// Addresses of this node's resolver; `none` runs no resolver [default: 198.51.100.1]
    #[arg(long, value_delimiter = ',', value_name = "IPV4")]
    pub dns: Vec<String>,
    /// Resolvers for other names, IP[:PORT] [default: those of /etc/resolv.conf]; `none` forwards nothing
    #[arg(long, value_delimiter = ',', value_name = "IP[:PORT]")]
    pub dns_upstreams: Vec<String>,
    /// Refuse to start without the eBPF data plane, instead of running without VIPs
    #[arg(long)]
    pub require_dataplane: bool,
    /// What to log: an env-filter such as debug or info,waggle_agent=debug [default:
    /// info,hickory_server=warn]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Log as JSON lines
    #[arg(long)]
    pub log_json: bool,
}

/// `--json` and where the cluster is.
#[derive(Debug, Args, Clone)]
pub struct Output {
    /// Print JSON for programs instead of a table
    #[arg(long, global = true)]
    pub json: bool,
    /// The master's API
    #[arg(
        long,
        value_name = "URL",
        env = "WAGGLE_MASTER",
        default_value = "http://127.0.0.1:5050",
        global = true
    )]
    pub master: String,
    /// The Marathon API
    #[arg(
        long,
        value_name = "URL",
        env = "WAGGLE_MARATHON",
        default_value = "http://127.0.0.1:8080",
        global = true
    )]
    pub marathon: String,
}

/// `waggle doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON for programs instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `waggle app ...`.
#[derive(Debug, Args)]
pub struct AppCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: AppSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with services.
#[derive(Debug, Subcommand)]
pub enum AppSub {
    /// Add a service from a Marathon app definition
    Add {
        /// JSON file, or - for standard input
        file: PathBuf,
        /// Return when the deployment is over instead of at once
        #[arg(long)]
        wait: bool,
        /// Give up waiting after this long
        #[arg(long, default_value = "300s", value_name = "DURATION")]
        timeout: String,
    },
    /// List services
    List,
    /// Show one service: its definition, tasks and deployments
    Show {
        /// Id, such as /shop/cart
        id: String,
    },
    /// Change the number of instances
    Scale {
        /// Id, such as /shop/cart
        id: String,
        /// How many instances
        instances: u32,
        /// Override a deployment that is running
        #[arg(long)]
        force: bool,
    },
    /// Replace all instances by fresh ones, as an upgrade would
    Restart {
        /// Id, such as /shop/cart
        id: String,
        /// Override a deployment that is running
        #[arg(long)]
        force: bool,
    },
    /// List the definitions that are kept, newest first, or print one
    Versions {
        /// Id, such as /shop/cart
        id: String,
        /// Print the definition of this version
        #[arg(id = "definition", value_name = "VERSION")]
        version: Option<String>,
    },
    /// Go back to an older definition
    Rollback {
        /// Id, such as /shop/cart
        id: String,
        /// Version, as `waggle app versions` lists them
        #[arg(id = "definition", value_name = "VERSION")]
        version: String,
        /// Override a deployment that is running
        #[arg(long)]
        force: bool,
    },
    /// Remove a service and its tasks
    Remove {
        /// Id, such as /shop/cart
        id: String,
        /// Override a deployment that is running
        #[arg(long)]
        force: bool,
    },
}

/// `waggle framework ...`.
#[derive(Debug, Args)]
pub struct FrameworkCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: FrameworkSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with frameworks.
#[derive(Debug, Subcommand)]
pub enum FrameworkSub {
    /// List frameworks with what they use and are offered
    List,
}

/// `waggle offer ...`.
#[derive(Debug, Args)]
pub struct OfferCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: OfferSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with offers.
#[derive(Debug, Subcommand)]
pub enum OfferSub {
    /// List offers that are out
    List,
}

/// `waggle role ...`.
#[derive(Debug, Args)]
pub struct RoleCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: RoleSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with roles.
#[derive(Debug, Subcommand)]
pub enum RoleSub {
    /// List roles that have frameworks, with their shares
    List,
}

/// `waggle explain ...`.
#[derive(Debug, Args)]
pub struct ExplainCommand {
    /// What to explain.
    #[command(subcommand)]
    pub command: ExplainSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to explain.
#[derive(Debug, Subcommand)]
pub enum ExplainSub {
    /// A service: what it waits for, which offers it refused and why, how it failed last
    App {
        /// Id, such as /shop/cart
        id: String,
    },
}

/// `waggle task ...`.
#[derive(Debug, Args)]
pub struct TaskCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: TaskSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with tasks.
#[derive(Debug, Subcommand)]
pub enum TaskSub {
    /// List tasks
    List {
        /// Only tasks of this service
        service: Option<String>,
    },
    /// Print a task's output
    Log {
        /// Task id, or a prefix that only one task has
        id: String,
        /// stderr instead of stdout
        #[arg(long)]
        stderr: bool,
        /// Only the last lines
        #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
        lines: usize,
        /// Go on as output comes, until the task ends or Ctrl-C
        #[arg(long, short)]
        follow: bool,
    },
}

/// `waggle vip ...`.
#[derive(Debug, Args)]
pub struct VipCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: VipSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with VIPs.
#[derive(Debug, Subcommand)]
pub enum VipSub {
    /// List VIPs with their backends, and why a backend gets no connections
    List,
}

/// `waggle dns ...`.
#[derive(Debug, Args)]
pub struct DnsCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: DnsSub,
}

/// What to ask of DNS.
#[derive(Debug, Subcommand)]
pub enum DnsSub {
    /// Ask for a name
    Query {
        /// The name, such as web.marathon.l4lb.thisdcos.directory
        name: String,
        /// Record type
        #[arg(long = "type", short = 't', default_value = "a", ignore_case = true)]
        record_type: RecordType,
        /// Resolver to ask, IP[:PORT]
        #[arg(long, default_value = "198.51.100.1", value_name = "IP[:PORT]")]
        server: String,
        /// Print JSON for programs
        #[arg(long)]
        json: bool,
    },
}

/// Record types that Waggle answers.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RecordType {
    /// IPv4 address
    A,
    /// IPv6 address
    Aaaa,
    /// Service: target and port
    Srv,
    /// Start of authority
    Soa,
    /// Name servers
    Ns,
    /// Text
    Txt,
    /// Name of an address
    Ptr,
}
