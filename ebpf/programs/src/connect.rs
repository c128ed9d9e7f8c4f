//! connect4, connect6: VIP -> backend at the socket, and who opened it.
//!
//! IPv6 matters for IPv4 VIPs too: Java, Go and others dial `::ffff:11.0.0.1` on dual-stack sockets, which
//! passes the IPv6 hook only.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_prandom_u32, bpf_ktime_get_ns,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use waggle_ebpf_common::{Backend, SockInfo, VipKey, VipValue, loss};

use crate::count::{self, lost};
use crate::maps::{BACKENDS, VIPS};
use crate::memory::remember;
use crate::verdict::{PROCEED, refuse};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Third word of an IPv4-mapped IPv6 address, network order.
const MAPPED: u32 = 0xffff_u32.to_be();

/// What becomes of a connect.
enum Route {
    /// As dialled.
    AsIs,
    /// To a backend of the VIP.
    To(Backend),
    /// The VIP has no backend.
    Refused,
}

/// IPv4 sockets.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: context fields, each read and written as the one word that the verifier allows.
    unsafe {
        let addr = (&raw const (*sa).user_ip4).read_volatile();
        match route(sa, addr) {
            Route::AsIs => PROCEED,
            Route::To(backend) => {
                (&raw mut (*sa).user_ip4).write_volatile(backend.addr);
                (&raw mut (*sa).user_port).write_volatile(u32::from(backend.port));
                PROCEED
            }
            Route::Refused => refuse(),
        }
    }
}

/// IPv6 sockets: IPv4-mapped addresses are translated, others only attributed.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: as above.
    unsafe {
        match route(sa, mapped(sa)) {
            Route::AsIs => PROCEED,
            Route::To(backend) => {
                let words = (&raw mut (*sa).user_ip6).cast::<u32>();
                words.add(3).write_volatile(backend.addr);
                (&raw mut (*sa).user_port).write_volatile(u32::from(backend.port));
                PROCEED
            }
            Route::Refused => refuse(),
        }
    }
}

/// The IPv4 address in an IPv4-mapped one; 0, which no VIP and no backend has, of any other.
///
/// # Safety
/// `sa` is the context of a program for IPv6 sockets.
#[inline(always)]
pub unsafe fn mapped(sa: *mut bpf_sock_addr) -> u32 {
    // SAFETY: context fields, read as whole words.
    unsafe {
        let words = (&raw const (*sa).user_ip6).cast::<u32>();
        let mapped = words.read_volatile() == 0
            && words.add(1).read_volatile() == 0
            && words.add(2).read_volatile() == MAPPED;
        if mapped {
            words.add(3).read_volatile()
        } else {
            0
        }
    }
}

/// Decides, counts and remembers.
///
/// # Safety
/// `sa` is the program's context.
#[inline(always)]
unsafe fn route(sa: *mut bpf_sock_addr, addr: u32) -> Route {
    // SAFETY: context fields, read as whole words.
    let (port, proto) = unsafe {
        (
            (&raw const (*sa).user_port).read_volatile() as u16,
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
    // SAFETY: copied at once; a value is replaced by a new element, never rewritten in place.
    let vip = unsafe { VIPS.get(&key) }.copied();
    let Some(vip) = vip else {
        if proto == TCP {
            // SAFETY: the caller's context.
            unsafe {
                keep(
                    sa,
                    proto,
                    &key,
                    0,
                    Backend {
                        addr: 0,
                        port: 0,
                        pad: 0,
                    },
                )
            };
        }
        return Route::AsIs;
    };
    let Some((_, backend)) = choose(&vip) else {
        count::vip_choice(
            vip.vip_id,
            Backend {
                addr: 0,
                port: 0,
                pad: 0,
            },
        );
        if proto == TCP {
            refused_tcp(vip.vip_id);
        }
        return Route::Refused;
    };
    count::vip_choice(vip.vip_id, backend);
    // SAFETY: the caller's context.
    unsafe { keep(sa, proto, &key, vip.vip_id, backend) };
    Route::To(backend)
}

/// A random slot of the VIP and what it holds; `None` when it has none.
#[inline(always)]
pub fn choose(vip: &VipValue) -> Option<(u32, Backend)> {
    if vip.n == 0 {
        return None;
    }
    // SAFETY: takes nothing, always succeeds.
    let random = u64::from(unsafe { bpf_get_prandom_u32() });
    // Multiply and shift: even over n, without a division.
    let slot = vip
        .base
        .wrapping_add(((random * u64::from(vip.n)) >> 32) as u32);
    match BACKENDS.get(slot) {
        Some(backend) if backend.addr != 0 => Some((slot, *backend)),
        _ => {
            lost(loss::BAD_SLOT);
            None
        }
    }
}

/// Remembers who dialled what.
///
/// # Safety
/// `sa` is the program's context.
#[inline(always)]
unsafe fn keep(sa: *mut bpf_sock_addr, proto: u8, vip: &VipKey, vip_id: u32, backend: Backend) {
    // SAFETY: helpers without arguments; the socket is the context's own.
    unsafe {
        let info = SockInfo {
            cgroup_id: bpf_get_current_cgroup_id(),
            connect_ns: if proto == TCP { bpf_ktime_get_ns() } else { 0 },
            vip_id,
            vip_addr: vip.addr,
            backend_addr: backend.addr,
            vip_port: vip.port,
            backend_port: backend.port,
            seen_acked: 0,
            seen_received: 0,
        };
        remember((*sa).__bindgen_anon_1.sk, info);
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
