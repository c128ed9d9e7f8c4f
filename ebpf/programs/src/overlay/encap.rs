//! To another node: headers that we write, or the kernel's device.

use aya_ebpf::bindings::{__sk_buff, BPF_F_DONT_FRAGMENT, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key};
use aya_ebpf::helpers::generated::{
    bpf_get_hash_recalc, bpf_redirect_neigh, bpf_skb_set_tunnel_key,
};
use waggle_ebpf_common::edge::fold;
use waggle_ebpf_common::overlay::{ENCAP_LEN, HEADER_LEN, Peer, peer_flags, reason};

use crate::count::{count, drop};
use crate::frame::ETH;
use crate::lookup::vxlan;
use crate::maps::{node, vni};
use crate::parse::Packet;
use crate::skb::{
    ENCAP_L2_ETH, ENCAP_L3_IPV4, ENCAP_L4_UDP, FIXED_GSO, Mac, NO_CSUM_RESET, adjust_room,
    encap_l2, half_words, mac_of, out_of, store,
};

/// What tells the kernel how to segment what has our headers. `FIXED_GSO`: containers' MTU leaves room for them.
const ENCAP: u64 =
    ENCAP_L3_IPV4 | ENCAP_L4_UDP | ENCAP_L2_ETH | FIXED_GSO | NO_CSUM_RESET | encap_l2(ETH as u64);
/// Longest IPv4 packet.
const MAX_TOTAL: u32 = 0xffff;
const ECN: u8 = 0b11;
const CONGESTION: u8 = 0b11;
const CAPABLE: u8 = 0b10;
/// Source ports: the dynamic ones (RFC 6335), as RFC 7348 advises.
const SOURCE_PORTS: u32 = 0xc000;
/// TTL of outer headers, as the kernel's vxlan devices have it.
const TTL: u8 = 64;

/// Sends a packet to a peer.
#[inline(always)]
pub fn encap(skb: *mut __sk_buff, packet: &Packet, peer: &Peer) -> i32 {
    if peer.flags & peer_flags::SLOW != 0 {
        return slow(skb, packet, peer, reason::SLOW_PEER);
    }
    let total = packet.length + ENCAP_LEN - ETH as u32;
    if total > MAX_TOTAL {
        return slow(skb, packet, peer, reason::SLOW_REFUSED);
    }
    // SAFETY: the program's context. Free for TCP: the socket's own hash.
    let hash = unsafe { bpf_get_hash_recalc(skb) };
    if !adjust_room(skb, ENCAP_LEN as i32, ENCAP) {
        // It was taken out of such headers and sent on, or is segmented in a way that the helper does not know.
        return slow(skb, packet, peer, reason::SLOW_REFUSED);
    }
    if !write(skb, packet, peer, total, hash) {
        return drop(reason::FAILED);
    }
    count(reason::SENT);
    if peer.flags & peer_flags::NO_NEIGHBOUR != 0 {
        count(reason::NO_NEIGHBOUR);
        // SAFETY: no parameters.
        return unsafe { bpf_redirect_neigh(peer.ifindex, core::ptr::null_mut(), 0, 0) as i32 };
    }
    out_of(peer.ifindex)
}

/// Writes the outer headers and the inner Ethernet header.
#[inline(always)]
fn write(skb: *mut __sk_buff, packet: &Packet, peer: &Peer, total: u32, hash: u32) -> bool {
    // SAFETY: the program's context; writes are within what is checked, in words as the kernel's own code writes them.
    unsafe {
        let data = (*skb).data as usize;
        if data + HEADER_LEN > (*skb).data_end as usize {
            return false;
        }
        let header = (&raw const peer.header).cast::<u64>();
        let mut i = 0;
        while i < HEADER_LEN / 8 {
            *((data + i * 8) as *mut u64) = *header.add(i);
            i += 1;
        }
        let tos = outer_tos(packet.tos);
        let total = (total as u16).to_be();
        let check = !fold(peer.sum + (u32::from(tos) << 8) + u32::from(total));
        let source = SOURCE_PORTS | (hash ^ hash >> 16) & 0x3fff;
        let udp = u16::from_be(total) - 20;
        *((data + 15) as *mut u8) = tos;
        *((data + 16) as *mut u16) = total;
        *((data + 24) as *mut u16) = check;
        *((data + 34) as *mut u16) = (source as u16).to_be();
        *((data + 38) as *mut u16) = udp.to_be();
        if peer.flags & peer_flags::ROUTES == 0 {
            let mac = mac_of(&packet.dst);
            *((data + 50) as *mut u16) = mac[0];
            *((data + 52) as *mut u16) = mac[1];
            *((data + 54) as *mut u16) = mac[2];
        }
        *((data + 62) as *mut u16) = packet.ether_type();
    }
    true
}

/// ECN of the outer header (RFC 6040, normal mode, as `INET_ECN_encapsulate`); DSCP is not shown to the underlay.
#[inline(always)]
fn outer_tos(inner: u8) -> u8 {
    if inner & ECN == CONGESTION {
        CAPABLE
    } else {
        inner & ECN
    }
}

/// Sends a packet to a peer by the kernel's device, and counts why.
#[inline(always)]
pub fn slow(skb: *mut __sk_buff, packet: &Packet, peer: &Peer, why: u32) -> i32 {
    count(why);
    let mac = inner_mac(packet, peer);
    let may_fragment = why == reason::SLOW_LONG;
    let local = if peer.flags & peer_flags::SLOW == 0 {
        node()
    } else {
        0
    };
    by_device(skb, &mac, peer.addr, local, may_fragment)
}

/// Sends a frame to a node by the kernel's device. `local` is the outer source, 0: as the kernel routes.
#[inline(always)]
pub fn by_device(
    skb: *mut __sk_buff,
    mac: &Mac,
    remote: u32,
    local: u32,
    may_fragment: bool,
) -> i32 {
    let device = vxlan();
    if device == 0 {
        return drop(reason::NO_DEVICE);
    }
    if !address(skb, remote, local, may_fragment) || !store(skb, 0, mac) {
        return drop(reason::FAILED);
    }
    out_of(device)
}

/// Tells the kernel's device where a frame goes.
#[inline(always)]
pub fn address(skb: *mut __sk_buff, remote: u32, local: u32, may_fragment: bool) -> bool {
    // SAFETY: all zero is a key; the program's context, and memory of this function.
    unsafe {
        let mut key: bpf_tunnel_key = core::mem::zeroed();
        key.tunnel_id = u32::from_be(vni()) >> 8;
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(remote);
        key.__bindgen_anon_3.local_ipv4 = u32::from_be(local);
        key.tunnel_ttl = TTL;
        let mut flags = u64::from(BPF_F_ZERO_CSUM_TX);
        if !may_fragment {
            flags |= u64::from(BPF_F_DONT_FRAGMENT);
        }
        let size = size_of::<bpf_tunnel_key>() as u32;
        bpf_skb_set_tunnel_key(skb, &raw mut key, size, flags) == 0
    }
}

/// Whom the inner frame is for.
#[inline(always)]
pub fn inner_mac(packet: &Packet, peer: &Peer) -> Mac {
    if peer.flags & peer_flags::ROUTES == 0 {
        return mac_of(&packet.dst);
    }
    let h = &peer.header;
    half_words(&[h[50], h[51], h[52], h[53], h[54], h[55]])
}
