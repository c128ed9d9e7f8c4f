//! The programs at tracepoints: which connections their peer reset, which datagrams it refused.
//!
//! Apart from the programs at the cgroup because they need the kernel's own type information, which takes tens of
//! milliseconds to read: nobody waits for it. Without them a backend that refuses or resets is not ejected; one
//! that does not answer still is.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::PoisonError;

use aya::maps::Array;
use aya::programs::Program;
use aya::{Btf, Ebpf};

use crate::btf::KernelTypes;
use crate::pins::Pins;
use crate::{DataPlane, LoadError, inject, observe, requests, sys};

/// A program at a tracepoint; its name is its link's pin.
pub(crate) struct Traced {
    pub(crate) name: &'static str,
    /// For reports.
    pub(crate) attach: &'static str,
    pub(crate) tracepoint: &'static str,
}

/// Those of every node.
pub(crate) const ALL: [Traced; 2] = [
    Traced {
        name: "reset",
        attach: "tp_btf/tcp_receive_reset",
        tracepoint: "tcp_receive_reset",
    },
    Traced {
        name: "udp_error",
        attach: "tp_btf/inet_sk_error_report",
        tracepoint: "inet_sk_error_report",
    },
];
/// The tracepoint that a program of this name is for.
pub(crate) fn tracepoint(program: &str) -> Option<&'static str> {
    let of = |traced: &&Traced| traced.name == program;
    let mut all = ALL
        .iter()
        .chain(&observe::PROGRAMS)
        .chain([&requests::READ, &inject::READ]);
    all.find(of).map(|traced| traced.tracepoint)
}

/// Tells the second one where a socket's error is.
pub(crate) const SK_ERR_AT: &str = "SK_ERR_AT";
/// `BPF_TRACE_RAW_TP`.
const RAW_TP: u32 = 23;

impl DataPlane {
    /// Sees from now on which connections their peer resets, and which datagrams it refuses; this node's VIPs eject by
    /// it. Such links can't be updated in place: on a restart the new program is attached before the old one goes,
    /// and what both see is marked twice, which changes nothing. A second call does nothing.
    ///
    /// # Errors
    /// [`LoadError::Btf`] on a kernel without type information; [`LoadError::Program`], [`LoadError::Link`].
    pub fn watch_resets(&self) -> Result<(), LoadError> {
        let mut watching = self.resets.lock().unwrap_or_else(PoisonError::into_inner);
        if watching.is_some() {
            return Ok(());
        }
        let btf = Btf::from_sys_fs().map_err(|source| LoadError::Btf {
            source: Box::new(source),
        })?;
        let mut ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        tell_where_errors_are(&mut ebpf)?;
        let [reset, udp_error] = &ALL;
        *watching = Some([
            attach(&self.pins, &mut ebpf, reset, &btf)?,
            attach(&self.pins, &mut ebpf, udp_error, &btf)?,
        ]);
        Ok(())
    }
}

/// Loads and attaches one, then lets the one go that was pinned in its place.
pub(crate) fn attach(
    pins: &Pins,
    ebpf: &mut Ebpf,
    traced: &Traced,
    btf: &Btf,
) -> Result<OwnedFd, LoadError> {
    let name = traced.name;
    let Some(Program::BtfTracePoint(program)) = ebpf.program_mut(name) else {
        return Err(LoadError::Missing {
            what: "program",
            name,
        });
    };
    let refused = |source| LoadError::Program {
        name,
        source: Box::new(source),
    };
    program.load(traced.tracepoint, btf).map_err(refused)?;
    let fd = program.fd().map_err(refused)?.as_fd();
    let fail = |action| {
        move |source: io::Error| LoadError::Link {
            action,
            name,
            source,
        }
    };
    // The kernel ignores the target of a tracing program.
    let link = sys::link_create(fd, fd, RAW_TP).map_err(fail("create"))?;
    let pin = pins.link(name);
    // bpffs takes no dots in names.
    let new = pins.link(&format!("{name}_new"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(fail("unpin unfinished")(error));
        }
        _ => {}
    }
    sys::obj_pin(link.as_fd(), &new).map_err(fail("pin"))?;
    fs::rename(&new, &pin).map_err(fail("replace pinned"))?;
    Ok(link)
}

fn tell_where_errors_are(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let at = KernelTypes::read()
        .and_then(|types| types.offset("sock", "sk_err"))
        .map_err(LoadError::KernelType)?;
    let fail = |source| LoadError::Map {
        action: "write",
        map: SK_ERR_AT,
        source: Box::new(source),
    };
    let map = ebpf.map_mut(SK_ERR_AT).ok_or(LoadError::Missing {
        what: "map",
        name: SK_ERR_AT,
    })?;
    let mut map = Array::<_, u32>::try_from(map).map_err(fail)?;
    map.set(0, at, 0).map_err(fail)
}
