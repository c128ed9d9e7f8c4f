//! How the reference allocator's books follow from events.

use waggle_allocator::{Event, FrameworkSpec, filter_expiry};
use waggle_types::{
    AgentId, FrameworkId, Millis, OfferId, Reservation, ResourcePart, Resources, UnixMillis,
    Volume, VolumeId,
};

use super::kinds::{KINDS, N};
use super::oracle::{Client, Filter, OClient, Oracle, kinds, sum};

pub fn disk(id: &VolumeId, volume: Volume) -> Resources {
    if !id.as_str().ends_with("@fast") {
        return Resources::from_millis(0, 0, volume.size.0);
    }
    let mut out = Resources::default();
    out.custom.set_scalar("disk.fast", volume.size);
    out
}

pub fn whole(id: &VolumeId, volume: Volume) -> Resources {
    let mut r = Resources::default();
    r.custom.set_volume(id.clone(), volume);
    r
}

impl Oracle {
    pub fn turned_down(&mut self, id: &OfferId, refuse: Millis, now: UnixMillis) {
        let Some((offer, parts)) = self.offers.remove(id) else {
            return;
        };
        self.waited(&offer);
        let client = (offer.framework_id, offer.role);
        self.declined
            .insert((offer.agent_id.clone(), client.clone()));
        self.filter(client, offer.agent_id, &parts, refuse, now);
    }

    pub fn filter(
        &mut self,
        client: Client,
        agent: AgentId,
        parts: &[ResourcePart],
        refuse: Millis,
        now: UnixMillis,
    ) {
        let (reserved, lent) = kinds(parts);
        self.filters.push(Filter {
            client,
            agent,
            resources: sum(parts.iter().map(|p| &p.resources)),
            reserved,
            lent,
            until: filter_expiry(now, refuse),
        });
    }

    /// A framework that held this subscribed anew.
    pub fn dropped(&mut self, id: &OfferId) {
        let Some((offer, _)) = self.offers.remove(id) else {
            return;
        };
        self.waited(&offer);
        self.declined
            .insert((offer.agent_id, (offer.framework_id, offer.role)));
    }

    /// `roles`: it stays subscribed with these, and what it turned down is known.
    fn forget(&mut self, id: &FrameworkId, roles: &[String]) {
        self.filters.retain(|f| f.client.0 != *id);
        self.declined
            .retain(|(_, c)| c.0 != *id || roles.contains(&c.1));
        self.clients.retain(|c, _| c.0 != *id);
        self.waits.retain(|(_, c), _| c.0 != *id);
        // A role that it comes back to is a newcomer's.
        for by in self.waits.values_mut() {
            by.retain(|c, _| c.0 != *id || roles.contains(&c.1));
        }
        self.first_role.remove(id);
    }

    fn forget_agent(&mut self, id: &AgentId) {
        self.uses.retain(|u| u.0 != *id);
        self.declined.retain(|(a, _)| a != id);
        self.filters.retain(|f| f.agent != *id);
        self.waits.retain(|(a, _), _| a != id);
        self.agents.remove(id);
    }

    pub fn subscribe(&mut self, id: &FrameworkId, spec: &FrameworkSpec) {
        let roles: Vec<String> = spec.roles.iter().map(|r| r.role.clone()).collect();
        let again: Vec<String> = roles
            .into_iter()
            .filter(|r| self.clients.contains_key(&(id.clone(), r.clone())))
            .collect();
        self.forget(id, &again);
        for (at, r) in spec.roles.iter().enumerate() {
            if at == 0 {
                self.first_role.insert(id.clone(), r.role.clone());
                for (_, u) in self.uses.iter_mut().filter(|(_, u)| u.framework_id == *id) {
                    if u.role.is_empty() {
                        u.role.clone_from(&r.role);
                    }
                }
            }
            let hostname = r
                .constraints
                .first()
                .and_then(|g| match &g.first()?.predicate {
                    waggle_types::Predicate::TextEquals(t) => Some(t.clone()),
                    _ => None,
                });
            let client = OClient {
                suppressed: r.suppressed,
                capabilities: spec.capabilities,
                smallest: r.smallest.clone(),
                hostname,
            };
            self.clients.insert((id.clone(), r.role.clone()), client);
        }
    }

    fn suppress(&mut self, id: &FrameworkId, roles: Option<&[String]>, on: bool) {
        let of = |c: &Client| c.0 == *id && roles.is_none_or(|r| r.contains(&c.1));
        for (_, c) in self.clients.iter_mut().filter(|(c, _)| of(c)) {
            c.suppressed = on;
        }
        if !on {
            self.filters.retain(|f| !of(&f.client));
        }
    }

    pub fn exchange(
        &mut self,
        id: &AgentId,
        stack: &[Reservation],
        old: &Resources,
        new: &Resources,
    ) {
        let changed = |r: &Resources| {
            let left = r.checked_sub(old).expect("it is there");
            left.checked_add(new).expect("disjoint")
        };
        let agent = self.agents.get_mut(id).expect("known");
        agent.total = changed(&agent.total);
        let (_, pool) = agent
            .reserved
            .iter_mut()
            .find(|(s, _)| s == stack)
            .expect("reserved");
        *pool = changed(pool);
    }

    pub fn move_reserved(
        &mut self,
        id: &AgentId,
        from: &[Reservation],
        to: &[Reservation],
        r: &Resources,
    ) {
        let reserved = &mut self.agents.get_mut(id).expect("known").reserved;
        if let Some((_, of)) = reserved.iter_mut().find(|(s, _)| s == from) {
            *of = of.checked_sub(r).expect("reserved");
        } else {
            assert!(from.is_empty());
        }
        match reserved.iter_mut().find(|(s, _)| s == to) {
            Some((_, of)) => *of = of.checked_add(r).expect("disjoint"),
            None if !to.is_empty() => reserved.push((to.to_vec(), r.clone())),
            None => {}
        }
        reserved.retain(|(_, r)| !r.is_empty());
    }

    pub fn event(&mut self, event: &Event, now: UnixMillis) {
        match event {
            Event::AgentRemoved { agent_id } => self.forget_agent(agent_id),
            Event::AgentDeactivated { agent_id } => self.active(agent_id, false),
            Event::AgentActivated { agent_id } => self.active(agent_id, true),
            Event::AgentDrained {
                agent_id,
                mark_gone,
                ..
            } => {
                self.active(agent_id, false);
                self.agents.get_mut(agent_id).expect("known").draining = Some(*mark_gone);
                self.drained(agent_id);
            }
            Event::FrameworkRemoved { framework_id } => self.forget(framework_id, &[]),
            Event::Subscribed { framework_id, spec } => self.subscribe(framework_id, spec),
            Event::AgentAdded { .. }
            | Event::AgentJoined { .. }
            | Event::Accepted { .. }
            | Event::Operated { .. } => unreachable!("see World"),
            Event::Declined {
                offer_ids, refuse, ..
            } => {
                for id in offer_ids {
                    self.turned_down(id, *refuse, now);
                }
            }
            Event::UsageEnded { agent_id, usage } => {
                let at = self
                    .uses
                    .iter()
                    .position(|(a, u)| a == agent_id && u == usage);
                self.uses.remove(at.expect("it was used"));
                self.drained(agent_id);
            }
            Event::Suppress { framework_id } => self.suppress(framework_id, None, true),
            Event::SuppressRoles {
                framework_id,
                roles,
            } => {
                self.suppress(framework_id, Some(roles), true);
            }
            Event::Revive { framework_id } => self.suppress(framework_id, None, false),
            Event::ReviveRoles {
                framework_id,
                roles,
            } => {
                self.suppress(framework_id, Some(roles), false);
            }
            Event::Demand {
                framework_id,
                role,
                smallest,
            } => {
                let client = (framework_id.clone(), role.clone());
                self.clients
                    .get_mut(&client)
                    .expect("known")
                    .smallest
                    .clone_from(smallest);
            }
            Event::WeightSet { role, weight_milli } => {
                self.weights.insert(role.clone(), *weight_milli);
            }
            Event::QuotaSet { role, quota, .. } => {
                let books: ([i64; N], [Option<i64>; N]) = (
                    std::array::from_fn(|k| quota.guarantee.get(KINDS[k]).map_or(0, |g| g.0)),
                    std::array::from_fn(|k| quota.limit.get(KINDS[k]).map(|l| l.0)),
                );
                if books == ([0; N], [None; N]) {
                    self.quotas.remove(role);
                } else {
                    self.quotas.insert(role.clone(), books);
                }
            }
            Event::Reserve {
                agent_id,
                stack,
                resources,
            } => {
                self.move_reserved(agent_id, &stack[..stack.len() - 1], stack, resources);
            }
            Event::Unreserve {
                agent_id,
                stack,
                resources,
            } => {
                self.move_reserved(agent_id, stack, &stack[..stack.len() - 1], resources);
            }
            Event::CreateVolume {
                agent_id,
                stack,
                volume_id,
                volume,
            } => self.exchange(
                agent_id,
                stack,
                &disk(volume_id, *volume),
                &whole(volume_id, *volume),
            ),
            Event::DestroyVolume {
                agent_id,
                stack,
                volume_id,
            } => {
                let volume = self.agents[agent_id].total.custom.volume(volume_id);
                let volume = volume.expect("it was there");
                self.exchange(
                    agent_id,
                    stack,
                    &whole(volume_id, volume),
                    &disk(volume_id, volume),
                );
            }
            Event::ResizeVolume {
                agent_id,
                stack,
                volume_id,
                size,
            } => {
                let old = self.agents[agent_id].total.custom.volume(volume_id);
                let old = old.expect("it was there");
                let new = Volume { size: *size, ..old };
                self.exchange(
                    agent_id,
                    stack,
                    &whole(volume_id, old),
                    &disk(volume_id, old),
                );
                self.exchange(
                    agent_id,
                    stack,
                    &disk(volume_id, new),
                    &whole(volume_id, new),
                );
            }
            Event::Tick | Event::MaintenanceSet { .. } | Event::InverseAnswered { .. } => {}
            other => unreachable!("not in these histories: {other:?}"),
        }
    }

    fn active(&mut self, id: &AgentId, on: bool) {
        let a = self.agents.get_mut(id).expect("known");
        a.active = on;
        if on {
            a.draining = None;
        }
    }

    fn drained(&mut self, id: &AgentId) {
        let a = self.agents.get_mut(id).expect("known");
        if self.uses.iter().any(|(u, _)| u == id) {
            return;
        }
        if let Some(gone) = a.draining.take() {
            self.emptied.push((id.clone(), gone));
            if gone {
                self.forget_agent(id);
            }
        }
    }
}
