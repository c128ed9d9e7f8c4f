//! Frames, written out field by field.

use std::net::Ipv4Addr;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
pub const EDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xed];

/// An Ethernet frame with IPv4 and TCP, UDP or anything else.
#[derive(Clone, Debug)]
pub struct Packet {
    pub tags: Vec<u16>,
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub proto: u8,
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub tos: u8,
    pub id: u16,
    /// Flags and offset of the IPv4 header.
    pub fragment: u16,
    pub payload: Vec<u8>,
}

impl Packet {
    pub fn tcp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: u8) -> Self {
        Self {
            tags: Vec::new(),
            src: src.0,
            dst: dst.0,
            proto: TCP,
            sport: src.1,
            dport: dst.1,
            seq: 1000,
            ack: 0,
            flags,
            tos: 0,
            id: 7,
            fragment: 0x4000,
            payload: Vec::new(),
        }
    }

    pub fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), payload: &[u8]) -> Self {
        Self {
            proto: UDP,
            payload: payload.to_vec(),
            ..Self::tcp(src, dst, 0)
        }
    }

    /// From the IPv4 header on.
    pub fn ip(&self) -> Vec<u8> {
        let mut body = Vec::new();
        // Later fragments have payload only.
        if self.fragment & 0x1fff == 0 {
            match self.proto {
                TCP => {
                    body.extend(self.sport.to_be_bytes());
                    body.extend(self.dport.to_be_bytes());
                    body.extend(self.seq.to_be_bytes());
                    body.extend(self.ack.to_be_bytes());
                    body.extend([0x50, self.flags, 0x20, 0, 0, 0, 0, 0]);
                }
                UDP => {
                    body.extend(self.sport.to_be_bytes());
                    body.extend(self.dport.to_be_bytes());
                    body.extend((8 + self.payload.len() as u16).to_be_bytes());
                    body.extend([0, 0]);
                }
                _ => {}
            }
        }
        body.extend(&self.payload);
        if self.fragment & 0x3fff == 0 {
            let sum = transport_checksum(self.src, self.dst, self.proto, &body);
            match self.proto {
                TCP => body[16..18].copy_from_slice(&sum.to_be_bytes()),
                // 0 would mean that there is none.
                UDP if sum == 0 => body[6..8].copy_from_slice(&[0xff, 0xff]),
                UDP => body[6..8].copy_from_slice(&sum.to_be_bytes()),
                _ => {}
            }
        }
        let mut out = ip_header(
            self.src,
            self.dst,
            self.proto,
            (20 + body.len()) as u16,
            self.tos,
            self.id,
            self.fragment,
        );
        out.extend(body);
        out
    }

    pub fn frame(&self) -> Vec<u8> {
        let mut out = ethernet(EDGE_MAC, CLIENT_MAC, &self.tags);
        out.extend(self.ip());
        out
    }
}

pub fn ethernet(dst: [u8; 6], src: [u8; 6], tags: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(dst);
    out.extend(src);
    for (at, tag) in tags.iter().enumerate() {
        let kind: u16 = if at + 1 < tags.len() { 0x88a8 } else { 0x8100 };
        out.extend(kind.to_be_bytes());
        out.extend(tag.to_be_bytes());
    }
    out.extend([8, 0]);
    out
}

pub fn ip_header(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    proto: u8,
    total: u16,
    tos: u8,
    id: u16,
    fragment: u16,
) -> Vec<u8> {
    let mut out = vec![0x45, tos];
    out.extend(total.to_be_bytes());
    out.extend(id.to_be_bytes());
    out.extend(fragment.to_be_bytes());
    out.extend([64, proto, 0, 0]);
    out.extend(src.octets());
    out.extend(dst.octets());
    let sum = checksum(&out);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    out
}

/// RFC 1071, the slow way.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub fn transport_checksum(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, body: &[u8]) -> u16 {
    let mut all = Vec::new();
    all.extend(src.octets());
    all.extend(dst.octets());
    all.extend([0, proto]);
    all.extend((body.len() as u16).to_be_bytes());
    all.extend(body);
    checksum(&all)
}
