//! The other end of the edge, from user space: load, attach to a backend node's uplink, say what is served here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use waggle_ebpf_common::edge::{Answer, AnswerKey, PORT_WORDS, ServiceKey, dsr_reason};

use super::raw::{self, Shared, TestRun};
use super::{link, load_program, program_fd};
use crate::lock::{self, Lock};
use crate::maps::{count, gone, list, open};
use crate::pins::{self, Pins};
use crate::tc::{Side, TcHook, TcHooks, TcWay, priority};
use crate::{LoadError, object};

const INBOUND: &str = "dsr_in";
const OUTBOUND: &str = "dsr_out";
/// The answers' side comes first, so that no flow is taken in that can't be answered.
const HOOKS: [TcHook; 2] = [
    TcHook {
        name: OUTBOUND,
        side: Side::Egress,
        priority: priority::DSR,
    },
    TcHook {
        name: INBOUND,
        side: Side::Ingress,
        priority: priority::DSR,
    },
];
const SERVICES: &str = "DSR_SERVICES";
const EDGES: &str = "DSR_EDGES";
const PORTS: &str = "DSR_PORTS";
const ANSWERS: &str = "DSR_ANSWERS";
const COUNTS: &str = "DSR_COUNTS";
/// Every map that outlives the process.
const MAPS: [&str; 6] = [SERVICES, EDGES, PORTS, ANSWERS, "DSR_FRAGS", COUNTS];

/// A backend here, as edges name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served {
    /// What clients dial.
    pub vip: SocketAddrV4,
    /// Where the backend listens.
    pub backend: SocketAddrV4,
    /// IANA protocol.
    pub proto: u8,
}

impl Served {
    fn key(&self) -> ServiceKey {
        ServiceKey {
            vip: u32::from(*self.vip.ip()).to_be(),
            vip_port: self.vip.port().to_be(),
            port: self.backend.port().to_be(),
            proto: u32::from(self.proto),
        }
    }
}

/// The programs and maps of a backend's node, loaded.
///
/// Dropping it releases the lock on the pin directory; links and maps stay, pinned.
pub struct NodePlane {
    ebpf: Mutex<Ebpf>,
    tables: Mutex<Tables>,
    answers: HashMap<MapData, AnswerKey, Answer>,
    counts: PerCpuArray<MapData, u64>,
    hooks: TcHooks,
    pins: Pins,
    _lock: Lock,
}

struct Tables {
    services: HashMap<MapData, ServiceKey, u32>,
    edges: HashMap<MapData, u32, u32>,
    ports: Shared,
}

impl fmt::Debug for NodePlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // aya's map handles have no Debug.
        f.debug_struct("NodePlane").finish_non_exhaustive()
    }
}

impl NodePlane {
    /// Loads the programs, reusing pinned maps. Nothing is attached.
    ///
    /// # Errors
    /// [`LoadError::BuiltWithoutEbpf`] before anything is touched; see [`LoadError`] for the rest.
    pub fn open(pin_dir: &Path) -> Result<Self, LoadError> {
        Self::open_with(pin_dir, TcWay::of_kernel())
    }

    /// As [`NodePlane::open`], with programs that are held in a way of the caller's choice.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(pin_dir: &Path, way: TcWay) -> Result<Self, LoadError> {
        let object = object::dsr()?;
        let pins = Pins::new(pin_dir);
        pins.create()?;
        let lock = lock::lock(pins.root())?;
        let mut loader = EbpfLoader::new();
        let paths: Vec<(&str, PathBuf)> = MAPS.map(|name| (name, pins.map(name))).to_vec();
        for (name, path) in paths {
            loader.map_pin_path(name, path);
        }
        loader.btf(None);
        let mut ebpf = loader.load(object).map_err(|source| LoadError::Object {
            source: Box::new(source),
        })?;
        for name in [INBOUND, OUTBOUND] {
            load_program(&mut ebpf, name)?;
        }
        let Map::Array(ports) = ebpf.take_map(PORTS).ok_or(LoadError::Missing {
            what: "map",
            name: PORTS,
        })?
        else {
            return Err(LoadError::Missing {
                what: "array",
                name: PORTS,
            });
        };
        let ports = Shared::map(ports.fd().as_fd(), PORT_WORDS as usize * 8).map_err(|source| {
            LoadError::Link {
                action: "map memory of",
                name: PORTS,
                source,
            }
        })?;
        let tables = Tables {
            services: open(&mut ebpf, SERVICES)?,
            edges: open(&mut ebpf, EDGES)?,
            ports,
        };
        Ok(Self {
            answers: open(&mut ebpf, ANSWERS)?,
            counts: open(&mut ebpf, COUNTS)?,
            tables: Mutex::new(tables),
            ebpf: Mutex::new(ebpf),
            hooks: TcHooks::new(pins.clone(), way, &HOOKS),
            pins,
            _lock: lock,
        })
    }

    /// Makes the programs run for what a device sends and receives, and for no other device; what is there gets the new
    /// program in one step. The answers' side comes first, so that no flow is taken in that can't be answered. Returns
    /// whether both were found.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer; [`LoadError::FilterTaken`].
    pub fn attach(&self, ifindex: u32) -> Result<bool, LoadError> {
        let ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.hooks.attach(&ebpf, ifindex)?;
        for other in self.hooks.attached()? {
            if other != ifindex {
                self.hooks.detach(other)?;
            }
        }
        // After ours are in place: those of other ABI versions, and of one whose pins did not name the device.
        for hook in HOOKS {
            link::detach(hook.name, &self.pins.link(hook.name))?;
        }
        self.pins.remove_other_versions()?;
        Ok(found)
    }

    /// The devices that have a program, or had one and are gone, by their numbers, sorted.
    ///
    /// # Errors
    /// [`LoadError::File`] where the pins can't be listed.
    pub fn attached(&self) -> Result<Vec<u32>, LoadError> {
        self.hooks.attached()
    }

    /// Takes the programs off the device. Not attached is success.
    ///
    /// # Errors
    /// [`LoadError::Link`].
    pub fn detach(&self) -> Result<(), LoadError> {
        self.hooks
            .attached()?
            .into_iter()
            .try_for_each(|ifindex| self.hooks.detach(ifindex))
    }

    /// Removes all pins. A pin directory that does not exist is success.
    ///
    /// # Errors
    /// [`LoadError::Busy`] while a [`NodePlane`] is open on it; [`LoadError::File`] for what could not be removed.
    pub fn remove(pin_dir: &Path) -> Result<(), LoadError> {
        if !pin_dir.exists() {
            return Ok(());
        }
        let _lock = lock::lock(pin_dir)?;
        pins::remove_all(pin_dir)
    }

    /// Takes packets of an edge from now on.
    ///
    /// # Errors
    /// [`LoadError::Full`] without room; [`LoadError::Map`] from the kernel.
    pub fn add_edge(&self, edge: Ipv4Addr) -> Result<(), LoadError> {
        self.lock()
            .edges
            .insert(u32::from(edge).to_be(), 1, 0)
            .map_err(|e| LoadError::map("write", EDGES, e))
    }

    /// Takes no packets of an edge any more; one that is not known is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn remove_edge(&self, edge: Ipv4Addr) -> Result<(), LoadError> {
        gone(self.lock().edges.remove(&u32::from(edge).to_be()), EDGES)
    }

    /// Takes packets of these edges and of no others.
    ///
    /// # Errors
    /// As [`NodePlane::add_edge`] and [`NodePlane::remove_edge`].
    pub fn set_edges(&self, edges: &BTreeSet<Ipv4Addr>) -> Result<(), LoadError> {
        let known = self
            .lock()
            .edges
            .keys()
            .collect::<Result<BTreeSet<u32>, _>>()
            .map_err(|e| LoadError::map("list", EDGES, e))?;
        for edge in edges {
            self.add_edge(*edge)?;
        }
        known
            .into_iter()
            .map(|edge| Ipv4Addr::from(u32::from_be(edge)))
            .filter(|edge| !edges.contains(edge))
            .try_for_each(|edge| self.remove_edge(edge))
    }

    /// What is served here.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn served(&self) -> Result<BTreeSet<Served>, LoadError> {
        let tables = self.lock();
        tables
            .services
            .iter()
            .map(|entry| {
                let (key, backend) = entry.map_err(|e| LoadError::map("list", SERVICES, e))?;
                let at = |addr, port| {
                    SocketAddrV4::new(Ipv4Addr::from(u32::from_be(addr)), u16::from_be(port))
                };
                Ok(Served {
                    vip: at(key.vip, key.vip_port),
                    backend: at(backend, key.port),
                    proto: u8::try_from(key.proto).unwrap_or(0),
                })
            })
            .collect()
    }

    /// Hands a VIP's packets to a backend here.
    ///
    /// # Errors
    /// [`LoadError::Full`] without room (nothing changes); [`LoadError::Map`] from the kernel.
    pub fn serve(&self, served: &Served) -> Result<(), LoadError> {
        let mut tables = self.lock();
        // The answers' side first.
        let (offset, bit) = port_bit(served.backend.port());
        let word = tables.ports.read64(offset);
        tables.ports.store64(offset, word | bit);
        tables
            .services
            .insert(served.key(), u32::from(*served.backend.ip()).to_be(), 0)
            .map_err(|e| LoadError::map("write", SERVICES, e))
    }

    /// The opposite of [`NodePlane::serve`]. What is not served is success. Answers of flows that are there keep the VIP as
    /// their source as long as another VIP uses the port.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn forget(&self, served: &Served) -> Result<(), LoadError> {
        let mut tables = self.lock();
        gone(tables.services.remove(&served.key()), SERVICES)?;
        let port = served.backend.port().to_be();
        let others = tables
            .services
            .keys()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| LoadError::map("list", SERVICES, e))?;
        if others.iter().all(|key| key.port != port) {
            let (offset, bit) = port_bit(served.backend.port());
            let word = tables.ports.read64(offset);
            tables.ports.store64(offset, word & !bit);
        }
        Ok(())
    }

    /// Flows whose answers get a VIP as their source.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn answers(&self) -> Result<BTreeMap<AnswerKey, Answer>, LoadError> {
        list(&self.answers, ANSWERS)
    }

    /// A count by reason ([`dsr_reason`]), over all CPUs.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn count(&self, reason: u32) -> Result<u64, LoadError> {
        count(&self.counts, COUNTS, reason)
    }

    /// All counts, by name.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn counts(&self) -> Result<Vec<(&'static str, u64)>, LoadError> {
        (0..)
            .zip(dsr_reason::NAMES)
            .map(|(reason, name)| Ok((*name, self.count(reason)?)))
            .collect()
    }

    /// Runs `dsr_in` on a frame as if the uplink had received it. For tests.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer.
    pub fn test_inbound(&self, frame: &[u8]) -> Result<TestRun, LoadError> {
        self.test_run(INBOUND, frame)
    }

    /// Runs `dsr_out` on a frame as if the uplink was to send it. For tests.
    ///
    /// # Errors
    /// [`LoadError::Link`] with the kernel's answer.
    pub fn test_outbound(&self, frame: &[u8]) -> Result<TestRun, LoadError> {
        self.test_run(OUTBOUND, frame)
    }

    fn test_run(&self, name: &'static str, frame: &[u8]) -> Result<TestRun, LoadError> {
        let ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        raw::test_run(program_fd(&ebpf, name)?, frame, 1).map_err(|source| LoadError::Link {
            action: "test-run",
            name,
            source,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The word that has a port's bit, and the bit.
fn port_bit(port: u16) -> (usize, u64) {
    (usize::from(port >> 6) * 8, 1 << (port & 63))
}
