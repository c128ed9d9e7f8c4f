//! Groups: from what is wanted of a subtree to what that changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use waggle_types::{GroupId, GroupUpdate, ServiceId, ServiceSpec};

use crate::{GroupDependencies, Tree};

/// Millionths in one: factors are kept so.
pub const MILLION: u64 = 1_000_000;

/// What to change of many services and groups, all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TreeChange {
    /// Services that are new or have another definition. Their versions mean nothing yet.
    pub puts: BTreeMap<ServiceId, ServiceSpec>,
    /// Services that go.
    pub removes: BTreeSet<ServiceId>,
    /// Groups that are there by themselves with what they depend on; `None` for those that go.
    pub groups: BTreeMap<GroupId, Option<BTreeSet<ServiceId>>>,
}

impl TreeChange {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.removes.is_empty() && self.groups.is_empty()
    }
}

impl Tree<'_> {
    /// Whether a group is there: by itself, or because it holds something. The root always is.
    pub fn has_group(&self, id: &GroupId) -> bool {
        id.is_root()
            || self.groups.contains_key(id)
            || self.services_in(id).next().is_some()
            || self.groups_in(id).next().is_some()
    }

    /// What an update changes. Services whose definition stays the same are left out.
    pub fn update(&self, update: GroupUpdate) -> TreeChange {
        let mut change = TreeChange::default();
        self.update_into(update, &mut change);
        change
    }

    /// Every app of a group with its instances times a factor, in millionths, rounded up. Those whose number stays
    /// the same are left out, and so are pods, as in Marathon.
    pub fn scale(&self, id: &GroupId, millionths: u64) -> TreeChange {
        let apps = self.services_in(id).filter(|s| s.pod.is_none());
        let scaled = apps.filter_map(|spec| {
            let n = (u64::from(spec.instances).saturating_mul(millionths)).div_ceil(MILLION);
            let instances = u32::try_from(n).unwrap_or(u32::MAX);
            (instances != spec.instances).then(|| {
                let spec = ServiceSpec {
                    instances,
                    ..spec.as_ref().clone()
                };
                (spec.id.clone(), spec)
            })
        });
        TreeChange {
            puts: scaled.collect(),
            ..TreeChange::default()
        }
    }

    /// Everything of a group goes, itself included.
    pub fn removal(&self, id: &GroupId) -> TreeChange {
        let mut change = TreeChange::default();
        self.remove_into(id, &mut change);
        change
    }

    /// What makes a subtree as it is in another tree.
    pub fn back_to(&self, id: &GroupId, other: Tree<'_>) -> TreeChange {
        let mut change = TreeChange::default();
        for spec in self.services_in(id) {
            if !other.services.contains_key(&spec.id) {
                change.removes.insert(spec.id.clone());
            }
        }
        for spec in other.services_in(id) {
            if !self.is_same(spec) {
                change.puts.insert(spec.id.clone(), spec.as_ref().clone());
            }
        }
        let mine = self
            .groups
            .keys()
            .filter(|g| *g == id || id.holds(g.as_str()));
        let gone = mine.filter(|g| !other.groups.contains_key(*g));
        change.groups.extend(gone.map(|g| (g.clone(), None)));
        for (g, dependencies) in other.groups {
            let within = g == id || id.holds(g.as_str());
            if within && self.groups.get(g) != Some(dependencies) {
                change.groups.insert(g.clone(), Some(dependencies.clone()));
            }
        }
        change
    }

    /// Services of a group, directly or not.
    pub fn services_in<'a>(
        &'a self,
        id: &GroupId,
    ) -> impl Iterator<Item = &'a Arc<ServiceSpec>> + use<'a> {
        let prefix = id.prefix();
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let all = self.services.range::<str, _>(from);
        all.take_while(move |(id, _)| id.as_str().starts_with(&prefix))
            .map(|(_, spec)| spec)
    }

    fn groups_in(&self, id: &GroupId) -> impl Iterator<Item = &GroupId> {
        self.groups.keys().filter(|g| id.holds(g.as_str()))
    }

    /// Groups directly below one, by themselves or because they hold something.
    pub fn children(&self, id: &GroupId) -> BTreeSet<GroupId> {
        let of_services = self.services_in(id).map(|s| GroupId::of(&s.id));
        let of_groups = self.groups_in(id).cloned();
        of_services
            .chain(of_groups)
            .filter_map(|g| id.child_towards(g.as_str()))
            .collect()
    }

    fn update_into(&self, update: GroupUpdate, change: &mut TreeChange) {
        let GroupUpdate {
            id,
            services,
            pods,
            groups,
            dependencies,
        } = update;
        let known = self.groups.get(&id);
        let dependencies = dependencies.or_else(|| known.cloned()).unwrap_or_default();
        // The root is there in any case.
        let needed = !id.is_root() || !dependencies.is_empty() || known.is_some();
        if needed && known != Some(&dependencies) {
            change.groups.insert(id.clone(), Some(dependencies));
        }
        if let Some(services) = services {
            let direct = self.services_in(&id).filter(|s| GroupId::of(&s.id) == id);
            let apps = direct.filter(|s| s.pod.is_none());
            change.removes.extend(apps.map(|s| s.id.clone()));
            for spec in services {
                change.removes.remove(&spec.id);
                if !self.is_same(&spec) {
                    change.puts.insert(spec.id.clone(), spec);
                }
            }
        }
        for spec in pods {
            change.removes.remove(&spec.id);
            if !self.is_same(&spec) {
                change.puts.insert(spec.id.clone(), spec);
            }
        }
        if let Some(groups) = groups {
            let wanted: BTreeSet<&GroupId> = groups.iter().map(|g| &g.id).collect();
            let gone = self.children(&id);
            for g in gone.iter().filter(|g| !wanted.contains(g)) {
                self.remove_into(g, change);
            }
            for g in groups {
                self.update_into(g, change);
            }
        }
    }

    fn remove_into(&self, id: &GroupId, change: &mut TreeChange) {
        let services = self.services_in(id).map(|s| s.id.clone());
        change.removes.extend(services);
        let own = self.groups.contains_key(id).then(|| id.clone());
        let gone = own.into_iter().chain(self.groups_in(id).cloned());
        change.groups.extend(gone.map(|g| (g, None)));
    }

    /// Whether a service is defined just so.
    fn is_same(&self, spec: &ServiceSpec) -> bool {
        self.services.get(&spec.id).is_some_and(|old| {
            **old
                == ServiceSpec {
                    version: old.version,
                    ..spec.clone()
                }
        })
    }
}

/// What groups depend on after a change.
pub fn changed_groups(groups: &GroupDependencies, change: &TreeChange) -> GroupDependencies {
    let mut out = groups.clone();
    for (id, wanted) in &change.groups {
        match wanted {
            Some(dependencies) => out.insert(id.clone(), dependencies.clone()),
            None => out.remove(id),
        };
    }
    out
}
