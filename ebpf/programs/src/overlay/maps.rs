//! Maps of this object. Names are checked by the loader (`ebpf/loader/src/overlay`).

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::macros::btf_map;
use waggle_ebpf_common::Addr;
use waggle_ebpf_common::overlay::{
    Device, Devices, Endpoint, MAX_ENDPOINTS, MAX_PEERS, MAX_SUBNETS, NetKey, Peer, Subnet, reason,
};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// Addresses on this node.
#[btf_map]
pub static OV_ENDPOINTS: HashMap<Addr, Endpoint, { MAX_ENDPOINTS as usize }, ON_DEMAND> =
    HashMap::new();

/// Devices of containers.
#[btf_map]
pub static OV_DEVICES: HashMap<u32, Device, { MAX_ENDPOINTS as usize }, ON_DEMAND> = HashMap::new();

/// Where nets are.
#[btf_map]
pub static OV_SUBNETS: LpmTrie<NetKey, Subnet, { MAX_SUBNETS as usize }> = LpmTrie::new();

/// Nodes, by position.
#[btf_map]
pub static OV_PEERS: Array<Peer, { MAX_PEERS as usize }> = Array::new();

/// Positions of nodes, by address.
#[btf_map]
pub static OV_NODES: HashMap<u32, u32, { MAX_PEERS as usize }, ON_DEMAND> = HashMap::new();

/// Devices that packets are handed to.
#[btf_map]
pub static OV_SPECIAL: Array<Devices, 1> = Array::new();

/// By reason.
#[btf_map]
pub static OV_COUNTS: PerCpuArray<u64, { reason::COUNT as usize }> = PerCpuArray::new();

/// Answers of our own in this tick: the tick, and in the lower half how many.
#[btf_map]
pub static OV_BUDGET: PerCpuArray<u64, 1> = PerCpuArray::new();

/// The VNI as it stands in a VXLAN header, network order. Set by the loader.
#[unsafe(no_mangle)]
static VNI: u32 = 0;

/// UDP port of VXLAN, network order. Set by the loader.
#[unsafe(no_mangle)]
static PORT: u32 = 0;

/// This node's address on the underlay, network order. Set by the loader.
#[unsafe(no_mangle)]
static NODE: u32 = 0;

/// Source of ICMP errors, network order. Set by the loader.
#[unsafe(no_mangle)]
static ICMP4: u32 = 0;

/// Source of ICMPv6 errors. Set by the loader.
#[unsafe(no_mangle)]
static ICMP6: Addr = [0; 4];

/// Not 0: tunnels between nodes are encrypted, and none in clear is taken or sent. Set by the loader.
#[unsafe(no_mangle)]
static SEALED: u32 = 0;

/// ICMP errors that one CPU sends within a tick. Set by the loader.
#[unsafe(no_mangle)]
static ANSWERS_PER_TICK: u32 = 0;

macro_rules! told {
    ($(#[$doc:meta])* $name:ident: $global:ident, $type:ty) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> $type {
            // SAFETY: our own static; volatile, since the loader writes it.
            unsafe { (&raw const $global).read_volatile() }
        }
    };
}

told!(
    /// The VNI as it stands in a VXLAN header.
    vni: VNI, u32
);
told!(
    /// UDP port of VXLAN, network order, in the low half.
    port: PORT, u32
);
told!(
    /// This node's address on the underlay.
    node: NODE, u32
);
told!(
    /// Source of ICMP errors.
    icmp4: ICMP4, u32
);
told!(
    /// Source of ICMPv6 errors.
    icmp6: ICMP6, Addr
);
told!(
    /// Not 0: tunnels are encrypted.
    sealed: SEALED, u32
);
told!(
    /// ICMP errors that one CPU sends within a tick.
    answers_per_tick: ANSWERS_PER_TICK, u32
);
