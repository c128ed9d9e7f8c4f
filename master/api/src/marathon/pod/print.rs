//! A pod's spec as Marathon prints its definition.

use serde_json::{Map, Value, json};
use waggle_types::{
    Command, HealthCheck, HealthProbe, NetworkMode, PodContainer, PodVolume, PortDefinition,
    Protocol, Resources, ScalarKind, ServiceSpec,
};

use super::super::{
    asked_json::{env, secrets},
    container_json::VolumeJson,
    definition::{AppDefinition, Number},
};

/// The definition of a pod; what is empty is left out, as in Marathon. `None` for a service that is not one.
pub fn pod_json(spec: &ServiceSpec) -> Option<Value> {
    let pod = spec.pod.as_deref()?;
    let app = AppDefinition::from(spec);
    let mut scaling = json!({ "kind": "fixed", "instances": spec.instances });
    if let Some(max) = pod.max_instances {
        scaling["maxInstances"] = max.into();
    }
    let mut placement = Map::new();
    if !spec.constraints.is_empty() {
        let all: Vec<Value> = spec.constraints.iter().map(|c| constraint(c)).collect();
        placement.insert("constraints".to_owned(), json!(all));
    }
    if !app.accepted_resource_roles.is_empty() {
        let roles = json!(app.accepted_resource_roles);
        placement.insert("acceptedResourceRoles".to_owned(), roles);
    }
    let mut out = json!({
        "id": app.id,
        "version": app.version,
        "containers": pod.containers.iter().map(container).collect::<Vec<_>>(),
        "networks": app.networks,
        "scaling": scaling,
        "scheduling": {
            "backoff": {
                "backoff": app.backoff_seconds,
                "backoffFactor": app.backoff_factor,
                "maxLaunchDelay": app.max_launch_delay_seconds,
            },
            "upgrade": app.upgrade_strategy,
            "placement": placement,
            "killSelection": app.kill_selection,
            "unreachableStrategy": app.unreachable_strategy,
        },
    });
    let mut set = |key: &str, there: bool, v: Value| {
        if there {
            out[key] = v;
        }
    };
    set("labels", !spec.labels.is_empty(), json!(spec.labels));
    let of_pod = env(&spec.env, &spec.secrets.env);
    set("environment", !of_pod.is_empty(), json!(of_pod));
    let sources = secrets(&spec.secrets.sources);
    set("secrets", !sources.is_empty(), json!(sources));
    set("user", spec.user.is_some(), json!(spec.user));
    set("role", app.role.is_some(), json!(app.role));
    let of_app = app.container.as_ref().map_or(&[][..], |c| &c.volumes);
    let volumes = pod.volumes.iter().map(|v| volume(v, of_app));
    let volumes: Vec<Value> = volumes.collect();
    set("volumes", !volumes.is_empty(), json!(volumes));
    let executor = json!({
        "cpus": scalar(&pod.executor, ScalarKind::Cpus),
        "mem": scalar(&pod.executor, ScalarKind::Mem),
        "disk": scalar(&pod.executor, ScalarKind::Disk),
    });
    set("executorResources", !pod.executor.is_empty(), executor);
    Some(out)
}

fn scalar(r: &Resources, kind: ScalarKind) -> Number {
    Number(r.get(kind).to_f64())
}

fn constraint(c: &[String]) -> Value {
    let mut out = json!({ "fieldName": c.first(), "operator": c.get(1) });
    if let Some(value) = c.get(2) {
        out["value"] = json!(value);
    }
    out
}

/// One of the pod's; of those that are persistent the rest is said in the words of an app.
fn volume(v: &PodVolume, of_app: &[VolumeJson]) -> Value {
    let mut out = json!({ "name": v.name });
    if let Some(host) = &v.host {
        out["host"] = json!(host);
    }
    if let Some(secret) = &v.secret {
        out["secret"] = json!(secret);
    }
    let same = |a: &&VolumeJson| v.persistent && a.container_path == v.name;
    if let Some(persistent) = of_app.iter().find(same).and_then(|a| a.persistent.as_ref()) {
        out["persistent"] = json!(persistent);
    }
    out
}

fn container(c: &PodContainer) -> Value {
    let run = &c.run;
    let app = AppDefinition::from(run);
    let mut out = json!({
        "name": c.name,
        "resources": {
            "cpus": app.cpus,
            "mem": app.mem,
            "disk": app.disk,
            "gpus": app.gpus,
        },
    });
    let mut set = |key: &str, there: bool, v: Value| {
        if there {
            out[key] = v;
        }
    };
    let exec = exec(run);
    set("exec", !exec.is_null(), exec);
    let host = run.container.network == NetworkMode::Host;
    let endpoints: Vec<Value> = run.ports.iter().map(|p| endpoint(p, host)).collect();
    set("endpoints", !endpoints.is_empty(), json!(endpoints));
    if let Some(image) = &run.container.image {
        let mut said = json!({
            "kind": "DOCKER",
            "id": image.reference,
            "forcePull": image.force_pull,
        });
        if let Some(secret) = &image.credentials {
            said["pullConfig"] = json!({ "secret": secret });
        }
        set("image", true, said);
    }
    let linux = app.container.and_then(|c| c.linux_info);
    set("linuxInfo", linux.is_some(), json!(linux));
    let own = env(&c.own.env, &c.own.secrets);
    set("environment", !own.is_empty(), json!(own));
    set("labels", !c.own.labels.is_empty(), json!(c.own.labels));
    set("user", c.own.user.is_some(), json!(c.own.user));
    let of_health = run.health_checks.iter();
    let health = of_health
        .clone()
        .find(|h| h.purpose == waggle_types::CheckPurpose::Health);
    if let Some(h) = health {
        let mut said = check(h, &run.ports);
        said["gracePeriodSeconds"] = json!(Number::seconds(h.grace_period));
        said["maxConsecutiveFailures"] = h.max_consecutive_failures.into();
        set("healthCheck", true, said);
    }
    let ready = of_health
        .clone()
        .find(|h| h.purpose == waggle_types::CheckPurpose::Readiness);
    if let Some(h) = ready {
        set("check", true, check(h, &run.ports));
    }
    let mounts = c
        .mounts
        .iter()
        .map(|m| json!({ "name": m.volume, "mountPath": m.path, "readOnly": m.read_only }));
    let mounts: Vec<Value> = mounts.collect();
    set("volumeMounts", !mounts.is_empty(), json!(mounts));
    set("artifacts", !app.fetch.is_empty(), json!(app.fetch));
    if let Some(grace) = c.own.kill_grace {
        let said = json!({ "killGracePeriodSeconds": Number::seconds(grace) });
        set("lifecycle", true, said);
    }
    set("tty", run.container.tty, json!(true));
    out
}

fn exec(run: &ServiceSpec) -> Value {
    match &run.command {
        Command::Shell(text) => json!({ "command": { "shell": text } }),
        Command::Argv(argv) if run.container.image.is_some() => {
            json!({ "command": { "argv": argv }, "overrideEntrypoint": true })
        }
        Command::Argv(argv) => json!({ "command": { "argv": argv } }),
        Command::Image(argv) if !argv.is_empty() => json!({ "command": { "argv": argv } }),
        Command::Image(_) | Command::Executor => Value::Null,
    }
}

fn endpoint(p: &PortDefinition, host: bool) -> Value {
    let protocols: Vec<&str> = p
        .protocols
        .iter()
        .map(|p| match p {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
        .collect();
    let mut out = json!({ "name": p.name, "protocol": protocols });
    if let Some(m) = p.mapping {
        if !host {
            out["containerPort"] = m.container_port.into();
        }
        if let Some(port) = m.host_port {
            out["hostPort"] = port.into();
        }
    }
    if !p.labels.is_empty() {
        out["labels"] = json!(p.labels);
    }
    out
}

fn check(h: &HealthCheck, ports: &[PortDefinition]) -> Value {
    let named = |at: usize| ports.get(at).and_then(|p| p.name.clone());
    let mut out = json!({
        "intervalSeconds": Number::seconds(h.interval),
        "timeoutSeconds": Number::seconds(h.timeout),
        "delaySeconds": Number::seconds(h.delay),
    });
    match &h.probe {
        HealthProbe::Http {
            tls,
            path,
            port_index,
            ..
        } => {
            let scheme = if *tls { "HTTPS" } else { "HTTP" };
            out["http"] = json!({ "endpoint": named(*port_index), "path": path, "scheme": scheme });
        }
        HealthProbe::Tcp { port_index, .. } => {
            out["tcp"] = json!({ "endpoint": named(*port_index) });
        }
        HealthProbe::Command { shell } => {
            out["exec"] = json!({ "command": { "shell": shell } });
        }
    }
    out
}
