//! Virtual time, the master and its store, and the loop.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::Ipv4Addr,
    sync::Arc,
};

use waggle_lifecycle::{AgentCore, Event as AgentEvent};
use waggle_master::{
    core::{Answer, CoreConfig, Effect, Event, MasterCore, MasterMsg, Restored, SessionId},
    store::{Entry, StoreOp},
    view::MasterView,
};
use waggle_types::{
    AgentId, AgentInfo, Command, FrameworkId, HealthCheck, HealthProbe, Millis, NetSnapshot,
    PortDefinition, PortRange, PortSet, Protocol, Resources, ServiceId, ServiceSpec,
    ServiceVersion, TaskId, UnixMillis, UnreachableStrategy,
};

use crate::{
    Plan, Rng, Violation,
    agent::Node,
    network::{Delivery, Down, Session, Up},
};

/// More events than any history needs.
const MAX_EVENTS: u64 = 2_000_000;
/// Lines of history kept for a failure's report.
const MAX_LOG: usize = 60;

/// A cluster; see the crate's documentation.
pub struct Sim {
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) started: UnixMillis,
    pub(crate) now: UnixMillis,
    queue: BTreeMap<(UnixMillis, u64), Delivery>,
    n_queued: u64,
    pub(crate) master: Option<MasterCore>,
    store: BTreeMap<String, Vec<u8>>,
    net: Option<Arc<NetSnapshot>>,
    pub(crate) nodes: Vec<Node>,
    sessions: BTreeMap<u64, Session>,
    n_sessions: u64,
    pub(crate) starts: BTreeMap<TaskId, u32>,
    pub(crate) n_pids: u32,
    pub(crate) n_requests: u64,
    pub(crate) requests: BTreeMap<u64, ServiceId>,
    /// Newest answer per service: its version, `None` for removed.
    pub(crate) answered: BTreeMap<ServiceId, Option<ServiceVersion>>,
    pub(crate) unanswered: BTreeSet<ServiceId>,
    n_events: u64,
    n_master_starts: u64,
    history: VecDeque<String>,
}

/// A service that fits the simulated nodes.
pub fn node_spec(id: &ServiceId, instances: u32) -> ServiceSpec {
    ServiceSpec {
        id: id.clone(),
        version: ServiceVersion::default(),
        command: Command::Shell("serve".into()),
        instances,
        resources: Resources::from_millis(400, 128_000, 0),
        ports: vec![PortDefinition {
            port: 0,
            name: None,
            protocols: vec![Protocol::Tcp],
            labels: BTreeMap::new(),
            vips: Vec::new(),
        }],
        require_ports: false,
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        health_checks: vec![HealthCheck {
            probe: HealthProbe::Tcp {
                port_index: 0,
                port: None,
            },
            grace_period: Millis::from_secs(20),
            interval: Millis::from_secs(4),
            timeout: Millis::from_secs(2),
            max_consecutive_failures: 3,
        }],
        upgrade: waggle_types::UpgradeStrategy::default(),
        backoff: waggle_types::Backoff {
            max: Millis::from_secs(20),
            ..waggle_types::Backoff::default()
        },
        unreachable: UnreachableStrategy::After {
            inactive_after: Millis(0),
            expunge_after: Millis(0),
        },
        kill_grace: Millis(2000),
        user: None,
        constraints: Vec::new(),
    }
}

fn node_info(i: usize, n_ports: u16) -> Option<AgentInfo> {
    let ports = PortSet::from_ranges([PortRange {
        begin: 31000,
        end: 31000 + n_ports.saturating_sub(1),
    }]);
    Some(AgentInfo {
        reserved: Vec::new(),
        domain: None,
        agent_id: AgentId::new(format!("agent-{i}")).ok()?,
        hostname: format!("n{i}"),
        ip: Ipv4Addr::new(192, 168, 77, u8::try_from(i + 1).ok()?),
        http_port: 5051,
        total: Resources::from_millis(4000, 4_096_000, 0).with_ports(ports),
        attributes: BTreeMap::new(),
    })
}

impl Sim {
    /// A cluster that is about to start.
    pub fn new(seed: u64, plan: Plan) -> Self {
        let started = UnixMillis(1_795_405_620_000);
        let nodes = (0..plan.n_agents)
            .filter_map(|i| node_info(i, plan.n_ports))
            .map(Node::new);
        let mut sim = Self {
            nodes: nodes.collect(),
            plan,
            rng: Rng::new(seed),
            started,
            now: started,
            queue: BTreeMap::new(),
            n_queued: 0,
            master: None,
            store: BTreeMap::new(),
            net: None,
            sessions: BTreeMap::new(),
            n_sessions: 0,
            starts: BTreeMap::new(),
            n_pids: 100,
            n_requests: 0,
            requests: BTreeMap::new(),
            answered: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            n_events: 0,
            n_master_starts: 0,
            history: VecDeque::new(),
        };
        sim.after(0, 100, Delivery::MasterUp);
        for at in 0..sim.nodes.len() {
            sim.after(0, 5_000, Delivery::AgentUp(at));
        }
        sim.after(1, 3_000, Delivery::Fault);
        sim
    }

    /// Tasks whose process was ever started.
    pub fn n_started(&self) -> usize {
        self.starts.len()
    }

    /// How much happened, for people.
    pub fn summary(&self) -> String {
        format!(
            "{} events, {} virtual s, {} tasks started, {} sessions, {} requests, {} master starts",
            self.n_events,
            self.now.since(self.started).0 / 1000,
            self.starts.len(),
            self.n_sessions,
            self.n_requests,
            self.n_master_starts,
        )
    }

    /// The latest part of the history, for people.
    pub fn history(&self) -> impl Iterator<Item = &str> {
        self.history.iter().map(String::as_str)
    }

    pub(crate) fn log(&mut self, line: fmt::Arguments<'_>) {
        if self.history.len() >= MAX_LOG {
            self.history.pop_front();
        }
        let at = self.now.since(self.started).0;
        self.history.push_back(format!("{at:>7} {line}"));
    }

    /// Something happens after at least `low` and less than `high` milliseconds.
    pub(crate) fn after(&mut self, low: u64, high: u64, what: Delivery) {
        let at = self.now + Millis(self.rng.between(low, high));
        self.at(at, what);
    }

    fn at(&mut self, at: UnixMillis, what: Delivery) {
        self.n_queued += 1;
        self.queue.insert((at, self.n_queued), what);
    }

    /// Runs for so long.
    pub fn run_for(&mut self, span: Millis) -> Result<(), Violation> {
        let end = self.now + span;
        while let Some(at) = self.next_time().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.n_events += 1;
            if self.n_events > MAX_EVENTS {
                return Err(Violation::TooManyEvents);
            }
            self.step()?;
        }
        self.now = end;
        Ok(())
    }

    /// Runs faults and requests to their end, heals everything, and waits until all is as asked for.
    pub fn settle(&mut self) -> Result<(), Violation> {
        self.run_for(Millis(self.plan.chaos_ms + 1))?;
        self.log(format_args!("healing"));
        self.plan.launch_failures = 0;
        self.plan.check_failures = 0;
        self.plan.master_cuts = 0;
        self.after(0, 1, Delivery::MasterUp);
        for at in 0..self.nodes.len() {
            self.after(0, 1, Delivery::Heal(at));
            self.after(1, 2, Delivery::AgentUp(at));
        }
        let mut left = Vec::new();
        // Time-outs of updates, launches and sessions are minutes; backoff is cut to 20 s here.
        for _ in 0..90 {
            self.run_for(Millis::from_secs(10))?;
            left = self.differences();
            if left.is_empty() {
                // And it stays so.
                self.run_for(Millis::from_secs(60))?;
                left = self.differences();
                if left.is_empty() {
                    return Ok(());
                }
            }
        }
        Err(Violation::NotConverged(left.join("; ")))
    }

    fn next_time(&self) -> Option<UnixMillis> {
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        let master = self.master.as_ref().and_then(MasterCore::next_deadline);
        let agents = self
            .nodes
            .iter()
            .filter_map(|n| n.core.as_ref()?.next_deadline());
        agents.chain(queued).chain(master).min()
    }

    fn step(&mut self) -> Result<(), Violation> {
        let now = self.now;
        if let Some(((at, seq), _)) = self.queue.first_key_value()
            && *at <= now
        {
            let key = (*at, *seq);
            return match self.queue.remove(&key) {
                Some(what) => self.deliver(what),
                None => Ok(()),
            };
        }
        let due = |at: Option<UnixMillis>| at.is_some_and(|at| at <= now);
        if due(self.master.as_ref().and_then(MasterCore::next_deadline)) {
            return self.tell_master(Event::Tick);
        }
        for at in 0..self.nodes.len() {
            if due(self.nodes[at]
                .core
                .as_ref()
                .and_then(AgentCore::next_deadline))
            {
                self.tell_agent(at, AgentEvent::Tick)?;
            }
        }
        Ok(())
    }

    fn deliver(&mut self, what: Delivery) -> Result<(), Violation> {
        match what {
            Delivery::ToMaster(session, up) => self.up(session, up),
            Delivery::ToAgent(session, down) => self.down(session, down),
            Delivery::AgentSees(session) => self.agent_sees(session),
            Delivery::MasterSees(session) => {
                let event = Event::Disconnected {
                    session: SessionId(session),
                };
                self.sessions.remove(&session);
                self.tell_master(event)
            }
            Delivery::Connect { agent, life } => {
                self.connect(agent, life);
                Ok(())
            }
            Delivery::Heartbeat(session) => {
                if self.session_of(session).is_some() {
                    self.send_up(session, Up::Heartbeat);
                    self.after(4_900, 5_100, Delivery::Heartbeat(session));
                }
                Ok(())
            }
            Delivery::Spawn { agent, life, task } => self.spawn(agent, life, &task),
            Delivery::Exit { agent, pid, code } => self.exit(agent, pid, code),
            Delivery::Probe {
                agent,
                life,
                task,
                idx,
            } => self.probe(agent, life, task, idx),
            Delivery::Fault => self.next_fault(),
            Delivery::AgentUp(at) => self.agent_up(at),
            Delivery::MasterUp => self.master_up(),
            Delivery::Heal(at) => {
                self.nodes[at].partitioned = false;
                Ok(())
            }
        }
    }

    // The master and its store.

    fn master_up(&mut self) -> Result<(), Violation> {
        if self.master.is_some() {
            return Ok(());
        }
        self.log(format_args!("master starts"));
        self.n_master_starts += 1;
        let entries: Vec<Entry> = self
            .store
            .iter()
            .map(|(key, value)| Entry {
                key: key.clone(),
                value: value.clone(),
                revision: 1,
            })
            .collect();
        let restored = Restored::load(&entries).map_err(|e| Violation::Store(e.to_string()))?;
        let seed = self.rng.any();
        let view = MasterView {
            id: format!("m{seed:x}"),
            hostname: "m".into(),
            ip: Ipv4Addr::new(192, 168, 77, 250),
            mesos_port: 5050,
            marathon_port: 8080,
        };
        let framework_id = FrameworkId::new(format!("fw-{seed:x}"))
            .map_err(|e| Violation::Store(e.to_string()))?;
        let config = CoreConfig::new(view, framework_id, seed);
        let (core, effects) = MasterCore::new(config, restored, self.now);
        self.master = Some(core);
        self.net = None;
        self.master_effects(effects);
        self.finish_batch();
        self.check_books()
    }

    pub(crate) fn master_down(&mut self) {
        if self.master.take().is_none() {
            return;
        }
        self.log(format_args!("master dies"));
        for session in std::mem::take(&mut self.sessions).into_keys() {
            self.after(1, 1_000, Delivery::AgentSees(session));
        }
        // Requests without an answer stay open for ever; clients ask again.
        self.requests.clear();
        self.after(500, 20_000, Delivery::MasterUp);
    }

    pub(crate) fn tell_master(&mut self, event: Event) -> Result<(), Violation> {
        let now = self.now;
        let Some(core) = &mut self.master else {
            return Ok(());
        };
        let effects = core.handle(event, now);
        self.master_effects(effects);
        self.finish_batch();
        self.check_books()
    }

    fn finish_batch(&mut self) {
        let now = self.now;
        if let Some(core) = &mut self.master {
            let effects = core.finish(now);
            self.master_effects(effects);
        }
    }

    fn master_effects(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if self.rng.chance(self.plan.master_cuts) {
                self.master_down();
                return;
            }
            match effect {
                Effect::Persist(ops) => {
                    for op in ops {
                        match op {
                            StoreOp::Put { key, value } => self.store.insert(key, value),
                            StoreOp::Delete { key } => self.store.remove(&key),
                        };
                    }
                }
                Effect::Opened { session, .. } => {
                    if let Some(s) = self.sessions.get_mut(&session.0) {
                        s.opened = true;
                    }
                    if let Some(net) = self.net.clone() {
                        self.send_down(session.0, Down::Net(net));
                    }
                }
                Effect::SendAgent { session, msg } => self.send_down(session.0, Down::Msg(msg)),
                Effect::Close { session } => self.send_down(session.0, Down::Closed),
                Effect::PublishNet { snapshot, .. } => {
                    self.net = Some(Arc::clone(&snapshot));
                    let open = self.sessions.iter().filter(|(_, s)| s.opened);
                    for session in open.map(|(id, _)| *id).collect::<Vec<_>>() {
                        self.send_down(session, Down::Net(Arc::clone(&snapshot)));
                    }
                }
                Effect::Reply { request, answer } => self.answer(request.0, &answer),
                // No framework but the built-in one subscribes here.
                Effect::Trace(_)
                | Effect::Measure(_)
                | Effect::SendFramework { .. }
                | Effect::CloseFramework { .. } => {}
            }
        }
    }

    fn answer(&mut self, request: u64, answer: &Answer) {
        let Some(id) = self.requests.remove(&request) else {
            return;
        };
        if !self.requests.values().any(|other| *other == id) {
            self.unanswered.remove(&id);
        }
        if let Answer::Deployment(Ok(d)) = answer {
            // A removal answers the version that it removes.
            let found = self
                .master
                .as_ref()
                .and_then(|m| m.scheduler().service(&id));
            let removed = found.is_none_or(waggle_services::Service::is_removing);
            self.answered.insert(id, (!removed).then_some(d.version));
        }
    }

    // Sessions.

    fn connect(&mut self, at: usize, life: u64) {
        let node = &self.nodes[at];
        if node.life != life || node.core.is_none() || node.session.is_some() {
            return;
        }
        if node.partitioned || self.master.is_none() {
            self.after(500, 5_000, Delivery::Connect { agent: at, life });
            return;
        }
        let registration = Box::new(node.registration(self.now));
        self.n_sessions += 1;
        let id = self.n_sessions;
        let session = Session {
            doomed: false,
            opened: false,
            last_up: self.now,
            last_down: self.now,
        };
        self.sessions.insert(id, session);
        self.nodes[at].session = Some(id);
        self.send_up(id, Up::Register(registration));
        self.after(5_000, 5_100, Delivery::Heartbeat(id));
    }

    /// The agent that still uses a session.
    fn session_of(&self, session: u64) -> Option<usize> {
        self.nodes.iter().position(|n| n.session == Some(session))
    }

    pub(crate) fn send_up(&mut self, session: u64, up: Up) {
        let delay = Millis(self.rng.between(1, 40));
        let now = self.now;
        let Some(s) = self.sessions.get_mut(&session) else {
            return;
        };
        if !s.doomed {
            s.last_up = s.last_up.max(now + delay);
            let at = s.last_up;
            self.at(at, Delivery::ToMaster(session, up));
        }
    }

    fn send_down(&mut self, session: u64, down: Down) {
        let delay = Millis(self.rng.between(1, 40));
        let now = self.now;
        let Some(s) = self.sessions.get_mut(&session) else {
            return;
        };
        if !s.doomed {
            s.last_down = s.last_down.max(now + delay);
            let at = s.last_down;
            self.at(at, Delivery::ToAgent(session, down));
        }
    }

    /// A session dies: what is on its way is lost, and each end notices in its own time.
    pub(crate) fn doom(&mut self, session: u64, low: u64, high: u64) {
        if let Some(s) = self.sessions.get_mut(&session) {
            s.doomed = true;
        }
        let lost = |d: &Delivery| matches!(d, Delivery::ToMaster(s, _) | Delivery::ToAgent(s, _) if *s == session);
        self.queue.retain(|_, d| !lost(d));
        self.after(low, high, Delivery::AgentSees(session));
        self.after(low, high, Delivery::MasterSees(session));
    }

    fn agent_sees(&mut self, session: u64) -> Result<(), Violation> {
        let Some(at) = self.session_of(session) else {
            return Ok(());
        };
        self.nodes[at].session = None;
        let life = self.nodes[at].life;
        self.tell_agent(at, AgentEvent::Disconnected)?;
        self.after(100, 2_000, Delivery::Connect { agent: at, life });
        Ok(())
    }

    fn up(&mut self, session: u64, up: Up) -> Result<(), Violation> {
        if !self.sessions.contains_key(&session) {
            return Ok(());
        }
        let session = SessionId(session);
        self.tell_master(match up {
            Up::Register(registration) => Event::Register {
                session,
                registration,
            },
            Up::Heartbeat => Event::Heartbeat { session },
            Up::Status(status) => Event::Status { session, status },
            Up::Applied(generation) => Event::Applied {
                session,
                generation,
                duration_us: 100,
                failures: Vec::new(),
            },
        })
    }

    fn down(&mut self, session: u64, down: Down) -> Result<(), Violation> {
        let Some(at) = self.session_of(session) else {
            return Ok(());
        };
        match down {
            Down::Msg(MasterMsg::Registered { unknown_tasks, .. }) => {
                self.tell_agent(at, AgentEvent::Connected { unknown_tasks })
            }
            Down::Msg(MasterMsg::Launch(spec)) => {
                self.tell_agent(at, AgentEvent::Launch(Box::new(spec.as_ref().clone())))
            }
            Down::Msg(MasterMsg::Kill(task_id)) => self.tell_agent(at, AgentEvent::Kill(task_id)),
            Down::Msg(MasterMsg::Ack { task_id, uuid }) => {
                self.tell_agent(at, AgentEvent::Ack { task_id, uuid })
            }
            Down::Msg(MasterMsg::Refused { reason, permanent }) => {
                if permanent {
                    return Err(Violation::Refused(reason));
                }
                Ok(())
            }
            Down::Net(net) => self.apply_net(at, session, &net),
            Down::Closed => {
                self.sessions.remove(&session);
                self.agent_sees(session)
            }
        }
    }

    fn apply_net(&mut self, at: usize, session: u64, net: &NetSnapshot) -> Result<(), Violation> {
        let node = &mut self.nodes[at];
        if net.generation < node.applied {
            return Err(Violation::GenerationWentBack {
                agent_id: node.info.agent_id.clone(),
                has: node.applied,
                sent: net.generation,
            });
        }
        node.applied = net.generation;
        self.send_up(session, Up::Applied(net.generation));
        Ok(())
    }
}
