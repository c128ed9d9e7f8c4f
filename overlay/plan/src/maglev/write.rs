//! What an edge is to serve, and the writes that make it so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
};

use waggle_ebpf_common::edge as abi;
use waggle_types::{Millis, VipKey};

use super::ring::RingConfig;

/// The edge, and the capacities of its tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgePlanConfig {
    /// Outer source of what is sent.
    pub edge: Ipv4Addr,
    /// The uplink's link-layer address.
    pub own_mac: [u8; 6],
    /// MTU of the uplink, bytes.
    pub mtu: u16,
    /// How rings change.
    pub ring: RingConfig,
    /// Places for records, and numbers for VIPs.
    pub records: u32,
    /// Slots of all rings.
    pub slots: u32,
    /// Places for backends.
    pub backends: u32,
    /// Time until a place is used again: longer than any program runs.
    pub quarantine: Millis,
    /// Stirred into every VIP's hash; the same on all edges.
    pub seed: u32,
}

impl EdgePlanConfig {
    /// With the kernel's default capacities.
    pub fn new(edge: Ipv4Addr, own_mac: [u8; 6], mtu: u16) -> Self {
        Self {
            edge,
            own_mac,
            mtu,
            ring: RingConfig::default(),
            records: abi::MAX_RECORDS,
            slots: abi::MAX_SLOT_PAIRS * 2,
            backends: abi::MAX_BACKENDS,
            quarantine: Millis(1_000),
            seed: 0,
        }
    }
}

/// Where a backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeBackend {
    /// Its node, which takes it out of the outer headers.
    pub node: Ipv4Addr,
    /// The next hop's link-layer address; none: back to the router that the packet came from.
    pub next_hop: Option<[u8; 6]>,
    /// The node is this one.
    pub is_local: bool,
    /// Share of new connections; 0 drains: what it has goes on.
    pub weight: u32,
}

/// A VIP as an edge serves it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EdgeService {
    /// Backends, draining ones included; one that is not named serves nothing any more.
    pub backends: BTreeMap<SocketAddrV4, EdgeBackend>,
    /// All connections of a client go to one backend.
    pub affinity: bool,
    /// Networks of clients, with prefix length; none: everybody.
    pub ranges: Option<BTreeSet<(Ipv4Addr, u8)>>,
}

/// A VIP found in tables that outlived the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeAdopted {
    /// The record's place.
    pub record: u32,
    /// The record.
    pub value: abi::Record,
    /// Its ring.
    pub slots: Vec<u32>,
    /// Its places for backends.
    pub backends: Vec<abi::Backend>,
}

/// A write, to be executed in order; after a failure the rest must not be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EdgeWrite {
    /// Backends into places that no slot names.
    SetBackends {
        /// First place.
        base: u32,
        /// Kernel bytes.
        backends: Vec<abi::Backend>,
    },
    /// The flows remembered for this place are nobody's.
    Retire {
        /// The place.
        at: u32,
    },
    /// Another next hop of a backend in use.
    SetNextHop {
        /// The place.
        at: u32,
        /// Link-layer address.
        mac: [u8; 6],
    },
    /// Slots of a ring.
    SetSlots {
        /// Where the ring begins.
        base: u32,
        /// Position in the ring and what it holds.
        slots: BTreeMap<u32, u32>,
    },
    /// A record that no VIP names.
    SetRecord {
        /// The place.
        at: u32,
        /// Kernel bytes.
        record: abi::Record,
    },
    /// A VIP leads to a record.
    Publish {
        /// Kernel key.
        key: u64,
        /// The record's place.
        record: u32,
    },
    /// A VIP leads nowhere.
    Withdraw {
        /// Kernel key.
        key: u64,
    },
    /// Clients may use a set's VIPs.
    Allow {
        /// Number of the set, and network.
        range: abi::Range,
        /// Prefix length.
        prefix: u8,
    },
    /// The opposite.
    Disallow {
        /// Number of the set, and network.
        range: abi::Range,
        /// Prefix length.
        prefix: u8,
    },
}

/// What found no room. The VIP named keeps what it has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EdgeError {
    /// A table is full.
    #[error("no room for vip {key}: {wanted} {table} wanted, {free} free, {resting} resting")]
    Full {
        /// Who found no room.
        key: VipKey,
        /// The table.
        table: &'static str,
        /// How many were wanted, in one piece.
        wanted: u32,
        /// How many are free (perhaps not in one piece).
        free: u32,
        /// How many are free later.
        resting: u32,
    },
    /// IPv6, which an edge does not serve yet.
    #[error("vip {key} is of a family that edges do not serve")]
    Family {
        /// Which.
        key: VipKey,
    },
    /// More backends than a slot can tell apart.
    #[error("vip {key} has {n} backends, more than {max}")]
    TooManyBackends {
        /// Who.
        key: VipKey,
        /// How many.
        n: usize,
        /// At most.
        max: u32,
    },
}

/// What a change became.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Planned {
    /// Writes in order.
    pub writes: Vec<EdgeWrite>,
    /// What found no room.
    pub failures: Vec<EdgeError>,
    /// Slots that could not be marked now; planning again later does it.
    pub deferred: usize,
}

/// Kernel memory in use, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// VIP buckets, whatever they hold.
    pub buckets: u64,
    /// Records.
    pub records: u64,
    /// Rings.
    pub rings: u64,
    /// Backends.
    pub backends: u64,
}

impl Memory {
    /// All of it.
    pub const fn total(&self) -> u64 {
        self.buckets + self.records + self.rings + self.backends
    }
}
