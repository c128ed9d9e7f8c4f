//! A task as the registry keeps it and as readers see it: one record for both, small.
//!
//! What tasks of one framework have in common (command, environment, labels, quantities) is a
//! [`TaskShape`] that they share; what is left to a task is its id, its ports and its state. Half a
//! million tasks of a few kinds cost a few hundred bytes each.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    num::{NonZeroU32, NonZeroU64},
    sync::Arc,
};

use waggle_types::{
    AgentId, AgentInfo, CheckPurpose, CheckResponse, CheckStatus, Command, ContainerSpec,
    DiscoveryInfo, ExecutorSpec, ExecutorStatus, FrameworkId, HealthCheck, HealthRecord,
    HealthState, Millis, NetworkMode, OnExecutor, PortSet, ResourcePart, Resources, StatusReason,
    StatusSource, TaskId, TaskPort, TaskSpec, TaskState, TaskStatus, TraceContext, UnixMillis,
};

use crate::cow::Keyed;

/// Shapes that are shared; tasks beyond have one of their own.
const MAX_SHAPES: usize = 65_536;

/// What tasks have in common. See [`TaskSpec`] for the fields.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskShape {
    /// The framework that launched it.
    pub framework_id: FrameworkId,
    /// The framework's DNS name.
    pub framework_name: String,
    /// Role that the resources are allocated to.
    pub role: String,
    /// The app path for service tasks, else empty.
    pub service: String,
    /// The definition's version.
    pub service_version: String,
    /// What runs.
    pub command: Command,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What it holds, without ports.
    pub quantities: Resources,
    /// What it was given, by reservation; empty when it is all plain.
    pub parts: Vec<ResourcePart>,
    /// Checks run by the agent.
    pub health_checks: Vec<HealthCheck>,
    /// How it is contained; `None` for a plain process.
    pub container: Option<Box<ContainerSpec>>,
    /// Between SIGTERM and SIGKILL.
    pub kill_grace: Millis,
    /// Unix user to run as.
    pub user: Option<String>,
    /// On which executor, and in which group of tasks, it runs.
    pub executor: Option<(Arc<ExecutorSpec>, Option<TaskId>)>,
    /// `None`: the task's id.
    name: Option<String>,
    /// `None`: the task's id.
    discovery: Option<String>,
}

/// Ports of a task that has some.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ports {
    held: PortSet,
    defined: Vec<TaskPort>,
}

/// Where tasks of one agent are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskPlace {
    /// The agent.
    pub agent_id: AgentId,
    /// Its node name; empty when the agent is not known.
    pub hostname: String,
    /// Its underlay address.
    pub ip: Ipv4Addr,
}

impl TaskPlace {
    /// An agent's.
    pub fn of(agent: &AgentInfo) -> Arc<Self> {
        Arc::new(Self {
            agent_id: agent.agent_id.clone(),
            hostname: agent.hostname.clone(),
            ip: agent.ip,
        })
    }
}

/// What is said of few tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Said {
    message: String,
    check: Option<CheckStatus>,
    responses: Vec<CheckResponse>,
    record: HealthRecord,
}

/// A task as the master knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskView {
    /// Its id.
    pub id: TaskId,
    /// What it has in common with others.
    pub spec: Arc<TaskShape>,
    /// Where it is.
    pub place: Arc<TaskPlace>,
    ports: Option<Box<Ports>>,
    trace: Option<Box<TraceContext>>,
    // Few tasks have any of it, and each of very many pays for this field.
    said: Option<Box<Said>>,
    /// When it was sent to the agent, by the master's clock (after a restart: first sight of it).
    pub staged_at: UnixMillis,
    started_at: Option<NonZeroU64>,
    /// When its newest status was observed; `None` before the first.
    heard_at: Option<NonZeroU64>,
    /// State as its agent said last.
    pub reported: TaskState,
    /// Health as last reported.
    pub health: HealthState,
    /// Whether readiness and start checks pass, as last reported; `None` where there is none.
    pub ready: Option<bool>,
    // An address of its own; never 0.0.0.0.
    own_ip: Option<NonZeroU32>,
    own_ip6: Option<Box<Ipv6Addr>>,
    reason: Option<StatusReason>,
    source: StatusSource,
    /// Its agent is out of reach.
    pub(crate) unreachable: bool,
    /// A kill was asked for; repeated when its agent comes back.
    pub(crate) kill_wanted: bool,
    /// Its `task.launch` span is open.
    pub(crate) launch_open: bool,
    /// It has been announced as a VIP backend.
    pub(crate) announced: bool,
}

impl Keyed for TaskView {
    type Key = TaskId;

    fn key(&self) -> &TaskId {
        &self.id
    }
}

impl TaskView {
    /// A task that is being sent; what it shares is found in, or added to, `shapes`.
    pub fn new(
        spec: TaskSpec,
        place: Arc<TaskPlace>,
        staged_at: UnixMillis,
        shapes: &mut Shapes,
    ) -> Self {
        let TaskSpec {
            task_id: id,
            framework_id,
            framework_name,
            role,
            name,
            command,
            env,
            labels,
            resources,
            parts,
            ports,
            discovery,
            health_checks,
            container,
            kill_grace,
            user,
            service,
            service_version,
            trace,
            executor,
        } = spec;
        let own = |s: String| (s != id.as_str()).then_some(s);
        let held = resources.ports;
        let shape = TaskShape {
            name: own(name),
            discovery: own(discovery.name),
            framework_id,
            framework_name,
            role,
            service,
            service_version,
            command,
            env,
            labels,
            quantities: Resources {
                ports: PortSet::default(),
                ..resources
            },
            parts,
            health_checks,
            container: (container != ContainerSpec::default()).then(|| Box::new(container)),
            kill_grace,
            user,
            executor: executor.map(|on| (on.spec, on.group)),
        };
        let some = !held.is_empty() || !ports.is_empty();
        Self {
            id,
            spec: shapes.share(shape),
            place,
            ports: some.then(|| {
                Box::new(Ports {
                    held,
                    defined: ports,
                })
            }),
            trace: trace.map(Box::new),
            said: None,
            staged_at,
            started_at: None,
            heard_at: None,
            reported: TaskState::Staging,
            health: HealthState::Unknown,
            ready: None,
            own_ip: None,
            own_ip6: None,
            reason: None,
            source: StatusSource::Master,
            unreachable: false,
            kill_wanted: false,
            launch_open: false,
            announced: false,
        }
    }

    /// The whole spec, as it was accepted, but for what only its executor reads.
    pub fn full_spec(&self) -> TaskSpec {
        let s = &self.spec;
        TaskSpec {
            task_id: self.id.clone(),
            framework_id: s.framework_id.clone(),
            framework_name: s.framework_name.clone(),
            role: s.role.clone(),
            name: self.name().to_owned(),
            command: s.command.clone(),
            env: s.env.clone(),
            labels: s.labels.clone(),
            resources: self.resources(),
            parts: s.parts.clone(),
            ports: self.ports().to_vec(),
            discovery: DiscoveryInfo {
                name: self.discovery_name().to_owned(),
            },
            health_checks: s.health_checks.clone(),
            container: s.container.as_deref().cloned().unwrap_or_default(),
            kill_grace: s.kill_grace,
            user: s.user.clone(),
            service: s.service.clone(),
            service_version: s.service_version.clone(),
            trace: self.trace(),
            executor: s.executor.as_ref().map(|(spec, group)| OnExecutor {
                spec: Arc::clone(spec),
                starts: false,
                group: group.clone(),
                n_group: 0,
                info: Vec::new(),
            }),
        }
    }

    /// For people and DNS.
    pub fn name(&self) -> &str {
        self.spec.name.as_deref().unwrap_or(self.id.as_str())
    }

    /// How it is found: `cart.shop`.
    pub fn discovery_name(&self) -> &str {
        self.spec.discovery.as_deref().unwrap_or(self.id.as_str())
    }

    /// All that it holds.
    pub fn resources(&self) -> Resources {
        let held = self.ports.as_ref().map(|p| p.held.clone());
        Resources {
            ports: held.unwrap_or_default(),
            ..self.spec.quantities.clone()
        }
    }

    /// Its ports, in definition order.
    pub fn ports(&self) -> &[TaskPort] {
        self.ports.as_ref().map_or(&[], |p| p.defined.as_slice())
    }

    /// The span that the agent's spans hang under.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace.as_deref().copied()
    }

    /// Its agent.
    pub fn agent_id(&self) -> &AgentId {
        &self.place.agent_id
    }

    /// Node name of the agent.
    pub fn hostname(&self) -> &str {
        &self.place.hostname
    }

    /// Underlay address of the agent.
    pub fn ip(&self) -> Ipv4Addr {
        self.place.ip
    }

    /// An address of its own, where it is not on its node's network.
    pub fn own_ip(&self) -> Option<Ipv4Addr> {
        self.own_ip.map(|bits| Ipv4Addr::from_bits(bits.get()))
    }

    /// The same over IPv6.
    pub fn own_ip6(&self) -> Option<Ipv6Addr> {
        self.own_ip6.as_deref().copied()
    }

    /// The overlay network that it is on.
    pub fn network(&self) -> Option<&str> {
        match &self.spec.container.as_deref()?.network {
            NetworkMode::Container(name) => Some(name),
            _ => None,
        }
    }

    /// State as shown: what the agent said last, or that it can't say any more.
    pub fn state(&self) -> TaskState {
        if self.unreachable {
            TaskState::Unreachable
        } else {
            self.reported
        }
    }

    /// When it was first reported running.
    pub fn started_at(&self) -> Option<UnixMillis> {
        self.started_at.map(|at| UnixMillis(at.get()))
    }

    /// The newest status, without its uuid.
    pub fn status(&self) -> Option<TaskStatus> {
        let at = self.heard_at?;
        Some(TaskStatus {
            ip: self.own_ip(),
            ip6: self.own_ip6(),
            ready: self.ready,
            check: self.check(),
            responses: self.responses().to_vec(),
            task_id: self.id.clone(),
            agent_id: self.place.agent_id.clone(),
            state: self.reported,
            health: self.health,
            reason: self.reason,
            message: self.message().to_owned(),
            source: self.source,
            at: UnixMillis(at.get()),
            uuid: None,
            executor: self.spec.executor.as_ref().map(|(spec, _)| {
                Box::new(ExecutorStatus {
                    executor_id: spec.executor_id.clone(),
                    info: Vec::new(),
                })
            }),
        })
    }

    /// When its newest status was observed, by the reporter's clock.
    pub fn heard_at(&self) -> Option<UnixMillis> {
        self.heard_at.map(|at| UnixMillis(at.get()))
    }

    /// The newest status's message.
    pub fn message(&self) -> &str {
        self.said.as_ref().map_or("", |s| s.message.as_str())
    }

    /// What its check that is only told said last.
    pub fn check(&self) -> Option<CheckStatus> {
        self.said.as_ref()?.check
    }

    /// What its readiness checks were answered last, where that is kept.
    pub fn responses(&self) -> &[CheckResponse] {
        self.said.as_ref().map_or(&[], |s| s.responses.as_slice())
    }

    /// What was heard of its health checks.
    pub fn health_record(&self) -> Option<&HealthRecord> {
        self.said.as_ref().map(|s| &s.record)
    }

    /// Takes a report; the caller has checked that it is about this task.
    pub fn take(&mut self, status: &TaskStatus, now: UnixMillis) {
        let mut record = self.said.take().map(|s| s.record).unwrap_or_default();
        if HealthCheck::any(&self.spec.health_checks, CheckPurpose::Health) {
            record.take(self.health, status);
        }
        let not_0 = |at: UnixMillis| NonZeroU64::new(at.0).or(Some(NonZeroU64::MIN));
        self.reported = status.state;
        self.health = status.health;
        self.ready = status.ready;
        let own = status.ip.and_then(|ip| NonZeroU32::new(ip.to_bits()));
        // Reports about its end have none: until it is gone it is the same.
        self.own_ip = own.or(self.own_ip);
        if status.ip6 != self.own_ip6()
            && let Some(own) = status.ip6
        {
            self.own_ip6 = Some(Box::new(own));
        }
        self.reason = status.reason;
        self.source = status.source;
        self.heard_at = not_0(status.at);
        if status.state == TaskState::Running && self.started_at.is_none() {
            self.started_at = not_0(now);
        }
        let said = Said {
            message: status.message.clone(),
            check: status.check,
            responses: status.responses.clone(),
            record,
        };
        self.said = (said != Said::default()).then(|| Box::new(said));
    }

    /// Whether clients are sent to it: through a VIP, or by the names of a service's ports.
    pub fn is_named(&self) -> bool {
        let mut ports = self.ports().iter();
        ports.any(|p| !p.vips.is_empty() || !self.spec.service.is_empty())
    }

    /// Whether it can get connections through a VIP (CONTRACTS section 3).
    pub fn is_backend(&self) -> bool {
        self.reported == TaskState::Running
            && self.ports().iter().any(|p| !p.vips.is_empty())
            && HealthCheck::all_pass(&self.spec.health_checks, self.health, self.ready)
    }
}

/// Shapes by content.
#[derive(Debug, Clone, Default)]
pub struct Shapes {
    all: BTreeSet<Arc<TaskShape>>,
    /// Next size at which unused ones are looked for.
    sweep_at: usize,
}

impl Shapes {
    /// The shared one that is equal. When the limit is reached, and nothing unused is left, the shape is
    /// not shared.
    fn share(&mut self, shape: TaskShape) -> Arc<TaskShape> {
        if let Some(known) = self.all.get(&shape) {
            return Arc::clone(known);
        }
        if self.all.len() >= self.sweep_at.clamp(64, MAX_SHAPES) {
            self.all.retain(|s| Arc::strong_count(s) > 1);
            self.sweep_at = self.all.len() * 2;
        }
        let shape = Arc::new(shape);
        if self.all.len() < MAX_SHAPES {
            self.all.insert(Arc::clone(&shape));
        }
        shape
    }

    /// Number of shared shapes.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use waggle_types::{Protocol, Resources};

    use super::*;

    fn spec(id: &str, port: u16) -> TaskSpec {
        TaskSpec {
            container: ContainerSpec::default(),
            task_id: TaskId::new(id).unwrap(),
            framework_id: FrameworkId::new("f").unwrap(),
            framework_name: "batch".into(),
            role: "*".into(),
            name: id.into(),
            command: Command::Shell("true".into()),
            env: [("A".to_owned(), "b".to_owned())].into(),
            labels: BTreeMap::new(),
            resources: Resources::from_millis(100, 32_000, 0)
                .with_ports(PortSet::from_ports([port])),
            parts: Vec::new(),
            ports: vec![TaskPort {
                metrics: None,
                container_port: None,
                name: None,
                host_port: port,
                protocols: vec![Protocol::Tcp],
                vips: Vec::new(),
                balance: waggle_types::Balance::default(),
            }],
            discovery: DiscoveryInfo {
                name: "other".into(),
            },
            health_checks: Vec::new(),
            kill_grace: Millis(3000),
            user: None,
            service: String::new(),
            service_version: String::new(),
            trace: None,
            executor: None,
        }
    }

    fn place() -> Arc<TaskPlace> {
        Arc::new(TaskPlace {
            agent_id: AgentId::new("a1").unwrap(),
            hostname: "n1".into(),
            ip: Ipv4Addr::LOCALHOST,
        })
    }

    #[test]
    fn a_spec_comes_back_whole_and_its_shape_is_shared() {
        let mut shapes = Shapes::default();
        let one = TaskView::new(spec("a", 1), place(), UnixMillis(5), &mut shapes);
        let two = TaskView::new(spec("b", 2), place(), UnixMillis(5), &mut shapes);
        assert_eq!(one.full_spec(), spec("a", 1));
        assert_eq!(two.full_spec(), spec("b", 2));
        assert!(Arc::ptr_eq(&one.spec, &two.spec));
        assert_eq!(shapes.len(), 1);
    }

    #[test]
    fn shapes_that_nobody_has_are_let_go() {
        let mut shapes = Shapes::default();
        for i in 0..10_000 {
            let mut other = spec("a", 1);
            other.env.insert("N".into(), i.to_string());
            TaskView::new(other, place(), UnixMillis(5), &mut shapes);
        }
        assert!(shapes.len() <= 64, "{}", shapes.len());
    }

    #[test]
    fn a_record_is_small() {
        assert!(size_of::<TaskView>() <= 112, "{}", size_of::<TaskView>());
    }
}
