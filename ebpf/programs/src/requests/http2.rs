//! HTTP/2: the walk over frames. Told are those with heads in them and resets; of DATA that ends a message its header, and what
//! little is between two that are told. Frames and packets need not begin together: what is left of one is remembered.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_loop;
use waggle_ebpf_common::requests::{MAX_BYTES, Stream, count, protocol, stream_flags};

use crate::guess::{FRAME_HEADER, frame, frame_of};
use crate::maps::{counted, recall};
use crate::packet::{load_u8, load_u64, socket};
use crate::tell::{stream_of, tell_one};

/// Steps over one packet: a frame's header, what of its bytes is in the packet, or one byte of a header that is split.
const STEPS: u32 = 2048;
/// Bytes between frames that are told with them: less than another record.
const GAP: u32 = 256;

/// A walk over a packet's frames. The rest is in the [`Stream`], of which the verifier assumes nothing: of what is on the stack
/// verifiers before Linux 6.7 believe that it is after many steps as it is after one, and cut what they think is never reached
/// (<https://lore.kernel.org/bpf/20231121020701.26440-1-eddyz87@gmail.com/>); later ones look at every step that has changed it.
struct Walk {
    skb: *mut __sk_buff,
    stream: *mut Stream,
    direction: u32,
}

/// Follows a stream over a packet; `at` and `length` are of the payload that is new.
#[inline(always)]
pub fn walk(skb: *mut __sk_buff, (at, length, sequence): (u32, u32, u32), direction: u8) {
    trace_frames(skb, at, length, sequence, u32::from(direction));
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

/// Apart for its stack, and for the verifier, which looks at it once.
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
    // SAFETY: the packet's socket, map values, a function of this object and memory of this one.
    unsafe {
        let Some(memory) = recall(sk.cast()) else {
            return 0;
        };
        let stream = stream_of(memory, direction as u8);
        (*stream).at = at;
        (*stream).length = length;
        (*stream).sequence = sequence;
        (*stream).done = 0;
        (*stream).from = 0;
        (*stream).to = 0;
        let mut walk = Walk {
            skb,
            stream,
            direction,
        };
        bpf_loop(
            STEPS,
            step as *mut core::ffi::c_void,
            (&raw mut walk).cast(),
            0,
        );
        trace_flush(skb, direction);
        if (&raw const (*stream).done).read_volatile() < length {
            lose_step(stream);
        }
    }
    0
}

/// One step. Not zero: there is no other.
#[inline(never)]
extern "C" fn step(_n: u64, walk: *mut Walk) -> u64 {
    // SAFETY: what `trace_frames` has handed over.
    unsafe {
        let walk = &*walk;
        let stream = walk.stream;
        let done = (*stream).done;
        let length = (*stream).length;
        if done >= length {
            return 1;
        }
        let rest = length - done;
        let left = (*stream).left;
        if left > 0 {
            let mut n = if left < rest { left } else { rest };
            if (*stream).is_told != 0 {
                // A record's, so that there is always room for all.
                n = if n < MAX_BYTES { n } else { MAX_BYTES };
                told(walk, done, done + n);
            }
            (*stream).done = done + n;
            (*stream).left = left - n;
            return 0;
        }
        let have = (*stream).have;
        if have == 0 && rest >= FRAME_HEADER {
            let Some(head) = load_u64(walk.skb, (*stream).at.wrapping_add(done)) else {
                return 1;
            };
            return frame(walk, head, done, done + FRAME_HEADER);
        }
        // The header is split: its bytes are told before it is known what they begin.
        let Some(byte) = load_u8(walk.skb, (*stream).at.wrapping_add(done)) else {
            return 1;
        };
        told(walk, done, done + 1);
        if have + 1 < FRAME_HEADER {
            (*stream).partial = (*stream).partial << 8 | u64::from(byte);
            (*stream).have = have + 1;
            (*stream).done = done + 1;
            return 0;
        }
        let head = (*stream).partial;
        (*stream).have = 0;
        (*stream).partial = 0;
        frame(walk, head, done, done + 1)
    }
}

/// A frame begins, whose header, or the rest of it, is between two places. Not zero: it is none.
#[inline(always)]
unsafe fn frame(walk: &Walk, head: u64, begin: u32, end: u32) -> u64 {
    let stream = walk.stream;
    let (size, kind, flags) = frame_of(head);
    if kind > frame::LAST {
        return 1;
    }
    let is_told = matches!(
        kind,
        frame::HEADERS | frame::RST_STREAM | frame::PUSH_PROMISE | frame::CONTINUATION
    );
    let is_end = kind == frame::DATA && flags & frame::END_STREAM != 0;
    // SAFETY: a map value.
    unsafe {
        if (is_told || is_end) && (*stream).to != end {
            told(walk, begin, end);
        }
        (*stream).left = size;
        (*stream).is_told = u32::from(is_told);
        (*stream).done = end;
    }
    0
}

/// What is between two places is to be told, with what was to be told before where that is near, and one record has room for both.
#[inline(always)]
unsafe fn told(walk: &Walk, begin: u32, end: u32) {
    let stream = walk.stream;
    // SAFETY: a map value.
    unsafe {
        let (from, to) = ((*stream).from, (*stream).to);
        let is_apart = begin.wrapping_sub(to) > GAP || end.wrapping_sub(from) > MAX_BYTES;
        if to == from || is_apart {
            trace_flush(walk.skb, walk.direction);
            (*stream).from = begin;
        }
        (*stream).to = end;
    }
}

/// Tells it. Apart, for the verifier; with little stack, since it is the deepest call but one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trace_flush(skb: *mut __sk_buff, direction: u32) -> u32 {
    let Some(sk) = socket(skb) else { return 0 };
    // SAFETY: the packet's socket, map values.
    unsafe {
        let Some(memory) = recall(sk.cast()) else {
            return 0;
        };
        let way = direction as u8 & 1;
        let stream = stream_of(memory, way);
        let (from, to) = ((*stream).from, (*stream).to);
        if to.wrapping_sub(from) > MAX_BYTES {
            // Only where two CPUs look at packets of one stream at once.
            lose_step(stream);
        } else if to != from {
            tell_one(
                skb,
                (*stream).at.wrapping_add(from),
                to - from,
                (*stream).length.wrapping_sub(from),
                (*stream).sequence.wrapping_add(from),
                (way, protocol::HTTP2),
            );
        }
    }
    0
}
