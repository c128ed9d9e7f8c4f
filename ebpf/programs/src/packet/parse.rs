//! What kind of packet.

use aya_ebpf::bindings::__sk_buff;
use waggle_ebpf_common::edge::FragmentKey;
use waggle_ebpf_common::packet::FlowKey;

use crate::frame::{Bytes, ETH, ETH_IPV4, FRAGMENT, FRAGMENT_OFFSET, ICMP, IP, TCP, UDP};

/// Verdict of a function that leaves the packet to the next one; no verdict of the kernel's.
pub const NOT_OURS: i32 = -2;
/// Verdict of a function that wants the packet's sender to be told that nobody is there.
pub const REFUSE: i32 = -3;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// What a packet is to these programs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Other,
    /// IPv4 with options: ports are not where they are looked for.
    Options,
    /// A fragment without ports.
    Later,
    /// ICMP in one piece.
    Error,
    /// TCP or UDP with ports.
    Flow,
}

/// What was read of a packet; ports only of [`Kind::Flow`].
#[derive(Clone, Copy)]
pub struct Packet {
    pub key: FlowKey,
    /// Identification.
    pub id: u16,
    /// Of TCP.
    pub flags: u8,
    /// A first fragment: 1.
    pub is_fragment: u8,
    /// The header is not whole: 1.
    pub is_short: u32,
}

impl Packet {
    /// Whether it may begin a flow.
    #[inline(always)]
    pub fn begins(&self) -> bool {
        self.key.proto != u32::from(TCP) || self.flags & (SYN | ACK) == SYN
    }

    /// Whether it ends a flow.
    #[inline(always)]
    pub fn ends(&self) -> bool {
        self.key.proto == u32::from(TCP) && self.flags & (FIN | RST) != 0
    }

    /// What its fragments have in common.
    #[inline(always)]
    pub fn fragments(&self) -> FragmentKey {
        FragmentKey {
            src: self.key.src,
            dst: self.key.dst,
            id: self.id,
            proto: self.key.proto as u8,
            pad: 0,
        }
    }
}

/// Reads a packet.
///
/// # Safety
/// `skb` is the program's context; pointers from before are void.
#[inline(always)]
pub unsafe fn parse(skb: *mut __sk_buff) -> (Kind, Packet) {
    let mut packet = Packet {
        key: FlowKey {
            src: 0,
            dst: 0,
            sport: 0,
            dport: 0,
            proto: 0,
        },
        id: 0,
        flags: 0,
        is_fragment: 0,
        is_short: 0,
    };
    // SAFETY: the program's context; reads are within what was checked.
    unsafe {
        let bytes = Bytes::of(skb, ETH + IP + 20);
        if !bytes.has(ETH + IP) || bytes.read::<u16>(12) != ETH_IPV4 {
            return (Kind::Other, packet);
        }
        let version = bytes.read::<u8>(ETH);
        let proto = bytes.read::<u8>(ETH + 9);
        let fragment = bytes.read::<u16>(ETH + 6) & FRAGMENT;
        let total = u16::from_be(bytes.read::<u16>(ETH + 2)) as usize;
        packet.key.src = bytes.read::<u32>(ETH + 12);
        packet.key.dst = bytes.read::<u32>(ETH + 16);
        packet.key.proto = u32::from(proto);
        packet.id = bytes.read::<u16>(ETH + 4);
        if version & 0xf0 != 0x40 {
            return (Kind::Other, packet);
        }
        if version != 0x45 {
            return (Kind::Options, packet);
        }
        if fragment & FRAGMENT_OFFSET != 0 {
            return (Kind::Later, packet);
        }
        if proto == ICMP && fragment == 0 {
            return (Kind::Error, packet);
        }
        let least = match proto {
            TCP => 20,
            UDP => 8,
            _ => return (Kind::Other, packet),
        };
        packet.is_fragment = u8::from(fragment != 0);
        if !bytes.has(ETH + IP + 8) {
            // Without ports: it can't be told whose it is.
            return (Kind::Other, packet);
        }
        packet.key.sport = bytes.read::<u16>(ETH + IP);
        packet.key.dport = bytes.read::<u16>(ETH + IP + 2);
        if total < IP + least || !bytes.has(ETH + IP + least) {
            packet.is_short = 1;
        } else if proto == TCP && bytes.has(ETH + IP + 20) {
            packet.flags = bytes.read::<u8>(ETH + IP + 13);
        }
        (Kind::Flow, packet)
    }
}
