//! The edge's program, written down a second time: slowly, on slices, without maps or pointers.
//!
//! Only the hash is shared with the program (`waggle_ebpf_common::edge`); every offset, length, checksum and rule is
//! this file's own.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use waggle_ebpf::common::edge;

use crate::packet::{ACK, FIN, ICMP, RST, SYN, TCP, UDP, checksum, transport_checksum};

pub const DROP: u32 = 1;
pub const PASS: u32 = 2;
pub const TX: u32 = 3;

#[derive(Clone, Debug)]
pub struct Backend {
    pub node: Ipv4Addr,
    pub port: u16,
    pub next_hop: Option<[u8; 6]>,
    pub is_local: bool,
    pub mtu: usize,
}

#[derive(Clone, Debug)]
pub struct Vip {
    /// Previous owner, current owner, changed lately.
    pub ring: Vec<(u16, u16, bool)>,
    pub backends: Vec<Backend>,
    pub affinity: bool,
    /// All are draining.
    pub no_new: bool,
    pub ranges: Option<Vec<(Ipv4Addr, u8)>>,
    pub seed: u32,
}

/// What a decision may be: none when the packet is not ours, else the verdict and, if it was changed, the frame.
type Decision = Option<(u32, Option<Vec<u8>>)>;

/// Address, port, protocol.
pub type Key = (Ipv4Addr, u16, u8);

type Tuple = (Ipv4Addr, u16, Ipv4Addr, u16, u8);

#[derive(Clone, Debug)]
pub struct Model {
    pub edge: Ipv4Addr,
    pub own_mac: [u8; 6],
    pub vip_net: (Ipv4Addr, u8),
    pub vips: BTreeMap<Key, Vip>,
    /// Whether there is room in the budgets.
    pub may_remember: bool,
    pub flows: BTreeMap<Tuple, u16>,
    pub opening: BTreeMap<Tuple, (u16, u32)>,
    pub fragments: BTreeMap<(Ipv4Addr, Ipv4Addr, u16, u8), (Key, u16)>,
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn addr(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(long(bytes, at))
}

impl Model {
    /// Verdict and frame afterwards.
    pub fn run(&mut self, frame: &[u8]) -> (u32, Vec<u8>) {
        let (verdict, out) = self.decide(frame).unwrap_or((PASS, None));
        (verdict, out.unwrap_or_else(|| frame.to_vec()))
    }

    /// None: not ours.
    fn decide(&mut self, frame: &[u8]) -> Decision {
        // The link layer.
        if frame.len() < 34 {
            return None;
        }
        let mut l2 = 14;
        if frame.len() >= 50 {
            match (word(frame, 12), word(frame, 16), word(frame, 20)) {
                (0x8100 | 0x88a8, 0x0800, _) => l2 = 18,
                (0x8100 | 0x88a8, 0x8100, 0x0800) => l2 = 22,
                _ => {}
            }
        }
        if word(frame, l2 - 2) != 0x0800 {
            return None;
        }
        let ip = &frame[l2..];
        if ip[0] != 0x45 {
            return None;
        }
        let total = word(ip, 2);
        let (src, dst) = (addr(ip, 12), addr(ip, 16));
        let offset = word(ip, 6) & 0x1fff;
        let is_fragment = word(ip, 6) & 0x3fff != 0;
        let proto = ip[9];
        if ip.len() < 28 && offset == 0 {
            return None;
        }
        if is_fragment {
            return self.fragment(frame, l2, total, src, dst, offset, proto);
        }
        if proto == ICMP {
            return self.icmp(frame, l2, total, dst);
        }
        if proto != TCP && proto != UDP {
            return None;
        }
        let (sport, dport) = (word(ip, 20) as u16, word(ip, 22) as u16);
        let key = (dst, dport, proto);
        let vip = self.vips.get(&key)?.clone();
        let least = if proto == TCP { 40 } else { 28 };
        if ip.len() < least || total < least || total > ip.len() {
            return Some((DROP, None));
        }
        if self.is_no_client(src, dst) || !is_allowed(&vip, src) {
            return Some((DROP, None));
        }
        let opens = proto == TCP && ip[33] & (SYN | ACK) == SYN;
        if vip.backends.is_empty() || (vip.no_new && opens) {
            return Some(if proto == TCP {
                reset(frame, l2, total)
            } else {
                (TX, Some(unreachable(frame, l2, 3, 0)))
            });
        }
        let (syn, seq) = if proto == TCP {
            (ip[33] & (SYN | ACK) == SYN, long(ip, 24))
        } else {
            (false, 0)
        };
        let hash = hash(&vip, src, sport, dport);
        let slot = vip.ring[slot_of(hash, &vip)];
        let owner = self.owner((src, sport, dst, dport, proto), slot, syn, seq);
        let backend = &vip.backends[usize::from(owner)];
        if total > backend.mtu - 36 {
            return Some((TX, Some(unreachable(frame, l2, 4, backend.mtu - 36))));
        }
        Some(self.encapsulated(frame, l2, backend, dport, hash))
    }

    fn owner(&mut self, tuple: Tuple, slot: (u16, u16, bool), syn: bool, seq: u32) -> u16 {
        let (previous, current, changed) = slot;
        if !changed {
            return current;
        }
        if let Some(owner) = self.flows.get(&tuple) {
            return *owner;
        }
        if let Some((owner, isn)) = self.opening.get(&tuple).copied() {
            if syn && isn == seq {
                return owner;
            }
            let ahead = seq.wrapping_sub(isn);
            if !syn && (1..=65_536).contains(&ahead) {
                self.flows.insert(tuple, owner);
                return owner;
            }
        }
        if syn {
            if !self.may_remember {
                return previous;
            }
            self.opening.insert(tuple, (current, seq));
            return current;
        }
        if self.may_remember {
            self.flows.insert(tuple, previous);
        }
        previous
    }

    fn peek(&self, tuple: Tuple, slot: (u16, u16, bool)) -> u16 {
        let (previous, current, changed) = slot;
        if !changed {
            return current;
        }
        let opening = self.opening.get(&tuple).map(|(owner, _)| owner);
        *self.flows.get(&tuple).or(opening).unwrap_or(&previous)
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of a header")]
    fn fragment(
        &mut self,
        frame: &[u8],
        l2: usize,
        total: usize,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        offset: usize,
        proto: u8,
    ) -> Decision {
        let ip = &frame[l2..];
        if total <= 20 || total > ip.len() {
            return None;
        }
        let id = word(ip, 4) as u16;
        let hash = edge::hash(u32::from_ne_bytes(src.octets()), u32::from(id.to_be()), 0);
        if offset > 0 {
            let (key, owner) = *self.fragments.get(&(src, dst, id, proto))?;
            let backend = &self.vips[&key].backends[usize::from(owner)];
            if total > backend.mtu - 36 {
                return Some((DROP, None));
            }
            return Some(self.encapsulated(frame, l2, backend, key.1, hash));
        }
        if proto != TCP && proto != UDP {
            return None;
        }
        let (sport, dport) = (word(ip, 20) as u16, word(ip, 22) as u16);
        let key = (dst, dport, proto);
        let vip = self.vips.get(&key)?;
        if self.is_no_client(src, dst) || !is_allowed(vip, src) || vip.backends.is_empty() {
            return Some((DROP, None));
        }
        let chosen = self::hash(vip, src, sport, dport);
        let slot = vip.ring[slot_of(chosen, vip)];
        let owner = self.peek((src, sport, dst, dport, proto), slot);
        let backend = &vip.backends[usize::from(owner)];
        if total > backend.mtu - 36 {
            return Some((TX, Some(unreachable(frame, l2, 4, backend.mtu - 36))));
        }
        let out = self.encapsulated(frame, l2, backend, dport, hash);
        self.fragments.insert((src, dst, id, proto), (key, owner));
        Some(out)
    }

    fn icmp(&self, frame: &[u8], l2: usize, total: usize, dst: Ipv4Addr) -> Decision {
        let ip = &frame[l2..];
        if ip.len() < 56 || !matches!(ip[20], 3 | 11 | 12) {
            return None;
        }
        let quoted = &ip[28..];
        let proto = quoted[9];
        if quoted[0] != 0x45
            || word(quoted, 6) & 0x1fff != 0
            || addr(quoted, 12) != dst
            || (proto != TCP && proto != UDP)
        {
            return None;
        }
        let (vip_port, client_port) = (word(quoted, 20) as u16, word(quoted, 22) as u16);
        let client = addr(quoted, 16);
        let vip = self.vips.get(&(dst, vip_port, proto))?;
        if total < 56 || total > ip.len() || vip.backends.is_empty() {
            return Some((DROP, None));
        }
        let hash = hash(vip, client, client_port, vip_port);
        let slot = vip.ring[slot_of(hash, vip)];
        let owner = self.peek((client, client_port, dst, vip_port, proto), slot);
        let backend = &vip.backends[usize::from(owner)];
        if total > backend.mtu - 36 {
            return Some((DROP, None));
        }
        Some(self.encapsulated(frame, l2, backend, vip_port, hash))
    }

    fn is_no_client(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        let first = src.octets()[0];
        first == 0
            || first == 127
            || first >= 224
            || src == dst
            || is_in(src, self.vip_net.0, self.vip_net.1)
    }

    fn encapsulated(
        &self,
        frame: &[u8],
        l2: usize,
        backend: &Backend,
        vip_port: u16,
        hash: u32,
    ) -> (u32, Option<Vec<u8>>) {
        let total = word(frame, l2 + 2) as u16;
        let mut out = Vec::new();
        let (dst, src) = match (backend.is_local, backend.next_hop) {
            (true, _) => (frame[..6].to_vec(), self.own_mac.to_vec()),
            (false, Some(next_hop)) => (next_hop.to_vec(), self.own_mac.to_vec()),
            (false, None) => (frame[6..12].to_vec(), frame[..6].to_vec()),
        };
        out.extend(dst);
        out.extend(src);
        out.extend(&frame[12..l2]);
        let mut ip = vec![0x45, frame[l2 + 1]];
        ip.extend((total + 36).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        ip.extend(self.edge.octets());
        ip.extend(backend.node.octets());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend(ip);
        out.extend((0xc000 | (hash & 0x3fff) as u16).to_be_bytes());
        out.extend(6080_u16.to_be_bytes());
        out.extend((total + 16).to_be_bytes());
        out.extend([0, 0]);
        out.extend([1, 4, 0, 0]);
        out.extend(backend.port.to_be_bytes());
        out.extend(vip_port.to_be_bytes());
        out.extend(&frame[l2..]);
        (if backend.is_local { PASS } else { TX }, Some(out))
    }
}

fn hash(vip: &Vip, src: Ipv4Addr, sport: u16, dport: u16) -> u32 {
    let [a, b] = sport.to_be_bytes();
    let [c, d] = dport.to_be_bytes();
    let ports = if vip.affinity {
        0
    } else {
        u32::from_ne_bytes([a, b, c, d])
    };
    edge::hash(u32::from_ne_bytes(src.octets()), ports, vip.seed)
}

fn slot_of(hash: u32, vip: &Vip) -> usize {
    (hash as usize * vip.ring.len()) >> 32
}

fn is_in(addr: Ipv4Addr, net: Ipv4Addr, prefix: u8) -> bool {
    (0..u32::from(prefix)).all(|bit| {
        let mask = 1 << (31 - bit);
        u32::from(addr) & mask == u32::from(net) & mask
    })
}

fn is_allowed(vip: &Vip, src: Ipv4Addr) -> bool {
    vip.ranges
        .as_ref()
        .is_none_or(|nets| nets.iter().any(|(net, prefix)| is_in(src, *net, *prefix)))
}

fn link_back(frame: &[u8], l2: usize) -> Vec<u8> {
    let mut out = frame[6..12].to_vec();
    out.extend(&frame[..6]);
    out.extend(&frame[12..l2]);
    out
}

fn reset(frame: &[u8], l2: usize, total: usize) -> (u32, Option<Vec<u8>>) {
    let ip = &frame[l2..];
    let flags = ip[33];
    if flags & RST != 0 {
        return (DROP, None);
    }
    let (src, dst) = (addr(ip, 12), addr(ip, 16));
    let mut tcp = Vec::new();
    tcp.extend(&ip[22..24]);
    tcp.extend(&ip[20..22]);
    if flags & ACK != 0 {
        tcp.extend(&ip[28..32]);
        tcp.extend([0; 4]);
        tcp.extend([0x50, RST]);
    } else {
        let payload = (total as u32).wrapping_sub(20 + u32::from(ip[32] >> 4) * 4);
        let length = payload
            .wrapping_add(u32::from(flags & SYN != 0))
            .wrapping_add(u32::from(flags & FIN != 0));
        tcp.extend([0; 4]);
        tcp.extend(long(ip, 24).wrapping_add(length).to_be_bytes());
        tcp.extend([0x50, RST | ACK]);
    }
    tcp.extend([0; 6]);
    let sum = transport_checksum(dst, src, TCP, &tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut out = link_back(frame, l2);
    out.extend(crate::packet::ip_header(dst, src, TCP, 40, 0, 0, 0x4000));
    out.extend(tcp);
    (TX, Some(out))
}

fn unreachable(frame: &[u8], l2: usize, code: u8, mtu: usize) -> Vec<u8> {
    let ip = &frame[l2..];
    let mut icmp = vec![3, code, 0, 0, 0, 0];
    icmp.extend((mtu as u16).to_be_bytes());
    icmp.extend(&ip[..28]);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut out = link_back(frame, l2);
    let (src, dst) = (addr(ip, 12), addr(ip, 16));
    out.extend(crate::packet::ip_header(dst, src, ICMP, 56, 0, 0, 0x4000));
    out.extend(icmp);
    out
}
