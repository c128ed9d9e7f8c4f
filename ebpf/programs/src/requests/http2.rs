//! HTTP/2: the walk over frames. Told are those with heads in them and resets; of DATA that ends a message its header, and what
//! little is between two that are told. Frames and packets need not begin together: what is left of one is remembered.

use aya_ebpf::bindings::__sk_buff;
use waggle_ebpf_common::requests::{Stream, count, protocol, stream_flags};

use crate::guess::{FRAME_HEADER, frame, frame_of};
use crate::maps::{counted, recall};
use crate::packet::{load_u8, load_u64, socket};
use crate::tell::{stream_of, tell};

/// Frames of one call.
const FRAMES: u32 = 16;
/// Calls for one packet.
const CALLS: u32 = 8;
/// Bytes between frames that are told with them: less than another record.
const GAP: u32 = 256;

/// Follows a stream over a packet; `at` and `length` are of the payload that is new.
///
/// # Safety
/// `stream` is a map value.
#[inline(always)]
pub unsafe fn walk(
    skb: *mut __sk_buff,
    stream: *mut Stream,
    (at, length, sequence): (u32, u32, u32),
    direction: u8,
) {
    let mut done = 0;
    for _ in 0..CALLS {
        let walked = trace_frames(
            skb,
            at.wrapping_add(done),
            length.wrapping_sub(done),
            sequence.wrapping_add(done),
            u32::from(direction),
        );
        done = done.wrapping_add(walked);
        if walked == 0 || done >= length {
            break;
        }
    }
    if done < length {
        // SAFETY: as the caller says.
        unsafe { lose_step(stream) };
    }
}

/// Where frames begin is not known any more, and that shows in the numbers.
///
/// # Safety
/// `stream` is a map value.
#[inline(always)]
pub unsafe fn lose_step(stream: *mut Stream) {
    // SAFETY: as the caller says.
    unsafe {
        if (*stream).flags & stream_flags::SYNCED == 0 {
            return;
        }
        (*stream).flags &= !stream_flags::SYNCED;
        (*stream).number = (*stream).number.wrapping_add(1);
        (*stream).left = 0;
        (*stream).have = 0;
        (*stream).partial = 0;
        (*stream).is_told = 0;
    }
    counted(count::OUT_OF_STEP);
}

/// Walks over some frames; how many bytes that were. Zero: this is not a frame.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trace_frames(
    skb: *mut __sk_buff,
    at: u32,
    length: u32,
    sequence: u32,
    direction: u32,
) -> u32 {
    let Some(sk) = socket(skb) else { return 0 };
    // SAFETY: the packet's socket.
    let Some(memory) = (unsafe { recall(sk.cast()) }) else {
        return 0;
    };
    let direction = direction as u8 & 1;
    // SAFETY: a map value.
    let stream = unsafe { stream_of(memory, direction) };
    // SAFETY: a map value.
    let (mut left, mut is_told, mut have, mut partial) = unsafe {
        (
            (*stream).left,
            (*stream).is_told,
            (*stream).have,
            (*stream).partial,
        )
    };
    // What is to be told: from the first to before the second.
    let (mut from, mut to) = (0_u32, 0_u32);
    let mut done = 0_u32;
    let mut is_bad = false;
    for _ in 0..FRAMES {
        if done >= length {
            break;
        }
        let rest = length - done;
        if left > 0 {
            let n = if left < rest { left } else { rest };
            if is_told != 0 {
                if is_apart(from, to, done) {
                    flush(skb, (at, from, to), length, sequence, direction);
                    from = done;
                }
                to = done + n;
            }
            done += n;
            left -= n;
            continue;
        }
        let begin = done;
        let head = if have == 0 && rest >= FRAME_HEADER {
            let Some(head) = load_u64(skb, at.wrapping_add(done)) else {
                is_bad = true;
                break;
            };
            done += FRAME_HEADER;
            head
        } else {
            // The header is split: its bytes are told before it is known what they begin.
            if is_apart(from, to, done) {
                flush(skb, (at, from, to), length, sequence, direction);
                from = done;
            }
            for _ in 0..FRAME_HEADER {
                if done >= length || have >= FRAME_HEADER {
                    break;
                }
                let Some(byte) = load_u8(skb, at.wrapping_add(done)) else {
                    break;
                };
                if have < 8 {
                    partial = partial << 8 | u64::from(byte);
                }
                have += 1;
                done += 1;
            }
            to = done;
            if have < FRAME_HEADER {
                break;
            }
            let head = partial;
            have = 0;
            partial = 0;
            head
        };
        let (size, kind, flags) = frame_of(head);
        if kind > frame::LAST {
            is_bad = true;
            break;
        }
        left = size;
        is_told = u32::from(matches!(
            kind,
            frame::HEADERS | frame::RST_STREAM | frame::PUSH_PROMISE | frame::CONTINUATION
        ));
        let is_end = kind == frame::DATA && flags & frame::END_STREAM != 0;
        if (is_told != 0 || is_end) && to != done {
            if is_apart(from, to, begin) {
                flush(skb, (at, from, to), length, sequence, direction);
                from = begin;
            }
            to = done;
        }
    }
    flush(skb, (at, from, to), length, sequence, direction);
    // SAFETY: a map value.
    unsafe {
        (*stream).left = left;
        (*stream).is_told = is_told;
        (*stream).have = have;
        (*stream).partial = partial;
    }
    if is_bad { 0 } else { done }
}

/// Whether what is to be told is far from what comes now, or nothing.
#[inline(always)]
fn is_apart(from: u32, to: u32, next: u32) -> bool {
    to == from || next.wrapping_sub(to) > GAP
}

#[inline(always)]
fn flush(
    skb: *mut __sk_buff,
    (at, from, to): (u32, u32, u32),
    length: u32,
    sequence: u32,
    direction: u8,
) {
    if to > from {
        tell(
            skb,
            at.wrapping_add(from),
            to - from,
            length.wrapping_sub(from),
            sequence.wrapping_add(from),
            direction,
            protocol::HTTP2,
        );
    }
}
