//! Per-socket memory.

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_sk_storage_get};
use waggle_ebpf_common::{SockInfo, UdpPeers, loss};

use crate::count::lost;
use crate::maps::{SOCKS, UDP_SOCKS};

/// The cgroup of the task whose system call runs the program.
#[inline(always)]
pub fn task() -> u64 {
    // SAFETY: takes nothing, always succeeds.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The memory of a socket, if it has one.
///
/// # Safety
/// `sk` comes from the program's context, null or not.
#[inline(always)]
pub unsafe fn recall(sk: *mut bpf_sock) -> Option<*mut SockInfo> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the helper checks the map, the verifier the socket.
    let info = unsafe { bpf_sk_storage_get(SOCKS.as_ptr(), sk.cast(), core::ptr::null_mut(), 0) };
    if info.is_null() {
        None
    } else {
        Some(info.cast())
    }
}

/// Begins the memory of a socket anew: who opened it and when; no VIP. A failure is counted, and the socket goes on
/// without.
///
/// # Safety
/// `sk` comes from the program's context, null or not.
#[inline(always)]
pub unsafe fn remember(
    sk: *mut bpf_sock,
    cgroup_id: u64,
    connect_ns: u64,
) -> Option<*mut SockInfo> {
    if sk.is_null() {
        lost(loss::SOCK_STORAGE_FAILED);
        return None;
    }
    // SAFETY: the helper checks the map, the verifier the socket.
    let info = unsafe {
        bpf_sk_storage_get(
            SOCKS.as_ptr(),
            sk.cast(),
            core::ptr::null_mut(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
    if info.is_null() {
        lost(loss::SOCK_STORAGE_FAILED);
        return None;
    }
    let info = info.cast::<SockInfo>();
    // Field by field and volatile: of neighbouring zeros the compiler makes a call of memset, which is a loop
    // over bytes here and a global function that libbpf's loaders refuse.
    // SAFETY: a map value of this type; the socket is locked by its system call.
    unsafe {
        (&raw mut (*info).cgroup_id).write_volatile(cgroup_id);
        (&raw mut (*info).connect_ns).write_volatile(connect_ns);
        (&raw mut (*info).seen_acked).write_volatile(0);
        (&raw mut (*info).seen_received).write_volatile(0);
        (&raw mut (*info).vip_id).write_volatile(0);
        (&raw mut (*info).flags).write_volatile(0);
        (&raw mut (*info).connect_us).write_volatile(0);
    }
    Some(info)
}

/// The memory of an unconnected UDP socket; with `create` it is made, and a failure counted.
///
/// # Safety
/// `sk` comes from the program's context, null or not.
#[inline(always)]
pub unsafe fn udp_peers(sk: *mut bpf_sock, create: bool) -> Option<*mut UdpPeers> {
    if sk.is_null() {
        return None;
    }
    let flags = if create {
        u64::from(BPF_SK_STORAGE_GET_F_CREATE)
    } else {
        0
    };
    // SAFETY: the helper checks the map, the verifier the socket; new memory is zero.
    let peers =
        unsafe { bpf_sk_storage_get(UDP_SOCKS.as_ptr(), sk.cast(), core::ptr::null_mut(), flags) };
    if peers.is_null() {
        if create {
            lost(loss::SOCK_STORAGE_FAILED);
        }
        return None;
    }
    Some(peers.cast())
}
