//! Mesos's operator endpoints, with or without `/master` in front and `.json` behind.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use axum::{
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use waggle_api::{
    error::{ApiError, ErrorCode},
    mesos::{
        AGENT_CAPABILITIES, ContainerStatus, Discovery, DiscoveryPort, DiscoveryPorts, Executor,
        Framework, FrameworkSummary, Frameworks, Label, Labels, LeaderInfo, MESOS_VERSION, Slave,
        SlaveSummary, Slaves, State, StateCounts, StateSummary, Status, Task, Tasks, Version,
        discovery::vip_value, duration, event, seconds,
    },
};
use waggle_types::{
    AgentId, ExecutorKind, ExecutorRecord, FrameworkId, HealthState, Resources, TaskState, VipLabel,
};

use super::{
    Api, gauges,
    operator::{flags, reserved_by_role},
    pieces::Pieces,
    request::{Call, Query},
    respond::{Fail, ok},
};
use crate::view::{AgentView, ClusterView, FrameworkView, MasterView, TaskView};

/// Tasks of one answer where no limit is asked for (Mesos's `TASK_LIMIT`).
const TASK_LIMIT: usize = 100;

/// Without `/master` and `.json`.
fn plain(call: &Call) -> Vec<&str> {
    let mut path: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    if path.len() > 1 && path[0] == "master" {
        path.remove(0);
    }
    if let Some(last) = path.last_mut() {
        *last = last.strip_suffix(".json").unwrap_or(last);
    }
    path
}

/// Whether the answer grows with the cluster.
pub(super) fn is_large(call: &Call) -> bool {
    let all = ["state", "state-summary", "slaves", "frameworks", "tasks"];
    matches!(plain(call).as_slice(), [one] if all.contains(one))
}

/// Finds the handler; every path here is read-only.
pub(super) fn route(api: &Api, call: &Call) -> Result<Response, Fail> {
    let path = plain(call);
    let known = matches!(
        path.as_slice(),
        ["version"
            | "health"
            | "ping"
            | "redirect"
            | "state"
            | "state-summary"
            | "slaves"
            | "frameworks"
            | "tasks"]
            | ["metrics", "snapshot"]
            | ["overlay-master", "state"]
    );
    if !known {
        return Err(Fail::no_such_path(call));
    }
    if call.method != Method::GET {
        return Err(Fail::method(call, "GET"));
    }
    // Answered by every master, leading or not, with or without a view.
    match path.as_slice() {
        ["version"] => return Ok(ok(&Version::new(env!("CARGO_PKG_VERSION")))),
        ["health"] => return Ok(StatusCode::OK.into_response()),
        ["ping"] => return Ok("pong".into_response()),
        _ => {}
    }
    let view = api.view();
    let Some(leader) = view.leader.as_ref() else {
        return Err(ApiError::new(ErrorCode::Unavailable, "No leader elected").into());
    };
    Ok(match path.as_slice() {
        ["redirect"] => redirect(leader),
        ["overlay-master", "state"] => ok(&super::native::networks::state(&view)),
        ["state"] => state(&view, leader),
        ["state-summary"] => ok(&summary(&view, leader)),
        ["slaves"] => {
            let asked = call.query.first("slave_id");
            let wanted = |a: &&std::sync::Arc<AgentView>| {
                asked.is_none_or(|id| a.info.agent_id.as_str() == id)
            };
            let all = view.agents.values().filter(wanted);
            let mut answer = Pieces::default();
            answer.open(&Slaves {
                recovered_slaves: Vec::new(),
            });
            let all: Vec<&AgentView> = all.map(AsRef::as_ref).collect();
            answer.list("slaves", &all, slave);
            answer.close();
            answer.answer()
        }
        ["frameworks"] => {
            let asked = call.query.first("framework_id");
            let wanted = |f: &FrameworkView| asked.is_none_or(|id| f.id.as_str() == id);
            let mut answer = Pieces::default();
            answer.open(&Frameworks {
                unregistered_frameworks: Vec::new(),
            });
            frameworks(&mut answer, &view, leader, wanted);
            answer.close();
            answer.answer()
        }
        ["tasks"] => ok(&Tasks {
            tasks: tasks(&view, &call.query),
        }),
        _ => {
            if let Some(timeout) = call.query.first("timeout")
                && duration::parse(timeout).is_none()
            {
                // What is known is known at once, so none is waited for.
                let why = format!("timeout: must be as in 5secs, is {timeout:.100?}");
                return Err(ApiError::new(ErrorCode::BadRequest, why).into());
            }
            ok(&gauges::all(&view))
        }
    })
}

/// Tasks by Mesos's query: `framework_id`, `task_id`, `order` (of their launches, the newest first if it is not `asc`), `offset`,
/// and `limit`, which is all of them where it is below zero. What is no number counts as not said.
fn tasks<'a>(view: &'a ClusterView, query: &Query) -> Vec<Task<'a>> {
    let number = |name| query.first(name).and_then(|n| n.parse::<i64>().ok());
    let (framework, id) = (query.first("framework_id"), query.first("task_id"));
    let all = view.tasks.values().chain(&view.completed);
    let wanted = |t: &&TaskView| {
        framework.is_none_or(|f| t.spec.framework_id.as_str() == f)
            && id.is_none_or(|id| t.id.as_str() == id)
    };
    let mut all: Vec<&TaskView> = all.map(AsRef::as_ref).filter(wanted).collect();
    all.sort_by_key(|t| t.staged_at);
    if query.first("order") != Some("asc") {
        all.reverse();
    }
    let many = |n: i64| usize::try_from(n).unwrap_or(usize::MAX);
    let offset = number("offset").map_or(0, many);
    let limit = number("limit").map_or(TASK_LIMIT, many);
    let some = all.into_iter().skip(offset).take(limit);
    some.map(task).collect()
}

/// Scheme-relative, as Mesos sends it.
fn redirect(leader: &MasterView) -> Response {
    let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
    let to = format!("//{}:{}", leader.ip, leader.mesos_port);
    if let Ok(to) = HeaderValue::from_str(&to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

fn pid(leader: &MasterView) -> String {
    format!("master@{}:{}", leader.ip, leader.mesos_port)
}

fn state(view: &ClusterView, leader: &MasterView) -> Response {
    let count = |reachable| {
        let matching = view.agents.values().filter(|a| a.reachable == reachable);
        matching.count() as u64
    };
    let mut answer = Pieces::default();
    answer.open(&State {
        version: MESOS_VERSION,
        id: &leader.id,
        pid: pid(leader),
        hostname: &leader.hostname,
        cluster: &view.cluster,
        start_time: seconds(view.started_at),
        elected_time: seconds(view.started_at),
        leader: pid(leader),
        leader_info: Some(LeaderInfo {
            id: &leader.id,
            pid: pid(leader),
            hostname: &leader.hostname,
            port: leader.mesos_port,
        }),
        activated_slaves: count(true),
        deactivated_slaves: 0,
        unreachable_slaves: count(false),
        flags: flags(view),
        recovered_slaves: Vec::new(),
        unregistered_frameworks: Vec::new(),
        orphan_tasks: Vec::new(),
    });
    let agents: Vec<&AgentView> = view.agents.values().map(AsRef::as_ref).collect();
    answer.list("slaves", &agents, slave);
    frameworks(&mut answer, view, leader, |_| true);
    answer.close();
    answer.answer()
}

fn slave(a: &AgentView) -> Slave<'_> {
    let (free, reserved) = reserved_by_role(a);
    Slave {
        id: a.info.agent_id.as_str(),
        pid: format!("slave(1)@{}:{}", a.info.ip, a.info.http_port),
        hostname: &a.info.hostname,
        port: a.info.http_port,
        active: a.reachable,
        deactivated: a.mode != crate::view::AgentMode::Active,
        version: MESOS_VERSION,
        registered_time: seconds(a.registered_at),
        reregistered_time: seconds(a.reregistered_at),
        attributes: &a.info.attributes,
        unreserved_resources: (&free).into(),
        resources: (&a.info.total).into(),
        used_resources: (&a.used).into(),
        offered_resources: (&a.offered).into(),
        reserved_resources: reserved
            .iter()
            .map(|(role, r)| (role.clone(), r.into()))
            .collect(),
        capabilities: &AGENT_CAPABILITIES,
        domain: a.info.domain.as_ref().map(event::domain),
    }
}

/// Those that are there, and removed ones, newest first, as Mesos has them.
fn frameworks<'a>(
    answer: &mut Pieces<'a>,
    view: &'a ClusterView,
    leader: &'a MasterView,
    wanted: impl Fn(&FrameworkView) -> bool,
) {
    let census = Census::of(view);
    let there: Vec<&FrameworkView> = view.frameworks.values().collect();
    let removed = view.completed_frameworks.iter().rev();
    let removed: Vec<&FrameworkView> = removed.map(AsRef::as_ref).collect();
    for (key, mut all) in [("frameworks", there), ("completed_frameworks", removed)] {
        all.retain(|f| wanted(f));
        answer.objects(key, all, |answer, f| {
            let live = census.live.get(&f.id).into_iter().flatten().copied();
            let (unreachable, live): (Vec<_>, Vec<_>) =
                live.partition(|t| t.state() == TaskState::Unreachable);
            let completed = census.completed.get(&f.id).into_iter().flatten();
            let completed: Vec<_> = completed.rev().copied().collect();
            answer.open(&framework(view, leader, f));
            answer.list("tasks", &live, task);
            answer.list("unreachable_tasks", &unreachable, task);
            answer.list("completed_tasks", &completed, task);
            answer.close();
        });
    }
}

/// Sum of used and offered; ports that are in both (they never are) would only be shown once.
fn allocated(f: &FrameworkView) -> Resources {
    let sum = f.used.checked_add(&f.offered);
    sum.unwrap_or_else(|| f.used.clone())
}

/// Where people find a framework: the built-in one is Marathon.
fn webui<'a>(f: &'a FrameworkView, leader: &MasterView) -> Cow<'a, str> {
    if f.failover_timeout.is_some() {
        return Cow::Borrowed(&f.about.webui_url);
    }
    format!("http://{}:{}", leader.ip, leader.marathon_port).into()
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

fn framework<'a>(
    view: &'a ClusterView,
    leader: &'a MasterView,
    f: &'a FrameworkView,
) -> Framework<'a> {
    let executors = view.executors.iter();
    let executors = executors.filter(|(_, e)| e.framework_id == f.id);
    Framework {
        id: f.id.as_str(),
        name: f.about.title_or(&f.name),
        pid: "",
        hostname: or(&f.about.hostname, &leader.hostname),
        user: or(&f.about.user, "root"),
        principal: (!f.about.principal.is_empty()).then_some(f.about.principal.as_str()),
        role: f.role(),
        roles: f.roles.iter().map(|r| r.role.as_str()).collect(),
        active: f.active,
        connected: f.connected,
        recovered: false,
        checkpoint: true,
        failover_timeout: f.failover_timeout.map_or(0.0, |t| t.0 as f64 / 1000.0),
        webui_url: webui(f, leader),
        registered_time: seconds(f.registered_at),
        reregistered_time: seconds(f.reregistered_at),
        unregistered_time: f.unregistered_at.map_or(0.0, seconds),
        resources: (&allocated(f)).into(),
        used_resources: (&f.used).into(),
        offered_resources: (&f.offered).into(),
        capabilities: f.about.capabilities.iter().map(String::as_str).collect(),
        executors: executors.map(|(agent, e)| executor(agent, e)).collect(),
    }
}

fn executor<'a>(agent: &'a AgentId, e: &'a ExecutorRecord) -> Executor<'a> {
    Executor {
        executor_id: e.spec.executor_id.as_str(),
        framework_id: e.framework_id.as_str(),
        slave_id: agent.as_str(),
        name: &e.spec.name,
        source: e.spec.executor_id.as_str(),
        resources: (&e.spec.resources).into(),
    }
}

/// Its own addresses, or its node's.
fn addresses(t: &TaskView) -> impl Iterator<Item = IpAddr> {
    let own = t.own_ip().map(IpAddr::from).into_iter();
    let own: Vec<IpAddr> = own.chain(t.own_ip6().map(IpAddr::from)).collect();
    let node = own.is_empty().then(|| t.ip().into());
    own.into_iter().chain(node)
}

/// The executor that a framework brought along for a task.
fn own_executor(t: &TaskView) -> Option<&str> {
    let (on, _) = t.spec.executor.as_ref()?;
    (on.kind != ExecutorKind::Default).then(|| on.executor_id.as_str())
}

fn task(t: &TaskView) -> Task<'_> {
    let spec = &t.spec;
    let own = own_executor(t);
    // The container that is a task's own; those of an executor of a framework's are that one's.
    let container = own.is_none().then(|| t.id.as_str());
    let status = t.status().map(|s| Status {
        state: s.state.mesos_name(),
        timestamp: seconds(s.at),
        healthy: match s.health {
            HealthState::Unknown => None,
            HealthState::Healthy => Some(true),
            HealthState::Unhealthy => Some(false),
        },
        container_status: ContainerStatus::of(container, addresses(t), t.network()),
    });
    let ports = t.ports().iter().flat_map(|p| {
        p.protocols.iter().map(|protocol| DiscoveryPort {
            number: match p.host_port {
                0 => p.container_port.unwrap_or(0),
                port => port,
            },
            name: p.name.as_deref(),
            protocol: protocol.name(),
            labels: Labels {
                labels: p.vips.iter().enumerate().map(vip_label).collect(),
            },
        })
    });
    Task {
        id: t.id.as_str(),
        name: t.name(),
        framework_id: spec.framework_id.as_str(),
        executor_id: own.unwrap_or_default(),
        slave_id: t.agent_id().as_str(),
        role: &spec.role,
        state: t.state().mesos_name(),
        resources: (&t.resources()).into(),
        statuses: status.into_iter().collect(),
        labels: spec
            .labels
            .iter()
            .map(|(key, value)| Label {
                key: Cow::Borrowed(key),
                value: Cow::Borrowed(value),
            })
            .collect(),
        discovery: Discovery {
            visibility: "FRAMEWORK",
            name: t.discovery_name(),
            ports: DiscoveryPorts {
                ports: ports.collect(),
            },
        },
    }
}

fn vip_label((i, vip): (usize, &VipLabel)) -> Label<'static> {
    Label {
        key: format!("VIP_{i}").into(),
        value: vip_value(vip).into(),
    }
}

/// Tasks per agent and framework, one pass.
#[derive(Default)]
struct Census<'a> {
    by_agent: BTreeMap<&'a AgentId, Vec<&'a TaskView>>,
    live: BTreeMap<&'a FrameworkId, Vec<&'a TaskView>>,
    /// Oldest first.
    completed: BTreeMap<&'a FrameworkId, Vec<&'a TaskView>>,
}

impl<'a> Census<'a> {
    fn of(view: &'a ClusterView) -> Self {
        let mut out = Self::default();
        for (tasks, by_framework) in [
            (
                &mut view.tasks.values() as &mut dyn Iterator<Item = _>,
                &mut out.live,
            ),
            (&mut view.completed.iter(), &mut out.completed),
        ] {
            for t in tasks {
                let t: &TaskView = t.as_ref();
                out.by_agent.entry(t.agent_id()).or_default().push(t);
                by_framework
                    .entry(&t.spec.framework_id)
                    .or_default()
                    .push(t);
            }
        }
        out
    }

    fn of_framework(&self, id: &FrameworkId) -> impl Iterator<Item = &'a TaskView> {
        let all = [self.live.get(id), self.completed.get(id)];
        all.into_iter().flatten().flatten().copied()
    }
}

fn distinct<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let set: std::collections::BTreeSet<&str> = ids.collect();
    set.into_iter().collect()
}

fn summary<'a>(view: &'a ClusterView, leader: &'a MasterView) -> StateSummary<'a> {
    let census = Census::of(view);
    let none = Vec::new();
    let slaves = view.agents.values().map(|a| {
        let tasks = census.by_agent.get(&a.info.agent_id).unwrap_or(&none);
        SlaveSummary {
            slave: slave(a),
            counts: StateCounts::of(tasks.iter().map(|t| t.state())),
            framework_ids: distinct(tasks.iter().map(|t| t.spec.framework_id.as_str())),
        }
    });
    let frameworks = view.frameworks.values().map(|f| {
        let tasks: Vec<&TaskView> = census.of_framework(&f.id).collect();
        FrameworkSummary {
            id: f.id.as_str(),
            name: f.about.title_or(&f.name),
            hostname: &leader.hostname,
            webui_url: webui(f, leader),
            active: f.active,
            resources: (&allocated(f)).into(),
            used_resources: (&f.used).into(),
            offered_resources: (&f.offered).into(),
            counts: StateCounts::of(tasks.iter().map(|t| t.state())),
            slave_ids: distinct(tasks.iter().map(|t| t.agent_id().as_str())),
        }
    });
    StateSummary {
        hostname: &leader.hostname,
        cluster: &view.cluster,
        slaves: slaves.collect(),
        frameworks: frameworks.collect(),
    }
}
