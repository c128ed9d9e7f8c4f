//! Whose resources are: reservations, parts, what agents reserve by themselves, and where they stand.

use waggle_types::{
    Domain, MAX_ROLE_DEPTH, RejectReason, Reservation, ResourcePart, Resources, check_role,
    sum_parts,
};

use super::size::cut;
use super::{ConvertError, at_most, each, required};
use crate::proto::session as pb;

/// Most parts of one bundle: each reservation of an agent twice (owned and lent), and some.
pub const MAX_PARTS: usize = 1024;
/// Most roles that an agent reserves for by itself.
pub const MAX_STATIC: usize = 256;
/// Most labels of one reservation.
const MAX_LABELS: usize = 64;
/// Longest key or value of a label, longest principal, longest name of a region or zone, in bytes.
const MAX_TEXT: usize = 1024;

fn text(field: &str, s: &str) -> Result<(), ConvertError> {
    if s.len() > MAX_TEXT {
        let rule = format!("must be at most {MAX_TEXT} bytes, is {}", s.len());
        return Err(ConvertError::new(field, rule));
    }
    Ok(())
}

impl TryFrom<pb::Reservation> for Reservation {
    type Error = ConvertError;

    fn try_from(r: pb::Reservation) -> Result<Self, ConvertError> {
        check_role(&r.role).map_err(|e| ConvertError::new(e.field, e.rule))?;
        if r.role == "*" {
            let rule = "must not be *, which has what nobody has reserved";
            return Err(bad("role", rule));
        }
        text("principal", &r.principal)?;
        at_most("labels", r.labels.len(), MAX_LABELS)?;
        for (k, v) in &r.labels {
            text("labels", k)?;
            text("labels", v)?;
        }
        Ok(Self {
            role: r.role,
            dynamic: r.dynamic,
            principal: r.principal,
            labels: r.labels,
        })
    }
}

impl From<&Reservation> for pb::Reservation {
    fn from(r: &Reservation) -> Self {
        Self {
            role: r.role.clone(),
            dynamic: r.dynamic,
            principal: r.principal.clone(),
            labels: r.labels.clone(),
        }
    }
}

fn bad(field: impl Into<String>, rule: impl Into<String>) -> ConvertError {
    ConvertError::new(field, rule).because(RejectReason::BadReservation)
}

/// A stack that is not empty: each reservation refines the one before.
pub(super) fn stack(
    field: &str,
    given: Vec<pb::Reservation>,
) -> Result<Vec<Reservation>, ConvertError> {
    if given.is_empty() {
        return Err(bad(field, "must not be empty"));
    }
    if given.len() > MAX_ROLE_DEPTH {
        let rule = format!("must be at most {MAX_ROLE_DEPTH} deep, is {}", given.len());
        return Err(bad(field, rule));
    }
    let stack = each(field, given, Reservation::try_from)?;
    for (i, two) in stack.windows(2).enumerate() {
        let [above, r] = two else { continue };
        let below = r.role.strip_prefix(above.role.as_str());
        if !below.is_some_and(|rest| rest.starts_with('/')) {
            let rule = format!("must be below {}, is {}", above.role, r.role);
            return Err(bad(format!("{field}[{}].role", i + 1), rule));
        }
        if above.dynamic && !r.dynamic {
            let rule = "must be true, since it refines a dynamic reservation";
            return Err(bad(format!("{field}[{}].dynamic", i + 1), rule));
        }
    }
    Ok(stack)
}

pub(super) fn stack_message(stack: &[Reservation]) -> Vec<pb::Reservation> {
    stack.iter().map(Into::into).collect()
}

impl TryFrom<pb::ResourcePart> for ResourcePart {
    type Error = ConvertError;

    fn try_from(p: pb::ResourcePart) -> Result<Self, ConvertError> {
        Ok(Self {
            reservation: match p.reservation {
                none if none.is_empty() => Vec::new(),
                some => stack("reservation", some)?,
            },
            revocable: p.revocable,
            resources: required("resources", p.resources)?
                .try_into()
                .map_err(|e: ConvertError| e.within("resources"))?,
        })
    }
}

impl From<&ResourcePart> for pb::ResourcePart {
    fn from(p: &ResourcePart) -> Self {
        Self {
            reservation: stack_message(&p.reservation),
            revocable: p.revocable,
            resources: Some((&p.resources).into()),
        }
    }
}

/// Parts that make up `whole`, or none.
pub(super) fn parts(
    given: Vec<pb::ResourcePart>,
    whole: &Resources,
) -> Result<Vec<ResourcePart>, ConvertError> {
    if given.is_empty() {
        return Ok(Vec::new());
    }
    at_most("parts", given.len(), MAX_PARTS)?;
    let parts = each("parts", given, ResourcePart::try_from)?;
    match sum_parts(&parts) {
        Some(sum) if sum == *whole => Ok(parts),
        Some(sum) => {
            let rule = format!("must make up the resources: {sum} is not {whole}");
            Err(ConvertError::new("parts", short(rule)))
        }
        None => {
            let rule = "must add up: something is in two of them, or it is too much";
            Err(ConvertError::new("parts", rule))
        }
    }
}

/// Bundles can be long, errors not.
fn short(rule: String) -> String {
    cut(rule, 400)
}

/// What an agent reserves by itself: for each role once, together part of `total`.
pub(super) fn statics(
    given: Vec<pb::StaticReservation>,
    total: &Resources,
) -> Result<Vec<(String, Resources)>, ConvertError> {
    at_most("reserved", given.len(), MAX_STATIC)?;
    let all = each("reserved", given, |s| {
        let r = pb::Reservation {
            role: s.role,
            ..pb::Reservation::default()
        };
        let resources: Resources = required("resources", s.resources)?
            .try_into()
            .map_err(|e: ConvertError| e.within("resources"))?;
        Ok((Reservation::try_from(r)?.role, resources))
    })?;
    let mut sum = Resources::default();
    for (i, (role, resources)) in all.iter().enumerate() {
        if all[..i].iter().any(|(other, _)| other == role) {
            let rule = format!("must be named once, is {role:?}");
            return Err(bad(format!("reserved[{i}].role"), rule));
        }
        let added = sum.try_add(resources).filter(|()| total.contains(&sum));
        if added.is_none() {
            let rule = format!("must be part of the total, {resources} is not left of it");
            return Err(bad(format!("reserved[{i}].resources"), short(rule)));
        }
    }
    Ok(all)
}

pub(super) fn statics_message(all: &[(String, Resources)]) -> Vec<pb::StaticReservation> {
    all.iter()
        .map(|(role, resources)| pb::StaticReservation {
            role: role.clone(),
            resources: Some(resources.into()),
        })
        .collect()
}

impl TryFrom<pb::Domain> for Domain {
    type Error = ConvertError;

    fn try_from(d: pb::Domain) -> Result<Self, ConvertError> {
        for (field, value) in [("region", &d.region), ("zone", &d.zone)] {
            if value.is_empty() {
                return Err(ConvertError::new(field, "must not be empty"));
            }
            text(field, value)?;
        }
        Ok(Self {
            region: d.region,
            zone: d.zone,
        })
    }
}

impl From<&Domain> for pb::Domain {
    fn from(d: &Domain) -> Self {
        Self {
            region: d.region.clone(),
            zone: d.zone.clone(),
        }
    }
}

/// A domain that may be missing.
pub(super) fn domain(d: Option<pb::Domain>) -> Result<Option<Domain>, ConvertError> {
    d.map(|d| Domain::try_from(d).map_err(|e| e.within("domain")))
        .transpose()
}
