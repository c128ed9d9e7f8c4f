//! How pods are: instances, containers, and what ended last.

use std::{cmp::Reverse, collections::BTreeMap};

use waggle_api::marathon::{
    Condition, ContainerEnd, ContainerEndpoint, ContainerStatus, EndedContainer, EndedInstance,
    NetworkStatus, PodInstanceState, PodInstanceStatus, PodState, PodStatus, ResourcesJson,
    local_volumes, pod_json,
};
use waggle_types::{
    CheckPurpose, HealthCheck, HealthProbe, HealthState, NetworkMode, PodSpec, Resources,
    ServiceVersion, TaskState, UnixMillis,
};

use crate::view::{ClusterView, InstanceView, ServiceView, TaskView};

/// Ended instances that are told of.
const MAX_ENDED: usize = 10;

pub(super) fn all(view: &ClusterView) -> Vec<PodStatus> {
    view.pods().map(|s| one(view, s)).collect()
}

pub(super) fn one(view: &ClusterView, s: &ServiceView) -> PodStatus {
    let none = PodSpec::default();
    let pod = s.spec.pod.as_deref().unwrap_or(&none);
    let instances: Vec<PodInstanceStatus> = s
        .instances
        .iter()
        .map(|i| instance(view, s, pod, i))
        .collect();
    let stable = |i: &&PodInstanceStatus| i.status == PodInstanceState::Stable;
    let n_stable = instances.iter().filter(stable).count();
    let is_stable = n_stable >= s.spec.instances as usize;
    let changed = instances.iter().map(|i| i.last_changed.clone()).max();
    let changed = changed.unwrap_or_else(|| s.spec.version.to_string());
    let waiting = view.queue.get(&s.spec.id);
    PodStatus {
        id: s.spec.id.to_string(),
        spec: pod_json(&s.spec).unwrap_or_default(),
        status: if is_stable {
            PodState::Stable
        } else {
            PodState::Degraded
        },
        status_since: changed.clone(),
        message: waiting.map(|q| format!("{} instances wait to be launched", q.count)),
        instances,
        termination_history: ended(view, s),
        last_updated: time(view.at),
        last_changed: changed,
    }
}

fn time(at: UnixMillis) -> String {
    ServiceVersion(at).to_string()
}

fn instance(
    view: &ClusterView,
    s: &ServiceView,
    pod: &PodSpec,
    i: &InstanceView,
) -> PodInstanceStatus {
    let tasks: Vec<&TaskView> = i
        .containers
        .iter()
        .filter_map(|id| view.tasks.get(id).map(AsRef::as_ref))
        .collect();
    // In the order of the definition, where that has not changed since.
    let place = |t: &&TaskView| {
        let name = t.id.container().unwrap_or_default();
        let at = pod.containers.iter().position(|c| c.name == name);
        at.unwrap_or(usize::MAX)
    };
    let mut sorted = tasks.clone();
    sorted.sort_by_key(place);
    let containers: Vec<ContainerStatus> = sorted.iter().map(|t| container(view, t)).collect();
    let checks = tasks.iter().flat_map(|t| &t.spec.health_checks).cloned();
    let checks: Vec<HealthCheck> = checks.collect();
    let status = match i.state {
        _ if i.stopping => PodInstanceState::Terminal,
        TaskState::Killing => PodInstanceState::Terminal,
        TaskState::Staging | TaskState::Starting => PodInstanceState::Staging,
        TaskState::Running if HealthCheck::all_pass(&checks, i.health, i.ready) => {
            PodInstanceState::Stable
        }
        _ => PodInstanceState::Degraded,
    };
    let changed = containers.iter().map(|c| c.last_changed.clone()).max();
    let changed = changed.unwrap_or_else(|| time(i.staged_at));
    let domain = view
        .agents
        .get(&i.agent_id)
        .and_then(|a| a.info.domain.as_ref());
    let network = tasks.first().and_then(|t| t.spec.container.as_ref());
    let mut sum = pod.executor.clone();
    for t in &tasks {
        sum.try_add(&t.resources());
    }
    PodInstanceStatus {
        id: i.task_id.to_string(),
        status,
        status_since: changed.clone(),
        message: None,
        conditions: Vec::new(),
        agent_hostname: Some(i.hostname.clone()),
        agent_id: Some(i.agent_id.to_string()),
        agent_region: domain.map(|d| d.region.clone()),
        agent_zone: domain.map(|d| d.zone.clone()),
        resources: ResourcesJson::from(&sum),
        networks: vec![NetworkStatus {
            name: network.and_then(|c| match &c.network {
                NetworkMode::Container(name) => Some(name.clone()),
                _ => None,
            }),
            addresses: i.ips.iter().map(ToString::to_string).collect(),
        }],
        containers,
        spec_reference: format!("/v2/pods{}::versions/{}", s.spec.id, i.version),
        local_volumes: local_volumes(&s.spec, &i.task_id),
        last_updated: time(view.at),
        last_changed: changed,
        role: s.spec.role().to_owned(),
    }
}

fn container(view: &ClusterView, t: &TaskView) -> ContainerStatus {
    let state = t.state();
    let heard = t.heard_at().unwrap_or(t.staged_at);
    let since = match (state, t.started_at()) {
        (TaskState::Running, Some(at)) => at,
        _ => heard,
    };
    let healthy = match t.health {
        HealthState::Unknown => None,
        health => Some(health == HealthState::Healthy),
    };
    let check = t
        .spec
        .health_checks
        .iter()
        .find(|c| c.purpose == CheckPurpose::Health);
    let condition = check.and(healthy).map(|healthy| Condition {
        name: "healthy".to_owned(),
        value: healthy.to_string(),
        reason: None,
        last_changed: time(heard),
        last_updated: time(heard),
    });
    let asked = check.and_then(|c| match &c.probe {
        HealthProbe::Http { port_index, .. } | HealthProbe::Tcp { port_index, .. } => {
            Some(*port_index)
        }
        HealthProbe::Command { .. } => None,
    });
    let endpoints = t
        .ports()
        .iter()
        .enumerate()
        .map(|(i, p)| ContainerEndpoint {
            name: p.name.clone().unwrap_or_default(),
            allocated_host_port: (p.host_port != 0).then_some(p.host_port),
            healthy: (asked == Some(i)).then_some(healthy == Some(true)),
        });
    let scalars: Resources = Resources {
        scalars: t.spec.quantities.scalars,
        ..Resources::default()
    };
    ContainerStatus {
        name: t.id.container().unwrap_or_default().to_owned(),
        status: state.mesos_name().to_owned(),
        status_since: time(since),
        message: Some(t.message().to_owned()).filter(|m| !m.is_empty()),
        conditions: condition.into_iter().collect(),
        container_id: t.id.to_string(),
        endpoints: endpoints.collect(),
        resources: ResourcesJson::from(&scalars),
        termination: None,
        last_updated: time(view.at),
        last_changed: time(heard),
    }
}

/// Instances that have ended, the newest first, as far as the master remembers their tasks.
fn ended(view: &ClusterView, s: &ServiceView) -> Vec<EndedInstance> {
    let mine = view.completed.iter();
    let mine = mine.filter(|t| t.spec.service == s.spec.id.as_str());
    let live = |id: &str| s.instances.iter().any(|i| i.task_id.as_str() == id);
    let mut by_instance: BTreeMap<&str, Vec<&TaskView>> = BTreeMap::new();
    for t in mine {
        let of = t.id.instance();
        if t.id.container().is_some() && !live(of) {
            by_instance.entry(of).or_default().push(t);
        }
    }
    let at = |t: &TaskView| t.heard_at().unwrap_or(t.staged_at);
    let mut all: Vec<(UnixMillis, EndedInstance)> = by_instance
        .into_iter()
        .filter_map(|(id, tasks)| {
            let end = tasks.iter().map(|t| at(t)).max()?;
            let started = tasks.iter().filter_map(|t| t.started_at()).min();
            let staged = tasks.iter().map(|t| t.staged_at).min()?;
            // What did not end with the others is why they ended.
            let why = tasks.iter().filter(|t| t.state() != TaskState::Killed);
            let why = why.min_by_key(|t| at(t)).or(tasks.first())?;
            let message = |t: &TaskView| Some(t.message().to_owned()).filter(|m| !m.is_empty());
            let container = |t: &&TaskView| EndedContainer {
                container_id: t.id.to_string(),
                last_known_state: t.state().mesos_name().to_owned(),
                termination: ContainerEnd {
                    exit_code: None,
                    message: message(t),
                },
            };
            let ended = EndedInstance {
                instance_id: id.to_owned(),
                started_at: time(started.unwrap_or(staged)),
                terminated_at: time(end),
                message: message(why),
                containers: tasks.iter().map(container).collect(),
            };
            Some((end, ended))
        })
        .collect();
    all.sort_by_key(|(at, _)| Reverse(*at));
    all.truncate(MAX_ENDED);
    all.into_iter().map(|(_, e)| e).collect()
}
