//! The load balancer's tables: VIPs and their backend slots.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use waggle_ebpf_common::{Backend, MAX_BACKENDS, VipKey, VipValue};

use crate::LoadError;

const VIPS: &str = "VIPS";
const BACKENDS: &str = "BACKENDS";

/// Handles of the VIP maps. Each call is one or more independent map writes, atomic per entry: the order
/// in which a change is safe (backends first, then the VIP that names them) is the caller's plan.
pub struct VipMaps {
    vips: Mutex<HashMap<MapData, VipKey, VipValue>>,
    backends: Mutex<Array<MapData, Backend>>,
}

impl fmt::Debug for VipMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // aya's map handles have no Debug.
        f.debug_struct("VipMaps").finish_non_exhaustive()
    }
}

impl VipMaps {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let vips = ebpf.take_map(VIPS).ok_or(LoadError::Missing {
            what: "map",
            name: VIPS,
        })?;
        let backends = ebpf.take_map(BACKENDS).ok_or(LoadError::Missing {
            what: "map",
            name: BACKENDS,
        })?;
        Ok(Self {
            vips: Mutex::new(
                vips.try_into()
                    .map_err(|e| LoadError::map("open", VIPS, e))?,
            ),
            backends: Mutex::new(
                backends
                    .try_into()
                    .map_err(|e| LoadError::map("open", BACKENDS, e))?,
            ),
        })
    }

    /// Writes the slots `base..base + backends.len()`, in order.
    ///
    /// # Errors
    /// [`LoadError::Slots`] before anything is written when they don't fit; [`LoadError::Map`] from the kernel.
    pub fn set_backends(&self, base: u32, backends: &[Backend]) -> Result<(), LoadError> {
        let slots = slots(base, backends.len())?;
        let mut map = lock(&self.backends);
        for (slot, backend) in slots.zip(backends) {
            map.set(slot, backend, 0)
                .map_err(|e| LoadError::map("write", BACKENDS, e))?;
        }
        Ok(())
    }

    /// Reads `n` slots from `base`.
    ///
    /// # Errors
    /// [`LoadError::Slots`] when they don't exist; [`LoadError::Map`] from the kernel.
    pub fn read_backends(&self, base: u32, n: u32) -> Result<Vec<Backend>, LoadError> {
        let slots = slots(base, n as usize)?;
        let map = lock(&self.backends);
        slots
            .map(|slot| {
                map.get(&slot, 0)
                    .map_err(|e| LoadError::map("read", BACKENDS, e))
            })
            .collect()
    }

    /// Adds or replaces a VIP, atomically.
    ///
    /// # Errors
    /// [`LoadError::Full`] when there is no room (nothing changes); [`LoadError::Slots`] when the value points
    /// outside of the backend array; [`LoadError::Map`] from the kernel.
    pub fn set_vip(&self, key: &VipKey, value: &VipValue) -> Result<(), LoadError> {
        slots(value.base, value.n as usize)?;
        lock(&self.vips)
            .insert(key, value, 0)
            .map_err(|e| LoadError::map("write", VIPS, e))
    }

    /// Removes a VIP; one that is not there is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn remove_vip(&self, key: &VipKey) -> Result<(), LoadError> {
        match lock(&self.vips).remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(())
            }
            Err(error) => Err(LoadError::map("remove from", VIPS, error)),
        }
    }

    /// All VIPs, sorted by key. Complete when nobody writes meanwhile.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn list_vips(&self) -> Result<Vec<(VipKey, VipValue)>, LoadError> {
        let map = lock(&self.vips);
        let mut vips = map
            .iter()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| LoadError::map("list", VIPS, e))?;
        vips.sort_unstable();
        Ok(vips)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A map handle has no state that a panic could leave half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The slots of a range, if they all exist.
fn slots(base: u32, n: usize) -> Result<std::ops::Range<u32>, LoadError> {
    let end = u64::from(base).saturating_add(n as u64);
    match u32::try_from(end) {
        Ok(last) if last <= MAX_BACKENDS => Ok(base..last),
        _ => Err(LoadError::Slots {
            base,
            end,
            capacity: MAX_BACKENDS,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_end_at_the_capacity() {
        assert_eq!(slots(0, 0).unwrap(), 0..0);
        assert_eq!(
            slots(MAX_BACKENDS - 2, 2).unwrap(),
            MAX_BACKENDS - 2..MAX_BACKENDS
        );
        assert!(matches!(
            slots(MAX_BACKENDS - 1, 2),
            Err(LoadError::Slots { .. })
        ));
        assert!(matches!(slots(u32::MAX, 2), Err(LoadError::Slots { .. })));
    }
}
