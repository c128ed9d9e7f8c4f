//! `waggle network ...`

mod doctor;

use serde_json::{Map, Value};
use waggle_api::native::NetworkView;

use super::{decode, encode_path, fetch_list, print, print_json};
use crate::{
    args::{NetworkCommand, NetworkSub},
    client::Client,
    error::CliError,
    table::Table,
};

/// Runs `waggle network ...`.
pub async fn run(command: NetworkCommand) -> Result<(), CliError> {
    let client = Client::new(&command.output.master)?;
    let as_json = command.output.json;
    let answer = match command.command {
        NetworkSub::List { nodes } => {
            let (answer, all) = fetch_list::<NetworkView>(&client, "/waggle/v1/networks").await?;
            if as_json {
                return print_json(&answer);
            }
            return print(&if nodes {
                node_table(&all)
            } else {
                network_table(&all)
            });
        }
        NetworkSub::Add {
            name,
            subnet,
            prefix,
            subnet6,
            prefix6,
            mtu,
            no_masquerade,
        } => {
            let mut body = Map::new();
            let mut set = |key: &str, value: Option<Value>| {
                if let Some(value) = value {
                    body.insert(key.to_owned(), value);
                }
            };
            set("name", Some(name.into()));
            set("subnet", subnet.map(Into::into));
            set("prefix", prefix.map(Into::into));
            set("subnet6", subnet6.map(Into::into));
            set("prefix6", prefix6.map(Into::into));
            set("mtu", mtu.map(Into::into));
            set("masquerade", no_masquerade.then_some(Value::Bool(false)));
            let body = Value::Object(body).to_string();
            client.post("/waggle/v1/networks", body).await?
        }
        NetworkSub::Doctor => return doctor::run(&command.output).await,
        NetworkSub::Remove { name } => {
            let path = format!("/waggle/v1/networks/{}", encode_path(&name));
            client.delete(&path).await?
        }
    };
    if as_json {
        return print_json(&answer);
    }
    let all: Vec<NetworkView> = if answer.is_array() {
        decode(answer.clone())?
    } else {
        vec![decode(answer.clone())?]
    };
    print(&network_table(&all))
}

fn network_table(all: &[NetworkView]) -> String {
    let mut table = Table::new(&[
        "name",
        "subnets",
        "mtu",
        "nodes",
        "nodes that fit",
        "addresses used",
        "addresses free",
        "without subnet",
    ]);
    for n in all {
        table.row([
            n.name.clone(),
            pools(n),
            n.mtu.map_or_else(|| "auto".to_owned(), |m| m.to_string()),
            n.subnets.held.to_string(),
            n.subnets.free.saturating_add(n.subnets.held).to_string(),
            n.addresses.used.to_string(),
            n.addresses.free.to_string(),
            n.without_subnet.join(" "),
        ]);
    }
    table.render()
}

fn node_table(all: &[NetworkView]) -> String {
    let mut table = Table::new(&["network", "node", "subnet", "used", "free"]);
    for n in all {
        for node in &n.nodes {
            let subnets = [&node.subnet, &node.subnet6].into_iter().flatten();
            let subnets: Vec<&str> = subnets.map(String::as_str).collect();
            table.row([
                n.name.clone(),
                node.hostname.clone(),
                subnets.join(" "),
                node.addresses.used.to_string(),
                node.addresses.free.to_string(),
            ]);
        }
    }
    table.render()
}

/// `9.0.0.0/8 by /24`.
fn pools(n: &NetworkView) -> String {
    let one = |net: &Option<String>, prefix: Option<u8>| {
        Some(format!("{} by /{}", net.as_ref()?, prefix?))
    };
    let both = [one(&n.subnet, n.prefix), one(&n.subnet6, n.prefix6)];
    let both: Vec<String> = both.into_iter().flatten().collect();
    both.join(", ")
}
