//! The master's process and its store: what it says becomes messages and writes.

use std::{net::Ipv4Addr, sync::Arc};

use waggle_master::{
    core::{Answer, CoreConfig, Effect, Event, MasterCore, Restored},
    store::{Entry, StoreOp},
    view::MasterView,
};
use waggle_types::{FrameworkId, Millis, SchedulerEvent};

use crate::{
    Sim, Violation,
    link::{EventDown, FrameworkDelivery},
    network::{Delivery, Down},
};

impl Sim {
    pub(crate) fn master_up(&mut self) -> Result<(), Violation> {
        if self.master.is_some() {
            return Ok(());
        }
        self.log(format_args!("master starts"));
        self.n_master_starts += 1;
        let restored =
            Restored::load(&self.entries()).map_err(|e| Violation::Store(e.to_string()))?;
        let seed = self.rng.any();
        let config = self.core_config(seed)?;
        let (core, effects) = MasterCore::new(config, restored, self.now);
        self.master = Some(core);
        self.net = None;
        self.master_effects(effects)?;
        self.finish_batch()?;
        self.check_books()
    }

    /// What the store holds.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let all = self.store.iter();
        all.map(|(key, value)| Entry {
            key: key.clone(),
            value: value.clone(),
            revision: 1,
        })
        .collect()
    }

    pub(crate) fn core_config(&self, seed: u64) -> Result<CoreConfig, Violation> {
        let view = MasterView {
            id: format!("m{seed:x}"),
            hostname: "m".into(),
            ip: Ipv4Addr::new(192, 168, 77, 250),
            mesos_port: 5050,
            marathon_port: 8080,
        };
        let framework_id = FrameworkId::new(format!("fw-{seed:x}"))
            .map_err(|e| Violation::Store(e.to_string()))?;
        Ok(CoreConfig {
            offer_timeout: Millis(self.plan.offer_timeout_ms),
            ..CoreConfig::new(view, framework_id, seed)
        })
    }

    pub(crate) fn master_down(&mut self) {
        if self.master.take().is_none() {
            return;
        }
        self.log(format_args!("master dies"));
        for session in std::mem::take(&mut self.sessions).into_keys() {
            self.after(1, 1_000, Delivery::AgentSees(session));
        }
        for link in std::mem::take(&mut self.links).into_keys() {
            let seen = FrameworkDelivery::FrameworkSees(link);
            self.after(1, 1_000, Delivery::Framework(seen));
        }
        // Requests without an answer stay open for ever; clients ask again.
        self.requests.clear();
        self.calls.clear();
        self.jobs.master_died();
        self.operations.clear();
        self.offer_agents.clear();
        self.charged.clear();
        self.subscribing.clear();
        self.waits.clear();
        self.after(500, 20_000, Delivery::MasterUp);
    }

    pub(crate) fn tell_master(&mut self, event: Event) -> Result<(), Violation> {
        let may_exceed = matches!(event, Event::Register { .. });
        let now = self.now;
        let Some(core) = &mut self.master else {
            return Ok(());
        };
        let effects = core.handle(event, now);
        self.master_effects(effects)?;
        self.finish_batch()?;
        self.check_books()?;
        self.check_upkeep()?;
        self.check_jobs()?;
        self.check_limits(may_exceed)?;
        self.check_waits()
    }

    fn finish_batch(&mut self) -> Result<(), Violation> {
        let now = self.now;
        match &mut self.master {
            Some(core) => {
                let effects = core.finish(now);
                self.master_effects(effects)
            }
            None => Ok(()),
        }
    }

    fn master_effects(&mut self, effects: Vec<Effect>) -> Result<(), Violation> {
        self.check_launches(&effects)?;
        for effect in effects {
            if self.rng.chance(self.plan.master_cuts) {
                self.master_down();
                return Ok(());
            }
            match effect {
                Effect::Persist(ops) => {
                    for op in ops {
                        self.jobs.note(op.key());
                        match op {
                            StoreOp::Put { key, value } => self.store.insert(key, value),
                            StoreOp::Delete { key } => self.store.remove(&key),
                        };
                    }
                }
                Effect::Opened { session, agent_id } => {
                    self.check_opened(&agent_id)?;
                    if let Some(s) = self.sessions.get_mut(&session.0) {
                        s.opened = true;
                    }
                    if let Some(net) = self.net.clone() {
                        self.send_down(session.0, Down::Net(net));
                    }
                }
                Effect::SendAgent { session, msg } => self.send_down(session.0, Down::Msg(msg)),
                Effect::Close { session } => self.send_down(session.0, Down::Closed),
                Effect::PublishNet { snapshot, .. } => {
                    self.net = Some(Arc::clone(&snapshot));
                    let open = self.sessions.iter().filter(|(_, s)| s.opened);
                    for session in open.map(|(id, _)| *id).collect::<Vec<_>>() {
                        self.send_down(session, Down::Net(Arc::clone(&snapshot)));
                    }
                }
                Effect::Reply { request, answer } => self.answer(request.0, &answer),
                Effect::SendFramework {
                    subscription,
                    event,
                } => {
                    if let SchedulerEvent::Offers(offers) = &event {
                        self.was_offered(subscription.0);
                        let agents = offers
                            .iter()
                            .map(|o| (o.offer_id.clone(), o.agent_id.clone()));
                        self.offer_agents.extend(agents);
                    }
                    self.send_event(subscription.0, EventDown::Event(event));
                }
                Effect::CloseFramework { subscription, why } => {
                    self.send_event(subscription.0, EventDown::Closed(why));
                }
                Effect::Trace(_) | Effect::Measure(_) | Effect::Say { .. } => {}
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: u64, answer: &Answer) {
        if self.job_answered(request, answer) {
            return;
        }
        if let Answer::Called(called) = answer {
            if !self.operated(request, called) {
                self.called(request, called.clone());
            }
            return;
        }
        let Some(id) = self.requests.remove(&request) else {
            return;
        };
        if !self.requests.values().any(|other| *other == id) {
            self.unanswered.remove(&id);
        }
        if let Answer::Deployment(Ok(d)) = answer {
            // A removal answers the version that it removes.
            let found = self
                .master
                .as_ref()
                .and_then(|m| m.scheduler().service(&id));
            let removed = found.is_none_or(waggle_services::Service::is_removing);
            self.answered.insert(id, (!removed).then_some(d.version));
        }
    }
}
