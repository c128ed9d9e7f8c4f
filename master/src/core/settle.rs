//! How an agent is booked: what it has, divided among what its tasks hold and what is reserved of it.

use std::collections::{BTreeMap, BTreeSet};

use waggle_allocator::MAX_POOLS;
use waggle_types::{
    AgentInfo, ExecutorKey, FrameworkId, Reservation, ResourcePart, Resources, TaskId, check_role,
};

/// Who holds something of an agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Task(TaskId),
    Executor(ExecutorKey),
}

/// A task's or an executor's share of an agent.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) who: Who,
    pub(super) framework_id: FrameworkId,
    pub(super) role: String,
    pub(super) parts: Vec<ResourcePart>,
}

/// How an agent is booked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Every stack with what it holds.
    pub(super) reserved: Vec<(Vec<Reservation>, Resources)>,
    /// Those for which something else is booked than what they were given.
    pub(super) booked: BTreeMap<Who, Vec<ResourcePart>>,
    /// What had no room.
    pub(super) given_way: Vec<ResourcePart>,
}

/// Volumes as the disk that they take. What can't be counted is left out.
pub(super) fn flat(r: &Resources) -> Resources {
    let mut out = r.clone();
    for (id, v) in r.custom.volumes() {
        out.custom.remove_volume(id);
        out.try_add(&Resources::of_disk(id, v.size));
    }
    out
}

/// As much of `want` as there is in `left`, which gets smaller by it: volumes wholly or not at all, and
/// before other disk.
fn take_from(left: &mut Resources, want: &Resources) -> Resources {
    let mut kept = Resources::default();
    let mut rest = want.clone();
    for (id, v) in want.custom.volumes() {
        rest.custom.remove_volume(id);
        if left.try_sub(&Resources::of_disk(id, v.size)).is_some() {
            kept.custom.set_volume(id.clone(), v);
        }
    }
    let more = left.common(&rest);
    left.try_sub(&more);
    kept.try_add(&more);
    kept
}

/// What is in `a` and not in `b`, kind by kind.
fn beyond(a: &Resources, b: &Resources) -> Resources {
    a.checked_sub(&a.common(b)).unwrap_or_default()
}

/// The agent's own reservation for a role.
pub(super) fn static_reservation(role: &str) -> Reservation {
    Reservation {
        role: role.to_owned(),
        dynamic: false,
        principal: String::new(),
        labels: BTreeMap::new(),
    }
}

/// The pools that an agent should have: its own, with what was made of them, and dynamic ones.
fn wanted(
    info: &AgentInfo,
    stored: &[ResourcePart],
    given_way: &mut Vec<ResourcePart>,
) -> BTreeMap<Vec<Reservation>, Resources> {
    let mut pools: BTreeMap<Vec<Reservation>, Resources> = BTreeMap::new();
    for (role, resources) in &info.reserved {
        let valid = check_role(role).is_ok() && role != "*" && !resources.is_negative();
        let stack = vec![static_reservation(role)];
        let pool = pools.entry(stack.clone()).or_default();
        if !valid || pool.try_add(resources).is_none() {
            given_way.push(ResourcePart {
                reservation: stack,
                revocable: false,
                resources: resources.clone(),
            });
        }
    }
    let mut volumes = BTreeSet::new();
    for part in stored {
        let mut wish = part.resources.clone();
        for (id, _) in part.resources.custom.volumes() {
            // Made anew while another of this id had no room.
            if !volumes.insert(id.clone()) {
                wish.custom.remove_volume(id);
            }
        }
        let mut resources = wish.clone();
        // What was made of a static reservation is taken out of it.
        if let Some(base) = part.reservation.first().filter(|r| !r.dynamic) {
            let own = vec![base.clone()];
            let mut left = pools.get(&own).cloned().unwrap_or_default();
            resources = take_from(&mut left, &wish);
            pools.insert(own, left);
        }
        let lost = beyond(&part.resources, &resources);
        if !lost.is_empty() {
            given_way.push(ResourcePart {
                resources: lost,
                ..part.clone()
            });
        }
        let pool = pools.entry(part.reservation.clone()).or_default();
        pool.try_add(&resources);
    }
    pools.retain(|_, r| !r.is_empty());
    pools
}

/// How an agent is booked, by the rules of the module.
pub(super) fn settle(info: &AgentInfo, stored: &[ResourcePart], holders: &[Holder]) -> Settled {
    let mut out = Settled::default();
    let pools = wanted(info, stored, &mut out.given_way);
    // What tasks hold stays theirs: in its pool where that has it, else as if it were not reserved.
    let mut used: BTreeMap<&[Reservation], Resources> = BTreeMap::new();
    let mut plain = Resources::default();
    let mut fits = true;
    for h in holders {
        let mut booked = Vec::new();
        for part in &h.parts {
            let stack = part.reservation.as_slice();
            let pool = pools.get(stack);
            let sum = used.get(stack).cloned().unwrap_or_default();
            let sum = sum.checked_add(&part.resources);
            match (pool, sum) {
                (Some(pool), Some(sum)) if pool.contains(&sum) => {
                    used.insert(stack, sum);
                    booked.push(part.clone());
                }
                _ => {
                    let part = ResourcePart::plain(flat(&part.resources));
                    fits &= plain.try_add(&part.resources).is_some();
                    booked.push(part);
                }
            }
        }
        if booked != h.parts {
            out.booked.insert(h.who.clone(), merged(booked));
        }
    }
    let mut left = info.total.clone();
    fits &= left.try_sub(&plain).is_some();
    for r in used.values() {
        fits &= left.try_sub(&flat(r)).is_some();
    }
    if !fits {
        // Level 1 refuses such an agent whatever is reserved of it.
        left = Resources::default();
    }
    // Dynamic ones first: nobody else knows of them.
    let mut order: Vec<_> = pools.iter().collect();
    order.sort_by_key(|(stack, _)| !stack.iter().any(|r| r.dynamic));
    for (stack, pool) in order {
        let holds = used.get(stack.as_slice()).cloned().unwrap_or_default();
        let want = beyond(pool, &holds);
        let full = out.reserved.len() >= MAX_POOLS;
        let kept = if full {
            Resources::default()
        } else {
            take_from(&mut left, &want)
        };
        let lost = beyond(&want, &kept);
        if !lost.is_empty() {
            out.given_way.push(ResourcePart {
                reservation: stack.clone(),
                revocable: false,
                resources: lost,
            });
        }
        let all = holds.checked_add(&kept).unwrap_or(holds);
        if !all.is_empty() {
            out.reserved.push((stack.clone(), all));
        }
    }
    out.reserved.sort();
    out
}

/// Parts of one kind added up.
pub(super) fn merged(parts: Vec<ResourcePart>) -> Vec<ResourcePart> {
    let mut out: Vec<ResourcePart> = Vec::new();
    for part in parts {
        let same = |p: &&mut ResourcePart| {
            (&p.reservation, p.revocable) == (&part.reservation, part.revocable)
        };
        match out.iter_mut().find(same) {
            Some(p) => {
                p.resources.try_add(&part.resources);
            }
            None => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use waggle_allocator::{AgentSpec, Allocator, AllocatorConfig, Effect, Event, Usage};
    use waggle_types::{AgentId, Milli, PortSet, UnixMillis, Volume, VolumeId, sum_parts};

    use super::*;

    const ROLES: [&str; 3] = ["a", "a/b", "c"];

    fn dynamic(role: usize) -> Vec<Reservation> {
        match role {
            1 => vec![
                Reservation::dynamic("a", "p"),
                Reservation::dynamic("a/b", "p"),
            ],
            // Of the agent's own.
            3 => vec![static_reservation("a")],
            4 => vec![static_reservation("a"), Reservation::dynamic("a/b", "p")],
            other => vec![Reservation::dynamic(ROLES[other], "p")],
        }
    }

    fn resources() -> impl Strategy<Value = Resources> {
        let ports = prop::collection::vec(0u16..8, 0..3);
        (0i64..6, 0i64..6, ports).prop_map(|(cpus, disk, ports)| {
            Resources::from_millis(cpus, 0, disk).with_ports(PortSet::from_ports(ports))
        })
    }

    fn with_volume() -> impl Strategy<Value = Resources> {
        let volume = prop::option::of((0u8..3, 1i64..4, any::<bool>()));
        (resources(), volume).prop_map(|(mut r, volume)| {
            if let Some((id, size, shared)) = volume {
                let id = VolumeId::new(format!("v{id}")).unwrap();
                let size = Milli(size);
                r.custom.set_volume(id, Volume { size, shared });
            }
            r
        })
    }

    fn info(total: Resources, reserved: Vec<(String, Resources)>) -> AgentInfo {
        AgentInfo {
            ip6: None,
            agent_id: AgentId::new("a1").unwrap(),
            hostname: "n1".into(),
            ip: std::net::Ipv4Addr::LOCALHOST,
            http_port: 0,
            total,
            reserved,
            attributes: BTreeMap::new(),
            domain: None,
        }
    }

    fn parts() -> impl Strategy<Value = Vec<ResourcePart>> {
        let part = (0usize..5, with_volume()).prop_map(|(role, resources)| ResourcePart {
            reservation: dynamic(role),
            revocable: false,
            resources,
        });
        prop::collection::vec(part, 0..4).prop_map(|all| {
            let mut all = merged(all);
            all.retain(|p| !p.resources.is_empty());
            all
        })
    }

    fn holders() -> impl Strategy<Value = Vec<Holder>> {
        let part = (prop::option::of(0usize..5), any::<bool>(), resources()).prop_map(
            |(role, revocable, resources)| ResourcePart {
                revocable: revocable && role.is_some(),
                reservation: role.map(dynamic).unwrap_or_default(),
                resources,
            },
        );
        prop::collection::vec(prop::collection::vec(part, 1..3), 0..4).prop_map(|all| {
            let sound = |parts: &Vec<_>| sum_parts(parts).is_some();
            let all = all.into_iter().filter(sound).enumerate();
            all.map(|(i, parts)| Holder {
                who: Who::Task(TaskId::new(format!("t{i}")).unwrap()),
                framework_id: FrameworkId::new("f").unwrap(),
                role: "a".into(),
                parts: merged(parts),
            })
            .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// Whatever an agent says, the store knows and tasks hold: level 1 takes it, unless the tasks
        /// alone are too much; and nothing of the wish is lost without a word.
        #[test]
        fn level_1_takes_what_is_settled(
            total in resources(),
            own in prop::collection::vec((0usize..3, resources()), 0..3),
            stored in parts(),
            holders in holders(),
        ) {
            let own = own.into_iter().map(|(r, what)| (ROLES[r].to_owned(), what)).collect();
            let info = info(total.clone(), own);
            let settled = settle(&info, &stored, &holders);
            let mut used = Vec::new();
            for h in &holders {
                let parts = settled.booked.get(&h.who).unwrap_or(&h.parts);
                used.extend(parts.iter().map(|p| Usage {
                    framework_id: h.framework_id.clone(),
                    role: h.role.clone(),
                    reservation: p.reservation.clone(),
                    revocable: p.revocable,
                    resources: p.resources.clone(),
                }));
            }
            let held = holders.iter().flat_map(|h| &h.parts).try_fold(
                Resources::default(),
                |sum, p| sum.checked_add(&flat(&p.resources)),
            );
            let fits = held.is_some_and(|held| total.contains(&held));
            let mut allocator = Allocator::new(AllocatorConfig::default());
            let reserved = settled.reserved.clone();
            let spec = AgentSpec { info: std::sync::Arc::new(info.clone()), reserved };
            let ended: Vec<_> = used
                .iter()
                .filter(|u| !u.resources.is_empty())
                .map(|u| Event::UsageEnded {
                    agent_id: info.agent_id.clone(),
                    usage: u.clone(),
                })
                .collect();
            let effects = allocator.apply(Event::AgentJoined { spec, used }, UnixMillis(0));
            let refused = |e: &[Effect]| e.iter().any(|e| matches!(e, Effect::Rejected { .. }));
            prop_assert_eq!(refused(&effects), !fits, "{:?} {:?}", effects, settled);
            allocator.check().unwrap();
            if fits {
                let effects = allocator.apply_all(ended, UnixMillis(0));
                prop_assert!(!refused(&effects), "{effects:?} {settled:?}");
                allocator.check().unwrap();
                // Booked and given way are the wish.
                let sum = |stack: &[Reservation]| {
                    let booked = settled.reserved.iter().filter(|(s, _)| s == stack);
                    let booked = booked.map(|(_, r)| flat(r));
                    let lost = settled.given_way.iter().filter(|p| p.reservation == stack);
                    let all = booked.chain(lost.map(|p| flat(&p.resources)));
                    all.map(|r| r.scalars[0].0).sum::<i64>()
                };
                for part in stored.iter().filter(|p| p.reservation[0].dynamic) {
                    prop_assert_eq!(sum(&part.reservation), part.resources.scalars[0].0);
                }
            }
        }
    }
}
