//! `waggle group ...`: many services at once through the Marathon API.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    deployment::{started, steps},
    encode_path, items, print, print_json, text, wait,
};
use crate::{
    args::{GroupCommand, GroupSub, Wait},
    client::Client,
    config, definition,
    error::{CliError, usage},
    table::Table,
};

/// Runs `waggle group ...`.
pub async fn run(command: GroupCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.marathon)?;
    let master = Client::new(&command.output.master)?;
    let json = command.output.json;
    match command.command {
        GroupSub::Add { file, wait } => {
            let answer = client.post("/v2/groups", definition::read(&file)?).await?;
            follow(&client, &master, &answer, &wait, json).await
        }
        GroupSub::Update {
            id,
            file,
            dry_run,
            force,
            wait,
        } => {
            if dry_run {
                return plan(&client, &id, &file, force, json).await;
            }
            let path = format!("{}?force={force}", group_path(&id));
            let answer = client.put(&path, definition::read(&file)?).await?;
            follow(&client, &master, &answer, &wait, json).await
        }
        GroupSub::List => list(&client, json).await,
        GroupSub::Show { id } => show(&client, &id, json).await,
        GroupSub::Scale { id, factor, force } => {
            if !factor.is_finite() || factor < 0.0 {
                let rule = format!("factor: must be a number that is not negative, is {factor}");
                return Err(usage(rule));
            }
            let path = format!("{}?force={force}", group_path(&id));
            let body = json!({"scaleBy": factor}).to_string();
            started(&client.put(&path, body).await?, json)
        }
        GroupSub::Versions { id, version } => {
            super::versions(&client, &group_path(&id), version.as_deref(), json).await
        }
        GroupSub::Rollback { id, version, force } => {
            let version = encode_path(&version);
            let path = format!("{}/versions/{version}?force={force}", group_path(&id));
            started(&client.put(&path, String::new()).await?, json)
        }
        GroupSub::Remove { id, force } => {
            if id.trim_matches('/').is_empty() {
                // Everything, by a slip of the pen.
                return Err(usage("id: must not be the root; remove its groups by name"));
            }
            let path = format!("{}?force={force}", group_path(&id));
            started(&client.delete(&path).await?, json)
        }
    }
}

fn group_path(id: &str) -> String {
    format!("/v2/groups/{}", encode_path(id.trim_matches('/')))
}

/// Waits for the deployment that an answer names, if that is wanted.
async fn follow(
    client: &Client,
    master: &Client,
    answer: &Value,
    how: &Wait,
    as_json: bool,
) -> Result<(), CliError> {
    let timeout = config::positive("timeout", &how.timeout)?;
    if !how.wait {
        return started(answer, as_json);
    }
    wait::deployment(client, master, &text(answer, "deploymentId"), timeout).await?;
    if as_json {
        return print_json(answer);
    }
    print(&format!(
        "deployment {} is over\n",
        text(answer, "deploymentId")
    ))
}

async fn plan(
    client: &Client,
    id: &str,
    file: &Path,
    force: bool,
    as_json: bool,
) -> Result<(), CliError> {
    let path = format!("{}?dryRun=true&force={force}", group_path(id));
    let answer = client.put(&path, definition::read(file)?).await?;
    if as_json {
        return print_json(&answer);
    }
    if items(&answer, "steps").next().is_none() {
        return print("nothing would change\n");
    }
    print(&steps(&answer, None))
}

/// Groups, each after the one that holds it.
fn walk<'a>(group: &'a Value, out: &mut Vec<&'a Value>) {
    out.push(group);
    for g in items(group, "groups") {
        walk(g, out);
    }
}

async fn list(client: &Client, as_json: bool) -> Result<(), CliError> {
    let root = client.get("/v2/groups").await?;
    if as_json {
        return print_json(&root);
    }
    let mut all = Vec::new();
    walk(&root, &mut all);
    let mut table = Table::new(&["id", "apps", "pods", "tasks", "depends on", "version"]);
    for g in all {
        let count = |key: &str| {
            items(g, "apps")
                .filter_map(|a| a[key].as_u64())
                .sum::<u64>()
        };
        let on: Vec<&str> = items(g, "dependencies").filter_map(Value::as_str).collect();
        table.row([
            text(g, "id"),
            items(g, "apps").count().to_string(),
            items(g, "pods").count().to_string(),
            format!("{}/{}", count("tasksRunning"), count("instances")),
            on.join(", "),
            text(g, "version"),
        ]);
    }
    print(&table.render())
}

async fn show(client: &Client, id: &str, as_json: bool) -> Result<(), CliError> {
    let group = client.get(&group_path(id)).await?;
    if as_json {
        return print_json(&group);
    }
    let on: Vec<&str> = items(&group, "dependencies")
        .filter_map(Value::as_str)
        .collect();
    let mut out = format!(
        "{:<12} {}\n{:<12} {}\n",
        "id",
        text(&group, "id"),
        "version",
        text(&group, "version")
    );
    if !on.is_empty() {
        out.push_str(&format!("{:<12} {}\n", "depends on", on.join(", ")));
    }
    let mut all = Vec::new();
    walk(&group, &mut all);
    let mut table = Table::new(&["app", "tasks", "depends on", "deploying"]);
    for app in all.iter().flat_map(|g| items(g, "apps")) {
        let words = |key: &str| {
            let all: Vec<&str> = items(app, key).filter_map(Value::as_str).collect();
            all.join(", ")
        };
        table.row([
            text(app, "id"),
            format!(
                "{}/{}",
                app["tasksRunning"].as_u64().unwrap_or(0),
                text(app, "instances")
            ),
            words("dependencies"),
            items(app, "deployments")
                .map(|d| text(d, "id"))
                .collect::<Vec<_>>()
                .join(","),
        ]);
    }
    out.push_str(&format!("\n{}", table.render()));
    let mut table = Table::new(&["pod", "instances", "containers"]);
    let mut any = false;
    for pod in all.into_iter().flat_map(|g| items(g, "pods")) {
        any = true;
        let names: Vec<String> = items(pod, "containers").map(|c| text(c, "name")).collect();
        let instances = text(&pod["scaling"], "instances");
        table.row([text(pod, "id"), instances, names.join(",")]);
    }
    if any {
        out.push_str(&format!("\n{}", table.render()));
    }
    print(&out)
}
