//! `waggle volume snapshot|snapshots|restore|forget`: asked of the node that has the volume.

use serde_json::json;
use waggle_api::native::{NodeView, NodeVolumeView, SnapshotView};

use super::{
    confirm::confirm, decode, fetch, fetch_list, node, print, print_json, reservation, segment,
    volume,
};
use crate::{args::SnapshotOf, client::Client, error::CliError, show::mib, table::Table, times};

/// Snapshots of a volume, of a node, or of all nodes that answer.
pub async fn list(
    client: &Client,
    id: Option<&str>,
    agent: Option<&str>,
    as_json: bool,
) -> Result<(), CliError> {
    let nodes = match agent {
        Some(agent) => vec![node::find(client, agent).await?],
        None => fetch_list::<NodeView>(client, "/waggle/v1/nodes").await?.1,
    };
    let mut all = Vec::new();
    for node in nodes.iter().filter(|n| agent.is_some() || n.connected) {
        let answer = of(node)?.get("/waggle/v1/volumes").await?;
        let volumes: Vec<NodeVolumeView> = decode(answer)?;
        let wanted = volumes
            .into_iter()
            .filter(|v| id.is_none_or(|id| v.id == id));
        all.extend(wanted.map(|v| (node.hostname.clone(), v)));
    }
    if as_json {
        let one = |(host, v): &(String, NodeVolumeView)| json!({"hostname": host, "volume": v});
        return print_json(&json!(all.iter().map(one).collect::<Vec<_>>()));
    }
    print(&table(&all))
}

/// Copies a volume.
pub async fn take(client: &Client, which: &SnapshotOf, as_json: bool) -> Result<(), CliError> {
    let node = place(client, which).await?;
    let path = format!("/waggle/v1/volumes/{}/snapshots", segment("id", &which.id)?);
    let body = json!({"name": which.name}).to_string();
    let answer = of(&node)?.patient().post(&path, body).await?;
    if as_json {
        return print_json(&answer);
    }
    let taken: SnapshotView = decode(answer)?;
    print(&format!(
        "{} of {}: {} on {}, {}\n",
        taken.name,
        which.id,
        size(taken.bytes),
        node.hostname,
        consistency(&taken)
    ))
}

/// Puts a snapshot in a volume's place.
pub async fn restore(
    client: &Client,
    which: &SnapshotOf,
    yes: bool,
    as_json: bool,
) -> Result<(), CliError> {
    let node = place(client, which).await?;
    confirm(
        yes,
        &format!("what volume {} holds now", which.id),
        &which.id,
    )?;
    let path = format!("/waggle/v1/volumes/{}/restore", segment("id", &which.id)?);
    let body = json!({"name": which.name}).to_string();
    let answer = of(&node)?.patient().post(&path, body).await?;
    if as_json {
        return print_json(&answer);
    }
    print(&format!(
        "{}: is what it was in {} on {}\n",
        which.id, which.name, node.hostname
    ))
}

/// Removes a snapshot.
pub async fn forget(
    client: &Client,
    which: &SnapshotOf,
    yes: bool,
    as_json: bool,
) -> Result<(), CliError> {
    let node = place(client, which).await?;
    confirm(
        yes,
        &format!("snapshot {} of {}", which.name, which.id),
        &which.name,
    )?;
    let (id, name) = (segment("id", &which.id)?, segment("name", &which.name)?);
    let path = format!("/waggle/v1/volumes/{id}/snapshots/{name}");
    let answer = of(&node)?.patient().delete(&path).await?;
    if as_json {
        return print_json(&answer);
    }
    print(&format!(
        "{}: snapshot {} removed on {}\n",
        which.id, which.name, node.hostname
    ))
}

/// The node that has the volume; where the master does not know the volume any more, the one that is named.
async fn place(client: &Client, which: &SnapshotOf) -> Result<NodeView, CliError> {
    if let Some(agent) = &which.agent {
        return node::find(client, agent).await;
    }
    let all = reservation::of_agent(client, None).await?;
    let agent_id = &volume::find(&all, &which.id)?.agent_id;
    let path = format!("/waggle/v1/nodes/{}", segment("agent", agent_id)?);
    Ok(fetch::<NodeView>(client, &path).await?.1)
}

fn of(node: &NodeView) -> Result<Client, CliError> {
    Client::new(&format!("http://{}:{}", node.ip, node.http_port))
}

fn table(all: &[(String, NodeVolumeView)]) -> String {
    let mut table = Table::new(&["volume", "node", "snapshot", "taken", "size", "is"]);
    for (host, v) in all {
        for s in &v.snapshots {
            table.row([
                v.id.clone(),
                host.clone(),
                s.name.clone(),
                times::absolute(s.taken_ms),
                if s.unclaimed {
                    String::new()
                } else {
                    size(s.bytes)
                },
                consistency(s).to_owned(),
            ]);
        }
    }
    table.render()
}

fn consistency(s: &SnapshotView) -> &'static str {
    match (s.unclaimed, s.consistent) {
        (true, _) => "unclaimed: the master did not know the volume",
        (false, true) => "consistent",
        (false, false) => "crash-consistent: tasks used it",
    }
}

fn size(bytes: u64) -> String {
    mib(((bytes as f64 / f64::from(1 << 20)) * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_say_what_they_are() {
        let shot = |name: &str, consistent, unclaimed| SnapshotView {
            name: name.to_owned(),
            taken_ms: 0,
            bytes: 3 << 19,
            consistent,
            unclaimed,
        };
        let volume = NodeVolumeView {
            id: "db".to_owned(),
            disk: None,
            exists: true,
            used_bytes: None,
            tasks: Vec::new(),
            snapshots: vec![
                shot("a", true, false),
                shot("b", false, false),
                shot("c", false, true),
            ],
        };
        assert_eq!(
            table(&[("n1".to_owned(), volume)]),
            "VOLUME  NODE  SNAPSHOT  TAKEN                 SIZE     IS\n\
             db      n1    a         1970-01-01T00:00:00Z  1.5 MiB  consistent\n\
             db      n1    b         1970-01-01T00:00:00Z  1.5 MiB  crash-consistent: tasks used it\n\
             db      n1    c         1970-01-01T00:00:00Z  -        unclaimed: the master did not know the volume\n"
        );
    }
}
