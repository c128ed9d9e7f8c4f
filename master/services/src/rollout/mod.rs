//! Deployments of several services at once: in which order, and how far they are.
//!
//! [`Tree`] is what services and groups say of each other: which must be up before which, and what must not be there
//! twice. [`plan_deployment`] makes steps of a change; the actions of one step run side by side, and a step begins when
//! the one before it is over, as in Marathon. [`Rollout`] is where a deployment is. What one action does to its service
//! is [`crate::reconcile`]'s. [`assign_service_ports`] gives ports of apps a number of their own in the cluster.

mod progress;
mod service_ports;
mod steps;
mod tree;

pub use progress::{Advance, Rollout, Stage};
pub use service_ports::assign_service_ports;
pub use steps::{DeploymentPlan, DeploymentStep, ServiceChange, StepAction, plan_deployment};
pub use tree::{Dependencies, GroupDependencies, Tree, TreeError};
