//! connect4, connect6: VIP -> backend at the socket, and who opened it.
//!
//! IPv6 matters for IPv4 VIPs too: Java, Go and others dial `::ffff:11.0.0.1` on dual-stack sockets, which
//! passes the IPv6 hook only.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_ktime_get_ns};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use waggle_ebpf_common::{Addr, VipKey, sock_flags};

use crate::address::{self, NONE, copy};
use crate::choose::{Choice, Found, Set, find_set};
use crate::count;
use crate::memory::{remember, task};
use crate::record;
use crate::route::Route;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// IPv4 sockets.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: the program's context.
    unsafe { route(sa, address::read4(sa)).take4(sa) }
}

/// IPv6 and dual-stack sockets.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: the program's context.
    unsafe { route(sa, address::read6(sa)).take6(sa) }
}

/// Decides, counts and remembers.
///
/// # Safety
/// `sa` is the program's context.
#[inline(always)]
unsafe fn route(sa: *mut bpf_sock_addr, addr: Addr) -> Route {
    // SAFETY: context fields, read as whole words.
    let (port, proto) = unsafe {
        (
            address::port(sa),
            (&raw const (*sa).protocol).read_volatile() as u8,
        )
    };
    if proto != TCP && proto != UDP {
        return Route::AsIs;
    }
    let key = VipKey {
        addr,
        port,
        proto,
        pad: 0,
    };
    let set = match find_set(&key) {
        Found::NoVip => {
            if proto == TCP {
                // SAFETY: the caller's context.
                unsafe { keep(sa, proto) };
            }
            return Route::AsIs;
        }
        Found::Set(set) => set,
        Found::Broken => return Route::Refused,
    };
    let Some(choice) = set.choose(proto, task) else {
        count::vip_choice(set.vip_id(), &NONE, 0);
        if proto == TCP {
            refused_tcp(set.vip_id());
        }
        record::no_backend(&key, set.vip_id());
        return Route::Refused;
    };
    // SAFETY: the caller's context; a backend is a map value.
    unsafe {
        let backend = choice.backend;
        count::vip_choice(set.vip_id(), &raw const (*backend).addr, (*backend).port);
        keep_vip(sa, &key, &set, choice);
    }
    Route::To(choice.backend)
}

/// Remembers who opened the socket.
///
/// # Safety
/// `sa` is the program's context.
#[inline(always)]
unsafe fn keep(sa: *mut bpf_sock_addr, proto: u8) -> Option<*mut waggle_ebpf_common::SockInfo> {
    // SAFETY: helpers without arguments; the socket is the context's own.
    unsafe {
        let opened = if proto == TCP { bpf_ktime_get_ns() } else { 0 };
        remember(
            (*sa).__bindgen_anon_1.sk,
            bpf_get_current_cgroup_id(),
            opened,
        )
    }
}

/// Remembers who dialled what.
///
/// # Safety
/// `sa` is the program's context.
#[inline(always)]
unsafe fn keep_vip(sa: *mut bpf_sock_addr, vip: &VipKey, set: &Set, choice: Choice) {
    // SAFETY: the caller's context; memory and backend are map values.
    unsafe {
        let Some(info) = keep(sa, vip.proto) else {
            return;
        };
        let backend = choice.backend;
        copy(&raw mut (*info).vip_addr, &raw const vip.addr);
        copy(&raw mut (*info).backend_addr, &raw const (*backend).addr);
        (&raw mut (*info).vip_port).write_volatile(vip.port);
        (&raw mut (*info).backend_port).write_volatile((*backend).port);
        (&raw mut (*info).vip_id).write_volatile(set.vip_id());
        if vip.proto != TCP {
            // For when an ICMP error comes back: which choice it speaks of.
            (&raw mut (*info).connect_ns).write_volatile(bpf_ktime_get_ns());
            (&raw mut (*info).flags).write_volatile(sock_flags::UDP);
        } else if set.counts() {
            (&raw mut (*info).flags).write_volatile(sock_flags::COUNT);
        }
    }
}

/// A refusal is a connect that failed; no callback of the TCP stack will say so.
#[inline(always)]
fn refused_tcp(vip_id: u32) {
    // SAFETY: takes nothing, always succeeds.
    let cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    if let Some(stats) = count::tcp(cgroup_id, vip_id) {
        // SAFETY: a map value.
        unsafe { count::add(&raw mut (*stats).connect_failures, 1) };
    }
}
