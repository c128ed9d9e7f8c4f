//! Every map. Names and shapes are checked by the loader (`ebpf/loader/src/loader.rs`).
//!
//! Hashes are not preallocated: full capacity would cost megabytes (for counters: per CPU) on every node, for
//! entries that few nodes have.

use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, RingBuf};
use aya_ebpf::macros::btf_map;
use waggle_ebpf_common::flow::{FLOW_RING_BYTES, FlowKey, FlowRecord, FlowStats, MAX_FLOWS};
use waggle_ebpf_common::{
    CgroupNet, HIST_BUCKETS, MAX_CGROUPS, MAX_TCP_SERIES, SockInfo, TcpKey, TcpStats, UdpPeers,
};

use crate::storage::SockStorage;
pub use crate::vip_maps::{AFFINITIES, BACKEND_STATES, CELLS, EJECTIONS, LOSS, VIP_STATS, VIPS};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// Bytes and packets per cgroup.
#[btf_map]
pub static CGROUP_NET: PerCpuHashMap<u64, CgroupNet, { MAX_CGROUPS as usize }, ON_DEMAND> =
    PerCpuHashMap::new();

/// TCP counters per cgroup and VIP.
#[btf_map]
pub static TCP_STATS: PerCpuHashMap<TcpKey, TcpStats, { MAX_TCP_SERIES as usize }, ON_DEMAND> =
    PerCpuHashMap::new();

/// Edges between tasks and their peers. Shared by all CPUs: there are many, and few are busy.
#[btf_map]
pub static FLOWS: HashMap<FlowKey, FlowStats, { MAX_FLOWS as usize }, ON_DEMAND> = HashMap::new();

/// Connections that have ended, in order. Nobody is woken: it is read on a tick.
#[btf_map]
pub static FLOW_RECORDS: RingBuf<FlowRecord, { FLOW_RING_BYTES as usize }> = RingBuf::new();

/// Records that found no room.
#[btf_map]
pub static FLOW_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Per-socket memory, inherited by accepted sockets.
#[btf_map]
pub static SOCKS: SockStorage<SockInfo, CLONED> = SockStorage::new();

/// Memory of unconnected UDP sockets that send to VIPs.
#[btf_map]
pub static UDP_SOCKS: SockStorage<UdpPeers, OWN> = SockStorage::new();

/// Where `sk_err` is in the kernel's `struct sock`; written once by the loader.
#[btf_map]
pub static SK_ERR_AT: Array<u32, 1> = Array::new();

/// A new socket starts with a copy of its listener's memory.
const CLONED: usize = (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize;
/// Each socket has its own.
const OWN: usize = BPF_F_NO_PREALLOC as usize;

/// The value of a new TCP series. A constant in read-only data, since it would fill the 512 bytes of stack.
pub static NO_TCP: TcpStats = TcpStats {
    connects: 0,
    connect_failures: 0,
    accepts: 0,
    retransmits: 0,
    tx_bytes: 0,
    rx_bytes: 0,
    rtt_count: 0,
    rtt_sum_us: 0,
    connect_sum_us: 0,
    rtt_hist: [0; HIST_BUCKETS],
    connect_hist: [0; HIST_BUCKETS],
};

/// The value of a new edge.
pub static NO_FLOW: FlowStats = FlowStats {
    opened: 0,
    closed: 0,
    failed: 0,
    tx_bytes: 0,
    rx_bytes: 0,
};

/// The value of a new cgroup. In read-only data since zeroing it on the stack becomes a call of memset.
pub static NO_NET: CgroupNet = CgroupNet {
    rx_bytes: 0,
    rx_packets: 0,
    tx_bytes: 0,
    tx_packets: 0,
};
