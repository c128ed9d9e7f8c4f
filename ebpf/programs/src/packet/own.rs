//! What the node itself sends to VIPs past the socket hooks: packets of raw sockets, seen at tc egress. The kernel has routed
//! them already, to where VIPs are: once they have a backend they are routed again.

use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
};
use aya_ebpf::helpers::generated::{bpf_fib_lookup as fib_lookup, bpf_redirect_neigh};

use crate::forward;
use crate::frame::OK;
use crate::parse::{NOT_OURS, Packet, REFUSE};
use crate::refuse::{UP, refuse};

/// `AF_INET`.
const INET: u8 = 2;

/// Translates what a process of this node sends to a VIP.
#[inline(always)]
pub fn send(skb: *mut __sk_buff, packet: &Packet) -> i32 {
    let key = packet.key;
    let mut backend = 0;
    match forward::forward(skb, packet, &mut backend) {
        NOT_OURS => OK,
        REFUSE => refuse(skb, packet, UP),
        OK => route(skb, key.src, backend),
        other => other,
    }
}

/// Sends a packet to its new destination by the device that leads there, with the next hop's address as the kernel finds it.
#[inline(always)]
pub fn route(skb: *mut __sk_buff, src: u32, dst: u32) -> i32 {
    // SAFETY: plain integers and arrays of them.
    let mut way: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    way.family = INET;
    way.__bindgen_anon_3.ipv4_src = src;
    way.__bindgen_anon_4.ipv4_dst = dst;
    // SAFETY: a context field; the structure is this function's.
    unsafe {
        way.ifindex = (*skb).ifindex;
        let size = size_of::<bpf_fib_lookup>() as i32;
        let found = fib_lookup(skb.cast(), &raw mut way, size, 0);
        // Where the node does not forward, nothing is found: then there is one way.
        let found = found == i64::from(BPF_FIB_LKUP_RET_SUCCESS)
            || found == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH);
        let device = if found { way.ifindex } else { (*skb).ifindex };
        bpf_redirect_neigh(device, core::ptr::null_mut(), 0, 0) as i32
    }
}
