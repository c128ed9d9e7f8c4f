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

const _: () = {
    assert!(size_of::<FlowKey>() == 32);
    assert!(size_of::<FlowStats>() == 40);
};
