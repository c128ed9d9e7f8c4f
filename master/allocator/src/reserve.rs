//! Reservations, static and dynamic, and their refinement down the tree of roles.
//!
//! A reservation is a stack: `[a]`, refined to `[a, a/b]`, and so on. What is reserved may be offered to
//! the innermost role of its stack and to roles below that. All of it counts against the quota of that
//! role, used or not.

use std::collections::BTreeMap;

use waggle_types::{AgentId, MAX_ROLE_DEPTH, Reservation, Resources, VolumeId, check_role};

use crate::{
    Allocator, Rejection, RescindReason,
    agents::MAX_POOLS,
    allocator::Run,
    bits::{Idx, NONE, Slab},
    kinds::Rows,
    ledger::{Agent, is_negative},
    quota::Charges,
    roles::Tree,
    volumes::in_the_way,
};

#[derive(Debug, Clone)]
pub(crate) struct Stack {
    pub reservations: Vec<Reservation>,
    /// The innermost role.
    pub role: Idx,
    refs: u32,
}

/// Stacks by number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stacks {
    all: Slab<Stack>,
    ids: BTreeMap<Vec<Reservation>, Idx>,
}

impl Stacks {
    pub fn get(&self, key: Idx) -> Option<&Stack> {
        self.all.get(key)
    }

    pub fn find(&self, stack: &[Reservation]) -> Option<Idx> {
        self.ids.get(stack).copied()
    }

    /// The stack's number, held until [`Stacks::release`].
    pub fn hold(&mut self, stack: &[Reservation], tree: &mut Tree) -> Idx {
        let key = self.find(stack).unwrap_or_else(|| {
            let role = stack.last().map_or("", |r| r.role.as_str());
            let key = self.all.insert(Stack {
                reservations: stack.to_vec(),
                role: tree.hold(role),
                refs: 0,
            });
            self.ids.insert(stack.to_vec(), key);
            key
        });
        if let Some(s) = self.all.get_mut(key) {
            s.refs += 1;
        }
        key
    }

    pub fn release(&mut self, key: Idx, tree: &mut Tree) {
        let Some(s) = self.all.get_mut(key) else {
            return;
        };
        s.refs = s.refs.saturating_sub(1);
        if s.refs == 0
            && let Some(s) = self.all.remove(key)
        {
            self.ids.remove(&s.reservations);
            tree.release(s.role);
        }
    }
}

/// Refinement goes strictly down the tree, so a stack has no cycle and an end.
pub(crate) fn check_stack(stack: &[Reservation]) -> Result<(), Rejection> {
    if stack.is_empty() {
        return Err(Rejection::BadReservation("a stack must not be empty"));
    }
    if stack.len() > MAX_ROLE_DEPTH {
        return Err(Rejection::BadReservation("a stack must be at most 8 deep"));
    }
    let mut above: Option<&Reservation> = None;
    for r in stack {
        check_role(&r.role)?;
        if r.role == "*" {
            return Err(Rejection::DefaultRole("a reservation"));
        }
        if r.labels.len() > 64 {
            return Err(Rejection::BadReservation("at most 64 labels"));
        }
        if let Some(above) = above {
            let below = r.role.strip_prefix(above.role.as_str());
            if !below.is_some_and(|rest| rest.starts_with('/')) {
                return Err(Rejection::BadReservation(
                    "each role must be below the one before",
                ));
            }
            if above.dynamic && !r.dynamic {
                return Err(Rejection::BadReservation(
                    "a static reservation cannot refine a dynamic one",
                ));
            }
        }
        above = Some(r);
    }
    Ok(())
}

impl Allocator {
    /// What an agent has reserved, as it would say itself.
    pub(crate) fn reservations_of(&self, agent: &Agent) -> Vec<(Vec<Reservation>, Resources)> {
        let stack = |key| self.stacks.get(key).map(|s| s.reservations.clone());
        let pools = agent.pools.iter();
        pools
            .filter_map(|p| Some((stack(p.key)?, p.total.clone())))
            .collect()
    }

    /// Moves free resources between reservations and counts them for their roles.
    pub(crate) fn reserve_free(
        &mut self,
        idx: Idx,
        from: Idx,
        to: Idx,
        r: &Resources,
    ) -> Option<()> {
        let agent = self.agents.get_mut(idx)?;
        let had: Vec<Idx> = agent.pools.iter().map(|p| p.key).collect();
        agent.move_free(from, to, r)?;
        let has: Vec<Idx> = agent.pools.iter().map(|p| p.key).collect();
        self.with_pools.set(idx, !has.is_empty());
        // An agent holds each stack that it has something of.
        if to != NONE && !had.contains(&to) && has.contains(&to) {
            let stack = self.stacks.get(to)?.reservations.clone();
            self.stacks.hold(&stack, &mut self.tree);
        }
        if let Some(role) = self.stacks.get(to).map(|s| s.role) {
            self.tree.count(role, &self.kinds.rows(r), true);
        }
        if let Some(role) = self.stacks.get(from).map(|s| s.role) {
            self.tree.count(role, &self.kinds.rows(r), false);
        }
        self.room = true;
        if from != NONE && !has.contains(&from) {
            self.stacks.release(from, &mut self.tree);
        }
        self.recount(idx);
        Some(())
    }

    /// An agent goes with what is reserved of it.
    pub(crate) fn uncount_pool(&mut self, key: Idx, total: &Resources) {
        if let Some(role) = self.stacks.get(key).map(|s| s.role) {
            self.tree.count(role, &self.kinds.rows(total), false);
            self.room = true;
        }
        self.stacks.release(key, &mut self.tree);
    }

    pub(crate) fn reserve(
        &mut self,
        agent_id: &AgentId,
        stack: &[Reservation],
        resources: &Resources,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let idx = self.agent_idx(agent_id)?;
        check_reserve(stack, resources)?;
        let from = self.pool_key(&stack[..stack.len() - 1], agent_id, resources)?;
        let agent = self.agents.get(idx);
        let full = agent.is_some_and(|a| a.pools.len() >= MAX_POOLS);
        if full
            && self
                .stacks
                .find(stack)
                .is_none_or(|k| agent.is_none_or(|a| a.pool(k).is_none()))
        {
            return Err(Rejection::Full {
                what: "reservations on an agent",
                max: MAX_POOLS,
            });
        }
        let holders = self.holders(idx, agent_id, from, resources)?;
        let over = self.in_the_limits_way(stack, resources, &holders)?;
        for number in holders {
            self.rescind(number, RescindReason::Reserved, run);
        }
        for number in over {
            self.rescind(number, RescindReason::Limited, run);
        }
        let to = self.stacks.hold(stack, &mut self.tree);
        let moved = self.reserve_free(idx, from, to, resources);
        self.stacks.release(to, &mut self.tree);
        self.touch(idx, run);
        moved.ok_or_else(|| not_free(agent_id, resources))
    }

    pub(crate) fn unreserve(
        &mut self,
        agent_id: &AgentId,
        stack: &[Reservation],
        resources: &Resources,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let idx = self.agent_idx(agent_id)?;
        check_unreserve(agent_id, stack, resources)?;
        let from = self.pool_key(stack, agent_id, resources)?;
        let pool = self.agents.get(idx).and_then(|a| a.pool(from));
        if let Some(id) = pool.and_then(|p| in_the_way(&p.total, resources)) {
            return Err(has_volume(agent_id, id));
        }
        self.make_free(idx, agent_id, from, resources, run)?;
        self.unreserve_free(idx, from, stack, resources)
            .ok_or_else(|| not_free(agent_id, resources))?;
        self.touch(idx, run);
        Ok(())
    }

    /// The last reservation of a stack ends for free resources.
    pub(crate) fn unreserve_free(
        &mut self,
        idx: Idx,
        from: Idx,
        stack: &[Reservation],
        r: &Resources,
    ) -> Option<()> {
        let outer = &stack[..stack.len().checked_sub(1)?];
        if outer.is_empty() {
            return self.reserve_free(idx, from, NONE, r);
        }
        let to = self.stacks.hold(outer, &mut self.tree);
        let moved = self.reserve_free(idx, from, to, r);
        self.stacks.release(to, &mut self.tree);
        moved
    }

    /// Number of a stack that must exist already, or of none.
    pub(crate) fn pool_key(
        &self,
        stack: &[Reservation],
        agent_id: &AgentId,
        r: &Resources,
    ) -> Result<Idx, Rejection> {
        if stack.is_empty() {
            return Ok(NONE);
        }
        self.stacks.find(stack).ok_or_else(|| not_free(agent_id, r))
    }

    /// The deepest role of a stack's last reservation that is known; a new one has no limit.
    pub(crate) fn role_of(&self, stack: &[Reservation]) -> Option<Idx> {
        let mut name = stack.last()?.role.as_str();
        loop {
            if let Some(idx) = self.tree.find(name) {
                return Some(idx);
            }
            name = name.rsplit_once('/')?.0;
        }
    }

    /// By how much a reservation changes what is charged to roles. What it refines is charged to the roles above
    /// already.
    fn charges_of(&self, stack: &[Reservation], r: &Resources) -> Charges {
        let rows = self.kinds.rows(r);
        let mut more = Charges::new();
        if let Some(role) = self.role_of(stack) {
            self.charge_path(&mut more, role, &rows, true);
        }
        let outer = stack.split_last().map_or(&[][..], |(_, outer)| outer);
        if let Some(role) = self.role_of(outer) {
            self.charge_path(&mut more, role, &rows, false);
        }
        more
    }

    /// Which offers, beside those that are `gone` anyway, must come back so that limits leave room for a reservation:
    /// the latest that hold unreserved resources of a kind that is short, until it is enough. If it never is, that is
    /// the error.
    fn in_the_limits_way(
        &self,
        stack: &[Reservation],
        r: &Resources,
        gone: &[u64],
    ) -> Result<Vec<u64>, Rejection> {
        let more = self.charges_of(stack, r);
        let mut freed = Charges::new();
        for number in gone {
            if let Some((role, rows)) = self.charged_for(*number) {
                self.charge_path(&mut freed, role, &rows, false);
            }
        }
        let mut out = Vec::new();
        let mut others = self.offers.keys().rev().filter(|n| !gone.contains(n));
        while let Err(refused) = self.within_limits(&freed, &more) {
            let short = self.over_limits(&freed, &more);
            let relieves = |(role, rows): &(Idx, Rows)| {
                let mut short = short.iter();
                short.any(|(of, k)| rows[*k] > 0 && self.tree.is_within(*role, *of))
            };
            let mut held = others.by_ref().filter_map(|number| {
                let charged = self.charged_for(*number).filter(relieves)?;
                Some((*number, charged))
            });
            let (number, (role, rows)) = held.next().ok_or(refused)?;
            self.charge_path(&mut freed, role, &rows, false);
            out.push(number);
        }
        Ok(out)
    }

    /// What an offer counts against quota, and whose.
    fn charged_for(&self, number: u64) -> Option<(Idx, Rows)> {
        let held = self.offers.get(&number)?;
        let client = self.clients.get(held.client)?;
        Some((client.role, self.kinds.rows(&held.bundle.plain())))
    }

    /// Makes resources of a pool free by rescinding offers of the agent, if that is enough.
    pub(crate) fn make_free(
        &mut self,
        idx: Idx,
        agent_id: &AgentId,
        pool: Idx,
        r: &Resources,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        for number in self.holders(idx, agent_id, pool, r)? {
            self.rescind(number, RescindReason::Reserved, run);
        }
        Ok(())
    }

    /// Which offers of the agent must come back for resources of a pool to be free: whole offers that hold some of
    /// them, oldest first, until it is enough.
    fn holders(
        &self,
        idx: Idx,
        agent_id: &AgentId,
        pool: Idx,
        r: &Resources,
    ) -> Result<Vec<u64>, Rejection> {
        let agent = self.agents.get(idx).ok_or_else(|| not_free(agent_id, r))?;
        let mut would = agent.free_of(pool);
        let mut out = Vec::new();
        for number in &agent.offers {
            if would.contains(r) {
                break;
            }
            let parts = self.offers.get(number).map(|h| h.bundle.all_parts());
            let mut holds = false;
            for part in parts.into_iter().flatten().filter(|p| p.pool == pool) {
                holds |= would.try_add(&part.resources).is_some();
            }
            if holds {
                out.push(*number);
            }
        }
        if !would.contains(r) {
            return Err(not_free(agent_id, r));
        }
        Ok(out)
    }
}

pub(crate) fn check_reserve(stack: &[Reservation], r: &Resources) -> Result<(), Rejection> {
    check_stack(stack)?;
    if !stack.last().is_some_and(|r| r.dynamic) {
        return Err(Rejection::BadReservation(
            "static reservations are the agent's own",
        ));
    }
    if is_negative(r) {
        return Err(Rejection::Negative(r.clone()));
    }
    if r.is_empty() {
        return Err(Rejection::BadReservation("nothing is to be reserved"));
    }
    if r.custom.volumes().next().is_some() {
        return Err(Rejection::BadReservation(
            "a volume stays in the reservation that it was made of",
        ));
    }
    Ok(())
}

pub(crate) fn check_unreserve(
    agent_id: &AgentId,
    stack: &[Reservation],
    r: &Resources,
) -> Result<(), Rejection> {
    if let Some((id, _)) = r.custom.volumes().next() {
        return Err(has_volume(agent_id, id));
    }
    check_reserve(stack, r)
}

pub(crate) fn has_volume(agent_id: &AgentId, volume_id: &VolumeId) -> Rejection {
    Rejection::HasVolume {
        agent_id: agent_id.clone(),
        volume_id: volume_id.clone(),
    }
}

pub(crate) fn not_free(agent_id: &AgentId, r: &Resources) -> Rejection {
    Rejection::NotFree {
        agent_id: agent_id.clone(),
        resources: r.clone(),
    }
}
