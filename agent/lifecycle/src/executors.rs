//! Executors that frameworks bring along: what they are told, what they say, and what their end means for their
//! tasks.
//!
//! A custom executor is a process in a container of its own, which subscribes and then runs tasks. Its tasks have no
//! process that the agent knows: their states are what the executor says, and they end with it. The default executor
//! is the agent itself: its tasks are containers, and it lives as long as one of them does.

mod ends;
mod groups;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use waggle_types::{
    Evicted, ExecutorEnd, ExecutorKey, ExecutorKind, ExecutorRecord, ExecutorStatus, Millis,
    Resources, StatusReason, StatusSource, StatusUuid, TaskId, TaskSpec, TaskState, TaskStatus,
    UnixMillis,
};

use crate::{
    AgentCore, Effect, KillCause, Phase,
    core::{Entry, FORCE_KILL_MARGIN, persist},
};
pub use groups::GROUP_TIMEOUT;
use groups::{Groups, group_of};

/// How long a started executor may take to subscribe (Mesos: `--executor_registration_timeout`).
pub const REGISTRATION_TIMEOUT: Millis = Millis::from_secs(60);
/// How long an executor may take to come back to an agent that has restarted: the longest that Mesos allows
/// (`--executor_reregistration_timeout`).
pub const REREGISTRATION_TIMEOUT: Millis = Millis::from_secs(15);
/// Updates that are remembered beside those that wait, since an executor may send them again.
const RECENT: usize = 64;

/// What an executor is told.
#[derive(Debug, Clone, PartialEq)]
pub enum ExecutorWord {
    /// It is known.
    Subscribed {
        /// Who it is.
        record: Box<ExecutorRecord>,
        /// Its container.
        container: TaskId,
    },
    /// Run this.
    Launch(Box<TaskSpec>),
    /// Run all of these, or none.
    LaunchGroup(Vec<TaskSpec>),
    /// End this.
    Kill {
        /// The task.
        task_id: TaskId,
        /// Longest time that it gets.
        grace: Millis,
    },
    /// An update is durable here.
    Acknowledged {
        /// Its task.
        task_id: TaskId,
        /// Which update.
        uuid: StatusUuid,
    },
    /// From its framework.
    Message(Vec<u8>),
    /// End everything, then yourself.
    Shutdown,
}

/// Where a custom executor is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Its process is being started.
    Starting,
    /// Its process runs.
    Running,
    /// It was told to end, or is being killed.
    Ending,
}

/// An executor that has not ended.
pub(crate) struct Executor {
    record: ExecutorRecord,
    /// Of a custom one.
    container: Option<TaskId>,
    life: Life,
    runs: bool,
    subscribed: bool,
    /// When it is killed if nothing happens.
    deadline: Option<UnixMillis>,
    /// When all of its container is killed.
    force_at: Option<UnixMillis>,
    /// Why it is being ended, for its tasks.
    why: Option<(StatusReason, String)>,
    groups: Groups,
}

/// What is known of a task because of its executor.
#[derive(Debug, Default)]
pub(crate) struct OnIt {
    /// It was handed to the executor.
    pub(crate) sent: bool,
    /// It was told to end.
    kill: Option<(Millis, Option<Evicted>)>,
    recent: VecDeque<StatusUuid>,
}

/// The executor that a task names.
fn key_of(spec: &TaskSpec) -> Option<ExecutorKey> {
    let on = spec.executor.as_ref()?;
    Some(ExecutorKey {
        framework_id: spec.framework_id.clone(),
        executor_id: on.spec.executor_id.clone(),
    })
}

fn record_of(spec: &TaskSpec) -> Option<ExecutorRecord> {
    let on = spec.executor.as_ref()?;
    Some(ExecutorRecord {
        framework_id: spec.framework_id.clone(),
        framework_name: spec.framework_name.clone(),
        role: spec.role.clone(),
        spec: on.spec.clone(),
    })
}

/// Whether a task is run by an executor's process.
pub(crate) fn is_custom(spec: &TaskSpec) -> bool {
    let on = spec.executor.as_ref();
    on.is_some_and(|on| on.spec.kind == ExecutorKind::Custom)
}

impl AgentCore {
    /// Every executor that has not ended, for registration and views, with its container if it has one of its own.
    pub fn executors(&self) -> impl Iterator<Item = (&ExecutorRecord, Option<&TaskId>)> {
        self.executors
            .values()
            .map(|e| (&e.record, e.container.as_ref()))
    }

    /// Whether an executor with a process of its own is there, and may subscribe.
    pub fn may_subscribe(&self, key: &ExecutorKey) -> bool {
        let executor = self.executors.get(key);
        executor.is_some_and(|e| e.container.is_some())
    }

    /// The executor whose container this is.
    pub fn executor_of(&self, container: &TaskId) -> Option<&ExecutorKey> {
        self.containers.get(container)
    }

    /// What an executor's container may use: its own, and that of its tasks that have not ended.
    pub fn container_resources(&self, key: &ExecutorKey) -> Option<Resources> {
        let executor = self.executors.get(key)?;
        let mut sum = executor.record.spec.resources.clone();
        for (_, entry) in self.on(key) {
            if !matches!(entry.machine.phase(), Phase::Terminal(_)) {
                sum.try_add(&entry.machine.spec().resources);
            }
        }
        Some(sum)
    }

    /// What executors hold beside their tasks.
    pub(crate) fn held_by_executors(&self) -> impl Iterator<Item = &Resources> {
        self.executors.values().map(|e| &e.record.spec.resources)
    }

    fn on<'a>(&'a self, key: &'a ExecutorKey) -> impl Iterator<Item = (&'a TaskId, &'a Entry)> {
        self.tasks
            .iter()
            .filter(move |(_, e)| key_of(e.machine.spec()).as_ref() == Some(key))
    }

    fn live_on(&self, key: &ExecutorKey) -> Vec<TaskId> {
        let live = |e: &Entry| !matches!(e.machine.phase(), Phase::Terminal(_));
        let all = self.on(key).filter(|(_, e)| live(e));
        all.map(|(id, _)| id.clone()).collect()
    }

    /// Finds, or begins, the executor of a task that is launched. The error is the answer to the launch.
    pub(crate) fn place(
        &mut self,
        spec: &TaskSpec,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) -> Result<(), Box<TaskStatus>> {
        let (Some(key), Some(record), Some(on)) = (key_of(spec), record_of(spec), &spec.executor)
        else {
            return Ok(());
        };
        let gone = |core: &Self, message: &str| {
            Box::new(TaskStatus {
                reason: Some(StatusReason::ExecutorTerminated),
                message: message.to_owned(),
                ..core.untracked(&spec.task_id, TaskState::Dropped, now)
            })
        };
        match self.executors.get(&key) {
            Some(e) if e.life == Life::Ending => Err(gone(self, "its executor is ending")),
            Some(_) => Ok(()),
            None if !on.starts => Err(gone(self, "its executor has ended")),
            None => {
                let custom = record.spec.kind == ExecutorKind::Custom;
                let container = custom.then(|| self.fresh_container()).flatten();
                if let Some(container) = &container {
                    self.containers.insert(container.clone(), key.clone());
                    out.push(Effect::LaunchExecutor {
                        record: Box::new(record.clone()),
                        container: container.clone(),
                    });
                }
                let executor = Executor {
                    life: if custom {
                        Life::Starting
                    } else {
                        Life::Running
                    },
                    ..Executor::new(record, container)
                };
                self.executors.insert(key, executor);
                Ok(())
            }
        }
    }

    /// A launch was refused: an executor that it was to start has never been.
    pub(crate) fn not_placed(&self, spec: &TaskSpec, why: &str, out: &mut Vec<Effect>) {
        let Some(key) = key_of(spec).filter(|key| !self.executors.contains_key(key)) else {
            return;
        };
        out.push(Effect::ExecutorEnded(ExecutorEnd {
            key,
            status: -1,
            message: format!("it was not started: {why}"),
        }));
    }

    /// A task of a custom executor was accepted.
    pub(crate) fn hand_over(&mut self, spec: &TaskSpec, now: UnixMillis, out: &mut Vec<Effect>) {
        let Some(key) = key_of(spec) else { return };
        let Some(container) = self.executors.get(&key).and_then(|e| e.container.clone()) else {
            return;
        };
        out.push(Effect::Accept {
            spec: Box::new(spec.clone()),
            container,
        });
        self.limit(&key, out);
        self.part_came(&key, spec, now, out);
        self.send_waiting(&key, out);
    }

    /// Hands over what waits for an executor that listens.
    fn send_waiting(&mut self, key: &ExecutorKey, out: &mut Vec<Effect>) {
        let ready = self.executors.get(key);
        if !ready.is_some_and(|e| e.subscribed && e.life != Life::Ending) {
            return;
        }
        let mut groups: BTreeMap<TaskId, (usize, Vec<TaskSpec>)> = BTreeMap::new();
        let tell = |word| Effect::ToExecutor {
            key: key.clone(),
            word,
        };
        for entry in self.tasks.values_mut() {
            let spec = entry.machine.spec();
            let mine = key_of(spec).as_ref() == Some(key);
            let live = !matches!(entry.machine.phase(), Phase::Terminal(_));
            if !mine || !live || entry.on.sent {
                continue;
            }
            if let Some((group, n)) = group_of(spec) {
                let (_, parts) = groups.entry(group).or_insert((n, Vec::new()));
                parts.push(spec.clone());
                continue;
            }
            entry.on.sent = true;
            out.push(tell(ExecutorWord::Launch(Box::new(spec.clone()))));
        }
        // Its tasks come one by one.
        for (n, parts) in groups.into_values().filter(|(n, parts)| *n == parts.len()) {
            debug_assert!(n > 0, "a group that is known has tasks");
            for part in &parts {
                if let Some(entry) = self.tasks.get_mut(&part.task_id) {
                    entry.on.sent = true;
                }
            }
            out.push(tell(ExecutorWord::LaunchGroup(parts)));
        }
    }

    fn limit(&self, key: &ExecutorKey, out: &mut Vec<Effect>) {
        let container = self.executors.get(key).and_then(|e| e.container.clone());
        if let (Some(container), Some(resources)) = (container, self.container_resources(key)) {
            out.push(Effect::Limit {
                container,
                resources,
            });
        }
    }

    /// An executor's process runs.
    pub(crate) fn executor_started(
        &mut self,
        container: &TaskId,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let key = self.containers.get(container).cloned();
        let Some(e) = key.as_ref().and_then(|key| self.executors.get_mut(key)) else {
            return;
        };
        e.runs = true;
        match e.life {
            Life::Starting => {
                e.life = Life::Running;
                if !e.subscribed && e.deadline.is_none() {
                    e.deadline = Some(now + REGISTRATION_TIMEOUT);
                }
            }
            // It was to end before it ran.
            Life::Ending => kill_container(e, container, now, out),
            Life::Running => {}
        }
        if let Some(key) = key {
            self.limit(&key, out);
        }
    }

    /// An executor listens. `tasks` are those that it knows and has not had an acknowledgement for, `updates` those
    /// that it was not acknowledged.
    pub(crate) fn executor_subscribed(
        &mut self,
        key: &ExecutorKey,
        tasks: &[TaskId],
        updates: Vec<TaskStatus>,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let Some(e) = self.executors.get_mut(key) else {
            return;
        };
        let Some(container) = e.container.clone() else {
            return;
        };
        e.subscribed = true;
        if e.life != Life::Ending {
            (e.deadline, e.why) = (None, None);
            e.life = Life::Running;
        }
        let ending = e.life == Life::Ending;
        let to = |word| Effect::ToExecutor {
            key: key.clone(),
            word,
        };
        out.push(to(ExecutorWord::Subscribed {
            record: Box::new(e.record.clone()),
            container,
        }));
        for status in updates {
            self.executor_update(key, status, now, out);
        }
        // What it was sent and does not know never arrived; what it was told to end, it is told again.
        let known: BTreeSet<&TaskId> = tasks.iter().collect();
        let mut lost = Vec::new();
        for id in self.live_on(key) {
            let Some(entry) = self.tasks.get(&id) else {
                continue;
            };
            let silent = entry.machine.state() == TaskState::Staging;
            if entry.on.sent && silent && !known.contains(&id) {
                lost.push(id);
            } else if let Some((grace, _)) = entry.on.kill.as_ref().filter(|_| entry.on.sent) {
                let (task_id, grace) = (id, *grace);
                out.push(to(ExecutorWord::Kill { task_id, grace }));
            }
        }
        for id in lost {
            let message = "the launch did not reach its executor".to_owned();
            let reason = StatusReason::SlaveRestarted;
            let spec = self.tasks.get(&id).map(|e| e.machine.spec().clone());
            self.end_on(&id, TaskState::Dropped, reason, message, now, out);
            // A part of its group that comes later would wait for it.
            if let Some(spec) = spec {
                self.break_group(&spec, now, out);
            }
        }
        if ending {
            out.push(to(ExecutorWord::Shutdown));
        }
        self.send_waiting(key, out);
    }

    /// An executor's stream has ended.
    pub(crate) fn executor_left(&mut self, key: &ExecutorKey) {
        if let Some(e) = self.executors.get_mut(key) {
            e.subscribed = false;
        }
    }

    /// An executor says how one of its tasks is. It is acknowledged once that is durable, also when it was heard before.
    pub(crate) fn executor_update(
        &mut self,
        key: &ExecutorKey,
        status: TaskStatus,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let (task_id, Some(uuid)) = (status.task_id.clone(), status.uuid) else {
            return;
        };
        let agent_id = self.agent_id.clone();
        let mine = |e: &&mut Entry| key_of(e.machine.spec()).as_ref() == Some(key);
        let fresh = self
            .tasks
            .get_mut(&task_id)
            .filter(mine)
            .is_some_and(|entry| {
                let over = matches!(entry.machine.phase(), Phase::Terminal(_));
                let waits = |s: &TaskStatus| s.uuid == Some(uuid);
                let heard = entry.stream.pending().any(waits)
                    || entry.stream.latest().is_some_and(waits)
                    || entry.on.recent.contains(&uuid);
                !over && !heard
            });
        if fresh {
            if let Some(entry) = self.tasks.get_mut(&task_id) {
                entry.on.sent = true;
                entry.on.recent.push_back(uuid);
                if entry.on.recent.len() > RECENT {
                    entry.on.recent.pop_front();
                }
                entry.machine.said(&status, now);
            }
            let status = TaskStatus { agent_id, ..status };
            let over = status.state.is_terminal();
            self.tell(&task_id, status, now, out);
            if over {
                self.limit(key, out);
            }
        }
        out.push(Effect::ToExecutor {
            key: key.clone(),
            word: ExecutorWord::Acknowledged { task_id, uuid },
        });
    }

    /// A task of a custom executor is to end.
    pub(crate) fn kill_on(
        &mut self,
        task_id: &TaskId,
        max_grace: Option<Millis>,
        cause: &KillCause,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.tasks.get_mut(task_id) else {
            return;
        };
        let spec = entry.machine.spec();
        let Some(key) = key_of(spec) else { return };
        if matches!(entry.machine.phase(), Phase::Terminal(_)) {
            return;
        }
        let why = match cause {
            KillCause::Evicted(why) => Some(why.clone()),
            _ => None,
        };
        let grace = max_grace.map_or(spec.kill_grace, |max| max.min(spec.kill_grace));
        if !entry.on.sent {
            let (reason, message) = match why {
                Some(why) => (why.reason, why.message),
                None => (
                    StatusReason::TaskKilledDuringLaunch,
                    "killed before its executor had it".to_owned(),
                ),
            };
            let spec = spec.clone();
            self.end_on(task_id, TaskState::Killed, reason, message, now, out);
            self.break_group(&spec, now, out);
            let idle = self.live_on(&key).is_empty();
            let unused = self.executors.get(&key).is_some_and(|e| !e.subscribed);
            if idle && unused {
                self.shut_down(&key, None, now, out);
            }
            return;
        }
        let told = entry.on.kill.as_ref().is_some_and(|(g, _)| *g <= grace);
        if told {
            return;
        }
        entry.on.kill = Some((grace, why));
        if self.executors.get(&key).is_some_and(|e| e.subscribed) {
            let task_id = task_id.clone();
            let word = ExecutorWord::Kill { task_id, grace };
            out.push(Effect::ToExecutor { key, word });
        }
    }

    /// An executor is to end, and with it its tasks.
    pub(crate) fn shut_down(
        &mut self,
        key: &ExecutorKey,
        why: Option<(StatusReason, String)>,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let Some(e) = self.executors.get_mut(key) else {
            return;
        };
        let Some(container) = e.container.clone() else {
            for id in self.live_on(key) {
                self.kill(&id, None, KillCause::Asked, now, out);
            }
            return;
        };
        if e.life == Life::Ending {
            return;
        }
        let asked = why.is_none();
        (e.life, e.why) = (Life::Ending, why);
        if asked && e.subscribed {
            e.deadline = Some(now + e.record.spec.shutdown_grace);
            out.push(Effect::ToExecutor {
                key: key.clone(),
                word: ExecutorWord::Shutdown,
            });
        } else if e.runs {
            kill_container(e, &container, now, out);
        } else {
            out.push(Effect::Cancel(container));
        }
    }

    /// Executors whose time is over.
    pub(crate) fn executors_due(&mut self, now: UnixMillis, out: &mut Vec<Effect>) {
        let due = |at: Option<UnixMillis>| at.is_some_and(|at| at <= now);
        let late = self.executors.iter().filter(|(_, e)| due(e.deadline));
        let late: Vec<ExecutorKey> = late.map(|(key, _)| key.clone()).collect();
        for key in late {
            let Some(e) = self.executors.get_mut(&key) else {
                continue;
            };
            e.deadline = None;
            if e.life != Life::Ending {
                let (reason, timeout) = if e.why_late() {
                    let timeout = REREGISTRATION_TIMEOUT;
                    (StatusReason::ExecutorReregistrationTimeout, timeout)
                } else {
                    let timeout = REGISTRATION_TIMEOUT;
                    (StatusReason::ExecutorRegistrationTimeout, timeout)
                };
                let message = format!(
                    "its executor did not subscribe within {} s",
                    timeout.0 / 1000
                );
                self.shut_down(&key, Some((reason, message)), now, out);
            } else if let Some(container) = e.container.clone() {
                kill_container(e, &container, now, out);
            }
        }
        self.groups_due(now, out);
        for e in self.executors.values_mut().filter(|e| due(e.force_at)) {
            if let Some(container) = e.container.clone() {
                e.force_at = Some(now + FORCE_KILL_MARGIN);
                out.push(Effect::ForceKill(container));
            }
        }
    }

    /// When [`AgentCore::executors_due`] has work.
    pub(crate) fn executors_deadline(&self) -> Option<UnixMillis> {
        let all = self.executors.values();
        let each = all.flat_map(|e| [e.deadline, e.force_at, e.groups.deadline()]);
        each.flatten().min()
    }

    /// Ends a task of a custom executor on the agent's own account.
    fn end_on(
        &mut self,
        task_id: &TaskId,
        state: TaskState,
        reason: StatusReason,
        message: String,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let uuid = self.next_uuid();
        let Some(entry) = self.tasks.get_mut(task_id) else {
            return;
        };
        let Some(key) = key_of(entry.machine.spec()) else {
            return;
        };
        let status = TaskStatus {
            reason: Some(reason),
            message,
            uuid: Some(uuid),
            executor: Some(Box::new(ExecutorStatus {
                executor_id: key.executor_id.clone(),
                info: Vec::new(),
            })),
            source: StatusSource::Agent,
            ..self.untracked(task_id, state, now)
        };
        if let Some(entry) = self.tasks.get_mut(task_id) {
            entry.machine.said(&status, now);
        }
        self.tell(task_id, status, now, out);
        self.limit(&key, out);
    }

    /// Makes a status of a task of a custom executor durable and sends it.
    fn tell(
        &mut self,
        task_id: &TaskId,
        status: TaskStatus,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.tasks.get_mut(task_id) else {
            return;
        };
        out.push(Effect::LocalFact {
            task_id: task_id.clone(),
            state: status.state,
            health: status.health,
            ready: status.ready,
            status: Some(status.clone()),
        });
        entry.stream.push(status);
        out.push(persist(task_id, &entry.stream));
        self.send_due(now, out);
    }

    /// A name for a container that no other has, on any agent at any time: it looks like a UUID, as Mesos's do.
    fn fresh_container(&mut self) -> Option<TaskId> {
        let StatusUuid(bytes) = self.next_uuid();
        let hex = format!("{:032x}", u128::from_be_bytes(bytes));
        let parts = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ];
        TaskId::new(parts.join("-")).ok()
    }
}

impl Executor {
    fn new(record: ExecutorRecord, container: Option<TaskId>) -> Self {
        Self {
            record,
            container,
            life: Life::Starting,
            runs: false,
            subscribed: false,
            deadline: None,
            force_at: None,
            why: None,
            groups: Groups::default(),
        }
    }

    /// Whether what it is late for is to come back.
    fn why_late(&self) -> bool {
        let why = self.why.as_ref().map(|(reason, _)| *reason);
        why == Some(StatusReason::ExecutorReregistrationTimeout)
    }
}

/// SIGTERM by its shim, then SIGKILL; later everything in its cgroup.
fn kill_container(e: &mut Executor, container: &TaskId, now: UnixMillis, out: &mut Vec<Effect>) {
    e.deadline = None;
    out.push(Effect::Kill(container.clone()));
    let grace = e.record.spec.shutdown_grace;
    e.force_at = Some(now + grace + FORCE_KILL_MARGIN);
}

/// Executors by name, and by container.
pub(crate) type Executors = BTreeMap<ExecutorKey, Executor>;
