//! What is written down of packets that policies drop, or would drop: who, whom, which port.
//!
//! One record a second of the same (both addresses, the dialled port, the verdict), with how many there were meanwhile; and so many a
//! second of one CPU, whoever they are about, since whoever is dropped chooses how much there is to tell. Nobody is woken.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use waggle_ebpf_common::policy::{RECORDS_PER_S, TELL_EVERY_NS, untold};

use super::EGRESS;
use super::maps::{POLICY_RECORDS, POLICY_TELLING, POLICY_TOLD, POLICY_UNTOLD, scratch};

const SECOND: u64 = 1_000_000_000;

/// Writes the packet down that is in [`scratch`]. A function with a name of its own, as its caller.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy_tell(why: u32) -> u32 {
    let Some(scratch) = scratch() else {
        return 0;
    };
    let flow = &scratch.flow;
    scratch.told.local = flow.local;
    scratch.told.peer = flow.peer;
    scratch.told.direction = flow.direction & 1;
    scratch.told.port = if flow.direction & 1 == EGRESS {
        flow.peer_port
    } else {
        flow.local_port
    };
    scratch.told.proto = flow.proto;
    scratch.told.verdict = why as u8;
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let mut packets = 1;
    if let Some(before) = POLICY_TOLD.get_ptr_mut(&scratch.told) {
        // SAFETY: a map value. Of what several CPUs add at once some may be missing here; POLICY_COUNTS has all.
        unsafe {
            if now.wrapping_sub((*before).at_ns) < TELL_EVERY_NS {
                (*before).more = (*before).more.wrapping_add(1);
                return not(untold::REPEATED);
            }
            packets = (*before).more.wrapping_add(1);
        }
    }
    if !may_tell(now) {
        return not(untold::BUDGET);
    }
    scratch.telling.at_ns = now;
    scratch.telling.more = 0;
    // Without room it is told again too soon, within the CPU's number.
    let _ = POLICY_TOLD.insert(&scratch.told, &scratch.telling, 0);
    let Some(mut entry) = POLICY_RECORDS.reserve(0) else {
        return not(untold::RING_FULL);
    };
    let record = entry.as_mut_ptr();
    // SAFETY: reserved room of this size; all of it is written.
    unsafe {
        (&raw mut (*record).at_ns).write_volatile(now);
        (&raw mut (*record).packets).write_volatile(packets);
        (&raw mut (*record).local).write(scratch.flow.local);
        (&raw mut (*record).peer).write(scratch.flow.peer);
        (&raw mut (*record).local_port).write_volatile(scratch.flow.local_port);
        (&raw mut (*record).peer_port).write_volatile(scratch.flow.peer_port);
        (&raw mut (*record).proto).write_volatile(scratch.flow.proto);
        (&raw mut (*record).verdict).write_volatile(why as u8);
        (&raw mut (*record).direction).write_volatile((scratch.flow.direction & 1) as u8);
        (&raw mut (*record).pad).write_volatile(0);
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    1
}

/// [`policy_tell`].
#[inline(always)]
pub fn tell(why: u32) {
    policy_tell(why);
}

/// Whether this CPU has not told too much in this second.
#[inline(always)]
fn may_tell(now: u64) -> bool {
    let Some(told) = POLICY_TELLING.get_ptr_mut(0) else {
        return false;
    };
    let second = now / SECOND;
    // SAFETY: this CPU's own value, with the second in the upper half and how many in the lower.
    unsafe {
        if *told >> 32 != second & 0xffff_ffff {
            *told = second << 32;
        }
        if *told & 0xffff_ffff >= RECORDS_PER_S {
            return false;
        }
        *told += 1;
    }
    true
}

#[inline(always)]
fn not(why: u32) -> u32 {
    if let Some(counter) = POLICY_UNTOLD.get_ptr_mut(why) {
        // SAFETY: this CPU's own value.
        unsafe { *counter += 1 };
    }
    0
}
