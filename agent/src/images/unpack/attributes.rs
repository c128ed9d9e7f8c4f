//! Owners, permissions and extended attributes of what was unpacked.
#![allow(unsafe_code, reason = "nix 0.30 wraps no extended attributes")]

use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    errno::Errno,
    sys::stat::{Mode, fchmod},
    unistd::{Gid, Uid, fchown},
};

use super::reader::Entry;

/// What makes a directory hide those of the same path in lower layers.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// The attributes of a layer that are kept: capabilities of programs, and what belongs to users. Others mean something
/// to the host: `trusted.overlay.*` above all would lead overlayfs elsewhere.
pub fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.")
}

/// Gives an open file or directory its owner, permissions and attributes, in the order in which the kernel does not
/// take back what was set: a change of owner clears set-uid bits and capabilities.
pub fn apply(fd: impl AsFd, entry: &Entry, owners: bool) -> nix::Result<()> {
    if owners {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fchown(fd.as_fd(), Some(uid), Some(gid))?;
    }
    fchmod(fd.as_fd(), Mode::from_bits_truncate(entry.mode))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_kept(name)) {
        if !owners && name.starts_with(b"security.") {
            continue;
        }
        match set(fd.as_fd(), name, value) {
            // A file system without them, or one that has no room for more of them.
            Err(Errno::ENOTSUP) => {}
            done => done?,
        }
    }
    Ok(())
}

/// Hides what lower layers have in an open directory.
pub fn set_opaque(fd: impl AsFd) -> nix::Result<()> {
    set(fd, OPAQUE, b"y")
}

fn set(fd: impl AsFd, name: &[u8], value: &[u8]) -> nix::Result<()> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a C string and a buffer with its length, both alive during the call; the descriptor is borrowed.
    let rc = unsafe {
        libc::fsetxattr(
            fd.as_fd().as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(rc).map(drop)
}

/// The names of what an open file has.
#[cfg(test)]
pub fn names(fd: impl AsFd) -> nix::Result<String> {
    let mut out = vec![0u8; 4096];
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: a buffer with its length, alive during the call; the descriptor is borrowed.
    let n = unsafe { libc::flistxattr(raw, out.as_mut_ptr().cast(), out.len()) };
    let n = usize::try_from(Errno::result(n)?).unwrap_or(0);
    out.truncate(n);
    Ok(String::from_utf8_lossy(&out).into_owned())
}
