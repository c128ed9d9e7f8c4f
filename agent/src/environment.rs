//! A task's command, environment and user.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, path::Path};

use nix::unistd::{Uid, User, getgrouplist};
use waggle_telemetry_pipeline::service_name;
use waggle_types::{Command, TaskSpec, TraceContext};

use crate::{
    executors,
    runtime::{NodeFacts, SANDBOX},
    shim::UserIds,
};

/// Program and arguments.
pub fn argv(command: &Command) -> Vec<String> {
    match command {
        Command::Shell(text) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()],
        Command::Argv(argv) | Command::Image(argv) => argv.clone(),
        Command::Executor => Vec::new(),
    }
}

/// The whole environment of a plain process: the agent's own variables (CONTRACTS 1.4), then the task's, which win.
pub fn environment(
    spec: &TaskSpec,
    node: &NodeFacts,
    sandbox: &Path,
    trace: Option<TraceContext>,
) -> BTreeMap<String, String> {
    let inside = sandbox.display().to_string();
    let mut env = BTreeMap::from([
        (
            "PATH".to_owned(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
        ("HOME".to_owned(), inside.clone()),
    ]);
    env.extend(variables(spec, node, sandbox, &inside, None, trace));
    env.extend(spec.env.clone());
    env
}

/// The agent's own variables of a task with an image; `ip` is its address where it has one of its own.
pub fn in_container(
    spec: &TaskSpec,
    node: &NodeFacts,
    sandbox: &Path,
    ip: Option<IpAddr>,
    trace: Option<TraceContext>,
) -> BTreeMap<String, String> {
    variables(spec, node, sandbox, SANDBOX, ip, trace)
}

fn variables(
    spec: &TaskSpec,
    node: &NodeFacts,
    sandbox: &Path,
    inside: &str,
    ip: Option<IpAddr>,
    trace: Option<TraceContext>,
) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = [
        ("MESOS_FRAMEWORK_ID", spec.framework_id.to_string()),
        ("MESOS_EXECUTOR_ID", spec.task_id.to_string()),
        ("MESOS_TASK_ID", spec.task_id.to_string()),
        ("MESOS_SLAVE_ID", node.agent_id.to_string()),
        ("MESOS_DIRECTORY", sandbox.display().to_string()),
        ("MESOS_SANDBOX", inside.to_owned()),
        ("MESOS_CHECKPOINT", "1".to_owned()),
        ("MESOS_ALLOCATION_ROLE", spec.role.clone()),
        (
            "MESOS_CONTAINER_IP",
            ip.unwrap_or(node.ip.into()).to_string(),
        ),
        ("LIBPROCESS_IP", ip.unwrap_or(node.ip.into()).to_string()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect();
    if let Some(more) = executors::variables(spec, node) {
        // It is no task.
        env.remove("MESOS_TASK_ID");
        env.extend(more);
    }
    if let Some(port) = node.ports.statsd {
        env.insert("STATSD_UDP_HOST".to_owned(), node.ip.to_string());
        env.insert("STATSD_UDP_PORT".to_owned(), port.to_string());
    }
    if let Some(port) = node.ports.otlp {
        env.insert(
            "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(),
            format!("http://{}:{port}", node.ip),
        );
        env.insert("OTEL_RESOURCE_ATTRIBUTES".to_owned(), who(spec, node));
    }
    if let Some(trace) = trace {
        env.insert("TRACEPARENT".to_owned(), trace.to_string());
    }
    env
}

/// What a task's own telemetry says of it: the same as what the node says, as far as that is known before it runs.
fn who(spec: &TaskSpec, node: &NodeFacts) -> String {
    let service = service_name(&spec.service, &spec.name);
    let all = [
        ("service.name", service.as_str()),
        ("service.namespace", &spec.framework_name),
        ("service.instance.id", spec.task_id.as_str()),
        ("service.version", &spec.service_version),
        ("waggle.cluster.name", &node.cluster),
        ("waggle.task.id", spec.task_id.as_str()),
        ("waggle.agent.id", node.agent_id.as_str()),
    ];
    let said = all.iter().filter(|(_, v)| !v.is_empty());
    let said: Vec<String> = said.map(|(k, v)| format!("{k}={}", escaped(v))).collect();
    said.join(",")
}

/// As in W3C baggage, which these values are written like: what stands for itself, and the rest by percent.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for b in value.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~/:@*".contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

/// The user to run as; `None` keeps the agent's. The error names the field and the rule.
pub fn user(name: Option<&str>) -> Result<Option<UserIds>, String> {
    let Some(name) = name else { return Ok(None) };
    let user = match User::from_name(name) {
        Ok(Some(user)) => user,
        Ok(None) => return Err(format!("user: {name:?} does not exist on this node")),
        Err(e) => return Err(format!("user: failed to look up {name:?}: {e}")),
    };
    if user.uid == Uid::effective() {
        return Ok(None);
    }
    let c_name = std::ffi::CString::new(name).map_err(|e| format!("user: {e}"))?;
    let groups = getgrouplist(&c_name, user.gid)
        .map_err(|e| format!("user: failed to list the groups of {name:?}: {e}"))?;
    Ok(Some(UserIds {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        groups: groups.iter().map(|g| g.as_raw()).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_separates_is_escaped() {
        assert_eq!(escaped("a/b-1.c"), "a/b-1.c");
        assert_eq!(escaped("a,b=c d\u{e9}%"), "a%2Cb%3Dc%20d%C3%A9%25");
    }

    #[test]
    fn users_are_resolved() {
        assert_eq!(user(None), Ok(None));
        assert!(
            user(Some("no-such-user"))
                .unwrap_err()
                .starts_with("user: ")
        );
    }
}
