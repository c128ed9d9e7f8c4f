//! Whose answers must be known before they have them.

use std::{collections::BTreeSet, net::IpAddr};

use arc_swap::ArcSwap;

#[derive(Debug)]
enum Who {
    /// Nobody has said yet what the policies are, and they named names before.
    Everybody,
    Only(BTreeSet<IpAddr>),
}

/// Addresses of tasks whose policies name names. Reading takes no lock.
#[derive(Debug)]
pub struct Askers(ArcSwap<Who>);

impl Default for Askers {
    /// Nobody.
    fn default() -> Self {
        Self(ArcSwap::from_pointee(Who::Only(BTreeSet::new())))
    }
}

impl Askers {
    /// Whether this is one of them.
    pub fn has(&self, ip: IpAddr) -> bool {
        match &**self.0.load() {
            Who::Everybody => true,
            Who::Only(those) => those.contains(&ip),
        }
    }

    /// Whether nobody knows yet.
    pub(crate) fn are_unsaid(&self) -> bool {
        matches!(**self.0.load(), Who::Everybody)
    }

    /// It is not known whom policies are about.
    pub(crate) fn anybody(&self) {
        self.0.store(Who::Everybody.into());
    }

    pub(crate) fn only(&self, those: BTreeSet<IpAddr>) {
        self.0.store(Who::Only(those).into());
    }
}
