//! Snapshots on this machine's kernel: what `curl` in a node's cgroup reaches through a VIP.
//!
//! Needs root, cgroup2, bpffs, `curl` and the embedded programs; skips loudly otherwise.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

mod ground;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use ground::Ground;
use waggle_ebpf::DataPlane;
use waggle_overlay::{NodeNet, NodeNetConfig};
use waggle_types::{
    AgentId, AgentNet, Balance, Generation, HealthState, NetSnapshot, PortNet, Protocol, TaskId,
    TaskNet, TaskState, VipLabel, VipLease, VipName,
};

const VIP: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 1);

async fn start(ground: &Ground) -> NodeNet {
    let plane = DataPlane::open(&ground.config).unwrap();
    let config = NodeNetConfig {
        dns_ips: vec![],
        ..NodeNetConfig::new(Ipv4Addr::LOCALHOST)
    };
    NodeNet::start(config, Some(Arc::new(plane))).await.unwrap()
}

/// What `curl http://VIP/` in this node's cgroup prints, or its exit code.
async fn curl(ground: &Ground) -> Result<String, i32> {
    let procs = ground.config.cgroup_root.join("cgroup.procs");
    let script = "echo 0 > \"$0\" && exec curl -sS --noproxy '*' --max-time 5 \"$1\"";
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", script]).arg(&procs);
    command.arg(format!("http://{VIP}/"));
    let out = command.output().await.unwrap();
    match out.status.code() {
        Some(0) => Ok(String::from_utf8(out.stdout).unwrap()),
        code => Err(code.unwrap_or(-1)),
    }
}

/// An HTTP server that answers with its name; lives until the process ends.
fn server(name: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let n = name.len();
            let _ = write!(
                stream,
                "HTTP/1.0 200 OK\r\nContent-Length: {n}\r\n\r\n{name}"
            );
        }
    });
    port
}

/// `web` on these ports of this machine, behind `VIP`:80.
fn snapshot(generation: u64, ports: &[u16]) -> Arc<NetSnapshot> {
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
    for port in ports {
        let task = TaskNet {
            ip: None,
            ip6: None,
            network: None,
            subject: None,
            ready: None,
            agent_id: agent_id.clone(),
            name: "web".into(),
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
                    name: "web".into(),
                    port: 80,
                }],
                balance: Balance::default(),
            }],
        };
        s.tasks.insert(task_id(*port), task.into());
    }
    let name = VipName {
        label: "web".into(),
        framework: "marathon".into(),
    };
    let lease = VipLease {
        ip6: None,
        ip: VIP,
        ports: vec![(Protocol::Tcp, 80)],
    };
    s.vips.insert(name, lease);
    Arc::new(s)
}

fn task_id(port: u16) -> TaskId {
    TaskId::new(format!("web.{port}")).unwrap()
}

/// curl's exit code for a refused connect.
const REFUSED: Result<String, i32> = Err(7);

#[tokio::test]
async fn connects_follow_snapshots_facts_and_restarts() {
    let Some(ground) = Ground::new() else {
        return;
    };
    let (one, two) = (server("one"), server("two"));
    let node = start(&ground).await;

    // Defined, without a backend: refused at once.
    assert_eq!(node.apply(snapshot(1, &[])).await.failures, []);
    let begun = Instant::now();
    assert_eq!(curl(&ground).await, REFUSED);
    assert!(begun.elapsed() < Duration::from_secs(2), "it hung");

    assert_eq!(node.apply(snapshot(2, &[one])).await.failures, []);
    assert_eq!(curl(&ground).await.as_deref(), Ok("one"));
    assert_eq!(node.apply(snapshot(3, &[two])).await.failures, []);
    assert_eq!(curl(&ground).await.as_deref(), Ok("two"));

    // No process of ours: the pinned programs and entries work on.
    let ids = node.vip_names();
    node.shutdown().await.unwrap();
    drop(node);
    assert_eq!(curl(&ground).await.as_deref(), Ok("two"));

    // A restart adopts, and a snapshot that says the same changes nothing.
    let node = start(&ground).await;
    assert_eq!(curl(&ground).await.as_deref(), Ok("two"));
    assert_eq!(node.apply(snapshot(3, &[two])).await.n_writes, 0);
    assert_eq!(node.vip_names(), ids);

    // The task dies here: refused, before any snapshot says so.
    let (state, health) = (TaskState::Failed, HealthState::Unknown);
    node.local_fact(task_id(two), (state, health).into()).await;
    assert_eq!(curl(&ground).await, REFUSED);
    node.shutdown().await.unwrap();
}
