//! Snapshots on this machine's kernel: what `curl` in a node's cgroup reaches through a VIP.
//!
//! Needs root, cgroup2, bpffs, `curl` and the embedded programs; skips loudly otherwise.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::mount::{MsFlags, mount, umount};
use waggle_ebpf::{DataPlane, LoadError, LoaderConfig};
use waggle_overlay::{NodeNet, NodeNetConfig};
use waggle_types::{
    AgentId, AgentNet, Balance, Generation, HealthState, NetSnapshot, PortNet, Protocol, TaskId,
    TaskNet, TaskState, VipLabel, VipLease, VipName,
};

const VIP: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 1);

/// A cgroup and a bpf file system of its own, gone when dropped: the machine's may not be mounted, and is not
/// this test's to mount.
struct Ground {
    config: LoaderConfig,
    bpffs: PathBuf,
}

impl Ground {
    fn new() -> Option<Self> {
        let skip = |why: &str| {
            eprintln!("SKIP: {why}");
            None
        };
        if !nix::unistd::geteuid().is_root() {
            return skip("needs root");
        }
        if !waggle_ebpf::is_built_with_ebpf() {
            return skip(&LoadError::BuiltWithoutEbpf.to_string());
        }
        if Command::new("curl").arg("--version").output().is_err() {
            return skip("curl is not installed");
        }
        let Some(cgroup2) = waggle_ebpf::find_cgroup2_mount() else {
            return skip("no cgroup2 hierarchy is mounted");
        };
        let name = format!("wgh-e-net-{}", std::process::id());
        let bpffs = std::env::temp_dir().join(&name);
        std::fs::create_dir(&bpffs).unwrap();
        let none = None::<&str>;
        if let Err(e) = mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none) {
            std::fs::remove_dir(&bpffs).unwrap();
            return skip(&format!("no bpf file system: {e}"));
        }
        let config = LoaderConfig {
            cgroup_root: cgroup2.join(&name),
            pin_dir: bpffs.join("node"),
        };
        let ground = Self { config, bpffs };
        std::fs::create_dir(&ground.config.cgroup_root).unwrap();
        Some(ground)
    }

    async fn node(&self) -> NodeNet {
        let plane = DataPlane::open(&self.config).unwrap();
        let config = NodeNetConfig {
            dns_ips: vec![],
            ..NodeNetConfig::new(Ipv4Addr::LOCALHOST)
        };
        NodeNet::start(config, Some(Arc::new(plane))).await.unwrap()
    }

    /// What `curl http://VIP/` in this node's cgroup prints, or its exit code.
    async fn curl(&self) -> Result<String, i32> {
        let procs = self.config.cgroup_root.join("cgroup.procs");
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
}

impl Drop for Ground {
    fn drop(&mut self) {
        let LoaderConfig {
            cgroup_root,
            pin_dir,
        } = &self.config;
        if let Err(e) = DataPlane::remove(pin_dir) {
            eprintln!("failed to unpin {}: {e}", pin_dir.display());
        }
        // Processes were waited for; the kernel empties their cgroup, and lets go of the mount, a moment later.
        let deadline = Instant::now() + Duration::from_secs(5);
        let done = || {
            let cgroup = !Path::exists(cgroup_root) || std::fs::remove_dir(cgroup_root).is_ok();
            // Refused when it was unmounted in the round before.
            let _ = umount(&self.bpffs);
            let mount = !Path::exists(&self.bpffs) || std::fs::remove_dir(&self.bpffs).is_ok();
            cgroup && mount
        };
        while !done() {
            if Instant::now() > deadline {
                eprintln!(
                    "{} or {} stays",
                    cgroup_root.display(),
                    self.bpffs.display()
                );
                return;
            }
            std::thread::yield_now();
        }
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
        hostname: "n1".into(),
        ip: Ipv4Addr::LOCALHOST,
        reachable: true,
        domain: None,
    };
    s.agents.insert(agent_id.clone(), agent);
    for port in ports {
        let task = TaskNet {
            agent_id: agent_id.clone(),
            name: "web".into(),
            framework: "marathon".into(),
            state: TaskState::Running,
            has_check: false,
            health: HealthState::Unknown,
            ports: vec![PortNet {
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
    let node = ground.node().await;

    // Defined, without a backend: refused at once.
    assert_eq!(node.apply(snapshot(1, &[])).await.failures, []);
    let begun = Instant::now();
    assert_eq!(ground.curl().await, REFUSED);
    assert!(begun.elapsed() < Duration::from_secs(2), "it hung");

    assert_eq!(node.apply(snapshot(2, &[one])).await.failures, []);
    assert_eq!(ground.curl().await.as_deref(), Ok("one"));
    assert_eq!(node.apply(snapshot(3, &[two])).await.failures, []);
    assert_eq!(ground.curl().await.as_deref(), Ok("two"));

    // No process of ours: the pinned programs and entries work on.
    let ids = node.vip_names();
    node.shutdown().await.unwrap();
    drop(node);
    assert_eq!(ground.curl().await.as_deref(), Ok("two"));

    // A restart adopts, and a snapshot that says the same changes nothing.
    let node = ground.node().await;
    assert_eq!(ground.curl().await.as_deref(), Ok("two"));
    assert_eq!(node.apply(snapshot(3, &[two])).await.n_writes, 0);
    assert_eq!(node.vip_names(), ids);

    // The task dies here: refused, before any snapshot says so.
    let (state, health) = (TaskState::Failed, HealthState::Unknown);
    node.local_fact(task_id(two), state, health).await;
    assert_eq!(ground.curl().await, REFUSED);
    node.shutdown().await.unwrap();
}
