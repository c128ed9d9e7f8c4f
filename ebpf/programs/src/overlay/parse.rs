//! A frame's IP packet: its addresses, ports and lengths, checked against what the frame holds.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use waggle_ebpf_common::overlay::reason;
use waggle_ebpf_common::{Addr, MAPPED};

use crate::frame::{Bytes, ETH, ETH_IPV4, FRAGMENT, FRAGMENT_OFFSET, ICMP, IP, TCP, UDP};

/// EtherType of IPv6, as it stands in the frame.
pub const ETH_IPV6: u16 = 0x86dd_u16.to_be();
/// EtherType of ARP, as it stands in the frame.
pub const ETH_ARP: u16 = 0x0806_u16.to_be();
/// IPv6 header.
pub const IP6: usize = 40;
/// IANA protocol.
pub const ICMP6: u8 = 58;
/// [`parse`]: a packet.
pub const PARSED: u32 = u32::MAX;
/// [`parse`]: ARP.
pub const ARP: u32 = u32::MAX - 1;

/// IANA protocol.
const SCTP: u8 = 132;
const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
/// Extension headers that are looked behind; of more, the protocol is that of the next one.
const MAX_EXTENSIONS: u32 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT_HEADER: u8 = 44;
const DESTINATION: u8 = 60;

/// What was read of a frame and of the packet in it.
#[derive(Clone, Copy)]
pub struct Packet {
    pub src: Addr,
    pub dst: Addr,
    /// Source MAC address, of the frame that it is in.
    pub mac: [u16; 3],
    /// Destination MAC address, alike.
    pub to_mac: [u16; 3],
    /// Network order; ICMP: type and code in the first.
    pub ports: [u16; 2],
    /// Bytes before the transport header, from the packet's own beginning.
    pub header: u32,
    /// Of the frame that it is in: bytes.
    pub length: u32,
    /// IANA protocol, behind the extension headers.
    pub proto: u8,
    /// Flags of TCP.
    pub flags: u8,
    /// Length of TCP's header, 8 of UDP, bytes.
    pub transport: u8,
    /// ECN and DSCP.
    pub tos: u8,
    pub is_v6: bool,
    /// A fragment without ports.
    pub is_later: bool,
    /// Any fragment.
    pub is_fragment: bool,
    /// Routers may cut it into fragments.
    pub may_fragment: bool,
    /// IPv4 options, or extension headers.
    pub has_options: bool,
}

impl Packet {
    pub const NONE: Self = Self {
        src: [0; 4],
        dst: [0; 4],
        mac: [0; 3],
        to_mac: [0; 3],
        ports: [0; 2],
        header: 0,
        length: 0,
        proto: 0,
        flags: 0,
        transport: 0,
        tos: 0,
        is_v6: false,
        is_later: false,
        is_fragment: false,
        may_fragment: false,
        has_options: false,
    };

    /// EtherType, as it stands in the frame.
    #[inline(always)]
    pub fn ether_type(&self) -> u16 {
        if self.is_v6 { ETH_IPV6 } else { ETH_IPV4 }
    }

    /// First byte of the destination.
    #[inline(always)]
    fn first(&self) -> u32 {
        if self.is_v6 {
            self.dst[0] & 0xff
        } else {
            self.dst[3] & 0xff
        }
    }

    /// Multicast, or IPv4's broadcast.
    #[inline(always)]
    pub fn is_multicast(&self) -> bool {
        let first = self.first();
        if self.is_v6 {
            first == 0xff
        } else {
            first >= 0xe0
        }
    }

    /// Type of ICMP or ICMPv6, if it is one.
    #[inline(always)]
    pub fn icmp_type(&self) -> Option<u8> {
        let is_icmp = self.proto == if self.is_v6 { ICMP6 } else { ICMP };
        (is_icmp && !self.is_later).then_some(self.ports[0].to_ne_bytes()[0])
    }
}

/// Reads a frame that begins `at` bytes into the packet. What is not [`PARSED`] or [`ARP`] is the reason to drop it.
///
/// # Safety
/// `skb` is the program's context; pointers from before are void.
#[inline(always)]
pub unsafe fn parse(skb: *mut __sk_buff, at: usize) -> (u32, Packet) {
    let mut packet = Packet::NONE;
    // SAFETY: the program's context; reads are within what was checked.
    unsafe {
        // No more than what every TCP header has: data behind it would be copied for each packet.
        let bytes = Bytes::of(skb, at + ETH + IP6);
        let length = (*skb).len;
        if !bytes.has(at + ETH + IP) {
            let is_arp = bytes.has(at + ETH) && bytes.read::<u16>(at + 12) == ETH_ARP;
            return (if is_arp { ARP } else { reason::MALFORMED }, packet);
        }
        packet.to_mac = [
            bytes.read::<u16>(at),
            bytes.read::<u16>(at + 2),
            bytes.read::<u16>(at + 4),
        ];
        packet.mac = [
            bytes.read::<u16>(at + 6),
            bytes.read::<u16>(at + 8),
            bytes.read::<u16>(at + 10),
        ];
        packet.length = length - at as u32;
        match bytes.read::<u16>(at + 12) {
            ETH_IPV4 => (v4(skb, bytes, at, &mut packet), packet),
            ETH_IPV6 => (v6(skb, bytes, at, &mut packet), packet),
            ETH_ARP => (ARP, packet),
            _ => (reason::NOT_IP, packet),
        }
    }
}

#[inline(always)]
unsafe fn v4(skb: *mut __sk_buff, bytes: Bytes, at: usize, packet: &mut Packet) -> u32 {
    let ip = at + ETH;
    // SAFETY: the caller has checked for the header; the rest is checked here.
    unsafe {
        let version = bytes.read::<u8>(ip);
        let header = u32::from(version & 0xf) * 4;
        let total = u32::from(u16::from_be(bytes.read::<u16>(ip + 2)));
        if version >> 4 != 4 || header < IP as u32 || !fits(skb, packet, total, header) {
            return reason::MALFORMED;
        }
        let fragment = bytes.read::<u16>(ip + 6);
        packet.tos = bytes.read::<u8>(ip + 1);
        packet.proto = bytes.read::<u8>(ip + 9);
        packet.src = [0, 0, MAPPED, bytes.read::<u32>(ip + 12)];
        packet.dst = [0, 0, MAPPED, bytes.read::<u32>(ip + 16)];
        packet.header = header;
        packet.may_fragment = fragment & DONT_FRAGMENT == 0;
        packet.is_fragment = fragment & FRAGMENT != 0;
        packet.is_later = fragment & FRAGMENT_OFFSET != 0;
        packet.has_options = header != IP as u32;
        if packet.is_later {
            return PARSED;
        }
        if packet.has_options || !is_near(bytes, ip + IP, packet.proto) {
            return far_transport(skb, at, packet, total);
        }
        let left = if total == 0 {
            packet.length
        } else {
            total - header
        };
        near_transport(bytes, ip + IP, packet, left)
    }
}

#[inline(always)]
unsafe fn v6(skb: *mut __sk_buff, bytes: Bytes, at: usize, packet: &mut Packet) -> u32 {
    let ip = at + ETH;
    if !bytes.has(ip + IP6) {
        return reason::MALFORMED;
    }
    // SAFETY: checked.
    unsafe {
        let first = u16::from_be(bytes.read::<u16>(ip));
        let payload = u32::from(u16::from_be(bytes.read::<u16>(ip + 4)));
        let is_jumbo = payload == 0 && (*skb).gso_size != 0;
        let total = if is_jumbo { 0 } else { payload + IP6 as u32 };
        if first >> 12 != 6 || !fits(skb, packet, total, IP6 as u32) {
            return reason::MALFORMED;
        }
        packet.is_v6 = true;
        packet.tos = (first >> 4) as u8;
        packet.proto = bytes.read::<u8>(ip + 6);
        packet.src = [
            bytes.read::<u32>(ip + 8),
            bytes.read::<u32>(ip + 12),
            bytes.read::<u32>(ip + 16),
            bytes.read::<u32>(ip + 20),
        ];
        packet.dst = [
            bytes.read::<u32>(ip + 24),
            bytes.read::<u32>(ip + 28),
            bytes.read::<u32>(ip + 32),
            bytes.read::<u32>(ip + 36),
        ];
        packet.header = IP6 as u32;
        if matches!(
            packet.proto,
            HOP_BY_HOP | ROUTING | FRAGMENT_HEADER | DESTINATION
        ) {
            packet.has_options = true;
            return far_transport(skb, at, packet, total);
        }
        if !is_near(bytes, ip + IP6, packet.proto) {
            return far_transport(skb, at, packet, total);
        }
        let left = if is_jumbo {
            packet.length
        } else {
            total - IP6 as u32
        };
        near_transport(bytes, ip + IP6, packet, left)
    }
}

/// Whether a packet's own length is that of a packet which the frame holds. 0 is that of one which is to be segmented and is too
/// long for the field.
#[inline(always)]
unsafe fn fits(skb: *mut __sk_buff, packet: &Packet, total: u32, header: u32) -> bool {
    // SAFETY: the program's context.
    let is_jumbo = total == 0 && unsafe { (*skb).gso_size } != 0;
    is_jumbo || (total >= header && total + ETH as u32 <= packet.length)
}

/// Whether a transport header can be read directly.
#[inline(always)]
fn is_near(bytes: Bytes, at: usize, proto: u8) -> bool {
    bytes.has(at + if proto == TCP { 20 } else { 4 })
}

/// Reads the transport header where it stands without options.
///
/// # Safety
/// [`is_near`] said so.
#[inline(always)]
unsafe fn near_transport(bytes: Bytes, at: usize, packet: &mut Packet, left: u32) -> u32 {
    let least = least(packet.proto);
    if least == 0 {
        return PARSED;
    }
    if left < least {
        return reason::MALFORMED;
    }
    // SAFETY: the caller's.
    unsafe {
        packet.ports = [bytes.read::<u16>(at), bytes.read::<u16>(at + 2)];
        if packet.proto == TCP {
            // Again, for the verifier.
            if !bytes.has(at + 20) {
                return reason::MALFORMED;
            }
            packet.transport = bytes.read::<u8>(at + 12) >> 2 & 0x3c;
            packet.flags = bytes.read::<u8>(at + 13);
            if packet.transport < 20 {
                return reason::MALFORMED;
            }
        } else if packet.proto == UDP {
            packet.transport = 8;
        }
    }
    PARSED
}

/// Bytes that a protocol's first fragment must have; 0: it has no ports.
#[inline(always)]
fn least(proto: u8) -> u32 {
    match proto {
        TCP => 20,
        UDP => 8,
        SCTP => 12,
        ICMP | ICMP6 => 4,
        _ => 0,
    }
}

/// Reads the transport header behind options or extension headers.
#[inline(never)]
fn far_transport(skb: *mut __sk_buff, at: usize, packet: &mut Packet, total: u32) -> u32 {
    let ip = (at + ETH) as u32;
    let mut header = packet.header;
    if packet.is_v6 {
        let mut n = 0;
        while n < MAX_EXTENSIONS {
            n += 1;
            let next = packet.proto;
            if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT_HEADER | DESTINATION) {
                break;
            }
            let mut words = [0_u8; 8];
            // SAFETY: memory of this function.
            let is_read = unsafe {
                bpf_skb_load_bytes(skb.cast(), ip + header, words.as_mut_ptr().cast(), 8) == 0
            };
            if !is_read {
                return reason::MALFORMED;
            }
            packet.proto = words[0];
            header += if next == FRAGMENT_HEADER {
                8
            } else {
                (u32::from(words[1]) + 1) * 8
            };
            if total != 0 && header > total {
                return reason::MALFORMED;
            }
            if next == FRAGMENT_HEADER {
                let offset = u16::from_be_bytes([words[2], words[3]]);
                packet.is_fragment = true;
                packet.is_later = offset & 0xfff8 != 0;
                if packet.is_later {
                    packet.header = header;
                    return PARSED;
                }
            }
        }
        packet.header = header;
    }
    let least = least(packet.proto);
    if total != 0 && total < header + least {
        return reason::MALFORMED;
    }
    if least == 0 {
        return PARSED;
    }
    let mut words = [0_u8; 20];
    // SAFETY: memory of this function, longer than what is read.
    let is_read = unsafe {
        let wanted = if packet.proto == TCP { 20 } else { 4 };
        bpf_skb_load_bytes(skb.cast(), ip + header, words.as_mut_ptr().cast(), wanted) == 0
    };
    if !is_read {
        return reason::MALFORMED;
    }
    packet.ports = [
        u16::from_ne_bytes([words[0], words[1]]),
        u16::from_ne_bytes([words[2], words[3]]),
    ];
    if packet.proto == TCP {
        packet.transport = words[12] >> 2 & 0x3c;
        packet.flags = words[13];
        if packet.transport < 20 {
            return reason::MALFORMED;
        }
    } else if packet.proto == UDP {
        packet.transport = 8;
    }
    PARSED
}
