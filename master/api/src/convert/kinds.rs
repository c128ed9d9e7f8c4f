//! What messages of a session are called where they are counted.

use crate::proto::session::{agent_message::Kind as OfAgent, master_message::Kind as OfMaster};

/// Kinds of an agent's messages.
pub const AGENT_KINDS: [&str; 8] = [
    "register",
    "heartbeat",
    "status",
    "applied",
    "net_ask",
    "edge_rings",
    "executor_message",
    "executor_ended",
];
/// Kinds of a master's.
pub const MASTER_KINDS: [&str; 12] = [
    "registered",
    "heartbeat",
    "launch",
    "kill",
    "ack",
    "desired",
    "refused",
    "volumes",
    "change",
    "edge_rings",
    "executor_message",
    "shutdown_executor",
];

/// Which of [`AGENT_KINDS`] a message is.
pub const fn agent_kind(kind: &OfAgent) -> usize {
    match kind {
        OfAgent::Register(_) => 0,
        OfAgent::Heartbeat(_) => 1,
        OfAgent::Status(_) => 2,
        OfAgent::Applied(_) => 3,
        OfAgent::NetAsk(_) => 4,
        OfAgent::EdgeRings(_) => 5,
        OfAgent::ExecutorMessage(_) => 6,
        OfAgent::ExecutorEnded(_) => 7,
    }
}

/// Which of [`MASTER_KINDS`] a message is.
pub const fn master_kind(kind: &OfMaster) -> usize {
    match kind {
        OfMaster::Registered(_) => 0,
        OfMaster::Heartbeat(_) => 1,
        OfMaster::Launch(_) => 2,
        OfMaster::Kill(_) => 3,
        OfMaster::Ack(_) => 4,
        OfMaster::Desired(_) => 5,
        OfMaster::Refused(_) => 6,
        OfMaster::Volumes(_) => 7,
        OfMaster::Change(_) => 8,
        OfMaster::EdgeRings(_) => 9,
        OfMaster::ExecutorMessage(_) => 10,
        OfMaster::ShutdownExecutor(_) => 11,
    }
}
