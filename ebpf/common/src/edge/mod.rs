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

mod arithmetic;
pub(crate) mod reasons;

pub use arithmetic::{
    BackendPath, OPENING, Patch, bucket, epoch, fold, follows, hash, is_martian, key, slot,
    slot_of, tick,
};
pub use reasons::{dsr_reason, reason};

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
    /// Places for backends from `backend_base` on.
    pub places: u32,
    /// Zero.
    pub pad: u32,
}

/// Bits of [`Record::flags`].
pub mod flag {
    /// Only clients within its ranges are served.
    pub const RANGES: u32 = 1;
    /// All backends are draining: what there is goes on, a SYN is refused.
    pub const NO_NEW: u32 = 2;
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
    /// The last generation that this place had in use; stays when the generation is taken off.
    pub last_generation: u16,
    /// Zero.
    pub pad: u16,
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
