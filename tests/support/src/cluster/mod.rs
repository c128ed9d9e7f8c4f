//! A cluster of nodes on one machine: each `waggle node` in its own network namespace, cgroup
//! subtree and bpffs directory, joined by a bridge, with no route out.

mod down;
mod ready;
mod state;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::mount::MsFlags;
use nix::sys::signal::Signal;

use crate::cgroup;
use crate::enter::Entry;
use crate::http::Client;
use crate::names::{MAX_NODES, Names, OTLP_PORT};
use crate::netns::NetNs;
use crate::process;

pub use down::{clear_leftovers, down};
pub use ready::{last_lines, wait_ready};
pub use state::{NodeInfo, Owner, State};

/// Ports that every node serves on its own address.
pub mod port {
    /// Mesos-style API and `/waggle/v1`.
    pub const MESOS: u16 = 5050;
    /// The agent's API.
    pub const AGENT: u16 = 5051;
    /// Marathon's API.
    pub const MARATHON: u16 = 8080;
    /// Prometheus text.
    pub const METRICS: u16 = 61091;
}

/// The node's resolver, from inside.
pub const DNS: &str = "198.51.100.1";

/// What runs on each node.
#[derive(Debug, Clone)]
pub enum Program {
    /// The waggle binary at this path.
    Waggle(PathBuf),
    /// Any other command line, for trying the plumbing alone.
    StandIn(Vec<String>),
}

/// Names below it are asked of the hub's address.
pub const OUTSIDE: &str = "outside.test";

/// What to bring up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Names of everything.
    pub names: Names,
    /// How many nodes.
    pub nodes: u8,
    /// What runs on them.
    pub program: Program,
    /// Where the nodes ship telemetry; none switches it off.
    pub otlp: Option<String>,
    /// Whether the cluster belongs to this process (demo, tests) or stays behind it (`cluster up`).
    pub owned: bool,
}

impl Config {
    /// The sink's URL as the nodes see it.
    #[must_use]
    pub fn sink_url(names: &Names) -> String {
        format!("http://{}:{OTLP_PORT}", names.hub_ip())
    }
}

/// A cluster that this process has brought up or opened.
#[derive(Debug)]
pub struct Cluster {
    /// Names of everything.
    pub names: Names,
    /// What is recorded about it.
    pub state: State,
    program: Program,
    children: BTreeMap<u8, Child>,
}

impl Cluster {
    /// Makes namespaces, cgroups and directories; starts nothing yet. Whatever was made is removed
    /// again when a step fails.
    pub fn prepare(config: &Config, say: &mut dyn FnMut(&str)) -> anyhow::Result<Self> {
        if config.nodes == 0 || config.nodes > MAX_NODES {
            bail!("nodes: {} is not between 1 and {MAX_NODES}", config.nodes);
        }
        let dir = config.names.state_dir();
        std::fs::create_dir(&dir).with_context(|| {
            format!(
                "{} exists: a cluster is there, take it down first",
                dir.display()
            )
        })?;
        match Self::prepare_in(config, &dir) {
            Ok(cluster) => Ok(cluster),
            Err(error) => {
                let _ = down(&config.names, say);
                Err(error)
            }
        }
    }

    fn prepare_in(config: &Config, dir: &Path) -> anyhow::Result<Self> {
        let names = &config.names;
        std::fs::write(
            dir.join("resolv.conf"),
            format!("nameserver {DNS}\noptions timeout:2\n"),
        )?;
        std::fs::write(
            dir.join("nsswitch.conf"),
            "passwd: files\ngroup: files\nhosts: files dns\n",
        )?;
        if !mounted_bpffs() {
            // The marker comes first: a crash in between unmounts nothing that is not ours, because
            // unmounting what is not mounted is refused.
            std::fs::write(dir.join(down::BPFFS_MARKER), "")?;
            nix::mount::mount(
                Some("bpf"),
                "/sys/fs/bpf",
                Some("bpf"),
                MsFlags::empty(),
                Some("mode=0700"),
            )
            .context("mount bpffs on /sys/fs/bpf")?;
        }
        let hub = NetNs::create(&names.hub())?;
        let bridge = names.bridge();
        hub.ip(&format!(
            "link add {bridge} type bridge\naddr add {}/24 dev {bridge}\nlink set {bridge} up\n",
            names.hub_ip()
        ))?;
        let v2 = cgroup::v2_mount()?;
        cgroup::delegate(&v2);
        let root = v2.join(names.cgroup());
        std::fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        cgroup::delegate(&root);
        let mut nodes = Vec::new();
        for index in 1..=config.nodes {
            nodes.push(prepare_node(names, &root, dir, index)?);
        }
        let state = State {
            prefix: names.prefix().to_owned(),
            otlp: config.otlp.clone(),
            owner: config.owned.then(Owner::this_process),
            nodes,
        };
        state.save(names)?;
        let program = config.program.clone();
        Ok(Self {
            names: names.clone(),
            state,
            program,
            children: BTreeMap::new(),
        })
    }

    /// Prepares and starts every node, and waits until their APIs answer.
    pub fn up(
        config: &Config,
        deadline: Duration,
        say: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare(config, say)?;
        match cluster
            .start_all()
            .and_then(|()| wait_ready(&cluster, deadline))
        {
            Ok(()) => Ok(cluster),
            Err(error) => {
                // The node's last words first: taking down removes its log.
                let error = error.context(cluster.last_words());
                let _ = cluster.down(say);
                Err(error)
            }
        }
    }

    /// The cluster that is up, from its state file.
    pub fn open(names: &Names, waggle: Option<PathBuf>) -> anyhow::Result<Self> {
        let state = State::load(names)?.context("no cluster is up (cargo xtask cluster up)")?;
        let program = waggle.map_or_else(|| Program::StandIn(Vec::new()), Program::Waggle);
        Ok(Self {
            names: names.clone(),
            state,
            program,
            children: BTreeMap::new(),
        })
    }

    /// Starts every node.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        for index in 0..self.state.nodes.len() {
            self.start_node(index)?;
        }
        Ok(())
    }

    /// Starts (again) the node at this position; a file `node.toml` in its working directory is its configuration.
    pub fn start_node(&mut self, position: usize) -> anyhow::Result<()> {
        let program = self.program.clone();
        self.start_node_as(position, &program)
    }

    /// As [`Cluster::start_node`], with another program than the others.
    pub fn start_node_as(&mut self, position: usize, program: &Program) -> anyhow::Result<()> {
        let node = self
            .state
            .nodes
            .get(position)
            .context("no such node")?
            .clone();
        let mut entry = self.entry(&node);
        entry.cgroup = Some(node.cgroup.join("node"));
        entry.detached = true;
        let mut command = match program {
            Program::Waggle(path) => {
                let mut command = entry.command(path)?;
                command.args(node_args(&node, &self.state, &self.names));
                let file = node.work_dir.join("node.toml");
                if file.is_file() {
                    command.env("WAGGLE_CONFIG", file);
                }
                command
            }
            Program::StandIn(line) => {
                let (program, args) = line.split_first().context("no program to run on nodes")?;
                let mut command = entry.command(program)?;
                command.args(args);
                command
            }
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(&node.log)
            .with_context(|| format!("open {}", node.log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir(&node.work_dir)
            .spawn()
            .with_context(|| format!("start node {}", node.name))?;
        let pid = i32::try_from(child.id()).context("pid")?;
        if let Some(node) = self.state.nodes.get_mut(position) {
            node.pid = pid;
        }
        if let Some(mut old) = self.children.insert(node.index, child) {
            let _ = old.wait();
        }
        self.state.save(&self.names)
    }

    /// SIGKILLs the node's own process, not its tasks, and waits for its end.
    pub fn kill_node(&mut self, position: usize) -> anyhow::Result<()> {
        let node = self.state.nodes.get(position).context("no such node")?;
        process::signal(node.pid, Signal::SIGKILL);
        if let Some(mut child) = self.children.remove(&node.index) {
            child
                .wait()
                .with_context(|| format!("wait for node {}", node.name))?;
        }
        Ok(())
    }

    /// SIGTERMs the node's own process, as a service manager does before it starts another version, and waits for its end.
    pub fn stop_node(&mut self, position: usize) -> anyhow::Result<()> {
        let node = self.state.nodes.get(position).context("no such node")?;
        process::signal(node.pid, Signal::SIGTERM);
        if let Some(mut child) = self.children.remove(&node.index) {
            let status = child
                .wait()
                .with_context(|| format!("wait for node {}", node.name))?;
            anyhow::ensure!(status.success(), "node {} ended with {status}", node.name);
        }
        Ok(())
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> anyhow::Result<&NodeInfo> {
        self.state
            .nodes
            .iter()
            .find(|n| n.name == name)
            .with_context(|| {
                let have: Vec<&str> = self.state.nodes.iter().map(|n| n.name.as_str()).collect();
                format!("no node {name}; there are {}", have.join(", "))
            })
    }

    fn entry(&self, node: &NodeInfo) -> Entry {
        let dir = self.names.state_dir();
        Entry {
            netns: NetNs::named(&node.netns).path(),
            cgroup: Some(node.cgroup.join("exec")),
            binds: vec![
                (dir.join("resolv.conf"), PathBuf::from("/etc/resolv.conf")),
                (
                    dir.join("nsswitch.conf"),
                    PathBuf::from("/etc/nsswitch.conf"),
                ),
            ],
            detached: false,
        }
    }

    /// A command that runs on a node: its namespace, cgroup and resolver.
    pub fn command(
        &self,
        node: &str,
        program: impl AsRef<std::ffi::OsStr>,
    ) -> anyhow::Result<Command> {
        self.entry(self.node(node)?).command(program)
    }

    /// An HTTP client on the bridge, which reaches every node's API.
    #[must_use]
    pub fn client(&self) -> Client {
        // A hub that is gone shows as an error of the request, which names it.
        Client::new(NetNs::named(&self.names.hub()), Duration::from_secs(10))
    }

    /// The address of one of node 1's APIs, the first master's.
    #[must_use]
    pub fn leader(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.names.node_ip(1)), port)
    }

    /// The last log lines of every node that does not run, else of node 1.
    #[must_use]
    pub fn last_words(&self) -> String {
        let dead: Vec<&NodeInfo> = self
            .state
            .nodes
            .iter()
            .filter(|n| !process::alive(n.pid))
            .collect();
        let shown = if dead.is_empty() {
            self.state.nodes.iter().take(1).collect()
        } else {
            dead
        };
        shown
            .iter()
            .map(|n| format!("{}'s last log lines:\n{}", n.name, last_lines(&n.log, 20)))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Takes everything down. Collects what failed, and does the rest.
    pub fn down(mut self, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        let result = down(&self.names, say);
        for child in self.children.values_mut() {
            let _ = child.wait();
        }
        result
    }
}

fn prepare_node(names: &Names, root: &Path, dir: &Path, index: u8) -> anyhow::Result<NodeInfo> {
    let name = format!("n{index}");
    let netns = NetNs::create(&names.netns(index))?;
    let (veth, bridge) = (names.veth(index), names.bridge());
    NetNs::open(&names.hub())?.ip(&format!(
        "link add {veth} type veth peer name eth0 netns {}\n\
         link set {veth} master {bridge}\nlink set {veth} up\n",
        netns.name()
    ))?;
    let ip = names.node_ip(index);
    netns.ip(&format!("addr add {ip}/24 dev eth0\nlink set eth0 up\n"))?;
    let cgroup = root.join(&name);
    for leaf in ["node", "exec"] {
        let leaf = cgroup.join(leaf);
        std::fs::create_dir_all(&leaf).with_context(|| format!("create {}", leaf.display()))?;
    }
    cgroup::delegate(&cgroup);
    let bpf_dir = names.bpf_dir().join(&name);
    std::fs::create_dir_all(&bpf_dir).with_context(|| format!("create {}", bpf_dir.display()))?;
    let work_dir = dir.join(&name);
    std::fs::create_dir_all(&work_dir).with_context(|| format!("create {}", work_dir.display()))?;
    let url = |port| format!("http://{ip}:{port}");
    Ok(NodeInfo {
        log: dir.join(format!("{name}.log")),
        index,
        netns: netns.name().to_owned(),
        ip,
        cgroup,
        bpf_dir,
        work_dir,
        pid: 0,
        mesos_url: url(port::MESOS),
        marathon_url: url(port::MARATHON),
        agent_url: url(port::AGENT),
        metrics_url: url(port::METRICS),
        name,
    })
}

/// The command line of a node.
fn node_args(node: &NodeInfo, state: &State, names: &Names) -> Vec<String> {
    let master = state
        .nodes
        .first()
        .map_or_else(|| node.ip.to_string(), |n| n.ip.to_string());
    let mut args = vec!["node".to_owned()];
    let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
    flag("name", node.name.clone());
    flag("ip", node.ip.to_string());
    flag("masters", master);
    flag("work-dir", node.work_dir.display().to_string());
    flag("cgroup-root", node.cgroup.display().to_string());
    flag("bpf-dir", node.bpf_dir.display().to_string());
    if let Some(otlp) = &state.otlp {
        flag("otlp", otlp.clone());
        // No program of these tests sends by io_uring.
        flag("trace-inject", "labelled-without-send-zc".to_owned());
    }
    // Listeners bind loopback unless told otherwise; this network has no way out. All addresses of
    // the namespace: a command in it finds the APIs at their defaults on loopback.
    flag("http-address", "0.0.0.0".to_owned());
    // The resolver that the node sees is itself.
    flag("dns-upstreams", "none".to_owned());
    // What is outside may answer for itself, where a test has somebody there.
    flag("dns-forward", format!("{OUTSIDE}={}", names.hub_ip()));
    flag("cluster", "demo".to_owned());
    flag("tick", "1s".to_owned());
    // Nobody has to wait for long beside a framework that sits on its offers.
    flag("offer-timeout", "5s".to_owned());
    args
}

fn mounted_bpffs() -> bool {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    table.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some("/sys/fs/bpf") && fields.next() == Some("bpf")
    })
}
