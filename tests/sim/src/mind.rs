//! What frameworks want and say: pure, as the rest.

use waggle_master::core::FrameworkCall;
use waggle_types::{
    CallRejection, FrameworkInfo, Resources, SchedulerCall, SchedulerEvent, TaskId,
};

use crate::{Rng, batch::Batch};

/// A kind of framework.
pub(crate) enum Mind {
    Batch(Batch),
    /// Takes offers and never answers.
    Hoarder(FrameworkInfo),
}

impl Mind {
    /// Who it is; without an id.
    pub fn info(&self) -> FrameworkInfo {
        match self {
            Self::Batch(b) => b.info(),
            Self::Hoarder(info) => info.clone(),
        }
    }

    /// The stream is open: what was on its way when the last one broke is asked for.
    pub fn subscribed(&mut self) -> Vec<FrameworkCall> {
        match self {
            Self::Batch(b) => b.subscribed(),
            Self::Hoarder(_) => Vec::new(),
        }
    }

    pub fn hear(&mut self, event: &SchedulerEvent, rng: &mut Rng) -> Vec<FrameworkCall> {
        match self {
            Self::Batch(b) => b.hear(event, rng),
            Self::Hoarder(_) => Vec::new(),
        }
    }

    pub fn answered(
        &mut self,
        call: &FrameworkCall,
        answer: &Result<(), Vec<CallRejection>>,
    ) -> Vec<FrameworkCall> {
        match self {
            Self::Batch(b) => b.answered(call, answer),
            Self::Hoarder(_) => Vec::new(),
        }
    }

    pub fn tick(&mut self) -> Vec<FrameworkCall> {
        match self {
            Self::Batch(b) => b.reconcile(),
            Self::Hoarder(_) => Vec::new(),
        }
    }

    /// The stream is dead.
    pub fn cut(&mut self) {
        if let Self::Batch(b) = self {
            b.cut();
        }
    }

    /// The framework was removed and its tasks are killed.
    pub fn removed(&mut self) {
        if let Self::Batch(b) = self {
            b.removed();
        }
    }

    /// Nothing is wanted any more.
    pub fn clear(&mut self) {
        if let Self::Batch(b) = self {
            b.clear();
        }
    }

    /// The smallest offer that is of use now.
    pub fn wants(&self) -> Option<&Resources> {
        match self {
            Self::Batch(b) => b.wants(),
            Self::Hoarder(_) => None,
        }
    }

    /// Tasks that it believes to be alive.
    pub fn live(&self) -> Box<dyn Iterator<Item = &TaskId> + '_> {
        match self {
            Self::Batch(b) => Box::new(b.live()),
            Self::Hoarder(_) => Box::new(std::iter::empty()),
        }
    }

    /// What is still to be done; empty when all is.
    pub fn unfinished(&self) -> Option<String> {
        match self {
            Self::Batch(b) => b.unfinished(),
            Self::Hoarder(_) => None,
        }
    }
}

pub(crate) fn call(c: SchedulerCall) -> FrameworkCall {
    FrameworkCall::Scheduler(c)
}
