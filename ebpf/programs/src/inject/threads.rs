//! Which request a thread works on.
//!
//! The rule is the tracer's in user space (`requests::links::threads`), as far as it can be decided when a thread calls.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use waggle_ebpf_common::inject::{Process, Served, Thread, ThreadKey};

use crate::maps::{INJECT_PROCS, INJECT_THREADS};

#[inline(always)]
fn keys(cgroup_id: u64, thread: u64) -> (ThreadKey, ThreadKey) {
    let of_process = ThreadKey {
        cgroup_id,
        id: thread >> 32 << 32,
    };
    let of_thread = ThreadKey {
        cgroup_id,
        id: thread,
    };
    (of_process, of_thread)
}

#[inline(always)]
fn process(key: &ThreadKey) -> Option<*mut Process> {
    if let Some(found) = INJECT_PROCS.get_ptr_mut(key) {
        return Some(found);
    }
    let _ = INJECT_PROCS.insert(key, Process::default(), 0);
    INJECT_PROCS.get_ptr_mut(key)
}

#[inline(always)]
fn thread_of(key: &ThreadKey) -> Option<*mut Thread> {
    if let Some(found) = INJECT_THREADS.get_ptr_mut(key) {
        return Some(found);
    }
    let _ = INJECT_THREADS.insert(key, Thread::default(), 0);
    INJECT_THREADS.get_ptr_mut(key)
}

/// A thread has read the request of a connection.
///
/// # Safety
/// `served` is a map value.
#[inline(always)]
pub unsafe fn reads(served: *mut Served, thread: u64) {
    // SAFETY: map values.
    unsafe {
        let (of_process, of_thread) = keys((*served).cgroup_id, thread);
        let (Some(process), Some(known)) = (process(&of_process), thread_of(&of_thread)) else {
            return;
        };
        let is_other = (*served).reader != 0 && (*served).reader != thread;
        let trace = ((*served).trace_high, (*served).trace_low);
        let is_odd = (*known).reads((*served).cookie, trace, (*served).is_sampled);
        if is_odd || is_other || (*served).is_queued != 0 {
            (*process).is_odd();
        }
        (*served).reader = thread;
    }
}

/// A request was answered by a thread; 0 where it is not known by whom.
///
/// # Safety
/// `served` is a map value.
#[inline(always)]
pub unsafe fn answers(served: *mut Served, thread: u64) {
    // SAFETY: map values.
    unsafe {
        let reader = (*served).reader;
        let (of_process, of_thread) = keys((*served).cgroup_id, reader);
        if let Some(known) = INJECT_THREADS.get_ptr_mut(&of_thread)
            && (*known).socket == (*served).cookie
        {
            (*known).is_open = 0;
        }
        let Some(process) = INJECT_PROCS.get_ptr_mut(&of_process) else {
            return;
        };
        if thread == reader {
            (*process).n_proofs = (*process).n_proofs.saturating_add(1);
        } else if thread != 0 {
            (*process).is_odd();
        }
    }
}

/// A connection is over.
///
/// # Safety
/// `served` is a map value.
#[inline(always)]
pub unsafe fn closed(served: *mut Served) {
    // SAFETY: map values.
    unsafe {
        let (of_process, of_thread) = keys((*served).cgroup_id, (*served).reader);
        if let Some(known) = INJECT_THREADS.get_ptr_mut(&of_thread)
            && (*known).closed((*served).cookie)
            && let Some(process) = INJECT_PROCS.get_ptr_mut(&of_process)
        {
            (*process).left_unanswered(bpf_ktime_get_ns());
        }
    }
}

/// A thread calls: trace and sampling of the request that it does so for, if that can be said.
#[inline(always)]
pub fn calls(cgroup_id: u64, thread: u64) -> Option<((u64, u64), u32)> {
    let (of_process, of_thread) = keys(cgroup_id, thread);
    // Nothing is served by it.
    let process = INJECT_PROCS.get_ptr_mut(&of_process)?;
    let known = thread_of(&of_thread)?;
    // SAFETY: map values.
    unsafe {
        if (*known).is_open == 0 {
            (*known).has_own_business = 1;
            return None;
        }
        let trace = ((*known).trace_high, (*known).trace_low);
        let is_known = trace.0 != 0 || trace.1 != 0;
        let is_plain = (*process).is_plain(bpf_ktime_get_ns());
        if (*known).has_own_business != 0 || !is_plain || !is_known {
            return None;
        }
        Some((trace, (*known).is_sampled))
    }
}
