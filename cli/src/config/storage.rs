//! Disks, sandboxes, what is fetched, storage outside of the node.

use std::{collections::BTreeMap, path::Path, time::Duration};

use waggle_agent::{Disk, FetchSettings, StorageSettings};

use crate::{
    args::RunArgs,
    error::{CliError, usage},
    times,
};

/// Most drivers of a node.
const MAX_DRIVERS: usize = 32;

/// `--disk`, `--gc-delay`, `--enforce-disk-quota` and `--csi`.
pub fn storage(args: &RunArgs) -> Result<StorageSettings, CliError> {
    let mut out = StorageSettings {
        enforce_disk: args.enforce_disk_quota,
        ..StorageSettings::default()
    };
    if let Some(text) = &args.gc_delay {
        out.gc_delay = times::duration("gc-delay", text, Duration::from_hours(24 * 365))?;
    }
    for text in &args.disk {
        let disk = Disk::parse(text).map_err(|e| usage(e.to_string()))?;
        if out.disks.iter().any(|d| d.name == disk.name) {
            return Err(usage(format!(
                "disk: must not be given twice, is {:?}",
                disk.name
            )));
        }
        out.disks.push(disk);
    }
    out.csi = drivers(&args.csi)?;
    Ok(out)
}

/// `--fetch-cache` and `--fetch-tls-roots`.
pub fn fetch(args: &RunArgs) -> Result<FetchSettings, CliError> {
    let mut out = FetchSettings::default();
    if let Some(mib) = args.fetch_cache {
        out.cache_bytes = mib.checked_mul(1 << 20).ok_or_else(|| {
            usage(format!(
                "fetch-cache: must be less than 16 EiB, is {mib} MiB"
            ))
        })?;
    }
    out.tls_roots.clone_from(&args.fetch_tls_roots);
    Ok(out)
}

fn drivers(all: &[String]) -> Result<BTreeMap<String, std::path::PathBuf>, CliError> {
    let mut out = BTreeMap::new();
    for text in all {
        let bad = |rule: &str| usage(format!("csi: {rule}: NAME=unix:///PATH, is {text:?}"));
        let (name, address) = text
            .split_once('=')
            .ok_or_else(|| bad("must have a name"))?;
        let of = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if name.is_empty() || name.len() > 63 || !name.chars().all(of) {
            return Err(bad("the name must be 1 to 63 of [A-Za-z0-9._-]"));
        }
        let path = address
            .strip_prefix("unix://")
            .filter(|p| Path::new(p).is_absolute())
            .ok_or_else(|| bad("must be an absolute socket"))?;
        if out.insert(name.to_owned(), path.into()).is_some() {
            return Err(bad("the name must not be given twice"));
        }
    }
    if out.len() > MAX_DRIVERS {
        return Err(usage(format!(
            "csi: must be at most {MAX_DRIVERS}, are {}",
            out.len()
        )));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_is_read() {
        let args = RunArgs {
            gc_delay: Some("2h".to_owned()),
            disk: vec![
                "fast=path:/data:1024".to_owned(),
                "big=mount:/mnt/x".to_owned(),
            ],
            csi: vec!["nfs=unix:///run/nfs/csi.sock".to_owned()],
            fetch_cache: Some(1),
            ..RunArgs::default()
        };
        let got = storage(&args).unwrap();
        assert_eq!(got.gc_delay, Duration::from_hours(2));
        let kinds: Vec<String> = got.disks.iter().map(Disk::resource).collect();
        assert_eq!(kinds, ["disk.fast", "disk.big"]);
        assert_eq!(got.csi["nfs"], Path::new("/run/nfs/csi.sock"));
        assert_eq!(fetch(&args).unwrap().cache_bytes, 1 << 20);
        for bad in ["nfs", "=unix:///x", "nfs=unix://x", "a b=unix:///x"] {
            assert_eq!(
                drivers(&[bad.to_owned()]).unwrap_err().exit_code(),
                2,
                "{bad}"
            );
        }
    }
}
