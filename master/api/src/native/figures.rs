//! What tasks use and how their connections do, as their nodes read it on each tick; and the same by service.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DenialView, Spread};

/// A node that was not heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentView {
    /// Node name.
    pub node: String,
    /// Why, for people.
    pub why: String,
}

/// A task at its newest reading. Rates are those of the time before it, which is from the reading before, or from the task's start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TaskFiguresView {
    /// Task id.
    pub task_id: String,
    /// As edges name it: `<task>.<framework>`.
    pub name: String,
    /// App or pod; empty where a framework of its own runs it.
    pub service: String,
    /// When it was read, Unix microseconds.
    pub at_us: u64,
    /// Length of the time that rates are of, in seconds.
    pub window_s: f64,
    /// CPUs that it used; `null` where its cgroup does not say.
    pub cpus: Option<f64>,
    /// Memory, the page cache included.
    pub memory_bytes: Option<u64>,
    /// Most memory that it may have.
    pub memory_limit_bytes: Option<u64>,
    /// Connections that it accepted, per second.
    pub accepts_per_s: f64,
    /// Connections that it made, per second.
    pub connects_per_s: f64,
    /// Connections that it could not make, per second.
    pub failures_per_s: f64,
    /// Bytes sent per second, all protocols.
    pub tx_per_s: f64,
    /// Bytes received per second.
    pub rx_per_s: f64,
    /// Open connections.
    pub open: Option<u64>,
    /// How long connects took in that time, counts by powers of two of microseconds.
    pub connect_us: Spread,
    /// Round-trip times in that time, likewise.
    pub rtt_us: Spread,
    /// Since its start: connections that it could not make.
    pub failures: u64,
    /// Since its start: segments sent again.
    pub retransmits: u64,
    /// Since its start: packets that the kernel dropped, by its reason.
    pub drops: BTreeMap<String, u64>,
    /// Since its start: ended for memory.
    pub oom_kills: u64,
    /// Since the agent's start: lines of its output that were beyond its rate.
    pub log_lines_dropped: u64,
}

/// All tasks of a node: `GET /waggle/v1/figures` of an agent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NodeFiguresView {
    /// Node name.
    pub node: String,
    /// Its tasks.
    pub tasks: Vec<TaskFiguresView>,
    /// Packets that policies were asked about on this node, by verdict, whosever they were.
    pub policy: BTreeMap<String, u64>,
}

/// A service now: a row of `GET /waggle/v1/top`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ServiceFiguresView {
    /// App's or pod's path; `<task>.<framework>` where a framework of its own runs it.
    pub service: String,
    /// `running`, `deploying`, `waiting` (fewer than wanted run), `unhealthy` or `suspended` (none is wanted).
    pub state: String,
    /// Instances wanted; `null` where a framework decides that.
    pub wanted: Option<u32>,
    /// Tasks that run.
    pub running: u32,
    /// Of these, those whose checks pass.
    pub healthy: u32,
    /// Of these, those whose checks fail.
    pub unhealthy: u32,
    /// Tasks whose figures are in the sums.
    pub measured: u32,
    /// CPUs that they use.
    pub cpus: f64,
    /// CPUs that they hold.
    pub cpus_held: f64,
    /// Memory that they use.
    pub memory_bytes: u64,
    /// Memory that they hold.
    pub memory_held_bytes: u64,
    /// Connections accepted per second.
    pub accepts_per_s: f64,
    /// Connections made per second.
    pub connects_per_s: f64,
    /// Connections that could not be made, per second.
    pub failures_per_s: f64,
    /// Bytes sent per second.
    pub tx_per_s: f64,
    /// Bytes received per second.
    pub rx_per_s: f64,
    /// Open connections.
    pub open: u64,
    /// How long connects took, counts by powers of two of microseconds.
    pub connect_us: Spread,
    /// Round-trip times, likewise.
    pub rtt_us: Spread,
    /// Packets that the kernel dropped since the tasks began.
    pub drops: u64,
}

impl ServiceFiguresView {
    /// A task's figures, too.
    pub fn add(&mut self, task: &TaskFiguresView) {
        self.measured += 1;
        self.cpus += task.cpus.unwrap_or(0.0);
        self.memory_bytes += task.memory_bytes.unwrap_or(0);
        self.accepts_per_s += task.accepts_per_s;
        self.connects_per_s += task.connects_per_s;
        self.failures_per_s += task.failures_per_s;
        self.tx_per_s += task.tx_per_s;
        self.rx_per_s += task.rx_per_s;
        self.open += task.open.unwrap_or(0);
        self.connect_us.merge(&task.connect_us);
        self.rtt_us.merge(&task.rtt_us);
        self.drops += task.drops.values().sum::<u64>();
    }
}

/// All services: `GET /waggle/v1/top` of a master.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TopView {
    /// By name.
    pub services: Vec<ServiceFiguresView>,
    /// Services that had no room.
    pub left_out: u64,
    /// Nodes that did not tell.
    pub silent: Vec<SilentView>,
}

/// What of a service's traffic was dropped or refused: `GET /waggle/v1/drops?service=` of a master.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DropsView {
    /// As edges name it; a pod has one for each of its containers.
    pub names: Vec<String>,
    /// From when on connections are counted, Unix microseconds; the kernel's drops are since each task's start.
    pub since_us: u64,
    /// Until when.
    pub until_us: u64,
    /// Tasks that were measured.
    pub tasks: u32,
    /// Packets that the kernel dropped, by its reason.
    pub kernel: BTreeMap<String, u64>,
    /// Connections that the service dialled or was dialled for, and that were not made or did not end well.
    pub connections: Vec<RefusedView>,
    /// Segments sent again since the tasks began.
    pub retransmits: u64,
    /// Lines of output beyond the tasks' rate.
    pub log_lines_dropped: u64,
    /// Ended for memory.
    pub oom_kills: u64,
    /// Packets that policies dropped on the nodes of its tasks since their agents' start, by verdict: whosever they were.
    pub denied: BTreeMap<String, u64>,
    /// What policies dropped of the service's traffic, or would: who was denied to whom, the most first.
    #[serde(default)]
    pub denials: Vec<DenialView>,
    /// Packets of others.
    #[serde(default)]
    pub denied_other: u64,
    /// Nodes that did not tell.
    pub silent: Vec<SilentView>,
}

/// Connections of one edge that ended one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedView {
    /// Who dialled.
    pub source: String,
    /// Which VIP.
    pub vip: Option<String>,
    /// Who was dialled.
    pub destination: String,
    /// `reset`, `refused`, `failed` or `no_backend`.
    pub verdict: String,
    /// How many.
    pub count: u64,
}
