//! `waggle task ...`: tasks from the master, their output from their agents.

use std::time::Duration;

use anyhow::anyhow;
use waggle_api::native::TaskView;

use super::{encode_path, fetch_list, print, print_bytes, print_json};
use crate::{
    args::{TaskCommand, TaskSub},
    client::Client,
    error::{CliError, usage},
    table::Table,
};

/// Between two looks at a task's output.
const POLL: Duration = Duration::from_millis(300);
/// Most bytes of output asked for at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Runs `waggle task ...`.
pub async fn run(command: TaskCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.master)?;
    let (answer, tasks) = fetch_list::<TaskView>(&client, "/waggle/v1/tasks").await?;
    match command.command {
        TaskSub::List { service } if command.output.json && service.is_none() => {
            print_json(&answer)
        }
        TaskSub::List { service } => list(tasks, service.as_deref(), command.output.json),
        TaskSub::Log {
            id,
            stderr,
            lines,
            follow,
        } => {
            let task = find(&tasks, &id)?;
            let stream = if stderr { "stderr" } else { "stdout" };
            log(&client, task, stream, lines, follow).await
        }
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

/// A task by id, or by a prefix that only one has.
fn find<'a>(tasks: &'a [TaskView], id: &str) -> Result<&'a TaskView, CliError> {
    if let Some(exact) = tasks.iter().find(|t| t.id == id) {
        return Ok(exact);
    }
    let mut found = tasks.iter().filter(|t| t.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            Err(anyhow!("no task's id starts with {id:?}; `waggle task list` shows them").into())
        }
        (Some(a), Some(b)) => Err(usage(format!(
            "{id:?} is the start of several ids: {}, {}, ...",
            a.id, b.id
        ))),
    }
}

async fn log(
    master: &Client,
    task: &TaskView,
    stream: &str,
    lines: usize,
    follow: bool,
) -> Result<(), CliError> {
    let port = task
        .agent_http_port
        .ok_or_else(|| anyhow!("{}: its agent {} is not known", task.id, task.hostname))?;
    let agent = Client::new(&format!("http://{}:{port}", task.ip))?;
    let path = format!("/waggle/v1/tasks/{}/log/{stream}", encode_path(&task.id));
    let mut offset = show_tail(&agent, &path, lines).await?;
    if !follow {
        return Ok(());
    }
    let mut interval = tokio::time::interval(POLL);
    loop {
        interval.tick().await;
        let before = offset;
        offset = show_from(&agent, &path, offset).await?;
        if offset == before && !still_there(master, &task.id).await? {
            return Ok(());
        }
    }
}

async fn still_there(master: &Client, id: &str) -> Result<bool, CliError> {
    let (_, tasks) = fetch_list::<TaskView>(master, "/waggle/v1/tasks").await?;
    Ok(tasks.iter().any(|t| t.id == id))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str) -> TaskView {
        TaskView {
            id: id.to_owned(),
            service: "/web".to_owned(),
            framework: "marathon".to_owned(),
            version: String::new(),
            role: String::new(),
            parts: Vec::new(),
            state: "TASK_RUNNING".to_owned(),
            health: "healthy".to_owned(),
            agent_id: "a".to_owned(),
            hostname: "n1".to_owned(),
            ip: "10.0.0.1".to_owned(),
            agent_http_port: Some(5051),
            ports: vec![31000],
            staged_at_ms: 0,
            started_at_ms: None,
            message: String::new(),
        }
    }

    #[test]
    fn tasks_are_found_by_unique_prefix() {
        let tasks = [task("web.a1"), task("web.b2"), task("web.b")];
        assert_eq!(find(&tasks, "web.a").unwrap().id, "web.a1");
        assert_eq!(
            find(&tasks, "web.b").unwrap().id,
            "web.b",
            "an exact id wins"
        );
        assert_eq!(find(&tasks, "web").unwrap_err().exit_code(), 2);
        assert_eq!(find(&tasks, "db").unwrap_err().exit_code(), 1);
    }
}
