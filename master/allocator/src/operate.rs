//! Accepting offers with operations: launch, reserve, unreserve, make and destroy volumes. All of them or
//! none; each sees what the ones before it made.

use waggle_types::{
    FrameworkId, Milli, Millis, OfferId, Reservation, ResourcePart, Resources, UnixMillis, Volume,
    VolumeId,
};

use crate::{
    Allocator, Effect, Rejection,
    allocator::Run,
    bits::{Idx, NONE},
    hand::Hand,
    ledger::{Bundle, Part},
    offers::Taken,
    trial::Trial,
    volumes::owned,
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
    /// A volume that nobody uses gets another size, of its reservation's disk.
    ResizeVolume {
        /// Of which reservation.
        stack: Vec<Reservation>,
        /// Which.
        volume_id: VolumeId,
        /// How large it is then.
        size: Milli,
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
        let launched = self.operate(framework_id, offer_ids, operations, refuse, now, run)?;
        let plain = |parts: Vec<ResourcePart>| {
            let all_plain = parts.iter().all(ResourcePart::is_plain);
            if all_plain { Vec::new() } else { parts }
        };
        run.effects.push(Effect::Launched {
            parts: launched.into_iter().map(plain).collect(),
        });
        Ok(())
    }

    /// Answers what each launch was given.
    pub(crate) fn operate(
        &mut self,
        framework_id: &FrameworkId,
        offer_ids: &[OfferId],
        operations: &[Operation],
        refuse: Millis,
        now: UnixMillis,
        run: &mut Run,
    ) -> Result<Vec<Vec<ResourcePart>>, Rejection> {
        let framework = self.subscribed(framework_id)?;
        let Taken {
            client,
            agent,
            numbers,
            bundle,
        } = self.offers_of_one_agent(framework, framework_id, offer_ids)?;
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
        // Shared volumes are never used up; with nothing else left, nothing was turned down.
        let rest = self.bundle_of(&hand);
        if !owned(&rest.sum).is_empty() {
            self.add_filter(client, agent, &rest, refuse, now);
        }
        self.touch(agent, run);
        self.ask_newcomers(agent, now, run);
        Ok(launched)
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
            Operation::CreateVolume {
                stack,
                volume_id,
                volume,
            } => {
                let pool = self.stacks.find(stack)?;
                self.agents.get_mut(agent)?.create(pool, volume_id, *volume)
            }
            Operation::ResizeVolume {
                stack,
                volume_id,
                size,
            } => {
                let pool = self.stacks.find(stack)?;
                self.rescind_holders(agent, volume_id, run)?;
                self.agents.get_mut(agent)?.resize(pool, volume_id, *size)
            }
            Operation::DestroyVolume { stack, volume_id } => {
                let pool = self.stacks.find(stack)?;
                self.destroy_unused(agent, pool, volume_id, run)
            }
        }
    }
}

/// Operations of one accept that may be refused one by one; with more the rest is refused without being tried, as each
/// refusal is a new beginning.
const MAX_REFUSED: usize = 64;

impl Allocator {
    /// Which of these operations would be refused, and why, when the others are done in order: what an
    /// [`crate::Event::Operated`] with the others alone takes. An error is about the offers.
    pub fn refusals(
        &self,
        framework_id: &FrameworkId,
        offer_ids: &[OfferId],
        operations: &[Operation],
    ) -> Result<Vec<Option<Rejection>>, Rejection> {
        let framework = self.subscribed(framework_id)?;
        let taken = self.offers_of_one_agent(framework, framework_id, offer_ids)?;
        let mut out: Vec<Option<Rejection>> = vec![None; operations.len()];
        for _ in 0..MAX_REFUSED {
            let mut trial = Trial::new(self, taken.agent, taken.client, &taken.bundle)?;
            let mut refused = None;
            for (i, op) in operations.iter().enumerate() {
                if out[i].is_some() {
                    continue;
                }
                if let Err(reason) = trial.operation(framework_id, op) {
                    refused = Some((i, reason));
                    break;
                }
            }
            match refused {
                Some((i, reason)) => out[i] = Some(reason),
                None => return Ok(out),
            }
        }
        let full = Rejection::Full {
            what: "refused operations of one accept",
            max: MAX_REFUSED,
        };
        for o in &mut out {
            o.get_or_insert_with(|| full.clone());
        }
        Ok(out)
    }
}
