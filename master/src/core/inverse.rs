//! Inverse offers: frameworks that are asked to leave an agent before its maintenance begins.

use std::collections::{BTreeMap, BTreeSet};

use waggle_allocator::Event as Level1;
use waggle_services::Input;
use waggle_types::{
    AgentId, CallRejection, FrameworkId, InverseOffer, Millis, OfferId, RejectReason, Resources,
    SchedulerEvent, Unavailability, UnixMillis,
};

use super::{
    MasterCore,
    frameworks::{Called, no},
    refusals::level_1_says,
};
use crate::view::{self, LeaveAnswer};

/// Inverse offers that are out or accepted. Beyond it nobody is asked, and that is counted: who is still
/// there when the maintenance begins is evicted all the same.
const MAX_INVERSE: usize = 100_000;

/// What became of asking a framework to leave an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    /// This is out.
    Out(InverseOffer),
    /// It will leave before this.
    Accepted(Unavailability),
    /// It will not, and is asked again then.
    Declined(UnixMillis),
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Inverse {
    all: BTreeMap<AgentId, BTreeMap<FrameworkId, Asked>>,
    ids: BTreeMap<OfferId, (AgentId, FrameworkId)>,
    /// In `all`.
    len: usize,
    n_made: u64,
}

impl Inverse {
    /// Those that are out.
    pub(super) fn out(&self) -> impl Iterator<Item = &InverseOffer> {
        self.all.values().flatten().filter_map(|(_, a)| match a {
            Asked::Out(o) => Some(o),
            Asked::Accepted(_) | Asked::Declined(_) => None,
        })
    }

    /// Who was asked to leave an agent, and what they said.
    pub(super) fn asked(&self, agent: &AgentId) -> Vec<view::Asked> {
        let of = self.all.get(agent).into_iter().flatten();
        of.map(|(framework_id, asked)| view::Asked {
            framework_id: framework_id.clone(),
            answer: match asked {
                Asked::Out(_) => LeaveAnswer::Open,
                Asked::Accepted(_) => LeaveAnswer::Accepted,
                Asked::Declined(again) => LeaveAnswer::Declined { again: *again },
            },
        })
        .collect()
    }

    fn get(&self, agent: &AgentId, framework: &FrameworkId) -> Option<&Asked> {
        self.all.get(agent)?.get(framework)
    }

    fn put(&mut self, agent: AgentId, framework: FrameworkId, asked: Asked) {
        self.remove(&agent, &framework);
        if let Asked::Out(o) = &asked {
            let key = (agent.clone(), framework.clone());
            self.ids.insert(o.offer_id.clone(), key);
        }
        self.all.entry(agent).or_default().insert(framework, asked);
        self.len += 1;
    }

    /// Forgets what was asked; answers what was out.
    fn remove(&mut self, agent: &AgentId, framework: &FrameworkId) -> Option<InverseOffer> {
        let of = self.all.get_mut(agent)?;
        let asked = of.remove(framework)?;
        self.len -= 1;
        if of.is_empty() {
            self.all.remove(agent);
        }
        match asked {
            Asked::Out(o) => {
                self.ids.remove(&o.offer_id);
                Some(o)
            }
            Asked::Accepted(_) | Asked::Declined(_) => None,
        }
    }
}

impl MasterCore {
    /// Asks a framework to leave an agent, unless it has been asked.
    pub(super) fn ask_to_leave(
        &mut self,
        framework_id: FrameworkId,
        agent_id: AgentId,
        window: Unavailability,
        resources: Resources,
        now: UnixMillis,
    ) {
        let registered = self.frameworks.all.contains_key(&framework_id);
        if !registered && framework_id != self.framework_id {
            return;
        }
        match self.inverse.get(&agent_id, &framework_id) {
            Some(Asked::Accepted(w)) if *w == window => {
                // The agent registered again since: level 1 has forgotten it.
                let answered = Level1::InverseAnswered {
                    framework_id,
                    agent_id,
                    accepted: true,
                    refuse: Millis(0),
                };
                if self.try_allocate(answered, now).is_err() {
                    self.reject("level_1_refused");
                }
                return;
            }
            Some(Asked::Out(o)) if o.unavailability == window => return,
            Some(_) => self.rescind_inverse(&agent_id, &framework_id, now),
            None => {}
        }
        if self.inverse.len >= MAX_INVERSE {
            self.reject("too_many_inverse_offers");
            return;
        }
        self.inverse.n_made += 1;
        let id = format!("{}-I{}", self.config.offer_prefix, self.inverse.n_made);
        let Ok(offer_id) = OfferId::new(id) else {
            self.reject("bad_offer_prefix");
            return;
        };
        let offer = InverseOffer {
            offer_id,
            framework_id: framework_id.clone(),
            agent_id: agent_id.clone(),
            unavailability: window,
            resources,
        };
        let asked = Asked::Out(offer.clone());
        self.inverse.put(agent_id, framework_id.clone(), asked);
        self.say(&framework_id, SchedulerEvent::InverseOffer(offer), now);
    }

    /// Says something to any framework, the built-in one too.
    fn say(&mut self, id: &FrameworkId, event: SchedulerEvent, now: UnixMillis) {
        if *id == self.framework_id {
            self.schedule(Input::Scheduler(event), now);
        } else {
            self.send_framework(id, event);
        }
    }

    /// A framework subscribed: it hears again of what it has not answered.
    pub(super) fn repeat_inverse(&mut self, id: &FrameworkId) {
        let mine = self.inverse.out().filter(|o| o.framework_id == *id);
        let mine: Vec<InverseOffer> = mine.cloned().collect();
        for offer in mine {
            self.send_framework(id, SchedulerEvent::InverseOffer(offer));
        }
    }

    pub(super) fn rescind_inverse(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        now: UnixMillis,
    ) {
        if let Some(o) = self.inverse.remove(agent, framework) {
            self.say(framework, SchedulerEvent::RescindInverse(o.offer_id), now);
        }
    }

    /// Nobody is asked to leave an agent any more.
    pub(super) fn rescind_inverse_on(&mut self, agent: &AgentId, now: UnixMillis) {
        let of = self.inverse.all.get(agent);
        let of: Vec<FrameworkId> = of.map(|o| o.keys().cloned().collect()).unwrap_or_default();
        for framework in of {
            self.rescind_inverse(agent, &framework, now);
        }
    }

    /// A framework is gone: it is asked for nothing any more.
    pub(super) fn forget_inverse_of(&mut self, framework: &FrameworkId) {
        let agents = self.inverse.all.iter();
        let agents = agents.filter(|(_, of)| of.contains_key(framework));
        let agents: Vec<AgentId> = agents.map(|(a, _)| a.clone()).collect();
        for agent in agents {
            self.inverse.remove(&agent, framework);
        }
    }

    /// A task ended: who has left an agent is not asked any more.
    pub(super) fn left(&mut self, agent: &AgentId, framework: &FrameworkId, now: UnixMillis) {
        let asked = self.inverse.get(agent, framework).is_some();
        let mut tasks = self.tasks.of_agent(agent);
        if asked && !tasks.any(|t| t.spec.framework_id == *framework) {
            drop(tasks);
            self.rescind_inverse(agent, framework, now);
        }
    }

    /// A framework's answers. Those that are over race with their rescind: they are named, the others count.
    pub(super) fn answer_inverse(
        &mut self,
        id: &FrameworkId,
        offer_ids: &[OfferId],
        refuse: Option<Millis>,
        now: UnixMillis,
    ) -> Called {
        let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
        if offer_ids.is_empty() {
            let message = "no inverse offer is named";
            wrong.push(no(RejectReason::NoOffers, "offer_ids", message));
        }
        for offer_id in offer_ids {
            let answered = if seen.insert(offer_id) {
                self.answer_one(id, offer_id, refuse, now)
            } else {
                let message = "the inverse offer is named twice";
                Err(no(RejectReason::DuplicateOffer, offer_id, message))
            };
            wrong.extend(answered.err());
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn answer_one(
        &mut self,
        id: &FrameworkId,
        offer_id: &OfferId,
        refuse: Option<Millis>,
        now: UnixMillis,
    ) -> Result<(), CallRejection> {
        let Some((agent, framework)) = self.inverse.ids.get(offer_id).cloned() else {
            let message = "the inverse offer is over";
            return Err(no(RejectReason::NoInverseOffer, offer_id, message));
        };
        if framework != *id {
            let message = "the inverse offer was made to another framework";
            return Err(no(RejectReason::ForeignOffer, offer_id, message));
        }
        let answered = Level1::InverseAnswered {
            framework_id: id.clone(),
            agent_id: agent.clone(),
            accepted: refuse.is_none(),
            refuse: refuse.unwrap_or_default(),
        };
        self.try_allocate(answered, now)
            .map_err(|reason| level_1_says(offer_id, &reason))?;
        let out = self.inverse.remove(&agent, id);
        let asked = match (refuse, out) {
            (Some(refuse), _) => Asked::Declined(now + refuse),
            (None, Some(o)) => Asked::Accepted(o.unavailability),
            (None, None) => return Ok(()),
        };
        self.inverse.put(agent, framework, asked);
        Ok(())
    }
}
