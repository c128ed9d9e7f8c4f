//! Which tasks may get new connections through a VIP, and why the others may not.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use waggle_types::{
    AgentId, AgentNet, Balance, HealthState, Locality, NetSnapshot, TaskId, TaskNet, TaskState,
};

/// What a node knows of one of its own tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact {
    /// Its state.
    pub state: TaskState,
    /// Its health.
    pub health: HealthState,
    /// Whether it may get work; `None` when no check says so.
    pub ready: Option<bool>,
}

impl From<(TaskState, HealthState)> for Fact {
    /// Of a task whose readiness nothing says.
    fn from((state, health): (TaskState, HealthState)) -> Self {
        Self {
            state,
            health,
            ready: None,
        }
    }
}

/// What a node knows of its own tasks; wins over the snapshot, which lags behind.
pub type LocalFacts = BTreeMap<TaskId, Fact>;

/// Why a task that backs a VIP gets no new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Its state is neither running nor killing.
    NotRunning(TaskState),
    /// It was told to end: keeps its connections, gets no new ones.
    Killing,
    /// Its last health check failed: keeps its connections, gets no new ones.
    Unhealthy,
    /// A check is defined and has not answered yet.
    NoHealthResult,
    /// A readiness or start check has not passed, or does not pass any more: keeps its connections, gets no new ones.
    NotReady,
    /// The snapshot does not hold its agent, so it has no address.
    AgentUnknown,
    /// The master does not hear from its agent, and other backends remain.
    AgentUnreachable,
    /// It has no port to be reached at.
    NoPort,
    /// Neither the task nor its agent has an address of the family of the VIP.
    NoAddress,
    /// The VIP is the IPv6 twin of a named one, and its port does not say that it listens there.
    Ipv4Only,
    /// Others are nearer to this node, and the VIP prefers these: keeps its connections, gets no new ones.
    Farther,
}

impl Reason {
    /// One word for programs.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotRunning(_) => "not_running",
            Self::Killing => "killing",
            Self::Unhealthy => "unhealthy",
            Self::NoHealthResult => "no_health_result",
            Self::NotReady => "not_ready",
            Self::AgentUnknown => "agent_unknown",
            Self::AgentUnreachable => "agent_unreachable",
            Self::NoPort => "no_port",
            Self::NoAddress => "no_address",
            Self::Ipv4Only => "ipv4_only",
            Self::Farther => "farther",
        }
    }

    /// DC/OS's weight 0: open connections live on, as opposed to a backend that is gone.
    pub const fn is_draining(self) -> bool {
        matches!(
            self,
            Self::Killing | Self::Unhealthy | Self::NoHealthResult | Self::NotReady | Self::Farther
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(state) => write!(f, "task is {}", state.mesos_name()),
            Self::Killing => f.write_str("task is being killed"),
            Self::Unhealthy => f.write_str("health check fails"),
            Self::NoHealthResult => f.write_str("no health check has answered yet"),
            Self::NotReady => f.write_str("not ready by its checks"),
            Self::AgentUnknown => f.write_str("its agent is not known"),
            Self::AgentUnreachable => f.write_str("its agent is unreachable"),
            Self::NoPort => f.write_str("task has no such port"),
            Self::NoAddress => {
                f.write_str("neither it nor its agent has an address of that family")
            }
            Self::Ipv4Only => f.write_str("its port has no label LB_IPV6=true"),
            Self::Farther => f.write_str("nearer backends are preferred"),
        }
    }
}

/// Whether a task is in a backend set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Gets new connections.
    Eligible,
    /// Gets new connections although its agent is unreachable: nobody else is left.
    LastResort,
    /// Gets none.
    Excluded(Reason),
}

impl Verdict {
    /// Whether it is in the kernel's set.
    pub const fn is_in(self) -> bool {
        matches!(self, Self::Eligible | Self::LastResort)
    }

    /// Why it is out.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Eligible | Self::LastResort => None,
            Self::Excluded(r) => Some(r),
        }
    }
}

/// A task's port that asks to back a VIP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// The task.
    pub task_id: TaskId,
    /// Its agent.
    pub agent_id: AgentId,
    /// Where it would be reached; absent when its agent is not known.
    pub addr: Option<SocketAddr>,
    /// What its port's labels ask for.
    pub balance: Balance,
    /// In or out, and why.
    pub verdict: Verdict,
}

/// What counts for a task: its own node's word, else the master's; but a task that is to end is.
pub fn effective(id: &TaskId, task: &TaskNet, local: &LocalFacts) -> Fact {
    match local.get(id).copied() {
        // That it is to end the master knows before its node.
        Some(
            fact @ Fact {
                state: TaskState::Running,
                ..
            },
        ) if task.state == TaskState::Killing => Fact {
            state: TaskState::Killing,
            ..fact
        },
        Some(fact) => fact,
        None => Fact {
            state: task.state,
            health: task.health,
            ready: task.ready,
        },
    }
}

/// Why its checks keep a task from new connections.
pub fn checks_say(fact: Fact, task: &TaskNet) -> Option<Reason> {
    match fact.health {
        HealthState::Unhealthy => Some(Reason::Unhealthy),
        // Before its start, or for another reason: more is known than that a check has not answered.
        _ if fact.ready == Some(false) => Some(Reason::NotReady),
        HealthState::Unknown if task.has_check => Some(Reason::NoHealthResult),
        HealthState::Unknown | HealthState::Healthy => None,
    }
}

/// A task's verdict before the "unless none would remain" rule: an unreachable agent's tasks come out
/// as `Excluded(AgentUnreachable)` and [`last_resort`] may take them back in.
///
/// A task of which this node has a fact runs here, so its agent is reachable whatever the master thinks.
pub fn judge(id: &TaskId, task: &TaskNet, agent: Option<&AgentNet>, local: &LocalFacts) -> Verdict {
    let fact = effective(id, task, local);
    let state = fact.state;
    let out = |r| Verdict::Excluded(r);
    match state {
        TaskState::Running | TaskState::Unreachable => {}
        TaskState::Killing => return out(Reason::Killing),
        other => return out(Reason::NotRunning(other)),
    }
    if let Some(reason) = checks_say(fact, task) {
        return out(reason);
    }
    match agent {
        None => out(Reason::AgentUnknown),
        Some(_) if state == TaskState::Unreachable => out(Reason::AgentUnreachable),
        Some(a) if !a.reachable && !local.contains_key(id) => out(Reason::AgentUnreachable),
        Some(_) => Verdict::Eligible,
    }
}

/// dcos_l4lb_mgr's rule: backends on unreachable agents are dropped, unless that would leave none; then all of them stay.
pub fn last_resort(candidates: &mut [Candidate]) {
    if candidates.iter().any(|c| c.verdict.is_in()) {
        return;
    }
    for c in candidates {
        if c.verdict == Verdict::Excluded(Reason::AgentUnreachable) {
            c.verdict = Verdict::LastResort;
        }
    }
}

/// `LB_LOCALITY`: where some are on this node (or in its zone), the others get nothing new. The first candidate's labels
/// say what the VIP prefers.
pub fn prefer_near(candidates: &mut [Candidate], here: &AgentId, snapshot: &NetSnapshot) {
    let prefers = candidates
        .first()
        .map_or(Locality::Any, |c| c.balance.locality);
    let domain = |id: &AgentId| snapshot.agents.get(id).and_then(|a| a.domain.as_ref());
    let home = domain(here);
    let on_node = |c: &Candidate| c.agent_id == *here;
    let in_zone = |c: &Candidate| on_node(c) || home.is_some() && domain(&c.agent_id) == home;
    let serves = |c: &Candidate| c.verdict.is_in() && c.balance.weight > 0;
    let any = |near: &dyn Fn(&Candidate) -> bool| candidates.iter().any(|c| serves(c) && near(c));
    let near: &dyn Fn(&Candidate) -> bool = match prefers {
        Locality::Node if any(&on_node) => &on_node,
        Locality::Node | Locality::Zone if any(&in_zone) => &in_zone,
        _ => return,
    };
    for c in candidates {
        if c.verdict.is_in() && !near(c) {
            c.verdict = Verdict::Excluded(Reason::Farther);
        }
    }
}
