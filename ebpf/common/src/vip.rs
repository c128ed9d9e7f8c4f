//! VIPs: what can be dialled, the sets behind, what sockets remember, what is known of a backend.
//!
//! # Sets
//! A VIP's entry in the map is one word: the number of a [`Cell`], where its [`SetHeader`] is; the cells after it are
//! its [`Backend`]s. A cell never changes while a program may read it: a changed set is written elsewhere, then
//! the word is switched, and the old cells rest. (Only where there is no room elsewhere single words change, each of
//! which makes a set that is right.) The header repeats the key: the kernel may reuse a hash element
//! for another VIP while a program reads it, and the program sees that by the key and looks again.
//!
//! # Choice
//! Vose's alias method (1991): with `x` a random number of 32 bits, `i = (x * n) >> 32` and the lower word of that
//! product as a second random number `f`, the choice is backend `i` if `f < threshold[i]`, else `alias[i]`, which is `i` itself where it has its column alone. So
//! a weighted choice among any number of backends reads one or two cells. Backends from `n` on are draining (weight
//! 0): no choice falls on them, who has one keeps it. Both parts are in order of address and port, so that a backend is
//! found by halving.

use crate::Addr;

/// Most VIPs (address, port, protocol) on one node.
pub const MAX_VIPS: u32 = 131_072;
/// Cells for sets, shared by all VIPs of a node: a header and the backends of each.
pub const MAX_CELLS: u32 = 524_288;
/// Most backends of one VIP, draining ones included.
pub const MAX_SET: u32 = 16_384;
/// Most (VIP, backend) pairs with counters on one node.
pub const MAX_VIP_SERIES: u32 = 65_536;
/// Backends of which a node knows something: ejected ones, and all that are chosen by their connections.
pub const MAX_BACKEND_STATES: u32 = 65_536;
/// Clients with an affinity on one node; with more, those that connected longest ago are forgotten.
pub const MAX_AFFINITIES: u32 = 65_536;
/// Buckets of the filter before [`BackendState`]; a power of two.
pub const EJECTION_BUCKETS: u32 = 4_096;

/// What a client dials.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VipKey {
    /// Address.
    pub addr: Addr,
    /// Port, network order.
    pub port: u16,
    /// IANA protocol: 6 or 17.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// One place in the array of sets: a [`SetHeader`] or a [`Backend`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Cell {
    /// The bytes of either.
    pub words: [u32; 8],
}

/// First cell of a VIP's set.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SetHeader {
    /// The VIP's address.
    pub addr: Addr,
    /// The VIP's port, network order.
    pub port: u16,
    /// The VIP's protocol.
    pub proto: u8,
    /// [`set_flags`].
    pub flags: u8,
    /// Stable number of the VIP on this node, never 0; joins counters to names.
    pub vip_id: u32,
    /// Backends that are chosen; 0 refuses the connect with ECONNREFUSED.
    pub n: u16,
    /// Backends that keep what they have: the `n`, then the draining ones. At most [`MAX_SET`].
    pub members: u16,
    /// Seconds for which a client keeps its backend after its last connect.
    pub affinity_s: u32,
}

/// How a set is chosen from.
pub mod set_flags {
    /// A client keeps its backend.
    pub const AFFINITY: u8 = 1;
    /// Of two weighted choices the one with fewer connections of this node.
    pub const LEAST_CONNECTIONS: u8 = 2;
}

/// One backend of a set.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Backend {
    /// Address, never zero.
    pub addr: Addr,
    /// Port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
    /// Below which second random number it is chosen itself.
    pub threshold: u32,
    /// Position in the set of the one that is chosen otherwise.
    pub alias: u32,
    /// Zero.
    pub pad2: u32,
}

/// Per-socket memory: who opened it and which VIP it dialled.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SockInfo {
    /// cgroup2 id of the task (or other cgroup below the node's root) that owns the socket.
    pub cgroup_id: u64,
    /// `CLOCK_MONOTONIC` at the connect, or at the accept with [`sock_flags::ACCEPTED`]; 0 where nobody saw either.
    pub connect_ns: u64,
    /// `bytes_acked` already counted.
    pub seen_acked: u64,
    /// `bytes_received` already counted.
    pub seen_received: u64,
    /// VIP address.
    pub vip_addr: Addr,
    /// Backend address.
    pub backend_addr: Addr,
    /// VIP number, 0 when no VIP was dialled.
    pub vip_id: u32,
    /// VIP port, network order.
    pub vip_port: u16,
    /// Backend port, network order.
    pub backend_port: u16,
    /// [`sock_flags`].
    pub flags: u32,
    /// From the connect to the establishment, microseconds.
    pub connect_us: u32,
}

/// What is known of a socket.
pub mod sock_flags {
    /// Its VIP chooses by connections, so they are counted.
    pub const COUNT: u32 = 1;
    /// It is in [`super::BackendState::active`].
    pub const COUNTED: u32 = 2;
    /// Its peer has reset it.
    pub const RESET: u32 = 4;
    /// It is a connected UDP socket.
    pub const UDP: u32 = 8;
    /// It was accepted. Sockets accepted by programs before this flag have no time of a connect either.
    pub const ACCEPTED: u32 = 16;
    /// Its own FIN was acknowledged, which the kernel counts as a byte.
    pub const TX_FIN: u32 = 32;
    /// The peer's FIN came, which the kernel counts as a byte.
    pub const RX_FIN: u32 = 64;
}

/// VIPs that an unconnected UDP socket talks to at once and keeps a backend of; with more, the one that was
/// chosen longest ago is forgotten.
pub const UDP_PEERS: usize = 4;

/// A VIP that an unconnected UDP socket sends to, and the backend that it was given.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UdpPeer {
    /// VIP address; zero where there is none.
    pub vip_addr: Addr,
    /// Backend address.
    pub backend_addr: Addr,
    /// VIP port, network order.
    pub vip_port: u16,
    /// Backend port, network order.
    pub backend_port: u16,
    /// The cell that held the backend when it was chosen.
    pub cell: u32,
}

/// Memory of an unconnected UDP socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UdpPeers {
    /// In no order.
    pub peers: [UdpPeer; UDP_PEERS],
    /// The place that is taken next.
    pub next: u32,
    /// Zero.
    pub pad: u32,
}

/// Whose affinity.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AffinityKey {
    /// cgroup2 id of the client: a task, or a session of the node.
    pub client: u64,
    /// VIP number.
    pub vip_id: u32,
    /// Zero.
    pub pad: u32,
}

/// A client's backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Affinity {
    /// `CLOCK_MONOTONIC` of its last connect.
    pub since_ns: u64,
    /// Backend address.
    pub addr: Addr,
    /// Backend port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
    /// The cell that held the backend.
    pub cell: u32,
}

/// A backend, whatever VIPs it is behind.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BackendKey {
    /// Address.
    pub addr: Addr,
    /// Port, network order.
    pub port: u16,
    /// IANA protocol.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// What this node's kernel has seen of a backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BackendState {
    /// No choice falls on it before this `CLOCK_MONOTONIC`, as long as there is another one.
    pub until_ns: u64,
    /// `CLOCK_MONOTONIC` of the last failure.
    pub failed_ns: u64,
    /// Open connections of this node; counted only for VIPs that choose by them.
    pub active: u32,
    /// Failures in a row; each doubles the time out.
    pub failures: u32,
}

/// How long a backend is out after its first failure in a row, nanoseconds.
pub const EJECT_FIRST_NS: u64 = 250_000_000;
/// Doublings of that: 32 s at most.
pub const EJECT_DOUBLINGS: u32 = 7;
/// Time that the one connect which tries an ejected backend again has before another one may, nanoseconds.
pub const PROBE_NS: u64 = 1_000_000_000;
/// A failure as long after the one before as this begins a new row, nanoseconds.
pub const EJECT_FORGET_NS: u64 = 60_000_000_000;

/// Bucket of a backend in the filter of ejections.
pub const fn ejection_bucket(addr: &Addr, port: u16) -> u32 {
    let mixed = (addr[3]
        ^ addr[2].rotate_left(7)
        ^ addr[1].rotate_left(13)
        ^ addr[0]
        ^ ((port as u32) << 8))
        .wrapping_mul(0x9e37_79b1);
    mixed >> (32 - EJECTION_BUCKETS.trailing_zeros())
}

/// Key of VIP counters.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VipStatKey {
    /// VIP number.
    pub vip_id: u32,
    /// Backend address; zeros for refusals.
    pub addr: Addr,
    /// Backend port, network order; 0 for refusals.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// VIP counters; per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VipStat {
    /// Connects sent to this backend (or refused, where the backend is 0).
    pub count: u64,
    /// Of those, the ones that the backend refused, left unanswered or reset before its first byte.
    pub failures: u64,
    /// Times it was ejected.
    pub ejections: u64,
}

const _: () = {
    assert!(size_of::<VipKey>() == 20);
    assert!(size_of::<Cell>() == 32);
    assert!(size_of::<SetHeader>() == 32);
    assert!(size_of::<Backend>() == 32);
    assert!(MAX_SET < u16::MAX as u32);
    assert!(size_of::<SockInfo>() == 80);
    assert!(size_of::<UdpPeer>() == 40);
    assert!(size_of::<UdpPeers>() == 40 * UDP_PEERS + 8);
    assert!(size_of::<AffinityKey>() == 16);
    assert!(size_of::<Affinity>() == 32);
    assert!(size_of::<BackendKey>() == 20);
    assert!(size_of::<BackendState>() == 24);
    assert!(size_of::<VipStatKey>() == 24);
    assert!(size_of::<VipStat>() == 24);
    assert!(EJECTION_BUCKETS.is_power_of_two());
};

/// Word of a header's cell that holds `n` and `members`.
pub const COUNTS_WORD: u8 = 6;
/// Word of a backend's cell that holds its threshold.
pub const THRESHOLD_WORD: u8 = 5;
/// Word of a backend's cell that holds its alias.
pub const ALIAS_WORD: u8 = 6;

impl From<SetHeader> for Cell {
    fn from(header: SetHeader) -> Self {
        let SetHeader {
            addr,
            port,
            proto,
            flags,
            vip_id,
            n,
            members,
            affinity_s,
        } = header;
        let [p0, p1] = port.to_ne_bytes();
        let ([n0, n1], [m0, m1]) = (n.to_ne_bytes(), members.to_ne_bytes());
        let port = u32::from_ne_bytes([p0, p1, proto, flags]);
        let counts = u32::from_ne_bytes([n0, n1, m0, m1]);
        let [a, b, c, d] = addr;
        Self {
            words: [a, b, c, d, port, vip_id, counts, affinity_s],
        }
    }
}

impl From<Cell> for SetHeader {
    fn from(cell: Cell) -> Self {
        let [a, b, c, d, port, vip_id, counts, affinity_s] = cell.words;
        let [p0, p1, proto, flags] = port.to_ne_bytes();
        let [n0, n1, m0, m1] = counts.to_ne_bytes();
        Self {
            addr: [a, b, c, d],
            port: u16::from_ne_bytes([p0, p1]),
            proto,
            flags,
            vip_id,
            n: u16::from_ne_bytes([n0, n1]),
            members: u16::from_ne_bytes([m0, m1]),
            affinity_s,
        }
    }
}

impl From<Backend> for Cell {
    fn from(backend: Backend) -> Self {
        let Backend {
            addr: [a, b, c, d],
            port,
            pad,
            threshold,
            alias,
            pad2,
        } = backend;
        let ([p0, p1], [q0, q1]) = (port.to_ne_bytes(), pad.to_ne_bytes());
        let port = u32::from_ne_bytes([p0, p1, q0, q1]);
        Self {
            words: [a, b, c, d, port, threshold, alias, pad2],
        }
    }
}

impl From<Cell> for Backend {
    fn from(cell: Cell) -> Self {
        let [a, b, c, d, port, threshold, alias, pad2] = cell.words;
        let [p0, p1, q0, q1] = port.to_ne_bytes();
        Self {
            addr: [a, b, c, d],
            port: u16::from_ne_bytes([p0, p1]),
            pad: u16::from_ne_bytes([q0, q1]),
            threshold,
            alias,
            pad2,
        }
    }
}
