//! What is reserved of agents: the agents' own word, and what was reserved at run time, which is stored.
//!
//! An agent comes with what it has and what it reserves statically; the store knows what was reserved, and
//! which volumes were made, since. When both no longer fit into what the agent has, tasks keep what they
//! use, then volumes and dynamic reservations stay as far as they fit, then static ones; the rest gives
//! way. What gives way stays stored: it is back as soon as there is room.

use std::collections::BTreeMap;

use waggle_allocator::Usage;
use waggle_types::{
    AgentId, AgentInfo, CallRejection, Custom, RejectReason, Reservation, ResourcePart, Resources,
    TaskId, UnixMillis, VolumeId, check_role, sum_parts,
};

use super::{
    MasterCore, MasterMsg, Measure, executors,
    frameworks::no,
    settle::{Holder, Who, flat, merged, settle},
    stored,
    tasks::Task,
};
use crate::store::MAX_VALUE_BYTES;

/// Longest principal, and longest name or value of a label, in bytes.
const MAX_TEXT: usize = 1024;

/// What the core keeps of reservations; the books are level 1's.
#[derive(Debug, Clone, Default)]
pub(super) struct Reserved {
    /// As stored: what was reserved at run time, and volumes, by agent.
    pub(super) stored: BTreeMap<AgentId, Vec<ResourcePart>>,
    /// What has no room on its agent.
    pub(super) given_way: BTreeMap<AgentId, Vec<ResourcePart>>,
    /// Homes of resident instances that somebody wanted to be given back, until they are: which, and where.
    pub(super) wiped: BTreeMap<String, AgentId>,
    /// What is booked for tasks where that is not what they were given.
    booked: BTreeMap<TaskId, Vec<ResourcePart>>,
}

impl Reserved {
    pub(super) fn restored(
        stored: BTreeMap<AgentId, Vec<ResourcePart>>,
        wiped: BTreeMap<String, AgentId>,
    ) -> Self {
        Self {
            stored,
            wiped,
            ..Self::default()
        }
    }
}

/// A task's role as level 1 takes it: an agent may say anything.
pub(super) fn known_role(role: &str) -> String {
    if check_role(role).is_ok() {
        role.to_owned()
    } else {
        String::new()
    }
}

impl MasterCore {
    /// What a task was given, by reservation; all plain when its parts are not what it holds.
    pub(super) fn given(t: &Task) -> Vec<ResourcePart> {
        let resources = t.resources();
        if t.spec.parts.is_empty() || sum_parts(&t.spec.parts).as_ref() != Some(&resources) {
            return vec![ResourcePart::plain(flat(&resources))];
        }
        t.spec.parts.clone()
    }

    /// What is booked for a task.
    pub(super) fn booked(&self, t: &Task) -> Vec<ResourcePart> {
        let other = self.reservations.booked.get(&t.id);
        other.cloned().unwrap_or_else(|| Self::given(t))
    }

    /// A task ended: nothing is booked for it any more.
    pub(super) fn forget_booked(&mut self, id: &TaskId) {
        self.reservations.booked.remove(id);
    }

    /// Settles what an agent has among its tasks and its reservations; answers what to tell level 1.
    pub(super) fn settle_agent(
        &mut self,
        info: &AgentInfo,
    ) -> (Vec<(Vec<Reservation>, Resources)>, Vec<Usage>) {
        let id = &info.agent_id;
        let holders: Vec<Holder> = self
            .tasks
            .of_agent(id)
            .map(|t| Holder {
                who: Who::Task(t.id.clone()),
                framework_id: t.spec.framework_id.clone(),
                role: known_role(&t.spec.role),
                parts: Self::given(t),
            })
            .chain(self.executors.of_agent(id).map(|e| Holder {
                who: Who::Executor(e.key()),
                framework_id: e.framework_id.clone(),
                role: known_role(&e.role),
                parts: executors::given(e),
            }))
            .collect();
        let none = Vec::new();
        let wish = self.reservations.stored.get(id).unwrap_or(&none);
        let mut settled = settle(info, wish, &holders);
        let mut used = Vec::new();
        for h in holders {
            let other = settled.booked.remove(&h.who);
            match &h.who {
                Who::Executor(key) => self.executors.book(id, key, other.clone()),
                Who::Task(task) => {
                    let booked = &mut self.reservations.booked;
                    match &other {
                        Some(parts) => booked.insert(task.clone(), parts.clone()),
                        None => booked.remove(task),
                    };
                }
            }
            let parts = other.unwrap_or(h.parts);
            used.extend(parts.into_iter().map(|p| Usage {
                framework_id: h.framework_id.clone(),
                role: h.role.clone(),
                reservation: p.reservation,
                revocable: p.revocable,
                resources: p.resources,
            }));
        }
        self.tell_given_way(id, settled.given_way);
        (settled.reserved, used)
    }

    fn tell_given_way(&mut self, id: &AgentId, given_way: Vec<ResourcePart>) {
        if given_way.is_empty() {
            self.reservations.given_way.remove(id);
            return;
        }
        if self.reservations.given_way.get(id) == Some(&given_way) {
            return;
        }
        for part in &given_way {
            let role = part.reservation.last().map_or("", |r| r.role.as_str());
            tracing::warn!(agent = %id, role, resources = %part.resources, "a reservation has no room");
            self.reject("reservation_without_room");
            self.measure(Measure::ReservationFailed {
                role: role.to_owned(),
            });
            self.measure(Measure::Event {
                name: "waggle.reservation.given_way",
                attrs: vec![
                    ("waggle.agent.id", id.to_string()),
                    ("waggle.role", role.to_owned()),
                    ("waggle.resources", part.resources.to_string()),
                ],
                trace: None,
            });
        }
        self.reservations.given_way.insert(id.clone(), given_way);
    }

    /// What is reserved of an agent at run time by level 1's books, volumes with it, and what gave way.
    fn run_time_parts(&self, id: &AgentId) -> Vec<ResourcePart> {
        let mut out = Vec::new();
        for (stack, resources) in self.allocator.reserved(id) {
            let dynamic = stack.iter().any(|r| r.dynamic);
            let resources = if dynamic {
                resources
            } else {
                let mut volumes = Custom::default();
                for (id, v) in resources.custom.volumes() {
                    volumes.set_volume(id.clone(), v);
                }
                Resources {
                    custom: volumes,
                    ..Resources::default()
                }
            };
            out.push(ResourcePart {
                reservation: stack,
                revocable: false,
                resources,
            });
        }
        let given_way = self.reservations.given_way.get(id).into_iter().flatten();
        let own = |p: &&ResourcePart| {
            p.reservation.iter().any(|r| r.dynamic) || p.resources.custom.volumes().next().is_some()
        };
        out.extend(given_way.filter(own).cloned());
        let mut out = merged(out);
        out.retain(|p| !p.resources.is_empty());
        out.sort();
        out
    }

    /// The volumes of an agent as stored: those without room too, since they come back.
    fn stored_volumes(&self, id: &AgentId) -> Vec<VolumeId> {
        let parts = self.reservations.stored.get(id).into_iter().flatten();
        let volumes = parts.flat_map(|p| p.resources.custom.volumes());
        volumes.map(|(id, _)| id.clone()).collect()
    }

    /// Tells an agent that registered which volumes it has. One that is new here is told nothing if it has
    /// none: should this master have begun with an empty store, it must not have data removed.
    pub(super) fn tell_volumes(&mut self, id: &AgentId, known_before: bool) {
        let kept = self.stored_volumes(id);
        if known_before || !kept.is_empty() {
            let destroyed = Vec::new();
            self.send(id, MasterMsg::Volumes { kept, destroyed });
        }
    }

    /// Stores what is reserved of an agent, after a change of it that destroyed these volumes.
    pub(super) fn store_reservations(
        &mut self,
        id: &AgentId,
        destroyed: Vec<VolumeId>,
        now: UnixMillis,
    ) {
        self.store_parts(id, now);
        // One that is away is told when it registers.
        if !destroyed.is_empty() && self.agents.session(id).is_some() {
            let kept = self.stored_volumes(id);
            self.send(id, MasterMsg::Volumes { kept, destroyed });
        }
    }

    fn store_parts(&mut self, id: &AgentId, now: UnixMillis) {
        let parts = self.run_time_parts(id);
        self.persist(vec![stored::put_reservations(id, &parts)]);
        let before = if parts.is_empty() {
            self.reservations.stored.remove(id)
        } else {
            self.reservations.stored.insert(id.clone(), parts)
        };
        self.forget_wiped(Some(id));
        self.tell_homes_gone(id, &before.unwrap_or_default(), now);
    }

    /// Whether what an agent has reserved can still be stored with these changes.
    pub(super) fn check_storable(
        &self,
        id: &AgentId,
        changes: &[ResourcePart],
    ) -> Result<(), CallRejection> {
        for r in changes.iter().flat_map(|c| &c.reservation) {
            let mut texts = r.labels.iter().flat_map(|(k, v)| [k, v]);
            if r.principal.len() > MAX_TEXT || texts.any(|t| t.len() > MAX_TEXT) {
                let message = format!("principal and labels must be at most {MAX_TEXT} bytes each");
                return Err(no(RejectReason::BadReservation, &r.role, message));
            }
        }
        let given_way = self.reservations.given_way.get(id).into_iter().flatten();
        for (volume, _) in changes.iter().flat_map(|c| c.resources.custom.volumes()) {
            let has = |p: &ResourcePart| p.resources.custom.volume(volume).is_some();
            if given_way.clone().any(has) {
                let message = "a volume of this id has no room on the agent, and waits for it";
                return Err(no(RejectReason::DuplicateVolume, volume, message));
            }
        }
        // What is taken out of ranges may leave two where there was one.
        let more = 2 * stored::reservations_value(changes).len();
        let now = self.reservations.stored.get(id);
        let now = now.map_or(0, |parts| stored::reservations_value(parts).len());
        if now + more > MAX_VALUE_BYTES {
            let message = format!("reservations of one agent take at most {MAX_VALUE_BYTES} bytes");
            return Err(no(RejectReason::TooMany, id, message));
        }
        Ok(())
    }
}
