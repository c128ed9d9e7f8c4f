//! What was before each of the newest deployments: how groups go back to an older version.
//!
//! The tree of services and groups has a version, that of the newest deployment that changed it. Older ones are not
//! kept whole: each deployment leaves what it took the place of, and an older tree is today's with these undone. The
//! definitions that this needs are kept among the versions of their services, also of services that are gone.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use waggle_services::{GroupDependencies, Tree};
use waggle_types::{GroupId, ServiceId, ServiceVersion};

use super::{versions::Versions, vips::Services};

/// Deployments that can be undone; Marathon keeps as many versions of its tree.
pub const KEEP_RECORDS: usize = 50;

/// What a deployment took the place of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The tree's version with it.
    pub version: ServiceVersion,
    /// The tree's version before it.
    pub before: ServiceVersion,
    /// Definitions before it; `None` for services that were not there.
    pub services: BTreeMap<ServiceId, Option<ServiceVersion>>,
    /// What groups depended on before it; `None` for those that were not there by themselves.
    pub groups: BTreeMap<GroupId, Option<BTreeSet<ServiceId>>>,
}

/// Records, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct History(VecDeque<Arc<Record>>);

/// A tree as it was.
#[derive(Debug, Clone, Default)]
pub(super) struct Past {
    pub(super) services: Services,
    pub(super) groups: GroupDependencies,
}

impl Past {
    pub(super) fn tree(&self) -> Tree<'_> {
        Tree {
            services: &self.services,
            groups: &self.groups,
        }
    }
}

impl History {
    pub(super) fn restored(records: BTreeMap<ServiceVersion, Record>) -> Self {
        Self(records.into_values().map(Arc::new).collect())
    }

    /// The tree's version; that of no deployment when none is remembered.
    pub(super) fn newest(&self) -> ServiceVersion {
        self.0.back().map(|r| r.version).unwrap_or_default()
    }

    /// Takes a record; answers those that give way to it, the oldest, but for what is in flight and may be undone.
    pub(super) fn push(
        &mut self,
        record: Record,
        in_flight: &BTreeSet<ServiceVersion>,
    ) -> Vec<Arc<Record>> {
        self.0.push_back(Arc::new(record));
        let mut surplus = self.0.len().saturating_sub(KEEP_RECORDS);
        let mut gone = Vec::new();
        self.0.retain(|r| {
            let goes = surplus > 0 && !in_flight.contains(&r.version);
            if goes {
                surplus -= 1;
                gone.push(Arc::clone(r));
            }
            !goes
        });
        gone
    }

    /// Whether a definition is needed to undo something.
    pub(super) fn needs(&self, id: &ServiceId, version: ServiceVersion) -> bool {
        let mut records = self.0.iter();
        records.any(|r| r.services.get(id) == Some(&Some(version)))
    }

    /// The tree at a version; `None` if there was no such version, or not all of it is kept.
    pub(super) fn at(
        &self,
        version: ServiceVersion,
        now: &Past,
        versions: &Versions,
    ) -> Option<Past> {
        if version == self.newest() {
            return Some(now.clone());
        }
        let mut past = now.clone();
        for r in self.chain() {
            undo(r, &mut past, versions)?;
            if r.before == version {
                return Some(past);
            }
        }
        None
    }

    /// Versions at which a group became another, newest first, and the oldest that is known of it; as far back as all of
    /// the tree is kept.
    pub(super) fn of(&self, id: &GroupId, now: &Past, versions: &Versions) -> Vec<ServiceVersion> {
        let within = |path: &str| path == id.as_str() || id.holds(path);
        let changes = |r: &Record| {
            r.services.keys().any(|s| within(s.as_str()))
                || r.groups.keys().any(|g| within(g.as_str()))
        };
        let mut out = Vec::new();
        let mut past = now.clone();
        let mut oldest = self.newest();
        for r in self.chain() {
            if changes(r) && past.tree().has_group(id) {
                out.push(r.version);
            }
            if undo(r, &mut past, versions).is_none() {
                return out;
            }
            oldest = r.before;
        }
        if past.tree().has_group(id) {
            out.push(oldest);
        }
        out
    }

    /// Records from the newest back, for as long as each leads to the next.
    fn chain(&self) -> impl Iterator<Item = &Record> {
        let mut next = self.newest();
        self.0.iter().rev().map(AsRef::as_ref).take_while(move |r| {
            let leads = r.version == next;
            next = r.before;
            leads
        })
    }
}

/// Makes the tree what it was before a deployment; `None` when a definition is not kept.
fn undo(r: &Record, past: &mut Past, versions: &Versions) -> Option<()> {
    for (id, before) in &r.services {
        match before {
            Some(version) => {
                let spec = versions.get(id, *version)?;
                past.services.insert(id.clone(), spec);
            }
            None => {
                past.services.remove(id);
            }
        }
    }
    for (id, before) in &r.groups {
        match before {
            Some(dependencies) => past.groups.insert(id.clone(), dependencies.clone()),
            None => past.groups.remove(id),
        };
    }
    Some(())
}
