//! Every map of a backend's node. Names are checked by the loader (`ebpf/loader/src/edge/node.rs`).

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use waggle_ebpf_common::edge::{
    Answer, AnswerKey, FragmentKey, MAX_ANSWERS, MAX_EDGES, MAX_FRAGMENTS, MAX_SERVICES,
    PORT_WORDS, ServiceKey, dsr_reason,
};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;
const SHARED: usize = BPF_F_MMAPABLE as usize;

/// Backends here, by what the edge says of them; the backend's address.
#[btf_map]
pub static DSR_SERVICES: HashMap<ServiceKey, u32, { MAX_SERVICES as usize }, ON_DEMAND> =
    HashMap::new();

/// Addresses of edges.
#[btf_map]
pub static DSR_EDGES: HashMap<u32, u32, { MAX_EDGES as usize }, ON_DEMAND> = HashMap::new();

/// A bit for each port of a backend here, so that other traffic costs no lookup in a hash.
#[btf_map]
pub static DSR_PORTS: Array<u64, { PORT_WORDS as usize }, SHARED> = Array::new();

/// Flows that came through an edge.
#[btf_map]
pub static DSR_ANSWERS: LruHashMap<AnswerKey, Answer, { MAX_ANSWERS as usize }> = LruHashMap::new();

/// Answers in fragments: what the first one's source became.
#[btf_map]
pub static DSR_FRAGS: LruHashMap<FragmentKey, u32, { MAX_FRAGMENTS as usize }> = LruHashMap::new();

/// By reason.
#[btf_map]
pub static DSR_COUNTS: PerCpuArray<u64, { dsr_reason::COUNT as usize }> = PerCpuArray::new();
