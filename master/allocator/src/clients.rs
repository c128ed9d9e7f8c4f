//! Frameworks and what they subscribe with. A *client* is one role of one framework: what is asked,
//! charged and filtered.

use waggle_types::{
    AgentId, Capabilities, FrameworkId, MAX_ROLES, Millis, Resources, UnixMillis, check_role,
};

use crate::{
    Allocator, FrameworkSpec, Rejection, RescindReason,
    allocator::Run,
    bits::{BitSet, Idx, NONE},
    constraints::{Compiled, barrier},
    kinds::{self, Rows},
    ledger::is_negative,
    roles::Entry,
    volumes::owned,
};

/// Frameworks times roles.
pub const MAX_CLIENTS: usize = 100_000;

#[derive(Debug, Clone)]
pub(crate) struct Framework {
    pub id: FrameworkId,
    pub clients: Vec<Idx>,
    /// Its first role's, while it is subscribed: what it uses without a word about the role is of that.
    pub first: Option<Idx>,
    pub subscribed: bool,
    pub capabilities: Capabilities,
}

#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub framework: Idx,
    /// [`NONE`] for what runs of a framework that has not said its roles yet.
    pub role: Idx,
    /// Count of clients when it was made: tells it from another that had its number.
    pub birth: u64,
    pub subscribed: bool,
    pub suppressed: bool,
    pub constraints: Compiled,
    pub smallest: Option<Resources>,
    pub allocated: Rows,
    /// Count of its latest offer, for age.
    pub last_offer: u64,
    pub slot: Entry,
    /// Uses on agents, offers that are out.
    pub n_uses: usize,
    pub n_offers: usize,
    /// Agents on which it may have filters.
    pub filtered: BitSet,
}

impl Allocator {
    /// The framework's number; made when it is new.
    pub(crate) fn framework_slot(&mut self, id: &FrameworkId) -> Idx {
        if let Some(idx) = self.framework_ids.get(id) {
            return *idx;
        }
        let idx = self.frameworks.insert(Framework {
            id: id.clone(),
            clients: Vec::new(),
            first: None,
            subscribed: false,
            capabilities: Capabilities::default(),
        });
        self.framework_ids.insert(id.clone(), idx);
        idx
    }

    /// The client's number for a role of a framework; made, without a subscription, when it is new.
    pub(crate) fn client_slot(&mut self, framework: Idx, role: &str) -> Idx {
        if let Some(client) = self.client_in(framework, role) {
            return client;
        }
        let role = if role.is_empty() {
            NONE
        } else {
            self.tree.hold(role)
        };
        self.n_births += 1;
        let client = self.clients.insert(Client {
            framework,
            role,
            birth: self.n_births,
            subscribed: false,
            suppressed: false,
            constraints: Compiled::default(),
            smallest: None,
            allocated: Rows::default(),
            last_offer: 0,
            slot: Entry::default(),
            n_uses: 0,
            n_offers: 0,
            filtered: BitSet::default(),
        });
        if let Some(f) = self.frameworks.get_mut(framework) {
            f.clients.push(client);
        }
        client
    }

    /// The client of a framework in a role, subscribed or not; for `""` the one without a role.
    pub(crate) fn client_in(&self, framework: Idx, role: &str) -> Option<Idx> {
        let role = if role.is_empty() {
            NONE
        } else {
            self.tree.find(role)?
        };
        let clients = &self.frameworks.get(framework)?.clients;
        let in_role = |c: &&Idx| self.clients.get(**c).is_some_and(|c| c.role == role);
        clients.iter().find(in_role).copied()
    }

    pub(crate) fn subscribed(&self, id: &FrameworkId) -> Result<Idx, Rejection> {
        let idx = self.framework_ids.get(id).copied();
        idx.filter(|i| self.frameworks.get(*i).is_some_and(|f| f.subscribed))
            .ok_or_else(|| Rejection::UnknownFramework(id.clone()))
    }

    /// Its subscribed clients: all, or those of these roles.
    pub(crate) fn clients_of(
        &self,
        id: &FrameworkId,
        roles: Option<&[String]>,
    ) -> Result<Vec<Idx>, Rejection> {
        let framework = self.subscribed(id)?;
        let subscribed = |c: &Idx| self.clients.get(*c).is_some_and(|c| c.subscribed);
        let Some(roles) = roles else {
            let all = self.frameworks.get(framework).map(|f| f.clients.clone());
            let mut all = all.unwrap_or_default();
            all.retain(subscribed);
            return Ok(all);
        };
        let one = |role: &String| {
            let client = self.client_in(framework, role).filter(subscribed);
            client.ok_or_else(|| Rejection::NotInRole {
                framework_id: id.clone(),
                role: role.chars().take(100).collect(),
            })
        };
        roles.iter().map(one).collect()
    }

    pub(crate) fn subscribe(
        &mut self,
        id: &FrameworkId,
        spec: FrameworkSpec,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let n = spec.roles.len();
        let mut compiled = Vec::new();
        for (at, r) in spec.roles.iter().enumerate() {
            check_role(&r.role)?;
            if r.smallest.as_ref().is_some_and(is_negative) {
                return Err(Rejection::Negative(r.smallest.clone().unwrap_or_default()));
            }
            if spec.roles[..at].iter().any(|o| o.role == r.role) {
                return Err(Rejection::RoleCount { n, max: MAX_ROLES });
            }
            compiled.push(Compiled::new(&r.constraints)?);
        }
        if n == 0 || n > MAX_ROLES {
            return Err(Rejection::RoleCount { n, max: MAX_ROLES });
        }
        if self.clients.len() + n > MAX_CLIENTS {
            return Err(Rejection::Full {
                what: "subscriptions",
                max: MAX_CLIENTS,
            });
        }
        let mut before = Vec::new();
        if self.subscribed(id).is_ok() {
            before = self.unsubscribe(id, RescindReason::FrameworkChanged, run)?;
        }
        let framework = self.framework_slot(id);
        if let Some(f) = self.frameworks.get_mut(framework) {
            f.subscribed = true;
            f.capabilities = spec.capabilities;
        }
        for (at, (r, constraints)) in spec.roles.into_iter().zip(compiled).enumerate() {
            if at == 0 {
                self.give_role(framework, &r.role);
            }
            let idx = self.client_slot(framework, &r.role);
            if let Some(f) = self.frameworks.get_mut(framework)
                && at == 0
            {
                f.first = Some(idx);
            }
            if let Some(c) = self.clients.get_mut(idx) {
                c.constraints = constraints;
                c.smallest = r.smallest;
            }
            self.enter(idx, spec.capabilities);
            self.set_suppressed(idx, r.suppressed, true, run);
        }
        before.retain(|c| self.clients.get(*c).is_some_and(|c| !c.subscribed));
        for idx in before {
            self.forget(idx);
        }
        run.all_free = true;
        Ok(())
    }

    /// What ran before the framework said its roles belongs to its first one.
    fn give_role(&mut self, framework: Idx, role: &str) {
        let Some(old) = self.client_in(framework, "") else {
            return;
        };
        if self.client_in(framework, role).is_none() {
            let idx = self.tree.hold(role);
            if let Some(c) = self.clients.get_mut(old) {
                c.role = idx;
            }
            // What it has was not charged to anybody; what the role is owed becomes less.
            self.room = true;
            for part in self.parts_of(old) {
                self.tree.charge(
                    idx,
                    &self.kinds.rows(&part.resources),
                    true,
                    part.is_plain(),
                );
            }
            return;
        }
        // Both: moved use by use.
        let new = self.client_slot(framework, role);
        let all: Vec<Idx> = self.agents.iter().map(|(i, _)| i).collect();
        for agent in all {
            self.move_uses(agent, old, new);
        }
        self.drop_client(old);
    }

    /// Puts a client among those of its role and bars the agents that it is never offered.
    fn enter(&mut self, idx: Idx, capabilities: Capabilities) {
        let Some(c) = self.clients.get_mut(idx) else {
            return;
        };
        c.subscribed = true;
        c.slot = Entry {
            share: self.tree.yardstick.share(&c.allocated, 1000),
            age: c.last_offer,
            child: idx,
        };
        self.tree.join(c.role, c.slot);
        let open = capabilities.gpus && capabilities.region_aware && c.constraints.is_empty();
        if !open {
            let home = self.config.region.as_deref();
            for (_, a) in self.agents.iter_mut() {
                let b = barrier(capabilities, &c.constraints, home, &a.info);
                a.barred.set(idx, b.is_some());
            }
            for look in &mut self.looks {
                look.known = false;
            }
        }
    }

    /// Whether this client is never offered this agent, for an agent that joins.
    pub(crate) fn bar_all(&self, info: &waggle_types::AgentInfo) -> BitSet {
        let mut barred = BitSet::default();
        let home = self.config.region.as_deref();
        for (idx, c) in self.clients.iter().filter(|(_, c)| c.subscribed) {
            let capabilities = self.frameworks.get(c.framework).map(|f| f.capabilities);
            let capabilities = capabilities.unwrap_or_default();
            if barrier(capabilities, &c.constraints, home, info).is_some() {
                barred.insert(idx);
            }
        }
        barred
    }

    /// Sets whether a client is to be asked. `fresh`: it was not subscribed before.
    pub(crate) fn set_suppressed(
        &mut self,
        idx: Idx,
        suppressed: bool,
        fresh: bool,
        run: &mut Run,
    ) {
        let Some(c) = self.clients.get_mut(idx) else {
            return;
        };
        let was_askable = !fresh && !c.suppressed;
        c.suppressed = suppressed;
        self.askable.set(idx, !suppressed);
        let role = c.role;
        if was_askable == suppressed {
            let woken = self.tree.set_askable(role, !suppressed);
            for role in woken {
                self.wanted_back(role, run);
            }
        }
        if suppressed {
            // What its role has reserved may be lent now.
            run.dirty_list(self.with_pools.iter());
        }
    }

    pub(crate) fn framework_removed(
        &mut self,
        id: &FrameworkId,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let framework = self.subscribed(id)?;
        for idx in self.unsubscribe(id, RescindReason::FrameworkRemoved, run)? {
            self.forget(idx);
        }
        self.drop_framework(framework);
        Ok(())
    }

    /// Ends all subscriptions of a framework, and answers which. What they turned down in the current rounds
    /// stays known, as well as what they held when they subscribe anew: or who does that again and again
    /// would be asked before those who wait.
    fn unsubscribe(
        &mut self,
        id: &FrameworkId,
        reason: RescindReason,
        run: &mut Run,
    ) -> Result<Vec<Idx>, Rejection> {
        let framework = self.subscribed(id)?;
        let clients = self.clients_of(id, None)?;
        let of_it = |h: &crate::offers::Held| clients.contains(&h.client);
        let held: Vec<u64> = self
            .offers
            .iter()
            .filter(|(_, h)| of_it(h))
            .map(|(n, _)| *n)
            .collect();
        for number in held {
            if let Some(held) = self.rescind(number, reason, run)
                && let Some(agent) = self.agents.get_mut(held.agent)
            {
                agent.declined.insert(held.client);
            }
        }
        for idx in &clients {
            self.clear_filters(*idx);
            for (_, agent) in self.agents.iter_mut() {
                agent.barred.remove(*idx);
            }
            self.set_suppressed(*idx, true, false, run);
            if let Some(c) = self.clients.get_mut(*idx) {
                c.subscribed = false;
                self.tree.leave(c.role, c.slot);
            }
        }
        for look in &mut self.looks {
            look.known = false;
        }
        if let Some(f) = self.frameworks.get_mut(framework) {
            f.subscribed = false;
            f.first = None;
        }
        Ok(clients)
    }

    /// A client that is not subscribed any more starts anew, should it come again.
    fn forget(&mut self, idx: Idx) {
        for (_, agent) in self.agents.iter_mut() {
            agent.declined.remove(idx);
        }
        if let Some(c) = self.clients.get_mut(idx) {
            c.last_offer = 0;
        }
        self.drop_client(idx);
    }

    /// Forgets a client that neither is subscribed nor uses anything.
    pub(crate) fn drop_client(&mut self, idx: Idx) {
        let unused = |c: &Client| !c.subscribed && c.n_uses == 0 && c.n_offers == 0;
        if !self.clients.get(idx).is_some_and(unused) {
            return;
        }
        if let Some(c) = self.clients.remove(idx) {
            if c.role != NONE {
                self.tree.release(c.role);
            }
            if let Some(f) = self.frameworks.get_mut(c.framework) {
                f.clients.retain(|i| *i != idx);
            }
            self.drop_framework(c.framework);
        }
    }

    fn drop_framework(&mut self, idx: Idx) {
        let unused = |f: &Framework| !f.subscribed && f.clients.is_empty();
        if self.frameworks.get(idx).is_some_and(unused)
            && let Some(f) = self.frameworks.remove(idx)
        {
            self.framework_ids.remove(&f.id);
        }
    }

    /// Adds to or takes from the sums of a client and its role.
    pub(crate) fn charge(&mut self, client: Idx, r: &Resources, add: bool, plain: bool) {
        let what = self.kinds.rows(&owned(r));
        let Some(c) = self.clients.get_mut(client) else {
            return;
        };
        let op = if add { kinds::add } else { kinds::sub };
        op(&mut c.allocated, &what);
        if c.role == NONE {
            return;
        }
        if c.subscribed {
            let slot = Entry {
                share: self.tree.yardstick.share(&c.allocated, 1000),
                age: c.last_offer,
                child: client,
            };
            let old = std::mem::replace(&mut c.slot, slot);
            self.tree.move_member(c.role, old, slot);
        }
        self.tree.charge(c.role, &what, add, plain);
        if !add && plain && self.tree.n_quotas > 0 {
            self.room = true;
        }
    }

    /// Sorts all roles anew if the cluster has changed enough.
    pub(crate) fn resort(&mut self) {
        if !self.tree.yardstick.update(&self.total) {
            return;
        }
        let yardstick = self.tree.yardstick.clone();
        for (_, c) in self.clients.iter_mut() {
            let share = yardstick.share(&c.allocated, 1000);
            c.slot.share = share;
        }
        let clients = &self.clients;
        self.tree
            .resort(|idx| clients.get(idx).map_or(0, |c| c.slot.share));
    }

    pub(crate) fn suppress(
        &mut self,
        id: &FrameworkId,
        roles: Option<&[String]>,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        for idx in self.clients_of(id, roles)? {
            self.set_suppressed(idx, true, false, run);
        }
        Ok(())
    }

    pub(crate) fn revive(
        &mut self,
        id: &FrameworkId,
        roles: Option<&[String]>,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        for idx in self.clients_of(id, roles)? {
            self.clear_filters(idx);
            self.set_suppressed(idx, false, false, run);
        }
        run.all_free = true;
        Ok(())
    }

    pub(crate) fn demand(
        &mut self,
        id: &FrameworkId,
        role: String,
        smallest: Option<Resources>,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        if smallest.as_ref().is_some_and(is_negative) {
            return Err(Rejection::Negative(smallest.unwrap_or_default()));
        }
        for idx in self.clients_of(id, Some(&[role]))? {
            if let Some(c) = self.clients.get_mut(idx) {
                c.smallest.clone_from(&smallest);
            }
        }
        run.all_free = true;
        Ok(())
    }

    /// A framework's answer to being asked to leave.
    pub(crate) fn inverse_answered(
        &mut self,
        id: &FrameworkId,
        agent_id: &AgentId,
        accepted: bool,
        refuse: Millis,
        now: UnixMillis,
    ) -> Result<(), Rejection> {
        let framework = self.subscribed(id)?;
        let agent = self.agent_idx(agent_id)?;
        self.answer(framework, agent, accepted, refuse, now)
            .ok_or_else(|| Rejection::NoInverseOffer {
                framework_id: id.clone(),
                agent_id: agent_id.clone(),
            })
    }
}
