//! The programs that trace requests, from user space: load, attach, say whose requests are traced, read what was told.
//!
//! [`RequestTracer`] has an object of its own, so that a kernel which refuses it keeps its VIPs. It reuses the data plane's memory of
//! sockets by its pin; its own maps and links are pinned beside (`<pin_dir>/requests/v<ABI>`), so that what is told while no
//! process of ours runs is read by the next one. The program that says which thread reads can fail alone.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::Program;
use aya::{Btf, Ebpf, EbpfLoader};
use waggle_ebpf_common::SockInfo;
use waggle_ebpf_common::requests::{
    Head, MAX_TRACED, REQUESTS_ABI, RING_BYTES, Socket, at, count as counts,
};

use crate::attach::{self, Hook};
use crate::btf::KernelTypes;
use crate::maps::{Layout, check_layout, count, gone, list, open};
use crate::pins::{self, Pins};
use crate::tracing::{self, Traced};
use crate::{DataPlane, LoadError, ProgramInfo, cgroup, object, programs};

/// Where the pins are, below the node's.
const PINS: &str = "requests";
const HOOKS: [Hook; 2] = [
    Hook {
        name: "trace_in",
        attach_type: 0,
        attach: "cgroup_skb/ingress",
    },
    Hook {
        name: "trace_out",
        attach_type: 1,
        attach: "cgroup_skb/egress",
    },
];
/// Says which thread reads.
pub(crate) const READ: Traced = Traced {
    name: "trace_read",
    attach: "tp_btf/tcp_rcv_space_adjust",
    tracepoint: "tcp_rcv_space_adjust",
};

/// The data plane's, by its pin.
const SOCKS: &str = "SOCKS";
const TRACED: &str = "TRACED";
const RECORDS: &str = "TRACE_RECORDS";
const COUNTS: &str = "TRACE_COUNTS";
const MAPS: [(&str, Layout); 4] = [
    (TRACED, (size_of::<u64>(), size_of::<u32>(), MAX_TRACED)),
    (RECORDS, (0, 0, RING_BYTES)),
    (COUNTS, (size_of::<u32>(), size_of::<u64>(), counts::COUNT)),
    ("TRACE_SOCKS", (size_of::<i32>(), size_of::<Socket>(), 0)),
];

/// The programs that trace requests, attached, and their maps.
///
/// Dropping it leaves links and maps, pinned. Its owner keeps the data plane open as long: the lock on the pins is that one's.
pub struct RequestTracer {
    traced: Mutex<HashMap<MapData, u64, u32>>,
    counts: PerCpuArray<MapData, u64>,
    records: Mutex<Option<RequestRecords>>,
    trouble: Option<LoadError>,
    // Held: a program whose object is gone can't be asked what it costs.
    ebpf: Mutex<Ebpf>,
    _links: Vec<OwnedFd>,
}

impl fmt::Debug for RequestTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // aya's map handles have no Debug.
        f.debug_struct("RequestTracer")
            .field("trouble", &self.trouble)
            .finish_non_exhaustive()
    }
}

impl RequestTracer {
    /// Loads the programs and attaches them to the node's cgroup, reusing pinned maps and replacing the programs of pinned links.
    /// Nobody's requests are traced but those of whom an earlier run traced. Takes tens of milliseconds: the kernel's types are
    /// read.
    ///
    /// # Errors
    /// [`LoadError::BuiltWithoutEbpf`] before anything is touched; [`LoadError::Btf`], [`LoadError::KernelType`] on a kernel without
    /// type information; see [`LoadError`] for the rest.
    pub fn open(plane: &DataPlane, cgroup_root: &Path) -> Result<Self, LoadError> {
        let object = object::requests()?;
        let cgroup = cgroup::open(cgroup_root)?;
        let cgroup_id = cgroup::cgroup_id(cgroup_root)?;
        let types = KernelTypes::read().map_err(LoadError::KernelType)?;
        let btf = Btf::from_sys_fs().map_err(|source| LoadError::Btf {
            source: Box::new(source),
        })?;
        let socks = plane.pins.map(SOCKS);
        if !socks.exists() {
            // Otherwise the loader would make another one, which nobody fills.
            return Err(LoadError::Missing {
                what: "pinned map",
                name: SOCKS,
            });
        }
        check_layout(
            SOCKS,
            socks.clone(),
            (size_of::<i32>(), size_of::<SockInfo>(), 0),
        )?;
        let pins = pins_of(plane);
        pins.create()?;
        pins.remove_other_versions()?;
        let mut loader = EbpfLoader::new();
        loader.map_pin_path(SOCKS, socks);
        for (name, layout) in MAPS {
            let path = pins.map(name);
            if path.exists() {
                check_layout(name, path.clone(), layout)?;
            }
            loader.map_pin_path(name, path);
        }
        let places = places(&types);
        loader.override_global("AT", &places, true);
        loader.btf(None);
        loader.allow_unsupported_maps();
        let mut ebpf = loader.load(object).map_err(|source| LoadError::Object {
            source: Box::new(source),
        })?;
        // All pass the verifier before the first link is touched.
        for hook in &HOOKS {
            load(&mut ebpf, hook.name)?;
        }
        let mut links = Vec::new();
        let mut trouble = None;
        if places[at::COPIED_SEQ] == at::NONE {
            let error = io::Error::new(io::ErrorKind::InvalidData, "no tcp_sock.copied_seq");
            trouble = Some(LoadError::KernelType(error));
        } else {
            match tracing::attach(&pins, &mut ebpf, &READ, &btf) {
                Ok(link) => links.push(link),
                Err(error) => trouble = Some(error),
            }
        }
        for hook in &HOOKS {
            let refused = |source| LoadError::Program {
                name: hook.name,
                source: Box::new(source),
            };
            let Some(Program::CgroupSkb(program)) = ebpf.program(hook.name) else {
                return Err(missing(hook.name));
            };
            let program = program.fd().map_err(refused)?.as_fd();
            let pin = pins.link(hook.name);
            let (link, _) = attach::attach(hook, program, cgroup.as_fd(), cgroup_id, &pin)?;
            links.push(link);
        }
        Ok(Self {
            traced: Mutex::new(open(&mut ebpf, TRACED)?),
            counts: open(&mut ebpf, COUNTS)?,
            records: Mutex::new(Some(RequestRecords {
                ring: open(&mut ebpf, RECORDS)?,
            })),
            trouble,
            ebpf: Mutex::new(ebpf),
            _links: links,
        })
    }

    /// Takes the programs off the node and forgets what they have told: for a node that is not to have them any more. Not there is
    /// success.
    ///
    /// # Errors
    /// [`LoadError::File`] for what could not be removed.
    pub fn detach(plane: &DataPlane) -> Result<(), LoadError> {
        pins::remove_all(pins_of(plane).root())
    }

    /// Why it is not told which thread reads, where it is not.
    pub fn trouble(&self) -> Option<&LoadError> {
        self.trouble.as_ref()
    }

    /// Whether it is told which thread has read.
    pub fn tells_readers(&self) -> bool {
        self.trouble.is_none()
    }

    /// Requests of a cgroup's sockets are traced from now on.
    ///
    /// # Errors
    /// [`LoadError::Full`]; [`LoadError::Map`] from the kernel.
    pub fn trace(&self, cgroup_id: u64) -> Result<(), LoadError> {
        self.lock()
            .insert(cgroup_id, 1, 0)
            .map_err(|e| LoadError::map("write", TRACED, e))
    }

    /// They are not any more. Not traced is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn forget(&self, cgroup_id: u64) -> Result<(), LoadError> {
        gone(self.lock().remove(&cgroup_id), TRACED)
    }

    /// Whose requests are traced.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn traced(&self) -> Result<BTreeSet<u64>, LoadError> {
        Ok(list(&self.lock(), TRACED)?.into_keys().collect())
    }

    /// What could not be told, and what is not looked at, by reason, since the programs began.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn counts(&self) -> Result<Vec<(&'static str, u64)>, LoadError> {
        (0..)
            .zip(counts::NAMES)
            .map(|(at, name)| Ok((name, count(&self.counts, COUNTS, at)?)))
            .collect()
    }

    /// The ring, for the one who reads it: `None` from the second call on.
    pub fn take_records(&self) -> Option<RequestRecords> {
        let records = self.records.lock();
        records.unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The loaded programs and, where the kernel keeps run statistics, what they cost.
    pub fn programs(&self) -> Vec<ProgramInfo> {
        let ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<ProgramInfo> = HOOKS
            .iter()
            .filter_map(|hook| programs::cgroup_skb(&ebpf, hook.name, hook.attach))
            .collect();
        all.extend(programs::traced(&ebpf, std::iter::once(&READ)));
        all
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MapData, u64, u32>> {
        self.traced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the ring. What was not read stays there over a restart of the process.
pub struct RequestRecords {
    ring: RingBuf<MapData>,
}

impl RequestRecords {
    /// Hands over the oldest record that was not read yet, and its bytes; `None` until there are more.
    pub fn next<T>(&mut self, take: impl FnOnce(&Head, &[u8]) -> T) -> Option<T> {
        // What is no record was written by none of our programs.
        while let Some(item) = self.ring.next() {
            if let Some((head, bytes)) = Head::from_bytes(&item) {
                return Some(take(&head, bytes));
            }
        }
        None
    }
}

impl fmt::Debug for RequestRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // aya's map handles have no Debug.
        f.debug_struct("RequestRecords").finish_non_exhaustive()
    }
}

fn pins_of(plane: &DataPlane) -> Pins {
    Pins::of(&plane.pins.root().join(PINS), REQUESTS_ABI)
}

/// What is not found costs what depends on it.
fn places(types: &KernelTypes) -> [u32; at::COUNT] {
    let mut places = [at::NONE; at::COUNT];
    let ids = ["pid", "tgid"].map(|field| types.offset("task_struct", field).ok());
    if let [Some(pid), Some(tgid)] = ids
        && tgid == pid + 4
    {
        places[at::TASK_PID] = pid;
    }
    let lock = types.offset("sock", "sk_lock");
    if let (Ok(lock), Ok(owned)) = (lock, types.offset("socket_lock_t", "owned")) {
        places[at::SK_OWNED] = lock + owned;
    }
    if let Ok(copied) = types.offset("tcp_sock", "copied_seq") {
        places[at::COPIED_SEQ] = copied;
    }
    places
}

fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<(), LoadError> {
    let Some(Program::CgroupSkb(program)) = ebpf.program_mut(name) else {
        return Err(missing(name));
    };
    program.load().map_err(|source| LoadError::Program {
        name,
        source: Box::new(source),
    })
}

fn missing(name: &'static str) -> LoadError {
    LoadError::Missing {
        what: "program",
        name,
    }
}
