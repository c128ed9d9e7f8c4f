//! One `SEND_ZC` by io_uring, and no more of it.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

const ENTRIES: u32 = 2;
const SEND_ZC: u8 = 47;
const GETEVENTS: libc::c_uint = 1;
const SQ_RING: libc::off_t = 0;
const CQ_RING: libc::off_t = 0x800_0000;
const SQES: libc::off_t = 0x1000_0000;

/// `struct io_sqring_offsets`, and that of completions.
#[repr(C)]
#[derive(Default)]
struct Offsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    /// Of completions: overflows.
    flags: u32,
    /// Of completions: where they are.
    dropped: u32,
    array: u32,
    pad: u32,
    address: u64,
}

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    others: [u32; 8],
    sq: Offsets,
    cq: Offsets,
}

/// `struct io_uring_sqe`.
#[repr(C)]
#[derive(Default)]
struct Entry {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    rest: [u32; 9],
}

/// `struct io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

const _: () = {
    assert!(size_of::<Params>() == 120);
    assert!(size_of::<Entry>() == 64);
};

struct Mapping {
    at: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(ring: &OwnedFd, length: usize, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a new mapping of the ring's memory; nothing of ours is replaced.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                ring.as_raw_fd(),
                offset,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at null"))?;
        Ok(Self { at, length })
    }

    /// A place in it, if `T` fits there.
    fn place<T>(&self, offset: usize) -> io::Result<*mut T> {
        let end = offset.checked_add(size_of::<T>());
        if end.is_none_or(|end| end > self.length) || !offset.is_multiple_of(align_of::<T>()) {
            return Err(io::Error::other("the ring is not as it says"));
        }
        // SAFETY: within the mapping, and aligned: mappings begin at pages.
        Ok(unsafe { self.at.as_ptr().add(offset) }.cast())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody has a place in it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.length) };
    }
}

/// Sends bytes that live for ever. An error of the kind `Unsupported` is that there is no io_uring.
pub(super) fn send_zc(to: &TcpStream, bytes: &'static [u8]) -> io::Result<usize> {
    let mut params = Params::default();
    // SAFETY: reads and writes the parameters, whose size is asserted.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut params) };
    if ring < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(io::ErrorKind::Unsupported, error));
    }
    // SAFETY: a new descriptor that nobody else has.
    let ring = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(ring).map_err(io::Error::other)?) };
    let size = |at: u32, n: u32, each: usize| at as usize + n as usize * each;
    let sq_size = size(params.sq.array, params.sq_entries, size_of::<u32>());
    let cq_size = size(
        params.cq.dropped,
        params.cq_entries,
        size_of::<Completion>(),
    );
    let sq = Mapping::new(&ring, sq_size, SQ_RING)?;
    let cq = Mapping::new(&ring, cq_size, CQ_RING)?;
    let entries = size(0, params.sq_entries, size_of::<Entry>());
    let entries = Mapping::new(&ring, entries, SQES)?;
    let entry = Entry {
        opcode: SEND_ZC,
        fd: to.as_raw_fd(),
        address: bytes.as_ptr() as u64,
        length: u32::try_from(bytes.len()).map_err(io::Error::other)?,
        ..Entry::default()
    };
    // SAFETY: places within the mappings; the kernel looks only once it is told to, and at the first entry only.
    unsafe {
        entries.place::<Entry>(0)?.write(entry);
        sq.place::<u32>(params.sq.array as usize)?.write(0);
        (*sq.place::<AtomicU32>(params.sq.tail as usize)?).store(1, Ordering::Release);
    }
    // SAFETY: no signal mask is given.
    let entered = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            ring.as_raw_fd(),
            1_u32,
            1_u32,
            GETEVENTS,
            std::ptr::null::<libc::sigset_t>(),
            0_usize,
        )
    };
    if entered != 1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: places within the mapping; what is below the tail is the kernel's no more.
    let result = unsafe {
        let tail = (*cq.place::<AtomicU32>(params.cq.tail as usize)?).load(Ordering::Acquire);
        if tail == 0 {
            return Err(io::Error::other("nothing was completed"));
        }
        cq.place::<Completion>(params.cq.dropped as usize)?
            .read()
            .result
    };
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
