//! Where each program goes, and the link that holds it there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::{LoadError, sys};

/// A program and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// Name of the program in the object, of its link's pin, and in reports.
    pub(crate) name: &'static str,
    /// `enum bpf_attach_type`.
    pub(crate) attach_type: u32,
    /// The same in words.
    pub(crate) attach: &'static str,
}

const fn hook(name: &'static str, attach_type: u32, attach: &'static str) -> Hook {
    Hook {
        name,
        attach_type,
        attach,
    }
}

/// Every program, in the order of attachment: what remembers a socket comes before what reads the
/// memory, so that a node's first start doesn't count sockets as unattributed.
pub(crate) const HOOKS: &[Hook] = &[
    hook("post_bind4", 12, "cgroup/post_bind4"),
    hook("post_bind6", 13, "cgroup/post_bind6"),
    hook("sock_ops", 3, "cgroup/sock_ops"),
    hook("getpeername4", 29, "cgroup/getpeername4"),
    hook("getpeername6", 30, "cgroup/getpeername6"),
    hook("skb_ingress", 0, "cgroup_skb/ingress"),
    hook("skb_egress", 1, "cgroup_skb/egress"),
    // Who sends must find that what comes back is translated.
    hook("recvmsg4", 19, "cgroup/recvmsg4"),
    hook("recvmsg6", 20, "cgroup/recvmsg6"),
    hook("sendmsg4", 14, "cgroup/sendmsg4"),
    hook("sendmsg6", 15, "cgroup/sendmsg6"),
    hook("connect4", 10, "cgroup/connect4"),
    hook("connect6", 11, "cgroup/connect6"),
];

/// The attach points used, for reports.
pub fn attach_point_names() -> impl Iterator<Item = &'static str> {
    HOOKS.iter().map(|hook| hook.attach)
}

/// How a program came to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attached {
    /// A pinned link was found and got the new program.
    Replaced,
    /// A new link was made.
    Created,
}

/// Makes `program` run at `hook` for the cgroup, by replacing the program of the pinned link or by a new
/// link, pinned. A pinned link of another cgroup, or of one that was removed, gives way to a new one.
pub(crate) fn attach(
    hook: &Hook,
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    cgroup_id: u64,
    pin: &Path,
) -> Result<(OwnedFd, Attached), LoadError> {
    let fail = |action| {
        move |source| LoadError::Link {
            action,
            name: hook.name,
            source,
        }
    };
    match sys::obj_get(pin) {
        Ok(link) => {
            let info = sys::link_info(link.as_fd()).map_err(fail("inspect"))?;
            if info.kind == sys::LINK_TYPE_CGROUP
                && info.cgroup_id == cgroup_id
                && info.attach_type == hook.attach_type
            {
                sys::link_update(link.as_fd(), program).map_err(fail("update"))?;
                return Ok((link, Attached::Replaced));
            }
            std::fs::remove_file(pin).map_err(fail("unpin stale"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail("open")(error)),
    }
    let link = sys::link_create(program, cgroup, hook.attach_type).map_err(fail("create"))?;
    sys::obj_pin(link.as_fd(), pin).map_err(fail("pin"))?;
    Ok((link, Attached::Created))
}

#[cfg(test)]
mod tests {
    use super::HOOKS;

    #[test]
    fn names_and_places_are_unique() {
        for (i, a) in HOOKS.iter().enumerate() {
            // 15 bytes is what the kernel keeps of a name.
            assert!(a.name.len() <= 15, "{} is too long", a.name);
            for b in &HOOKS[i + 1..] {
                assert_ne!(a.name, b.name);
                assert_ne!(a.attach_type, b.attach_type);
            }
        }
    }
}
