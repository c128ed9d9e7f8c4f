//! Sending without a copy: `MSG_ZEROCOPY`, and io_uring's two ways to send.

#![allow(
    unsafe_code,
    reason = "the kernel's rings are memory that it shares, and sends read memory of ours until it says that they are done"
)]
#![allow(
    clippy::cast_ptr_alignment,
    reason = "rings begin at pages, and what is in them at multiples of its size"
)]

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// `SO_EE_ORIGIN_ZEROCOPY`.
const ZEROCOPY: u8 = 5;
/// Most of one send.
const PART: usize = 256 << 10;

/// `MSG_ZEROCOPY` on the whole, and the kernel's word that it is done with each part.
pub fn copy_less(to: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let fd = to.as_raw_fd();
    let one: libc::c_int = 1;
    // SAFETY: the option's value is an int of ours.
    checked(unsafe {
        let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or_default();
        let value = (&raw const one).cast();
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, value, size) as isize
    })?;
    let (mut sent, mut n_sends, mut n_done) = (0, 0, 0);
    while sent < bytes.len() {
        let part = &bytes[sent..bytes.len().min(sent + PART)];
        // SAFETY: the bytes stay until all sends are done, below.
        let n = checked(unsafe {
            libc::send(fd, part.as_ptr().cast(), part.len(), libc::MSG_ZEROCOPY)
        });
        match n {
            Ok(n) => {
                sent += n;
                n_sends += 1;
            }
            // Too many are not done.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => n_done += done(fd)?,
            Err(e) => return Err(e),
        }
    }
    while n_done < n_sends {
        n_done += done(fd)?;
    }
    Ok(())
}

/// Waits for a word on the socket's error queue: how many sends are done.
fn done(fd: libc::c_int) -> io::Result<u32> {
    let mut poll = libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    };
    // SAFETY: one entry of ours. Errors are always told.
    if checked(unsafe { libc::poll(&raw mut poll, 1, 10_000) } as isize)? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut control = [0_u64; 16];
    // SAFETY: all zero is an empty header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: the header points to memory of ours of the size that it says.
    checked(unsafe { libc::recvmsg(fd, &raw mut header, libc::MSG_ERRQUEUE) })?;
    let mut n = 0;
    // SAFETY: the kernel has filled in the header and its control messages.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            let error = libc::CMSG_DATA(message).cast::<libc::sock_extended_err>();
            let error = error.read_unaligned();
            if error.ee_origin == ZEROCOPY {
                n += error.ee_data.wrapping_sub(error.ee_info) + 1;
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    Ok(n)
}

const SEND: u8 = 26;
const SEND_ZC: u8 = 47;
const GET_EVENTS: libc::c_uint = 1;
/// Of a completion: one more comes of the same; it is that one.
const MORE: u32 = 1 << 1;
const NOTIFICATION: u32 = 1 << 3;

/// Where things are in the rings (`io_sqring_offsets`, `io_cqring_offsets`).
#[repr(C)]
#[derive(Default)]
struct Offsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    /// Flags, or overflow.
    five: u32,
    /// Dropped, or the completions.
    six: u32,
    /// The array, or flags.
    seven: u32,
    reserved: u32,
    address: u64,
}

/// `io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Params {
    n_submissions: u32,
    n_completions: u32,
    flags: u32,
    thread: [u32; 2],
    features: u32,
    workers: u32,
    reserved: [u32; 3],
    submissions: Offsets,
    completions: Offsets,
}

/// `io_uring_sqe`, as far as a send needs it.
#[repr(C)]
#[derive(Default)]
struct Submission {
    operation: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    message_flags: u32,
    data: u64,
    rest: [u64; 3],
}

/// `io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Completion {
    data: u64,
    result: i32,
    flags: u32,
}

const _: () = assert!(size_of::<Params>() == 120);
const _: () = assert!(size_of::<Submission>() == 64);
const _: () = assert!(size_of::<Completion>() == 16);

/// Memory that the kernel shares.
struct Shared {
    at: NonNull<u8>,
    length: usize,
}

impl Shared {
    fn map(ring: &OwnedFd, offset: libc::off_t, length: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping, wherever there is room.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                access,
                flags,
                ring.as_raw_fd(),
                offset,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(Self { at, length })
    }

    fn number(&self, offset: u32) -> &AtomicU32 {
        assert!(offset as usize + 4 <= self.length && offset.is_multiple_of(4));
        // SAFETY: within the mapping, aligned, and both sides use it atomically.
        unsafe { &*self.at.as_ptr().add(offset as usize).cast::<AtomicU32>() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by us, and nothing refers to it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.length) };
    }
}

/// A ring with one send at a time.
struct Ring {
    fd: OwnedFd,
    params: Params,
    submissions: Shared,
    completions: Shared,
    entries: Shared,
}

impl Ring {
    fn new() -> io::Result<Self> {
        let mut params = Params::default();
        // SAFETY: the kernel fills in the parameters, whose size is checked above; the descriptor is ours.
        let fd = unsafe {
            let fd = libc::syscall(libc::SYS_io_uring_setup, 4, &raw mut params);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(libc::c_int::try_from(fd).map_err(io::Error::other)?)
        };
        let array = params.submissions.seven + params.n_submissions * 4;
        let completed = params.completions.six + params.n_completions * 16;
        let n = params.n_submissions as usize * size_of::<Submission>();
        Ok(Self {
            submissions: Shared::map(&fd, 0, array as usize)?,
            completions: Shared::map(&fd, 0x800_0000, completed as usize)?,
            entries: Shared::map(&fd, 0x1000_0000, n)?,
            fd,
            params,
        })
    }

    fn submit(&self, one: Submission) {
        let at = &self.params.submissions;
        let tail = self.submissions.number(at.tail).load(Ordering::Relaxed);
        let place = tail & self.submissions.number(at.mask).load(Ordering::Relaxed);
        // SAFETY: the place is within the entries, and the kernel reads it only once the tail says so.
        unsafe {
            let entries = self.entries.at.as_ptr().cast::<Submission>();
            entries.add(place as usize).write(one);
        }
        let array = self.submissions.number(at.seven + place * 4);
        array.store(place, Ordering::Relaxed);
        let next = tail.wrapping_add(1);
        self.submissions
            .number(at.tail)
            .store(next, Ordering::Release);
    }

    /// Hands in so many, and waits for a completion.
    fn wait(&self, n: u32) -> io::Result<Completion> {
        let at = &self.params.completions;
        let (mut n, head) = (n, self.completions.number(at.head));
        let now = head.load(Ordering::Relaxed);
        loop {
            let is_there = self.completions.number(at.tail).load(Ordering::Acquire) != now;
            if is_there && n == 0 {
                break;
            }
            // SAFETY: plain numbers, and no signal mask.
            let entered = unsafe {
                let null = std::ptr::null::<libc::c_void>();
                let fd = self.fd.as_raw_fd();
                libc::syscall(
                    libc::SYS_io_uring_enter,
                    fd,
                    n,
                    1,
                    GET_EVENTS,
                    null,
                    0_usize,
                )
            };
            if entered < 0 {
                return Err(io::Error::last_os_error());
            }
            n = 0;
        }
        let place = now & self.completions.number(at.mask).load(Ordering::Relaxed);
        // SAFETY: within the completions, and written before the tail that was read.
        let one = unsafe {
            let all = self.completions.at.as_ptr().add(at.six as usize);
            all.cast::<Completion>().add(place as usize).read()
        };
        head.store(now.wrapping_add(1), Ordering::Release);
        Ok(one)
    }
}

/// Whether this kernel has io_uring for us.
pub fn has_ring() -> bool {
    Ring::new().is_ok()
}

/// By io_uring, with or without a copy; `None` if this kernel has none for us.
pub fn by_ring(to: &TcpStream, bytes: &[u8], copies: bool) -> io::Result<Option<()>> {
    let ring = match Ring::new() {
        Ok(ring) => ring,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => return Ok(None),
        Err(e) => return Err(e),
    };
    let (mut sent, mut n_held) = (0, 0);
    while sent < bytes.len() {
        let part = &bytes[sent..bytes.len().min(sent + PART)];
        ring.submit(Submission {
            operation: if copies { SEND } else { SEND_ZC },
            fd: to.as_raw_fd(),
            address: part.as_ptr().expose_provenance() as u64,
            length: u32::try_from(part.len()).map_err(io::Error::other)?,
            ..Submission::default()
        });
        let mut one = ring.wait(1)?;
        while one.flags & NOTIFICATION != 0 {
            n_held -= 1;
            one = ring.wait(0)?;
        }
        n_held += u32::from(one.flags & MORE != 0);
        sent += usize::try_from(one.result).map_err(|_| {
            // A kernel that is older than the operation says EINVAL.
            io::Error::from_raw_os_error(-one.result)
        })?;
    }
    // Until then the kernel reads the bytes.
    while n_held > 0 {
        n_held -= u32::from(ring.wait(0)?.flags & NOTIFICATION != 0);
    }
    Ok(Some(()))
}

fn checked(n: isize) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}
