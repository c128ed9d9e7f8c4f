//! Changing frames, and handing them on.

use aya_ebpf::bindings::{__sk_buff, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC};
use aya_ebpf::helpers::generated::{
    bpf_redirect, bpf_redirect_peer, bpf_skb_adjust_room, bpf_skb_change_type, bpf_skb_store_bytes,
};
use waggle_ebpf_common::overlay::Endpoint;
pub use waggle_ebpf_common::overlay::mac_halves as mac_of;

use crate::frame::OK;

/// `BPF_F_ADJ_ROOM_FIXED_GSO`.
pub const FIXED_GSO: u64 = 1 << 0;
/// `BPF_F_ADJ_ROOM_ENCAP_L3_IPV4`.
pub const ENCAP_L3_IPV4: u64 = 1 << 1;
/// `BPF_F_ADJ_ROOM_ENCAP_L4_UDP`.
pub const ENCAP_L4_UDP: u64 = 1 << 4;
/// `BPF_F_ADJ_ROOM_NO_CSUM_RESET`.
pub const NO_CSUM_RESET: u64 = 1 << 5;
/// `BPF_F_ADJ_ROOM_ENCAP_L2_ETH`.
pub const ENCAP_L2_ETH: u64 = 1 << 6;
/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV6`: kernel 6.3.
pub const DECAP_L3_IPV6: u64 = 1 << 8;

/// `PACKET_HOST`.
const PACKET_HOST: u32 = 0;

/// `BPF_F_ADJ_ROOM_ENCAP_L2(length)`.
pub const fn encap_l2(length: u64) -> u64 {
    length << 56
}

/// Makes room behind the Ethernet header, or takes it away. False: the kernel refused, and nothing has changed.
#[inline(always)]
pub fn adjust_room(skb: *mut __sk_buff, by: i32, flags: u64) -> bool {
    // SAFETY: the program's context.
    unsafe { bpf_skb_adjust_room(skb, by, BPF_ADJ_ROOM_MAC as u32, flags) == 0 }
}

/// Writes to a frame; pointers from before are void. False: the kernel refused.
#[inline(always)]
pub fn store<T>(skb: *mut __sk_buff, at: usize, value: &T) -> bool {
    // SAFETY: the program's context; reads the value only.
    unsafe {
        bpf_skb_store_bytes(
            skb,
            at as u32,
            core::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
            0,
        ) == 0
    }
}

/// To the stack, which takes only what is addressed to it: our MAC addresses are not its devices'.
#[inline(always)]
pub fn to_stack(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the program's context.
    unsafe {
        if (*skb).pkt_type != PACKET_HOST {
            bpf_skb_change_type(skb, PACKET_HOST);
        }
    }
    OK
}

/// Into a container, as if its own device had received it.
#[inline(always)]
pub fn into_container(skb: *mut __sk_buff, endpoint: &Endpoint) -> i32 {
    // SAFETY: the program's context.
    unsafe {
        // Newer kernels do that themselves.
        if (*skb).pkt_type != PACKET_HOST {
            bpf_skb_change_type(skb, PACKET_HOST);
        }
        bpf_redirect_peer(endpoint.ifindex, 0) as i32
    }
}

/// Out of a device.
#[inline(always)]
pub fn out_of(ifindex: u32) -> i32 {
    // SAFETY: takes no pointer.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// A MAC address in half words.
pub type Mac = [u16; 3];

/// A MAC address of a table in half words.
#[inline(always)]
pub fn half_words(mac: &[u8; 6]) -> Mac {
    [
        u16::from_ne_bytes([mac[0], mac[1]]),
        u16::from_ne_bytes([mac[2], mac[3]]),
        u16::from_ne_bytes([mac[4], mac[5]]),
    ]
}

/// The opposite of [`half_words`].
#[inline(always)]
pub fn bytes_of(mac: Mac) -> [u8; 6] {
    let ([a, b], [c, d], [e, f]) = (
        mac[0].to_ne_bytes(),
        mac[1].to_ne_bytes(),
        mac[2].to_ne_bytes(),
    );
    [a, b, c, d, e, f]
}
