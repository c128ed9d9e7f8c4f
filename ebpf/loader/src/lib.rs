//! The data plane's kernel side, from user space: load, attach, pin, replace, read.
//!
//! Why a crate of its own: it is the only one that talks to the `bpf(2)` system call (and the only one
//! that uses aya), so everything above it stays safe, pure and testable without a kernel.
//!
//! # Shape
//! [`DataPlane::open`] loads the embedded programs and attaches them to one cgroup2 directory (the
//! node's root: effective for every cgroup below it), or adopts what an earlier process left pinned.
//! [`VipMaps`] writes the load balancer's tables, [`Counters`] reads what the programs counted.
//!
//! # Invariants
//! - Maps and links are pinned under `<pin_dir>/v<ABI>`, so connections keep being translated and counted
//!   while no process of ours runs. On a restart the maps are reused (counters go on) and each link gets
//!   the new program by `BPF_LINK_UPDATE`: there is no moment without a program.
//! - One owner per pin directory: it is locked (`flock`) for as long as a [`DataPlane`] lives.
//! - A failed [`DataPlane::open`] leaves the links that were attached before as they were or updated; what
//!   it newly attached stays pinned and is adopted by the next one.
//!
//! # What it never does
//! It does not decide what belongs into a map, and it has no background thread: every call is blocking and
//! bounded by the map's size.

#![deny(unsafe_code)]

mod attach;
mod btf;
mod cgroup;
mod counters;
mod doctor;
pub mod edge;
mod error;
mod inject;
mod loader;
mod lock;
mod maps;
mod object;
mod observe;
pub mod overlay;
pub mod packet;
mod pins;
mod programs;
mod records;
mod requests;
#[allow(
    unsafe_code,
    reason = "the bpf(2) commands that aya lacks, and nothing else"
)]
mod sys;
mod tc;
mod tracing;
mod verify;
mod vips;

pub use attach::attach_point_names;
pub use cgroup::{cgroup_id, find_cgroup2_mount};
pub use counters::Counters;
pub use doctor::{Check, doctor, mount_bpffs_if_missing};
pub use error::LoadError;
pub use inject::{Finding, Findings, Injector, Opened, Refusal, Stay, Terms};
pub use loader::{DataPlane, LoaderConfig};
pub use object::is_built_with_ebpf;
pub use observe::{Disk, Observer};
pub use programs::{ProgramInfo, RunStats};
pub use records::FlowRecords;
pub use requests::{RequestRecords, RequestTracer};
pub use tc::TcWay;
pub use verify::{VERIFIER_LIMIT, Verified, verify};
pub use vips::VipMaps;
pub use waggle_ebpf_common as common;
