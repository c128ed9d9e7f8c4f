//! Who owns a flow on a slot that changed.

use waggle_ebpf_common::edge::{self, Flow, FlowKey, HalfOpen, Record, reason, slot};

use crate::count::{count, now_ns, take};
use crate::maps::{EDGE_BACKENDS, EDGE_FLOWS, EDGE_OPENING};
use crate::packet::TCP;

/// Half-open connections that one CPU remembers within a tick; set by the loader.
#[unsafe(no_mangle)]
static HALF_OPEN_PER_TICK: u32 = 2048;
/// Flows that one CPU adopts within a tick; set by the loader.
#[unsafe(no_mangle)]
static ADOPTED_PER_TICK: u32 = 8192;

/// The owner, remembering what must be. `seq` counts for TCP only.
#[inline(never)]
pub fn owner(flow: &FlowKey, record: &Record, slot: u32, syn: bool, seq: u32) -> u16 {
    let now = now_ns();
    if let Some(owner) = remembered(flow, record, now) {
        count(reason::REMEMBERED);
        return owner;
    }
    let previous = slot::previous(slot);
    if let Some(half) = half_open(flow, record) {
        if syn && half.isn == seq {
            return half.owner;
        }
        if !syn && edge::follows(half.isn, seq) {
            count(reason::OPENED);
            keep(flow, half.owner, half.generation, now);
            return half.owner;
        }
    }
    if syn {
        let current = slot::current(slot);
        // SAFETY: patched before the program is loaded, never after.
        let limit = unsafe { (&raw const HALF_OPEN_PER_TICK).read_volatile() };
        if !take(now, limit, |budget| &mut budget.half_open) {
            count(reason::OVER_BUDGET);
            return previous;
        }
        let half = HalfOpen {
            owner: current,
            generation: generation(record, current),
            isn: seq,
        };
        if EDGE_OPENING.insert(flow, &half, 0).is_err() {
            count(reason::OVER_BUDGET);
            return previous;
        }
        count(reason::HALF_OPEN);
        return current;
    }
    // SAFETY: as above.
    let limit = unsafe { (&raw const ADOPTED_PER_TICK).read_volatile() };
    if take(now, limit, |budget| &mut budget.adopted)
        && keep(flow, previous, generation(record, previous), now)
    {
        count(reason::ADOPTED);
    } else {
        count(reason::NOT_ADOPTED);
    }
    previous
}

/// The owner for what must not leave a trace: ICMP errors, which anybody can forge.
#[inline(never)]
pub fn peek(flow: &FlowKey, record: &Record, slot: u32) -> u16 {
    if let Some(owner) = remembered(flow, record, now_ns()) {
        return owner;
    }
    match half_open(flow, record) {
        Some(half) => half.owner,
        None => slot::previous(slot),
    }
}

/// By memory, if that backend is still there.
#[inline(always)]
fn remembered(flow: &FlowKey, record: &Record, now: u64) -> Option<u16> {
    let known = EDGE_FLOWS.get_ptr_mut(flow)?;
    // SAFETY: an element of this map; another CPU may write the same field, which is one store.
    unsafe {
        let owner = (*known).owner;
        if (*known).generation != generation(record, owner) {
            return None;
        }
        let epoch = edge::epoch(now);
        if (*known).epoch != epoch {
            (*known).epoch = epoch;
        }
        Some(owner)
    }
}

/// A connection that is being opened, if its backend is still there.
#[inline(always)]
fn half_open(flow: &FlowKey, record: &Record) -> Option<HalfOpen> {
    if flow.proto != u32::from(TCP) {
        return None;
    }
    // SAFETY: copied at once.
    let half = *unsafe { EDGE_OPENING.get(flow) }?;
    (half.generation == generation(record, half.owner)).then_some(half)
}

/// Remembers a flow; whatever is remembered of a backend that has left is replaced.
#[inline(always)]
fn keep(flow: &FlowKey, owner: u16, generation: u16, now: u64) -> bool {
    let value = Flow {
        owner,
        generation,
        epoch: edge::epoch(now),
    };
    EDGE_FLOWS.insert(flow, &value, 0).is_ok()
}

/// Generation of an owner's place; 0, which none in use has, of a place that does not exist.
#[inline(always)]
fn generation(record: &Record, owner: u16) -> u16 {
    EDGE_BACKENDS
        .get(record.backend_base.wrapping_add(u32::from(owner)))
        .map_or(0, |backend| backend.generation)
}
