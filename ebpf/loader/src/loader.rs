//! Opening and removing the data plane.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use aya::maps::{MapInfo, MapType};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use waggle_ebpf_common::flow::{FLOW_RING_BYTES, FlowKey, FlowStats, MAX_FLOWS};
use waggle_ebpf_common::{
    Affinity, AffinityKey, BackendKey, BackendState, Cell, CgroupNet, EJECTION_BUCKETS,
    MAX_AFFINITIES, MAX_BACKEND_STATES, MAX_CELLS, MAX_CGROUPS, MAX_TCP_SERIES, MAX_VIP_SERIES,
    MAX_VIPS, SockInfo, TcpKey, TcpStats, UdpPeers, VipKey, VipStat, VipStatKey, loss,
};

use crate::attach::{self, Attached, HOOKS, Hook};
use crate::lock::{self, Lock};
use crate::pins::{self, Pins};
use crate::{
    Counters, FlowRecords, LoadError, ProgramInfo, VipMaps, cgroup, object, programs, sys,
};

/// Where to attach and where to pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// The node's cgroup2 directory; the programs see it and every cgroup below it.
    pub cgroup_root: PathBuf,
    /// Directory on a bpffs for this node's pins; made if missing.
    pub pin_dir: PathBuf,
}

/// What a map must look like, to be reused.
struct MapSpec {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
}

const fn map_spec<K, V>(name: &'static str, kind: MapType, entries: u32) -> MapSpec {
    MapSpec {
        name,
        kind,
        key: size_of::<K>(),
        value: size_of::<V>(),
        entries,
    }
}

/// Names as in `ebpf/programs/src/maps.rs`.
const MAPS: &[MapSpec] = &[
    map_spec::<VipKey, u32>("VIPS", MapType::Hash, MAX_VIPS),
    map_spec::<u32, Cell>("CELLS", MapType::Array, MAX_CELLS),
    map_spec::<AffinityKey, Affinity>("AFFINITIES", MapType::LruHash, MAX_AFFINITIES),
    map_spec::<BackendKey, BackendState>("BACKEND_STATES", MapType::Hash, MAX_BACKEND_STATES),
    map_spec::<u32, u64>("EJECTIONS", MapType::Array, EJECTION_BUCKETS),
    map_spec::<VipStatKey, VipStat>("VIP_STATS", MapType::PerCpuHash, MAX_VIP_SERIES),
    map_spec::<u64, CgroupNet>("CGROUP_NET", MapType::PerCpuHash, MAX_CGROUPS),
    map_spec::<TcpKey, TcpStats>("TCP_STATS", MapType::PerCpuHash, MAX_TCP_SERIES),
    map_spec::<FlowKey, FlowStats>("FLOWS", MapType::Hash, MAX_FLOWS),
    map_spec::<(), ()>("FLOW_RECORDS", MapType::RingBuf, FLOW_RING_BYTES),
    map_spec::<u32, u64>("FLOW_LOST", MapType::PerCpuArray, 1),
    map_spec::<u32, u64>("LOSS", MapType::PerCpuArray, loss::COUNT),
    map_spec::<i32, SockInfo>("SOCKS", MapType::SkStorage, 0),
    map_spec::<i32, UdpPeers>("UDP_SOCKS", MapType::SkStorage, 0),
    map_spec::<u32, u32>(crate::tracing::SK_ERR_AT, MapType::Array, 1),
];

/// The programs and maps of one node, attached.
///
/// Dropping it releases the lock on the pin directory; links and maps stay, pinned.
#[derive(Debug)]
pub struct DataPlane {
    pub(crate) ebpf: Mutex<Ebpf>,
    pub(crate) pins: Pins,
    /// The links of the programs that see what backends refuse, once they are attached.
    pub(crate) resets: Mutex<Option<[OwnedFd; 2]>>,
    vips: VipMaps,
    counters: Counters,
    records: Mutex<Option<FlowRecords>>,
    adopted: bool,
    links: Vec<OwnedFd>,
    _lock: Lock,
}

impl DataPlane {
    /// Loads the programs and attaches them, reusing pinned maps and replacing the programs of pinned links. Those of
    /// another ABI version stay beside them until [`DataPlane::retire_others`].
    ///
    /// # Errors
    /// [`LoadError::BuiltWithoutEbpf`] before anything is touched; see [`LoadError`] for the rest.
    pub fn open(config: &LoaderConfig) -> Result<Self, LoadError> {
        let object = object::object()?;
        let cgroup = cgroup::open(&config.cgroup_root)?;
        let cgroup_id = cgroup::cgroup_id(&config.cgroup_root)?;
        let pins = Pins::new(&config.pin_dir);
        pins.create()?;
        let lock = lock::lock(pins.root())?;

        let mut loader = EbpfLoader::new();
        for spec in MAPS {
            let path = pins.map(spec.name);
            if path.exists() {
                check_layout(spec, &path)?;
            }
            loader.map_pin_path(spec.name, path);
        }
        // Our own object needs no CO-RE relocations: parsing the kernel's BTF would cost 50 ms and 20 MB.
        loader.btf(None);
        loader.allow_unsupported_maps();
        let mut ebpf = loader.load(object).map_err(|source| LoadError::Object {
            source: Box::new(source),
        })?;

        // All programs pass the verifier before the first link is touched.
        for hook in HOOKS {
            load_program(&mut ebpf, hook)?;
        }
        let mut links = Vec::with_capacity(HOOKS.len());
        let mut adopted = true;
        for hook in HOOKS {
            let program = program_fd(&ebpf, hook)?;
            let pin = pins.link(hook.name);
            let (link, how) = attach::attach(hook, program, cgroup.as_fd(), cgroup_id, &pin)?;
            tracing::debug!(program = hook.name, ?how, "attached");
            adopted &= how == Attached::Replaced;
            links.push(link);
        }
        let vips = VipMaps::take(&mut ebpf)?;
        let counters = Counters::take(&mut ebpf)?;
        let records = FlowRecords::take(&mut ebpf)?;
        Ok(Self {
            ebpf: Mutex::new(ebpf),
            pins,
            resets: Mutex::new(None),
            vips,
            counters,
            records: Mutex::new(Some(records)),
            adopted,
            links,
            _lock: lock,
        })
    }

    /// Removes the pins of other ABI versions, which this one could not take over: until then their programs translate
    /// beside ours. Call it when the maps hold what they should; two sets are harmless (a backend's address is no VIP, so
    /// a second translation finds nothing), none is not. How many versions went.
    ///
    /// # Errors
    /// [`LoadError::File`] for what could not be removed.
    pub fn retire_others(&self) -> Result<usize, LoadError> {
        let retired = self.pins.remove_other_versions()?;
        if retired > 0 {
            tracing::info!(versions = retired, "removed pins of other abi versions");
        }
        Ok(retired)
    }

    /// Removes all pins of a node: the programs are detached and the maps freed as soon as no process
    /// holds them. A pin directory that does not exist is success.
    ///
    /// # Errors
    /// [`LoadError::Busy`] while a [`DataPlane`] is open on it; [`LoadError::File`] for what could not be removed.
    pub fn remove(pin_dir: &Path) -> Result<(), LoadError> {
        if !pin_dir.exists() {
            return Ok(());
        }
        let _lock = lock::lock(pin_dir)?;
        pins::remove_all(pin_dir)
    }

    /// Whether every link was found pinned and only got a new program.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The load balancer's tables.
    pub fn vips(&self) -> &VipMaps {
        &self.vips
    }

    /// What the programs counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The ring of ended connections, for the one who reads it: `None` from the second call on.
    pub fn take_flow_records(&self) -> Option<FlowRecords> {
        let records = self.records.lock();
        records
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()
    }

    /// The loaded programs and, where the kernel keeps run statistics, what they cost.
    pub fn programs(&self) -> Vec<ProgramInfo> {
        let ebpf = self
            .ebpf
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        programs::list(&ebpf)
    }

    /// Runs a `cgroup_skb` program on an Ethernet frame, as if a socket of the calling thread's cgroup had it;
    /// what it counts is counted. Returns the verdict and the average duration of a run in nanoseconds. For
    /// tests and benches: other program types can't be run this way.
    ///
    /// # Errors
    /// [`LoadError::Missing`] for an unknown name, [`LoadError::Link`] with the kernel's answer.
    pub fn test_run(&self, name: &str, frame: &[u8], repeat: u32) -> Result<(u32, u32), LoadError> {
        let ebpf = self
            .ebpf
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let hook = HOOKS
            .iter()
            .find(|hook| hook.name == name)
            .ok_or(LoadError::Missing {
                what: "program",
                name: "(asked for)",
            })?;
        sys::test_run(program_fd(&ebpf, hook)?, frame, repeat).map_err(|source| LoadError::Link {
            action: "test-run",
            name: hook.name,
            source,
        })
    }

    /// The ids of the links, by program name, as in `bpftool link`. They stay the same over restarts.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer.
    pub fn link_ids(&self) -> Result<Vec<(&'static str, u32)>, LoadError> {
        HOOKS
            .iter()
            .zip(&self.links)
            .map(|(hook, link)| {
                let info = sys::link_info(link.as_fd()).map_err(|source| LoadError::Link {
                    action: "inspect",
                    name: hook.name,
                    source,
                })?;
                Ok((hook.name, info.id))
            })
            .collect()
    }
}

fn check_layout(spec: &MapSpec, path: &Path) -> Result<(), LoadError> {
    let info = MapInfo::from_pin(path).map_err(|e| LoadError::map("inspect", spec.name, e))?;
    let kind = info
        .map_type()
        .map_err(|e| LoadError::map("inspect", spec.name, e))?;
    let found = (kind, info.key_size(), info.value_size(), info.max_entries());
    let expected = (
        spec.kind,
        u32::try_from(spec.key).unwrap_or(u32::MAX),
        u32::try_from(spec.value).unwrap_or(u32::MAX),
        spec.entries,
    );
    if found == expected {
        return Ok(());
    }
    Err(LoadError::MapLayout {
        path: path.to_path_buf(),
        found: format!("{found:?}"),
        expected: format!("{expected:?}"),
    })
}

fn load_program(ebpf: &mut Ebpf, hook: &Hook) -> Result<(), LoadError> {
    let missing = LoadError::Missing {
        what: "program",
        name: hook.name,
    };
    let program = ebpf.program_mut(hook.name).ok_or(missing)?;
    let loaded = match program {
        Program::CgroupSkb(p) => p.load(),
        Program::CgroupSockAddr(p) => p.load(),
        Program::CgroupSock(p) => p.load(),
        Program::SockOps(p) => p.load(),
        _ => {
            return Err(LoadError::Missing {
                what: "program",
                name: hook.name,
            });
        }
    };
    loaded.map_err(|source| LoadError::Program {
        name: hook.name,
        source: Box::new(source),
    })
}

fn program_fd<'a>(ebpf: &'a Ebpf, hook: &Hook) -> Result<BorrowedFd<'a>, LoadError> {
    let missing = || LoadError::Missing {
        what: "program",
        name: hook.name,
    };
    let program = ebpf.program(hook.name).ok_or_else(missing)?;
    let fd = match program {
        Program::CgroupSkb(p) => p.fd(),
        Program::CgroupSockAddr(p) => p.fd(),
        Program::CgroupSock(p) => p.fd(),
        Program::SockOps(p) => p.fd(),
        _ => return Err(missing()),
    };
    fd.map(AsFd::as_fd).map_err(|source| LoadError::Program {
        name: hook.name,
        source: Box::new(source),
    })
}
