//! Whether a task fits on the node beside those that live; the master's books should have said so first.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{Custom, RangeSet, Resources, ScalarKind, Volume, VolumeId};

/// Why `wanted` does not fit into `total` beside `live`.
pub(crate) fn excess<'a>(
    total: &Resources,
    live: impl Iterator<Item = &'a Resources>,
    wanted: &Resources,
) -> Option<String> {
    let mut used = Used::default();
    for r in live {
        used.add(r);
    }
    let held = |(id, v): &(&VolumeId, Volume)| {
        let other = used.volumes.get(*id);
        other.is_some_and(|o| !(o.shared && o == v))
    };
    if let Some((id, _)) = wanted.custom.volumes().find(held) {
        return Some(format!(
            "resources: volume {id} is in use by another task on the node"
        ));
    }
    let new = used.flat(wanted);
    let fits = used
        .sum
        .checked_add(&new)
        .is_some_and(|all| total.contains(&all));
    (!fits).then(|| {
        let sum = &used.sum;
        format!("resources: {wanted} do not fit beside the {sum} in use: the node has {total}")
    })
}

/// What is in use; volumes count as disk, each once.
#[derive(Default)]
struct Used {
    sum: Resources,
    volumes: BTreeMap<VolumeId, Volume>,
}

impl Used {
    /// With volumes that are new here as disk, which they are to the node.
    fn flat(&self, r: &Resources) -> Resources {
        let mut out = r.clone();
        let disk = &mut out.scalars[ScalarKind::Disk as usize].0;
        for (id, v) in r.custom.volumes() {
            if !self.volumes.contains_key(id) {
                *disk = disk.saturating_add(v.size.0);
            }
            out.custom.remove_volume(id);
        }
        out
    }

    /// What two hold already is theirs to settle: all that they use is summed all the same.
    fn add(&mut self, r: &Resources) {
        let flat = self.flat(r);
        self.volumes
            .extend(r.custom.volumes().map(|(id, v)| (id.clone(), v)));
        for (a, b) in self.sum.scalars.iter_mut().zip(&flat.scalars) {
            a.0 = a.0.saturating_add(b.0);
        }
        self.sum.ports = self.sum.ports.union(&flat.ports);
        if !flat.custom.is_empty() {
            self.sum.custom = union(&self.sum.custom, &flat.custom);
        }
    }
}

fn union(a: &Custom, b: &Custom) -> Custom {
    let mut out = a.clone();
    for (name, q) in b.scalars() {
        let mut sum = a.scalar(name);
        sum.0 = sum.0.saturating_add(q.0);
        out.set_scalar(name, sum);
    }
    for (name, r) in b.ranges() {
        let old = a.ranges().find(|(n, _)| *n == name);
        let sum = old.map_or_else(RangeSet::new, |(_, r)| r.clone()).union(r);
        out.set_ranges(name, sum);
    }
    for (name, s) in b.sets() {
        let old = a.sets().find(|(n, _)| *n == name);
        let mut sum: BTreeSet<String> = old.map(|(_, s)| s.clone()).unwrap_or_default();
        sum.extend(s.iter().cloned());
        out.set_items(name, sum);
    }
    out
}
