//! A pod in the words of apps: one for all that its instances have in common, one for each container.
//!
//! | a pod's | an app's |
//! |---|---|
//! | `scaling.instances` | `instances` |
//! | `scheduling.backoff.{backoff,backoffFactor,maxLaunchDelay}` | `backoffSeconds`, `backoffFactor`, `maxLaunchDelaySeconds` |
//! | `scheduling.upgrade` | `upgradeStrategy` |
//! | `scheduling.placement.{constraints,acceptedResourceRoles}` | `constraints`, `acceptedResourceRoles` |
//! | `scheduling.{killSelection,unreachableStrategy}`, `labels`, `networks`, `role`, `user` | the same |
//! | `volumes` that are `persistent` | `container.volumes`, their names for paths |
//! | `secrets`, `environment` | `secrets`, `env`, each container's own |
//!
//! | a container's | an app's |
//! |---|---|
//! | `exec.command.shell`, `exec.command.argv` | `cmd`, `args` |
//! | `resources.{cpus,mem,disk,gpus}` | `cpus`, `mem`, `disk`, `gpus` |
//! | `image.{id,forcePull,pullConfig}` | `container.docker.{image,forcePullImage,pullConfig}` |
//! | `endpoints` | `portDefinitions`, or `container.portMappings` off the host's network |
//! | `volumeMounts` with the pod's `volumes` | `container.volumes` |
//! | `healthCheck`, `check` | `healthChecks[0]`, `check`; ports by the names of endpoints |
//! | `artifacts`, `environment`, `lifecycle.killGracePeriodSeconds`, `linuxInfo`, `tty` | `fetch`, `env`, `taskKillGracePeriodSeconds`, `container.linuxInfo`, `tty` |

use serde_json::{Map, Value, json};
use waggle_types::{FieldError, NetworkMode, PodVolume};

use super::{super::container_json::NetworkJson, parse::Given};
use crate::read::{Errors, Obj};

/// Keys of `scheduling` that are an app's own, in one part of it each.
const SCHEDULING: [(&str, &str, &str); 7] = [
    ("backoff", "backoff", "backoffSeconds"),
    ("backoff", "backoffFactor", "backoffFactor"),
    ("backoff", "maxLaunchDelay", "maxLaunchDelaySeconds"),
    (
        "placement",
        "acceptedResourceRoles",
        "acceptedResourceRoles",
    ),
    ("", "upgrade", "upgradeStrategy"),
    ("", "killSelection", "killSelection"),
    ("", "unreachableStrategy", "unreachableStrategy"),
];

/// What is said for all instances, as an app that runs something.
pub(super) fn app_of_pod(
    pod: &Obj<'_>,
    id: &str,
    volumes: &[Given<'_>],
    errs: &mut Errors,
) -> Map<String, Value> {
    let mut app = Map::from_iter([
        ("id".to_owned(), json!(id)),
        // Never run: a pod runs its containers.
        ("cmd".to_owned(), json!("true")),
        ("portDefinitions".to_owned(), json!([])),
    ]);
    let copy = |from: &Obj<'_>, key: &str, to: &str, app: &mut Map<String, Value>| {
        if let Some(v) = from.get(key) {
            app.insert(to.to_owned(), v.clone());
        }
    };
    for key in ["labels", "networks", "role", "user"] {
        copy(pod, key, key, &mut app);
    }
    let persistent = persistent(volumes).map(|v| {
        json!({
            "containerPath": v.volume.name,
            "mode": "RW",
            "persistent": v.persistent,
        })
    });
    let persistent: Vec<Value> = persistent.collect();
    if !persistent.is_empty() {
        let container = json!({ "type": "MESOS", "volumes": persistent });
        app.insert("container".to_owned(), container);
    }
    if let Some(s) = pod.object("scaling", errs) {
        s.only(&["kind", "instances", "maxInstances"], errs);
        if let Some(kind) = s.string("kind", errs).filter(|k| k != "fixed") {
            errs.add(s.path("kind"), format!("must be fixed, is {kind:?}"));
        }
        copy(&s, "instances", "instances", &mut app);
    }
    let Some(s) = pod.object("scheduling", errs) else {
        return app;
    };
    let parts = [
        "backoff",
        "killSelection",
        "placement",
        "unreachableStrategy",
        "upgrade",
    ];
    s.only(&parts, errs);
    for (part, keys) in [
        (
            "backoff",
            &["backoff", "backoffFactor", "maxLaunchDelay"][..],
        ),
        ("placement", &["acceptedResourceRoles", "constraints"]),
    ] {
        let Some(p) = s.object(part, errs) else {
            continue;
        };
        p.only(keys, errs);
        for (_, key, to) in SCHEDULING.iter().filter(|(of, ..)| *of == part) {
            copy(&p, key, to, &mut app);
        }
        if part == "placement" {
            let all = constraints(&p, errs);
            app.insert("constraints".to_owned(), Value::Array(all));
        }
    }
    for (_, key, to) in SCHEDULING.iter().filter(|(of, ..)| of.is_empty()) {
        copy(&s, key, to, &mut app);
    }
    app
}

/// `{"fieldName", "operator", "value"}`, or an app's list.
fn constraints(placement: &Obj<'_>, errs: &mut Errors) -> Vec<Value> {
    let items = placement.list("constraints", errs).unwrap_or_default();
    let each = items.iter().enumerate().map(|(i, v)| {
        if v.is_array() {
            return v.clone();
        }
        let at = format!("{}[{i}]", placement.path("constraints"));
        let Some(c) = Obj::of(at, v, errs) else {
            return json!(["", "UNIQUE"]);
        };
        c.only(&["fieldName", "operator", "value"], errs);
        c.required("fieldName", errs);
        c.required("operator", errs);
        let text = |key| c.get(key).cloned().unwrap_or(json!(""));
        match c.get("value") {
            Some(value) => json!([text("fieldName"), text("operator"), value]),
            None => json!([text("fieldName"), text("operator")]),
        }
    });
    each.collect()
}

/// Those of a pod's volumes that are persistent.
fn persistent<'a, 'b>(volumes: &'b [Given<'a>]) -> impl Iterator<Item = &'b Given<'a>> {
    volumes.iter().filter(|v| v.persistent.is_some())
}

/// The field of a pod that a field of its app stands for.
pub(super) fn pod_field(field: &str, volumes: &[Given<'_>]) -> String {
    if let Some(rest) = field.strip_prefix("container.volumes[") {
        let named = || {
            let (at, rest) = rest.split_once(']')?;
            let at = persistent(volumes).nth(at.parse().ok()?)?.at;
            let rest = rest.replace(".containerPath", ".name");
            Some(format!("volumes[{at}]{rest}"))
        };
        return named().unwrap_or_else(|| "volumes".to_owned());
    }
    if let Some(rest) = field.strip_prefix("constraints") {
        let words = [
            ("[0]", ".fieldName"),
            ("[1]", ".operator"),
            ("[2]", ".value"),
        ];
        let of_one = words.iter().find_map(|(at, word)| {
            let one = rest.strip_suffix(at).filter(|r| r.contains('['))?;
            Some(format!("{one}{word}"))
        });
        let rest = of_one.unwrap_or_else(|| rest.to_owned());
        return format!("scheduling.placement.constraints{rest}");
    }
    if field == "instances" {
        return "scaling.instances".to_owned();
    }
    for (part, key, of_app) in SCHEDULING {
        if let Some(rest) = field.strip_prefix(of_app) {
            let part = if part.is_empty() {
                String::new()
            } else {
                format!("{part}.")
            };
            return format!("scheduling.{part}{key}{rest}");
        }
    }
    field.to_owned()
}

/// What containers are read with.
pub(super) struct Around<'a> {
    /// An id that reads.
    pub id: &'a str,
    pub network: &'a NetworkMode,
    pub volumes: &'a [PodVolume],
    /// What the pod says for all of them.
    pub env: &'a Map<String, Value>,
    /// Where each of its secrets is found.
    pub secrets: &'a Map<String, Value>,
    pub labels: &'a Map<String, Value>,
    pub user: Option<&'a str>,
}

/// Keys of a container.
const CONTAINER: [&str; 15] = [
    "name",
    "exec",
    "resources",
    "endpoints",
    "image",
    "environment",
    "user",
    "healthCheck",
    "check",
    "volumeMounts",
    "artifacts",
    "labels",
    "lifecycle",
    "tty",
    "linuxInfo",
];

/// A container as an app.
pub(super) fn app_of_container(
    c: &Obj<'_>,
    around: &Around<'_>,
    errs: &mut Errors,
) -> Map<String, Value> {
    c.only(&CONTAINER, errs);
    let network = NetworkJson::from(around.network);
    let mut app = Map::from_iter([
        ("id".to_owned(), json!(around.id)),
        ("networks".to_owned(), json!([network])),
        ("secrets".to_owned(), json!(around.secrets)),
    ]);
    exec(c, &mut app, errs);
    c.required("resources", errs);
    if let Some(r) = c.object("resources", errs) {
        r.only(&["cpus", "mem", "disk", "gpus"], errs);
        app.extend(r.entries().map(|(k, v)| (k.clone(), v.clone())));
    }
    let mut container = Map::from_iter([("type".to_owned(), json!("MESOS"))]);
    if let Some(docker) = image(c, errs) {
        container.insert("docker".to_owned(), Value::Object(docker));
    }
    if let Some(info) = c.get("linuxInfo") {
        container.insert("linuxInfo".to_owned(), info.clone());
    }
    let volumes = mounts(c, around.volumes, errs);
    if !volumes.is_empty() {
        container.insert("volumes".to_owned(), Value::Array(volumes));
    }
    let host = *around.network == NetworkMode::Host;
    let ports = endpoints(c, host, errs);
    let names: Vec<String> = ports
        .iter()
        .map(|p| p["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    if host {
        app.insert("portDefinitions".to_owned(), Value::Array(ports));
    } else if *around.network != NetworkMode::None || !ports.is_empty() {
        container.insert("portMappings".to_owned(), Value::Array(ports));
    }
    app.insert("container".to_owned(), Value::Object(container));
    checks(c, &names, &mut app, errs);
    for (key, to) in [("artifacts", "fetch"), ("tty", "tty")] {
        if let Some(v) = c.get(key) {
            app.insert(to.to_owned(), v.clone());
        }
    }
    if let Some(l) = c.object("lifecycle", errs) {
        l.only(&["killGracePeriodSeconds"], errs);
        if let Some(v) = l.get("killGracePeriodSeconds") {
            app.insert("taskKillGracePeriodSeconds".to_owned(), v.clone());
        }
    }
    for (key, to, of_pod) in [
        ("environment", "env", around.env),
        ("labels", "labels", around.labels),
    ] {
        let mut all = of_pod.clone();
        let own = c.object(key, errs);
        let own = own.iter().flat_map(Obj::entries);
        all.extend(own.map(|(k, v)| (k.clone(), v.clone())));
        app.insert(to.to_owned(), Value::Object(all));
    }
    if let Some(user) = c.get("user").cloned().or(around.user.map(|u| json!(u))) {
        app.insert("user".to_owned(), user);
    }
    app
}

fn exec(c: &Obj<'_>, app: &mut Map<String, Value>, errs: &mut Errors) {
    let Some(e) = c.object("exec", errs) else {
        return;
    };
    e.only(&["command", "overrideEntrypoint"], errs);
    e.required("command", errs);
    let replaces = e.boolean("overrideEntrypoint", errs);
    let Some(command) = e.object("command", errs) else {
        return;
    };
    command.only(&["shell", "argv"], errs);
    if command.get("shell").is_some() && replaces == Some(false) {
        let rule = "must not be false with command.shell";
        errs.add(e.path("overrideEntrypoint"), rule);
    }
    for (key, to) in [("shell", "cmd"), ("argv", "args")] {
        if let Some(v) = command.get(key) {
            app.insert(to.to_owned(), v.clone());
        }
    }
}

fn image(c: &Obj<'_>, errs: &mut Errors) -> Option<Map<String, Value>> {
    let image = c.object("image", errs)?;
    image.only(&["kind", "id", "forcePull", "pullConfig", "labels"], errs);
    image.not_yet("labels", errs);
    image.required("id", errs);
    if let Some(kind) = image.string("kind", errs).filter(|k| k != "DOCKER") {
        let rule = format!("only DOCKER is supported, is {kind:?}");
        errs.add(image.path("kind"), rule);
    }
    let keys = [
        ("id", "image"),
        ("forcePull", "forcePullImage"),
        ("pullConfig", "pullConfig"),
    ];
    let each = keys.into_iter();
    let each = each.filter_map(|(key, to)| Some((to.to_owned(), image.get(key)?.clone())));
    Some(each.collect())
}

fn endpoints(c: &Obj<'_>, host: bool, errs: &mut Errors) -> Vec<Value> {
    let items = c.list("endpoints", errs).unwrap_or_default();
    let each = items.iter().enumerate().map(|(i, v)| {
        let at = format!("{}[{i}]", c.path("endpoints"));
        let Some(e) = Obj::of(at, v, errs) else {
            return json!({});
        };
        let keys = [
            "name",
            "containerPort",
            "hostPort",
            "protocol",
            "labels",
            "networkNames",
        ];
        e.only(&keys, errs);
        e.required("name", errs);
        let mut out = Map::new();
        for key in ["name", "labels"] {
            if let Some(v) = e.get(key) {
                out.insert(key.to_owned(), v.clone());
            }
        }
        out.insert("protocol".to_owned(), json!(protocol(&e, errs)));
        if host {
            if e.get("containerPort").is_some() {
                let rule = "must not be set on the host's network: containers listen on hostPort";
                errs.add(e.path("containerPort"), rule);
            }
            e.not_yet("networkNames", errs);
            let port = e.required("hostPort", errs).cloned();
            out.insert("port".to_owned(), port.unwrap_or(json!(0)));
        } else {
            for key in ["containerPort", "hostPort", "networkNames"] {
                if let Some(v) = e.get(key) {
                    out.insert(key.to_owned(), v.clone());
                }
            }
        }
        Value::Object(out)
    });
    each.collect()
}

/// What runs over a connection is carried and not looked at: Marathon's own examples say `http`.
fn protocol(e: &Obj<'_>, errs: &mut Errors) -> &'static str {
    let given = match e.get("protocol") {
        Some(Value::String(one)) => vec![one.clone()],
        _ => e.strings("protocol", errs).unwrap_or_default(),
    };
    let (mut tcp, mut udp) = (false, false);
    for p in &given {
        match p.as_str() {
            "tcp" | "http" | "https" => tcp = true,
            "udp" => udp = true,
            other => {
                let rule = format!("must be tcp, udp, http or https, is {other:?}");
                errs.add(e.path("protocol"), rule);
            }
        }
    }
    match (tcp, udp) {
        (true, true) => "udp,tcp",
        (false, true) => "udp",
        _ => "tcp",
    }
}

fn mounts(c: &Obj<'_>, volumes: &[PodVolume], errs: &mut Errors) -> Vec<Value> {
    let items = c.list("volumeMounts", errs).unwrap_or_default();
    let mut out = Vec::with_capacity(items.len());
    for (i, v) in items.iter().enumerate() {
        let at = format!("{}[{i}]", c.path("volumeMounts"));
        let Some(m) = Obj::of(at, v, errs) else {
            continue;
        };
        m.only(&["name", "mountPath", "readOnly"], errs);
        m.required("name", errs);
        m.required("mountPath", errs);
        let read_only = m.boolean("readOnly", errs).unwrap_or(false);
        let name = m.string("name", errs).unwrap_or_default();
        let volume = volumes.iter().find(|v| v.name == name);
        if volume.is_none() {
            let rule = format!("must be one of the pod's volumes, is {name:?}");
            errs.add(m.path("name"), rule);
        }
        let mut as_app = json!({
            "containerPath": m.get("mountPath"),
            "mode": if read_only { "RO" } else { "RW" },
        });
        if volume.is_some_and(|v| v.persistent) {
            // What it is was judged where the pod says it.
            as_app["persistent"] = json!({ "size": 1 });
        } else if let Some(secret) = volume.and_then(|v| v.secret.as_ref()) {
            as_app["secret"] = json!(secret);
        } else {
            as_app["hostPath"] = json!(volume.and_then(|v| v.host.clone()).unwrap_or(name));
        }
        out.push(as_app);
    }
    out
}

/// `healthCheck` and `check`.
fn checks(c: &Obj<'_>, names: &[String], app: &mut Map<String, Value>, errs: &mut Errors) {
    let times = [
        "delaySeconds",
        "gracePeriodSeconds",
        "intervalSeconds",
        "maxConsecutiveFailures",
        "timeoutSeconds",
    ];
    if let Some(h) = c.object("healthCheck", errs) {
        h.only(&[&times[..], &["exec", "http", "tcp"]].concat(), errs);
        let mut out: Map<String, Value> = times
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), h.get(key)?.clone())))
            .collect();
        let kinds = ["exec", "http", "tcp"];
        let given: Vec<&str> = kinds.into_iter().filter(|k| h.get(k).is_some()).collect();
        let [kind] = given.as_slice() else {
            let rule = format!("must have one of {}, has {}", kinds.join(", "), given.len());
            errs.add(c.path("healthCheck"), rule);
            return;
        };
        let Some(of) = h.object(kind, errs) else {
            return;
        };
        if *kind == "exec" {
            let shell = shell(&of, errs);
            out.insert("command".to_owned(), json!({ "value": shell }));
            out.insert("protocol".to_owned(), json!("COMMAND"));
        } else {
            of.only(&["endpoint", "path", "scheme"], errs);
            out.insert("portIndex".to_owned(), json!(endpoint(&of, names, errs)));
            if let Some(path) = of.get("path") {
                out.insert("path".to_owned(), path.clone());
            }
            let protocol = match (*kind, scheme(&of, errs)) {
                ("tcp", _) => "MESOS_TCP",
                (_, true) => "MESOS_HTTPS",
                (_, false) => "MESOS_HTTP",
            };
            out.insert("protocol".to_owned(), json!(protocol));
        }
        app.insert("healthChecks".to_owned(), json!([out]));
    }
    if let Some(k) = c.object("check", errs) {
        k.only(
            &[
                "delaySeconds",
                "exec",
                "http",
                "intervalSeconds",
                "tcp",
                "timeoutSeconds",
            ],
            errs,
        );
        let mut out = Map::new();
        for (key, v) in k.entries().filter(|(_, v)| !v.is_null()) {
            let v = match key.as_str() {
                "http" | "tcp" => {
                    let Some(of) = k.object(key, errs) else {
                        continue;
                    };
                    of.only(&["endpoint", "path", "scheme"], errs);
                    let kept = of.entries().filter(|(k, _)| *k != "endpoint");
                    let mut kept: Map<String, Value> =
                        kept.map(|(k, v)| (k.clone(), v.clone())).collect();
                    kept.insert("portIndex".to_owned(), json!(endpoint(&of, names, errs)));
                    Value::Object(kept)
                }
                _ => v.clone(),
            };
            out.insert(key.clone(), v);
        }
        app.insert("check".to_owned(), Value::Object(out));
    }
}

fn shell(exec: &Obj<'_>, errs: &mut Errors) -> String {
    exec.only(&["command"], errs);
    exec.required("command", errs);
    let command = exec.object("command", errs);
    if let Some(command) = &command {
        command.not_yet("argv", errs);
    }
    let shell = command.and_then(|c| c.string("shell", errs));
    shell.unwrap_or_default()
}

fn scheme(http: &Obj<'_>, errs: &mut Errors) -> bool {
    match http.string("scheme", errs).as_deref() {
        None | Some("HTTP") => false,
        Some("HTTPS") => true,
        Some(s) => {
            let rule = format!("must be HTTP or HTTPS, is {s:?}");
            errs.add(http.path("scheme"), rule);
            false
        }
    }
}

/// The position of the endpoint that a check names.
fn endpoint(of: &Obj<'_>, names: &[String], errs: &mut Errors) -> usize {
    of.required("endpoint", errs);
    let Some(name) = of.string("endpoint", errs) else {
        return 0;
    };
    let at = names.iter().position(|n| *n == name);
    if at.is_none() {
        let rule = format!("no endpoint of the container is named {name:?}");
        errs.add(of.path("endpoint"), rule);
    }
    at.unwrap_or(0)
}

/// An error of a container's app, about the container's field at `at`.
pub(super) fn container_error(e: FieldError, at: &str) -> FieldError {
    let words: [(&str, &str); 16] = [
        ("cmd", "exec.command.shell"),
        ("args", "exec.command.argv"),
        ("cpus", "resources.cpus"),
        ("mem", "resources.mem"),
        ("disk", "resources.disk"),
        ("gpus", "resources.gpus"),
        ("container.docker.image", "image.id"),
        ("container.docker.forcePullImage", "image.forcePull"),
        ("container.docker", "image"),
        ("container.linuxInfo", "linuxInfo"),
        ("container.volumes", "volumeMounts"),
        ("container.portMappings", "endpoints"),
        ("portDefinitions", "endpoints"),
        ("healthChecks[0]", "healthCheck"),
        ("fetch", "artifacts"),
        ("env", "environment"),
    ];
    let field = if e.field == "taskKillGracePeriodSeconds" {
        "lifecycle.killGracePeriodSeconds".to_owned()
    } else {
        let word = words.iter().find_map(|(of_app, own)| {
            let rest = e.field.strip_prefix(of_app)?;
            let whole = rest.is_empty() || rest.starts_with(['.', '[']);
            whole.then(|| format!("{own}{rest}"))
        });
        word.unwrap_or_else(|| e.field.clone())
    };
    let field = field
        .replace(".containerPath", ".mountPath")
        .replace("].port", "].hostPort")
        .replace("healthCheck.path", "healthCheck.http.path")
        .replace(
            "healthCheck.command.value",
            "healthCheck.exec.command.shell",
        );
    FieldError::new(format!("{at}.{field}"), e.rule)
}
