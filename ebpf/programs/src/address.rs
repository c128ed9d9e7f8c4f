//! Addresses in contexts and in maps.
//!
//! Word by word throughout: of whole arrays the compiler makes calls of memcmp and memcpy, which are loops over
//! bytes here and global functions that libbpf's loaders refuse.

use aya_ebpf::bindings::bpf_sock_addr;
use waggle_ebpf_common::{Addr, MAPPED};

/// No address.
pub const NONE: Addr = [0; 4];

/// Whether two addresses are the same.
///
/// # Safety
/// Both point to readable memory.
#[inline(always)]
pub unsafe fn same(a: *const Addr, b: *const Addr) -> bool {
    // SAFETY: as the caller says.
    unsafe { (*a)[3] == (*b)[3] && (*a)[2] == (*b)[2] && (*a)[1] == (*b)[1] && (*a)[0] == (*b)[0] }
}

/// Copies an address into a map value.
///
/// # Safety
/// Both point to memory of this program, `to` to memory that it may write.
#[inline(always)]
pub unsafe fn copy(to: *mut Addr, from: *const Addr) {
    let to = to.cast::<u32>();
    // SAFETY: as the caller says.
    unsafe {
        to.write_volatile((*from)[0]);
        to.add(1).write_volatile((*from)[1]);
        to.add(2).write_volatile((*from)[2]);
        to.add(3).write_volatile((*from)[3]);
    }
}

/// The address in a context of an IPv4 socket.
///
/// # Safety
/// `sa` is the context of a program for IPv4 sockets.
#[inline(always)]
pub unsafe fn read4(sa: *mut bpf_sock_addr) -> Addr {
    // SAFETY: a context field, read as a whole word.
    let addr = unsafe { (&raw const (*sa).user_ip4).read_volatile() };
    [0, 0, MAPPED, addr]
}

/// The address in a context of an IPv6 socket; IPv4-mapped ones need no case of their own.
///
/// # Safety
/// `sa` is the context of a program for IPv6 sockets.
#[inline(always)]
pub unsafe fn read6(sa: *mut bpf_sock_addr) -> Addr {
    // SAFETY: context fields, read as whole words.
    unsafe {
        let words = (&raw const (*sa).user_ip6).cast::<u32>();
        [
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ]
    }
}

/// Port in a context, network order.
///
/// # Safety
/// `sa` is the program's context.
#[inline(always)]
pub unsafe fn port(sa: *mut bpf_sock_addr) -> u16 {
    // SAFETY: a context field, read as a whole word.
    unsafe { (&raw const (*sa).user_port).read_volatile() as u16 }
}

/// Writes an IPv4-mapped address and a port to the context of an IPv4 socket.
///
/// # Safety
/// `sa` is the context of a program for IPv4 sockets, `addr` points to memory of this program.
#[inline(always)]
pub unsafe fn write4(sa: *mut bpf_sock_addr, addr: *const Addr, port: u16) {
    // SAFETY: context fields, written as whole words.
    unsafe {
        (&raw mut (*sa).user_ip4).write_volatile((*addr)[3]);
        (&raw mut (*sa).user_port).write_volatile(u32::from(port));
    }
}

/// Writes an address and a port to the context of an IPv6 socket.
///
/// # Safety
/// `sa` is the context of a program for IPv6 sockets, `addr` points to memory of this program.
#[inline(always)]
pub unsafe fn write6(sa: *mut bpf_sock_addr, addr: *const Addr, port: u16) {
    // SAFETY: context fields, written as whole words.
    unsafe {
        let words = (&raw mut (*sa).user_ip6).cast::<u32>();
        words.write_volatile((*addr)[0]);
        words.add(1).write_volatile((*addr)[1]);
        words.add(2).write_volatile((*addr)[2]);
        words.add(3).write_volatile((*addr)[3]);
        (&raw mut (*sa).user_port).write_volatile(u32::from(port));
    }
}
