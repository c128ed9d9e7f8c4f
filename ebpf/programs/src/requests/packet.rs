//! Where a packet's payload is.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::{bpf_sk_fullsock, bpf_skb_load_bytes};

const TCP: u8 = 6;
const IP: u32 = 20;
const IP6: u32 = 40;
/// `ETH_P_IP`, network order.
const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
/// `ETH_P_IPV6`, network order.
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// Flags of TCP's header.
pub const FIN: u8 = 1;
/// The sequence number is of this, payload comes after it.
pub const SYN: u8 = 2;
/// The connection is over.
pub const RST: u8 = 4;
/// The last of what was written at once.
pub const PSH: u8 = 8;

/// A packet of TCP.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Where the payload begins, bytes from the network header.
    pub at: u32,
    /// Bytes of it; with segmentation offload many segments'.
    pub length: u32,
    /// Number of the first one.
    pub sequence: u32,
    /// TCP's flags.
    pub flags: u8,
}

impl Packet {
    /// What TCP's header says; `None` for what is not TCP, or can't be read.
    #[inline(always)]
    pub fn of(skb: *mut __sk_buff) -> Option<Self> {
        // SAFETY: the program's own context.
        let (protocol, all) = unsafe {
            (
                (&raw const (*skb).protocol).read_volatile(),
                (&raw const (*skb).len).read_volatile(),
            )
        };
        let tcp = if protocol == ETH_P_IP {
            let bytes: [u8; 12] = load(skb, 0)?;
            if bytes[9] != TCP {
                return None;
            }
            u32::from(bytes[0] & 0xf) * 4
        } else if protocol == ETH_P_IPV6 {
            let bytes: [u8; 8] = load(skb, 0)?;
            if bytes[6] != TCP {
                return None;
            }
            IP6
        } else {
            return None;
        };
        if tcp < IP {
            return None;
        }
        let header: [u8; 16] = load(skb, tcp)?;
        let flags = header[13];
        let at = tcp + u32::from(header[12] >> 4) * 4;
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        Some(Self {
            at,
            length: all.saturating_sub(at),
            sequence: sequence.wrapping_add(u32::from(flags & SYN != 0)),
            flags,
        })
    }
}

/// A packet's socket, if it is a whole one.
#[inline(always)]
pub fn socket(skb: *mut __sk_buff) -> Option<*mut bpf_sock> {
    // SAFETY: the program's own context; the helper takes what is in it.
    unsafe {
        let sk = (&raw const (*skb).__bindgen_anon_2.sk).read_volatile();
        if sk.is_null() {
            return None;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() { None } else { Some(sk) }
    }
}

/// Bytes of a packet, from a place on.
#[inline(always)]
pub fn load<const N: usize>(skb: *mut __sk_buff, at: u32) -> Option<[u8; N]> {
    let mut bytes = core::mem::MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: memory of this function; all of it is written, or the helper says that it is not.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), at, bytes.as_mut_ptr().cast(), N as u32) == 0 {
            Some(bytes.assume_init())
        } else {
            None
        }
    }
}

/// The same as a number, big end first.
#[inline(always)]
pub fn load_u64(skb: *mut __sk_buff, at: u32) -> Option<u64> {
    let mut word = 0_u64;
    // SAFETY: memory of this function.
    let read = unsafe { bpf_skb_load_bytes(skb.cast(), at, (&raw mut word).cast(), 8) };
    if read == 0 {
        Some(u64::from_be(word))
    } else {
        None
    }
}

/// One byte.
#[inline(always)]
pub fn load_u8(skb: *mut __sk_buff, at: u32) -> Option<u8> {
    let mut byte = 0_u8;
    // SAFETY: memory of this function.
    let read = unsafe { bpf_skb_load_bytes(skb.cast(), at, (&raw mut byte).cast(), 1) };
    if read == 0 { Some(byte) } else { None }
}

/// A length from one to `N`, as the verifier can see. What it is told of `n != 0` 6.1's makes nothing of, hence the subtraction.
#[inline(always)]
pub fn bounded<const N: usize>(n: u32) -> Option<u32> {
    let but_one = opaque(u64::from(n).wrapping_sub(1));
    if but_one < N as u64 {
        Some(but_one as u32 + 1)
    } else {
        None
    }
}

/// A number of which the compiler knows nothing, so that the checks that the verifier wants stay in the program.
#[inline(always)]
pub fn opaque(mut n: u64) -> u64 {
    // SAFETY: one instruction, which changes nothing. Without any, lines and instructions would not match.
    unsafe { core::arch::asm!("{n} = {n}", n = inout(reg) n, options(nostack)) };
    n
}
