//! `waggle app ...`: services through the Marathon API.

mod diff;
pub mod validate;

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use waggle_api::native::DeploymentView;

use super::{canary, encode_path, fetch_list, items, print, print_json, text, wait};
use crate::{
    args::{AppCommand, AppSub, Wait},
    client::Client,
    config, definition,
    error::{CliError, usage},
    show::mib,
    table::Table,
};

/// Runs `waggle app ...`.
pub async fn run(command: AppCommand) -> Result<(), CliError> {
    let json = command.output.json;
    if let AppSub::Validate { files } = &command.command {
        return validate::run(files, json, validate::app);
    }
    let cluster = Cluster {
        marathon: Client::new(&command.output.marathon)?,
        master: Client::new(&command.output.master)?,
        json,
    };
    let client = &cluster.marathon;
    match command.command {
        AppSub::Add { file, wait } => cluster.add(&file, &wait).await,
        AppSub::Update { file, force, wait } => cluster.update(&file, force, &wait).await,
        AppSub::Diff { file } => diff::run(client, &file, json).await,
        // Needs no cluster.
        AppSub::Validate { .. } => Ok(()),
        AppSub::Canary(c) => canary::run(client, &cluster.master, c, json).await,
        AppSub::List => list(client, json).await,
        AppSub::Show { id } => show(client, &cluster.master, &id, json).await,
        AppSub::Restart { id, force, wait } => {
            let path = format!("{}/restart?force={force}", app_path(&id));
            let answer = client.post(&path, String::new()).await?;
            cluster.deployed(&answer, &wait).await
        }
        AppSub::Versions { id, version } => {
            super::versions(client, &app_path(&id), version.as_deref(), json).await
        }
        AppSub::Rollback {
            id,
            version,
            force,
            wait,
        } => {
            let body = json!({"version": version}).to_string();
            let path = format!("{}?force={force}", app_path(&id));
            let answer = client.put(&path, body).await?;
            cluster.deployed(&answer, &wait).await
        }
        AppSub::Scale {
            id,
            instances,
            force,
            wait,
        } => {
            // A PUT would take a service that does not exist for a new definition.
            client.get(&app_path(&id)).await?;
            let body = json!({"instances": instances}).to_string();
            let path = format!("{}?force={force}", app_path(&id));
            let answer = client.put(&path, body).await?;
            cluster.deployed(&answer, &wait).await
        }
        AppSub::Remove { id, force, wait } => {
            let path = format!("{}?force={force}", app_path(&id));
            let answer = client.delete(&path).await?;
            cluster.deployed(&answer, &wait).await
        }
    }
}

/// Both APIs, and how to print.
struct Cluster {
    marathon: Client,
    master: Client,
    json: bool,
}

impl Cluster {
    async fn add(&self, file: &Path, wait: &Wait) -> Result<(), CliError> {
        let body = definition::read(file)?;
        let limit = config::positive("timeout", &wait.timeout)?;
        let app = self.marathon.post("/v2/apps", body).await?;
        let id = text(&app, "id");
        let deployment_id = items(&app, "deployments").map(|d| text(d, "id")).next();
        if let (true, Some(deployment_id)) = (wait.wait, &deployment_id) {
            let (client, master) = (&self.marathon, &self.master);
            wait::deployment(client, master, deployment_id, limit).await?;
            let shown = client.get(&app_path(&id)).await?;
            return if self.json {
                print_json(&shown)
            } else {
                print_app(&shown["app"], &[])
            };
        }
        if self.json {
            return print_json(&app);
        }
        print(&format!(
            "{id}: deployment {} started\n",
            deployment_id.unwrap_or_default()
        ))
    }

    /// Makes a service what the file says: what is not in it has its default.
    async fn update(&self, file: &Path, force: bool, wait: &Wait) -> Result<(), CliError> {
        let body = definition::read_value(file)?;
        let id = id_of(file, &body)?;
        let path = format!("{}?partialUpdate=false&force={force}", app_path(&id));
        let answer = self.marathon.put(&path, body.to_string()).await?;
        self.deployed(&answer, wait).await
    }

    /// Says which deployment began, or waits for its end.
    async fn deployed(&self, answer: &Value, wait: &Wait) -> Result<(), CliError> {
        let limit = config::positive("timeout", &wait.timeout)?;
        let deployment_id = answer["deploymentId"]
            .as_str()
            .context("the answer names no deployment")?;
        if wait.wait {
            let (client, master) = (&self.marathon, &self.master);
            wait::deployment(client, master, deployment_id, limit).await?;
        }
        if self.json {
            return print_json(answer);
        }
        let how = if wait.wait { "done" } else { "started" };
        print(&format!("deployment {deployment_id} {how}\n"))
    }
}

/// The id that a definition gives itself.
fn id_of(file: &Path, body: &Value) -> Result<String, CliError> {
    match body["id"]
        .as_str()
        .filter(|id| !id.trim_matches('/').is_empty())
    {
        Some(id) => Ok(id.to_owned()),
        None => Err(usage(format!("{}: id: must be set", file.display()))),
    }
}

pub(super) fn app_path(id: &str) -> String {
    format!("/v2/apps/{}", encode_path(id.trim_matches('/')))
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
