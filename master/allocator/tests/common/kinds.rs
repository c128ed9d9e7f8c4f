//! The kinds of resources in the histories, and how the reference allocator counts them.

use std::collections::BTreeSet;

use waggle_types::{Milli, PortRange, RangeSet, Resources, ScalarKind};

pub const KINDS: [&str; 9] = [
    "cpus",
    "mem",
    "disk",
    "gpus",
    "ports",
    "licenses",
    "vlans",
    "zones",
    "disk.fast",
];
pub const N: usize = KINDS.len();

/// How much of a kind a bundle holds, in thousandths: numbers and items count, volumes are disk.
pub fn count(r: &Resources, k: usize) -> i64 {
    let thousand = |n: usize| i64::try_from(n).unwrap() * 1000;
    match KINDS[k] {
        "ports" => i64::try_from(r.ports.len()).unwrap() * 1000,
        "licenses" => r.custom.scalar("licenses").0,
        "vlans" => r
            .custom
            .ranges()
            .map(|(_, v)| thousand(v.iter().count()))
            .sum(),
        "zones" => r.custom.sets().map(|(_, z)| thousand(z.len())).sum(),
        "disk" => {
            let here = r
                .custom
                .volumes()
                .filter(|(id, _)| !id.as_str().ends_with("@fast"));
            r.get(ScalarKind::Disk).0 + here.map(|(_, v)| v.size.0).sum::<i64>()
        }
        "disk.fast" => {
            let here = r
                .custom
                .volumes()
                .filter(|(id, _)| id.as_str().ends_with("@fast"));
            r.custom.scalar("disk.fast").0 + here.map(|(_, v)| v.size.0).sum::<i64>()
        }
        _ => r.scalars[k].0,
    }
}

/// Without shared volumes.
pub fn owned(r: &Resources) -> Resources {
    let mut out = r.clone();
    for (id, _) in r.custom.volumes().filter(|(_, v)| v.shared) {
        out.custom.remove_volume(id);
    }
    out
}

pub fn without_volumes(r: &Resources) -> Resources {
    let mut out = r.clone();
    for (id, _) in r.custom.volumes() {
        out.custom.remove_volume(id);
    }
    out
}

/// Adds some licenses, vlans and zones.
pub fn with_custom(mut r: Resources) -> Resources {
    r.custom.set_scalar("licenses", Milli(4000));
    r.custom.set_scalar("disk.fast", Milli(2_048_000));
    r.custom.set_ranges(
        "vlans",
        RangeSet::from_ranges(
            [PortRange {
                begin: 100,
                end: 107,
            }]
            .map(|r| waggle_types::Interval {
                begin: u64::from(r.begin),
                end: u64::from(r.end),
            }),
        ),
    );
    let zones: BTreeSet<String> = ["x", "y", "z"].map(str::to_owned).into();
    r.custom.set_items("zones", zones);
    r
}

/// About this many eighths of a bundle, without volumes.
pub fn eighths(r: &Resources, n: usize) -> Resources {
    let part = |q: Milli| Milli(q.0 * i64::try_from(n).unwrap() / 8);
    let mut out = Resources {
        scalars: r.scalars.map(part),
        ..Resources::default()
    };
    out.custom
        .set_scalar("licenses", part(r.custom.scalar("licenses")));
    out.custom
        .set_scalar("disk.fast", part(r.custom.scalar("disk.fast")));
    for (name, v) in r.custom.ranges() {
        let some = v.iter().take(n.min(8) / 2);
        out.custom.set_ranges(name, RangeSet::from_ports(some));
    }
    for (name, z) in r.custom.sets() {
        let some = z.iter().take(n / 3).cloned().collect();
        out.custom.set_items(name, some);
    }
    out
}
