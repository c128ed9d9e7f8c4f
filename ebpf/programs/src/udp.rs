//! sendmsg4, sendmsg6, recvmsg4, recvmsg6: VIPs for UDP sockets that send to an address with each datagram.
//!
//! Such a socket keeps its backend of a VIP: a client that sends twice (a retry, a sequence) is answered by the
//! same one, as long as that is a member. What comes back carries the VIP as its source, also for connected
//! sockets; else clients that check whom an answer is from (resolvers do) would drop it.
//!
//! For IPv4-mapped addresses the kernel takes the IPv4 way, through sendmsg4; what comes back passes recvmsg6.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use waggle_ebpf_common::{Addr, Backend, UDP_PEERS, UdpPeer, UdpPeers, VipKey, loss};

use crate::address::{self, NONE, copy, same};
use crate::choose::{Found, Set, find_set};
use crate::count::{self, lost};
use crate::memory::{recall, task, udp_peers};
use crate::route::Route;
use crate::verdict::PROCEED;

const UDP: u8 = 17;

/// A datagram to an IPv4 address.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: the program's context.
    unsafe { route(sa, address::read4(sa)).take4(sa) }
}

/// A datagram to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: the program's context.
    unsafe { route(sa, address::read6(sa)).take6(sa) }
}

/// # Safety
/// `sa` is the program's context.
#[inline(always)]
unsafe fn route(sa: *mut bpf_sock_addr, addr: Addr) -> Route {
    // SAFETY: the program's context.
    unsafe {
        let key = VipKey {
            addr,
            port: address::port(sa),
            proto: UDP,
            pad: 0,
        };
        let set = match find_set(&key) {
            Found::NoVip => return Route::AsIs,
            Found::Set(set) => set,
            Found::Broken => return Route::Refused,
        };
        match backend_for((*sa).__bindgen_anon_1.sk, &key, &set) {
            Some(backend) => Route::To(backend),
            None => {
                count::vip_choice(set.vip_id(), &NONE, 0);
                Route::Refused
            }
        }
    }
}

/// The socket's backend of a VIP: the one it has, while it is a member, else a new one.
///
/// # Safety
/// `sk` is the context's.
#[inline(always)]
unsafe fn backend_for(sk: *mut bpf_sock, key: &VipKey, set: &Set) -> Option<*const Backend> {
    // SAFETY: the context's socket; peers are a map value, used under the socket's lock or by one thread's call
    // at a time; two threads that send at once may both choose.
    unsafe {
        let Some(peers) = udp_peers(sk, true) else {
            // Without memory each datagram has its own choice.
            let backend = set.choose(UDP, task)?.backend;
            count::vip_choice(set.vip_id(), &raw const (*backend).addr, (*backend).port);
            return Some(backend);
        };
        let at = place(peers, key);
        if at < UDP_PEERS {
            let peer = &raw mut (*peers).peers[at];
            let addr = &raw const (*peer).backend_addr;
            if let Some(known) = set.find(addr, (*peer).backend_port, (*peer).cell) {
                (&raw mut (*peer).cell).write_volatile(known.cell);
                return Some(known.backend);
            }
        }
        let choice = set.choose(UDP, task)?;
        let backend = choice.backend;
        count::vip_choice(set.vip_id(), &raw const (*backend).addr, (*backend).port);
        // Looked for again: a place known before the choice would make the verifier walk that once for each.
        let mut at = place(peers, key);
        if at >= UDP_PEERS {
            let next = (*peers).next;
            (*peers).next = next.wrapping_add(1);
            if next >= UDP_PEERS as u32 {
                lost(loss::UDP_PEER_FORGOTTEN);
            }
            at = next as usize % UDP_PEERS;
        }
        let peer: *mut UdpPeer = &raw mut (*peers).peers[at];
        copy(&raw mut (*peer).vip_addr, &raw const key.addr);
        copy(&raw mut (*peer).backend_addr, &raw const (*backend).addr);
        (&raw mut (*peer).vip_port).write_volatile(key.port);
        (&raw mut (*peer).backend_port).write_volatile((*backend).port);
        (&raw mut (*peer).cell).write_volatile(choice.cell);
        Some(backend)
    }
}

/// Where a VIP is among a socket's peers; `UDP_PEERS` when it is not.
///
/// # Safety
/// `peers` is a map value.
#[inline(always)]
unsafe fn place(peers: *mut UdpPeers, key: &VipKey) -> usize {
    let mut i = 0;
    while i < UDP_PEERS {
        // SAFETY: as the caller says.
        unsafe {
            let peer = &raw const (*peers).peers[i];
            if (*peer).vip_port == key.port
                && same(&raw const (*peer).vip_addr, &raw const key.addr)
            {
                return i;
            }
        }
        i += 1;
    }
    UDP_PEERS
}

/// The VIP that an answer from a backend stands for.
///
/// # Safety
/// `sa` is the program's context.
#[inline(always)]
unsafe fn vip_of(sa: *mut bpf_sock_addr, addr: &Addr) -> Option<(*const Addr, u16)> {
    // SAFETY: the context's socket; what it remembers are map values.
    unsafe {
        let (sk, port) = ((*sa).__bindgen_anon_1.sk, address::port(sa));
        if let Some(peers) = udp_peers(sk, false) {
            let mut i = 0;
            while i < UDP_PEERS {
                let peer = &raw const (*peers).peers[i];
                if (*peer).vip_port != 0
                    && (*peer).backend_port == port
                    && same(&raw const (*peer).backend_addr, addr)
                {
                    return Some((&raw const (*peer).vip_addr, (*peer).vip_port));
                }
                i += 1;
            }
        }
        // A connected one.
        let info = recall(sk)?;
        let its = (*info).vip_id != 0
            && (*info).backend_port == port
            && same(&raw const (*info).backend_addr, addr);
        its.then(|| (&raw const (*info).vip_addr, (*info).vip_port))
    }
}

/// Whom a datagram is from, IPv4 sockets.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: the program's context; an address is in a map value.
    unsafe {
        if let Some((vip, port)) = vip_of(sa, &address::read4(sa)) {
            address::write4(sa, vip, port);
        }
    }
    PROCEED
}

/// Whom a datagram is from, IPv6 and dual-stack sockets.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: as above.
    unsafe {
        if let Some((vip, port)) = vip_of(sa, &address::read6(sa)) {
            address::write6(sa, vip, port);
        }
    }
    PROCEED
}
