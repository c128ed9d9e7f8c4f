//! Sessions and what travels on them: in order within a session and direction, like TCP; a lost message
//! means that all after it are lost too, and that the session breaks.

use std::sync::Arc;

use waggle_master::core::{MasterMsg, Registration};
use waggle_types::{ExecutorEnd, Generation, NetSnapshot, TaskId, TaskStatus, UnixMillis};

use crate::link::FrameworkDelivery;

/// To the master.
#[derive(Debug, Clone)]
pub(crate) enum Up {
    Register(Box<Registration>),
    Heartbeat,
    Status(TaskStatus),
    Applied(Generation),
    ExecutorEnded(ExecutorEnd),
}

/// To an agent.
#[derive(Debug, Clone)]
pub(crate) enum Down {
    Msg(MasterMsg),
    Net(Arc<NetSnapshot>),
    /// The master closed the session.
    Closed,
}

/// Something that will happen.
#[derive(Debug, Clone)]
pub(crate) enum Delivery {
    ToMaster(u64, Up),
    ToAgent(u64, Down),
    /// The agent notices that its session is dead.
    AgentSees(u64),
    /// The master notices.
    MasterSees(u64),
    /// An agent's process tries to connect.
    Connect {
        agent: usize,
        life: u64,
    },
    /// It is time for a heartbeat.
    Heartbeat(u64),
    /// A shim starts the task's process.
    Spawn {
        agent: usize,
        life: u64,
        task: TaskId,
    },
    /// The process of a task ends.
    Exit {
        agent: usize,
        pid: u32,
        code: i32,
    },
    /// A health check is due.
    Probe {
        agent: usize,
        life: u64,
        task: TaskId,
        idx: usize,
    },
    /// The next fault, or client request.
    Fault,
    /// An agent's process comes (back) up.
    AgentUp(usize),
    /// The master's process comes back up.
    MasterUp,
    /// A partition ends.
    Heal(usize),
    /// Another machine takes the place of one that is gone for good.
    NewNode(usize),
    /// Of a framework.
    Framework(FrameworkDelivery),
}

/// One connection of one agent.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// Cut off: nothing that is sent from now on arrives.
    pub doomed: bool,
    /// The master accepted it.
    pub opened: bool,
    /// Arrival of the latest message, each way.
    pub last_up: UnixMillis,
    pub last_down: UnixMillis,
}
