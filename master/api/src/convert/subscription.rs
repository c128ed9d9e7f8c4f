//! Who subscribes: roles with their constraints, and capabilities.

use std::sync::Arc;

use waggle_types::{
    AttributeConstraint, Capabilities, FrameworkId, FrameworkInfo, MAX_ROLES, Millis, Predicate,
    RoleSubscription, Selector,
};

use super::{ConvertError, at_most, each, id, required, smallest};
use crate::proto::framework as pb;

/// Most offer constraints of one subscription, in all groups of all roles: each is asked of each agent.
pub const MAX_CONSTRAINTS: usize = 64;
/// Longest attribute name, text or pattern, in bytes.
const MAX_TEXT: usize = 1024;

impl TryFrom<pb::SubscribeRequest> for FrameworkInfo {
    type Error = ConvertError;

    fn try_from(s: pb::SubscribeRequest) -> Result<Self, ConvertError> {
        let out = Self {
            id: match s.framework_id {
                none if none.is_empty() => None,
                some => Some(id("framework_id", some, FrameworkId::new)?),
            },
            name: s.name,
            roles: subscriptions(s.role, s.roles)?,
            capabilities: s.capabilities.map(Into::into).unwrap_or_default(),
            failover_timeout: Millis(s.failover_timeout_ms),
            about: Arc::default(),
        };
        out.check()
            .map_err(|e| ConvertError::new(e.field, e.rule))?;
        Ok(out)
    }
}

/// The roles as older frameworks name them (one, or none for `*`) or as newer ones do.
fn subscriptions(
    role: String,
    roles: Vec<pb::RoleSubscription>,
) -> Result<Vec<RoleSubscription>, ConvertError> {
    if roles.is_empty() {
        let role = if role.is_empty() { "*".into() } else { role };
        return Ok(vec![RoleSubscription::new(role)]);
    }
    let same = matches!(roles.as_slice(), [only] if only.role == role);
    if !role.is_empty() && !same {
        let rule = format!("must be empty or the only one of roles, is {role:.80?}");
        return Err(ConvertError::new("role", rule));
    }
    at_most("roles", roles.len(), MAX_ROLES)?;
    let groups = roles.iter().flat_map(|r| &r.constraints);
    // An empty group counts too, or there could be any number of them.
    let n = groups.map(|g| g.constraints.len().max(1)).sum();
    at_most("roles", n, MAX_CONSTRAINTS)
        .map_err(|e| ConvertError::new(e.field, format!("constraints {}", e.rule)))?;
    each("roles", roles, RoleSubscription::try_from)
}

impl From<&FrameworkInfo> for pb::SubscribeRequest {
    fn from(f: &FrameworkInfo) -> Self {
        Self {
            framework_id: f.id.as_ref().map(ToString::to_string).unwrap_or_default(),
            name: f.name.clone(),
            // An older master reads this alone.
            role: match f.roles.as_slice() {
                [only] => only.role.clone(),
                _ => String::new(),
            },
            failover_timeout_ms: f.failover_timeout.0,
            roles: f.roles.iter().map(Into::into).collect(),
            capabilities: Some(f.capabilities.into()),
        }
    }
}

impl TryFrom<pb::RoleSubscription> for RoleSubscription {
    type Error = ConvertError;

    fn try_from(r: pb::RoleSubscription) -> Result<Self, ConvertError> {
        Ok(Self {
            role: r.role,
            suppressed: r.suppressed,
            constraints: each("constraints", r.constraints, |g| {
                each("constraints", g.constraints, AttributeConstraint::try_from)
            })?,
            smallest: smallest(r.smallest)?,
        })
    }
}

impl From<&RoleSubscription> for pb::RoleSubscription {
    fn from(r: &RoleSubscription) -> Self {
        let group = |g: &Vec<AttributeConstraint>| pb::ConstraintGroup {
            constraints: g.iter().map(Into::into).collect(),
        };
        Self {
            role: r.role.clone(),
            suppressed: r.suppressed,
            constraints: r.constraints.iter().map(group).collect(),
            smallest: r.smallest.as_ref().map(Into::into),
        }
    }
}

fn text(field: &str, text: String) -> Result<String, ConvertError> {
    if text.len() > MAX_TEXT {
        let rule = format!("must be at most {MAX_TEXT} bytes, is {}", text.len());
        return Err(ConvertError::new(field, rule));
    }
    Ok(text)
}

impl TryFrom<pb::AttributeConstraint> for AttributeConstraint {
    type Error = ConvertError;

    fn try_from(c: pb::AttributeConstraint) -> Result<Self, ConvertError> {
        use pb::attribute_constraint::{Predicate as P, Selector as S};
        let selector = match required("selector", c.selector)? {
            S::Attribute(name) if name.is_empty() => {
                return Err(ConvertError::new("attribute", "must not be empty"));
            }
            S::Attribute(name) => Selector::Attribute(text("attribute", name)?),
            S::Pseudo(value) => match pb::PseudoAttribute::try_from(value) {
                Ok(pb::PseudoAttribute::PseudoHostname) => Selector::Hostname,
                Ok(pb::PseudoAttribute::PseudoRegion) => Selector::Region,
                Ok(pb::PseudoAttribute::PseudoZone) => Selector::Zone,
                Ok(pb::PseudoAttribute::PseudoUnspecified) | Err(_) => {
                    let rule = format!("must be hostname, region or zone, is {value}");
                    return Err(ConvertError::new("pseudo", rule));
                }
            },
        };
        let predicate = match required("predicate", c.predicate)? {
            P::Exists(true) => Predicate::Exists,
            P::Exists(false) => Predicate::NotExists,
            P::TextEquals(t) => Predicate::TextEquals(text("text_equals", t)?),
            P::TextNotEquals(t) => Predicate::TextNotEquals(text("text_not_equals", t)?),
            P::TextMatches(t) => Predicate::TextMatches(text("text_matches", t)?),
            P::TextNotMatches(t) => Predicate::TextNotMatches(text("text_not_matches", t)?),
        };
        Ok(Self {
            selector,
            predicate,
        })
    }
}

impl From<&AttributeConstraint> for pb::AttributeConstraint {
    fn from(c: &AttributeConstraint) -> Self {
        use pb::attribute_constraint::{Predicate as P, Selector as S};
        let pseudo = |p: pb::PseudoAttribute| S::Pseudo(p.into());
        Self {
            selector: Some(match &c.selector {
                Selector::Attribute(name) => S::Attribute(name.clone()),
                Selector::Hostname => pseudo(pb::PseudoAttribute::PseudoHostname),
                Selector::Region => pseudo(pb::PseudoAttribute::PseudoRegion),
                Selector::Zone => pseudo(pb::PseudoAttribute::PseudoZone),
            }),
            predicate: Some(match &c.predicate {
                Predicate::Exists => P::Exists(true),
                Predicate::NotExists => P::Exists(false),
                Predicate::TextEquals(t) => P::TextEquals(t.clone()),
                Predicate::TextNotEquals(t) => P::TextNotEquals(t.clone()),
                Predicate::TextMatches(t) => P::TextMatches(t.clone()),
                Predicate::TextNotMatches(t) => P::TextNotMatches(t.clone()),
            }),
        }
    }
}

impl From<pb::Capabilities> for Capabilities {
    fn from(c: pb::Capabilities) -> Self {
        Self {
            gpus: c.gpus,
            region_aware: c.region_aware,
            revocable: c.revocable,
        }
    }
}

impl From<Capabilities> for pb::Capabilities {
    fn from(c: Capabilities) -> Self {
        Self {
            gpus: c.gpus,
            region_aware: c.region_aware,
            revocable: c.revocable,
        }
    }
}
