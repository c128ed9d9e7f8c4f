//! One node's programs on frames, without traffic: tables of every kind, and devices that exist.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use waggle_ebpf::common::overlay::{mac_of, reason};
use waggle_ebpf::edge::{TestContext, TestRun};
use waggle_ebpf::overlay::{At, Endpoint, OverlayConfig, OverlayPlane, Peer, Place, Reach, Subnet};
use waggle_tests_support::netns::{NetNsGuard, TempNetNs};

use crate::frame::{ETH, checksum, is_icmp6_right};
use crate::model::{Becomes, Outcome, Tables};
use crate::rig::{NETWORK, ifindex, ip4, ip6, net4, net6, node_ip, pools};
use crate::support::Node as Pins;

/// A network that must not reach the others.
pub const OTHER_NETWORK: u32 = 2;

/// What one test owns; removed when dropped. The thread stays in the devices' namespace.
pub struct Bench {
    pub plane: OverlayPlane,
    pub tables: Tables,
    /// Of the container with number 2.
    pub ifindex: u32,
    pub guard: NetNsGuard,
    pub ns: TempNetNs,
    pub pins: Pins,
}

/// Nodes, and how they are reached.
const PEERS: [(u8, Reach, bool, bool); 4] = [
    (2, Reach::Fast, true, false),
    (3, Reach::Down, true, false),
    (4, Reach::Slow, true, false),
    // Routes what arrives, and its neighbour is not known.
    (5, Reach::Fast, false, true),
];
/// Longest packet to a peer.
pub const MTU: u16 = 1000;

impl Bench {
    /// `None` (after saying why) where the test can't run.
    pub fn new(name: &str, answers_per_tick: u32) -> anyhow::Result<Option<Self>> {
        Self::that(name, answers_per_tick, false)
    }

    /// A node that encrypts.
    pub fn sealed(name: &str) -> anyhow::Result<Option<Self>> {
        Self::that(name, u32::MAX, true)
    }

    fn that(name: &str, answers_per_tick: u32, sealed: bool) -> anyhow::Result<Option<Self>> {
        let Some(pins) = Pins::new(&format!("ovb-{name}"))? else {
            return Ok(None);
        };
        let ns = TempNetNs::create(&format!("wgl-t-ovb-{name}-{}", std::process::id()))?;
        for device in ["c2", "c3", "u0", "vx0"] {
            ns.ip(&format!(
                "link add {device} type veth peer name p{device}\nlink set {device} mtu 9000 up\n"
            ))?;
        }
        let config = OverlayConfig {
            icmp4: ip4(1, 1),
            icmp6: ip6(1, 1),
            sealed,
            answers_per_tick,
            ..OverlayConfig::new(node_ip(1))
        };
        let plane = OverlayPlane::open(&pins.pin_dir, &config)?;
        let [c2, c3, u0, vx0] = [
            ifindex(&ns, "c2")?,
            ifindex(&ns, "c3")?,
            ifindex(&ns, "u0")?,
            ifindex(&ns, "vx0")?,
        ];
        let guard = NetNsGuard::enter(&ns)?;
        plane.attach_vxlan(vx0)?;
        let tables = tables(config, [c2, c3, u0]);
        for peer in tables.peers.values() {
            plane.set_peer(peer)?;
        }
        for (net, subnet) in &tables.subnets {
            plane.set_subnet(*net, *subnet)?;
        }
        for (ip, endpoint) in &tables.endpoints {
            plane.set_endpoint(*ip, endpoint)?;
        }
        Ok(Some(Self {
            plane,
            tables,
            ifindex: c2,
            guard,
            ns,
            pins,
        }))
    }

    /// Runs a program on a frame; the reasons that were counted, sorted.
    pub fn run(
        &self,
        program: &'static str,
        frame: &[u8],
        context: TestContext,
    ) -> anyhow::Result<(TestRun, Vec<u32>)> {
        let before = self.counts()?;
        let run = self.plane.test_run(program, frame, context)?;
        let after = self.counts()?;
        let mut reasons = Vec::new();
        for (at, (before, after)) in (0..).zip(before.into_iter().zip(after)) {
            reasons.extend((before..after).map(|_| at));
        }
        Ok((run, reasons))
    }

    fn counts(&self) -> anyhow::Result<Vec<u64>> {
        Ok(self
            .plane
            .counts()?
            .into_iter()
            .map(|(_, count)| count)
            .collect())
    }

    /// What container 2 sends.
    pub fn sent(&self, frame: &[u8]) -> anyhow::Result<(TestRun, Vec<u32>)> {
        self.sent_with(frame, 0)
    }

    /// The same, to be segmented.
    pub fn sent_with(&self, frame: &[u8], gso_size: u32) -> anyhow::Result<(TestRun, Vec<u32>)> {
        let ifindex = self.ifindex;
        let context = TestContext {
            ifindex,
            gso_size,
            ..TestContext::default()
        };
        self.run("overlay_from", frame, context)
    }

    /// What the underlay brings.
    pub fn under(&self, frame: &[u8], gso_size: u32) -> anyhow::Result<(TestRun, Vec<u32>)> {
        let ifindex = self.ifindex;
        let context = TestContext {
            ifindex,
            gso_size,
            ..TestContext::default()
        };
        self.run("overlay_under", frame, context)
    }

    /// Whether a run did what the model says; else, how not. `inner` is the frame that the container's packet is in.
    pub fn compare(
        &self,
        expected: &Outcome,
        frame: &[u8],
        inner: &[u8],
        (run, reasons): &(TestRun, Vec<u32>),
    ) -> Result<(), String> {
        let named = |reasons: &[u32]| -> Vec<&str> {
            reasons
                .iter()
                .map(|at| reason::NAMES[*at as usize])
                .collect()
        };
        if run.verdict != expected.verdict || *reasons != expected.reasons {
            return Err(format!(
                "verdict {} {:?}, not {} {:?}",
                run.verdict,
                named(reasons),
                expected.verdict,
                named(&expected.reasons)
            ));
        }
        let out = &run.packet;
        match &expected.frame {
            Becomes::Gone => Ok(()),
            Becomes::Same => {
                let from = if run.verdict == crate::model::OK {
                    0
                } else {
                    6
                };
                same(&out[from..], &frame[from..])
            }
            Becomes::Bytes(bytes) => same(out, bytes),
            Becomes::Wrapped(inner, tos) => self.is_wrapped(out, inner, *tos),
            Becomes::Error(kind, code, mtu) => {
                is_error(out, inner, (*kind, *code, *mtu), &self.tables.config)
            }
        }
    }

    /// Whether the outer headers are right, field by field (RFC 7348).
    fn is_wrapped(&self, out: &[u8], inner: &[u8], tos: u8) -> Result<(), String> {
        if out.len() != inner.len() + 50 {
            return Err(format!("{} bytes around {}", out.len(), inner.len()));
        }
        same(&out[50..], inner)?;
        let dst = Ipv4Addr::new(out[30], out[31], out[32], out[33]);
        let peer = self.tables.peers.get(&dst).ok_or("to no peer")?;
        let config = &self.tables.config;
        let mut expected = Vec::new();
        expected.extend(peer.next_hop.unwrap_or_default());
        expected.extend(peer.source_mac);
        expected.extend([0x08, 0x00]);
        let total = out.len() as u16 - ETH as u16;
        let mut header = vec![0x45, tos];
        header.extend(total.to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        header.extend(config.node.octets());
        header.extend(dst.octets());
        let check = checksum(&header);
        header[10..12].copy_from_slice(&check.to_be_bytes());
        expected.extend(header);
        // The source port is a hash.
        if out[34] < 0xc0 {
            return Err(format!(
                "source port {}",
                u16::from_be_bytes([out[34], out[35]])
            ));
        }
        expected.extend([out[34], out[35]]);
        expected.extend(config.port.to_be_bytes());
        expected.extend((total - 20).to_be_bytes());
        expected.extend([0, 0, 8, 0, 0, 0]);
        expected.extend((config.vni << 8).to_be_bytes());
        same(&out[..50], &expected)
    }
}

fn same(found: &[u8], expected: &[u8]) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("bytes\n {found:02x?}\nnot\n {expected:02x?}"))
    }
}

/// Whether a frame is an ICMP error to whoever sent another frame.
fn is_error(
    out: &[u8],
    about: &[u8],
    (kind, code, mtu): (u8, u8, u32),
    config: &OverlayConfig,
) -> Result<(), String> {
    if out[12..14] != about[12..14] {
        return Err("another family".to_owned());
    }
    let ip = &out[ETH..];
    let is_v4 = about[12] == 0x08;
    let header = if is_v4 { 20 } else { 40 };
    let message = &ip[header..];
    if message[..2] != [kind, code] || message[4..8] != mtu.to_be_bytes() {
        return Err(format!("{:?}, not {kind} {code} {mtu}", &message[..8]));
    }
    let quoted = &message[8..];
    let length = quoted.len().min(about.len() - ETH);
    if quoted[..length] != about[ETH..ETH + length] || quoted.len() < header + 8 {
        return Err(format!("quotes {quoted:02x?}"));
    }
    if quoted[length..].iter().any(|byte| *byte != 0) {
        return Err("quotes what was not there".to_owned());
    }
    let (addresses, is_right) = if is_v4 {
        let is_right = checksum(&ip[..20]) == 0
            && checksum(message) == 0
            && ip[..2] == [0x45, 0]
            && usize::from(u16::from_be_bytes([ip[2], ip[3]])) == ip.len()
            && ip[9] == 1;
        let mut expected = config.icmp4.octets().to_vec();
        expected.extend(&about[ETH + 12..ETH + 16]);
        (ip[12..20] == expected, is_right)
    } else {
        let is_right = is_icmp6_right(ip)
            && ip[0] == 0x60
            && usize::from(u16::from_be_bytes([ip[4], ip[5]])) == message.len()
            && ip[6] == 58;
        let mut expected = config.icmp6.octets().to_vec();
        expected.extend(&about[ETH + 8..ETH + 24]);
        (ip[8..40] == expected, is_right)
    };
    if !addresses || !is_right {
        return Err(format!("headers {:02x?}", &out[..ETH + header + 8]));
    }
    Ok(())
}

fn tables(config: OverlayConfig, [c2, c3, u0]: [u32; 3]) -> Tables {
    let mut tables = Tables {
        config,
        peers: BTreeMap::new(),
        subnets: BTreeMap::new(),
        endpoints: BTreeMap::new(),
    };
    let net = |place, network| Subnet { place, network };
    for pool in pools() {
        tables.subnets.insert(pool, net(Place::Nowhere, NETWORK));
    }
    for (n, reach, is_known, routes) in PEERS {
        let node = node_ip(n);
        let peer = Peer {
            node,
            ifindex: u0,
            source_mac: [2, 0, 0, 0, 0, 0xa],
            next_hop: is_known.then_some([2, 0, 0, 0, 0, n]),
            mtu: MTU,
            vtep: routes.then_some([0x70, 0xb3, 0xd5, 0x80, 0, n]),
            reach,
        };
        tables.peers.insert(node, peer);
        for net_of in [net4(n), net6(n)] {
            tables
                .subnets
                .insert(net_of, net(Place::Peer(node), NETWORK));
        }
    }
    for net_of in [net4(1), net6(1)] {
        tables.subnets.insert(net_of, net(Place::Here, NETWORK));
    }
    // Another network, here and there.
    for (node, place) in [(10, Place::Here), (12, Place::Peer(node_ip(2)))] {
        for net_of in [net4(node), net6(node)] {
            tables.subnets.insert(net_of, net(place, OTHER_NETWORK));
        }
    }
    let mut add = |node: u8, n: u8, at: At, network: u32| {
        for ip in [IpAddr::from(ip4(node, n)), ip6(node, n).into()] {
            let endpoint = Endpoint {
                at,
                network,
                identity: 0,
            };
            tables.endpoints.insert(ip, endpoint);
        }
    };
    let container = |ifindex: u32, n: u8, may_forward: bool| At::Container {
        ifindex,
        mac: mac_of(ip4(1, n).into()),
        may_forward,
    };
    add(1, 1, At::Node, NETWORK);
    add(1, 2, container(c2, 2, false), NETWORK);
    add(1, 3, container(c3, 3, false), NETWORK);
    add(1, 4, container(c3, 3, true), NETWORK);
    add(10, 2, container(c3, 3, false), OTHER_NETWORK);
    tables
}
