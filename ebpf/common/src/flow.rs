//! Who speaks with whom over TCP: one entry for a task, a VIP (or none), a peer and a server's port.

use crate::Addr;

/// Most entries; with more, what finds no room counts for the entry of zeros of its task and VIP, then for the entry of zeros.
pub const MAX_FLOWS: u32 = 32_768;

/// The task dialled.
pub const DIALLED: u32 = 0;
/// The task accepted.
pub const ACCEPTED: u32 = 1;

/// An edge between a task and a peer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FlowKey {
    /// cgroup2 id.
    pub cgroup_id: u64,
    /// The other end: a backend, where a VIP was dialled. Zeros: all that found no room.
    pub peer: Addr,
    /// VIP number, 0 for none.
    pub vip_id: u32,
    /// The server's port, network order.
    pub port: u16,
    /// [`DIALLED`] or [`ACCEPTED`].
    pub side: u16,
}

/// What went over an edge. All CPUs share it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowStats {
    /// Connections that were established.
    pub opened: u64,
    /// Of these, ended.
    pub closed: u64,
    /// Active opens that ended without being established.
    pub failed: u64,
    /// Payload bytes acknowledged by the peer.
    pub tx_bytes: u64,
    /// Payload bytes received.
    pub rx_bytes: u64,
}

/// Room of the ring of ended connections: 20,000 between two readings.
pub const FLOW_RING_BYTES: u32 = 2 << 20;

/// A connection that has ended, or that was not made.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowRecord {
    /// `CLOCK_MONOTONIC` at the connect or the accept; 0 where nobody saw it.
    pub began_ns: u64,
    /// `CLOCK_MONOTONIC` at the end.
    pub ended_ns: u64,
    /// cgroup2 id of the socket's owner.
    pub cgroup_id: u64,
    /// Payload bytes acknowledged by the peer.
    pub tx_bytes: u64,
    /// Payload bytes received.
    pub rx_bytes: u64,
    /// The socket's address; zeros where it never had one.
    pub local: Addr,
    /// The other end: a backend, where a VIP was dialled; the VIP, where it had none.
    pub peer: Addr,
    /// VIP number, 0 for none.
    pub vip_id: u32,
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// Segments that were sent again.
    pub retransmits: u32,
    /// From the connect to the establishment, microseconds; 0 for what was accepted or never established.
    pub connect_us: u32,
    /// The socket's port, network order.
    pub local_port: u16,
    /// The other end's port, network order.
    pub peer_port: u16,
    /// [`DIALLED`] or [`ACCEPTED`].
    pub side: u8,
    /// [`outcome`].
    pub outcome: u8,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

impl FlowRecord {
    /// What is in the ring; `None` for what is no record.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        fn at<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
            let mut out = [0; N];
            for (to, byte) in out.iter_mut().zip(&bytes[from..]) {
                *to = *byte;
            }
            out
        }
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        let u64_at = |from| u64::from_ne_bytes(at(bytes, from));
        let u32_at = |from| u32::from_ne_bytes(at(bytes, from));
        let u16_at = |from| u16::from_ne_bytes(at(bytes, from));
        let addr_at = |from| {
            [
                u32_at(from),
                u32_at(from + 4),
                u32_at(from + 8),
                u32_at(from + 12),
            ]
        };
        Some(Self {
            began_ns: u64_at(0),
            ended_ns: u64_at(8),
            cgroup_id: u64_at(16),
            tx_bytes: u64_at(24),
            rx_bytes: u64_at(32),
            local: addr_at(40),
            peer: addr_at(56),
            vip_id: u32_at(72),
            rtt_us: u32_at(76),
            retransmits: u32_at(80),
            connect_us: u32_at(84),
            local_port: u16_at(88),
            peer_port: u16_at(90),
            side: bytes[92],
            outcome: bytes[93],
            proto: bytes[94],
            pad: bytes[95],
        })
    }
}

/// How a connection ended.
pub mod outcome {
    /// By one of both ends, as it should.
    pub const CLOSED: u8 = 0;
    /// The peer reset it after it was established.
    pub const RESET: u8 = 1;
    /// The peer refused it.
    pub const REFUSED: u8 = 2;
    /// No answer, no way, or given up while it opened.
    pub const FAILED: u8 = 3;
    /// The VIP had no backend: refused at the socket.
    pub const NO_BACKEND: u8 = 4;
    /// Number of outcomes.
    pub const COUNT: usize = 5;
    /// Names, by position, as everybody sees them.
    pub const NAMES: [&str; COUNT] = ["closed", "reset", "refused", "failed", "no_backend"];
}

const _: () = {
    assert!(size_of::<FlowKey>() == 32);
    assert!(size_of::<FlowStats>() == 40);
    assert!(size_of::<FlowRecord>() == 96);
};
