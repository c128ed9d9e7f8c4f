//! The programs that only watch, from user space: load, attach, say which cgroups are of interest, read.
//!
//! [`Observer`] has an object of its own, and each of its parts can fail alone: a kernel that lacks a tracepoint or a field costs
//! the figures that come from it and nothing else. Maps and links are pinned beside the data plane's, so that what happens
//! while no process of ours runs is counted.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap};
use aya::{Btf, Ebpf, EbpfLoader};
use waggle_ebpf_common::MAX_CGROUPS;
use waggle_ebpf_common::observe::{
    DropKey, IoKey, IoStats, MAX_DROPS, MAX_IO, MAX_REASONS, READ, WRITE, at, missed,
};

use crate::btf::KernelTypes;
use crate::maps::{Layout, check_layout, count, gone, make, open};
use crate::tracing::{self, Traced};
use crate::{DataPlane, LoadError, object};

/// The programs; names as in `ebpf/programs/src/observe`.
pub(crate) const PROGRAMS: [Traced; 3] = [
    Traced {
        name: "task_exited",
        attach: "tp_btf/sched_process_exit",
        tracepoint: "sched_process_exit",
    },
    Traced {
        name: "io_done",
        attach: "tp_btf/block_rq_complete",
        tracepoint: "block_rq_complete",
    },
    Traced {
        name: "dropped",
        attach: "tp_btf/kfree_skb",
        tracepoint: "kfree_skb",
    },
];

const RUN_DELAY: &str = "RUN_DELAY";
const DISK_IO: &str = "DISK_IO";
const DROPS: &str = "DROPS";
const LOSS: &str = "OBSERVE_LOSS";
const NODE_DROPS: &str = "NODE_DROPS";
const MAPS: [(&str, Layout); 5] = [
    (RUN_DELAY, (size_of::<u64>(), size_of::<u64>(), MAX_CGROUPS)),
    (DISK_IO, (size_of::<IoKey>(), size_of::<IoStats>(), MAX_IO)),
    (DROPS, (size_of::<DropKey>(), size_of::<u64>(), MAX_DROPS)),
    (
        NODE_DROPS,
        (size_of::<u32>(), size_of::<u64>(), MAX_REASONS),
    ),
    (LOSS, (size_of::<u32>(), size_of::<u64>(), missed::COUNT)),
];

/// A field, as the sum of the places on the way to it.
type Way = &'static [(&'static str, &'static str)];

const RUN: &[&str] = &["task_exited"];
const DISK: &[&str] = &["io_done"];
const DROPPED: &[&str] = &["dropped"];
const BOTH: &[&str] = &["io_done", "dropped"];

/// Where each place of [`at`] is looked for, and which programs need it.
const PLACES: [(usize, &[&str], Way); at::COUNT] = [
    (
        at::RUN_DELAY,
        RUN,
        &[("task_struct", "sched_info"), ("sched_info", "run_delay")],
    ),
    (at::SKB_SK, DROPPED, &[("sk_buff", "sk")]),
    (
        at::SK_STATE,
        DROPPED,
        &[("sock", "__sk_common"), ("sock_common", "skc_state")],
    ),
    (
        at::SK_CGROUP,
        DROPPED,
        &[("sock", "sk_cgrp_data"), ("sock_cgroup_data", "cgroup")],
    ),
    (at::CGROUP_KN, BOTH, &[("cgroup", "kn")]),
    (at::KN_ID, BOTH, &[("kernfs_node", "id")]),
    (at::RQ_STARTED, DISK, &[("request", "io_start_time_ns")]),
    (at::RQ_FLAGS, DISK, &[("request", "cmd_flags")]),
    (at::RQ_LEN, DISK, &[("request", "__data_len")]),
    (at::RQ_BIO, DISK, &[("request", "bio")]),
    (at::BIO_BLKG, DISK, &[("bio", "bi_blkg")]),
    (at::BLKG_BLKCG, DISK, &[("blkcg_gq", "blkcg")]),
    (
        at::BLKCG_CGROUP,
        DISK,
        &[("blkcg", "css"), ("cgroup_subsys_state", "cgroup")],
    ),
];

/// What was watched of a cgroup's disk requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Disk {
    /// Requests that read.
    pub read: IoStats,
    /// Requests that wrote.
    pub write: IoStats,
}

/// The watching programs and their maps.
///
/// Dropping it leaves links and maps, pinned. Its owner keeps the data plane open as long: the lock on the pins is that one's.
pub struct Observer {
    tables: Mutex<Tables>,
    /// Names of reasons, without the prefix, in lower case.
    reasons: BTreeMap<u32, String>,
    attached: Vec<&'static str>,
    troubles: Vec<LoadError>,
    // Held: a program whose object is gone can't be asked what it costs.
    ebpf: Mutex<Ebpf>,
    _links: Vec<OwnedFd>,
}

struct Tables {
    run_delay: HashMap<MapData, u64, u64>,
    disk: HashMap<MapData, IoKey, IoStats>,
    drops: PerCpuHashMap<MapData, DropKey, u64>,
    node_drops: PerCpuArray<MapData, u64>,
    loss: PerCpuArray<MapData, u64>,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer")
            .field("attached", &self.attached)
            .finish_non_exhaustive()
    }
}

impl Observer {
    /// Loads and attaches what this kernel takes, reusing pinned maps. What it does not take is in
    /// [`Observer::troubles`]. Takes tens of milliseconds: the kernel's types are read.
    ///
    /// # Errors
    /// [`LoadError::BuiltWithoutEbpf`] before anything is touched; [`LoadError::Btf`] on a kernel without type information;
    /// [`LoadError::Object`] where the maps can't be made; [`LoadError::MapLayout`] for pinned ones of another form.
    pub fn open(plane: &DataPlane) -> Result<Self, LoadError> {
        let object = object::observe()?;
        let types = KernelTypes::read().map_err(LoadError::KernelType)?;
        let btf = Btf::from_sys_fs().map_err(|source| LoadError::Btf {
            source: Box::new(source),
        })?;
        let mut places = [0_u32; at::COUNT];
        let mut missing: BTreeMap<&str, String> = BTreeMap::new();
        for (place, programs, way) in PLACES {
            match find(&types, way) {
                Ok(found) => places[place] = found,
                Err(error) => {
                    missing.extend(programs.iter().map(|name| (*name, error.to_string())));
                }
            }
        }
        let arguments = types.tracepoint_arguments("kfree_skb").unwrap_or(0);
        let has_socket = u32::from(arguments > 3);
        let mut loader = EbpfLoader::new();
        for (name, layout) in MAPS {
            let path = plane.pins.map(name);
            if path.exists() {
                check_layout(name, path.clone(), layout)?;
            }
            loader.map_pin_path(name, path);
        }
        loader.override_global("AT", &places, true);
        loader.override_global("RX_SK", &has_socket, true);
        loader.btf(None);
        let mut ebpf = loader.load(object).map_err(|source| LoadError::Object {
            source: Box::new(source),
        })?;
        let tables = Tables {
            run_delay: open(&mut ebpf, RUN_DELAY)?,
            disk: open(&mut ebpf, DISK_IO)?,
            drops: open(&mut ebpf, DROPS)?,
            node_drops: open(&mut ebpf, NODE_DROPS)?,
            loss: open(&mut ebpf, LOSS)?,
        };
        let (mut links, mut attached, mut troubles) = (Vec::new(), Vec::new(), Vec::new());
        for traced in &PROGRAMS {
            if let Some(why) = missing.remove(traced.name) {
                let error = io::Error::new(io::ErrorKind::InvalidData, why);
                troubles.push(LoadError::KernelType(error));
                continue;
            }
            // The old one goes first: what both would see must not count twice.
            let _ = fs::remove_file(plane.pins.link(traced.name));
            match tracing::attach(&plane.pins, &mut ebpf, traced, &btf) {
                Ok(link) => {
                    links.push(link);
                    attached.push(traced.name);
                }
                Err(error) => troubles.push(error),
            }
        }
        Ok(Self {
            tables: Mutex::new(tables),
            reasons: reasons(&types),
            attached,
            troubles,
            ebpf: Mutex::new(ebpf),
            _links: links,
        })
    }

    /// What this kernel does not take, with its answers.
    pub fn troubles(&self) -> &[LoadError] {
        &self.troubles
    }

    /// The programs that are attached.
    pub fn attached(&self) -> &[&'static str] {
        &self.attached
    }

    /// Begins to count for a cgroup; `disk_id` is its id in the hierarchy that has the controller of disks, where there is
    /// one. What is counted already stays.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel, also when a map is full.
    pub fn watch(&self, cgroup_id: u64, disk_id: Option<u64>) -> Result<(), LoadError> {
        let mut tables = self.lock();
        make(&mut tables.run_delay, RUN_DELAY, cgroup_id, 0)?;
        for key in disk_id.iter().copied().flat_map(disk_keys) {
            make(&mut tables.disk, DISK_IO, key, IoStats::default())?;
        }
        Ok(())
    }

    /// Forgets cgroups that are gone, each with its id where the controller of disks is, in one pass. Not watched is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn forget(&self, ended: &BTreeMap<u64, Option<u64>>) -> Result<(), LoadError> {
        let mut tables = self.lock();
        for (cgroup_id, disk_id) in ended {
            gone(tables.run_delay.remove(cgroup_id), RUN_DELAY)?;
            for key in disk_id.iter().copied().flat_map(disk_keys) {
                gone(tables.disk.remove(&key), DISK_IO)?;
            }
        }
        let keys: Vec<DropKey> = tables.drops.keys().filter_map(Result::ok).collect();
        let is_gone = |key: &DropKey| ended.contains_key(&key.cgroup_id);
        for key in keys.into_iter().filter(is_gone) {
            gone(tables.drops.remove(&key), DROPS)?;
        }
        Ok(())
    }

    /// Nanoseconds that threads of a cgroup which have ended waited for a CPU; `None` where that is not watched.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn run_delay(&self, cgroup_id: u64) -> Result<Option<u64>, LoadError> {
        if !self.attached.contains(&PROGRAMS[0].name) {
            return Ok(None);
        }
        found(self.lock().run_delay.get(&cgroup_id, 0), RUN_DELAY)
    }

    /// Disk requests of a cgroup, by its id in the hierarchy of the controller of disks; `None` where that is not watched.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn disk(&self, disk_id: u64) -> Result<Option<Disk>, LoadError> {
        if !self.attached.contains(&PROGRAMS[1].name) {
            return Ok(None);
        }
        let tables = self.lock();
        let [read, write] = disk_keys(disk_id).map(|key| found(tables.disk.get(&key, 0), DISK_IO));
        Ok(read?.zip(write?).map(|(read, write)| Disk { read, write }))
    }

    /// Packets of watched cgroups that the kernel dropped, by cgroup and the reason's name; empty where that is not watched.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn drops(&self) -> Result<BTreeMap<(u64, &str), u64>, LoadError> {
        let tables = self.lock();
        let mut sums = BTreeMap::new();
        for key in tables.drops.keys() {
            let key = key.map_err(|e| LoadError::map("list", DROPS, e))?;
            if let Some(per_cpu) = found(tables.drops.get(&key, 0), DROPS)? {
                let at = (key.cgroup_id, self.reason(key.reason));
                *sums.entry(at).or_default() += per_cpu.iter().sum::<u64>();
            }
        }
        Ok(sums)
    }

    /// Packets that the kernel dropped, whosever they were, by the reason's name; reasons without one are left out.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn node_drops(&self) -> Result<BTreeMap<&str, u64>, LoadError> {
        let tables = self.lock();
        let mut sums = BTreeMap::new();
        for at in 0..MAX_REASONS {
            let n = count(&tables.node_drops, NODE_DROPS, at)?;
            if n > 0 {
                *sums.entry(self.reason(at)).or_default() += n;
            }
        }
        Ok(sums)
    }

    fn reason(&self, reason: u32) -> &str {
        self.reasons.get(&reason).map_or("other", String::as_str)
    }

    /// What the programs could not count, by reason.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn missed(&self) -> Result<Vec<(&'static str, u64)>, LoadError> {
        let tables = self.lock();
        (0..)
            .zip(missed::NAMES)
            .map(|(at, name)| Ok((name, count(&tables.loss, LOSS, at)?)))
            .collect()
    }

    /// The loaded programs and, where the kernel keeps run statistics, what they cost.
    pub fn programs(&self) -> Vec<crate::ProgramInfo> {
        let ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        crate::programs::traced(&ebpf, PROGRAMS.iter())
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What reads, and what writes.
fn disk_keys(cgroup_id: u64) -> [IoKey; 2] {
    [READ, WRITE].map(|direction| IoKey {
        cgroup_id,
        direction,
        pad: 0,
    })
}

fn find(types: &KernelTypes, way: Way) -> io::Result<u32> {
    way.iter()
        .map(|(structure, member)| types.offset(structure, member))
        .sum()
}

fn reasons(types: &KernelTypes) -> BTreeMap<u32, String> {
    let all = types.enumeration("skb_drop_reason").unwrap_or_default();
    all.into_iter()
        .map(|(value, name)| {
            let short = name.strip_prefix("SKB_DROP_REASON_");
            let short = short.or_else(|| name.strip_prefix("SKB_"));
            (value, short.unwrap_or(&name).to_ascii_lowercase())
        })
        .collect()
}

/// What is not there is `None`.
fn found<T>(value: Result<T, MapError>, name: &'static str) -> Result<Option<T>, LoadError> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(LoadError::map("read", name, error)),
    }
}
