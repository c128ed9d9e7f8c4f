//! What agents say in a session: heartbeats, task statuses, applied generations.

use waggle_allocator::{Event as Level1, Usage};
use waggle_types::{
    AgentId, FrameworkId, Generation, ResourcePart, StatusSource, TaskState, TaskStatus, UnixMillis,
};

use super::{
    Effect, MasterCore, MasterMsg, Measure, SessionId, SpanKey, TraceOp,
    tasks::{Task, is_networked},
};

/// Failed parts kept of one report, and bytes of each.
const MAX_FAILURES: usize = 16;
const MAX_FAILURE_BYTES: usize = 512;

impl MasterCore {
    /// Any word from an agent restarts its clock; one that was given up comes back by registering,
    /// since its session was open all along only when this master was held up.
    pub(super) fn heard(&mut self, session: SessionId, now: UnixMillis) {
        let Some(id) = self.agents.of_session(session).cloned() else {
            self.reject("stale_session");
            return;
        };
        let Some(a) = self.agents.all.get_mut(&id) else {
            return;
        };
        a.last_heard = now;
        if !a.reachable {
            // Silent for the whole time-out over an open stream, and then alive again: only a new
            // registration says what it has now.
            self.out.push(Effect::Close { session });
            self.agents.close(session);
        }
    }

    pub(super) fn applied(
        &mut self,
        session: SessionId,
        generation: Generation,
        duration_us: u64,
        failures: Vec<String>,
        now: UnixMillis,
    ) {
        self.heard(session, now);
        let after = self.published_at(generation).map(|at| now.since(at));
        let id = self.agents.of_session(session).cloned();
        if let Some(a) = id.and_then(|id| self.agents.all.get_mut(&id)) {
            a.applied = generation;
            self.drains.applied();
            a.applied_us = duration_us;
            a.applied_after = after;
            a.apply_failures = failures
                .into_iter()
                .take(MAX_FAILURES)
                .map(|f| truncate(f, MAX_FAILURE_BYTES))
                .collect();
        }
    }

    /// A status from an agent. Whatever it says, one with a uuid is acknowledged in the end, or it
    /// would come for ever.
    pub(super) fn status(&mut self, session: SessionId, status: TaskStatus, now: UnixMillis) {
        self.heard(session, now);
        self.measure(Measure::Status {
            state: status.state.mesos_name(),
        });
        let Some(id) = self.agents.of_session(session).cloned() else {
            return;
        };
        if status.agent_id != id {
            self.reject("status_of_another_agent");
            return;
        }
        if !can_report(status.state) {
            self.reject("state_is_not_the_agents");
            self.acknowledge(&status);
            return;
        }
        let on_it = self.tasks.get(&status.task_id);
        match on_it.map(|t| *t.agent_id() == id) {
            Some(true) => self.report(status, now),
            Some(false) => {
                self.reject("task_id_on_two_agents");
                self.acknowledge(&status);
            }
            None if self.repeat_end(&status) => {}
            None => {
                // Its end is known already, or this master gave it up.
                self.acknowledge(&status);
                if !status.state.is_terminal() {
                    self.reject("status_of_unknown_task");
                    self.send_kill(&id, &status.task_id);
                }
            }
        }
    }

    /// Acknowledges on the master's own account, where no framework does.
    pub(super) fn acknowledge(&mut self, status: &TaskStatus) {
        if let Some(uuid) = status.uuid {
            let task_id = status.task_id.clone();
            self.send(&status.agent_id, MasterMsg::Ack { task_id, uuid });
        }
    }

    /// Takes a status of a live task, from its agent or on the master's own account, and hands it to
    /// the framework, which acknowledges it.
    pub(super) fn report(&mut self, status: TaskStatus, now: UnixMillis) {
        let status = self.explain_end(status);
        let id = status.task_id.clone();
        self.launch_over(&id);
        let change = |t: &mut Task| {
            let (was, was_checks) = (t.reported, (t.health, t.ready));
            t.take(&status, now);
            let opened = std::mem::take(&mut t.launch_open);
            (was, was_checks, opened, std::sync::Arc::clone(&t.spec))
        };
        let Some((was, was_checks, opened, spec)) = self.tasks.change(&id, change) else {
            return;
        };
        // Agents tell of what they see; this is about what they can't.
        if status.source == StatusSource::Master && was != status.state {
            self.measure(Measure::Event {
                name: "waggle.task.state_changed",
                attrs: vec![
                    ("waggle.task.id", id.to_string()),
                    ("waggle.agent.id", status.agent_id.to_string()),
                    ("waggle.state", status.state.mesos_name().to_owned()),
                    ("waggle.state.previous", was.mesos_name().to_owned()),
                    ("service.name", spec.service.clone()),
                    ("waggle.message", status.message.clone()),
                ],
                trace: self.tasks.get(&id).and_then(Task::trace),
            });
        }
        if was != status.state && status.state == TaskState::Running {
            let task = self.tasks.get(&id);
            let ms = now.since(task.map_or(now, |t| t.staged_at)).0;
            let trace = task.and_then(Task::trace);
            let framework = spec.framework_name.clone();
            self.measure(Measure::LaunchToRunning {
                framework,
                ms,
                trace,
            });
        }
        if opened {
            self.end_launch_span(&id, &status);
        }
        if was != status.state || was_checks != (status.health, status.ready) {
            let networked = self.tasks.get(&id).is_some_and(is_networked);
            self.task_changed(networked);
        }
        self.announce(&id);
        if status.state.is_terminal() {
            let asked_for = self.tasks.get(&id).is_none_or(|t| t.kill_wanted);
            if spec.framework_id == self.framework_id && !asked_for {
                let group = spec.executor.as_ref().and_then(|(_, group)| group.as_ref());
                self.restarts.ended(&spec.service, group);
            }
            let booked = self.tasks.get(&id).map(|t| self.booked(t));
            self.tasks.end(&id, self.config.keep_ended);
            let evicted = self.evictions.remove(&id).is_some();
            self.forget_booked(&id);
            let booked = booked.unwrap_or_default();
            let (framework, agent) = (&spec.framework_id, &status.agent_id);
            self.give_back(framework, &spec.role, booked, agent, now);
            if evicted && spec.executor.is_some() {
                self.end_idle_executors(&status.agent_id);
            }
            self.left(&status.agent_id, &spec.framework_id, now);
        }
        if spec.framework_id == self.framework_id {
            self.say_reported(&status, (was, was_checks.0), now);
            self.tell_status(status, now);
        } else {
            self.tell_owner(&spec.framework_id, status);
        }
    }

    /// Gives back what was booked for a task, or for an executor.
    pub(super) fn give_back(
        &mut self,
        framework_id: &FrameworkId,
        role: &str,
        booked: Vec<ResourcePart>,
        agent_id: &AgentId,
        now: UnixMillis,
    ) {
        let known = self.allocator.total(agent_id).is_some();
        if !known || self.reservations.given_way.contains_key(agent_id) {
            // Level 1 left the agent out, since it ran more than it has, or some of what is reserved had no
            // room: it may add up now.
            self.join(agent_id, now);
            return;
        }
        let ended = booked.into_iter().map(|p| Level1::UsageEnded {
            agent_id: agent_id.clone(),
            usage: Usage {
                framework_id: framework_id.clone(),
                role: role.to_owned(),
                reservation: p.reservation,
                revocable: p.revocable,
                resources: p.resources,
            },
        });
        self.freed.extend(ended);
    }

    fn end_launch_span(&mut self, id: &waggle_types::TaskId, status: &TaskStatus) {
        let failed = status.state.is_terminal()
            && !matches!(status.state, TaskState::Finished | TaskState::Killed);
        self.out.push(Effect::Trace(TraceOp::End {
            key: SpanKey::Launch(id.clone()),
            error: failed.then(|| (status.state.mesos_name(), status.message.clone())),
        }));
    }
}

/// Whether a state is an agent's to report; the others are conclusions about agents.
pub(super) fn can_report(state: TaskState) -> bool {
    !matches!(
        state,
        TaskState::Unreachable | TaskState::Gone | TaskState::GoneByOperator | TaskState::Unknown
    )
}

/// At most `max` bytes, cut between characters.
fn truncate(mut s: String, max: usize) -> String {
    if s.len() > max {
        let end = s.floor_char_boundary(max);
        s.truncate(end);
    }
    s
}
