//! Reading maps that programs write meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aya::maps::{HashMap, Map, MapData, MapError, MapInfo, PerCpuArray};
use aya::{Ebpf, Pod};

use crate::LoadError;

/// Sizes of a map: key, value (bytes), entries.
pub(crate) type Layout = (usize, usize, u32);

/// Whether what is pinned is what this binary's programs expect.
pub(crate) fn check_layout(
    name: &'static str,
    path: PathBuf,
    (key, value, entries): Layout,
) -> Result<(), LoadError> {
    let info = MapInfo::from_pin(&path).map_err(|e| LoadError::map("inspect", name, e))?;
    let found = (info.key_size(), info.value_size(), info.max_entries());
    let size = |bytes| u32::try_from(bytes).unwrap_or(u32::MAX);
    let expected = (size(key), size(value), entries);
    if found == expected {
        return Ok(());
    }
    Err(LoadError::MapLayout {
        path,
        found: format!("{found:?}"),
        expected: format!("{expected:?}"),
    })
}

/// Takes a map out of a loaded object.
pub(crate) fn open<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, LoadError>
where
    T: TryFrom<Map, Error = MapError>,
{
    ebpf.take_map(name)
        .ok_or(LoadError::Missing { what: "map", name })?
        .try_into()
        .map_err(|e| LoadError::map("open", name, e))
}

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
