//! What is loaded, and what it costs.

use std::os::fd::OwnedFd;

use aya::Ebpf;
use aya::programs::Program;

use crate::attach::HOOKS;
use crate::{LoadError, sys, tracing};

/// One loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its name in the object.
    pub name: &'static str,
    /// The kernel's id, as in `bpftool prog`.
    pub id: u32,
    /// Where it is attached.
    pub attach: &'static str,
    /// Time spent in it, nanoseconds; grows only while run statistics are on.
    pub run_ns: u64,
    /// Runs while run statistics were on.
    pub run_cnt: u64,
}

/// Keeps the kernel's run statistics on (for all programs of the machine; about 10 ns per run) until dropped.
#[derive(Debug)]
pub struct RunStats {
    _fd: OwnedFd,
}

impl RunStats {
    /// Turns run statistics on.
    ///
    /// # Errors
    /// [`LoadError::Stats`] with the kernel's answer.
    pub fn enable() -> Result<Self, LoadError> {
        sys::enable_run_stats()
            .map(|fd| Self { _fd: fd })
            .map_err(|source| LoadError::Stats { source })
    }
}

/// Lists the programs in the order of attachment; one that can't be inspected is left out.
pub(crate) fn list(ebpf: &Ebpf) -> Vec<ProgramInfo> {
    HOOKS
        .iter()
        .map(|hook| (hook.name, hook.attach))
        .chain(tracing::ALL.iter().map(|t| (t.name, t.attach)))
        .filter_map(|(name, attach)| {
            let info = match ebpf.program(name)? {
                Program::CgroupSkb(p) => p.info(),
                Program::CgroupSockAddr(p) => p.info(),
                Program::CgroupSock(p) => p.info(),
                Program::SockOps(p) => p.info(),
                Program::BtfTracePoint(p) => p.info(),
                _ => return None,
            }
            .ok()?;
            Some(ProgramInfo {
                name,
                id: info.id(),
                attach,
                run_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
                run_cnt: info.run_count(),
            })
        })
        .collect()
}

/// Those at tracepoints; one that can't be inspected is left out.
pub(crate) fn traced<'a>(
    ebpf: &Ebpf,
    all: impl Iterator<Item = &'a tracing::Traced>,
) -> Vec<ProgramInfo> {
    all.filter_map(|traced| {
        let Program::BtfTracePoint(program) = ebpf.program(traced.name)? else {
            return None;
        };
        let info = program.info().ok()?;
        Some(ProgramInfo {
            name: traced.name,
            id: info.id(),
            attach: traced.attach,
            run_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
            run_cnt: info.run_count(),
        })
    })
    .collect()
}

/// One of any kind; nothing where it can't be inspected.
pub(crate) fn any(ebpf: &Ebpf, name: &'static str, attach: &'static str) -> Option<ProgramInfo> {
    let info = ebpf.program(name)?.info().ok()?;
    Some(ProgramInfo {
        name,
        id: info.id(),
        attach,
        run_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
        run_cnt: info.run_count(),
    })
}

/// One that sees a cgroup's packets; nothing where it can't be inspected.
pub(crate) fn cgroup_skb(
    ebpf: &Ebpf,
    name: &'static str,
    attach: &'static str,
) -> Option<ProgramInfo> {
    let Program::CgroupSkb(program) = ebpf.program(name)? else {
        return None;
    };
    let info = program.info().ok()?;
    Some(ProgramInfo {
        name,
        id: info.id(),
        attach,
        run_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
        run_cnt: info.run_count(),
    })
}

/// One that is attached at tc; nothing where it can't be inspected.
pub(crate) fn classifier(ebpf: &Ebpf, name: &'static str) -> Option<ProgramInfo> {
    let Program::SchedClassifier(program) = ebpf.program(name)? else {
        return None;
    };
    let info = program.info().ok()?;
    Some(ProgramInfo {
        name,
        id: info.id(),
        attach: "tc",
        run_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
        run_cnt: info.run_count(),
    })
}
