//! `waggle task ...`: tasks from the master, their output from their agents.

use std::time::Duration;

use waggle_api::native::{TaskView, by_prefix};

use super::{fetch_list, files, print, print_bytes, print_json, segment};
use crate::{
    args::{TaskCommand, TaskSub},
    client::Client,
    error::CliError,
    table::Table,
};

/// Between two looks at a task's output.
const POLL: Duration = Duration::from_millis(300);
/// Most bytes of output asked for at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Runs `waggle task ...`.
pub async fn run(command: TaskCommand) -> Result<(), CliError> {
    let master = Client::new(&command.output.master)?;
    // What is inside of a task: from its agent, or by the master, which passes it on.
    let inside = match &command.agent {
        Some(agent) => Client::new(agent)?,
        None => Client::new(&command.output.master)?,
    };
    match command.command {
        TaskSub::List { service } => {
            let (answer, tasks) = fetch_list::<TaskView>(&master, "/waggle/v1/tasks").await?;
            if command.output.json && service.is_none() {
                return print_json(&answer);
            }
            list(tasks, service.as_deref(), command.output.json)
        }
        TaskSub::Log {
            id,
            stderr,
            lines,
            follow,
        } => {
            let stream = if stderr { "stderr" } else { "stdout" };
            log(&inside, &id, stream, lines, follow).await
        }
        TaskSub::Ls { id, path } => files::ls(&inside, &id, &path, command.output.json).await,
        TaskSub::Cat { id, path } => files::cat(&inside, &id, &path).await,
        TaskSub::Download { id, path, to } => files::download(&inside, &id, &path, to).await,
    }
}

fn list(tasks: Vec<TaskView>, service: Option<&str>, as_json: bool) -> Result<(), CliError> {
    let wanted =
        |t: &TaskView| service.is_none_or(|s| t.service.trim_matches('/') == s.trim_matches('/'));
    let tasks: Vec<TaskView> = tasks.into_iter().filter(wanted).collect();
    if as_json {
        return print_json(&serde_json::json!(tasks));
    }
    let mut table = Table::new(&["task", "state", "health", "node", "ports", "message"]);
    for t in tasks {
        let ports: Vec<String> = t.ports.iter().map(u16::to_string).collect();
        let state = t.state.trim_start_matches("TASK_").to_lowercase();
        let health = if t.health == "unknown" {
            String::new()
        } else {
            t.health
        };
        table.row([t.id, state, health, t.hostname, ports.join(","), t.message]);
    }
    print(&table.render())
}

async fn log(
    inside: &Client,
    id: &str,
    stream: &str,
    lines: usize,
    follow: bool,
) -> Result<(), CliError> {
    let path = format!("/waggle/v1/tasks/{}/log/{stream}", segment("task", id)?);
    let mut offset = show_tail(inside, &path, lines).await?;
    if !follow {
        return Ok(());
    }
    let mut interval = tokio::time::interval(POLL);
    loop {
        interval.tick().await;
        let before = offset;
        offset = show_from(inside, &path, offset).await?;
        if offset == before && !still_there(inside, id).await? {
            return Ok(());
        }
    }
}

/// Masters and agents both list the tasks that have not ended.
async fn still_there(inside: &Client, id: &str) -> Result<bool, CliError> {
    let answer = inside.get("/waggle/v1/tasks").await?;
    let all = answer.as_array().or_else(|| answer["tasks"].as_array());
    let ids = all.into_iter().flatten().filter_map(|t| t["id"].as_str());
    Ok(by_prefix(ids, id).is_ok())
}

/// Prints the last lines; returns the offset behind them.
async fn show_tail(agent: &Client, path: &str, lines: usize) -> Result<u64, CliError> {
    show(agent, &format!("{path}?tail={lines}")).await
}

/// Prints what came after `offset`; returns the offset behind it.
async fn show_from(agent: &Client, path: &str, offset: u64) -> Result<u64, CliError> {
    show(
        agent,
        &format!("{path}?offset={offset}&length={CHUNK_BYTES}"),
    )
    .await
}

async fn show(agent: &Client, path: &str) -> Result<u64, CliError> {
    let (bytes, next) = agent.get_page(path).await?;
    print_bytes(&bytes)?;
    Ok(next)
}
