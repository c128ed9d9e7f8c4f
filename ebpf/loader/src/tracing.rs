//! The program at a tracepoint: which connections their peer reset.
//!
//! Apart from the programs at the cgroup because it needs the kernel's own type information, which takes tens of
//! milliseconds to read: nobody waits for it. Without it a backend that refuses or resets is not ejected; one
//! that does not answer still is.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::PoisonError;

use aya::Btf;
use aya::programs::Program;

use crate::{DataPlane, LoadError, sys};

/// The program, and its link's pin.
pub(crate) const NAME: &str = "reset";
/// Where it is attached, for reports.
pub(crate) const ATTACH: &str = "tp_btf/tcp_receive_reset";
const TRACEPOINT: &str = "tcp_receive_reset";
/// `BPF_TRACE_RAW_TP`.
const RAW_TP: u32 = 23;

impl DataPlane {
    /// Sees from now on which connections their peer resets; this node's VIPs eject by it. Such links can't be
    /// updated in place: on a restart the new program is attached before the old one goes, and a reset that
    /// both see is marked twice, which changes nothing. A second call does nothing.
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
        *watching = Some(self.attach_resets(&btf)?);
        Ok(())
    }

    fn attach_resets(&self, btf: &Btf) -> Result<OwnedFd, LoadError> {
        let mut ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Program::BtfTracePoint(program)) = ebpf.program_mut(NAME) else {
            return Err(LoadError::Missing {
                what: "program",
                name: NAME,
            });
        };
        let refused = |source| LoadError::Program {
            name: NAME,
            source: Box::new(source),
        };
        program.load(TRACEPOINT, btf).map_err(refused)?;
        let fd = program.fd().map_err(refused)?.as_fd();
        let fail = |action| {
            move |source: io::Error| LoadError::Link {
                action,
                name: NAME,
                source,
            }
        };
        // The kernel ignores the target of a tracing program.
        let link = sys::link_create(fd, fd, RAW_TP).map_err(fail("create"))?;
        let pin = self.pins.link(NAME);
        // bpffs takes no dots in names.
        let new = self.pins.link("reset_new");
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
}
