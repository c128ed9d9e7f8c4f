//! The kernel's BPF objects (programs, maps, links) by id, and who holds them.
//!
//! By plain system calls, so that a leak check believes the kernel and not the code under test.
#![allow(
    unsafe_code,
    reason = "bpf(2) has no safe wrapper outside of the loader, which is what is checked"
)]

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A kind of object; its commands are those of `enum bpf_cmd` in linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A loaded program.
    Program,
    /// A map.
    Map,
    /// An attachment.
    Link,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Program, Self::Map, Self::Link];

    /// `BPF_*_GET_NEXT_ID`.
    fn next_command(self) -> libc::c_long {
        match self {
            Self::Program => 11,
            Self::Map => 12,
            Self::Link => 31,
        }
    }

    /// `BPF_*_GET_FD_BY_ID`.
    fn open_command(self) -> libc::c_long {
        match self {
            Self::Program => 13,
            Self::Map => 14,
            Self::Link => 30,
        }
    }

    /// For people, as bpftool says it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Program => "prog",
            Self::Map => "map",
            Self::Link => "link",
        }
    }
}

const GET_NEXT_KEY: libc::c_long = 4;
const OBJ_GET: libc::c_long = 7;
/// More than any map of ours in a test has.
const MAX_KEYS: usize = 100_000;
const INFO_BY_FD: libc::c_long = 15;
/// `BPF_PROG_TYPE_CGROUP_DEVICE`: container runtimes and init attach these and hold nothing.
const CGROUP_DEVICE: u32 = 15;
/// Maps of one program that are looked at; ours have fewer than 20.
const MAX_MAPS: usize = 64;

/// One object: its kind and its id.
pub type Object = (Kind, u32);

/// Every object in the kernel; empty without the privilege to ask.
#[must_use]
pub fn all() -> BTreeSet<Object> {
    let mut found = BTreeSet::new();
    for kind in Kind::ALL {
        let mut id = 0;
        while let Some(next) = next_id(kind, id) {
            found.insert((kind, next));
            id = next;
        }
    }
    found.retain(|(kind, id)| {
        *kind != Kind::Program || ProgramInfo::of(*id).is_none_or(|info| info.kind != CGROUP_DEVICE)
    });
    found
}

/// What these processes hold open.
#[must_use]
pub fn held_by(pids: impl IntoIterator<Item = i32>) -> BTreeSet<Object> {
    let mut found = BTreeSet::new();
    for pid in pids {
        let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for fd in fds.flatten() {
            let target = std::fs::read_link(fd.path()).unwrap_or_default();
            if target.as_os_str().as_bytes().starts_with(b"anon_inode:bpf") {
                let name = fd.file_name();
                found.extend(in_fdinfo(pid, &name.to_string_lossy()));
            }
        }
    }
    with_maps(found)
}

/// What is pinned in these files.
#[must_use]
pub fn pinned<'a>(files: impl IntoIterator<Item = &'a Path>) -> BTreeSet<Object> {
    with_maps(pinned_themselves(files))
}

/// As [`pinned`], without the maps that only a pinned program holds: its constants and variables.
#[must_use]
pub fn pinned_themselves<'a>(files: impl IntoIterator<Item = &'a Path>) -> BTreeSet<Object> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut found = BTreeSet::new();
    for file in files {
        if let Some(fd) = open_pin(file) {
            found.extend(in_fdinfo(own, &fd.as_raw_fd().to_string()));
        }
    }
    found
}

/// The keys of a pinned map, as far as it is not changed meanwhile; `None` where no map is pinned there.
#[must_use]
pub fn keys(file: &Path) -> Option<Vec<Vec<u8>>> {
    let fd = open_pin(file)?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let key_size = info.lines().find_map(|l| l.strip_prefix("key_size:"))?;
    let n_bytes: usize = key_size.trim().parse().ok()?;
    let mut found: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut next = vec![0_u8; n_bytes];
        let mut attr = KeyAttr {
            map_fd: u32::try_from(fd.as_raw_fd()).ok()?,
            // None asks for the first.
            key: found.last().map_or(0, |key| key.as_ptr() as u64),
            next_key: next.as_mut_ptr() as u64,
        };
        // A map that changes all the time would have no end.
        if found.len() == MAX_KEYS || bpf(GET_NEXT_KEY, &mut attr).is_err() {
            return Some(found);
        }
        found.push(next);
    }
}

/// The object for people: kind, id and name.
#[must_use]
pub fn describe((kind, id): Object) -> String {
    let name = match kind {
        Kind::Program => ProgramInfo::of(id).map(|info| info.name),
        _ => None,
    };
    format!("bpf {} {id} {}", kind.word(), name.unwrap_or_default())
        .trim_end()
        .to_owned()
}

/// The maps of programs: whoever holds a program holds its maps.
fn with_maps(mut objects: BTreeSet<Object>) -> BTreeSet<Object> {
    let programs: Vec<u32> = objects
        .iter()
        .filter(|(kind, _)| *kind == Kind::Program)
        .map(|(_, id)| *id)
        .collect();
    for info in programs.into_iter().filter_map(ProgramInfo::of) {
        objects.extend(info.map_ids.into_iter().map(|id| (Kind::Map, id)));
    }
    objects
}

/// Ids in `/proc/PID/fdinfo/FD`; a link's has its program's too.
fn in_fdinfo(pid: i32, fd: &str) -> Vec<Object> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    parse_fdinfo(&text)
}

fn parse_fdinfo(text: &str) -> Vec<Object> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(key, value)| {
            let kind = match key {
                "prog_id" => Kind::Program,
                "map_id" => Kind::Map,
                "link_id" => Kind::Link,
                _ => return None,
            };
            Some((kind, value.trim().parse().ok()?))
        })
        .collect()
}

/// The start of `union bpf_attr` as the commands on ids have it.
#[repr(C)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// As `BPF_OBJ_GET` has it.
#[repr(C)]
struct PathAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// As `BPF_MAP_GET_NEXT_KEY` has it.
#[repr(C)]
struct KeyAttr {
    map_fd: u32,
    key: u64,
    next_key: u64,
}

/// As `BPF_OBJ_GET_INFO_BY_FD` has it.
#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// The start of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct RawProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a whole, initialized, exclusively borrowed value, and its true size goes
    // with it; pointers inside it are to live memory of the stated size (see the callers).
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(result: libc::c_long) -> Option<OwnedFd> {
    let fd = RawFd::try_from(result).ok()?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn next_id(kind: Kind, id: u32) -> Option<u32> {
    let mut attr = IdAttr {
        id,
        next_id: 0,
        open_flags: 0,
    };
    bpf(kind.next_command(), &mut attr).ok()?;
    Some(attr.next_id)
}

fn open_id(kind: Kind, id: u32) -> Option<OwnedFd> {
    let mut attr = IdAttr {
        id,
        next_id: 0,
        open_flags: 0,
    };
    owned(bpf(kind.open_command(), &mut attr).ok()?)
}

fn open_pin(file: &Path) -> Option<OwnedFd> {
    let path = CString::new(file.as_os_str().as_bytes()).ok()?;
    let mut attr = PathAttr {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    owned(bpf(OBJ_GET, &mut attr).ok()?)
}

#[derive(Debug)]
struct ProgramInfo {
    kind: u32,
    name: String,
    map_ids: Vec<u32>,
}

impl ProgramInfo {
    /// None when it is gone.
    fn of(id: u32) -> Option<Self> {
        let fd = open_id(Kind::Program, id)?;
        let mut map_ids = [0_u32; MAX_MAPS];
        let mut raw = RawProgramInfo {
            nr_map_ids: u32::try_from(MAX_MAPS).ok()?,
            map_ids: map_ids.as_mut_ptr() as u64,
            ..RawProgramInfo::default()
        };
        let mut attr = InfoAttr {
            fd: u32::try_from(fd.as_raw_fd()).ok()?,
            len: u32::try_from(size_of::<RawProgramInfo>()).ok()?,
            info: std::ptr::from_mut(&mut raw) as u64,
        };
        bpf(INFO_BY_FD, &mut attr).ok()?;
        let n_maps = usize::try_from(raw.nr_map_ids).ok()?.min(MAX_MAPS);
        let name = raw.name.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Self {
            kind: raw.kind,
            name: String::from_utf8_lossy(name).into_owned(),
            map_ids: map_ids.into_iter().take(n_maps).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo_names_objects() {
        let link = "pos:\t0\nflags:\t02000002\nlink_type:\tcgroup\nlink_id:\t7\nprog_tag:\tab\nprog_id:\t12\n";
        assert_eq!(parse_fdinfo(link), [(Kind::Link, 7), (Kind::Program, 12)]);
        assert_eq!(parse_fdinfo("map_type:\t1\nmap_id:\t3\n"), [(Kind::Map, 3)]);
        assert!(parse_fdinfo("prog_id:\tx\n").is_empty());
    }

    #[test]
    fn the_kernel_layouts_are_ours() {
        assert_eq!(std::mem::offset_of!(RawProgramInfo, map_ids), 56);
        assert_eq!(std::mem::offset_of!(RawProgramInfo, name), 64);
        assert_eq!(size_of::<InfoAttr>(), 16);
    }
}
