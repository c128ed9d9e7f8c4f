//! VIPs and what is behind them.

use serde::{Deserialize, Serialize};

/// A VIP: one address, port and protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipView {
    /// DNS name of a named VIP; `null` for a literal one.
    pub name: Option<String>,
    /// Address.
    pub ip: String,
    /// Port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// How a backend is chosen: `random` or `least-connections`.
    #[serde(default)]
    pub policy: String,
    /// Seconds for which a client keeps its backend; 0 for none.
    #[serde(default)]
    pub affinity_s: u32,
    /// Which backends are preferred: `any`, `zone` or `node`.
    #[serde(default)]
    pub locality: String,
    /// Networks that may use it from outside, by an edge; none: everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Tasks behind it, eligible or not, by task id.
    pub backends: Vec<BackendView>,
}

/// A task behind a VIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendView {
    /// The task.
    pub task_id: String,
    /// Address of its agent.
    pub ip: String,
    /// Host port.
    pub port: u16,
    /// Whether new connections go to it.
    pub eligible: bool,
    /// Its share of them, in proportion to the others'.
    #[serde(default)]
    pub weight: u16,
    /// Why it is, or is not.
    pub reason: String,
}
