//! What frameworks ask for by role, and what operators set for roles.

use std::collections::BTreeMap;

use crate::{FieldError, Milli, Resources};

/// Longest role, in bytes.
const MAX_ROLE: usize = 200;
/// Deepest role, counted in components.
pub const MAX_ROLE_DEPTH: usize = 8;

/// Mesos's rules for role names (roles.cpp `validate`), stricter in the characters of a component, and a bound
/// on length and depth. `*` is the default role.
pub fn check_role(role: &str) -> Result<(), FieldError> {
    let segment = |s: &str| {
        let of = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !s.is_empty() && s != "." && s != ".." && !s.starts_with('-') && s.chars().all(of)
    };
    let depth = role.split('/').count();
    if role == "*" {
        return Ok(());
    }
    if role.len() > MAX_ROLE || depth > MAX_ROLE_DEPTH || !role.split('/').all(segment) {
        let rule = format!(
            "must be * or a path of at most {MAX_ROLE_DEPTH} names ([A-Za-z0-9._-], not beginning with -) and \
             {MAX_ROLE} characters, is {role:.80?}"
        );
        return Err(FieldError::new("role", rule));
    }
    Ok(())
}

/// What a framework can handle. The default is Mesos's: none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// It is offered agents with GPUs.
    pub gpus: bool,
    /// It is offered agents of other regions.
    pub region_aware: bool,
    /// It is offered what is reserved for idle roles, until they want it back.
    pub revocable: bool,
}

/// Where a machine stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Domain {
    /// `eu-1`: what is far apart.
    pub region: String,
    /// `eu-1a`: what fails together.
    pub zone: String,
}

/// What an offer constraint looks at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// An attribute by name.
    Attribute(String),
    /// The agent's host name.
    Hostname,
    /// The region of its domain.
    Region,
    /// The zone of its domain.
    Zone,
}

/// What it asks of the text found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Predicate {
    /// It is there.
    Exists,
    /// It is not there.
    NotExists,
    /// It is there and equal.
    TextEquals(String),
    /// It is missing or different.
    TextNotEquals(String),
    /// It is there and all of it matches the pattern.
    TextMatches(String),
    /// It is missing or does not match.
    TextNotMatches(String),
}

/// One constraint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeConstraint {
    /// What it looks at.
    pub selector: Selector,
    /// What it asks.
    pub predicate: Predicate,
}

/// Offer constraints of one role of a framework: an agent fits if all constraints of some group hold, or
/// if there is no group.
pub type OfferConstraints = Vec<Vec<AttributeConstraint>>;

/// One role of a framework.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoleSubscription {
    /// `*` or a path: `a/b`.
    pub role: String,
    /// Send nothing until it revives.
    pub suppressed: bool,
    /// Agents that it is not interested in.
    pub constraints: OfferConstraints,
    /// The smallest bundle that is of use; nothing smaller is offered.
    pub smallest: Option<Resources>,
}

impl RoleSubscription {
    /// Everything of a role.
    pub fn new(role: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            ..Self::default()
        }
    }
}

/// What a role is promised and at most gets, by name of the kind: `cpus`, `mem` in MiB, a custom scalar.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Quota {
    /// Held back for it; a kind that is missing is promised nothing of.
    pub guarantee: BTreeMap<String, Milli>,
    /// Never exceeded; a kind that is missing has no limit.
    pub limit: BTreeMap<String, Milli>,
}

impl Quota {
    /// Whether it promises and limits nothing: setting it removes a quota.
    pub fn is_empty(&self) -> bool {
        self.limit.is_empty() && self.guarantee.values().all(|q| q.0 == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_names_have_rules() {
        for role in ["*", "a", "eng/batch", "a.b_c", "1/2/3/4/5/6/7/8"] {
            assert_eq!(check_role(role), Ok(()), "{role}");
        }
        let long = "x".repeat(201);
        for role in [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/.",
            "-a",
            "a b",
            "a/*",
            "**",
            "1/2/3/4/5/6/7/8/9",
            &long,
        ] {
            assert_eq!(check_role(role).unwrap_err().field, "role", "{role}");
        }
    }
}
