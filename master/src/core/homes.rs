//! Resident instances and roles of the built-in framework, from the master's side: what is told after a restart, and
//! what is refused at the door.

use std::{collections::BTreeMap, net::Ipv4Addr};

use waggle_services::{Input, Place, check_change, home_of};
use waggle_types::{
    AgentId, FieldError, MAX_ROLES, Placement, ResourcePart, ServiceSpec, TaskId, UnixMillis,
};

use super::{MasterCore, SERVICE_FRAMEWORK, stored};

impl MasterCore {
    /// Tells level 2 of what is reserved for its resident instances.
    pub(super) fn restore_homes(&mut self, now: UnixMillis) {
        let mut found = Vec::new();
        let mut wiped = std::mem::take(&mut self.reservations.wiped);
        for (agent_id, parts) in &self.reservations.stored {
            for part in parts {
                let Some((id, service)) = home_of(&part.reservation) else {
                    continue;
                };
                let last = part.reservation.last();
                let Some(last) = last.filter(|r| r.principal == SERVICE_FRAMEWORK) else {
                    continue;
                };
                let given_up = wiped.get(id) == Some(agent_id);
                if given_up && let Some(agent) = wiped.remove(id) {
                    self.reservations.wiped.insert(id.to_owned(), agent);
                }
                found.push(Input::FoundHome {
                    given_up,
                    id: id.to_owned(),
                    service: service.to_owned(),
                    role: last.role.clone(),
                    // The agent has not registered yet; offers tell the rest.
                    place: Place {
                        agent_id: agent_id.clone(),
                        hostname: String::new(),
                        ip: Ipv4Addr::UNSPECIFIED,
                        attributes: BTreeMap::new(),
                        domain: None,
                    },
                });
            }
        }
        // What is not there any more needs not be given back.
        self.persist_many(wiped.keys().map(|id| stored::delete_wiped(id)).collect());
        for home in found {
            self.schedule(home, now);
        }
    }

    /// Homes of these tasks are to be given back, whatever becomes of this master.
    pub(super) fn note_wiped(&mut self, ids: &[TaskId]) {
        let mut ops = Vec::new();
        for task_id in ids {
            let Some(agent) = self.tasks.get(task_id).map(|t| t.agent_id().clone()) else {
                continue;
            };
            let id = task_id.instance();
            let of = self.reservations.stored.get(&agent);
            let is_it = |p: &ResourcePart| home_of(&p.reservation).is_some_and(|(i, _)| i == id);
            if of.is_some_and(|parts| parts.iter().any(is_it)) {
                ops.push(stored::put_wiped(id, &agent));
                self.reservations.wiped.insert(id.to_owned(), agent);
            }
        }
        self.persist_many(ops);
    }

    /// What is reserved of an agent has changed: what was to be given back and is not there any more is done with.
    pub(super) fn forget_wiped(&mut self, agent: &AgentId) {
        let parts = self.reservations.stored.get(agent);
        let parts = parts.map_or(&[][..], Vec::as_slice);
        let there = |id: &str| {
            let mut homes = parts.iter().filter_map(|p| home_of(&p.reservation));
            homes.any(|(i, _)| i == id)
        };
        let mut ops = Vec::new();
        self.reservations.wiped.retain(|id, on| {
            let keep = on != agent || there(id);
            if !keep {
                ops.push(stored::delete_wiped(id));
            }
            keep
        });
        self.persist_many(ops);
    }

    /// What a definition says of roles and homes against what can be done.
    pub(super) fn check_homes(&self, spec: &ServiceSpec) -> Result<(), FieldError> {
        let roles = self.scheduler.roles();
        if roles.len() >= MAX_ROLES && !roles.contains(spec.role()) {
            let rule = format!("services have run for {MAX_ROLES} roles since the master started");
            return Err(FieldError::new("role", rule));
        }
        match self.services.get(&spec.id) {
            Some(old) => check_change(old, spec),
            None => Ok(()),
        }
    }
}

/// What services may say and jobs do not do.
pub(super) fn not_yet(run: &ServiceSpec) -> Result<(), FieldError> {
    let asked = [
        ("residency", run.residency.is_some()),
        ("secrets", !run.secrets.is_empty()),
        ("role", run.role() != "*"),
        ("labels.WAGGLE_PLACE", run.placement != Placement::default()),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(FieldError::new(field, "is not supported for jobs yet")),
        None => Ok(()),
    }
}

/// What a definition says of homes and secrets, as far as that can be judged without a cluster.
pub(super) fn check_alone(spec: &ServiceSpec) -> Result<(), FieldError> {
    if spec.residency.is_some() && !spec.roles.takes_unreserved() {
        let rule = "must hold * for apps with persistent volumes: they reserve for themselves";
        return Err(FieldError::new("acceptedResourceRoles", rule));
    }
    if !spec.secrets.is_empty() {
        return Err(FieldError::new("secrets", "no node resolves secrets yet"));
    }
    Ok(())
}
