//! Reading and writing a frame's headers.
//!
//! Offsets are checked against the end of the frame once, before the reads: `data + N <= end` is what the verifier
//! wants to see, on the same pointer that is read through.

use aya_ebpf::bindings::xdp_md;

/// Ethernet header.
pub const ETH: usize = 14;
/// IPv4 header without options.
pub const IP: usize = 20;
/// IANA protocol.
pub const ICMP: u8 = 1;
/// IANA protocol.
pub const TCP: u8 = 6;
/// IANA protocol.
pub const UDP: u8 = 17;
/// EtherType of IPv4, as it stands in the frame.
pub const ETH_IPV4: u16 = 0x0800_u16.to_be();
/// EtherType of a VLAN tag.
pub const ETH_VLAN: u16 = 0x8100_u16.to_be();
/// EtherType of an outer VLAN tag.
pub const ETH_QINQ: u16 = 0x88a8_u16.to_be();
/// Offset and "more fragments" of an IPv4 header.
pub const FRAGMENT: u16 = 0x3fff_u16.to_be();
/// Offset alone.
pub const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();

/// A frame's bounds.
#[derive(Clone, Copy)]
pub struct Frame {
    /// First byte.
    pub data: usize,
    /// One past the last.
    pub end: usize,
}

impl Frame {
    /// Of a context; read once per function, since a second read confuses compiler and verifier.
    ///
    /// # Safety
    /// `ctx` is the program's context.
    #[inline(always)]
    pub unsafe fn of(ctx: *mut xdp_md) -> Self {
        // SAFETY: context fields.
        unsafe {
            Self {
                data: (*ctx).data as usize,
                end: (*ctx).data_end as usize,
            }
        }
    }

    /// Whether the frame has at least so many bytes.
    #[inline(always)]
    pub fn has(self, bytes: usize) -> bool {
        self.data + bytes <= self.end
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(self) -> usize {
        self.end - self.data
    }

    /// Reads at an offset that was checked. As one word, aligned or not: the kernel's own machines for XDP take that,
    /// and `read_unaligned` would become a load per byte.
    ///
    /// # Safety
    /// [`Frame::has`] said so.
    #[inline(always)]
    pub unsafe fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the caller's.
        unsafe { *((self.data + offset) as *const T) }
    }

    /// Writes at an offset that was checked, as one word.
    ///
    /// # Safety
    /// [`Frame::has`] said so.
    #[inline(always)]
    pub unsafe fn write<T: Copy>(self, offset: usize, value: T) {
        // SAFETY: the caller's.
        unsafe { *((self.data + offset) as *mut T) = value }
    }
}
