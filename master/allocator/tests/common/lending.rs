//! The laws of taking back what is lent.

use waggle_allocator::{Event, EvictReason, Notice};
use waggle_types::{AgentId, FrameworkId, Millis, Reservation, Resources};

use super::oracle::{Client, Oracle, sum, within};
use super::world::World;

/// Who uses something lent: framework, role, agent, reservation.
pub type Holder = (FrameworkId, String, AgentId, Vec<Reservation>);

impl World {
    fn lent_to(&self, holder: &Holder) -> Resources {
        let of_it = self.oracle.uses.iter().filter(|(agent, u)| {
            let (framework, role, on, stack) = holder;
            u.revocable
                && (agent, &u.framework_id, &u.role, &u.reservation) == (on, framework, role, stack)
        });
        let all: Vec<&Resources> = of_it.map(|(_, u)| &u.resources).collect();
        sum(all.into_iter())
    }

    /// What was told to end: only what is lent, only while its owner wants it, only as much as it has use
    /// for, and nothing twice.
    pub fn follow_evictions(&mut self, event: &Event, rejected: bool) {
        match event {
            Event::UsageEnded { agent_id, usage } if !rejected && usage.revocable => {
                let u = usage.clone();
                let key = (u.framework_id, u.role, agent_id.clone(), u.reservation);
                if let Some((_, left)) = self.ending.iter_mut().find(|(k, _)| *k == key) {
                    *left = left.checked_sub(&left.common(&u.resources)).unwrap();
                }
            }
            Event::AgentJoined { spec, .. } if !rejected => {
                self.ending.retain(|(k, _)| k.2 != spec.info.agent_id);
            }
            // Nobody waits for what is out of reach.
            Event::AgentDeactivated { agent_id } | Event::AgentDrained { agent_id, .. } => {
                self.ending.retain(|(k, _)| k.2 != *agent_id);
            }
            _ => {}
        }
        let known = &self.oracle.agents;
        self.ending
            .retain(|(k, r)| known.contains_key(&k.2) && !r.is_empty());
        for notice in self.allocator.notices().to_vec() {
            let Notice::Evict {
                framework_id,
                role,
                agent_id,
                part,
                reason,
                ..
            } = notice
            else {
                continue;
            };
            self.n_evicted += 1;
            if reason != EvictReason::Reclaimed {
                continue;
            }
            assert!(part.revocable && !part.resources.is_empty());
            let owner = Oracle::role_of(&part.reservation).to_owned();
            assert!(!self.oracle.is_idle(&owner), "{owner} wants nothing back");
            let hints = self.wanting(&owner).map(|(_, smallest)| smallest);
            let of_use =
                |hint: Option<&Resources>| hint.is_none_or(|h| h.contains(&part.resources));
            assert!(
                hints.into_iter().any(of_use),
                "too much: {}",
                part.resources
            );
            let key = (framework_id, role, agent_id, part.reservation);
            match self.ending.iter_mut().find(|(k, _)| *k == key) {
                Some((_, sum)) => *sum = sum.checked_add(&part.resources).unwrap(),
                None => self.ending.push((key.clone(), part.resources)),
            }
            let (_, ending) = self.ending.iter().find(|(k, _)| *k == key).unwrap();
            assert!(
                self.lent_to(&key).contains(ending),
                "{key:?}: {ending} ends"
            );
        }
    }

    /// Who is asked for a role, or below it, and the smallest bundle that is of use.
    fn wanting<'a>(
        &'a self,
        role: &'a str,
    ) -> impl Iterator<Item = (&'a Client, Option<&'a Resources>)> {
        let of_it = self.oracle.clients.iter();
        let of_it = of_it.filter(move |((_, r), c)| !c.suppressed && within(r, role));
        of_it.map(|(client, c)| (client, c.smallest.as_ref()))
    }

    /// Who wants back what it has lent holds an offer, or something ends for it, or nothing that could end
    /// would be of use; within a second.
    pub fn check_lending(&self) {
        let o = &self.oracle;
        let on = |a: &AgentId| o.agents[a].active;
        let lent = o.uses.iter().filter(|(a, u)| u.revocable && on(a));
        for (agent, usage) in lent {
            let owner = Oracle::role_of(&usage.reservation);
            let offered = o.offers.values().any(|(o, _)| within(&o.role, owner));
            let below = |(k, _): &(Holder, Resources)| within(Oracle::role_of(&k.3), owner);
            if o.is_idle(owner) || offered || self.ending.iter().any(below) {
                continue;
            }
            let soon = self.allocator.next_deadline();
            if soon.is_some_and(|at| at <= self.now + Millis(1000)) {
                continue;
            }
            let mut without = o.clone();
            without.uses.retain(|(a, u)| {
                let of_owner = u.revocable && Oracle::role_of(&u.reservation) == owner;
                a != agent || !of_owner
            });
            let sums = without.sums();
            for (client, _) in self.wanting(owner) {
                let bundle = without.bundle(&sums, agent, client, self.now);
                assert!(
                    bundle.is_none(),
                    "{client:?} waits for what is lent on {agent}"
                );
            }
        }
    }
}
