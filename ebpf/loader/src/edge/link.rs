//! Links to network devices, pinned.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::raw;
use crate::{LoadError, sys};

/// `BPF_LINK_TYPE_XDP`.
const LINK_TYPE_XDP: u32 = 6;
/// `BPF_LINK_TYPE_TCX`.
const LINK_TYPE_TCX: u32 = 11;
/// `BPF_LINK_TYPE_NETKIT`.
const LINK_TYPE_NETKIT: u32 = 13;

/// Where on the way of a packet the edge's program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeMode {
    /// In the driver, before the kernel has made a buffer of its own.
    Native,
    /// In the kernel, for drivers that have no native mode: slower.
    Generic,
}

impl EdgeMode {
    pub(crate) fn flags(self) -> u32 {
        match self {
            Self::Native => raw::XDP_NATIVE,
            Self::Generic => raw::XDP_GENERIC,
        }
    }
}

/// Makes a program run at a device, by replacing that of the pinned link or by a new link, pinned. True: replaced. A
/// pinned link of another device, or of one that is gone, gives way to a new one.
pub(crate) fn attach(
    name: &'static str,
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    pin: &Path,
) -> Result<bool, LoadError> {
    let fail = |action| {
        move |source| LoadError::Link {
            action,
            name,
            source,
        }
    };
    match sys::obj_get(pin) {
        Ok(link) => {
            let info = sys::link_info(link.as_fd()).map_err(fail("inspect"))?;
            // The union's first field is the device for all three, 0 when it is gone.
            #[allow(
                clippy::cast_possible_truncation,
                reason = "the device is the low half of the union's first 8 bytes"
            )]
            let device = info.cgroup_id as u32;
            let is_its = match info.kind {
                LINK_TYPE_XDP | LINK_TYPE_TCX => device == ifindex,
                // The other end's number, in another namespace. While that is there, this end is, and has its number.
                LINK_TYPE_NETKIT => device != 0,
                _ => false,
            };
            if is_its {
                sys::link_update(link.as_fd(), program).map_err(fail("update"))?;
                return Ok(true);
            }
            std::fs::remove_file(pin).map_err(fail("unpin stale"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail("open")(error)),
    }
    let link = raw::link_create(program, ifindex, attach_type, flags).map_err(fail("create"))?;
    sys::obj_pin(link.as_fd(), pin).map_err(fail("pin"))?;
    Ok(false)
}

/// Takes a program off at once, and removes its link's pin. Not attached is success.
pub(crate) fn detach(name: &'static str, pin: &Path) -> Result<(), LoadError> {
    let fail = |action| {
        move |source| LoadError::Link {
            action,
            name,
            source,
        }
    };
    let link = match sys::obj_get(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail("open")(error)),
    };
    raw::link_detach(link.as_fd()).map_err(fail("detach"))?;
    std::fs::remove_file(pin).map_err(fail("unpin"))
}
