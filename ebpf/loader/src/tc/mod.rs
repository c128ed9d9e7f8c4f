//! Where programs at tc are held on a device: by a link where the kernel has links there (tcx, 6.6), else by a filter of the
//! clsact queueing discipline. Whoever attaches need not know which.
//!
//! # Invariants
//! - A program is replaced in one step: by BPF_LINK_UPDATE, or by a new program for the same filter.
//! - What is attached is found again by its pin: `links/<name>-<ifindex>` is a link, `filters/<name>-<ifindex>` the filter's
//!   program. A filter is only removed when its program is the pinned one; other people's stay, wherever they are.
//! - The discipline goes with the last filter if it was made here (`filters/clsact-<ifindex>`).
//!
//! # Order
//! A program that has no last word about a packet leaves it to the next one at its place (`TC_ACT_UNSPEC`). Filters run by
//! their priority; new links go before those that are there, but steering, which goes after them.

mod filter;
mod netlink;

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use aya::Ebpf;

use crate::edge::{link, program_fd, raw};
use crate::pins::Pins;
use crate::{LoadError, sys};

pub(crate) use filter::{in_order_of_removal, remove_record};

/// How programs are held at tc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcWay {
    /// By links, from kernel 6.6.
    Links,
    /// By filters of the clsact queueing discipline, on any kernel.
    Filters,
}

impl TcWay {
    /// The better one that this kernel has.
    pub fn of_kernel() -> Self {
        // Asks what is at the loopback device; a kernel without links does not know the place (EINVAL).
        match raw::prog_query(1, raw::ATTACH_TCX_INGRESS) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Self::Filters,
            _ => Self::Links,
        }
    }
}

/// A side of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// What it has received.
    Ingress,
    /// What it is to send.
    Egress,
}

impl Side {
    fn attach_type(self) -> u32 {
        match self {
            Self::Ingress => raw::ATTACH_TCX_INGRESS,
            Self::Egress => raw::ATTACH_TCX_EGRESS,
        }
    }
}

/// A program and its place on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcHook {
    /// Name of the program in its object and of its pins: at most 15 bytes, no dot.
    pub(crate) name: &'static str,
    /// On which side.
    pub(crate) side: Side,
    /// Of the filter; the smaller runs first. Each hook of a side has its own, [`priority`].
    pub(crate) priority: u16,
}

/// `BPF_F_BEFORE`: with no link named, before all that are there.
const BEFORE: u32 = 1 << 3;

/// Priorities of filters. Above those that the kernel gives to who asks for none (49152 and down), so that other people's
/// come first and may drop.
pub(crate) mod priority {
    /// Takes packets of edges out of their outer headers.
    pub(crate) const DSR: u16 = 0xc8a0;
    /// VIP to backend, and back.
    pub(crate) const PACKET: u16 = 0xc8b0;
    /// Steering between containers: it may send a packet elsewhere, so it is the last.
    pub(crate) const OVERLAY: u16 = 0xc8c0;
}

/// Programs that belong to the same devices.
#[derive(Clone, Debug)]
pub(crate) struct TcHooks {
    pins: Pins,
    way: TcWay,
    hooks: &'static [TcHook],
}

impl TcHooks {
    /// `hooks` in the order of attachment.
    pub(crate) fn new(pins: Pins, way: TcWay, hooks: &'static [TcHook]) -> Self {
        Self { pins, way, hooks }
    }

    /// Makes the programs run at a device of the caller's network namespace. What is there gets the new program in one
    /// step. Returns whether all were there.
    pub(crate) fn attach(&self, ebpf: &Ebpf, ifindex: u32) -> Result<bool, LoadError> {
        let mut found = true;
        for hook in self.hooks {
            let program = program_fd(ebpf, hook.name)?;
            found &= match self.way {
                TcWay::Links => self.by_link(hook, program, ifindex)?,
                TcWay::Filters => self.by_filter(hook, program, ifindex)?,
            };
        }
        Ok(found)
    }

    /// Takes the programs off a device, the last one first. Not attached is success.
    pub(crate) fn detach(&self, ifindex: u32) -> Result<(), LoadError> {
        for hook in self.hooks.iter().rev() {
            link::detach(hook.name, &self.pins.link(&pin_name(hook.name, ifindex)))?;
            filter::detach(&self.pins, hook.name, ifindex)?;
        }
        filter::remove_discipline(&self.pins, ifindex)
    }

    /// The devices that have a program, or had one and are gone, by their numbers, sorted.
    pub(crate) fn attached(&self) -> Result<Vec<u32>, LoadError> {
        let mut found = Vec::new();
        for dir in [self.pins.link(""), self.pins.filter("")] {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                // Made by a version that had no filters.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => {
                    return Err(LoadError::File {
                        action: "list",
                        path: dir,
                        source,
                    });
                }
            };
            for entry in entries {
                let entry = entry.map_err(|source| LoadError::File {
                    action: "list",
                    path: dir.clone(),
                    source,
                })?;
                let name = entry.file_name();
                let number = name
                    .to_str()
                    .and_then(parse_pin)
                    .filter(|(program, _)| self.hooks.iter().any(|hook| hook.name == *program));
                found.extend(number.map(|(_, ifindex)| ifindex));
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn by_link(
        &self,
        hook: &TcHook,
        program: BorrowedFd<'_>,
        ifindex: u32,
    ) -> Result<bool, LoadError> {
        let pin = self.pins.link(&pin_name(hook.name, ifindex));
        // Whoever starts first, steering comes last.
        let flags = if hook.priority < priority::OVERLAY {
            BEFORE
        } else {
            0
        };
        let found = link::attach(
            hook.name,
            program,
            ifindex,
            hook.side.attach_type(),
            flags,
            &pin,
        )?;
        // Of a run that was told to use filters: gone once the link is there.
        filter::detach(&self.pins, hook.name, ifindex)?;
        filter::remove_discipline(&self.pins, ifindex)?;
        Ok(found)
    }

    fn by_filter(
        &self,
        hook: &TcHook,
        program: BorrowedFd<'_>,
        ifindex: u32,
    ) -> Result<bool, LoadError> {
        let found = filter::attach(&self.pins, hook, program, ifindex)?;
        link::detach(hook.name, &self.pins.link(&pin_name(hook.name, ifindex)))?;
        Ok(found)
    }
}

/// The name of a pin.
pub(crate) fn pin_name(name: &str, ifindex: u32) -> String {
    format!("{name}-{ifindex}")
}

/// The opposite: program and device, also of a pin that was to take another's place.
fn parse_pin(name: &str) -> Option<(&str, u32)> {
    let name = name.strip_suffix(filter::NEXT).unwrap_or(name);
    let (program, ifindex) = name.rsplit_once('-')?;
    Some((program, ifindex.parse().ok()?))
}

/// Pins something, over what may be pinned there.
fn pin_over(fd: BorrowedFd<'_>, path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sys::obj_pin(fd, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_name_program_and_device() {
        for (name, ifindex) in [("packet_in", 7), ("dsr_out", 1), ("clsact", u32::MAX)] {
            let pin = pin_name(name, ifindex);
            assert_eq!(parse_pin(&pin), Some((name, ifindex)));
            // The kernel refuses dots on a bpffs.
            assert!(!pin.contains('.'));
            let next = format!("{pin}{}", filter::NEXT);
            assert_eq!(parse_pin(&next), Some((name, ifindex)));
        }
        for other in ["connect4", "packet_in-", "packet_in-x", "-", ""] {
            assert_eq!(parse_pin(other), None, "{other}");
        }
    }
}
