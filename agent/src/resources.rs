//! What this node has to offer.

use std::{fs, path::Path};

use waggle_types::{FieldError, Milli, PortRange, PortSet, Resources};

use crate::{ResourceOverrides, sys};

/// Mesos's default ports (`slave/constants.hpp` DEFAULT_PORTS).
const PORTS: PortRange = PortRange {
    begin: 31_000,
    end: 32_000,
};

/// CPUs online, GPUs that were found, memory and disk as Mesos offers them (containerizer.cpp: memory less 1 GiB, or half of it
/// below 2 GiB; disk of `work_dir` less 5 GiB, or half of it below 10 GiB), unless overridden; with what is
/// reserved on top. An error when a port or another thing that has one holder is given twice.
pub fn detect(
    work_dir: &Path,
    n_gpus: usize,
    overrides: &ResourceOverrides,
) -> Result<Resources, FieldError> {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mem = mem_total_mib(&meminfo).map_or(1024, |m| reserve(m, 1024));
    let disk = nix::sys::statvfs::statvfs(work_dir).map_or(10_240, |s| {
        reserve(s.blocks().saturating_mul(s.fragment_size()) >> 20, 5 * 1024)
    });
    let units = |n: u64| Milli::units(i64::try_from(n).unwrap_or(i64::MAX / 1000));
    let or = |over: Option<Milli>, found: Milli| over.unwrap_or(found);
    let ports = overrides.ports.clone();
    let mut total = Resources {
        scalars: [
            or(overrides.cpus, Milli::units(sys::n_cpus())),
            or(overrides.mem, units(mem)),
            or(overrides.disk, units(disk)),
            or(overrides.gpus, units(n_gpus as u64)),
        ],
        ports: ports.unwrap_or_else(|| PortSet::from_ranges([PORTS])),
        custom: overrides.custom.clone(),
    };
    for (role, r) in &overrides.reserved {
        if total.try_add(r).is_none() {
            let rule = format!("must not be given twice: {r} for {role} is not beside {total}");
            return Err(FieldError::new("resources", rule));
        }
    }
    Ok(total)
}

/// Leaves `keep` for the system, or half when there is little.
fn reserve(total: u64, keep: u64) -> u64 {
    if total > 2 * keep {
        total - keep
    } else {
        total / 2
    }
}

fn mem_total_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|l| l.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use waggle_types::ScalarKind;

    use super::*;

    #[test]
    fn some_of_the_machine_is_kept_for_the_system() {
        assert_eq!(reserve(8192, 1024), 7168);
        assert_eq!(reserve(1024, 1024), 512);
        assert_eq!(
            mem_total_mib("MemTotal:  2048 kB\nMemFree: 1 kB\n"),
            Some(2)
        );
    }

    #[test]
    fn every_kind_can_be_overridden() {
        let overrides = ResourceOverrides {
            cpus: Some(Milli(1500)),
            mem: Some(Milli::units(64)),
            ports: Some(PortSet::from_ports([5000])),
            ..ResourceOverrides::default()
        };
        let found = detect(Path::new("/"), 2, &overrides).unwrap();
        assert_eq!(found.get(ScalarKind::Cpus), Milli(1500));
        assert_eq!(found.get(ScalarKind::Mem), Milli::units(64));
        assert!(found.get(ScalarKind::Disk).0 > 0);
        assert_eq!(found.ports.len(), 1);
        assert_eq!(found.get(ScalarKind::Gpus), Milli(2000));
    }

    #[test]
    fn what_is_reserved_comes_on_top() {
        let mut overrides = ResourceOverrides {
            cpus: Some(Milli(4000)),
            gpus: Some(Milli(1000)),
            ports: Some(PortSet::from_ports([5000])),
            ..ResourceOverrides::default()
        };
        overrides.custom.set_scalar("licenses", Milli(2000));
        let mut prod =
            Resources::from_millis(2000, 0, 0).with_ports(PortSet::from_ports([5001, 5002]));
        prod.custom.set_scalar("licenses", Milli(1000));
        overrides.reserved.push(("prod".to_owned(), prod));
        let found = detect(Path::new("/"), 2, &overrides).unwrap();
        assert_eq!(found.get(ScalarKind::Cpus), Milli(6000));
        assert_eq!(found.get(ScalarKind::Gpus), Milli(1000));
        assert_eq!(found.custom.scalar("licenses"), Milli(3000));
        assert_eq!(found.ports.len(), 3);
        let port = Resources::default().with_ports(PortSet::from_ports([5002]));
        overrides.reserved.push(("dev".to_owned(), port));
        let err = detect(Path::new("/"), 2, &overrides).unwrap_err();
        assert_eq!(err.field, "resources");
    }
}
