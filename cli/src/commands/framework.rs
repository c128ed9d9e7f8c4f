//! `waggle framework list`, `waggle offer list`, `waggle role list`.

use waggle_api::native::{FrameworkView, OfferView, ResourcesView, RoleView};

use super::{fetch_list, print, print_json};
use crate::{
    args::{FrameworkCommand, FrameworkSub, OfferCommand, OfferSub, RoleCommand, RoleSub},
    client::Client,
    error::CliError,
    table::Table,
};

/// Runs `waggle framework ...`.
pub async fn frameworks(command: FrameworkCommand) -> Result<(), CliError> {
    let FrameworkSub::List = command.command;
    let client = Client::new(&command.output.master)?;
    let (answer, all) = fetch_list::<FrameworkView>(&client, "/waggle/v1/frameworks").await?;
    if command.output.json {
        return print_json(&answer);
    }
    let mut table = Table::new(&["name", "role", "state", "tasks", "used", "offered", "id"]);
    for f in all {
        let state = match (f.connected, f.suppressed, f.active) {
            (false, ..) => "away",
            (_, true, _) => "suppressed",
            (_, _, true) => "active",
            _ => "recovering",
        };
        table.row([
            f.name,
            f.roles
                .into_iter()
                .map(|r| r.role)
                .collect::<Vec<_>>()
                .join(","),
            state.to_owned(),
            f.tasks.to_string(),
            amount(&f.used),
            amount(&f.offered),
            f.id,
        ]);
    }
    print(&table.render())
}

/// Runs `waggle offer ...`.
pub async fn offers(command: OfferCommand) -> Result<(), CliError> {
    let OfferSub::List = command.command;
    let client = Client::new(&command.output.master)?;
    let (answer, all) = fetch_list::<OfferView>(&client, "/waggle/v1/offers").await?;
    if command.output.json {
        return print_json(&answer);
    }
    let mut table = Table::new(&["framework", "role", "node", "resources", "id"]);
    for o in all {
        table.row([o.framework, o.role, o.hostname, amount(&o.resources), o.id]);
    }
    print(&table.render())
}

/// Runs `waggle role ...`.
pub async fn roles(command: RoleCommand) -> Result<(), CliError> {
    let RoleSub::List = command.command;
    let client = Client::new(&command.output.master)?;
    let (answer, all) = fetch_list::<RoleView>(&client, "/waggle/v1/roles").await?;
    if command.output.json {
        return print_json(&answer);
    }
    let mut table = Table::new(&["role", "share", "frameworks", "used", "offered"]);
    for r in all {
        table.row([
            r.name,
            format!("{:.1} %", r.share * 100.0),
            r.frameworks.len().to_string(),
            amount(&r.used),
            amount(&r.offered),
        ]);
    }
    print(&table.render())
}

/// `cpus 1.5, mem 512`; empty for nothing.
fn amount(r: &ResourcesView) -> String {
    let kinds = [
        ("cpus", r.cpus.0),
        ("mem", r.mem.0),
        ("disk", r.disk.0),
        ("gpus", r.gpus.0),
    ];
    let held = kinds.iter().filter(|(_, n)| *n > 0.0);
    let texts: Vec<String> = held.map(|(k, n)| format!("{k} {n}")).collect();
    texts.join(", ")
}
