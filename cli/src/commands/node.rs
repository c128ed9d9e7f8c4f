//! `waggle node list`.

use waggle_api::native::{NodeView, ResourcesView};

use super::{fetch_list, print, print_json};
use crate::{args::Output, client::Client, error::CliError, table::Table};

/// Lists the cluster's nodes.
pub async fn list(output: &Output) -> Result<(), CliError> {
    let client = Client::new(&output.master)?;
    let (answer, nodes) = fetch_list::<NodeView>(&client, "/waggle/v1/nodes").await?;
    if output.json {
        return print_json(&answer);
    }
    let mut table = Table::new(&[
        "name", "ip", "state", "tasks", "cpus", "mem", "applied", "agent id",
    ]);
    for n in nodes {
        let state = match (n.reachable, n.connected) {
            (true, true) => "connected",
            (true, false) => "silent",
            _ => "unreachable",
        };
        table.row([
            n.hostname,
            n.ip,
            state.to_owned(),
            n.tasks.to_string(),
            share(&n.used, &n.total, |r| r.cpus.0),
            share(&n.used, &n.total, |r| r.mem.0),
            format!("{}/{}", n.applied_generation, n.published_generation),
            n.id,
        ]);
    }
    print(&table.render())
}

/// `used/total`.
fn share(used: &ResourcesView, total: &ResourcesView, pick: fn(&ResourcesView) -> f64) -> String {
    format!("{}/{}", pick(used), pick(total))
}
