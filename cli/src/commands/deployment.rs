//! `waggle deployment ...`: what is being changed, how far it is, and the way back.

use anyhow::{Context, anyhow};
use serde_json::Value;
use waggle_api::native::DeploymentView;

use super::{encode_path, fetch_list, items, print, print_json, text, wait};
use crate::{
    args::{DeploymentCommand, DeploymentSub},
    client::Client,
    config,
    error::CliError,
    table::Table,
    times,
};

/// Services that a line names.
const NAMED: usize = 3;

/// Runs `waggle deployment ...`.
pub async fn run(command: DeploymentCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.marathon)?;
    let json = command.output.json;
    match command.command {
        DeploymentSub::List => {
            let master = Client::new(&command.output.master)?;
            list(&master, json).await
        }
        DeploymentSub::Show { id } => {
            let master = Client::new(&command.output.master)?;
            show(&client, &master, &id, json).await
        }
        DeploymentSub::Rollback { id } => {
            let path = format!("/v2/deployments/{}", encode_path(&id));
            started(&client.delete(&path).await?, json)
        }
        DeploymentSub::Cancel { id } => {
            let path = format!("/v2/deployments/{}?force=true", encode_path(&id));
            client.delete(&path).await?;
            print(&format!("deployment {id} is cancelled\n"))
        }
        DeploymentSub::Watch { id, timeout } => {
            let timeout = config::positive("timeout", &timeout)?;
            let master = Client::new(&command.output.master)?;
            wait::deployment(&client, &master, &id, timeout).await?;
            print(&format!("deployment {id} is over\n"))
        }
    }
}

/// Prints what an answer started.
pub(super) fn started(answer: &Value, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return print_json(answer);
    }
    let id = answer["deploymentId"]
        .as_str()
        .context("the answer names no deployment")?;
    print(&format!("deployment {id} started\n"))
}

async fn find(client: &Client, id: &str) -> Result<Option<Value>, CliError> {
    let Value::Array(all) = client.get("/v2/deployments").await? else {
        return Err(anyhow!("/v2/deployments is no list; is that a waggle master?").into());
    };
    Ok(all.into_iter().find(|d| text(d, "id") == id))
}

async fn list(master: &Client, as_json: bool) -> Result<(), CliError> {
    let (answer, all) = fetch_list::<DeploymentView>(master, "/waggle/v1/deployments").await?;
    if as_json {
        return print_json(&answer);
    }
    let now = times::now();
    let mut table = Table::new(&["id", "apps", "step", "for", "waiting for"]);
    for d in all {
        let more = d.services.len().saturating_sub(NAMED);
        let mut apps = d.services[..d.services.len() - more].join(", ");
        if more > 0 {
            apps.push_str(&format!(" and {more} more"));
        }
        table.row([
            d.id,
            apps,
            format!("{}/{}", d.step, d.total_steps),
            age(now, d.since_ms),
            d.waiting_for,
        ]);
    }
    print(&table.render())
}

fn age(now: u64, since_ms: u64) -> String {
    format!("{}s", now.saturating_sub(since_ms) / 1000)
}

async fn show(client: &Client, master: &Client, id: &str, as_json: bool) -> Result<(), CliError> {
    let Some(d) = find(client, id).await? else {
        return Err(anyhow!("deployment {id} does not exist, or is over").into());
    };
    if as_json {
        return print_json(&d);
    }
    let (_, all) = fetch_list::<DeploymentView>(master, "/waggle/v1/deployments").await?;
    let mut out = format!(
        "{:<12} {id}\n{:<12} {}\n",
        "id",
        "version",
        text(&d, "version")
    );
    if let Some(view) = all.into_iter().find(|v| v.id == id) {
        let now = times::now();
        out.push_str(&format!("{:<12} {}\n", "for", age(now, view.since_ms)));
        out.push_str(&format!("{:<12} {}\n", "waiting for", view.waiting_for));
        if let Some(at) = view.goes_back_at_ms {
            let left = at.saturating_sub(now) / 1000;
            out.push_str(&format!(
                "{:<12} in {left}s, if the step is not over\n",
                "goes back"
            ));
        }
    }
    print(&format!("{out}\n{}", steps(&d, d["currentStep"].as_u64())))
}

/// Steps with their actions; the one under way is marked.
pub(super) fn steps(plan: &Value, current: Option<u64>) -> String {
    let mut out = String::new();
    for (i, step) in items(plan, "steps").enumerate() {
        let number = i as u64 + 1;
        let mark = match current {
            Some(c) if number < c => " (over)",
            Some(c) if number == c => " (now)",
            _ => "",
        };
        out.push_str(&format!("step {number}{mark}\n"));
        for a in items(step, "actions") {
            // Of one or the other.
            let of = text(a, "app") + &text(a, "pod");
            out.push_str(&format!("  {} {of}\n", text(a, "action")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_are_told_with_where_it_is() {
        let action = |action: &str, app: &str| json!({"action": action, "app": app});
        let plan = json!({"steps": [
            {"actions": [action("StopApplication", "/old")]},
            {"actions": [action("RestartApplication", "/db"), action("ScaleApplication", "/web")]},
            {"actions": [action("ScaleApplication", "/ui")]},
        ]});
        assert_eq!(
            steps(&plan, Some(2)),
            "step 1 (over)\n  StopApplication /old\nstep 2 (now)\n  RestartApplication /db\n  \
             ScaleApplication /web\nstep 3\n  ScaleApplication /ui\n"
        );
        assert_eq!(steps(&json!({"steps": []}), None), "");
    }
}
