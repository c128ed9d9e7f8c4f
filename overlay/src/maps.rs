//! The VIP maps as this crate needs them, and the executor of a plan's writes.

use waggle_ebpf::{DataPlane, LoadError};
use waggle_ebpf_common::{Backend, VipKey, VipValue};
use waggle_overlay_plan::{Adopted, MapWrite, lower::key_from_kernel};

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
    /// Writes slots `base..`.
    fn set_backends(&self, base: u32, backends: &[Backend]) -> Result<(), MapError>;
    /// Writes an entry, atomically.
    fn set_vip(&self, key: &VipKey, value: &VipValue) -> Result<(), MapError>;
    /// Removes an entry; one that is not there is no error.
    fn remove_vip(&self, key: &VipKey) -> Result<(), MapError>;
    /// Every entry.
    fn list_vips(&self) -> Result<Vec<(VipKey, VipValue)>, MapError>;
    /// Reads `n` slots from `base`.
    fn read_backends(&self, base: u32, n: u32) -> Result<Vec<Backend>, MapError>;
    /// Forgets a number's counters, so that its next holder starts at zero.
    fn forget_vip(&self, vip_id: u32) -> Result<(), MapError>;
}

fn vip(key: VipKey) -> String {
    key_from_kernel(&key).map_or_else(|| format!("{key:?}"), |k| k.to_string())
}

fn failed(operation: String) -> impl FnOnce(LoadError) -> MapError {
    move |error| MapError::new(operation, &error)
}

impl KernelMaps for DataPlane {
    fn set_backends(&self, base: u32, backends: &[Backend]) -> Result<(), MapError> {
        let n = backends.len();
        self.vips()
            .set_backends(base, backends)
            .map_err(failed(format!("write {n} backends from slot {base}")))
    }

    fn set_vip(&self, key: &VipKey, value: &VipValue) -> Result<(), MapError> {
        self.vips()
            .set_vip(key, value)
            .map_err(failed(format!("set vip {}", vip(*key))))
    }

    fn remove_vip(&self, key: &VipKey) -> Result<(), MapError> {
        self.vips()
            .remove_vip(key)
            .map_err(failed(format!("remove vip {}", vip(*key))))
    }

    fn list_vips(&self) -> Result<Vec<(VipKey, VipValue)>, MapError> {
        self.vips()
            .list_vips()
            .map_err(failed("list vips".to_owned()))
    }

    fn read_backends(&self, base: u32, n: u32) -> Result<Vec<Backend>, MapError> {
        self.vips()
            .read_backends(base, n)
            .map_err(failed(format!("read {n} backends from slot {base}")))
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
    found
        .into_iter()
        .map(|(key, value)| {
            // A wild entry must not make us read gigabytes; the plan distrusts it for being short.
            let n = value.n.min(4096);
            let backends = if n == 0 {
                Vec::new()
            } else {
                // Slots outside of the array are an error; such an entry has no backends.
                maps.read_backends(value.base, n).unwrap_or_default()
            };
            Ok(Adopted {
                key,
                value,
                backends,
            })
        })
        .collect()
}

/// Executes writes in order; stops at the first failure, because later ones rely on it.
pub(crate) fn execute(maps: &dyn KernelMaps, writes: &[MapWrite]) -> Result<(), MapError> {
    for write in writes {
        match write {
            MapWrite::SetBackends { base, backends } => maps.set_backends(*base, backends)?,
            MapWrite::SetVip { key, value } => maps.set_vip(key, value)?,
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
