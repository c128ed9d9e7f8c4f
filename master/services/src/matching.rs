//! Does an offer fit an instance, and if not, why.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use waggle_types::{
    Milli, Offer, PortDefinition, PortMapping, PortSet, ResourcePart, Resources, ScalarKind,
    ServiceSpec,
};

use crate::{Rule, ids::mix, residency::is_home};

/// Why an offer was not used; names are those of Marathon's `processedOffersSummary`, in its order of checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeclineReason {
    /// Allocated to a role that the service does not accept.
    UnfulfilledRole,
    /// A placement constraint is not met there.
    UnfulfilledConstraint,
    /// What a resident instance reserved is not in it.
    NoCorrespondingReservationFound,
    /// Too few CPUs.
    InsufficientCpus,
    /// Too little memory.
    InsufficientMemory,
    /// Too little disk.
    InsufficientDisk,
    /// Too few GPUs.
    InsufficientGpus,
    /// Too few ports, or not the required ones.
    InsufficientPorts,
    /// It would fit, and nothing needs it.
    NoWaitingInstance,
}

impl DeclineReason {
    /// Marathon's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnfulfilledRole => "UnfulfilledRole",
            Self::UnfulfilledConstraint => "UnfulfilledConstraint",
            Self::NoCorrespondingReservationFound => "NoCorrespondingReservationFound",
            Self::InsufficientCpus => "InsufficientCpus",
            Self::InsufficientMemory => "InsufficientMemory",
            Self::InsufficientDisk => "InsufficientDisk",
            Self::InsufficientGpus => "InsufficientGpus",
            Self::InsufficientPorts => "InsufficientPorts",
            Self::NoWaitingInstance => "NoWaitingInstance",
        }
    }
}

impl fmt::Display for DeclineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An offer while it is being spent: `offer.resources` is what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOffer {
    /// The offer, reduced by what was launched on it.
    pub offer: Offer,
    /// Instances launched on it so far.
    pub n_launched: u32,
}

impl From<Offer> for OpenOffer {
    fn from(offer: Offer) -> Self {
        Self {
            offer,
            n_launched: 0,
        }
    }
}

/// A demand that is not met, and how much there was of what is too little.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unmet {
    pub rule: Rule,
    pub had: Milli,
}

impl From<Rule> for Unmet {
    fn from(rule: Rule) -> Self {
        Self {
            rule,
            had: Milli(0),
        }
    }
}

/// Whether a service that is not at home there may use a part of an offer.
fn acceptable(spec: &ServiceSpec, part: &ResourcePart) -> bool {
    match part.reservation.last() {
        _ if part.revocable => false,
        None => spec.roles.takes_unreserved(),
        // What is new is reserved of what nobody has.
        Some(_) if spec.residency.is_some() => false,
        Some(r) => spec.roles.takes_reserved() && !is_home(r),
    }
}

/// What of an offer a service may use.
pub(crate) fn usable<'a>(spec: &ServiceSpec, offer: &'a Offer) -> Cow<'a, Resources> {
    if offer.parts.is_empty() {
        return if spec.roles.takes_unreserved() {
            Cow::Borrowed(&offer.resources)
        } else {
            Cow::Owned(Resources::default())
        };
    }
    let mut sum = Resources::default();
    for part in offer.parts.iter().filter(|p| acceptable(spec, p)) {
        // Parts of one offer add up.
        sum.try_add(&part.resources);
    }
    Cow::Owned(sum)
}

/// Takes `need` out of what a service may use of an offer, reserved resources first; answers of which parts, none
/// when the offer has no reserved ones. Nothing is taken when it does not hold that much.
pub(crate) fn spend(
    spec: &ServiceSpec,
    offer: &mut Offer,
    need: &Resources,
) -> Option<Vec<ResourcePart>> {
    let rest = offer.resources.checked_sub(need)?;
    if offer.parts.is_empty() {
        offer.resources = rest;
        return Some(Vec::new());
    }
    let mut parts = offer.parts.clone();
    let taken = take(&mut parts, |p| acceptable(spec, p), need)?;
    parts.retain(|p| !p.resources.is_empty());
    (offer.resources, offer.parts) = (rest, parts);
    Some(taken)
}

/// Takes `need` out of those of `parts` that will do, reserved ones first; `None`, and what is left of them means
/// nothing, when they do not hold that much.
pub(crate) fn take(
    parts: &mut [ResourcePart],
    will_do: impl Fn(&ResourcePart) -> bool,
    need: &Resources,
) -> Option<Vec<ResourcePart>> {
    let (mut left, mut taken) = (need.clone(), Vec::new());
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|i| parts[*i].reservation.is_empty());
    for i in order {
        if left.is_empty() {
            break;
        }
        if !will_do(&parts[i]) {
            continue;
        }
        let take = parts[i].resources.common(&left);
        if take.is_empty() {
            continue;
        }
        left.try_sub(&take)?;
        parts[i].resources.try_sub(&take)?;
        taken.push(ResourcePart {
            resources: take,
            ..parts[i].clone()
        });
    }
    left.is_empty().then_some(taken)
}

/// Host ports for one instance of the service on this offer, or the first demand that is not met.
pub(crate) fn fit(spec: &ServiceSpec, offer: &Offer, seed: u64) -> Result<Vec<u16>, Unmet> {
    let usable = usable(spec, offer);
    let need = spec.with_volumes();
    for kind in ScalarKind::ALL {
        let (had, need) = (usable.get(kind), need.get(kind));
        if had < need {
            let rule = if offer.resources.get(kind) >= need {
                Rule::Role
            } else {
                Rule::Scalar(kind)
            };
            return Err(Unmet { rule, had });
        }
    }
    for (kind, need) in need.custom.scalars() {
        let had = usable.custom.scalar(kind);
        if had < need {
            let disk = kind.strip_prefix("disk.").unwrap_or(kind).to_owned();
            let rule = Rule::Disk(disk);
            return Err(Unmet { rule, had });
        }
    }
    assign_ports(spec, &usable.ports, seed).ok_or_else(|| Rule::Ports.into())
}

/// What one port asks of an offer.
enum Wanted {
    /// Nothing: it is reached inside only.
    None,
    /// Any port.
    Any,
    /// This one.
    This(u16),
}

impl Wanted {
    fn of(spec: &ServiceSpec, p: &PortDefinition) -> Self {
        let port = match p.mapping {
            None if spec.require_ports => p.port,
            None => 0,
            Some(PortMapping {
                host_port: None, ..
            }) => return Self::None,
            Some(PortMapping {
                host_port: Some(port),
                ..
            }) => port,
        };
        if port == 0 {
            Self::Any
        } else {
            Self::This(port)
        }
    }
}

/// Whether `host_port` is what the definition asks for.
pub(crate) fn is_wanted(spec: &ServiceSpec, p: &PortDefinition, host_port: u16) -> bool {
    match Wanted::of(spec, p) {
        Wanted::None => host_port == 0,
        Wanted::Any => host_port != 0,
        Wanted::This(port) => host_port == port,
    }
}

/// Required ports as they are; the others from the offer, beginning at a place that the seed picks, so that
/// a port that was just given up is not taken again at once. 0 where none is asked for.
pub(crate) fn assign_ports(spec: &ServiceSpec, offered: &PortSet, seed: u64) -> Option<Vec<u16>> {
    let wanted: Vec<Wanted> = spec.ports.iter().map(|p| Wanted::of(spec, p)).collect();
    let mut taken: BTreeSet<u16> = BTreeSet::new();
    for w in &wanted {
        if let Wanted::This(port) = w
            && (!offered.contains(*port) || !taken.insert(*port))
        {
            return None;
        }
    }
    let n = offered.len();
    let n_wanted = wanted.iter().filter(|w| !matches!(w, Wanted::None)).count();
    if n < n_wanted as u64 {
        return None;
    }
    let mut at = mix(seed) % n.max(1);
    let mut out = Vec::with_capacity(wanted.len());
    for w in wanted {
        match w {
            Wanted::None => out.push(0),
            Wanted::This(port) => out.push(port),
            Wanted::Any => {
                // At most `n` steps: there are as many ports as definitions, and each is taken once.
                let mut found = None;
                for _ in 0..n {
                    let port = offered.nth(at % n)?;
                    at = (at + 1) % n;
                    if taken.insert(port) {
                        found = Some(port);
                        break;
                    }
                }
                out.push(found?);
            }
        }
    }
    Some(out)
}

/// The ports of the agent among `host_ports`.
pub(crate) fn on_agent(host_ports: &[u16]) -> PortSet {
    PortSet::from_ports(host_ports.iter().copied().filter(|p| *p != 0))
}
