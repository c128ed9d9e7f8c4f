//! A node: its disk and processes outlive the agent's process; the core does not.

use std::collections::BTreeMap;

use waggle_lifecycle::{
    AgentCore, Checkpoint, Effect, Event, Exit, Observed, Recovery, StreamRecord, recover,
};
use waggle_master::core::Registration;
use waggle_types::{
    AgentInfo, ExecutorRecord, Generation, HealthState, Millis, Resources, ScalarKind,
    StatusSource, TaskId, TaskSpec, TaskState, TaskStatus, UnixMillis,
};

use crate::{
    Sim, Violation,
    batch::Job,
    network::{Delivery, Up},
    pods,
};

/// Refusals after which the machine of an agent that is gone for good is given away.
pub(crate) const MAX_REFUSED: u32 = 3;

/// What the shim and the agent wrote about a task.
#[derive(Debug, Clone, Default)]
pub(crate) struct OnDisk {
    pub spec: Option<TaskSpec>,
    pub record: StreamRecord,
    pub pid: Option<u32>,
    pub exit: Option<Exit>,
}

pub(crate) struct Node {
    pub info: AgentInfo,
    pub core: Option<AgentCore>,
    /// Counts starts of the agent's process.
    pub life: u64,
    pub disk: BTreeMap<TaskId, OnDisk>,
    pub processes: BTreeMap<u32, TaskId>,
    pub session: Option<u64>,
    pub partitioned: bool,
    /// How often a master said that it is gone for good.
    pub n_refused: u32,
    /// Newest generation that its kernel holds.
    pub applied: Generation,
}

impl Node {
    pub fn new(info: AgentInfo) -> Self {
        Self {
            info,
            core: None,
            life: 0,
            disk: BTreeMap::new(),
            processes: BTreeMap::new(),
            session: None,
            partitioned: false,
            n_refused: 0,
            applied: Generation::default(),
        }
    }

    pub fn registration(&self, now: UnixMillis) -> Registration {
        let tasks = self.core.iter().flat_map(AgentCore::tasks).map(|t| {
            let status = t.latest.clone().unwrap_or_else(|| TaskStatus {
                ip: None,
                ip6: None,
                ready: None,
                check: None,
                responses: Vec::new(),
                task_id: t.spec.task_id.clone(),
                agent_id: self.info.agent_id.clone(),
                state: t.state,
                health: HealthState::Unknown,
                reason: None,
                message: String::new(),
                source: StatusSource::Agent,
                at: now,
                uuid: None,
                executor: None,
            });
            (t.spec, status)
        });
        Registration {
            info: self.info.clone(),
            tasks: tasks.collect(),
            executors: self.executors(),
            applied: self.applied,
            version: "0.1.0".into(),
            wireguard: None,
        }
    }

    fn executors(&self) -> Vec<ExecutorRecord> {
        let all = self.core.iter().flat_map(AgentCore::executors);
        all.map(|(record, _)| record.clone()).collect()
    }

    /// What the processes use together, and their executors; `None` when a port, or a volume that is not shared, has two
    /// holders.
    pub fn in_use(&self) -> Option<Resources> {
        let running = self.processes.values();
        let specs = running.filter_map(|t| self.disk.get(t)?.spec.as_ref());
        let used = specs.map(|t| t.resources.clone());
        let held = pods::executors(self).into_values();
        let mut sum = used
            .chain(held)
            .try_fold(Resources::default(), |sum, r| sum.checked_add(&r))?;
        // Volumes are disk.
        let volumes = std::mem::take(&mut sum.custom);
        for (_, v) in volumes.volumes() {
            sum.scalars[ScalarKind::Disk as usize].0 += v.size.0;
        }
        Some(sum)
    }

    fn checkpoint(&self, on_disk: &OnDisk) -> (Checkpoint, Observed) {
        let alive = on_disk
            .pid
            .is_some_and(|pid| self.processes.contains_key(&pid));
        let checkpoint = Checkpoint {
            spec: on_disk.spec.clone(),
            latest: on_disk.record.latest.clone(),
            pending: on_disk.record.pending.clone(),
            shim_recorded: on_disk.pid.is_some(),
            pid: on_disk.pid,
            exit: on_disk.exit.clone(),
        };
        let observed = Observed {
            shim_alive: alive,
            cgroup_populated: alive,
        };
        (checkpoint, observed)
    }
}

impl Sim {
    /// The agent's process starts and finds what its last life left.
    pub(crate) fn agent_up(&mut self, at: usize) -> Result<(), Violation> {
        if self.nodes[at].core.is_some() || self.nodes[at].n_refused > MAX_REFUSED {
            return Ok(());
        }
        self.log(format_args!("agent {at} starts"));
        let seed = self.rng.any();
        let node = &mut self.nodes[at];
        node.life += 1;
        node.core = Some(AgentCore::new(node.info.agent_id.clone(), seed));
        let found: Vec<(TaskId, OnDisk)> = node.disk.clone().into_iter().collect();
        for (task_id, on_disk) in found {
            let (checkpoint, observed) = self.nodes[at].checkpoint(&on_disk);
            let recovered = |pid| {
                on_disk.spec.clone().map(|spec| Event::Recovered {
                    spec: Box::new(spec),
                    latest: on_disk.record.latest.clone(),
                    pending: on_disk.record.pending.clone(),
                    pid,
                    since: None,
                })
            };
            let events = match recover(&checkpoint, observed) {
                Recovery::Adopt { pid } => vec![recovered(pid)],
                Recovery::Report { exit, .. } => {
                    vec![recovered(None), Some(Event::Exited { task_id, exit })]
                }
                Recovery::Resend { .. } => vec![recovered(None)],
                Recovery::Clean { .. } => {
                    self.nodes[at].disk.remove(&task_id);
                    vec![]
                }
            };
            for event in events.into_iter().flatten() {
                self.tell_agent(at, event)?;
            }
        }
        let life = self.nodes[at].life;
        self.after(1, 50, Delivery::Connect { agent: at, life });
        Ok(())
    }

    /// The agent's process dies; with `machine`, so does everything on it.
    pub(crate) fn agent_down(&mut self, at: usize, machine: bool) {
        self.log(format_args!("agent {at} dies, machine {machine}"));
        let node = &mut self.nodes[at];
        node.core = None;
        if machine {
            node.processes.clear();
            node.applied = Generation::default();
        }
        if let Some(session) = node.session.take() {
            self.doom(session, 1, 500);
        }
    }

    pub(crate) fn tell_agent(&mut self, at: usize, event: Event) -> Result<(), Violation> {
        let now = self.now;
        let Some(core) = &mut self.nodes[at].core else {
            return Ok(());
        };
        for effect in core.handle(event, now) {
            self.agent_effect(at, effect)?;
        }
        Ok(())
    }

    fn agent_effect(&mut self, at: usize, effect: Effect) -> Result<(), Violation> {
        let life = self.nodes[at].life;
        match effect {
            Effect::Launch(spec) => {
                let task_id = spec.task_id.clone();
                let on_disk = OnDisk {
                    spec: Some(*spec),
                    ..OnDisk::default()
                };
                self.nodes[at].disk.insert(task_id.clone(), on_disk);
                if self.rng.chance(self.plan.launch_failures) {
                    let exit = Exit::LaunchFailed("no such file".into());
                    return self.tell_agent(at, Event::Exited { task_id, exit });
                }
                let task = task_id;
                self.after(
                    1,
                    80,
                    Delivery::Spawn {
                        agent: at,
                        life,
                        task,
                    },
                );
            }
            Effect::Persist { task_id, record } => {
                if let Some(on_disk) = self.nodes[at].disk.get_mut(&task_id) {
                    on_disk.record = record;
                }
            }
            Effect::Send(status) => {
                if let Some(session) = self.nodes[at].session {
                    self.send_up(session, Up::Status(status));
                }
            }
            Effect::Kill(task_id) => self.end_process(at, &task_id, 1, 1500),
            // Too late, always: the task is told of as started, and killed then.
            Effect::ForceKill(task_id) => self.end_process(at, &task_id, 0, 1),
            Effect::StartChecks(task) => {
                let core = self.nodes[at].core.as_ref();
                let checks = core.and_then(|c| c.checks(&task));
                for idx in checks.map(|c| c.idxs).unwrap_or_default() {
                    let task = task.clone();
                    self.after(
                        50,
                        400,
                        Delivery::Probe {
                            agent: at,
                            life,
                            task,
                            idx,
                        },
                    );
                }
            }
            Effect::Forget(task_id) => {
                self.nodes[at].disk.remove(&task_id);
            }
            Effect::ExecutorEnded(end) => {
                if let Some(session) = self.nodes[at].session {
                    self.send_up(session, Up::ExecutorEnded(end));
                }
            }
            // Virtual frameworks have no executors of their own.
            Effect::Cancel(_)
            | Effect::LocalFact { .. }
            | Effect::Release { .. }
            | Effect::LaunchExecutor { .. }
            | Effect::Accept { .. }
            | Effect::Limit { .. }
            | Effect::ToExecutor { .. }
            | Effect::ToFramework { .. } => {}
        }
        Ok(())
    }

    fn end_process(&mut self, at: usize, task_id: &TaskId, low: u64, high: u64) {
        let found = self.nodes[at].processes.iter().find(|(_, t)| *t == task_id);
        if let Some(pid) = found.map(|(pid, _)| *pid) {
            self.after(
                low,
                high,
                Delivery::Exit {
                    agent: at,
                    pid,
                    code: 143,
                },
            );
        }
    }

    pub(crate) fn spawn(&mut self, at: usize, life: u64, task: &TaskId) -> Result<(), Violation> {
        // The agent died between writing the spec and starting the shim: it never ran.
        let node = &self.nodes[at];
        if node.life != life || node.core.is_none() || !node.disk.contains_key(task) {
            return Ok(());
        }
        let starts = self.starts.entry(task.clone()).or_default();
        *starts += 1;
        if *starts > 1 {
            return Err(Violation::StartedTwice(task.clone()));
        }
        self.check_spawn(at, task)?;
        self.check_container(at, task)?;
        self.n_pids += 1;
        let pid = self.n_pids;
        let node = &mut self.nodes[at];
        node.processes.insert(pid, task.clone());
        if let Some(on_disk) = node.disk.get_mut(task) {
            on_disk.pid = Some(pid);
        }
        match node.in_use() {
            Some(used) if node.info.total.contains(&used) => {}
            used => {
                return Err(Violation::Overcommitted {
                    agent_id: node.info.agent_id.clone(),
                    used: used.map_or("a port or a volume has two holders".into(), |r| {
                        r.to_string()
                    }),
                });
            }
        }
        let spec = self.nodes[at].disk.get(task).and_then(|d| d.spec.as_ref());
        if let Some((code, ms)) = spec.and_then(|s| Job::end_of(&s.command)) {
            let agent = at;
            self.after(ms, ms + 1, Delivery::Exit { agent, pid, code });
        }
        let task_id = task.clone();
        self.tell_agent(at, Event::Started { task_id, pid })
    }

    pub(crate) fn exit(&mut self, at: usize, pid: u32, code: i32) -> Result<(), Violation> {
        let node = &mut self.nodes[at];
        let Some(task_id) = node.processes.remove(&pid) else {
            return Ok(());
        };
        let exit = if code > 128 {
            Exit::Signal(code - 128)
        } else {
            Exit::Code(code)
        };
        if let Some(on_disk) = node.disk.get_mut(&task_id) {
            on_disk.exit = Some(exit.clone());
        }
        self.tell_agent(at, Event::Exited { task_id, exit })
    }

    pub(crate) fn probe(
        &mut self,
        at: usize,
        life: u64,
        task: TaskId,
        idx: usize,
    ) -> Result<(), Violation> {
        let node = &self.nodes[at];
        let runs = node.processes.values().any(|t| *t == task);
        let state = node.core.as_ref().and_then(|c| c.state(&task));
        if node.life != life || !runs || state.is_none_or(TaskState::is_terminal) {
            return Ok(());
        }
        let result = if self.rng.chance(self.plan.check_failures) {
            Err("connection refused".to_owned())
        } else {
            Ok(())
        };
        let task_id = task.clone();
        self.tell_agent(
            at,
            Event::Checked {
                task_id,
                idx,
                result,
                response: None,
            },
        )?;
        let interval = Millis(4000).0;
        let again = Delivery::Probe {
            agent: at,
            life,
            task,
            idx,
        };
        self.after(interval, interval + 500, again);
        Ok(())
    }
}
