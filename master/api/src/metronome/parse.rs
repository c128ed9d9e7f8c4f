//! Jobs, schedules and what is asked for one run, as clients write them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use waggle_types::{
    Concurrency, FieldError, JobId, JobSpec, Millis, RestartPolicy, ScheduleSpec, ServiceVersion,
    UnixMillis,
};

use super::run::{RUN, app_of, constraints, renamed};
use crate::{
    error::ApiError,
    marathon::{ParseMode, app_from_value},
    read::{Errors, Obj, kind},
};

/// Least CPUs and memory of a run, as Metronome has it.
const MIN_CPUS: f64 = 0.01;
const MIN_MEM: f64 = 32.0;
const DEFAULT_DEADLINE: Millis = Millis::from_secs(900);
const DEFAULT_LAUNCH_DELAY: Millis = Millis::from_secs(3600);

/// Where a definition comes from.
#[derive(Debug, Clone, Copy, Default)]
pub struct JobParse<'a> {
    /// The id of the path; a body's id must agree, or may be left out.
    pub id: Option<&'a JobId>,
    /// Whether its `schedules` are read (`/v0`), or ignored (`/v1`, where they have paths of their own).
    pub schedules: bool,
}

/// A definition as a JSON value to a spec. What breaks a rule is a 422 that names all fields. `now` becomes the version.
pub fn job_from_value(
    value: &Value,
    parse: JobParse<'_>,
    now: UnixMillis,
) -> Result<JobSpec, ApiError> {
    let Value::Object(given) = value else {
        let rule = format!("must be an object, is {}", kind(value));
        return Err(ApiError::invalid("job", rule));
    };
    let (obj, errs) = (Obj::root(given), &mut Errors::default());
    obj.only(
        &[
            "id",
            "description",
            "labels",
            "run",
            "dependencies",
            "schedules",
            // What a server writes.
            "activeRuns",
            "history",
            "historySummary",
        ],
        errs,
    );
    let id = job_id(&obj, parse.id, errs);
    let description = obj.string("description", errs);
    let dependencies = dependencies(&obj, errs);
    let schedules = if parse.schedules {
        schedules(&obj, errs)
    } else {
        Vec::new()
    };
    let run = match obj.required("run", errs) {
        Some(v) => Obj::of("run".to_owned(), v, errs),
        None => None,
    };
    let empty = Map::new();
    let run = run.unwrap_or_else(|| Obj::root(&empty));
    run.only(RUN, errs);
    for (key, least) in [("cpus", MIN_CPUS), ("mem", MIN_MEM)] {
        let n = run.get(key).and_then(Value::as_f64);
        if let Some(n) = n.filter(|n| *n < least) {
            errs.add(run.path(key), format!("must be at least {least}, is {n}"));
        }
    }
    let max_launch_delay = run
        .integer("maxLaunchDelay", 1, u32::MAX, errs)
        .map_or(DEFAULT_LAUNCH_DELAY, |s| Millis::from_secs(s.into()));
    let restart = restart(&run, errs);
    let mut app = app_of(&run, errs);
    if let Some(labels) = obj.get("labels") {
        app.insert("labels".to_owned(), labels.clone());
    }
    // An id that reads, so that the other fields are judged whatever the job's is.
    let path = id.as_ref().and_then(|id| id.path().ok());
    let path = path.map_or_else(|| "/job".to_owned(), |p| p.to_string());
    app.insert("id".to_owned(), json!(path));
    let docker = run.get("docker").is_some();
    let spec = app_from_value(&Value::Object(app), ParseMode::Create, now)
        .map_err(|e| {
            for e in renamed(&e, docker) {
                errs.push(e);
            }
        })
        .ok();
    match (id, spec) {
        (Some(id), Some(spec)) if errs.is_empty() => Ok(JobSpec {
            id,
            description,
            dependencies,
            run: waggle_types::ServiceSpec {
                version: ServiceVersion(now),
                ..spec
            },
            max_launch_delay,
            restart,
            schedules,
        }),
        _ => Err(ApiError::all_invalid(errs.as_slice())),
    }
}

fn job_id(obj: &Obj<'_>, path: Option<&JobId>, errs: &mut Errors) -> Option<JobId> {
    let before = errs.count();
    let given = obj.string("id", errs);
    match (given.as_deref().map(JobId::new), path) {
        (Some(Err(e)), _) => {
            errs.add("id", e.to_string());
            None
        }
        (Some(Ok(id)), Some(path)) if id != *path => {
            errs.add("id", format!("must be {path} as in the path, is {id}"));
            None
        }
        (Some(Ok(id)), _) => Some(id),
        (None, Some(path)) => Some(path.clone()),
        (None, None) => {
            if errs.count() == before {
                errs.add("id", "must be set");
            }
            None
        }
    }
}

fn dependencies(obj: &Obj<'_>, errs: &mut Errors) -> BTreeSet<JobId> {
    let mut out = BTreeSet::new();
    let items = obj.list("dependencies", errs).unwrap_or_default();
    for (i, v) in items.iter().enumerate() {
        let at = format!("dependencies[{i}]");
        let Some(one) = Obj::of(at, v, errs) else {
            continue;
        };
        one.only(&["id"], errs);
        one.required("id", errs);
        match one.string("id", errs).as_deref().map(JobId::new) {
            Some(Ok(id)) => {
                out.insert(id);
            }
            Some(Err(e)) => errs.add(one.path("id"), e.to_string()),
            None => {}
        }
    }
    out
}

fn restart(run: &Obj<'_>, errs: &mut Errors) -> RestartPolicy {
    let Some(r) = run.object("restart", errs) else {
        return RestartPolicy::Never;
    };
    r.only(&["policy", "activeDeadlineSeconds"], errs);
    let deadline = r.integer("activeDeadlineSeconds", 0, u32::MAX, errs);
    let active_deadline = deadline.map(|s| Millis::from_secs(s.into()));
    match r.string("policy", errs).as_deref() {
        // A deadline has no meaning then.
        None | Some("NEVER") => RestartPolicy::Never,
        Some("ON_FAILURE") => RestartPolicy::OnFailure { active_deadline },
        Some(other) => {
            let rule = format!("must be NEVER or ON_FAILURE, is {other:?}");
            errs.add(r.path("policy"), rule);
            RestartPolicy::Never
        }
    }
}

fn schedules(obj: &Obj<'_>, errs: &mut Errors) -> Vec<ScheduleSpec> {
    let items = obj.list("schedules", errs).unwrap_or_default();
    let mut out = Vec::new();
    for (i, v) in items.iter().enumerate() {
        if let Some(s) = Obj::of(format!("schedules[{i}]"), v, errs) {
            out.extend(schedule(&s, None, errs));
        }
    }
    out
}

/// A schedule by itself; `id` is the path's. Cron and time zone are judged where they are understood, in the master.
pub fn schedule_from_value(value: &Value, id: Option<&str>) -> Result<ScheduleSpec, ApiError> {
    let errs = &mut Errors::default();
    let read = match value {
        Value::Object(map) => schedule(&Obj::root(map), id, errs),
        other => {
            let rule = format!("must be an object, is {}", kind(other));
            errs.add("schedule", rule);
            None
        }
    };
    match read {
        Some(s) if errs.is_empty() => Ok(s),
        _ => Err(ApiError::all_invalid(errs.as_slice())),
    }
}

fn schedule(s: &Obj<'_>, path: Option<&str>, errs: &mut Errors) -> Option<ScheduleSpec> {
    s.only(
        &[
            "id",
            "cron",
            "timezone",
            // As some clients write it.
            "timeZone",
            "startingDeadlineSeconds",
            "concurrencyPolicy",
            "enabled",
            "nextRunAt",
        ],
        errs,
    );
    let given = s.string("id", errs);
    let id = match (given, path) {
        (Some(given), Some(path)) if given != path => {
            let rule = format!("must be {path} as in the path, is {given}");
            errs.add(s.path("id"), rule);
            None
        }
        (Some(given), _) => Some(given),
        (None, Some(path)) => Some(path.to_owned()),
        (None, None) => {
            s.required("id", errs);
            None
        }
    };
    s.required("cron", errs);
    let cron = s.string("cron", errs);
    let zone = s.string("timezone", errs);
    let zone = zone.or_else(|| s.string("timeZone", errs));
    let deadline = s.integer("startingDeadlineSeconds", 1, u32::MAX, errs);
    let concurrency = match s.string("concurrencyPolicy", errs).as_deref() {
        None | Some("ALLOW") => Concurrency::Allow,
        Some("FORBID") => Concurrency::Forbid,
        Some(other) => {
            let rule = format!("must be ALLOW or FORBID, is {other:?}");
            errs.add(s.path("concurrencyPolicy"), rule);
            Concurrency::Allow
        }
    };
    Some(ScheduleSpec {
        id: id?,
        cron: cron?,
        time_zone: zone
            .filter(|z| !z.is_empty())
            .unwrap_or_else(|| "UTC".to_owned()),
        starting_deadline: deadline.map_or(DEFAULT_DEADLINE, |secs| Millis::from_secs(secs.into())),
        concurrency,
        enabled: s.boolean("enabled", errs).unwrap_or(true),
    })
}

/// What is asked for one run alone: `{"env": {..}, "placement": {"constraints": [..]}}`; `null` asks for nothing.
#[allow(clippy::type_complexity, reason = "two fields of one call")]
pub fn overrides_from_value(
    value: &Value,
) -> Result<(BTreeMap<String, String>, Option<Vec<Vec<String>>>), ApiError> {
    let map = match value {
        Value::Null => return Ok((BTreeMap::new(), None)),
        Value::Object(map) => map,
        other => {
            let rule = format!("must be an object, is {}", kind(other));
            return Err(FieldError::new("run", rule).into());
        }
    };
    let (obj, errs) = (Obj::root(map), &mut Errors::default());
    obj.only(&["env", "placement"], errs);
    let env = obj.string_map("env", errs).unwrap_or_default();
    for key in env.keys().filter(|k| k.contains('=')) {
        errs.add("env", format!("key must not hold =, is {key:?}"));
    }
    let placement = obj.object("placement", errs);
    let constraints = placement.map(|p| {
        p.only(&["constraints"], errs);
        constraints(&p, errs)
    });
    if errs.is_empty() {
        Ok((env, constraints))
    } else {
        Err(ApiError::all_invalid(errs.as_slice()))
    }
}
