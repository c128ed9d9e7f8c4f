//! Persistent volumes: disk of a reservation that has an identity.
//!
//! A shared volume is never used up: it is always free, goes with every offer of its reservation, and costs
//! nobody a share; its users are counted, and it can't be destroyed while there are any. Any other volume is
//! used, offered or free as all resources are. None of them is lent: what is on it is its role's.

use std::borrow::Cow;

use waggle_types::{AgentId, Milli, Reservation, Resources, Volume, VolumeId};

use crate::{
    Allocator, Rejection, RescindReason,
    allocator::Run,
    bits::Idx,
    ledger::Agent,
    reserve::{check_stack, not_free},
};

/// Volumes on one agent.
pub const MAX_VOLUMES: usize = 1024;

/// What of a bundle has one holder: all but shared volumes.
pub(crate) fn owned(r: &Resources) -> Cow<'_, Resources> {
    without(r, |v| v.shared)
}

/// A bundle without its volumes.
pub(crate) fn without_volumes(r: &Resources) -> Cow<'_, Resources> {
    without(r, |_| true)
}

fn without(r: &Resources, leave_out: impl Fn(Volume) -> bool) -> Cow<'_, Resources> {
    let out: Vec<&VolumeId> = r
        .custom
        .volumes()
        .filter(|(_, v)| leave_out(*v))
        .map(|(id, _)| id)
        .collect();
    if out.is_empty() {
        return Cow::Borrowed(r);
    }
    let mut rest = r.clone();
    for id in out {
        rest.custom.remove_volume(id);
    }
    Cow::Owned(rest)
}

/// A volume of a reservation because of which it can't end for this much: the disk is there, but made
/// into volumes.
pub(crate) fn in_the_way<'a>(of: &'a Resources, r: &Resources) -> Option<&'a VolumeId> {
    let (id, _) = of.custom.volumes().next()?;
    let has_it = of.flat().is_some_and(|of| of.contains(r));
    let as_it_is = without_volumes(of).contains(r);
    (has_it && !as_it_is).then_some(id)
}

pub(crate) fn just_volume(id: &VolumeId, volume: Volume) -> Resources {
    let mut r = Resources::default();
    r.custom.set_volume(id.clone(), volume);
    r
}

/// The rules of a volume by itself.
pub(crate) fn check_volume(id: &VolumeId, volume: Volume) -> Result<(), Rejection> {
    if volume.size.0 > 0 {
        return Ok(());
    }
    Err(Rejection::BadVolume {
        volume_id: id.clone(),
        rule: "its size must be over 0",
    })
}

/// Whether an agent with so many volumes can have one more.
pub(crate) fn check_count(n: usize) -> Result<(), Rejection> {
    if n >= MAX_VOLUMES {
        return Err(Rejection::Full {
            what: "volumes on an agent",
            max: MAX_VOLUMES,
        });
    }
    Ok(())
}

pub(crate) fn duplicate(agent_id: &AgentId, volume_id: &VolumeId) -> Rejection {
    Rejection::DuplicateVolume {
        agent_id: agent_id.clone(),
        volume_id: volume_id.clone(),
    }
}

pub(crate) fn unknown(agent_id: &AgentId, volume_id: &VolumeId) -> Rejection {
    Rejection::UnknownVolume {
        agent_id: agent_id.clone(),
        volume_id: volume_id.clone(),
    }
}

pub(crate) fn in_use(agent_id: &AgentId, volume_id: &VolumeId) -> Rejection {
    Rejection::VolumeInUse {
        agent_id: agent_id.clone(),
        volume_id: volume_id.clone(),
    }
}

impl Agent {
    /// Free disk of a reservation becomes a volume. `None`, and nothing changed, when it is not free.
    pub fn create(&mut self, pool: Idx, id: &VolumeId, volume: Volume) -> Option<()> {
        self.exchange(
            pool,
            &Resources::of_disk(id, volume.size),
            &just_volume(id, volume),
        )
    }

    /// A free volume becomes disk again.
    pub fn destroy(&mut self, pool: Idx, id: &VolumeId) -> Option<()> {
        let volume = self.pool(pool)?.free.custom.volume(id)?;
        self.exchange(
            pool,
            &just_volume(id, volume),
            &Resources::of_disk(id, volume.size),
        )
    }

    /// A free volume gets another size: free disk of its reservation goes into it, or comes out of it.
    pub fn resize(&mut self, pool: Idx, id: &VolumeId, size: Milli) -> Option<()> {
        let old = self.pool(pool)?.free.custom.volume(id)?;
        let new = Volume { size, ..old };
        let disk = |more: i64| Resources::of_disk(id, Milli(more.max(0)));
        let from = just_volume(id, old).checked_add(&disk(size.0.checked_sub(old.size.0)?))?;
        let to = just_volume(id, new).checked_add(&disk(old.size.0.checked_sub(size.0)?))?;
        self.exchange(pool, &from, &to)
    }

    fn exchange(&mut self, pool: Idx, old: &Resources, new: &Resources) -> Option<()> {
        let exchanged = |r: &Resources| r.checked_sub(old)?.checked_add(new);
        let (free, total) = (exchanged(&self.free)?, exchanged(&self.total)?);
        let pool = self.pool_mut(pool)?;
        let (pool_free, pool_total) = (exchanged(&pool.free)?, exchanged(&pool.total)?);
        (pool.free, pool.total) = (pool_free, pool_total);
        (self.free, self.total) = (free, total);
        Some(())
    }

    /// How many times a volume is used.
    pub fn uses_of(&self, id: &VolumeId) -> usize {
        let uses = self.uses.iter().map(|u| u.times(id));
        uses.sum()
    }
}

impl Allocator {
    pub(crate) fn create_volume(
        &mut self,
        agent_id: &AgentId,
        stack: &[Reservation],
        volume_id: &VolumeId,
        volume: Volume,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let idx = self.agent_idx(agent_id)?;
        check_stack(stack)?;
        check_volume(volume_id, volume)?;
        let disk = Resources::of_disk(volume_id, volume.size);
        let missing = || not_free(agent_id, &disk);
        let agent = self.agents.get(idx).ok_or_else(missing)?;
        if agent.total.custom.volume(volume_id).is_some() {
            return Err(duplicate(agent_id, volume_id));
        }
        check_count(agent.total.custom.volumes().count())?;
        let pool = self.pool_key(stack, agent_id, &disk)?;
        self.make_free(idx, agent_id, pool, &disk, run)?;
        let agent = self.agents.get_mut(idx).ok_or_else(missing)?;
        agent.create(pool, volume_id, volume).ok_or_else(missing)?;
        self.touch(idx, run);
        Ok(())
    }

    pub(crate) fn destroy_volume(
        &mut self,
        agent_id: &AgentId,
        stack: &[Reservation],
        volume_id: &VolumeId,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let idx = self.agent_idx(agent_id)?;
        check_stack(stack)?;
        let pool = self.check_destroy(idx, agent_id, stack, volume_id)?;
        self.destroy_unused(idx, pool, volume_id, run)
            .ok_or_else(|| unknown(agent_id, volume_id))?;
        self.touch(idx, run);
        Ok(())
    }

    /// The pool of a volume that may be destroyed, as far as its users go.
    pub(crate) fn check_destroy(
        &self,
        idx: Idx,
        agent_id: &AgentId,
        stack: &[Reservation],
        volume_id: &VolumeId,
    ) -> Result<Idx, Rejection> {
        let missing = || unknown(agent_id, volume_id);
        let agent = self.agents.get(idx).ok_or_else(missing)?;
        let pool = self.stacks.find(stack).ok_or_else(missing)?;
        let of = agent.pool(pool).ok_or_else(missing)?;
        of.total.custom.volume(volume_id).ok_or_else(missing)?;
        if agent.uses_of(volume_id) > 0 {
            return Err(in_use(agent_id, volume_id));
        }
        Ok(pool)
    }

    /// Destroys a volume that nobody uses; offers that hold it are rescinded.
    pub(crate) fn destroy_unused(
        &mut self,
        idx: Idx,
        pool: Idx,
        volume_id: &VolumeId,
        run: &mut Run,
    ) -> Option<()> {
        self.rescind_holders(idx, volume_id, run)?;
        self.agents.get_mut(idx)?.destroy(pool, volume_id)
    }

    /// A volume that nobody uses gets another size; offers that hold it are rescinded.
    pub(crate) fn resize_volume(
        &mut self,
        agent_id: &AgentId,
        stack: &[Reservation],
        volume_id: &VolumeId,
        size: Milli,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let idx = self.agent_idx(agent_id)?;
        check_stack(stack)?;
        let pool = self.check_destroy(idx, agent_id, stack, volume_id)?;
        let missing = || unknown(agent_id, volume_id);
        let agent = self.agents.get(idx).ok_or_else(missing)?;
        let old = agent.total.custom.volume(volume_id).ok_or_else(missing)?;
        check_volume(volume_id, Volume { size, ..old })?;
        let more = Resources::of_disk(volume_id, Milli(size.0.saturating_sub(old.size.0).max(0)));
        if !more.is_empty() {
            self.make_free(idx, agent_id, pool, &more, run)?;
        }
        self.rescind_holders(idx, volume_id, run);
        let agent = self.agents.get_mut(idx).ok_or_else(missing)?;
        let resized = agent.resize(pool, volume_id, size);
        resized.ok_or_else(|| not_free(agent_id, &more))?;
        self.touch(idx, run);
        Ok(())
    }

    /// Offers that hold a volume are void.
    pub(crate) fn rescind_holders(
        &mut self,
        idx: Idx,
        volume_id: &VolumeId,
        run: &mut Run,
    ) -> Option<()> {
        let agent = self.agents.get(idx)?;
        let holds = |number: &&u64| {
            let held = self.offers.get(number);
            held.is_some_and(|h| h.bundle.sum.custom.volume(volume_id).is_some())
        };
        let rescind: Vec<u64> = agent.offers.iter().filter(holds).copied().collect();
        for number in rescind {
            self.rescind(number, RescindReason::Reserved, run);
        }
        Some(())
    }
}
