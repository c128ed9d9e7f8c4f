//! A run in the words of an app, and back.
//!
//! | a job's | an app's |
//! |---|---|
//! | `artifacts` | `fetch` |
//! | `docker`, `ucr` | `container` of type `DOCKER`, `MESOS` |
//! | `volumes` | `container.volumes` |
//! | `placement.constraints` | `constraints`; `EQ` is `IS` |
//! | `cmd`, `args`, `env`, `secrets`, `user`, `cpus`, `mem`, `disk`, `gpus`, `networks`, `taskKillGracePeriodSeconds` | the same |

use serde_json::{Map, Value, json};
use waggle_types::{FieldError, ServiceSpec};

use crate::{
    error::ApiError,
    marathon::spec_to_json,
    read::{Errors, Obj},
};

/// Keys that mean the same in both.
const SAME: [&str; 12] = [
    "args",
    "cmd",
    "cpus",
    "disk",
    "env",
    "gpus",
    "mem",
    "networks",
    "secrets",
    "taskKillGracePeriodSeconds",
    "user",
    "labels",
];

/// Every key of a run.
pub(super) const RUN: &[&str] = &[
    "args",
    "artifacts",
    "cmd",
    "cpus",
    "disk",
    "docker",
    "env",
    "gpus",
    "maxLaunchDelay",
    "mem",
    "networks",
    "placement",
    "restart",
    "secrets",
    "taskKillGracePeriodSeconds",
    "ucr",
    "user",
    "volumes",
];

/// The app that runs once what the run says; what has no place in one is an error.
pub(super) fn app_of(run: &Obj<'_>, errs: &mut Errors) -> Map<String, Value> {
    let mut app = Map::new();
    for key in SAME {
        if let Some(v) = run.get(key) {
            app.insert(key.to_owned(), v.clone());
        }
    }
    if let Some(v) = run.get("artifacts") {
        app.insert("fetch".to_owned(), v.clone());
    }
    container_of(run, &mut app, errs);
    if let Some(p) = run.object("placement", errs) {
        p.only(&["constraints"], errs);
        let all = constraints(&p, errs);
        app.insert("constraints".to_owned(), json!(all));
    }
    app
}

fn container_of(run: &Obj<'_>, app: &mut Map<String, Value>, errs: &mut Errors) {
    let (docker, ucr) = (run.object("docker", errs), run.object("ucr", errs));
    let mut container = Map::new();
    let mut inner = Map::new();
    let mut take = |from: &Obj<'_>, key: &str, to: &str| {
        if let Some(v) = from.get(key) {
            inner.insert(to.to_owned(), v.clone());
        }
    };
    match (&docker, &ucr) {
        (Some(_), Some(_)) => {
            errs.add(run.path("ucr"), "must not be set together with docker");
        }
        (Some(d), None) => {
            let keys = ["image", "forcePullImage", "privileged", "parameters"];
            d.only(&keys, errs);
            d.required("image", errs);
            for key in keys {
                take(d, key, key);
            }
            container.insert("type".to_owned(), json!("DOCKER"));
        }
        (None, Some(u)) => {
            u.only(&["image", "privileged"], errs);
            take(u, "privileged", "privileged");
            if u.required("image", errs).is_some()
                && let Some(image) = u.object("image", errs)
            {
                image.only(&["id", "kind", "forcePull"], errs);
                image.required("id", errs);
                take(&image, "id", "image");
                take(&image, "forcePull", "forcePullImage");
                let kind = image.string("kind", errs);
                if let Some(kind) = kind.filter(|k| k != "docker") {
                    let rule = format!("only docker images are supported, is {kind:?}");
                    errs.add(image.path("kind"), rule);
                }
            }
            container.insert("type".to_owned(), json!("MESOS"));
        }
        (None, None) => {}
    }
    if !inner.is_empty() {
        container.insert("docker".to_owned(), Value::Object(inner));
    }
    if let Some(volumes) = run.get("volumes").filter(|v| **v != json!([])) {
        container.entry("type").or_insert(json!("MESOS"));
        container.insert("volumes".to_owned(), volumes.clone());
    }
    if !container.is_empty() {
        app.insert("container".to_owned(), Value::Object(container));
    }
}

/// `placement.constraints` as Marathon writes them.
pub(super) fn constraints(placement: &Obj<'_>, errs: &mut Errors) -> Vec<Vec<String>> {
    let items = placement.list("constraints", errs).unwrap_or_default();
    let mut out = Vec::new();
    for (i, v) in items.iter().enumerate() {
        let at = format!("{}[{i}]", placement.path("constraints"));
        let Some(c) = Obj::of(at, v, errs) else {
            continue;
        };
        c.only(&["attribute", "operator", "value"], errs);
        c.required("attribute", errs);
        c.required("operator", errs);
        let attribute = c.string("attribute", errs).unwrap_or_default();
        let operator = c.string("operator", errs).unwrap_or_default();
        let operator = match operator.as_str() {
            "EQ" | "IS" => "IS",
            "LIKE" | "UNLIKE" => &operator,
            "" => continue,
            other => {
                let rule = format!("must be IS, EQ, LIKE or UNLIKE, is {other:?}");
                errs.add(c.path("operator"), rule);
                continue;
            }
        };
        let value = c.string("value", errs).unwrap_or_default();
        out.push(vec![attribute, operator.to_owned(), value]);
    }
    out
}

/// The run that `app_of` makes such an app of.
pub(super) fn run_of(spec: &ServiceSpec) -> Map<String, Value> {
    let app: Map<String, Value> = serde_json::from_str(&spec_to_json(spec)).unwrap_or_default();
    let mut run = Map::new();
    let kept = SAME.iter().filter(|k| **k != "labels");
    for key in kept {
        if let Some(v) = app.get(*key) {
            run.insert((*key).to_owned(), v.clone());
        }
    }
    let list = |key: &str| app.get(key).cloned().unwrap_or_else(|| json!([]));
    run.insert("artifacts".to_owned(), list("fetch"));
    let constraints = spec.constraints.iter().map(|c| {
        let part = |i: usize| c.get(i).cloned().unwrap_or_default();
        json!({"attribute": part(0), "operator": part(1), "value": part(2)})
    });
    let constraints: Vec<Value> = constraints.collect();
    run.insert(
        "placement".to_owned(),
        json!({ "constraints": constraints }),
    );
    let container = app.get("container");
    let volumes = container.and_then(|c| c.get("volumes")).cloned();
    run.insert("volumes".to_owned(), volumes.unwrap_or_else(|| json!([])));
    if let Some(Value::Object(docker)) = container.and_then(|c| c.get("docker")) {
        let get = |key: &str| docker.get(key).cloned().unwrap_or(Value::Null);
        let of_docker = container.and_then(|c| c.get("type")) == Some(&json!("DOCKER"));
        if of_docker {
            run.insert("docker".to_owned(), Value::Object(docker.clone()));
        } else {
            let image = json!({
                "id": get("image"),
                "kind": "docker",
                "forcePull": get("forcePullImage"),
            });
            let ucr = json!({"image": image, "privileged": get("privileged")});
            run.insert("ucr".to_owned(), ucr);
        }
    }
    run
}

/// Errors of the app, about the job's fields.
pub(super) fn renamed(e: &ApiError, docker: bool) -> Vec<FieldError> {
    let all = e.fields().into_iter();
    all.map(|e| FieldError::new(job_field(&e.field, docker), e.rule))
        .collect()
}

fn job_field(field: &str, docker: bool) -> String {
    if field == "id" || field.starts_with("labels") {
        return field.to_owned();
    }
    if let Some(rest) = field.strip_prefix("fetch") {
        return format!("run.artifacts{rest}");
    }
    if let Some(rest) = field.strip_prefix("constraints") {
        let rest = ["[0]", "[1]", "[2]"]
            .iter()
            .zip([".attribute", ".operator", ".value"])
            .find_map(|(idx, name)| {
                Some(format!("{}{name}", rest.strip_suffix(idx)?)).filter(|r| r.contains('['))
            })
            .unwrap_or_else(|| rest.to_owned());
        return format!("run.placement.constraints{rest}");
    }
    let Some(rest) = field.strip_prefix("container.") else {
        return format!("run.{field}");
    };
    match rest.strip_prefix("docker.") {
        Some(rest) if docker => format!("run.docker.{rest}"),
        Some("image") => "run.ucr.image.id".to_owned(),
        Some("forcePullImage") => "run.ucr.image.forcePull".to_owned(),
        Some(rest) => format!("run.ucr.{rest}"),
        None => format!("run.{rest}"),
    }
}
