//! The one way to add to a counter.

/// Adds to a counter.
///
/// Atomic also where it is per CPU: programs run with softirqs enabled when called from a system call, and a
/// softirq's program may add to the same counter in between.
///
/// # Safety
/// `counter` points into a map value.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, n: u64) {
    // core offers atomic additions only to targets with compare-and-swap, which BPF's baseline lacks.
    // SAFETY: BPF's atomic add on an aligned u64 that lives as long as the program runs.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({counter} + 0) += {n}",
            counter = in(reg) counter,
            n = in(reg) n,
            options(nostack),
        );
    }
}
