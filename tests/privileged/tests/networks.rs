//! Tasks behind their nodes' bridges: VIPs, names and host ports from everywhere, over TCP and UDP, also while the agent is
//! killed; and nothing is left when they are gone.

use std::{collections::BTreeSet, io::Read as _, net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use waggle_tests_privileged::{
    LIMIT, can_run,
    tasks::{Place, all_answer, answers, beside, left, places, unharmed},
    world,
};
use waggle_tests_support::{
    cluster::port,
    netns::NetNs,
    process,
    scenario::{World, remove},
    wait_until,
};

const DEFINITION: &str = include_str!("../../fixtures/bridged.json");
const NAME: &str = "bridged.marathon.l4lb.thisdcos.directory";
fn everywhere(world: &World, places: &[Place]) -> anyhow::Result<()> {
    // From a node, by the name; the node's own task is among those that answer.
    for (kind, port) in [("tcp", 80), ("udp", 53)] {
        all_answer(&format!("{kind} from a node"), places, || {
            answers(
                world.cluster.command("n1", "python3")?,
                kind,
                NAME,
                port,
                20,
            )
        })?;
        // From a task, by the name: the resolver and every task are within reach, itself too.
        all_answer(&format!("{kind} from a task"), places, || {
            answers(beside(world, &places[0])?, kind, NAME, port, 20)
        })?;
    }
    addresses(world, places)?;
    // From outside of the nodes, by address and port, which keeps the source.
    let hub = NetNs::open(&world.cluster.names.hub())?;
    for place in places {
        let to = SocketAddr::from((place.node.ip, place.task.port));
        let mut said = String::new();
        hub.connect(to, Duration::from_secs(2))?
            .read_to_string(&mut said)?;
        let own = world.cluster.names.hub_ip().to_string();
        ensure!(
            said.trim() == format!("{} {own}", place.task.id),
            "{said:?}"
        );
    }
    // From a task to the outside: it is its node there.
    let to = places.iter().find(|p| p.node.name != places[0].node.name);
    let to = to.context("all on one node")?;
    let said = answers(
        beside(world, &places[0])?,
        "tcp",
        &to.node.ip.to_string(),
        to.task.port,
        1,
    )?;
    let want = format!("{} {}", to.task.id, places[0].node.ip);
    ensure!(said == [want.as_str()], "{said:?}, not {want}");
    Ok(())
}

/// What the APIs and the names say of the tasks' addresses: their own, and the agents' that lead there.
fn addresses(world: &World, places: &[Place]) -> anyhow::Result<()> {
    let client = world.cluster.client();
    let marathon = world.cluster.leader(port::MARATHON);
    let json = client
        .get(marathon, "/v2/apps/bridged/tasks")?
        .ok()?
        .json()?;
    let subnet = "172.31.254.";
    let mut own = BTreeSet::new();
    for task in json["tasks"].as_array().context("no tasks")? {
        let ip = task["ipAddresses"][0]["ipAddress"].as_str();
        let ip = ip.context("no address")?;
        ensure!(ip.starts_with(subnet), "{task}");
        own.insert(ip.to_owned());
    }
    let agents: BTreeSet<String> = places.iter().map(|p| p.node.ip.to_string()).collect();
    for (kind, want) in [("containerip", own), ("autoip", agents)] {
        let name = format!("bridged.marathon.{kind}.dcos.thisdcos.directory");
        let mut said = BTreeSet::new();
        wait_until(LIMIT, "addresses of tasks", || {
            let mut dig = world.cluster.command("n1", "dig").ok()?;
            let out = dig.args(["+short", "+time=1", &name]).output().ok()?;
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            said = text.lines().map(str::to_owned).collect();
            (said == want).then_some(())
        })
        .with_context(|| format!("{name}: {said:?}, not {want:?}"))?;
    }
    Ok(())
}

fn behind_bridges(world: &mut World) -> anyhow::Result<()> {
    let places = places(world, DEFINITION, 3)?;
    for place in &places {
        let of = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/net"));
        ensure!(
            of(place.pid)? != of(place.node.pid)?,
            "it is on the node's network"
        );
    }
    everywhere(world, &places)?;

    // The agent of a node goes, by kill -9, and another one comes.
    let victim = places.iter().find(|p| p.node.name != "n1");
    let victim = victim.context("all on the master's node")?;
    let nodes = &world.cluster.state.nodes;
    let position = nodes.iter().position(|n| n.name == victim.node.name);
    let position = position.context("no such node")?;
    let hub = NetNs::open(&world.cluster.names.hub())?;
    let to = SocketAddr::from((victim.node.ip, victim.task.port));
    unharmed(&hub, to, &victim.task.id, || {
        world.cluster.kill_node(position)?;
        world.cluster.start_node(position)
    })?;
    let app = wait_until(LIMIT, "the service to be whole", || {
        let client = world.cluster.client();
        let marathon = world.cluster.leader(port::MARATHON);
        let json = client
            .get(marathon, "/v2/apps/bridged")
            .ok()?
            .ok()
            .ok()?
            .json()
            .ok()?;
        (json["app"]["tasksHealthy"].as_u64() == Some(3)).then_some(json)
    })?;
    ensure!(app["app"]["tasksRunning"].as_u64() == Some(3), "{app}");
    ensure!(process::alive(victim.pid), "the task was started anew");
    everywhere(world, &places)?;

    remove(&world.cluster, "/bridged", LIMIT)?;
    for node in &world.cluster.state.nodes {
        let mut last = Vec::new();
        wait_until(LIMIT, "nothing to be left", || {
            last = left(node).unwrap_or_else(|e| vec![format!("{e:#}")]);
            last.is_empty().then_some(())
        })
        .with_context(|| format!("{}: {last:?}", node.name))?;
    }
    Ok(())
}

#[test]
fn tasks_behind_bridges_are_reached_from_everywhere_and_leave_nothing() {
    if !can_run() {
        return;
    }
    let mut world = world(3).unwrap();
    let result = behind_bridges(&mut world);
    let logs = world.cluster.last_words();
    world.down(&mut |_| {}).unwrap();
    result
        .map_err(|error| format!("{error:#}\n{logs}"))
        .unwrap();
}
