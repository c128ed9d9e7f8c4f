//! Streams of frameworks and the calls beside them.
//!
//! Events come in order, answers come in order, but not relative to each other: they are different streams of
//! one connection. Calls go one by one, the next when the one before is answered. What dies with a connection
//! is what was on its way to the framework; what was on its way to the master may still arrive.

use waggle_master::core::FrameworkCall;
use waggle_types::{CallRejection, FrameworkId, FrameworkInfo, Millis, SchedulerEvent, UnixMillis};

use crate::{Sim, network::Delivery};

/// To the master.
#[derive(Debug, Clone)]
pub(crate) enum CallUp {
    Subscribe(Box<FrameworkInfo>),
    /// By whom, and what.
    Call(FrameworkId, Box<FrameworkCall>),
}

/// To a framework.
#[derive(Debug, Clone)]
pub(crate) enum EventDown {
    Event(SchedulerEvent),
    /// To the oldest call that has none.
    Answer(Result<(), Vec<CallRejection>>),
    /// The master ended the stream.
    Closed(CallRejection),
}

/// Something that will happen to a framework.
#[derive(Debug, Clone)]
pub(crate) enum FrameworkDelivery {
    ToMaster(u64, CallUp),
    ToFramework(u64, EventDown),
    /// The framework notices that its stream is dead.
    FrameworkSees(u64),
    /// The master notices.
    MasterSees(u64),
    /// A process tries to subscribe.
    Subscribe {
        framework: usize,
        life: u64,
    },
    /// A process starts.
    Up(usize),
    /// Time for a look at what is not answered.
    Tick(u64),
    /// A partition ends.
    Heal(usize),
    /// It is to be torn down for good.
    Retire(usize),
}

/// One stream of one framework: its number is that of the subscription.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub framework: usize,
    /// Cut off: nothing that is sent from now on arrives.
    pub doomed: bool,
    /// Arrival of the latest call, event and answer.
    last_call: UnixMillis,
    last_event: UnixMillis,
    last_answer: UnixMillis,
}

impl Sim {
    pub(crate) fn open_link(&mut self, framework: usize) -> u64 {
        self.n_links += 1;
        let link = Link {
            framework,
            doomed: false,
            last_call: self.now,
            last_event: self.now,
            last_answer: self.now,
        };
        self.links.insert(self.n_links, link);
        self.n_links
    }

    pub(crate) fn send_call(&mut self, link: u64, call: CallUp) {
        let delay = Millis(self.rng.between(1, 40));
        let at = self.now + delay;
        if let Some(l) = self.links.get_mut(&link).filter(|l| !l.doomed) {
            l.last_call = l.last_call.max(at);
            let at = l.last_call;
            let what = FrameworkDelivery::ToMaster(link, call);
            self.at(at, Delivery::Framework(what));
        }
    }

    pub(crate) fn send_event(&mut self, link: u64, event: EventDown) {
        let delay = Millis(self.rng.between(1, 40));
        let at = self.now + delay;
        if let Some(l) = self.links.get_mut(&link).filter(|l| !l.doomed) {
            let last = match event {
                EventDown::Answer(_) => &mut l.last_answer,
                EventDown::Event(_) | EventDown::Closed(_) => &mut l.last_event,
            };
            *last = at.max(*last);
            let at = *last;
            let what = FrameworkDelivery::ToFramework(link, event);
            self.at(at, Delivery::Framework(what));
        }
    }

    /// A stream dies; each end notices in its own time.
    pub(crate) fn doom_link(&mut self, link: u64, low: u64, high: u64) {
        if let Some(l) = self.links.get_mut(&link) {
            l.doomed = true;
        }
        let calls_too = self.rng.chance(500);
        self.queue.retain(|_, d| match d {
            Delivery::Framework(FrameworkDelivery::ToFramework(l, _)) => *l != link,
            Delivery::Framework(FrameworkDelivery::ToMaster(l, _)) => *l != link || !calls_too,
            _ => true,
        });
        for seen in [
            FrameworkDelivery::FrameworkSees(link),
            FrameworkDelivery::MasterSees(link),
        ] {
            self.after(low, high, Delivery::Framework(seen));
        }
    }
}
