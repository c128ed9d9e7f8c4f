//! Counters of VIPs and losses: what every program that chooses needs.

use aya_ebpf::bindings::BPF_NOEXIST;
use waggle_ebpf_common::{Addr, VipStat, VipStatKey, loss};

use crate::maps::{LOSS, VIP_STATS};
pub use crate::sum::add;

/// Counts what could not be counted.
#[inline(always)]
pub fn lost(reason: u32) {
    if let Some(counter) = LOSS.get_ptr_mut(reason) {
        // SAFETY: a map value.
        unsafe { add(counter, 1) };
    }
}

/// Adds to a counter of 32 bits that all CPUs share.
///
/// # Safety
/// `counter` points into a map value.
#[inline(always)]
pub unsafe fn add32(counter: *mut u32, n: u32) {
    // SAFETY: as above, on an aligned u32.
    unsafe {
        core::arch::asm!(
            "lock *(u32 *)({counter} + 0) += {n}",
            counter = in(reg) counter,
            n = in(reg) u64::from(n),
            options(nostack),
        );
    }
}

/// Counts a choice of a backend, or a refusal (an address of zeros).
#[inline(always)]
pub fn vip_choice(vip_id: u32, addr: *const Addr, port: u16) {
    if let Some(stat) = vip_stat(vip_id, addr, port) {
        // SAFETY: a map value.
        unsafe { add(&raw mut (*stat).count, 1) };
    }
}

/// The counters of a VIP and a backend.
#[inline(always)]
pub fn vip_stat(vip_id: u32, addr: *const Addr, port: u16) -> Option<*mut VipStat> {
    // SAFETY: callers pass map values and constants.
    let key = unsafe {
        VipStatKey {
            vip_id,
            addr: [(*addr)[0], (*addr)[1], (*addr)[2], (*addr)[3]],
            port,
            pad: 0,
        }
    };
    let found = VIP_STATS.get_ptr_mut(&key);
    if found.is_some() {
        return found;
    }
    let new = VipStat {
        count: 0,
        failures: 0,
        ejections: 0,
    };
    // Another CPU may have made it meanwhile: that is as good.
    let _ = VIP_STATS.insert(&key, &new, u64::from(BPF_NOEXIST));
    let found = VIP_STATS.get_ptr_mut(&key);
    if found.is_none() {
        lost(loss::VIP_STAT_FULL);
    }
    found
}
