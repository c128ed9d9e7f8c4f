//! The life of an offer: made, then accepted, declined or rescinded.

use std::collections::BTreeSet;

use waggle_types::{AgentId, FrameworkId, Millis, Offer, OfferId, Resources, UnixMillis};

use crate::{
    Allocator, Choice, Effect, Rejection, RescindReason,
    allocator::{Held, Run},
    filters::Timer,
    ledger::is_negative,
    share,
};

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
        self.framework(framework_id)?;
        if is_negative(used) {
            return Err(Rejection::Negative(used.clone()));
        }
        let (agent_id, offered) = self.offers_of_one_agent(framework_id, offer_ids)?;
        let Some(rest) = offered.checked_sub(used) else {
            return Err(Rejection::Overuse {
                asked: used.clone(),
                offered,
            });
        };
        // The offers end unused, then the tasks take their part of what has become free: one step to
        // the outside, and no arithmetic on how several offers share one task.
        for id in offer_ids {
            self.close(id, run);
        }
        let taken = self.agent_mut(&agent_id)?.take_free(framework_id, used);
        if taken.is_none() {
            return Err(Rejection::Overuse {
                asked: used.clone(),
                offered,
            });
        }
        self.account(framework_id, used, share::add);
        self.stats.n_accepted += offer_ids.len() as u64;
        if !rest.is_empty() {
            self.add_filter(framework_id, &agent_id, rest, refuse, now);
        }
        Ok(())
    }

    /// The agent and the sum of these offers, if all are valid, of this framework and of one agent.
    fn offers_of_one_agent(
        &self,
        framework_id: &FrameworkId,
        offer_ids: &[OfferId],
    ) -> Result<(AgentId, Resources), Rejection> {
        let mut seen = BTreeSet::new();
        let mut agent_id: Option<&AgentId> = None;
        let mut sum = Resources::default();
        for id in offer_ids {
            if !seen.insert(id) {
                return Err(Rejection::DuplicateOffer(id.clone()));
            }
            let offer = self.own_offer(framework_id, id)?;
            match agent_id {
                Some(first) if *first != offer.agent_id => {
                    return Err(Rejection::MixedAgents {
                        first: first.clone(),
                        second: offer.agent_id.clone(),
                    });
                }
                _ => agent_id = Some(&offer.agent_id),
            }
            sum = sum.checked_add(&offer.resources).unwrap_or(sum);
        }
        match agent_id {
            Some(agent_id) => Ok((agent_id.clone(), sum)),
            None => Err(Rejection::NoOffers),
        }
    }

    fn own_offer(&self, framework_id: &FrameworkId, id: &OfferId) -> Result<&Offer, Rejection> {
        let held = self
            .offers
            .get(id)
            .ok_or_else(|| Rejection::StaleOffer(id.clone()))?;
        if held.offer.framework_id == *framework_id {
            Ok(&held.offer)
        } else {
            Err(Rejection::ForeignOffer {
                offer_id: id.clone(),
                framework_id: framework_id.clone(),
            })
        }
    }

    pub(crate) fn declined(
        &mut self,
        framework_id: &FrameworkId,
        id: &OfferId,
        refuse: Millis,
        now: UnixMillis,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        self.own_offer(framework_id, id)?;
        self.stats.n_declined += 1;
        if let Some(offer) = self.close(id, run) {
            self.turned_down(&offer, refuse, now);
        }
        Ok(())
    }

    pub(crate) fn make_offer(
        &mut self,
        agent_id: &AgentId,
        framework_id: FrameworkId,
        choice: Choice,
        now: UnixMillis,
    ) -> Option<Offer> {
        let offer_id = OfferId::new(format!("{}-O{}", self.config.id_prefix, self.seq + 1)).ok()?;
        let agent = self.agents.get_mut(agent_id)?;
        let resources = agent.offer_all(offer_id.clone())?;
        self.seq += 1;
        self.stats.n_offers += 1;
        let turn = agent.turns.entry(framework_id.clone()).or_default();
        turn.offered = self.seq;
        turn.declined = false;
        let offer = Offer {
            offer_id: offer_id.clone(),
            role: choice.role.clone(),
            agent_id: agent_id.clone(),
            hostname: agent.info.hostname.clone(),
            ip: agent.info.ip,
            attributes: agent.info.attributes.clone(),
            resources,
            at: now,
            framework_id,
        };
        agent.last_choice = Some(choice);
        self.account(&offer.framework_id, &offer.resources, share::add);
        if let Some(framework) = self.frameworks.get_mut(&offer.framework_id) {
            framework.last_offer = self.seq;
            if let Some(role) = self.roles.get_mut(&framework.role) {
                role.last_offer = self.seq;
            }
        }
        let expires = now + self.config.offer_timeout;
        self.timers
            .insert((expires, Timer::Offer(offer_id.clone())));
        let held = Held {
            offer: offer.clone(),
            expires,
        };
        self.offers.insert(offer_id, held);
        Some(offer)
    }

    /// Ends an offer with nothing used; its resources are free again.
    fn close(&mut self, id: &OfferId, run: &mut Run) -> Option<Offer> {
        let held = self.offers.remove(id)?;
        self.timers
            .remove(&(held.expires, Timer::Offer(id.clone())));
        let offer = held.offer;
        if let Some(agent) = self.agents.get_mut(&offer.agent_id) {
            agent.close_offer(id, &offer.resources);
        }
        self.account(&offer.framework_id, &offer.resources, share::sub);
        run.dirty.insert(offer.agent_id.clone());
        Some(offer)
    }

    pub(crate) fn rescind(
        &mut self,
        id: &OfferId,
        reason: RescindReason,
        run: &mut Run,
    ) -> Option<Offer> {
        let offer = self.close(id, run)?;
        self.stats.n_rescinded += 1;
        run.effects.push(Effect::Rescind {
            offer_id: id.clone(),
            framework_id: offer.framework_id.clone(),
            agent_id: offer.agent_id.clone(),
            reason,
        });
        Some(offer)
    }

    pub(crate) fn rescind_agent(
        &mut self,
        agent_id: &AgentId,
        reason: RescindReason,
        run: &mut Run,
    ) {
        let Some(agent) = self.agents.get(agent_id) else {
            return;
        };
        for id in agent.offers.clone() {
            self.rescind(&id, reason, run);
        }
    }
}
