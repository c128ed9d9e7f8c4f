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
    let mut table = Table::new(&[
        "vip", "address", "choice", "backend", "weight", "eligible", "why", "task",
    ]);
    for vip in vips {
        let at = match vip.ip.parse::<std::net::IpAddr>() {
            Ok(ip) => std::net::SocketAddr::new(ip, vip.port).to_string(),
            Err(_) => format!("{}:{}", vip.ip, vip.port),
        };
        let address = format!("{at}/{}", vip.protocol);
        let choice = choice(&vip);
        let name = vip.name.unwrap_or_default();
        if vip.backends.is_empty() {
            let why = "no backend: connections are refused".to_owned();
            table.row([
                name,
                address,
                String::new(),
                String::new(),
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
                choice.clone(),
                backend,
                b.weight.to_string(),
                eligible.to_owned(),
                b.reason,
                b.task_id,
            ];
            table.row(cells);
        }
    }
    print(&table.render())
}

/// `random`, `least-connections, affinity 600 s, node first`.
fn choice(vip: &VipView) -> String {
    let mut words = vec![vip.policy.clone()];
    if vip.affinity_s > 0 {
        words.push(format!("affinity {} s", vip.affinity_s));
    }
    if matches!(vip.locality.as_str(), "node" | "zone") {
        words.push(format!("{} first", vip.locality));
    }
    if !vip.sources.is_empty() {
        words.push(format!("from outside only {}", vip.sources.join(" ")));
    }
    words.join(", ")
}
