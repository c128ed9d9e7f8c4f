//! Memory of sockets.

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;

/// A BTF definition of a socket storage map with flags, among them `BPF_F_CLONE`, which aya's `SkStorage` can't
/// express. The fields are read from BTF by the loader, never at run time.
#[repr(C)]
pub struct SockStorage<T, const FLAGS: usize> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the pointers are null and never read; the kernel synchronizes access to the map.
unsafe impl<T, const FLAGS: usize> Sync for SockStorage<T, FLAGS> {}

impl<T, const FLAGS: usize> SockStorage<T, FLAGS> {
    /// A map of this definition.
    pub const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    /// The address that helpers take for the map.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut core::ffi::c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}
