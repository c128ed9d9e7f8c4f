//! Definitions as clients write them, to validated specs.

use serde_json::{Map, Value};
use waggle_types::{
    Backoff, Command, Milli, Millis, NetworkMode, Resources, ServiceId, ServiceSpec,
    ServiceVersion, UnixMillis, UnreachableStrategy, UpgradeStrategy,
};

use super::{
    asked,
    container::container,
    definition::definition_value,
    health::checks,
    keys::{NOT_YET, READ_ONLY, misspelt},
    network::network,
    pod::stored_pod,
    ports::ports,
    secrets,
    version::parse_version,
};
use crate::{
    error::{ApiError, ErrorCode},
    mesos::json,
    read::{Errors, Obj, kind, strings},
};

/// Most instances of one service.
pub const MAX_INSTANCES: u32 = 100_000;
/// Most ports of one service.
pub const MAX_PORTS: usize = 256;
/// Most constraints of one service.
const MAX_CONSTRAINTS: usize = 64;
/// Largest scalar: `Milli` holds it exactly.
pub(super) const MAX_SCALAR: f64 = 1e12;

/// Where a definition comes from.
#[derive(Debug, Clone, Copy)]
pub enum ParseMode<'a> {
    /// POST: the definition names its id; what is not given has Marathon's default.
    Create,
    /// PUT to a path.
    Put {
        /// The id of the path; a body's id must agree.
        id: &'a ServiceId,
        /// The service as it is.
        existing: Option<&'a ServiceSpec>,
        /// Keys that are not given keep their values (Marathon's default), else they get defaults.
        partial: bool,
    },
}

/// Bytes to JSON: malformed JSON is a 400 that says where.
pub fn parse_json(body: &[u8]) -> Result<Value, ApiError> {
    json::value(body)
        .map_err(|e| ApiError::new(ErrorCode::BadRequest, format!("Invalid JSON: {e}")))
}

/// A definition as bytes to a spec. Malformed JSON is a 400, anything that breaks a rule a 422.
/// `now` becomes the version, unless the existing one is not older.
pub fn parse_app(
    body: &[u8],
    mode: ParseMode<'_>,
    now: UnixMillis,
) -> Result<ServiceSpec, ApiError> {
    app_from_value(&parse_json(body)?, mode, now)
}

/// A definition as a JSON value to a spec; see [`parse_app`].
pub fn app_from_value(
    value: &Value,
    mode: ParseMode<'_>,
    now: UnixMillis,
) -> Result<ServiceSpec, ApiError> {
    let Value::Object(given) = value else {
        let rule = format!("must be an object, is {}", kind(value));
        return Err(ApiError::invalid("app", rule));
    };
    match mode {
        ParseMode::Create => spec(given, None, ServiceVersion(now)),
        ParseMode::Put {
            id,
            existing,
            partial,
        } => {
            let version = match existing {
                Some(old) => ServiceVersion(now.max(old.version.0 + Millis(1))),
                None => ServiceVersion(now),
            };
            match existing {
                Some(old) if partial => spec(&merged(old, given), Some(id), version),
                _ => spec(given, Some(id), version),
            }
        }
    }
}

/// What `spec_to_json` wrote; its version is kept.
pub(super) fn stored_spec(value: &Value) -> Result<ServiceSpec, ApiError> {
    let Value::Object(map) = value else {
        let rule = format!("must be an object, is {}", kind(value));
        return Err(ApiError::invalid("app", rule));
    };
    if map.contains_key("containers") {
        return stored_pod(map);
    }
    let version = map
        .get("version")
        .and_then(Value::as_str)
        .and_then(parse_version)
        .ok_or_else(|| ApiError::invalid("version", "must be a timestamp"))?;
    spec(map, None, version)
}

/// PATCH semantics: top-level keys that are given replace what is there. Of two keys that mean the
/// same thing (`cmd` and `args`, `ports` and `portDefinitions`, `uris` and `fetch`, `networks` and what older
/// definitions said in other places), the given one wins.
fn merged(old: &ServiceSpec, given: &Map<String, Value>) -> Map<String, Value> {
    let Value::Object(mut out) = definition_value(old) else {
        return given.clone();
    };
    let set = |key: &str| given.get(key).is_some_and(|v| !v.is_null());
    for (a, b) in [
        ("cmd", "args"),
        ("args", "cmd"),
        ("ports", "portDefinitions"),
        ("uris", "fetch"),
        ("ipAddress", "networks"),
    ] {
        if set(a) && !set(b) {
            out.remove(b);
        }
    }
    let docker = given.get("container").and_then(|c| c.get("docker"));
    if docker.is_some_and(|d| d.get("network").is_some_and(|n| !n.is_null())) && !set("networks") {
        out.remove("networks");
    }
    for (k, v) in given {
        if !v.is_null() && !READ_ONLY.contains(&k.as_str()) {
            out.insert(k.clone(), v.clone());
        }
    }
    // Ports of the host's network go with it.
    let (obj, ignored) = (Obj::root(&out), &mut Errors::default());
    let docker = obj
        .object("container", ignored)
        .and_then(|c| c.object("docker", ignored));
    let host = network(&obj, docker.as_ref(), ignored) == NetworkMode::Host;
    if !host && !set("portDefinitions") {
        out.remove("portDefinitions");
    }
    out
}

fn spec(
    map: &Map<String, Value>,
    path_id: Option<&ServiceId>,
    version: ServiceVersion,
) -> Result<ServiceSpec, ApiError> {
    let (obj, errs) = (Obj::root(map), &mut Errors::default());
    for key in NOT_YET {
        obj.not_yet(key, errs);
    }
    for key in map.keys() {
        if let Some(known) = misspelt(key) {
            errs.add(
                key,
                format!("is not a field of an app, did you mean {known}?"),
            );
        }
    }
    if let Some(e) = obj
        .string("executor", errs)
        .filter(|e| !e.is_empty() && e != "//cmd")
    {
        errs.add("executor", format!("only //cmd is supported yet, is {e:?}"));
    }
    let id = service_id(&obj, path_id, errs);
    let mut scalar = |key, default| {
        let v = obj.number(key, MAX_SCALAR, errs).unwrap_or(default);
        Milli::from_f64(v).unwrap_or_default()
    };
    let scalars = [
        scalar("cpus", 1.0),
        scalar("mem", 128.0),
        scalar("disk", 0.0),
        scalar("gpus", 0.0),
    ];
    let resources = Resources {
        scalars,
        ..Resources::default()
    };
    let contained = container(&obj, &resources, errs);
    let command = command(&obj, contained.spec.image.is_some(), errs);
    let ports = ports(&obj, &contained.spec.network, errs);
    let mut env = contained.env;
    let (plain, secret) = secrets::env(&obj, "env", errs);
    env.extend(plain);
    env.retain(|k, _| !secret.contains_key(k));
    for key in env.keys().chain(secret.keys()).filter(|k| k.contains('=')) {
        errs.add(obj.path("env"), format!("key must not hold =, is {key:?}"));
    }
    let user = obj.string("user", errs).or(contained.user);
    if user.as_deref() == Some("") {
        errs.add("user", "must not be empty");
    }
    let mut upgrade = upgrade(&obj, errs);
    let mut unreachable = unreachable(&obj, errs);
    let residency = asked::residency(&obj, !contained.persistent.is_empty(), errs);
    if residency.is_some() {
        asked::resident_rules(&obj, &mut upgrade, &mut unreachable, errs);
    }
    let labels = obj.string_map("labels", errs).unwrap_or_default();
    let out = ServiceSpec {
        dependencies: asked::dependencies(&obj, id.as_ref(), errs),
        kill_selection: asked::kill_selection(&obj, errs),
        roles: asked::roles(&obj, errs),
        residency,
        volumes: contained.persistent,
        secrets: secrets::secrets(&obj, secret, contained.secrets, errs),
        placement: asked::placement(&labels, id.as_ref(), errs),
        pod: None,
        container: contained.spec,
        container_type: contained.kind,
        instances: obj
            .integer("instances", 0, MAX_INSTANCES, errs)
            .unwrap_or(1),
        resources,
        require_ports: obj.boolean("requirePorts", errs).unwrap_or(false),
        env,
        labels,
        health_checks: checks(&obj, &ports, errs),
        upgrade,
        backoff: backoff(&obj, errs),
        unreachable,
        kill_grace: obj
            .seconds("taskKillGracePeriodSeconds", errs)
            .unwrap_or(Millis::from_secs(3)),
        user,
        constraints: constraints(&obj, errs),
        ports,
        // Placeholders are never seen: without an id or a command there is an error.
        id: match id {
            Some(id) => id,
            None => return Err(ApiError::all_invalid(errs.as_slice())),
        },
        command: command.unwrap_or(Command::Argv(Vec::new())),
        version,
    };
    if errs.is_empty() {
        Ok(out)
    } else {
        Err(ApiError::all_invalid(errs.as_slice()))
    }
}

pub(super) fn service_id(
    obj: &Obj<'_>,
    path: Option<&ServiceId>,
    errs: &mut Errors,
) -> Option<ServiceId> {
    let before = errs.count();
    let given = obj.string("id", errs);
    let parsed = given.as_deref().map(ServiceId::new).transpose();
    match (parsed, path) {
        (Err(e), _) => {
            errs.add("id", e.to_string());
            None
        }
        (Ok(Some(id)), Some(path)) if id != *path => {
            errs.add("id", format!("must be {path} as in the path, is {id}"));
            None
        }
        (Ok(Some(id)), _) => Some(id),
        (Ok(None), Some(path)) => Some(path.clone()),
        (Ok(None), None) => {
            if errs.count() == before {
                errs.add("id", "must be set");
            }
            None
        }
    }
}

/// With an image, arguments are its entry point's, and nothing at all is what the image says.
fn command(obj: &Obj<'_>, image: bool, errs: &mut Errors) -> Option<Command> {
    let before = errs.count();
    let cmd = obj.string("cmd", errs);
    let args = obj.strings("args", errs).filter(|a| !a.is_empty());
    match (cmd, args) {
        (Some(_), Some(_)) => {
            errs.add("cmd", "must not be set together with args");
            None
        }
        (Some(cmd), None) if cmd.trim().is_empty() => {
            errs.add("cmd", "must not be empty");
            None
        }
        (Some(cmd), None) => Some(Command::Shell(cmd)),
        (None, args) if image && errs.count() == before => {
            Some(Command::Image(args.unwrap_or_default()))
        }
        (None, Some(args)) if args.first().is_some_and(String::is_empty) => {
            errs.add("args[0]", "must name a program");
            None
        }
        (None, Some(args)) => Some(Command::Argv(args)),
        (None, None) => {
            if errs.count() == before {
                errs.add("cmd", "cmd or args must be set");
            }
            None
        }
    }
}

fn share(obj: &Obj<'_>, key: &str, errs: &mut Errors) -> u32 {
    thousandths(obj.number(key, 1.0, errs).unwrap_or(1.0))
}

/// For values that are bounded far below `u32::MAX / 1000`.
fn thousandths(v: f64) -> u32 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "callers bound it to 0..=10^6; `as` saturates anyway"
    )]
    let n = (v * 1000.0).round() as u32;
    n
}

fn upgrade(obj: &Obj<'_>, errs: &mut Errors) -> UpgradeStrategy {
    let Some(u) = obj.object("upgradeStrategy", errs) else {
        return UpgradeStrategy::default();
    };
    UpgradeStrategy {
        minimum_health_capacity_milli: share(&u, "minimumHealthCapacity", errs),
        maximum_over_capacity_milli: share(&u, "maximumOverCapacity", errs),
    }
}

fn backoff(obj: &Obj<'_>, errs: &mut Errors) -> Backoff {
    let default = Backoff::default();
    let factor = obj.number("backoffFactor", 1000.0, errs);
    if let Some(f) = factor.filter(|f| *f < 1.0) {
        errs.add("backoffFactor", format!("must be at least 1, is {f}"));
    }
    Backoff {
        initial: obj
            .seconds("backoffSeconds", errs)
            .unwrap_or(default.initial),
        factor_milli: factor.map_or(default.factor_milli, thousandths),
        max: obj
            .seconds("maxLaunchDelaySeconds", errs)
            .unwrap_or(default.max),
    }
}

fn unreachable(obj: &Obj<'_>, errs: &mut Errors) -> UnreachableStrategy {
    let default = UnreachableStrategy::After {
        inactive_after: Millis(0),
        expunge_after: Millis(0),
    };
    match obj.get("unreachableStrategy") {
        None => default,
        Some(Value::String(s)) if s == "disabled" => UnreachableStrategy::Disabled,
        Some(Value::String(s)) => {
            let rule = format!("must be \"disabled\" or an object, is {s:?}");
            errs.add("unreachableStrategy", rule);
            default
        }
        Some(v) => {
            let Some(u) = Obj::of("unreachableStrategy".into(), v, errs) else {
                return default;
            };
            let inactive = u.seconds("inactiveAfterSeconds", errs).unwrap_or_default();
            let expunge = u.seconds("expungeAfterSeconds", errs).unwrap_or(inactive);
            if expunge < inactive {
                errs.add(
                    u.path("expungeAfterSeconds"),
                    "must not be below inactiveAfterSeconds",
                );
            }
            UnreachableStrategy::After {
                inactive_after: inactive,
                expunge_after: expunge,
            }
        }
    }
}

/// The shape alone; which operators run is the service framework's word.
fn constraints(obj: &Obj<'_>, errs: &mut Errors) -> Vec<Vec<String>> {
    const OPERATORS: [&str; 7] = [
        "CLUSTER", "GROUP_BY", "IS", "LIKE", "MAX_PER", "UNIQUE", "UNLIKE",
    ];
    let items = obj.list("constraints", errs).unwrap_or_default();
    if items.len() > MAX_CONSTRAINTS {
        let rule = format!("must be at most {MAX_CONSTRAINTS}, is {}", items.len());
        errs.add("constraints", rule);
        return Vec::new();
    }
    let mut out = Vec::with_capacity(items.len());
    for (i, v) in items.iter().enumerate() {
        let path = format!("constraints[{i}]");
        let Value::Array(parts) = v else {
            errs.add(path, format!("must be a list, is {}", kind(v)));
            continue;
        };
        let Some(parts) = strings(&path, parts, errs) else {
            continue;
        };
        if !(2..=3).contains(&parts.len()) {
            let rule = format!("must be [field, operator, value?], is {} long", parts.len());
            errs.add(path, rule);
        } else if !OPERATORS.contains(&parts[1].as_str()) {
            let rule = format!("must be one of {}, is {:?}", OPERATORS.join(", "), parts[1]);
            errs.add(format!("{path}[1]"), rule);
        } else {
            out.push(parts);
        }
    }
    out
}
