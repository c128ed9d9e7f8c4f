//! What the programs that only watch tell: waiting for a CPU, requests to disks, packets that the kernel dropped.
//!
//! These programs read structures of the kernel, whose fields are elsewhere in each build: the loader looks the places up
//! in the kernel's own description of its types and writes them into [`at::COUNT`] words before the programs are loaded.

use crate::HIST_BUCKETS;

/// Most pairs of a cgroup and a reason with a count of dropped packets.
pub const MAX_DROPS: u32 = 16_384;
/// Reasons that are counted apart for the node; higher ones count as the last one.
pub const MAX_REASONS: u32 = 256;
/// Most pairs of a cgroup and a direction with figures of disk requests.
pub const MAX_IO: u32 = 2 * crate::MAX_CGROUPS;

/// Key of a watched cgroup's dropped packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DropKey {
    /// cgroup2 id of the socket's owner.
    pub cgroup_id: u64,
    /// The kernel's `enum skb_drop_reason`.
    pub reason: u32,
    /// Zero.
    pub pad: u32,
}

/// Key of disk requests.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IoKey {
    /// Id of the cgroup in the hierarchy that has the controller of disks (cgroup2's, or v1's `blkio`).
    pub cgroup_id: u64,
    /// [`READ`] or [`WRITE`].
    pub direction: u32,
    /// Zero.
    pub pad: u32,
}

/// A request that reads (`REQ_OP_READ`).
pub const READ: u32 = 0;
/// A request that writes (`REQ_OP_WRITE`).
pub const WRITE: u32 = 1;

/// Disk requests that were answered. All CPUs share it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct IoStats {
    /// Sum of the times from the request's start at the device to its end, microseconds.
    pub sum_us: u64,
    /// These times, log2 microseconds.
    pub hist: [u64; HIST_BUCKETS],
}

/// Places of fields, by position: bytes from the beginning of the structure.
pub mod at {
    /// `task_struct.sched_info` and `sched_info.run_delay` added up.
    pub const RUN_DELAY: usize = 0;
    /// `sk_buff.sk`.
    pub const SKB_SK: usize = 1;
    /// `sock.__sk_common` and `sock_common.skc_state` added up.
    pub const SK_STATE: usize = 2;
    /// `sock.sk_cgrp_data` and `sock_cgroup_data.cgroup` added up.
    pub const SK_CGROUP: usize = 3;
    /// `cgroup.kn`.
    pub const CGROUP_KN: usize = 4;
    /// `kernfs_node.id`.
    pub const KN_ID: usize = 5;
    /// `request.io_start_time_ns`.
    pub const RQ_STARTED: usize = 6;
    /// `request.cmd_flags`.
    pub const RQ_FLAGS: usize = 7;
    /// `request.__data_len`.
    pub const RQ_LEN: usize = 8;
    /// `request.bio`.
    pub const RQ_BIO: usize = 9;
    /// `bio.bi_blkg`.
    pub const BIO_BLKG: usize = 10;
    /// `blkcg_gq.blkcg`.
    pub const BLKG_BLKCG: usize = 11;
    /// `blkcg.css` and `cgroup_subsys_state.cgroup` added up.
    pub const BLKCG_CGROUP: usize = 12;
    /// Number of places.
    pub const COUNT: usize = 13;
}

/// Positions in the array of what these programs could not count.
pub mod missed {
    /// No room for a cgroup's dropped packets.
    pub const DROPS_FULL: u32 = 0;
    /// Number of reasons.
    pub const COUNT: u32 = 1;
    /// Names, by position.
    pub const NAMES: [&str; COUNT as usize] = ["drops_map_full"];
}

const _: () = {
    assert!(size_of::<DropKey>() == 16);
    assert!(size_of::<IoKey>() == 16);
    assert!(size_of::<IoStats>() == 8 + 8 * HIST_BUCKETS);
};
