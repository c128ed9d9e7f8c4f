//! Accepting offers with operations: launch, reserve, unreserve, make and destroy volumes. All of them or
//! none; each sees what the ones before it made.

use std::collections::BTreeMap;

use waggle_types::{
    AgentId, FrameworkId, Millis, OfferId, Reservation, ResourcePart, Resources, UnixMillis,
    Volume, VolumeId, sum_parts,
};

use crate::{
    Allocator, Effect, Rejection,
    agents::MAX_POOLS,
    allocator::Run,
    bits::{Idx, NONE},
    hand::Hand,
    ledger::{Bundle, Part, is_negative},
    offers::Taken,
    reserve::{check_reserve, check_stack, not_free},
    share::{self, Scalars, scalars},
};

/// What a framework does with offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A task takes this. What it was given of which reservation is said by [`Effect::Launched`].
    Launch {
        /// How much, together.
        resources: Resources,
        /// Exactly of what, adding up to `resources`. Empty: what is reserved for the framework's role goes
        /// before what is not reserved, and that before what is lent.
        parts: Vec<ResourcePart>,
    },
    /// Resources of the stack without its last become the stack's.
    Reserve {
        /// The new stack.
        stack: Vec<Reservation>,
        /// How much.
        resources: Resources,
    },
    /// The stack's last reservation ends.
    Unreserve {
        /// The stack as it is.
        stack: Vec<Reservation>,
        /// How much.
        resources: Resources,
    },
    /// Disk of a reservation becomes a persistent volume.
    CreateVolume {
        /// Of which reservation.
        stack: Vec<Reservation>,
        /// Unique on the agent.
        volume_id: VolumeId,
        /// How large, and whether several tasks may use it at once.
        volume: Volume,
    },
    /// A volume that nobody uses becomes disk of its reservation again.
    DestroyVolume {
        /// Of which reservation.
        stack: Vec<Reservation>,
        /// Which.
        volume_id: VolumeId,
    },
}

impl Operation {
    /// Whether it leaves everything as it is.
    fn takes_nothing(&self) -> bool {
        matches!(self, Self::Launch { resources, .. } if resources.is_empty())
    }
}

/// Operations tried on what offers hold, without a change to any book.
struct Trial<'a> {
    allocator: &'a Allocator,
    agent: Idx,
    agent_id: AgentId,
    /// The role that the offers are to.
    role: Idx,
    hand: Hand,
    /// By how much what is charged to quota would change, by role.
    charged: BTreeMap<Idx, Scalars>,
    /// For each launch.
    launched: Vec<Vec<ResourcePart>>,
    n_new_pools: usize,
}

impl Allocator {
    pub(crate) fn operated(
        &mut self,
        framework_id: &FrameworkId,
        offer_ids: &[OfferId],
        operations: &[Operation],
        refuse: Millis,
        now: UnixMillis,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        self.subscribed(framework_id)?;
        let Taken {
            client,
            agent,
            numbers,
            bundle,
        } = self.offers_of_one_agent(framework_id, offer_ids)?;
        let mut trial = Trial::new(self, agent, client, &bundle)?;
        for op in operations {
            trial.operation(framework_id, op)?;
        }
        let (hand, launched) = (trial.hand, trial.launched);
        for number in numbers {
            self.close(number, run);
            self.stats.n_accepted += 1;
        }
        if let Some(a) = self.agents.get_mut(agent) {
            a.answered(client, !operations.iter().all(Operation::takes_nothing));
        }
        let mut given = launched.iter();
        for op in operations {
            let parts = match op {
                Operation::Launch { .. } => given.next().map_or(&[][..], Vec::as_slice),
                _ => &[],
            };
            let done = self.do_operation(agent, client, op, parts, run);
            debug_assert!(done.is_some(), "it was tried: {op:?}");
        }
        let rest = self.bundle_of(&hand);
        if !rest.sum.is_empty() {
            self.add_filter(client, agent, &rest, refuse, now);
        }
        let plain = |parts: Vec<ResourcePart>| {
            let all_plain = parts.iter().all(ResourcePart::is_plain);
            if all_plain { Vec::new() } else { parts }
        };
        run.effects.push(Effect::Launched {
            parts: launched.into_iter().map(plain).collect(),
        });
        self.touch(agent, run);
        Ok(())
    }

    fn bundle_of(&self, hand: &Hand) -> Bundle {
        let mut bundle = Bundle::default();
        for part in hand.parts() {
            bundle.sum.try_add(&part.resources);
            if !part.reservation.is_empty() {
                bundle.parts.push(self.part_of(part));
            }
        }
        bundle
    }

    fn part_of(&self, part: &ResourcePart) -> Part {
        Part {
            pool: self.stacks.find(&part.reservation).unwrap_or(NONE),
            lent: part.revocable,
            resources: part.resources.clone(),
        }
    }

    /// Does what a [`Trial`] has tried.
    fn do_operation(
        &mut self,
        agent: Idx,
        client: Idx,
        op: &Operation,
        given: &[ResourcePart],
        run: &mut Run,
    ) -> Option<()> {
        let _ = run;
        match op {
            Operation::Launch { .. } => {
                for part in given {
                    let part = self.part_of(part);
                    self.use_free(agent, client, &part)?;
                }
                Some(())
            }
            Operation::Reserve { stack, resources } => {
                let outer = &stack[..stack.len() - 1];
                let from = self.stacks.find(outer).unwrap_or(NONE);
                let to = self.stacks.hold(stack, &mut self.tree);
                let moved = self.reserve_free(agent, from, to, resources);
                self.stacks.release(to, &mut self.tree);
                moved
            }
            Operation::Unreserve { stack, resources } => {
                let from = self.stacks.find(stack)?;
                self.unreserve_free(agent, from, stack, resources)
            }
            Operation::CreateVolume { .. } | Operation::DestroyVolume { .. } => None,
        }
    }
}

impl<'a> Trial<'a> {
    fn new(
        allocator: &'a Allocator,
        agent: Idx,
        client: Idx,
        bundle: &Bundle,
    ) -> Result<Self, Rejection> {
        let known = allocator.agents.get(agent);
        let role = allocator.clients.get(client).map_or(NONE, |c| c.role);
        let parts = bundle.all_parts().into_iter();
        let mut trial = Self {
            allocator,
            agent,
            agent_id: known
                .map(|a| a.info.agent_id.clone())
                .ok_or(Rejection::NoOffers)?,
            role,
            hand: Hand::new(parts.map(|p| allocator.show_part(p)).collect()),
            charged: BTreeMap::new(),
            launched: Vec::new(),
            n_new_pools: 0,
        };
        // The offers end; what is launched is charged again.
        trial.charge(role, &bundle.plain(), false);
        Ok(trial)
    }

    fn operation(&mut self, framework_id: &FrameworkId, op: &Operation) -> Result<(), Rejection> {
        match op {
            Operation::Launch { resources, parts } => self.launch(resources, parts),
            Operation::Reserve { stack, resources } => {
                check_reserve(stack, resources)?;
                let role = self.within_reach(framework_id, stack)?;
                let outer = &stack[..stack.len() - 1];
                let taken = self.hand.take(outer, false, resources);
                taken.ok_or_else(|| not_free(&self.agent_id, resources))?;
                self.uncharge_stack(outer, resources);
                self.charge_stack(stack, resources)?;
                self.one_more_pool(stack)?;
                if role {
                    self.hand.put(stack, resources);
                }
                Ok(())
            }
            Operation::Unreserve { stack, resources } => {
                check_reserve(stack, resources)?;
                let outer = &stack[..stack.len() - 1];
                let taken = self.hand.take(stack, false, resources);
                taken.ok_or_else(|| not_free(&self.agent_id, resources))?;
                self.uncharge_stack(stack, resources);
                if !outer.is_empty() {
                    self.charge_stack(outer, resources)?;
                    self.one_more_pool(outer)?;
                }
                self.hand.put(outer, resources);
                Ok(())
            }
            Operation::CreateVolume {
                stack, volume_id, ..
            }
            | Operation::DestroyVolume { stack, volume_id } => {
                check_stack(stack)?;
                Err(Rejection::BadVolume {
                    volume_id: volume_id.clone(),
                    rule: "volumes are not there yet",
                })
            }
        }
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
                    .take(&part.reservation, part.revocable, &part.resources);
                taken.ok_or_else(|| not_free(&self.agent_id, &part.resources))?;
            }
            parts.to_vec()
        };
        for part in given.iter().filter(|p| p.is_plain()) {
            self.fits(self.role, &part.resources)?;
            self.charge(self.role, &part.resources, true);
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

    fn charge(&mut self, role: Idx, r: &Resources, add: bool) {
        let op = if add { share::add } else { share::sub };
        let what = scalars(r);
        for (idx, _) in self.allocator.tree.path(role) {
            op(self.charged.entry(idx).or_default(), &what);
        }
    }

    fn fits(&self, role: Idx, r: &Resources) -> Result<(), Rejection> {
        self.allocator.within_limits(role, &self.charged, r)
    }

    fn uncharge_stack(&mut self, stack: &[Reservation], r: &Resources) {
        if let Some(role) = self.allocator.role_of(stack) {
            self.charge(role, r, false);
        }
    }

    fn charge_stack(&mut self, stack: &[Reservation], r: &Resources) -> Result<(), Rejection> {
        if let Some(role) = self.allocator.role_of(stack) {
            self.fits(role, r)?;
            self.charge(role, r, true);
        }
        Ok(())
    }
}
