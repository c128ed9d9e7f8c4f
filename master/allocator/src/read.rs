//! What can be read of the allocator: books, shares, offers, counts, and the check of all invariants.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{
    AgentId, FrameworkId, Milli, Offer, OfferId, Reservation, ResourcePart, Resources, UnixMillis,
};

use crate::{
    Allocator, LedgerError, Share, Stats, Usage,
    bits::{Idx, NONE},
    kinds::{self, Rows},
    ledger::{Agent, Part},
    offers::Held,
    roles::ROOT,
    share::Yardstick,
    volumes::owned,
};

impl Allocator {
    /// All that an agent has.
    pub fn total(&self, agent_id: &AgentId) -> Option<&Resources> {
        self.agent(agent_id).map(|a| &a.total)
    }

    /// What all agents have, by [`waggle_types::ScalarKind`].
    pub fn cluster_total(&self) -> [Milli; 4] {
        let mut out = [Milli(0); 4];
        for (sum, row) in out.iter_mut().zip(self.total) {
            *sum = Milli(row);
        }
        out
    }

    /// What is in use on an agent, by all frameworks.
    pub fn used(&self, agent_id: &AgentId) -> Option<&Resources> {
        self.agent(agent_id).map(|a| &a.used)
    }

    /// What one framework uses on an agent, in all its roles; `None` when that is nothing.
    pub fn used_by(&self, agent_id: &AgentId, framework_id: &FrameworkId) -> Option<Resources> {
        let framework = *self.framework_ids.get(framework_id)?;
        let of_it = |c: Idx| {
            self.clients
                .get(c)
                .is_some_and(|c| c.framework == framework)
        };
        let mut sum = None::<Resources>;
        for u in self
            .agent(agent_id)?
            .uses
            .iter()
            .filter(|u| of_it(u.client))
        {
            sum.get_or_insert_default().try_add(&u.resources());
        }
        sum
    }

    /// What runs on an agent, entry by entry.
    pub fn uses(&self, agent_id: &AgentId) -> Vec<Usage> {
        let uses = self
            .agent(agent_id)
            .map(|a| &a.uses[..])
            .unwrap_or_default();
        let shown = uses.iter().filter_map(|u| {
            let client = self.clients.get(u.client)?;
            let part = self.show_part(u.part.clone());
            Some(Usage {
                framework_id: self.frameworks.get(client.framework)?.id.clone(),
                role: self.tree.name(client.role).to_owned(),
                reservation: part.reservation,
                revocable: part.revocable,
                resources: part.resources,
            })
        });
        shown.collect()
    }

    /// What is offered of an agent, to anybody.
    pub fn offered(&self, agent_id: &AgentId) -> Option<&Resources> {
        self.agent(agent_id).map(|a| &a.offered)
    }

    /// What nobody uses or is offered of an agent.
    pub fn free(&self, agent_id: &AgentId) -> Option<&Resources> {
        self.agent(agent_id).map(|a| &a.free)
    }

    /// What of an agent is reserved, by stack.
    pub fn reserved(&self, agent_id: &AgentId) -> Vec<(Vec<Reservation>, Resources)> {
        self.agent(agent_id)
            .map(|a| self.reservations_of(a))
            .unwrap_or_default()
    }

    /// Whether an agent's resources may be offered; `None` when it is not known.
    pub fn is_active(&self, agent_id: &AgentId) -> Option<bool> {
        self.agent(agent_id).map(|a| a.active)
    }

    pub(crate) fn sorted_agents(&self) -> Vec<(Idx, &Agent)> {
        let mut all: Vec<(Idx, &Agent)> = self.agents.iter().collect();
        all.sort_by(|a, b| a.1.info.agent_id.cmp(&b.1.info.agent_id));
        all
    }

    /// Known agents, in order.
    pub fn agents(&self) -> impl Iterator<Item = &AgentId> {
        self.sorted_agents()
            .into_iter()
            .map(|(_, a)| &a.info.agent_id)
    }

    /// Subscribed frameworks with each of their roles, in order.
    pub fn frameworks(&self) -> impl Iterator<Item = (&FrameworkId, &str)> {
        let subscribed = self.clients.iter().filter(|(_, c)| c.subscribed);
        let mut all: Vec<(&FrameworkId, &str)> = subscribed
            .filter_map(|(_, c)| {
                Some((
                    &self.frameworks.get(c.framework)?.id,
                    self.tree.name(c.role),
                ))
            })
            .collect();
        all.sort_unstable();
        all.into_iter()
    }

    /// Whether a framework wants no offers to a role now; `None` when it is not subscribed with it.
    pub fn is_suppressed(&self, framework_id: &FrameworkId, role: &str) -> Option<bool> {
        let idx = self.client_in(*self.framework_ids.get(framework_id)?, role)?;
        let client = self.clients.get(idx).filter(|c| c.subscribed)?;
        Some(client.suppressed)
    }

    /// Roles that somebody needs, in order.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.tree.iter().map(|(name, _)| name)
    }

    /// A valid offer. An accept of anything else is refused.
    pub fn offer(&self, offer_id: &OfferId) -> Option<Offer> {
        let number = self.number(offer_id)?;
        self.show(number, self.offers.get(&number)?)
    }

    /// What a valid offer is made of, the unreserved part last.
    pub fn offer_parts(&self, offer_id: &OfferId) -> Vec<ResourcePart> {
        let held = self.number(offer_id).and_then(|n| self.offers.get(&n));
        let parts = held.map(|h| h.bundle.all_parts()).unwrap_or_default();
        parts.into_iter().map(|p| self.show_part(p)).collect()
    }

    pub(crate) fn show_part(&self, p: Part) -> ResourcePart {
        let stack = self.stacks.get(p.pool);
        ResourcePart {
            reservation: stack.map(|s| s.reservations.clone()).unwrap_or_default(),
            revocable: p.lent,
            resources: p.resources,
        }
    }

    /// Valid offers with the time at which each is taken back, in the order in which they were made.
    pub fn offers(&self) -> impl Iterator<Item = (Offer, UnixMillis)> {
        let all = self.offers.iter();
        all.filter_map(|(n, h)| Some((self.show(*n, h)?, h.expires)))
    }

    /// How many offers are out.
    pub fn n_offers(&self) -> usize {
        self.offers.len()
    }

    /// A role's weighted dominant share with all below it; zero for a role that nobody needs.
    pub fn dominant_share(&self, role: &str) -> Share {
        let mut exact = Yardstick::default();
        exact.update(&self.total);
        self.tree.node(role).map_or(Share::default(), |n| {
            Share(u128::from(exact.share(&n.allocated, n.weight_milli)))
        })
    }

    /// Counts since the start.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Checks every invariant of the books; for tests, simulation and `debug_assert!`.
    pub fn check(&self) -> Result<(), LedgerError> {
        let wrong = |what, of: &dyn ToString| LedgerError::WrongSum {
            what,
            of: of.to_string(),
        };
        let mut total = Rows::default();
        let mut available = Rows::default();
        let mut by_client: BTreeMap<Idx, (Rows, usize)> = BTreeMap::new();
        let mut charged: BTreeMap<Idx, Rows> = BTreeMap::new();
        let mut lent = BTreeSet::new();
        for (idx, agent) in self.agents.iter() {
            agent.check()?;
            kinds::add(&mut total, &self.kinds.rows(&agent.total));
            if agent.active {
                kinds::add(&mut available, &agent.plain_free_rows(&self.kinds));
            }
            let held = |n: &u64| self.offers.get(n).map(|h| owned(&h.bundle.sum));
            let offered = agent
                .offers
                .iter()
                .try_fold(Resources::default(), |sum, n| sum.checked_add(&*held(n)?));
            if offered.as_ref() != Some(&agent.offered) {
                return Err(wrong("offered", &agent.info.agent_id));
            }
            for u in &agent.uses {
                let of = by_client.entry(u.client).or_default();
                kinds::add(&mut of.0, &self.kinds.rows(&u.part.resources));
                of.1 += 1;
                self.check_charge(&mut charged, u.client, u.part.pool, &u.part.resources);
            }
            for u in agent.uses.iter().filter(|u| u.part.lent) {
                let role = self.stacks.get(u.part.pool).map_or(NONE, |s| s.role);
                lent.insert((role, idx));
                if u.ending().is_some_and(|e| !u.part.resources.contains(e)) {
                    return Err(wrong("what ends", &agent.info.agent_id));
                }
            }
            for pool in &agent.pools {
                let role = self.stacks.get(pool.key).map_or(ROOT, |s| s.role);
                for (idx, _) in self.tree.path(role) {
                    kinds::add(
                        charged.entry(idx).or_default(),
                        &self.kinds.rows(&pool.total),
                    );
                }
            }
            if self.with_pools.contains(idx) == agent.pools.is_empty() {
                return Err(wrong("list of reservations", &agent.info.agent_id));
            }
        }
        for (number, held) in &self.offers {
            let listed = self.agents.get(held.agent);
            if !listed.is_some_and(|a| a.offers.contains(number)) {
                return Err(wrong("offers of an agent", number));
            }
            let sum = by_client.entry(held.client).or_default();
            kinds::add(&mut sum.0, &self.kinds.rows(&owned(&held.bundle.sum)));
            for part in held.bundle.all_parts() {
                self.check_charge(&mut charged, held.client, part.pool, &part.resources);
            }
        }
        if lent != self.lent {
            return Err(wrong("list of what is lent", &"the cluster"));
        }
        if total != self.total {
            return Err(wrong("total", &"the cluster"));
        }
        if available != self.available {
            return Err(wrong("available", &"the cluster"));
        }
        let mut by_role: BTreeMap<Idx, Rows> = BTreeMap::new();
        for (idx, client) in self.clients.iter() {
            let (sum, uses) = by_client.remove(&idx).unwrap_or_default();
            if sum != client.allocated || uses != client.n_uses {
                return Err(wrong("allocation of client", &idx));
            }
            for (role, _) in self.tree.path(client.role) {
                kinds::add(by_role.entry(role).or_default(), &sum);
            }
        }
        if let Some((idx, _)) = by_client.first_key_value() {
            return Err(wrong("allocation of unknown client", idx));
        }
        for (name, node) in self.tree.iter() {
            let idx = self.tree.find(name).unwrap_or(ROOT);
            if by_role.get(&idx).copied().unwrap_or_default() != node.allocated {
                return Err(wrong("allocation", &name));
            }
            let of_it = |h: &&Held| {
                let role = self.clients.get(h.client).map_or(NONE, |c| c.role);
                self.tree.is_within(role, idx)
            };
            if self.offers.values().filter(of_it).count() != node.n_offers as usize {
                return Err(wrong("number of offers", &name));
            }
            if charged.get(&idx).copied().unwrap_or_default() != node.quota.charged {
                return Err(wrong("quota", &name));
            }
        }
        Ok(())
    }

    fn check_charge(
        &self,
        charged: &mut BTreeMap<Idx, Rows>,
        client: Idx,
        pool: Idx,
        r: &Resources,
    ) {
        let role = self.clients.get(client).map_or(NONE, |c| c.role);
        if pool == NONE && role != NONE {
            for (idx, _) in self.tree.path(role) {
                kinds::add(charged.entry(idx).or_default(), &self.kinds.rows(r));
            }
        }
    }
}
