//! A node that encrypts: the device and its peers, the programs that let nothing pass in clear, and how others are reached then.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use waggle_ebpf::{
    LoadError,
    overlay::{OverlayPlane, Reach, Role},
};
use waggle_overlay_plan::{
    network::NodePlan,
    wireguard::{Excluded, WireguardPlan},
};

use super::{OverlayError, steps::Underlay};
use crate::wireguard::Wireguard;

/// How far encryption is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sealing {
    /// The device that encrypts; `None` where it could not be made or the programs beside it are not there: nobody is reached.
    pub(super) device: Option<u32>,
    /// Nodes that have an encrypted way.
    nodes: BTreeSet<Ipv4Addr>,
}

impl Sealing {
    /// By the kernel's device, whose packets a rule leads into the one that encrypts; or not at all.
    pub(super) fn reach(&self, node: Ipv4Addr) -> Reach {
        if self.device.is_some() && self.nodes.contains(&node) {
            Reach::Slow
        } else {
            Reach::Down
        }
    }
}

/// Brings encryption to a plan, before anything is sent by it. `None`: this node does not encrypt, and nothing is left of what
/// did.
pub(super) fn converge(
    (encryption, ways): (Option<&Arc<Wireguard>>, &mut WireguardPlan),
    (plan, underlay): (&NodePlan, Underlay),
    plane: &OverlayPlane,
    errors: &mut Vec<OverlayError>,
) -> Option<Sealing> {
    let Some(encryption) = encryption else {
        note(attach(plane, None), errors);
        return None;
    };
    let keys: Vec<_> = plan.keys.iter().copied().collect();
    let wanted = encryption.plan(&keys);
    tell(&ways.excluded, &wanted.excluded);
    let nodes = wanted.peers.values().map(|peer| peer.node).collect();
    let synced = encryption.sync(plan.vxlan.port, underlay.link.mtu, &wanted);
    *ways = wanted;
    let mut sealing = Sealing {
        device: None,
        nodes,
    };
    match synced {
        Ok(device) => {
            if note(attach(plane, Some((device, underlay.link.index))), errors) {
                sealing.device = Some(device);
            }
        }
        Err(error) => errors.push(error.into()),
    }
    Some(sealing)
}

/// Each node once, when it has lost its way or found one.
fn tell(before: &BTreeMap<Ipv4Addr, Excluded>, now: &BTreeMap<Ipv4Addr, Excluded>) {
    for (node, why) in now {
        if before.get(node) != Some(why) {
            tracing::warn!(%node, ?why, "no encrypted way to a node, so none at all");
        }
    }
    for node in before.keys().filter(|node| !now.contains_key(node)) {
        tracing::info!(%node, "a node that had no encrypted way has one, or is gone");
    }
}

/// Puts the programs on the device that encrypts and on the underlay, and takes them off others; off all, without.
fn attach(plane: &OverlayPlane, places: Option<(u32, u32)>) -> Result<(), LoadError> {
    let attached = plane.attached()?;
    let wanted = |role| match (role, places) {
        (Role::Sealing, Some((device, _))) => Some(device),
        (Role::SealedUnderlay, Some((_, underlay))) => Some(underlay),
        _ => None,
    };
    for role in [Role::SealedUnderlay, Role::Sealing] {
        // Every time: what somebody has taken off is on again, and what is there costs a system call.
        if let Some(index) = wanted(role) {
            plane.attach(role, index)?;
        }
        let has = attached.iter().filter(|(_, roles)| roles.contains(&role));
        for (index, _) in has.filter(|(index, _)| Some(**index) != wanted(role)) {
            plane.detach_role(role, *index)?;
        }
    }
    Ok(())
}

fn note(done: Result<(), LoadError>, errors: &mut Vec<OverlayError>) -> bool {
    match done {
        Ok(()) => true,
        Err(error) => {
            errors.push(error.into());
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_reached_past_the_device_that_encrypts() {
        let [known, unknown] = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)];
        let mut sealing = Sealing {
            device: Some(7),
            nodes: BTreeSet::from([known]),
        };
        assert_eq!(sealing.reach(known), Reach::Slow);
        assert_eq!(sealing.reach(unknown), Reach::Down);
        sealing.device = None;
        assert_eq!(sealing.reach(known), Reach::Down);
    }
}
