//! Two nodes on an underlay, each with its part of a network and a container there.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use waggle_ebpf::overlay::{At, Endpoint};
use waggle_overlay::{
    netlink::Netlink,
    overlay::{OverlayCheck, OverlayNet, OverlayNetConfig},
    wireguard::{self, Wireguard, WireguardConfig},
};
use waggle_overlay_plan::{network::node_plan, policy::PolicyWorld};
use waggle_tests_support::{netns::TempNetNs, wait_until};
use waggle_types::{
    AgentId, AgentNet, AgentOverlay, AgentSubnet, IpNet, NetSnapshot, Network, Vtep, WireguardKey,
};

pub const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];
const CONTAINERS: [Ipv4Addr; 2] = [Ipv4Addr::new(9, 0, 1, 2), Ipv4Addr::new(9, 0, 2, 2)];
const NETWORK: &str = "dcos";
pub const VXLAN: u16 = 64000;
pub const MARK: &[u8] = b"the honey is in the hollow oak. ";
pub const LIMIT: Duration = Duration::from_secs(30);

/// What the test owns; removed when dropped.
pub struct World {
    pub nodes: [Node; 2],
    // Unmounted before the directory that it is in goes.
    _pins: Pins,
    pub dir: tempfile::TempDir,
}

pub struct Node {
    pub ns: TempNetNs,
    pub container: TempNetNs,
    overlay: Option<(OverlayNet, Option<Arc<Wireguard>>)>,
}

struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(&self.0).status();
        if !done.is_ok_and(|s| s.success()) {
            eprintln!("{} is left mounted", self.0.display());
        }
    }
}

impl World {
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let name = format!("wgl-t-{name}-{}", std::process::id());
        let dir = tempfile::tempdir()?;
        let pins = dir.path().join("bpf");
        fs::create_dir(&pins)?;
        let mounted = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(&pins)
            .status()?;
        ensure!(mounted.success(), "mount a bpffs");
        let pins = Pins(pins);
        let node = |at: usize| -> anyhow::Result<Node> {
            Ok(Node {
                ns: TempNetNs::create(&format!("{name}-n{at}"))?,
                container: TempNetNs::create(&format!("{name}-c{at}"))?,
                overlay: None,
            })
        };
        let nodes = [node(0)?, node(1)?];
        nodes[0].ns.ip(&format!(
            "link add u0 type veth peer name u0 netns {}\n",
            nodes[1].ns.name()
        ))?;
        for (node, ip) in nodes.iter().zip(NODES) {
            node.ns
                .ip(&format!("link set u0 up\naddr add {ip}/24 dev u0\n"))?;
            // As on machines that care.
            node.ns
                .run(|| fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1"))??;
        }
        Ok(Self {
            nodes,
            _pins: pins,
            dir,
        })
    }

    /// The agent's part of a node.
    pub fn start(&mut self, at: usize, encrypts: bool) -> anyhow::Result<()> {
        let overlay = OverlayNet::new(OverlayNetConfig {
            node_ip: NODES[at],
            pin_dir: self.dir.path().join(format!("bpf/n{at}")),
        });
        let mut wireguard = None;
        if encrypts {
            let key_file = key_file(self.dir.path(), at);
            let started = self.nodes[at].ns.run(|| {
                Wireguard::start(WireguardConfig {
                    node: NODES[at],
                    key_file,
                    port: wireguard::DEFAULT_PORT,
                    vxlan_port: VXLAN,
                    underlay_mtu: wireguard::underlay_mtu(NODES[at])?,
                })
            })??;
            let started = Arc::new(started);
            overlay.encrypt(Arc::clone(&started));
            wireguard = Some(started);
        }
        self.nodes[at].overlay = Some((overlay, wireguard));
        Ok(())
    }

    /// It is gone; what it has made in the kernel stays.
    pub fn stop(&mut self, at: usize) {
        self.nodes[at].overlay = None;
    }

    pub fn forget_key(&self, at: usize) -> anyhow::Result<()> {
        Ok(fs::remove_file(key_file(self.dir.path(), at))?)
    }

    pub fn key(&self, at: usize) -> WireguardKey {
        let (_, wireguard) = self.nodes[at].overlay.as_ref().unwrap();
        wireguard.as_ref().unwrap().key()
    }

    fn overlay(&self, at: usize) -> &OverlayNet {
        &self.nodes[at].overlay.as_ref().unwrap().0
    }

    /// Brings a node to what the master says of both.
    pub fn sync(&self, at: usize, keys: [Option<WireguardKey>; 2]) -> anyhow::Result<()> {
        let plan = node_plan(&snapshot(keys), &agent(at));
        let overlay = self.overlay(at);
        let sync = || overlay.sync(plan, PolicyWorld::default());
        let errors = self.nodes[at].ns.run(sync)?;
        ensure!(errors.is_empty(), "node {at}: {errors:?}");
        Ok(())
    }

    pub fn sync_all(&self) -> anyhow::Result<()> {
        let keys = [0, 1].map(|at| Some(self.key(at)));
        (0..2).try_for_each(|at| self.sync(at, keys))
    }

    pub fn upkeep(&self, at: usize) -> anyhow::Result<()> {
        let overlay = self.overlay(at);
        let errors = self.nodes[at].ns.run(|| overlay.upkeep())?;
        ensure!(errors.is_empty(), "node {at}: {errors:?}");
        Ok(())
    }

    pub fn check(&self, at: usize) -> anyhow::Result<OverlayCheck> {
        let overlay = self.overlay(at);
        Ok(self.nodes[at].ns.run(|| overlay.check())??)
    }

    pub fn count(&self, at: usize, reason: &str) -> anyhow::Result<u64> {
        let counts = self.overlay(at).counts()?;
        let found = counts.iter().find(|(name, _)| *name == reason);
        Ok(found.context("no such count")?.1)
    }

    /// A container on each.
    pub fn containers(&self) -> anyhow::Result<()> {
        for (at, node) in self.nodes.iter().enumerate() {
            let overlay = self.overlay(at);
            let on = overlay.network(NETWORK).map_err(anyhow::Error::msg)?;
            let ip = CONTAINERS[at];
            let mac = OverlayNet::mac_of(ip.into());
            let inside = File::open(format!("/run/netns/{}", node.container.name()))?;
            let other = ("eth0", mac, inside.as_raw_fd());
            node.ns
                .run(|| Netlink::open()?.add_pair("c2", on.mtu.into(), other))??;
            node.ns.ip(&format!("route add {ip}/32 dev c2\n"))?;
            node.container.ip(&format!(
                "link set eth0 up\naddr add {ip}/32 dev eth0\n\
                 route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1\n"
            ))?;
            let ifindex = node.ns.run(|| nix::net::if_::if_nametoindex("c2"))??;
            let endpoint = Endpoint {
                at: At::Container {
                    ifindex,
                    mac,
                    may_forward: false,
                },
                network: on.number,
                identity: 0,
            };
            let ips = [IpAddr::from(ip)];
            node.ns.run(|| overlay.add_container(&ips, endpoint))??;
        }
        Ok(())
    }

    /// From the first container to the second.
    pub fn connect(&self, limit: Duration) -> anyhow::Result<TcpStream> {
        self.connect_from(0, 7, limit)
    }

    /// The other way round.
    pub fn connect_back(&self, limit: Duration) -> anyhow::Result<TcpStream> {
        self.connect_from(1, 7, limit)
    }

    /// To a port where somebody may listen, or an answer that nobody does counts as reached.
    fn connect_from(&self, at: usize, port: u16, limit: Duration) -> anyhow::Result<TcpStream> {
        let to = SocketAddr::from((CONTAINERS[1 - at], port));
        let _listener = self.nodes[1 - at].container.listen(to)?;
        self.nodes[at].container.connect(to, limit)
    }

    /// A connection between the containers, both ends.
    pub fn pair(&self) -> anyhow::Result<(TcpStream, TcpStream)> {
        let listener = self.nodes[1]
            .container
            .run(|| TcpListener::bind((CONTAINERS[1], 0)))??;
        let to = listener.local_addr()?;
        // Who was not reached a moment ago may be given up once more.
        let here = wait_until(LIMIT, "a connection", || {
            let container = &self.nodes[0].container;
            container.connect(to, Duration::from_secs(5)).ok()
        })?;
        let (there, _) = listener.accept()?;
        for stream in [&here, &there] {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
        }
        Ok((here, there))
    }

    /// Marked bytes from one to the other; all arrive, unchanged.
    pub fn transfer(&self) -> anyhow::Result<()> {
        let (mut here, mut there) = self.pair()?;
        let sent = MARK.repeat(8000);
        let receiver = std::thread::spawn(move || -> anyhow::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            there.read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        here.write_all(&sent)?;
        here.shutdown(Shutdown::Write)?;
        let got = receiver
            .join()
            .map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        ensure!(got == sent, "{} of {} bytes", got.len(), sent.len());
        Ok(())
    }
}

fn key_file(dir: &Path, at: usize) -> PathBuf {
    dir.join(format!("{at}.key"))
}

fn agent(at: usize) -> AgentId {
    AgentId::new(format!("agent-{at}")).unwrap()
}

fn snapshot(keys: [Option<WireguardKey>; 2]) -> NetSnapshot {
    let agents = (0..2).map(|at| {
        let [a, b, c, _] = CONTAINERS[at].octets();
        let subnet = IpNet::around(Ipv4Addr::new(a, b, c, 0).into(), 24);
        let overlay = AgentOverlay {
            vtep: Some(Vtep {
                ip: Ipv4Addr::new(44, 128, 0, c),
                ip6: None,
            }),
            subnets: [(
                NETWORK.to_owned(),
                AgentSubnet {
                    v4: Some(subnet),
                    v6: None,
                },
            )]
            .into_iter()
            .collect(),
            wireguard: keys[at],
        };
        let net = AgentNet {
            hostname: format!("n{at}"),
            ip: NODES[at],
            ip6: None,
            reachable: true,
            domain: None,
            overlay,
        };
        (agent(at), net)
    });
    NetSnapshot {
        agents: agents.collect(),
        networks: [(NETWORK.to_owned(), Network::dcos())].into(),
        ..NetSnapshot::default()
    }
}
