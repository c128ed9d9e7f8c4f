//! Where frameworks of Mesos's API mount their persistent volumes.
//!
//! To Mesos the path belongs to the volume and comes back in every offer of it; here it belongs to the task. So it
//! is kept beside the volumes, for them alone.

use std::{collections::BTreeMap, sync::Arc};

use waggle_types::{AgentId, VolumeId};

use super::{MasterCore, stored};
use crate::store::MAX_VALUE_BYTES;

/// Volumes of one agent whose path is kept; of more the name is the path.
const MAX_PER_AGENT: usize = 1024;
/// Longest path that is kept, in bytes.
const MAX_PATH: usize = 256;
/// Most bytes of an entry beside its path: a volume's id and what is between them.
const ENTRY: usize = 206;
// An agent's are one value of the store; JSON writes six bytes for some.
const _: () = assert!(MAX_PER_AGENT * (6 * MAX_PATH + ENTRY) < MAX_VALUE_BYTES);

/// By agent and volume.
pub type MountPaths = BTreeMap<AgentId, BTreeMap<String, String>>;

/// Shared with views until it changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Mounts(Arc<MountPaths>);

impl Mounts {
    pub(super) fn new(restored: MountPaths) -> Self {
        Self(Arc::new(restored))
    }

    pub(super) fn show(&self) -> Arc<MountPaths> {
        Arc::clone(&self.0)
    }
}

impl MasterCore {
    /// Nothing is on the agent any more.
    pub(super) fn forget_mounts(&mut self, agent: &AgentId) {
        if Arc::make_mut(&mut self.mounts.0).remove(agent).is_some() {
            let op = stored::put_mounts(agent, &BTreeMap::new());
            self.persist(vec![op]);
        }
    }

    /// Keeps the paths of those of these volumes that there are; those of volumes that are gone are forgotten, and what
    /// there is no room for is counted as a `mount_path` that was refused.
    pub(super) fn note_mounts(&mut self, agent: &AgentId, new: BTreeMap<VolumeId, String>) {
        if new.is_empty() {
            return;
        }
        let total = self.allocator.total(agent).cloned().unwrap_or_default();
        let there = |id: &str| total.custom.volumes().any(|(v, _)| v.as_str() == id);
        let all = Arc::make_mut(&mut self.mounts.0);
        let of = all.entry(agent.clone()).or_default();
        of.retain(|id, _| there(id));
        let mut n_refused = 0;
        for (id, path) in new.into_iter().filter(|(id, _)| there(id.as_str())) {
            if of.len() < MAX_PER_AGENT && path.len() <= MAX_PATH {
                of.insert(id.to_string(), path);
            } else {
                n_refused += 1;
            }
        }
        let op = stored::put_mounts(agent, of);
        self.persist(vec![op]);
        for _ in 0..n_refused {
            self.reject("mount_path");
        }
    }
}
