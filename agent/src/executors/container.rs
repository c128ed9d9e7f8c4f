//! An executor's container, as the task that it is to all that has to do with processes. Pure.

use std::{collections::BTreeMap, sync::Arc};

use waggle_types::{
    Command, DiscoveryInfo, ExecutorKind, ExecutorRecord, Millis, OnExecutor, Resources, TaskId,
    TaskSpec,
};

use crate::runtime::NodeFacts;

/// SIGTERM to SIGKILL, once an executor's own grace is over.
const KILL_GRACE: Millis = Millis::from_secs(1);

/// What is started for an executor. `resources` are its own and those of the tasks that it begins with.
pub fn spec(record: &ExecutorRecord, container: &TaskId, resources: Resources) -> TaskSpec {
    let e = &record.spec;
    TaskSpec {
        task_id: container.clone(),
        framework_id: record.framework_id.clone(),
        framework_name: record.framework_name.clone(),
        role: record.role.clone(),
        name: e.executor_id.to_string(),
        command: e.command.clone(),
        env: e.env.clone(),
        labels: e.labels.clone(),
        resources,
        parts: Vec::new(),
        ports: Vec::new(),
        discovery: DiscoveryInfo {
            name: e.executor_id.to_string(),
        },
        health_checks: Vec::new(),
        container: e.container.clone(),
        kill_grace: KILL_GRACE,
        user: e.user.clone(),
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: Some(OnExecutor {
            spec: Arc::clone(e),
            starts: true,
            group: None,
            n_group: 0,
            info: Vec::new(),
        }),
    }
}

/// Whether a spec is an executor's container, and not a task of one.
pub(crate) fn is_container(spec: &TaskSpec) -> bool {
    let on = spec.executor.as_ref();
    on.is_some_and(|on| on.spec.kind == ExecutorKind::Custom) && spec.command != Command::Executor
}

/// The executor whose container a spec is.
pub(crate) fn record(spec: &TaskSpec) -> Option<ExecutorRecord> {
    let on = spec.executor.as_ref().filter(|_| is_container(spec))?;
    Some(ExecutorRecord {
        framework_id: spec.framework_id.clone(),
        framework_name: spec.framework_name.clone(),
        role: spec.role.clone(),
        spec: Arc::clone(&on.spec),
    })
}

/// What an executor's environment says beside what every task's does (Mesos's `executorEnvironment`); `None` for a
/// task.
pub(crate) fn variables(spec: &TaskSpec, node: &NodeFacts) -> Option<BTreeMap<String, String>> {
    let on = spec.executor.as_ref().filter(|_| is_container(spec))?;
    let at = format!("{}:{}", node.ip, node.ports.http);
    let mut out = vec![
        ("MESOS_EXECUTOR_ID", on.spec.executor_id.to_string()),
        ("MESOS_AGENT_ENDPOINT", at.clone()),
        ("MESOS_SLAVE_PID", format!("slave(1)@{at}")),
        ("MESOS_CHECKPOINT", u8::from(on.spec.checkpoint).to_string()),
        (
            "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD",
            mesos_duration(on.spec.shutdown_grace),
        ),
        ("MESOS_HTTP_COMMAND_EXECUTOR", "0".to_owned()),
        ("LIBPROCESS_PORT", "0".to_owned()),
    ];
    if on.spec.checkpoint {
        out.push(("MESOS_RECOVERY_TIMEOUT", "15mins".to_owned()));
        out.push(("MESOS_SUBSCRIPTION_BACKOFF_MAX", "2secs".to_owned()));
    }
    Some(out.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

/// As Mesos spells durations: `5secs`, `15mins`, `500ms`. Its clients take nothing else.
pub fn mesos_duration(d: Millis) -> String {
    const UNITS: [(u64, &str); 6] = [
        (7 * 86_400_000, "weeks"),
        (86_400_000, "days"),
        (3_600_000, "hrs"),
        (60_000, "mins"),
        (1000, "secs"),
        (1, "ms"),
    ];
    let whole = |(n, _): &&(u64, &str)| d.0 >= *n && d.0.is_multiple_of(*n);
    let unit = UNITS.iter().find(whole).unwrap_or(&UNITS[4]);
    format!("{}{}", d.0 / unit.0, unit.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spelled_as_mesos_does() {
        for (ms, want) in [
            (0, "0secs"),
            (500, "500ms"),
            (1500, "1500ms"),
            (5000, "5secs"),
            (90_000, "90secs"),
            (900_000, "15mins"),
            (7_200_000, "2hrs"),
            (86_400_000, "1days"),
        ] {
            assert_eq!(mesos_duration(Millis(ms)), want);
        }
    }
}
