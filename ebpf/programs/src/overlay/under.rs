//! overlay_under: out of the headers that another node wrote.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_csum_level, bpf_skb_ecn_set_ce};
use waggle_ebpf_common::overlay::{ENCAP_LEN, Endpoint, endpoint_flags, reason};

use crate::count::{count, drop};
use crate::frame::{Bytes, ETH, ETH_IPV4, FRAGMENT, IP, OK, TCP, UDP};
use crate::judge;
use crate::lookup::{endpoint, is_peer, may_talk, peer, subnet};
use crate::maps::{node, port, sealed, vni};
use crate::parse::{self, Packet, parse};
use crate::seal::tunnel_to;
use crate::skb::{
    DECAP_L3_IPV6, FIXED_GSO, NO_CSUM_RESET, adjust_room, half_words, into_container, mac_of,
};

const UDP_LEN: usize = 8;
const VXLAN: usize = ETH + IP + UDP_LEN;
/// Where the inner frame begins.
const INNER: usize = ENCAP_LEN as usize;
/// RFC 7348: the VNI is valid; all else is 0.
const VNI_VALID: u32 = u32::from_ne_bytes([0x08, 0, 0, 0]);
const ECN: u8 = 0b11;
const CONGESTION: u8 = 0b11;
/// `BPF_CSUM_LEVEL_DEC`.
const LEVEL_DEC: u64 = 2;

/// At tc ingress of the underlay.
#[inline(always)]
pub fn under(skb: *mut __sk_buff) -> i32 {
    if sealed() != 0 {
        // Nothing for us: what is encrypted comes by another device, whoever sends it.
        // SAFETY: the program's context.
        return match unsafe { tunnel_to(skb) } {
            Some(to) if to == node() => drop(reason::IN_CLEAR),
            _ => OK,
        };
    }
    // SAFETY: the program's context; reads are within what was checked.
    let (from, tos, total, udp, flags, of_vni) = unsafe {
        // Another network's, which has its own device.
        if (*skb).vlan_present != 0 {
            return OK;
        }
        let bytes = Bytes::of(skb, VXLAN + 8);
        if !bytes.has(ETH + IP + UDP_LEN)
            || bytes.read::<u16>(12) != ETH_IPV4
            || bytes.read::<u8>(ETH + 9) != UDP
            || bytes.read::<u32>(ETH + 16) != node()
        {
            return OK;
        }
        // A later fragment has no ports: what is read there matters to nobody.
        let is_whole = bytes.read::<u16>(ETH + 6) & FRAGMENT == 0;
        let is_ours = u32::from(bytes.read::<u16>(ETH + IP + 2)) == port();
        if bytes.read::<u8>(ETH) != 0x45 || !is_whole {
            if is_ours {
                count(reason::UP_FRAGMENT);
            }
            return OK;
        }
        if !is_ours {
            return OK;
        }
        if !bytes.has(VXLAN + 8) {
            return drop(reason::MALFORMED);
        }
        (
            bytes.read::<u32>(ETH + 12),
            bytes.read::<u8>(ETH + 1),
            u32::from(u16::from_be(bytes.read::<u16>(ETH + 2))),
            u32::from(u16::from_be(bytes.read::<u16>(ETH + IP + 4))),
            bytes.read::<u32>(VXLAN),
            bytes.read::<u32>(VXLAN + 4),
        )
    };
    // SAFETY: a context field.
    let (length, is_gso) = unsafe { ((*skb).len, (*skb).gso_size != 0) };
    let is_cut = total + ETH as u32 > length || udp + IP as u32 != total;
    if is_cut && !is_gso || flags != VNI_VALID {
        return drop(reason::MALFORMED);
    }
    if of_vni != vni() {
        return drop(reason::WRONG_VNI);
    }
    // SAFETY: the program's context.
    let (what, packet) = unsafe { parse(skb, INNER) };
    if what == parse::ARP || what == parse::PARSED && packet.is_v6 && packet.is_multicast() {
        // A peer that is a bridge of the kernel asks: the device's program answers, who need not be fast.
        return if is_peer(from) {
            OK
        } else {
            drop(reason::NOT_A_PEER)
        };
    }
    if what != parse::PARSED {
        return drop(what);
    }
    if packet.is_multicast() {
        return drop(if is_peer(from) {
            reason::MULTICAST
        } else {
            reason::NOT_A_PEER
        });
    }
    if let Some(why) = is_forged(&packet, from) {
        return drop(why);
    }
    match endpoint(&packet.dst) {
        Some(to) => deliver(skb, &packet, &to, tos),
        None => nobody(&packet),
    }
}

/// Why a node may not send a packet with this source, if it may not.
#[inline(always)]
pub fn is_forged(packet: &Packet, from: u32) -> Option<u32> {
    let sender = subnet(&packet.src).and_then(|subnet| peer(subnet.peer));
    match sender {
        Some(sender) if sender.addr == from => None,
        _ if is_peer(from) => Some(reason::SPOOFED_NODE),
        _ => Some(reason::NOT_A_PEER),
    }
}

#[inline(always)]
fn deliver(skb: *mut __sk_buff, packet: &Packet, to: &Endpoint, tos: u8) -> i32 {
    if to.flags & endpoint_flags::NODE != 0 {
        count(reason::UP_NODE);
        return OK;
    }
    if to.flags & endpoint_flags::MAY_FORWARD != 0 {
        count(reason::UP_FORWARDS);
        return OK;
    }
    // SAFETY: a context field.
    if packet.proto != TCP && unsafe { (*skb).gso_size } != 0 {
        // Out of its headers, the kernel would take it for a tunnel still, and lose it.
        count(reason::UP_GSO);
        return OK;
    }
    if !is_of_same_network(packet, to) {
        return drop(reason::OTHER_NETWORK);
    }
    if !judge::may_receive(skb, packet) {
        return drop(reason::POLICY_INGRESS);
    }
    let is_congested = tos & ECN == CONGESTION;
    if is_congested && packet.tos & ECN == 0 {
        return drop(reason::ECN);
    }
    if !decap(skb, packet.is_v6) {
        count(reason::UP_REFUSED);
        return OK;
    }
    if !readdress(skb, packet, to) {
        return drop(reason::FAILED);
    }
    if is_congested {
        // SAFETY: the program's context; nothing is read afterwards.
        unsafe { bpf_skb_ecn_set_ce(skb) };
    }
    count(reason::RECEIVED);
    into_container(skb, to)
}

/// Whether sender and receiver may talk.
#[inline(always)]
pub fn is_of_same_network(packet: &Packet, to: &Endpoint) -> bool {
    subnet(&packet.src).is_some_and(|from| may_talk(from.network, to.network))
}

/// Takes the outer headers off. False: the kernel refused, and nothing has changed.
#[inline(always)]
fn decap(skb: *mut __sk_buff, is_v6: bool) -> bool {
    let family = if is_v6 { DECAP_L3_IPV6 } else { 0 };
    if !adjust_room(skb, -(ENCAP_LEN as i32), FIXED_GSO | NO_CSUM_RESET | family) {
        return false;
    }
    // A card that has checked the outer checksum too has counted it.
    // SAFETY: the program's context.
    unsafe { bpf_csum_level(skb, LEVEL_DEC) };
    true
}

/// Writes the Ethernet header, of which only the room is the packet's own.
#[inline(always)]
fn readdress(skb: *mut __sk_buff, packet: &Packet, to: &Endpoint) -> bool {
    let (dst, src) = (half_words(&to.mac), mac_of(&packet.src));
    // SAFETY: the program's context; writes are within what is checked.
    unsafe {
        let data = (*skb).data as usize;
        if data + ETH > (*skb).data_end as usize {
            return false;
        }
        *(data as *mut u16) = dst[0];
        *((data + 2) as *mut u16) = dst[1];
        *((data + 4) as *mut u16) = dst[2];
        *((data + 6) as *mut u16) = src[0];
        *((data + 8) as *mut u16) = src[1];
        *((data + 10) as *mut u16) = src[2];
        *((data + 12) as *mut u16) = packet.ether_type();
    }
    true
}

/// For an address that nobody here has: the device's program tells the sender, since the kernel cuts no packet short that has been
/// in such headers on this machine.
#[inline(always)]
fn nobody(packet: &Packet) -> i32 {
    if subnet(&packet.dst).is_some_and(|subnet| peer(subnet.peer).is_some()) {
        return drop(reason::LOOPED);
    }
    count(reason::UP_NOBODY);
    OK
}
