//! The agent: runs tasks, watches their health, keeps the node's data plane at what the master wants,
//! and tells the master and the telemetry pipeline what happens.
//!
//! Every task runs under a shim of its own ([`shim_main`]), in its own cgroup and sandbox directory.
//! Decisions are `waggle-lifecycle`'s; this crate carries them out.
//!
//! # Invariants
//! - A task's spec is durable before its process is started, its status before it is sent.
//! - An agent that ends, by whatever signal, takes no task with it; the next one adopts what runs and
//!   reports what ended, exactly once.
//! - A process is only signalled through a descriptor that was checked against its start time.
//! - What `exec` starts in a task ends with its client; nothing that a task puts into its sandbox leads a reader out of it.
//! - Without a master, or without a data plane, tasks run on and are health-checked; names and VIPs answer from
//!   the last desired state, also after a restart.
//!
//! # What it never does
//! It never decides what runs where, and never answers for another node's tasks.
#![deny(unsafe_code)]

mod backend_points;
mod cgroup;
mod checkpoint;
pub mod checks;
mod clock;
mod config;
mod crash;
mod dns_api;
mod dns_points;
mod doctor;
mod edge_points;
mod endings;
mod environment;
mod error;
mod exec;
mod executors;
mod fetch;
mod figures;
mod files;
#[cfg(test)]
mod fixture;
mod flow_log;
mod flows;
mod gpus;
mod http;
pub mod images;
mod kept;
mod launch;
mod logs;
mod meter;
mod nested;
mod net;
mod networks;
mod observe;
mod operator;
mod overlay_api;
mod parts;
mod peers;
mod receive;
mod reconfiguration;
mod recover;
mod requests;
mod resources;
mod run;
mod runtime;
mod scrape;
mod senders;
mod serve;
mod session;
mod shim;
mod spans_api;
mod statsd;
mod storage;
mod sys;
mod system;
mod tasks;
mod tidy;
mod traffic;
mod unpack;
mod watch_points;

pub use crate::{
    config::{
        AgentConfig, AgentListeners, DataPlanePolicy, DnsSettings, EdgeSettings, NodePolicy,
        ResourceOverrides, RuntimeSettings, ShimCommand,
    },
    doctor::doctor,
    error::AgentError,
    exec::exec_shim_main,
    fetch::FetchSettings,
    logs::{JournalSettings, LogSettings},
    net::can_encrypt,
    reconfiguration::Reconfiguration,
    run::run,
    shim::shim_main,
    storage::{
        StorageSettings,
        disks::{Disk, DiskKind},
    },
};
/// What settings of the node's DNS server are made of.
pub mod dns {
    pub use waggle_overlay::forward::{CacheConfig, ForwardConfig, Upstream};
    pub use waggle_overlay_plan::{
        DnsName,
        zone::{HealthPolicy, Scope, reverse_name},
    };
}
pub use crate::flow_log::FlowLogConfig;
/// Ended connections on disk, for who measures that.
pub mod flow_store {
    pub use crate::flow_log::{BadQuery, Extent, Filter, Query, Segments, each, read};
}
pub use crate::http::serve_metrics;
pub use crate::networks::{NetworkSettings, Subnet, SubnetError};
pub use crate::requests::{TraceInject, TraceRequests};
pub use waggle_ebpf::{Check, find_cgroup2_mount};
pub use waggle_overlay::edge::EdgeMode;
/// The telemetry that [`run`] takes, for who starts an agent.
pub use waggle_telemetry as telemetry;
