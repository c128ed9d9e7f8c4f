//! Frameworks other than the built-in one: their processes die and come back with what they wrote down; what
//! each decides is in [`Mind`].

use std::collections::VecDeque;

use waggle_master::core::{Event, FrameworkCall, RequestId, SubscriptionId};
use waggle_types::{
    CallRejection, FrameworkId, FrameworkInfo, RejectReason, SchedulerCall, SchedulerEvent,
};

use crate::{
    Sim, Violation,
    link::{CallUp, EventDown, FrameworkDelivery},
    mind::Mind,
    network::Delivery,
};

/// A framework. `mind` and `id` are on its disk.
pub(crate) struct Foreign {
    pub mind: Mind,
    pub id: Option<FrameworkId>,
    /// Counts starts of its process.
    pub life: u64,
    pub is_up: bool,
    pub partitioned: bool,
    /// The stream that it uses.
    pub link: Option<u64>,
    /// The stream said that it is subscribed.
    pub subscribed: bool,
    /// It is to be torn down for good.
    pub retired: bool,
    /// It was, and does not come back.
    pub is_gone: bool,
    /// Not answered yet; the first is on its way.
    pub calls: VecDeque<FrameworkCall>,
}

impl Foreign {
    pub fn new(mind: Mind) -> Self {
        Self {
            mind,
            id: None,
            life: 0,
            is_up: false,
            partitioned: false,
            link: None,
            subscribed: false,
            retired: false,
            is_gone: false,
            calls: VecDeque::new(),
        }
    }

    /// Whether it is subscribed and has nothing more to say.
    pub fn is_idle(&self) -> bool {
        self.subscribed && self.calls.is_empty()
    }
}

impl Sim {
    pub(crate) fn framework_delivery(&mut self, what: FrameworkDelivery) -> Result<(), Violation> {
        match what {
            FrameworkDelivery::ToMaster(link, call) => self.call_up(link, call),
            FrameworkDelivery::ToFramework(link, event) => self.event_down(link, event),
            FrameworkDelivery::FrameworkSees(link) => {
                self.framework_sees(link);
                Ok(())
            }
            FrameworkDelivery::MasterSees(link) => {
                self.links.remove(&link);
                let subscription = SubscriptionId(link);
                self.tell_master(Event::Unsubscribed { subscription })
            }
            FrameworkDelivery::Subscribe { framework, life } => {
                self.subscribe(framework, life);
                Ok(())
            }
            FrameworkDelivery::Up(at) => {
                self.framework_up(at);
                Ok(())
            }
            FrameworkDelivery::Tick(link) => {
                if let Some(at) = self.framework_of(link) {
                    let calls = self.frameworks[at].mind.tick();
                    self.say(at, calls);
                    self.after_framework(10_000, 15_000, FrameworkDelivery::Tick(link));
                }
                Ok(())
            }
            FrameworkDelivery::Heal(at) => {
                self.frameworks[at].partitioned = false;
                Ok(())
            }
            FrameworkDelivery::Retire(at) => {
                self.frameworks[at].retired = true;
                if self.frameworks[at].subscribed {
                    self.say(at, vec![FrameworkCall::Teardown]);
                }
                Ok(())
            }
        }
    }

    fn after_framework(&mut self, low: u64, high: u64, what: FrameworkDelivery) {
        self.after(low, high, Delivery::Framework(what));
    }

    /// The framework that still uses a stream.
    pub(crate) fn framework_of(&self, link: u64) -> Option<usize> {
        self.frameworks.iter().position(|f| f.link == Some(link))
    }

    pub(crate) fn framework_up(&mut self, at: usize) {
        if self.frameworks[at].is_up || self.frameworks[at].is_gone {
            return;
        }
        self.log(format_args!("framework {at} starts"));
        let f = &mut self.frameworks[at];
        f.is_up = true;
        f.life += 1;
        let life = f.life;
        let subscribe = FrameworkDelivery::Subscribe {
            framework: at,
            life,
        };
        self.after_framework(1, 50, subscribe);
    }

    /// The process dies; its stream breaks, which the master sees in its own time.
    pub(crate) fn framework_down(&mut self, at: usize) {
        self.log(format_args!("framework {at} dies"));
        self.frameworks[at].is_up = false;
        if let Some(link) = self.lose_link(at) {
            self.doom_link(link, 1, 15_000);
        }
    }

    /// Another process takes over, while the stream of the first is still open.
    pub(crate) fn framework_failover(&mut self, at: usize) {
        self.log(format_args!("framework {at} fails over"));
        self.frameworks[at].is_up = false;
        self.lose_link(at);
        self.framework_up(at);
    }

    fn lose_link(&mut self, at: usize) -> Option<u64> {
        let f = &mut self.frameworks[at];
        f.subscribed = false;
        f.calls.clear();
        let link = f.link.take();
        if link.is_some() {
            f.mind.cut();
        }
        link
    }

    pub(crate) fn framework_sees(&mut self, link: u64) {
        let Some(at) = self.framework_of(link) else {
            return;
        };
        self.lose_link(at);
        let life = self.frameworks[at].life;
        let subscribe = FrameworkDelivery::Subscribe {
            framework: at,
            life,
        };
        self.after_framework(100, 2_000, subscribe);
    }

    fn subscribe(&mut self, at: usize, life: u64) {
        let f = &self.frameworks[at];
        if f.life != life || !f.is_up || f.link.is_some() {
            return;
        }
        if f.partitioned || self.master.is_none() {
            let again = FrameworkDelivery::Subscribe {
                framework: at,
                life,
            };
            self.after_framework(500, 5_000, again);
            return;
        }
        let info = FrameworkInfo {
            id: f.id.clone(),
            ..f.mind.info()
        };
        let link = self.open_link(at);
        self.frameworks[at].link = Some(link);
        self.send_call(link, CallUp::Subscribe(Box::new(info)));
        self.after_framework(10_000, 15_000, FrameworkDelivery::Tick(link));
    }

    fn call_up(&mut self, link: u64, call: CallUp) -> Result<(), Violation> {
        if !self.links.contains_key(&link) {
            return Ok(());
        }
        self.n_requests += 1;
        let request = RequestId(self.n_requests);
        self.calls.insert(self.n_requests, link);
        let subscription = SubscriptionId(link);
        let event = match call {
            CallUp::Subscribe(info) => {
                self.subscribing.insert(self.n_requests);
                let fresh_id = FrameworkId::new(format!("fw-{link}"))
                    .map_err(|e| Violation::Store(e.to_string()))?;
                Event::Subscribe {
                    request,
                    subscription,
                    info,
                    fresh_id,
                }
            }
            CallUp::Call(framework_id, call) => Event::Call {
                request,
                framework_id,
                subscription,
                call,
            },
        };
        self.tell_master(event)
    }

    /// The master's answer to a subscription or a call.
    pub(crate) fn called(&mut self, request: u64, answer: Result<(), Vec<CallRejection>>) {
        let Some(link) = self.calls.remove(&request) else {
            return;
        };
        if !self.subscribing.remove(&request) {
            self.send_event(link, EventDown::Answer(answer));
        } else if let Some(why) = answer.err().and_then(|all| all.into_iter().next()) {
            self.send_event(link, EventDown::Closed(why));
        }
    }

    fn event_down(&mut self, link: u64, event: EventDown) -> Result<(), Violation> {
        let Some(at) = self.framework_of(link) else {
            return Ok(());
        };
        match event {
            EventDown::Event(event) => {
                self.check_end(at, &event)?;
                let f = &mut self.frameworks[at];
                let calls = if let SchedulerEvent::Subscribed { framework_id } = event {
                    f.id = Some(framework_id);
                    f.subscribed = true;
                    let mut calls = f.mind.subscribed();
                    if f.retired {
                        calls.push(FrameworkCall::Teardown);
                    }
                    calls
                } else {
                    f.mind.hear(&event, &mut self.rng)
                };
                self.say(at, calls);
                Ok(())
            }
            EventDown::Answer(answer) => {
                let Some(call) = self.frameworks[at].calls.pop_front() else {
                    return Ok(());
                };
                if let Some(asked) = self.asked.remove(&link) {
                    self.ledger.settle(&asked, answer.is_ok());
                }
                self.check_answer_to(at, &call, &answer)?;
                self.send_next(at);
                let calls = self.frameworks[at].mind.answered(&call, &answer);
                self.say(at, calls);
                if call == FrameworkCall::Teardown && answer.is_ok() {
                    self.log(format_args!("framework {at} is torn down"));
                    self.frameworks[at].forget_id();
                    self.n_torn_down += 1;
                    self.after_framework(1, 2_000, FrameworkDelivery::MasterSees(link));
                    self.framework_sees(link);
                }
                Ok(())
            }
            EventDown::Closed(why) => {
                let id = self.frameworks[at].id.clone();
                self.log(format_args!(
                    "framework {at} {id:?} is closed: {}",
                    why.reason
                ));
                if why.reason == RejectReason::FrameworkRemoved {
                    self.frameworks[at].forget_id();
                }
                // The master's side ends a little later.
                self.after_framework(1, 2_000, FrameworkDelivery::MasterSees(link));
                self.framework_sees(link);
                Ok(())
            }
        }
    }

    /// Queues calls; the first goes out when none is on its way.
    pub(crate) fn say(&mut self, at: usize, calls: Vec<FrameworkCall>) {
        let f = &mut self.frameworks[at];
        if !f.subscribed {
            return;
        }
        let waits = !f.calls.is_empty();
        f.calls.extend(calls);
        if !waits {
            self.send_next(at);
        }
    }

    fn send_next(&mut self, at: usize) {
        let f = &self.frameworks[at];
        if let (Some(link), Some(id), Some(call)) = (f.link, f.id.clone(), f.calls.front()) {
            let call = Box::new(call.clone());
            self.about_to_ask(link, &call);
            self.send_call(link, CallUp::Call(id, call));
        }
    }

    /// Operations that change reservations are possible from here on, and sure when they are answered.
    fn about_to_ask(&mut self, link: u64, call: &FrameworkCall) {
        self.asked.remove(&link);
        let FrameworkCall::Scheduler(SchedulerCall::Accept {
            offer_ids,
            operations,
            ..
        }) = call
        else {
            return;
        };
        let agent = offer_ids.iter().find_map(|id| self.offer_agents.get(id));
        if let Some(agent_id) = agent {
            let asked = self.ledger.begin(agent_id, operations);
            self.asked.insert(link, asked);
        }
    }

    /// What a framework that keeps the rules must never be told.
    fn check_answer_to(
        &mut self,
        at: usize,
        call: &FrameworkCall,
        answer: &Result<(), Vec<CallRejection>>,
    ) -> Result<(), Violation> {
        let all = match answer {
            Ok(()) => {
                if let FrameworkCall::Scheduler(SchedulerCall::Accept { operations, .. }) = call {
                    self.n_accepted += operations.iter().map(|o| o.tasks().len()).sum::<usize>();
                }
                return Ok(());
            }
            Err(all) => all,
        };
        for r in all {
            let raced = matches!(
                r.reason,
                // Taken back, ended, or overtaken while the call was on its way.
                RejectReason::StaleOffer
                    | RejectReason::NotSubscribed
                    | RejectReason::FrameworkRemoved
                    | RejectReason::AgentDisconnected
                    | RejectReason::UnknownTask
                    | RejectReason::NoInverseOffer
            );
            if !raced {
                return Err(Violation::Refused(format!("framework {at}: {call:?}: {r}")));
            }
        }
        Ok(())
    }
}

impl Foreign {
    /// The master never takes the id again: what it had is over.
    fn forget_id(&mut self) {
        self.id = None;
        self.mind.removed();
        if self.retired {
            self.mind.clear();
            self.is_up = false;
            self.is_gone = true;
        }
    }
}
