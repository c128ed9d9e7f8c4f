//! Accepting offers with operations: launch, reserve, unreserve; all of them or none.

use waggle_types::{AgentId, FrameworkId, Millis, OfferId, Reservation, Resources, UnixMillis};

use crate::{
    Allocator, Rejection,
    allocator::Run,
    bits::{Idx, NONE},
    ledger::{Bundle, Part, is_negative, split},
    offers::Taken,
    reserve::{check_reserve, not_free},
};

/// What a framework does with offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Tasks take this; reserved parts are taken before unreserved ones unless the stack says which.
    Launch {
        /// How much, together.
        resources: Resources,
        /// Of which reservation; `None`: of whichever the offers hold.
        reservation: Option<Vec<Reservation>>,
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
        let Taken {
            client,
            agent,
            numbers,
            bundle,
        } = self.offers_of_one_agent(framework_id, offer_ids)?;
        let agent_id = match self.agents.get(agent) {
            Some(a) => a.info.agent_id.clone(),
            None => return Err(Rejection::NoOffers),
        };
        // Tried on a copy of the parts first: all or nothing.
        let mut parts = bundle.all_parts();
        let mut launched = Resources::default();
        for op in operations {
            self.try_operation(&mut parts, op, &agent_id)?;
            if let Operation::Launch { resources, .. } = op {
                launched = launched.checked_add(resources).unwrap_or(launched);
            }
        }
        self.check_operations(client, operations)?;
        for number in numbers {
            self.close(number, run);
            self.stats.n_accepted += 1;
        }
        let mut parts = bundle.all_parts();
        if let Some(a) = self.agents.get_mut(agent) {
            a.answered(client, !operations.iter().all(Operation::takes_nothing));
        }
        for op in operations {
            self.do_operation(agent, client, &mut parts, op);
        }
        let mut rest = Resources::default();
        for part in &parts {
            rest.try_add(&part.resources);
        }
        if !rest.is_empty() {
            let rest = Bundle {
                sum: rest,
                parts: parts.into_iter().filter(|p| p.pool != NONE).collect(),
            };
            self.add_filter(client, agent, &rest, refuse, now);
        }
        self.touch(agent, run);
        Ok(())
    }

    /// Reservations of offered resources must fit the limits of their roles. What the client's own role
    /// and those above it hold does not change.
    fn check_operations(&self, client: Idx, operations: &[Operation]) -> Result<(), Rejection> {
        let role = self.clients.get(client).map(|c| c.role);
        let mut sum = Resources::default();
        for op in operations {
            if let Operation::Reserve { stack, resources } = op {
                for (a, b) in sum.scalars.iter_mut().zip(&resources.scalars) {
                    a.0 = a.0.saturating_add(b.0);
                }
                let outer = stack.len().checked_sub(2).and_then(|at| stack.get(at));
                let counted = match outer {
                    Some(outer) => self.tree.find(&outer.role),
                    None => role,
                };
                self.room_for(stack, counted, &sum)?;
            }
        }
        Ok(())
    }

    fn try_operation(
        &self,
        parts: &mut Vec<Part>,
        op: &Operation,
        agent_id: &AgentId,
    ) -> Result<(), Rejection> {
        let (from, resources) = match op {
            Operation::Launch {
                resources,
                reservation,
            } => {
                if is_negative(resources) {
                    return Err(Rejection::Negative(resources.clone()));
                }
                match reservation {
                    None => {
                        let uses =
                            split(parts, resources).ok_or_else(|| not_free(agent_id, resources))?;
                        subtract(parts, &uses);
                        return Ok(());
                    }
                    Some(stack) => (self.pool_key(stack, agent_id, resources)?, resources),
                }
            }
            Operation::Reserve { stack, resources } => {
                check_reserve(stack, resources)?;
                (
                    self.pool_key(&stack[..stack.len() - 1], agent_id, resources)?,
                    resources,
                )
            }
            Operation::Unreserve { stack, resources } => {
                check_reserve(stack, resources)?;
                (self.pool_key(stack, agent_id, resources)?, resources)
            }
        };
        let launch = matches!(op, Operation::Launch { .. });
        let of = |p: &&Part| p.pool == from && (launch || !p.lent);
        let of: Vec<Part> = parts.iter().filter(of).cloned().collect();
        let uses = split(&of, resources).ok_or_else(|| not_free(agent_id, resources))?;
        subtract(parts, &uses);
        Ok(())
    }

    /// Does what [`Allocator::try_operation`] has tried. What is reserved or unreserved is the framework's
    /// no more until it is offered again.
    fn do_operation(&mut self, agent: Idx, client: Idx, parts: &mut Vec<Part>, op: &Operation) {
        match op {
            Operation::Launch {
                resources,
                reservation,
            } => {
                let from: Vec<Part> = match reservation {
                    None => parts.clone(),
                    Some(stack) => {
                        let key = self.stacks.find(stack).unwrap_or(NONE);
                        parts.iter().filter(|p| p.pool == key).cloned().collect()
                    }
                };
                let uses = split(&from, resources).unwrap_or_default();
                for part in &uses {
                    self.use_free(agent, client, part);
                }
                subtract(parts, &uses);
            }
            Operation::Reserve { stack, resources } => {
                let outer = &stack[..stack.len() - 1];
                let from = self.stacks.find(outer).unwrap_or(NONE);
                let to = self.stacks.hold(stack, &mut self.tree);
                self.reserve_free(agent, from, to, resources);
                self.stacks.release(to, &mut self.tree);
                let part = Part {
                    pool: from,
                    lent: false,
                    resources: resources.clone(),
                };
                subtract(parts, &[part]);
            }
            Operation::Unreserve { stack, resources } => {
                let from = self.stacks.find(stack).unwrap_or(NONE);
                self.unreserve_free(agent, from, stack, resources);
                let part = Part {
                    pool: from,
                    lent: false,
                    resources: resources.clone(),
                };
                subtract(parts, &[part]);
            }
        }
    }
}

fn subtract(parts: &mut Vec<Part>, what: &[Part]) {
    for w in what {
        let same = |p: &&mut Part| (p.pool, p.lent) == (w.pool, w.lent);
        if let Some(p) = parts.iter_mut().find(same) {
            let fits = p.resources.try_sub(&w.resources);
            debug_assert!(fits.is_some(), "it was split from them");
        }
    }
    parts.retain(|p| !p.resources.is_empty());
}
