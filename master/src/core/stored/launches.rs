//! Accepted launches that no agent has spoken of yet, as stored.

use serde::{Deserialize, Serialize};
use waggle_types::{AgentId, FrameworkId, TaskId};

use super::{StoreOp, json, put};

#[derive(Serialize, Deserialize)]
struct StoredLaunch {
    agent: String,
    framework: String,
}

/// A launch that was accepted and may not have reached its agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFlight {
    /// Where it was to run.
    pub agent_id: AgentId,
    /// Whose it is.
    pub framework_id: FrameworkId,
}

pub(in crate::core) fn put_launch(id: &TaskId, l: &InFlight) -> StoreOp {
    let stored = StoredLaunch {
        agent: l.agent_id.to_string(),
        framework: l.framework_id.to_string(),
    };
    put(format!("launches/{id}"), json(&stored))
}

pub(super) fn read_launch(text: &str) -> Result<InFlight, String> {
    let l: StoredLaunch = serde_json::from_str(text).map_err(|x| x.to_string())?;
    Ok(InFlight {
        agent_id: AgentId::new(l.agent).map_err(|x| x.to_string())?,
        framework_id: FrameworkId::new(l.framework).map_err(|x| x.to_string())?,
    })
}

pub(in crate::core) fn delete_launch(id: &TaskId) -> StoreOp {
    StoreOp::Delete {
        key: format!("launches/{id}"),
    }
}
