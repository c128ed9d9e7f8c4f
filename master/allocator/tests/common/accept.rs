//! What the reference allocator makes of an accept with operations: a plain list of parts in the hand, and
//! whether each step is possible.

use std::collections::BTreeSet;

use waggle_allocator::{Operation, Usage};
use waggle_types::{
    AgentId, Milli, Millis, OfferId, Reservation, ResourcePart, Resources, UnixMillis, Volume,
    VolumeId, check_role,
};

use super::books::{disk, whole};
use super::kinds::{KINDS, N, count, owned};
use super::oracle::{Client, Oracle, within};

struct Hand {
    agent: AgentId,
    client: Client,
    parts: Vec<ResourcePart>,
    /// Of what is unreserved, by kind: so much is charged to the role as offered.
    paid: [i64; N],
}

fn fair_stack(stack: &[Reservation]) -> bool {
    let one = |r: &Reservation| r.role != "*" && check_role(&r.role).is_ok();
    let pair = |w: &[Reservation]| {
        w[0].role != w[1].role && within(&w[1].role, &w[0].role) && (w[1].dynamic || !w[0].dynamic)
    };
    !stack.is_empty() && stack.iter().all(one) && stack.windows(2).all(pair)
}

fn can_be_reserved(stack: &[Reservation], r: &Resources) -> bool {
    let dynamic = stack.last().is_some_and(|r| r.dynamic);
    let volumes = r.custom.volumes().next().is_some();
    fair_stack(stack) && dynamic && !volumes && !r.is_empty() && !r.is_negative()
}

impl Hand {
    fn at(&mut self, stack: &[Reservation], revocable: bool) -> Option<&mut ResourcePart> {
        let of = |p: &&mut ResourcePart| p.reservation == stack && p.revocable == revocable;
        self.parts.iter_mut().find(of)
    }

    fn take(&mut self, stack: &[Reservation], revocable: bool, r: &Resources) -> Option<()> {
        let part = self.at(stack, revocable)?;
        part.resources = part.resources.checked_sub(r)?;
        self.parts.retain(|p| !p.resources.is_empty());
        Some(())
    }

    fn put(&mut self, stack: &[Reservation], r: &Resources) {
        if let Some(part) = self.at(stack, false) {
            part.resources = part.resources.checked_add(r).expect("disjoint");
        } else {
            self.parts.push(ResourcePart {
                reservation: stack.to_vec(),
                revocable: false,
                resources: r.clone(),
            });
        }
        self.sort();
    }

    fn sort(&mut self) {
        // The promise: own reservations, then what is not reserved, then what is lent.
        self.parts
            .sort_by_key(|p| (p.revocable, p.reservation.is_empty()));
    }
}

impl Oracle {
    /// Does all of it and answers what each launch was given, or `None`; then the books are good for
    /// nothing (it is tried on a copy).
    pub fn operate(
        &mut self,
        ids: &[OfferId],
        operations: &[Operation],
        refuse: Millis,
        now: UnixMillis,
    ) -> Option<Vec<Vec<ResourcePart>>> {
        let (first, _) = self.offers.get(ids.first()?)?;
        let mut hand = Hand {
            agent: first.agent_id.clone(),
            client: (first.framework_id.clone(), first.role.clone()),
            parts: Vec::new(),
            paid: [0; N],
        };
        for id in ids {
            let (_, parts) = self.offers.remove(id)?;
            self.passed.remove(id);
            for p in parts {
                if p.reservation.is_empty() {
                    (0..N).for_each(|k| hand.paid[k] += count(&p.resources, k));
                }
                match hand.at(&p.reservation, p.revocable) {
                    Some(of) => of.resources = of.resources.checked_add(&p.resources)?,
                    None => hand.parts.push(p),
                }
            }
        }
        hand.sort();
        let nothing = |op: &Operation| matches!(op, Operation::Launch { resources, .. } if resources.is_empty());
        let in_round = self.declined.iter().any(|(a, _)| *a == hand.agent);
        if in_round || operations.iter().all(nothing) {
            self.declined
                .insert((hand.agent.clone(), hand.client.clone()));
        }
        let mut given = Vec::new();
        let mut launched = BTreeSet::new();
        for op in operations {
            let before = self.charged_with(&hand);
            self.step(&mut hand, op, &mut given, &mut launched)?;
            for (role, (was, is)) in before.iter().zip(self.charged_with(&hand)).map(|(a, b)| {
                assert_eq!(a.0, b.0);
                (&a.0, (a.1, b.1))
            }) {
                let limits = self.quotas[role].1;
                let over = |k: usize| is[k] > was[k] && limits[k].is_some_and(|l| is[k] > l);
                if (0..N).any(over) {
                    return None;
                }
            }
        }
        let left = hand.parts.iter().any(|p| !owned(&p.resources).is_empty());
        if left {
            self.filter(hand.client, hand.agent, &hand.parts, refuse, now);
        }
        Some(given)
    }

    /// What counts against quotas while a hand holds what is charged to its role.
    fn charged_with(&self, hand: &Hand) -> Vec<(String, [i64; N])> {
        let names = self.quotas.keys();
        let with = |role: &String| {
            let mut charged = self.charged(role);
            if within(&hand.client.1, role) {
                (0..N).for_each(|k| charged[k] += hand.paid[k]);
            }
            (role.clone(), charged)
        };
        names.map(with).collect()
    }

    fn step(
        &mut self,
        hand: &mut Hand,
        op: &Operation,
        given: &mut Vec<Vec<ResourcePart>>,
        launched: &mut BTreeSet<VolumeId>,
    ) -> Option<()> {
        let pay = |hand: &mut Hand, r: &Resources| {
            (0..N).for_each(|k| hand.paid[k] -= hand.paid[k].min(count(r, k)));
        };
        match op {
            Operation::Launch { resources, parts } => {
                let parts = self.launch(hand, resources, parts)?;
                for p in &parts {
                    if p.reservation.is_empty() {
                        pay(hand, &p.resources);
                    }
                    launched.extend(p.resources.custom.volumes().map(|(id, _)| id.clone()));
                }
                given.push(parts);
            }
            Operation::Reserve { stack, resources } => {
                if !can_be_reserved(stack, resources) {
                    return None;
                }
                let (outer, owner) = (&stack[..stack.len() - 1], Self::role_of(stack));
                let mine = within(&hand.client.1, owner);
                if !mine && !within(owner, &hand.client.1) {
                    return None;
                }
                hand.take(outer, false, resources)?;
                if outer.is_empty() {
                    pay(hand, resources);
                }
                self.move_reserved(&hand.agent, outer, stack, resources);
                if mine {
                    hand.put(stack, resources);
                }
            }
            Operation::Unreserve { stack, resources } => {
                if !can_be_reserved(stack, resources) {
                    return None;
                }
                let outer = &stack[..stack.len() - 1];
                hand.take(stack, false, resources)?;
                self.move_reserved(&hand.agent, stack, outer, resources);
                hand.put(outer, resources);
            }
            Operation::CreateVolume {
                stack,
                volume_id,
                volume,
            } => {
                let exists = self.agents[&hand.agent].total.custom.volume(volume_id);
                if !fair_stack(stack) || volume.size.0 <= 0 || exists.is_some() {
                    return None;
                }
                hand.take(stack, false, &disk(volume_id, *volume))?;
                hand.put(stack, &whole(volume_id, *volume));
                self.exchange(
                    &hand.agent.clone(),
                    stack,
                    &disk(volume_id, *volume),
                    &whole(volume_id, *volume),
                );
            }
            Operation::ResizeVolume {
                stack,
                volume_id,
                size,
            } => {
                let old = self.agents[&hand.agent].total.custom.volume(volume_id)?;
                let busy = self.in_use(&hand.agent, volume_id) || launched.contains(volume_id);
                if busy || size.0 <= 0 {
                    return None;
                }
                let new = Volume { size: *size, ..old };
                let more = |by: i64| {
                    let size = Milli(by.max(0));
                    disk(volume_id, Volume { size, ..old })
                };
                let from = whole(volume_id, old).checked_add(&more(size.0 - old.size.0))?;
                let to = whole(volume_id, new).checked_add(&more(old.size.0 - size.0))?;
                hand.take(stack, false, &from)?;
                hand.put(stack, &to);
                self.void_offers_of(&hand.agent, volume_id);
                self.exchange(&hand.agent.clone(), stack, &from, &to);
            }
            Operation::DestroyVolume { stack, volume_id } => {
                let volume = self.agents[&hand.agent].total.custom.volume(volume_id)?;
                if self.in_use(&hand.agent, volume_id) || launched.contains(volume_id) {
                    return None;
                }
                hand.take(stack, false, &whole(volume_id, volume))?;
                hand.put(stack, &disk(volume_id, volume));
                self.void_offers_of(&hand.agent, volume_id);
                self.exchange(
                    &hand.agent.clone(),
                    stack,
                    &whole(volume_id, volume),
                    &disk(volume_id, volume),
                );
            }
        }
        Some(())
    }

    /// Other offers of a shared volume are void.
    fn void_offers_of(&mut self, agent: &AgentId, volume_id: &VolumeId) {
        let holds = |parts: &[ResourcePart]| {
            let mut all = parts.iter().flat_map(|p| p.resources.custom.volumes());
            all.any(|(id, _)| id == volume_id)
        };
        self.offers
            .retain(|_, (o, parts)| o.agent_id != *agent || !holds(parts));
    }

    fn launch(
        &mut self,
        hand: &mut Hand,
        resources: &Resources,
        parts: &[ResourcePart],
    ) -> Option<Vec<ResourcePart>> {
        let mut parts = parts.to_vec();
        if parts.is_empty() {
            let mut left = resources.clone();
            for part in &hand.parts {
                let taken = part.resources.common(&left);
                left = left.checked_sub(&taken)?;
                if !taken.is_empty() {
                    parts.push(ResourcePart {
                        resources: taken,
                        ..part.clone()
                    });
                }
            }
            if !left.is_empty() {
                return None;
            }
        } else {
            let mut sum = Resources::default();
            for p in &parts {
                if p.resources.is_negative() {
                    return None;
                }
                sum = sum.checked_add(&p.resources)?;
            }
            if sum != *resources {
                return None;
            }
        }
        for p in &parts {
            let of = hand.at(&p.reservation, p.revocable)?;
            if !of.resources.contains(&p.resources) {
                return None;
            }
            hand.take(&p.reservation, p.revocable, &owned(&p.resources))?;
            if !p.resources.is_empty() {
                self.uses.push((
                    hand.agent.clone(),
                    Usage {
                        framework_id: hand.client.0.clone(),
                        role: hand.client.1.clone(),
                        reservation: p.reservation.clone(),
                        revocable: p.revocable,
                        resources: p.resources.clone(),
                    },
                ));
            }
        }
        Some(parts)
    }
}

/// For messages: what of a bundle is not zero.
pub fn show(rows: &[i64; N]) -> String {
    let some = (0..N).filter(|k| rows[*k] != 0);
    let all: Vec<String> = some.map(|k| format!("{}:{}", KINDS[k], rows[k])).collect();
    all.join("; ")
}
