//! Fields of the kernel's structures.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

use crate::maps::place;

/// A structure of the kernel, by its address; not to be dereferenced.
pub type Ptr = *const u8;

/// The field at place `FIELD` of a structure; `None` for a null pointer, or where it can't be read.
#[inline(always)]
pub fn field<T: Copy, const FIELD: usize>(of: Ptr) -> Option<T> {
    if of.is_null() {
        return None;
    }
    let mut value = MaybeUninit::<T>::uninit();
    let from = (of as usize).wrapping_add(place::<FIELD>()) as *const core::ffi::c_void;
    // SAFETY: the helper checks the address and fills the value, or says that it did not.
    unsafe {
        let read = bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from);
        if read == 0 {
            Some(value.assume_init())
        } else {
            None
        }
    }
}

/// The id of a `struct cgroup`.
#[inline(always)]
pub fn cgroup_id(cgroup: Ptr) -> Option<u64> {
    use waggle_ebpf_common::observe::at::{CGROUP_KN, KN_ID};

    let kn: Ptr = field::<_, CGROUP_KN>(cgroup)?;
    field::<_, KN_ID>(kn)
}
