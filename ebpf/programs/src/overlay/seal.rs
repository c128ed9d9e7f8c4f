//! A node that encrypts: what other nodes' kernels encrypted is told from what came in clear, and nothing leaves in clear.

use aya_ebpf::bindings::__sk_buff;
use waggle_ebpf_common::overlay::{SEALED_MARK, reason};

use crate::count::drop;
use crate::frame::{Bytes, ETH, ETH_IPV4, FRAGMENT_OFFSET, IP, OK, UDP};
use crate::lookup::is_peer;
use crate::maps::port;

/// At tc ingress of the device that decrypts.
#[inline(always)]
pub fn unsealed(skb: *mut __sk_buff) -> i32 {
    // SAFETY: a context field.
    unsafe { (*skb).mark = SEALED_MARK };
    OK
}

/// Whether a packet says that it was encrypted. It does so no longer: whoever gets it need not know.
#[inline(always)]
pub fn take_mark(skb: *mut __sk_buff) -> bool {
    // SAFETY: a context field.
    unsafe {
        let was_sealed = (*skb).mark == SEALED_MARK;
        if was_sealed {
            (*skb).mark = 0;
        }
        was_sealed
    }
}

/// At tc egress of the underlay: the last place before the wire. Routes lead tunnels into the device that encrypts; a route or a
/// rule that somebody has taken away must not lead them past it.
#[inline(always)]
pub fn seal(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the program's context.
    match unsafe { tunnel_to(skb) } {
        Some(to) if is_peer(to) => drop(reason::OUT_IN_CLEAR),
        _ => OK,
    }
}

/// Whom a frame is for, network order, that is a tunnel's, or begins one: UDP over IPv4 to our port, whatever options stand
/// before it.
///
/// # Safety
/// `skb` is the program's context; pointers from before are void.
#[inline(always)]
pub unsafe fn tunnel_to(skb: *mut __sk_buff) -> Option<u32> {
    /// Words of the longest IPv4 header.
    const MOST: usize = 15;
    // SAFETY: the program's context; reads are within what was checked.
    unsafe {
        let bytes = Bytes::of(skb, ETH + MOST * 4 + 4);
        if !bytes.has(ETH + IP)
            || bytes.read::<u16>(12) != ETH_IPV4
            || bytes.read::<u8>(ETH + 9) != UDP
            || bytes.read::<u16>(ETH + 6) & FRAGMENT_OFFSET != 0
        {
            return None;
        }
        let words = usize::from(bytes.read::<u8>(ETH) & 0x0f);
        let at = ETH + words * 4 + 2;
        if !bytes.has(at + 2) || u32::from(bytes.read::<u16>(at)) != port() {
            return None;
        }
        Some(bytes.read::<u32>(ETH + 16))
    }
}
