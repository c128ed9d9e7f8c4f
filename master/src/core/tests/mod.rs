//! The core driven by hand: a small world of agents that answer, and a store that outlives it.

mod accept_each;
mod agents;
mod client;
mod deployments;
mod drain;
mod executors;
mod explain;
mod frameworks;
mod groups;
mod homes;
mod jobs;
mod launches;
mod lending;
mod networks;
mod news;
mod operations;
mod operators;
mod pods;
mod policies;
mod random;
mod reservations;
mod roles;
mod services;
mod sums;
mod upkeep;
mod views;

use std::collections::BTreeMap;

use waggle_types::{
    AgentId, AgentInfo, CallRejection, Command, ExecutorEnd, ExecutorKey, ExecutorRecord,
    HealthState, OperatorCall, PortDefinition, PortRange, PortSet, Protocol, Resources,
    SchedulerEvent, ServiceId, ServiceSpec, StatusSource, StatusUuid, TaskId, TaskSpec, TaskState,
    TaskStatus, TraceContext, VipLabel,
};

use super::*;
use crate::{
    error::MasterError,
    explain::{ExplainQuery, Explained},
    handle::{Deployment, PutMode},
    store::Entry,
    view::ClusterView,
};

/// An agent that takes what it is told.
#[derive(Debug, Clone)]
pub(super) struct FakeAgent {
    pub(super) info: AgentInfo,
    pub(super) tasks: BTreeMap<TaskId, (TaskSpec, TaskStatus)>,
    pub(super) executors: BTreeMap<ExecutorKey, ExecutorRecord>,
    pub(super) session: Option<SessionId>,
}

/// A store and the agents at one moment.
pub(super) type Save = (BTreeMap<String, Vec<u8>>, BTreeMap<AgentId, FakeAgent>);

/// A core, its store and its agents.
pub(super) struct World {
    pub(super) core: MasterCore,
    pub(super) now: UnixMillis,
    pub(super) stored: BTreeMap<String, Vec<u8>>,
    pub(super) agents: BTreeMap<AgentId, FakeAgent>,
    pub(super) answers: Vec<Answer>,
    pub(super) sent: Vec<(AgentId, MasterMsg)>,
    pub(super) nets: Vec<Arc<NetSnapshot>>,
    pub(super) causes: Vec<NetCause>,
    pub(super) traces: Vec<TraceOp>,
    pub(super) heard: Vec<(SubscriptionId, SchedulerEvent)>,
    pub(super) closed: Vec<(SubscriptionId, CallRejection)>,
    pub(super) measured: Vec<Measure>,
    pub(super) said: Vec<News>,
    n_sessions: u64,
    n_ids: u64,
    lives: u64,
    /// What all nodes have applied.
    applied: Generation,
    /// What a master that died right after each write would have left, if that is wanted.
    pub(super) saves: Option<Vec<Save>>,
    /// Writes until the master dies: it does nothing from the next one on.
    pub(super) fuse: Option<usize>,
    pub(super) dead: bool,
    /// Nodes say nothing about what they apply.
    pub(super) slow_nodes: bool,
}

pub(super) fn agent_id(n: u8) -> AgentId {
    AgentId::new(format!("agent-{n}")).unwrap()
}

fn config(life: u64) -> CoreConfig {
    let master = MasterView {
        id: format!("master-{life}"),
        hostname: "n1".into(),
        ip: Ipv4Addr::new(192, 168, 77, 1),
        mesos_port: 5050,
        marathon_port: 8080,
    };
    let framework = FrameworkId::new(format!("framework-{life}")).unwrap();
    CoreConfig::new(master, framework, life + 1)
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut CoreConfig)) -> Self {
        let now = UnixMillis(1_000_000);
        let mut config = config(0);
        change(&mut config);
        let (core, effects) = MasterCore::new(config, Restored::default(), now);
        let mut w = Self {
            core,
            now,
            stored: BTreeMap::new(),
            agents: BTreeMap::new(),
            answers: Vec::new(),
            sent: Vec::new(),
            nets: Vec::new(),
            causes: Vec::new(),
            traces: Vec::new(),
            heard: Vec::new(),
            closed: Vec::new(),
            measured: Vec::new(),
            said: Vec::new(),
            n_sessions: 0,
            n_ids: 0,
            lives: 0,
            applied: Generation(0),
            saves: None,
            slow_nodes: false,
            fuse: None,
            dead: false,
        };
        w.execute(effects);
        w.finish();
        w
    }

    /// The master dies and another one starts on the same store; agents keep what they run.
    pub(super) fn restart(&mut self) {
        self.lives += 1;
        let entries: Vec<Entry> = self
            .stored
            .iter()
            .map(|(key, value)| Entry {
                key: key.clone(),
                value: value.clone(),
                revision: 1,
            })
            .collect();
        let restored = Restored::load(&entries).unwrap();
        let (core, effects) = MasterCore::new(config(self.lives), restored, self.now);
        self.core = core;
        for a in self.agents.values_mut() {
            a.session = None;
        }
        self.sent.clear();
        self.dead = false;
        self.execute(effects);
        self.finish();
    }

    pub(super) fn event(&mut self, event: Event) {
        let effects = self.core.handle(event, self.now);
        self.execute(effects);
        self.finish();
        self.apply_nets();
    }

    /// Nodes apply what was published and look again a moment later, unless they are slow.
    fn apply_nets(&mut self) {
        let Some(newest) = self.nets.last().map(|n| n.generation) else {
            return;
        };
        if self.slow_nodes || self.applied == newest {
            return;
        }
        self.applied = newest;
        self.now = self.now + Millis(20);
        let sessions: Vec<_> = self.agents.values().filter_map(|a| a.session).collect();
        for session in sessions {
            self.event(Event::Applied {
                session,
                generation: newest,
                duration_us: 100,
                failures: Vec::new(),
            });
        }
        self.now = self.now + Millis(20);
        self.event(Event::Tick);
    }

    fn finish(&mut self) {
        let effects = self.core.finish(self.now);
        self.execute(effects);
        self.core.allocator().check().unwrap();
        assert!(self.core.net_is_true(), "the snapshot misses a change");
    }

    fn execute(&mut self, effects: Vec<Effect>) {
        for e in effects {
            if matches!(e, Effect::Persist(_)) {
                self.dead |= self.fuse == Some(0);
                self.fuse = self.fuse.map(|n| n.saturating_sub(1));
            }
            if self.dead {
                return;
            }
            match e {
                Effect::Persist(ops) => {
                    for op in ops {
                        match op {
                            StoreOp::Put { key, value } => self.stored.insert(key, value),
                            StoreOp::Delete { key } => self.stored.remove(&key),
                        };
                    }
                    if let Some(saves) = &mut self.saves {
                        saves.push((self.stored.clone(), self.agents.clone()));
                    }
                }
                Effect::SendAgent { session, msg } => self.deliver(session, msg),
                Effect::Close { session } => {
                    for a in self.agents.values_mut() {
                        if a.session == Some(session) {
                            a.session = None;
                        }
                    }
                }
                Effect::PublishNet { snapshot, causes } => {
                    if let Some(last) = self.nets.last() {
                        assert!(snapshot.generation > last.generation, "went back");
                    }
                    self.nets.push(snapshot);
                    self.causes.extend(causes);
                }
                Effect::Reply { answer, .. } => self.answers.push(answer),
                Effect::Trace(op) => self.traces.push(op),
                Effect::SendFramework {
                    subscription,
                    event,
                } => self.heard.push((subscription, event)),
                Effect::CloseFramework { subscription, why } => {
                    self.closed.push((subscription, why));
                }
                Effect::Measure(m) => self.measured.push(m),
                Effect::Say { news, .. } => self.said.push(news),
                Effect::Opened { .. } => {}
            }
        }
    }

    fn deliver(&mut self, session: SessionId, msg: MasterMsg) {
        let Some(a) = self
            .agents
            .values_mut()
            .find(|a| a.session == Some(session))
        else {
            return;
        };
        if let MasterMsg::Launch(spec) = &msg {
            let status = status(&a.info.agent_id, &spec.task_id, TaskState::Staging);
            let task = (spec.as_ref().clone(), status);
            if let Some(on) = spec.executor.as_ref().filter(|on| on.starts) {
                let record = ExecutorRecord {
                    framework_id: spec.framework_id.clone(),
                    framework_name: spec.framework_name.clone(),
                    role: spec.role.clone(),
                    spec: Arc::clone(&on.spec),
                };
                let twice = a.executors.insert(record.key(), record);
                assert!(twice.is_none(), "started twice");
            }
            a.tasks.insert(spec.task_id.clone(), task);
        }
        if let MasterMsg::Registered { unknown_tasks, .. } = &msg {
            for t in unknown_tasks {
                a.tasks.remove(t);
            }
        }
        self.sent.push((a.info.agent_id.clone(), msg));
    }

    /// An agent with 4 CPUs, 8 GiB and ports 31000-32000 (re-)registers with what it runs.
    pub(super) fn join(&mut self, n: u8) -> SessionId {
        let id = agent_id(n);
        let fresh = FakeAgent {
            info: AgentInfo {
                ip6: None,
                reserved: Vec::new(),
                domain: None,
                agent_id: id.clone(),
                hostname: format!("n{n}"),
                ip: Ipv4Addr::new(192, 168, 77, n),
                http_port: 5051,
                total: Resources::from_millis(4_000, 8_192_000, 10_000_000).with_ports(
                    PortSet::from_ranges([PortRange {
                        begin: 31000,
                        end: 32000,
                    }]),
                ),
                attributes: BTreeMap::new(),
            },
            tasks: BTreeMap::new(),
            executors: BTreeMap::new(),
            session: None,
        };
        self.n_sessions += 1;
        let session = SessionId(self.n_sessions);
        let a = self.agents.entry(id).or_insert(fresh);
        a.session = Some(session);
        let registration = Registration {
            info: a.info.clone(),
            tasks: a.tasks.values().cloned().collect(),
            executors: a.executors.values().cloned().collect(),
            applied: Generation(0),
            version: "0.1.0".into(),
            wireguard: None,
        };
        self.event(Event::Register {
            session,
            registration: Box::new(registration),
        });
        session
    }

    /// The agent's session breaks.
    pub(super) fn cut(&mut self, n: u8) {
        if let Some(a) = self.agents.get_mut(&agent_id(n))
            && let Some(session) = a.session.take()
        {
            self.event(Event::Disconnected { session });
        }
    }

    /// An agent reports one of its tasks; `false` when it has no session.
    pub(super) fn say(&mut self, agent: &AgentId, task: &TaskId, state: TaskState) -> bool {
        let Some(a) = self.agents.get_mut(agent) else {
            return false;
        };
        let mut s = status(agent, task, state);
        self.n_ids += 1;
        s.uuid = Some(StatusUuid(u128::from(self.n_ids).to_be_bytes()));
        if state == TaskState::Running {
            s.health = HealthState::Healthy;
        }
        if state.is_terminal() {
            a.tasks.remove(task);
        } else if let Some(t) = a.tasks.get_mut(task) {
            t.1 = s.clone();
        }
        let Some(session) = a.session else {
            return false;
        };
        self.event(Event::Status { session, status: s });
        true
    }

    /// Every task that is being launched runs from now on; what its agent is ending has ended.
    pub(super) fn run_all(&mut self) {
        let next = |state| match state {
            TaskState::Staging | TaskState::Starting => Some(TaskState::Running),
            TaskState::Killing => Some(TaskState::Killed),
            _ => None,
        };
        for _ in 0..1000 {
            let found = self
                .agents
                .values()
                .filter(|a| a.session.is_some())
                .find_map(|a| {
                    let mut tasks = a.tasks.iter();
                    tasks.find_map(|(id, t)| {
                        Some((a.info.agent_id.clone(), id.clone(), next(t.1.state)?))
                    })
                });
            let Some((agent, task, state)) = found else {
                return;
            };
            self.say(&agent, &task, state);
        }
    }

    /// An agent's executor ends, and with it its tasks.
    pub(super) fn end_executor(&mut self, agent: &AgentId, key: &ExecutorKey, status: i32) {
        let Some(a) = self.agents.get_mut(agent) else {
            return;
        };
        let on = |spec: &TaskSpec| {
            let on = spec.executor.as_ref().map(|on| &on.spec.executor_id);
            spec.framework_id == key.framework_id && on == Some(&key.executor_id)
        };
        let its = a.tasks.iter().filter(|(_, (spec, _))| on(spec));
        let its: Vec<TaskId> = its.map(|(id, _)| id.clone()).collect();
        a.executors.remove(key);
        for task in its {
            self.say(agent, &task, TaskState::Failed);
        }
        let session = self.agents.get(agent).and_then(|a| a.session);
        if let Some(session) = session {
            let end = ExecutorEnd {
                key: key.clone(),
                status,
                message: "exited".into(),
            };
            self.event(Event::ExecutorEnded { session, end });
        }
    }

    /// Kills that were sent are done.
    pub(super) fn obey_kills(&mut self) {
        for _ in 0..100 {
            let found = self
                .sent
                .iter()
                .position(|m| matches!(m.1, MasterMsg::Kill { .. }));
            let Some(at) = found else {
                return;
            };
            if let (agent, MasterMsg::Kill { task_id, .. }) = self.sent.remove(at) {
                self.say(&agent, &task_id, TaskState::Killed);
            }
        }
    }

    /// Time passes, with heartbeats of the connected agents every second.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now + Millis(ms);
        while self.now < end {
            self.now = (self.now + Millis(1000)).min(end);
            let sessions: Vec<_> = self.agents.values().filter_map(|a| a.session).collect();
            for session in sessions {
                self.event(Event::Heartbeat { session });
            }
            self.event(Event::Tick);
        }
    }

    /// Time passes until everything that can run does and what is told to end has.
    pub(super) fn settle(&mut self) {
        for _ in 0..20 {
            self.run_all();
            self.obey_kills();
            self.pass(2000);
        }
    }

    pub(super) fn put(
        &mut self,
        spec: ServiceSpec,
        mode: PutMode,
        force: bool,
    ) -> Result<Deployment, MasterError> {
        self.n_ids += 1;
        let deployment_id = DeploymentId::new(format!("d{}", self.n_ids)).unwrap();
        self.event(Event::Put {
            request: RequestId(self.n_ids),
            spec: Box::new(spec),
            mode,
            force,
            deployment_id,
            trace: None,
        });
        match self.answers.pop().unwrap() {
            Answer::Deployment(d) => d,
            other => panic!("wrong answer {other:?}"),
        }
    }

    pub(super) fn remove(&mut self, id: &str) -> Result<Deployment, MasterError> {
        self.n_ids += 1;
        let deployment_id = DeploymentId::new(format!("d{}", self.n_ids)).unwrap();
        self.event(Event::Remove {
            request: RequestId(self.n_ids),
            id: ServiceId::new(id).unwrap(),
            force: false,
            deployment_id,
            trace: None,
        });
        match self.answers.pop().unwrap() {
            Answer::Deployment(d) => d,
            other => panic!("wrong answer {other:?}"),
        }
    }

    pub(super) fn kill(
        &mut self,
        ids: Vec<TaskId>,
        scale: bool,
        force: bool,
    ) -> Result<Option<Deployment>, MasterError> {
        self.n_ids += 1;
        let deployment_id = DeploymentId::new(format!("d{}", self.n_ids)).unwrap();
        self.event(Event::Kill {
            request: RequestId(self.n_ids),
            ids,
            scale,
            wipe: false,
            force,
            deployment_id,
            trace: None,
        });
        match self.answers.pop().unwrap() {
            Answer::Maybe(d) => d,
            other => panic!("wrong answer {other:?}"),
        }
    }

    pub(super) fn restart_service(
        &mut self,
        id: &str,
        force: bool,
    ) -> Result<Deployment, MasterError> {
        self.n_ids += 1;
        self.event(Event::Restart {
            request: RequestId(self.n_ids),
            id: ServiceId::new(id).unwrap(),
            force,
            deployment_id: DeploymentId::new(format!("d{}", self.n_ids)).unwrap(),
            trace: None,
        });
        match self.answers.pop().unwrap() {
            Answer::Deployment(d) => d,
            other => panic!("wrong answer {other:?}"),
        }
    }

    pub(super) fn cancel(
        &mut self,
        id: &DeploymentId,
        rollback: bool,
    ) -> Result<Option<Deployment>, MasterError> {
        self.n_ids += 1;
        self.event(Event::Cancel {
            request: RequestId(self.n_ids),
            id: id.clone(),
            rollback,
            deployment_id: DeploymentId::new(format!("d{}", self.n_ids)).unwrap(),
            trace: None,
        });
        match self.answers.pop().unwrap() {
            Answer::Maybe(d) => d,
            other => panic!("wrong answer {other:?}"),
        }
    }

    pub(super) fn operate(&mut self, call: OperatorCall) -> Result<(), Vec<CallRejection>> {
        self.n_ids += 1;
        self.event(Event::Operate {
            request: RequestId(self.n_ids),
            call: Box::new(call),
        });
        match self.answers.pop().unwrap() {
            Answer::Called(c) => c,
            other => panic!("wrong answer {other:?}"),
        }
    }

    pub(super) fn explain(&mut self, query: ExplainQuery) -> Result<Explained, MasterError> {
        self.n_ids += 1;
        self.event(Event::Explain {
            request: RequestId(self.n_ids),
            query,
        });
        match self.answers.pop().unwrap() {
            Answer::Explained(e) => e,
            other => panic!("wrong answer {other:?}"),
        }
    }

    /// What readers see; what is kept from view to view is as if it were made from nothing.
    pub(super) fn view(&mut self) -> ClusterView {
        let view = self.core.view(self.now);
        let n_made = self.core.shown.n_made;
        self.core.shown = shown::Shown::default();
        let anew = self.core.view(self.now);
        self.core.shown.n_made = n_made;
        assert_eq!(view.services, anew.services);
        assert_eq!(view.queue, anew.queue);
        view
    }

    pub(super) fn net(&self) -> &NetSnapshot {
        self.nets.last().unwrap()
    }

    pub(super) fn launches(&self) -> usize {
        let launch = |m: &&(AgentId, MasterMsg)| matches!(m.1, MasterMsg::Launch(_));
        self.sent.iter().filter(launch).count()
    }

    pub(super) fn task_ids(&mut self) -> Vec<TaskId> {
        self.view().tasks.keys().cloned().collect()
    }
}

pub(super) fn status(agent: &AgentId, task: &TaskId, state: TaskState) -> TaskStatus {
    TaskStatus {
        ip: None,
        ip6: None,
        ready: None,
        check: None,
        responses: Vec::new(),
        task_id: task.clone(),
        agent_id: agent.clone(),
        state,
        health: HealthState::Unknown,
        reason: None,
        message: String::new(),
        source: StatusSource::Executor,
        at: UnixMillis(0),
        uuid: None,
        executor: None,
    }
}

/// A service of small instances with one VIP.
pub(super) fn service(id: &str, instances: u32, vip: &str) -> ServiceSpec {
    let label = VipLabel::parse("VIP_0", vip).unwrap();
    ServiceSpec {
        instances,
        resources: Resources::from_millis(100, 32_000, 0),
        ports: vec![PortDefinition {
            sources: Vec::new(),
            mapping: None,
            port: 0,
            name: None,
            protocols: vec![Protocol::Tcp],
            labels: BTreeMap::from([("VIP_0".to_owned(), vip.to_owned())]),
            vips: vec![label],
            balance: waggle_types::Balance::default(),
        }],
        ..ServiceSpec::new(
            ServiceId::new(id).unwrap(),
            Command::Shell("sleep 1000".into()),
        )
    }
}
