//! Whose resources are: reservations down the tree of roles, and parts of a bundle by them.

use std::collections::BTreeMap;

use crate::Resources;

/// One reservation of a stack. A stack is `[a]`, refined to `[a, a/b]`, and so on; the innermost role and
/// those below it may be offered what it holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reservation {
    /// For whom; not `*`.
    pub role: String,
    /// Made at run time; a static one is the agent's own and cannot be unreserved.
    pub dynamic: bool,
    /// Who made it.
    pub principal: String,
    /// Free text; reservations with different labels are different.
    pub labels: BTreeMap<String, String>,
}

impl Reservation {
    /// A dynamic reservation without labels.
    pub fn dynamic(role: impl Into<String>, principal: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            dynamic: true,
            principal: principal.into(),
            labels: BTreeMap::new(),
        }
    }
}

/// A part of an agent, of an offer or of what a task uses: resources of one reservation (or of none), owned or
/// lent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ResourcePart {
    /// Of which reservation, the whole stack; empty for unreserved resources.
    pub reservation: Vec<Reservation>,
    /// Lent from this reservation of another role: it may be taken back.
    pub revocable: bool,
    /// How much.
    pub resources: Resources,
}

impl ResourcePart {
    /// Unreserved resources.
    pub fn plain(resources: Resources) -> Self {
        Self {
            resources,
            ..Self::default()
        }
    }

    /// Whether it is neither reserved nor lent.
    pub fn is_plain(&self) -> bool {
        self.reservation.is_empty() && !self.revocable
    }
}

/// The sum of parts; `None` when they don't add up (a port in two of them, an overflow).
pub fn sum_parts(parts: &[ResourcePart]) -> Option<Resources> {
    let mut parts = parts.iter();
    parts.try_fold(Resources::default(), |sum, p| sum.checked_add(&p.resources))
}
