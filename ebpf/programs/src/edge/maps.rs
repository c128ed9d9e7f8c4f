//! Every map of the edge. Names and shapes are checked by the loader (`ebpf/loader/src/edge/tables.rs`).

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::lpm_trie::LpmTrie;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use waggle_ebpf_common::edge::{
    BUCKETS, Backend, Bucket, Budget, Flow, FlowKey, Fragment, FragmentKey, HalfOpen, MAX_BACKENDS,
    MAX_FLOWS, MAX_FRAGMENTS, MAX_HALF_OPEN, MAX_OVERFLOW, MAX_RANGES, MAX_RECORDS, MAX_SLOT_PAIRS,
    Range, Record, Traffic, reason,
};

const SHARED: usize = BPF_F_MMAPABLE as usize;

/// VIPs by hash of their key.
#[btf_map]
pub static EDGE_BUCKETS: Array<Bucket, { BUCKETS as usize }, SHARED> = Array::new();

/// VIPs that found no place in their bucket.
#[btf_map]
pub static EDGE_OVERFLOW: HashMap<u64, u32, { MAX_OVERFLOW as usize }, ON_DEMAND> = HashMap::new();

/// VIPs.
#[btf_map]
pub static EDGE_RECORDS: Array<Record, { MAX_RECORDS as usize }, SHARED> = Array::new();

/// Slots of all rings, two in each element.
#[btf_map]
pub static EDGE_RING: Array<u64, { MAX_SLOT_PAIRS as usize }, SHARED> = Array::new();

/// Backends of all VIPs.
#[btf_map]
pub static EDGE_BACKENDS: Array<Backend, { MAX_BACKENDS as usize }, SHARED> = Array::new();

/// Flows on changed slots.
#[btf_map]
pub static EDGE_FLOWS: LruHashMap<FlowKey, Flow, { MAX_FLOWS as usize }> = LruHashMap::new();

/// Connections that are being opened on changed slots.
#[btf_map]
pub static EDGE_OPENING: LruHashMap<FlowKey, HalfOpen, { MAX_HALF_OPEN as usize }> =
    LruHashMap::new();

/// Where first fragments went.
#[btf_map]
pub static EDGE_FRAGS: LruHashMap<FragmentKey, Fragment, { MAX_FRAGMENTS as usize }> =
    LruHashMap::new();

/// Who may use VIPs that are not for everybody.
#[btf_map]
pub static EDGE_RANGES: LpmTrie<Range, u32, { MAX_RANGES as usize }> = LpmTrie::new();

/// Traffic by number of the VIP.
#[btf_map]
pub static EDGE_TRAFFIC: PerCpuArray<Traffic, { MAX_RECORDS as usize }> = PerCpuArray::new();

/// What did not simply go to a backend, by reason.
#[btf_map]
pub static EDGE_COUNTS: PerCpuArray<u64, { reason::COUNT as usize }> = PerCpuArray::new();

/// Inserts and answers within a tick.
#[btf_map]
pub static EDGE_BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;
