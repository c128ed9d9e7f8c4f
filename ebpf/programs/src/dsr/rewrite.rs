//! Addresses, ports and checksums. By helpers: only they keep the packet's own checksum state (partial, complete) right.

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::{bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes};

use crate::frame::{IP, TCP, UDP};

/// An address and a port, and what they become. Network order.
#[derive(Clone, Copy)]
pub struct Change {
    /// Address now.
    pub addr: u32,
    /// Address afterwards.
    pub new_addr: u32,
    /// Port now.
    pub port: u16,
    /// Port afterwards.
    pub new_port: u16,
}

/// Which side of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

impl Side {
    #[inline(always)]
    fn addr(self) -> usize {
        match self {
            Self::Source => 12,
            Self::Destination => 16,
        }
    }

    #[inline(always)]
    fn port(self) -> usize {
        match self {
            Self::Source => 0,
            Self::Destination => 2,
        }
    }
}

/// Changes a packet whose IPv4 header is at `ip`; `has_ports` is false for later fragments. False: the kernel refused.
///
/// # Safety
/// `skb` is the program's context, and the headers were there.
#[inline(always)]
pub unsafe fn packet(
    skb: *mut __sk_buff,
    ip: usize,
    side: Side,
    proto: u8,
    change: &Change,
    has_ports: bool,
) -> bool {
    // SAFETY: the caller's.
    unsafe {
        if has_ports {
            let (check, flags) = match proto {
                TCP => (ip + IP + 16, 0),
                _ => (ip + IP + 6, u64::from(BPF_F_MARK_MANGLED_0)),
            };
            let pseudo = flags | u64::from(BPF_F_PSEUDO_HDR);
            let (from, to) = (u64::from(change.addr), u64::from(change.new_addr));
            if bpf_l4_csum_replace(skb, check as u32, from, to, pseudo | 4) != 0 {
                return false;
            }
            let (from, to) = (u64::from(change.port), u64::from(change.new_port));
            if bpf_l4_csum_replace(skb, check as u32, from, to, flags | 2) != 0
                || !store(skb, ip + IP + side.port(), &change.new_port)
            {
                return false;
            }
        }
        address(skb, ip, side, change)
    }
}

/// Changes an ICMP error whose IPv4 header is at `ip`: its own address on `side`, and the quoted packet's on the other.
///
/// # Safety
/// As above; 8 bytes of the quoted packet after its header were there.
#[inline(always)]
pub unsafe fn icmp_error(skb: *mut __sk_buff, ip: usize, side: Side, change: &Change) -> bool {
    let other = match side {
        Side::Source => Side::Destination,
        Side::Destination => Side::Source,
    };
    // SAFETY: the caller's.
    unsafe { quoted(skb, ip, other, change) && address(skb, ip, side, change) }
}

/// Changes only what an ICMP error quotes: the packet's address and port on `side`.
///
/// # Safety
/// As above.
#[inline(always)]
pub unsafe fn quoted(skb: *mut __sk_buff, ip: usize, side: Side, change: &Change) -> bool {
    let quoted = ip + IP + 8;
    // SAFETY: the caller's.
    unsafe {
        // The quoted header's own checksum makes up for its address; so only the port changes the message's sum.
        let (from, to) = (u64::from(change.port), u64::from(change.new_port));
        bpf_l4_csum_replace(skb, (ip + IP + 2) as u32, from, to, 2) == 0
            && store(skb, quoted + IP + side.port(), &change.new_port)
            && address(skb, quoted, side, change)
    }
}

/// An address, and the checksum of its IPv4 header.
///
/// # Safety
/// As above.
#[inline(always)]
unsafe fn address(skb: *mut __sk_buff, ip: usize, side: Side, change: &Change) -> bool {
    let (from, to) = (u64::from(change.addr), u64::from(change.new_addr));
    // SAFETY: the caller's.
    unsafe {
        bpf_l3_csum_replace(skb, (ip + 10) as u32, from, to, 4) == 0
            && store(skb, ip + side.addr(), &change.new_addr)
    }
}

/// # Safety
/// As above.
#[inline(always)]
unsafe fn store<T>(skb: *mut __sk_buff, at: usize, value: &T) -> bool {
    // SAFETY: the caller's; reads the value only.
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

/// Whether ports are where this crate looks for them.
#[inline(always)]
pub fn has_ports(proto: u8) -> bool {
    proto == TCP || proto == UDP
}
