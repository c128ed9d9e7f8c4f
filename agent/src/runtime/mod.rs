//! How tasks are run: as plain processes, or in containers made of an image by an OCI runtime.
//!
//! A runtime only says what a task's shim is to do, and removes what a task left behind. Everything that a
//! task is put together from (image, mounts, network) is [`crate::parts`]'s.

mod bundle;
mod capabilities;
mod filter;
mod find;
mod oci;
mod policy;
mod process;
mod seccomp;
mod shift;
mod spec;
mod users;
mod version;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr},
};

use waggle_types::{AgentId, TaskId, TaskSpec, TraceContext};

use crate::{
    AgentConfig, cgroup::TaskCgroup, checkpoint::TaskDir, logs::Limits, parts::Prepared,
    shim::ShimPlan,
};

pub use filter::Instruction;
pub use find::look;
pub use oci::Oci;
pub use policy::check;
pub use process::Process;
pub use shift::shift;
pub use spec::SANDBOX;
pub use users::{ImageUser, find as find_user, on_host};

/// A way to run tasks.
pub trait Runtime: Send + Sync {
    /// For people: `process`, `runc`.
    fn name(&self) -> &str;

    /// What the task's shim is to do. Writes what that takes into the task's directory. Blocking. The error is
    /// for people and names the field.
    fn plan(&self, task: &Contained<'_>) -> Result<ShimPlan, String>;

    /// Removes what is left of a task whose processes have ended, whoever was killed in the middle of what;
    /// a task that never was is fine. Blocking.
    fn release(&self, dir: &TaskDir) -> io::Result<()>;
}

/// All that a runtime is told about a task.
pub struct Contained<'a> {
    /// What to run.
    pub spec: &'a TaskSpec,
    /// Where its files are.
    pub dir: &'a TaskDir,
    /// Its cgroups, made and limited.
    pub cgroup: &'a TaskCgroup,
    /// The node.
    pub node: &'a NodeFacts,
    /// What was prepared for it.
    pub prepared: &'a Prepared,
    /// What is kept of its output.
    pub logs: Limits,
    /// The span that its own spans hang under.
    pub trace: Option<TraceContext>,
}

/// Ports of the node that its tasks are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ports {
    /// The agent's API.
    pub http: u16,
    /// Tasks' OTLP, if any is taken.
    pub otlp: Option<u16>,
    /// Their statsd, likewise.
    pub statsd: Option<u16>,
}

/// What tasks learn about their node.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// Its agent.
    pub agent_id: AgentId,
    /// Where its tasks' host ports are reached.
    pub ip: Ipv4Addr,
    /// Its ports there.
    pub ports: Ports,
    /// Its cluster.
    pub cluster: String,
    /// Its resolver, where it runs one.
    pub resolver: Vec<IpAddr>,
}

impl NodeFacts {
    /// Of a node with these settings.
    pub fn new(config: &AgentConfig, agent_id: AgentId, ports: Ports) -> Self {
        Self {
            ports,
            cluster: config.cluster.clone(),
            agent_id,
            ip: config.ip,
            resolver: if config.network {
                config.dns.ips.clone()
            } else {
                Vec::new()
            },
        }
    }
}

/// The runtimes of a node.
pub struct Runtimes {
    process: Process,
    // Or why there is none.
    oci: Result<Oci, String>,
}

impl Runtimes {
    /// Looks at what the node has. Blocking.
    pub fn open(config: &AgentConfig) -> Self {
        Self {
            process: Process,
            oci: Oci::open(config),
        }
    }

    /// The one for a task; the error says why this node can't run it.
    pub fn of(&self, spec: &TaskSpec) -> Result<&dyn Runtime, String> {
        if spec.container.image.is_none() {
            return Ok(&self.process);
        }
        match &self.oci {
            Ok(oci) => Ok(oci),
            Err(why) => Err(format!("container.image: {why}")),
        }
    }

    /// Removes what belongs to none of the tasks in `live`: after a restart. Blocking.
    pub fn keep(&self, live: &BTreeSet<TaskId>) -> io::Result<()> {
        self.oci.as_ref().map_or(Ok(()), |oci| oci.keep(live))
    }

    /// Why no task with an image can run, if so.
    pub fn trouble(&self) -> Option<&str> {
        self.oci.as_ref().err().map(String::as_str)
    }

    /// [`Runtime::release`] by whichever has something of the task.
    pub fn release(&self, dir: &TaskDir) -> io::Result<()> {
        let oci = self.oci.as_ref().map_or(Ok(()), |oci| oci.release(dir));
        oci.and(self.process.release(dir))
    }
}
