//! Bytes shared with the kernel programs: map keys, values, capacities, [`ABI_VERSION`].
//!
//! One `no_std` crate read by both sides, so that a layout is written down once.
//!
//! # Invariants
//! - Every type is `#[repr(C)]`, has no implicit padding (explicit `pad` fields, always zero) and its
//!   size is asserted at compile time. No `bool`, `Option`, `usize` or enum fields.
//! - Addresses and ports are in **network byte order** as the kernel's contexts hold them, unless a
//!   field's name says `_host`.
//! - Changing any layout, map capacity or meaning bumps [`ABI_VERSION`]: pinned maps of another
//!   version are not reused.
//!
//! # What it never does
//! No logic beyond constructors.
#![no_std]

/// Version of everything in this crate; part of the pin path.
pub const ABI_VERSION: u32 = 1;

/// Most VIPs (address, port, protocol) on one node.
pub const MAX_VIPS: u32 = 65_536;
/// Slots for backends, shared by all VIPs of a node.
pub const MAX_BACKENDS: u32 = 262_144;
/// Most cgroups with counters on one node.
pub const MAX_CGROUPS: u32 = 16_384;
/// Most (cgroup, VIP) pairs with TCP counters on one node.
pub const MAX_TCP_SERIES: u32 = 32_768;
/// Most (VIP, backend) pairs with counters on one node.
pub const MAX_VIP_SERIES: u32 = 65_536;
/// Buckets of a log2 histogram: bucket `i` counts values `v` (in microseconds) with
/// `floor(log2(v)) == i`, 0 and 1 in bucket 0, the last one open-ended (2^23 us is 8.4 s).
pub const HIST_BUCKETS: usize = 24;

/// What a client dials.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VipKey {
    /// IPv4 address, network order (as `user_ip4`).
    pub addr: u32,
    /// Port, network order.
    pub port: u16,
    /// IANA protocol: 6 or 17.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

/// Where a VIP's backends are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VipValue {
    /// First slot in the backend array.
    pub base: u32,
    /// Number of slots; 0 refuses the connect with ECONNREFUSED.
    pub n: u32,
    /// Stable number of the VIP on this node, never 0; joins counters to names.
    pub vip_id: u32,
    /// Zero.
    pub flags: u32,
}

/// One backend slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Backend {
    /// IPv4 address, network order.
    pub addr: u32,
    /// Port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// Per-socket memory: who opened it and which VIP it dialled.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SockInfo {
    /// cgroup2 id of the task (or other cgroup below the node's root) that owns the socket.
    pub cgroup_id: u64,
    /// `CLOCK_MONOTONIC` at connect, 0 when not an active open.
    pub connect_ns: u64,
    /// VIP number, 0 when no VIP was dialled.
    pub vip_id: u32,
    /// VIP address, network order.
    pub vip_addr: u32,
    /// Backend address, network order.
    pub backend_addr: u32,
    /// VIP port, network order.
    pub vip_port: u16,
    /// Backend port, network order.
    pub backend_port: u16,
    /// `bytes_acked` already counted.
    pub seen_acked: u64,
    /// `bytes_received` already counted.
    pub seen_received: u64,
}

/// VIPs that an unconnected UDP socket talks to at once and keeps a backend of; with more, the one that was
/// chosen longest ago is forgotten.
pub const UDP_PEERS: usize = 4;

/// A VIP that an unconnected UDP socket sends to, and the backend that it was given.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UdpPeer {
    /// VIP address, network order; 0 where there is none.
    pub vip_addr: u32,
    /// Backend address, network order.
    pub backend_addr: u32,
    /// VIP port, network order.
    pub vip_port: u16,
    /// Backend port, network order.
    pub backend_port: u16,
    /// The slot that held the backend when it was chosen.
    pub slot: u32,
}

/// Memory of an unconnected UDP socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UdpPeers {
    /// In no order.
    pub peers: [UdpPeer; UDP_PEERS],
    /// The place that is taken next.
    pub next: u32,
    /// Zero.
    pub pad: u32,
}

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

/// Key of VIP counters.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VipStatKey {
    /// VIP number.
    pub vip_id: u32,
    /// Backend address, network order; 0 for refusals.
    pub addr: u32,
    /// Backend port, network order; 0 for refusals.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// VIP counters; per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VipStat {
    /// Connects sent to this backend (or refused, where the backend is 0).
    pub count: u64,
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
    /// A VIP entry pointed outside of the backend array.
    pub const BAD_SLOT: u32 = 4;
    /// A TCP socket that nobody remembered (opened before the programs were attached, or listening without
    /// a bind): its connection is not counted.
    pub const UNATTRIBUTED: u32 = 5;
    /// Number of reasons.
    pub const COUNT: u32 = 6;
    /// Names, by position, for the exported counter's attribute.
    pub const NAMES: [&str; COUNT as usize] = [
        "cgroup_map_full",
        "tcp_map_full",
        "vip_stat_full",
        "sock_storage_failed",
        "bad_slot",
        "unattributed",
    ];
}

const _: () = {
    assert!(size_of::<VipKey>() == 8);
    assert!(size_of::<VipValue>() == 16);
    assert!(size_of::<Backend>() == 8);
    assert!(size_of::<SockInfo>() == 48);
    assert!(size_of::<UdpPeer>() == 16);
    assert!(size_of::<UdpPeers>() == 16 * UDP_PEERS + 8);
    assert!(size_of::<CgroupNet>() == 32);
    assert!(size_of::<TcpKey>() == 16);
    assert!(size_of::<TcpStats>() == 72 + 2 * 8 * HIST_BUCKETS);
    assert!(size_of::<VipStatKey>() == 12);
    assert!(size_of::<VipStat>() == 8);
};

#[cfg(feature = "user")]
mod user {
    // SAFETY: all are `#[repr(C)]`, `Copy`, without padding (sizes asserted above) and valid for any bit pattern.
    unsafe impl aya::Pod for crate::VipKey {}
    unsafe impl aya::Pod for crate::VipValue {}
    unsafe impl aya::Pod for crate::Backend {}
    unsafe impl aya::Pod for crate::SockInfo {}
    unsafe impl aya::Pod for crate::CgroupNet {}
    unsafe impl aya::Pod for crate::TcpKey {}
    unsafe impl aya::Pod for crate::TcpStats {}
    unsafe impl aya::Pod for crate::VipStatKey {}
    unsafe impl aya::Pod for crate::VipStat {}
}
