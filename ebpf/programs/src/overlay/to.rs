//! overlay_to: what the kernel's stack sends to a container.

use aya_ebpf::bindings::__sk_buff;
use waggle_ebpf_common::overlay::{ANSWER_MARK, reason};

use crate::count::{count, drop};
use crate::frame::OK;
use crate::judge;
use crate::lookup::endpoint;
use crate::neighbour;
use crate::parse::{self, parse};

/// At tc egress of the host side of a container's veth. What the other programs hand to a container does not come by here, but
/// their answers do.
#[inline(always)]
pub fn to(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the program's context.
    let (mark, ifindex) = unsafe { ((*skb).mark, (*skb).ifindex) };
    if mark == ANSWER_MARK {
        return OK;
    }
    // SAFETY: the program's context.
    let (what, packet) = unsafe { parse(skb, 0) };
    if what == parse::ARP || what == reason::NOT_IP {
        return OK;
    }
    if what != parse::PARSED {
        return drop(what);
    }
    if packet.is_v6 && neighbour::is_discovery(&packet) {
        return OK;
    }
    if endpoint(&packet.dst).is_none_or(|to| to.ifindex != ifindex) {
        // Multicast of the node, or an address that has just been given back.
        return if packet.is_multicast() {
            OK
        } else {
            drop(reason::UNKNOWN_DESTINATION)
        };
    }
    if !judge::may_receive(skb, &packet) {
        return drop(reason::POLICY_INGRESS);
    }
    count(reason::FROM_STACK);
    OK
}
