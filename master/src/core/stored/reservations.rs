//! What is reserved of agents at run time, as stored.

use serde::{Deserialize, Serialize};
use waggle_types::{AgentId, ResourcePart};

use super::{StoreOp, json, put, resources::StoredPart};

#[derive(Serialize, Deserialize)]
struct StoredReservations {
    parts: Vec<StoredPart>,
}

/// The value of an agent's reservations.
pub(in crate::core) fn reservations_value(parts: &[ResourcePart]) -> Vec<u8> {
    json(&StoredReservations {
        parts: parts.iter().map(Into::into).collect(),
    })
}

/// No reservations are stored as nothing.
pub(in crate::core) fn put_reservations(id: &AgentId, parts: &[ResourcePart]) -> StoreOp {
    let key = format!("reservations/{id}");
    if parts.is_empty() {
        return StoreOp::Delete { key };
    }
    put(key, reservations_value(parts))
}

pub(super) fn read_reservations(text: &str) -> Result<Vec<ResourcePart>, String> {
    let s: StoredReservations = serde_json::from_str(text).map_err(|x| x.to_string())?;
    s.parts.into_iter().map(TryInto::try_into).collect()
}

/// A home that is to be given back, until it is.
pub(in crate::core) fn put_wiped(id: &str, on: &AgentId) -> StoreOp {
    put(format!("wiped/{id}"), on.as_str())
}

pub(in crate::core) fn delete_wiped(id: &str) -> StoreOp {
    StoreOp::Delete {
        key: format!("wiped/{id}"),
    }
}
