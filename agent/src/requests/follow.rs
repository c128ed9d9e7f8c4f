//! Brings a table of the kernel's to those who are wanted in it.

use std::collections::BTreeSet;

use waggle_ebpf::LoadError;
use waggle_telemetry::{Telemetry, names};

use crate::net::chain;

/// What a table of cgroups has.
pub(super) struct Followed {
    map: &'static str,
    known: BTreeSet<u64>,
    /// Those for whom it was refused, which is said once.
    refused: BTreeSet<u64>,
}

impl Followed {
    /// An empty one, by the name of its map.
    pub(super) fn new(map: &'static str) -> Self {
        Self {
            map,
            known: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }

    /// What an earlier run has left in it.
    pub(super) fn adopt(&mut self, known: BTreeSet<u64>) {
        self.known = known;
    }

    /// Whether the kernel has it.
    pub(super) fn has(&self, cgroup_id: u64) -> bool {
        self.known.contains(&cgroup_id)
    }

    /// Brings it to who is wanted; what the kernel refuses is tried again at the next look.
    pub(super) fn look(
        &mut self,
        wanted: &BTreeSet<u64>,
        put: impl Fn(u64) -> Result<(), LoadError>,
        remove: impl Fn(u64) -> Result<(), LoadError>,
        telemetry: &Telemetry,
    ) {
        let map = self.map;
        self.known.retain(|cgroup_id| {
            wanted.contains(cgroup_id)
                || remove(*cgroup_id)
                    .inspect_err(|e| tracing::debug!(map, error = chain(e), "a task stays in it"))
                    .is_err()
        });
        self.refused.retain(|cgroup_id| wanted.contains(cgroup_id));
        for cgroup_id in wanted {
            if self.known.contains(cgroup_id) {
                continue;
            }
            match put(*cgroup_id) {
                Ok(()) => {
                    self.known.insert(*cgroup_id);
                    self.refused.remove(cgroup_id);
                }
                Err(e) => {
                    if self.refused.insert(*cgroup_id) {
                        self.refuse(*cgroup_id, &e, telemetry);
                    }
                }
            }
        }
    }

    fn refuse(&self, cgroup_id: u64, error: &LoadError, telemetry: &Telemetry) {
        let map = self.map;
        let kind = match error {
            LoadError::Full { .. } => "full",
            _ => "refused",
        };
        let attrs = [(names::MAP, map.into()), (names::ERROR_TYPE, kind.into())];
        telemetry.count(&names::EBPF_MAP_UPDATE_FAILURES, &attrs, 1);
        let error = chain(error);
        tracing::warn!(map, cgroup_id, error, "a task's requests are left out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(
        followed: &mut Followed,
        wanted: &[u64],
        refused: u64,
        telemetry: &Telemetry,
    ) -> Vec<u64> {
        let asked = std::cell::RefCell::new(Vec::new());
        let ask = |cgroup_id| {
            asked.borrow_mut().push(cgroup_id);
            let error = LoadError::Full { map: "IT" };
            (cgroup_id != refused).then_some(()).ok_or(error)
        };
        let wanted = wanted.iter().copied().collect();
        followed.look(&wanted, ask, ask, telemetry);
        asked.into_inner()
    }

    #[test]
    fn what_the_kernel_refuses_is_tried_again_and_counted_once() {
        let telemetry = Telemetry::disabled();
        let n_refused = || {
            let text = telemetry.prometheus_text();
            let mut lines = text.lines();
            let line = lines.find(|l| l.starts_with("waggle_ebpf_map_update_failures_total{"));
            let line = line.unwrap_or_default();
            assert!(line.is_empty() || line.contains("IT") && line.contains("full"));
            line.rsplit(' ').next().unwrap_or_default().to_owned()
        };
        let mut it = Followed::new("IT");
        it.adopt([1, 2, 3].into());
        let mut look = |wanted: &[u64], refused| {
            let asked = look(&mut it, wanted, refused, &telemetry);
            (asked, it.known.iter().copied().collect::<Vec<_>>())
        };
        assert_eq!(look(&[3, 4, 5], 4), (vec![1, 2, 4, 5], vec![3, 5]));
        assert_eq!(look(&[3, 4, 5], 4), (vec![4], vec![3, 5]));
        assert_eq!(n_refused(), "1");
        // 5 stays in it: that is no failure of a write.
        assert_eq!(look(&[4], 5), (vec![3, 5, 4], vec![4, 5]));
        assert_eq!(look(&[4], 0), (vec![5], vec![4]));
        assert_eq!(look(&[4], 0), (vec![], vec![4]));
        assert_eq!(n_refused(), "1");
        assert_eq!(look(&[], 0), (vec![4], vec![]));
        assert_eq!(look(&[4], 4), (vec![4], vec![]));
        assert_eq!(n_refused(), "2", "it had been in");
    }
}
