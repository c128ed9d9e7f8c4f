//! Every map of the watching programs, and where fields are.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{HashMap, PerCpuArray, PerCpuHashMap};
use aya_ebpf::macros::btf_map;
use waggle_ebpf_common::MAX_CGROUPS;
use waggle_ebpf_common::observe::{
    DropKey, IoKey, IoStats, MAX_DROPS, MAX_IO, MAX_REASONS, at, missed,
};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// Nanoseconds that threads which have ended waited for a CPU, by cgroup. User space makes the entries.
#[btf_map]
pub static RUN_DELAY: HashMap<u64, u64, { MAX_CGROUPS as usize }, ON_DEMAND> = HashMap::new();

/// Disk requests by cgroup and direction. User space makes the entries.
#[btf_map]
pub static DISK_IO: HashMap<IoKey, IoStats, { MAX_IO as usize }, ON_DEMAND> = HashMap::new();

/// Packets that the kernel dropped, by reason.
#[btf_map]
pub static NODE_DROPS: PerCpuArray<u64, { MAX_REASONS as usize }> = PerCpuArray::new();

/// Those of watched cgroups.
#[btf_map]
pub static DROPS: PerCpuHashMap<DropKey, u64, { MAX_DROPS as usize }, ON_DEMAND> =
    PerCpuHashMap::new();

/// What could not be counted.
#[btf_map]
pub static OBSERVE_LOSS: PerCpuArray<u64, { missed::COUNT as usize }> = PerCpuArray::new();

/// Where fields are ([`at`]). Set by the loader.
#[unsafe(no_mangle)]
static AT: [u32; at::COUNT] = [0; at::COUNT];

/// Whether `kfree_skb` tells for which socket a packet was (since kernel 6.11). Set by the loader.
#[unsafe(no_mangle)]
static RX_SK: u32 = 0;

/// Where a field is; `field` is a constant of [`at`].
#[inline(always)]
pub fn place<const FIELD: usize>() -> usize {
    // SAFETY: our own static, `FIELD` is below its length; volatile, since the loader writes it.
    unsafe { (&raw const AT).cast::<u32>().add(FIELD).read_volatile() as usize }
}

/// See [`RX_SK`].
#[inline(always)]
pub fn has_rx_sk() -> bool {
    // SAFETY: our own static; volatile, since the loader writes it.
    unsafe { (&raw const RX_SK).read_volatile() != 0 }
}
