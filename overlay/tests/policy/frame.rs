//! Frames between a task and somebody else.

use std::net::IpAddr;

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const FIN: u8 = 0x01;

/// A packet, as its sender made it.
#[derive(Debug, Clone)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub sport: u16,
    pub dport: u16,
    /// Of TCP.
    pub flags: u8,
    /// What is there instead of a transport header made of the above.
    pub body: Option<Vec<u8>>,
    /// Offset in units of 8 bytes, and whether more follow. IPv4 only.
    pub fragment: (u16, bool),
    pub id: u16,
}

impl Packet {
    pub fn new(src: IpAddr, dst: IpAddr, protocol: u8, sport: u16, dport: u16) -> Self {
        Self {
            src,
            dst,
            protocol,
            sport,
            dport,
            flags: SYN,
            body: None,
            fragment: (0, false),
            id: 7,
        }
    }

    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// The same the other way.
    pub fn back(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            ..self.clone()
        }
    }

    /// An ICMP message: type, code, and what follows the checksum.
    pub fn icmp(src: IpAddr, dst: IpAddr, kind: u8, rest: &[u8]) -> Self {
        let protocol = if src.is_ipv4() { 1 } else { 58 };
        let mut body = vec![kind, 0, 0, 0];
        body.extend_from_slice(rest);
        Self {
            body: Some(body),
            ..Self::new(src, dst, protocol, 0, 0)
        }
    }

    /// The packet without a frame around.
    pub fn ip(&self) -> Vec<u8> {
        let body = self.transport();
        let mut out = Vec::new();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let total = u16::try_from(20 + body.len()).unwrap();
                out.extend([0x45, 0]);
                out.extend(total.to_be_bytes());
                out.extend(self.id.to_be_bytes());
                let (offset, more) = self.fragment;
                out.extend((offset | u16::from(more) << 13).to_be_bytes());
                out.extend([64, self.protocol, 0, 0]);
                out.extend(src.octets());
                out.extend(dst.octets());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                out.extend([0x60, 0, 0, 0]);
                out.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
                out.extend([self.protocol, 64]);
                out.extend(src.octets());
                out.extend(dst.octets());
            }
            other => panic!("{other:?} are of two families"),
        }
        out.extend(body);
        out
    }

    fn transport(&self) -> Vec<u8> {
        if let Some(body) = &self.body {
            return body.clone();
        }
        if self.fragment.0 != 0 {
            return vec![0; 16];
        }
        let mut out = Vec::new();
        out.extend(self.sport.to_be_bytes());
        out.extend(self.dport.to_be_bytes());
        match self.protocol {
            6 => out.extend([
                0,
                0,
                0,
                1,
                0,
                0,
                0,
                2,
                5 << 4,
                self.flags,
                16,
                0,
                0,
                0,
                0,
                0,
            ]),
            17 => out.extend([0, 8, 0, 0]),
            1 | 58 => {
                // An echo request, with the source port as its identifier.
                let kind = if self.protocol == 1 { 8 } else { 128 };
                out = vec![kind, 0, 0, 0];
                out.extend(self.sport.to_be_bytes());
                out.extend([0, 1]);
            }
            _ => out.extend([0; 12]),
        }
        out
    }

    /// In a frame from this MAC address.
    pub fn frame(&self, source: [u8; 6]) -> Vec<u8> {
        let kind: u16 = if self.src.is_ipv4() { 0x0800 } else { 0x86dd };
        let mut out = vec![2, 0, 0, 0, 0, 1];
        out.extend(source);
        out.extend(kind.to_be_bytes());
        out.extend(self.ip());
        // The kernel wants more than a header in a test run.
        out.resize(out.len().max(60), 0);
        out
    }
}
