//! The arithmetic that program and user space must do alike.
#![allow(
    clippy::inline_always,
    reason = "a call costs a kernel program more than most of these"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "halves of words, and sums folded to 16 bits"
)]

use super::{BUCKET_BITS, Backend, ENCAP_LEN, GUE_PORT, HEADER_LEN};

/// A slot of a ring: previous owner (15 bits), [`DIRTY`](slot::DIRTY), current owner (15 bits) from bit 16.
pub mod slot {
    /// The slot changed lately: flows that are remembered keep their owner.
    pub const DIRTY: u32 = 0x8000;
    /// Owners that a slot can tell apart.
    pub const MAX_OWNERS: u32 = 0x7fff;

    /// A slot.
    #[inline(always)]
    pub const fn pack(previous: u16, current: u16, dirty: bool) -> u32 {
        (previous as u32 & MAX_OWNERS)
            | if dirty { DIRTY } else { 0 }
            | ((current as u32 & MAX_OWNERS) << 16)
    }

    /// Owner before the change.
    #[inline(always)]
    pub const fn previous(slot: u32) -> u16 {
        (slot & MAX_OWNERS) as u16
    }

    /// Owner of new connections.
    #[inline(always)]
    pub const fn current(slot: u32) -> u16 {
        (slot >> 16 & MAX_OWNERS) as u16
    }

    /// Whether it changed lately.
    #[inline(always)]
    pub const fn is_dirty(slot: u32) -> bool {
        slot & DIRTY != 0
    }
}

/// Key of an IPv4 VIP. Never 0. Address and port in network order.
#[inline(always)]
pub const fn key(addr: u32, port: u16, proto: u8) -> u64 {
    (addr as u64) << 32 | (port as u64) << 16 | (proto as u64) << 8 | 1
}

/// Where a key is looked for.
#[inline(always)]
pub const fn bucket(key: u64) -> u32 {
    (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - BUCKET_BITS)) as u32
}

/// Hash of a flow within its VIP.
#[inline(always)]
pub const fn hash(src: u32, ports: u32, seed: u32) -> u32 {
    let mut h = ((src as u64) << 32 | ports as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    h ^= h >> 32;
    h = (h ^ seed as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (h >> 32) as u32
}

/// Slot of a hash in a ring.
#[inline(always)]
pub const fn slot_of(hash: u32, ring_size: u32) -> u32 {
    ((hash as u64 * ring_size as u64) >> 32) as u32
}

/// Coarse time of a flow's last packet, from `CLOCK_MONOTONIC` in nanoseconds: 17 s each.
#[inline(always)]
pub const fn epoch(ns: u64) -> u32 {
    (ns >> 34) as u32
}

/// Time for which budgets count: 17 ms each.
#[inline(always)]
pub const fn tick(ns: u64) -> u64 {
    ns >> 24
}

/// Sequence numbers after a SYN's that still belong to its opening; what a client may send before it is remembered.
pub const OPENING: u32 = 1 << 16;

/// Whether a segment belongs to the connection that a SYN opened, not to an older one of the same addresses and ports.
#[inline(always)]
pub const fn follows(isn: u32, seq: u32) -> bool {
    seq.wrapping_sub(isn).wrapping_sub(1) < OPENING
}

/// Folds a one's complement sum of 16-bit words to 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Whether an address can't be a client's. Network order.
#[inline(always)]
pub const fn is_martian(addr: u32) -> bool {
    let first = addr.to_ne_bytes()[0];
    first == 0 || first == 127 || first >= 224
}

/// Addresses and ports of a [`Backend`](super::Backend).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendPath {
    /// Next hop; zero with [`BACK`](super::backend_flag::BACK).
    pub next_hop: [u8; 6],
    /// The uplink's own address.
    pub own_mac: [u8; 6],
    /// The edge.
    pub edge: [u8; 4],
    /// The backend's node.
    pub node: [u8; 4],
    /// Port of the backend.
    pub port: u16,
    /// Port of the VIP.
    pub vip_port: u16,
    /// MTU of the path, bytes.
    pub mtu: u16,
    /// [Flags](super::backend_flag).
    pub flags: u16,
    /// Never 0.
    pub generation: u16,
}

impl Backend {
    /// No backend.
    pub const NONE: Self = Self {
        header: [0; HEADER_LEN],
        generation: 0,
        sum: 0,
        max_inner: 0,
        flags: 0,
        last_generation: 0,
        pad: 0,
    };

    /// The headers of a path.
    pub fn new(path: &BackendPath) -> Self {
        let mut header = [0; HEADER_LEN];
        header[..6].copy_from_slice(&path.next_hop);
        header[6..12].copy_from_slice(&path.own_mac);
        header[12..14].copy_from_slice(&[0x08, 0x00]);
        // Don't fragment; 64 hops; UDP.
        header[14..24].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17]);
        header[26..30].copy_from_slice(&path.edge);
        header[30..34].copy_from_slice(&path.node);
        header[36..38].copy_from_slice(&GUE_PORT.to_be_bytes());
        // Version 0, one word of private data, IPv4 inside, no flags.
        header[42..46].copy_from_slice(&[0x01, 0x04, 0, 0]);
        header[46..48].copy_from_slice(&path.port.to_be_bytes());
        header[48..50].copy_from_slice(&path.vip_port.to_be_bytes());
        let mut sum = 0;
        let mut at = 14;
        while at < 34 {
            sum += u32::from(u16::from_ne_bytes([header[at], header[at + 1]]));
            at += 2;
        }
        Self {
            header,
            generation: path.generation,
            sum,
            max_inner: path.mtu.saturating_sub(ENCAP_LEN as u16),
            flags: path.flags,
            last_generation: path.generation,
            pad: 0,
        }
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self::NONE
    }
}

/// The fields of the outer headers that differ between packets, as they stand in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Length of the outer IPv4 packet.
    pub total: u16,
    /// Checksum of the outer IPv4 header.
    pub check: u16,
    /// Source port of the outer UDP header.
    pub port: u16,
    /// Length of the outer UDP datagram.
    pub udp: u16,
}

impl Patch {
    /// For an inner packet of `inner` bytes (at most 65,499) of a flow with this hash.
    #[inline(always)]
    pub const fn new(sum: u32, tos: u8, inner: u16, hash: u32) -> Self {
        let total = (inner + ENCAP_LEN as u16).to_be();
        // The type of service is the second byte of the header's first word.
        let tos = u16::from_ne_bytes([0, tos]);
        Self {
            total,
            check: !fold(sum + total as u32 + tos as u32),
            port: (0xc000 | (hash & 0x3fff) as u16).to_be(),
            udp: (inner + (ENCAP_LEN - 20) as u16).to_be(),
        }
    }
}
