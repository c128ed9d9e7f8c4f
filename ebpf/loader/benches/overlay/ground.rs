//! Namespaces, devices, bridges and overlays, gone when dropped. No namespace has a route out of the machine.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use waggle_ebpf::common::overlay::{MTU_OVERHEAD, mac_of};
use waggle_ebpf::overlay::{
    At, Endpoint, Net, OverlayConfig, OverlayPlane, Peer, Place, Reach, Subnet,
};
use waggle_tests_support::netns::{NetNs, TempNetNs};

const MTU: u16 = 1500;
/// Of containers, in every configuration.
const INNER: u16 = 1450;
const _: () = assert!(INNER as u32 + MTU_OVERHEAD == MTU as u32);
const NETWORK: u32 = 1;

/// A bpf file system, and names.
pub struct Ground {
    pub name: String,
    pub bpffs: PathBuf,
}

impl Ground {
    /// `None`, after saying why, where it can't run.
    pub fn new() -> anyhow::Result<Option<Self>> {
        let skip = |why: &str| {
            eprintln!("SKIP: {why}");
            Ok(None)
        };
        if !nix::unistd::geteuid().is_root() {
            return skip("needs root");
        }
        if !waggle_ebpf::is_built_with_ebpf() {
            return skip("built without ebpf programs: run `cargo xtask build-ebpf` first");
        }
        let name = format!("wgb-ov-{}", std::process::id());
        let bpffs = std::env::temp_dir().join(&name);
        fs::create_dir(&bpffs)?;
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&bpffs))?;
        Ok(Some(Self { name, bpffs }))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let _ = Command::new("umount")
                .arg(&self.bpffs)
                .stderr(Stdio::null())
                .status();
            if fs::remove_dir(&self.bpffs).is_ok() {
                return;
            }
            if Instant::now() > deadline {
                eprintln!("{} stays", self.bpffs.display());
                return;
            }
        }
    }
}

/// Where one configuration lives, and its ends.
pub struct Ends {
    pub client: TempNetNs,
    pub server: TempNetNs,
    pub to: IpAddr,
    pub planes: Vec<OverlayPlane>,
    _nodes: Vec<TempNetNs>,
}

/// Two addresses of one link.
const ONE: Ipv4Addr = Ipv4Addr::new(9, 1, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(9, 1, 0, 2);

fn node_ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

fn container_ip(node: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(9, 0, node, n)
}

struct Maker<'a> {
    ground: &'a Ground,
    what: String,
}

impl Maker<'_> {
    fn ns(&self, part: &str) -> anyhow::Result<TempNetNs> {
        let ns = TempNetNs::create(&format!("{}-{}-{part}", self.ground.name, self.what))?;
        ns.run(|| -> anyhow::Result<()> {
            for (key, value) in [
                ("ip_forward", "1"),
                ("conf/all/rp_filter", "0"),
                ("conf/default/rp_filter", "0"),
                ("ip_local_port_range", "1024 65535"),
            ] {
                fs::write(format!("/proc/sys/net/ipv4/{key}"), value).context(key)?;
            }
            Ok(())
        })??;
        Ok(ns)
    }

    /// A link between two namespaces.
    fn link(a: &NetNs, name: &str, b: &NetNs, other: &str, mtu: u16) -> anyhow::Result<()> {
        a.ip(&format!(
            "link add {name} type veth peer name {other} netns {}\nlink set {name} mtu {mtu} up\n",
            b.name()
        ))?;
        b.ip(&format!("link set {other} mtu {mtu} up\n"))
    }

    /// Two containers, two nodes, and the underlay between these.
    fn two_nodes(&self) -> anyhow::Result<[TempNetNs; 4]> {
        let [c1, n1, n2, c2] = [
            self.ns("c1")?,
            self.ns("n1")?,
            self.ns("n2")?,
            self.ns("c2")?,
        ];
        Self::link(&n1, "u0", &n2, "u0", MTU)?;
        n1.ip(&format!("addr add {}/24 dev u0\n", node_ip(1)))?;
        n2.ip(&format!("addr add {}/24 dev u0\n", node_ip(2)))?;
        Ok([c1, n1, n2, c2])
    }
}

impl Ground {
    fn maker(&self, what: &str) -> Maker<'_> {
        Maker {
            ground: self,
            what: what.to_owned(),
        }
    }

    /// One link: nothing is shorter.
    pub fn direct(&self, what: &str) -> anyhow::Result<Ends> {
        let maker = self.maker(what);
        let (client, server) = (maker.ns("c1")?, maker.ns("c2")?);
        Maker::link(&client, "eth0", &server, "eth0", INNER)?;
        client.ip(&format!("addr add {ONE}/24 dev eth0\n"))?;
        server.ip(&format!("addr add {TWO}/24 dev eth0\n"))?;
        Ok(Ends {
            client,
            server,
            to: TWO.into(),
            planes: Vec::new(),
            _nodes: Vec::new(),
        })
    }

    /// Routes on the underlay, no tunnel.
    pub fn routed(&self, what: &str) -> anyhow::Result<Ends> {
        let maker = self.maker(what);
        let [c1, n1, n2, c2] = maker.two_nodes()?;
        for (n, other, node, container) in [(1, 2, &n1, &c1), (2, 1, &n2, &c2)] {
            Maker::link(node, "p0", container, "eth0", INNER)?;
            let gateway = container_ip(n, 1);
            container.ip(&format!(
                "addr add {}/24 dev eth0\nroute add default via {gateway}\n",
                container_ip(n, 2)
            ))?;
            node.ip(&format!(
                "addr add {gateway}/24 dev p0\nroute add {}/24 via {}\n",
                container_ip(other, 0),
                node_ip(other)
            ))?;
        }
        Ok(Ends {
            client: c1,
            server: c2,
            to: container_ip(2, 2).into(),
            planes: Vec::new(),
            _nodes: vec![n1, n2],
        })
    }

    /// The kernel's VXLAN device in a bridge, on each node.
    pub fn vxlan_bridge(&self, what: &str) -> anyhow::Result<Ends> {
        let maker = self.maker(what);
        let [c1, n1, n2, c2] = maker.two_nodes()?;
        for (n, other, node, container) in [(1, 2, &n1, &c1), (2, 1, &n2, &c2)] {
            Maker::link(node, "p0", container, "eth0", INNER)?;
            container.ip(&format!(
                "addr add {}/24 dev eth0\n",
                Ipv4Addr::new(9, 1, 0, n)
            ))?;
            // Without the outer checksum, as ours.
            node.ip(&format!(
                "link add br0 type bridge\nlink set br0 up\n\
                 link add vx0 type vxlan id 1024 local {} dstport 64000 dev u0 noudpcsum\n\
                 link set vx0 mtu {INNER} master br0 up\nlink set p0 master br0\n",
                node_ip(n)
            ))?;
            run(Command::new("bridge")
                .args(["-n", node.name(), "fdb", "append"])
                .args(["00:00:00:00:00:00", "dev", "vx0", "dst"])
                .arg(node_ip(other).to_string()))?;
        }
        Ok(Ends {
            client: c1,
            server: c2,
            to: TWO.into(),
            planes: Vec::new(),
            _nodes: vec![n1, n2],
        })
    }

    /// One node, a bridge.
    pub fn bridge(&self, what: &str) -> anyhow::Result<Ends> {
        let maker = self.maker(what);
        let [c1, node, c2] = [maker.ns("c1")?, maker.ns("n1")?, maker.ns("c2")?];
        node.ip("link add br0 type bridge\nlink set br0 up\n")?;
        for (device, container, ip) in [("p1", &c1, ONE), ("p2", &c2, TWO)] {
            Maker::link(&node, device, container, "eth0", MTU)?;
            node.ip(&format!("link set {device} master br0\n"))?;
            container.ip(&format!("addr add {ip}/24 dev eth0\n"))?;
        }
        Ok(Ends {
            client: c1,
            server: c2,
            to: TWO.into(),
            planes: Vec::new(),
            _nodes: vec![node],
        })
    }

    /// Ours, between nodes. `Slow`: by the kernel's device, both ways, as the usual design has it.
    pub fn overlay(&self, what: &str, reach: Reach) -> anyhow::Result<Ends> {
        let maker = self.maker(what);
        let [c1, n1, n2, c2] = maker.two_nodes()?;
        let macs = [mac(&n1, "u0")?, mac(&n2, "u0")?];
        let mut planes = Vec::new();
        for (n, other, node, container) in [(1_u8, 2_u8, &n1, &c1), (2, 1, &n2, &c2)] {
            let plane = self.plane(what, n, node)?;
            let underlay = ifindex(node, "u0")?;
            if reach == Reach::Fast {
                node.run(|| plane.attach_underlay(underlay))??;
            }
            plane.set_peer(&Peer {
                node: node_ip(other),
                ifindex: underlay,
                source_mac: macs[usize::from(n) - 1],
                next_hop: Some(macs[usize::from(other) - 1]),
                mtu: INNER,
                vtep: None,
                reach,
            })?;
            let peer = Place::Peer(node_ip(other));
            plane.set_subnet(net(other), of(peer))?;
            add(&plane, node, container, (n, 2), "p0")?;
            planes.push(plane);
        }
        Ok(Ends {
            client: c1,
            server: c2,
            to: container_ip(2, 2).into(),
            planes,
            _nodes: vec![n1, n2],
        })
    }

    /// Ours, on one node.
    pub fn local(&self, what: &str) -> anyhow::Result<Ends> {
        let maker = self.maker(what);
        let [c1, node, c2] = [maker.ns("c1")?, maker.ns("n1")?, maker.ns("c2")?];
        let plane = self.plane(what, 1, &node)?;
        add(&plane, &node, &c1, (1, 2), "p1")?;
        add(&plane, &node, &c2, (1, 3), "p2")?;
        // As the bridge beside it.
        for (container, device) in [(&c1, "p1"), (&c2, "p2")] {
            container.ip(&format!("link set eth0 mtu {MTU}\n"))?;
            node.ip(&format!("link set {device} mtu {MTU}\n"))?;
        }
        Ok(Ends {
            client: c1,
            server: c2,
            to: container_ip(1, 3).into(),
            planes: vec![plane],
            _nodes: vec![node],
        })
    }

    fn plane(&self, what: &str, n: u8, node: &NetNs) -> anyhow::Result<OverlayPlane> {
        node.ip(&format!(
            "link add vx0 type vxlan external dstport 64000\n\
             link set vx0 arp off\nlink set vx0 mtu {INNER} up\n"
        ))?;
        let pin_dir = self.bpffs.join(format!("{what}-{n}"));
        let plane = OverlayPlane::open(&pin_dir, &OverlayConfig::new(node_ip(n)))?;
        let vxlan = ifindex(node, "vx0")?;
        node.run(|| plane.attach_vxlan(vxlan))??;
        plane.set_subnet(Net::new(container_ip(0, 0).into(), 8), of(Place::Nowhere))?;
        plane.set_subnet(net(n), of(Place::Here))?;
        Ok(plane)
    }
}

fn net(node: u8) -> Net {
    Net::new(container_ip(node, 0).into(), 24)
}

fn of(place: Place) -> Subnet {
    Subnet {
        place,
        network: NETWORK,
    }
}

/// A container of ours.
fn add(
    plane: &OverlayPlane,
    node: &NetNs,
    container: &NetNs,
    (n, host): (u8, u8),
    device: &str,
) -> anyhow::Result<()> {
    let ip = container_ip(n, host);
    let mac = mac_of(ip.into());
    Maker::link(node, device, container, "eth0", INNER)?;
    let text = mac.map(|byte| format!("{byte:02x}")).join(":");
    container.ip(&format!(
        "link set eth0 address {text}\naddr add {ip}/24 dev eth0\nroute add default via {}\n",
        container_ip(n, 1)
    ))?;
    let ifindex = ifindex(node, device)?;
    plane.set_endpoint(
        ip.into(),
        &Endpoint {
            at: At::Container {
                ifindex,
                mac,
                may_forward: false,
            },
            network: NETWORK,
            identity: 0,
        },
    )?;
    node.run(|| plane.attach_endpoint(ifindex))??;
    Ok(())
}

fn ifindex(ns: &NetNs, device: &str) -> anyhow::Result<u32> {
    let name = device.to_owned();
    Ok(ns.run(move || nix::net::if_::if_nametoindex(name.as_str()))??)
}

fn mac(ns: &NetNs, device: &str) -> anyhow::Result<[u8; 6]> {
    let output = Command::new("ip")
        .args(["-n", ns.name(), "-o", "link", "show", "dev", device])
        .output()?;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = output.split("link/ether ").nth(1);
    let found = found.and_then(|rest| rest.split_whitespace().next());
    let mut mac = [0; 6];
    for (byte, hex) in mac
        .iter_mut()
        .zip(found.context("no MAC address")?.split(':'))
    {
        *byte = u8::from_str_radix(hex, 16)?;
    }
    Ok(mac)
}

pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// The first words of a file.
pub fn first_words(file: &Path, n: usize) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().take(n).collect();
    words.join(" ")
}
