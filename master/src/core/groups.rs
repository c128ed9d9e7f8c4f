//! Groups: many services changed at once, and their older versions.

use std::sync::Arc;

use waggle_services::{DeploymentPlan, GroupDependencies, Tree, TreeChange};
use waggle_types::{GroupId, GroupUpdate, ServiceSpec, ServiceVersion, UnixMillis};

use super::{MasterCore, change::Wanted, deployments::New, history::Past};
use crate::{error::MasterError, handle::Deployment};

/// A change of many services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeRequest {
    /// Define or change these; of two of one id the later counts.
    Services(Vec<ServiceSpec>),
    /// Make a group that is not there.
    Create(GroupUpdate),
    /// Make a group, or make it another.
    Update(GroupUpdate),
    /// Every service of the group with its instances times this, in millionths, rounded up.
    Scale {
        /// The group.
        id: GroupId,
        /// The factor.
        millionths: u64,
    },
    /// Back to an older version of the group.
    Version {
        /// The group.
        id: GroupId,
        /// Which.
        version: ServiceVersion,
    },
    /// Remove the group with all that is in it.
    Remove(GroupId),
}

/// A question about a group's past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupQuery {
    /// Which versions are kept?
    Versions(GroupId),
    /// What was it then?
    At(GroupId, ServiceVersion),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupAnswer {
    /// To [`GroupQuery::Versions`]: newest first.
    Versions(Vec<ServiceVersion>),
    /// To [`GroupQuery::At`].
    At {
        /// Its services, directly or not.
        services: Vec<Arc<ServiceSpec>>,
        /// Its groups that were there by themselves, itself included.
        groups: GroupDependencies,
    },
}

impl TreeRequest {
    /// The group that it is about.
    pub(super) fn group(&self) -> GroupId {
        match self {
            Self::Services(specs) => common(specs.iter().map(|s| GroupId::of(&s.id))),
            Self::Create(update) | Self::Update(update) => update.id.clone(),
            Self::Scale { id, .. } | Self::Version { id, .. } | Self::Remove(id) => id.clone(),
        }
    }
}

/// The smallest group that holds, or is, all of these.
pub(super) fn common(groups: impl IntoIterator<Item = GroupId>) -> GroupId {
    let both = |a: GroupId, b: GroupId| {
        let mut up = a;
        while up != b && !up.holds(b.as_str()) {
            match up.parent() {
                Some(parent) => up = parent,
                None => break,
            }
        }
        up
    };
    let all = groups.into_iter().reduce(both);
    all.unwrap_or_else(GroupId::root)
}

impl MasterCore {
    pub(super) fn change_tree(
        &mut self,
        request: TreeRequest,
        force: bool,
        new: New,
        now: UnixMillis,
    ) -> Result<Deployment, MasterError> {
        let wanted = Wanted::of(self.tree_change(request)?);
        self.change(&wanted, force, new, now)
    }

    pub(super) fn plan_tree(
        &self,
        request: TreeRequest,
        force: bool,
        now: UnixMillis,
    ) -> Result<DeploymentPlan, MasterError> {
        let wanted = Wanted::of(self.tree_change(request)?);
        self.dry_run(&wanted, force, now)
    }

    pub(super) fn ask_group(&self, query: &GroupQuery) -> Result<GroupAnswer, MasterError> {
        match query {
            GroupQuery::Versions(id) => {
                self.check_group(id)?;
                let all = self.history.of(id, &self.present(), &self.versions);
                Ok(GroupAnswer::Versions(all))
            }
            GroupQuery::At(id, version) => {
                let past = self.past(id, *version)?;
                let within = |g: &GroupId| g == id || id.holds(g.as_str());
                Ok(GroupAnswer::At {
                    services: past.tree().services_in(id).cloned().collect(),
                    groups: past.groups.into_iter().filter(|(g, _)| within(g)).collect(),
                })
            }
        }
    }

    fn tree_change(&self, request: TreeRequest) -> Result<TreeChange, MasterError> {
        let tree = self.tree();
        Ok(match request {
            TreeRequest::Services(specs) => TreeChange {
                puts: specs.into_iter().map(|s| (s.id.clone(), s)).collect(),
                ..TreeChange::default()
            },
            TreeRequest::Create(update) => {
                if tree.has_group(&update.id) {
                    return Err(MasterError::GroupExists(update.id));
                }
                tree.update(update)
            }
            TreeRequest::Update(update) => tree.update(update),
            TreeRequest::Scale { id, millionths } => {
                self.check_group(&id)?;
                tree.scale(&id, millionths)
            }
            TreeRequest::Version { id, version } => {
                let past = self.past(&id, version)?;
                tree.back_to(&id, past.tree())
            }
            TreeRequest::Remove(id) => {
                self.check_group(&id)?;
                tree.removal(&id)
            }
        })
    }

    fn tree(&self) -> Tree<'_> {
        Tree {
            services: &self.services,
            groups: &self.groups,
        }
    }

    fn check_group(&self, id: &GroupId) -> Result<(), MasterError> {
        if self.tree().has_group(id) {
            Ok(())
        } else {
            Err(MasterError::NoSuchGroup(id.clone()))
        }
    }

    fn present(&self) -> Past {
        Past {
            services: self.services.clone(),
            groups: self.groups.clone(),
        }
    }

    /// The tree at a version at which the group was there.
    fn past(&self, id: &GroupId, version: ServiceVersion) -> Result<Past, MasterError> {
        let past = self.history.at(version, &self.present(), &self.versions);
        past.filter(|p| p.tree().has_group(id))
            .ok_or_else(|| MasterError::NoSuchGroupVersion {
                group: id.clone(),
                version,
            })
    }
}
