//! Frames as programs at tc see them.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_pull_data;

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
/// Offset and "more fragments" of an IPv4 header.
pub const FRAGMENT: u16 = 0x3fff_u16.to_be();
/// Offset alone.
pub const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();
/// `TC_ACT_UNSPEC`: on its way, to the next program at this place where there is one (`TC_ACT_OK` would keep it from that).
pub const OK: i32 = -1;
/// `TC_ACT_SHOT`: dropped.
pub const SHOT: i32 = 2;

/// What can be read directly.
#[derive(Clone, Copy)]
pub struct Bytes {
    data: usize,
    end: usize,
}

impl Bytes {
    /// At least `wanted` bytes, made linear where they are not; what there is, if the packet is shorter.
    ///
    /// # Safety
    /// `skb` is the program's context; pointers from before are void.
    #[inline(always)]
    pub unsafe fn of(skb: *mut __sk_buff, wanted: usize) -> Self {
        // SAFETY: context fields.
        unsafe {
            let length = (*skb).len as usize;
            let wanted = if length < wanted { length } else { wanted };
            if ((*skb).data as usize) + wanted > (*skb).data_end as usize {
                // Failing, the packet is as short as it looks.
                bpf_skb_pull_data(skb, wanted as u32);
            }
            Self {
                data: (*skb).data as usize,
                end: (*skb).data_end as usize,
            }
        }
    }

    /// Whether so many bytes are there.
    #[inline(always)]
    pub fn has(self, bytes: usize) -> bool {
        self.data + bytes <= self.end
    }

    /// Reads at an offset that was checked, as one word.
    ///
    /// # Safety
    /// [`Bytes::has`] said so.
    #[inline(always)]
    pub unsafe fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the caller's.
        unsafe { *((self.data + offset) as *const T) }
    }
}
