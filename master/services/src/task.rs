//! From a service's spec to a task's, and back: is this task what the spec would launch?

use std::{borrow::Cow, collections::BTreeMap};

use waggle_types::{
    ContainerSpec, DiscoveryInfo, FrameworkId, MountSource, Offer, PodContainer, ResourcePart,
    ScalarKind, ServiceSpec, TaskId, TaskPort, TaskSpec, TraceContext, sum_parts,
};

use crate::{
    matching::{is_wanted, on_agent},
    residency,
};

/// What every task of the framework shares.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub framework_id: FrameworkId,
    pub framework_name: String,
}

/// The task of one instance on an offer, of these parts of it (none: of all that nobody reserved).
pub(crate) fn build(
    spec: &ServiceSpec,
    of: &Identity,
    task_id: TaskId,
    offer: &Offer,
    how: (&[u16], Vec<ResourcePart>),
    trace: Option<TraceContext>,
) -> TaskSpec {
    let version = spec.version.to_string();
    let env = generated_env(spec, &task_id, &offer.hostname, how.0, &version);
    assemble(spec, of, (task_id, version), offer, how, env, trace)
}

/// A task as a spec says, with variables that the spec's own win over.
pub(crate) fn assemble(
    spec: &ServiceSpec,
    of: &Identity,
    (task_id, version): (TaskId, String),
    offer: &Offer,
    (host_ports, parts): (&[u16], Vec<ResourcePart>),
    mut env: BTreeMap<String, String>,
    trace: Option<TraceContext>,
) -> TaskSpec {
    let ports = spec
        .ports
        .iter()
        .zip(host_ports)
        .map(|(p, host_port)| TaskPort {
            container_port: p.mapping.map(|m| m.container_port).filter(|p| *p != 0),
            name: p.name.clone(),
            host_port: *host_port,
            protocols: p.protocols.clone(),
            vips: p.vips.clone(),
            balance: p.balance,
            metrics: TaskPort::metrics_of(&p.labels),
        })
        .collect();
    // The user's word wins.
    env.extend(spec.env.clone());
    let mut container = spec.container.clone();
    let instance = task_id.instance();
    // Of a pod they are all of it's; see `residency::pod_mounts`.
    container.mounts.extend(residency::mounts(spec, instance));
    let whole = spec.resources.clone().with_ports(on_agent(host_ports));
    let summed = sum_parts(&parts).filter(|_| !parts.is_empty());
    TaskSpec {
        container,
        task_id,
        framework_id: of.framework_id.clone(),
        framework_name: of.framework_name.clone(),
        role: offer.role.clone(),
        name: spec.id.discovery_name(),
        command: spec.command.clone(),
        env,
        labels: spec.labels.clone(),
        resources: summed.unwrap_or(whole),
        ports,
        parts,
        discovery: DiscoveryInfo {
            name: spec.id.discovery_name(),
        },
        health_checks: spec.health_checks.clone(),
        kill_grace: spec.kill_grace,
        user: spec.user.clone(),
        service: spec.id.to_string(),
        service_version: version,
        trace,
        executor: None,
    }
}

/// What Marathon tells every task: of apps, and of containers of pods. `of` is what it says resources and image of.
fn common_env(
    spec: &ServiceSpec,
    of: &str,
    task_id: &TaskId,
    hostname: &str,
    version: &str,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let mut set = |k: String, v: String| {
        env.insert(k, v);
    };
    set("HOST".into(), hostname.into());
    set("MESOS_TASK_ID".into(), task_id.to_string());
    set("MARATHON_APP_ID".into(), spec.id.to_string());
    set("MARATHON_APP_VERSION".into(), version.into());
    for (kind, name) in [
        (ScalarKind::Cpus, "CPUS"),
        (ScalarKind::Mem, "MEM"),
        (ScalarKind::Disk, "DISK"),
        (ScalarKind::Gpus, "GPUS"),
    ] {
        let q = spec.resources.get(kind);
        // Marathon prints doubles, and GPUs as a whole number.
        let text = match kind {
            ScalarKind::Gpus => format!("{}", q.0 / 1000),
            _ => format!("{:?}", q.to_f64()),
        };
        set(format!("MARATHON_{of}_RESOURCE_{name}"), text);
    }
    let mut keys = Vec::new();
    for (k, v) in &spec.labels {
        let key = env_name(k);
        set(format!("MARATHON_APP_LABEL_{key}"), v.clone());
        keys.push(key);
    }
    set("MARATHON_APP_LABELS".into(), keys.join(" "));
    if let Some(image) = &spec.container.image {
        let key = format!("MARATHON_{of}_DOCKER_IMAGE");
        set(key, image.reference.clone());
    }
    env
}

/// What Marathon tells a container of a pod, beside the pod's endpoints.
pub(crate) fn container_env(
    pod: &ServiceSpec,
    container: &PodContainer,
    task_id: &TaskId,
    hostname: &str,
) -> BTreeMap<String, String> {
    let version = pod.version.to_string();
    let mut env = common_env(&container.run, "CONTAINER", task_id, hostname, &version);
    env.insert("MARATHON_CONTAINER_ID".into(), container.name.clone());
    env
}

/// Where each container finds the endpoints of all of its pod: `ENDPOINT_` is the port to listen on, `EP_HOST_` that
/// of the node, `EP_CONTAINER_` the one inside, `EP_VIP_` the VIPs.
pub(crate) fn endpoints_env(pod: &ServiceSpec, host_ports: &[u16]) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (port, host_port) in pod.ports.iter().zip(host_ports) {
        let Some(name) = port.name.as_deref().map(env_name) else {
            continue;
        };
        let inside = port.mapping.map_or(0, |m| m.container_port);
        let listens = if inside == 0 { *host_port } else { inside };
        env.insert(format!("ENDPOINT_{name}"), listens.to_string());
        env.insert(format!("EP_CONTAINER_{name}"), listens.to_string());
        if *host_port != 0 {
            env.insert(format!("EP_HOST_{name}"), host_port.to_string());
        }
        if !port.vips.is_empty() {
            let vips: Vec<String> = port.vips.iter().map(ToString::to_string).collect();
            env.insert(format!("EP_VIP_{name}"), vips.join(","));
        }
    }
    env
}

/// Marathon's task environment (CONTRACTS section 2).
fn generated_env(
    spec: &ServiceSpec,
    task_id: &TaskId,
    hostname: &str,
    host_ports: &[u16],
    version: &str,
) -> BTreeMap<String, String> {
    let mut env = common_env(spec, "APP", task_id, hostname, version);
    let mut set = |k: String, v: String| {
        env.insert(k, v);
    };
    let mut all = Vec::with_capacity(host_ports.len());
    for (i, (definition, host_port)) in spec.ports.iter().zip(host_ports).enumerate() {
        // What a peer dials, but for a port that is reached inside only: there is no other then.
        let (asked, port) = match definition.mapping {
            Some(m) if *host_port == 0 => (m.container_port, m.container_port),
            Some(m) => (m.container_port, *host_port),
            None => (definition.port, *host_port),
        };
        let text = port.to_string();
        if i == 0 {
            set("PORT".into(), text.clone());
        }
        set(format!("PORT{i}"), text.clone());
        // By number: of a fixed one what it became, else of what it became.
        let asked = if asked == 0 { port } else { asked };
        set(format!("PORT_{asked}"), text.clone());
        if let Some(name) = &definition.name {
            set(format!("PORT_{}", env_name(name)), text.clone());
        }
        all.push(text);
    }
    if !all.is_empty() {
        set("PORTS".into(), all.join(","));
    }
    env
}

/// Upper case; what cannot be in a shell variable's name becomes `_`.
fn env_name(s: &str) -> String {
    s.chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
            _ => '_',
        })
        .collect()
}

/// Whether a variable is one that an endpoint of a pod makes.
fn is_of_endpoint(pod: &ServiceSpec, key: &str) -> bool {
    let made = ["ENDPOINT_", "EP_CONTAINER_", "EP_HOST_", "EP_VIP_"];
    let mut names = pod.ports.iter().filter_map(|p| p.name.as_deref());
    names.any(|n| {
        let name = env_name(n);
        made.iter()
            .any(|prefix| key.strip_prefix(prefix) == Some(name.as_str()))
    })
}

fn is_generated(key: &str) -> bool {
    let port = |rest: &str| rest.starts_with('_') || rest.bytes().all(|b| b.is_ascii_digit());
    matches!(key, "HOST" | "PORTS" | "MESOS_TASK_ID")
        || key.starts_with("MARATHON_APP_")
        || key.starts_with("MARATHON_CONTAINER_")
        || key.strip_prefix("PORT").is_some_and(port)
}

/// Persistent volumes are mounted beside what the definition's container says.
fn same_container(
    of: Option<(&ServiceSpec, &PodContainer)>,
    spec: &ServiceSpec,
    task: &ContainerSpec,
) -> bool {
    let mut rest = Cow::Borrowed(task);
    let is_volume = |m: &waggle_types::Mount| matches!(m.source, MountSource::Volume(_));
    if task.mounts.iter().any(is_volume) {
        rest.to_mut().mounts.retain(|m| !is_volume(m));
    }
    if of.is_some() && rest.pod != spec.container.pod {
        // The pod's name is its instance's.
        rest.to_mut().pod.clone_from(&spec.container.pod);
    }
    spec.container == *rest && residency::same_volumes(spec, of, &task.mounts)
}

/// Whether a running task is what the spec would launch now, but for its id, host ports and version.
///
/// Read off the task itself, so that it needs no memory and holds after a restart. Scaling, and changes of
/// rolling rules, backoff and unreachable strategy, leave tasks as they are; a change of constraints can't be read
/// off them ([`crate::ServiceChange::replaces`]).
pub fn is_current(spec: &ServiceSpec, task: &TaskSpec) -> bool {
    is_current_of(None, spec, task)
}

/// The same of a container of a pod, whose own part of it `spec` is.
pub(crate) fn is_current_of(
    of: Option<(&ServiceSpec, &PodContainer)>,
    spec: &ServiceSpec,
    task: &TaskSpec,
) -> bool {
    let is_made = |k: &str| is_generated(k) || of.is_some_and(|(pod, _)| is_of_endpoint(pod, k));
    // A task without the value of a secret is not what the definition asks for.
    let secrets_there =
        spec.secrets.files.is_empty() && spec.secrets.env.keys().all(|k| task.env.contains_key(k));
    let env_same = spec.env.iter().all(|(k, v)| task.env.get(k) == Some(v))
        && task
            .env
            .keys()
            .all(|k| spec.env.contains_key(k) || spec.secrets.env.contains_key(k) || is_made(k));
    let ports_same = spec.ports.len() == task.ports.len()
        && spec.ports.iter().zip(&task.ports).all(|(want, is)| {
            want.name == is.name
                && want.mapping.map(|m| m.container_port).filter(|p| *p != 0) == is.container_port
                && want.protocols == is.protocols
                && want.vips == is.vips
                && TaskPort::metrics_of(&want.labels) == is.metrics
                && is_wanted(spec, want, is.host_port)
        });
    env_same
        && secrets_there
        && ports_same
        && spec.command == task.command
        && spec.resources.scalars == task.resources.scalars
        && spec.labels == task.labels
        && spec.health_checks == task.health_checks
        && same_container(of, spec, &task.container)
        && spec.role() == task.role
        && spec.kill_grace == task.kill_grace
        && spec.user == task.user
}
