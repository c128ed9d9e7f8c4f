//! Programs of netkit devices (kernel 6.7): a pair as veth's, whose ends run programs when they send. Named is the end on the
//! host; its program for what the container sends runs in the sender's own time, without a queue in between.

use aya::Ebpf;

use crate::edge::{link, program_fd, raw};
use crate::pins::Pins;
use crate::tc::pin_name;
use crate::{LoadError, programs};

/// Name of the program, and of its pins.
pub(super) const NAME: &str = "overlay_direct";

/// `lo`, in every network namespace.
const LOOPBACK: u32 = 1;

/// Whether the kernel has such devices: without, the program is not loaded.
pub(super) fn is_known() -> bool {
    let asked = raw::prog_query(LOOPBACK, raw::ATTACH_NETKIT_PEER);
    asked.is_err_and(|error| error.raw_os_error() == Some(libc::ENXIO))
}

/// Whether a device of the caller's network namespace is the host's end of such a pair.
fn is_netkit(ifindex: u32) -> bool {
    // Other devices: ENXIO; kernels without such devices: EINVAL.
    raw::prog_query(ifindex, raw::ATTACH_NETKIT_PEER).is_ok()
}

/// Makes the program run where the container's end sends; on a device of another kind, nothing. Returns whether nothing had to be
/// attached that was not.
pub(super) fn attach(ebpf: &Ebpf, pins: &Pins, ifindex: u32) -> Result<bool, LoadError> {
    if !is_netkit(ifindex) {
        return Ok(true);
    }
    let program = program_fd(ebpf, NAME)?;
    let pin = pins.link(&pin_name(NAME, ifindex));
    link::attach(NAME, program, ifindex, raw::ATTACH_NETKIT_PEER, 0, &pin)
}

/// Takes it off. Not attached is success.
pub(super) fn detach(pins: &Pins, ifindex: u32) -> Result<(), LoadError> {
    link::detach(NAME, &pins.link(&pin_name(NAME, ifindex)))
}

/// What it costs.
pub(super) fn program(ebpf: &Ebpf) -> Option<crate::ProgramInfo> {
    programs::classifier(ebpf, NAME)
}
