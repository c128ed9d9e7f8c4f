//! What a node sees of the overlay when it looks, for `waggle network doctor`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /waggle/v1/overlay/check` of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayCheckView {
    /// Its underlay address.
    pub ip: String,
    /// Whether it takes part in overlay networks at all.
    pub takes_part: bool,
    /// What it sends from in the overlay; `null` while it has none.
    pub endpoint: Option<String>,
    /// Why no container can be on a network here; `null` while all can.
    pub trouble: Option<String>,
    /// Longest packet that containers here may send, bytes.
    pub mtu: u16,
    /// Whether it encrypts what it sends to other nodes, and takes nothing from them in clear.
    #[serde(default)]
    pub encrypts: bool,
    /// Every other node that it knows.
    pub peers: Vec<PeerCheckView>,
    /// Packets that were dropped since the node's programs were loaded first, by reason; those of policies with `policy_` before.
    /// Reasons that no packet had are not there.
    pub drops: BTreeMap<String, u64>,
}

/// What came of asking another node's endpoint, by the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCheckView {
    /// The other's underlay address.
    pub ip: String,
    /// Who was asked.
    pub endpoint: String,
    /// How long a short packet took there and back, microseconds; `null`: no answer came.
    pub rtt_us: Option<u64>,
    /// Whether a packet of `mtu` bytes that may not be fragmented came back.
    pub whole: bool,
    /// Whether what is sent there is encrypted.
    #[serde(default)]
    pub encrypted: bool,
    /// Why nothing is sent there, where this node encrypts and the other can't be encrypted for; `null`: something is.
    #[serde(default)]
    pub no_way: Option<String>,
}
