//! The life of an offer: made, then accepted, declined or rescinded.

use waggle_types::{FrameworkId, Millis, Offer, OfferId, Resources, UnixMillis};

use crate::{
    Allocator, Effect, LastChoice, Operation, Rejection, RescindReason,
    allocator::Run,
    bits::{Idx, NONE},
    filters::Timer,
    ledger::{Bundle, Part, is_negative},
};

/// An offer that is out.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub client: Idx,
    pub agent: Idx,
    pub bundle: Bundle,
    pub at: UnixMillis,
    pub expires: UnixMillis,
}

/// Valid offers of one agent to one client.
pub(crate) struct Taken {
    pub client: Idx,
    pub agent: Idx,
    pub numbers: Vec<u64>,
    pub bundle: Bundle,
}

impl Allocator {
    pub(crate) fn accepted(
        &mut self,
        framework_id: &FrameworkId,
        offer_ids: &[OfferId],
        used: &Resources,
        refuse: Millis,
        now: UnixMillis,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let framework = self.subscribed(framework_id)?;
        if is_negative(used) {
            return Err(Rejection::Negative(used.clone()));
        }
        let Taken {
            client,
            agent,
            numbers,
            bundle,
        } = self.offers_of_one_agent(framework, framework_id, offer_ids)?;
        if !bundle.parts.is_empty() {
            let launch = Operation::Launch {
                resources: used.clone(),
                parts: Vec::new(),
            };
            let done = self.operate(framework_id, offer_ids, &[launch], refuse, now, run);
            return match done {
                Err(Rejection::NotFree { .. }) => Err(overuse(used, &bundle.sum)),
                other => other.map(|_| ()),
            };
        }
        let mut rest = bundle.sum;
        if rest.try_sub(used).is_none() {
            return Err(overuse(used, &rest));
        }
        // The offers end unused, then the tasks take their part of what has become free: one step to
        // the outside, and no arithmetic on how several offers share one task.
        for number in &numbers {
            self.close(*number, run);
        }
        let part = Part {
            pool: NONE,
            lent: false,
            resources: used.clone(),
        };
        let booked = self.use_free(agent, client, &part);
        debug_assert!(booked.is_some(), "what was offered is free now");
        self.recount(agent);
        if let Some(a) = self.agents.get_mut(agent) {
            a.answered(client, !used.is_empty());
        }
        self.stats.n_accepted += numbers.len() as u64;
        if !rest.is_empty() {
            let rest = Bundle {
                sum: rest,
                parts: Vec::new(),
            };
            self.add_filter(client, agent, &rest, refuse, now);
        }
        self.ask_newcomers(agent, now, run);
        Ok(())
    }

    /// The agent, the client and the sum of these offers, if all are valid, of this framework, of one agent
    /// and to one role.
    pub(crate) fn offers_of_one_agent(
        &self,
        framework: Idx,
        framework_id: &FrameworkId,
        offer_ids: &[OfferId],
    ) -> Result<Taken, Rejection> {
        let mut out: Option<Taken> = None;
        for (at, id) in offer_ids.iter().enumerate() {
            if offer_ids[..at].contains(id) {
                return Err(Rejection::DuplicateOffer(id.clone()));
            }
            let (number, held) = self.own_offer(framework, framework_id, id)?;
            let Some(taken) = &mut out else {
                out = Some(Taken {
                    client: held.client,
                    agent: held.agent,
                    numbers: vec![number],
                    bundle: held.bundle.clone(),
                });
                continue;
            };
            if taken.agent != held.agent {
                let name = |idx| self.agents.get(idx).map(|a| a.info.agent_id.clone());
                if let (Some(first), Some(second)) = (name(taken.agent), name(held.agent)) {
                    return Err(Rejection::MixedAgents { first, second });
                }
            }
            if taken.client != held.client {
                return Err(Rejection::MixedRoles);
            }
            taken.numbers.push(number);
            taken.bundle.sum.try_add(&held.bundle.sum);
            for part in &held.bundle.parts {
                let parts = &mut taken.bundle.parts;
                match parts
                    .iter_mut()
                    .find(|p| (p.pool, p.lent) == (part.pool, part.lent))
                {
                    Some(p) => {
                        p.resources.try_add(&part.resources);
                    }
                    None => parts.push(part.clone()),
                }
            }
        }
        out.ok_or(Rejection::NoOffers)
    }

    fn own_offer(
        &self,
        framework: Idx,
        framework_id: &FrameworkId,
        id: &OfferId,
    ) -> Result<(u64, &Held), Rejection> {
        let number = self.number(id);
        let found = number.and_then(|n| Some((n, self.offers.get(&n)?)));
        let (number, held) = found.ok_or_else(|| Rejection::StaleOffer(id.clone()))?;
        let owner = self.clients.get(held.client).map(|c| c.framework);
        if owner == Some(framework) {
            Ok((number, held))
        } else {
            Err(Rejection::ForeignOffer {
                offer_id: id.clone(),
                framework_id: framework_id.clone(),
            })
        }
    }

    pub(crate) fn all_declined(
        &mut self,
        framework_id: &FrameworkId,
        offer_ids: &[OfferId],
        refuse: Millis,
        now: UnixMillis,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let framework = self.subscribed(framework_id)?;
        for id in offer_ids {
            match self.own_offer(framework, framework_id, id).map(|(n, _)| n) {
                Ok(number) => {
                    self.stats.n_declined += 1;
                    if let Some(held) = self.close(number, run) {
                        self.turned_down(&held, refuse, now);
                    }
                }
                Err(reason) => self.reject("decline", reason, run),
            }
        }
        Ok(())
    }

    pub(crate) fn make_offer(
        &mut self,
        idx: Idx,
        client: Idx,
        bundle: Bundle,
        n_candidates: u32,
        now: UnixMillis,
    ) -> Option<Offer> {
        let number = self.seq + 1;
        let agent = self.agents.get_mut(idx)?;
        agent.hold(&bundle, number)?;
        self.seq = number;
        self.stats.n_offers += 1;
        agent.declined.remove(client);
        let c = self.clients.get_mut(client)?;
        agent.last_choice = Some(LastChoice {
            client,
            birth: c.birth,
            role_share: 0,
            n_candidates,
            at: now,
        });
        c.last_offer = number;
        c.n_offers += 1;
        let role = c.role;
        let share = self
            .tree
            .nodes
            .get(role)
            .map(|n| self.tree.yardstick.share(&n.allocated, n.weight_milli));
        if let (Some(choice), Some(share)) = (&mut agent.last_choice, share) {
            choice.role_share = share;
        }
        self.tree.offered(role, number);
        self.recount(idx);
        self.charge_bundle(client, &bundle, true);
        let expires = now + self.config.offer_timeout;
        self.timers.insert((expires, Timer::Offer(number)));
        let held = Held {
            client,
            agent: idx,
            bundle,
            at: now,
            expires,
        };
        let offer = self.show(number, &held);
        self.offers.insert(number, held);
        offer
    }

    /// An offer as its framework sees it.
    pub(crate) fn show(&self, number: u64, held: &Held) -> Option<Offer> {
        let agent = self.agents.get(held.agent)?;
        let client = self.clients.get(held.client)?;
        let mut id = String::with_capacity(self.config.id_prefix.len() + 12);
        id.push_str(&self.config.id_prefix);
        id.push_str("-O");
        push_number(&mut id, number);
        Some(Offer {
            offer_id: OfferId::new(id).ok()?,
            framework_id: self.frameworks.get(client.framework)?.id.clone(),
            role: self.tree.name(client.role).to_owned(),
            agent_id: agent.info.agent_id.clone(),
            hostname: agent.info.hostname.clone(),
            ip: agent.info.ip,
            attributes: agent.info.attributes.clone(),
            resources: held.bundle.sum.clone(),
            parts: if held.bundle.parts.is_empty() {
                Vec::new()
            } else {
                let parts = held.bundle.all_parts().into_iter();
                parts.map(|p| self.show_part(p)).collect()
            },
            domain: agent.info.domain.clone(),
            unavailability: agent.upkeep.window,
            at: held.at,
        })
    }

    fn charge_bundle(&mut self, client: Idx, bundle: &Bundle, add: bool) {
        if bundle.parts.is_empty() {
            return self.charge(client, &bundle.sum, add, true);
        }
        for part in bundle.all_parts() {
            self.charge(client, &part.resources, add, part.is_plain());
        }
    }

    /// Ends an offer with nothing used; its resources are free again.
    pub(crate) fn close(&mut self, number: u64, run: &mut Run) -> Option<Held> {
        let held = self.offers.remove(&number)?;
        self.timers.remove(&(held.expires, Timer::Offer(number)));
        if let Some(agent) = self.agents.get_mut(held.agent) {
            agent.unhold(&held.bundle, number);
        }
        if let Some(c) = self.clients.get_mut(held.client) {
            c.n_offers = c.n_offers.saturating_sub(1);
            self.tree.offer_ended(c.role);
        }
        self.charge_bundle(held.client, &held.bundle, false);
        self.touch(held.agent, run);
        Some(held)
    }

    pub(crate) fn rescind(
        &mut self,
        number: u64,
        reason: RescindReason,
        run: &mut Run,
    ) -> Option<Held> {
        let shown = self.offers.get(&number).and_then(|h| self.show(number, h));
        let held = self.close(number, run)?;
        self.stats.n_rescinded += 1;
        if let Some(offer) = shown {
            run.effects.push(Effect::Rescind {
                offer_id: offer.offer_id,
                framework_id: offer.framework_id,
                agent_id: offer.agent_id,
                reason,
            });
        }
        Some(held)
    }

    pub(crate) fn rescind_agent(&mut self, idx: Idx, reason: RescindReason, run: &mut Run) {
        let Some(agent) = self.agents.get(idx) else {
            return;
        };
        for number in agent.offers.clone() {
            self.rescind(number, reason, run);
        }
    }
}

fn overuse(asked: &Resources, offered: &Resources) -> Rejection {
    Rejection::Overuse {
        asked: Box::new(asked.clone()),
        offered: Box::new(offered.clone()),
    }
}

/// Decimal digits, without the formatting machinery.
fn push_number(to: &mut String, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(n % 10).unwrap_or(0);
        n /= 10;
        if n == 0 {
            break;
        }
    }
    to.extend(digits[at..].iter().map(|d| char::from(*d)));
}
