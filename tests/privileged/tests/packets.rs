//! VIPs per packet: a client in a network namespace behind a node, which is in no cgroup of any node, reaches tasks on every
//! node by the VIP, while the node's agent comes and goes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, ensure};
use waggle_tests_privileged::{LIMIT, can_run, web, world};
use waggle_tests_support::netns::{NetNs, TempNetNs};
use waggle_tests_support::scenario::{VIP_NAME, World};
use waggle_tests_support::wait_until;

const CLIENT: &str = "10.99.7.2";
/// The node's side of the client's veth.
const DEVICE: &str = "client0";

fn request(client: &NetNs, vip: &str) -> anyhow::Result<String> {
    let url = format!("http://{vip}/");
    let out = client.run(|| {
        Command::new("curl")
            .args(["-sS", "--fail", "--max-time", "2", &url])
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
        let mut dig = world.cluster.command("n1", "dig").ok()?;
        let out = dig.args(["+short", "+time=1", VIP_NAME]).output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        text.parse::<Ipv4Addr>().ok().map(|_| text)
    })
}

/// A namespace behind the first node, and ways there and back.
fn client(world: &World) -> anyhow::Result<TempNetNs> {
    let client = TempNetNs::create(&format!("wgl-t-behind-{}", std::process::id()))?;
    let netns = |n: u8| world.cluster.names.netns(n);
    client.ip(&format!(
        "link add up0 type veth peer name {DEVICE} netns {}\n\
         link set up0 up\n\
         addr add {CLIENT}/24 dev up0\n\
         route add default via 10.99.7.1\n",
        netns(1)
    ))?;
    let node = NetNs::open(&netns(1))?;
    node.ip(&format!(
        "link set {DEVICE} up\naddr add 10.99.7.1/24 dev {DEVICE}\n"
    ))?;
    node.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
    let via = world.cluster.state.nodes[0].ip;
    for n in 2..=3 {
        let node = NetNs::open(&netns(n))?;
        node.ip(&format!("route add 10.99.7.0/24 via {via}\n"))?;
    }
    Ok(client)
}

fn behind_a_node(world: &mut World) -> anyhow::Result<()> {
    let (_, tasks) = web(world)?;
    let client = client(world)?;
    let vip = vip(world)?;
    ensure!(request(&client, &vip).is_err(), "nobody translates yet");

    let node = world.cluster.state.nodes[0].clone();
    let settings = node.work_dir.join("node.toml");
    std::fs::write(
        &settings,
        format!("packet_vips = [\"{DEVICE}\", \"eth0\"]\n"),
    )?;
    world.cluster.kill_node(0)?;
    world.cluster.start_node(0)?;

    // All of them answer, the node's own among them.
    let all: BTreeSet<String> = tasks.iter().map(|task| task.id.clone()).collect();
    let mut seen = BTreeSet::new();
    wait_until(LIMIT, "every task to answer", || {
        let answer = request(&client, &vip).ok()?;
        seen.insert(answer.split_whitespace().next()?.to_owned());
        (seen == all).then_some(())
    })
    .with_context(|| format!("answered: {seen:?} of {all:?}"))?;
    for n in 0..100 {
        request(&client, &vip).with_context(|| format!("request {n}"))?;
    }

    // Programs and tables serve on without the agent, and a new agent takes them as they are.
    world.cluster.kill_node(0)?;
    for n in 0..50 {
        request(&client, &vip).with_context(|| format!("request {n} without an agent"))?;
    }
    world.cluster.start_node(0)?;
    for n in 0..50 {
        request(&client, &vip).with_context(|| format!("request {n} with a new agent"))?;
    }
    // The node is the master's too, which takes a moment.
    wait_until(LIMIT, "the service to be whole", || web(world).ok())?;
    for n in 0..50 {
        request(&client, &vip).with_context(|| format!("request {n} after it came back"))?;
    }

    // Not any more: the next start takes the programs off.
    std::fs::remove_file(&settings)?;
    world.cluster.kill_node(0)?;
    world.cluster.start_node(0)?;
    wait_until(LIMIT, "the programs to be gone", || {
        request(&client, &vip).is_err().then_some(())
    })?;
    Ok(())
}

#[test]
fn a_client_behind_a_node_reaches_tasks_on_every_node() {
    if !can_run() {
        return;
    }
    let mut world = world(3).unwrap();
    let result = behind_a_node(&mut world);
    let logs = world.cluster.last_words();
    world.down(&mut |_| {}).unwrap();
    result
        .map_err(|error| format!("{error:#}\n{logs}"))
        .unwrap();
}
