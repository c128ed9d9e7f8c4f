//! Fragments without ports, and headers that these programs don't read.

use aya_ebpf::bindings::__sk_buff;
use waggle_ebpf_common::packet::{Fragment, reason};

use crate::count::count;
use crate::frame::{ETH, OK, SHOT};
use crate::maps::{PACKET_FRAGS, in_vip_net};
use crate::own;
use crate::parse::Packet;
use crate::rewrite::{self, Change, Side};

/// Remembers what a first fragment becomes. False: no room.
#[inline(always)]
pub fn remember(packet: &Packet, addr: u32, is_source: bool) -> bool {
    let fragment = Fragment {
        addr,
        is_source: u32::from(is_source),
    };
    PACKET_FRAGS
        .insert(&packet.fragments(), &fragment, 0)
        .is_ok()
}

/// Follows the first fragment. One that came before it is lost: its sender repeats, or does without.
#[inline(always)]
pub fn later(skb: *mut __sk_buff, packet: &Packet, is_ingress: bool) -> i32 {
    // SAFETY: copied at once.
    let Some(known) = unsafe { PACKET_FRAGS.get(&packet.fragments()) }.copied() else {
        if is_ingress && in_vip_net(packet.key.dst) {
            count(reason::FRAGMENT_LOST);
            return SHOT;
        }
        return OK;
    };
    let (side, addr) = if known.is_source != 0 {
        (Side::Source, packet.key.src)
    } else {
        (Side::Destination, packet.key.dst)
    };
    let change = Change {
        addr,
        new_addr: known.addr,
        port: 0,
        new_port: 0,
    };
    // SAFETY: the program's context; nothing is read afterwards.
    let verdict = done(
        unsafe { rewrite::packet(skb, ETH, side, packet.key.proto as u8, &change, false) },
        reason::FRAGMENT,
    );
    if verdict == OK && !is_ingress && known.is_source == 0 {
        return own::route(skb, packet.key.src, known.addr);
    }
    verdict
}

/// IPv4 options: nothing of VIPs is sent on.
#[inline(always)]
pub fn options(packet: &Packet) -> i32 {
    if in_vip_net(packet.key.dst) {
        count(reason::OPTIONS);
        return SHOT;
    }
    OK
}

/// Half a change is no packet.
#[inline(always)]
pub fn done(done: bool, how: u32) -> i32 {
    if done {
        count(how);
        OK
    } else {
        count(reason::FAILED);
        SHOT
    }
}
