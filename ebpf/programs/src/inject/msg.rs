//! inject_msg: the header.

use aya_ebpf::bindings::{bpf_sock, sk_msg_md};
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_msg_pop_data, bpf_msg_pull_data, bpf_msg_push_data,
    bpf_probe_read_kernel,
};
use aya_ebpf::macros::sk_msg;
use aya_ebpf::programs::SkMsgContext;
use waggle_ebpf_common::inject::head::{HEADER, Scan, place as place_of, write};
use waggle_ebpf_common::inject::ids::{CLIENT_SPAN, TRACE_HIGH, TRACE_LOW};
use waggle_ebpf_common::inject::{Caller, WINDOW, at, count, state};

use crate::guess::is_request;
use crate::maps::{address, caller, counted, hash, hop, place, stays, word_at};
use crate::packet::opaque;
use crate::scan::scan;
use crate::threads;

const DROP: u32 = 0;
const PASS: u32 = 1;
/// `CONNECT `: what follows is anything.
const CONNECT: u64 = u64::from_be_bytes(*b"CONNECT ");
/// Longest message that is made one piece again: else it is sent as three packets.
const MAX_LINEAR: u32 = 8192;

/// What a member sends.
#[sk_msg]
pub fn inject_msg(ctx: SkMsgContext) -> u32 {
    // SAFETY: the program's own context, map values.
    unsafe {
        let msg = ctx.msg;
        let sk = (&raw const (*msg).__bindgen_anon_3.sk).read_volatile();
        if sk.is_null() {
            return PASS;
        }
        let Some(caller) = caller(sk) else {
            return PASS;
        };
        if (*caller).state == state::OFF {
            return PASS;
        }
        match message(msg, sk, caller) {
            Ok(verdict) => {
                if !stays() {
                    (&raw mut (*caller).state).write_volatile(state::OFF);
                }
                verdict
            }
            Err(why) => {
                counted(why);
                (&raw mut (*caller).state).write_volatile(state::OFF);
                PASS
            }
        }
    }
}

#[inline(always)]
unsafe fn message(msg: *mut sk_msg_md, sk: *mut bpf_sock, caller: *mut Caller) -> Result<u32, u32> {
    // SAFETY: the program's own context, map values.
    unsafe {
        let socket = address(&raw mut (*caller).scratch, sk);
        let here = word_at::<u32>(socket, place::<{ at::WRITE_SEQ }>()).ok_or(count::NO_MEMORY)?;
        let size = (&raw const (*msg).size).read_volatile();
        if (*caller).state == state::BODY && place_of((*caller).end, here, size)? == state::BODY {
            return Ok(PASS);
        }
        // Only where nothing is on its way can nothing of the message be sent without the rest of the header.
        let acked = word_at::<u32>(socket, place::<{ at::SND_UNA }>()).ok_or(count::NO_MEMORY)?;
        if acked != here {
            return Err(count::PIPELINED);
        }
        let seen = if size < WINDOW as u32 {
            size
        } else {
            WINDOW as u32
        };
        let scan = look(msg, caller, seen)?;
        let found = scan.judge(seen, size)?;
        let mut verdict = PASS;
        let mut more = 0;
        if found.is_wanted {
            header(sk, caller, here);
            verdict = insert(msg, caller, found.line_end, size)?;
            more = HEADER as u32;
        } else {
            counted(count::HAS_CONTEXT);
        }
        if found.until == 0 {
            counted(found.why);
            (*caller).state = state::OFF;
        } else {
            (*caller).end = here.wrapping_add(found.until).wrapping_add(more);
            (*caller).state = state::BODY;
        }
        Ok(verdict)
    }
}

/// Walks over the beginning of a message.
#[inline(always)]
unsafe fn look(msg: *mut sk_msg_md, caller: *mut Caller, seen: u32) -> Result<Scan, u32> {
    // SAFETY: the program's own context, map values.
    unsafe {
        // The verifier's own words for what the caller has made sure of.
        let seen = opaque(u64::from(seen));
        if seen < 16 || seen > WINDOW as u64 {
            return Err(count::SPLIT_HEAD);
        }
        let seen = seen as u32;
        if bpf_msg_pull_data(msg, 0, seen, 0) != 0 {
            return Err(count::NO_MEMORY);
        }
        let data = (&raw const (*msg).__bindgen_anon_1.data).read_volatile();
        let window = &raw mut (*caller).window;
        let to = (&raw mut (*window).bytes).cast::<u8>();
        if bpf_probe_read_kernel(to.cast(), seen, data) != 0 {
            return Err(count::NO_MEMORY);
        }
        let head = u64::from_be(to.cast::<u64>().read_unaligned());
        if !is_request(head) {
            return Err(count::NOT_HTTP);
        }
        if head == CONNECT {
            return Err(count::UPGRADE);
        }
        Ok(scan(window, seen))
    }
}

/// Makes the header: in the trace of the request that the thread works on, else of this hop; the span is the one that the tracer gives this
/// end.
#[inline(never)]
unsafe extern "C" fn header(sk: *mut bpf_sock, caller: *mut Caller, sequence: u32) -> u64 {
    // SAFETY: the program's own context, map values.
    unsafe {
        let hop = hop(sk, sequence, true);
        let hash = |what: u8| hash(&raw const hop, u64::from(what));
        let span = hash(CLIENT_SPAN);
        let span = if span == 0 { 1 } else { span };
        let thread = bpf_get_current_pid_tgid();
        let (trace, is_sampled) = match threads::calls((*caller).cgroup_id, thread) {
            Some((trace, is_sampled)) => {
                counted(count::CHILD);
                (trace, is_sampled != 0)
            }
            None => {
                counted(count::FRESH);
                ((hash(TRACE_HIGH), hash(TRACE_LOW)), true)
            }
        };
        write(&mut (*caller).header, trace, span, is_sampled);
    }
    0
}

/// Puts it in.
#[inline(always)]
unsafe fn insert(
    msg: *mut sk_msg_md,
    caller: *mut Caller,
    line_end: u32,
    size: u32,
) -> Result<u32, u32> {
    const LENGTH: u32 = HEADER as u32;
    // SAFETY: the program's own context; bounds are shown to the verifier.
    unsafe {
        if line_end >= WINDOW as u32 || bpf_msg_push_data(msg, line_end, LENGTH, 0) != 0 {
            return Err(count::NO_MEMORY);
        }
        // What was pushed is a piece by itself, so that this takes no memory.
        let pulled = bpf_msg_pull_data(msg, line_end, line_end + LENGTH, 0);
        let data = (&raw const (*msg).__bindgen_anon_1.data).read_volatile() as usize;
        let end = (&raw const (*msg).__bindgen_anon_2.data_end).read_volatile() as usize;
        if pulled != 0 || data + HEADER > end {
            // Rather nothing than what is no request.
            let undone = bpf_msg_pop_data(msg, line_end, LENGTH, 0) == 0;
            counted(count::NO_MEMORY);
            return Ok(if undone { PASS } else { DROP });
        }
        let to = data as *mut u8;
        let from = (&raw const (*caller).header).cast::<u8>();
        let mut n = 0;
        while n < HEADER {
            to.add(n).write_volatile(from.add(n).read_volatile());
            n += 1;
        }
        if size + LENGTH <= MAX_LINEAR {
            bpf_msg_pull_data(msg, 0, size + LENGTH, 0);
        }
        Ok(PASS)
    }
}
