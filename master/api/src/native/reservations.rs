//! Whose resources are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use waggle_types::{Reservation, ResourcePart, check_role};

use super::ResourcesView;
use crate::{
    marathon::Number,
    read::{Errors, Obj},
};

/// One reservation of a stack.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StackEntry {
    /// For whom.
    pub role: String,
    /// Made at run time; a static one is the agent's own configuration.
    pub dynamic: bool,
    /// Who made it; empty when nobody said.
    pub principal: String,
    /// Free text.
    pub labels: BTreeMap<String, String>,
}

impl From<&Reservation> for StackEntry {
    fn from(r: &Reservation) -> Self {
        Self {
            role: r.role.clone(),
            dynamic: r.dynamic,
            principal: r.principal.clone(),
            labels: r.labels.clone(),
        }
    }
}

/// A stack, outermost role first.
pub fn stack(of: &[Reservation]) -> Vec<StackEntry> {
    of.iter().map(Into::into).collect()
}

/// A part of an agent, an offer or a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartView {
    /// Of which reservation; empty for unreserved resources.
    pub stack: Vec<StackEntry>,
    /// Lent from this reservation of another role: it may be taken back.
    pub revocable: bool,
    /// How much.
    pub resources: ResourcesView,
}

impl From<&ResourcePart> for PartView {
    fn from(p: &ResourcePart) -> Self {
        Self {
            stack: stack(&p.reservation),
            revocable: p.revocable,
            resources: (&p.resources).into(),
        }
    }
}

/// What one stack of reservations holds on one agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReservationView {
    /// Where.
    pub agent_id: String,
    /// Its node name.
    pub hostname: String,
    /// Whose, outermost role first.
    pub stack: Vec<StackEntry>,
    /// All of it, volumes included.
    pub resources: ResourcesView,
    /// Held by tasks of the role.
    pub used: ResourcesView,
    /// Out in offers to the role.
    pub offered: ResourcesView,
    /// Lent to other roles: held by their tasks or offered to them, until it is taken back.
    pub lent: ResourcesView,
    /// None of these.
    pub free: ResourcesView,
    /// Its persistent volumes, by id.
    pub volumes: Vec<VolumeUse>,
}

/// A persistent volume and who uses it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeUse {
    /// Unique on the agent.
    pub id: String,
    /// In MiB.
    pub size: Number,
    /// Several tasks may use it at once.
    pub shared: bool,
    /// Ids of tasks that use it.
    pub tasks: Vec<String>,
}

/// Reads a stack: at least one reservation, each of a valid role; whether one refines the one before is
/// judged by the master. Entries are dynamic unless they say `"dynamic": false`.
pub(super) fn read_stack(obj: &Obj<'_>, errs: &mut Errors) -> Vec<Reservation> {
    if obj.required("stack", errs).is_none() {
        return Vec::new();
    }
    let items = obj.list("stack", errs).unwrap_or_default();
    if items.is_empty() || items.len() > waggle_types::MAX_ROLE_DEPTH {
        let most = waggle_types::MAX_ROLE_DEPTH;
        let rule = format!("must be 1 to {most} reservations, is {}", items.len());
        errs.add(obj.path("stack"), rule);
        return Vec::new();
    }
    let one = |(i, v): (usize, &Value)| entry(format!("{}[{i}]", obj.path("stack")), v, errs);
    items.iter().enumerate().filter_map(one).collect()
}

fn entry(path: String, v: &Value, errs: &mut Errors) -> Option<Reservation> {
    let obj = Obj::of(path, v, errs)?;
    obj.only(&["role", "dynamic", "principal", "labels"], errs);
    obj.required("role", errs)?;
    let role = obj.string("role", errs)?;
    if let Err(e) = check_role(&role) {
        errs.add(obj.path("role"), e.rule);
    } else if role == "*" {
        errs.add(
            obj.path("role"),
            "must not be *: that is what is unreserved",
        );
    }
    Some(Reservation {
        role,
        dynamic: obj.boolean("dynamic", errs).unwrap_or(true),
        principal: obj.string("principal", errs).unwrap_or_default(),
        labels: obj.string_map("labels", errs).unwrap_or_default(),
    })
}
