//! How the scheduler keeps homes of resident instances: seen in offers and in what level 1 lists, given back when
//! they have no use any more.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{
    AgentId, Operation, ResourcePart, Resources, ServiceId, StatusSource, TaskSpec, TaskState,
    TaskStatus, UnixMillis,
};

use crate::{
    Around, Home, Instance, OpenOffer, Place, Service, ServiceScheduler,
    residency::{Litter, home_of, need, release, service_of},
    scheduler::Run,
};

/// What is done with one offer: first of all what makes homes, then launches.
#[derive(Debug, Default)]
pub(crate) struct Use {
    pub operations: Vec<Operation>,
    pub tasks: Vec<TaskSpec>,
}

impl Use {
    pub fn operations(self) -> Vec<Operation> {
        let mut out = self.operations;
        if !self.tasks.is_empty() {
            out.push(Operation::Launch(self.tasks));
        }
        out
    }
}

impl ServiceScheduler {
    /// A home as level 1 lists it after a restart, that somebody wanted to be given back before: it is when it is
    /// offered. Should its task still run, it ends first.
    pub(crate) fn give_up(&mut self, id: String, role: String, place: Place) {
        self.roles.insert(role.clone());
        let agent_id = place.agent_id;
        self.litter.insert(id, Litter { agent_id, role });
    }

    /// Whether all is there that an instance needs at home: volumes and resources go one after the other, and a restart may come in
    /// between. Homes of what is no service are whole.
    pub(crate) fn is_whole(&self, id: &str, service: &str, reserved: &Resources) -> bool {
        let of = service_of(service).and_then(|of| self.services.get(&of));
        let need = of.and_then(|of| need(&of.spec, id));
        need.is_none_or(|need| reserved.contains(&need))
    }

    /// Nothing is reserved for an instance on an agent any more, whoever saw to that.
    pub(crate) fn home_gone(&mut self, id: &str, service: &str, agent: &AgentId, run: &mut Run) {
        if self.litter.get(id).is_some_and(|l| l.agent_id == *agent) {
            self.litter.remove(id);
        }
        let Some(of) = service_of(service) else {
            return;
        };
        let Some(owner) = self.services.get_mut(&of) else {
            return;
        };
        let before = owner.homes.len();
        let gone = |h: &Home| h.id == id && h.place.agent_id == *agent;
        owner.homes.retain(|h| !gone(h));
        if owner.homes.len() < before {
            run.dirty.insert(of);
        }
    }

    /// A home as level 1 lists it, after a restart.
    pub(crate) fn found_home(
        &mut self,
        id: String,
        service: &str,
        role: String,
        place: Place,
        now: UnixMillis,
        run: &mut Run,
    ) {
        if self.litter.contains_key(&id) {
            return;
        }
        let of = service_of(service);
        let owner = of.as_ref().and_then(|id| self.services.get_mut(id));
        let owner = owner.filter(|s| !s.removing && s.spec.residency.is_some());
        let (Some(of), Some(service)) = (of.clone(), owner) else {
            self.give_up(id, role, place);
            return;
        };
        match service.homes.binary_search_by(|h| h.id.cmp(&id)) {
            // Offers know more of a place than level 1's list.
            Ok(at) => service.homes[at].place = place,
            Err(at) => {
                let home = Home {
                    id,
                    place,
                    since: now,
                    doomed: false,
                    fresh: false,
                };
                service.homes.insert(at, home);
                run.dirty.insert(of);
            }
        }
    }

    /// Learns of homes from offers.
    pub(crate) fn see_homes(&mut self, offers: &[OpenOffer], now: UnixMillis, run: &mut Run) {
        for o in offers {
            for part in &o.offer.parts {
                if let Some((id, service)) = home_of(&part.reservation) {
                    let place = Place::from(&o.offer);
                    let role = o.offer.role.clone();
                    self.found_home(id.to_owned(), service, role, place, now, run);
                }
            }
        }
    }

    /// What gives the homes in an offer back that have no use. They may come in parts: a pod's containers end before
    /// the executor that holds its volumes. So each is litter until level 1 says that it is gone.
    pub(crate) fn clean(&self, open: &OpenOffer) -> Vec<Operation> {
        let litter = |part: &&ResourcePart| {
            let of = home_of(&part.reservation);
            of.is_some_and(|(id, _)| self.litter.contains_key(id))
        };
        let parts = open.offer.parts.iter().filter(litter);
        parts.flat_map(release).collect()
    }

    /// Makes homes of a service litter: those that `which` says.
    pub(crate) fn leave_homes(&mut self, id: &ServiceId, which: impl Fn(&Home) -> bool) {
        let Some(service) = self.services.get_mut(id) else {
            return;
        };
        let role = service.spec.role().to_owned();
        let (left, kept) = std::mem::take(&mut service.homes)
            .into_iter()
            .partition(which);
        service.homes = kept;
        let left: Vec<Home> = left;
        self.litter.extend(left.into_iter().map(|h| {
            let (agent_id, role) = (h.place.agent_id, role.clone());
            (h.id, Litter { agent_id, role })
        }));
    }

    /// An agent is gone, and with it what was reserved there.
    pub(crate) fn forget_homes(&mut self, agent: &AgentId, run: &mut Run) {
        self.litter.retain(|_, l| l.agent_id != *agent);
        let there = |s: &Service| s.homes.iter().any(|h| h.place.agent_id == *agent);
        for id in self.services.keys_where(there) {
            if let Some(service) = self.services.get_mut(&id) {
                service.homes.retain(|h| h.place.agent_id != *agent);
            }
            run.dirty.insert(id);
        }
    }

    /// A task of a resident instance ended: its home is empty, or was never made, or is to be given back.
    pub(crate) fn home_emptied(&mut self, id: &ServiceId, status: &TaskStatus, now: UnixMillis) {
        let Some(service) = self.services.get_mut(id) else {
            return;
        };
        let of = status.task_id.instance();
        let Some(at) = service.homes.iter().position(|h| h.id == of) else {
            return;
        };
        let home = &mut service.homes[at];
        home.since = now;
        // A task that its agent ended was there, and so is its home: a later launch that is refused leaves it.
        home.fresh &= status.source == StatusSource::Master;
        let refused = matches!(status.state, TaskState::Dropped | TaskState::Error)
            && status.source == StatusSource::Master;
        if home.fresh && refused {
            // Nothing of the accept was done. Should it have been all the same, an offer tells.
            service.homes.remove(at);
        } else if home.doomed {
            let of = of.to_owned();
            self.leave_homes(id, |h| h.id == of);
        }
    }

    /// The agent of an instance has spoken of it.
    pub(crate) fn home_confirmed(&mut self, id: &ServiceId, status: &TaskStatus) {
        if status.source == StatusSource::Master {
            return;
        }
        let homes = self.services.get_mut(id).map(|s| s.homes.iter_mut());
        let of = status.task_id.instance();
        for h in homes.into_iter().flatten().filter(|h| h.id == of) {
            h.fresh = false;
        }
    }

    /// An instance that was found running is at home where it runs.
    pub(crate) fn home_adopted(&mut self, id: &ServiceId, instance: &Instance, now: UnixMillis) {
        let service = self.services.get_mut(id);
        let Some(service) = service.filter(|s| s.spec.residency.is_some()) else {
            return;
        };
        let of = instance.task_id().instance();
        // One that was given up ends, and what it held is given back.
        let doomed = self.litter.remove(of).is_some();
        if let Err(at) = service.homes.binary_search_by(|h| h.id.as_str().cmp(of)) {
            let home = Home {
                id: of.to_owned(),
                place: instance.place.clone(),
                since: now,
                doomed,
                fresh: false,
            };
            service.homes.insert(at, home);
        }
    }

    /// A new home on an offer.
    pub(crate) fn home_made(
        &mut self,
        id: &ServiceId,
        home: String,
        place: Place,
        now: UnixMillis,
    ) {
        let Some(service) = self.services.get_mut(id) else {
            return;
        };
        if let Err(at) = service.homes.binary_search_by(|h| h.id.cmp(&home)) {
            let home = Home {
                id: home,
                place,
                since: now,
                doomed: false,
                fresh: true,
            };
            service.homes.insert(at, home);
        }
    }

    /// Where services run that this one has to be with, or apart from: what it says itself, and what others say of it.
    pub(crate) fn around(&self, id: &ServiceId) -> Around {
        let mut out = Around::default();
        let Some(service) = self.services.get(id) else {
            return out;
        };
        let agents = |id: &ServiceId| -> BTreeSet<AgentId> {
            let instances = self.services.get(id).map(|s| s.instances.iter());
            let instances = instances.into_iter().flatten();
            instances.map(|i| i.place.agent_id.clone()).collect()
        };
        let all = |ids: &BTreeSet<ServiceId>| -> BTreeMap<ServiceId, BTreeSet<AgentId>> {
            ids.iter().map(|id| (id.clone(), agents(id))).collect()
        };
        out.with = all(&service.spec.placement.with);
        out.apart = all(&service.spec.placement.apart);
        for other in self.apart.iter().filter(|other| *other != id) {
            let says = self.services.get(other);
            if says.is_some_and(|s| s.spec.placement.apart.contains(id)) {
                out.apart.insert(other.clone(), agents(other));
            }
        }
        out
    }
}
