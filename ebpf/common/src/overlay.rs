//! The overlay: which node an address lives on, how packets get there, and which device of this node a local one is behind.
//!
//! Addresses of both families are keys alike ([`crate::Addr`]), the underlay is IPv4.

use core::net::IpAddr;

use crate::{Addr, MAPPED, addr_of};

/// Version of the overlay's maps; part of its pin path.
pub const ABI_VERSION: u32 = 4;

/// Addresses of containers on one node.
pub const MAX_ENDPOINTS: u32 = 16_384;
/// Nets that nodes have, and pools.
pub const MAX_SUBNETS: u32 = 65_536;
/// Nodes, this one included.
pub const MAX_PEERS: u32 = 8_192;
/// Position in the array of peers of the node itself; its entry is not read.
pub const THIS_NODE: u32 = 0;
/// Instead of a peer's position: a net of the overlay that no node has. Its addresses are unreachable, not outside.
pub const NOWHERE: u32 = u32::MAX;

/// The VNI of DC/OS's overlay.
pub const DEFAULT_VNI: u32 = 1_024;
/// The UDP port of DC/OS's overlay.
pub const DEFAULT_PORT: u16 = 64_000;

/// What stands before a packet of a container on the wire: Ethernet, IPv4, UDP, VXLAN (RFC 7348).
pub const ENCAP_LEN: u32 = 50;
/// All of that and the inner Ethernet header.
pub const HEADER_LEN: usize = 64;
/// A container's MTU is that of the underlay less this: the outer IPv4, UDP and VXLAN headers and the inner Ethernet header.
pub const MTU_OVERHEAD: u32 = ENCAP_LEN;

/// Where a container's packets for its gateway may go, in whatever subnet it is (169.254.1.1).
pub const GATEWAY4: [u8; 4] = [169, 254, 1, 1];
/// The same for IPv6 (fe80::1).
pub const GATEWAY6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The MAC address of whoever has an address of the overlay; the same on every node, so that nobody has to tell.
///
/// Locally administered; the second byte says which family. IPv4: the address. IPv6: all of its words, each turned by a byte more,
/// so that hosts of several subnets with one interface identifier differ.
pub const fn mac_of(ip: IpAddr) -> [u8; 6] {
    let mac = mac_halves(&addr_of(ip));
    let [one, two, three] = [
        mac[0].to_ne_bytes(),
        mac[1].to_ne_bytes(),
        mac[2].to_ne_bytes(),
    ];
    [one[0], one[1], two[0], two[1], three[0], three[1]]
}

/// [`mac_of`], of an address as maps have it, in half words as they stand in memory.
#[allow(clippy::inline_always, reason = "programs have no calls to spare")]
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "a half each")]
pub const fn mac_halves(addr: &Addr) -> [u16; 3] {
    let is_v4 = addr[0] == 0 && addr[1] == 0 && addr[2] == MAPPED;
    let (family, low) = if is_v4 {
        (4, addr[3])
    } else {
        let [a, b, c, d] = *addr;
        let turned = a.rotate_right(24) ^ b.rotate_right(16) ^ c.rotate_right(8);
        (6, turned ^ d)
    };
    [
        u16::from_ne_bytes([0x02, family]),
        low as u16,
        (low >> 16) as u16,
    ]
}

/// Key of the nets: the data of a longest-prefix match. An IPv4 net's prefix is 96 longer than it is written.
pub type NetKey = Addr;

/// Where a net is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Subnet {
    /// Position in the array of peers, [`THIS_NODE`] or [`NOWHERE`].
    pub peer: u32,
    /// Number of the named network; addresses of different ones don't reach each other. 0: reaches all.
    pub network: u32,
}

/// Another node.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Outer Ethernet, IPv4, UDP and VXLAN headers and the inner Ethernet header; of a packet's own are the lengths, checksum,
    /// ECN, source port, inner destination and inner type.
    pub header: [u8; HEADER_LEN],
    /// Sum of the IPv4 header's 16-bit words as they stand in memory, lengths, ECN and checksum being 0.
    pub sum: u32,
    /// The device that leads there.
    pub ifindex: u32,
    /// The node's address, network order; 0: nobody.
    pub addr: u32,
    /// Longest IP packet of a container that fits, bytes.
    pub mtu: u16,
    /// [`peer_flags`].
    pub flags: u16,
}

impl Peer {
    /// Nobody.
    pub const NONE: Self = Self {
        header: [0; HEADER_LEN],
        sum: 0,
        ifindex: 0,
        addr: 0,
        mtu: 0,
        flags: 0,
    };
}

/// What is to be known of a peer.
pub mod peer_flags {
    /// The MAC address of the next hop is not known: the kernel finds it for each packet.
    pub const NO_NEIGHBOUR: u16 = 1;
    /// Only the kernel's own device reaches it (an encrypted underlay, say).
    pub const SLOW: u16 = 2;
    /// It can't be reached now: who sends there is told.
    pub const DOWN: u16 = 4;
    /// It routes what arrives, so that inner frames are for its own address ([`super::Peer::header`]), not for the container's.
    pub const ROUTES: u16 = 8;
}

/// Who has an address on this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Endpoint {
    /// The address, again: the kernel may give a hash's element to another key while a program reads it. It is written first and
    /// read last, so that what was read with it is the address's.
    pub addr: Addr,
    /// The host side of the container's veth; 0 with [`endpoint_flags::NODE`].
    pub ifindex: u32,
    /// What policies know it by; 0: unknown.
    pub identity: u32,
    /// Number of its network, as in [`Subnet::network`].
    pub network: u32,
    /// [`endpoint_flags`].
    pub flags: u16,
    /// The container's own MAC address.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: u32,
}

/// What is to be known of an endpoint.
pub mod endpoint_flags {
    /// It may send on what it is sent (a proxy, a router): what is for it must leave its headers in the kernel's device, or
    /// it could not be encapsulated again.
    pub const MAY_FORWARD: u16 = 1;
    /// The node itself: a gateway, the VTEP.
    pub const NODE: u16 = 2;
}

/// The host side of a container's veth.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Device {
    /// The container's own MAC address.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: u16,
}

/// Devices that the programs hand packets to. 0: there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Devices {
    /// The kernel's VXLAN device that takes its tunnel from the packet (`external`): the slow path.
    pub vxlan: u32,
    /// Zero.
    pub pad: u32,
}

/// Mark of ICMP errors that the programs send to containers: policies let them pass. Nothing in a container can set it for
/// what the node sees: marks end with a network namespace.
pub const ANSWER_MARK: u32 = 0x5747_0001;

/// Mark of what another node has sent encrypted, from the device that has decrypted it to the kernel's VXLAN device. What comes
/// from elsewhere has no mark of ours: a packet can't carry one.
pub const SEALED_MARK: u32 = 0x5747_0002;

/// Whether packets that are counted under a [`reason`] went nowhere.
pub const fn is_drop(of: u32) -> bool {
    reason::UNANSWERED <= of && of <= reason::NEIGHBOUR_IGNORED
        || reason::IN_CLEAR <= of && of <= reason::OUT_IN_CLEAR
}

crate::edge::reasons::reasons! {
    /// Positions in the array of counters: every packet that a program sees is counted under one of these, at least.
    pub mod reason {
        /// Delivered on the same node.
        LOCAL = 0, "local";
        /// Sent to another node with headers that a program wrote.
        SENT = 1, "sent";
        /// Delivered from another node, out of headers that a program took off.
        RECEIVED = 2, "received";
        /// To the kernel's stack: a destination outside of the overlay.
        OUTSIDE = 3, "outside";
        /// To the kernel's stack: the node itself.
        NODE = 4, "node";
        /// From the kernel's stack to a container.
        FROM_STACK = 5, "from_stack";
        /// To another node by the kernel's device, which writes the headers, for any reason.
        SENT_SLOW = 6, "sent_slow";
        /// Delivered from another node by the kernel's device.
        RECEIVED_SLOW = 7, "received_slow";
        /// Sent slowly: the peer can only be reached so.
        SLOW_PEER = 8, "slow_peer";
        /// Sent slowly: too long for the underlay, and may be fragmented.
        SLOW_LONG = 9, "slow_long";
        /// Sent slowly: the kernel refused to make room (already encapsulated, a kind of GSO).
        SLOW_REFUSED = 10, "slow_refused";
        /// Up to the kernel's device: UDP that is to be segmented later.
        UP_GSO = 11, "up_udp_gso";
        /// Up to the kernel's device: the container may forward.
        UP_FORWARDS = 12, "up_may_forward";
        /// Up to the kernel's device: it is for the node itself.
        UP_NODE = 13, "up_node";
        /// Up to the kernel's device: the kernel refused to take the headers off.
        UP_REFUSED = 14, "up_refused";
        /// Up to the kernel's stack: outer headers in fragments or with options.
        UP_FRAGMENT = 15, "up_fragment";
        /// Sent with the kernel's help, since the next hop's MAC address is not known.
        NO_NEIGHBOUR = 16, "no_neighbour";
        /// An ARP request was answered.
        ARP_ANSWERED = 17, "arp_answered";
        /// A neighbour solicitation was answered.
        ND_ANSWERED = 18, "nd_answered";
        /// An ICMP error was sent to a container.
        ICMP_SENT = 19, "icmp_sent";
        /// Dropped without an answer: more were due in 17 ms than one CPU may send.
        UNANSWERED = 20, "unanswered";
        /// Dropped: a source that is not the container's.
        SPOOFED_SOURCE = 21, "spoofed_source";
        /// Dropped: a MAC address that is not the container's.
        SPOOFED_MAC = 22, "spoofed_mac";
        /// Dropped: ARP or neighbour discovery in another's name.
        SPOOFED_NEIGHBOUR = 23, "spoofed_neighbour";
        /// Dropped: a container that sends to a node's VXLAN port itself; and a tunnel to an address that nodes don't send to.
        FORGED_TUNNEL = 24, "forged_tunnel";
        /// Dropped: neither IP nor ARP.
        NOT_IP = 25, "not_ip";
        /// Dropped: multicast or broadcast.
        MULTICAST = 26, "multicast";
        /// Dropped: a header says more than the frame holds, or less than the protocol needs.
        MALFORMED = 27, "malformed";
        /// Dropped: nobody has the destination. Answered with "host unreachable".
        UNKNOWN_DESTINATION = 28, "unknown_destination";
        /// Dropped: the destination's node can't be reached. Answered with "host unreachable".
        PEER_DOWN = 29, "peer_down";
        /// Dropped: too long for the path. Answered with "packet too big".
        TOO_BIG = 30, "too_big";
        /// Dropped: an address of another network. Answered with "prohibited".
        OTHER_NETWORK = 31, "other_network";
        /// Dropped: not this overlay's VNI.
        WRONG_VNI = 32, "wrong_vni";
        /// Dropped: the sender is no node of ours.
        NOT_A_PEER = 33, "not_a_peer";
        /// Dropped: a node that sends in the name of an address that does not live there.
        SPOOFED_NODE = 34, "spoofed_node";
        /// Dropped: for an address that lives on another node, which would be a loop.
        LOOPED = 35, "looped";
        /// Dropped: congestion was marked on a packet that can't carry the mark (RFC 6040).
        ECN = 36, "ecn";
        /// Dropped by a policy, on its way from the container.
        POLICY_EGRESS = 37, "policy_egress";
        /// Dropped by a policy, on its way to the container.
        POLICY_INGRESS = 38, "policy_ingress";
        /// Dropped: there is no kernel device for the slow path.
        NO_DEVICE = 39, "no_device";
        /// Dropped: a table's entry leads nowhere.
        BAD_TABLE = 40, "bad_table";
        /// Dropped: the kernel refused to change the packet.
        FAILED = 41, "failed";
        /// Dropped: ARP or neighbour discovery that needs no answer (for the asker's own address, or nobody's).
        NEIGHBOUR_IGNORED = 42, "neighbour_ignored";
        /// Up to the kernel's device, whose program tells the sender: nobody has the destination.
        UP_NOBODY = 43, "up_unknown_destination";
        /// Dropped: a tunnel that came in clear, to a node that encrypts.
        IN_CLEAR = 44, "in_clear";
        /// Dropped: a tunnel that would have left a node that encrypts in clear.
        OUT_IN_CLEAR = 45, "out_in_clear";
    }
}

const _: () = {
    assert!(size_of::<Subnet>() == 8);
    assert!(size_of::<Peer>() == 80);
    assert!(size_of::<Endpoint>() == 40);
    assert!(size_of::<Device>() == 8);
    assert!(size_of::<Devices>() == 8);
};

#[cfg(feature = "user")]
mod user {
    // SAFETY: all are `#[repr(C)]`, `Copy`, without padding (sizes asserted above) and valid for any bit pattern.
    unsafe impl aya::Pod for super::Subnet {}
    unsafe impl aya::Pod for super::Peer {}
    unsafe impl aya::Pod for super::Endpoint {}
    unsafe impl aya::Pod for super::Device {}
    unsafe impl aya::Pod for super::Devices {}
}
