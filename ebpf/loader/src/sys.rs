//! The few `bpf(2)` commands that aya does not offer for links, memory of maps, and `statfs`.
//!
//! All unsafe code of this crate is here. Structures follow `union bpf_attr` of `linux/bpf.h`; the kernel
//! accepts a shorter union than its own, so only the fields used are written down.

use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use waggle_ebpf_common::Cell;

/// `f_type` of cgroup2 (`linux/magic.h`).
pub(crate) const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
/// `f_type` of bpffs (`linux/magic.h`).
pub(crate) const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_ENABLE_STATS: libc::c_long = 32;

/// `BPF_LINK_TYPE_CGROUP`.
pub(crate) const LINK_TYPE_CGROUP: u32 = 3;

#[repr(C)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct ElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

#[repr(C)]
struct EnableStatsAttr {
    kind: u32,
}

/// Start of `struct bpf_link_info`, with the cgroup variant of its union.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) prog_id: u32,
    pad: u32,
    /// 0 when the cgroup is gone.
    pub(crate) cgroup_id: u64,
    pub(crate) attach_type: u32,
    pad2: u32,
}

/// Runs one bpf command whose attributes are `attr`.
///
/// # Safety
/// `attr` must be the right structure for `command`, and every address in it valid for that command.
pub(crate) unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a live exclusive reference of the size given; the caller vouches for the rest.
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

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // An open descriptor is never negative.
    fd.as_raw_fd().unsigned_abs()
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just handed this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Pins a link.
pub(crate) fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: raw(fd),
        file_flags: 0,
    };
    // SAFETY: BPF_OBJ_PIN reads this structure; `path` outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Takes an entry out of a hash, value and removal in one step; `None` where it is not there.
pub(crate) fn map_take<K: aya::Pod, V: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = V::default();
    let mut attr = ElemAttr {
        map_fd: raw(map),
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(&mut value) as u64,
        flags: 0,
    };
    // SAFETY: the command reads a key and writes a value of the map's sizes, which are those of `K` and `V` (any bit
    // pattern is valid for both); they outlive the call.
    match unsafe { bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr) } {
        Ok(_) => Ok(Some(value)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens what is pinned at a path.
pub(crate) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: BPF_OBJ_GET reads this structure; `path` outlives the call.
    owned(unsafe { bpf(BPF_OBJ_GET, &mut attr) }?)
}

/// Reads what a link is.
pub(crate) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        bpf_fd: raw(fd),
        info_len: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: BPF_OBJ_GET_INFO_BY_FD writes at most `info_len` bytes to `info`, which is plain integers.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// Attaches a program to a cgroup.
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    // Flags must be 0: links are always "multi", the flag is refused.
    let mut attr = LinkCreateAttr {
        prog_fd: raw(program),
        target_fd: raw(cgroup),
        attach_type,
        flags: 0,
    };
    // SAFETY: BPF_LINK_CREATE reads this structure, which holds no address.
    owned(unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?)
}

/// Replaces a link's program, atomically.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link_fd: raw(link),
        new_prog_fd: raw(program),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: BPF_LINK_UPDATE reads this structure, which holds no address.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Lets the kernel time every program run for as long as the descriptor is open.
pub(crate) fn enable_run_stats() -> io::Result<OwnedFd> {
    let mut attr = EnableStatsAttr { kind: 0 };
    // SAFETY: BPF_ENABLE_STATS reads this structure, which holds no address.
    owned(unsafe { bpf(BPF_ENABLE_STATS, &mut attr) }?)
}

/// Runs a program on a packet. Returns its verdict and the average duration in nanoseconds.
pub(crate) fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    repeat: u32,
) -> io::Result<(u32, u32)> {
    let mut attr = TestRunAttr {
        prog_fd: raw(program),
        data_size_in: u32::try_from(packet.len()).map_err(io::Error::other)?,
        data_in: packet.as_ptr() as u64,
        repeat,
        ..TestRunAttr::default()
    };
    // SAFETY: BPF_PROG_TEST_RUN reads `data_size_in` bytes at `data_in` and writes none (no output buffer).
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok((attr.retval, attr.duration))
}

/// An array map's elements as memory of this process, read and written in place.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: std::ptr::NonNull<Cell>,
    len: usize,
}

// SAFETY: the memory is shared with the kernel anyway; who holds the value may use it from any thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes of an array with `BPF_F_MMAPABLE`, whose elements are cells.
    pub(crate) fn new(map: &aya::maps::MapData, len: usize) -> io::Result<Self> {
        let fd = map.fd().as_fd().as_raw_fd();
        // SAFETY: a new mapping of a descriptor that is open; the address is the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = std::ptr::NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, len })
    }

    fn cells(&self) -> usize {
        self.len / size_of::<Cell>()
    }

    /// Writes cells that exist; before anything that this thread asks of the kernel afterwards.
    pub(crate) fn write(&mut self, base: usize, cells: &[Cell]) {
        assert!(base + cells.len() <= self.cells());
        // SAFETY: inside of the mapping, as asserted; a cell has no padding and any bits are valid.
        unsafe {
            std::ptr::copy_nonoverlapping(
                cells.as_ptr(),
                self.start.as_ptr().add(base),
                cells.len(),
            );
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    /// Writes one word of a cell that exists, in one store.
    pub(crate) fn patch(&mut self, cell: usize, word: usize, value: u32) {
        assert!(cell < self.cells() && word < size_of::<Cell>() / size_of::<u32>());
        // SAFETY: inside of the mapping, as asserted; aligned; programs of the kernel only read it.
        unsafe {
            let at = self.start.as_ptr().add(cell).cast::<u32>().add(word);
            std::sync::atomic::AtomicU32::from_ptr(at)
                .store(value, std::sync::atomic::Ordering::SeqCst);
        }
    }

    /// Reads cells that exist.
    pub(crate) fn read(&self, range: std::ops::Range<usize>) -> Vec<Cell> {
        assert!(range.end <= self.cells());
        // SAFETY: inside of the mapping, as asserted. Programs never write cells.
        range
            .map(|i| unsafe { self.start.as_ptr().add(i).read_volatile() })
            .collect()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: what was mapped, whole; nobody borrows from it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Type of the file system that a descriptor is on.
pub(crate) fn fs_type(fd: BorrowedFd<'_>) -> io::Result<i64> {
    let mut buffer = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: fstatfs writes one `struct statfs`; all of its bytes were zeroed before.
    let stat = unsafe {
        if libc::fstatfs(fd.as_fd().as_raw_fd(), buffer.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        buffer.assume_init()
    };
    #[allow(
        clippy::useless_conversion,
        reason = "f_type's width differs between targets"
    )]
    Ok(i64::from(stat.f_type))
}

/// Mounts a bpffs.
pub(crate) fn mount_bpffs(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: all strings are nul-terminated and outlive the call; bpffs needs no data.
    let result = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            target.as_ptr(),
            c"bpf".as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

const _: () = assert!(size_of::<LinkInfo>() == 32);
