//! Does an offer fit an instance, and if not, why.

use std::{collections::BTreeSet, fmt};

use waggle_types::{Offer, PortDefinition, PortMapping, PortSet, ScalarKind, ServiceSpec};

use crate::{Place, constraints::Taken, ids::mix};

/// Why an offer was not used; names are those of Marathon's `processedOffersSummary`, in its order of checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeclineReason {
    /// Allocated to a role that the service does not accept.
    UnfulfilledRole,
    /// A placement constraint is not met there.
    UnfulfilledConstraint,
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

/// Host ports for one instance of the service on this offer, or the first demand that is not met.
pub(crate) fn fit(
    spec: &ServiceSpec,
    offer: &Offer,
    place: &Place,
    taken: Option<&Taken<'_>>,
    seed: u64,
) -> Result<Vec<u16>, DeclineReason> {
    // Constraints that do not parse were refused at the door; if they are here, no place meets them.
    if !taken.is_some_and(|t| t.allow(place)) {
        return Err(DeclineReason::UnfulfilledConstraint);
    }
    for kind in ScalarKind::ALL {
        if offer.resources.get(kind) < spec.resources.get(kind) {
            return Err(match kind {
                ScalarKind::Cpus => DeclineReason::InsufficientCpus,
                ScalarKind::Mem => DeclineReason::InsufficientMemory,
                ScalarKind::Disk => DeclineReason::InsufficientDisk,
                ScalarKind::Gpus => DeclineReason::InsufficientGpus,
            });
        }
    }
    assign_ports(spec, &offer.resources.ports, seed).ok_or(DeclineReason::InsufficientPorts)
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
fn assign_ports(spec: &ServiceSpec, offered: &PortSet, seed: u64) -> Option<Vec<u16>> {
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
