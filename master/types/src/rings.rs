//! What edges tell each other of their rings: slots whose owner changed lately.

use std::net::SocketAddrV4;

use crate::{Millis, VipKey};

/// Most rings, and most marks of all rings together, that are told; more are left out.
pub const MAX_RINGS: usize = 4096;
/// See [`MAX_RINGS`].
pub const MAX_MARKS: usize = 65_536;

/// A slot whose previous owner may still have connections that no edge remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeMark {
    /// Position in the ring.
    pub slot: u32,
    /// The backend that it was before, the oldest one whose connections may be left.
    pub previous: SocketAddrV4,
    /// How long ago it changed.
    pub age: Millis,
}

/// The marks of one VIP's ring.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeRing {
    /// Whose ring.
    pub vip: VipKey,
    /// Slots in it: marks of a ring of another size mean nothing.
    pub size: u32,
    /// Marked slots, in order.
    pub marks: Vec<EdgeMark>,
}
