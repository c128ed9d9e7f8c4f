//! Pod definitions as clients write them, to validated specs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use waggle_types::{
    Command, FieldError, Milli, NetworkMode, Placement, PodContainer, PodMount, PodOwn, PodSpec,
    PodVolume, PortMapping, Resources, ScalarKind, Secrets, ServiceId, ServiceSpec, ServiceVersion,
    UnixMillis,
};

use super::{
    super::{
        asked_json,
        parse::{MAX_INSTANCES, MAX_PORTS, MAX_SCALAR, ParseMode, app_from_value},
        secrets,
        version::parse_version,
        volumes::host_path,
    },
    words::{Around, app_of_container, app_of_pod, container_error, pod_field},
};
use crate::{
    error::ApiError,
    read::{Errors, Obj, kind},
};

/// Most containers of one pod.
pub const MAX_CONTAINERS: usize = 32;
/// Most volumes of one pod.
const MAX_VOLUMES: usize = 64;
/// Longest name of a container, an endpoint or a volume.
const MAX_NAME: usize = 63;

/// Keys of a pod.
const POD: [&str; 13] = [
    "id",
    "containers",
    "environment",
    "executorResources",
    "labels",
    "networks",
    "role",
    "scaling",
    "scheduling",
    "secrets",
    "user",
    "version",
    "volumes",
];

/// A definition as a JSON value to a spec. What breaks a rule is a 422 that names all fields. `id` is the path's, with
/// which a body's must agree. `now` becomes the version.
pub fn pod_from_value(
    value: &Value,
    id: Option<&ServiceId>,
    now: UnixMillis,
) -> Result<ServiceSpec, ApiError> {
    let Value::Object(given) = value else {
        let rule = format!("must be an object, is {}", kind(value));
        return Err(ApiError::invalid("pod", rule));
    };
    pod(given, id, ServiceVersion(now))
}

/// What `spec_to_json` wrote of a pod; its version is kept.
pub(in super::super) fn stored_pod(map: &Map<String, Value>) -> Result<ServiceSpec, ApiError> {
    let version = map.get("version").and_then(Value::as_str);
    let version = version.and_then(parse_version);
    let version = version.ok_or_else(|| ApiError::invalid("version", "must be a timestamp"))?;
    pod(map, None, version)
}

fn pod(
    given: &Map<String, Value>,
    path: Option<&ServiceId>,
    version: ServiceVersion,
) -> Result<ServiceSpec, ApiError> {
    let (obj, errs) = (Obj::root(given), &mut Errors::default());
    obj.only(&POD, errs);
    let id = super::super::parse::service_id(&obj, path, errs);
    // One that reads, so that the other fields are judged whatever the pod's is.
    let readable = id.as_ref().map_or("/pod", ServiceId::as_str);
    let sources = secrets::sources(&obj, errs);
    let volumes = volumes(&obj, &sources, errs);
    let app = app_of_pod(&obj, readable, &volumes, errs);
    let outer = read(app, version.0, errs, |e| {
        FieldError::new(pod_field(&e.field, &volumes), e.rule)
    });
    let volumes: Vec<PodVolume> = volumes.into_iter().map(|v| v.volume).collect();
    let (env, mut of_env) = secrets::env(&obj, "environment", errs);
    secrets::unknown("environment", &of_env, &sources, errs);
    of_env.retain(|_, name| sources.contains_key(name));
    let none = NetworkMode::default();
    let network = outer.as_ref().map_or(&none, |s| &s.container.network);
    let empty = Map::new();
    let raw = |key| match obj.get(key) {
        Some(Value::Object(map)) => map,
        _ => &empty,
    };
    let around = Around {
        id: readable,
        network,
        volumes: &volumes,
        env: &as_object(asked_json::env(&env, &of_env)),
        secrets: &as_object(asked_json::secrets(&sources)),
        labels: raw("labels"),
        user: outer.as_ref().and_then(|s| s.user.as_deref()),
    };
    let containers = containers(&obj, &around, outer.as_ref(), errs);
    let max_instances = obj
        .object("scaling", &mut Errors::default())
        .and_then(|s| s.integer("maxInstances", 0, MAX_INSTANCES, errs));
    let instances = outer.as_ref().map_or(0, |s| s.instances);
    if let Some(max) = max_instances.filter(|max| *max < instances) {
        let rule = format!("must be at most scaling.maxInstances ({max}), is {instances}");
        errs.add("scaling.instances", rule);
    }
    let pod = PodSpec {
        containers,
        volumes,
        executor: executor(&obj, errs),
        max_instances,
    };
    match (id, outer) {
        (Some(id), Some(outer)) if errs.is_empty() => Ok(ServiceSpec {
            id,
            env,
            secrets: Secrets {
                sources,
                env: of_env,
                files: Vec::new(),
            },
            version,
            ..outer
        }
        .of_pod(pod)),
        _ => Err(ApiError::all_invalid(errs.as_slice())),
    }
}

/// As it is printed.
fn as_object<T: serde::Serialize>(of: BTreeMap<String, T>) -> Map<String, Value> {
    let each = of.into_iter();
    each.map(|(key, value)| (key, json!(value))).collect()
}

/// Has the reader of apps read a translation; its errors are renamed.
fn read(
    app: Map<String, Value>,
    now: UnixMillis,
    errs: &mut Errors,
    rename: impl Fn(FieldError) -> FieldError,
) -> Option<ServiceSpec> {
    match app_from_value(&Value::Object(app), ParseMode::Create, now) {
        Ok(spec) => Some(spec),
        Err(e) => {
            for e in e.fields() {
                errs.push(rename(e));
            }
            None
        }
    }
}

fn is_name(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= MAX_NAME
        && text.bytes().all(fine)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn name_rule(text: &str) -> String {
    format!("must be 1 to {MAX_NAME} of [a-z0-9-], with no - at its ends, is {text:?}")
}

fn containers(
    obj: &Obj<'_>,
    around: &Around<'_>,
    outer: Option<&ServiceSpec>,
    errs: &mut Errors,
) -> Vec<PodContainer> {
    let items = obj.list("containers", errs);
    let items = match items {
        Some(items) if (1..=MAX_CONTAINERS).contains(&items.len()) => items,
        Some(items) => {
            let rule = format!("must be 1 to {MAX_CONTAINERS}, is {}", items.len());
            errs.add("containers", rule);
            return Vec::new();
        }
        None => {
            obj.required("containers", errs);
            return Vec::new();
        }
    };
    let (mut names, mut endpoints) = (BTreeSet::new(), BTreeSet::new());
    let (mut out, mut n_ports) = (Vec::new(), 0);
    for (i, v) in items.iter().enumerate() {
        let at = format!("containers[{i}]");
        let Some(c) = Obj::of(at.clone(), v, errs) else {
            continue;
        };
        c.required("name", errs);
        let name = c.string("name", errs).unwrap_or_default();
        if c.get("name").is_some() && !is_name(&name) {
            errs.add(c.path("name"), name_rule(&name));
        } else if !names.insert(name.clone()) {
            errs.add(c.path("name"), format!("must be unique, is {name:?} again"));
        }
        let Some(one) = container(&c, name, around, outer, errs) else {
            continue;
        };
        n_ports += one.run.ports.len();
        for (j, p) in one.run.ports.iter().enumerate() {
            let endpoint = p.name.clone().unwrap_or_default();
            if !endpoints.insert(endpoint.clone()) {
                let rule = format!("must be unique in the pod, is {endpoint:?} again");
                errs.add(format!("{at}.endpoints[{j}].name"), rule);
            }
        }
        out.push(one);
    }
    if n_ports > MAX_PORTS {
        let rule = format!("must have at most {MAX_PORTS} endpoints together, have {n_ports}");
        errs.add("containers", rule);
    }
    out
}

fn container(
    c: &Obj<'_>,
    name: String,
    around: &Around<'_>,
    outer: Option<&ServiceSpec>,
    errs: &mut Errors,
) -> Option<PodContainer> {
    let before = errs.count();
    let (env, secrets) = secrets::env(c, "environment", errs);
    let own = PodOwn {
        env,
        secrets,
        labels: c.string_map("labels", errs).unwrap_or_default(),
        user: c.string("user", errs),
        kill_grace: c
            .object("lifecycle", &mut Errors::default())
            .and_then(|l| l.seconds("killGracePeriodSeconds", errs)),
    };
    let app = app_of_container(c, around, errs);
    let args = app.get("args").cloned();
    // What is not set here for want of a place is told by what is wrong there.
    if errs.count() > before {
        return None;
    }
    let at = c.path("");
    let at = at.trim_end_matches('.');
    let run = read(app, UnixMillis(0), errs, |e| container_error(e, at))?;
    let replaces = c
        .object("exec", errs)
        .and_then(|e| e.boolean("overrideEntrypoint", errs));
    let command = match (run.command, args) {
        (Command::Image(argv), Some(_)) if replaces == Some(true) => Command::Argv(argv),
        (command, _) => command,
    };
    let host = *around.network == NetworkMode::Host;
    let mut ports = run.ports;
    for p in ports.iter_mut().filter(|_| host) {
        // There are no service ports: what is asked for is a port of the agent.
        p.mapping = Some(PortMapping {
            container_port: 0,
            host_port: Some(p.port),
        });
        p.port = 0;
    }
    let items = c.list("volumeMounts", errs).unwrap_or_default();
    let each = items.iter().filter_map(|v| {
        let text = |key: &str| v.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        Some(PodMount {
            volume: text("name")?,
            path: text("mountPath")?,
            read_only: v.get("readOnly") == Some(&Value::Bool(true)),
        })
    });
    let mounts = each.collect();
    Some(PodContainer {
        run: ServiceSpec {
            command,
            ports,
            roles: outer.map(|o| o.roles.clone()).unwrap_or_default(),
            // Volumes are the pod's, and so is where it is at home.
            residency: outer.and_then(|o| o.residency),
            volumes: Vec::new(),
            placement: Placement::default(),
            version: ServiceVersion::default(),
            ..run
        },
        name,
        own,
        mounts,
    })
}

/// A volume as it is given.
pub(super) struct Given<'a> {
    pub volume: PodVolume,
    /// Its position in the definition.
    pub at: usize,
    /// What is said of it if it is persistent.
    pub persistent: Option<&'a Value>,
}

fn volumes<'a>(
    obj: &Obj<'a>,
    sources: &BTreeMap<String, String>,
    errs: &mut Errors,
) -> Vec<Given<'a>> {
    let items = obj.list("volumes", errs).unwrap_or_default();
    if items.len() > MAX_VOLUMES {
        let rule = format!("must be at most {MAX_VOLUMES}, is {}", items.len());
        errs.add("volumes", rule);
        return Vec::new();
    }
    let (mut out, mut names) = (Vec::new(), BTreeSet::new());
    for (i, v) in items.iter().enumerate() {
        let Some(v) = Obj::of(format!("volumes[{i}]"), v, errs) else {
            continue;
        };
        v.only(&["name", "host", "persistent", "secret"], errs);
        v.required("name", errs);
        let persistent = v.get("persistent");
        if persistent.is_some() && v.get("host").is_some() {
            errs.add(v.path("host"), "must not be set together with persistent");
        }
        let mut secret = v.string("secret", errs);
        for other in ["host", "persistent"] {
            if secret.is_some() && v.get(other).is_some() {
                let rule = format!("must not be set together with {other}");
                errs.add(v.path("secret"), rule);
            }
        }
        if let Some(name) = secret.take_if(|name| !sources.contains_key(name)) {
            errs.add(v.path("secret"), secrets::lacks(&name));
        }
        let name = v.string("name", errs).unwrap_or_default();
        if v.get("name").is_some() && !is_name(&name) {
            errs.add(v.path("name"), name_rule(&name));
        } else if !names.insert(name.clone()) {
            errs.add(v.path("name"), format!("must be unique, is {name:?} again"));
        }
        let host = v.string("host", errs);
        if let Some(Err(rule)) = host.as_deref().map(host_path) {
            errs.add(v.path("host"), rule);
        }
        out.push(Given {
            volume: PodVolume {
                name,
                host,
                persistent: persistent.is_some(),
                secret,
            },
            at: i,
            persistent,
        });
    }
    out
}

fn executor(obj: &Obj<'_>, errs: &mut Errors) -> Resources {
    let mut out = Resources::default();
    let Some(e) = obj.object("executorResources", errs) else {
        return out;
    };
    e.only(&["cpus", "mem", "disk"], errs);
    for (key, kind) in [
        ("cpus", ScalarKind::Cpus),
        ("mem", ScalarKind::Mem),
        ("disk", ScalarKind::Disk),
    ] {
        let n = e.number(key, MAX_SCALAR, errs).and_then(Milli::from_f64);
        out.scalars[kind as usize] = n.unwrap_or_default();
    }
    out
}
