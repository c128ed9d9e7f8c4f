//! Bytes shared with the kernel programs: map keys, values, capacities, [`ABI_VERSION`].
//!
//! One `no_std` crate read by both sides, so that a layout is written down once.
//!
//! # Invariants
//! - Every type is `#[repr(C)]`, has no implicit padding (explicit `pad` fields, always zero) and its
//!   size is asserted at compile time. No `bool`, `Option`, `usize` or enum fields.
//! - Addresses and ports are in **network byte order** as the kernel's contexts hold them, unless a
//!   field's name says `_host`.
//! - Changing any layout, map capacity or meaning of maps that were there bumps [`ABI_VERSION`], or the overlay's:
//!   pinned maps of another version are not reused.
//!
//! # What it never does
//! No logic beyond constructors, and in [`edge`] and [`inject`] the arithmetic that both sides must do alike.
#![no_std]

mod addr;
pub mod edge;
pub mod flow;
pub mod inject;
pub mod observe;
pub mod overlay;
pub mod packet;
pub mod policy;
pub mod requests;
mod vip;

pub use addr::{Addr, MAPPED, addr_of, ip_of};
pub use vip::*;

/// Version of what is pinned by the programs that every node has, and by the edge's; part of the pin path. The overlay has
/// one of its own ([`overlay::ABI_VERSION`]). An agent of another version can't take over what is pinned, so a bump costs
/// nodes that are taken back to an older version a moment without VIPs: maps that are only added need none.
pub const ABI_VERSION: u32 = 2;

/// Most cgroups with counters on one node.
pub const MAX_CGROUPS: u32 = 16_384;
/// Most (cgroup, VIP) pairs with TCP counters on one node.
pub const MAX_TCP_SERIES: u32 = 32_768;
/// Buckets of a log2 histogram: bucket `i` counts values `v` (in microseconds) with
/// `floor(log2(v)) == i`, 0 and 1 in bucket 0, the last one open-ended (2^23 us is 8.4 s).
pub const HIST_BUCKETS: usize = 24;

/// Bytes and packets of one cgroup, from `cgroup_skb`; per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CgroupNet {
    /// Received bytes, IP header included.
    pub rx_bytes: u64,
    /// Received packets (GRO'd super-packets count once).
    pub rx_packets: u64,
    /// Sent bytes, IP header included.
    pub tx_bytes: u64,
    /// Sent packets (GSO super-packets count once).
    pub tx_packets: u64,
}

/// Key of TCP counters.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TcpKey {
    /// cgroup2 id.
    pub cgroup_id: u64,
    /// VIP number, 0 for traffic outside of VIPs.
    pub vip_id: u32,
    /// Zero.
    pub pad: u32,
}

/// TCP counters, from `sock_ops`; per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpStats {
    /// Active opens that were established.
    pub connects: u64,
    /// Active opens that ended without being established.
    pub connect_failures: u64,
    /// Passive opens that were established.
    pub accepts: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Payload bytes acknowledged by the peer.
    pub tx_bytes: u64,
    /// Payload bytes received.
    pub rx_bytes: u64,
    /// Number of RTT samples.
    pub rtt_count: u64,
    /// Sum of RTT samples, microseconds.
    pub rtt_sum_us: u64,
    /// Sum of connect latencies, microseconds.
    pub connect_sum_us: u64,
    /// RTT samples, log2 microseconds.
    pub rtt_hist: [u64; HIST_BUCKETS],
    /// Connect latency of established active opens, log2 microseconds.
    pub connect_hist: [u64; HIST_BUCKETS],
}

/// Positions in the loss array: what the programs could not count, by reason.
pub mod loss {
    /// No room for a cgroup's counters.
    pub const CGROUP_MAP_FULL: u32 = 0;
    /// No room for a TCP series.
    pub const TCP_MAP_FULL: u32 = 1;
    /// No room for a VIP series.
    pub const VIP_STAT_FULL: u32 = 2;
    /// No per-socket memory: the socket is not attributed and getpeername shows the backend.
    pub const SOCK_STORAGE_FAILED: u32 = 3;
    /// A VIP's entry led to no set of its own, or to an empty cell.
    pub const BAD_CELL: u32 = 4;
    /// A TCP socket that nobody remembered (opened before the programs were attached, or listening without
    /// a bind): its connection is not counted.
    pub const UNATTRIBUTED: u32 = 5;
    /// An unconnected UDP socket spoke to more VIPs at once than it can remember: the one forgotten shows its
    /// backend, not the VIP, in an answer that is still under way.
    pub const UDP_PEER_FORGOTTEN: u32 = 6;
    /// No room for what is known of a backend: it can't be ejected, its connections are not counted.
    pub const BACKEND_STATE_FULL: u32 = 7;
    /// Number of reasons.
    pub const COUNT: u32 = 8;
    /// Names, by position, for the exported counter's attribute.
    pub const NAMES: [&str; COUNT as usize] = [
        "cgroup_map_full",
        "tcp_map_full",
        "vip_stat_full",
        "sock_storage_failed",
        "bad_cell",
        "unattributed",
        "udp_peer_forgotten",
        "backend_state_full",
    ];
}

const _: () = {
    assert!(size_of::<CgroupNet>() == 32);
    assert!(size_of::<TcpKey>() == 16);
    assert!(size_of::<TcpStats>() == 72 + 2 * 8 * HIST_BUCKETS);
};

#[cfg(feature = "user")]
mod user {
    // SAFETY: all are `#[repr(C)]`, `Copy`, without padding (sizes asserted above) and valid for any bit pattern.
    unsafe impl aya::Pod for crate::VipKey {}
    unsafe impl aya::Pod for crate::Cell {}
    unsafe impl aya::Pod for crate::BackendKey {}
    unsafe impl aya::Pod for crate::BackendState {}
    unsafe impl aya::Pod for crate::CgroupNet {}
    unsafe impl aya::Pod for crate::TcpKey {}
    unsafe impl aya::Pod for crate::TcpStats {}
    unsafe impl aya::Pod for crate::VipStatKey {}
    unsafe impl aya::Pod for crate::VipStat {}
    unsafe impl aya::Pod for crate::flow::FlowKey {}
    unsafe impl aya::Pod for crate::inject::Caller {}
    unsafe impl aya::Pod for crate::flow::FlowStats {}
    unsafe impl aya::Pod for crate::observe::DropKey {}
    unsafe impl aya::Pod for crate::observe::IoKey {}
    unsafe impl aya::Pod for crate::observe::IoStats {}
}
