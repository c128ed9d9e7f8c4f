//! What is heard of tasks.

use waggle_types::{
    JobId, Millis, RestartPolicy, RunId, SchedulerCall, SchedulerEvent, TaskId, TaskState,
    TaskStatus, UnixMillis,
};

use super::{
    input::JobAction,
    job::Run,
    scheduler::{JobScheduler, Turn},
};
use crate::{OpenOffer, updates::rank};

impl JobScheduler {
    pub(super) fn event(
        &mut self,
        event: SchedulerEvent,
        now: UnixMillis,
        turn: &mut Turn,
        offers: &mut Vec<OpenOffer>,
    ) {
        match event {
            SchedulerEvent::Subscribed { .. } => self.subscribed(),
            SchedulerEvent::Offers(new) => offers.extend(new.into_iter().map(OpenOffer::from)),
            SchedulerEvent::Update(status) => self.update(&status, now, turn),
            SchedulerEvent::AgentLost(agent) => {
                let lost: Vec<TaskId> = self
                    .tasks()
                    .filter(|(_, a)| **a == agent)
                    .map(|(id, _)| id.clone())
                    .collect();
                for task in lost {
                    self.strays.remove(&task);
                    if let Some((id, run)) = self.tasks.get(&task).cloned() {
                        let message = "its agent was removed";
                        self.task_ended(&id, &run, TaskState::Gone, message, now, turn);
                    }
                }
            }
            // Offers are never held. Who must leave an agent is ended when its window begins. There are no executors. Tasks out of
            // reach have statuses.
            SchedulerEvent::Rescind(_)
            | SchedulerEvent::AgentUnreachable(_)
            | SchedulerEvent::InverseOffer(_)
            | SchedulerEvent::RescindInverse(_)
            | SchedulerEvent::ExecutorLost { .. }
            | SchedulerEvent::Message { .. } => {}
        }
    }

    fn update(&mut self, status: &TaskStatus, now: UnixMillis, turn: &mut Turn) {
        let over = status.state.is_terminal() || status.state == TaskState::Unknown;
        if let Some((id, run)) = self.tasks.get(&status.task_id).cloned() {
            turn.dirty.insert(id.clone());
            if over {
                self.task_ended(&id, &run, status.state, &status.message, now, turn);
            } else {
                self.observed(&id, &run, status, now, turn);
            }
        } else if over {
            self.strays.remove(&status.task_id);
        } else if !self.strays.contains_key(&status.task_id)
            && status.state != TaskState::Unreachable
        {
            // Of a job or a run that is gone.
            self.forsake(&status.task_id, &status.agent_id, now, turn);
        }
        if let Some(uuid) = status.uuid {
            turn.actions
                .push(JobAction::Call(SchedulerCall::Acknowledge {
                    task_id: status.task_id.clone(),
                    agent_id: status.agent_id.clone(),
                    uuid,
                }));
        }
    }

    /// A living task. States do not go back, since updates may overtake each other.
    fn observed(
        &mut self,
        id: &JobId,
        run_id: &RunId,
        status: &TaskStatus,
        now: UnixMillis,
        turn: &mut Turn,
    ) {
        let Some(run) = self.run_mut(id, run_id) else {
            return;
        };
        let Some(t) = run.live_task_mut() else {
            return;
        };
        t.heard = true;
        if status.state == TaskState::Unreachable {
            t.unreachable_since.get_or_insert(now);
            return;
        }
        t.unreachable_since = None;
        if !status.message.is_empty() {
            t.message.clone_from(&status.message);
        }
        if rank(status.state) >= rank(t.state) {
            t.state = status.state;
        }
        if t.state == TaskState::Running && t.started_at.is_none() {
            t.started_at = Some(now);
            // Whether it has run decides what its end means.
            turn.runs.insert((id.clone(), run_id.clone()));
        }
    }

    /// A task has ended, or nobody has it: by the policy its run has ended, too, or goes on.
    pub(super) fn task_ended(
        &mut self,
        id: &JobId,
        run_id: &RunId,
        state: TaskState,
        message: &str,
        now: UnixMillis,
        turn: &mut Turn,
    ) {
        let max_delay = self.jobs.get(id).and_then(|j| j.runs.get(run_id));
        let max_delay = max_delay.map_or(Millis(0), |r| r.spec.max_launch_delay);
        let Some(run) = self.run_mut(id, run_id) else {
            return;
        };
        let Some(t) = run.live_task_mut() else {
            return;
        };
        let never_ran = t.started_at.is_none() && matches!(t.state, TaskState::Staging);
        let dropped = state == TaskState::Dropped || (state == TaskState::Unknown && never_ran);
        t.state = match state {
            TaskState::Unknown if dropped => TaskState::Dropped,
            TaskState::Unknown => TaskState::Lost,
            state => state,
        };
        t.ended_at = Some(now);
        t.heard = true;
        t.unreachable_since = None;
        if !message.is_empty() {
            message.clone_into(&mut t.message);
        }
        let ran = t.started_at.map(|at| now.since(at)).unwrap_or_default();
        let task = t.task_id.clone();
        turn.runs.insert((id.clone(), run_id.clone()));
        turn.dirty.insert(id.clone());
        let rules = run.spec.run.backoff;
        let verdict = if state == TaskState::Finished {
            Some(None)
        } else if run.stopping {
            Some(Some("it was stopped".to_owned()))
        } else if dropped {
            // It never was: the run still waits for its first word.
            run.delay.failed(&rules, ran, now);
            None
        } else {
            run.n_failures += 1;
            run.delay.failed(&rules, ran, now);
            match run.spec.restart {
                RestartPolicy::Never => Some(Some(last_words(run))),
                // Unless its deadline is over: that is looked at in the same turn.
                RestartPolicy::OnFailure { .. } => {
                    run.launch_by = now + max_delay;
                    None
                }
            }
        };
        self.tasks.remove(&task);
        if let Some(failed) = verdict {
            self.end_run(id, run_id, failed, now, turn);
        }
    }

    pub(super) fn repeat_stray_kills(&mut self, now: UnixMillis, turn: &mut Turn) {
        let retry = self.limits.kill_retry;
        for (task_id, (_, sent)) in &mut self.strays {
            if *sent + retry <= now {
                *sent = now;
                let task_id = task_id.clone();
                let kill = SchedulerCall::Kill { task_id };
                turn.actions.push(JobAction::Call(kill));
            }
        }
    }
}

/// How a run's last task ended.
pub(super) fn last_words(run: &Run) -> String {
    let Some(last) = run.tasks.last() else {
        return String::new();
    };
    let times = match run.n_failures {
        0 | 1 => String::new(),
        n => format!(", the last of {n} failures"),
    };
    let said: String = last.message.chars().take(300).collect();
    let said = if said.is_empty() {
        said
    } else {
        format!(": {said}")
    };
    format!("{}{said}{times}", last.state.mesos_name())
}
