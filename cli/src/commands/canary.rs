//! `waggle app canary ...`: a new definition beside the one in force, with a part of its traffic.
//!
//! The canary is an app of its own that says with a label whose canary it is, so that it may have the same VIPs; `LB_WEIGHT`
//! on the ports of both says who gets how many of the new connections. All state is in these two definitions, and every
//! change of them is one request: who dies in between leaves nothing that is half done.

use std::{path::Path, time::Duration};

use anyhow::anyhow;
use serde_json::{Map, Value, json};

use super::{app::app_path, items, print, print_json, text, wait};
use crate::{
    args::{CanaryCommand, CanarySub},
    client::Client,
    config, definition,
    error::{CliError, usage},
    table::Table,
};

/// Label that says whose canary an app is; the master knows it by this name.
const CANARY_OF: &str = "WAGGLE_CANARY_OF";
/// Label of a port: its backends' weight.
const WEIGHT: &str = "LB_WEIGHT";
/// Largest weight that the master takes.
const MAX_WEIGHT: u32 = 1000;

/// Runs `waggle app canary ...`.
pub async fn run(
    client: &Client,
    master: &Client,
    command: CanaryCommand,
    as_json: bool,
) -> Result<(), CliError> {
    match command.command {
        CanarySub::Start {
            id,
            file,
            weight,
            instances,
            timeout,
        } => {
            let timeout = config::positive("timeout", &timeout)?;
            let answer = start(client, &id, &file, weight, instances).await?;
            over(client, master, &answer, timeout).await?;
            show(client, &id, as_json).await
        }
        CanarySub::Weight { id, weight } => {
            let (mut app, mut canary) = both(client, &id).await?;
            weigh(&mut app, &mut canary, Some(weight));
            put(client, &[ports_of(&app), ports_of(&canary)]).await?;
            show(client, &id, as_json).await
        }
        CanarySub::Show { id } => show(client, &id, as_json).await,
        CanarySub::Promote { id, timeout } => {
            let timeout = config::positive("timeout", &timeout)?;
            let (app, mut canary) = both(client, &id).await?;
            let mut next = promoted(&app, &canary);
            weigh(&mut next, &mut canary, None);
            // Whole definitions: what the new one does not say any more goes.
            let answer = put_as(client, &[next, canary], "?partialUpdate=false").await?;
            over(client, master, &answer, timeout).await?;
            remove(client, master, &id, timeout).await?;
            print(&format!(
                "{}: the canary's definition is in force\n",
                text(&app, "id")
            ))
        }
        CanarySub::Abort { id, timeout } => {
            let timeout = config::positive("timeout", &timeout)?;
            let (mut app, mut canary) = both(client, &id).await?;
            weigh(&mut app, &mut canary, None);
            set_weight(&mut canary, Some(0));
            let answer = put(client, &[ports_of(&app), ports_of(&canary)]).await?;
            over(client, master, &answer, timeout).await?;
            remove(client, master, &id, timeout).await?;
            print(&format!("{}: the canary is gone\n", text(&app, "id")))
        }
    }
}

fn canary_id(id: &str) -> String {
    format!("/{}-canary", id.trim_matches('/'))
}

async fn start(
    client: &Client,
    id: &str,
    file: &Path,
    percent: u8,
    instances: u32,
) -> Result<Value, CliError> {
    let given: Value = serde_json::from_str(&definition::read(file)?)
        .map_err(|e| usage(format!("{}: not JSON: {e}", file.display())))?;
    if !given.is_object() {
        return Err(usage(format!(
            "{}: must be an app definition",
            file.display()
        )));
    }
    let mut app = client.get(&app_path(id)).await?["app"].take();
    let mut canary = given;
    canary["id"] = canary_id(id).into();
    canary["instances"] = instances.into();
    let of = text(&app, "id");
    match &mut canary["labels"] {
        Value::Object(labels) => {
            labels.insert(CANARY_OF.to_owned(), of.clone().into());
        }
        other => *other = json!({ CANARY_OF: of }),
    }
    if !vips(&app).iter().any(|v| vips(&canary).contains(v)) {
        let rule = format!("it must have a VIP of {of} ({})", vips(&app).join(", "));
        return Err(usage(format!("{}: {rule}", file.display())));
    }
    any_service_ports(&mut canary);
    weigh(&mut app, &mut canary, Some(percent));
    put(client, &[ports_of(&app), canary]).await
}

/// The app and its canary.
async fn both(client: &Client, id: &str) -> Result<(Value, Value), CliError> {
    let app = client.get(&app_path(id)).await?["app"].take();
    let canary = client.get(&app_path(&canary_id(id))).await?["app"].take();
    if canary["labels"][CANARY_OF] != app["id"] {
        let (canary, app) = (text(&canary, "id"), text(&app, "id"));
        return Err(anyhow!("{canary} is no canary of {app}, it has no label {CANARY_OF}").into());
    }
    Ok((app, canary))
}

/// A service port is one app's: it is left to the master.
fn any_service_ports(app: &mut Value) {
    for port in ports_mut(app) {
        for key in ["port", "servicePort"] {
            if port.contains_key(key) {
                port.insert(key.to_owned(), 0.into());
            }
        }
    }
}

/// Both are changed, or none.
async fn put(client: &Client, apps: &[Value]) -> Result<Value, CliError> {
    put_as(client, apps, "").await
}

async fn put_as(client: &Client, apps: &[Value], query: &str) -> Result<Value, CliError> {
    let body = Value::Array(apps.to_vec()).to_string();
    client.put(&format!("/v2/apps{query}"), body).await
}

async fn over(
    client: &Client,
    master: &Client,
    answer: &Value,
    timeout: Duration,
) -> Result<(), CliError> {
    wait::deployment(client, master, &text(answer, "deploymentId"), timeout).await
}

async fn remove(
    client: &Client,
    master: &Client,
    id: &str,
    timeout: Duration,
) -> Result<(), CliError> {
    let answer = client.delete(&app_path(&canary_id(id))).await?;
    over(client, master, &answer, timeout).await
}

/// The canary's definition under the app's name, with as many instances as the app has.
fn promoted(app: &Value, canary: &Value) -> Value {
    let mut next = canary.clone();
    next["id"] = app["id"].clone();
    next["instances"] = app["instances"].clone();
    if let Some(labels) = next["labels"].as_object_mut() {
        labels.remove(CANARY_OF);
    }
    // Its service ports are the app's again, by position; what it has more gets others than the canary's.
    any_service_ports(&mut next);
    let old: Vec<Map<String, Value>> = ports(app).cloned().collect();
    for (new, old) in ports_mut(&mut next).into_iter().zip(old) {
        for key in ["port", "servicePort"] {
            if let Some(port) = old.get(key) {
                new.insert(key.to_owned(), port.clone());
            }
        }
    }
    next
}

/// Only what weights are in: the rest of a definition stays as it is.
fn ports_of(app: &Value) -> Value {
    let mut out = json!({ "id": app["id"] });
    for key in ["portDefinitions", "container"] {
        if !app[key].is_null() {
            out[key] = app[key].clone();
        }
    }
    out
}

/// Port definitions and mappings.
fn ports(app: &Value) -> impl Iterator<Item = &Map<String, Value>> {
    let definitions = items(app, "portDefinitions");
    let mappings = items(&app["container"], "portMappings");
    definitions.chain(mappings).filter_map(Value::as_object)
}

fn ports_mut(app: &mut Value) -> Vec<&mut Map<String, Value>> {
    let Some(app) = app.as_object_mut() else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for (key, value) in app {
        let list = match key.as_str() {
            "portDefinitions" => Some(value),
            "container" => value.get_mut("portMappings"),
            _ => None,
        };
        let all = list.and_then(Value::as_array_mut).into_iter().flatten();
        out.extend(all.filter_map(Value::as_object_mut));
    }
    out
}

fn is_vip(key: &str) -> bool {
    key.starts_with("VIP") || key.starts_with("vip")
}

/// Values of the VIP labels of an app's ports.
fn vips(app: &Value) -> Vec<String> {
    let labels = ports(app).filter_map(|p| p.get("labels")?.as_object());
    let vips = labels.flatten().filter(|(k, _)| is_vip(k));
    vips.filter_map(|(_, v)| v.as_str().map(str::to_owned))
        .collect()
}

/// Sets the weight of the ports that have a VIP; without one they have that of every backend.
fn set_weight(app: &mut Value, weight: Option<u32>) {
    for port in ports_mut(app) {
        let Some(labels) = port.get_mut("labels").and_then(Value::as_object_mut) else {
            continue;
        };
        if !labels.keys().any(|k| is_vip(k)) {
            continue;
        }
        match weight {
            Some(w) => labels.insert(WEIGHT.to_owned(), w.to_string().into()),
            None => labels.remove(WEIGHT),
        };
    }
}

/// Sets the weights of both so that the canary's instances together get a part of the connections.
fn weigh(app: &mut Value, canary: &mut Value, percent: Option<u8>) {
    let n = |app: &Value| app["instances"].as_u64().unwrap_or(1);
    let weights = percent.map(|p| weights(p, n(app), n(canary)));
    set_weight(app, weights.map(|w| w.0));
    set_weight(canary, weights.map(|w| w.1));
}

/// Weights of an instance of the app, and of one of the canary: as near to the part as whole numbers allow, and 0 only where
/// nothing is asked for.
fn weights(percent: u8, n_app: u64, n_canary: u64) -> (u32, u32) {
    match percent {
        0 => return (MAX_WEIGHT, 0),
        100.. => return (0, MAX_WEIGHT),
        _ => {}
    }
    let (n_app, n_canary) = (n_app.max(1) as f64, n_canary.max(1) as f64);
    let wanted = f64::from(percent) / 100.0;
    let ratio = wanted * n_app / ((1.0 - wanted) * n_canary);
    let best = (1..=MAX_WEIGHT).map(|app| {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and the largest weight"
        )]
        let canary = (f64::from(app) * ratio)
            .round()
            .clamp(1.0, f64::from(MAX_WEIGHT)) as u32;
        let total = f64::from(canary) * n_canary;
        let off = (total / (total + f64::from(app) * n_app) - wanted).abs();
        // A part in a million is none.
        ((off * 1e6).round(), app, canary)
    });
    // Of equals the largest: weights of one VIP are compared with each other.
    let best = best.min_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    best.map_or((MAX_WEIGHT, MAX_WEIGHT), |(_, app, canary)| (app, canary))
}

/// What the canary gets of new connections, in percent, when all instances are healthy.
fn part(app: &Value, canary: &Value) -> f64 {
    let total = |app: &Value| {
        let label = ports(app).find_map(|p| p.get("labels")?.get(WEIGHT)?.as_str());
        let weight = label.and_then(|w| w.parse::<f64>().ok()).unwrap_or(1.0);
        weight * app["instances"].as_f64().unwrap_or(0.0)
    };
    let all = total(app) + total(canary);
    if all == 0.0 {
        return 0.0;
    }
    total(canary) / all * 100.0
}

async fn show(client: &Client, id: &str, as_json: bool) -> Result<(), CliError> {
    let (app, canary) = both(client, id).await?;
    let part = part(&app, &canary);
    if as_json {
        return print_json(&json!({ "app": app, "canary": canary, "canaryPercent": part }));
    }
    let mut table = Table::new(&["id", "tasks", "healthy", "connections", "version"]);
    for (app, part) in [(&app, 100.0 - part), (&canary, part)] {
        let running = app["tasksRunning"].as_u64().unwrap_or(0);
        table.row([
            text(app, "id"),
            format!("{running}/{}", text(app, "instances")),
            text(app, "tasksHealthy"),
            format!("{part:.1}%"),
            text(app, "version"),
        ]);
    }
    print(&table.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_give_the_part_that_is_asked_for() {
        for percent in 0..=100u8 {
            for (n_app, n_canary) in [(1, 1), (9, 1), (3, 2), (50, 1), (10, 10)] {
                let (app, canary) = weights(percent, n_app, n_canary);
                assert!(app <= MAX_WEIGHT && canary <= MAX_WEIGHT);
                assert_eq!((app == 0, canary == 0), (percent == 100, percent == 0));
                // Nearer than by one against the largest they can't come.
                let most = (app, canary) == (1, MAX_WEIGHT);
                let (app, canary) = (
                    f64::from(app) * n_app as f64,
                    f64::from(canary) * n_canary as f64,
                );
                let part = canary / (app + canary) * 100.0;
                let off = (part - f64::from(percent)).abs();
                assert!(
                    off < 0.6 || most,
                    "{percent} of {n_app} and {n_canary}: {part}"
                );
            }
        }
    }

    fn app(id: &str, instances: u32, port: &Value) -> Value {
        json!({"id": id, "instances": instances, "cmd": id,
               "portDefinitions": [port, {"port": 0, "labels": {"x": "y"}}]})
    }

    #[test]
    fn weights_are_set_where_vips_are() {
        let port = json!({"port": 10_000, "labels": {"VIP_0": "/web:80"}});
        let (mut web, mut canary) = (app("/web", 9, &port), app("/web-canary", 1, &port));
        weigh(&mut web, &mut canary, Some(10));
        assert_eq!(web["portDefinitions"][0]["labels"][WEIGHT], "1000");
        assert_eq!(canary["portDefinitions"][0]["labels"][WEIGHT], "1000");
        assert_eq!(web["portDefinitions"][1]["labels"], json!({"x": "y"}));
        assert!((part(&web, &canary) - 10.0).abs() < 0.1);
        weigh(&mut web, &mut canary, None);
        assert_eq!(web["portDefinitions"][0], port);
        let mapped =
            json!({"id": "/m", "container": {"portMappings": [{"labels": {"VIP_0": "/web:80"}}]}});
        let mut other = mapped.clone();
        set_weight(&mut other, Some(7));
        assert_eq!(other["container"]["portMappings"][0]["labels"][WEIGHT], "7");
        assert_eq!(vips(&mapped), ["/web:80"]);
    }

    #[test]
    fn the_canary_s_definition_becomes_the_app_s() {
        let old = json!({"port": 10_000, "labels": {"VIP_0": "/web:80"}});
        let new = json!({"port": 0, "name": "http", "labels": {"VIP_0": "/web:80"}});
        let mut canary = app("/web-canary", 1, &new);
        canary["labels"] = json!({ CANARY_OF: "/web", "team": "bees" });
        let next = promoted(&app("/web", 9, &old), &canary);
        assert_eq!(
            (&next["id"], &next["instances"]),
            (&json!("/web"), &json!(9))
        );
        assert_eq!(next["cmd"], "/web-canary", "the new command");
        assert_eq!(next["labels"], json!({"team": "bees"}));
        assert_eq!(next["portDefinitions"][0]["port"], 10_000);
        assert_eq!(next["portDefinitions"][0]["name"], "http");
    }
}
