//! Frames, written out field by field.

use std::net::{IpAddr, Ipv4Addr};

use waggle_ebpf::common::overlay::mac_of;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP6: u8 = 58;
/// Ethernet header.
pub const ETH: usize = 14;

/// An Ethernet frame with an IP packet; both addresses are of one family.
#[derive(Clone, Debug)]
pub struct Frame {
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    pub ports: [u16; 2],
    pub tcp_flags: u8,
    pub tos: u8,
    /// IPv4: flags and offset. IPv6: a fragment header with this offset and flag, if not 0.
    pub fragment: u16,
    /// IPv4: a word of options. IPv6: a destination options header.
    pub has_options: bool,
    /// Bytes behind the transport header.
    pub payload: usize,
    /// How much more the IP header says than there is.
    pub lie: i32,
}

impl Frame {
    /// What a container sends: with the MAC address of its own, to that of the destination.
    pub fn new(src: IpAddr, dst: IpAddr, proto: u8) -> Self {
        Self {
            src_mac: mac_of(src),
            dst_mac: mac_of(dst),
            src,
            dst,
            proto,
            ports: [40_000, 8080],
            tcp_flags: 0x10,
            tos: 0,
            fragment: 0,
            has_options: false,
            payload: 32,
            lie: 0,
        }
    }

    /// Transport header and payload.
    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let is_later = match self.src {
            IpAddr::V4(_) => self.fragment & 0x1fff != 0,
            IpAddr::V6(_) => self.fragment & 0xfff8 != 0,
        };
        if !is_later {
            bytes.extend(self.ports[0].to_be_bytes());
            bytes.extend(self.ports[1].to_be_bytes());
            match self.proto {
                TCP => {
                    bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, self.tcp_flags, 1, 0]);
                    bytes.extend([0xab, 0xcd, 0, 0]);
                }
                _ => bytes.extend([
                    ((self.payload + 8) >> 8) as u8,
                    (self.payload + 8) as u8,
                    0,
                    0,
                ]),
            }
        }
        bytes.extend((0..self.payload).map(|i| (i % 251) as u8));
        bytes
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.dst_mac);
        frame.extend(self.src_mac);
        let transport = self.transport();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend([0x08, 0x00]);
                let words: u8 = if self.has_options { 6 } else { 5 };
                let total = i32::from(words) * 4 + transport.len() as i32 + self.lie;
                let mut header = vec![0x40 | words, self.tos];
                header.extend((total as u16).to_be_bytes());
                header.extend([0x12, 0x34]);
                header.extend(self.fragment.to_be_bytes());
                header.extend([64, self.proto, 0, 0]);
                header.extend(src.octets());
                header.extend(dst.octets());
                if self.has_options {
                    header.extend([1, 1, 1, 0]);
                }
                let check = checksum(&header);
                header[10..12].copy_from_slice(&check.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.extend([0x86, 0xdd]);
                let mut extensions = Vec::new();
                let mut next = self.proto;
                if self.fragment != 0 {
                    let [high, low] = self.fragment.to_be_bytes();
                    extensions.splice(0..0, [next, 0, high, low, 0, 0, 0, 9]);
                    next = 44;
                }
                if self.has_options {
                    extensions.splice(0..0, [next, 0, 1, 4, 0, 0, 0, 0]);
                    next = 60;
                }
                let payload = (extensions.len() + transport.len()) as i32 + self.lie;
                frame.extend([0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
                frame.extend((payload as u16).to_be_bytes());
                frame.extend([next, 64]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
                frame.extend(extensions);
            }
            _ => panic!("one family"),
        }
        frame.extend(transport);
        frame
    }
}

/// Outer headers.
#[derive(Clone, Debug)]
pub struct Outer {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub tos: u8,
    pub fragment: u16,
    pub port: u16,
    pub flags: u32,
    pub vni: u32,
    /// How much more the IPv4 header says than there is.
    pub lie: i32,
}

impl Outer {
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr) -> Self {
        Self {
            src,
            dst,
            tos: 0,
            fragment: 0x4000,
            port: 64_000,
            flags: 0x0800_0000,
            vni: 1024,
            lie: 0,
        }
    }

    /// The frame, on the wire.
    pub fn wrap(&self, inner: &[u8]) -> Vec<u8> {
        let udp = (inner.len() + 16) as i32 + self.lie;
        let mut frame = vec![2, 0, 0, 0, 0, 0xb, 2, 0, 0, 0, 0, 0xa, 0x08, 0x00];
        let mut header = vec![0x45, self.tos];
        header.extend(((udp + 20) as u16).to_be_bytes());
        header.extend([0, 0]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([64, UDP, 0, 0]);
        header.extend(self.src.octets());
        header.extend(self.dst.octets());
        let check = checksum(&header);
        header[10..12].copy_from_slice(&check.to_be_bytes());
        frame.extend(header);
        frame.extend(0xc123_u16.to_be_bytes());
        frame.extend(self.port.to_be_bytes());
        frame.extend((udp as u16).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(self.flags.to_be_bytes());
        frame.extend((self.vni << 8).to_be_bytes());
        frame.extend(inner);
        frame
    }
}

/// RFC 1071.
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| {
            u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum()
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Whether an ICMPv6 message's checksum is right (RFC 4443, 2.3).
pub fn is_icmp6_right(packet: &[u8]) -> bool {
    let message = &packet[40..];
    let pseudo = sum(&packet[8..40]) + message.len() as u32 + u32::from(ICMP6);
    fold(pseudo + sum(message)) == 0xffff
}
