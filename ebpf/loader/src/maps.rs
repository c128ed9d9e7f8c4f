//! Reading maps that programs write meanwhile.

use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::{HashMap, MapData, MapError, PerCpuArray};

use crate::LoadError;

/// All entries; one that vanishes between key and value is left out.
pub(crate) fn list<K: Pod + Ord, V: Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<BTreeMap<K, V>, LoadError> {
    let mut found = BTreeMap::new();
    for key in map.keys() {
        let key = key.map_err(|e| LoadError::map("list", name, e))?;
        if let Ok(value) = map.get(&key, 0) {
            found.insert(key, value);
        }
    }
    Ok(found)
}

/// A counter, over all CPUs.
pub(crate) fn count(
    map: &PerCpuArray<MapData, u64>,
    name: &'static str,
    at: u32,
) -> Result<u64, LoadError> {
    let per_cpu = map
        .get(&at, 0)
        .map_err(|e| LoadError::map("read", name, e))?;
    Ok(per_cpu.iter().sum())
}

/// What is not there is removed.
pub(crate) fn gone(result: Result<(), MapError>, map: &'static str) -> Result<(), LoadError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(LoadError::map("remove from", map, error)),
    }
}

/// `BPF_NOEXIST`.
const ONLY_NEW: u64 = 1;

/// Makes an entry; one that is there stays as it is.
pub(crate) fn make<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: K,
    value: V,
) -> Result<(), LoadError> {
    match map.insert(key, value, ONLY_NEW) {
        Ok(()) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(error) => Err(LoadError::map("write", name, error)),
    }
}
