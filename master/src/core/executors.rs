//! Executors that frameworks bring along: which there are, what each holds, and what is said between them and their
//! frameworks.
//!
//! The first launch of a framework on an agent that names an executor starts it; its resources are held from then on,
//! once, until the agent says that it has ended, or registers without it. Nothing of it is stored: agents say which
//! executors they have, as they do of tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_types::{
    AgentId, CallRejection, ExecutorEnd, ExecutorId, ExecutorKey, ExecutorKind, ExecutorRecord,
    ExecutorSpec, FrameworkId, MAX_MESSAGE, RejectReason, ResourcePart, Resources, SchedulerEvent,
    TaskId, TaskSpec, UnixMillis, sum_parts,
};

use super::{
    MasterCore, MasterMsg, SessionId,
    frameworks::{Called, no},
    settle::flat,
};

/// Executors of one framework on one agent.
const MAX_EXECUTORS: usize = 1000;

/// Executors that are not known to have ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Executors {
    by_agent: BTreeMap<AgentId, BTreeMap<ExecutorKey, ExecutorRecord>>,
    /// What is booked for them where that is not what they were given.
    booked: BTreeMap<(AgentId, ExecutorKey), Vec<ResourcePart>>,
    /// For readers; `None` after a change.
    shown: Option<Arc<Vec<(AgentId, ExecutorRecord)>>>,
}

impl Executors {
    /// One of an agent's.
    pub(super) fn get(&self, agent: &AgentId, key: &ExecutorKey) -> Option<&ExecutorRecord> {
        self.by_agent.get(agent)?.get(key)
    }

    /// An agent's, in order of their names.
    pub(super) fn of_agent(&self, agent: &AgentId) -> impl Iterator<Item = &ExecutorRecord> {
        self.by_agent
            .get(agent)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// A framework's, with their agents.
    fn of_framework(&self, id: &FrameworkId) -> Vec<(AgentId, ExecutorKey)> {
        let all = self
            .by_agent
            .iter()
            .flat_map(|(a, of)| of.keys().map(move |k| (a, k)));
        let mine = all.filter(|(_, k)| k.framework_id == *id);
        mine.map(|(a, k)| (a.clone(), k.clone())).collect()
    }

    /// Every one, with its agent.
    pub(super) fn shown(&mut self) -> Arc<Vec<(AgentId, ExecutorRecord)>> {
        let by_agent = &self.by_agent;
        let shown = self.shown.get_or_insert_with(|| {
            let all = by_agent
                .iter()
                .flat_map(|(a, of)| of.values().map(move |e| (a, e)));
            Arc::new(all.map(|(a, e)| (a.clone(), e.clone())).collect())
        });
        Arc::clone(shown)
    }

    fn insert(&mut self, agent: &AgentId, record: ExecutorRecord) {
        self.shown = None;
        let of = self.by_agent.entry(agent.clone()).or_default();
        of.insert(record.key(), record);
    }

    fn remove(&mut self, agent: &AgentId, key: &ExecutorKey) -> Option<ExecutorRecord> {
        self.shown = None;
        let of = self.by_agent.get_mut(agent)?;
        let gone = of.remove(key);
        if of.is_empty() {
            self.by_agent.remove(agent);
        }
        gone
    }

    /// All that an agent has.
    fn set(&mut self, agent: &AgentId, all: BTreeMap<ExecutorKey, ExecutorRecord>) {
        self.shown = None;
        if all.is_empty() {
            self.by_agent.remove(agent);
        } else {
            self.by_agent.insert(agent.clone(), all);
        }
    }

    /// What is booked for one.
    fn booked(&self, agent: &AgentId, e: &ExecutorRecord) -> Vec<ResourcePart> {
        let other = self.booked.get(&(agent.clone(), e.key()));
        other.cloned().unwrap_or_else(|| given(e))
    }

    /// Something else is booked for one than what it was given, or that again.
    pub(super) fn book(
        &mut self,
        agent: &AgentId,
        key: &ExecutorKey,
        parts: Option<Vec<ResourcePart>>,
    ) {
        let at = (agent.clone(), key.clone());
        match parts {
            Some(parts) => self.booked.insert(at, parts),
            None => self.booked.remove(&at),
        };
    }
}

/// What an executor was given, by reservation; all plain when its parts are not what it holds.
pub(super) fn given(e: &ExecutorRecord) -> Vec<ResourcePart> {
    let spec = &e.spec;
    if spec.resources.is_empty() {
        return Vec::new();
    }
    if spec.parts.is_empty() || sum_parts(&spec.parts).as_ref() != Some(&spec.resources) {
        return vec![ResourcePart::plain(flat(&spec.resources))];
    }
    spec.parts.clone()
}

/// Executors that an accept starts, by the task that starts each.
pub(super) type Starts = BTreeMap<TaskId, Arc<ExecutorSpec>>;

/// What these are to hold.
pub(super) fn resources_of(starts: &Starts) -> impl Iterator<Item = &Resources> {
    starts.values().map(|e| &e.resources)
}

impl MasterCore {
    /// Which executors these tasks start on an agent, or what is wrong with those that they name.
    pub(super) fn check_executors(
        &self,
        id: &FrameworkId,
        agent: &AgentId,
        tasks: &[&TaskSpec],
    ) -> Result<Starts, Vec<CallRejection>> {
        let (mut starts, mut wrong) = (Starts::new(), Vec::new());
        let mut named: BTreeMap<&ExecutorId, &Arc<ExecutorSpec>> = BTreeMap::new();
        for t in tasks {
            let Some(on) = &t.executor else { continue };
            let spec = &on.spec;
            if let Err(message) = check(spec) {
                wrong.push(no(RejectReason::Invalid, &t.task_id, message));
                continue;
            }
            let key = ExecutorKey {
                framework_id: id.clone(),
                executor_id: spec.executor_id.clone(),
            };
            let known = self.executors.get(agent, &key).map(|e| &e.spec);
            let other = known.or_else(|| named.get(&spec.executor_id).copied());
            match other {
                Some(other) if !other.is_same(spec) => {
                    let message =
                        format!("executor {} exists and is another one", spec.executor_id);
                    wrong.push(no(RejectReason::Invalid, &t.task_id, message));
                }
                Some(_) => {}
                None => {
                    named.insert(&spec.executor_id, spec);
                    starts.insert(t.task_id.clone(), Arc::clone(spec));
                }
            }
        }
        let have = self.executors.of_agent(agent);
        let have = have.filter(|e| e.framework_id == *id).count();
        if !starts.is_empty() && have + starts.len() > MAX_EXECUTORS {
            let message = format!("a framework has at most {MAX_EXECUTORS} executors on an agent");
            wrong.push(no(RejectReason::TooMany, "executor", message));
        }
        if wrong.is_empty() {
            Ok(starts)
        } else {
            Err(wrong)
        }
    }

    /// A launch was taken by level 1: its task as it is sent, and its executor as it is from now on. `parts` is what
    /// the executor was given, when this launch starts it.
    pub(super) fn on_executor(
        &mut self,
        mut spec: TaskSpec,
        agent: &AgentId,
        parts: Option<Vec<ResourcePart>>,
    ) -> TaskSpec {
        let Some(on) = &mut spec.executor else {
            return spec;
        };
        on.starts = parts.is_some();
        if let Some(parts) = parts {
            let record = ExecutorRecord {
                framework_id: spec.framework_id.clone(),
                framework_name: spec.framework_name.clone(),
                role: spec.role.clone(),
                spec: Arc::new(ExecutorSpec {
                    parts,
                    ..on.spec.as_ref().clone()
                }),
            };
            on.spec = Arc::clone(&record.spec);
            self.executors.insert(agent, record);
        } else {
            let key = ExecutorKey {
                framework_id: spec.framework_id.clone(),
                executor_id: on.spec.executor_id.clone(),
            };
            if let Some(known) = self.executors.get(agent, &key) {
                on.spec = Arc::clone(&known.spec);
            }
        }
        spec
    }

    /// What an agent that registers says of its executors; answers whether level 1 has to learn it anew.
    pub(super) fn compare_executors(
        &mut self,
        agent: &AgentId,
        executors: Vec<ExecutorRecord>,
    ) -> bool {
        let said: BTreeMap<ExecutorKey, ExecutorRecord> =
            executors.into_iter().map(|e| (e.key(), e)).collect();
        let known = self.executors.by_agent.get(agent);
        let changed = known.map_or(!said.is_empty(), |known| {
            known.len() != said.len()
                || known.iter().zip(&said).any(|((_, a), (_, b))| {
                    (
                        &a.framework_id,
                        &a.role,
                        &a.spec.resources,
                        &a.spec.parts,
                        &a.spec.executor_id,
                    ) != (
                        &b.framework_id,
                        &b.role,
                        &b.spec.resources,
                        &b.spec.parts,
                        &b.spec.executor_id,
                    )
                })
        });
        let gone: BTreeSet<ExecutorKey> = known
            .into_iter()
            .flat_map(BTreeMap::keys)
            .filter(|k| !said.contains_key(k))
            .cloned()
            .collect();
        for key in &gone {
            self.executors.book(agent, key, None);
            self.tell_executor_lost(agent, key, -1);
        }
        for key in said.keys() {
            if self.frameworks.is_removed(&key.framework_id) {
                let key = key.clone();
                self.send(agent, MasterMsg::ShutdownExecutor { key });
            }
        }
        self.executors.set(agent, said);
        changed
    }

    /// An executor has ended: what it held is free, and its framework hears of it.
    pub(super) fn executor_ended(
        &mut self,
        session: SessionId,
        end: &ExecutorEnd,
        now: UnixMillis,
    ) {
        self.heard(session, now);
        let Some(agent) = self.agents.of_session(session).cloned() else {
            return;
        };
        let Some(record) = self.executors.get(&agent, &end.key) else {
            self.reject("end_of_unknown_executor");
            return;
        };
        let (booked, role) = (self.executors.booked(&agent, record), record.role.clone());
        tracing::info!(%agent, executor = %end.key, status = end.status, why = end.message, "executor ended");
        self.executors.remove(&agent, &end.key);
        self.executors.book(&agent, &end.key, None);
        self.give_back(&end.key.framework_id, &role, booked, &agent, now);
        self.tell_executor_lost(&agent, &end.key, end.status);
    }

    fn tell_executor_lost(&mut self, agent: &AgentId, key: &ExecutorKey, status: i32) {
        let event = SchedulerEvent::ExecutorLost {
            agent_id: agent.clone(),
            executor_id: key.executor_id.clone(),
            status,
        };
        self.send_framework(&key.framework_id, event);
    }

    /// An executor says something to its framework; without one that listens it is lost.
    pub(super) fn executor_says(
        &mut self,
        session: SessionId,
        key: &ExecutorKey,
        data: Vec<u8>,
        now: UnixMillis,
    ) {
        self.heard(session, now);
        let Some(agent_id) = self.agents.of_session(session).cloned() else {
            return;
        };
        if self.executors.get(&agent_id, key).is_none() {
            self.reject("message_of_unknown_executor");
            return;
        }
        let event = SchedulerEvent::Message {
            agent_id,
            executor_id: key.executor_id.clone(),
            data,
        };
        self.send_framework(&key.framework_id, event);
    }

    fn executor_of(
        &self,
        id: &FrameworkId,
        agent: &AgentId,
        executor: ExecutorId,
    ) -> Result<ExecutorKey, Vec<CallRejection>> {
        if !self.agents.all.contains_key(agent) {
            let message = "no such agent";
            return Err(vec![no(RejectReason::UnknownAgent, agent, message)]);
        }
        let key = ExecutorKey {
            framework_id: id.clone(),
            executor_id: executor,
        };
        match self.executors.get(agent, &key) {
            Some(e) if e.spec.kind == ExecutorKind::Custom => {}
            Some(_) => {
                let message = "the agent itself is this executor: kill its tasks";
                return Err(vec![no(RejectReason::Invalid, &key.executor_id, message)]);
            }
            None => {
                let message = "the agent has no such executor of this framework";
                let reason = RejectReason::UnknownExecutor;
                return Err(vec![no(reason, &key.executor_id, message)]);
            }
        }
        if self.agents.session(agent).is_none() {
            let message = "the agent is not connected now";
            return Err(vec![no(RejectReason::AgentDisconnected, agent, message)]);
        }
        Ok(key)
    }

    /// A framework says something to an executor.
    pub(super) fn framework_message(
        &mut self,
        id: &FrameworkId,
        agent: &AgentId,
        executor: ExecutorId,
        data: Vec<u8>,
    ) -> Called {
        if data.len() > MAX_MESSAGE {
            let message = format!("must be at most {MAX_MESSAGE} bytes, is {}", data.len());
            return Err(vec![no(RejectReason::Invalid, "data", message)]);
        }
        let key = self.executor_of(id, agent, executor)?;
        self.send(agent, MasterMsg::ExecutorMessage { key, data });
        Ok(())
    }

    /// A framework ends an executor.
    pub(super) fn framework_shutdown(
        &mut self,
        id: &FrameworkId,
        agent: &AgentId,
        executor: ExecutorId,
    ) -> Called {
        let key = self.executor_of(id, agent, executor)?;
        self.send(agent, MasterMsg::ShutdownExecutor { key });
        Ok(())
    }

    /// A framework is gone: so are its executors, where their agents are there to be told; others are told when they
    /// register.
    pub(super) fn end_executors_of(&mut self, id: &FrameworkId) {
        for (agent, key) in self.executors.of_framework(id) {
            if self.agents.session(&agent).is_some() {
                self.send(&agent, MasterMsg::ShutdownExecutor { key });
            }
        }
    }

    /// Everything on an agent is to end: executors that run nothing, too.
    pub(super) fn end_idle_executors(&mut self, agent: &AgentId) {
        let busy: BTreeSet<(&FrameworkId, &ExecutorId)> = self
            .tasks
            .of_agent(agent)
            .filter_map(|t| {
                let (spec, _) = t.spec.executor.as_ref()?;
                Some((&t.spec.framework_id, &spec.executor_id))
            })
            .collect();
        let idle = self.executors.of_agent(agent);
        let idle = idle.filter(|e| e.spec.kind == ExecutorKind::Custom);
        let idle = idle.filter(|e| !busy.contains(&(&e.framework_id, &e.spec.executor_id)));
        let idle: Vec<ExecutorKey> = idle.map(ExecutorRecord::key).collect();
        for key in idle {
            self.send(agent, MasterMsg::ShutdownExecutor { key });
        }
    }

    /// An agent is gone, with all that it had.
    pub(super) fn forget_executors(&mut self, agent: &AgentId) {
        let gone: Vec<ExecutorKey> = self
            .executors
            .of_agent(agent)
            .map(ExecutorRecord::key)
            .collect();
        for key in &gone {
            self.executors.book(agent, key, None);
        }
        self.executors.set(agent, BTreeMap::new());
    }
}

/// What can be said of an executor by itself.
fn check(spec: &ExecutorSpec) -> Result<(), String> {
    if spec.parts.iter().any(|p| p.revocable) {
        return Err("executor.parts: must not be lent: nobody can take them back".to_owned());
    }
    if spec.resources.is_negative() {
        return Err("executor.resources: a quantity is negative".to_owned());
    }
    if !spec.parts.is_empty() && sum_parts(&spec.parts).as_ref() != Some(&spec.resources) {
        return Err("executor.parts: do not add up to its resources".to_owned());
    }
    Ok(())
}
