//! The walk over a head.

use aya_ebpf::helpers::generated::bpf_loop;
use waggle_ebpf_common::inject::WINDOW;
use waggle_ebpf_common::inject::head::Scan;

/// A walk, and what it goes over.
struct Walk {
    from: *const u8,
    n: u64,
    scan: Scan,
}

/// Walks over `n` bytes.
///
/// # Safety
/// `from` is a map value of [`WINDOW`] bytes.
#[inline(always)]
pub unsafe fn scan(from: *const u8, n: u32) -> Scan {
    let mut walk = Walk {
        from,
        n: u64::from(n),
        scan: Scan::default(),
    };
    // SAFETY: a function of this object, and memory of this one.
    unsafe {
        bpf_loop(
            WINDOW as u32,
            step as *mut core::ffi::c_void,
            (&raw mut walk).cast(),
            0,
        );
    }
    walk.scan
}

#[inline(never)]
extern "C" fn step(at: u64, walk: *mut Walk) -> u64 {
    // SAFETY: what `scan` has handed over.
    unsafe {
        if at >= (*walk).n || at >= WINDOW as u64 {
            return 1;
        }
        let byte = (*walk).from.add(at as usize).read_volatile();
        u64::from((*walk).scan.step(byte))
    }
}
