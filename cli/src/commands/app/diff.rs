//! `waggle app diff`: what an update would change.

use std::{path::Path, sync::Arc};

use anyhow::anyhow;
use serde_json::{Map, Value, json};
use waggle_api::marathon::spec_to_json;
use waggle_master::core::ServiceChange;
use waggle_types::ServiceSpec;

use super::{app_path, id_of, print, print_json, validate};
use crate::{
    client::Client,
    definition,
    error::{CliError, usage},
};

/// A field that would be another.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    /// Such as `portDefinitions[0].labels.VIP_0`.
    path: String,
    from: Option<Value>,
    to: Option<Value>,
}

/// Prints what would change; ends with 1 when anything would.
pub async fn run(client: &Client, file: &Path, as_json: bool) -> Result<(), CliError> {
    let body = definition::read_value(file)?;
    let id = id_of(file, &body)?;
    let wrong = |all: Vec<String>| usage(format!("{}: {}", file.display(), all.join("\n")));
    let mut new = validate::spec(&body).map_err(wrong)?;
    let old = match client.get(&app_path(&id)).await {
        Ok(answer) => Some(validate::spec(&answer["app"]).map_err(|all| {
            let why = all.join("; ");
            anyhow!("this program does not understand the definition in force: {why}")
        })?),
        Err(CliError::Refused { status: 404, .. }) => None,
        Err(e) => return Err(e),
    };
    if let Some(old) = &old {
        keep_service_ports(old, &mut new);
    }
    let changes = match &old {
        Some(old) => changes(&fields(old), &fields(&new)),
        None => changes(&Value::Object(Map::new()), &fields(&new)),
    };
    let what = deployment(old.as_ref(), &new, &changes);
    if as_json {
        let all = changes
            .iter()
            .map(|c| json!({ "path": c.path, "from": c.from, "to": c.to }));
        let all: Vec<Value> = all.collect();
        print_json(&json!({ "id": new.id.as_str(), "changes": all, "deployment": what.0 }))?;
    } else {
        let lines: String = changes.iter().map(line).collect();
        print(&format!("{lines}{}\n", what.1))?;
    }
    if changes.is_empty() {
        Ok(())
    } else {
        Err(CliError::Ended(1))
    }
}

/// Ports that a file leaves to the master keep the service ports that it gave them.
fn keep_service_ports(old: &ServiceSpec, new: &mut ServiceSpec) {
    if new.require_ports {
        return;
    }
    for (port, had) in new.ports.iter_mut().zip(&old.ports) {
        if port.port == 0 {
            port.port = had.port;
        }
    }
}

/// A definition with every default, without what no definition sets.
fn fields(spec: &ServiceSpec) -> Value {
    let mut all: Value = serde_json::from_str(&spec_to_json(spec)).unwrap_or_default();
    if let Some(all) = all.as_object_mut() {
        all.remove("version");
    }
    all
}

/// Which deployment there would be: a word, and a sentence.
fn deployment(
    old: Option<&ServiceSpec>,
    new: &ServiceSpec,
    changes: &[Change],
) -> (&'static str, String) {
    let id = &new.id;
    let Some(old) = old else {
        return (
            "start",
            format!("{id} is new: {} would start", new.instances),
        );
    };
    if changes.is_empty() {
        return ("none", format!("{id} would stay as it is"));
    }
    if changes.iter().all(|c| c.path == "instances") {
        let (from, to) = (old.instances, new.instances);
        return ("scale", format!("{id} would be scaled from {from} to {to}"));
    }
    let change = ServiceChange {
        before: Some(Arc::new(old.clone())),
        after: Some(Arc::new(new.clone())),
        restart: false,
    };
    if !change.ends_instances() {
        let n = old.instances.min(new.instances);
        let text = format!("{id} would be changed: {n} of its instances go on as they are");
        return ("change", text);
    }
    let healthy = new.upgrade.minimum_health_capacity_milli;
    let over = new.upgrade.maximum_over_capacity_milli;
    let share = |milli: u32| format!("{} %", f64::from(milli) / 10.0);
    let how = format!(
        "at least {} of {} healthy at any time, at most {} more",
        share(healthy),
        new.instances,
        share(over)
    );
    let n = old.instances;
    let text = format!("{id} would be upgraded: its {n} instances are replaced, {how}");
    ("restart", text)
}

/// What differs, field by field, in the order of the fields.
fn changes(from: &Value, to: &Value) -> Vec<Change> {
    let mut out = Vec::new();
    compare(String::new(), Some(from), Some(to), &mut out);
    out
}

fn compare(path: String, from: Option<&Value>, to: Option<&Value>, out: &mut Vec<Change>) {
    match (from, to) {
        (Some(from), Some(to)) if from == to => {}
        (Some(Value::Object(from)), Some(Value::Object(to))) => {
            let mut keys: Vec<&String> = from.keys().chain(to.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let path = match path.as_str() {
                    "" => key.clone(),
                    path => format!("{path}.{key}"),
                };
                compare(path, from.get(key), to.get(key), out);
            }
        }
        (Some(Value::Array(from)), Some(Value::Array(to))) => {
            for i in 0..from.len().max(to.len()) {
                compare(format!("{path}[{i}]"), from.get(i), to.get(i), out);
            }
        }
        (from, to) => out.push(Change {
            path,
            from: from.cloned(),
            to: to.cloned(),
        }),
    }
}

fn line(c: &Change) -> String {
    let path = &c.path;
    match (&c.from, &c.to) {
        (Some(from), Some(to)) => format!("~ {path}: {from} -> {to}\n"),
        (None, Some(to)) => format!("+ {path}: {to}\n"),
        (Some(from), None) => format!("- {path}: {from}\n"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(app: &Value) -> ServiceSpec {
        validate::spec(app).unwrap()
    }

    fn web() -> Value {
        json!({"id": "/web", "cmd": "nginx", "instances": 2, "env": {"A": "1"},
            "portDefinitions": [{"port": 0, "labels": {"VIP_0": "/web:80"}}]})
    }

    fn told(from: &Value, to: &Value) -> (String, &'static str, String) {
        let (from, mut to) = (spec(from), spec(to));
        keep_service_ports(&from, &mut to);
        let all = changes(&fields(&from), &fields(&to));
        let (word, sentence) = deployment(Some(&from), &to, &all);
        (all.iter().map(line).collect(), word, sentence)
    }

    #[test]
    fn what_changes_is_told_by_field() {
        assert_eq!(told(&web(), &web()).1, "none");
        let mut more = web();
        more["instances"] = 5.into();
        let (lines, word, sentence) = told(&web(), &more);
        assert_eq!((lines.as_str(), word), ("~ instances: 2 -> 5\n", "scale"));
        assert_eq!(sentence, "/web would be scaled from 2 to 5");
        let mut other = web();
        other["env"] = json!({"B": "2"});
        other["portDefinitions"][0]["labels"]["VIP_0"] = "/web:81".into();
        let ports = other["portDefinitions"].as_array_mut().unwrap();
        ports.push(json!({"port": 0}));
        other["upgradeStrategy"] = json!({"minimumHealthCapacity": 0.5});
        let (lines, word, sentence) = told(&web(), &other);
        assert_eq!(word, "restart");
        assert_eq!(
            lines,
            "- env.A: \"1\"\n+ env.B: \"2\"\n\
             ~ portDefinitions[0].labels.VIP_0: \"/web:80\" -> \"/web:81\"\n\
             + portDefinitions[1]: {\"labels\":{},\"port\":0,\"protocol\":\"tcp\"}\n\
             ~ upgradeStrategy.minimumHealthCapacity: 1 -> 0.5\n"
        );
        assert_eq!(
            sentence,
            "/web would be upgraded: its 2 instances are replaced, at least 50 % of 2 healthy at any time, at most 100 % more"
        );
    }

    #[test]
    fn what_tasks_do_not_hear_of_replaces_none() {
        let mut rules = web();
        rules["upgradeStrategy"] = json!({"minimumHealthCapacity": 0.5});
        rules["backoffSeconds"] = 5.into();
        rules["dependencies"] = json!(["/db"]);
        let (_, word, sentence) = told(&web(), &rules);
        assert_eq!(word, "change");
        assert_eq!(
            sentence,
            "/web would be changed: 2 of its instances go on as they are"
        );
        // Where they may be is for all of them.
        rules["constraints"] = json!([["hostname", "UNIQUE"]]);
        assert_eq!(told(&web(), &rules).1, "restart");
    }

    #[test]
    fn a_service_port_that_the_master_gave_is_no_change() {
        let mut there = web();
        there["portDefinitions"][0]["port"] = 10_042.into();
        assert_eq!(told(&there, &web()).1, "none");
        let mut asked = web();
        asked["portDefinitions"][0]["port"] = 10_043.into();
        assert_eq!(told(&there, &asked).1, "change");
        // Where it is asked of nodes it is what it says.
        let mut required = web();
        required["requirePorts"] = true.into();
        let (lines, ..) = told(&there, &required);
        assert!(
            lines.contains("portDefinitions[0].port: 10042 -> 0"),
            "{lines}"
        );
    }

    #[test]
    fn defaults_that_are_written_out_are_no_change() {
        let mut written = web();
        written["cpus"] = 1.0.into();
        written["mem"] = 128.into();
        written["backoffFactor"] = 1.15.into();
        assert_eq!(told(&web(), &written).1, "none");
    }
}
