//! Tasks as Mesos's frameworks ask for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_types::{
    AgentId, Balance, Command, DiscoveryInfo, ExecutorKind, ExecutorSpec, FrameworkId, Millis,
    Mount, MountSource, NetworkMode, Protocol, Resources, TaskId, TaskPort, TaskSpec,
};

use super::{
    checks,
    container::{Contained, contained},
    executor::{inside, on_executor},
    resources,
};
use crate::{
    convert::{ConvertError, MAX_TASK},
    marathon::volumes::target,
    proto::mesos::{self as pb, container_info, environment_variable},
};

/// Grace of tasks that name none (Mesos's default of the command executor).
const KILL_GRACE: Millis = Millis::from_secs(3);
/// Longest grace; a longer one becomes this.
const MAX_GRACE: Millis = Millis::from_secs(86_400);
/// Ports without a name are told to DNS up to so many.
const MAX_UNNAMED: u64 = 16;
/// Most ports of one task.
const MAX_PORTS: usize = 256;
/// Most variables of its environment, and labels.
const MAX_PAIRS: usize = 1024;

fn wrong(field: &str, rule: impl Into<String>) -> ConvertError {
    ConvertError::new(field, rule)
}

/// What a task needs to know of who launches it.
#[derive(Debug, Clone, Copy)]
pub struct Launcher<'a> {
    /// The framework.
    pub framework_id: &'a FrameworkId,
    /// What it said of itself: as whom its tasks run when they do not say, and what its executors are told.
    pub info: &'a pb::FrameworkInfo,
}

/// The id of a task, if it has a fit one; all that can be said of one that is refused.
pub fn id(t: &pb::TaskInfo) -> Result<TaskId, ConvertError> {
    let id = t.task_id.as_ref().map(|id| id.value.clone());
    TaskId::new(id.unwrap_or_default()).map_err(|e| wrong("task_id", e.to_string()))
}

/// The agent that a task names.
pub fn agent(t: &pb::TaskInfo) -> Result<AgentId, ConvertError> {
    let id = t.agent_id.as_ref().map(|id| id.value.clone());
    AgentId::new(id.unwrap_or_default()).map_err(|e| wrong("agent_id", e.to_string()))
}

/// Reads a task. Names of framework and role are empty: the master knows them.
pub fn task(t: &pb::TaskInfo, by: Launcher<'_>) -> Result<TaskSpec, ConvertError> {
    task_in(t, None, by)
}

/// The same of a task in a group, on its executor.
pub(super) fn task_in(
    t: &pb::TaskInfo,
    group: Option<(&Arc<ExecutorSpec>, &TaskId)>,
    by: Launcher<'_>,
) -> Result<TaskSpec, ConvertError> {
    let task_id = id(t)?;
    let len = prost::Message::encoded_len(t);
    if len > MAX_TASK {
        let rule = format!("must be a task of at most {MAX_TASK} bytes, is {len}");
        return Err(wrong("task", rule));
    }
    let on = on_executor(t, group, by)?;
    let custom = on
        .as_ref()
        .is_some_and(|on| on.spec.kind == ExecutorKind::Custom);
    let run_time = match t.max_completion_time {
        Some(d) if !custom => Some(run_time(d)?),
        _ => None,
    };
    let c = match (&t.command, custom) {
        (Some(_), true) => {
            return Err(wrong(
                "command",
                "must not be set with an executor of one's own",
            ));
        }
        (None, false) => return Err(wrong("command", "must be set, or an executor")),
        (c, _) => c.as_ref(),
    };
    let mut asked = resources::read("resources", &t.resources)?;
    let all = asked
        .sum()
        .ok_or_else(|| wrong("resources", "name a port twice"))?;
    let Contained {
        mut spec,
        env: mut variables,
        user,
    } = if custom {
        inside()
    } else {
        contained(t.container.as_ref(), c, &t.limits, &all)?
    };
    spec.limits.run_time = run_time;
    if custom {
        asked.mounts.clear();
    }
    for (volume, path, read_only) in asked.mounts {
        target(&path, spec.image.is_some())
            .map_err(|rule| wrong("resources.disk.volume.container_path", rule))?;
        spec.mounts.push(Mount {
            target: path,
            source: MountSource::Volume(volume),
            read_only,
        });
    }
    if let Some(c) = c {
        variables.extend(environment(c)?);
    }
    let plain = asked.parts.iter().all(waggle_types::ResourcePart::is_plain);
    let name = t.name.clone().filter(|n| !n.is_empty());
    let name = name.unwrap_or_else(|| task_id.to_string());
    let discovery = t.discovery.as_ref().and_then(|d| d.name.clone());
    let ports = ports(t, &all, &spec.network)?;
    let command = match c {
        Some(c) => command(c, t.container.as_ref(), spec.image.is_some())?,
        None => Command::Executor,
    };
    // What an executor of the framework's own makes of them is its business.
    let health_checks = if custom { Vec::new() } else { checks::of(t)? };
    Ok(TaskSpec {
        framework_id: by.framework_id.clone(),
        framework_name: String::new(),
        role: String::new(),
        command,
        env: variables,
        labels: labels(t)?,
        parts: if plain { Vec::new() } else { asked.parts },
        resources: all,
        discovery: DiscoveryInfo {
            name: discovery.unwrap_or_else(|| name.clone()),
        },
        health_checks,
        container: spec,
        kill_grace: grace(t.kill_policy.as_ref()).unwrap_or(KILL_GRACE),
        user: [c.and_then(|c| c.user.clone()), user, by.info.user.clone()]
            .into_iter()
            .flatten()
            .find(|u| !u.is_empty()),
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: on,
        ports,
        name,
        task_id,
    })
}

/// From start to end, rounded up to milliseconds.
fn run_time(d: pb::DurationInfo) -> Result<Millis, ConvertError> {
    let ns = u64::try_from(d.nanoseconds)
        .map_err(|_| wrong("max_completion_time", "must not be negative"))?;
    Ok(Millis(ns.div_ceil(1_000_000)))
}

/// The grace of a kill policy, if it names one.
pub fn grace(policy: Option<&pb::KillPolicy>) -> Option<Millis> {
    let ns = policy?.grace_period.as_ref()?.nanoseconds;
    let ms = u64::try_from(ns / 1_000_000).unwrap_or(0);
    Some(Millis(ms).min(MAX_GRACE))
}

fn nul(field: &str, text: &str) -> Result<(), ConvertError> {
    if text.contains('\0') {
        return Err(wrong(field, "must not hold a NUL character"));
    }
    Ok(())
}

pub(super) fn environment(c: &pb::CommandInfo) -> Result<BTreeMap<String, String>, ConvertError> {
    let all = c.environment.iter().flat_map(|e| &e.variables);
    let mut out = BTreeMap::new();
    for (i, v) in all.enumerate() {
        let field = format!("command.environment.variables[{i}]");
        if v.r#type() == environment_variable::Type::Secret || v.secret.is_some() {
            let field = format!("{field}.secret");
            return Err(wrong(&field, "is not supported yet"));
        }
        if v.name.is_empty() || v.name.contains(['=', '\0']) {
            let rule = format!("must not be empty or hold = or NUL, is {:.80?}", v.name);
            return Err(wrong(&format!("{field}.name"), rule));
        }
        let Some(value) = &v.value else {
            return Err(wrong(&format!("{field}.value"), "is missing"));
        };
        nul(&format!("{field}.value"), value)?;
        out.insert(v.name.clone(), value.clone());
        at_most("command.environment.variables", out.len())?;
    }
    Ok(out)
}

fn at_most(field: &str, n: usize) -> Result<(), ConvertError> {
    if n > MAX_PAIRS {
        return Err(wrong(field, format!("must be at most {MAX_PAIRS}, is {n}")));
    }
    Ok(())
}

fn labels(t: &pb::TaskInfo) -> Result<BTreeMap<String, String>, ConvertError> {
    let out = resources::labels(t.labels.as_ref());
    at_most("labels", out.len())?;
    Ok(out)
}

/// What to run. Without a shell Mesos's `arguments` begin with the program's own name, but for Docker's
/// containers, where they follow `value`.
pub(super) fn command(
    c: &pb::CommandInfo,
    container: Option<&pb::ContainerInfo>,
    image: bool,
) -> Result<Command, ConvertError> {
    let value = c.value.clone().filter(|v| !v.is_empty());
    for text in c.arguments.iter().chain(&value) {
        nul("command", text)?;
    }
    let docker = container.is_some_and(|c| c.r#type == Some(container_info::Type::Docker.into()));
    Ok(match (c.shell(), value) {
        (true, Some(text)) => Command::Shell(text),
        (true, None) => return Err(wrong("command.value", "must be set with shell")),
        (false, Some(program)) => {
            let skip = usize::from(!docker);
            let rest = c.arguments.iter().skip(skip).cloned();
            Command::Argv(std::iter::once(program).chain(rest).collect())
        }
        (false, None) if image => {
            let skip = usize::from(!docker);
            Command::Image(c.arguments.iter().skip(skip).cloned().collect())
        }
        (false, None) => {
            return Err(wrong(
                "command.value",
                "must be set where there is no image",
            ));
        }
    })
}

/// Ports as mapped, as discovery names them, else those among the resources.
fn ports(
    t: &pb::TaskInfo,
    resources: &Resources,
    network: &NetworkMode,
) -> Result<Vec<TaskPort>, ConvertError> {
    let mut out: Vec<TaskPort> = Vec::new();
    let docker = t.container.iter().filter_map(|c| c.docker.as_ref());
    let networks = t.container.iter().flat_map(|c| &c.network_infos);
    let mappings = docker
        .flat_map(|d| &d.port_mappings)
        .chain(networks.flat_map(|n| &n.port_mappings));
    for (i, m) in mappings.enumerate() {
        let field = format!("container.port_mappings[{i}]");
        let port = |p: Option<u32>, name: &str| {
            u16::try_from(p.unwrap_or(0))
                .map_err(|_| wrong(&format!("{field}.{name}"), "must be below 65536"))
        };
        let host_port = port(m.host_port, "host_port")?;
        let inside = port(m.container_port, "container_port")?;
        if host_port != 0 && !resources.ports.contains(host_port) {
            let rule = format!("must be among the task's ports, is {host_port}");
            return Err(wrong(&format!("{field}.host_port"), rule));
        }
        if *network == NetworkMode::Host {
            continue;
        }
        out.push(TaskPort {
            container_port: Some(inside),
            ..port_of(host_port, m.protocol.as_deref(), &field)?
        });
    }
    let named = t.discovery.iter().filter_map(|d| d.ports.as_ref());
    for (i, p) in named.flat_map(|p| &p.ports).enumerate() {
        let field = format!("discovery.ports.ports[{i}]");
        let number = u16::try_from(p.number.unwrap_or(0))
            .map_err(|_| wrong(&format!("{field}.number"), "must be below 65536"))?;
        let of = |o: &&mut TaskPort| o.host_port == number || o.container_port == Some(number);
        if let Some(mapped) = out.iter_mut().find(of) {
            mapped.name.clone_from(&p.name);
            mapped.metrics = metrics(p);
        } else if resources.ports.contains(number) && *network == NetworkMode::Host {
            out.push(TaskPort {
                name: p.name.clone(),
                metrics: metrics(p),
                ..port_of(number, p.protocol.as_deref(), &field)?
            });
        }
    }
    if out.is_empty() && *network == NetworkMode::Host && resources.ports.len() <= MAX_UNNAMED {
        let each = resources
            .ports
            .ranges()
            .iter()
            .flat_map(|r| r.begin..=r.end);
        for p in each {
            out.push(port_of(p, None, "resources")?);
        }
    }
    let mut seen = BTreeSet::new();
    out.retain(|p| seen.insert((p.host_port, p.container_port)));
    if out.len() > MAX_PORTS {
        let rule = format!("must be at most {MAX_PORTS}, is {}", out.len());
        return Err(wrong("ports", rule));
    }
    Ok(out)
}

fn port_of(host_port: u16, protocol: Option<&str>, field: &str) -> Result<TaskPort, ConvertError> {
    let protocols = match protocol.map(str::to_ascii_lowercase).as_deref() {
        Some("udp") => vec![Protocol::Udp],
        Some("tcp,udp" | "udp,tcp") | None => vec![Protocol::Tcp, Protocol::Udp],
        // `http` and the like are TCP.
        Some(p) if p.len() <= 16 => vec![Protocol::Tcp],
        Some(p) => {
            let rule = format!("must be a protocol, is {p:.80?}");
            return Err(wrong(&format!("{field}.protocol"), rule));
        }
    };
    Ok(TaskPort {
        name: None,
        host_port,
        container_port: None,
        protocols,
        vips: Vec::new(),
        balance: Balance::default(),
        metrics: None,
    })
}

/// What a port's labels say of its metrics.
fn metrics(port: &pb::Port) -> Option<String> {
    let labels = port.labels.iter().flat_map(|l| &l.labels);
    let pairs = labels.map(|l| (l.key.clone(), l.value.clone().unwrap_or_default()));
    TaskPort::metrics_of(&pairs.collect())
}

#[cfg(test)]
mod tests;
