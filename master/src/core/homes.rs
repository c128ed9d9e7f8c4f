//! Resident instances and roles of the built-in framework, from the master's side: what is told after a restart, and
//! what is refused at the door.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use waggle_services::{Input, Place, check_change, home_of};
use waggle_types::{
    AgentId, FieldError, MAX_ROLES, Placement, ResourcePart, ServiceSpec, TaskId, UnixMillis,
};

use super::{MasterCore, SERVICE_FRAMEWORK, stored};

impl MasterCore {
    /// Tells level 2 of what is reserved for its resident instances.
    pub(super) fn restore_homes(&mut self, now: UnixMillis) {
        self.forget_wiped(None);
        let mut found = Vec::new();
        for (agent_id, parts) in &self.reservations.stored {
            for part in parts {
                let Some((id, service)) = home_of(&part.reservation) else {
                    continue;
                };
                let last = part.reservation.last();
                let Some(last) = last.filter(|r| r.principal == SERVICE_FRAMEWORK) else {
                    continue;
                };
                found.push(Input::FoundHome {
                    given_up: self.reservations.wiped.get(id) == Some(agent_id),
                    id: id.to_owned(),
                    service: service.to_owned(),
                    role: last.role.clone(),
                    reserved: part.resources.clone(),
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
        for home in found {
            self.schedule(home, now);
        }
    }

    /// Homes of these tasks, or instances, are to be given back, whatever becomes of this master.
    pub(super) fn note_wiped(&mut self, ids: &[TaskId]) {
        let mut ops = Vec::new();
        for task_id in ids {
            // An instance that is a pod is no task of its own.
            let agent = self.tasks.get(task_id).map(|t| t.agent_id().clone());
            let of_pod = || Some(self.scheduler.instance(task_id)?.place.agent_id.clone());
            let Some(agent) = agent.or_else(of_pod) else {
                continue;
            };
            let id = task_id.instance();
            if self.is_home(&agent, id) {
                ops.push(stored::put_wiped(id, &agent));
                self.reservations.wiped.insert(id.to_owned(), agent);
            }
        }
        self.persist_many(ops);
    }

    /// What was to be given back and is not there any more is done with: what is reserved of this agent has changed, or
    /// of any.
    pub(super) fn forget_wiped(&mut self, agent: Option<&AgentId>) {
        let mut wiped = std::mem::take(&mut self.reservations.wiped);
        let mut ops = Vec::new();
        wiped.retain(|id, on| {
            let keep = agent.is_some_and(|a| a != on) || self.is_home(on, id);
            if !keep {
                ops.push(stored::delete_wiped(id));
            }
            keep
        });
        self.reservations.wiped = wiped;
        self.persist_many(ops);
    }

    /// Tells level 2 which of the homes that were reserved on an agent are not any more.
    pub(super) fn tell_homes_gone(
        &mut self,
        agent: &AgentId,
        before: &[ResourcePart],
        now: UnixMillis,
    ) {
        let homes: BTreeSet<_> = before
            .iter()
            .filter_map(|p| home_of(&p.reservation))
            .collect();
        for (id, service) in homes {
            if !self.is_home(agent, id) {
                let gone = Input::HomeGone {
                    id: id.to_owned(),
                    service: service.to_owned(),
                    agent_id: agent.clone(),
                };
                self.schedule(gone, now);
            }
        }
    }

    /// Whether something is reserved on an agent for this instance.
    fn is_home(&self, agent: &AgentId, instance: &str) -> bool {
        let parts = self.reservations.stored.get(agent).into_iter().flatten();
        let mut homes = parts.filter_map(|p| home_of(&p.reservation));
        homes.any(|(id, _)| id == instance)
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
pub(super) fn not_yet(run: &ServiceSpec) -> Vec<FieldError> {
    let asked = [
        ("residency", run.residency.is_some()),
        ("role", run.role() != "*"),
        ("labels.WAGGLE_PLACE", run.placement != Placement::default()),
    ];
    let asked = asked.into_iter().filter(|(_, asked)| *asked);
    asked
        .map(|(field, _)| FieldError::new(field, "is not supported for jobs yet"))
        .collect()
}

/// What is wrong in what a definition says of homes, as far as that can be judged without a cluster.
pub(super) fn wrong_alone(spec: &ServiceSpec) -> Vec<FieldError> {
    let mut wrong = Vec::new();
    if spec.residency.is_some() && !spec.roles.takes_unreserved() {
        let rule =
            "must hold * where there are persistent volumes: what they need is reserved for them";
        let field = match spec.pod {
            None => "acceptedResourceRoles",
            Some(_) => "scheduling.placement.acceptedResourceRoles",
        };
        wrong.push(FieldError::new(field, rule));
    }
    wrong.extend(check_names(spec).err());
    wrong
}

/// Volumes of an instance are told apart by what their ids have of their paths.
fn check_names(spec: &ServiceSpec) -> Result<(), FieldError> {
    let field = match spec.pod {
        None => "container.volumes",
        Some(_) => "volumes",
    };
    let mut names = BTreeMap::new();
    for v in &spec.volumes {
        if let Some(other) = names.insert(v.name(), &v.target) {
            let rule = format!(
                "{other:?} and {:?} must differ in their first 48 characters by more than what is no letter or digit",
                v.target
            );
            return Err(FieldError::new(field, rule));
        }
    }
    Ok(())
}
