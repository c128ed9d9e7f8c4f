//! Maps of this object. Names are checked by the loader (`ebpf/loader/src/packet`).

use aya_ebpf::btf_maps::{LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use waggle_ebpf_common::edge::FragmentKey;
use waggle_ebpf_common::packet::{Flow, FlowKey, Fragment, MAX_FLOWS, MAX_FRAGMENTS, reason};

pub use crate::vip_maps::{AFFINITIES, BACKEND_STATES, CELLS, EJECTIONS, LOSS, VIP_STATS, VIPS};

/// What clients send: the backend.
#[btf_map]
pub static PACKET_FLOWS: LruHashMap<FlowKey, Flow, { MAX_FLOWS as usize }> = LruHashMap::new();

/// What backends answer: the VIP.
#[btf_map]
pub static PACKET_ANSWERS: LruHashMap<FlowKey, Flow, { MAX_FLOWS as usize }> = LruHashMap::new();

/// What first fragments became.
#[btf_map]
pub static PACKET_FRAGS: LruHashMap<FragmentKey, Fragment, { MAX_FRAGMENTS as usize }> =
    LruHashMap::new();

/// By reason.
#[btf_map]
pub static PACKET_COUNTS: PerCpuArray<u64, { reason::COUNT as usize }> = PerCpuArray::new();

/// Answers of our own in this tick: the tick, and in the lower half how many.
#[btf_map]
pub static PACKET_BUDGET: PerCpuArray<u64, 1> = PerCpuArray::new();

/// The net that all named VIPs are in, and its mask, network order: fragments to there are a VIP's. Set by the loader.
#[unsafe(no_mangle)]
static VIP_NET: [u32; 2] = [0; 2];

/// Answers that one CPU sends within a tick. Set by the loader.
#[unsafe(no_mangle)]
static ANSWERS_PER_TICK: u32 = 0;

/// Answers that one CPU sends within a tick.
#[inline(always)]
pub fn answers_per_tick() -> u32 {
    // SAFETY: our own static; volatile, since the loader writes it.
    unsafe { (&raw const ANSWERS_PER_TICK).read_volatile() }
}

/// Whether an address is in the net of named VIPs.
#[inline(always)]
pub fn in_vip_net(addr: u32) -> bool {
    // SAFETY: our own static; volatile, since the loader writes it.
    let [net, mask] = unsafe { (&raw const VIP_NET).read_volatile() };
    mask != 0 && addr & mask == net
}
