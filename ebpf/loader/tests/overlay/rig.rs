//! Nodes on one underlay, each with an overlay of its own, and containers on them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use waggle_ebpf::common::overlay::{MTU_OVERHEAD, mac_of};
use waggle_ebpf::overlay::{
    At, Endpoint, Net, OverlayConfig, OverlayPlane, Peer, Place, Reach, Subnet,
};
use waggle_tests_support::netns::{NetNs, TempNetNs};

use crate::netkit;
use crate::support::Node as Pins;

/// Number of the one network that containers are on, unless a test says otherwise.
pub const NETWORK: u32 = 1;

/// A node's address on the underlay; nodes are counted from 1.
pub fn node_ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

/// The address of a node's container; containers are counted from 2, the gateway is 1.
pub fn ip4(node: u8, container: u8) -> Ipv4Addr {
    Ipv4Addr::new(9, 0, node, container)
}

/// The same over IPv6.
pub fn ip6(node: u8, container: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd01, 0xb, 0, u16::from(node), 0, 0, 0, container.into())
}

/// A node's part of the pool.
pub fn net4(node: u8) -> Net {
    Net::new(ip4(node, 0).into(), 24)
}

/// The same over IPv6.
pub fn net6(node: u8) -> Net {
    Net::new(ip6(node, 0).into(), 64)
}

/// The pools.
pub fn pools() -> [Net; 2] {
    [
        Net::new(Ipv4Addr::new(9, 0, 0, 0).into(), 8),
        Net::new(Ipv6Addr::new(0xfd01, 0xb, 0, 0, 0, 0, 0, 0).into(), 32),
    ]
}

/// A container: a namespace with `eth0`.
pub struct Container {
    pub ns: TempNetNs,
    pub n: u8,
    /// The host side of its device, in the node's namespace.
    pub ifindex: u32,
}

/// A node: a namespace with `u0` (the underlay) and `vx0` (the slow path).
pub struct Host {
    pub ns: TempNetNs,
    pub n: u8,
    pub plane: OverlayPlane,
    pub containers: Vec<Container>,
    pub underlay: u32,
    /// Of the containers that are to come: no netkit devices, also where the kernel has them.
    pub only_veths: bool,
    name: String,
    mtu: u16,
}

/// What one test owns; removed when dropped.
pub struct World {
    pub hosts: Vec<Host>,
    kept: Vec<(OverlayPlane, Vec<Container>, TempNetNs)>,
    pub pins: Pins,
    name: String,
}

impl World {
    /// Two nodes on an underlay with this MTU. `None` (after saying why) where the test can't run.
    pub fn new(name: &str, mtu: u16) -> anyhow::Result<Option<Self>> {
        let Some(pins) = Pins::new(&format!("ov-{name}"))? else {
            return Ok(None);
        };
        let mut world = Self {
            hosts: Vec::new(),
            kept: Vec::new(),
            name: format!("wgl-t-ov-{name}-{}", std::process::id()),
            pins,
        };
        let (one, two) = (world.namespace("n1")?, world.namespace("n2")?);
        one.ip(&format!(
            "link add u0 type veth peer name u0 netns {}\nlink set u0 mtu {mtu} up\naddr add {}/24 dev u0\n",
            two.name(),
            node_ip(1)
        ))?;
        two.ip(&format!(
            "link set u0 mtu {mtu} up\naddr add {}/24 dev u0\n",
            node_ip(2)
        ))?;
        for (n, ns) in (1..).zip([one, two]) {
            let pin_dir = world.pins.pin_dir.join(format!("n{n}"));
            let host = Host::new(n, ns, &pin_dir, &world.name, mtu)?;
            world.hosts.push(host);
        }
        let macs = [world.hosts[0].mac("u0")?, world.hosts[1].mac("u0")?];
        for (n, other) in [(0, 1), (1, 0)] {
            let host = &world.hosts[n];
            host.plane.set_peer(&Peer {
                node: node_ip(world.hosts[other].n),
                ifindex: host.underlay,
                source_mac: macs[n],
                next_hop: Some(macs[other]),
                mtu: mtu - MTU_OVERHEAD as u16,
                vtep: None,
                reach: Reach::Fast,
            })?;
            host.place(
                world.hosts[other].n,
                Place::Peer(node_ip(world.hosts[other].n)),
            )?;
        }
        Ok(Some(world))
    }

    pub fn namespace(&self, what: &str) -> anyhow::Result<TempNetNs> {
        TempNetNs::create(&format!("{}-{what}", self.name))
    }

    pub fn host(&self, n: u8) -> &Host {
        &self.hosts[usize::from(n) - 1]
    }

    /// A container on a node, attached.
    pub fn container(&mut self, node: u8, n: u8) -> anyhow::Result<()> {
        self.container_that(node, n, false)
    }

    /// A container that may forward.
    pub fn container_that(&mut self, node: u8, n: u8, may_forward: bool) -> anyhow::Result<()> {
        let ns = self.namespace(&format!("c{node}-{n}"))?;
        self.hosts[usize::from(node) - 1].add(ns, n, may_forward)
    }

    /// Keeps what was taken out of [`World::hosts`] until the end.
    pub fn keep(&mut self, ns: TempNetNs, containers: Vec<Container>, plane: OverlayPlane) {
        self.kept.push((plane, containers, ns));
    }

    pub fn of(&self, node: u8, n: u8) -> &Container {
        let found = self.host(node).containers.iter().find(|c| c.n == n);
        found.unwrap_or_else(|| panic!("no container {n} on node {node}"))
    }
}

impl Host {
    fn new(
        n: u8,
        ns: TempNetNs,
        pin_dir: &std::path::Path,
        name: &str,
        mtu: u16,
    ) -> anyhow::Result<Self> {
        let inner = mtu - MTU_OVERHEAD as u16;
        ns.ip(&format!(
            "link add vx0 type vxlan external dstport 64000\n\
             link set vx0 arp off\nlink set vx0 mtu {inner} up\n\
             addr add {}/32 dev vx0\naddr add {}/128 dev vx0 nodad\n",
            ip4(n, 1),
            ip6(n, 1),
        ))?;
        let [pool4, pool6] = pools();
        ns.ip(&format!(
            "route add {pool4} dev vx0 src {}\nroute add {pool6} dev vx0 src {}\n",
            ip4(n, 1),
            ip6(n, 1)
        ))?;
        ns.run(|| -> anyhow::Result<()> {
            for (key, value) in [
                ("ipv4/ip_forward", "1"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv4/conf/vx0/rp_filter", "0"),
                ("ipv6/conf/all/forwarding", "1"),
            ] {
                fs::write(format!("/proc/sys/net/{key}"), value).context(key)?;
            }
            Ok(())
        })??;
        let config = OverlayConfig {
            icmp4: ip4(n, 1),
            icmp6: ip6(n, 1),
            // Tests run faster than time passes.
            answers_per_tick: u32::MAX,
            ..OverlayConfig::new(node_ip(n))
        };
        let plane = OverlayPlane::open(pin_dir, &config)?;
        let (vxlan, underlay) = (ifindex(&ns, "vx0")?, ifindex(&ns, "u0")?);
        ns.run(|| plane.attach_vxlan(vxlan))??;
        ns.run(|| plane.attach_underlay(underlay))??;
        let host = Self {
            ns,
            n,
            plane,
            containers: Vec::new(),
            underlay,
            only_veths: false,
            name: name.to_owned(),
            mtu: inner,
        };
        for pool in pools() {
            host.plane.set_subnet(
                pool,
                Subnet {
                    place: Place::Nowhere,
                    network: NETWORK,
                },
            )?;
        }
        host.place(n, Place::Here)?;
        for gateway in [IpAddr::from(ip4(n, 1)), ip6(n, 1).into()] {
            host.plane.set_endpoint(
                gateway,
                &Endpoint {
                    at: At::Node,
                    network: NETWORK,
                    identity: 0,
                },
            )?;
        }
        Ok(host)
    }

    /// Says where a node's nets are.
    pub fn place(&self, node: u8, place: Place) -> anyhow::Result<()> {
        for net in [net4(node), net6(node)] {
            let subnet = Subnet {
                place,
                network: NETWORK,
            };
            self.plane.set_subnet(net, subnet)?;
        }
        Ok(())
    }

    fn add(&mut self, ns: TempNetNs, n: u8, may_forward: bool) -> anyhow::Result<()> {
        let device = format!("c{n}");
        let (v4, v6) = (ip4(self.n, n), ip6(self.n, n));
        let mac = mac_of(v4.into());
        let is_netkit = !self.only_veths
            && netkit::add(&self.ns, &device, mac, ns.name()).context("add a netkit device")?;
        if !is_netkit {
            self.ns.ip(&format!(
                "link add {device} type veth peer name eth0 address {} netns {}\n",
                text(mac),
                ns.name(),
            ))?;
        }
        self.ns
            .ip(&format!("link set {device} mtu {} up\n", self.mtu))?;
        let ifindex = ifindex(&self.ns, &device)?;
        let endpoint = Endpoint {
            at: At::Container {
                ifindex,
                mac,
                may_forward,
            },
            network: NETWORK,
            identity: 0,
        };
        for ip in [IpAddr::from(v4), v6.into()] {
            self.plane.set_endpoint(ip, &endpoint)?;
        }
        self.ns.run(|| self.plane.attach_endpoint(ifindex))??;
        self.ns.ip(&format!(
            "route add {v4}/32 dev {device} src {}\nroute add {v6}/128 dev {device} src {}\n",
            ip4(self.n, 1),
            ip6(self.n, 1)
        ))?;
        ns.ip(&format!(
            "link set eth0 mtu {} up\n\
             addr add {v4}/24 dev eth0\nroute add default via {}\n\
             addr add {v6}/64 dev eth0 nodad\nroute add default via fe80::1 dev eth0\n",
            self.mtu,
            ip4(self.n, 1)
        ))?;
        self.containers.push(Container { ns, n, ifindex });
        Ok(())
    }

    /// MAC address of a device.
    pub fn mac(&self, device: &str) -> anyhow::Result<[u8; 6]> {
        mac(&self.ns, device)
    }

    pub fn count(&self, reason: u32) -> anyhow::Result<u64> {
        Ok(self.plane.count(reason)?)
    }

    /// What was counted, for a failed test.
    pub fn counts(&self) -> String {
        let Ok(counts) = self.plane.counts() else {
            return "no counts".to_owned();
        };
        let told: Vec<String> = counts
            .iter()
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| format!("{name} {n}"))
            .collect();
        format!("{} node {}: {}", self.name, self.n, told.join(", "))
    }
}

pub fn ifindex(ns: &NetNs, device: &str) -> anyhow::Result<u32> {
    let name = device.to_owned();
    Ok(ns.run(move || nix::net::if_::if_nametoindex(name.as_str()))??)
}

pub fn mac(ns: &NetNs, device: &str) -> anyhow::Result<[u8; 6]> {
    let output = std::process::Command::new("ip")
        .args(["-n", ns.name(), "-o", "link", "show", "dev", device])
        .output()?;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let mac = output
        .split("link/ether ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let mut bytes = [0; 6];
    for (byte, hex) in bytes.iter_mut().zip(mac.context("no MAC")?.split(':')) {
        *byte = u8::from_str_radix(hex, 16)?;
    }
    Ok(bytes)
}

pub fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
