//! What the overlay's tables hold, as who fills them thinks of it, and the bytes of it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use waggle_ebpf_common::overlay::{
    self as bytes, DEFAULT_PORT, DEFAULT_VNI, GATEWAY4, GATEWAY6, HEADER_LEN, NetKey,
    endpoint_flags, peer_flags,
};
use waggle_ebpf_common::{MAPPED, addr_of, ip_of};

/// What the programs are told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayConfig {
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port of VXLAN on every node.
    pub port: u16,
    /// This node's address on the underlay: what peers send to and what they see.
    pub node: Ipv4Addr,
    /// Source of ICMP errors to containers: the VTEP's address, say.
    pub icmp4: Ipv4Addr,
    /// The same for IPv6.
    pub icmp6: Ipv6Addr,
    /// Whether tunnels between nodes are encrypted by the kernel below ([`Role::SealedUnderlay`](super::Role::SealedUnderlay),
    /// [`Role::Sealing`](super::Role::Sealing)): what comes in clear is dropped.
    pub sealed: bool,
    /// ICMP errors that one CPU sends within 17 ms; beyond that it drops.
    pub answers_per_tick: u32,
}

impl OverlayConfig {
    /// DC/OS's VNI and port; errors come from the gateway's link-local addresses.
    pub fn new(node: Ipv4Addr) -> Self {
        Self {
            vni: DEFAULT_VNI,
            port: DEFAULT_PORT,
            node,
            icmp4: Ipv4Addr::from(GATEWAY4),
            icmp6: Ipv6Addr::from(GATEWAY6),
            sealed: false,
            answers_per_tick: 64,
        }
    }
}

/// A net: its first address and the length of its prefix (at most 32 or 128). Bits beyond the prefix are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net {
    addr: IpAddr,
    prefix: u8,
}

impl Net {
    /// The net that an address is in. A prefix that is too long is that of the address alone.
    pub fn new(addr: IpAddr, prefix: u8) -> Self {
        match addr {
            IpAddr::V4(ip) => {
                let prefix = prefix.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                Self {
                    addr: Ipv4Addr::from_bits(ip.to_bits() & mask).into(),
                    prefix,
                }
            }
            IpAddr::V6(ip) => {
                let prefix = prefix.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                Self {
                    addr: Ipv6Addr::from_bits(ip.to_bits() & mask).into(),
                    prefix,
                }
            }
        }
    }

    /// First address.
    pub fn addr(self) -> IpAddr {
        self.addr
    }

    /// Length of the prefix, bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub(super) fn lower(self) -> (u32, NetKey) {
        let above = if self.addr.is_ipv4() { 96 } else { 0 };
        (above + u32::from(self.prefix), addr_of(self.addr))
    }

    pub(super) fn decode(prefix: u32, key: NetKey) -> Self {
        let addr = ip_of(key);
        let is_v4 = prefix >= 96 && key[0] == 0 && key[1] == 0 && key[2] == MAPPED;
        let above = if is_v4 { 96 } else { 0 };
        Self {
            addr,
            prefix: u8::try_from(prefix.saturating_sub(above)).unwrap_or(u8::MAX),
        }
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

/// Where a net is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// On this node.
    Here,
    /// On the node with this underlay address.
    Peer(Ipv4Addr),
    /// A pool, where no node's net in it says otherwise: its addresses are unreachable, not outside of the overlay.
    Nowhere,
}

/// A net of the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    /// Where it is.
    pub place: Place,
    /// Number of the named network; addresses of different ones don't reach each other. 0: reaches all.
    pub network: u32,
}

/// Another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address on the underlay.
    pub node: Ipv4Addr,
    /// The device that leads there.
    pub ifindex: u32,
    /// That device's MAC address.
    pub source_mac: [u8; 6],
    /// MAC address of the next hop, as the kernel's neighbour table has it (the node itself, or a router). Unknown: the kernel
    /// is asked for each packet, which is slower and makes it resolve the address.
    pub next_hop: Option<[u8; 6]>,
    /// Longest IP packet of a container that fits: the path's MTU less [`bytes::MTU_OVERHEAD`].
    pub mtu: u16,
    /// Where the node's VTEP routes what arrives, as DC/OS's do: its MAC address, which inner frames are for. Else the
    /// container's own.
    pub vtep: Option<[u8; 6]>,
    /// How it can be reached.
    pub reach: Reach,
}

/// How a peer can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// By headers that the programs write.
    Fast,
    /// Only by the kernel's VXLAN device, whose packets the kernel routes (through an encrypted underlay, say).
    Slow,
    /// Not now: who sends there is told "host unreachable".
    Down,
}

impl Peer {
    pub(super) fn lower(&self, config: &OverlayConfig) -> bytes::Peer {
        let mut header = [0; HEADER_LEN];
        header[0..6].copy_from_slice(&self.next_hop.unwrap_or_default());
        header[6..12].copy_from_slice(&self.source_mac);
        header[12..14].copy_from_slice(&[0x08, 0x00]);
        // RFC 791: no options, "don't fragment", TTL 64 as the kernel's vxlan devices have it, UDP.
        header[14] = 0x45;
        header[20] = 0x40;
        header[22] = 64;
        header[23] = 17;
        header[26..30].copy_from_slice(&config.node.octets());
        header[30..34].copy_from_slice(&self.node.octets());
        let sum = header[14..34]
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]])))
            .sum();
        header[36..38].copy_from_slice(&config.port.to_be_bytes());
        // RFC 7348: the VNI is valid. No UDP checksum (RFC 6935).
        header[42] = 0x08;
        header[46..50].copy_from_slice(&(config.vni << 8).to_be_bytes());
        header[50..56].copy_from_slice(&self.vtep.unwrap_or_default());
        let [a, b, c, d] = config.node.octets();
        header[56..62].copy_from_slice(&[0x02, 0, a, b, c, d]);
        let mut flags = 0;
        if self.next_hop.is_none() {
            flags |= peer_flags::NO_NEIGHBOUR;
        }
        if self.vtep.is_some() {
            flags |= peer_flags::ROUTES;
        }
        flags |= match self.reach {
            Reach::Fast => 0,
            Reach::Slow => peer_flags::SLOW,
            Reach::Down => peer_flags::DOWN,
        };
        bytes::Peer {
            header,
            sum,
            ifindex: self.ifindex,
            addr: u32::from(self.node).to_be(),
            mtu: self.mtu,
            flags,
        }
    }

    pub(super) fn decode(peer: &bytes::Peer) -> Self {
        let mac = |at: usize| {
            let mut mac = [0; 6];
            mac.copy_from_slice(&peer.header[at..at + 6]);
            mac
        };
        let has = |flag| peer.flags & flag != 0;
        Self {
            node: Ipv4Addr::from(u32::from_be(peer.addr)),
            ifindex: peer.ifindex,
            source_mac: mac(6),
            next_hop: (!has(peer_flags::NO_NEIGHBOUR)).then(|| mac(0)),
            mtu: peer.mtu,
            vtep: has(peer_flags::ROUTES).then(|| mac(50)),
            reach: if has(peer_flags::DOWN) {
                Reach::Down
            } else if has(peer_flags::SLOW) {
                Reach::Slow
            } else {
                Reach::Fast
            },
        }
    }
}

/// Who has an address on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// A container, or the node itself.
    pub at: At,
    /// Number of its network, as in [`Subnet::network`].
    pub network: u32,
    /// What policies know it by; 0: unknown.
    pub identity: u32,
}

/// Where an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// In a container.
    Container {
        /// The host side of its veth.
        ifindex: u32,
        /// The MAC address of the container's side.
        mac: [u8; 6],
        /// Whether it may send on what it is sent (a proxy, a router: what has `CAP_NET_ADMIN`, or forwarding enabled). Costs
        /// the fast path for what comes from other nodes; without it, what such a container sends on is not delivered fast but
        /// still is.
        may_forward: bool,
    },
    /// The node: a gateway, the VTEP. Packets for it go to the kernel's stack.
    Node,
}

impl Endpoint {
    pub(super) fn lower(&self, ip: IpAddr) -> bytes::Endpoint {
        let (ifindex, mac, flags) = match self.at {
            At::Container {
                ifindex,
                mac,
                may_forward,
            } => (
                ifindex,
                mac,
                if may_forward {
                    endpoint_flags::MAY_FORWARD
                } else {
                    0
                },
            ),
            At::Node => (0, [0; 6], endpoint_flags::NODE),
        };
        bytes::Endpoint {
            addr: addr_of(ip),
            ifindex,
            identity: self.identity,
            network: self.network,
            flags,
            mac,
            pad: 0,
        }
    }

    pub(super) fn decode(endpoint: &bytes::Endpoint) -> Self {
        Self {
            at: if endpoint.flags & endpoint_flags::NODE != 0 {
                At::Node
            } else {
                At::Container {
                    ifindex: endpoint.ifindex,
                    mac: endpoint.mac,
                    may_forward: endpoint.flags & endpoint_flags::MAY_FORWARD != 0,
                }
            },
            network: endpoint.network,
            identity: endpoint.identity,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(reach: Reach, next_hop: Option<[u8; 6]>, vtep: Option<[u8; 6]>) -> Peer {
        Peer {
            node: Ipv4Addr::new(192, 0, 2, 7),
            ifindex: 3,
            source_mac: [2, 1, 1, 1, 1, 1],
            next_hop,
            mtu: 1450,
            vtep,
            reach,
        }
    }

    #[test]
    fn what_is_lowered_is_decoded() {
        let config = OverlayConfig::new(Ipv4Addr::new(192, 0, 2, 1));
        for reach in [Reach::Fast, Reach::Slow, Reach::Down] {
            for next_hop in [None, Some([2, 9, 9, 9, 9, 9])] {
                for vtep in [None, Some([0x70, 0xb3, 0xd5, 0x80, 0, 1])] {
                    let peer = peer(reach, next_hop, vtep);
                    assert_eq!(Peer::decode(&peer.lower(&config)), peer);
                }
            }
        }
        for at in [
            At::Node,
            At::Container {
                ifindex: 9,
                mac: [2, 4, 9, 0, 1, 2],
                may_forward: true,
            },
        ] {
            let endpoint = Endpoint {
                at,
                network: 2,
                identity: 77,
            };
            assert_eq!(
                Endpoint::decode(&endpoint.lower(Ipv4Addr::LOCALHOST.into())),
                endpoint
            );
        }
    }

    #[test]
    fn nets_are_masked_and_decoded() {
        for (addr, prefix, expected) in [
            ("9.0.1.7", 24, "9.0.1.0/24"),
            ("9.0.1.7", 32, "9.0.1.7/32"),
            ("9.0.1.7", 0, "0.0.0.0/0"),
            ("fd01:b::7:1", 80, "fd01:b::/80"),
            ("::", 0, "::/0"),
            ("9.0.1.7", 99, "9.0.1.7/32"),
        ] {
            let net = Net::new(addr.parse().unwrap(), prefix);
            assert_eq!(net.to_string(), expected);
            let (prefix, key) = net.lower();
            assert_eq!(Net::decode(prefix, key), net);
        }
    }

    #[test]
    fn mac_addresses_are_local_and_tell_addresses_apart() {
        let of = |text: &str| bytes::mac_of(text.parse().unwrap());
        assert_eq!(of("9.0.1.2"), [0x02, 4, 9, 0, 1, 2]);
        let mut seen = std::collections::BTreeSet::new();
        for subnet in 1..20 {
            for host in 1..20 {
                for text in [
                    format!("fd01:b:0:{subnet:x}::{host:x}"),
                    format!("fd01:b::{subnet:x}:0:0:{host:x}"),
                    format!("9.0.{subnet}.{host}"),
                ] {
                    let mac = of(&text);
                    assert_eq!(mac[0], 0x02, "local, unicast");
                    assert!(seen.insert(mac), "{text} {mac:?}");
                }
            }
        }
    }

    /// RFC 1071: with its lengths and checksum, the header's sum is all ones.
    #[test]
    fn the_cached_sum_is_that_of_the_header() {
        let config = OverlayConfig::new(Ipv4Addr::new(192, 0, 2, 1));
        let peer = peer(Reach::Fast, None, None).lower(&config);
        let fold = |sum: u32| {
            let sum = (sum & 0xffff) + (sum >> 16);
            (sum & 0xffff) + (sum >> 16)
        };
        let mut header = peer.header;
        let total = 1500_u16.to_be_bytes();
        header[16..18].copy_from_slice(&total);
        let check = !u16::try_from(fold(peer.sum + u32::from(u16::from_ne_bytes(total)))).unwrap();
        header[24..26].copy_from_slice(&check.to_ne_bytes());
        let sum = header[14..34]
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        assert_eq!(fold(sum), 0xffff);
    }
}
