//! Filters of the clsact queueing discipline, remembered by pins of their programs.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use aya::programs::ProgramInfo;

use super::netlink::{Found, Place, Tc};
use super::{TcHook, parse_pin, pin_name, pin_over};
use crate::pins::Pins;
use crate::{LoadError, sys};

/// Ends the name of a pin that is to take the place of the one without.
pub(super) const NEXT: &str = "-next";
/// Begins the name of a discipline's pin.
const DISCIPLINE: &str = "clsact";
/// Ours among the filters of a place and a priority.
const HANDLE: u32 = 1;

/// What `tc filter show` prints for a program of ours.
fn shown(name: &str) -> String {
    format!("waggle:{name}")
}

/// Makes a program run at its place, instead of the one that a filter of ours has there. Returns whether there was one.
pub(super) fn attach(
    pins: &Pins,
    hook: &TcHook,
    program: BorrowedFd<'_>,
    ifindex: u32,
) -> Result<bool, LoadError> {
    let fail = |action| {
        move |source| LoadError::Link {
            action,
            name: hook.name,
            source,
        }
    };
    let place = Place {
        ifindex,
        side: hook.side,
        priority: hook.priority,
        handle: HANDLE,
    };
    let tc = Tc::open().map_err(fail("open a netlink socket for"))?;
    ensure_discipline(&tc, pins, program, ifindex).map_err(fail("add clsact for"))?;
    let shown = shown(hook.name);
    let found = tc.find(place).map_err(fail("look for the filter of"))?;
    let ours = |found: &Found| found.place == place && found.name.as_deref() == Some(&shown);
    if !found.iter().all(ours) {
        return Err(LoadError::FilterTaken {
            ifindex,
            name: hook.name,
            priority: hook.priority,
        });
    }
    // Before the filter: whatever happens in between, a pin leads to it.
    let pin = pins.filter(&pin_name(hook.name, ifindex));
    let next = next(&pin);
    let known = pin.exists();
    pin_over(program, &next).map_err(fail("pin"))?;
    tc.set(place, program, &shown)
        .map_err(fail("set the filter of"))?;
    fs::rename(&next, &pin).map_err(fail("pin"))?;
    Ok(known && !found.is_empty())
}

/// Removes a program's filter from a device, if it is the one that was pinned, and its pins. None is success.
pub(super) fn detach(pins: &Pins, name: &'static str, ifindex: u32) -> Result<(), LoadError> {
    let pin = pins.filter(&pin_name(name, ifindex));
    for pin in [next(&pin), pin] {
        if pin.exists() {
            remove_filter(&pin, name, ifindex).map_err(|source| LoadError::Link {
                action: "remove the filter of",
                name,
                source,
            })?;
            unpin(&pin)?;
        }
    }
    Ok(())
}

/// Removes the discipline of a device if it was made here and has no filter.
pub(super) fn remove_discipline(pins: &Pins, ifindex: u32) -> Result<(), LoadError> {
    let pin = pins.filter(&pin_name(DISCIPLINE, ifindex));
    if !pin.exists() {
        return Ok(());
    }
    remove_empty(ifindex).map_err(|source| LoadError::Link {
        action: "remove the discipline of",
        name: DISCIPLINE,
        source,
    })?;
    // Where others have filters it is theirs from now on.
    if has_ours(pins, ifindex)? {
        return Ok(());
    }
    unpin(&pin)
}

/// Removes what a pin in the directory of filters stands for; the pin stays. For the removal of a whole pin directory, whose
/// discipline pins come last.
pub(crate) fn remove_record(pin: &Path) -> io::Result<()> {
    let Some((name, ifindex)) = pin.file_name().and_then(|n| n.to_str()).and_then(parse_pin) else {
        return Ok(());
    };
    if name == DISCIPLINE {
        remove_empty(ifindex)
    } else {
        remove_filter(pin, name, ifindex)
    }
}

/// Names of pins, so that disciplines come after what is in them.
pub(crate) fn in_order_of_removal(mut names: Vec<String>) -> Vec<String> {
    names.sort_by_key(|name| parse_pin(name).is_some_and(|(name, _)| name == DISCIPLINE));
    names
}

fn ensure_discipline(
    tc: &Tc,
    pins: &Pins,
    program: BorrowedFd<'_>,
    ifindex: u32,
) -> io::Result<()> {
    let pin = pins.filter(&pin_name(DISCIPLINE, ifindex));
    let known = pin.exists();
    if !known {
        sys::obj_pin(program, &pin)?;
    }
    let made = tc.add_discipline(ifindex);
    if !known && !matches!(made, Ok(true)) {
        // Somebody else's.
        fs::remove_file(&pin)?;
    }
    made.map(drop)
}

fn remove_filter(pin: &Path, name: &str, ifindex: u32) -> io::Result<()> {
    let id = ProgramInfo::from_pin(pin).map_err(io::Error::other)?.id();
    let tc = Tc::open()?;
    let shown = shown(name);
    let ours = |found: &Found| found.program == Some(id) && found.name.as_deref() == Some(&shown);
    for found in tc.list(ifindex)?.iter().filter(|found| ours(found)) {
        tc.remove(found.place)?;
    }
    Ok(())
}

fn remove_empty(ifindex: u32) -> io::Result<()> {
    let tc = Tc::open()?;
    if tc.list(ifindex)?.is_empty() {
        tc.remove_discipline(ifindex)?;
    }
    Ok(())
}

/// Whether another program of ours has a filter on a device.
fn has_ours(pins: &Pins, ifindex: u32) -> Result<bool, LoadError> {
    let dir = pins.filter("");
    let fail = |source| LoadError::File {
        action: "list",
        path: dir.clone(),
        source,
    };
    for entry in fs::read_dir(&dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let parsed = name.to_str().and_then(parse_pin);
        if parsed.is_some_and(|(program, at)| program != DISCIPLINE && at == ifindex) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn next(pin: &Path) -> PathBuf {
    let mut name = pin.as_os_str().to_owned();
    name.push(NEXT);
    PathBuf::from(name)
}

fn unpin(pin: &Path) -> Result<(), LoadError> {
    fs::remove_file(pin).map_err(|source| LoadError::File {
        action: "unpin",
        path: pin.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disciplines_go_last() {
        let names = ["clsact-2", "packet_in-2", "clsact-1", "dsr_in-1"].map(str::to_owned);
        let sorted = ["packet_in-2", "dsr_in-1", "clsact-2", "clsact-1"];
        assert_eq!(in_order_of_removal(names.to_vec()), sorted);
    }
}
