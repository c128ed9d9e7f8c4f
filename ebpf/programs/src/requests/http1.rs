//! HTTP/1: packets that begin with a head, and those in which such a head goes on.
//!
//! How long a body is, nobody knows here: bytes of a body that look like a head are told, too, with their numbers, by which user
//! space knows them for what they are.

use aya_ebpf::bindings::__sk_buff;
use waggle_ebpf_common::requests::{MAX_ANSWER_BYTES, MAX_BYTES, MAX_HEAD, Stream, protocol};

use crate::packet::load;
use crate::tell::tell;

/// A packet of a stream that is HTTP/1, or begins to look like it; `at` and `length` are of the payload that is new.
///
/// # Safety
/// `stream` is a map value.
#[inline(always)]
pub unsafe fn look(
    skb: *mut __sk_buff,
    stream: *mut Stream,
    (at, length, sequence): (u32, u32, u32),
    direction: u8,
    (is_head, is_answer): (bool, bool),
) {
    // SAFETY: as the caller says.
    unsafe {
        let left = (*stream).left;
        if !is_head && left == 0 {
            return;
        }
        let room = if is_head { MAX_HEAD } else { left };
        let most = if is_answer {
            MAX_ANSWER_BYTES
        } else if is_head {
            MAX_BYTES
        } else {
            room
        };
        // The end of most heads is the end of their packet.
        let is_over = length >= 4 && load::<4>(skb, at + length - 4) == Some(*b"\r\n\r\n");
        (*stream).left = if is_over {
            0
        } else {
            room.saturating_sub(length)
        };
        tell(
            skb,
            at,
            if length < most { length } else { most },
            length,
            sequence,
            direction,
            protocol::HTTP1,
        );
    }
}
