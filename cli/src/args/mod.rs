//! The argument grammar: plain data, no behavior.

mod app;
mod canary;
mod exec;
mod explain;
mod flows;
mod framework;
mod group;
mod image;
mod job;
mod logs;
mod maintenance;
mod net;
mod network;
mod node;
mod pod;
mod policy;
mod reservation;
mod role;
mod run;
mod seen;
mod task;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use app::{AppCommand, AppSub};
pub use canary::{CanaryCommand, CanarySub};
pub use exec::{AttachCommand, ExecCommand, Reach};
pub use explain::{ExplainCommand, ExplainSub};
pub use flows::FlowsCommand;
pub use framework::{FrameworkCommand, FrameworkSub, OfferCommand, OfferSub};
pub use group::{DeploymentCommand, DeploymentSub, GroupCommand, GroupSub, Wait};
pub use image::{ImageCommand, ImageSub};
pub use job::{JobCommand, JobSub, ScheduleSub};
pub use logs::{LogsCommand, QueueCommand, QueueSub, Schema, SchemaCommand, VersionCommand};
pub use maintenance::{MaintenanceCommand, MaintenanceSub};
pub use net::{DnsApi, DnsCommand, DnsSub, RecordType, VipCommand, VipSub};
pub use network::{NetworkCommand, NetworkSub};
pub use node::{NodeCommand, NodeSub, OneNode};
pub use pod::{PodCommand, PodSub};
pub use policy::{PolicyCommand, PolicySub};
pub use reservation::{
    ReservationCommand, ReservationSub, Reserved, SnapshotOf, VolumeCommand, VolumeSub,
};
pub use role::{QuotaCommand, QuotaSub, RoleCommand, RoleSub, WeightCommand, WeightSub};
pub use run::RunArgs;
pub use seen::{DropsCommand, MapCommand, SortBy, TopCommand, TraceCommand};
pub use task::{TaskCommand, TaskSub};

/// Waggle: your apps and frameworks as they are, a data plane in the kernel, and traces of everything.
#[derive(Debug, Parser)]
#[command(
    name = "waggle",
    version,
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
    /// Run this node (agent and master candidate); list, drain and deactivate the cluster's nodes
    Node(NodeCommand),
    /// Run a master alone, for clusters with dedicated masters
    Master(RunArgs),
    /// Run an agent alone, without a master candidate
    Agent(RunArgs),
    /// Say whether this machine can run Waggle, and what is missing
    Doctor(DoctorArgs),
    /// Services: add, update, compare, check, list, show, scale, restart, roll back, remove
    App(AppCommand),
    /// Pods: services of several containers that share a node, network and volumes
    Pod(PodCommand),
    /// Groups of services: add, change, scale, roll back, remove all of them at once
    Group(GroupCommand),
    /// Changes that are under way: how far they are, and the way back
    Deployment(DeploymentCommand),
    /// Jobs: run now or by schedules, look at their history
    Job(JobCommand),
    /// The output of all instances of a service, as it comes
    Logs(LogsCommand),
    /// Connections that have ended, of all nodes: who with whom, by which VIP, how, how much
    Flows(FlowsCommand),
    /// Who speaks with whom: services, VIPs, rates, errors, latency; as a table, JSON or a graph
    Map(MapCommand),
    /// Services now: what they use, how their connections do
    Top(TopCommand),
    /// What of a service's traffic is dropped or refused, why, and what would help
    Drops(DropsCommand),
    /// What a deployment or a task went through, on all nodes, step by step with durations
    Trace(TraceCommand),
    /// Services that wait to be launched, and why
    Queue(QueueCommand),
    /// Tasks: list them, read their output and files
    Task(TaskCommand),
    /// Run a command in a task: its environment, limits and user
    Exec(ExecCommand),
    /// Show a task's output as it comes, and type to it where it has a terminal
    Attach(AttachCommand),
    /// Frameworks: who gets offers; end one
    Framework(FrameworkCommand),
    /// Offers that are out
    Offer(OfferCommand),
    /// Roles with their weights, shares and quotas
    Role(RoleCommand),
    /// Quotas: what roles are promised and at most get
    Quota(QuotaCommand),
    /// Weights: how much of the cluster is a role's fair share
    Weight(WeightCommand),
    /// Resources of nodes that are kept for roles
    Reservation(ReservationCommand),
    /// Persistent volumes on reserved disk
    Volume(VolumeCommand),
    /// Images of this node: pull, list, load, prune
    Image(ImageCommand),
    /// Planned downtime of nodes
    Maintenance(MaintenanceCommand),
    /// Overlay networks: list, add, remove
    Network(NetworkCommand),
    /// Virtual IPs and their backends
    Vip(VipCommand),
    /// Network policies: who may speak with whom
    Policy(PolicyCommand),
    /// Ask a node's resolver
    Dns(DnsCommand),
    /// Say why something is not where it should be, or is offered nothing
    Explain(ExplainCommand),
    /// Print the JSON Schema of definitions, for editors and checks
    Schema(SchemaCommand),
    /// Versions of this program and of the cluster
    Version(VersionCommand),
    /// Print a completion script for a shell
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Supervise one command in a task (started by the agent, never by hand)
    #[command(hide = true)]
    ExecShim,
    /// Supervise one task (started by the agent, never by hand)
    #[command(hide = true)]
    Shim {
        /// The task's directory.
        dir: PathBuf,
    },
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

/// One text, or a list of them: a field of the configuration that once was a single text.
fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match serde::Deserialize::deserialize(from)? {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(list) => list,
    })
}
