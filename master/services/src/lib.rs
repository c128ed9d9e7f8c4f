//! Level 2, pure: long-running services as a framework (Marathon's job).
//!
//! [`reconcile`] is the heart: spec, instances and offers in, a [`Plan`] out. [`ServiceScheduler`] is what
//! surrounds it: it keeps the instances, takes inputs, and turns plans into scheduler calls. It sees offers
//! only; it has no other door into level 1.
//!
//! # Invariants
//! - By its own act it never takes the ready instances of a service below `minimumHealthCapacity`, and never
//!   has more instances than `maximumOverCapacity` allows. (When both together would forbid any step, one
//!   instance more than asked for is allowed, as in Marathon.) Deleting a service, and kills that a person
//!   asks for, are exempt.
//! - Offers are never held: each is accepted or declined in the call that brings it, with typed reasons.
//! - When nothing waits for offers they are suppressed; when something begins to wait they are revived.
//! - An instance that is a pod is launched whole or not at all, and when one container of it ends, all of it does.
//! - With nothing to do it does nothing: another look at the same situation gives an empty plan.
//! - All state can be rebuilt from specs and from the tasks that agents report ([`Input::Adopt`]): whether an
//!   instance is current is read off its task, not remembered.
//!
//! # What it never does
//! No clock, no entropy (ids and ports come from a seed), no I/O, no wire types. It does not run health
//! checks; agents do. It does not know the allocator.

#![forbid(unsafe_code)]

mod backoff;
mod choose;
mod constraints;
mod decisions;
mod deployment;
mod feasible;
mod groups;
mod homes;
mod ids;
mod input;
mod instance;
pub mod jobs;
mod matching;
mod pace;
mod plan;
mod pods;
mod queue;
mod reconcile;
mod residency;
mod rollout;
mod rule;
mod scheduler;
mod service;
mod task;
mod touched;
mod updates;

pub use choose::Around;
pub use constraints::{Constraint, Operator, Pattern, validate_constraints, wrong_constraints};
pub use decisions::{Because, Choice, Decision};
pub use deployment::{Deployment, DeploymentKind, DeploymentOutcome, Progress};
pub use feasible::{Feasible, feasible};
pub use groups::{MILLION, TreeChange, changed_groups};
pub use input::{Action, Change, Input};
pub use instance::{Goal, Instance, LastFailure, Place};
pub use matching::{DeclineReason, OpenOffer};
pub use plan::{HomeUse, Kill, KillReason, Launch, Plan, Refusal};
pub use pods::{Member, is_current_instance};
pub use queue::{QueueItem, ReasonCount, UnusedOffer};
pub use reconcile::{Capacity, Context, Limits, reconcile};
pub use residency::{Home, check_change, home_of};
pub use rollout::{
    Advance, Dependencies, DeploymentPlan, DeploymentStep, GroupDependencies, Rollout,
    ServiceChange, Stage, StepAction, Tree, TreeError, assign_service_ports, plan_deployment,
};
pub use rule::{Rule, RuleCount, Why, tell};
pub use scheduler::ServiceScheduler;
pub use service::Service;
pub use task::is_current;
pub use touched::Touches;
