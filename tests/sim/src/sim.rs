//! Virtual time, the master and its store, and the loop.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::Ipv4Addr,
    sync::Arc,
};

use waggle_lifecycle::{AgentCore, Event as AgentEvent};
use waggle_master::core::{Event, MasterCore, SessionId};
use waggle_types::{
    AgentId, AgentInfo, Command, HealthCheck, HealthProbe, Milli, Millis, NetSnapshot, OfferId,
    PortDefinition, PortRange, PortSet, Protocol, Resources, ServiceId, ServiceSpec,
    ServiceVersion, TaskId, UnixMillis,
};

use crate::{
    Plan, Rng, Violation,
    agent::Node,
    batch::Batch,
    framework::Foreign,
    jobs::JobBooks,
    keeper::Keeper,
    ledger::{Asked, Ledger},
    link::Link,
    mind::Mind,
    network::{Delivery, Session, Up},
    operators::Operation,
    pods::PodBooks,
    roster::OWNER,
};

/// More events than any history needs.
const MAX_EVENTS: u64 = 2_000_000;
/// Lines of history kept for a failure's report.
const MAX_LOG: usize = 500;

/// A cluster; see the crate's documentation.
pub struct Sim {
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) started: UnixMillis,
    pub(crate) now: UnixMillis,
    pub(crate) queue: BTreeMap<(UnixMillis, u64), Delivery>,
    n_queued: u64,
    pub(crate) master: Option<MasterCore>,
    pub(crate) store: BTreeMap<String, Vec<u8>>,
    pub(crate) net: Option<Arc<NetSnapshot>>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) sessions: BTreeMap<u64, Session>,
    pub(crate) n_sessions: u64,
    pub(crate) starts: BTreeMap<TaskId, u32>,
    pub(crate) n_pids: u32,
    pub(crate) n_requests: u64,
    pub(crate) requests: BTreeMap<u64, ServiceId>,
    /// Newest answer per service: its version, `None` for removed.
    pub(crate) answered: BTreeMap<ServiceId, Option<ServiceVersion>>,
    pub(crate) unanswered: BTreeSet<ServiceId>,
    /// Agents that ever were.
    n_agents: usize,
    pub(crate) ledger: Ledger,
    /// Calls of operators that wait for an answer.
    pub(crate) operations: BTreeMap<u64, Operation>,
    /// By name: taken, and refused.
    pub(crate) n_operated: BTreeMap<&'static str, (usize, usize)>,
    /// What was charged to roles with a limit.
    pub(crate) charged: BTreeMap<String, BTreeMap<String, Milli>>,
    /// Agents of offers that are out to frameworks.
    pub(crate) offer_agents: BTreeMap<OfferId, AgentId>,
    /// What frameworks asked for beside their streams that changes reservations: the call on its way of each.
    pub(crate) asked: BTreeMap<u64, Asked>,
    pub(crate) frameworks: Vec<Foreign>,
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) n_links: u64,
    /// Calls of frameworks that wait for an answer: the stream beside which each was made.
    pub(crate) calls: BTreeMap<u64, u64>,
    /// Those of them that are subscriptions.
    pub(crate) subscribing: BTreeSet<u64>,
    /// Since when a framework waits for an offer of an agent that has room for it.
    pub(crate) waits: BTreeMap<(usize, usize), UnixMillis>,
    pub(crate) worst_wait: Millis,
    /// Launches that a framework was told are taken.
    pub(crate) n_accepted: usize,
    pub(crate) n_torn_down: usize,
    pub(crate) jobs: JobBooks,
    pub(crate) pods: PodBooks,
    n_events: u64,
    pub(crate) n_master_starts: u64,
    history: VecDeque<String>,
}

/// A service that fits the simulated nodes.
pub fn node_spec(id: &ServiceId, instances: u32) -> ServiceSpec {
    ServiceSpec {
        instances,
        resources: Resources::from_millis(400, 128_000, 0),
        ports: vec![PortDefinition {
            sources: Vec::new(),
            mapping: None,
            port: 0,
            name: None,
            protocols: vec![Protocol::Tcp],
            labels: BTreeMap::new(),
            vips: Vec::new(),
            balance: waggle_types::Balance::default(),
        }],
        health_checks: vec![HealthCheck {
            delay: Millis(0),
            name: None,
            purpose: waggle_types::CheckPurpose::Health,
            probe: HealthProbe::Tcp {
                port_index: 0,
                port: None,
            },
            grace_period: Millis::from_secs(20),
            interval: Millis::from_secs(4),
            timeout: Millis::from_secs(2),
            max_consecutive_failures: 3,
            keep_response: false,
        }],
        backoff: waggle_types::Backoff {
            max: Millis::from_secs(20),
            ..waggle_types::Backoff::default()
        },
        kill_grace: Millis(2000),
        ..ServiceSpec::new(id.clone(), Command::Shell("serve".into()))
    }
}

fn node_info(i: usize, plan: &Plan) -> Option<AgentInfo> {
    let n_ports = plan.n_ports;
    let level_1 = plan.operators > 0;
    let mut reserved = Vec::new();
    if level_1 && i.is_multiple_of(2) {
        reserved.push((OWNER.to_owned(), Resources::from_millis(2_000, 512_000, 0)));
    }
    let cpus = if level_1 { 8_000 } else { 4_000 };
    let ports = PortSet::from_ranges([PortRange {
        begin: 31000,
        end: 31000 + n_ports.saturating_sub(1),
    }]);
    Some(AgentInfo {
        ip6: None,
        reserved,
        domain: None,
        agent_id: AgentId::new(format!("agent-{i}")).ok()?,
        hostname: format!("n{i}"),
        ip: Ipv4Addr::new(192, 168, 77, u8::try_from(i + 1).ok()?),
        http_port: 5051,
        total: Resources::from_millis(cpus, 4_096_000, 8_000_000).with_ports(ports),
        attributes: BTreeMap::new(),
    })
}

impl Sim {
    /// A cluster that is about to start.
    pub fn new(seed: u64, plan: Plan) -> Self {
        let started = UnixMillis(1_795_405_620_000);
        let nodes = (0..plan.n_agents)
            .filter_map(|i| node_info(i, &plan))
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
            n_agents: 0,
            ledger: Ledger::default(),
            operations: BTreeMap::new(),
            n_operated: BTreeMap::new(),
            charged: BTreeMap::new(),
            offer_agents: BTreeMap::new(),
            asked: BTreeMap::new(),
            frameworks: Vec::new(),
            links: BTreeMap::new(),
            n_links: 0,
            calls: BTreeMap::new(),
            subscribing: BTreeSet::new(),
            waits: BTreeMap::new(),
            worst_wait: Millis(0),
            n_accepted: 0,
            n_torn_down: 0,
            jobs: JobBooks::default(),
            pods: PodBooks::default(),
            n_events: 0,
            n_master_starts: 0,
            history: VecDeque::new(),
        };
        sim.after(0, 100, Delivery::MasterUp);
        for at in 0..sim.nodes.len() {
            sim.after(0, 5_000, Delivery::AgentUp(at));
        }
        sim.n_agents = sim.nodes.len();
        for n in 0..sim.nodes.len() {
            let info = &sim.nodes[n].info;
            sim.ledger.has_static(&info.agent_id, &info.reserved);
        }
        sim.add_frameworks();
        sim.after(1, 3_000, Delivery::Fault);
        sim
    }

    /// In place of a machine that is gone for good.
    fn new_node(&mut self, at: usize) -> Result<(), Violation> {
        let Some(info) = node_info(self.n_agents, &self.plan) else {
            return Ok(());
        };
        self.n_agents += 1;
        self.log(format_args!("agent {at} is {} from here on", info.agent_id));
        self.ledger.has_static(&info.agent_id, &info.reserved);
        let life = self.nodes[at].life + 1;
        self.nodes[at] = Node {
            life,
            ..Node::new(info)
        };
        self.agent_up(at)
    }

    /// Tasks whose process was ever started.
    pub fn n_started(&self) -> usize {
        self.starts.len()
    }

    /// How much happened, for people.
    pub fn summary(&self) -> String {
        format!(
            "{} events, {} virtual s, {} tasks started, {} sessions, {} requests, {} master starts; \
             frameworks: {} streams, {} launches taken, {} torn down, {} jobs done, {} tasks seen again, \
             {} preempted, {} drained, cells {} taken up again and {} freed, worst wait {} ms; {} runs of jobs; {} instances of pods; operators: {}",
            self.n_events,
            self.now.since(self.started).0 / 1000,
            self.starts.len(),
            self.n_sessions,
            self.n_requests,
            self.n_master_starts,
            self.n_links,
            self.n_accepted,
            self.n_torn_down,
            self.batches().map(|b| b.n_done).sum::<usize>(),
            self.batches().map(|b| b.n_returned).sum::<usize>(),
            self.batches().map(|b| b.n_preempted).sum::<usize>(),
            self.batches().map(|b| b.n_drained).sum::<usize>(),
            self.keepers().map(|k| k.n_retaken).sum::<usize>(),
            self.keepers().map(|k| k.n_freed).sum::<usize>(),
            self.worst_wait.0,
            self.jobs.n_runs(),
            self.pods.n_launched(),
            self.operated_summary(),
        )
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.frameworks.iter().filter_map(|f| match &f.mind {
            Mind::Batch(b) => Some(b),
            Mind::Keeper(_) | Mind::Hoarder(_) => None,
        })
    }

    fn keepers(&self) -> impl Iterator<Item = &Keeper> {
        self.frameworks.iter().filter_map(|f| match &f.mind {
            Mind::Keeper(k) => Some(k),
            Mind::Batch(_) | Mind::Hoarder(_) => None,
        })
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

    pub(crate) fn at(&mut self, at: UnixMillis, what: Delivery) {
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
        self.heal_frameworks();
        self.run_for(Millis(100))?;
        if self.plan.operators > 0 {
            self.heal_operators()?;
        }
        if self.plan.jobs > 0 {
            self.heal_jobs()?;
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
                    return self.check_twin();
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
            Delivery::NewNode(at) => self.new_node(at),
            Delivery::Framework(what) => self.framework_delivery(what),
        }
    }
}
