//! Tasks that answer who they are, whom they are asked by, and clients everywhere that ask them.

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
use waggle_tests_support::{
    cgroup,
    cluster::NodeInfo,
    enter::Entry,
    netns::NetNs,
    process,
    scenario::{App, Task, World, deploy},
    wait_until,
};

use crate::{LIMIT, healthy};

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
            s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            s.settimeout(2)
            s.connect((host, port))
            s.send(b"?")
            print(s.recv(512).decode())
        s.close()
    except OSError as e:
        print("failed", e)
"#;

/// A task, where it runs.
pub struct Place {
    /// The task.
    pub task: Task,
    /// Its node.
    pub node: NodeInfo,
    /// Its process.
    pub pid: i32,
}

/// Deploys a definition and waits until `n` of its tasks are healthy.
pub fn places(world: &World, definition: &str, n: u64) -> anyhow::Result<Vec<Place>> {
    let app = deployed(world, definition, n)?;
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

fn deployed(world: &World, definition: &str, n: u64) -> anyhow::Result<App> {
    let cluster = &world.cluster;
    let app = deploy(cluster, definition, LIMIT).with_context(|| cluster.last_words())?;
    healthy(world, &app, n)?;
    Ok(app)
}

/// Answers that a client gets, run by `command`.
pub fn answers(
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
pub fn beside(world: &World, place: &Place) -> anyhow::Result<Command> {
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

/// Asks until every one of the tasks has answered, and no answer is a failure.
pub fn all_answer(
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

/// Connections one after the other to an address of a task, from outside of the nodes, while `act` is done: none fails.
pub fn unharmed(
    from: &NetNs,
    to: SocketAddr,
    id: &str,
    act: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let stop = AtomicBool::new(false);
    let (n_good, n_bad) = (AtomicU64::new(0), AtomicU64::new(0));
    let acted = std::thread::scope(|scope| -> anyhow::Result<()> {
        for _ in 0..4 {
            scope.spawn(|| {
                let ran = from.run(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let asked = TcpStream::connect_timeout(&to, Duration::from_secs(2))
                            .and_then(|mut s| {
                                s.set_read_timeout(Some(Duration::from_secs(2)))?;
                                let mut said = String::new();
                                s.read_to_string(&mut said).map(|_| said)
                            });
                        let good = asked.is_ok_and(|said| said.starts_with(id));
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
pub fn left(node: &NodeInfo) -> anyhow::Result<Vec<String>> {
    let run = |program: &str, arguments: &[&str]| on_node(node, program, arguments);
    let mut out: Vec<String> = run("ip", &["-o", "link", "show"])?
        .lines()
        .filter(|l| {
            // Its number, its name, the rest: which may name the namespace of its peer.
            let name = l.split(": ").nth(1).unwrap_or_default();
            ["wgl", "wgo", "waggle0"]
                .iter()
                .any(|p| name.starts_with(p))
        })
        .map(str::to_owned)
        .collect();
    out.extend(run("nft", &["list", "tables"])?.lines().map(str::to_owned));
    let files = std::fs::read_dir(node.work_dir.join("agent/networks"))?;
    let names = files.flatten().map(|e| e.file_name().display().to_string());
    out.extend(names.filter(|n| n != "bridge.json" && n != "overlay.json"));
    Ok(out)
}

/// What a program prints that runs in a node's network.
pub fn on_node(node: &NodeInfo, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let netns = File::open(Path::new("/run/netns").join(&node.netns))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&netns, CloneFlags::CLONE_NEWNET)?;
            let out = Command::new(program).args(arguments).output()?;
            Ok(String::from_utf8_lossy(&out.stdout).into_owned())
        });
        thread.join().unwrap_or_else(|_| bail!("a thread panicked"))
    })
}
