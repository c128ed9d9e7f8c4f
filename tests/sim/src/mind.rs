//! What frameworks want and say: pure, as the rest.

use waggle_master::core::FrameworkCall;
use waggle_types::{
    CallRejection, FrameworkInfo, Resources, SchedulerCall, SchedulerEvent, TaskId,
};

use crate::{Rng, batch::Batch, keeper::Keeper};

/// A kind of framework.
pub(crate) enum Mind {
    /// Many short jobs.
    Batch(Batch),
    /// Reservations and volumes.
    Keeper(Keeper),
    /// Takes offers and never answers.
    Hoarder(FrameworkInfo),
}

impl Mind {
    /// Who it is; without an id.
    pub fn info(&self) -> FrameworkInfo {
        match self {
            Self::Batch(b) => b.info(),
            Self::Keeper(k) => k.info(),
            Self::Hoarder(info) => info.clone(),
        }
    }

    /// The stream is open: what was on its way when the last one broke is asked for.
    pub fn subscribed(&mut self) -> Vec<FrameworkCall> {
        match self {
            Self::Batch(b) => b.subscribed(),
            Self::Keeper(k) => k.subscribed(),
            Self::Hoarder(_) => Vec::new(),
        }
    }

    pub fn hear(&mut self, event: &SchedulerEvent, rng: &mut Rng) -> Vec<FrameworkCall> {
        match self {
            Self::Batch(b) => b.hear(event, rng),
            Self::Keeper(k) => k.hear(event, rng),
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
            Self::Keeper(k) => k.answered(call, answer),
            Self::Hoarder(_) => Vec::new(),
        }
    }

    /// Time for a look at what is not answered.
    pub fn tick(&mut self) -> Vec<FrameworkCall> {
        match self {
            Self::Batch(b) => b.reconcile(),
            Self::Keeper(k) => k.tick(),
            Self::Hoarder(_) => Vec::new(),
        }
    }

    /// The stream is dead.
    pub fn cut(&mut self) {
        match self {
            Self::Batch(b) => b.cut(),
            Self::Keeper(k) => k.cut(),
            Self::Hoarder(_) => {}
        }
    }

    /// The framework was removed and its tasks are killed.
    pub fn removed(&mut self) {
        match self {
            Self::Batch(b) => b.removed(),
            Self::Keeper(k) => k.removed(),
            Self::Hoarder(_) => {}
        }
    }

    /// Nothing is wanted any more.
    pub fn clear(&mut self) {
        match self {
            Self::Batch(b) => b.clear(),
            Self::Keeper(k) => k.clear(),
            Self::Hoarder(_) => {}
        }
    }

    /// The smallest offer that is of use now, where any that holds it is.
    pub fn wants(&self) -> Option<&Resources> {
        match self {
            Self::Batch(b) => b.wants(),
            // Of what it kept, where it kept it: its cells come to rest, or it complains.
            Self::Keeper(_) | Self::Hoarder(_) => None,
        }
    }

    /// Tasks that it believes to be alive.
    pub fn live(&self) -> Box<dyn Iterator<Item = &TaskId> + '_> {
        match self {
            Self::Batch(b) => Box::new(b.live()),
            Self::Keeper(k) => Box::new(k.live()),
            Self::Hoarder(_) => Box::new(std::iter::empty()),
        }
    }

    /// One of its tasks, that it is going to kill.
    pub fn pick(&mut self, rng: &mut Rng) -> Option<TaskId> {
        match self {
            Self::Batch(b) => b.pick(rng),
            Self::Keeper(_) | Self::Hoarder(_) => None,
        }
    }

    /// Whether it asked for this task's end, or does not know the task.
    pub fn asked_for_end(&self, task_id: &TaskId) -> bool {
        match self {
            Self::Batch(b) => b.asked_for_end(task_id),
            Self::Keeper(k) => k.asked_for_end(task_id),
            Self::Hoarder(_) => true,
        }
    }

    /// What is still to be done; empty when all is.
    pub fn unfinished(&self) -> Option<String> {
        match self {
            Self::Batch(b) => b.unfinished(),
            Self::Keeper(k) => k.unfinished(),
            Self::Hoarder(_) => None,
        }
    }
}

pub(crate) fn call(c: SchedulerCall) -> FrameworkCall {
    FrameworkCall::Scheduler(c)
}
