//! Agents that register: new ones, ones that come back with tasks, and ones that must not.

use std::{collections::BTreeSet, sync::Arc};

use waggle_allocator::{AgentSpec, Event as Level1};
use waggle_types::{
    AgentId, AgentInfo, FrameworkId, Generation, HealthState, Millis, StatusReason, StatusSource,
    TaskId, TaskSpec, TaskState, TaskStatus, UnixMillis,
};

use super::{
    Effect, KnownAgent, MasterCore, MasterMsg, Registration, SessionId,
    agents::{Agent, Conflict},
    status::can_report,
    stored,
    tasks::Task,
};

use crate::view::AgentMode;

/// A generation above this from an agent is nonsense: no cluster publishes so often.
const SANE_GENERATION: u64 = 1 << 48;

/// What an agent has, compared with what the registry knows.
#[derive(Debug, Default)]
struct Compared {
    /// New here, and wanted.
    adopted: Vec<TaskId>,
    /// To be killed.
    unwanted: Vec<TaskId>,
    /// What follows for tasks that were known.
    reports: Vec<TaskStatus>,
    /// What owners of adopted tasks are told.
    told: Vec<(FrameworkId, TaskStatus)>,
}

impl MasterCore {
    pub(super) fn register(&mut self, session: SessionId, reg: Registration, now: UnixMillis) {
        let id = reg.info.agent_id.clone();
        if self.upkeep.is_gone(&id) {
            self.refuse(session, &id, &Conflict::Gone);
            return;
        }
        self.make_room(&reg.info, now);
        if let Some(conflict) = self.agents.conflict(&reg.info, self.config.max_agents) {
            self.refuse(session, &id, &conflict);
            return;
        }
        for old in self.agents.replaced_by(&reg.info) {
            self.remove_agent(&old, now);
        }
        let known_before = self.agents.all.contains_key(&id);
        let back = self.is_back(&id);
        let changed = self.admit(&reg, now);
        self.grant_subnets(&id);
        if let Some(old) = self.agents.open(&id, session) {
            self.out.push(Effect::Close { session: old });
        }
        self.expected.remove(&id);
        self.out.push(Effect::Opened {
            session,
            agent_id: id.clone(),
        });

        let Compared {
            adopted,
            unwanted,
            reports,
            told,
        } = self.compare_tasks(&id, reg.tasks, back, now);
        let executors = reg.executors;
        self.out.push(Effect::SendAgent {
            session,
            msg: MasterMsg::Registered {
                heartbeat_interval_ms: self.heartbeat_interval().0,
                unknown_tasks: unwanted,
            },
        });
        self.back_in_reach(&id);
        let changed = self.compare_executors(&id, executors) || changed;
        let short = self.reservations.given_way.contains_key(&id);
        let known = self.allocator.total(&id).is_some();
        if changed || !adopted.is_empty() || short || !known {
            self.join(&id, now);
        } else {
            self.reactivate(&id, now);
        }
        self.drop_launches(&id, now);
        self.jobs_after_return(&id, now);
        self.tell_back(&id, now);
        for status in reports {
            self.report(status, now);
        }
        for (owner, status) in told {
            self.tell_owner(&owner, status);
        }
        let (new, kills) = self.left_to_do(&id);
        self.adopt_all(new, now);
        self.tell_volumes(&id, known_before);
        for task in kills {
            self.send_kill(&id, &task);
        }
        self.tell_losses(now);
        self.net_dirty = true;
        self.end_recovery_when_done(now);
    }

    /// What frameworks are told of an agent that they were told to do without, or whose tasks nobody knew (Mesos's
    /// `Master::__reregisterSlave`); nothing of one that was only cut off.
    fn is_back(&self, id: &AgentId) -> Option<&'static str> {
        match self.agents.all.get(id) {
            Some(a) if !a.reachable => Some("unreachable agent reregistered"),
            None if !self.expected.contains_key(id) => Some("unknown agent reregistered"),
            Some(_) | None => None,
        }
    }

    /// With many agents heartbeats are as rare as the time-out allows.
    fn heartbeat_interval(&self) -> Millis {
        let often = self.config.heartbeat_interval;
        if self.agents.all.len() > super::MANY_AGENTS {
            often.max(Millis(self.config.agent_timeout.0 / 4))
        } else {
            often
        }
    }

    fn refuse(&mut self, session: SessionId, id: &AgentId, conflict: &Conflict) {
        self.reject(conflict.code());
        self.out.push(Effect::SendAgent {
            session,
            msg: MasterMsg::Refused {
                reason: conflict.text(id),
                permanent: conflict.is_permanent(),
            },
        });
        self.out.push(Effect::Close { session });
    }

    /// At the limit, the agent that has been unreachable longest, holds no task and has nothing reserved
    /// makes room.
    fn make_room(&mut self, info: &AgentInfo, now: UnixMillis) {
        let full = self.agents.all.len() >= self.config.max_agents;
        if !full || self.agents.all.contains_key(&info.agent_id) {
            return;
        }
        let oldest = self
            .agents
            .all
            .values()
            .filter(|a| !a.reachable && self.tasks.of_agent(&a.info.agent_id).next().is_none())
            .filter(|a| !self.reservations.stored.contains_key(&a.info.agent_id))
            .min_by_key(|a| a.lost_at)
            .map(|a| a.info.agent_id.clone());
        if let Some(id) = oldest {
            self.forget_agent(&id, now);
        }
    }

    /// Enters the agent into the registry; answers whether level 1 has to learn its resources anew.
    fn admit(&mut self, reg: &Registration, now: UnixMillis) -> bool {
        let id = &reg.info.agent_id;
        if (self.generation..Generation(SANE_GENERATION)).contains(&reg.applied) {
            // The store is younger than the nodes: go on above what they have, or they would refuse
            // all that comes.
            self.generation = reg.applied;
            self.net_dirty = true;
        }
        let info = Arc::new(reg.info.clone());
        let new_record = match self.agents.all.get_mut(id) {
            Some(a) => {
                let moved = a.info.hostname != info.hostname || a.info.ip != info.ip;
                let changed = a.info != info;
                self.tasks.moved(&info);
                a.version.clone_from(&reg.version);
                if a.wireguard != reg.wireguard {
                    a.wireguard = reg.wireguard;
                    self.net_dirty = true;
                }
                a.reregistered_at = now;
                a.last_heard = now;
                a.applied = reg.applied;
                self.agents.set_info(id, info);
                if moved {
                    self.store_agent(id);
                }
                return changed;
            }
            None => Agent {
                info,
                version: reg.version.clone(),
                wireguard: reg.wireguard,
                session: None,
                reachable: true,
                lost_at: None,
                told_lost: false,
                registered_at: now,
                reregistered_at: now,
                last_heard: now,
                filed_at: now,
                applied: reg.applied,
                applied_us: 0,
                applied_after: None,
                apply_failures: Vec::new(),
            },
        };
        self.agents.enter(new_record);
        if !self.expected.contains_key(id) {
            self.store_agent(id);
        }
        true
    }

    /// Compares what the agent has with what the registry knows; `back` is said with reports of frameworks' tasks.
    fn compare_tasks(
        &mut self,
        id: &AgentId,
        tasks: Vec<(TaskSpec, TaskStatus)>,
        back: Option<&str>,
        now: UnixMillis,
    ) -> Compared {
        let Compared {
            mut adopted,
            mut unwanted,
            mut reports,
            mut told,
        } = Compared::default();
        let mut present = BTreeSet::new();
        for (spec, status) in tasks {
            let task_id = spec.task_id.clone();
            self.launch_over(&task_id);
            let sane = status.task_id == task_id && can_report(status.state);
            if !sane || !present.insert(task_id.clone()) {
                self.reject("bad_registered_task");
                continue;
            }
            match self.tasks.get(&task_id) {
                Some(t) if t.agent_id() == id => {
                    // What is retried until acknowledged comes again on its own stream.
                    let theirs = self.is_of_others(&spec.framework_id);
                    reports.push(returned(status, back.filter(|_| theirs)));
                }
                Some(_) => {
                    self.reject("task_id_on_two_agents");
                    unwanted.push(task_id);
                }
                // Its end comes as a status and is acknowledged then.
                None if status.state.is_terminal() => {
                    self.keep_unacked(&spec.framework_id, &task_id, id, None);
                }
                None if self.is_wanted(&spec) => {
                    let info = self.agents.all.get(id).map(|a| a.info.as_ref());
                    let mut task = self.tasks.new_task(spec, id, info, now);
                    task.take(&status, now);
                    // Its trace was told when it first became a backend.
                    task.announced = task.is_backend();
                    // Its framework may have been told that nobody knows it, or that it is out of reach. All else that is to be done
                    // of a report has been: it is half a million of them when a large cluster's master is back.
                    if task.spec.framework_id != self.framework_id {
                        let theirs = self.is_of_others(&task.spec.framework_id);
                        let status = returned(status, back.filter(|_| theirs));
                        told.push((task.spec.framework_id.clone(), status));
                    }
                    self.tasks.insert_new(task);
                    adopted.push(task_id);
                }
                // It ends, and holds what it uses until then.
                None => {
                    let info = self.agents.all.get(id).map(|a| a.info.as_ref());
                    let mut task = self.tasks.new_task(spec, id, info, now);
                    task.take(&status, now);
                    task.kill_wanted = true;
                    self.tasks.insert_new(task);
                    adopted.push(task_id.clone());
                    unwanted.push(task_id);
                }
            }
        }
        let missing = self.tasks.ids_of(id).filter(|id| !present.contains(*id));
        let missing = missing.filter_map(|id| self.tasks.get(id));
        reports.extend(missing.map(|t| vanished(t, now)));
        Compared {
            adopted,
            unwanted,
            reports,
            told,
        }
    }

    /// Whether a framework is none of the master's own.
    fn is_of_others(&self, framework: &FrameworkId) -> bool {
        *framework != self.framework_id && *framework != self.jobs.framework_id
    }

    /// Tasks of the built-in framework are wanted while their service is defined. Tasks of another
    /// framework are nobody's to kill until it is removed: they are kept, and their resources are held.
    fn is_wanted(&self, spec: &TaskSpec) -> bool {
        if self.frameworks.is_removed(&spec.framework_id) {
            return false;
        }
        spec.framework_id != self.framework_id
            || self.services.keys().any(|s| s.as_str() == spec.service)
    }

    /// Writes what is to be known of an agent when the master starts again.
    pub(super) fn store_agent(&mut self, id: &AgentId) {
        let registered = self.agents.all.get(id).map(|a| KnownAgent {
            hostname: a.info.hostname.clone(),
            ip: a.info.ip,
            mode: AgentMode::Active,
        });
        if let Some(known) = registered.or_else(|| self.expected.get(id).cloned()) {
            let mode = self.upkeep.mode(id);
            let known = KnownAgent { mode, ..known };
            self.persist(vec![stored::put_agent(id, &known)]);
        }
    }

    fn back_in_reach(&mut self, id: &AgentId) {
        self.held_losses.remove(id);
        // Tasks that come with it are new here, or it was out of reach.
        if !self.agents.back(id) {
            return;
        }
        for task in self.tasks.on_agent(id) {
            self.tasks.change(&task, |t| t.unreachable = false);
        }
    }

    /// Tells level 1 what an agent has, what of it is reserved, what its tasks hold and how it stands.
    pub(super) fn join(&mut self, id: &AgentId, now: UnixMillis) {
        let Some(info) = self.agents.all.get(id).map(|a| Arc::clone(&a.info)) else {
            return;
        };
        if self.upkeep.is_gone(id) {
            return;
        }
        let (reserved, used) = self.settle_agent(&info);
        let spec = AgentSpec { info, reserved };
        let mut events = vec![Level1::AgentJoined { spec, used }];
        // One that has joined is active, and nobody has asked anybody to leave it.
        if !self.is_at_work(id) || self.upkeep.windows.contains_key(id) {
            events.extend(self.standing(id, true, now));
        }
        self.allocate_all(events, now);
    }

    /// Of an agent's tasks: which level 2 has to take on (adopted just now, or forgotten by the framework while the agent was
    /// away) or nobody has, and which were to end before.
    fn left_to_do(&self, id: &AgentId) -> (Vec<TaskId>, Vec<TaskId>) {
        let (mut new, mut kills) = (Vec::new(), Vec::new());
        for t in self.tasks.of_agent(id) {
            let framework = &t.spec.framework_id;
            let has_owner =
                *framework != self.framework_id && self.frameworks.all.contains_key(framework);
            if !has_owner && self.scheduler.instance(&t.id).is_none() {
                new.push(t.id.clone());
            }
            if t.kill_wanted {
                kills.push(t.id.clone());
            }
        }
        (new, kills)
    }

    /// Removes an agent whose place another took; its tasks are gone with it.
    fn remove_agent(&mut self, id: &AgentId, now: UnixMillis) {
        for task_id in self.tasks.on_agent(id) {
            let status = TaskStatus {
                ip: None,
                ip6: None,
                ready: None,
                check: None,
                responses: Vec::new(),
                task_id,
                agent_id: id.clone(),
                state: TaskState::Gone,
                health: HealthState::Unknown,
                reason: Some(StatusReason::SlaveRemoved),
                message: "another agent registered at the same address".to_owned(),
                source: StatusSource::Master,
                at: now,
                uuid: None,
                executor: None,
            };
            self.report(status, now);
        }
        let (state, reason) = (TaskState::Gone, StatusReason::SlaveRemoved);
        let message = "another agent registered at the same address";
        self.end_launches(id, state, reason, message, now);
        self.tell_removed(id, now);
        self.forget_agent(id, now);
    }

    fn forget_agent(&mut self, id: &AgentId, now: UnixMillis) {
        if self.allocator.total(id).is_some() {
            let agent_id = id.clone();
            self.allocate(Level1::AgentRemoved { agent_id }, now);
        }
        self.agents.remove(id);
        self.persist(vec![
            stored::delete_agent(id),
            stored::put_window(id, None),
            stored::put_reservations(id, &[]),
        ]);
        self.forget_upkeep(id, now);
        self.net_dirty = true;
    }
}

/// What an agent that registers says of a task. An end keeps its reason; of what goes on, it is said why that is told now.
fn returned(status: TaskStatus, back: Option<&str>) -> TaskStatus {
    let uuid = None;
    match back.filter(|_| !status.state.is_terminal()) {
        Some(message) => TaskStatus {
            uuid,
            reason: Some(StatusReason::SlaveReregistered),
            message: message.to_owned(),
            source: StatusSource::Master,
            ..status
        },
        None => TaskStatus { uuid, ..status },
    }
}

/// The end of a task that its agent no longer has.
fn vanished(t: &Task, now: UnixMillis) -> TaskStatus {
    let (state, message) = if t.heard_at().is_none() {
        (TaskState::Dropped, "the launch did not reach the agent")
    } else {
        (TaskState::Lost, "the agent no longer has the task")
    };
    TaskStatus {
        ip: None,
        ip6: None,
        ready: None,
        check: None,
        responses: Vec::new(),
        task_id: t.id.clone(),
        agent_id: t.agent_id().clone(),
        state,
        health: HealthState::Unknown,
        reason: Some(StatusReason::SlaveRestarted),
        message: message.to_owned(),
        source: StatusSource::Master,
        at: now,
        uuid: None,
        executor: None,
    }
}
