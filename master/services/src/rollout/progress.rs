//! Where a deployment is in its plan.

use std::{collections::BTreeSet, sync::Arc};

use waggle_types::ServiceId;

use crate::{DeploymentKind, DeploymentPlan, StepAction};

/// A plan under way. A step is over when each of its actions is; to announce a new service takes no time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    plan: Arc<DeploymentPlan>,
    /// The step under way; as many as there are steps when all are over.
    step_idx: usize,
    /// Its actions that are not over.
    open: BTreeSet<ServiceId>,
}

/// What the end of an action means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// Others of the step are not over, or the action was not under way.
    Waits,
    /// Another step begins.
    Next,
    /// Everything is over.
    Finished,
}

/// How far a deployment is with one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It does not change it.
    Apart,
    /// Its turn comes.
    Pending,
    /// It is changed now.
    Running,
    /// It is changed.
    Done,
}

impl Rollout {
    /// A plan from its first step on.
    pub fn new(plan: DeploymentPlan) -> Self {
        Self::resumed(plan, 0)
    }

    /// A plan from a step on, none of whose actions is known to be over.
    pub fn resumed(plan: DeploymentPlan, step_idx: usize) -> Self {
        let mut rollout = Self {
            step_idx: step_idx.min(plan.steps.len()),
            plan: Arc::new(plan),
            open: BTreeSet::new(),
        };
        rollout.enter();
        rollout
    }

    /// The whole plan.
    pub fn plan(&self) -> &Arc<DeploymentPlan> {
        &self.plan
    }

    /// Position of the step under way; the number of steps when all are over.
    pub fn step_idx(&self) -> usize {
        self.step_idx
    }

    /// Whether all steps are over.
    pub fn is_finished(&self) -> bool {
        self.step_idx >= self.plan.steps.len()
    }

    /// Actions of the step under way.
    pub fn current(&self) -> &[StepAction] {
        let step = self.plan.steps.get(self.step_idx);
        step.map_or(&[], |s| s.actions.as_slice())
    }

    /// Of these, what is not over.
    pub fn open(&self) -> impl Iterator<Item = &StepAction> {
        let current = self.current().iter();
        current.filter(|a| self.open.contains(&a.service))
    }

    /// An action of the step under way is over.
    pub fn done(&mut self, service: &ServiceId) -> Advance {
        if !self.open.remove(service) || !self.open.is_empty() {
            return Advance::Waits;
        }
        self.step_idx += 1;
        self.enter();
        if self.is_finished() {
            Advance::Finished
        } else {
            Advance::Next
        }
    }

    /// How far it is with a service. Of one that is new the announcement does not count.
    pub fn stage(&self, service: &ServiceId) -> Stage {
        let mut steps = self.plan.steps.iter().enumerate().rev();
        let acts = |a: &StepAction| a.service == *service && a.kind != DeploymentKind::Start;
        match steps.find(|(_, s)| s.actions.iter().any(acts)) {
            None => Stage::Apart,
            Some((at, _)) if at > self.step_idx => Stage::Pending,
            Some((at, _)) if at == self.step_idx && self.open.contains(service) => Stage::Running,
            Some(_) => Stage::Done,
        }
    }

    /// Opens the step under way, and those after it for as long as there is nothing to wait for.
    fn enter(&mut self) {
        let plan = Arc::clone(&self.plan);
        while let Some(step) = plan.steps.get(self.step_idx) {
            let waits = step.actions.iter();
            let waits = waits.filter(|a| a.kind != DeploymentKind::Start);
            self.open = waits.map(|a| a.service.clone()).collect();
            if !self.open.is_empty() {
                return;
            }
            self.step_idx += 1;
        }
    }
}
