//! Network policies: who has which number, and which ports a number may use to another.
//!
//! | map | key | value |
//! |---|---|---|
//! | `POLICY_CONFIG` | 0 | [`Config`] |
//! | `POLICY_ADDRESSES` | an address | [`Sided`]: its [`number`] |
//! | `POLICY_NETS` | a prefix | [`Net`]: the number of addresses without an entry of their own |
//! | `POLICY_LOCALS` | a number | [`Local`]: what its policies say of everybody |
//! | `POLICY_PAIRS` | [`PairKey`] | [`Sets`]: what they say of one peer |
//! | `POLICY_SETS` | a set's number | [`PortWords`] |
//! | `POLICY_BLOCKS` | [`BlockKey`] | [`Block`] |
//! | `POLICY_NAMES` | [`NameKey`] | [`Name`]: what the resolver told a task |
//! | `POLICY_FLOWS` | [`FlowKey`] | [`Flow`]: what was allowed, so that answers pass |
//! | `POLICY_RECORDS` | ring | [`PolicyRecord`]: what was dropped, or would be |
//! | `POLICY_TOLD` | [`ToldKey`] | [`Told`]: what was written there lately |

use crate::Addr;

/// Addresses of tasks (of all nodes), nodes and resolvers.
pub const MAX_ADDRESSES: u32 = 131_072;
/// Networks and rules' nets.
pub const MAX_NETS: u32 = 65_536;
/// Numbers that are in use at a time.
pub const MAX_NUMBERS: u32 = 65_536;
/// Numbers of this node's tasks.
pub const MAX_LOCALS: u32 = 16_384;
/// Peers that may more than everybody, over all numbers of this node.
pub const MAX_PAIRS: u32 = 262_144;
/// Different sets of ports.
pub const MAX_SETS: u32 = 16_384;
/// Blocks that are partly in a set.
pub const MAX_BLOCKS: u32 = 65_536;
/// Addresses that tasks were told of. The map is a plain one: who fills it takes out what expires first when there are more.
pub const MAX_NAMES: u32 = 65_536;
/// Flows that are remembered; with more, those that were used longest ago are forgotten.
pub const MAX_FLOWS: u32 = 131_072;
/// First fragments that are remembered for the ones that follow.
pub const MAX_FRAGMENTS: u32 = 8_192;
/// Room of the ring of what was dropped: 4000 records between two readings.
pub const RECORD_RING_BYTES: u32 = 256 << 10;
/// Packets that are alike are written down so often, nanoseconds.
pub const TELL_EVERY_NS: u64 = 1_000_000_000;
/// Of one CPU in a second, whatever they are about.
pub const RECORDS_PER_S: u64 = 128;
/// Who was written down lately; with more, those of longest ago are forgotten, and told once more.
pub const MAX_TOLD: u32 = 8_192;
/// Answers to a UDP flow pass if it was silent for less than this, seconds.
pub const UDP_IDLE_S: u32 = 180;
/// Answers to an ICMP request pass if it was silent for less than this, seconds.
pub const ICMP_IDLE_S: u32 = 30;
/// Ports of one block.
pub const BLOCK_PORTS: u32 = 1024;

/// Position in arrays, and in keys: what a task dials.
pub const EGRESS: u32 = 0;
/// Who dials a task.
pub const INGRESS: u32 = 1;

/// Numbers, and what else is in an address's word.
pub mod number {
    /// An address of the cluster's networks that nobody is known to have.
    pub const UNKNOWN: u32 = 0;
    /// An address outside that no rule's net contains.
    pub const OUTSIDE: u32 = 1;
    /// The first one that is given out.
    pub const FIRST: u32 = 16;
    /// What of the word is the number.
    pub const MASK: u32 = 0x3fff_ffff;
    /// A task of this node that no policy selects.
    pub const OPEN: u32 = 1 << 30;
    /// A task of this node that a policy selects.
    pub const SELECTED: u32 = 1 << 31;
}

/// Numbers of sets of ports.
pub mod set {
    /// Nothing is in it.
    pub const NONE: u32 = 0;
    /// Everything.
    pub const ALL: u32 = 1;
    /// The first one that is written.
    pub const FIRST: u32 = 2;
}

/// What all programs read first.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Config {
    /// [`config_flags`].
    pub flags: u32,
    /// Which of a [`Sided`]'s words holds: 0 or 1.
    pub side: u32,
    /// Changes when tables have changed: what was decided before is decided anew.
    pub generation: u32,
    /// Until then, seconds of `CLOCK_MONOTONIC`, TCP flows in the middle are taken in as if their beginning had been seen.
    pub adopt_until_s: u32,
}

/// What holds for all.
pub mod config_flags {
    /// There are policies.
    pub const ON: u32 = 1;
    /// Nobody has said yet what the policies are: nothing passes.
    pub const CLOSED: u32 = 2;
}

/// A word that all addresses' entries change at once, by [`Config::side`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sided {
    /// By side.
    pub words: [u32; 2],
}

/// What addresses of a net are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Net {
    /// Their number, by side; with [`number::OPEN`] where a task of this node may use one before it is known.
    pub words: [u32; 2],
}

/// Sets of ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sets {
    /// What passes.
    pub in_force: u32,
    /// What would pass if policies in audit mode were in force, too.
    pub with_audit: u32,
}

/// What a number's policies say of everybody.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Local {
    /// By direction.
    pub sets: [Sets; 2],
    /// [`local_flags`].
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}

/// What is to be known of a number.
pub mod local_flags {
    /// Some of its rules name names.
    pub const NAMES: u32 = 1;
}

/// Who, with whom, in which direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PairKey {
    /// The task's number.
    pub local: u32,
    /// The peer's.
    pub peer: u32,
    /// [`EGRESS`] or [`INGRESS`].
    pub direction: u32,
}

/// A set of ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PortWords {
    /// Blocks that are wholly in it: of TCP, of UDP.
    pub full: [u64; 2],
    /// Blocks that are partly in it.
    pub partial: [u64; 2],
    /// [`port_flags`].
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}

/// Protocols without ports.
pub mod port_flags {
    /// ICMP, ICMPv6.
    pub const ICMP: u32 = 1;
    /// All that is neither TCP, UDP nor ICMP.
    pub const OTHERS: u32 = 2;
}

/// A block that is partly in a set.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockKey {
    /// The set.
    pub set: u32,
    /// Position of the protocol (0: TCP, 1: UDP) times 64, and the block.
    pub block: u32,
}

/// A bit for each port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Block {
    /// Bits.
    pub bits: [u64; 16],
}

/// A task's address and one that it was told of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NameKey {
    /// The task.
    pub local: Addr,
    /// What it was told.
    pub peer: Addr,
}

/// What a task may do with what it was told.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Name {
    /// Which ports, beside those that everybody or the address has.
    pub sets: Sets,
    /// Until then flows may begin, seconds of `CLOCK_MONOTONIC`; those that have begun go on.
    pub expires_s: u32,
    /// Zero.
    pub pad: u32,
}

/// A flow as its task sees it. Ports in network order; of ICMP requests both are the identifier.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FlowKey {
    /// The task.
    pub local: Addr,
    /// The other one.
    pub peer: Addr,
    /// The task's port.
    pub local_port: u16,
    /// The other one's.
    pub peer_port: u16,
    /// IANA protocol.
    pub proto: u32,
}

/// What was decided of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Flow {
    /// [`Config::generation`] when it was decided.
    pub generation: u32,
    /// Seconds of `CLOCK_MONOTONIC` of the last packet.
    pub seen_s: u32,
    /// [`flow_flags`].
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}

/// What is known of a flow.
pub mod flow_flags {
    /// The task began it; without: the peer did.
    pub const EGRESS: u32 = 1;
    /// It may go on.
    pub const ALLOWED: u32 = 2;
    /// A policy in audit mode would not let it.
    pub const AUDITED: u32 = 4;
}

/// What the fragments of a packet have in common.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FragmentKey {
    /// The task.
    pub local: Addr,
    /// The other one.
    pub peer: Addr,
    /// Identification as it stands in the packet; of IPv4 the upper half is 0.
    pub id: u32,
    /// [`EGRESS`] or [`INGRESS`] in the upper half, IANA protocol in the lower.
    pub kind: u32,
}

/// What packets that are written down once have in common.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ToldKey {
    /// The task.
    pub local: Addr,
    /// The other one.
    pub peer: Addr,
    /// The dialled port, network order.
    pub port: u16,
    /// IANA protocol.
    pub proto: u8,
    /// [`verdict`].
    pub verdict: u8,
    /// [`EGRESS`] or [`INGRESS`].
    pub direction: u32,
}

/// When that was.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Told {
    /// `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Packets since then.
    pub more: u64,
}

/// Packets that were dropped, or would be if policies in audit mode were in force.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PolicyRecord {
    /// `CLOCK_MONOTONIC` of the last one.
    pub at_ns: u64,
    /// How many since the last record of the same; 1 for the first.
    pub packets: u64,
    /// The task.
    pub local: Addr,
    /// The other one.
    pub peer: Addr,
    /// The task's port, network order; of ICMP 0.
    pub local_port: u16,
    /// The other one's; of ICMP type and code.
    pub peer_port: u16,
    /// IANA protocol.
    pub proto: u8,
    /// [`verdict`].
    pub verdict: u8,
    /// [`EGRESS`] or [`INGRESS`].
    pub direction: u8,
    /// Zero.
    pub pad: u8,
}

impl PolicyRecord {
    /// What is in the ring; `None` for what is no record.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; size_of::<Self>()] = bytes.first_chunk()?;
        let u64_at = |at: usize| {
            let mut out = [0; 8];
            out.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(out)
        };
        let u32_at = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let addr_at = |at: usize| [u32_at(at), u32_at(at + 4), u32_at(at + 8), u32_at(at + 12)];
        let u16_at = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Some(Self {
            at_ns: u64_at(0),
            packets: u64_at(8),
            local: addr_at(16),
            peer: addr_at(32),
            local_port: u16_at(48),
            peer_port: u16_at(50),
            proto: bytes[52],
            verdict: bytes[53],
            direction: bytes[54],
            pad: bytes[55],
        })
    }
}

crate::edge::reasons::reasons! {
    /// Positions in the array of counters: packets that were not written down.
    pub mod untold {
        /// The same was told within this second; the next record has them in its number.
        REPEATED = 0, "policy_repeated";
        /// The CPU has told enough in this second.
        BUDGET = 1, "policy_budget";
        /// The ring has no room.
        RING_FULL = 2, "policy_ring_full";
    }
}

/// Whether packets of a [`verdict`] went nowhere.
pub const fn is_drop(of: u32) -> bool {
    verdict::DENIED_EGRESS <= of && of <= verdict::MALFORMED
}

crate::edge::reasons::reasons! {
    /// Positions in the array of counters: every packet that meets policies while there are any is under one of these.
    pub mod verdict {
        /// Passed: no policy selects the task.
        NOT_SELECTED = 0, "not_selected";
        /// Passed: the first packet of a flow that a rule allows, or that no policy speaks of.
        FLOW_ALLOWED = 1, "flow_allowed";
        /// Passed: of a flow that was allowed.
        ESTABLISHED = 2, "established";
        /// Passed: an answer to a flow that was allowed.
        ANSWER = 3, "answer";
        /// Passed: an ICMP error about a flow that was allowed.
        RELATED = 4, "related";
        /// Passed: a fragment after its first one.
        FRAGMENT = 5, "fragment";
        /// Passed: what the task sends; a policy in audit mode would drop it.
        AUDITED_EGRESS = 6, "audited_egress";
        /// Passed: what the task is sent; a policy in audit mode would drop it.
        AUDITED_INGRESS = 7, "audited_ingress";
        /// Dropped: no rule lets the task send it.
        DENIED_EGRESS = 8, "denied_egress";
        /// Dropped: no rule lets the task be sent it.
        DENIED_INGRESS = 9, "denied_ingress";
        /// Dropped: policies don't know the task yet, or it did not fit into the tables.
        NO_STATE = 10, "no_state";
        /// Dropped: an answer to nothing that was allowed.
        NO_FLOW = 11, "no_flow";
        /// Dropped: a fragment whose first one was not seen, or was not allowed.
        NO_FRAGMENT = 12, "no_fragment";
        /// Dropped: a header is shorter than its protocol needs.
        MALFORMED = 13, "malformed";
        /// Passed, but there was no room to remember the flow: its answers may be dropped.
        NOT_REMEMBERED = 14, "not_remembered";
    }
}

const _: () = {
    assert!(size_of::<Config>() == 16);
    assert!(size_of::<Sided>() == 8);
    assert!(size_of::<Net>() == 8);
    assert!(size_of::<Sets>() == 8);
    assert!(size_of::<Local>() == 24);
    assert!(size_of::<PairKey>() == 12);
    assert!(size_of::<PortWords>() == 40);
    assert!(size_of::<BlockKey>() == 8);
    assert!(size_of::<Block>() == 128);
    assert!(size_of::<NameKey>() == 32);
    assert!(size_of::<Name>() == 16);
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<Flow>() == 16);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<ToldKey>() == 40);
    assert!(size_of::<Told>() == 16);
    assert!(size_of::<PolicyRecord>() == 56);
};

#[cfg(feature = "user")]
mod user {
    // SAFETY: all are `#[repr(C)]`, `Copy`, without padding (sizes asserted above) and valid for any bit pattern.
    unsafe impl aya::Pod for super::Config {}
    unsafe impl aya::Pod for super::Sided {}
    unsafe impl aya::Pod for super::Net {}
    unsafe impl aya::Pod for super::Sets {}
    unsafe impl aya::Pod for super::Local {}
    unsafe impl aya::Pod for super::PairKey {}
    unsafe impl aya::Pod for super::PortWords {}
    unsafe impl aya::Pod for super::BlockKey {}
    unsafe impl aya::Pod for super::Block {}
    unsafe impl aya::Pod for super::NameKey {}
    unsafe impl aya::Pod for super::Name {}
    unsafe impl aya::Pod for super::FlowKey {}
    unsafe impl aya::Pod for super::Flow {}
    unsafe impl aya::Pod for super::FragmentKey {}
}
