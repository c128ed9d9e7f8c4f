//! The pure heart of the master: events in, effects out; time, ids and seeds are arguments.
//!
//! [`MasterCore`] composes level 1 (`waggle-allocator`), the built-in framework (`waggle-services`),
//! the registries of agents and tasks, VIP leases and the network snapshot.
//!
//! # Invariants
//! - Every change that must survive is in a `Persist` effect before the effects that rest on it.
//! - Generations never go back, also over restarts: they are reserved in blocks before use.
//! - The framework gets offers only after recovery: when every known agent is back, or after the
//!   grace. So nothing that still runs somewhere is started a second time just because the master
//!   restarted.
//! - A task's resources are held from the accepted offer until its end is known, and it gives back exactly
//!   what it was given: of which reservation, owned or lent. An executor's are held once, however many tasks it runs.
//! - What operators set (weights, quota, reservations, modes, maintenance) is in the store before they are
//!   answered, and said to level 1 again by the next master and at each registration of an agent.
//! - An accepted launch is in the store before it is answered, until its agent has spoken of it.
//!
//! # What it never does
//! It reads no clock, entropy or file, spawns nothing and knows no tokio: simulations drive it as it is.

mod accept;
mod accept_each;
mod agents;
mod calls;
mod change;
mod deadlines;
mod deployments;
mod drain;
mod event;
mod executors;
mod explain;
mod frameworks;
mod groups;
mod history;
mod homes;
mod intents;
mod inverse;
mod jobs;
mod launches;
mod levels;
mod mounts;
mod net;
mod networks;
mod news;
mod notices;
mod operators;
mod out;
mod policies;
mod refusals;
mod registration;
mod reservations;
mod restarts;
mod settle;
mod show;
mod shown;
mod status;
mod stored;
mod sums;
mod tasks;
mod timeouts;
mod upkeep;
mod versions;
mod vips;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    sync::Arc,
};

use waggle_allocator::{Allocator, AllocatorConfig};
use waggle_overlay_plan::ipam::Pool;
use waggle_services::{GroupDependencies, ServiceScheduler};
use waggle_types::{
    AgentId, DeploymentId, FrameworkId, Generation, GroupId, IpNet, Millis, NetSnapshot, Network,
    ServiceId, UnixMillis, Vxlan,
};

pub use deadlines::STEP_DEADLINE;
pub use event::{
    Answer, EachOperation, Effect, Event, FrameworkCall, MasterMsg, Measure, NetCause,
    Registration, RequestId, SessionId, SpanKey, SpanParent, SubscriptionId, TraceAttrs, TraceKind,
    TraceOp,
};
pub use frameworks::Framework;
pub use groups::{GroupAnswer, GroupQuery, TreeRequest};
pub use history::{KEEP_RECORDS, Record};
pub use intents::check_alone;
pub use jobs::JOB_FRAMEWORK;
pub use networks::{LEASE_REST, NetworkView, check_network_of};
pub use news::{DeploymentPhase, InstanceRef, News, PlanNews};
pub use stored::{Flight, FlightChange, InFlight, KnownAgent, RestoreError, Restored};
pub use sums::{MAX_LABELS, OTHER, RoleSums, Sums};
pub use versions::{KEEP_VERSIONS, Versions};
pub use vips::CANARY_OF;
pub use waggle_services::{Limits as LaunchLimits, ServiceChange};

use crate::{store::StoreOp, view::MasterView};
use agents::Agents;
use deployments::New;
use executors::Executors;
use frameworks::Frameworks;
use history::History;
use inverse::Inverse;
use jobs::Jobs;
use launches::Launches;
use levels::Work;
use networks::Networks;
use notices::Evictions;
use operators::RoleSettings;
use policies::Policies;
use reservations::Reserved;
use tasks::Tasks;
use upkeep::Upkeep;
use vips::{Services, Vips};

/// DNS name of the built-in service framework.
pub const SERVICE_FRAMEWORK: &str = "marathon";
/// Role of the built-in service framework.
pub const SERVICE_ROLE: &str = "*";

/// With more agents heartbeats are as rare as their time-out allows.
pub const MANY_AGENTS: usize = 5000;

/// How a core behaves. Every limit says what happens beyond it.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// Cluster name, shown.
    pub cluster: String,
    /// This master, as clients find it; `id` is replaced by the stored one.
    pub master: MasterView,
    /// Addresses of all masters.
    pub masters: Vec<Ipv4Addr>,
    /// Used when the store holds no framework id yet.
    pub fresh_framework_id: FrameworkId,
    /// Seed of task ids; another one for each start of the process, or ids repeat.
    pub seed: u64,
    /// Prefix of offer ids; another one for each start of the process.
    pub offer_prefix: String,
    /// Named VIPs.
    pub vip_pool: Pool,
    /// Overlay networks of a new cluster; afterwards operators add and remove them.
    pub networks: BTreeMap<String, Network>,
    /// How they are carried between nodes.
    pub vxlan: Vxlan,
    /// How long what an agent held of them rests after it is gone.
    pub lease_rest: Millis,
    /// Ranges that no network may have, with what they are: those of VIPs and resolvers.
    pub reserved: Vec<(IpNet, String)>,
    /// How often agents must be heard.
    pub heartbeat_interval: Millis,
    /// Silence after which an agent is unreachable.
    pub agent_timeout: Millis,
    /// How long known agents are waited for after a start.
    pub recovery_grace: Millis,
    /// When more than 30 % of the agents (and more than one) are unreachable, their tasks are not
    /// replaced for this long: more likely this master is cut off than all of them are dead.
    pub mass_loss_hold: Millis,
    /// How long a task that backs a VIP waits at most, before it is told to end, until no node chooses it any more.
    pub drain_wait: Millis,
    /// How long an offer stands.
    pub offer_timeout: Millis,
    /// The master's own region: agents of others are offered to frameworks that are aware of regions. `None`:
    /// regions are not looked at.
    pub region: Option<String>,
    /// Most agents; more are refused.
    pub max_agents: usize,
    /// Most frameworks beside the built-in one; more are refused.
    pub max_frameworks: usize,
    /// Most services; more are refused.
    pub max_services: usize,
    /// Most instances of one service; more are refused.
    pub max_instances: u32,
    /// Most deployments at once; more are refused. Marathon's `--max_running_deployments`.
    pub max_running_deployments: usize,
    /// How services are launched.
    pub launches: LaunchLimits,
    /// Launches a second that start a trace of their own; 0 when nobody takes spans. Those that belong to
    /// a caller's trace are always in it.
    pub max_own_traces: u32,
    /// Ended tasks that are shown; older ones are forgotten.
    pub keep_ended: usize,
    /// Nanoseconds of a clock that only goes forward, to measure work with; nothing is decided by it.
    /// Stands still unless the shell gives one.
    pub stopwatch: fn() -> u64,
}

impl CoreConfig {
    /// Defaults, with what has none.
    pub fn new(master: MasterView, fresh_framework_id: FrameworkId, seed: u64) -> Self {
        Self {
            cluster: "waggle".to_owned(),
            masters: vec![master.ip],
            offer_prefix: format!("{seed:016x}"),
            master,
            fresh_framework_id,
            seed,
            vip_pool: Pool::VIPS,
            networks: BTreeMap::from([
                ("dcos".to_owned(), Network::dcos()),
                ("dcos6".to_owned(), Network::dcos6()),
            ]),
            vxlan: Vxlan::default(),
            lease_rest: LEASE_REST,
            reserved: reserved_ranges(),
            heartbeat_interval: Millis::from_secs(5),
            agent_timeout: Millis::from_secs(30),
            recovery_grace: Millis::from_secs(10),
            mass_loss_hold: Millis::from_secs(600),
            drain_wait: Millis::from_secs(1),
            offer_timeout: Millis::from_secs(60),
            region: None,
            max_agents: 50_000,
            max_frameworks: 1000,
            max_services: 10_000,
            max_instances: 10_000,
            max_running_deployments: 100,
            launches: LaunchLimits::default(),
            max_own_traces: 100,
            keep_ended: 1000,
            stopwatch: || 0,
        }
    }
}

/// Ranges of DC/OS that mean something else than a network: VIPs, resolvers, tasks behind bridges.
fn reserved_ranges() -> Vec<(IpNet, String)> {
    [
        ("11.0.0.0/8", "of VIPs"),
        ("fd01:c::/64", "of VIPs"),
        ("198.51.100.0/24", "of resolvers"),
        ("fd01:d::/64", "of resolvers"),
        ("172.31.254.0/24", "of bridges"),
    ]
    .into_iter()
    .filter_map(|(net, what)| Some((net.parse().ok()?, what.to_owned())))
    .collect()
}

/// The master's state and rules. See the module's documentation.
#[derive(Debug)]
pub struct MasterCore {
    config: CoreConfig,
    started_at: UnixMillis,
    framework_id: FrameworkId,
    allocator: Allocator,
    scheduler: ServiceScheduler,
    jobs: Jobs,
    /// Roles that level 1 offers level 2 resources for.
    subscribed: BTreeSet<String>,
    agents: Agents,
    /// All but the built-in one.
    frameworks: Frameworks,
    tasks: Tasks,
    executors: Executors,
    evictions: Evictions,
    launches: Launches,
    restarts: restarts::Restarts,
    inverse: Inverse,
    reservations: Reserved,
    /// Where frameworks mount volumes, by agent.
    mounts: mounts::Mounts,
    /// Weights and quota.
    settings: RoleSettings,
    upkeep: Upkeep,
    /// Definitions, as stored.
    services: Services,
    /// What groups that are there by themselves depend on.
    groups: GroupDependencies,
    history: History,
    flights: BTreeMap<DeploymentId, Flight>,
    ends: deployments::Ends,
    /// Kept definitions of each service, the newest (the one in force) last.
    versions: Versions,
    vips: Vips,
    networks: Networks,
    policies: Policies,
    /// Known agents that have not come back since the start.
    expected: BTreeMap<AgentId, KnownAgent>,
    /// Whether the framework waits for them.
    recovering: bool,
    /// Offers that are out to the framework, with when they were made.
    out_offers: out::OutOffers,
    generation: Generation,
    /// Generations up to this are reserved in the store.
    reserved: Generation,
    published_at: BTreeMap<Generation, UnixMillis>,
    net: Arc<NetSnapshot>,
    /// What level 1 has not been told of yet: what became free in this batch.
    freed: Vec<waggle_allocator::Event>,
    /// Since when, and how many launches started traces of their own.
    own_traces: (UnixMillis, u32),
    net_dirty: bool,
    drains: drain::Drains,
    net_pace: net::Pace,
    causes: Vec<NetCause>,
    /// Agents whose loss the framework has not been told of.
    held_losses: BTreeSet<AgentId>,
    /// Too many agents are out of reach to believe in each single loss.
    mass_loss: bool,
    /// After such a time, losses are believed again from here on.
    calm_at: UnixMillis,
    rejections: BTreeMap<&'static str, u64>,
    shown: shown::Shown,
    sequence: u64,
    /// Stands for an agent that nobody knows, in statuses of tasks that nobody has.
    nobody: Option<AgentId>,
    work: VecDeque<Work>,
    out: Vec<Effect>,
}

impl MasterCore {
    /// A core over what the store held; the effects set up the store on the first start.
    pub fn new(config: CoreConfig, mut restored: Restored, now: UnixMillis) -> (Self, Vec<Effect>) {
        let framework_id = restored
            .framework_id
            .clone()
            .unwrap_or_else(|| config.fresh_framework_id.clone());
        let mut config = config;
        let mut ops = Vec::new();
        if restored.framework_id.is_none() {
            ops.push(stored::put_framework_id(&framework_id));
        }
        match restored.master_id {
            Some(id) => config.master.id = id,
            None => ops.push(stored::put_master_id(&config.master.id)),
        }
        let all: Vec<DeploymentId> = restored.deployments.keys().cloned().collect();
        let flights = stored::live_flights(restored.deployments, &restored.services);
        let overtaken = all.iter().filter(|id| !flights.contains_key(*id));
        ops.extend(overtaken.map(stored::delete_deployment));
        let history = History::restored(restored.history);
        let services = &restored.services;
        let needed = |id: &ServiceId, v| services.contains_key(id) || history.needs(id, v);
        ops.extend(restored.versions.drop_unless(needed));

        let (networks, first) = Networks::restored(&config, restored.networks, restored.overlay);
        ops.extend(first);
        let allocator = Allocator::new(AllocatorConfig {
            id_prefix: config.offer_prefix.clone(),
            offer_timeout: config.offer_timeout,
            region: config.region.clone(),
            ..AllocatorConfig::default()
        });
        let scheduler = ServiceScheduler::with_limits(
            framework_id.clone(),
            SERVICE_FRAMEWORK,
            config.seed,
            config.launches,
        );
        let jobs = Jobs::new(&framework_id, config.seed);
        let mut core = Self {
            started_at: now,
            jobs,
            allocator,
            scheduler,
            subscribed: BTreeSet::new(),
            agents: Agents::default(),
            frameworks: Frameworks::restored(restored.frameworks, restored.removed_frameworks, now),
            tasks: Tasks::default(),
            executors: Executors::default(),
            evictions: Evictions::new(),
            launches: Launches::restored(restored.launches),
            restarts: restarts::Restarts::default(),
            inverse: Inverse::default(),
            reservations: Reserved::restored(restored.reservations, restored.wiped),
            mounts: mounts::Mounts::new(restored.mounts),
            settings: RoleSettings {
                weights: restored.weights,
                quota: restored.quota,
            },
            upkeep: Upkeep::restored(
                restored.agents.iter().map(|(id, a)| (id.clone(), a.mode)),
                restored.maintenance,
                restored.gone_agents,
            ),
            services: restored.services,
            groups: restored.groups,
            history,
            flights,
            ends: deployments::Ends::default(),
            versions: restored.versions,
            vips: Vips::new(config.vip_pool, restored.vips),
            networks,
            policies: Policies::restored(restored.policies),
            recovering: true,
            expected: restored.agents,
            out_offers: out::OutOffers::default(),
            generation: restored.generation,
            reserved: restored.generation,
            published_at: BTreeMap::new(),
            net: Arc::new(NetSnapshot::default()),
            freed: Vec::new(),
            own_traces: (now, 0),
            net_dirty: true,
            drains: drain::Drains::default(),
            net_pace: net::Pace::default(),
            causes: Vec::new(),
            held_losses: BTreeSet::new(),
            mass_loss: false,
            calm_at: now,
            rejections: BTreeMap::new(),
            shown: shown::Shown::default(),
            sequence: 0,
            nobody: AgentId::new("unknown").ok(),
            work: VecDeque::new(),
            out: Vec::new(),
            framework_id,
            config,
        };
        // A crash between the definition and its lease can't be: they are one transaction. A lease
        // without a definition is released here all the same.
        if let Some(changes) = core.vips.lease(&core.services) {
            ops.extend(stored::lease_ops(&changes));
        }
        if !ops.is_empty() {
            core.out.push(Effect::Persist(ops));
        }
        core.restore_settings(now);
        core.restore_networks(now);
        core.drop_stray_launches(now);
        core.restore_services(now);
        core.restore_jobs(restored.jobs, now);
        core.restore_homes(now);
        core.end_recovery_when_done(now);
        core.pump(now);
        let effects = core.take_effects();
        (core, effects)
    }

    /// Takes one event. Call [`MasterCore::finish`] after each batch of them.
    pub fn handle(&mut self, event: Event, now: UnixMillis) -> Vec<Effect> {
        match event {
            Event::Put {
                request,
                spec,
                mode,
                force,
                deployment_id,
                trace,
            } => {
                let group = GroupId::of(&spec.id);
                let new = New {
                    id: deployment_id,
                    trace,
                };
                let answer = self.put(*spec, mode, force, new, now);
                if let Err(why) = &answer {
                    self.say_refused(&group, why, now);
                }
                self.reply(request, Answer::Deployment(answer));
            }
            Event::Remove {
                request,
                id,
                force,
                deployment_id,
                trace,
            } => {
                let new = New {
                    id: deployment_id,
                    trace,
                };
                let answer = self.remove(&id, force, new, now);
                self.reply(request, Answer::Deployment(answer));
            }
            Event::Subscribe {
                request,
                subscription,
                info,
                fresh_id,
            } => {
                let answer = self.subscribe(subscription, *info, fresh_id, now);
                self.reply(request, Answer::Called(answer));
            }
            Event::Unsubscribed { subscription } => self.unsubscribed(subscription, now),
            Event::Call {
                request,
                framework_id,
                subscription,
                call,
            } => {
                let answer = self.framework_call(&framework_id, subscription, *call, now);
                self.reply(request, Answer::Called(answer));
            }
            Event::Restart {
                request,
                id,
                force,
                deployment_id,
                trace,
            } => {
                let answer = self.restart(&id, force, deployment_id, trace, now);
                self.reply(request, Answer::Deployment(answer));
            }
            Event::Cancel {
                request,
                id,
                rollback,
                deployment_id,
                trace,
            } => {
                let answer = self.cancel(&id, rollback, deployment_id, trace, now);
                self.reply(request, Answer::Maybe(answer));
            }
            Event::ChangeTree {
                request,
                tree,
                force,
                deployment_id,
                trace,
            } => {
                let new = New {
                    id: deployment_id,
                    trace,
                };
                let group = tree.group();
                let answer = self.change_tree(*tree, force, new, now);
                if let Err(why) = &answer {
                    self.say_refused(&group, why, now);
                }
                self.reply(request, Answer::Deployment(answer));
            }
            Event::PlanTree {
                request,
                tree,
                force,
            } => {
                let answer = self.plan_tree(*tree, force, now);
                self.reply(request, Answer::Plan(answer));
            }
            Event::AskGroup { request, query } => {
                let answer = self.ask_group(&query);
                self.reply(request, Answer::Group(answer));
            }
            Event::ResetDelay { request, id } => {
                let answer = self.reset_delay(&id, now);
                self.reply(request, Answer::Done(answer));
            }
            Event::Kill {
                request,
                ids,
                scale,
                wipe,
                force,
                deployment_id,
                trace,
            } => {
                let new = New {
                    id: deployment_id,
                    trace,
                };
                let answer = self.kill(&ids, (scale.then_some(force), wipe), new, now);
                self.reply(request, Answer::Maybe(answer));
            }
            Event::Operate { request, call } => {
                let answer = self.operate(*call, now);
                self.reply(request, Answer::Called(answer));
            }
            Event::Job { request, call } => {
                let answer = self.job_call(*call, now);
                self.reply(request, Answer::Job(answer));
            }
            Event::Explain { request, query } => {
                let answer = self.explain(&query);
                self.reply(request, Answer::Explained(answer));
            }
            Event::Register {
                session,
                registration,
            } => self.register(session, *registration, now),
            Event::Heartbeat { session } => self.heard(session, now),
            Event::Status { session, status } => self.status(session, status, now),
            Event::Applied {
                session,
                generation,
                duration_us,
                failures,
            } => self.applied(session, generation, duration_us, failures, now),
            Event::ExecutorEnded { session, end } => self.executor_ended(session, &end, now),
            Event::ExecutorSays { session, key, data } => {
                self.executor_says(session, &key, data, now);
            }
            Event::Disconnected { session } => self.disconnected(session, now),
            Event::Stalled => self.stalled(now),
            Event::Tick => self.tick(now),
        }
        self.pump(now);
        self.take_effects()
    }

    /// Ends a batch: offers what became free in it, publishes the network snapshot if it changed.
    pub fn finish(&mut self, now: UnixMillis) -> Vec<Effect> {
        self.offer_freed(now);
        self.pump(now);
        self.publish(now);
        self.end_drained(now);
        let ops = self.launches.take_due(now);
        self.persist(ops);
        self.take_effects()
    }

    /// When `Tick` is needed next.
    pub fn next_deadline(&self) -> Option<UnixMillis> {
        [
            self.allocator.next_deadline(),
            self.scheduler.next_deadline(),
            self.jobs.scheduler.next_deadline(),
            self.next_timeout(),
            self.next_publish(),
            (!self.work.is_empty()).then_some(UnixMillis(0)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The built-in framework's id.
    pub fn framework_id(&self) -> &FrameworkId {
        &self.framework_id
    }

    /// Level 1, for checks of its invariants and for `explain`.
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// Level 2, for checks of its invariants and for `explain`.
    pub fn scheduler(&self) -> &ServiceScheduler {
        &self.scheduler
    }

    /// The newest published network snapshot.
    pub fn net(&self) -> &Arc<NetSnapshot> {
        &self.net
    }

    /// Counts something that the shell refused or dropped, beside the core's own.
    pub fn note(&mut self, reason: &'static str) {
        *self.rejections.entry(reason).or_default() += 1;
    }

    fn reply(&mut self, request: RequestId, answer: Answer) {
        self.out.push(Effect::Reply { request, answer });
    }

    /// Writes to the store; records of launches that are over go along.
    fn persist(&mut self, mut ops: Vec<StoreOp>) {
        if !ops.is_empty() {
            ops.extend(self.launches.take_done());
            self.out.push(Effect::Persist(ops));
        }
    }

    fn measure(&mut self, m: Measure) {
        self.out.push(Effect::Measure(m));
    }

    /// Counts something refused or dropped, for metrics and `explain`.
    fn reject(&mut self, reason: &'static str) {
        *self.rejections.entry(reason).or_default() += 1;
        self.measure(Measure::Rejected { reason });
    }

    fn send(&mut self, agent: &AgentId, msg: MasterMsg) {
        match self.agents.session(agent) {
            Some(session) => self.out.push(Effect::SendAgent { session, msg }),
            None => self.reject("agent_not_connected"),
        }
    }

    /// The effects so far, in order.
    fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out)
    }
}
