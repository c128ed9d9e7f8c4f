//! Every map of the programs that trace requests, and where fields are.

use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::{HashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use waggle_ebpf_common::SockInfo;
use waggle_ebpf_common::requests::{Head, MAX_TRACED, RING_BYTES, Socket, at, count};

use crate::storage::SockStorage;
use crate::sum::add;

/// The cgroups whose requests are traced. User space makes the entries.
#[btf_map]
pub static TRACED: HashMap<u64, u32, { MAX_TRACED as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Records, in order. Nobody is woken: it is read on a tick.
#[btf_map]
pub static TRACE_RECORDS: RingBuf<Head, { RING_BYTES as usize }> = RingBuf::new();

/// What could not be told, and what is not looked at.
#[btf_map]
pub static TRACE_COUNTS: PerCpuArray<u64, { count::COUNT as usize }> = PerCpuArray::new();

/// What is remembered of sockets; goes with them.
#[btf_map]
static TRACE_SOCKS: SockStorage<Socket, { BPF_F_NO_PREALLOC as usize }> = SockStorage::new();

/// The data plane's memory of sockets, by its pin: who opened them, and which VIP was dialled.
#[btf_map]
static SOCKS: SockStorage<SockInfo, { (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize }> =
    SockStorage::new();

/// Where fields are ([`at`]). Set by the loader.
#[unsafe(no_mangle)]
static AT: [u32; at::COUNT] = [at::NONE; at::COUNT];

/// Where a field is, if it is known; `field` is a constant of [`at`].
#[inline(always)]
pub fn place<const FIELD: usize>() -> Option<usize> {
    // SAFETY: our own static, `FIELD` is below its length; volatile, since the loader writes it.
    let place = unsafe { (&raw const AT).cast::<u32>().add(FIELD).read_volatile() };
    if place == at::NONE {
        None
    } else {
        Some(place as usize)
    }
}

/// What is remembered of a socket.
///
/// # Safety
/// `sk` comes from the program's context and is not null.
#[inline(always)]
pub unsafe fn recall(sk: *mut core::ffi::c_void) -> Option<*mut Socket> {
    // SAFETY: the helper checks the map, the verifier the socket.
    let found = unsafe { bpf_sk_storage_get(TRACE_SOCKS.as_ptr(), sk, core::ptr::null_mut(), 0) };
    if found.is_null() {
        None
    } else {
        Some(found.cast())
    }
}

/// The same; it is made where there is none, all zeros.
///
/// # Safety
/// `sk` comes from the program's context and is not null.
#[inline(always)]
pub unsafe fn remember(sk: *mut bpf_sock) -> Option<*mut Socket> {
    // SAFETY: the helper checks the map, the verifier the socket.
    let found = unsafe {
        bpf_sk_storage_get(
            TRACE_SOCKS.as_ptr(),
            sk.cast(),
            core::ptr::null_mut(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
    if found.is_null() {
        counted(count::NO_MEMORY);
        None
    } else {
        Some(found.cast())
    }
}

/// What the data plane knows of a socket.
///
/// # Safety
/// `sk` comes from the program's context and is not null.
#[inline(always)]
pub unsafe fn opened(sk: *mut bpf_sock) -> Option<*const SockInfo> {
    // SAFETY: the helper checks the map, the verifier the socket.
    let found = unsafe { bpf_sk_storage_get(SOCKS.as_ptr(), sk.cast(), core::ptr::null_mut(), 0) };
    if found.is_null() {
        None
    } else {
        Some(found.cast_const().cast())
    }
}

/// One more of what [`count`] lists.
#[inline(always)]
pub fn counted(what: u32) {
    if let Some(counter) = TRACE_COUNTS.get_ptr_mut(what) {
        // SAFETY: a map value.
        unsafe { add(counter, 1) };
    }
}
