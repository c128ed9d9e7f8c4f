//! Resident instances: where they are at home, what is reserved for them there, and how it is given back.
//!
//! A home is a reservation on one agent, labelled with the instance's id, with the instance's volumes in it. What a
//! home is can be read off the reservation itself, so that nothing has to be remembered: offers bring it back, and so
//! does level 1's list after a restart.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{
    AgentId, Mount, MountSource, Offer, Operation, PodContainer, PodMount, Reservation,
    ResourcePart, Resources, ServiceId, ServiceSpec, TaskId, TaskLost, UnixMillis, Volume,
};

use crate::{
    Instance, OpenOffer, Place,
    matching::{assign_ports, on_agent},
};

/// Label of a reservation: the instance whose home it is, `shop_db.instance-<uuid>`.
const INSTANCE: &str = "waggle.instance";
/// Label of a reservation: the instance's service.
const SERVICE: &str = "waggle.service";

/// Where a resident instance is at home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The instance: `shop_db.instance-<uuid>`.
    pub id: String,
    /// Where.
    pub place: Place,
    /// Since when it is empty, or was made.
    pub since: UnixMillis,
    /// It is given back once its task has ended.
    pub doomed: bool,
    /// Its agent has not spoken of it yet: it may be that it was never made.
    pub fresh: bool,
}

/// Whether a reservation is a home.
pub(crate) fn is_home(r: &Reservation) -> bool {
    r.labels.contains_key(INSTANCE) && r.labels.contains_key(SERVICE)
}

/// Instance and service of a home, as its reservation says.
pub fn home_of(stack: &[Reservation]) -> Option<(&str, &str)> {
    let labels = &stack.last()?.labels;
    Some((labels.get(INSTANCE)?, labels.get(SERVICE)?))
}

/// The reservation of a new home.
fn reservation(spec: &ServiceSpec, principal: &str, id: &str) -> Reservation {
    Reservation {
        labels: BTreeMap::from([
            (INSTANCE.to_owned(), id.to_owned()),
            (SERVICE.to_owned(), spec.id.to_string()),
        ]),
        ..Reservation::dynamic(spec.role(), principal)
    }
}

/// What makes a home of unreserved resources, and the part that its task takes. `None` when ids would be too long.
pub(crate) fn make(
    spec: &ServiceSpec,
    principal: &str,
    id: &str,
) -> Option<(Vec<Operation>, ResourcePart)> {
    let stack = vec![reservation(spec, principal, id)];
    let mut operations = vec![Operation::Reserve {
        stack: stack.clone(),
        resources: spec.with_volumes(),
    }];
    let mut resources = spec.resources.clone();
    for (volume_id, volume) in volumes(spec, id)? {
        resources.custom.set_volume(volume_id.clone(), volume);
        operations.push(Operation::CreateVolume {
            stack: stack.clone(),
            volume_id,
            volume,
        });
    }
    let part = ResourcePart {
        reservation: stack,
        revocable: false,
        resources,
    };
    Some((operations, part))
}

/// Ids and sizes of the volumes of an instance, in the order of the definition.
fn volumes(spec: &ServiceSpec, id: &str) -> Option<Vec<(waggle_types::VolumeId, Volume)>> {
    let one = |v: &waggle_types::PersistentVolume| {
        let volume = Volume {
            size: v.size,
            shared: false,
        };
        Some((v.id_of(&spec.id, id)?, volume))
    };
    spec.volumes.iter().map(one).collect()
}

/// Where an instance's volumes are mounted.
pub(crate) fn mounts(spec: &ServiceSpec, id: &str) -> Vec<Mount> {
    let ids = volumes(spec, id).unwrap_or_default();
    let each = spec.volumes.iter().zip(ids);
    each.map(|(v, (volume_id, _))| Mount {
        target: v.target.clone(),
        source: MountSource::Volume(volume_id),
        read_only: v.read_only,
    })
    .collect()
}

/// Which of the pod's volumes a container mounts, with their positions.
fn mounted<'a>(
    pod: &'a ServiceSpec,
    container: &'a PodContainer,
) -> impl Iterator<Item = (usize, &'a PodMount)> {
    container.mounts.iter().filter_map(|m| {
        let at = pod.volumes.iter().position(|v| v.target == m.volume)?;
        Some((at, m))
    })
}

/// Where a container of an instance that is a pod mounts the volumes of all of it.
pub(crate) fn pod_mounts(pod: &ServiceSpec, container: &PodContainer, id: &str) -> Vec<Mount> {
    let ids = volumes(pod, id).unwrap_or_default();
    let each = mounted(pod, container).filter_map(|(at, m)| {
        Some(Mount {
            target: m.path.clone(),
            source: MountSource::Volume(ids.get(at)?.0.clone()),
            read_only: m.read_only,
        })
    });
    each.collect()
}

/// What an instance that is a pod holds beside its containers: what was said, and its volumes, which containers share.
pub(crate) fn held_by_pod(pod: &ServiceSpec, id: &str) -> Option<Resources> {
    let mut out = pod.pod.as_ref()?.executor.clone();
    for (volume_id, volume) in volumes(pod, id)? {
        out.custom.set_volume(volume_id, volume);
    }
    Some(out)
}

/// Whether a task has the volumes that the definition asks for: its own, or those of its pod that a container mounts.
pub(crate) fn same_volumes(
    spec: &ServiceSpec,
    of: Option<(&ServiceSpec, &PodContainer)>,
    task: &[Mount],
) -> bool {
    let has: Vec<_> = task
        .iter()
        .filter(|m| matches!(m.source, MountSource::Volume(_)))
        .map(|m| (m.target.as_str(), m.read_only))
        .collect();
    match of {
        None => {
            let wants = spec
                .volumes
                .iter()
                .map(|v| (v.target.as_str(), v.read_only));
            wants.eq(has)
        }
        Some((pod, c)) => {
            let wants = mounted(pod, c).map(|(_, m)| (m.path.as_str(), m.read_only));
            wants.eq(has)
        }
    }
}

/// The home in an offer, when all that the service needs is there.
pub(crate) fn find<'a>(
    spec: &ServiceSpec,
    id: &str,
    offer: &'a Offer,
) -> Option<(&'a ResourcePart, Resources)> {
    let mine = |p: &&ResourcePart| home_of(&p.reservation).is_some_and(|(i, _)| i == id);
    let part = offer.parts.iter().find(mine)?;
    let need = need(spec, id)?;
    part.resources.contains(&need).then_some((part, need))
}

/// What an instance needs at home.
pub(crate) fn need(spec: &ServiceSpec, id: &str) -> Option<Resources> {
    let mut need = spec.resources.clone();
    for (volume_id, volume) in volumes(spec, id)? {
        need.custom.set_volume(volume_id, volume);
    }
    Some(need)
}

/// Takes a home and host ports out of an offer; answers the ports and the parts of the task.
pub(crate) fn take(
    spec: &ServiceSpec,
    id: &str,
    open: &mut OpenOffer,
    seed: u64,
) -> Option<(Vec<u16>, Vec<ResourcePart>)> {
    let (part, need) = find(spec, id, &open.offer)?;
    let home = ResourcePart {
        resources: need.clone(),
        ..part.clone()
    };
    let plain = |p: &&ResourcePart| p.is_plain();
    let free = open.offer.parts.iter().find(plain);
    let none = Resources::default();
    let free = free.map_or(&none, |p| &p.resources);
    let host_ports = assign_ports(spec, &free.ports, seed)?;
    let ports = Resources::default().with_ports(on_agent(&host_ports));
    let mut taken = vec![home];
    if !ports.is_empty() {
        taken.push(ResourcePart::plain(ports));
    }
    for t in &taken {
        let same =
            |p: &&mut ResourcePart| p.reservation == t.reservation && p.revocable == t.revocable;
        let part = open.offer.parts.iter_mut().find(same)?;
        part.resources.try_sub(&t.resources)?;
        open.offer.resources.try_sub(&t.resources)?;
    }
    open.offer.parts.retain(|p| !p.resources.is_empty());
    open.n_launched += 1;
    Some((host_ports, taken))
}

/// What gives a home back: volumes first, then the rest.
pub(crate) fn release(part: &ResourcePart) -> Vec<Operation> {
    let stack = &part.reservation;
    let mut out: Vec<Operation> = part
        .resources
        .custom
        .volumes()
        .map(|(volume_id, _)| Operation::DestroyVolume {
            stack: stack.clone(),
            volume_id: volume_id.clone(),
        })
        .collect();
    if let Some(resources) = part.resources.flat() {
        out.push(Operation::Unreserve {
            stack: stack.clone(),
            resources,
        });
    }
    out
}

/// Homes without a task, those that wait longest first.
pub(crate) fn empty<'a, 'b>(
    homes: &'a [Home],
    instances: impl IntoIterator<Item = &'b Instance>,
) -> Vec<&'a Home> {
    if homes.is_empty() {
        return Vec::new();
    }
    let instances = instances.into_iter();
    let used: BTreeSet<&str> = instances.map(|i| i.task_id().instance()).collect();
    let free = |h: &&Home| !h.doomed && !used.contains(h.id.as_str());
    let mut out: Vec<&Home> = homes.iter().filter(free).collect();
    out.sort_by_key(|h| (h.since, &h.id));
    out
}

/// Whether a task's home is to be given back.
pub(crate) fn is_doomed(homes: &[Home], task: &TaskId) -> bool {
    let of = |h: &Home| h.doomed && task.instance() == h.id;
    homes.iter().any(of)
}

/// When a home whose task can't run there is given up, if ever.
pub(crate) fn gives_up_at(spec: &ServiceSpec, since: UnixMillis) -> Option<UnixMillis> {
    let r = spec.residency?;
    (r.task_lost == TaskLost::RelaunchAfterTimeout).then(|| since + r.relaunch_after)
}

/// Changes that instances which are at home somewhere do not follow, as in Marathon.
pub fn check_change(old: &ServiceSpec, new: &ServiceSpec) -> Result<(), waggle_types::FieldError> {
    if old.residency.is_none() && new.residency.is_none() {
        return Ok(());
    }
    let (what, volumes, resources, of) = match new.pod {
        None => ("app", "container.volumes", "cpus", ""),
        Some(_) => ("pod", "volumes", "containers", "the sum of what they take "),
    };
    let (field, of) = if old.volumes != new.volumes {
        (volumes, "")
    } else if old.resources != new.resources {
        (resources, of)
    } else if old.role() != new.role() {
        ("role", "")
    } else {
        return Ok(());
    };
    let rule = format!(
        "{of}can't be changed while the {what} has persistent volumes; define another {what}"
    );
    Err(waggle_types::FieldError::new(field, rule))
}

/// A home that has no use any more, until level 1 says that it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Litter {
    pub agent_id: AgentId,
    pub role: String,
}

/// The service that a home names, if that is a service's id.
pub(crate) fn service_of(name: &str) -> Option<ServiceId> {
    ServiceId::new(name).ok()
}
