//! The walk over a head.

use aya_ebpf::helpers::generated::bpf_loop;
use waggle_ebpf_common::inject::head::Scan;
use waggle_ebpf_common::inject::{WINDOW, Window};

/// What a walk goes over. That doesn't change on the way, and what does is in the [`Window`].
struct Walk {
    window: *mut Window,
    n: u64,
}

/// Walks over the first `n` bytes.
///
/// # Safety
/// `window` is in a map value.
#[inline(always)]
pub unsafe fn scan(window: *mut Window, n: u32) -> Scan {
    let mut walk = Walk {
        window,
        n: u64::from(n),
    };
    // SAFETY: as the caller says, a function of this object, and memory of this one.
    unsafe {
        (*window).scan = Scan::default();
        bpf_loop(
            WINDOW as u32,
            step as *mut core::ffi::c_void,
            (&raw mut walk).cast(),
            0,
        );
        (&raw const (*window).scan).read_volatile()
    }
}

#[inline(never)]
extern "C" fn step(at: u64, walk: *mut Walk) -> u64 {
    // SAFETY: what `scan` has handed over.
    unsafe {
        if at >= (*walk).n || at >= WINDOW as u64 {
            return 1;
        }
        let window = (*walk).window;
        let bytes = (&raw const (*window).bytes).cast::<u8>();
        let byte = bytes.add(at as usize).read_volatile();
        u64::from((*window).scan.step(byte))
    }
}
