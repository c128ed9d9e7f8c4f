//! Agents come, go and are set aside.

use std::sync::Arc;

use waggle_types::{AgentId, AgentInfo, FrameworkId, Reservation, Resources};

use crate::{
    AgentSpec, Allocator, Rejection, RescindReason, Usage,
    allocator::Run,
    bits::{Idx, NONE},
    choose::Look,
    filters::Timer,
    kinds::{self, MAX_KINDS, MAX_TOTAL},
    ledger::{Agent, Part, Use, is_negative, split},
    reserve::check_stack,
    volumes::{MAX_VOLUMES, check_volume, duplicate},
};

/// Reservations on one agent.
pub const MAX_POOLS: usize = 256;

impl Part {
    /// Whether it counts against its role's quota by itself.
    pub(crate) fn is_plain(&self) -> bool {
        self.pool == NONE
    }
}

impl Allocator {
    pub(crate) fn agent_added(
        &mut self,
        info: AgentInfo,
        used: Vec<(FrameworkId, Resources)>,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let usage = |(framework_id, resources)| Usage {
            framework_id,
            role: String::new(),
            reservation: Vec::new(),
            revocable: false,
            resources,
        };
        // A flat registration says nothing of reservations: those that still fit stay.
        let mut reserved = Vec::new();
        if let Some(agent) = self.agent(&info.agent_id) {
            let mut left = info.total.flat().unwrap_or_default();
            reserved = self.reservations_of(agent);
            reserved.retain(|(_, r)| r.flat().and_then(|r| left.try_sub(&r)).is_some());
        }
        let spec = AgentSpec {
            info: Arc::new(info),
            reserved,
        };
        self.agent_joined(spec, used.into_iter().map(usage).collect(), run)
    }

    pub(crate) fn agent_joined(
        &mut self,
        spec: AgentSpec,
        used: Vec<Usage>,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let AgentSpec { info, reserved } = spec;
        let total = add_up(&info, &reserved, &used)?;
        self.fits(&info, &total)?;
        let agent_id = info.agent_id.clone();
        if let Some(old) = self.agent_ids.get(&agent_id).copied() {
            self.remove_agent(old, RescindReason::AgentChanged, run);
        }
        for name in kinds::names(&total) {
            let held = self.kinds.hold(&name);
            debug_assert!(held.is_some(), "there is room for its kinds");
        }
        let mut agent = Agent::open(info, total);
        agent.barred = self.bar_all(&agent.info);
        kinds::add(&mut self.total, &self.kinds.rows(&agent.total));
        let idx = self.agents.insert(agent);
        if self.looks.len() <= idx as usize {
            self.looks.resize_with(idx as usize + 1, Look::default);
        }
        self.agent_ids.insert(agent_id, idx);
        for (stack, resources) in &reserved {
            let key = self.stacks.hold(stack, &mut self.tree);
            self.reserve_free(idx, NONE, key, resources);
            self.stacks.release(key, &mut self.tree);
        }
        // What is said to be of a reservation has its place; the rest finds one.
        let (exact, loose): (Vec<_>, Vec<_>) =
            used.into_iter().partition(|u| !u.reservation.is_empty());
        for usage in exact.into_iter().chain(loose) {
            let framework = self.framework_slot(&usage.framework_id);
            let role = if usage.role.is_empty() {
                self.first_role(framework)
            } else {
                usage.role.clone()
            };
            let client = self.client_slot(framework, &role);
            // Of which reservation is not known: what is unreserved first, then what its role may use.
            let pool = self.stacks.find(&usage.reservation).unwrap_or(NONE);
            let part = Part {
                pool,
                lent: usage.revocable && pool != NONE,
                resources: usage.resources,
            };
            for part in self.place(idx, part) {
                self.use_free(idx, client, &part);
            }
            self.drop_client(client);
        }
        self.touch(idx, run);
        Ok(())
    }

    /// Whether the cluster can count what an agent has.
    fn fits(&self, info: &AgentInfo, total: &Resources) -> Result<(), Rejection> {
        let old = self.agent(&info.agent_id);
        let Some(after) = self.kinds.exchanged(old.map(|a| &a.total), total) else {
            return Err(Rejection::Full {
                what: "kinds of resources",
                max: MAX_KINDS,
            });
        };
        let rows = after.rows(total);
        let of_old = old.map(|a| self.kinds.rows(&a.total)).unwrap_or_default();
        // A row that goes over from one kind to another has nothing of the others.
        let too_many = |k: usize| rows[k].saturating_add(self.total[k] - of_old[k]) > MAX_TOTAL;
        if (0..MAX_KINDS).any(too_many) {
            return Err(Rejection::Full {
                what: "units of a kind in the cluster",
                max: usize::try_from(MAX_TOTAL / 1000).unwrap_or(usize::MAX),
            });
        }
        Ok(())
    }

    /// Where a part that is said to be unreserved can be: as it is, or divided among reservations.
    fn place(&self, idx: Idx, part: Part) -> Vec<Part> {
        let Some(agent) = self.agents.get(idx) else {
            return Vec::new();
        };
        if agent.pools.is_empty() || part.pool != NONE {
            return vec![part];
        }
        let mut from = vec![Part {
            pool: NONE,
            lent: false,
            resources: agent.plain_free(),
        }];
        from.extend(agent.pools.iter().map(|p| Part {
            pool: p.key,
            lent: false,
            resources: p.free.clone(),
        }));
        split(&from, &part.resources).unwrap_or_default()
    }

    fn first_role(&self, framework: Idx) -> String {
        let first = self.frameworks.get(framework).and_then(|f| f.first);
        first
            .and_then(|c| self.clients.get(c))
            .map_or_else(String::new, |c| self.tree.name(c.role).to_owned())
    }

    pub(crate) fn agent_removed(
        &mut self,
        agent_id: &AgentId,
        reason: RescindReason,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let idx = self.agent_idx(agent_id)?;
        self.remove_agent(idx, reason, run);
        Ok(())
    }

    pub(crate) fn remove_agent(&mut self, idx: Idx, reason: RescindReason, run: &mut Run) {
        self.rescind_agent(idx, reason, run);
        if reason != RescindReason::AgentChanged {
            self.rescind_inverse(idx, run, |_| true);
        }
        if let Some(agent) = self.agents.get_mut(idx) {
            // Its tasks are gone with it; what is reserved of it counts for nobody any more.
            let uses = std::mem::take(&mut agent.uses);
            let pools = std::mem::take(&mut agent.pools);
            for u in &uses {
                self.charge(u.client, &u.part.resources, false, u.part.is_plain());
                self.unuse(u.client);
                self.lent_changed(idx, &u.part);
            }
            for pool in &pools {
                self.uncount_pool(pool.key, &pool.total);
            }
            self.with_pools.remove(idx);
        }
        if let Some(agent) = self.agents.get_mut(idx) {
            agent.active = false;
        }
        self.recount(idx);
        if let Some(agent) = self.agents.remove(idx) {
            self.agent_ids.remove(&agent.info.agent_id);
            kinds::sub(&mut self.total, &self.kinds.rows(&agent.total));
            for name in kinds::names(&agent.total) {
                if let Some(row) = self.kinds.find(&name) {
                    self.kinds.release(row);
                }
            }
            if let Some(at) = agent.filter_timer {
                self.timers.remove(&(at, Timer::Filters(idx)));
            }
            if let Some(at) = agent.upkeep.timer {
                self.timers.remove(&(at, Timer::Upkeep(idx)));
            }
        }
        self.held_back.remove(idx);
        run.dirty.retain(|d| *d != idx);
    }

    pub(crate) fn set_active(
        &mut self,
        agent_id: &AgentId,
        active: bool,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let idx = self.agent_idx(agent_id)?;
        if let Some(agent) = self.agents.get_mut(idx) {
            agent.active = active;
            if active {
                agent.upkeep.draining = None;
            }
        }
        if !active {
            self.rescind_agent(idx, RescindReason::AgentDeactivated, run);
            self.not_awaited(idx);
        }
        self.touch(idx, run);
        Ok(())
    }

    /// A client uses free resources; both the agent's books and the shares.
    pub(crate) fn use_free(&mut self, idx: Idx, client: Idx, part: &Part) -> Option<()> {
        if part.resources.is_empty() {
            return Some(());
        }
        let agent = self.agents.get_mut(idx)?;
        let n = agent.uses.len();
        agent.take(client, part)?;
        let more = agent.uses.len() - n;
        if let Some(c) = self.clients.get_mut(client) {
            c.n_uses += more;
        }
        self.charge(client, &part.resources, true, part.is_plain());
        self.lent_changed(idx, part);
        Some(())
    }

    /// Used becomes free, in the books and the shares.
    fn end_use(&mut self, idx: Idx, client: Idx, part: &Part) -> Option<()> {
        let agent = self.agents.get_mut(idx)?;
        let n = agent.uses.len();
        agent.release(client, part)?;
        let ended = n > agent.uses.len();
        self.charge(client, &part.resources, false, part.is_plain());
        if ended {
            self.unuse(client);
        }
        self.lent_changed(idx, part);
        Some(())
    }

    fn unuse(&mut self, client: Idx) {
        if let Some(c) = self.clients.get_mut(client) {
            c.n_uses = c.n_uses.saturating_sub(1);
        }
        self.drop_client(client);
    }

    /// All that a client uses.
    pub(crate) fn parts_of(&self, client: Idx) -> Vec<Part> {
        let uses = self.agents.iter().flat_map(|(_, a)| &a.uses);
        uses.filter(|u| u.client == client)
            .map(|u| u.part.clone())
            .collect()
    }

    /// What one client uses on an agent becomes another's.
    pub(crate) fn move_uses(&mut self, idx: Idx, from: Idx, to: Idx) {
        let Some(agent) = self.agents.get(idx) else {
            return;
        };
        let uses = agent.uses.iter().filter(|u| u.client == from);
        let parts: Vec<Part> = uses.flat_map(Use::one_by_one).collect();
        for part in parts {
            self.end_use(idx, from, &part);
            self.use_free(idx, to, &part);
        }
    }

    pub(crate) fn released(
        &mut self,
        framework_id: &FrameworkId,
        agent_id: &AgentId,
        resources: &Resources,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        if is_negative(resources) {
            return Err(Rejection::Negative(resources.clone()));
        }
        let idx = self.agent_idx(agent_id)?;
        let not_used = || Rejection::NotUsed {
            framework_id: framework_id.clone(),
            agent_id: agent_id.clone(),
            resources: resources.clone(),
        };
        let framework = *self.framework_ids.get(framework_id).ok_or_else(not_used)?;
        self.take_back(idx, framework, None, resources)
            .ok_or_else(not_used)?;
        self.emptied(idx, run);
        self.touch(idx, run);
        Ok(())
    }

    /// Ends uses of a framework that add up to this: those of one client before others, what is lent before
    /// what is not reserved before what is. `None`, and nothing changed, when it does not use that much.
    fn take_back(
        &mut self,
        idx: Idx,
        framework: Idx,
        of: Option<Idx>,
        resources: &Resources,
    ) -> Option<()> {
        let agent = self.agents.get(idx)?;
        let of_it = |u: &&Use| {
            let client = self.clients.get(u.client);
            client.is_some_and(|c| c.framework == framework)
        };
        let mut uses: Vec<&Use> = agent.uses.iter().filter(of_it).collect();
        uses.sort_by_key(|u| {
            let other = of.is_some_and(|of| of != u.client);
            let (lent, pool) = (u.part.lent, u.part.pool);
            (other, !lent, pool != NONE, pool, u.client)
        });
        let mut left = resources.clone();
        let mut out = Vec::new();
        for u in &uses {
            let common = u.common(&left);
            if common.is_empty() {
                continue;
            }
            left.try_sub(&common)?;
            let part = Part {
                resources: common,
                ..u.part
            };
            out.push((u.client, part));
            if left.is_empty() {
                break;
            }
        }
        if !left.is_empty() || uses.is_empty() {
            return None;
        }
        for (client, part) in out {
            self.end_use(idx, client, &part);
        }
        Some(())
    }

    pub(crate) fn usage_ended(
        &mut self,
        agent_id: &AgentId,
        usage: &Usage,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        if is_negative(&usage.resources) {
            return Err(Rejection::Negative(usage.resources.clone()));
        }
        let idx = self.agent_idx(agent_id)?;
        let not_used = || Rejection::NotUsed {
            framework_id: usage.framework_id.clone(),
            agent_id: agent_id.clone(),
            resources: usage.resources.clone(),
        };
        let framework = self.framework_ids.get(&usage.framework_id).copied();
        let framework = framework.ok_or_else(not_used)?;
        let client = if usage.role.is_empty() {
            self.frameworks.get(framework).and_then(|f| f.first)
        } else {
            None
        };
        let client = client.or_else(|| self.client_in(framework, &usage.role));
        let pool = if usage.reservation.is_empty() {
            Some(NONE)
        } else {
            self.stacks.find(&usage.reservation)
        };
        let exact = client.zip(pool).and_then(|(client, pool)| {
            let part = Part {
                pool,
                lent: usage.revocable,
                resources: usage.resources.clone(),
            };
            self.end_use(idx, client, &part)
        });
        if exact.is_none() {
            // The agent came back with other reservations than it had, and it found another place.
            self.take_back(idx, framework, client, &usage.resources)
                .ok_or_else(not_used)?;
        }
        self.emptied(idx, run);
        self.touch(idx, run);
        Ok(())
    }
}

/// All that an agent has, volumes in place of the disk that they are made of, if what it says of itself
/// adds up.
fn add_up(
    info: &AgentInfo,
    reserved: &[(Vec<Reservation>, Resources)],
    used: &[Usage],
) -> Result<Resources, Rejection> {
    let exceeds = || Rejection::UsedExceedsTotal {
        agent_id: info.agent_id.clone(),
        total: info.total.clone(),
    };
    if reserved.len() > MAX_POOLS {
        return Err(Rejection::Full {
            what: "reservations on an agent",
            max: MAX_POOLS,
        });
    }
    let all = reserved.iter().map(|(_, r)| r).chain([&info.total]);
    let mut every = all.chain(used.iter().map(|u| &u.resources));
    if let Some(r) = every.find(|r| is_negative(r)) {
        return Err(Rejection::Negative(r.clone()));
    }
    for (at, (stack, r)) in reserved.iter().enumerate() {
        check_stack(stack)?;
        for (id, volume) in r.custom.volumes() {
            check_volume(id, volume)?;
            let twice = |(_, o): &(_, Resources)| o.custom.volume(id).is_some();
            if reserved[..at].iter().any(twice) {
                return Err(duplicate(&info.agent_id, id));
            }
        }
    }
    for usage in used.iter().filter(|u| !u.role.is_empty()) {
        waggle_types::check_role(&usage.role)?;
    }
    for name in kinds::names(&info.total) {
        waggle_types::check_kind(&name)?;
    }
    let reserved_sum = sum(reserved.iter().map(|(_, r)| r)).ok_or_else(exceeds)?;
    if reserved_sum.custom.volumes().count() > MAX_VOLUMES {
        return Err(Rejection::Full {
            what: "volumes on an agent",
            max: MAX_VOLUMES,
        });
    }
    let flat = |r: &Resources| r.flat().ok_or_else(exceeds);
    let rest = flat(&info.total)?.checked_sub(&flat(&reserved_sum)?);
    let total = rest.and_then(|r| r.checked_add(&reserved_sum));
    let total = total.ok_or_else(exceeds)?;
    let used_sum = sum(used.iter().map(|u| &u.resources)).ok_or_else(exceeds)?;
    if !total.contains(&used_sum) {
        return Err(exceeds());
    }
    for usage in used.iter().filter(|u| !u.reservation.is_empty()) {
        let stack = &usage.reservation;
        let of = reserved.iter().filter(|(s, _)| s == stack);
        let uses = used.iter().filter(|u| u.reservation == *stack);
        let has = sum(of.map(|(_, r)| r)).ok_or_else(exceeds)?;
        let uses = sum(uses.map(|u| &u.resources)).ok_or_else(exceeds)?;
        if !has.contains(&uses) {
            return Err(exceeds());
        }
    }
    Ok(total)
}

fn sum<'a>(mut parts: impl Iterator<Item = &'a Resources>) -> Option<Resources> {
    parts.try_fold(Resources::default(), |s, r| s.checked_add(r))
}
