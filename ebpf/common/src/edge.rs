//! The edge's load balancer: layouts, and the arithmetic on which kernel and user space must agree.
//!
//! A packet is looked up in one [`Bucket`] (64 bytes, one cache line), which names the VIP's [`Record`], which names
//! a ring of slots and a range of backends. A slot holds two generations of owners; only a slot that changed lately
//! ([`slot::DIRTY`]) costs per-flow state. A [`Backend`] is the whole outer header, ready to be copied.
//!
//! # Who writes, and what a reader sees
//! Arrays are written through shared memory, by aligned stores of at most 8 bytes:
//! - a slot is one 4-byte store;
//! - a record never changes while a bucket names it: a changed VIP gets a new record, then the bucket's 4-byte index
//!   is stored. The record repeats the key, so that a reader who raced with the reuse of a bucket's place notices;
//! - of a backend only the first 8 bytes (the next hop) change while it is in use, in one store.
//!
//! # Encapsulation
//! GUE version 0 (IPv4, UDP port 6080, no checksum) with 4 bytes of private data: the backend's port, the VIP's port.
//! 36 bytes before the client's packet, which stays as it is. UDP spreads over the receiver's queues by its source port;
//! the private data tells a node with several backends which one was chosen, for fragments too.

/// Bits of the hash that choose a bucket.
pub const BUCKET_BITS: u32 = 16;
/// Buckets in the VIP table.
pub const BUCKETS: u32 = 1 << BUCKET_BITS;
/// VIPs that a bucket holds; more go to the overflow map.
pub const BUCKET_WAYS: usize = 4;
/// Records by default: twice the VIPs, since a changed VIP has two for a moment.
pub const MAX_RECORDS: u32 = 32_768;
/// VIPs in the overflow map.
pub const MAX_OVERFLOW: u32 = 16_384;
/// Backends by default.
pub const MAX_BACKENDS: u32 = 65_536;
/// Pairs of slots in the arena of rings by default (8 bytes each).
pub const MAX_SLOT_PAIRS: u32 = 4 << 20;
/// Flows that are remembered because their slot changed, by default.
pub const MAX_FLOWS: u32 = 262_144;
/// Connections that are being opened on changed slots, by default. Apart from the flows, so that a flood of SYNs can't evict them.
pub const MAX_HALF_OPEN: u32 = 131_072;
/// First fragments that are remembered for the ones that follow.
pub const MAX_FRAGMENTS: u32 = 16_384;
/// Ranges of client addresses.
pub const MAX_RANGES: u32 = 65_536;

/// VIPs with backends on one node, times backends.
pub const MAX_SERVICES: u32 = 65_536;
/// Edges whose encapsulated packets a node takes.
pub const MAX_EDGES: u32 = 1_024;
/// Flows whose answers a node gives the VIP as source.
pub const MAX_ANSWERS: u32 = 262_144;

/// Words of 64 bits that hold a bit for each port.
pub const PORT_WORDS: u32 = 1_024;

/// UDP port of GUE.
pub const GUE_PORT: u16 = 6080;
/// Outer IPv4, UDP, GUE and its private data.
pub const ENCAP_LEN: usize = 36;
/// Ethernet and [`ENCAP_LEN`].
pub const HEADER_LEN: usize = 50;

/// Four VIPs by key; a cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Bucket {
    /// [`key`] of each VIP; 0 where there is none.
    pub keys: [u64; BUCKET_WAYS],
    /// Position of each VIP's record.
    pub records: [u32; BUCKET_WAYS],
    /// Not 0: what is not found here may be in the overflow map.
    pub overflow: u32,
    /// Zero.
    pub pad: [u32; 3],
}

/// A VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Record {
    /// As in the bucket.
    pub key: u64,
    /// First slot of the ring, in slots of 4 bytes.
    pub ring_base: u32,
    /// Slots in the ring; 0: no backend, new connections are refused.
    pub ring_size: u32,
    /// Where the VIP's backends begin; owners in slots count from here.
    pub backend_base: u32,
    /// Number of the VIP, for its counters.
    pub vip_id: u32,
    /// [`flag`]s.
    pub flags: u32,
    /// Number of its set of client ranges, with [`flag::RANGES`].
    pub ranges: u32,
    /// Stirred into the hash; the same on all edges.
    pub seed: u32,
    /// Ports that count for the choice: all ones, or 0 for affinity by client address.
    pub port_mask: u32,
    /// Address of an IPv6 VIP, whose key is a hash; zero for IPv4.
    pub addr6: [u32; 4],
    /// Zero.
    pub pad: [u32; 2],
}

/// Bits of [`Record::flags`].
pub mod flag {
    /// Only clients within its ranges are served.
    pub const RANGES: u32 = 1;
}

/// A slot of a ring: previous owner (15 bits), [`DIRTY`](slot::DIRTY), current owner (15 bits) from bit 16.
pub mod slot {
    /// The slot changed lately: flows that are remembered keep their owner.
    pub const DIRTY: u32 = 0x8000;
    /// Owners that a slot can tell apart.
    pub const MAX_OWNERS: u32 = 0x7fff;

    /// A slot.
    #[inline(always)]
    pub const fn pack(previous: u16, current: u16, dirty: bool) -> u32 {
        (previous as u32 & MAX_OWNERS)
            | if dirty { DIRTY } else { 0 }
            | ((current as u32 & MAX_OWNERS) << 16)
    }

    /// Owner before the change.
    #[inline(always)]
    pub const fn previous(slot: u32) -> u16 {
        (slot & MAX_OWNERS) as u16
    }

    /// Owner of new connections.
    #[inline(always)]
    pub const fn current(slot: u32) -> u16 {
        (slot >> 16 & MAX_OWNERS) as u16
    }

    /// Whether it changed lately.
    #[inline(always)]
    pub const fn is_dirty(slot: u32) -> bool {
        slot & DIRTY != 0
    }
}

/// A backend: the outer headers of what is sent to it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Ethernet, IPv4, UDP, GUE; lengths, checksum and source port are filled in per packet.
    pub header: [u8; HEADER_LEN],
    /// Changes when another backend takes this place, so that remembered flows are not sent to it; never 0 in use.
    pub generation: u16,
    /// Sum of the outer IPv4 header without length and type of service, not folded.
    pub sum: u32,
    /// Longest inner packet that fits the path, bytes.
    pub max_inner: u16,
    /// [`backend_flag`]s.
    pub flags: u16,
    /// Zero.
    pub pad: u32,
}

/// Bits of [`Backend::flags`].
pub mod backend_flag {
    /// On this very node: encapsulated all the same, but handed up instead of sent.
    pub const LOCAL: u16 = 1;
    /// The next hop is whoever sent the client's packet (a router).
    pub const BACK: u16 = 2;
}

/// A flow, as its client's packets show it. Addresses and ports in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FlowKey {
    /// Client.
    pub src: u32,
    /// VIP.
    pub dst: u32,
    /// Source port in the low half, destination port in the high half (as they stand in the packet, read as one little-endian word).
    pub ports: u32,
    /// IANA protocol.
    pub proto: u32,
}

/// Who serves a remembered flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flow {
    /// Owner, as in a slot.
    pub owner: u16,
    /// [`Backend::generation`] of the owner.
    pub generation: u16,
    /// [`epoch`] of the last packet.
    pub epoch: u32,
}

/// Who was sent the SYN of a connection on a changed slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HalfOpen {
    /// Owner, as in a slot.
    pub owner: u16,
    /// [`Backend::generation`] of the owner.
    pub generation: u16,
    /// Sequence number of the SYN.
    pub isn: u32,
}

/// Fragments of one packet. Network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FragmentKey {
    /// Client.
    pub src: u32,
    /// VIP.
    pub dst: u32,
    /// Identification.
    pub id: u16,
    /// IANA protocol.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// Where a packet's first fragment went.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Fragment {
    /// Position of the backend.
    pub backend: u32,
    /// VIP, for its counters.
    pub vip_id: u32,
    /// [`Backend::generation`].
    pub generation: u32,
}

/// Client addresses that a VIP serves: the data of a longest-prefix key whose prefix counts from the set's number.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Range {
    /// Number of the set.
    pub ranges: u32,
    /// Address, network order.
    pub addr: u32,
}

/// Traffic of a VIP; per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets sent to backends.
    pub packets: u64,
    /// Their bytes, without Ethernet and the outer headers.
    pub bytes: u64,
    /// Packets refused for want of a backend.
    pub refused: u64,
    /// Packets from outside of the client ranges.
    pub denied: u64,
}

/// Inserts of one CPU within a tick.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Budget {
    /// [`tick`] that the counts are of.
    pub tick: u64,
    /// Half-open connections.
    pub half_open: u32,
    /// Adopted flows.
    pub adopted: u32,
    /// Answers: resets and ICMP.
    pub answers: u32,
    /// Zero.
    pub pad: u32,
}

/// What the bench's wrapper does, and has done.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BenchRun {
    /// Clients to go through, less one: a power of two less one; 0: the packet's own.
    pub flow_mask: u32,
    /// Not 0: what is sent was encapsulated.
    pub grown: u32,
    /// Packets so far, for the next client.
    pub n: u32,
    /// Zero.
    pub pad: u32,
    /// Packets sent.
    pub sent: u64,
    /// Packets not sent.
    pub others: u64,
}

/// What an edge sends a node about a backend: key of the node's table. Network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServiceKey {
    /// VIP.
    pub vip: u32,
    /// Port of the VIP.
    pub vip_port: u16,
    /// Port of the backend.
    pub port: u16,
    /// IANA protocol.
    pub proto: u32,
}

/// Answers of a node's backend. Network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AnswerKey {
    /// Client.
    pub client: u32,
    /// Backend's address.
    pub backend: u32,
    /// Client's port.
    pub client_port: u16,
    /// Backend's port.
    pub port: u16,
    /// IANA protocol.
    pub proto: u32,
}

/// The source that an answer gets. Network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Answer {
    /// VIP.
    pub vip: u32,
    /// Port of the VIP.
    pub vip_port: u16,
    /// Zero.
    pub pad: u16,
}

macro_rules! reasons {
    ($(#[$module:meta])* $vis:vis mod $name:ident { $($(#[$doc:meta])* $reason:ident = $value:literal, $text:literal;)* }) => {
        $(#[$module])*
        $vis mod $name {
            $($(#[$doc])* pub const $reason: u32 = $value;)*
            /// Names, by position, for the exported counter's attribute.
            pub const NAMES: &[&str] = &[$($text),*];
            /// Number of reasons.
            pub const COUNT: u32 = NAMES.len() as u32;
            const _: () = {
                let mut expected = 0;
                $(assert!($value == expected); expected += 1;)*
                assert!(expected == COUNT);
            };
        }
    };
}

reasons! {
    /// Positions in the edge's array of counters: what did not simply go to a backend, by reason.
    pub mod reason {
        /// Dropped: a header says more than the frame holds, or less than the protocol needs.
        MALFORMED = 0, "malformed";
        /// Dropped: the source is no client's (0/8, 127/8, 224/3, the VIP itself, a VIP).
        MARTIAN = 1, "martian_source";
        /// Passed on: IPv4 options.
        OPTIONS = 2, "ip_options";
        /// Passed on: a fragment whose first one was not seen.
        FRAGMENT_UNKNOWN = 3, "fragment_unknown";
        /// Dropped: outside of the VIP's client ranges.
        DENIED = 4, "denied";
        /// Dropped or refused: the VIP has no backend.
        NO_BACKEND = 5, "no_backend";
        /// Dropped: a table points outside of another.
        BAD_TABLE = 6, "bad_table";
        /// Dropped: too long for the path; answered with "fragmentation needed", within a budget.
        TOO_BIG = 7, "too_big";
        /// Dropped: no room before the packet.
        NO_HEADROOM = 8, "no_headroom";
        /// A remembered flow had its owner by memory.
        REMEMBERED = 9, "remembered";
        /// A flow on a changed slot was given to its previous owner and remembered.
        ADOPTED = 10, "adopted";
        /// A flow on a changed slot was given to its previous owner and could not be remembered now.
        NOT_ADOPTED = 11, "not_adopted";
        /// A SYN on a changed slot was remembered as half-open.
        HALF_OPEN = 12, "half_open";
        /// A SYN on a changed slot beyond the budget: went to the previous owner, which needs no memory.
        OVER_BUDGET = 13, "syn_over_budget";
        /// A half-open connection became a flow.
        OPENED = 14, "opened";
        /// An ICMP error was sent after its flow.
        ICMP_ERROR = 15, "icmp_error";
        /// A reset was answered.
        RESET_SENT = 16, "reset_sent";
        /// An ICMP message was answered.
        ICMP_SENT = 17, "icmp_sent";
        /// A fragment followed its first one.
        FRAGMENT = 18, "fragment";
    }
}

reasons! {
    /// Positions in a node's array of counters.
    pub mod dsr_reason {
        /// Taken out of its outer headers and handed to a backend.
        DELIVERED = 0, "delivered";
        /// Dropped: no edge of ours sent it.
        NOT_AN_EDGE = 1, "not_an_edge";
        /// Dropped: no such backend here.
        NO_SERVICE = 2, "no_service";
        /// Dropped: a header says more than the packet holds, or less than needed.
        MALFORMED = 3, "malformed";
        /// Dropped: the kernel refused to change the packet.
        FAILED = 4, "failed";
        /// An answer got the VIP as its source.
        ANSWERED = 5, "answered";
        /// An ICMP error was translated.
        ICMP_ERROR = 6, "icmp_error";
        /// A client that had used the VIP dialled the backend itself.
        DIRECT = 7, "direct";
        /// No room to remember a flow: its answers show the backend.
        NOT_REMEMBERED = 8, "not_remembered";
        /// An ICMP error of the backend got the VIP as its source.
        ICMP_ANSWERED = 9, "icmp_answered";
    }
}

/// Key of an IPv4 VIP. Never 0. Address and port in network order.
#[inline(always)]
pub const fn key(addr: u32, port: u16, proto: u8) -> u64 {
    (addr as u64) << 32 | (port as u64) << 16 | (proto as u64) << 8 | 1
}

/// Where a key is looked for.
#[inline(always)]
pub const fn bucket(key: u64) -> u32 {
    (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - BUCKET_BITS)) as u32
}

/// Hash of a flow within its VIP.
#[inline(always)]
pub const fn hash(src: u32, ports: u32, seed: u32) -> u32 {
    let mut h = ((src as u64) << 32 | ports as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    h ^= h >> 32;
    h = (h ^ seed as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (h >> 32) as u32
}

/// Slot of a hash in a ring.
#[inline(always)]
pub const fn slot_of(hash: u32, ring_size: u32) -> u32 {
    ((hash as u64 * ring_size as u64) >> 32) as u32
}

/// Coarse time of a flow's last packet, from `CLOCK_MONOTONIC` in nanoseconds: 17 s each.
#[inline(always)]
pub const fn epoch(ns: u64) -> u32 {
    (ns >> 34) as u32
}

/// Time for which budgets count: 17 ms each.
#[inline(always)]
pub const fn tick(ns: u64) -> u64 {
    ns >> 24
}

/// Sequence numbers after a SYN's that still belong to its opening; what a client may send before it is remembered.
pub const OPENING: u32 = 1 << 16;

/// Whether a segment belongs to the connection that a SYN opened, not to an older one of the same addresses and ports.
#[inline(always)]
pub const fn follows(isn: u32, seq: u32) -> bool {
    seq.wrapping_sub(isn).wrapping_sub(1) < OPENING
}

/// Folds a one's complement sum of 16-bit words to 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Whether an address can't be a client's. Network order.
#[inline(always)]
pub const fn is_martian(addr: u32) -> bool {
    let first = addr.to_ne_bytes()[0];
    first == 0 || first == 127 || first >= 224
}

/// Addresses and ports of a [`Backend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendPath {
    /// Next hop; zero with [`backend_flag::BACK`].
    pub next_hop: [u8; 6],
    /// The uplink's own address.
    pub own_mac: [u8; 6],
    /// The edge.
    pub edge: [u8; 4],
    /// The backend's node.
    pub node: [u8; 4],
    /// Port of the backend.
    pub port: u16,
    /// Port of the VIP.
    pub vip_port: u16,
    /// MTU of the path, bytes.
    pub mtu: u16,
    /// [`backend_flag`]s.
    pub flags: u16,
    /// Never 0.
    pub generation: u16,
}

impl Backend {
    /// No backend.
    pub const NONE: Self = Self {
        header: [0; HEADER_LEN],
        generation: 0,
        sum: 0,
        max_inner: 0,
        flags: 0,
        pad: 0,
    };

    /// The headers of a path.
    pub fn new(path: &BackendPath) -> Self {
        let mut header = [0; HEADER_LEN];
        header[..6].copy_from_slice(&path.next_hop);
        header[6..12].copy_from_slice(&path.own_mac);
        header[12..14].copy_from_slice(&[0x08, 0x00]);
        // Don't fragment; 64 hops; UDP.
        header[14..24].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17]);
        header[26..30].copy_from_slice(&path.edge);
        header[30..34].copy_from_slice(&path.node);
        header[36..38].copy_from_slice(&GUE_PORT.to_be_bytes());
        // Version 0, one word of private data, IPv4 inside, no flags.
        header[42..46].copy_from_slice(&[0x01, 0x04, 0, 0]);
        header[46..48].copy_from_slice(&path.port.to_be_bytes());
        header[48..50].copy_from_slice(&path.vip_port.to_be_bytes());
        let mut sum = 0;
        let mut at = 14;
        while at < 34 {
            sum += u32::from(u16::from_ne_bytes([header[at], header[at + 1]]));
            at += 2;
        }
        Self {
            header,
            generation: path.generation,
            sum,
            max_inner: path.mtu.saturating_sub(ENCAP_LEN as u16),
            flags: path.flags,
            pad: 0,
        }
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self::NONE
    }
}

/// The fields of the outer headers that differ between packets, as they stand in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Length of the outer IPv4 packet.
    pub total: u16,
    /// Checksum of the outer IPv4 header.
    pub check: u16,
    /// Source port of the outer UDP header.
    pub port: u16,
    /// Length of the outer UDP datagram.
    pub udp: u16,
}

impl Patch {
    /// For an inner packet of `inner` bytes (at most 65,499) of a flow with this hash.
    #[inline(always)]
    pub const fn new(sum: u32, tos: u8, inner: u16, hash: u32) -> Self {
        let total = (inner + ENCAP_LEN as u16).to_be();
        // The type of service is the second byte of the header's first word.
        let tos = u16::from_ne_bytes([0, tos]);
        Self {
            total,
            check: !fold(sum + total as u32 + tos as u32),
            port: (0xc000 | (hash & 0x3fff) as u16).to_be(),
            udp: (inner + (ENCAP_LEN - 20) as u16).to_be(),
        }
    }
}

const _: () = {
    assert!(size_of::<Bucket>() == 64);
    assert!(size_of::<Record>() == 64);
    assert!(size_of::<Backend>() == 64);
    assert!(size_of::<FlowKey>() == 16);
    assert!(size_of::<Flow>() == 8);
    assert!(size_of::<HalfOpen>() == 8);
    assert!(size_of::<FragmentKey>() == 12);
    assert!(size_of::<Fragment>() == 12);
    assert!(size_of::<Range>() == 8);
    assert!(size_of::<Traffic>() == 32);
    assert!(size_of::<Budget>() == 24);
    assert!(size_of::<BenchRun>() == 32);
    assert!(size_of::<ServiceKey>() == 12);
    assert!(size_of::<AnswerKey>() == 16);
    assert!(size_of::<Answer>() == 8);
};

#[cfg(feature = "user")]
mod user {
    // SAFETY: all are `#[repr(C)]`, `Copy`, without padding (sizes asserted above) and valid for any bit pattern.
    unsafe impl aya::Pod for super::Bucket {}
    unsafe impl aya::Pod for super::Record {}
    unsafe impl aya::Pod for super::Backend {}
    unsafe impl aya::Pod for super::FlowKey {}
    unsafe impl aya::Pod for super::Flow {}
    unsafe impl aya::Pod for super::HalfOpen {}
    unsafe impl aya::Pod for super::FragmentKey {}
    unsafe impl aya::Pod for super::Fragment {}
    unsafe impl aya::Pod for super::Range {}
    unsafe impl aya::Pod for super::Traffic {}
    unsafe impl aya::Pod for super::Budget {}
    unsafe impl aya::Pod for super::BenchRun {}
    unsafe impl aya::Pod for super::ServiceKey {}
    unsafe impl aya::Pod for super::AnswerKey {}
    unsafe impl aya::Pod for super::Answer {}
}
