//! `waggle maintenance`.

use serde_json::json;
use waggle_api::native::{AskedView, MaintenanceView};

use super::{decode, fetch_list, print, print_json};
use crate::{
    args::{MaintenanceCommand, MaintenanceSub},
    client::Client,
    error::CliError,
    show::window,
    table::Table,
    times,
};

const PATH: &str = "/waggle/v1/maintenance";

/// Runs `waggle maintenance ...`.
pub async fn run(command: MaintenanceCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.master)?;
    let now = times::now();
    let (says, answer) = match command.command {
        MaintenanceSub::List => {
            let (answer, all) = fetch_list::<MaintenanceView>(&client, PATH).await?;
            if command.output.json {
                return print_json(&answer);
            }
            return print(&table(&all, now));
        }
        MaintenanceSub::Schedule {
            agents,
            start,
            duration,
        } => {
            let start_ms = times::moment("start", &start, now)?;
            let duration = duration.map(|d| times::duration("duration", &d, times::YEAR));
            let duration = duration.transpose()?.map(times::millis);
            let body = json!({"agents": agents, "start_ms": start_ms, "duration_ms": duration});
            (None, client.put(PATH, body.to_string()).await?)
        }
        MaintenanceSub::Cancel { agents } => {
            let body = json!({"agents": agents});
            let says = format!("{}: no maintenance is planned\n", agents.join(", "));
            let answer = client.delete_with(PATH, body.to_string()).await?;
            (Some(says), answer)
        }
    };
    if command.output.json {
        return print_json(&answer);
    }
    let planned: Vec<MaintenanceView> = decode(answer)?;
    match says {
        Some(says) => print(&says),
        None => print(&table(&planned, now)),
    }
}

fn table(all: &[MaintenanceView], now: u64) -> String {
    let mut table = Table::new(&["node", "mode", "begins", "window", "frameworks"]);
    for m in all {
        let name = if m.hostname.is_empty() {
            m.agent_id.clone()
        } else {
            m.hostname.clone()
        };
        let said: Vec<String> = m.asked.iter().map(|a| answer(a, now)).collect();
        table.row([
            name,
            m.mode.clone().unwrap_or_default(),
            times::absolute(m.window.start_ms),
            window(&m.window, now),
            said.join(", "),
        ]);
    }
    table.render()
}

/// `batch accepted (2 tasks)`.
fn answer(a: &AskedView, now: u64) -> String {
    let name = if a.framework.is_empty() {
        &a.framework_id
    } else {
        &a.framework
    };
    let again = a
        .again_ms
        .map(|at| format!(", asked again {}", times::relative(at, now)));
    let tasks = crate::show::count(a.tasks.into(), "task");
    format!("{name} {} ({tasks}{})", a.answer, again.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maintenance_is_a_table() {
        let all: Vec<MaintenanceView> = serde_json::from_value(json!([
            {"agent_id": "a1", "hostname": "n1", "mode": "active",
             "window": {"start_ms": 1_795_405_620_000_u64, "duration_ms": 1_800_000},
             "asked": [
                {"framework_id": "f1", "framework": "batch", "answer": "declined",
                 "again_ms": 1_795_405_080_000_u64, "tasks": 1},
                {"framework_id": "f2", "framework": "", "answer": "accepted", "again_ms": null, "tasks": 2}]},
            {"agent_id": "a2", "hostname": "", "mode": null,
             "window": {"start_ms": 1_795_405_000_000_u64, "duration_ms": null}, "asked": []},
        ]))
        .unwrap();
        let now = 1_795_405_020_000;
        assert_eq!(
            table(&all, now),
            "NODE  MODE    BEGINS                WINDOW                 FRAMEWORKS\n\
             n1    active  2026-11-23T03:47:00Z  in 10 min, for 30 min  batch declined (1 task, asked again in 1 min), f2 accepted (2 tasks)\n\
             a2    -       2026-11-23T03:36:40Z  since 20 s, open end   -\n"
        );
    }
}
