//! Shared memory of arrays, links of network devices, test runs with output: what aya lacks and this module needs.
//!
//! All unsafe code of the edge is here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::sys;

const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `enum bpf_attach_type`.
pub(crate) const ATTACH_XDP: u32 = 37;
/// `enum bpf_attach_type`.
pub(crate) const ATTACH_TCX_INGRESS: u32 = 46;
/// `enum bpf_attach_type`.
pub(crate) const ATTACH_TCX_EGRESS: u32 = 47;
/// `enum bpf_attach_type`: where the other end of a netkit device, named by its first one, sends.
pub(crate) const ATTACH_NETKIT_PEER: u32 = 55;
/// `XDP_FLAGS_SKB_MODE`.
pub(crate) const XDP_GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
pub(crate) const XDP_NATIVE: u32 = 1 << 2;

/// Links to network devices: the fields after these are zero.
#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    expected_revision: u64,
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
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: private to this module, whose callers give the structure of the command with valid addresses.
    unsafe { sys::bpf(command, attr) }
}

/// Attaches a program to a network device.
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr {
        prog_fd: program.as_raw_fd().unsigned_abs(),
        target_ifindex: ifindex,
        attach_type,
        flags,
        ..LinkCreateAttr::default()
    };
    let fd = bpf(BPF_LINK_CREATE, &mut attr)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just handed this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whole: the kernel writes the last field, however long the caller says that it is.
#[repr(C)]
#[derive(Default)]
struct ProgQueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

const _: () = assert!(size_of::<ProgQueryAttr>() == 64);

/// How many programs are attached to a network device, at a place of it.
pub(crate) fn prog_query(ifindex: u32, attach_type: u32) -> io::Result<u32> {
    let mut attr = ProgQueryAttr {
        target_ifindex: ifindex,
        attach_type,
        ..ProgQueryAttr::default()
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    Ok(attr.count)
}

#[repr(C)]
struct LinkDetachAttr {
    link_fd: u32,
}

/// Takes a link's program off now, whoever else holds the link.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkDetachAttr {
        link_fd: link.as_raw_fd().unsigned_abs(),
    };
    bpf(BPF_LINK_DETACH, &mut attr).map(drop)
}

/// What a test run gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The program's verdict.
    pub verdict: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Average duration of a run, nanoseconds.
    pub ns: u32,
}

/// Runs a program on a frame.
///
/// # Errors
/// The kernel's answer.
pub fn test_run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<TestRun> {
    run(program, frame, None, repeat)
}

/// Where a frame of a test run comes from, and what the kernel knows of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TestContext {
    /// The device, above 1; in the caller's network namespace. 0: none.
    pub ifindex: u32,
    /// Bytes of a segment, of a packet that is to be segmented. 0: none.
    pub gso_size: u32,
    /// The packet's mark.
    pub mark: u32,
}

/// Runs a program at tc on a frame that has a device.
///
/// # Errors
/// The kernel's answer.
pub(crate) fn test_run_in(
    program: BorrowedFd<'_>,
    frame: &[u8],
    context: TestContext,
    repeat: u32,
) -> io::Result<TestRun> {
    run(program, frame, Some(context), repeat)
}

/// `struct __sk_buff` in words, and the positions of what may be given.
const SK_BUFF_WORDS: usize = 48;
const MARK: usize = 2;
const IFINDEX: usize = 10;
const GSO_SEGS: usize = 41;
const GSO_SIZE: usize = 44;

fn run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    context: Option<TestContext>,
    repeat: u32,
) -> io::Result<TestRun> {
    let mut out = vec![0_u8; frame.len() + 512];
    let mut attr = TestRunAttr {
        prog_fd: program.as_raw_fd().unsigned_abs(),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data_size_out: u32::try_from(out.len()).map_err(io::Error::other)?,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ..TestRunAttr::default()
    };
    let mut sk_buff = [0_u32; SK_BUFF_WORDS];
    if let Some(context) = context {
        sk_buff[MARK] = context.mark;
        sk_buff[IFINDEX] = context.ifindex;
        sk_buff[GSO_SIZE] = context.gso_size;
        sk_buff[GSO_SEGS] = u32::from(context.gso_size != 0);
        attr.ctx_in = sk_buff.as_ptr() as u64;
        attr.ctx_size_in = u32::try_from(size_of_val(&sk_buff)).map_err(io::Error::other)?;
    }
    // Reads `data_size_in` bytes at `data_in`, `ctx_size_in` at `ctx_in`, and writes at most `data_size_out` at `data_out`; all
    // live on.
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    out.truncate(attr.data_size_out as usize);
    Ok(TestRun {
        verdict: attr.retval,
        packet: out,
        ns: attr.duration,
    })
}

/// The values of an array map, in memory that the kernel's programs read too.
///
/// Stores are whole words, so that no reader sees a part of one; a later store is never seen before an earlier one.
#[derive(Debug)]
pub(crate) struct Shared {
    start: NonNull<u8>,
    /// Of the mapping, bytes.
    length: usize,
    /// Of the values, bytes.
    bytes: usize,
}

// SAFETY: memory that is only reached through atomic operations.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps `bytes` of an array made with `BPF_F_MMAPABLE`.
    pub(crate) fn map(array: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        const PAGE: usize = 4096;
        let length = bytes.next_multiple_of(PAGE);
        // SAFETY: a new mapping of a descriptor; nothing of ours is replaced.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                array.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self {
            start,
            length,
            bytes,
        })
    }

    /// Size of the values, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn word32(&self, offset: usize) -> &AtomicU32 {
        assert!(
            offset.is_multiple_of(4) && offset + 4 <= self.bytes,
            "a word outside of the array"
        );
        // SAFETY: within the mapping, aligned, and reached through atomics only.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }

    fn word64(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset.is_multiple_of(8) && offset + 8 <= self.bytes,
            "a word outside of the array"
        );
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }

    /// Reads 4 bytes.
    pub(crate) fn read32(&self, offset: usize) -> u32 {
        self.word32(offset).load(Ordering::Acquire)
    }

    /// Stores 4 bytes.
    pub(crate) fn store32(&self, offset: usize, value: u32) {
        self.word32(offset).store(value, Ordering::Release);
    }

    /// Reads 8 bytes.
    pub(crate) fn read64(&self, offset: usize) -> u64 {
        self.word64(offset).load(Ordering::Acquire)
    }

    /// Stores 8 bytes.
    pub(crate) fn store64(&self, offset: usize, value: u64) {
        self.word64(offset).store(value, Ordering::Release);
    }

    /// Reads one value.
    pub(crate) fn read<T: aya::Pod>(&self, index: usize) -> T {
        let words = size_of::<T>() / 8;
        let mut value = std::mem::MaybeUninit::<T>::uninit();
        for word in 0..words {
            let bits = self.read64(index * size_of::<T>() + word * 8);
            // SAFETY: within the value; `write_unaligned` asks for no alignment.
            unsafe {
                value
                    .as_mut_ptr()
                    .cast::<u8>()
                    .add(word * 8)
                    .cast::<u64>()
                    .write_unaligned(bits);
            }
        }
        // SAFETY: every word was written (sizes are multiples of 8), and a Pod is valid for any bits.
        unsafe { value.assume_init() }
    }

    /// Stores one value, word by word: only for a place that no reader is led to.
    pub(crate) fn store<T: aya::Pod>(&self, index: usize, value: &T) {
        let words = size_of::<T>() / 8;
        for word in 0..words {
            // SAFETY: within the value.
            let bits = unsafe {
                std::ptr::from_ref(value)
                    .cast::<u8>()
                    .add(word * 8)
                    .cast::<u64>()
                    .read_unaligned()
            };
            self.store64(index * size_of::<T>() + word * 8, bits);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and no reference into it lives longer than `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
