//! `waggle vip list`.

use waggle_api::native::VipView;

use super::{fetch_list, print, print_json};
use crate::{
    args::{VipCommand, VipSub},
    client::Client,
    error::CliError,
    table::Table,
};

/// Runs `waggle vip ...`.
pub async fn run(command: VipCommand) -> Result<(), CliError> {
    let VipSub::List = command.command;
    let client = Client::new(&command.output.master)?;
    let (answer, vips) = fetch_list::<VipView>(&client, "/waggle/v1/vips").await?;
    if command.output.json {
        return print_json(&answer);
    }
    let mut table = Table::new(&["vip", "address", "backend", "eligible", "why", "task"]);
    for vip in vips {
        let address = format!("{}:{}/{}", vip.ip, vip.port, vip.protocol);
        let name = vip.name.unwrap_or_default();
        if vip.backends.is_empty() {
            let why = "no backend: connections are refused".to_owned();
            table.row([
                name,
                address,
                String::new(),
                String::new(),
                why,
                String::new(),
            ]);
            continue;
        }
        for b in vip.backends {
            let eligible = if b.eligible { "yes" } else { "no" };
            let backend = format!("{}:{}", b.ip, b.port);
            let cells = [
                name.clone(),
                address.clone(),
                backend,
                eligible.to_owned(),
                b.reason,
                b.task_id,
            ];
            table.row(cells);
        }
    }
    print(&table.render())
}
