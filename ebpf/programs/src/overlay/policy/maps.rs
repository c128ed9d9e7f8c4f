//! Tables of policies. Names are checked by the loader (`ebpf/loader/src/overlay/policy.rs`).

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use waggle_ebpf_common::Addr;
use waggle_ebpf_common::policy::{
    Block, BlockKey, Config, Flow, FlowKey, FragmentKey, Local, MAX_ADDRESSES, MAX_BLOCKS,
    MAX_FLOWS, MAX_FRAGMENTS, MAX_LOCALS, MAX_NAMES, MAX_NETS, MAX_PAIRS, MAX_SETS, MAX_TOLD, Name,
    NameKey, Net, PairKey, PolicyRecord, PortWords, RECORD_RING_BYTES, Sets, Sided, Told, ToldKey,
    untold, verdict,
};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// What holds for all.
#[btf_map]
pub static POLICY_CONFIG: Array<Config, 1> = Array::new();

/// Numbers of addresses.
#[btf_map]
pub static POLICY_ADDRESSES: HashMap<Addr, Sided, { MAX_ADDRESSES as usize }, ON_DEMAND> =
    HashMap::new();

/// Numbers of nets.
#[btf_map]
pub static POLICY_NETS: LpmTrie<Addr, Net, { MAX_NETS as usize }> = LpmTrie::new();

/// What numbers say to everybody.
#[btf_map]
pub static POLICY_LOCALS: HashMap<u32, Local, { MAX_LOCALS as usize }, ON_DEMAND> = HashMap::new();

/// What numbers say to one.
#[btf_map]
pub static POLICY_PAIRS: HashMap<PairKey, Sets, { MAX_PAIRS as usize }, ON_DEMAND> = HashMap::new();

/// Sets of ports.
#[btf_map]
pub static POLICY_SETS: Array<PortWords, { MAX_SETS as usize }> = Array::new();

/// Blocks that are partly in a set.
#[btf_map]
pub static POLICY_BLOCKS: HashMap<BlockKey, Block, { MAX_BLOCKS as usize }, ON_DEMAND> =
    HashMap::new();

/// What tasks were told.
#[btf_map]
pub static POLICY_NAMES: HashMap<NameKey, Name, { MAX_NAMES as usize }, ON_DEMAND> = HashMap::new();

/// What was decided.
#[btf_map]
pub static POLICY_FLOWS: LruHashMap<FlowKey, Flow, { MAX_FLOWS as usize }> = LruHashMap::new();

/// First fragments that passed.
#[btf_map]
pub static POLICY_FRAGS: LruHashMap<FragmentKey, u32, { MAX_FRAGMENTS as usize }> =
    LruHashMap::new();

/// By verdict.
#[btf_map]
pub static POLICY_COUNTS: PerCpuArray<u64, { verdict::COUNT as usize }> = PerCpuArray::new();

/// What was dropped, or would be, for who reads it on a tick.
#[btf_map]
pub static POLICY_RECORDS: RingBuf<PolicyRecord, { RECORD_RING_BYTES as usize }> = RingBuf::new();

/// What was written down lately.
#[btf_map]
pub static POLICY_TOLD: LruHashMap<ToldKey, Told, { MAX_TOLD as usize }> = LruHashMap::new();

/// Records of this second.
#[btf_map]
pub static POLICY_TELLING: PerCpuArray<u64, 1> = PerCpuArray::new();

/// What was not written down, by reason.
#[btf_map]
pub static POLICY_UNTOLD: PerCpuArray<u64, { untold::COUNT as usize }> = PerCpuArray::new();

/// What one packet's verdict needs, kept off the stack: programs that call each other share 512 bytes of it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scratch {
    /// The packet.
    pub flow: super::Packet,
    /// The flow that it is of.
    pub key: FlowKey,
    /// What is to be remembered of that.
    pub entry: Flow,
    /// Whose word is asked for.
    pub pair: PairKey,
    /// What a task was told.
    pub name: NameKey,
    /// The packet's fragments.
    pub fragment: FragmentKey,
    /// What is written down.
    pub told: ToldKey,
    /// When, and how many more there were.
    pub telling: Told,
    /// The header that an ICMP error is about.
    pub inner: [u32; 10],
}

/// By CPU: programs at tc of one CPU don't interrupt each other.
#[btf_map]
pub static POLICY_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// This CPU's.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: a map value of this CPU, which outlives the program's run; nobody else has it meanwhile.
    POLICY_SCRATCH
        .get_ptr_mut(0)
        .map(|scratch| unsafe { &mut *scratch })
}
