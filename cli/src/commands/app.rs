//! `waggle app ...`: services through the Marathon API.

use std::{
    io::Read,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use waggle_api::native::DeploymentView;

use super::{canary, encode_path, fetch_list, items, print, print_json, text};
use crate::{
    args::{AppCommand, AppSub},
    client::Client,
    config,
    error::{CliError, usage},
    show::mib,
    table::Table,
};

/// Longest definition that is sent; the server's limit is 1 MiB.
const MAX_DEFINITION_BYTES: u64 = 2 << 20;
/// Between two looks at a deployment.
const POLL: Duration = Duration::from_millis(200);

/// Runs `waggle app ...`.
pub async fn run(command: AppCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.marathon)?;
    let json = command.output.json;
    match command.command {
        AppSub::Add {
            file,
            wait,
            timeout,
        } => {
            let timeout = config::positive("timeout", &timeout)?;
            add(&client, &file, wait.then_some(timeout), json).await
        }
        AppSub::Canary(c) => canary::run(&client, c, json).await,
        AppSub::List => list(&client, json).await,
        AppSub::Show { id } => {
            let master = Client::new(&command.output.master)?;
            show(&client, &master, &id, json).await
        }
        AppSub::Restart { id, force } => {
            let path = format!("{}/restart?force={force}", app_path(&id));
            deployment(&client.post(&path, String::new()).await?, json)
        }
        AppSub::Versions { id, version } => versions(&client, &id, version.as_deref(), json).await,
        AppSub::Rollback { id, version, force } => {
            let body = json!({"version": version}).to_string();
            let path = format!("{}?force={force}", app_path(&id));
            deployment(&client.put(&path, body).await?, json)
        }
        AppSub::Scale {
            id,
            instances,
            force,
        } => {
            // A PUT would take a service that does not exist for a new definition.
            client.get(&app_path(&id)).await?;
            let body = json!({"instances": instances}).to_string();
            let path = format!("{}?force={force}", app_path(&id));
            deployment(&client.put(&path, body).await?, json)
        }
        AppSub::Remove { id, force } => {
            let path = format!("{}?force={force}", app_path(&id));
            deployment(&client.delete(&path).await?, json)
        }
    }
}

pub(super) fn app_path(id: &str) -> String {
    format!("/v2/apps/{}", encode_path(id.trim_matches('/')))
}

async fn add(
    client: &Client,
    file: &Path,
    wait: Option<Duration>,
    as_json: bool,
) -> Result<(), CliError> {
    let body = read_definition(file)?;
    let app = client.post("/v2/apps", body).await?;
    let id = text(&app, "id");
    let deployment_id = items(&app, "deployments").map(|d| text(d, "id")).next();
    if let (Some(timeout), Some(deployment_id)) = (wait, &deployment_id) {
        await_deployment(client, &id, deployment_id, timeout).await?;
        let shown = client.get(&app_path(&id)).await?;
        return if as_json {
            print_json(&shown)
        } else {
            print_app(&shown["app"], &[])
        };
    }
    if as_json {
        return print_json(&app);
    }
    print(&format!(
        "{id}: deployment {} started\n",
        deployment_id.unwrap_or_default()
    ))
}

pub(super) fn read_definition(file: &Path) -> Result<String, CliError> {
    let shown = file.display();
    let mut text = String::new();
    let read = |source: &mut dyn Read, text: &mut String| {
        source.take(MAX_DEFINITION_BYTES).read_to_string(text)
    };
    let result = if file == Path::new("-") {
        read(&mut std::io::stdin().lock(), &mut text)
    } else {
        std::fs::File::open(file).and_then(|mut f| read(&mut f, &mut text))
    };
    result.map_err(|e| usage(format!("{shown}: {e}")))?;
    serde_json::from_str::<Value>(&text).map_err(|e| usage(format!("{shown}: not JSON: {e}")))?;
    Ok(text)
}

async fn await_deployment(
    client: &Client,
    id: &str,
    deployment_id: &str,
    limit: Duration,
) -> Result<(), CliError> {
    let started = Instant::now();
    let mut interval = tokio::time::interval(POLL);
    loop {
        interval.tick().await;
        let running = client.get("/v2/deployments").await?;
        let still = running
            .as_array()
            .into_iter()
            .flatten()
            .any(|d| text(d, "id") == deployment_id);
        if !still {
            return Ok(());
        }
        if started.elapsed() > limit {
            let why = client
                .get("/v2/queue")
                .await
                .map(|q| waiting_for(&q, id))
                .unwrap_or_default();
            return Err(anyhow!(
                "{id}: deployment {deployment_id} is not over after {limit:?}{why}"
            )
            .into());
        }
    }
}

/// What the launch queue says about a service that does not get on.
fn waiting_for(queue: &Value, id: &str) -> String {
    let Some(item) = items(queue, "queue").find(|q| text(&q["app"], "id") == id) else {
        return String::new();
    };
    let mut out = format!("; {} instances wait", text(item, "count"));
    let reasons = items(&item["processedOffersSummary"], "rejectSummaryLastOffers");
    for r in reasons.filter(|r| r["declined"].as_u64().unwrap_or(0) > 0) {
        out.push_str(&format!(
            "\n  {}: {} of {} offers",
            text(r, "reason"),
            r["declined"],
            r["processed"]
        ));
    }
    out
}

async fn list(client: &Client, as_json: bool) -> Result<(), CliError> {
    let answer = client.get("/v2/apps").await?;
    if as_json {
        return print_json(&answer);
    }
    let mut table = Table::new(&["id", "tasks", "healthy", "cpus", "mem", "deploying", "vips"]);
    for app in items(&answer, "apps") {
        table.row([
            text(app, "id"),
            format!(
                "{}/{}",
                app["tasksRunning"].as_u64().unwrap_or(0),
                text(app, "instances")
            ),
            if items(app, "healthChecks").next().is_some() {
                format!(
                    "{}/{}",
                    app["tasksHealthy"].as_u64().unwrap_or(0),
                    text(app, "instances")
                )
            } else {
                String::new()
            },
            text(app, "cpus"),
            mib(app["mem"].as_f64().unwrap_or(0.0)),
            items(app, "deployments")
                .map(|d| text(d, "id"))
                .collect::<Vec<_>>()
                .join(","),
            vip_labels(app).join(","),
        ]);
    }
    print(&table.render())
}

fn vip_labels(app: &Value) -> Vec<String> {
    items(app, "portDefinitions")
        .filter_map(|p| p["labels"].as_object())
        .flatten()
        .filter(|(k, _)| k.starts_with("VIP") || k.starts_with("vip"))
        .filter_map(|(_, v)| v.as_str().map(str::to_owned))
        .collect()
}

async fn show(client: &Client, master: &Client, id: &str, as_json: bool) -> Result<(), CliError> {
    let answer = client.get(&app_path(id)).await?;
    if as_json {
        return print_json(&answer);
    }
    let app = &answer["app"];
    let mut waits = Vec::new();
    if items(app, "deployments").next().is_some() {
        let (_, all) = fetch_list::<DeploymentView>(master, "/waggle/v1/deployments").await?;
        waits = all;
        waits.retain(|d| d.services.contains(&text(app, "id")));
    }
    print_app(app, &waits)
}

async fn versions(
    client: &Client,
    id: &str,
    version: Option<&str>,
    as_json: bool,
) -> Result<(), CliError> {
    let base = format!("{}/versions", app_path(id));
    if let Some(version) = version {
        let path = format!("{base}/{}", encode_path(version));
        return print_json(&client.get(&path).await?);
    }
    let answer = client.get(&base).await?;
    if as_json {
        return print_json(&answer);
    }
    let mut table = Table::new(&["version", ""]);
    for (i, v) in items(&answer, "versions").enumerate() {
        let mark = if i == 0 { "in force" } else { " " };
        table.row([v.as_str().unwrap_or_default().to_owned(), mark.to_owned()]);
    }
    print(&table.render())
}

fn print_app(app: &Value, waits: &[DeploymentView]) -> Result<(), CliError> {
    let mut out = String::new();
    let mut line = |k: &str, v: String| {
        if !v.is_empty() {
            out.push_str(&format!("{k:<12} {v}\n"));
        }
    };
    line("id", text(app, "id"));
    line("version", text(app, "version"));
    line("command", text(app, "cmd"));
    line(
        "args",
        items(app, "args")
            .map(Value::to_string)
            .collect::<Vec<_>>()
            .join(" "),
    );
    line("instances", text(app, "instances"));
    line(
        "tasks",
        format!(
            "{} staged, {} running, {} healthy, {} unhealthy",
            text(app, "tasksStaged"),
            text(app, "tasksRunning"),
            text(app, "tasksHealthy"),
            text(app, "tasksUnhealthy")
        ),
    );
    line(
        "resources",
        format!(
            "cpus {}, mem {}, disk {}",
            text(app, "cpus"),
            mib(app["mem"].as_f64().unwrap_or(0.0)),
            mib(app["disk"].as_f64().unwrap_or(0.0))
        ),
    );
    line("vips", vip_labels(app).join(", "));
    line(
        "deploying",
        items(app, "deployments")
            .map(|d| text(d, "id"))
            .collect::<Vec<_>>()
            .join(", "),
    );
    for d in waits {
        line("waiting for", format!("{} ({})", d.waiting_for, d.kind));
    }
    if let Some(failure) = app["lastTaskFailure"].as_object() {
        let failure = Value::Object(failure.clone());
        line(
            "last failure",
            format!(
                "{} {} on {}: {}",
                text(&failure, "timestamp"),
                text(&failure, "state"),
                text(&failure, "host"),
                text(&failure, "message")
            ),
        );
    }
    let mut table = Table::new(&["task", "state", "healthy", "host", "ports", "started"]);
    for task in items(app, "tasks") {
        let alive: Vec<bool> = items(task, "healthCheckResults")
            .filter_map(|h| h["alive"].as_bool())
            .collect();
        table.row([
            text(task, "id"),
            text(task, "state"),
            if alive.is_empty() {
                String::new()
            } else {
                alive.iter().all(|a| *a).to_string()
            },
            text(task, "host"),
            items(task, "ports")
                .map(Value::to_string)
                .collect::<Vec<_>>()
                .join(","),
            text(task, "startedAt"),
        ]);
    }
    print(&format!("{out}\n{}", table.render()))
}

fn deployment(answer: &Value, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return print_json(answer);
    }
    let id = answer["deploymentId"]
        .as_str()
        .context("the answer names no deployment")?;
    print(&format!("deployment {id} started\n"))
}
