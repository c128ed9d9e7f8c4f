//! Instances that are started in place of one that ended by itself: counted, not decided.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{TaskId, TaskSpec};

/// Pods' instances that are remembered as counted; the oldest knowledge is thrown away with all of it.
const MAX_GROUPS: usize = 1024;

/// What has ended and has no successor yet, by service. A definition that is put anew begins anew.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    owed: BTreeMap<String, u32>,
    // A pod's instance is several tasks, and one restart.
    ended: BTreeSet<TaskId>,
    begun: Option<TaskId>,
}

impl Restarts {
    /// A task of a service ended, and nobody had asked for it; a pod's is of a group.
    pub(super) fn ended(&mut self, service: &str, group: Option<&TaskId>) {
        if let Some(group) = group {
            if self.ended.len() >= MAX_GROUPS {
                self.ended.clear();
            }
            if !self.ended.insert(group.clone()) {
                return;
            }
        }
        let owed = self.owed.entry(service.to_owned()).or_default();
        *owed = owed.saturating_add(1);
    }

    /// A task of a service is launched; whether that is in place of one that ended.
    pub(super) fn launched(&mut self, spec: &TaskSpec) -> bool {
        let group = spec.executor.as_ref().and_then(|on| on.group.as_ref());
        if group.is_some() && group == self.begun.as_ref() {
            return false;
        }
        self.begun = group.cloned();
        let Some(owed) = self.owed.get_mut(&spec.service) else {
            return false;
        };
        *owed -= 1;
        if *owed == 0 {
            self.owed.remove(&spec.service);
        }
        true
    }

    /// A service is changed, or gone: what is launched now is the change's.
    pub(super) fn forget(&mut self, service: &str) {
        self.owed.remove(service);
    }
}
