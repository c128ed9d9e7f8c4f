//! Reservations with who holds what of them.

use std::collections::BTreeMap;

use waggle_api::{
    marathon::Number,
    native::{ReservationView, VolumeUse, stack},
};
use waggle_types::{AgentId, ExecutorRecord, Reservation, ResourcePart, Resources, TaskId};

use crate::view::{AgentView, ClusterView, TaskView};

/// Whose: one stack of one agent.
type Key<'a> = (&'a AgentId, &'a [Reservation]);

/// What is held of a stack.
#[derive(Default)]
struct Held<'a> {
    used: Resources,
    offered: Resources,
    lent: Resources,
    volumes: BTreeMap<&'a str, Vec<&'a TaskId>>,
}

/// Every reservation, or those of one agent.
pub(super) fn list(view: &ClusterView, only: Option<&AgentId>) -> Vec<ReservationView> {
    let held = held(view, only);
    let agents = view.agents.iter();
    let wanted = agents.filter(|(id, _)| only.is_none_or(|o| o == *id));
    let of_agent = |(_, a): (&'_ _, &'_ std::sync::Arc<AgentView>)| {
        let parts = a.reserved.iter().map(|p| one(a, p, &held));
        parts.collect::<Vec<_>>()
    };
    wanted.flat_map(of_agent).collect()
}

/// One pass over tasks, executors and offers.
fn held<'a>(view: &'a ClusterView, only: Option<&AgentId>) -> BTreeMap<Key<'a>, Held<'a>> {
    let mut out: BTreeMap<Key<'a>, Held<'a>> = BTreeMap::new();
    let here = |id: &AgentId| only.is_none_or(|o| o == id);
    for t in view.tasks.values().filter(|t| here(t.agent_id())) {
        for p in reserved(&t.spec.parts) {
            let held = out.entry((t.agent_id(), &p.reservation)).or_default();
            let sum = if p.revocable {
                &mut held.lent
            } else {
                &mut held.used
            };
            plus(sum, &p.resources);
            for (id, _) in p.resources.custom.volumes() {
                let users = held.volumes.entry(id.as_str()).or_default();
                users.push(&t.id);
            }
        }
    }
    for (agent, e) in view.executors.iter().filter(|(agent, _)| here(agent)) {
        for p in reserved(&e.spec.parts) {
            let held = out.entry((agent, &p.reservation)).or_default();
            let sum = if p.revocable {
                &mut held.lent
            } else {
                &mut held.used
            };
            plus(sum, &p.resources);
            for (id, _) in p.resources.custom.volumes() {
                // What an executor holds is all of its tasks'.
                let users = held.volumes.entry(id.as_str()).or_default();
                let tasks = view.tasks.values().filter(|t| is_on(t, agent, e));
                users.extend(tasks.map(|t| &t.id));
            }
        }
    }
    for o in view.offers.iter().filter(|o| here(&o.agent_id)) {
        for p in reserved(&o.parts) {
            let held = out.entry((&o.agent_id, &p.reservation)).or_default();
            let sum = if p.revocable {
                &mut held.lent
            } else {
                &mut held.offered
            };
            plus(sum, &p.resources);
        }
    }
    out
}

fn is_on(t: &TaskView, agent: &AgentId, e: &ExecutorRecord) -> bool {
    let on = t.spec.executor.as_ref();
    t.agent_id() == agent
        && t.spec.framework_id == e.framework_id
        && on.is_some_and(|(spec, _)| spec.executor_id == e.spec.executor_id)
}

fn reserved(parts: &[ResourcePart]) -> impl Iterator<Item = &ResourcePart> {
    parts.iter().filter(|p| !p.reservation.is_empty())
}

fn one(a: &AgentView, part: &ResourcePart, held: &BTreeMap<Key<'_>, Held<'_>>) -> ReservationView {
    let id = &a.info.agent_id;
    let none = Held::default();
    let held = held.get(&(id, &part.reservation)).unwrap_or(&none);
    let all = &part.resources;
    let mut free = all.clone();
    for taken in [&held.used, &held.offered, &held.lent] {
        minus(&mut free, taken);
    }
    let volumes = all.custom.volumes().map(|(id, v)| VolumeUse {
        id: id.to_string(),
        size: Number(v.size.to_f64()),
        shared: v.shared,
        tasks: held
            .volumes
            .get(id.as_str())
            .map(|users| users.iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
    });
    ReservationView {
        agent_id: id.to_string(),
        hostname: a.info.hostname.clone(),
        stack: stack(&part.reservation),
        volumes: volumes.collect(),
        resources: all.into(),
        used: (&held.used).into(),
        offered: (&held.offered).into(),
        lent: (&held.lent).into(),
        free: (&free).into(),
    }
}

/// Several tasks hold a shared volume; what else is in both is a defect that a reader can't mend.
fn plus(sum: &mut Resources, more: &Resources) {
    let _ = sum.try_add(more);
}

/// Takes away what is there of it. A shared volume stays free, however many use it.
fn minus(from: &mut Resources, taken: &Resources) {
    let mut taken = from.common(taken);
    let shared = taken.custom.volumes().filter(|(_, v)| v.shared);
    let shared: Vec<_> = shared.map(|(id, _)| id.clone()).collect();
    for id in &shared {
        taken.custom.remove_volume(id);
    }
    let _ = from.try_sub(&taken);
}
