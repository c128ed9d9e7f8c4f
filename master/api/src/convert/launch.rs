//! Tasks as frameworks ask for them.

use std::collections::BTreeMap;

use waggle_types::{
    CheckPurpose, Command, ExecutorSpec, FrameworkId, HealthCheck, Millis, NetworkMode, TaskId,
    TaskSpec,
};

use super::size::check_task;
use super::{ConvertError, MAX_ITEMS, at_most, each, executor, id};
use crate::proto::{framework as pb, session};

/// Most health checks of one task.
const MAX_CHECKS: usize = 64;
/// Grace of tasks that name none.
const KILL_GRACE: Millis = Millis::from_secs(3);

/// Tasks to launch; `field` names them in an error. Framework name and role are empty: the master knows them.
pub fn launches(
    field: &str,
    tasks: Vec<pb::TaskInfo>,
    framework_id: &FrameworkId,
    traceparent: &str,
) -> Result<Vec<TaskSpec>, ConvertError> {
    at_most(field, tasks.len(), MAX_ITEMS)?;
    each(field, tasks, |t| launch(t, framework_id, traceparent, None))
}

/// Tasks of one group, of one executor; the same otherwise.
pub fn group(
    field: &str,
    tasks: Vec<pb::TaskInfo>,
    framework_id: &FrameworkId,
    traceparent: &str,
) -> Result<Vec<TaskSpec>, ConvertError> {
    at_most(field, tasks.len(), MAX_ITEMS)?;
    let Some(first) = tasks.first() else {
        return Err(ConvertError::new(field, "must not be empty"));
    };
    let name = id(
        &format!("{field}[0].task_id"),
        first.task_id.clone(),
        TaskId::new,
    )?;
    let n_group = u32::try_from(tasks.len()).unwrap_or(0);
    let mut tasks = each(field, tasks, |t| {
        launch(t, framework_id, traceparent, Some(&name))
    })?;
    for on in tasks.iter_mut().filter_map(|t| t.executor.as_mut()) {
        on.n_group = n_group;
    }
    let executors: Vec<&ExecutorSpec> = tasks
        .iter()
        .filter_map(|t| t.executor.as_ref().map(|on| on.spec.as_ref()))
        .collect();
    if executors.windows(2).any(|two| two[0] != two[1]) {
        let rule = "must all be on the same executor";
        return Err(ConvertError::new(field, rule));
    }
    Ok(tasks)
}

fn launch(
    t: pb::TaskInfo,
    framework_id: &FrameworkId,
    traceparent: &str,
    group: Option<&TaskId>,
) -> Result<TaskSpec, ConvertError> {
    check_task(&t)?;
    at_most("health_checks", t.health_checks.len(), MAX_CHECKS)?;
    let name = if t.name.is_empty() {
        t.task_id.clone()
    } else {
        t.name
    };
    let executor = executor::asked(t.executor, group, t.info)?;
    let wire = session::TaskSpec {
        executor: executor.as_ref().map(Into::into),
        discovery_name: name.clone(),
        name,
        framework_id: framework_id.to_string(),
        command: t.command.map(|c| match c {
            pb::task_info::Command::Shell(s) => session::task_spec::Command::Shell(s),
            pb::task_info::Command::Argv(a) => session::task_spec::Command::Argv(a),
            pb::task_info::Command::Image(a) => session::task_spec::Command::Image(a),
        }),
        task_id: t.task_id,
        env: t.env,
        labels: t.labels,
        resources: t.resources,
        parts: t.parts,
        ports: t.ports,
        health_checks: t.health_checks,
        kill_grace_ms: if t.kill_grace_ms == 0 {
            KILL_GRACE.0
        } else {
            t.kill_grace_ms
        },
        user: t.user,
        container: t.container,
        traceparent: traceparent.to_owned(),
        ..session::TaskSpec::default()
    };
    let spec = TaskSpec::try_from(wire)?;
    check(&spec)?;
    Ok(spec)
}

/// What a process can't be started with.
fn check_texts(command: &Command, env: &BTreeMap<String, String>) -> Result<(), ConvertError> {
    let nul = |s: &str| s.contains('\0');
    for key in env.keys() {
        if key.is_empty() || key.contains('=') || nul(key) {
            let rule = format!("keys must not be empty or hold = or NUL, is {key:.80?}");
            return Err(ConvertError::new("env", rule));
        }
    }
    let text = match command {
        Command::Shell(s) => nul(s),
        Command::Argv(a) | Command::Image(a) => a.iter().any(|s| nul(s)),
        Command::Executor => false,
    };
    if text || env.values().any(|v| nul(v)) {
        return Err(ConvertError::new(
            "command",
            "must not hold a NUL character",
        ));
    }
    Ok(())
}

/// Rules between fields, which an agent would only find out later.
fn check(spec: &TaskSpec) -> Result<(), ConvertError> {
    check_texts(&spec.command, &spec.env)?;
    let told = |c: &&HealthCheck| c.purpose == CheckPurpose::Report;
    if spec.health_checks.iter().filter(told).count() > 1 {
        let rule = "must hold at most one check whose answers are only told";
        return Err(ConvertError::new("health_checks", rule));
    }
    if let Some(on) = &spec.executor {
        check_texts(&on.spec.command, &on.spec.env).map_err(|e| e.within("executor"))?;
    }
    for (i, p) in spec.ports.iter().enumerate() {
        let field = format!("ports[{i}]");
        if !p.vips.is_empty() {
            let rule = "VIPs of frameworks are not supported yet";
            return Err(ConvertError::new(format!("{field}.vips"), rule));
        }
        // 0 is none: the port is reached inside only.
        let inside_only = p.host_port == 0
            && p.container_port.is_some()
            && spec.container.network != NetworkMode::Host;
        if !inside_only && !spec.resources.ports.contains(p.host_port) {
            let rule = format!("must be among resources.ports, is {}", p.host_port);
            return Err(ConvertError::new(format!("{field}.host_port"), rule));
        }
    }
    for (i, h) in spec.health_checks.iter().enumerate() {
        let at = match &h.probe {
            waggle_types::HealthProbe::Http {
                port_index, port, ..
            }
            | waggle_types::HealthProbe::Tcp { port_index, port } => {
                port.is_none().then_some(*port_index)
            }
            waggle_types::HealthProbe::Command { .. } => None,
        };
        if at.is_some_and(|at| at >= spec.ports.len()) {
            let rule = format!("must be below {}, the number of ports", spec.ports.len());
            return Err(ConvertError::new(
                format!("health_checks[{i}].port_index"),
                rule,
            ));
        }
    }
    Ok(())
}

/// A task as a framework sends it: what the master sets is left out.
impl From<&TaskSpec> for pb::TaskInfo {
    fn from(t: &TaskSpec) -> Self {
        let wire = session::TaskSpec::from(t);
        Self {
            task_id: wire.task_id,
            name: wire.name,
            command: wire.command.map(|c| match c {
                session::task_spec::Command::Shell(s) => pb::task_info::Command::Shell(s),
                session::task_spec::Command::Argv(a) => pb::task_info::Command::Argv(a),
                session::task_spec::Command::Image(a) => pb::task_info::Command::Image(a),
            }),
            env: wire.env,
            labels: wire.labels,
            resources: wire.resources,
            ports: wire.ports,
            health_checks: wire.health_checks,
            kill_grace_ms: wire.kill_grace_ms,
            user: wire.user,
            parts: wire.parts,
            container: wire.container,
            executor: wire.executor.as_ref().and_then(|on| on.spec.clone()),
            info: wire.executor.map(|on| on.info).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> pb::TaskInfo {
        pb::TaskInfo {
            task_id: "t1".into(),
            command: Some(pb::task_info::Command::Shell("true".into())),
            resources: Some(session::Resources {
                cpus_milli: 100,
                ports: vec![session::PortRange {
                    begin: 31000,
                    end: 31000,
                }],
                ..session::Resources::default()
            }),
            ports: vec![session::TaskPort {
                host_port: 31000,
                protocols: vec![session::Protocol::Tcp.into()],
                ..session::TaskPort::default()
            }],
            ..pb::TaskInfo::default()
        }
    }

    #[test]
    fn tasks_are_checked_by_field() {
        let framework = FrameworkId::new("f").unwrap();
        let read = |t: pb::TaskInfo| launches("launch", vec![t], &framework, "");
        let spec = read(task()).unwrap().remove(0);
        assert_eq!((spec.name.as_str(), spec.kill_grace), ("t1", KILL_GRACE));
        assert_eq!(read(pb::TaskInfo::from(&spec)).unwrap()[0], spec);
        let wrong = |change: &dyn Fn(&mut pb::TaskInfo)| {
            let mut t = task();
            change(&mut t);
            read(t).unwrap_err().field
        };
        assert_eq!(wrong(&|t| t.task_id = "a/b".into()), "launch[0].task_id");
        assert_eq!(wrong(&|t| t.command = None), "launch[0].command");
        assert_eq!(wrong(&|t| t.resources = None), "launch[0].resources");
        assert_eq!(
            wrong(&|t| t.ports[0].host_port = 31001),
            "launch[0].ports[0].host_port"
        );
        let negative = wrong(&|t| {
            if let Some(r) = &mut t.resources {
                r.cpus_milli = -1;
            }
        });
        assert_eq!(negative, "launch[0].resources.cpus_milli");
        assert_eq!(
            wrong(&|t| _ = t.env.insert("a=b".into(), String::new())),
            "launch[0].env"
        );
        let check = session::HealthCheck {
            probe: Some(session::health_check::Probe::Tcp(session::TcpProbe {
                port_index: 1,
                port: None,
            })),
            ..session::HealthCheck::default()
        };
        assert_eq!(
            wrong(&|t| t.health_checks.push(check.clone())),
            "launch[0].health_checks[0].port_index"
        );
        assert!(launches("launch", vec![task(); MAX_ITEMS + 1], &framework, "").is_err());
        assert!(launches("launch", vec![task()], &framework, "junk").is_err());
    }
}
