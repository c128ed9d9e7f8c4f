//! The load balancer's tables: VIPs, their sets, and what the kernel knows of backends.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError};
use waggle_ebpf_common::{BackendKey, BackendState, Cell, MAX_CELLS, VipKey};

use crate::LoadError;
use crate::sys::Mapping;

const VIPS: &str = "VIPS";
const CELLS: &str = "CELLS";
const STATES: &str = "BACKEND_STATES";

/// Handles of the VIP maps. A VIP's entry is switched atomically, cells are plain memory: the order in which a
/// change is safe (a set to cells that nobody reads, then the VIP that names it) is the caller's plan.
pub struct VipMaps {
    vips: Mutex<HashMap<MapData, VipKey, u32>>,
    cells: Mutex<Mapping>,
    states: Mutex<HashMap<MapData, BackendKey, BackendState>>,
}

impl fmt::Debug for VipMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // aya's map handles have no Debug.
        f.debug_struct("VipMaps").finish_non_exhaustive()
    }
}

impl VipMaps {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let mut take = |name| {
            ebpf.take_map(name)
                .ok_or(LoadError::Missing { what: "map", name })
        };
        let vips = take(VIPS)?;
        let states = take(STATES)?;
        let Map::Array(cells) = take(CELLS)? else {
            return Err(LoadError::Missing {
                what: "array",
                name: CELLS,
            });
        };
        let mapping = Mapping::new(&cells, MAX_CELLS as usize * size_of::<Cell>());
        Ok(Self {
            vips: Mutex::new(
                vips.try_into()
                    .map_err(|e| LoadError::map("open", VIPS, e))?,
            ),
            cells: Mutex::new(mapping.map_err(|source| LoadError::Mapping { map: CELLS, source })?),
            states: Mutex::new(
                states
                    .try_into()
                    .map_err(|e| LoadError::map("open", STATES, e))?,
            ),
        })
    }

    /// Writes the cells `base..base + cells.len()`. A program that reads them meanwhile may see a part: they must
    /// belong to nobody.
    ///
    /// # Errors
    /// [`LoadError::Cells`] before anything is written when they don't fit.
    pub fn write_cells(&self, base: u32, cells: &[Cell]) -> Result<(), LoadError> {
        let range = range(base, cells.len())?;
        lock(&self.cells).write(range.start, cells);
        Ok(())
    }

    /// Writes one word of a cell that programs may be reading, atomically.
    ///
    /// # Errors
    /// [`LoadError::Cells`] when the cell or the word does not exist.
    pub fn patch_cell(&self, cell: u32, word: u8, value: u32) -> Result<(), LoadError> {
        let range = range(cell, 1)?;
        if usize::from(word) >= size_of::<Cell>() / size_of::<u32>() {
            return Err(LoadError::Cells {
                base: cell,
                end: range.end,
                capacity: MAX_CELLS,
            });
        }
        lock(&self.cells).patch(range.start, word.into(), value);
        Ok(())
    }

    /// Reads `n` cells from `base`.
    ///
    /// # Errors
    /// [`LoadError::Cells`] when they don't exist.
    pub fn read_cells(&self, base: u32, n: u32) -> Result<Vec<Cell>, LoadError> {
        let range = range(base, n as usize)?;
        Ok(lock(&self.cells).read(range))
    }

    /// Makes a VIP's entry lead to a set, atomically.
    ///
    /// # Errors
    /// [`LoadError::Full`] when there is no room (nothing changes); [`LoadError::Cells`] when the cell does not
    /// exist; [`LoadError::Map`] from the kernel.
    pub fn set_vip(&self, key: &VipKey, cell: u32) -> Result<(), LoadError> {
        range(cell, 1)?;
        lock(&self.vips)
            .insert(key, cell, 0)
            .map_err(|e| LoadError::map("write", VIPS, e))
    }

    /// Removes a VIP; one that is not there is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn remove_vip(&self, key: &VipKey) -> Result<(), LoadError> {
        gone(lock(&self.vips).remove(key)).map_err(|e| LoadError::map("remove from", VIPS, e))
    }

    /// All VIPs and their sets' first cells, sorted by key. Complete when nobody writes meanwhile.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn list_vips(&self) -> Result<Vec<(VipKey, u32)>, LoadError> {
        list(&lock(&self.vips), VIPS)
    }

    /// What the kernel has seen of backends, sorted by key.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn backend_states(&self) -> Result<Vec<(BackendKey, BackendState)>, LoadError> {
        list(&lock(&self.states), STATES)
    }

    /// Drops what is known of a backend that is behind no VIP any more; none is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn forget_backend(&self, key: &BackendKey) -> Result<(), LoadError> {
        gone(lock(&self.states).remove(key)).map_err(|e| LoadError::map("remove from", STATES, e))
    }
}

fn list<K: aya::Pod + Ord, V: aya::Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<Vec<(K, V)>, LoadError> {
    let mut all = map
        .iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| LoadError::map("list", name, e))?;
    all.sort_unstable_by_key(|(key, _)| *key);
    Ok(all)
}

fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A map handle has no state that a panic could leave half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Positions of cells, if they all exist.
fn range(base: u32, n: usize) -> Result<std::ops::Range<usize>, LoadError> {
    let end = (base as usize).saturating_add(n);
    if end > MAX_CELLS as usize {
        return Err(LoadError::Cells {
            base,
            end,
            capacity: MAX_CELLS,
        });
    }
    Ok(base as usize..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_end_at_the_capacity() {
        assert_eq!(range(0, 0).unwrap(), 0..0);
        let last = MAX_CELLS as usize;
        assert_eq!(range(MAX_CELLS - 2, 2).unwrap(), last - 2..last);
        for (base, n) in [(MAX_CELLS - 1, 2), (u32::MAX, 2), (0, usize::MAX)] {
            assert!(matches!(range(base, n), Err(LoadError::Cells { .. })));
        }
    }
}
