//! The edge's load balancer, from user space: load, attach to the uplink, fill the tables, read the counters.
//!
//! [`EdgePlane`] is the edge, [`NodePlane`] the other end on the backends' nodes. Each has an object and pins of its own
//! (`<pin_dir>/v<ABI>`), so that nodes that are neither pay nothing for it.

mod counters;
pub(crate) mod link;
mod node;
#[allow(
    unsafe_code,
    reason = "shared memory of maps and bpf(2) commands that aya lacks, and nothing else"
)]
pub(crate) mod raw;
mod tables;

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use waggle_ebpf_common::edge::{
    MAX_BACKENDS, MAX_FLOWS, MAX_HALF_OPEN, MAX_RECORDS, MAX_SLOT_PAIRS,
};

use crate::lock::{self, Lock};
use crate::pins::{self, Pins};
use crate::{LoadError, object};

pub use counters::EdgeCounters;
pub use link::EdgeMode;
pub use node::{NodePlane, Served};
pub use raw::{TestContext, TestRun, test_run};
pub use tables::EdgeTables;

/// The program on the uplink.
const PROGRAM: &str = "edge";
/// The one on a veth's other side.
const PASS: &str = "edge_pass";

/// Capacities; what is pinned with others is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeSizes {
    /// Records: twice the VIPs.
    pub records: u32,
    /// Places for backends.
    pub backends: u32,
    /// Pairs of slots, 8 bytes each.
    pub slot_pairs: u32,
    /// Flows remembered because their slot changed.
    pub flows: u32,
    /// Half-open connections remembered.
    pub half_open: u32,
}

impl Default for EdgeSizes {
    fn default() -> Self {
        Self {
            records: MAX_RECORDS,
            backends: MAX_BACKENDS,
            slot_pairs: MAX_SLOT_PAIRS,
            flows: MAX_FLOWS,
            half_open: MAX_HALF_OPEN,
        }
    }
}

/// What an edge is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeConfig {
    /// Directory on a bpffs for the edge's pins alone; made if missing.
    pub pin_dir: PathBuf,
    /// Capacities.
    pub sizes: EdgeSizes,
    /// The net that all VIPs are in, and its prefix length: packets from there are no client's. None with length 33.
    pub vip_net: (Ipv4Addr, u8),
    /// Half-open connections that one CPU remembers in 17 ms.
    pub half_open_per_tick: u32,
    /// Flows that one CPU adopts in 17 ms.
    pub adopted_per_tick: u32,
}

impl EdgeConfig {
    /// With the default sizes.
    pub fn new(pin_dir: PathBuf) -> Self {
        Self {
            pin_dir,
            sizes: EdgeSizes::default(),
            vip_net: (Ipv4Addr::new(11, 0, 0, 0), 8),
            half_open_per_tick: 2048,
            adopted_per_tick: 8192,
        }
    }
}

/// The edge's program and maps, loaded.
///
/// Dropping it releases the lock on the pin directory; link and maps stay, pinned.
#[derive(Debug)]
pub struct EdgePlane {
    ebpf: Mutex<Ebpf>,
    tables: EdgeTables,
    counters: EdgeCounters,
    pins: Pins,
    _lock: Lock,
}

impl EdgePlane {
    /// Loads the program, reusing pinned maps. Nothing is attached.
    ///
    /// # Errors
    /// [`LoadError::BuiltWithoutEbpf`] before anything is touched; see [`LoadError`] for the rest.
    pub fn open(config: &EdgeConfig) -> Result<Self, LoadError> {
        Self::open_object(config, object::edge()?, &[PROGRAM, PASS])
    }

    /// As [`EdgePlane::open`], with another object that has the same maps. For the bench.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open_object(
        config: &EdgeConfig,
        object: &[u8],
        programs: &[&'static str],
    ) -> Result<Self, LoadError> {
        let pins = Pins::new(&config.pin_dir);
        pins.create()?;
        let lock = lock::lock(pins.root())?;
        let sizes = &config.sizes;
        let mut loader = EbpfLoader::new();
        for spec in tables_of(sizes) {
            let path = pins.map(spec.0);
            if path.exists() {
                check_capacity(&path, spec)?;
            }
            loader.map_pin_path(spec.0, path);
            if let Some(entries) = spec.1 {
                loader.map_max_entries(spec.0, entries);
            }
        }
        let (net, prefix) = config.vip_net;
        let mask = match prefix {
            0..=32 => u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0),
            _ => u32::MAX,
        };
        // Nobody has the broadcast address: nothing is excluded.
        let net = if prefix > 32 {
            u32::MAX
        } else {
            u32::from(net) & mask
        };
        let words = [net.to_be(), mask.to_be()];
        loader.override_global("VIP_NET", &words, true);
        loader.override_global("HALF_OPEN_PER_TICK", &config.half_open_per_tick, true);
        loader.override_global("ADOPTED_PER_TICK", &config.adopted_per_tick, true);
        loader.btf(None);
        let mut ebpf = loader.load(object).map_err(|source| LoadError::Object {
            source: Box::new(source),
        })?;
        for name in programs {
            load_program(&mut ebpf, name)?;
        }
        let tables = EdgeTables::take(&mut ebpf)?;
        let counters = EdgeCounters::take(&mut ebpf)?;
        Ok(Self {
            ebpf: Mutex::new(ebpf),
            tables,
            counters,
            pins,
            _lock: lock,
        })
    }

    /// Makes the program run for what a device receives: a pinned link gets the new program in one step, else a link
    /// is made and pinned. Returns whether a link was found.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer (EOPNOTSUPP: the driver has no native mode; EBUSY: another program).
    pub fn attach(&self, ifindex: u32, mode: EdgeMode) -> Result<bool, LoadError> {
        let ebpf = self.lock();
        let program = program_fd(&ebpf, PROGRAM)?;
        link::attach(
            PROGRAM,
            program,
            ifindex,
            raw::ATTACH_XDP,
            mode.flags(),
            &self.pins.link(PROGRAM),
        )
    }

    /// Attaches a program that does nothing to the other side of an uplink that is a veth: without one, veth keeps what
    /// a native program sends and never delivers it. Real devices need none.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer.
    pub fn attach_pass(&self, ifindex: u32) -> Result<bool, LoadError> {
        let ebpf = self.lock();
        let program = program_fd(&ebpf, PASS)?;
        let flags = EdgeMode::Native.flags();
        let pin = self.pins.link(PASS);
        link::attach(PASS, program, ifindex, raw::ATTACH_XDP, flags, &pin)
    }

    /// Takes the programs off their devices. Not attached is success.
    ///
    /// # Errors
    /// [`LoadError::Link`].
    pub fn detach(&self) -> Result<(), LoadError> {
        link::detach(PROGRAM, &self.pins.link(PROGRAM))?;
        link::detach(PASS, &self.pins.link(PASS))
    }

    /// Removes all pins of an edge. A pin directory that does not exist is success.
    ///
    /// # Errors
    /// [`LoadError::Busy`] while an [`EdgePlane`] is open on it; [`LoadError::File`] for what could not be removed.
    pub fn remove(pin_dir: &Path) -> Result<(), LoadError> {
        if !pin_dir.exists() {
            return Ok(());
        }
        let _lock = lock::lock(pin_dir)?;
        pins::remove_all(pin_dir)
    }

    /// The tables.
    pub fn tables(&self) -> &EdgeTables {
        &self.tables
    }

    /// What was counted.
    pub fn counters(&self) -> &EdgeCounters {
        &self.counters
    }

    /// Runs the program on a frame as if the uplink had received it; what it counts and remembers stays. For tests.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer.
    pub fn test_run(&self, frame: &[u8], repeat: u32) -> Result<TestRun, LoadError> {
        self.test_run_of(PROGRAM, frame, repeat)
    }

    /// As [`EdgePlane::test_run`], of another program of the object.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer.
    pub fn test_run_of(
        &self,
        name: &'static str,
        frame: &[u8],
        repeat: u32,
    ) -> Result<TestRun, LoadError> {
        let ebpf = self.lock();
        test_run(program_fd(&ebpf, name)?, frame, repeat).map_err(|source| LoadError::Link {
            action: "test-run",
            name,
            source,
        })
    }

    /// Hands out a map that only this object has. For the bench.
    ///
    /// # Errors
    /// [`LoadError::Missing`].
    pub fn take_array<T: aya::Pod>(
        &self,
        name: &'static str,
    ) -> Result<aya::maps::Array<aya::maps::MapData, T>, LoadError> {
        self.lock()
            .take_map(name)
            .ok_or(LoadError::Missing { what: "map", name })?
            .try_into()
            .map_err(|e| LoadError::map("open", name, e))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ebpf> {
        self.ebpf
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Every map that outlives the process, with its capacity where that is a matter of configuration.
fn tables_of(sizes: &EdgeSizes) -> [(&'static str, Option<u32>); 11] {
    [
        ("EDGE_BUCKETS", None),
        ("EDGE_OVERFLOW", None),
        ("EDGE_RECORDS", Some(sizes.records)),
        ("EDGE_RING", Some(sizes.slot_pairs)),
        ("EDGE_BACKENDS", Some(sizes.backends)),
        ("EDGE_FLOWS", Some(sizes.flows)),
        ("EDGE_OPENING", Some(sizes.half_open)),
        ("EDGE_FRAGS", None),
        ("EDGE_RANGES", None),
        ("EDGE_TRAFFIC", Some(sizes.records)),
        ("EDGE_COUNTS", None),
    ]
}

fn check_capacity(
    path: &Path,
    (name, entries): (&'static str, Option<u32>),
) -> Result<(), LoadError> {
    let Some(entries) = entries else {
        return Ok(());
    };
    let info =
        aya::maps::MapInfo::from_pin(path).map_err(|e| LoadError::map("inspect", name, e))?;
    if info.max_entries() == entries {
        return Ok(());
    }
    Err(LoadError::MapLayout {
        path: path.to_path_buf(),
        found: format!("{} entries", info.max_entries()),
        expected: format!("{entries} entries"),
    })
}

/// Gives a program to the verifier.
pub(crate) fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<(), LoadError> {
    let missing = LoadError::Missing {
        what: "program",
        name,
    };
    let loaded = match ebpf.program_mut(name) {
        Some(Program::Xdp(p)) => p.load(),
        Some(Program::SchedClassifier(p)) => p.load(),
        _ => return Err(missing),
    };
    loaded.map_err(|source| LoadError::Program {
        name,
        source: Box::new(source),
    })
}

/// A loaded program.
pub(crate) fn program_fd<'a>(
    ebpf: &'a Ebpf,
    name: &'static str,
) -> Result<BorrowedFd<'a>, LoadError> {
    let missing = LoadError::Missing {
        what: "program",
        name,
    };
    let fd = match ebpf.program(name) {
        Some(Program::Xdp(p)) => p.fd(),
        Some(Program::SchedClassifier(p)) => p.fd(),
        _ => return Err(missing),
    };
    fd.map(AsFd::as_fd).map_err(|source| LoadError::Program {
        name,
        source: Box::new(source),
    })
}
