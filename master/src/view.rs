//! The cluster as API reads see it: immutable, shared, published after each batch of the event loop.
//!
//! Readers take an `Arc` and never touch the core, so a slow or busy client costs the scheduler
//! nothing. Everything here is observed state in the vocabulary of `waggle-types`; wire forms are
//! made of it in `crate::http`.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use waggle_services::{
    Decision, DeclineReason, Home, ReasonCount, Rule, RuleCount, UnusedOffer, Why, jobs::Job, tell,
};
use waggle_types::{
    About, AgentId, AgentInfo, Capabilities, CheckResponse, DeploymentId, ExecutorRecord,
    FrameworkId, Generation, HealthRecord, HealthState, InverseOffer, JobId, Milli, Millis,
    NetSnapshot, NetworkPolicy, Offer, Quota, ResourcePart, Resources, RoleSubscription, ServiceId,
    ServiceSpec, ServiceVersion, StatusReason, TaskId, TaskState, Unavailability, UnixMillis,
    VipKey, VipLease, VipName,
};

pub use waggle_services::{
    DeploymentKind, DeploymentPlan, DeploymentStep, GroupDependencies, StepAction,
};

pub use crate::{
    core::{LaunchLimits, NetworkView},
    cow::{CowMap, Keyed},
    task::{TaskPlace, TaskShape, TaskView},
};

/// A master, as clients find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterView {
    /// Stable id of this incarnation of the store: `master_info.id`.
    pub id: String,
    /// Node name.
    pub hostname: String,
    /// Address of its listeners.
    pub ip: Ipv4Addr,
    /// Port of the Mesos API.
    pub mesos_port: u16,
    /// Port of the Marathon API.
    pub marathon_port: u16,
}

/// Why a service's newest instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFailure {
    /// The task.
    pub task_id: TaskId,
    /// Its end state.
    pub state: TaskState,
    /// Typed reason.
    pub reason: Option<StatusReason>,
    /// For people.
    pub message: String,
    /// Node name.
    pub hostname: String,
    /// Its agent.
    pub agent_id: AgentId,
    /// Definition it ran.
    pub version: ServiceVersion,
    /// When it was reported.
    pub at: UnixMillis,
}

/// An instance of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceView {
    /// Its task; where it is a pod, the instance's id.
    pub task_id: TaskId,
    /// Definition that it runs.
    pub version: ServiceVersion,
    /// Its agent.
    pub agent_id: AgentId,
    /// Node name.
    pub hostname: String,
    /// Its own addresses, or its node's; at least one.
    pub ips: Vec<IpAddr>,
    /// Host ports in definition order.
    pub ports: Vec<u16>,
    /// State.
    pub state: TaskState,
    /// Health.
    pub health: HealthState,
    /// Readiness; `None` when no check says so.
    pub ready: Option<bool>,
    /// What its readiness checks were answered last, where that is kept.
    pub responses: Vec<CheckResponse>,
    /// What was heard of its health checks; of pods nothing.
    pub health_record: Option<HealthRecord>,
    /// Sent to the agent.
    pub staged_at: UnixMillis,
    /// First reported running.
    pub started_at: Option<UnixMillis>,
    /// It was told to end.
    pub stopping: bool,
    /// Its containers' tasks, where it is a pod.
    pub containers: Vec<TaskId>,
}

/// A service: definition and instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceView {
    /// Newest definition.
    pub spec: Arc<ServiceSpec>,
    /// Kept definitions, oldest first, the newest included.
    pub versions: Vec<Arc<ServiceSpec>>,
    /// Instances that are not terminal, by task id.
    pub instances: Vec<InstanceView>,
    /// Sent, not yet running.
    pub staged: u32,
    /// Running (killing ones included).
    pub running: u32,
    /// Running and the last check passed.
    pub healthy: u32,
    /// Running and the last check failed.
    pub unhealthy: u32,
    /// Deployments that change it.
    pub deployments: Vec<DeploymentId>,
    /// How the newest failed instance ended.
    pub last_failure: Option<LastFailure>,
    /// Where its instances are at home, if it is resident.
    pub homes: Vec<Home>,
    /// Why its instances are where they are: the newest placements, oldest first.
    pub decisions: Vec<Arc<Decision>>,
    /// The version that brought what is in force, but for the number of instances.
    pub configured_at: ServiceVersion,
}

impl ServiceView {
    /// The version that brought what is in force, but for the number of instances; the oldest of `versions` may be later.
    pub fn configured_since(now: &ServiceSpec, versions: &[Arc<ServiceSpec>]) -> ServiceVersion {
        let same = |s: &&Arc<ServiceSpec>| {
            let as_now = ServiceSpec {
                instances: now.instances,
                version: now.version,
                ..s.as_ref().clone()
            };
            as_now == *now
        };
        let before = versions.iter().rev().take_while(same);
        before.last().map_or(now.version, |s| s.version)
    }
}

impl Keyed for ServiceView {
    type Key = ServiceId;

    fn key(&self) -> &ServiceId {
        &self.spec.id
    }
}

/// A deployment in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentView {
    /// Its id.
    pub id: DeploymentId,
    /// The version of what it brings.
    pub version: ServiceVersion,
    /// The services that it changes, each with the definition that was in force before, if there was one.
    pub services: BTreeMap<ServiceId, Option<ServiceVersion>>,
    /// Its steps.
    pub plan: Arc<DeploymentPlan>,
    /// Position of the step under way.
    pub step_idx: usize,
    /// What the step waits for, in words, by service: `2 of 3 instances ready`. Nothing is said of services that are as
    /// they should be.
    pub waiting_for: BTreeMap<ServiceId, String>,
    /// When it was accepted.
    pub since: UnixMillis,
    /// When the step under way began, or the master did.
    pub step_since: UnixMillis,
    /// When it goes back by itself, if the step is not over by then.
    pub goes_back_at: Option<UnixMillis>,
}

impl DeploymentView {
    /// Actions of the step under way.
    pub fn current(&self) -> &[StepAction] {
        let step = self.plan.steps.get(self.step_idx);
        step.map_or(&[], |s| s.actions.as_slice())
    }
}

/// A service that waits for offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueView {
    /// The service.
    pub service: ServiceId,
    /// Its newest definition that the scheduler was given.
    pub spec: Arc<ServiceSpec>,
    /// Instances left to launch.
    pub count: u32,
    /// When it was queued.
    pub since: UnixMillis,
    /// No launch before this, if it is backed off.
    pub delayed_until: Option<UnixMillis>,
    /// Offers looked at.
    pub n_offers: u64,
    /// Of these, not used.
    pub n_unused: u64,
    /// When an offer was last refused.
    pub last_unused_at: Option<UnixMillis>,
    /// When an offer was last used.
    pub last_used_at: Option<UnixMillis>,
    /// Since it waits, by reason.
    pub launch_attempt: BTreeMap<DeclineReason, ReasonCount>,
    /// The same of the newest batch of offers.
    pub last_offers: BTreeMap<DeclineReason, ReasonCount>,
    /// The same since it waits, by the rule itself.
    pub rules: BTreeMap<Rule, RuleCount>,
    /// A few of the newest offers that were not used.
    pub unused: Vec<UnusedOffer>,
}

impl QueueView {
    /// Backoff that is left; zero when none.
    pub fn delay(&self, now: UnixMillis) -> Millis {
        self.delayed_until.map_or(Millis(0), |at| at.since(now))
    }

    /// Rules that turned offers away since it waits, in words, those first that turned most away.
    pub fn why(&self) -> Vec<Why> {
        tell(&self.spec, &self.rules, "offer")
    }

    /// Offers not taken since it waits, by reason (names of Marathon's `processedOffersSummary`).
    pub fn refused(&self) -> BTreeMap<String, u64> {
        let some = self.launch_attempt.iter().filter(|(_, c)| c.declined > 0);
        some.map(|(r, c)| (r.name().to_owned(), c.declined))
            .collect()
    }
}

impl Keyed for QueueView {
    type Key = ServiceId;

    fn key(&self) -> &ServiceId {
        &self.service
    }
}

/// Whether operators let an agent take tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AgentMode {
    /// It does.
    #[default]
    Active,
    /// Nothing of it is offered; what runs goes on.
    Deactivated,
    /// Nothing of it is offered, and what runs is told to end.
    Draining {
        /// Longest time that tasks get to end, where it is shorter than their own.
        max_grace: Option<Millis>,
        /// It is removed for good once it is empty.
        mark_gone: bool,
    },
    /// It was drained and runs nothing.
    Drained,
    /// It is gone for good.
    Gone,
}

impl AgentMode {
    /// Stable name: `draining`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deactivated => "deactivated",
            Self::Draining { .. } => "draining",
            Self::Drained => "drained",
            Self::Gone => "gone",
        }
    }
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    /// As registered.
    pub info: Arc<AgentInfo>,
    /// Version of its binary.
    pub version: String,
    /// Whether the master hears from it.
    pub reachable: bool,
    /// Whether a session is open now.
    pub connected: bool,
    /// Held by tasks.
    pub used: Resources,
    /// Out in offers.
    pub offered: Resources,
    /// First registration that this master saw.
    pub registered_at: UnixMillis,
    /// Newest registration.
    pub reregistered_at: UnixMillis,
    /// Last word heard.
    pub last_heard: UnixMillis,
    /// Generation that its kernel and DNS hold.
    pub applied: Generation,
    /// How long applying it took on the node, in microseconds.
    pub applied_us: u64,
    /// From publishing that generation to hearing that it is applied; `None` until heard.
    pub applied_after: Option<Millis>,
    /// Parts that the node could not apply, newest report.
    pub apply_failures: Vec<String>,
    /// What of it is reserved, statically and dynamically, volumes included.
    pub reserved: Vec<ResourcePart>,
    /// Whether operators let it take tasks.
    pub mode: AgentMode,
    /// Its planned maintenance.
    pub maintenance: Option<Unavailability>,
    /// Who was asked to leave it for that.
    pub asked: Vec<Asked>,
}

/// A framework that was asked to leave an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Which.
    pub framework_id: FrameworkId,
    /// What it said.
    pub answer: LeaveAnswer,
}

/// A framework's answer to an inverse offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaveAnswer {
    /// Nothing yet.
    Open,
    /// It leaves by itself.
    Accepted,
    /// It does not.
    Declined {
        /// When it is asked again.
        again: UnixMillis,
    },
}

/// A framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameworkView {
    /// Its id.
    pub id: FrameworkId,
    /// DNS name: `marathon`.
    pub name: String,
    /// Roles that it gets offers for, as subscribed, and suppressed or revived since; at least one.
    pub roles: Vec<RoleSubscription>,
    /// What it can handle.
    pub capabilities: Capabilities,
    /// What else it says of itself.
    pub about: Arc<About>,
    /// Whether it can get offers now.
    pub active: bool,
    /// Held by its tasks.
    pub used: Resources,
    /// Out in offers to it.
    pub offered: Resources,
    /// When it first subscribed.
    pub registered_at: UnixMillis,
    /// When it subscribed last.
    pub reregistered_at: UnixMillis,
    /// When it was removed.
    pub unregistered_at: Option<UnixMillis>,
    /// Whether its subscription is open; the built-in one's always is.
    pub connected: bool,
    /// How long it may stay away; `None` for the built-in one.
    pub failover_timeout: Option<Millis>,
    /// Whether it wants no offers to any of its roles now.
    pub suppressed: bool,
    /// Tasks of it that have not ended.
    pub tasks: u32,
    /// Why nothing is launched, newest reasons of the allocator.
    pub reasons: Vec<String>,
}

impl FrameworkView {
    /// Its first role, for readers who know only one.
    pub fn role(&self) -> &str {
        self.roles.first().map_or("*", |r| r.role.as_str())
    }
}

/// A role: whom frameworks share as. Quantities by name are by kind: `cpus`, `mem` in MiB, a custom scalar.
#[derive(Debug, Clone, PartialEq)]
pub struct RoleView {
    /// Its frameworks; none when it is only configured, or only has reservations.
    pub frameworks: Vec<FrameworkId>,
    /// Among its siblings, in thousandths.
    pub weight_milli: u32,
    /// What it is promised and at most gets.
    pub quota: Quota,
    /// What counts against its quota: unreserved allocations, and all reservations, used or not.
    pub charged: BTreeMap<String, Milli>,
    /// What is still held back for it and its subroles.
    pub owed: BTreeMap<String, Milli>,
    /// The largest part of any resource kind that is allocated to it, by its weight; 1 is the cluster.
    pub share: f64,
    /// Held by tasks; ports are left out.
    pub used: Resources,
    /// Out in offers; ports are left out.
    pub offered: Resources,
}

/// A deployment that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedDeployment {
    /// Which.
    pub id: DeploymentId,
    /// `finished`, `superseded`, `cancelled`, `rolled_back`, or `late`: it took too long and went back by itself.
    pub outcome: &'static str,
    /// When.
    pub at: UnixMillis,
}

/// The whole cluster at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClusterView {
    /// Cluster name.
    pub cluster: String,
    /// Grows by one with each published view.
    pub sequence: u64,
    /// When the view was made.
    pub at: UnixMillis,
    /// When this master started to lead.
    pub started_at: UnixMillis,
    /// Whether the master still waits for known agents after its start (launches nothing meanwhile).
    pub recovering: bool,
    /// The leading master; `None` before the first view.
    pub leader: Option<MasterView>,
    /// Addresses of all masters.
    pub masters: Vec<Ipv4Addr>,
    /// How services are launched.
    pub launches: LaunchLimits,
    /// Services by id.
    pub services: CowMap<ServiceView>,
    /// Jobs by id.
    pub jobs: BTreeMap<JobId, Arc<Job>>,
    /// Deployments in flight.
    pub deployments: BTreeMap<DeploymentId, DeploymentView>,
    /// How deployments have ended since this master started, newest last; bounded (the oldest are forgotten).
    pub ended_deployments: Arc<VecDeque<EndedDeployment>>,
    /// What groups that are there by themselves depend on.
    pub groups: GroupDependencies,
    /// Version of the newest change of services and groups.
    pub tree_version: ServiceVersion,
    /// Services that wait for offers.
    pub queue: CowMap<QueueView>,
    /// Agents by id.
    pub agents: BTreeMap<AgentId, Arc<AgentView>>,
    /// Tasks that are not terminal.
    pub tasks: CowMap<TaskView>,
    /// Tasks that ended, newest last; bounded (the oldest are forgotten).
    pub completed: Vec<Arc<TaskView>>,
    /// How many tasks have ended since this master started, by state, in the order of [`TaskState::ALL`].
    pub n_ended: [u64; TaskState::ALL.len()],
    /// Executors of frameworks' own that are not known to have ended, with their agents.
    pub executors: Arc<Vec<(AgentId, ExecutorRecord)>>,
    /// Frameworks by id.
    pub frameworks: BTreeMap<FrameworkId, FrameworkView>,
    /// Frameworks that were removed since this master started, newest last; bounded (the oldest are forgotten).
    pub completed_frameworks: Vec<Arc<FrameworkView>>,
    /// Roles that have frameworks, a weight, a quota or reservations.
    pub roles: BTreeMap<String, RoleView>,
    /// Offers that are out.
    pub offers: Vec<Arc<Offer>>,
    /// Where frameworks mount persistent volumes, by agent and volume; one that is not here is mounted as it is called.
    pub mounts: Arc<BTreeMap<AgentId, BTreeMap<String, String>>>,
    /// Inverse offers that are out.
    pub inverse_offers: Vec<InverseOffer>,
    /// Agents that are gone for good, and since when; bounded (the oldest are forgotten).
    pub gone: Arc<BTreeMap<AgentId, UnixMillis>>,
    /// Planned maintenance, also of agents that have not come back since the master started.
    pub maintenance: BTreeMap<AgentId, Unavailability>,
    /// Overlay networks, with what is used of them.
    pub networks: BTreeMap<String, NetworkView>,
    /// Network policies.
    pub policies: BTreeMap<String, Arc<NetworkPolicy>>,
    /// Leases of named VIPs.
    pub vips: BTreeMap<VipName, VipLease>,
    /// Literal VIPs in use.
    pub literal_vips: Vec<VipKey>,
    /// The newest published network snapshot.
    pub net: Arc<NetSnapshot>,
    /// Refused things by reason, for `explain` and metrics.
    pub rejections: BTreeMap<&'static str, u64>,
}

impl ClusterView {
    /// Services that are no pods, by id.
    pub fn apps(&self) -> impl Iterator<Item = &Arc<ServiceView>> {
        self.services.values().filter(|s| s.spec.pod.is_none())
    }

    /// A service that is no pod.
    pub fn app(&self, id: &ServiceId) -> Option<&Arc<ServiceView>> {
        self.services.get(id).filter(|s| s.spec.pod.is_none())
    }

    /// Pods, by id.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<ServiceView>> {
        self.services.values().filter(|s| s.spec.pod.is_some())
    }

    /// A pod.
    pub fn pod(&self, id: &ServiceId) -> Option<&Arc<ServiceView>> {
        self.services.get(id).filter(|s| s.spec.pod.is_some())
    }

    /// The tasks of a service, in id order.
    pub fn tasks_of<'a>(&'a self, service: &'a ServiceId) -> impl Iterator<Item = &'a TaskView> {
        self.tasks
            .values()
            .filter(move |t| t.spec.service == service.as_str())
            .map(AsRef::as_ref)
    }
}
