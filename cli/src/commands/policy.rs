//! `waggle policy`.

use serde_json::Value;
use waggle_api::native::{FlowView, PolicyView, SideView};

use super::{decode, encode_query, fetch_list, print, print_json, segment};
use crate::{
    args::{PolicyCommand, PolicySub},
    client::Client,
    definition,
    error::CliError,
    table::Table,
};

const PATH: &str = "/waggle/v1/policies";

/// Runs `waggle policy ...`.
pub async fn run(command: PolicyCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.master)?;
    let json = command.output.json;
    match command.command {
        PolicySub::List => {
            let (answer, all) = fetch_list::<PolicyView>(&client, PATH).await?;
            if json {
                return print_json(&answer);
            }
            print(&table(&all))
        }
        PolicySub::Show { name } => {
            let answer = client
                .get(&format!("{PATH}/{}", segment("name", &name)?))
                .await?;
            if json {
                return print_json(&answer);
            }
            let policy: PolicyView = decode(answer)?;
            let text = serde_json::to_string_pretty(&policy.definition).unwrap_or_default();
            let tasks = if policy.tasks.is_empty() {
                "nobody now".to_owned()
            } else {
                policy.tasks.join(" ")
            };
            print(&format!("{text}\nselects {tasks}\n"))
        }
        PolicySub::Add { file, force } => {
            let body = definition::read(&file)?;
            let parsed: Value = serde_json::from_str(&body).map_err(anyhow::Error::from)?;
            let name = parsed.get("name").and_then(Value::as_str).unwrap_or("-");
            let force = if force { "?force=true" } else { "" };
            let path = format!("{PATH}/{}{force}", segment("name", name)?);
            let answer = client.put(&path, body).await?;
            said(answer, json, "added")
        }
        PolicySub::Remove { name } => {
            let answer = client
                .delete(&format!("{PATH}/{}", segment("name", &name)?))
                .await?;
            said(answer, json, "removed")
        }
        PolicySub::Test { from, to, port } => {
            let query = [("from", &from), ("to", &to), ("port", &port)]
                .map(|(key, value)| format!("{key}={}", encode_query(value)))
                .join("&");
            let answer = client
                .get(&format!("/waggle/v1/policy-test?{query}"))
                .await?;
            if json {
                return print_json(&answer);
            }
            print(&flow(&decode(answer)?))
        }
    }
}

fn said(answer: Value, json: bool, what: &str) -> Result<(), CliError> {
    if json {
        return print_json(&answer);
    }
    let policy: PolicyView = decode(answer)?;
    let n = policy.tasks.len();
    let audit = if policy.audit { ", in audit mode" } else { "" };
    print(&format!(
        "{}: {what}{audit}; selects {n} tasks\n",
        policy.name
    ))
}

fn table(all: &[PolicyView]) -> String {
    let mut table = Table::new(&["policy", "mode", "ingress", "egress", "tasks"]);
    let rules = |n: Option<usize>| match n {
        None => "-".to_owned(),
        Some(0) => "nobody".to_owned(),
        Some(1) => "1 rule".to_owned(),
        Some(n) => format!("{n} rules"),
    };
    for p in all {
        let mode = if p.audit { "audit" } else { "in force" };
        table.row([
            p.name.clone(),
            mode.to_owned(),
            rules(p.ingress_rules),
            rules(p.egress_rules),
            p.tasks.len().to_string(),
        ]);
    }
    table.render()
}

fn flow(flow: &FlowView) -> String {
    let verdict = match (flow.allowed, flow.would_be_allowed) {
        (true, true) => "passes",
        (true, false) => "passes; a policy in audit mode would drop it",
        (false, _) => "is dropped",
    };
    let side = |what: &str, side: &Option<SideView>| match side {
        None => format!("{what}: no task with an address of its own, no policy speaks of it\n"),
        Some(s) if s.selected_by.is_empty() => {
            format!("{what} of {}: open, no policy speaks of it\n", s.task)
        }
        Some(s) => {
            let by = s.selected_by.join(", ");
            let why = match (&s.policy, s.rule) {
                (Some(policy), Some(rule)) => format!("rule {rule} of {policy} allows it"),
                _ => "no rule allows it".to_owned(),
            };
            let verdict = match (s.allowed, s.would_be_allowed) {
                (true, true) => "allowed",
                (true, false) => "allowed, audited",
                (false, _) => "denied",
            };
            format!(
                "{what} of {}: {verdict}, {why} (selected by {by})\n",
                s.task
            )
        }
    };
    format!(
        "{verdict}\n{}{}",
        side("egress", &flow.egress),
        side("ingress", &flow.ingress)
    )
}
