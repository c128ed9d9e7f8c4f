//! The maps that choosing a backend needs; two objects have them, the second one by their pins.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap};
use aya_ebpf::macros::btf_map;
use waggle_ebpf_common::{
    Affinity, AffinityKey, BackendKey, BackendState, Cell, EJECTION_BUCKETS, MAX_AFFINITIES,
    MAX_BACKEND_STATES, MAX_CELLS, MAX_VIP_SERIES, MAX_VIPS, VipKey, VipStat, VipStatKey, loss,
};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// What can be dialled, and the cell where its set begins.
#[btf_map]
pub static VIPS: HashMap<VipKey, u32, { MAX_VIPS as usize }, ON_DEMAND> = HashMap::new();

/// Sets, shared by all VIPs. User space writes them through a mapping.
#[btf_map]
pub static CELLS: Array<Cell, { MAX_CELLS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Which backend a client keeps.
#[btf_map]
pub static AFFINITIES: LruHashMap<AffinityKey, Affinity, { MAX_AFFINITIES as usize }> =
    LruHashMap::new();

/// What the kernel has seen of backends.
#[btf_map]
pub static BACKEND_STATES: HashMap<
    BackendKey,
    BackendState,
    { MAX_BACKEND_STATES as usize },
    ON_DEMAND,
> = HashMap::new();

/// Until when some backend of a bucket is out, `CLOCK_MONOTONIC`; 0 when none is.
#[btf_map]
pub static EJECTIONS: Array<u64, { EJECTION_BUCKETS as usize }> = Array::new();

/// Connects per VIP and backend.
#[btf_map]
pub static VIP_STATS: PerCpuHashMap<VipStatKey, VipStat, { MAX_VIP_SERIES as usize }, ON_DEMAND> =
    PerCpuHashMap::new();

/// What could not be counted, by reason.
#[btf_map]
pub static LOSS: PerCpuArray<u64, { loss::COUNT as usize }> = PerCpuArray::new();
