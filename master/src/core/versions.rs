//! Older definitions of each service: what a rollback goes back to.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use waggle_types::{ServiceId, ServiceSpec, ServiceVersion};

use super::stored;
use crate::store::StoreOp;

/// Definitions kept per service, the one in force included; the oldest of more are dropped.
pub const KEEP_VERSIONS: usize = 25;

/// Definitions by service, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Versions(BTreeMap<ServiceId, VecDeque<Arc<ServiceSpec>>>);

impl Versions {
    /// Takes a definition in its place; answers the deletions that keep the store as small. Writing it
    /// is the caller's.
    pub(super) fn note(&mut self, spec: &Arc<ServiceSpec>) -> Vec<StoreOp> {
        let kept = self.0.entry(spec.id.clone()).or_default();
        match kept.binary_search_by_key(&spec.version, |s| s.version) {
            Ok(at) => kept[at] = Arc::clone(spec),
            Err(at) => kept.insert(at, Arc::clone(spec)),
        }
        let surplus = kept.len().saturating_sub(KEEP_VERSIONS);
        kept.drain(..surplus)
            .map(|old| stored::delete_version(&old.id, old.version))
            .collect()
    }

    /// A definition, while it is kept.
    pub(super) fn get(&self, id: &ServiceId, version: ServiceVersion) -> Option<Arc<ServiceSpec>> {
        let kept = self.0.get(id)?;
        let at = kept.binary_search_by_key(&version, |s| s.version).ok()?;
        kept.get(at).cloned()
    }

    /// Every kept definition of a service, oldest first.
    pub(super) fn of(&self, id: &ServiceId) -> Vec<Arc<ServiceSpec>> {
        let kept = self.0.get(id);
        kept.map(|k| k.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// The newest kept definition of a service, which may be gone.
    pub(super) fn newest(&self, id: &ServiceId) -> Option<ServiceVersion> {
        self.0.get(id)?.back().map(|s| s.version)
    }

    /// Forgets the definitions of a service that `keep` does not want; answers the deletions.
    pub(super) fn forget_unless(
        &mut self,
        id: &ServiceId,
        keep: impl Fn(ServiceVersion) -> bool,
    ) -> Vec<StoreOp> {
        let Some(kept) = self.0.get_mut(id) else {
            return Vec::new();
        };
        let mut ops = Vec::new();
        kept.retain(|s| {
            let stays = keep(s.version);
            if !stays {
                ops.push(stored::delete_version(id, s.version));
            }
            stays
        });
        if kept.is_empty() {
            self.0.remove(id);
        }
        ops
    }

    /// Forgets definitions that `keep` does not want; answers the deletions.
    pub(super) fn drop_unless(
        &mut self,
        keep: impl Fn(&ServiceId, ServiceVersion) -> bool,
    ) -> Vec<StoreOp> {
        let ids: Vec<ServiceId> = self.0.keys().cloned().collect();
        ids.iter()
            .flat_map(|id| self.forget_unless(id, |v| keep(id, v)))
            .collect()
    }
}
