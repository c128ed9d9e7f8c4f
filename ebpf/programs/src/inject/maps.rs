//! Every map of these programs, and where fields are.

use aya_ebpf::bindings::{
    BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock,
    bpf_sock_ops,
};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, SockHash};
use aya_ebpf::helpers::generated::{
    bpf_map_delete_elem, bpf_probe_read_kernel, bpf_sk_storage_get, bpf_sock_hash_update,
};
use aya_ebpf::macros::btf_map;
use waggle_ebpf_common::inject::ids;
use waggle_ebpf_common::inject::{
    Caller, MAX_INJECTED, MAX_MEMBERS, MAX_THREADS, Process, Served, Thread, ThreadKey, Window, at,
    count,
};
use waggle_ebpf_common::{Addr, MAPPED, SockInfo};

use crate::storage::SockStorage;
use crate::sum::add;

/// The cgroups whose requests get a header. User space makes the entries.
#[btf_map]
pub static INJECT: HashMap<u64, u32, { MAX_INJECTED as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Connections whose messages the program sees, by cookie.
#[btf_map]
pub static INJECT_MEMBERS: SockHash<u64, { MAX_MEMBERS as usize }> = SockHash::new();

/// What was done, and why not.
#[btf_map]
pub static INJECT_COUNTS: PerCpuArray<u64, { count::COUNT as usize }> = PerCpuArray::new();

/// 1: a connection stays a member for all of its requests; 0: until its first one has arrived, and before an answer is read. Set by
/// user space.
#[btf_map]
static INJECT_STAYS: Array<u32, 1> = Array::new();

/// Outgoing connections.
#[btf_map]
static INJECT_CALLS: SockStorage<Caller, { BPF_F_NO_PREALLOC as usize }> = SockStorage::new();

/// Incoming ones.
#[btf_map]
static INJECT_SERVED: SockStorage<Served, { BPF_F_NO_PREALLOC as usize }> = SockStorage::new();

/// What is known of threads.
#[btf_map]
pub static INJECT_THREADS: LruHashMap<ThreadKey, Thread, { MAX_THREADS as usize }> =
    LruHashMap::new();

/// What is known of processes.
#[btf_map]
pub static INJECT_PROCS: LruHashMap<ThreadKey, Process, { MAX_THREADS as usize }> =
    LruHashMap::new();

/// Beginning of a packet that came in. Those are looked at in softirqs only, of which a CPU runs one at a time.
#[btf_map]
pub static INJECT_WINDOW: PerCpuArray<Window, 1> = PerCpuArray::new();

/// The data plane's memory of sockets, by its pin: whose they are, and who opened them.
#[btf_map]
static SOCKS: SockStorage<SockInfo, { (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize }> =
    SockStorage::new();

/// Where fields are ([`at`]). Set by the loader, which knows all of them.
#[unsafe(no_mangle)]
static AT: [u32; at::COUNT] = [0; at::COUNT];

/// Where a field is; `FIELD` is a constant of [`at`].
#[inline(always)]
pub fn place<const FIELD: usize>() -> usize {
    // SAFETY: our own static, `FIELD` is below its length; volatile, since the loader writes it.
    unsafe { (&raw const AT).cast::<u32>().add(FIELD).read_volatile() as usize }
}

/// Whether connections stay members.
#[inline(always)]
pub fn stays() -> bool {
    // SAFETY: a map value.
    INJECT_STAYS
        .get_ptr(0)
        .is_some_and(|stays| unsafe { stays.read_volatile() } != 0)
}

/// A word at a place of a kernel's structure.
///
/// # Safety
/// `T` is a number. The helper checks addresses.
#[inline(always)]
pub unsafe fn word_at<T: Default>(address: u64, place: usize) -> Option<T> {
    let mut word = T::default();
    let from = address.wrapping_add(place as u64) as *const core::ffi::c_void;
    // SAFETY: memory of this function.
    let read =
        unsafe { bpf_probe_read_kernel((&raw mut word).cast(), size_of::<T>() as u32, from) };
    if read == 0 { Some(word) } else { None }
}

/// A socket's address as a number, made by way of memory: the verifier lets nobody add to it.
///
/// # Safety
/// `scratch` is in a map value.
#[inline(always)]
pub unsafe fn address(scratch: *mut u64, sk: *mut bpf_sock) -> u64 {
    // SAFETY: as the caller says.
    unsafe {
        scratch.cast::<*mut bpf_sock>().write_volatile(sk);
        scratch.read_volatile()
    }
}

#[inline(always)]
unsafe fn storage<T>(map: *mut core::ffi::c_void, sk: *mut core::ffi::c_void) -> Option<*mut T> {
    // SAFETY: the helper checks the map, the verifier the socket.
    let found = unsafe { bpf_sk_storage_get(map, sk, core::ptr::null_mut(), 0) };
    if found.is_null() {
        None
    } else {
        Some(found.cast())
    }
}

#[inline(always)]
unsafe fn storage_new<T>(
    map: *mut core::ffi::c_void,
    sk: *mut core::ffi::c_void,
) -> Option<*mut T> {
    let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: the helper checks the map, the verifier the socket.
    let found = unsafe { bpf_sk_storage_get(map, sk, core::ptr::null_mut(), create) };
    if found.is_null() {
        counted(count::NO_MEMORY);
        None
    } else {
        Some(found.cast())
    }
}

/// What is remembered of an outgoing connection.
///
/// # Safety
/// `sk` comes from the program's context and is not null.
#[inline(always)]
pub unsafe fn caller(sk: *mut bpf_sock) -> Option<*mut Caller> {
    // SAFETY: as the caller says.
    unsafe { storage(INJECT_CALLS.as_ptr(), sk.cast()) }
}

/// The same, made anew.
///
/// # Safety
/// `sk` comes from the program's context and is not null.
#[inline(always)]
pub unsafe fn caller_new(sk: *mut bpf_sock) -> Option<*mut Caller> {
    // SAFETY: as the caller says.
    unsafe { storage_new(INJECT_CALLS.as_ptr(), sk.cast()) }
}

/// What is remembered of an incoming connection.
///
/// # Safety
/// `sk` comes from the program's context and is not null.
#[inline(always)]
pub unsafe fn served(sk: *mut core::ffi::c_void) -> Option<*mut Served> {
    // SAFETY: as the caller says.
    unsafe { storage(INJECT_SERVED.as_ptr(), sk) }
}

/// The same, made anew.
///
/// # Safety
/// `sk` comes from the program's context and is not null.
#[inline(always)]
pub unsafe fn served_new(sk: *mut bpf_sock) -> Option<*mut Served> {
    // SAFETY: as the caller says.
    unsafe { storage_new(INJECT_SERVED.as_ptr(), sk.cast()) }
}

/// What the data plane knows of a socket.
///
/// # Safety
/// `sk` comes from the program's context and is not null.
#[inline(always)]
pub unsafe fn opened(sk: *mut bpf_sock) -> Option<*const SockInfo> {
    // SAFETY: as the caller says.
    unsafe { storage::<SockInfo>(SOCKS.as_ptr(), sk.cast()).map(<*mut SockInfo>::cast_const) }
}

/// Makes a connection a member.
///
/// # Safety
/// `ops` is the program's own context, `key` in a map value.
#[inline(always)]
pub unsafe fn join(ops: *mut bpf_sock_ops, cookie: u64) -> bool {
    let mut key = cookie;
    let map = core::ptr::from_ref(&INJECT_MEMBERS).cast_mut().cast();
    // SAFETY: as the caller says.
    unsafe { bpf_sock_hash_update(ops, map, (&raw mut key).cast(), u64::from(BPF_NOEXIST)) == 0 }
}

/// A connection is one no more.
#[inline(always)]
pub fn leave(cookie: u64) {
    let key = cookie;
    let map = core::ptr::from_ref(&INJECT_MEMBERS).cast_mut().cast();
    // SAFETY: a map and a key.
    let _ = unsafe { bpf_map_delete_elem(map, (&raw const key).cast()) };
}

/// One more of what [`count`] lists.
#[inline(always)]
pub fn counted(what: u32) {
    if let Some(counter) = INJECT_COUNTS.get_ptr_mut(what) {
        // SAFETY: a map value.
        unsafe { add(counter, 1) };
    }
}

const AF_INET: u32 = 2;

/// The hop of a request over a socket, whose own end is the client's or not.
///
/// # Safety
/// `sk` comes from the program's context and is not null.
#[inline(always)]
pub unsafe fn hop(sk: *mut bpf_sock, sequence: u32, is_client: bool) -> [u64; 6] {
    // SAFETY: as the caller says. All is read as whole words, whatever the family: of loads in two branches the compiler makes one
    // through a changed pointer.
    unsafe {
        let family = (&raw const (*sk).family).read_volatile();
        let local4 = (&raw const (*sk).src_ip4).read_volatile();
        let remote4 = (&raw const (*sk).dst_ip4).read_volatile();
        let local6 = words((&raw const (*sk).src_ip6).cast());
        let remote6 = words((&raw const (*sk).dst_ip6).cast());
        let local_port = (&raw const (*sk).src_port).read_volatile() as u16;
        let remote_port = u16::from_be((&raw const (*sk).dst_port).read_volatile());
        let (local, remote) = if family == AF_INET {
            ([0, 0, MAPPED, local4], [0, 0, MAPPED, remote4])
        } else {
            (local6, remote6)
        };
        let (local, remote) = ((&local, local_port), (&remote, remote_port));
        if is_client {
            ids::hop(local, remote, sequence, 0)
        } else {
            ids::hop(remote, local, sequence, 0)
        }
    }
}

/// Hash of a hop. A function by itself, for its stack.
#[inline(never)]
pub extern "C" fn hash(hop: *const [u64; 6], what: u64) -> u64 {
    // SAFETY: what the caller has made.
    unsafe { ids::hash(&*hop, what as u8) }
}

#[inline(always)]
unsafe fn words(from: *const u32) -> Addr {
    // SAFETY: four words of a socket.
    unsafe {
        [
            from.read_volatile(),
            from.add(1).read_volatile(),
            from.add(2).read_volatile(),
            from.add(3).read_volatile(),
        ]
    }
}
