//! Agents as stored: who is known and in what mode, planned maintenance, who is gone for good.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use waggle_types::{AgentId, Millis, Unavailability, UnixMillis};

use super::{StoreOp, json, put};
use crate::view::AgentMode;

#[derive(Serialize, Deserialize)]
struct StoredAgent {
    hostname: String,
    ip: Ipv4Addr,
    #[serde(default, skip_serializing_if = "StoredMode::is_active")]
    mode: StoredMode,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
enum StoredMode {
    #[default]
    Active,
    Deactivated,
    Draining {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_grace_ms: Option<u64>,
        #[serde(default)]
        mark_gone: bool,
    },
    Drained,
}

impl StoredMode {
    fn is_active(&self) -> bool {
        matches!(self, Self::Active)
    }
}

#[derive(Serialize, Deserialize)]
struct StoredWindow {
    start_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
}

/// An agent that was known when the store was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownAgent {
    /// Its node name.
    pub hostname: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Whether operators let it take tasks.
    pub mode: AgentMode,
}

pub(in crate::core) fn put_agent(id: &AgentId, a: &KnownAgent) -> StoreOp {
    let mode = match a.mode {
        AgentMode::Active => StoredMode::Active,
        AgentMode::Deactivated => StoredMode::Deactivated,
        AgentMode::Draining {
            max_grace,
            mark_gone,
        } => StoredMode::Draining {
            max_grace_ms: max_grace.map(|g| g.0),
            mark_gone,
        },
        // One that is gone has a key of its own and none here.
        AgentMode::Drained | AgentMode::Gone => StoredMode::Drained,
    };
    let stored = StoredAgent {
        hostname: a.hostname.clone(),
        ip: a.ip,
        mode,
    };
    put(format!("agents/{id}"), json(&stored))
}

pub(super) fn read_agent(text: &str) -> Result<KnownAgent, String> {
    let a: StoredAgent = serde_json::from_str(text).map_err(|x| x.to_string())?;
    Ok(KnownAgent {
        hostname: a.hostname,
        ip: a.ip,
        mode: match a.mode {
            StoredMode::Active => AgentMode::Active,
            StoredMode::Deactivated => AgentMode::Deactivated,
            StoredMode::Draining {
                max_grace_ms,
                mark_gone,
            } => AgentMode::Draining {
                max_grace: max_grace_ms.map(Millis),
                mark_gone,
            },
            StoredMode::Drained => AgentMode::Drained,
        },
    })
}

pub(in crate::core) fn delete_agent(id: &AgentId) -> StoreOp {
    StoreOp::Delete {
        key: format!("agents/{id}"),
    }
}

pub(in crate::core) fn put_window(id: &AgentId, window: Option<Unavailability>) -> StoreOp {
    let key = format!("maintenance/{id}");
    let Some(w) = window else {
        return StoreOp::Delete { key };
    };
    let stored = StoredWindow {
        start_ms: w.start.0,
        duration_ms: w.duration.map(|d| d.0),
    };
    put(key, json(&stored))
}

pub(super) fn read_window(text: &str) -> Result<Unavailability, String> {
    let w: StoredWindow = serde_json::from_str(text).map_err(|x| x.to_string())?;
    Ok(Unavailability {
        start: UnixMillis(w.start_ms),
        duration: w.duration_ms.map(Millis),
    })
}

/// The value is when it was marked, so that the oldest can be forgotten first.
pub(in crate::core) fn put_gone(id: &AgentId, at: UnixMillis) -> StoreOp {
    put(format!("gone_agents/{id}"), at.0.to_string())
}

pub(super) fn read_gone(text: &str) -> Result<UnixMillis, String> {
    let at = text
        .parse()
        .map_err(|x: std::num::ParseIntError| x.to_string())?;
    Ok(UnixMillis(at))
}

pub(in crate::core) fn delete_gone(id: &AgentId) -> StoreOp {
    StoreOp::Delete {
        key: format!("gone_agents/{id}"),
    }
}
