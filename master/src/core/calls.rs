//! What frameworks other than the built-in one ask for: each call is done wholly, or refused with typed
//! reasons and nothing of it is done.

use std::collections::BTreeSet;

use waggle_allocator::Event as Level1;
use waggle_types::{
    AgentId, CallRejection, FrameworkId, Millis, OfferId, RejectReason, Resources, SchedulerCall,
    SchedulerEvent, StatusReason, StatusUuid, TaskId, TaskState, TaskStatus, UnixMillis,
};

use super::{
    MasterCore, MasterMsg,
    event::{FrameworkCall, SubscriptionId},
    frameworks::{Called, no},
    levels::own_status,
    refusals::level_1_says,
};

impl MasterCore {
    /// One call of a framework.
    pub(super) fn framework_call(
        &mut self,
        id: &FrameworkId,
        subscription: SubscriptionId,
        call: FrameworkCall,
        now: UnixMillis,
    ) -> Called {
        let called = self
            .check_caller(id, subscription)
            .map_err(|r| vec![r])
            .and_then(|()| self.do_call(id, call, now));
        if let Err(all) = &called {
            for r in all {
                self.reject(r.reason.name());
            }
        }
        called
    }

    /// Where the offers are that a call uses, as long as they are out.
    pub(crate) fn agent_of(&self, call: &FrameworkCall) -> Option<&AgentId> {
        let FrameworkCall::AcceptEach { offer_ids, .. } = call else {
            return None;
        };
        let offer = offer_ids.iter().find_map(|o| self.out_offers.get(o));
        offer.map(|o| &o.agent_id)
    }

    fn check_caller(
        &self,
        id: &FrameworkId,
        subscription: SubscriptionId,
    ) -> Result<(), CallRejection> {
        if *id == self.jobs.framework_id {
            let message = "the framework is the master's own";
            return Err(no(RejectReason::ReservedFramework, id, message));
        }
        let Some(f) = self.frameworks.all.get(id) else {
            let (reason, message) = if self.frameworks.is_removed(id) {
                let message = "the framework was removed; subscribe without an id";
                (RejectReason::FrameworkRemoved, message)
            } else {
                let message = "no such framework; subscribe first";
                (RejectReason::UnknownFramework, message)
            };
            return Err(no(reason, id, message));
        };
        if f.subscription != Some(subscription) {
            let message = "the subscription is not the open one; subscribe again";
            return Err(no(RejectReason::NotSubscribed, id, message));
        }
        Ok(())
    }

    pub(super) fn do_call(
        &mut self,
        id: &FrameworkId,
        call: FrameworkCall,
        now: UnixMillis,
    ) -> Called {
        match call {
            FrameworkCall::Teardown => self.remove_framework(id, now),
            FrameworkCall::AcceptEach {
                offer_ids,
                operations,
                mounts,
                refuse,
            } => {
                let agent = offer_ids.iter().find_map(|o| self.out_offers.get(o));
                let agent = agent.map(|o| o.agent_id.clone());
                let done = self.framework_accept_each(id, &offer_ids, &operations, refuse, now);
                if let Some(agent) = agent {
                    self.note_mounts(&agent, mounts);
                }
                return done;
            }
            FrameworkCall::Kill { task_id, grace } => {
                if self.check_task(id, &task_id).is_err() {
                    // As Mesos answers: with what it knows of the task.
                    self.framework_reconcile(id, &[task_id], now);
                } else {
                    self.kill_within(task_id, grace, now);
                }
            }
            FrameworkCall::Update(info) => return self.update_framework(id, *info, now),
            FrameworkCall::Acknowledge(all) => {
                let acked = |(task, agent, uuid): &(TaskId, AgentId, StatusUuid)| {
                    self.framework_ack(id, task, agent, *uuid).err()
                };
                let wrong: Vec<CallRejection> = all.iter().filter_map(acked).collect();
                return if wrong.is_empty() { Ok(()) } else { Err(wrong) };
            }
            FrameworkCall::Scheduler(call) => match call {
                SchedulerCall::Accept {
                    offer_ids,
                    operations,
                    refuse,
                } => return self.framework_accept(id, &offer_ids, operations, refuse, now),
                SchedulerCall::Decline { offer_ids, refuse } => {
                    return self.framework_decline(id, offer_ids, refuse, now);
                }
                SchedulerCall::Kill { task_id } => {
                    self.check_task(id, &task_id).map_err(|r| vec![r])?;
                    self.kill_call(task_id, now);
                }
                SchedulerCall::Acknowledge {
                    task_id,
                    agent_id,
                    uuid,
                } => self
                    .framework_ack(id, &task_id, &agent_id, uuid)
                    .map_err(|r| vec![r])?,
                SchedulerCall::Reconcile { task_ids } => {
                    self.framework_reconcile(id, &task_ids, now);
                }
                SchedulerCall::Suppress { roles } => {
                    return self.framework_suppress(id, &roles, true, now);
                }
                SchedulerCall::Revive { roles } => {
                    return self.framework_suppress(id, &roles, false, now);
                }
                SchedulerCall::Demand { role, smallest } => {
                    return self.framework_demand(id, role, smallest.as_ref(), now);
                }
                SchedulerCall::Message {
                    agent_id,
                    executor_id,
                    data,
                } => return self.framework_message(id, &agent_id, executor_id, data),
                SchedulerCall::Shutdown {
                    agent_id,
                    executor_id,
                } => return self.framework_shutdown(id, &agent_id, executor_id),
                SchedulerCall::AcceptInverse { offer_ids } => {
                    return self.answer_inverse(id, &offer_ids, None, now);
                }
                SchedulerCall::DeclineInverse { offer_ids, refuse } => {
                    return self.answer_inverse(id, &offer_ids, Some(refuse), now);
                }
            },
        }
        Ok(())
    }

    /// Suppresses or revives some roles of a framework, or all when none is named.
    fn framework_suppress(
        &mut self,
        id: &FrameworkId,
        roles: &[String],
        suppressed: bool,
        now: UnixMillis,
    ) -> Called {
        let framework_id = id.clone();
        let (all, named) = (roles.is_empty(), roles.to_vec());
        let event = match (suppressed, all) {
            (true, true) => Level1::Suppress { framework_id },
            (false, true) => Level1::Revive { framework_id },
            (true, false) => Level1::SuppressRoles {
                framework_id,
                roles: named,
            },
            (false, false) => Level1::ReviveRoles {
                framework_id,
                roles: named,
            },
        };
        self.try_allocate(event, now)
            .map_err(|reason| vec![level_1_says("roles", &reason)])?;
        if let Some(f) = self.frameworks.all.get_mut(id) {
            for r in f.roles_mut(roles) {
                r.suppressed = suppressed;
            }
        }
        Ok(())
    }

    fn framework_demand(
        &mut self,
        id: &FrameworkId,
        role: String,
        smallest: Option<&Resources>,
        now: UnixMillis,
    ) -> Called {
        let demand = Level1::Demand {
            framework_id: id.clone(),
            role: role.clone(),
            smallest: smallest.cloned(),
        };
        self.try_allocate(demand, now)
            .map_err(|reason| vec![level_1_says("smallest", &reason)])?;
        if let Some(f) = self.frameworks.all.get_mut(id) {
            for r in f.roles_mut(&[role]) {
                r.smallest = smallest.cloned();
            }
        }
        Ok(())
    }

    fn check_task(&self, id: &FrameworkId, task: &TaskId) -> Result<(), CallRejection> {
        match self.tasks.get(task) {
            None => Err(no(RejectReason::UnknownTask, task, "nobody has this task")),
            Some(t) if t.spec.framework_id != *id => Err(no(
                RejectReason::ForeignTask,
                task,
                "the task is another framework's",
            )),
            Some(_) => Ok(()),
        }
    }

    /// Whether each offer is out to this framework; each problem once.
    pub(super) fn check_offers(
        &self,
        id: &FrameworkId,
        offer_ids: &[OfferId],
    ) -> Vec<CallRejection> {
        let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
        for offer_id in offer_ids {
            if !seen.insert(offer_id) {
                let message = "the offer is named twice";
                wrong.push(no(RejectReason::DuplicateOffer, offer_id, message));
                continue;
            }
            match self.out_offers.get(offer_id) {
                None => {
                    let message = "the offer is no longer valid";
                    wrong.push(no(RejectReason::StaleOffer, offer_id, message));
                }
                Some(o) if o.framework_id != *id => {
                    let message = "the offer was made to another framework";
                    wrong.push(no(RejectReason::ForeignOffer, offer_id, message));
                }
                Some(_) => {}
            }
        }
        wrong
    }

    /// Offers that are no longer out race with their rescind: they are named, the others declined.
    pub(super) fn framework_decline(
        &mut self,
        id: &FrameworkId,
        offer_ids: Vec<OfferId>,
        refuse: Millis,
        now: UnixMillis,
    ) -> Called {
        let wrong = self.check_offers(id, &offer_ids);
        let mine: BTreeSet<OfferId> = offer_ids
            .into_iter()
            .filter(|o| {
                let offer = self.out_offers.get(o);
                offer.is_some_and(|o| o.framework_id == *id)
            })
            .collect();
        let offer_ids: Vec<OfferId> = mine.into_iter().collect();
        if !offer_ids.is_empty() {
            self.decline(id.clone(), offer_ids, refuse, now);
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn framework_ack(
        &mut self,
        id: &FrameworkId,
        task_id: &TaskId,
        agent_id: &AgentId,
        uuid: StatusUuid,
    ) -> Result<(), CallRejection> {
        if let Some(u) = self.frameworks.unacked.get(task_id) {
            if u.framework_id != *id {
                let message = "the task is another framework's";
                return Err(no(RejectReason::ForeignTask, task_id, message));
            }
            let newest = u.status.as_ref().and_then(|s| s.uuid);
            if newest == Some(uuid) {
                self.frameworks.unacked.remove(task_id);
            }
        } else if self.tasks.contains(task_id) {
            self.check_task(id, task_id)?;
        } else {
            // Acknowledged before, or given up: a late word is no mistake.
            return Ok(());
        }
        if self.agents.session(agent_id).is_some() {
            let task_id = task_id.clone();
            self.send(agent_id, MasterMsg::Ack { task_id, uuid });
        }
        Ok(())
    }

    fn framework_reconcile(&mut self, id: &FrameworkId, task_ids: &[TaskId], now: UnixMillis) {
        let mine = |t: &TaskId| self.check_task(id, t).is_ok();
        let asked: Vec<(TaskId, bool)> = if task_ids.is_empty() {
            let mine = self.tasks.of_framework(id).into_iter();
            let mine = mine.map(|t| (t, true));
            let awaited = self.launches.all_awaited(id).into_iter();
            mine.chain(awaited.map(|t| (t, false))).collect()
        } else {
            task_ids.iter().map(|t| (t.clone(), mine(t))).collect()
        };
        for (task_id, known) in asked {
            let reason = Some(StatusReason::Reconciliation);
            let status = if let Some(t) = self.tasks.get(&task_id).filter(|_| known) {
                let agent = t.agent_id().clone();
                TaskStatus {
                    health: t.health,
                    ready: t.ready,
                    check: t.check(),
                    responses: t.responses().to_vec(),
                    ..own_status(task_id, agent, t.state(), reason, String::new(), now)
                }
            } else if let Some(l) = self.launches.awaited(id, &task_id) {
                let agent = l.agent_id.clone();
                let (state, message) = if self.recovering {
                    (TaskState::Staging, "its agent is not back yet")
                } else {
                    (TaskState::Unreachable, "its agent has not come back")
                };
                own_status(task_id, agent, state, reason, message.to_owned(), now)
            } else if self.frameworks.unacked.contains_key(&task_id) {
                // Its end is on its way.
                continue;
            } else if self.recovering {
                // It may be on an agent that is not back yet.
                continue;
            } else {
                let Some(agent) = self.nobody.clone() else {
                    continue;
                };
                let message = "the master does not know the task".to_owned();
                own_status(task_id, agent, TaskState::Unknown, reason, message, now)
            };
            self.send_framework(id, SchedulerEvent::Update(status));
        }
    }
}
