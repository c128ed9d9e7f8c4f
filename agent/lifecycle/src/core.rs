//! All tasks of one agent: events in, effects out.

use std::collections::BTreeMap;

use waggle_types::{
    AgentId, CheckResponse, CheckStatus, Command, Evicted, ExecutorEnd, ExecutorKey,
    ExecutorRecord, HealthState, Millis, Resources, StatusReason, StatusSource, StatusUuid, TaskId,
    TaskSpec, TaskState, TaskStatus, UnixMillis,
};

use crate::{
    ExecutorWord, Exit, KillCause, Phase, TaskMachine, Transition, UpdateStream,
    executors::{Executors, OnIt, is_custom},
    fits::excess,
};

/// How long the shim has beyond the task's own grace before the agent kills the cgroup itself; also
/// the time between further attempts.
pub(crate) const FORCE_KILL_MARGIN: Millis = Millis::from_secs(5);

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The master wants this task to run.
    Launch(Box<TaskSpec>),
    /// The master wants this task to end.
    Kill {
        /// The task.
        task_id: TaskId,
        /// Longest time from SIGTERM to SIGKILL, where it is shorter than the task's own.
        max_grace: Option<Millis>,
        /// Why, when its framework did not ask for it.
        why: Option<Evicted>,
    },
    /// The master has stored a status.
    Ack {
        /// Its task.
        task_id: TaskId,
        /// Which status.
        uuid: StatusUuid,
    },
    /// A master accepted the registration.
    Connected {
        /// Tasks that it has given up on.
        unknown_tasks: Vec<TaskId>,
    },
    /// No master listens.
    Disconnected,
    /// A task's process runs.
    Started {
        /// The task.
        task_id: TaskId,
        /// Its process id.
        pid: u32,
    },
    /// A task's process vanished; how will follow as [`Event::Exited`].
    ProcessGone(TaskId),
    /// A task is over.
    Exited {
        /// The task.
        task_id: TaskId,
        /// How.
        exit: Exit,
    },
    /// A health check answered.
    Checked {
        /// The task.
        task_id: TaskId,
        /// Which of its checks.
        idx: usize,
        /// `Ok`, or what was wrong.
        result: Result<(), String>,
        /// What it was answered, where that is to be told, too.
        response: Option<CheckResponse>,
    },
    /// A check that is only told answered ([`waggle_types::CheckPurpose::Report`]).
    CheckSaid {
        /// The task.
        task_id: TaskId,
        /// Which of its checks.
        idx: usize,
        /// What.
        said: CheckStatus,
        /// The same for people.
        why: String,
    },
    /// A task holds more disk than it asked for.
    OverDisk {
        /// The task.
        task_id: TaskId,
        /// What is too large, how large it is and its limit, for people.
        why: String,
    },
    /// A task was found after a restart.
    Recovered {
        /// Its spec.
        spec: Box<TaskSpec>,
        /// Its newest durable status.
        latest: Option<TaskStatus>,
        /// Updates not acknowledged.
        pending: Vec<TaskStatus>,
        /// Its process, where it runs.
        pid: Option<u32>,
        /// When its process began, where that is known.
        since: Option<UnixMillis>,
    },
    /// An executor's process, found running or ended after a restart; before the tasks.
    ExecutorRecovered {
        /// Who it is.
        record: Box<ExecutorRecord>,
        /// Its container.
        container: TaskId,
        /// Whether its process runs; else it is being started.
        runs: bool,
    },
    /// An executor listens from now on.
    ExecutorSubscribed {
        /// Which.
        key: ExecutorKey,
        /// Tasks that it has and no update of which was acknowledged to it.
        tasks: Vec<TaskId>,
        /// Updates that were not acknowledged to it.
        updates: Vec<TaskStatus>,
    },
    /// An executor listens no more.
    ExecutorLeft(ExecutorKey),
    /// An executor says how a task is.
    ExecutorUpdate {
        /// Which.
        key: ExecutorKey,
        /// What; with a uuid.
        status: Box<TaskStatus>,
    },
    /// An executor says something to its framework.
    ExecutorSays {
        /// Which.
        key: ExecutorKey,
        /// What.
        data: Vec<u8>,
    },
    /// A framework says something to an executor.
    FrameworkSays {
        /// Which.
        key: ExecutorKey,
        /// What.
        data: Vec<u8>,
    },
    /// An executor is to end.
    ShutdownExecutor(ExecutorKey),
    /// Time has passed.
    Tick,
}

/// A stream as it is made durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamRecord {
    /// The newest status.
    pub latest: Option<TaskStatus>,
    /// What is not acknowledged, oldest first.
    pub pending: Vec<TaskStatus>,
}

/// What to do, in order. An effect that fails is answered by an event ([`Event::Exited`] for a launch).
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make the spec durable, then start it; answer with `Started` or `Exited`.
    Launch(Box<TaskSpec>),
    /// Make the executor durable, then start it as a task with the container's name; answer with `Started` or `Exited`.
    LaunchExecutor {
        /// What.
        record: Box<ExecutorRecord>,
        /// Its name.
        container: TaskId,
    },
    /// Make the spec of a task durable that an executor will run.
    Accept {
        /// What.
        spec: Box<TaskSpec>,
        /// Where.
        container: TaskId,
    },
    /// An executor's container may use so much from now on.
    Limit {
        /// Which.
        container: TaskId,
        /// All together.
        resources: Resources,
    },
    /// Say something to an executor.
    ToExecutor {
        /// Which.
        key: ExecutorKey,
        /// What.
        word: ExecutorWord,
    },
    /// Tell the master what an executor says to its framework.
    ToFramework {
        /// Which.
        key: ExecutorKey,
        /// What.
        data: Vec<u8>,
    },
    /// Tell the master, and whoever serves the executor, that it has ended.
    ExecutorEnded(ExecutorEnd),
    /// Make this durable before what follows.
    Persist {
        /// The task.
        task_id: TaskId,
        /// Its stream.
        record: StreamRecord,
    },
    /// Send to the master.
    Send(TaskStatus),
    /// Tell the shim to end the task: SIGTERM, the task's grace, SIGKILL.
    Kill(TaskId),
    /// Stop preparing a task whose process does not run yet; one that is too far for that is told of as started.
    Cancel(TaskId),
    /// Kill everything in the task's cgroup now.
    ForceKill(TaskId),
    /// Tell the node's data plane at once.
    LocalFact {
        /// The task.
        task_id: TaskId,
        /// Its state.
        state: TaskState,
        /// Its health.
        health: HealthState,
        /// Whether it may get work; `None` when no check says so.
        ready: Option<bool>,
        /// The status that says so, to be told to people and telemetry too; `None` for what only the data plane must
        /// know: the status follows, or was told before.
        status: Option<TaskStatus>,
    },
    /// Run those of the task's checks that are to be run now ([`AgentCore::checks`]), and no others.
    StartChecks(TaskId),
    /// The task is over: stop its checks, read its counters for the last time, remove its cgroup.
    Release {
        /// The task.
        task_id: TaskId,
        /// Its terminal state.
        state: TaskState,
        /// How, for counters.
        exit: Exit,
    },
    /// Its end was acknowledged: its leftovers may go.
    Forget(TaskId),
}

/// One task, for views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSummary {
    /// Its spec.
    pub spec: TaskSpec,
    /// Its state.
    pub state: TaskState,
    /// Its health.
    pub health: HealthState,
    /// Whether it may get work; `None` when no check says so.
    pub ready: Option<bool>,
    /// Its process.
    pub pid: Option<u32>,
    /// When it ran first.
    pub started_at: Option<UnixMillis>,
    /// The newest status.
    pub latest: Option<TaskStatus>,
}

/// Which checks of a task are to be run now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningChecks {
    /// Positions among the spec's checks.
    pub idxs: Vec<usize>,
    /// When these began to count: their delays begin then.
    pub since: UnixMillis,
    /// The task's health.
    pub health: HealthState,
    /// Whether it may get work; `None` when no check says so.
    pub ready: Option<bool>,
}

pub(crate) struct Entry {
    pub(crate) machine: TaskMachine,
    pub(crate) stream: UpdateStream,
    // Of a task that an executor runs.
    pub(crate) on: OnIt,
    // The time from SIGTERM to SIGKILL, where it is to be shorter than the task's own.
    max_grace: Option<Millis>,
    force_kill_at: Option<UnixMillis>,
}

/// The agent's decisions.
pub struct AgentCore {
    pub(crate) agent_id: AgentId,
    pub(crate) tasks: BTreeMap<TaskId, Entry>,
    pub(crate) executors: Executors,
    // Which executor is in it.
    pub(crate) containers: BTreeMap<TaskId, ExecutorKey>,
    connected: bool,
    seed: u64,
    n_uuids: u64,
    total: Option<Resources>,
}

impl AgentCore {
    /// Without tasks. `seed` makes status ids; it must be fresh in each process.
    pub fn new(agent_id: AgentId, seed: u64) -> Self {
        Self {
            agent_id,
            tasks: BTreeMap::new(),
            executors: Executors::new(),
            containers: BTreeMap::new(),
            connected: false,
            seed,
            n_uuids: 0,
            total: None,
        }
    }

    /// Refuses launches that do not fit into `total` beside the tasks that are not over. Without it everything fits.
    #[must_use]
    pub fn with_total(mut self, total: Resources) -> Self {
        self.total = Some(total);
        self
    }

    /// Takes one event and says what to do, in order.
    pub fn handle(&mut self, event: Event, now: UnixMillis) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Launch(spec) => self.launch(*spec, now, &mut out),
            Event::Kill {
                task_id,
                max_grace,
                why,
            } => {
                let cause = why.map_or(KillCause::Asked, KillCause::Evicted);
                self.kill(&task_id, max_grace, cause, now, &mut out);
            }
            Event::Ack { task_id, uuid } => self.ack(&task_id, uuid, now, &mut out),
            Event::Connected { unknown_tasks } => {
                self.connected = true;
                for entry in self.tasks.values_mut() {
                    entry.stream.reset_timer();
                }
                for task_id in unknown_tasks {
                    if self.tasks.contains_key(&task_id) {
                        self.kill(&task_id, None, KillCause::Asked, now, &mut out);
                    }
                }
                self.send_due(now, &mut out);
            }
            Event::Disconnected => self.connected = false,
            Event::Started { task_id, .. } if self.containers.contains_key(&task_id) => {
                self.executor_started(&task_id, now, &mut out);
            }
            Event::Started { task_id, pid } => {
                self.step(&task_id, now, &mut out, |m| m.started(pid, now));
                if self.state(&task_id) == Some(TaskState::Running) {
                    out.push(Effect::StartChecks(task_id));
                }
            }
            Event::ProcessGone(task_id) => {
                // The data plane must not choose it any more; the state is told with its exit code.
                if let Some(e) = self.tasks.get(&task_id)
                    && !matches!(e.machine.phase(), Phase::Terminal(_))
                {
                    out.push(Effect::LocalFact {
                        task_id,
                        state: TaskState::Failed,
                        health: HealthState::Unhealthy,
                        ready: e.machine.ready().map(|_| false),
                        status: None,
                    });
                }
            }
            Event::Exited { task_id, exit } if self.containers.contains_key(&task_id) => {
                self.executor_exited(&task_id, &exit, now, &mut out);
            }
            Event::Exited { task_id, exit } => self.exited(&task_id, exit, now, &mut out),
            Event::Checked {
                task_id,
                idx,
                result,
                response,
            } => self.checked(&task_id, idx, (result, response), now, &mut out),
            Event::CheckSaid {
                task_id,
                idx,
                said,
                why,
            } => self.step(&task_id, now, &mut out, |m| {
                m.check_said(idx, said, &why, now)
            }),
            Event::OverDisk { task_id, why } => {
                self.step(&task_id, now, &mut out, |m| m.over_disk(why, now));
            }
            Event::Recovered {
                spec,
                latest,
                pending,
                pid,
                since,
            } => {
                let stream = UpdateStream::restore(latest.clone(), pending);
                let agent_id = self.agent_id.clone();
                let machine = TaskMachine::recovered(*spec, agent_id, latest.as_ref(), since, now);
                self.recovered(machine, stream, pid, now, &mut out);
            }
            Event::ExecutorRecovered {
                record,
                container,
                runs,
            } => self.executor_recovered(*record, container, runs, now),
            Event::ExecutorSubscribed {
                key,
                tasks,
                updates,
            } => self.executor_subscribed(&key, &tasks, updates, now, &mut out),
            Event::ExecutorLeft(key) => self.executor_left(&key),
            Event::ExecutorUpdate { key, status } => {
                self.executor_update(&key, *status, now, &mut out);
            }
            Event::ExecutorSays { key, data } => {
                if self.executors.contains_key(&key) {
                    out.push(Effect::ToFramework { key, data });
                }
            }
            Event::FrameworkSays { key, data } => {
                if self.may_subscribe(&key) {
                    let word = ExecutorWord::Message(data);
                    out.push(Effect::ToExecutor { key, word });
                }
            }
            Event::ShutdownExecutor(key) => self.shut_down(&key, None, now, &mut out),
            Event::Tick => {
                self.executors_due(now, &mut out);
                let over = |e: &&Entry| e.machine.over_time_at().is_some_and(|at| at <= now);
                let over = self.tasks.values().filter(over);
                let over: Vec<TaskId> = over.map(|e| e.machine.spec().task_id.clone()).collect();
                for task_id in over {
                    self.kill(&task_id, None, KillCause::OverTime, now, &mut out);
                }
                for (task_id, entry) in &mut self.tasks {
                    if entry.force_kill_at.is_some_and(|at| at <= now) {
                        entry.force_kill_at = Some(now + FORCE_KILL_MARGIN);
                        out.push(Effect::ForceKill(task_id.clone()));
                    }
                }
                self.send_due(now, &mut out);
            }
        }
        out
    }

    /// When [`Event::Tick`] has work to do.
    pub fn next_deadline(&self) -> Option<UnixMillis> {
        self.tasks
            .values()
            .flat_map(|e| {
                let retry = if self.connected {
                    e.stream.deadline()
                } else {
                    None
                };
                [retry, e.force_kill_at, e.machine.over_time_at()]
            })
            .flatten()
            .chain(self.executors_deadline())
            .min()
    }

    /// Every task, for registration and views, by id.
    pub fn tasks(&self) -> impl Iterator<Item = TaskSummary> + '_ {
        self.tasks.values().map(|e| TaskSummary {
            spec: e.machine.spec().clone(),
            state: e.machine.state(),
            health: e.machine.health(),
            ready: e.machine.ready(),
            pid: e.machine.pid(),
            started_at: e.machine.started_at(),
            latest: e.stream.latest().cloned(),
        })
    }

    /// Which checks of a task are to be run now.
    pub fn checks(&self, task_id: &TaskId) -> Option<RunningChecks> {
        let machine = &self.tasks.get(task_id)?.machine;
        Some(RunningChecks {
            idxs: machine.running_checks(),
            since: machine.checks_since(),
            health: machine.health(),
            ready: machine.ready(),
        })
    }

    /// State of one task.
    pub fn state(&self, task_id: &TaskId) -> Option<TaskState> {
        self.tasks.get(task_id).map(|e| e.machine.state())
    }

    /// Whether failures of a check do not count yet (see [`TaskMachine::in_grace`]).
    pub fn in_grace(&self, task_id: &TaskId, idx: usize, now: UnixMillis) -> bool {
        self.tasks
            .get(task_id)
            .is_some_and(|e| e.machine.in_grace(idx, now))
    }

    fn launch(&mut self, spec: TaskSpec, now: UnixMillis, out: &mut Vec<Effect>) {
        if let Some(entry) = self.tasks.get_mut(&spec.task_id) {
            // Sent again after a reconnection: it is started once; what is known is told again.
            entry.stream.reset_timer();
            self.send_due(now, out);
            return;
        }
        let task_id = spec.task_id.clone();
        let empty = match &spec.command {
            Command::Shell(text) => text.trim().is_empty(),
            Command::Argv(argv) => argv.first().is_none_or(String::is_empty),
            Command::Image(_) => spec.container.image.is_none(),
            Command::Executor => !is_custom(&spec),
        };
        let refusal = if empty {
            Some("command: must not be empty".to_owned())
        } else {
            self.excess(&spec)
        };
        if let Some(message) = refusal {
            // Never accepted, so there is nothing to keep: an answer that is not retried.
            self.not_placed(&spec, &message, out);
            self.break_group(&spec, now, out);
            out.push(Effect::Send(TaskStatus {
                reason: Some(StatusReason::TaskInvalid),
                message,
                ..self.untracked(&task_id, TaskState::Error, now)
            }));
            return;
        }
        if let Err(answer) = self.place(&spec, now, out) {
            out.push(Effect::Send(*answer));
            return;
        }
        let machine = TaskMachine::new(spec.clone(), self.agent_id.clone(), now);
        self.tasks.insert(
            task_id,
            Entry {
                machine,
                stream: UpdateStream::default(),
                on: OnIt::default(),
                max_grace: None,
                force_kill_at: None,
            },
        );
        if is_custom(&spec) {
            self.hand_over(&spec, now, out);
        } else {
            out.push(Effect::Launch(Box::new(spec)));
        }
    }

    /// Why a task, and an executor that it starts, do not fit beside what runs.
    fn excess(&self, spec: &TaskSpec) -> Option<String> {
        let live = self.tasks.values().map(|e| &e.machine);
        let live = live.filter(|m| !matches!(m.phase(), Phase::Terminal(_)));
        let used = live.map(|m| &m.spec().resources);
        let used = used.chain(self.held_by_executors());
        let mut wanted = spec.resources.clone();
        if let Some(on) = spec.executor.as_ref().filter(|on| on.starts) {
            wanted.try_add(&on.spec.resources);
        }
        excess(self.total.as_ref()?, used, &wanted)
    }

    /// A kill of a task that is being killed can only make it faster.
    pub(crate) fn kill(
        &mut self,
        task_id: &TaskId,
        max_grace: Option<Millis>,
        cause: KillCause,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let custom = self.tasks.get(task_id);
        if custom.is_some_and(|e| is_custom(e.machine.spec())) {
            self.kill_on(task_id, max_grace, &cause, now, out);
        } else if let Some(entry) = self.tasks.get_mut(task_id) {
            // The shim knows the task's own grace only: a shorter one is kept here.
            let own = entry.machine.spec().kill_grace;
            if let Some(max) = max_grace.filter(|max| *max < own) {
                entry.max_grace = Some(entry.max_grace.map_or(max, |m| m.min(max)));
                entry.force_kill_at = entry.force_kill_at.map(|at| at.min(now + max));
            }
            self.step(task_id, now, out, |m| m.kill(cause, now));
        } else {
            out.push(Effect::Send(TaskStatus {
                reason: Some(StatusReason::Reconciliation),
                message: "this agent does not have the task".to_owned(),
                ..self.untracked(task_id, TaskState::Dropped, now)
            }));
        }
    }

    fn ack(&mut self, task_id: &TaskId, uuid: StatusUuid, now: UnixMillis, out: &mut Vec<Effect>) {
        let Some(entry) = self.tasks.get_mut(task_id) else {
            return;
        };
        if !entry.stream.ack(uuid) {
            return;
        }
        out.push(persist(task_id, &entry.stream));
        if entry.stream.is_done() {
            self.tasks.remove(task_id);
            out.push(Effect::Forget(task_id.clone()));
        } else {
            self.send_due(now, out);
        }
    }

    fn exited(&mut self, task_id: &TaskId, exit: Exit, now: UnixMillis, out: &mut Vec<Effect>) {
        let Some(entry) = self.tasks.get_mut(task_id) else {
            return;
        };
        if matches!(entry.machine.phase(), Phase::Terminal(_)) {
            return;
        }
        entry.force_kill_at = None;
        self.step(task_id, now, out, |m| m.exited(&exit, now));
        if let Some(state) = self.state(task_id) {
            out.push(Effect::Release {
                task_id: task_id.clone(),
                state,
                exit,
            });
        }
        self.ended_by_default(task_id, now, out);
    }

    /// The end of a task's start is when its other checks begin.
    fn checked(
        &mut self,
        task_id: &TaskId,
        idx: usize,
        (result, response): (Result<(), String>, Option<CheckResponse>),
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let running = |core: &Self| {
            let entry = core.tasks.get(task_id)?;
            Some(entry.machine.running_checks())
        };
        let before = running(self);
        self.step(task_id, now, out, |m| m.checked(idx, result, response, now));
        if running(self) != before {
            out.push(Effect::StartChecks(task_id.clone()));
        }
    }

    fn recovered(
        &mut self,
        machine: TaskMachine,
        stream: UpdateStream,
        pid: Option<u32>,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let task_id = machine.spec().task_id.clone();
        let entry = Entry {
            machine,
            stream,
            on: OnIt::default(),
            max_grace: None,
            force_kill_at: None,
        };
        let (state, health) = (entry.machine.state(), entry.machine.health());
        let ready = entry.machine.ready();
        self.tasks.insert(task_id.clone(), entry);
        // Also of one that ended: the data plane may still have it from before the restart.
        out.push(Effect::LocalFact {
            task_id: task_id.clone(),
            state,
            health,
            ready,
            status: None,
        });
        self.recovered_on(&task_id, now, out);
        if let Some(pid) = pid {
            self.step(&task_id, now, out, |m| m.started(pid, now));
            if self.state(&task_id) == Some(TaskState::Running) {
                out.push(Effect::StartChecks(task_id));
            }
        }
    }

    /// Runs one transition of a task and turns it into effects.
    fn step(
        &mut self,
        task_id: &TaskId,
        now: UnixMillis,
        out: &mut Vec<Effect>,
        f: impl FnOnce(&mut TaskMachine) -> Transition,
    ) {
        let uuid = self.next_uuid();
        let Some(entry) = self.tasks.get_mut(task_id) else {
            return;
        };
        let report = match f(&mut entry.machine) {
            Transition::None => None,
            Transition::Report(status) => Some(status),
            Transition::Kill(status) => {
                // Before its process runs there is nothing to signal: `Started` brings it up again.
                if entry.machine.pid().is_none() {
                    out.push(Effect::Cancel(task_id.clone()));
                } else {
                    out.push(Effect::Kill(task_id.clone()));
                    let by_shim = now + entry.machine.spec().kill_grace + FORCE_KILL_MARGIN;
                    entry.force_kill_at = Some(entry.max_grace.map_or(by_shim, |max| now + max));
                }
                status
            }
        };
        let Some(mut status) = report else { return };
        status.uuid = Some(uuid);
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

    pub(crate) fn send_due(&mut self, now: UnixMillis, out: &mut Vec<Effect>) {
        if self.connected {
            let due = self.tasks.values_mut().filter_map(|e| e.stream.due(now));
            out.extend(due.map(Effect::Send));
        }
    }

    pub(crate) fn untracked(
        &self,
        task_id: &TaskId,
        state: TaskState,
        now: UnixMillis,
    ) -> TaskStatus {
        TaskStatus {
            ip: None,
            ip6: None,
            ready: None,
            check: None,
            responses: Vec::new(),
            task_id: task_id.clone(),
            agent_id: self.agent_id.clone(),
            state,
            health: HealthState::Unknown,
            reason: None,
            message: String::new(),
            source: StatusSource::Agent,
            at: now,
            uuid: None,
            executor: None,
        }
    }

    pub(crate) fn next_uuid(&mut self) -> StatusUuid {
        self.n_uuids += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.seed.to_be_bytes());
        bytes[8..].copy_from_slice(&self.n_uuids.to_be_bytes());
        StatusUuid(bytes)
    }
}

pub(crate) fn persist(task_id: &TaskId, stream: &UpdateStream) -> Effect {
    Effect::Persist {
        task_id: task_id.clone(),
        record: StreamRecord {
            latest: stream.latest().cloned(),
            pending: stream.pending().cloned().collect(),
        },
    }
}
