//! What can go wrong, with the object's name in every message.

use std::io;
use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The binary was built without the kernel programs (`cargo xtask build-ebpf` puts them in).
    #[error(
        "this binary was built without ebpf programs: run `cargo xtask build-ebpf`, then build again"
    )]
    BuiltWithoutEbpf,
    /// The cgroup directory is missing or not on a cgroup2 file system.
    #[error("{path} is not a cgroup2 directory")]
    NotCgroup2 {
        /// The directory asked for.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The pin directory is not on a bpffs.
    #[error("{path} is not on a bpf file system (mount one with `mount -t bpf bpf /sys/fs/bpf`)")]
    NotBpffs {
        /// The directory asked for.
        path: PathBuf,
    },
    /// Another process owns the pin directory, and kept it for half a second.
    #[error("{path} is in use by another process")]
    Busy {
        /// The pin directory.
        path: PathBuf,
    },
    /// A file or directory could not be used.
    #[error("{action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the object as a whole (BTF, map creation).
    #[error("load ebpf object")]
    Object {
        /// aya's answer.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The verifier refused a program, or it is missing from the object.
    #[error("load program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// aya's answer, with the verifier's log.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The verifier refused a program when all were asked for.
    #[error("load program {program} of {object}")]
    Verifier {
        /// Its object.
        object: &'static str,
        /// The program.
        program: String,
        /// aya's answer, with the verifier's log.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The embedded object lacks a program or map that this crate expects.
    #[error("the embedded ebpf object has no {what} {name}")]
    Missing {
        /// "program" or "map".
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A pinned map has another layout than this binary expects, under the same ABI version.
    #[error("pinned map {path} has another layout ({found}) than this version's ({expected})")]
    MapLayout {
        /// The pin.
        path: PathBuf,
        /// What is pinned.
        found: String,
        /// What is needed.
        expected: String,
    },
    /// A program could not be attached, or a link not be replaced.
    #[error("{action} link of {name}")]
    Link {
        /// What was tried.
        action: &'static str,
        /// The program.
        name: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody else has a filter where one of ours goes.
    #[error("device {ifindex} has another filter at priority {priority}, where {name} goes")]
    FilterTaken {
        /// The device.
        ifindex: u32,
        /// The program.
        name: &'static str,
        /// The filter's.
        priority: u16,
    },
    /// The kernel keeps no run statistics for us.
    #[error("enable run statistics")]
    Stats {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A map could not be read or written.
    #[error("{action} map {map}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// The map.
        map: &'static str,
        /// aya's answer.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// A map has no room for another entry; what it holds is unchanged.
    #[error("map {map} is full")]
    Full {
        /// The map.
        map: &'static str,
    },
    /// A map could not be mapped into memory.
    #[error("map {map} into memory")]
    Mapping {
        /// The map.
        map: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A cell outside of the array of sets.
    #[error("cells {base}..{end} lie outside of the {capacity} cells")]
    Cells {
        /// First cell.
        base: u32,
        /// One past the last cell.
        end: usize,
        /// How many there are.
        capacity: u32,
    },
    /// The kernel's own type information could not be read.
    #[error("read the kernel's type information")]
    Btf {
        /// aya's answer.
        #[source]
        source: Box<aya::BtfError>,
    },
    /// The kernel's own type information lacks what is looked for.
    #[error("find a field of the kernel's")]
    KernelType(#[source] io::Error),
    /// A net that is to be on a node which is no peer.
    #[error("net {net}: {node} is no peer")]
    NoPeer {
        /// The net.
        net: crate::overlay::Net,
        /// The node's address.
        node: std::net::Ipv4Addr,
    },
    /// A place outside of one of the edge's tables.
    #[error("{table} end at {capacity}, not at {end}")]
    OutOfTable {
        /// The table.
        table: &'static str,
        /// One past the last place.
        end: u64,
        /// How many there are.
        capacity: u32,
    },
}

impl LoadError {
    pub(crate) fn map(
        action: &'static str,
        map: &'static str,
        source: aya::maps::MapError,
    ) -> Self {
        // E2BIG is how the kernel says that a hash is full.
        if let aya::maps::MapError::SyscallError(error) = &source
            && matches!(
                error.io_error.raw_os_error(),
                Some(libc::E2BIG | libc::ENOSPC)
            )
        {
            return Self::Full { map };
        }
        Self::Map {
            action,
            map,
            source: Box::new(source),
        }
    }
}
