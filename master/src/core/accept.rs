//! Accepts: what a framework does with offers, all of it or nothing.
//!
//! Plain launches on offers without reservations take level 1's short way; everything else is done there
//! operation by operation, and each task is told exactly what it was given.

use std::collections::BTreeSet;

use waggle_allocator::{Event as Level1, Operation as Level1Operation, Rejection};
use waggle_types::{
    AgentId, CallRejection, FrameworkId, Millis, Offer, OfferId, Operation, RejectReason,
    ResourcePart, Resources, StatusReason, TaskId, TaskSpec, TaskState, UnixMillis, VolumeId,
    sum_parts,
};

use super::{
    MasterCore, Measure,
    executors::{self, Starts},
    frameworks::{Called, no},
    intents::sum,
    refusals::level_1_says,
};

/// Tasks of one accept: they are logged in one transaction.
const MAX_TASKS: usize = 2000;

/// How long offers stay away at least whose accept by the built-in framework was refused.
const AFTER_REFUSAL: Millis = Millis::from_secs(1);

/// What each task of an accept was given, in order; empty when all of it is plain.
type Given = Vec<Vec<ResourcePart>>;

fn tasks_of(operations: Vec<Operation>) -> Vec<TaskSpec> {
    let launches = operations.into_iter().filter_map(|o| match o {
        Operation::Launch(tasks) => Some(tasks),
        _ => None,
    });
    launches.flatten().collect()
}

/// Level 1's form of operations: one launch a task, and one before it for the executor that it starts, if that holds
/// something.
pub(super) fn level_1_operations(
    operations: &[Operation],
    starts: &Starts,
) -> Vec<Level1Operation> {
    let mut out = Vec::new();
    for op in operations {
        match op {
            Operation::Launch(tasks) => out.extend(tasks.iter().flat_map(|t| {
                let executor = starts.get(&t.task_id).filter(|e| !e.resources.is_empty());
                let executor = executor.map(|e| Level1Operation::Launch {
                    resources: e.resources.clone(),
                    parts: e.parts.clone(),
                });
                executor.into_iter().chain([Level1Operation::Launch {
                    resources: t.resources.clone(),
                    parts: t.parts.clone(),
                }])
            })),
            Operation::Reserve { stack, resources } => out.push(Level1Operation::Reserve {
                stack: stack.clone(),
                resources: resources.clone(),
            }),
            Operation::Unreserve { stack, resources } => out.push(Level1Operation::Unreserve {
                stack: stack.clone(),
                resources: resources.clone(),
            }),
            Operation::CreateVolume {
                stack,
                volume_id,
                volume,
            } => out.push(Level1Operation::CreateVolume {
                stack: stack.clone(),
                volume_id: volume_id.clone(),
                volume: *volume,
            }),
            Operation::ResizeVolume {
                stack,
                volume_id,
                size,
            } => out.push(Level1Operation::ResizeVolume {
                stack: stack.clone(),
                volume_id: volume_id.clone(),
                size: *size,
            }),
            Operation::DestroyVolume { stack, volume_id } => {
                out.push(Level1Operation::DestroyVolume {
                    stack: stack.clone(),
                    volume_id: volume_id.clone(),
                });
            }
        }
    }
    out
}

/// What operations change of an agent's reservations.
fn changes_of(operations: &[Operation]) -> Vec<ResourcePart> {
    let part = |stack: &[_], resources: Resources| ResourcePart {
        reservation: stack.to_vec(),
        revocable: false,
        resources,
    };
    let one = |op: &Operation| match op {
        Operation::Launch(_) => None,
        Operation::Reserve { stack, resources } | Operation::Unreserve { stack, resources } => {
            Some(part(stack, resources.clone()))
        }
        Operation::CreateVolume {
            stack,
            volume_id,
            volume,
        } => {
            let mut r = Resources::default();
            r.custom.set_volume(volume_id.clone(), *volume);
            Some(part(stack, r))
        }
        Operation::ResizeVolume { stack, .. } | Operation::DestroyVolume { stack, .. } => {
            Some(part(stack, Resources::default()))
        }
    };
    operations.iter().filter_map(one).collect()
}

/// Volumes that operations destroy.
fn destroyed_by(operations: &[Operation]) -> Vec<VolumeId> {
    let one = |op: &Operation| match op {
        Operation::DestroyVolume { volume_id, .. } => Some(volume_id.clone()),
        _ => None,
    };
    operations.iter().filter_map(one).collect()
}

/// Level 1's reason, where what is not free is what was not offered.
pub(super) fn level_1_reason(reason: &Rejection) -> CallRejection {
    let mut r = level_1_says("operations", reason);
    if r.reason == RejectReason::NotFree {
        r.reason = RejectReason::NotOffered;
    }
    r
}

/// The same, about launches or operations unless the reason names something better.
fn accept_says(operations: &[Operation], reason: &Rejection) -> CallRejection {
    let launches = operations.iter().all(|o| matches!(o, Operation::Launch(_)));
    let object = if launches { "launch" } else { "operations" };
    let mut r = level_1_reason(reason);
    if r.object == "operations" {
        object.clone_into(&mut r.object);
    }
    r
}

impl MasterCore {
    /// Has level 1 take an accept.
    fn allocate_accept(
        &mut self,
        framework_id: FrameworkId,
        offer_ids: &[OfferId],
        operations: &[Operation],
        starts: &Starts,
        refuse: Millis,
        now: UnixMillis,
    ) -> Result<Given, Rejection> {
        let plain_offer = |id: &OfferId| {
            let offer = self.out_offers.get(id);
            offer.is_some_and(|o| o.parts.is_empty())
        };
        let plain_parts = |parts: &[ResourcePart]| parts.iter().all(ResourcePart::is_plain);
        let plain_task = |t: &TaskSpec| plain_parts(&t.parts);
        let plain = offer_ids.iter().all(plain_offer)
            && starts.values().all(|e| plain_parts(&e.parts))
            && operations.iter().all(|o| match o {
                Operation::Launch(tasks) => tasks.iter().all(plain_task),
                _ => false,
            });
        let tasks = operations.iter().flat_map(Operation::tasks);
        let used = tasks.clone().map(|t| &t.resources);
        let used = sum(used.chain(executors::resources_of(starts)));
        let offer_ids = offer_ids.to_vec();
        if let (true, Some(used)) = (plain, used) {
            let n = tasks.count() + starts.values().filter(|e| !e.resources.is_empty()).count();
            let accepted = Level1::Accepted {
                framework_id,
                offer_ids,
                used,
                refuse,
            };
            self.try_allocate(accepted, now)?;
            return Ok(vec![Vec::new(); n]);
        }
        let operated = Level1::Operated {
            framework_id,
            offer_ids,
            operations: level_1_operations(operations, starts),
            refuse,
        };
        self.try_allocate(operated, now)
    }

    /// What other frameworks than the built-in one accept.
    pub(super) fn framework_accept(
        &mut self,
        id: &FrameworkId,
        offer_ids: &[OfferId],
        operations: Vec<Operation>,
        refuse: Millis,
        now: UnixMillis,
    ) -> Called {
        let (agent, role, offered_at, starts) =
            self.check_accept(id, offer_ids, &operations, now)?;
        let changes = changes_of(&operations);
        if !changes.is_empty() {
            self.check_storable(&agent, &changes).map_err(|r| vec![r])?;
        }
        let given = self
            .allocate_accept(id.clone(), offer_ids, &operations, &starts, refuse, now)
            .map_err(|reason| {
                if !changes.is_empty() {
                    let role = role.clone();
                    self.measure(Measure::ReservationFailed { role });
                }
                vec![accept_says(&operations, &reason)]
            })?;
        let destroyed = destroyed_by(&operations);
        let tasks = tasks_of(operations);
        let idle = tasks.is_empty() && changes.is_empty();
        let outcome = if idle { "declined" } else { "accepted" };
        self.close_offers(offer_ids, outcome, now);
        if !changes.is_empty() {
            self.store_reservations(&agent, destroyed, now);
        }
        self.log_launches(id, &agent, tasks.iter().map(|t| &t.task_id));
        let name = self.frameworks.all.get(id).map(|f| f.info.name.clone());
        let mut traced = BTreeSet::new();
        let mut given = given.into_iter();
        for spec in tasks {
            let spec = TaskSpec {
                framework_id: id.clone(),
                framework_name: name.clone().unwrap_or_default(),
                role: role.clone(),
                ..spec
            };
            let spec = self.with_given(spec, &agent, &starts, &mut given);
            self.launch(spec, &agent, offered_at, &mut traced, now);
        }
        Ok(())
    }

    /// A task of an accept with what it was given, which comes after what its executor was, if this starts it.
    fn with_given(
        &mut self,
        spec: TaskSpec,
        agent: &AgentId,
        starts: &Starts,
        given: &mut impl Iterator<Item = Vec<ResourcePart>>,
    ) -> TaskSpec {
        let own = starts.get(&spec.task_id).map(|e| {
            let holds = (!e.resources.is_empty()).then(|| given.next());
            holds.flatten().unwrap_or_default()
        });
        let parts = given.next().unwrap_or_default();
        self.on_executor(TaskSpec { parts, ..spec }, agent, own)
    }

    /// Everything that can be said of an accept before level 1 is asked; answers its agent, its role, when it was
    /// offered and which executors it starts.
    pub(super) fn check_accept(
        &self,
        id: &FrameworkId,
        offer_ids: &[OfferId],
        operations: &[Operation],
        now: UnixMillis,
    ) -> Result<(AgentId, String, UnixMillis, Starts), Vec<CallRejection>> {
        let mut wrong = self.check_offers(id, offer_ids);
        if offer_ids.is_empty() {
            let message = "an accept must name an offer";
            wrong.push(no(RejectReason::NoOffers, "offer_ids", message));
        }
        let offers: Vec<&Offer> = offer_ids
            .iter()
            .filter_map(|o| self.out_offers.get(o))
            .collect();
        let offered_at = offers.iter().map(|o| o.at).min().unwrap_or(now);
        let agents: BTreeSet<&AgentId> = offers.iter().map(|o| &o.agent_id).collect();
        if let (Some(first), Some(last), true) = (agents.first(), agents.last(), agents.len() > 1) {
            let message = format!("offers of {first} and {last} can't pay for one launch");
            wrong.push(no(RejectReason::MixedAgents, "offer_ids", message));
        }
        let role = offers.first().map(|o| o.role.clone());
        if offers.iter().any(|o| Some(&o.role) != role.as_ref()) {
            let message = "offers to two roles can't pay for one launch";
            wrong.push(no(RejectReason::MixedRoles, "offer_ids", message));
        }
        let agent = agents.first().map(|a| (*a).clone());
        let tasks: Vec<&TaskSpec> = operations.iter().flat_map(Operation::tasks).collect();
        wrong.extend(self.check_launches(&tasks));
        if let Some(a) = agent.as_ref().filter(|a| self.agents.session(a).is_none()) {
            let message = "the agent is not connected now";
            wrong.push(no(RejectReason::AgentDisconnected, a, message));
        }
        let mut starts = Starts::new();
        if let Some(agent) = &agent {
            match self.check_executors(id, agent, &tasks) {
                Ok(all) => starts = all,
                Err(all) => wrong.extend(all),
            }
        }
        if wrong.is_empty() && operations.iter().all(|o| !o.tasks().is_empty()) {
            wrong.extend(check_sum(&tasks, &starts, &offers));
        }
        match (agent, role) {
            (Some(agent), Some(role)) if wrong.is_empty() => Ok((agent, role, offered_at, starts)),
            _ => Err(wrong),
        }
    }

    pub(super) fn check_launches(&self, tasks: &[&TaskSpec]) -> Vec<CallRejection> {
        let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
        if tasks.len() > MAX_TASKS {
            let message = format!("one accept launches at most {MAX_TASKS} tasks");
            return vec![no(RejectReason::TooMany, "launch", message)];
        }
        for t in tasks {
            let id = &t.task_id;
            let known = self.tasks.contains(id)
                || self.frameworks.unacked.contains_key(id)
                || self.launches.is_open(id);
            if !seen.insert(id) || known {
                let message = "a task with this id exists, or its end is not acknowledged yet";
                wrong.push(no(RejectReason::DuplicateTask, id, message));
            }
            if t.resources.is_negative() {
                let message = "a quantity is negative";
                wrong.push(no(RejectReason::Invalid, id, message));
            }
            // Else there would be no end of tasks on one offer.
            if t.resources.scalars.iter().all(|s| s.0 == 0) {
                let message = "the task must take some cpus, mem, disk or gpus";
                wrong.push(no(RejectReason::Invalid, id, message));
            }
            if let Some(message) = self.lacks_network(&t.container.network) {
                wrong.push(no(RejectReason::UnknownNetwork, id, message));
            }
            if !t.parts.is_empty() && sum_parts(&t.parts).as_ref() != Some(&t.resources) {
                let message = "the task's parts do not add up to its resources";
                wrong.push(no(RejectReason::Invalid, id, message));
            }
        }
        wrong
    }

    /// Launches tasks of the built-in framework on offers of one agent, or says why not to each of them.
    pub(super) fn accept(
        &mut self,
        offer_ids: Vec<OfferId>,
        operations: Vec<Operation>,
        refuse: Millis,
        now: UnixMillis,
    ) {
        let offers = offer_ids.iter().filter_map(|id| self.out_offers.get(id));
        let agent = offers.clone().next().map(|o| o.agent_id.clone());
        let offered_at = offers.map(|o| o.at).min().unwrap_or(now);
        let tasks: Vec<&TaskSpec> = operations.iter().flat_map(Operation::tasks).collect();
        let ids: BTreeSet<&TaskId> = tasks.iter().map(|t| &t.task_id).collect();
        let fresh = ids.len() == tasks.len() && !ids.iter().any(|id| self.tasks.contains(id));
        let changes = changes_of(&operations);
        let storable = |a: &AgentId| {
            let wrong = self.check_storable(a, &changes).err();
            wrong.map(|r| tracing::warn!(agent = %a, "a home can't be stored: {}", r.message))
        };
        let refusal = match &agent {
            None => Some((TaskState::Dropped, StatusReason::InvalidOffers)),
            _ if !fresh => Some((TaskState::Error, StatusReason::TaskInvalid)),
            Some(a) if self.agents.session(a).is_none() => {
                Some((TaskState::Dropped, StatusReason::SlaveDisconnected))
            }
            Some(a) if !changes.is_empty() && storable(a).is_some() => {
                Some((TaskState::Dropped, StatusReason::InvalidOffers))
            }
            Some(_) => None,
        };
        let framework_id = self.framework_id.clone();
        let starts = agent
            .as_ref()
            .map(|a| self.check_executors(&framework_id, a, &tasks));
        let (starts, refusal) = match starts.transpose() {
            Ok(starts) => (starts.unwrap_or_default(), refusal),
            Err(wrong) => {
                for rejection in &wrong {
                    tracing::warn!(agent = ?agent, rule = %rejection.message, "a pod can't be launched");
                }
                (
                    Starts::new(),
                    refusal.or(Some((TaskState::Error, StatusReason::TaskInvalid))),
                )
            }
        };
        let refusal = refusal.map_or_else(
            || {
                let id = framework_id.clone();
                self.allocate_accept(id, &offer_ids, &operations, &starts, refuse, now)
                    .map_err(|reason| {
                        tracing::debug!(%reason, "level 1 refused an accept");
                        (TaskState::Dropped, StatusReason::InvalidOffers)
                    })
            },
            Err,
        );
        let destroyed = destroyed_by(&operations);
        let tasks = tasks_of(operations);
        match (refusal, agent) {
            (Ok(given), Some(agent)) => {
                self.close_offers(&offer_ids, "accepted", now);
                if !changes.is_empty() {
                    self.store_reservations(&agent, destroyed, now);
                }
                let mut traced = BTreeSet::new();
                let mut given = given.into_iter();
                for spec in tasks {
                    let spec = self.with_given(spec, &agent, &starts, &mut given);
                    self.launch(spec, &agent, offered_at, &mut traced, now);
                }
            }
            (Err((state, reason)), agent) => {
                // Else what was refused could be tried again at once, for ever.
                let refuse = refuse.max(AFTER_REFUSAL);
                self.decline(framework_id, offer_ids, refuse, now);
                self.turn_down(tasks, agent.as_ref(), state, reason, now);
            }
            // Without an agent nothing is accepted.
            (Ok(_), None) => {}
        }
    }
}

/// Whether the offers hold what plain launches take, together: the one mistake that deserves its numbers.
fn check_sum(tasks: &[&TaskSpec], starts: &Starts, offers: &[&Offer]) -> Option<CallRejection> {
    let used = tasks.iter().map(|t| &t.resources);
    let Some(used) = sum(used.chain(executors::resources_of(starts))) else {
        let message = "two tasks want the same port";
        return Some(no(RejectReason::Invalid, "launch", message));
    };
    let held = sum(offers.iter().map(|o| &o.resources))?;
    if held.contains(&used) {
        return None;
    }
    let message = format!("{used} is asked for, the offers hold {held}");
    Some(no(RejectReason::Overuse, "launch", message))
}
