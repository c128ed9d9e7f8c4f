//! `waggle node list` and what operators do with nodes.

use serde_json::{Value, json};
use waggle_api::native::{NodeView, ResourcesView};

use super::{fetch, fetch_list, print, print_json, segment, text};
use crate::{
    args::{NodeSub, OneNode, Output},
    client::Client,
    error::CliError,
    show::{count, mib, window},
    table::Table,
    times,
};

/// Runs `waggle node list|status|drain|deactivate|activate|gone`.
pub async fn run(command: NodeSub) -> Result<(), CliError> {
    match command {
        NodeSub::List(output) => list(&output).await,
        NodeSub::Status(OneNode { node, output }) => status(&output, &node).await,
        NodeSub::Drain {
            node,
            max_grace,
            mark_gone,
            output,
        } => {
            let grace = max_grace.map(|g| times::duration("max-grace", &g, times::YEAR));
            let grace = grace.transpose()?.map(times::millis);
            let body = json!({"max_grace_ms": grace, "mark_gone": mark_gone});
            change(&output, &node, "drain", body.to_string()).await
        }
        NodeSub::Deactivate(OneNode { node, output }) => {
            change(&output, &node, "deactivate", String::new()).await
        }
        NodeSub::Activate(OneNode { node, output }) => {
            change(&output, &node, "activate", String::new()).await
        }
        NodeSub::Gone(OneNode { node, output }) => {
            change(&output, &node, "gone", String::new()).await
        }
    }
}

/// One node by name or agent id; the master says what was probably meant.
pub async fn find(client: &Client, node: &str) -> Result<NodeView, CliError> {
    let path = format!("/waggle/v1/nodes/{}", segment("agent", node)?);
    Ok(fetch::<NodeView>(client, &path).await?.1)
}

async fn change(output: &Output, node: &str, verb: &str, body: String) -> Result<(), CliError> {
    let client = Client::new(&output.master)?;
    let path = format!("/waggle/v1/nodes/{}/{verb}", segment("node", node)?);
    let answer = client.post(&path, body).await?;
    if output.json {
        return print_json(&answer);
    }
    print(&changed(&answer))
}

/// `n1: draining, 3 tasks run there`.
fn changed(answer: &Value) -> String {
    let name = match text(answer, "hostname") {
        name if name.is_empty() => text(answer, "id"),
        name => name,
    };
    let tasks = answer["tasks"].as_u64().unwrap_or(0);
    let run = if tasks == 1 { "runs" } else { "run" };
    format!(
        "{name}: {}, {} {run} there\n",
        text(answer, "mode"),
        count(tasks, "task")
    )
}

/// Asks the node's own agent.
async fn status(output: &Output, node: &str) -> Result<(), CliError> {
    let node = find(&Client::new(&output.master)?, node).await?;
    let agent = Client::new(&format!("http://{}:{}", node.ip, node.http_port))?;
    let health = agent.get("/health").await?;
    let telemetry = agent.get("/waggle/v1/telemetry").await?;
    if output.json {
        let all = json!({"name": node.hostname, "health": health, "telemetry": telemetry});
        return print_json(&all);
    }
    print(&shown(&node.hostname, &health, &telemetry))
}

fn shown(name: &str, health: &Value, telemetry: &Value) -> String {
    let mut out = format!("{name}: {}\n", text(health, "status"));
    for trouble in health["troubles"].as_array().into_iter().flatten() {
        out.push_str(&format!("  {}\n", trouble.as_str().unwrap_or_default()));
    }
    out.push_str(&match health["encrypt"].as_u64() {
        Some(port) => format!("overlay networks are encrypted to other nodes (UDP port {port})\n"),
        None => "overlay networks are not encrypted (--encrypt)\n".to_owned(),
    });
    let all = telemetry["destinations"].as_array();
    let all = all.map(Vec::as_slice).unwrap_or_default();
    if all.is_empty() {
        out.push_str("telemetry goes nowhere (--otlp)\n");
        return out;
    }
    let mut table = Table::new(&["telemetry to", "state", "waiting", "why"]);
    for d in all {
        let held = d["held"].as_u64().unwrap_or(0);
        table.row([
            text(d, "url"),
            text(d, "state"),
            count(held, "item"),
            text(d, "why"),
        ]);
    }
    out.push_str(&table.render());
    out
}

async fn list(output: &Output) -> Result<(), CliError> {
    let client = Client::new(&output.master)?;
    let (answer, nodes) = fetch_list::<NodeView>(&client, "/waggle/v1/nodes").await?;
    if output.json {
        return print_json(&answer);
    }
    print(&table(nodes, times::now()))
}

fn table(nodes: Vec<NodeView>, now: u64) -> String {
    let mut table = Table::new(&[
        "name",
        "ip",
        "state",
        "tasks",
        "cpus",
        "mem",
        "applied",
        "maintenance",
        "agent id",
    ]);
    for n in nodes {
        let heard = match (n.reachable, n.connected) {
            (true, true) => "connected",
            (true, false) => "silent",
            _ => "unreachable",
        };
        let state = if n.mode == "active" {
            heard.to_owned()
        } else {
            format!("{heard}, {}", n.mode)
        };
        let maintenance = n.maintenance.map(|w| window(&w, now));
        table.row([
            n.hostname,
            n.ip,
            state,
            n.tasks.to_string(),
            share(&n.used, &n.total, |r| r.cpus.0.to_string()),
            share(&n.used, &n.total, |r| mib(r.mem.0)),
            format!("{}/{}", n.applied_generation, n.published_generation),
            maintenance.unwrap_or_default(),
            n.id,
        ]);
    }
    table.render()
}

/// `used/total`.
fn share(
    used: &ResourcesView,
    total: &ResourcesView,
    pick: impl Fn(&ResourcesView) -> String,
) -> String {
    format!("{}/{}", pick(used), pick(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_where_its_telemetry_goes() {
        let health = json!({"status": "degraded", "troubles": ["no runc"]});
        let telemetry = json!({"destinations": [
            {"url": "http://a:4317", "state": "ok", "why": "", "held": 0},
            {"url": "https://b", "state": "certificate", "why": "expired", "held": 7},
        ]});
        assert_eq!(
            shown("n1", &health, &telemetry),
            "n1: degraded\n  no runc\n\
             overlay networks are not encrypted (--encrypt)\n\
             TELEMETRY TO   STATE        WAITING  WHY\n\
             http://a:4317  ok           0 items  -\n\
             https://b      certificate  7 items  expired\n"
        );
        let none = shown("n1", &health, &json!({"destinations": []}));
        assert!(none.ends_with("goes nowhere (--otlp)\n"));
        let encrypts = json!({"status": "healthy", "troubles": [], "encrypt": 51820});
        assert_eq!(
            shown("n1", &encrypts, &json!({"destinations": []})),
            "n1: healthy\noverlay networks are encrypted to other nodes (UDP port 51820)\n\
             telemetry goes nowhere (--otlp)\n"
        );
    }

    #[test]
    fn nodes_say_how_they_are() {
        let node: NodeView = serde_json::from_value(json!({
            "id": "a1", "hostname": "n1", "ip": "10.0.0.1", "http_port": 5051, "version": "0.1.0",
            "reachable": true, "connected": true, "mode": "draining", "domain": null,
            "maintenance": {"start_ms": 60_000, "duration_ms": null},
            "total": {"cpus": 4, "mem": 8192, "disk": 0, "gpus": 0},
            "used": {"cpus": 0.5, "mem": 0, "disk": 0, "gpus": 0},
            "offered": {"cpus": 0, "mem": 0, "disk": 0, "gpus": 0},
            "reserved": [], "attributes": {}, "tasks": 2, "last_heard_ms": 0,
            "applied_generation": 7, "published_generation": 7, "applied_us": 1,
            "applied_after_ms": null, "apply_failures": [],
        }))
        .unwrap();
        assert_eq!(
            table(vec![node], 0),
            "NAME  IP        STATE                TASKS  CPUS   MEM          APPLIED  MAINTENANCE         AGENT ID\n\
             n1    10.0.0.1  connected, draining  2      0.5/4  0 MiB/8 GiB  7/7      in 1 min, open end  a1\n"
        );
        let answer = json!({"id": "a1", "hostname": "n1", "mode": "draining", "tasks": 1});
        assert_eq!(changed(&answer), "n1: draining, 1 task runs there\n");
        let answer = json!({"id": "a1", "hostname": "", "mode": "gone", "tasks": 0});
        assert_eq!(changed(&answer), "a1: gone, 0 tasks run there\n");
    }
}
