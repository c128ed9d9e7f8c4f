//! A node that is killed again and again while a thousand backends come and go: no connect ever reaches a backend of
//! another VIP, or one that had left before it began; and what is connected stays connected.
//!
//! The node's agent is a process of its own (this program again, told what to do by lines), so that SIGKILL may meet it
//! between any two writes of the maps. Needs root, cgroup2, bpffs and the embedded programs; skips loudly otherwise.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

mod ground;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ground::Ground;
use waggle_ebpf::{DataPlane, LoaderConfig};
use waggle_overlay::{NodeNet, NodeNetConfig};
use waggle_types::{
    AgentId, AgentNet, Balance, Generation, HealthState, NetSnapshot, PortNet, Protocol, TaskId,
    TaskNet, TaskState, VipLabel, VipLease, VipName,
};

const VIPS: usize = 50;
const BACKENDS: usize = 1_000;
/// Changes of the tables; each moves a few backends.
const STEPS: usize = 400;
/// Of so many changes one kills the agent, sometimes before the change is applied.
const KILL_EVERY: usize = 16;
const LONG_LIVED: usize = 20;
/// Fewest members of a VIP, so that none ever refuses.
const FEWEST: usize = 3;
const MARK: &str = "APPLIED";
const AGENT: &str = "WAGGLE_TEST_CHURN";

fn vip(n: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(11, 7, 0, u8::try_from(n).unwrap()), 80))
}

/// A generator that needs no seed from anywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        // Knuth's MMIX.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

/// Members of each VIP, by port.
type Members = BTreeMap<usize, BTreeSet<u16>>;

fn snapshot(generation: u64, members: &Members) -> Arc<NetSnapshot> {
    let mut s = NetSnapshot {
        generation: Generation(generation),
        ..NetSnapshot::default()
    };
    let agent_id = AgentId::new("a-S1").unwrap();
    let agent = AgentNet {
        overlay: waggle_types::AgentOverlay::default(),
        ip6: None,
        hostname: "n1".into(),
        ip: Ipv4Addr::LOCALHOST,
        reachable: true,
        domain: None,
    };
    s.agents.insert(agent_id.clone(), agent);
    for (n, ports) in members {
        let label = format!("v{n}");
        for port in ports {
            let task = TaskNet {
                ip: None,
                ip6: None,
                network: None,
                subject: None,
                ready: None,
                agent_id: agent_id.clone(),
                name: label.clone(),
                framework: "marathon".into(),
                state: TaskState::Running,
                has_check: false,
                health: HealthState::Unknown,
                ports: vec![PortNet {
                    container_port: None,
                    name: None,
                    host_port: *port,
                    protocols: vec![Protocol::Tcp],
                    vips: vec![VipLabel::Named {
                        name: label.clone(),
                        port: 80,
                    }],
                    balance: Balance::default(),
                }],
            };
            let id = TaskId::new(format!("{label}.{port}")).unwrap();
            s.tasks.insert(id, task.into());
        }
        let SocketAddr::V4(at) = vip(*n) else {
            continue;
        };
        let name = VipName {
            label,
            framework: "marathon".into(),
        };
        let lease = VipLease {
            ip6: None,
            ip: *at.ip(),
            ports: vec![(Protocol::Tcp, 80)],
        };
        s.vips.insert(name, lease);
    }
    Arc::new(s)
}

/// The agent's side: applies what it is told, until it is killed.
async fn serve(told: &str) {
    let (cgroup_root, pin_dir) = told.split_once('|').unwrap();
    let config = LoaderConfig {
        cgroup_root: cgroup_root.into(),
        pin_dir: pin_dir.into(),
    };
    let plane = DataPlane::open(&config).unwrap();
    let config = NodeNetConfig {
        dns_ips: vec![],
        ..NodeNetConfig::new(Ipv4Addr::LOCALHOST)
    };
    let node = NodeNet::start(config, Some(Arc::new(plane))).await.unwrap();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let generation = words.next().unwrap().parse().unwrap();
        let members: Members = words
            .enumerate()
            .map(|(n, ports)| (n, ports.split(',').map(|p| p.parse().unwrap()).collect()))
            .collect();
        let applied = node.apply(snapshot(generation, &members)).await;
        assert_eq!(applied.failures, []);
        println!("\n{MARK} {generation}");
        std::io::stdout().flush().unwrap();
    }
}

/// The agent, from outside.
struct Agent {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Agent {
    fn start(ground: &Ground) -> Self {
        let LoaderConfig {
            cgroup_root,
            pin_dir,
        } = &ground.config;
        let told = format!("{}|{}", cgroup_root.display(), pin_dir.display());
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "connects_are_right_through_churn_and_kills",
                "--nocapture",
            ])
            .env(AGENT, told)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdin: process.stdin.take().unwrap(),
            stdout: BufReader::new(process.stdout.take().unwrap()),
            process,
        }
    }

    fn tell(&mut self, generation: u64, members: &Members) {
        let sets: Vec<String> = members
            .values()
            .map(|ports| {
                ports
                    .iter()
                    .map(u16::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            })
            .collect();
        writeln!(self.stdin, "{generation} {}", sets.join(" ")).unwrap();
    }

    fn applied(&mut self, generation: u64) {
        let want = format!("{MARK} {generation}");
        let mut line = String::new();
        while line.trim() != want {
            line.clear();
            assert_ne!(
                self.stdout.read_line(&mut line).unwrap(),
                0,
                "the agent ended"
            );
        }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A backend says its port and then echoes, for as long as the process lives.
fn backend() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = port.to_be_bytes().to_vec();
                loop {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                    bytes.resize(1, 0);
                    if !matches!(stream.read(&mut bytes).await, Ok(1..)) {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// What a connect may get: whose a backend is, and when it was out for certain.
#[derive(Default)]
struct Truth {
    owner: BTreeMap<u16, usize>,
    out_since: BTreeMap<u16, Instant>,
}

/// Connects to a VIP; the stream and the backend that answered.
fn dial(n: usize) -> Result<(TcpStream, u16), String> {
    let mut stream = TcpStream::connect_timeout(&vip(n), Duration::from_secs(5))
        .map_err(|e| format!("vip {n}: {e}"))?;
    let mut port = [0; 2];
    stream
        .read_exact(&mut port)
        .map_err(|e| format!("vip {n} did not answer: {e}"))?;
    Ok((stream, u16::from_be_bytes(port)))
}

/// Connects until it is told to stop; how often, and what was wrong.
fn client(mut random: Random, truth: &Mutex<Truth>, stop: &AtomicBool) -> (usize, Vec<String>) {
    let (mut n_dials, mut wrong) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let n = random.below(VIPS);
        let begun = Instant::now();
        match dial(n) {
            Err(e) => wrong.push(e),
            Ok((_, port)) => {
                let truth = truth.lock().unwrap();
                if truth.owner.get(&port) != Some(&n) {
                    wrong.push(format!(
                        "vip {n} led to {port}, of {:?}",
                        truth.owner.get(&port)
                    ));
                } else if truth.out_since.get(&port).is_some_and(|out| *out < begun) {
                    wrong.push(format!("vip {n} led to {port}, which had left"));
                }
            }
        }
        n_dials += 1;
    }
    (n_dials, wrong)
}

/// Joins the cgroup for as long as it lives.
struct Inside<'a>(&'a Path);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        std::fs::write(self.0.join("cgroup.procs"), "0").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connects_are_right_through_churn_and_kills() {
    if let Ok(told) = std::env::var(AGENT) {
        return serve(&told).await;
    }
    let Some(ground) = Ground::new() else {
        return;
    };
    let ports: Vec<u16> = (0..BACKENDS).map(|_| backend()).collect();
    let mut truth = Truth::default();
    let mut members = Members::new();
    for (i, port) in ports.iter().enumerate() {
        truth.owner.insert(*port, i % VIPS);
        members.entry(i % VIPS).or_default().insert(*port);
    }
    let truth = Mutex::new(truth);
    let (stop, mut random, mut generation) = (AtomicBool::new(false), Random(7), 1);
    let mut agent = Agent::start(&ground);
    agent.tell(generation, &members);
    agent.applied(generation);

    // From here on this process is a client of the node.
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own
        .lines()
        .find_map(|l| l.strip_prefix("0::/"))
        .unwrap_or_default();
    let home = waggle_ebpf::find_cgroup2_mount().unwrap().join(own);
    std::fs::write(ground.config.cgroup_root.join("cgroup.procs"), "0").unwrap();
    let inside = Inside(&home);
    let mut lived: Vec<TcpStream> = (0..LONG_LIVED).map(|n| dial(n).unwrap().0).collect();
    let mut kills = 0;
    let clients = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..2)
                .map(|seed| {
                    let (truth, stop) = (&truth, &stop);
                    scope.spawn(move || client(Random(100 + seed), truth, stop))
                })
                .collect();
            for step in 0..STEPS {
                // Some leave, some come back; who comes may be met from now on.
                let mut leave = Vec::new();
                for _ in 0..=random.below(5) {
                    let port = ports[random.below(BACKENDS)];
                    let mut truth = truth.lock().unwrap();
                    let set = members.get_mut(&truth.owner[&port]).unwrap();
                    if set.insert(port) {
                        truth.out_since.remove(&port);
                        leave.retain(|p| *p != port);
                    } else if set.len() > FEWEST {
                        set.remove(&port);
                        leave.push(port);
                    }
                }
                generation += 1;
                agent.tell(generation, &members);
                if step % KILL_EVERY == KILL_EVERY - 1 {
                    // Half of them in the middle of it, as far as chance has it.
                    if random.below(2) == 0 {
                        agent.applied(generation);
                    }
                    agent.kill();
                    kills += 1;
                    agent = Agent::start(&ground);
                    agent.tell(generation, &members);
                }
                agent.applied(generation);
                let mut truth = truth.lock().unwrap();
                for port in leave {
                    truth.out_since.insert(port, Instant::now());
                }
                drop(truth);
                if step % 50 == 0 {
                    for stream in &mut lived {
                        let mut byte = [b'x'];
                        stream.write_all(&byte).unwrap();
                        stream.read_exact(&mut byte).unwrap();
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
            clients
                .into_iter()
                .map(|c| c.join().unwrap())
                .collect::<Vec<_>>()
        })
    });
    drop(inside);
    agent.kill();
    let mut dials = 0;
    for (n, wrong) in clients {
        assert_eq!(wrong, Vec::<String>::new(), "of {n} connects");
        dials += n;
    }
    eprintln!(
        "{dials} connects, {STEPS} changes, {kills} kills; {LONG_LIVED} connections lived through all of it"
    );
    assert!(dials > STEPS, "clients came to nothing");
    // Nothing was tracked: translation happened before there was a packet.
    if let Ok(tracked) = std::fs::read_to_string("/proc/net/nf_conntrack") {
        assert!(!tracked.contains("dst=11.7.0."), "{tracked}");
    }
}
