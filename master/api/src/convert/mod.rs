//! Protobuf messages to domain types and back.
//!
//! `TryFrom<proto::X> for types::X` validates and names the field and the rule; `From<&types::X> for
//! proto::X` cannot fail. Protocol sources: `master/api/proto/session.proto`
//! and `framework.proto`.
//!
//! # Invariants
//! - Total: any decoded message converts or gives a [`ConvertError`], never a panic.
//! - `decode(encode(x)) == x` for every valid domain value.
//! - An unknown status *reason* is dropped, since it is for people and a newer peer may know more;
//!   every other unknown enum value is an error.

mod container;
mod custom;
mod executor;
mod framework;
mod kinds;
mod launch;
mod net;
mod network;
mod offer;
mod operation;
mod reason;
mod reservation;
mod resources;
mod rings;
mod size;
mod subscription;
mod task;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use waggle_types::{IdError, RejectReason, StatusUuid, TraceContext};

pub use custom::{MAX_KINDS, MAX_RANGES, MAX_SET_ITEMS, MAX_VOLUMES};
pub use executor::{
    executor_at, executor_id, executor_key, executor_message, executor_message_to_wire,
    message_data,
};
pub use framework::{
    MAX_ITEMS, agent_id, event, framework_id, ids, resources, role, roles, scheduler_event,
    smallest, task_id,
};
pub use kinds::{AGENT_KINDS, MASTER_KINDS, agent_kind, master_kind};
pub use launch::{group, launches};
pub use network::{wireguard_key, wireguard_key_to_wire};
pub use offer::{inverse_offer, offer};
pub use operation::{MAX_OPERATIONS, operations};
pub use reason::reject_reason;
pub use reservation::{MAX_PARTS, MAX_STATIC};
pub use rings::{edge_rings, edge_rings_to_wire};
pub use size::{MAX_PIECES, MAX_SMALLEST, MAX_TASK, check_register};
pub use subscription::MAX_CONSTRAINTS;
pub use task::{evicted, health_state, registered_task, task_state};

/// A message that is well-formed protobuf and breaks a rule of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct ConvertError {
    /// Path of the field, as in the `.proto` file: `tasks[2].ports[0].host_port`.
    pub field: String,
    /// The rule in words.
    pub rule: String,
    /// How a framework is refused for it; `Invalid` unless it is one of the rules that have a reason of their own.
    pub reason: RejectReason,
}

impl ConvertError {
    /// Names a field and the rule that it breaks.
    pub fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            rule: rule.into(),
            reason: RejectReason::Invalid,
        }
    }

    /// The same error with a reason of its own.
    #[must_use]
    pub fn because(self, reason: RejectReason) -> Self {
        Self { reason, ..self }
    }

    /// The same error, seen from the message that holds this one in `field`.
    #[must_use]
    pub fn within(self, field: &str) -> Self {
        Self {
            field: format!("{field}.{}", self.field),
            ..self
        }
    }
}

/// Converts each item; an error names its position in `field`.
fn each<P, T>(
    field: &str,
    items: Vec<P>,
    convert: impl Fn(P) -> Result<T, ConvertError>,
) -> Result<Vec<T>, ConvertError> {
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| convert(item).map_err(|e| e.within(&format!("{field}[{i}]"))))
        .collect()
}

/// A repeated field or map that is bounded.
fn at_most(field: &str, len: usize, max: usize) -> Result<(), ConvertError> {
    if len > max {
        let rule = format!("must be at most {max}, is {len}");
        return Err(ConvertError::new(field, rule));
    }
    Ok(())
}

/// A message field that must be set.
fn required<P>(field: &str, value: Option<P>) -> Result<P, ConvertError> {
    value.ok_or_else(|| ConvertError::new(field, "is missing"))
}

/// A typed id.
fn id<T>(
    field: &str,
    value: String,
    new: impl Fn(String) -> Result<T, IdError>,
) -> Result<T, ConvertError> {
    new(value).map_err(|e| ConvertError::new(field, e.to_string()))
}

fn ip(field: &str, value: &str) -> Result<Ipv4Addr, ConvertError> {
    value
        .parse()
        .map_err(|_| ConvertError::new(field, format!("must be an IPv4 address, is {value:?}")))
}

/// Empty for none.
fn ip6(field: &str, value: &str) -> Result<Option<Ipv6Addr>, ConvertError> {
    if value.is_empty() {
        return Ok(None);
    }
    let wrong = |_| ConvertError::new(field, format!("must be an IPv6 address, is {value:?}"));
    value.parse().map(Some).map_err(wrong)
}

/// Empty is none.
fn ip_if_any(field: &str, value: &str) -> Result<Option<Ipv4Addr>, ConvertError> {
    match value {
        "" => Ok(None),
        _ => ip(field, value).map(Some),
    }
}

fn any_ip(field: &str, value: &str) -> Result<IpAddr, ConvertError> {
    value
        .parse()
        .map_err(|_| ConvertError::new(field, format!("must be an IP address, is {value:?}")))
}

fn port(field: &str, value: u32) -> Result<u16, ConvertError> {
    u16::try_from(value)
        .map_err(|_| ConvertError::new(field, format!("must be between 0 and 65535, is {value}")))
}

fn trace(field: &str, value: &str) -> Result<TraceContext, ConvertError> {
    value
        .parse()
        .map_err(|e| ConvertError::new(field, format!("{e}, is {value:?}")))
}

/// The identity of a status update from its 16 wire bytes; `field` names it in the error.
pub fn status_uuid(field: &str, bytes: &[u8]) -> Result<StatusUuid, ConvertError> {
    bytes
        .try_into()
        .map(StatusUuid)
        .map_err(|_| ConvertError::new(field, format!("must be 16 bytes, is {}", bytes.len())))
}
