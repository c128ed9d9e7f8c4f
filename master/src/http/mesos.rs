//! Mesos's operator endpoints, with or without `/master` in front and `.json` behind.

use std::collections::BTreeMap;

use std::net::IpAddr;

use axum::{
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use waggle_api::{
    error::{ApiError, ErrorCode},
    mesos::{
        ContainerStatus, Discovery, DiscoveryPort, DiscoveryPorts, Framework, FrameworkSummary,
        Frameworks, Label, Labels, LeaderInfo, MESOS_VERSION, Slave, SlaveSummary, Slaves, State,
        StateCounts, StateSummary, Status, Task, Tasks, Version, discovery::vip_value, seconds,
    },
};
use waggle_types::{
    AgentId, ExecutorKind, FrameworkId, HealthState, Resources, TaskState, VipLabel,
};

use super::{
    Api,
    operator::reserved_by_role,
    request::Call,
    respond::{Fail, ok},
};
use crate::view::{AgentView, ClusterView, FrameworkView, MasterView, TaskView};

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
        ["state"] => ok(&state(&view, leader)),
        ["state-summary"] => ok(&summary(&view, leader)),
        ["slaves"] => ok(&Slaves {
            slaves: view.agents.values().map(|a| slave(a)).collect(),
            recovered_slaves: Vec::new(),
        }),
        ["frameworks"] => ok(&Frameworks {
            frameworks: frameworks(&view, leader),
            completed_frameworks: completed(&view, leader),
            unregistered_frameworks: Vec::new(),
        }),
        ["tasks"] => {
            let mut tasks: Vec<&TaskView> = view.tasks.values().map(AsRef::as_ref).collect();
            tasks.extend(view.completed.iter().map(AsRef::as_ref));
            tasks.sort_by_key(|t| std::cmp::Reverse(t.staged_at));
            ok(&Tasks {
                tasks: tasks.into_iter().map(task).collect(),
            })
        }
        _ => ok(&metrics(&view)),
    })
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

fn state(view: &ClusterView, leader: &MasterView) -> State {
    let count = |reachable| {
        let matching = view.agents.values().filter(|a| a.reachable == reachable);
        matching.count() as u64
    };
    State {
        version: MESOS_VERSION.into(),
        id: leader.id.clone(),
        pid: pid(leader),
        hostname: leader.hostname.clone(),
        cluster: view.cluster.clone(),
        start_time: seconds(view.started_at),
        elected_time: seconds(view.started_at),
        leader: pid(leader),
        leader_info: Some(LeaderInfo {
            id: leader.id.clone(),
            pid: pid(leader),
            hostname: leader.hostname.clone(),
            port: leader.mesos_port,
        }),
        activated_slaves: count(true),
        deactivated_slaves: 0,
        unreachable_slaves: count(false),
        flags: BTreeMap::new(),
        slaves: view.agents.values().map(|a| slave(a)).collect(),
        recovered_slaves: Vec::new(),
        frameworks: frameworks(view, leader),
        completed_frameworks: completed(view, leader),
        unregistered_frameworks: Vec::new(),
        orphan_tasks: Vec::new(),
    }
}

fn slave(a: &AgentView) -> Slave {
    let (free, reserved) = reserved_by_role(a);
    Slave {
        id: a.info.agent_id.to_string(),
        pid: format!("slave(1)@{}:{}", a.info.ip, a.info.http_port),
        hostname: a.info.hostname.clone(),
        port: a.info.http_port,
        active: a.reachable,
        deactivated: a.mode != crate::view::AgentMode::Active,
        version: MESOS_VERSION.into(),
        registered_time: seconds(a.registered_at),
        reregistered_time: seconds(a.reregistered_at),
        attributes: a.info.attributes.clone(),
        unreserved_resources: (&free).into(),
        resources: (&a.info.total).into(),
        used_resources: (&a.used).into(),
        offered_resources: (&a.offered).into(),
        reserved_resources: reserved
            .iter()
            .map(|(role, r)| (role.clone(), r.into()))
            .collect(),
        capabilities: Vec::new(),
    }
}

fn frameworks(view: &ClusterView, leader: &MasterView) -> Vec<Framework> {
    let census = Census::of(view);
    let all = view.frameworks.values();
    all.map(|f| framework(&census, leader, f)).collect()
}

/// Removed ones, newest first, as Mesos has them.
fn completed(view: &ClusterView, leader: &MasterView) -> Vec<Framework> {
    let census = Census::of(view);
    let all = view.completed_frameworks.iter().rev();
    all.map(|f| framework(&census, leader, f)).collect()
}

/// Sum of used and offered; ports that are in both (they never are) would only be shown once.
fn allocated(f: &FrameworkView) -> Resources {
    let sum = f.used.checked_add(&f.offered);
    sum.unwrap_or_else(|| f.used.clone())
}

/// Where people find a framework: the built-in one is Marathon.
fn webui(f: &FrameworkView, leader: &MasterView) -> String {
    if f.failover_timeout.is_some() {
        return f.about.webui_url.clone();
    }
    format!("http://{}:{}", leader.ip, leader.marathon_port)
}

fn framework(census: &Census<'_>, leader: &MasterView, f: &FrameworkView) -> Framework {
    let of = |all: &BTreeMap<&FrameworkId, Vec<_>>| all.get(&f.id).cloned().unwrap_or_default();
    let live: Vec<&TaskView> = of(&census.live);
    let (unreachable, tasks): (Vec<_>, Vec<_>) = live
        .into_iter()
        .partition(|t| t.state() == TaskState::Unreachable);
    let completed = of(&census.completed).into_iter().rev();
    Framework {
        id: f.id.to_string(),
        name: f.about.title_or(&f.name).to_owned(),
        pid: String::new(),
        hostname: if f.about.hostname.is_empty() {
            leader.hostname.clone()
        } else {
            f.about.hostname.clone()
        },
        user: if f.about.user.is_empty() {
            "root".into()
        } else {
            f.about.user.clone()
        },
        role: f.role().to_owned(),
        roles: f.roles.iter().map(|r| r.role.clone()).collect(),
        active: f.active,
        connected: f.connected,
        recovered: false,
        checkpoint: true,
        webui_url: webui(f, leader),
        registered_time: seconds(f.registered_at),
        unregistered_time: f.unregistered_at.map_or(0.0, seconds),
        resources: (&allocated(f)).into(),
        used_resources: (&f.used).into(),
        offered_resources: (&f.offered).into(),
        capabilities: f.about.capabilities.iter().cloned().collect(),
        tasks: tasks.into_iter().map(task).collect(),
        unreachable_tasks: unreachable.into_iter().map(task).collect(),
        completed_tasks: completed.map(task).collect(),
        executors: Vec::new(),
    }
}

/// Its own addresses, or its node's.
fn addresses(t: &TaskView) -> impl Iterator<Item = IpAddr> {
    let own = t.own_ip().map(IpAddr::from).into_iter();
    let own: Vec<IpAddr> = own.chain(t.own_ip6().map(IpAddr::from)).collect();
    let node = own.is_empty().then(|| t.ip().into());
    own.into_iter().chain(node)
}

/// The container that is a task's own; those of an executor of a framework's are that one's.
fn container(t: &TaskView) -> Option<String> {
    let on = t.spec.executor.as_ref();
    let own = on.is_none_or(|(on, _)| on.kind == ExecutorKind::Default);
    own.then(|| t.id.to_string())
}

fn task(t: &TaskView) -> Task {
    let spec = &t.spec;
    let label = |(key, value): (&String, &String)| Label {
        key: key.clone(),
        value: value.clone(),
    };
    let status = t.status().map(|s| Status {
        state: s.state.mesos_name().into(),
        timestamp: seconds(s.at),
        healthy: match s.health {
            HealthState::Unknown => None,
            HealthState::Healthy => Some(true),
            HealthState::Unhealthy => Some(false),
        },
        container_status: ContainerStatus::of(addresses(t), t.network()).called(container(t)),
    });
    let ports = t.ports().iter().flat_map(|p| {
        p.protocols.iter().map(|protocol| DiscoveryPort {
            number: match p.host_port {
                0 => p.container_port.unwrap_or(0),
                port => port,
            },
            name: p.name.clone(),
            protocol: protocol.name().into(),
            labels: Labels {
                labels: p.vips.iter().enumerate().map(vip_label).collect(),
            },
        })
    });
    Task {
        id: t.id.to_string(),
        name: t.name().to_owned(),
        framework_id: spec.framework_id.to_string(),
        executor_id: String::new(),
        slave_id: t.agent_id().to_string(),
        role: spec.role.clone(),
        state: t.state().mesos_name().into(),
        resources: (&t.resources()).into(),
        statuses: status.into_iter().collect(),
        labels: spec.labels.iter().map(label).collect(),
        discovery: Discovery {
            visibility: "FRAMEWORK".into(),
            name: t.discovery_name().to_owned(),
            ports: DiscoveryPorts {
                ports: ports.collect(),
            },
        },
    }
}

fn vip_label((i, vip): (usize, &VipLabel)) -> Label {
    Label {
        key: format!("VIP_{i}"),
        value: vip_value(vip),
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

fn distinct<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<String> {
    let set: std::collections::BTreeSet<&str> = ids.collect();
    set.into_iter().map(ToOwned::to_owned).collect()
}

fn summary(view: &ClusterView, leader: &MasterView) -> StateSummary {
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
            id: f.id.to_string(),
            name: f.about.title_or(&f.name).to_owned(),
            hostname: leader.hostname.clone(),
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
        hostname: leader.hostname.clone(),
        cluster: view.cluster.clone(),
        slaves: slaves.collect(),
        frameworks: frameworks.collect(),
    }
}

/// The gauges that dashboards of Mesos read first.
pub(super) fn metrics(view: &ClusterView) -> serde_json::Value {
    let tasks = |state| view.tasks.values().filter(|t| t.state() == state).count();
    let agents = |reachable| {
        let matching = view.agents.values().filter(|a| a.reachable == reachable);
        matching.count()
    };
    json!({
        "master/elected": 1,
        "master/slaves_active": agents(true),
        "master/slaves_connected": view.agents.values().filter(|a| a.connected).count(),
        "master/slaves_unreachable": agents(false),
        "master/frameworks_active": view.frameworks.values().filter(|f| f.active).count(),
        "master/outstanding_offers": view.offers.len(),
        "master/tasks_staging": tasks(TaskState::Staging),
        "master/tasks_starting": tasks(TaskState::Starting),
        "master/tasks_running": tasks(TaskState::Running),
        "master/tasks_killing": tasks(TaskState::Killing),
        "master/tasks_unreachable": tasks(TaskState::Unreachable),
        "master/uptime_secs": view.at.since(view.started_at).0 / 1000,
    })
}
