//! Who waits for an offer, and for how long.

use waggle_allocator::Allocator;
use waggle_types::{AgentId, Custom, Millis, Reservation, Resources, ScalarKind};

use crate::{Sim, Violation};

impl Sim {
    /// Longest wait of a framework for an offer of an agent that has room for it all the while: everybody else
    /// (the service framework too) may let an offer time out twice, and what the framework has itself declined
    /// may be filtered for as long as batches do.
    pub(crate) fn longest_wait(&self) -> Millis {
        let others = self.frameworks.len() as u64;
        Millis(2 * others * self.plan.offer_timeout_ms + 10_000)
    }

    /// An offer went out on a stream: its framework waits no longer.
    pub(crate) fn was_offered(&mut self, link: u64) {
        if let Some(at) = self.links.get(&link).map(|l| l.framework) {
            self.waits.retain(|(f, _), _| *f != at);
        }
    }

    /// Nobody starves, whoever else sits on offers.
    pub(crate) fn check_waits(&mut self) -> Result<(), Violation> {
        let Some(allocator) = self
            .master
            .as_ref()
            .map(waggle_master::core::MasterCore::allocator)
        else {
            return Ok(());
        };
        let rooms: Vec<Option<Room>> = self
            .nodes
            .iter()
            .map(|n| Room::of(allocator, &n.info.agent_id))
            .collect();
        let longest = self.longest_wait();
        for (at, f) in self.frameworks.iter().enumerate() {
            let wanted = f.mind.wants().filter(|_| f.is_idle());
            let wanted = wanted.map(|w| (w, f.mind.info()));
            for (agent, room) in rooms.iter().enumerate() {
                let key = (at, agent);
                let fits = wanted.as_ref().is_some_and(|(w, info)| {
                    let mut roles = info.roles.iter();
                    let room = room.as_ref();
                    room.is_some_and(|r| roles.any(|role| r.is_for(allocator, &role.role, w)))
                });
                if !fits {
                    self.waits.remove(&key);
                    continue;
                }
                let waited = self.now.since(*self.waits.entry(key).or_insert(self.now));
                self.worst_wait = self.worst_wait.max(waited);
                if waited > longest {
                    return Err(Violation::Starved {
                        framework: f.mind.info().name,
                        agent_id: self.nodes[agent].info.agent_id.clone(),
                        waited,
                    });
                }
            }
        }
        Ok(())
    }
}

/// What of an agent nobody uses by right: what is lent comes back.
struct Room {
    plain: Resources,
    reserved: Vec<(Vec<Reservation>, Resources)>,
}

impl Room {
    /// Of an agent that takes tasks.
    fn of(allocator: &Allocator, agent_id: &AgentId) -> Option<Self> {
        if allocator.is_active(agent_id) != Some(true) {
            return None;
        }
        let mut reserved = allocator.reserved(agent_id);
        let mut plain = allocator.total(agent_id)?.clone();
        for (_, r) in &reserved {
            let mut r = r.clone();
            // Volumes are disk.
            for (_, v) in std::mem::take(&mut r.custom).volumes() {
                r.scalars[ScalarKind::Disk as usize].0 += v.size.0;
            }
            plain.try_sub(&r)?;
        }
        for u in allocator.uses(agent_id).iter().filter(|u| !u.revocable) {
            let pool = reserved
                .iter_mut()
                .find(|(stack, _)| *stack == u.reservation);
            match pool {
                Some((_, r)) => {
                    let mut taken = u.resources.clone();
                    taken.custom = Custom::default();
                    r.try_sub(&taken)?;
                }
                None => plain.try_sub(&u.resources)?,
            }
        }
        Some(Self { plain, reserved })
    }

    /// Whether somebody in a role could be offered so much of it.
    fn is_for(&self, allocator: &Allocator, role: &str, wanted: &Resources) -> bool {
        let reserved = self.reserved.iter().any(|(stack, r)| {
            let of = stack.last().map_or("", |s| s.role.as_str());
            let below = role
                .strip_prefix(of)
                .is_some_and(|rest| rest.starts_with('/'));
            (of == role || below) && r.contains(wanted)
        });
        let may_get = allocator.explain_role(role).map(|v| v.may_get);
        let within_quota = may_get.is_none_or(|may| {
            ScalarKind::ALL.iter().all(|k| {
                let most = may.get(k.name());
                most.is_none_or(|most| *most >= wanted.get(*k))
            })
        });
        reserved || within_quota && self.plain.contains(wanted)
    }
}
