//! Connections that have ended, as nodes remember them.

use serde::{Deserialize, Serialize};

/// A connection that has ended, or was not made, as one of its ends saw it. Where both ends are tasks, each end's node has one. Or
/// packets that a network policy dropped, or would: then this end is the task whose policies they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EndedFlow {
    /// When it ended, Unix microseconds.
    pub ended_us: u64,
    /// From the connect or the accept to the end, microseconds.
    pub duration_us: u64,
    /// Name of the node that saw it.
    pub node: String,
    /// `source` or `destination`: which end this is.
    pub observer: String,
    /// Who dialled: `<task>.<framework>`, else `node`, `loopback`, `private` or `public`.
    pub source: String,
    /// Who was dialled, likewise; empty where the VIP had no backend.
    pub destination: String,
    /// The task at this end; empty for other processes of the node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub task_id: String,
    /// App or pod of the task at this end.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// Name of the VIP that was dialled, with its port; known at the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<String>,
    /// Address and port of this end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// Address and port of the other end: a backend, where a VIP was dialled.
    pub peer: String,
    /// `tcp` or `udp`; of what was denied also `icmp` or IANA's number.
    pub protocol: String,
    /// `closed`, `reset`, `refused`, `failed` or `no_backend`; of policies `denied` or `audited`.
    pub verdict: String,
    /// Payload bytes sent and acknowledged.
    pub tx_bytes: u64,
    /// Payload bytes received.
    pub rx_bytes: u64,
    /// From the connect to the establishment, microseconds; 0 at the destination and where there was none.
    #[serde(default)]
    pub connect_us: u32,
    /// Smoothed round-trip time, microseconds.
    #[serde(default)]
    pub rtt_us: u32,
    /// Segments that were sent again.
    #[serde(default)]
    pub retransmits: u32,
    /// Why policies did not let it pass: `no_rule`, `no_state`, `no_flow`, `no_fragment` or `malformed`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The policies that select this end and speak of that direction, with commas.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policies: String,
    /// Packets that were denied alike since the last that was told.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub packets: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A line of a node's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FlowLine {
    /// A connection.
    Flow(Box<EndedFlow>),
    /// Something is missing here: the reader was too slow.
    Missed {
        /// How many looks of the node at what has ended; each may be any number of connections.
        missed: u64,
    },
}
