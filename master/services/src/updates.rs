//! What is heard of tasks: updates, adoption, agents out of reach and back.

use waggle_types::{
    AgentId, SchedulerCall, ServiceId, ServiceVersion, StatusReason, TaskId, TaskState, TaskStatus,
    UnixMillis,
};

use crate::{
    Action, Change, Goal, Instance, KillReason, Service, ServiceScheduler, scheduler::Run,
};

impl ServiceScheduler {
    pub(crate) fn update(&mut self, status: &TaskStatus, now: UnixMillis, run: &mut Run) {
        if let Some(uuid) = status.uuid {
            run.actions.push(Action::Call(SchedulerCall::Acknowledge {
                task_id: status.task_id.clone(),
                agent_id: status.agent_id.clone(),
                uuid,
            }));
        }
        if status.state.is_terminal() || status.state == TaskState::Unknown {
            self.strays.remove(&status.task_id);
        }
        let Some(id) = self.tasks.get(&status.task_id).cloned() else {
            return;
        };
        run.dirty.insert(id.clone());
        let whole = self.of_whole(&id, status);
        self.update_whole(&id, &whole, now, run);
        self.end_broken(&id, status, now, run);
    }

    /// What is said of an instance.
    fn update_whole(
        &mut self,
        id: &ServiceId,
        status: &TaskStatus,
        now: UnixMillis,
        run: &mut Run,
    ) {
        match status.state {
            // `Unknown` answers a reconciliation: nobody runs it.
            s if s.is_terminal() || s == TaskState::Unknown => self.ended(id, status, now, run),
            TaskState::Unreachable => {
                if let Some(i) = self.instance_mut(id, &status.task_id)
                    && i.unreachable_since.is_none()
                {
                    i.unreachable_since = Some(now);
                    let instance = Box::new(i.clone());
                    let change = Change::State;
                    run.actions
                        .push(Action::InstanceChanged { instance, change });
                }
                run.revive = true;
            }
            _ => self.observed(id, status, now, run),
        }
    }

    /// A living task's state and health. States do not go back: updates may overtake each other when a
    /// master speaks for an agent. But an end that nobody here asked for may be called off: its agent went away and came
    /// back in the middle of it, say.
    fn observed(&mut self, id: &ServiceId, status: &TaskStatus, now: UnixMillis, run: &mut Run) {
        self.home_confirmed(id, status);
        let Some(i) = self.instance_mut(id, &status.task_id) else {
            return;
        };
        let called_off = i.state == TaskState::Killing
            && i.goal == Goal::Run
            && status.state == TaskState::Running;
        let state = if called_off || rank(status.state) >= rank(i.state) {
            status.state
        } else {
            i.state
        };
        let state_changed = state != i.state || i.unreachable_since.is_some();
        let checks_changed = (status.health, status.ready) != (i.health, i.ready);
        i.unreachable_since = None;
        i.state = state;
        i.health = status.health;
        i.ready = status.ready;
        if state == TaskState::Running && i.started_at.is_none() {
            i.started_at = Some(now);
        }
        let change = if state_changed {
            Change::State
        } else if checks_changed {
            Change::Health
        } else {
            return;
        };
        let instance = Box::new(i.clone());
        run.actions
            .push(Action::InstanceChanged { instance, change });
    }

    /// A task has ended; unless we wanted it, that is a failure.
    fn ended(&mut self, id: &ServiceId, status: &TaskStatus, now: UnixMillis, run: &mut Run) {
        let Some(service) = self.services.get_mut(id) else {
            return;
        };
        let Ok(at) = service.find(&status.task_id) else {
            return;
        };
        let i = &mut service.instances[at];
        i.state = if status.state == TaskState::Unknown {
            TaskState::Lost
        } else {
            status.state
        };
        i.health = status.health;
        i.unreachable_since = None;
        if i.goal == Goal::Run {
            service.failed(at, status, now);
        }
        self.home_emptied(id, status, now);
        self.forget(id, &status.task_id, Change::Ended, run);
        run.revive = true;
    }

    pub(crate) fn ended_with_agent(&mut self, task_id: &TaskId, now: UnixMillis, run: &mut Run) {
        let Some(instance) = self.instance(task_id) else {
            return;
        };
        let status = TaskStatus {
            ip: None,
            ip6: None,
            ready: instance.ready,
            check: None,
            responses: Vec::new(),
            task_id: task_id.clone(),
            agent_id: instance.place.agent_id.clone(),
            state: TaskState::Gone,
            health: instance.health,
            reason: Some(StatusReason::SlaveRemoved),
            message: "the agent was removed".into(),
            source: waggle_types::StatusSource::Master,
            at: now,
            uuid: None,
            executor: None,
        };
        self.update(&status, now, run);
    }

    /// Applies `change` to every instance on an agent; those for which it says so are reported.
    pub(crate) fn on_agent(
        &mut self,
        agent_id: &AgentId,
        run: &mut Run,
        change: impl Fn(&mut Instance) -> bool,
    ) {
        let there = |s: &Service| s.instances.iter().any(|i| i.place.agent_id == *agent_id);
        for id in self.services.keys_where(there) {
            let service = self.services.get_mut(&id);
            for i in service.into_iter().flat_map(|s| &mut s.instances) {
                if i.place.agent_id == *agent_id && change(i) {
                    run.dirty.insert(id.clone());
                    run.revive = true;
                    run.actions.push(Action::InstanceChanged {
                        instance: Box::new(i.clone()),
                        change: Change::State,
                    });
                }
            }
        }
    }

    /// Tells an instance to end.
    pub(crate) fn kill(
        &mut self,
        id: &ServiceId,
        task_id: &TaskId,
        reason: KillReason,
        now: UnixMillis,
        run: &mut Run,
    ) {
        let Some(i) = self.instance_mut(id, task_id) else {
            return;
        };
        i.goal = Goal::Stop;
        i.kill_sent_at = Some(now);
        let live: Vec<TaskId> = i.live_ids().cloned().collect();
        let instance = Box::new(i.clone());
        run.actions.push(Action::InstanceChanged {
            instance,
            change: Change::Killing(reason),
        });
        let kill = |task_id| Action::Call(SchedulerCall::Kill { task_id });
        run.actions.extend(live.into_iter().map(kill));
    }

    pub(crate) fn forget(
        &mut self,
        id: &ServiceId,
        task_id: &TaskId,
        change: Change,
        run: &mut Run,
    ) {
        self.tasks.remove(task_id);
        let Some(service) = self.services.get_mut(id) else {
            return;
        };
        if let Ok(at) = service.find(task_id) {
            let instance = Box::new(service.instances.remove(at));
            for id in instance.all_ids() {
                self.tasks.remove(id);
            }
            run.actions
                .push(Action::InstanceChanged { instance, change });
        }
    }

    pub(crate) fn repeat_stray_kills(&mut self, now: UnixMillis, run: &mut Run) {
        let retry = self.limits.kill_retry;
        for (task_id, sent) in &mut self.strays {
            if *sent + retry <= now {
                *sent = now;
                run.actions.push(Action::Call(SchedulerCall::Kill {
                    task_id: task_id.clone(),
                }));
            }
        }
    }

    fn instance_mut(&mut self, id: &ServiceId, task_id: &TaskId) -> Option<&mut Instance> {
        self.services.get_mut(id)?.get_mut(task_id)
    }
}

/// How far a task is in its life: states do not go back.
pub(crate) fn rank(state: TaskState) -> u8 {
    match state {
        TaskState::Staging => 0,
        TaskState::Starting => 1,
        TaskState::Running => 2,
        TaskState::Killing => 3,
        _ => 4,
    }
}

/// A version's text as [`ServiceVersion`] prints it; anything else is older than all.
pub(crate) fn parse_version(text: &str) -> ServiceVersion {
    let number = |from: usize, to: usize| -> Option<u64> { text.get(from..to)?.parse().ok() };
    let parse = || -> Option<u64> {
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let clock = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
        let ms = number(20, 23)?;
        // Howard Hinnant's `days_from_civil`, for years from 1970.
        let (year, shifted) = match month {
            1 | 2 => (year.checked_sub(1)?, month + 9),
            _ => (year, month.checked_sub(3)?),
        };
        let of_era = year % 400;
        let of_year = (153 * shifted + 2) / 5 + day.checked_sub(1)?;
        let days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
        let days = (year / 400 * 146_097 + days).checked_sub(719_468)?;
        Some((days * 86_400 + clock) * 1000 + ms)
    };
    ServiceVersion(UnixMillis(parse().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_back() {
        for ms in [0, 951_782_400_000, 1_795_405_620_123] {
            let v = ServiceVersion(UnixMillis(ms));
            assert_eq!(parse_version(&v.to_string()), v);
        }
        for bad in [
            "",
            "x",
            "2026-00-00T",
            "2026-11-23T03:47:00",
            "é026-11-23T03:47:00.123Z",
        ] {
            assert_eq!(parse_version(bad), ServiceVersion::default(), "{bad}");
        }
    }
}
