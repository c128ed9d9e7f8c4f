//! Tasks behind their nodes' bridges: VIPs, names and host ports from everywhere, over TCP and UDP, also while the agent is
//! killed; and nothing is left when they are gone.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use nix::sched::{CloneFlags, setns};
use waggle_tests_privileged::{LIMIT, can_run, healthy, world};
use waggle_tests_support::{
    cgroup,
    cluster::{NodeInfo, port},
    enter::Entry,
    names::Names,
    netns::NetNs,
    process,
    scenario::{App, Task, World, deploy, remove},
    wait_until,
};

const DEFINITION: &str = include_str!("../../fixtures/bridged.json");
const NAME: &str = "bridged.marathon.l4lb.thisdcos.directory";
/// A client of its own words: what it asks of whom, how often, and it prints each answer.
const CLIENT: &str = r#"
import socket, sys
kind, host, port, n = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for _ in range(n):
    try:
        if kind == "tcp":
            s = socket.create_connection((host, port), 2)
            s.settimeout(2)
            print(s.makefile().readline().strip())
        else:
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.settimeout(2)
            s.connect((host, port))
            s.send(b"?")
            print(s.recv(512).decode())
        s.close()
    except OSError as e:
        print("failed", e)
"#;

/// A task, where it runs.
struct Place {
    task: Task,
    node: NodeInfo,
    pid: i32,
}

fn places(world: &World) -> anyhow::Result<Vec<Place>> {
    let app = deployed(world)?;
    let tasks = app.tasks(&world.cluster)?;
    let place = |task: Task| -> anyhow::Result<Place> {
        let node = task.node(&world.cluster)?.clone();
        let is_its = |pid: &i32| {
            process::comm(*pid) == "python3"
                && std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                    .is_ok_and(|t| t.contains(&task.id))
        };
        let pid = cgroup::pids_below(&node.cgroup).into_iter().find(is_its);
        let pid = pid.with_context(|| format!("no process of {}", task.id))?;
        Ok(Place { task, node, pid })
    };
    tasks.into_iter().map(place).collect()
}

fn deployed(world: &World) -> anyhow::Result<App> {
    let cluster = &world.cluster;
    let app = deploy(cluster, DEFINITION, LIMIT).with_context(|| cluster.last_words())?;
    healthy(world, &app, 3)?;
    Ok(app)
}

/// Answers that a client gets, run by `command`.
fn answers(
    mut command: Command,
    kind: &str,
    host: &str,
    port: u16,
    n: u32,
) -> anyhow::Result<Vec<String>> {
    let out = command
        .args(["-c", CLIENT, kind, host, &port.to_string(), &n.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "client: {said}");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    Ok(text.lines().map(str::to_owned).collect())
}

/// A command as the task itself would run it: its network, its cgroup, the node's resolver.
fn beside(world: &World, place: &Place) -> anyhow::Result<Command> {
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", place.pid))?;
    let path = text
        .lines()
        .find_map(|l| l.strip_prefix("0::/"))
        .context("no cgroup2")?;
    let v2 = cgroup::hierarchies().into_iter().find(|h| h.v2);
    Entry {
        netns: PathBuf::from(format!("/proc/{}/ns/net", place.pid)),
        cgroup: v2.map(|h| h.mount.join(path)),
        binds: ["resolv.conf", "nsswitch.conf"]
            .map(|f| {
                (
                    world.cluster.names.state_dir().join(f),
                    Path::new("/etc").join(f),
                )
            })
            .to_vec(),
        detached: false,
    }
    .command("python3")
}

fn all_answer(
    what: &str,
    places: &[Place],
    mut ask: impl FnMut() -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<()> {
    let all: BTreeSet<&str> = places.iter().map(|p| p.task.id.as_str()).collect();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut last = Vec::new();
    wait_until(LIMIT, what, || {
        last = ask().unwrap_or_else(|e| vec![format!("{e:#}")]);
        if last.iter().any(|l| l.starts_with("failed")) {
            seen.clear();
            return None;
        }
        seen.extend(
            last.iter()
                .filter_map(|l| Some(l.split(' ').next()?.to_owned())),
        );
        (seen.iter().map(String::as_str).collect::<BTreeSet<_>>() == all).then_some(())
    })
    .with_context(|| format!("the last answers: {last:?}"))
}

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

/// Connections one after the other to a mapped port, and one that stays, while `act` is done.
fn unharmed(
    names: &Names,
    place: &Place,
    act: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let to = SocketAddr::from((place.node.ip, place.task.port));
    let hub = NetNs::open(&names.hub())?;
    let stop = AtomicBool::new(false);
    let (n_good, n_bad) = (AtomicU64::new(0), AtomicU64::new(0));
    let acted = std::thread::scope(|scope| -> anyhow::Result<()> {
        for _ in 0..4 {
            scope.spawn(|| {
                let ran = hub.run(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let asked = TcpStream::connect_timeout(&to, Duration::from_secs(2))
                            .and_then(|mut s| {
                                s.set_read_timeout(Some(Duration::from_secs(2)))?;
                                let mut said = String::new();
                                s.read_to_string(&mut said).map(|_| said)
                            });
                        let good = asked.is_ok_and(|said| said.starts_with(&place.task.id));
                        let counter = if good { &n_good } else { &n_bad };
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                });
                if ran.is_err() {
                    n_bad.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let acted = wait_until(LIMIT, "traffic", || {
            (n_good.load(Ordering::Relaxed) > 50).then_some(())
        })
        .and_then(|()| act());
        let before = n_good.load(Ordering::Relaxed);
        let more = wait_until(LIMIT, "more traffic", || {
            (n_good.load(Ordering::Relaxed) > before + 50).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        acted.and(more)
    });
    let (good, bad) = (n_good.into_inner(), n_bad.into_inner());
    println!("{good} connections, {bad} failed");
    acted?;
    ensure!(bad == 0, "{bad} of {} connections failed", good + bad);
    Ok(())
}

/// What is left on a node of what its tasks had.
fn left(node: &NodeInfo) -> anyhow::Result<Vec<String>> {
    let run = |program: &str, arguments: &[&str]| -> anyhow::Result<String> {
        let netns = File::open(Path::new("/run/netns").join(&node.netns))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&netns, CloneFlags::CLONE_NEWNET)?;
                let out = Command::new(program).args(arguments).output()?;
                Ok(String::from_utf8_lossy(&out.stdout).into_owned())
            });
            thread.join().unwrap_or_else(|_| bail!("a thread panicked"))
        })
    };
    let mut out: Vec<String> = run("ip", &["-o", "link", "show"])?
        .lines()
        .filter(|l| {
            // Its number, its name, the rest: which may name the namespace of its peer.
            let name = l.split(": ").nth(1).unwrap_or_default();
            name.starts_with("wgl") || name.starts_with("waggle0")
        })
        .map(str::to_owned)
        .collect();
    out.extend(run("nft", &["list", "tables"])?.lines().map(str::to_owned));
    let files = std::fs::read_dir(node.work_dir.join("agent/networks"))?;
    let names = files.flatten().map(|e| e.file_name().display().to_string());
    out.extend(names.filter(|n| n != "bridge.json"));
    Ok(out)
}

fn behind_bridges(world: &mut World) -> anyhow::Result<()> {
    let places = places(world)?;
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
    let names = world.cluster.names.clone();
    unharmed(&names, victim, || {
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
