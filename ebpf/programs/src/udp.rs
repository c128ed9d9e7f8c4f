//! sendmsg4, recvmsg4, recvmsg6: VIPs for UDP sockets that send to an address with each datagram.
//!
//! Such a socket keeps its backend of a VIP: a client that sends twice (a retry, a sequence) is answered by the
//! same one, as long as that is a backend. What comes back carries the VIP as its source, also for connected
//! sockets; else clients that check whom an answer is from (resolvers do) would drop it.
//!
//! There is no sendmsg6: for IPv4-mapped addresses the kernel takes the IPv4 way, through sendmsg4.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use waggle_ebpf_common::{Backend, UDP_PEERS, UdpPeer, VipKey, VipValue};

use crate::connect::{choose, mapped};
use crate::count;
use crate::maps::{BACKENDS, VIPS};
use crate::memory::{recall, udp_peers};
use crate::verdict::{PROCEED, refuse};

const UDP: u8 = 17;
/// Slots that are searched for a backend when a VIP's set has changed; beyond them another one is chosen.
const SEARCHED: u32 = 64;

/// A datagram to an address.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: context fields, each read and written as the one word that the verifier allows.
    unsafe {
        let key = VipKey {
            addr: (&raw const (*sa).user_ip4).read_volatile(),
            port: (&raw const (*sa).user_port).read_volatile() as u16,
            proto: UDP,
            pad: 0,
        };
        // Copied at once; a value is replaced by a new element, never rewritten in place.
        let Some(vip) = VIPS.get(&key).copied() else {
            return PROCEED;
        };
        let Some(backend) = backend_for((*sa).__bindgen_anon_1.sk, &key, &vip) else {
            count::vip_choice(
                vip.vip_id,
                Backend {
                    addr: 0,
                    port: 0,
                    pad: 0,
                },
            );
            return refuse();
        };
        (&raw mut (*sa).user_ip4).write_volatile(backend.addr);
        (&raw mut (*sa).user_port).write_volatile(u32::from(backend.port));
    }
    PROCEED
}

/// The socket's backend of a VIP: the one it has, while it is one, else a new one.
///
/// # Safety
/// `sk` is the context's.
#[inline(always)]
unsafe fn backend_for(sk: *mut bpf_sock, key: &VipKey, vip: &VipValue) -> Option<Backend> {
    // SAFETY: the context's socket; peers are a map value, used under the socket's lock or by one thread's call
    // at a time; two threads that send at once may both choose.
    unsafe {
        let Some(peers) = udp_peers(sk, true) else {
            // Without memory each datagram has its own choice.
            let (_, backend) = choose(vip)?;
            count::vip_choice(vip.vip_id, backend);
            return Some(backend);
        };
        let mut at = UDP_PEERS;
        let mut i = 0;
        while i < UDP_PEERS {
            let peer = &raw mut (*peers).peers[i];
            if (*peer).vip_addr == key.addr && (*peer).vip_port == key.port {
                at = i;
                let known = Backend {
                    addr: (*peer).backend_addr,
                    port: (*peer).backend_port,
                    pad: 0,
                };
                if let Some(slot) = find(vip, known, (*peer).slot) {
                    (&raw mut (*peer).slot).write_volatile(slot);
                    return Some(known);
                }
            }
            i += 1;
        }
        let (slot, backend) = choose(vip)?;
        count::vip_choice(vip.vip_id, backend);
        if at >= UDP_PEERS {
            let next = (*peers).next;
            (*peers).next = next.wrapping_add(1);
            at = next as usize % UDP_PEERS;
        }
        write(
            &raw mut (*peers).peers[at],
            UdpPeer {
                vip_addr: key.addr,
                backend_addr: backend.addr,
                vip_port: key.port,
                backend_port: backend.port,
                slot,
            },
        );
        Some(backend)
    }
}

/// Field by field and volatile, as in `memory::remember`.
///
/// # Safety
/// `peer` points into a map value.
#[inline(always)]
unsafe fn write(peer: *mut UdpPeer, value: UdpPeer) {
    // SAFETY: as the caller says.
    unsafe {
        (&raw mut (*peer).vip_addr).write_volatile(value.vip_addr);
        (&raw mut (*peer).backend_addr).write_volatile(value.backend_addr);
        (&raw mut (*peer).vip_port).write_volatile(value.vip_port);
        (&raw mut (*peer).backend_port).write_volatile(value.backend_port);
        (&raw mut (*peer).slot).write_volatile(value.slot);
    }
}

/// The slot of a backend that the VIP has: where it was before, else among its first slots.
#[inline(always)]
fn find(vip: &VipValue, backend: Backend, before: u32) -> Option<u32> {
    // One below the first slot wraps around to far above the last.
    if before.wrapping_sub(vip.base) < vip.n && holds(before, backend) {
        return Some(before);
    }
    let mut i = 0;
    while i < SEARCHED {
        if i >= vip.n {
            return None;
        }
        let slot = vip.base.wrapping_add(i);
        if holds(slot, backend) {
            return Some(slot);
        }
        i += 1;
    }
    None
}

#[inline(always)]
fn holds(slot: u32, backend: Backend) -> bool {
    match BACKENDS.get(slot) {
        Some(found) => found.addr == backend.addr && found.port == backend.port,
        None => false,
    }
}

/// The VIP that an answer from a backend stands for.
///
/// # Safety
/// `sa` is the program's context.
#[inline(always)]
unsafe fn vip_of(sa: *mut bpf_sock_addr, addr: u32, port: u16) -> Option<(u32, u16)> {
    // SAFETY: the context's socket; what it remembers are map values.
    unsafe {
        let sk = (*sa).__bindgen_anon_1.sk;
        if let Some(peers) = udp_peers(sk, false) {
            let mut i = 0;
            while i < UDP_PEERS {
                let peer = &raw const (*peers).peers[i];
                if (*peer).vip_addr != 0
                    && (*peer).backend_addr == addr
                    && (*peer).backend_port == port
                {
                    return Some(((*peer).vip_addr, (*peer).vip_port));
                }
                i += 1;
            }
        }
        // A connected one.
        let info = recall(sk)?;
        let same =
            (*info).vip_id != 0 && (*info).backend_addr == addr && (*info).backend_port == port;
        same.then(|| ((*info).vip_addr, (*info).vip_port))
    }
}

/// Whom a datagram is from, IPv4 sockets.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: context fields as whole words.
    unsafe {
        let addr = (&raw const (*sa).user_ip4).read_volatile();
        let port = (&raw const (*sa).user_port).read_volatile() as u16;
        if let Some((vip_addr, vip_port)) = vip_of(sa, addr, port) {
            (&raw mut (*sa).user_ip4).write_volatile(vip_addr);
            (&raw mut (*sa).user_port).write_volatile(u32::from(vip_port));
        }
    }
    PROCEED
}

/// Whom a datagram is from, dual-stack sockets: the address is the IPv4-mapped one.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: as above.
    unsafe {
        let addr = mapped(sa);
        if addr == 0 {
            return PROCEED;
        }
        let port = (&raw const (*sa).user_port).read_volatile() as u16;
        if let Some((vip_addr, vip_port)) = vip_of(sa, addr, port) {
            let words = (&raw mut (*sa).user_ip6).cast::<u32>();
            words.add(3).write_volatile(vip_addr);
            (&raw mut (*sa).user_port).write_volatile(u32::from(vip_port));
        }
    }
    PROCEED
}
