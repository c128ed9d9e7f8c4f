//! `waggle job ...`: jobs through Metronome's API.

use std::{collections::BTreeMap, time::Duration};

use anyhow::anyhow;
use serde_json::{Value, json};
use waggle_api::native::JobExplainView;

use super::{fetch, items, print, print_json, segment, text};
use crate::{
    args::{JobCommand, JobSub, ScheduleSub},
    client::Client,
    definition,
    error::{CliError, usage},
    table::Table,
    times,
};

/// Between two looks at a run.
const POLL: Duration = Duration::from_millis(200);
/// Everything that a list shows.
const EMBED: &str = "embed=activeRuns&embed=schedules&embed=historySummary";

/// Runs `waggle job ...`.
pub async fn run(command: JobCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.marathon)?;
    let as_json = command.output.json;
    match command.command {
        JobSub::Add { file } => {
            let body = definition::read(&file)?;
            let job = client.post("/v0/scheduled-jobs", body).await?;
            said(&job, as_json, &format!("{}: added\n", text(&job, "id")))
        }
        JobSub::Update { file } => {
            let body = definition::read(&file)?;
            let given: Value = serde_json::from_str(&body).map_err(anyhow::Error::from)?;
            let id = segment("id", &text(&given, "id"))?;
            let job = client
                .put(&format!("/v0/scheduled-jobs/{id}"), body)
                .await?;
            said(&job, as_json, &format!("{}: updated\n", text(&job, "id")))
        }
        JobSub::List => list(&client, as_json).await,
        JobSub::Show { id } => show(&client, &id, as_json).await,
        JobSub::Run {
            id,
            env,
            wait,
            timeout,
        } => {
            let limit = times::duration("timeout", &timeout, times::YEAR)?;
            let env = variables(&env)?;
            let body = json!({ "env": env }).to_string();
            let run = client.post(&format!("{}/runs", path(&id)?), body).await?;
            let run_id = text(&run, "id");
            if wait {
                let master = Client::new(&command.output.master)?;
                return await_run(&client, &master, &id, &run_id, limit, as_json).await;
            }
            said(&run, as_json, &format!("{id}: run {run_id} started\n"))
        }
        JobSub::Stop { id, run } => {
            let path = format!("{}/runs/{}/actions/stop", path(&id)?, segment("run", &run)?);
            let answer = client.post(&path, String::new()).await?;
            said(
                &answer,
                as_json,
                &format!("{id}: run {run} is being stopped\n"),
            )
        }
        JobSub::History { id } => history(&client, &id, as_json).await,
        JobSub::Queue => queue(&client, as_json).await,
        JobSub::Remove { id, stop_runs } => {
            let path = format!("{}?stopCurrentJobRuns={stop_runs}", path(&id)?);
            let job = client.delete(&path).await?;
            said(&job, as_json, &format!("{id}: removed\n"))
        }
        JobSub::Schedule { command } => schedule(&client, command, as_json).await,
    }
}

fn path(id: &str) -> Result<String, CliError> {
    Ok(format!("/v1/jobs/{}", segment("id", id)?))
}

fn said(answer: &Value, as_json: bool, words: &str) -> Result<(), CliError> {
    if as_json {
        print_json(answer)
    } else {
        print(words)
    }
}

fn variables(given: &[String]) -> Result<BTreeMap<&str, &str>, CliError> {
    let one = |text: &'_ String| text.split_once('=').map(|(k, _)| k.len());
    let mut out = BTreeMap::new();
    for text in given {
        match one(text) {
            Some(at) if at > 0 => out.insert(&text[..at], &text[at + 1..]),
            _ => return Err(usage(format!("env: must be KEY=VALUE, is {text:?}"))),
        };
    }
    Ok(out)
}

async fn list(client: &Client, as_json: bool) -> Result<(), CliError> {
    let answer = client.get(&format!("/v1/jobs?{EMBED}")).await?;
    if as_json {
        return print_json(&answer);
    }
    let mut table = Table::new(&["id", "active", "succeeded", "failed", "last", "next run"]);
    for job in answer.as_array().into_iter().flatten() {
        let summary = &job["historySummary"];
        let next = items(job, "schedules").map(|s| text(s, "nextRunAt"));
        table.row([
            text(job, "id"),
            items(job, "activeRuns").count().to_string(),
            text(summary, "successCount"),
            text(summary, "failureCount"),
            last(summary),
            next.filter(|n| !n.is_empty()).min().unwrap_or_default(),
        ]);
    }
    print(&table.render())
}

/// How the newest run ended; times of one form compare as text.
fn last(summary: &Value) -> String {
    let (good, bad) = (
        text(summary, "lastSuccessAt"),
        text(summary, "lastFailureAt"),
    );
    match good.cmp(&bad) {
        _ if good.is_empty() && bad.is_empty() => String::new(),
        std::cmp::Ordering::Less => "failed".to_owned(),
        _ => "succeeded".to_owned(),
    }
}

async fn show(client: &Client, id: &str, as_json: bool) -> Result<(), CliError> {
    let job = client.get(&format!("{}?{EMBED}", path(id)?)).await?;
    if as_json {
        return print_json(&job);
    }
    let mut out = String::new();
    let mut line = |k: &str, v: String| {
        if !v.is_empty() {
            out.push_str(&format!("{k:<12} {v}\n"));
        }
    };
    let run = &job["run"];
    line("id", text(&job, "id"));
    line("description", text(&job, "description"));
    line("command", text(run, "cmd"));
    let args: Vec<String> = items(run, "args").map(Value::to_string).collect();
    line("args", args.join(" "));
    let image = text(&run["docker"], "image") + &text(&run["ucr"]["image"], "id");
    line("image", image);
    line(
        "resources",
        format!("cpus {}, mem {} MiB", text(run, "cpus"), text(run, "mem")),
    );
    line("restart", text(&run["restart"], "policy"));
    let needs: Vec<String> = items(&job, "dependencies").map(|d| text(d, "id")).collect();
    line("runs after", needs.join(", "));
    let summary = &job["historySummary"];
    line(
        "runs so far",
        format!(
            "{} succeeded, {} failed",
            text(summary, "successCount"),
            text(summary, "failureCount")
        ),
    );
    print(&out)?;
    if items(&job, "schedules").next().is_some() {
        print(&format!("\n{}", schedules(&job["schedules"])))?;
    }
    let mut table = Table::new(&["active run", "status", "began", "task", "state"]);
    let mut any = false;
    for run in items(&job, "activeRuns") {
        any = true;
        let task = items(run, "tasks").last();
        table.row([
            text(run, "id"),
            text(run, "status"),
            text(run, "createdAt"),
            task.map(|t| text(t, "id")).unwrap_or_default(),
            task.map(|t| text(t, "status")).unwrap_or_default(),
        ]);
    }
    if any {
        print(&format!("\n{}", table.render()))?;
    }
    Ok(())
}

fn schedules(list: &Value) -> String {
    let mut table = Table::new(&["schedule", "cron", "timezone", "beside others", "next run"]);
    for s in list.as_array().into_iter().flatten() {
        let next = text(s, "nextRunAt");
        let off = s["enabled"] == json!(false);
        table.row([
            text(s, "id"),
            text(s, "cron"),
            text(s, "timezone"),
            text(s, "concurrencyPolicy").to_lowercase(),
            if off { "disabled".to_owned() } else { next },
        ]);
    }
    table.render()
}

async fn history(client: &Client, id: &str, as_json: bool) -> Result<(), CliError> {
    let job = client.get(&format!("{}?embed=history", path(id)?)).await?;
    if as_json {
        return print_json(&job["history"]);
    }
    let h = &job["history"];
    let of = |key: &'static str, word: &'static str| {
        items(h, key).map(move |r| {
            let tasks = items(r, "tasks").count().to_string();
            let id = text(r, "id");
            [
                id,
                word.to_owned(),
                text(r, "createdAt"),
                text(r, "finishedAt"),
                tasks,
            ]
        })
    };
    let good = of("successfulFinishedRuns", "succeeded");
    let mut all: Vec<[String; 5]> = good.chain(of("failedFinishedRuns", "failed")).collect();
    all.sort_by(|a, b| b[3].cmp(&a[3]));
    let mut table = Table::new(&["run", "", "began", "ended", "tasks"]);
    for row in all {
        table.row(row);
    }
    print(&table.render())
}

async fn queue(client: &Client, as_json: bool) -> Result<(), CliError> {
    let answer = client.get("/v1/queue").await?;
    if as_json {
        return print_json(&answer);
    }
    let mut table = Table::new(&["job", "run"]);
    for job in answer.as_array().into_iter().flatten() {
        for run in items(job, "runs") {
            table.row([text(job, "jobId"), text(run, "runId")]);
        }
    }
    print(&table.render())
}

async fn schedule(client: &Client, command: ScheduleSub, as_json: bool) -> Result<(), CliError> {
    match command {
        ScheduleSub::Set {
            id,
            schedule,
            cron,
            timezone,
            starting_deadline,
            forbid,
            disabled,
        } => {
            let field = "starting-deadline";
            let deadline = times::duration(field, &starting_deadline, times::YEAR)?;
            let body = json!({
                "id": schedule,
                "cron": cron,
                "timezone": timezone,
                "startingDeadlineSeconds": deadline.as_secs().max(1),
                "concurrencyPolicy": if forbid { "FORBID" } else { "ALLOW" },
                "enabled": !disabled,
            });
            let base = format!("{}/schedules", path(&id)?);
            let one = format!("{base}/{}", segment("schedule", &schedule)?);
            let known = client.get(&base).await?;
            let mut known = known.as_array().into_iter().flatten();
            let answer = if known.any(|s| text(s, "id") == schedule) {
                client.put(&one, body.to_string()).await?
            } else {
                client.post(&base, body.to_string()).await?
            };
            let next = text(&answer, "nextRunAt");
            let next = match next.as_str() {
                "" => "disabled".to_owned(),
                next => format!("next run at {next}"),
            };
            said(
                &answer,
                as_json,
                &format!("{id}: schedule {schedule}: {next}\n"),
            )
        }
        ScheduleSub::List { id } => {
            let answer = client.get(&format!("{}/schedules", path(&id)?)).await?;
            said(&answer, as_json, &schedules(&answer))
        }
        ScheduleSub::Remove { id, schedule } => {
            let name = segment("schedule", &schedule)?;
            let path = format!("{}/schedules/{name}", path(&id)?);
            let answer = client.delete(&path).await?;
            said(
                &answer,
                as_json,
                &format!("{id}: schedule {schedule} removed\n"),
            )
        }
    }
}

async fn await_run(
    client: &Client,
    master: &Client,
    id: &str,
    run: &str,
    limit: Duration,
    as_json: bool,
) -> Result<(), CliError> {
    let at = format!("{}/runs/{}", path(id)?, segment("run", run)?);
    let started = std::time::Instant::now();
    let mut interval = tokio::time::interval(POLL);
    loop {
        interval.tick().await;
        let found = client.get(&at).await?;
        match text(&found, "status").as_str() {
            "SUCCESS" => {
                return said(&found, as_json, &format!("{id}: run {run} succeeded\n"));
            }
            "FAILED" => {
                let why = explained(master, id).await;
                let why = why.and_then(|e| e.last_failure).unwrap_or_default();
                return Err(anyhow!("{id}: run {run} failed\n  {why}").into());
            }
            _ => {}
        }
        if started.elapsed() > limit {
            let why = explained(master, id).await;
            let runs = why.map(|e| e.runs).unwrap_or_default();
            let mut waits: Vec<String> = Vec::new();
            for r in runs.into_iter().filter(|r| r.id == run) {
                waits.extend(std::iter::once(r.state).chain(r.refused));
            }
            let waits = waits.join("\n  ");
            return Err(anyhow!("{id}: run {run} is not over after {limit:?}\n  {waits}").into());
        }
    }
}

/// Why a job is where it is, if the master says so.
async fn explained(master: &Client, id: &str) -> Option<JobExplainView> {
    let path = format!("/waggle/v1/explain/job/{}", segment("id", id).ok()?);
    fetch::<JobExplainView>(master, &path)
        .await
        .ok()
        .map(|(_, e)| e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_pairs() {
        let given = ["A=b=c".to_owned(), "D=".to_owned()];
        let read = variables(&given).unwrap();
        assert_eq!(read, [("A", "b=c"), ("D", "")].into());
        for bad in ["A", "=b"] {
            let e = variables(&[bad.to_owned()]).unwrap_err();
            assert_eq!(e.exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn the_newest_end_is_told() {
        let s = |good: &str, bad: &str| last(&json!({"lastSuccessAt": good, "lastFailureAt": bad}));
        assert_eq!(s("", ""), "");
        assert_eq!(s("2026-01-02", "2026-01-01"), "succeeded");
        assert_eq!(s("2026-01-02", "2026-01-03"), "failed");
    }
}
