//! A node as an edge: clients outside of the cluster reach tasks on every node by the VIP, while agents come and go.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, ensure};
use waggle_tests_privileged::{LIMIT, can_run, web, world};
use waggle_tests_support::cluster::port;
use waggle_tests_support::netns::NetNs;
use waggle_tests_support::scenario::{VIP_NAME, World};
use waggle_tests_support::wait_until;

/// A request from the bridge, which belongs to no node: who answered.
fn request(hub: &NetNs, vip: &str) -> anyhow::Result<String> {
    let out = hub.run(|| {
        Command::new("curl")
            .args([
                "-sS",
                "--fail",
                "--max-time",
                "2",
                &format!("http://{vip}/"),
            ])
            .output()
    })??;
    ensure!(
        out.status.success(),
        "curl {vip}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// The VIP's address, as a node's resolver says it.
fn vip(world: &World) -> anyhow::Result<String> {
    wait_until(LIMIT, "the VIP's name to resolve", || {
        let out = world
            .cluster
            .command("n1", "dig")
            .ok()?
            .args(["+short", "+time=1", VIP_NAME])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        text.parse::<std::net::Ipv4Addr>().ok().map(|_| text)
    })
}

/// Says who may use the service from outside.
fn allow(world: &World, sources: &str) -> anyhow::Result<()> {
    let (app, _) = web(world)?;
    let mut ports = app.show(&world.cluster)?["portDefinitions"].clone();
    ports[0]["labels"]["LB_SOURCES"] = sources.into();
    let body = serde_json::json!({"portDefinitions": ports}).to_string();
    let path = format!("/v2/apps{}?force=true", app.id);
    let cluster = &world.cluster;
    let at = cluster.leader(port::MARATHON);
    let client = cluster.client();
    client
        .request("PUT", at, &path, Some(body.as_bytes()), &[])?
        .ok()?;
    Ok(())
}

fn outside(world: &mut World) -> anyhow::Result<()> {
    let (_, tasks) = web(world)?;
    let edge = world.cluster.state.nodes[0].ip;
    for position in 0..world.cluster.state.nodes.len() {
        let node = world.cluster.state.nodes[position].clone();
        let part = if position == 0 {
            "edge = \"eth0\"\nedge_mode = \"generic\"\n"
        } else {
            "uplink = \"eth0\"\n"
        };
        std::fs::write(
            node.work_dir.join("node.toml"),
            format!("{part}edges = [\"{edge}\"]\n"),
        )?;
        world.cluster.kill_node(position)?;
        world.cluster.start_node(position)?;
    }
    let vip = vip(world)?;
    let hub = NetNs::open(&world.cluster.names.hub())?;
    hub.ip(&format!("route replace {vip}/32 via {edge}\n"))?;

    // All of them answer, the edge's own among them.
    let all: BTreeSet<String> = tasks.iter().map(|task| task.id.clone()).collect();
    let mut seen = BTreeSet::new();
    wait_until(LIMIT, "every task to answer from outside", || {
        let answer = request(&hub, &vip).ok()?;
        seen.insert(answer.split_whitespace().next()?.to_owned());
        (seen == all).then_some(())
    })
    .with_context(|| {
        format!(
            "answered: {seen:?} of {all:?}; {}",
            world.cluster.last_words()
        )
    })?;
    for n in 0..100 {
        request(&hub, &vip).with_context(|| format!("request {n}"))?;
    }

    // Programs and tables serve on without their agents, and a new agent takes them as they are.
    for position in 0..world.cluster.state.nodes.len() {
        world.cluster.kill_node(position)?;
    }
    for n in 0..50 {
        request(&hub, &vip).with_context(|| format!("request {n} without agents"))?;
    }
    for position in 0..world.cluster.state.nodes.len() {
        world.cluster.start_node(position)?;
        for n in 0..20 {
            request(&hub, &vip).with_context(|| format!("request {n} with agent {position}"))?;
        }
    }
    // The leading master was restarted too, and takes a moment.
    wait_until(LIMIT, "the service to be whole", || web(world).ok())?;
    for n in 0..50 {
        request(&hub, &vip).with_context(|| format!("request {n} after all came back"))?;
    }

    // Clients outside of the service's networks get nothing, and the tasks run on.
    let hub_ip = &world.cluster.state.nodes[0].ip.to_string();
    let own = hub_ip
        .rsplit_once('.')
        .map(|(net, _)| format!("{net}.0/24"));
    let own = own.context("the underlay's network")?;
    for (sources, served) in [("192.0.2.0/24", false), (own.as_str(), true)] {
        allow(world, sources)?;
        wait_until(LIMIT, "the sources to count", || {
            (request(&hub, &vip).is_ok() == served).then_some(())
        })
        .with_context(|| format!("LB_SOURCES={sources}"))?;
        let (_, now) = web(world)?;
        let now: BTreeSet<String> = now.iter().map(|task| task.id.clone()).collect();
        ensure!(now == all, "tasks were replaced: {now:?}");
    }

    // No part in it any more: the next start takes the programs off.
    let node = world.cluster.state.nodes[0].clone();
    std::fs::remove_file(node.work_dir.join("node.toml"))?;
    world.cluster.kill_node(0)?;
    world.cluster.start_node(0)?;
    wait_until(LIMIT, "the edge to be gone", || {
        request(&hub, &vip).is_err().then_some(())
    })?;
    ensure!(!node.bpf_dir.join("edge").exists(), "pins are left");
    Ok(())
}

#[test]
fn clients_outside_reach_tasks_on_every_node() {
    if !can_run() {
        return;
    }
    let mut world = world(3).unwrap();
    let result = outside(&mut world);
    let logs = world.cluster.last_words();
    world.down(&mut |_| {}).unwrap();
    result
        .map_err(|error| format!("{error:#}\n{logs}"))
        .unwrap();
}
