//! The VIP maps as this crate needs them, and the executor of a plan's writes.

use std::collections::BTreeSet;

use waggle_ebpf::{DataPlane, LoadError};
use waggle_ebpf_common::{
    BackendKey, BackendState, Cell, MAX_SET, SetHeader, VipKey, addr_of, ip_of,
};
use waggle_overlay_plan::{Adopted, MapWrite, VipTable, lower::key_from_kernel};

/// A map operation that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to {operation}: {cause}")]
pub struct MapError {
    /// What was tried, with its object: `set vip 11.0.0.1:80/tcp`.
    pub operation: String,
    /// The whole chain of causes, since the loader's error can't be cloned into a report.
    pub cause: String,
}

impl MapError {
    /// From an error and everything that it names as its source.
    pub fn new(operation: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(e) = source {
            cause = format!("{cause}: {e}");
            source = e.source();
        }
        Self {
            operation: operation.into(),
            cause,
        }
    }
}

/// The calls on the kernel's VIP maps that a node makes; all block for microseconds.
pub trait KernelMaps: Send + Sync {
    /// Writes cells `base..`, which nobody reads.
    fn write_cells(&self, base: u32, cells: &[Cell]) -> Result<(), MapError>;
    /// Writes one word of a cell, atomically.
    fn patch_cell(&self, cell: u32, word: u8, value: u32) -> Result<(), MapError>;
    /// Makes an entry lead to a set, atomically.
    fn set_vip(&self, key: &VipKey, cell: u32) -> Result<(), MapError>;
    /// Removes an entry; one that is not there is no error.
    fn remove_vip(&self, key: &VipKey) -> Result<(), MapError>;
    /// Every entry.
    fn list_vips(&self) -> Result<Vec<(VipKey, u32)>, MapError>;
    /// Reads `n` cells from `base`.
    fn read_cells(&self, base: u32, n: u32) -> Result<Vec<Cell>, MapError>;
    /// Forgets a number's counters, so that its next holder starts at zero.
    fn forget_vip(&self, vip_id: u32) -> Result<(), MapError>;
    /// What the kernel has seen of backends.
    fn backend_states(&self) -> Result<Vec<(BackendKey, BackendState)>, MapError>;
    /// Forgets what was seen of a backend.
    fn forget_backend(&self, key: &BackendKey) -> Result<(), MapError>;
}

fn vip(key: VipKey) -> String {
    key_from_kernel(&key).map_or_else(|| format!("{key:?}"), |k| k.to_string())
}

fn failed(operation: String) -> impl FnOnce(LoadError) -> MapError {
    move |error| MapError::new(operation, &error)
}

impl KernelMaps for DataPlane {
    fn write_cells(&self, base: u32, cells: &[Cell]) -> Result<(), MapError> {
        let n = cells.len();
        self.vips()
            .write_cells(base, cells)
            .map_err(failed(format!("write {n} cells from {base}")))
    }

    fn patch_cell(&self, cell: u32, word: u8, value: u32) -> Result<(), MapError> {
        self.vips()
            .patch_cell(cell, word, value)
            .map_err(failed(format!("change cell {cell}")))
    }

    fn set_vip(&self, key: &VipKey, cell: u32) -> Result<(), MapError> {
        self.vips()
            .set_vip(key, cell)
            .map_err(failed(format!("set vip {}", vip(*key))))
    }

    fn remove_vip(&self, key: &VipKey) -> Result<(), MapError> {
        self.vips()
            .remove_vip(key)
            .map_err(failed(format!("remove vip {}", vip(*key))))
    }

    fn list_vips(&self) -> Result<Vec<(VipKey, u32)>, MapError> {
        self.vips()
            .list_vips()
            .map_err(failed("list vips".to_owned()))
    }

    fn read_cells(&self, base: u32, n: u32) -> Result<Vec<Cell>, MapError> {
        self.vips()
            .read_cells(base, n)
            .map_err(failed(format!("read {n} cells from {base}")))
    }

    fn backend_states(&self) -> Result<Vec<(BackendKey, BackendState)>, MapError> {
        self.vips()
            .backend_states()
            .map_err(failed("list states of backends".to_owned()))
    }

    fn forget_backend(&self, key: &BackendKey) -> Result<(), MapError> {
        self.vips()
            .forget_backend(key)
            .map_err(failed(format!("forget backend {}", ip_of(key.addr))))
    }

    fn forget_vip(&self, vip_id: u32) -> Result<(), MapError> {
        self.counters()
            .forget_vip(vip_id)
            .map(drop)
            .map_err(failed(format!("forget counters of vip {vip_id}")))
    }
}

/// Reads everything that the maps hold.
pub(crate) fn observe(maps: &dyn KernelMaps) -> Result<Vec<Adopted>, MapError> {
    let mut found = maps.list_vips()?;
    found.sort_unstable_by_key(|(key, _)| *key);
    // Cells outside of the array are an error; such an entry has no set, which the plan distrusts.
    let read = |cell| -> Option<Vec<Cell>> {
        let first = maps.read_cells(cell, 1).ok()?;
        let header: SetHeader = (*first.first()?).into();
        // A wild header must not make us read gigabytes; the plan distrusts it for being short.
        let n = 1 + u32::from(header.members).min(MAX_SET);
        maps.read_cells(cell, n).ok()
    };
    let adopted = found.into_iter().map(|(key, cell)| Adopted {
        key,
        cell,
        cells: read(cell).unwrap_or_default(),
    });
    Ok(adopted.collect())
}

/// Executes writes in order; stops at the first failure, because later ones rely on it.
pub(crate) fn execute(maps: &dyn KernelMaps, writes: &[MapWrite]) -> Result<(), MapError> {
    for write in writes {
        match write {
            MapWrite::WriteCells { base, cells } => maps.write_cells(*base, cells)?,
            MapWrite::Patch { cell, word, value } => maps.patch_cell(*cell, *word, *value)?,
            MapWrite::SetVip { key, cell } => maps.set_vip(key, *cell)?,
            MapWrite::RemoveVip { key, vip_id } => {
                maps.remove_vip(key)?;
                if *vip_id != 0
                    && let Err(error) = maps.forget_vip(*vip_id)
                {
                    // Counters of a VIP that is gone are garbage, not a wrong delivery.
                    tracing::warn!(vip_id, %error, "counters of a removed vip stay");
                }
            }
        }
    }
    Ok(())
}

/// Forgets what is known of backends that are behind no VIP any more and have no connection.
pub(crate) fn prune(maps: &dyn KernelMaps, table: &VipTable) -> Result<usize, MapError> {
    let idle = maps.backend_states()?;
    let idle: Vec<BackendKey> = idle
        .into_iter()
        .filter(|(_, state)| state.active == 0)
        .map(|(key, _)| key)
        .collect();
    if idle.is_empty() {
        return Ok(0);
    }
    let kept: BTreeSet<BackendKey> = table
        .iter()
        .flat_map(|(key, set)| {
            let proto = key.protocol.number();
            set.backends.keys().map(move |addr| BackendKey {
                addr: addr_of(addr.ip()),
                port: addr.port().to_be(),
                proto,
                pad: 0,
            })
        })
        .collect();
    let gone = idle.iter().filter(|key| !kept.contains(key));
    let mut n = 0;
    for key in gone {
        maps.forget_backend(key)?;
        n += 1;
    }
    Ok(n)
}
