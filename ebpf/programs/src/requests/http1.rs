//! HTTP/1: packets that begin with a head, those in which such a head goes on, and the beginnings of those that end a write of an
//! answer's body: by their numbers it is known when its last byte came.
//!
//! How long a body is, nobody knows here: bytes of a body that look like a head are told, too, with their numbers, by which user
//! space knows them for what they are.

use aya_ebpf::bindings::__sk_buff;
use waggle_ebpf_common::requests::{
    MARK_BYTES, MAX_ANSWER_BYTES, MAX_BYTES, MAX_HEAD, MAX_MARKS, Stream, protocol,
};

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
    (is_head, is_answer, ends_write): (bool, bool, bool),
) {
    // SAFETY: as the caller says.
    unsafe {
        let left = (*stream).left;
        if is_head {
            (*stream).is_told = u32::from(is_answer);
            (*stream).have = 0;
        } else if left == 0 {
            let marks = (*stream).have;
            if ends_write && (*stream).is_told != 0 && marks < MAX_MARKS {
                (*stream).have = marks + 1;
                let n = if length < MARK_BYTES {
                    length
                } else {
                    MARK_BYTES
                };
                tell(skb, at, n, length, sequence, direction, protocol::HTTP1);
            }
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
