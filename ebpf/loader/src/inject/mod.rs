//! The programs that put a `traceparent` into requests, from user space: load, try out, attach, say whose.
//!
//! | file | role |
//! |---|---|
//! | mod.rs | [`Injector`] |
//! | selftest.rs | what becomes of a member, on sockets of our own |
//! | uring.rs | one `SEND_ZC` |
//! | verdict.rs | what follows from what was found |
//!
//! Nothing is pinned: when the process ends, connections are members no more, and nothing is put in.

#[allow(
    unsafe_code,
    reason = "ioctl, poll, epoll and getsockopt on sockets of our own"
)]
mod selftest;
#[allow(unsafe_code, reason = "io_uring, which nothing wraps here")]
mod uring;
mod verdict;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, HashMap, MapData, PerCpuArray, SkStorage, SockHash};
use aya::programs::Program;
use aya::{Btf, Ebpf, EbpfLoader};
use waggle_ebpf_common::SockInfo;
use waggle_ebpf_common::inject::{Caller, at, count as counts};

pub use verdict::{Finding, Findings, Refusal, Stay, Terms};

use crate::attach::Hook;
use crate::btf::KernelTypes;
use crate::maps::{check_layout, count, gone, list, open};
use crate::tracing::Traced;
use crate::{DataPlane, LoadError, ProgramInfo, cgroup, object, programs, sys};

/// In the order of attachment: who serves is known before the first call.
const HOOKS: [Hook; 3] = [
    Hook {
        name: "inject_in",
        attach_type: 0,
        attach: "cgroup_skb/ingress",
    },
    Hook {
        name: "inject_out",
        attach_type: 1,
        attach: "cgroup_skb/egress",
    },
    Hook {
        name: "inject_ops",
        attach_type: 3,
        attach: "cgroup/sock_ops",
    },
];
/// Says which thread reads.
pub(crate) const READ: Traced = Traced {
    name: "inject_read",
    attach: "tp_btf/tcp_rcv_space_adjust",
    tracepoint: "tcp_rcv_space_adjust",
};
/// `BPF_TRACE_RAW_TP`.
const RAW_TP: u32 = 23;

const MSG: &str = "inject_msg";
const SOCKS: &str = "SOCKS";
const INJECT: &str = "INJECT";
const COUNTS: &str = "INJECT_COUNTS";
const MEMBERS: &str = "INJECT_MEMBERS";
const CALLS: &str = "INJECT_CALLS";
const STAYS: &str = "INJECT_STAYS";

/// What came of it.
#[derive(Debug)]
pub enum Opened {
    /// Headers are put in.
    Works(Box<Injector>),
    /// This kernel would let tasks see it.
    Refused(Refusal, Box<Findings>),
}

/// The programs that put headers in, attached, and their maps. Dropping it takes them off.
pub struct Injector {
    inject: Mutex<HashMap<MapData, u64, u32>>,
    counts: PerCpuArray<MapData, u64>,
    stays: Mutex<Array<MapData, u32>>,
    findings: Findings,
    stay: Stay,
    // In this order: no connection becomes a member any more, then all that are leave.
    _links: Vec<OwnedFd>,
    _members: SockHash<MapData, u64>,
    ebpf: Mutex<Ebpf>,
}

impl fmt::Debug for Injector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // aya's map handles have no Debug.
        f.debug_struct("Injector")
            .field("findings", &self.findings)
            .field("stay", &self.stay)
            .finish_non_exhaustive()
    }
}

impl Injector {
    /// Loads the programs, tries them out on sockets of its own, and if the kernel passes attaches them to the node's cgroup; nobody's
    /// requests get a header yet. Takes a fraction of a second, and seconds on a kernel that lets something hang.
    ///
    /// # Errors
    /// [`LoadError::BuiltWithoutEbpf`] before anything is touched; [`LoadError::Btf`], [`LoadError::KernelType`] on a kernel without
    /// type information; see [`LoadError`] for the rest.
    pub fn open(plane: &DataPlane, cgroup_root: &Path, terms: Terms) -> Result<Opened, LoadError> {
        let object = object::inject()?;
        let cgroup = cgroup::open(cgroup_root)?;
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
        let layout = (size_of::<i32>(), size_of::<SockInfo>(), 0);
        check_layout(SOCKS, socks.clone(), layout)?;
        let places = places(&types).map_err(LoadError::KernelType)?;
        let mut loader = EbpfLoader::new();
        loader.map_pin_path(SOCKS, socks);
        loader.override_global("AT", &places, true);
        loader.btf(None);
        loader.allow_unsupported_maps();
        let mut ebpf = loader.load(object).map_err(|source| LoadError::Object {
            source: Box::new(source),
        })?;
        load(&mut ebpf, &btf)?;
        let mut members: SockHash<MapData, u64> = open(&mut ebpf, MEMBERS)?;
        attach_msg(&mut ebpf, &members)?;
        let mut calls: SkStorage<MapData, Caller> = open(&mut ebpf, CALLS)?;
        let findings = selftest::run(selftest::Members {
            members: &mut members,
            calls: &mut calls,
        });
        let stay = match findings.verdict(terms) {
            Ok(stay) => stay,
            Err(refusal) => return Ok(Opened::Refused(refusal, Box::new(findings))),
        };
        let injector = Self {
            inject: Mutex::new(open(&mut ebpf, INJECT)?),
            counts: open(&mut ebpf, COUNTS)?,
            stays: Mutex::new(open(&mut ebpf, STAYS)?),
            findings,
            stay,
            _links: attach(&ebpf, cgroup.as_fd())?,
            _members: members,
            ebpf: Mutex::new(ebpf),
        };
        injector.set_stay(stay)?;
        Ok(Opened::Works(Box::new(injector)))
    }

    /// What the self-test has found.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// For how long a connection is a member on this kernel.
    pub fn stay(&self) -> Stay {
        self.stay
    }

    /// Lets connections that begin from now on be members for another while than the self-test says: for who knows that no task
    /// here is answered wrongly by that.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn set_stay(&self, stay: Stay) -> Result<(), LoadError> {
        let mut stays = self.stays.lock().unwrap_or_else(PoisonError::into_inner);
        stays
            .set(0, u32::from(stay == Stay::Whole), 0)
            .map_err(|e| LoadError::map("write", STAYS, e))
    }

    /// Requests over connections that a cgroup's sockets make from now on get a header.
    ///
    /// # Errors
    /// [`LoadError::Full`]; [`LoadError::Map`] from the kernel.
    pub fn inject(&self, cgroup_id: u64) -> Result<(), LoadError> {
        self.lock()
            .insert(cgroup_id, 1, 0)
            .map_err(|e| LoadError::map("write", INJECT, e))
    }

    /// Those of new connections get none any more. Not there is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn forget(&self, cgroup_id: u64) -> Result<(), LoadError> {
        gone(self.lock().remove(&cgroup_id), INJECT)
    }

    /// Whose requests get one.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn injected(&self) -> Result<BTreeSet<u64>, LoadError> {
        Ok(list(&self.lock(), INJECT)?.into_keys().collect())
    }

    /// What was done, and why connections are left alone, since the programs were loaded; the self-test's own are among them.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn counts(&self) -> Result<Vec<(&'static str, u64)>, LoadError> {
        (0..)
            .zip(counts::NAMES)
            .map(|(at, name)| Ok((name, count(&self.counts, COUNTS, at)?)))
            .collect()
    }

    /// The loaded programs and, where the kernel keeps run statistics, what they cost.
    pub fn programs(&self) -> Vec<ProgramInfo> {
        let ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        let hooks = HOOKS.iter().map(|hook| (hook.name, hook.attach));
        let others = [(MSG, "sk_msg"), (READ.name, READ.attach)];
        hooks
            .chain(others)
            .filter_map(|(name, attach)| programs::any(&ebpf, name, attach))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MapData, u64, u32>> {
        self.inject.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All are needed: without one of them what is sent could be taken for what it is not.
fn places(types: &KernelTypes) -> io::Result<[u32; at::COUNT]> {
    let mut places = [0; at::COUNT];
    let [pid, tgid] = ["pid", "tgid"].map(|field| types.offset("task_struct", field));
    let (pid, tgid) = (pid?, tgid?);
    if tgid != pid + 4 {
        let why = "task_struct.tgid does not follow pid";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    places[at::TASK_PID] = pid;
    places[at::SK_OWNED] =
        types.offset("sock", "sk_lock")? + types.offset("socket_lock_t", "owned")?;
    places[at::COPIED_SEQ] = types.offset("tcp_sock", "copied_seq")?;
    places[at::WRITE_SEQ] = types.offset("tcp_sock", "write_seq")?;
    places[at::SND_UNA] = types.offset("tcp_sock", "snd_una")?;
    Ok(places)
}

/// All pass the verifier before the first is attached.
fn load(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), LoadError> {
    let names = HOOKS.iter().map(|hook| hook.name);
    for name in names.chain([MSG, READ.name]) {
        let loaded = match ebpf.program_mut(name) {
            Some(Program::CgroupSkb(program)) => program.load(),
            Some(Program::SockOps(program)) => program.load(),
            Some(Program::SkMsg(program)) => program.load(),
            Some(Program::BtfTracePoint(program)) => program.load(READ.tracepoint, btf),
            _ => return Err(missing(name)),
        };
        loaded.map_err(|source| LoadError::Program {
            name,
            source: Box::new(source),
        })?;
    }
    Ok(())
}

/// Before there are members: what one becomes is decided when it joins.
fn attach_msg(ebpf: &mut Ebpf, members: &SockHash<MapData, u64>) -> Result<(), LoadError> {
    let Some(Program::SkMsg(program)) = ebpf.program_mut(MSG) else {
        return Err(missing(MSG));
    };
    program
        .attach(members.fd())
        .map(drop)
        .map_err(|source| LoadError::Program {
            name: MSG,
            source: Box::new(source),
        })
}

fn attach(ebpf: &Ebpf, cgroup: std::os::fd::BorrowedFd<'_>) -> Result<Vec<OwnedFd>, LoadError> {
    let link = |name: &'static str, kind: u32| {
        let fd = match ebpf.program(name) {
            Some(Program::CgroupSkb(program)) => program.fd(),
            Some(Program::SockOps(program)) => program.fd(),
            Some(Program::BtfTracePoint(program)) => program.fd(),
            _ => return Err(missing(name)),
        };
        let fd = fd.map_err(|source| LoadError::Program {
            name,
            source: Box::new(source),
        })?;
        // The kernel ignores the target of a tracing program.
        let target = if kind == RAW_TP { fd.as_fd() } else { cgroup };
        sys::link_create(fd.as_fd(), target, kind).map_err(|source| LoadError::Link {
            action: "create",
            name,
            source,
        })
    };
    let mut links = vec![link(READ.name, RAW_TP)?];
    for hook in &HOOKS {
        links.push(link(hook.name, hook.attach_type)?);
    }
    // The last that was attached goes first.
    links.reverse();
    Ok(links)
}

fn missing(name: &'static str) -> LoadError {
    LoadError::Missing {
        what: "program",
        name,
    }
}
