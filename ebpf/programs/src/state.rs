//! What this node's kernel sees of a backend: open connections, failures, and how long it is left out.
//!
//! A backend that refuses, does not answer a SYN or resets before its first byte is out at once, on this node, for
//! all VIPs: no choice falls on it as long as there is another one. After its time one connect tries it again;
//! each failure in a row doubles the time. A word per bucket of backends tells in one read of an array that
//! nothing in it is out, which is the rule.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use waggle_ebpf_common::{
    Addr, Backend, BackendKey, BackendState, EJECT_DOUBLINGS, EJECT_FIRST_NS, EJECT_FORGET_NS,
    PROBE_NS, SockInfo, ejection_bucket, loss, sock_flags,
};

use crate::count::{self, lost};
use crate::maps::{BACKEND_STATES, EJECTIONS};

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;

#[inline(always)]
fn key_of(addr: &Addr, port: u16, proto: u8) -> BackendKey {
    BackendKey {
        addr: [addr[0], addr[1], addr[2], addr[3]],
        port,
        proto,
        pad: 0,
    }
}

/// Whether a backend is out. One whose time is over is not, but for all others but this caller it is out again
/// until the caller's connect has had its time.
#[inline(always)]
pub fn is_out(backend: *const Backend, proto: u8) -> bool {
    // SAFETY: a map value.
    let (addr, port) = unsafe { (&(*backend).addr, (*backend).port) };
    let Some(bucket) = EJECTIONS.get_ptr_mut(ejection_bucket(addr, port)) else {
        return false;
    };
    // SAFETY: aligned words of map values; a lost race costs one connect.
    unsafe {
        let any_until = bucket.read_volatile();
        if any_until == 0 {
            return false;
        }
        let now = bpf_ktime_get_ns();
        let Some(state) = BACKEND_STATES.get_ptr_mut(&key_of(addr, port, proto)) else {
            if any_until <= now {
                bucket.write_volatile(0);
            }
            return false;
        };
        let until = (&raw const (*state).until_ns).read_volatile();
        if until > now {
            return true;
        }
        if until != 0 {
            (&raw mut (*state).until_ns).write_volatile(now + PROBE_NS);
            if any_until < now + PROBE_NS {
                bucket.write_volatile(now + PROBE_NS);
            }
        } else if any_until <= now {
            bucket.write_volatile(0);
        }
        false
    }
}

/// Whether a backend's time is not over yet; the cheaper question, where the answer leads to no try.
#[inline(always)]
pub fn is_resting(backend: *const Backend, proto: u8) -> bool {
    // SAFETY: map values.
    unsafe {
        let key = key_of(&(*backend).addr, (*backend).port, proto);
        match BACKEND_STATES.get_ptr(&key) {
            Some(state) => (&raw const (*state).until_ns).read_volatile() > bpf_ktime_get_ns(),
            None => false,
        }
    }
}

/// Open connections of this node to a backend.
#[inline(always)]
pub fn active(backend: *const Backend, proto: u8) -> u32 {
    // SAFETY: map values.
    unsafe {
        let key = key_of(&(*backend).addr, (*backend).port, proto);
        match BACKEND_STATES.get_ptr(&key) {
            Some(state) => (&raw const (*state).active).read_volatile(),
            None => 0,
        }
    }
}

#[inline(always)]
fn state_of(key: &BackendKey) -> Option<*mut BackendState> {
    if let Some(state) = BACKEND_STATES.get_ptr_mut(key) {
        return Some(state);
    }
    let new = BackendState {
        until_ns: 0,
        failed_ns: 0,
        active: 0,
        failures: 0,
    };
    let _ = BACKEND_STATES.insert(key, &new, u64::from(BPF_NOEXIST));
    let found = BACKEND_STATES.get_ptr_mut(key);
    if found.is_none() {
        lost(loss::BACKEND_STATE_FULL);
    }
    found
}

/// A connection to a VIP that chooses by connections begins.
///
/// # Safety
/// `info` is a map value.
#[inline(always)]
pub unsafe fn opened(info: *mut SockInfo) {
    // SAFETY: as the caller says.
    unsafe {
        if (*info).flags & (sock_flags::COUNT | sock_flags::COUNTED) != sock_flags::COUNT {
            return;
        }
        let key = key_of(&(*info).backend_addr, (*info).backend_port, TCP);
        if let Some(state) = state_of(&key) {
            count::add32(&raw mut (*state).active, 1);
            (*info).flags |= sock_flags::COUNTED;
        }
    }
}

/// A connection ends.
///
/// # Safety
/// `info` is a map value.
#[inline(always)]
pub unsafe fn closed(info: *mut SockInfo) {
    // SAFETY: as the caller says.
    unsafe {
        if (*info).flags & sock_flags::COUNTED == 0 {
            return;
        }
        (*info).flags &= !sock_flags::COUNTED;
        let key = key_of(&(*info).backend_addr, (*info).backend_port, TCP);
        if let Some(state) = BACKEND_STATES.get_ptr_mut(&key) {
            count::add32(&raw mut (*state).active, u32::MAX);
        }
    }
}

/// A backend has answered: what was held against it is over.
///
/// # Safety
/// `info` is a map value.
#[inline(always)]
pub unsafe fn answered(info: *mut SockInfo) {
    // SAFETY: map values.
    unsafe {
        let (addr, port) = (&(*info).backend_addr, (*info).backend_port);
        match EJECTIONS.get_ptr(ejection_bucket(addr, port)) {
            Some(bucket) if bucket.read_volatile() != 0 => {}
            _ => return,
        }
        if let Some(state) = BACKEND_STATES.get_ptr_mut(&key_of(addr, port, TCP)) {
            (&raw mut (*state).until_ns).write_volatile(0);
            (&raw mut (*state).failures).write_volatile(0);
        }
    }
}

/// A backend has failed a connection, or a datagram of a connected socket: it is out for a while.
///
/// # Safety
/// `info` is a map value of a socket that dialled a VIP.
#[inline(always)]
pub unsafe fn failed(info: *mut SockInfo, proto: u8) {
    // SAFETY: map values.
    unsafe {
        let (addr, port) = (&(*info).backend_addr, (*info).backend_port);
        let stat = count::vip_stat((*info).vip_id, addr, port);
        if let Some(stat) = stat {
            count::add(&raw mut (*stat).failures, 1);
        }
        let Some(state) = state_of(&key_of(addr, port, proto)) else {
            return;
        };
        let now = bpf_ktime_get_ns();
        let (last, mut failures) = ((*state).failed_ns, (*state).failures);
        // It was under way when the last failure was seen: that says nothing new.
        if failures != 0 && (*info).connect_ns < last {
            return;
        }
        if now.wrapping_sub(last) > EJECT_FORGET_NS {
            failures = 0;
        }
        let doublings = if failures > EJECT_DOUBLINGS {
            EJECT_DOUBLINGS
        } else {
            failures
        };
        let until = now + (EJECT_FIRST_NS << doublings);
        (&raw mut (*state).failed_ns).write_volatile(now);
        (&raw mut (*state).failures).write_volatile(failures + 1);
        (&raw mut (*state).until_ns).write_volatile(until);
        if let Some(bucket) = EJECTIONS.get_ptr_mut(ejection_bucket(addr, port))
            && bucket.read_volatile() < until
        {
            bucket.write_volatile(until);
        }
        if let Some(stat) = stat {
            count::add(&raw mut (*stat).ejections, 1);
        }
    }
}
