//! Operations tried one after the other on what offers hold, without a change to any book.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{
    AgentId, FrameworkId, Milli, Reservation, ResourcePart, Resources, Volume, VolumeId, sum_parts,
};

use crate::{
    Allocator, Operation, Rejection,
    agents::MAX_POOLS,
    bits::{Idx, NONE},
    hand::Hand,
    kinds::{self, Rows},
    ledger::{Bundle, is_negative},
    quota::Charges,
    reserve::{check_reserve, check_stack, check_unreserve, has_volume, not_free},
    volumes::{check_count, check_volume, duplicate, in_use, just_volume, unknown},
};

/// See the module.
pub(crate) struct Trial<'a> {
    allocator: &'a Allocator,
    agent: Idx,
    agent_id: AgentId,
    /// The role that the offers are to.
    role: Idx,
    pub hand: Hand,
    /// By how much what is charged to quota has changed, by role.
    charged: Charges,
    /// What of the unreserved resources in the hand is charged to the role, since it was offered to it.
    /// What is unreserved by an operation is not.
    paid: Rows,
    /// What each launch was given.
    pub launched: Vec<Vec<ResourcePart>>,
    n_new_pools: usize,
    /// Volumes that were made, and of which reservation; volumes that were there and are gone.
    created: BTreeMap<VolumeId, Vec<Reservation>>,
    destroyed: BTreeSet<VolumeId>,
}

impl<'a> Trial<'a> {
    pub fn new(
        allocator: &'a Allocator,
        agent: Idx,
        client: Idx,
        bundle: &Bundle,
    ) -> Result<Self, Rejection> {
        let known = allocator.agents.get(agent);
        let role = allocator.clients.get(client).map_or(NONE, |c| c.role);
        let parts = bundle.all_parts().into_iter();
        Ok(Self {
            allocator,
            agent,
            agent_id: known
                .map(|a| a.info.agent_id.clone())
                .ok_or(Rejection::NoOffers)?,
            role,
            hand: Hand::new(parts.map(|p| allocator.show_part(p)).collect()),
            charged: Charges::new(),
            paid: allocator.kinds.rows(&bundle.plain()),
            launched: Vec::new(),
            n_new_pools: 0,
            created: BTreeMap::new(),
            destroyed: BTreeSet::new(),
        })
    }

    pub fn operation(
        &mut self,
        framework_id: &FrameworkId,
        op: &Operation,
    ) -> Result<(), Rejection> {
        match op {
            Operation::Launch { resources, parts } => self.launch(resources, parts),
            Operation::Reserve { stack, resources } => {
                check_reserve(stack, resources)?;
                let mine = self.within_reach(framework_id, stack)?;
                let outer = &stack[..stack.len() - 1];
                let taken = self.hand.take(outer, false, resources);
                taken.ok_or_else(|| not_free(&self.agent_id, resources))?;
                let mut more = Charges::new();
                let rows = self.allocator.kinds.rows(resources);
                if outer.is_empty() {
                    let paid = self.pay(&rows);
                    let a = self.allocator;
                    a.charge_path(&mut more, self.role, &paid, false);
                } else {
                    self.charge_stack(&mut more, outer, &rows, false);
                }
                self.charge_stack(&mut more, stack, &rows, true);
                self.charge(&more)?;
                self.one_more_pool(stack)?;
                if mine {
                    self.hand.put(stack, resources);
                }
                Ok(())
            }
            Operation::Unreserve { stack, resources } => {
                check_unreserve(&self.agent_id, stack, resources)?;
                let outer = &stack[..stack.len() - 1];
                if let Some(id) = self.hand.in_the_way(stack, resources) {
                    return Err(has_volume(&self.agent_id, id));
                }
                let taken = self.hand.take(stack, false, resources);
                taken.ok_or_else(|| not_free(&self.agent_id, resources))?;
                let mut more = Charges::new();
                let rows = self.allocator.kinds.rows(resources);
                self.charge_stack(&mut more, stack, &rows, false);
                if !outer.is_empty() {
                    self.charge_stack(&mut more, outer, &rows, true);
                    self.one_more_pool(outer)?;
                }
                self.charge(&more)?;
                self.hand.put(outer, resources);
                Ok(())
            }
            Operation::CreateVolume {
                stack,
                volume_id,
                volume,
            } => self.create(stack, volume_id, *volume),
            Operation::ResizeVolume {
                stack,
                volume_id,
                size,
            } => self.resize(stack, volume_id, *size),
            Operation::DestroyVolume { stack, volume_id } => self.destroy(stack, volume_id),
        }
    }

    fn create(
        &mut self,
        stack: &[Reservation],
        volume_id: &VolumeId,
        volume: Volume,
    ) -> Result<(), Rejection> {
        check_stack(stack)?;
        check_volume(volume_id, volume)?;
        let agent = self.allocator.agents.get(self.agent);
        let volumes = agent.map(|a| &a.total.custom);
        let had = volumes.is_some_and(|v| v.volume(volume_id).is_some());
        // One that was destroyed in this accept may come back.
        if self.created.contains_key(volume_id) || (had && !self.destroyed.contains(volume_id)) {
            return Err(duplicate(&self.agent_id, volume_id));
        }
        let n = volumes.map_or(0, |v| v.volumes().count());
        check_count(n - self.destroyed.len() + self.created.len())?;
        let disk = Resources::of_disk(volume_id, volume.size);
        let taken = self.hand.take(stack, false, &disk);
        taken.ok_or_else(|| not_free(&self.agent_id, &disk))?;
        self.hand.put(stack, &just_volume(volume_id, volume));
        self.created.insert(volume_id.clone(), stack.to_vec());
        Ok(())
    }

    fn resize(
        &mut self,
        stack: &[Reservation],
        volume_id: &VolumeId,
        size: Milli,
    ) -> Result<(), Rejection> {
        let old = self.unused(stack, volume_id)?;
        let new = Volume { size, ..old };
        check_volume(volume_id, new)?;
        let disk = |more: i64| Resources::of_disk(volume_id, Milli(more.max(0)));
        let more = disk(size.0.saturating_sub(old.size.0));
        let from = just_volume(volume_id, old).checked_add(&more);
        let to = just_volume(volume_id, new).checked_add(&disk(old.size.0.saturating_sub(size.0)));
        let taken = from.and_then(|from| self.hand.take(stack, false, &from));
        let ((), to) = taken
            .zip(to)
            .ok_or_else(|| not_free(&self.agent_id, &more))?;
        self.hand.put(stack, &to);
        Ok(())
    }

    fn destroy(&mut self, stack: &[Reservation], volume_id: &VolumeId) -> Result<(), Rejection> {
        let volume = self.unused(stack, volume_id)?;
        let whole = just_volume(volume_id, volume);
        let taken = self.hand.take(stack, false, &whole);
        taken.ok_or_else(|| not_free(&self.agent_id, &whole))?;
        self.hand
            .put(stack, &Resources::of_disk(volume_id, volume.size));
        if self.created.remove(volume_id).is_none() {
            self.destroyed.insert(volume_id.clone());
        }
        Ok(())
    }

    /// A volume that is there at this point of the accept, and that nobody uses.
    fn unused(&self, stack: &[Reservation], volume_id: &VolumeId) -> Result<Volume, Rejection> {
        check_stack(stack)?;
        let made_here = self.created.get(volume_id).is_some_and(|s| s == stack);
        if self.destroyed.contains(volume_id) && !made_here {
            return Err(unknown(&self.agent_id, volume_id));
        }
        if !made_here {
            self.allocator
                .check_destroy(self.agent, &self.agent_id, stack, volume_id)?;
        }
        let launched = self.launched.iter().flatten();
        let mut volumes = launched.flat_map(|p| p.resources.custom.volumes());
        if volumes.any(|(id, _)| id == volume_id) {
            return Err(in_use(&self.agent_id, volume_id));
        }
        let agent = self.allocator.agents.get(self.agent);
        let made = self.hand.volume(stack, volume_id);
        let volume = made.or_else(|| agent?.total.custom.volume(volume_id));
        volume.ok_or_else(|| unknown(&self.agent_id, volume_id))
    }

    fn launch(&mut self, resources: &Resources, parts: &[ResourcePart]) -> Result<(), Rejection> {
        let mut all = parts.iter().map(|p| &p.resources).chain([resources]);
        if let Some(r) = all.find(|r| is_negative(r)) {
            return Err(Rejection::Negative(r.clone()));
        }
        let missing = || not_free(&self.agent_id, resources);
        let given = if parts.is_empty() {
            self.hand.give(resources).ok_or_else(missing)?
        } else {
            if sum_parts(parts).as_ref() != Some(resources) {
                return Err(Rejection::BadParts("they do not add up to the whole"));
            }
            for part in parts {
                let taken = self
                    .hand
                    .launch(&part.reservation, part.revocable, &part.resources);
                taken.ok_or_else(|| not_free(&self.agent_id, &part.resources))?;
            }
            parts.to_vec()
        };
        for part in given.iter().filter(|p| p.is_plain()) {
            let mut unpaid = self.allocator.kinds.rows(&part.resources);
            let paid = self.pay(&unpaid);
            kinds::sub(&mut unpaid, &paid);
            let mut more = Charges::new();
            self.allocator
                .charge_path(&mut more, self.role, &unpaid, true);
            self.charge(&more)?;
        }
        self.launched.push(given);
        Ok(())
    }

    /// Whether what is reserved so can be offered to the framework again. A framework reserves for its
    /// role, for one above it, or hands down to one below; for nobody else.
    fn within_reach(
        &self,
        framework_id: &FrameworkId,
        stack: &[Reservation],
    ) -> Result<bool, Rejection> {
        let mine = self.allocator.tree.name(self.role);
        let of = stack.last().map_or("", |r| r.role.as_str());
        let below = |role: &str, above: &str| {
            role == above
                || role
                    .strip_prefix(above)
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        if below(mine, of) {
            Ok(true)
        } else if below(of, mine) {
            Ok(false)
        } else {
            Err(Rejection::NotInRole {
                framework_id: framework_id.clone(),
                role: of.to_owned(),
            })
        }
    }

    fn one_more_pool(&mut self, stack: &[Reservation]) -> Result<(), Rejection> {
        let agent = self.allocator.agents.get(self.agent);
        let key = self.allocator.stacks.find(stack);
        let had = key.is_some_and(|k| agent.is_some_and(|a| a.pool(k).is_some()));
        // One that is made twice is counted twice, which is of no matter this far from the bound.
        self.n_new_pools += usize::from(!had);
        if agent.map_or(0, |a| a.pools.len()) + self.n_new_pools > MAX_POOLS {
            return Err(Rejection::Full {
                what: "reservations on an agent",
                max: MAX_POOLS,
            });
        }
        Ok(())
    }

    /// Takes unreserved resources out of the hand: what of them is charged to the role.
    fn pay(&mut self, rows: &Rows) -> Rows {
        let paid = std::array::from_fn(|k| rows[k].min(self.paid[k]));
        kinds::sub(&mut self.paid, &paid);
        paid
    }

    fn charge_stack(&self, to: &mut Charges, stack: &[Reservation], rows: &Rows, add: bool) {
        if let Some(role) = self.allocator.role_of(stack) {
            self.allocator.charge_path(to, role, rows, add);
        }
    }

    fn charge(&mut self, more: &Charges) -> Result<(), Rejection> {
        self.allocator.within_limits(&self.charged, more)?;
        for (role, rows) in more {
            kinds::add(self.charged.entry(*role).or_default(), rows);
        }
        Ok(())
    }
}
