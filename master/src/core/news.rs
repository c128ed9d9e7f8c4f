//! What clients who listen are told of services, as it happens.
//!
//! Views show the latest, and what changes and changes back between two of them is never seen; whoever waits for the
//! end of a deployment, or for each state of a task, is told here by the core itself, in order and after what it rests on
//! is in the store.

use std::{net::IpAddr, sync::Arc};

use waggle_services::{Change, DeploymentStep, Instance, StepAction};
use waggle_types::{
    AgentId, CheckPurpose, DeploymentId, GroupId, HealthCheck, HealthState, ServiceId, ServiceSpec,
    ServiceVersion, StatusReason, TaskId, TaskState, TaskStatus, UnixMillis,
};

use super::{Effect, Flight, MasterCore, groups::common, tasks::Task};
use crate::error::MasterError;

/// An instance that something is said of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRef {
    /// Its service.
    pub service: ServiceId,
    /// Its task.
    pub task_id: TaskId,
    /// The definition that it runs.
    pub version: ServiceVersion,
    /// Its agent.
    pub agent_id: AgentId,
    /// Node name of the agent.
    pub hostname: String,
}

impl InstanceRef {
    fn of(service: ServiceId, i: &Instance) -> Self {
        Self {
            service,
            task_id: i.task_id().clone(),
            version: i.version,
            agent_id: i.place.agent_id.clone(),
            hostname: i.place.hostname.clone(),
        }
    }
}

/// What a deployment does, and from what to what.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanNews {
    /// The deployment.
    pub id: DeploymentId,
    /// The version that it brings.
    pub version: ServiceVersion,
    /// Its steps, one after the other; the actions of each run side by side.
    pub steps: Vec<Vec<StepAction>>,
    /// Definitions that were in force before it, of the services that it changes.
    pub original: Vec<Arc<ServiceSpec>>,
    /// Definitions that it brings.
    pub target: Vec<Arc<ServiceSpec>>,
}

/// Where a deployment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeploymentPhase {
    /// A step begins.
    StepBegins,
    /// A step is done.
    StepDone,
    /// A step can't be done.
    StepFailed,
    /// All of it is done.
    Done,
    /// It ended otherwise: cancelled, or another took its place.
    Failed,
}

/// Something that happened to a service.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// A task is in another state.
    Status {
        /// Whose.
        of: InstanceRef,
        /// Which.
        state: TaskState,
        /// For people.
        message: String,
        /// Host ports in definition order.
        ports: Vec<u16>,
        /// Its own addresses, or its node's.
        ips: Vec<IpAddr>,
    },
    /// An instance is in another state.
    Instance {
        /// Which.
        of: InstanceRef,
        /// Its state.
        state: TaskState,
        /// It is out of reach for too long and not counted any more.
        inactive: bool,
    },
    /// The health checks of a task say something else.
    TaskHealth {
        /// Whose.
        of: InstanceRef,
        /// What they say.
        alive: bool,
    },
    /// The same, of its instance.
    InstanceHealth {
        /// Whose.
        of: InstanceRef,
        /// What they say.
        healthy: bool,
    },
    /// A health check has failed, each time up to a hundred in a row.
    CheckFailed {
        /// Whose.
        of: InstanceRef,
        /// The first of its health checks; which one failed is not told by agents.
        check: Box<HealthCheck>,
    },
    /// A task was killed for its failing checks.
    UnhealthyTaskKilled {
        /// Which.
        of: InstanceRef,
        /// For people.
        reason: String,
    },
    /// The same, of its instance.
    UnhealthyInstanceKilled {
        /// Which.
        of: InstanceRef,
        /// For people.
        reason: String,
    },
    /// A task ended that belongs to no instance.
    UnknownEnded {
        /// Which.
        task_id: TaskId,
        /// The service that it was launched for.
        service: String,
        /// How.
        state: TaskState,
    },
    /// A definition has a new health check.
    CheckAdded {
        /// Its service.
        service: ServiceId,
        /// The definition.
        version: ServiceVersion,
        /// What is new.
        check: Box<HealthCheck>,
    },
    /// A definition has a health check no more.
    CheckRemoved {
        /// Its service.
        service: ServiceId,
        /// What is gone.
        check: Box<HealthCheck>,
    },
    /// A deployment goes on or ends.
    Deployment {
        /// Where it is.
        phase: DeploymentPhase,
        /// What it does.
        plan: Arc<PlanNews>,
        /// Which of its steps this is about.
        step: usize,
    },
    /// Something in a group was changed, and is stored.
    GroupChanged {
        /// The group's path; `/` is the root.
        group: String,
        /// The version that the change made.
        version: ServiceVersion,
    },
    /// A change of something in a group was refused.
    GroupRefused {
        /// The group's path.
        group: String,
        /// When.
        version: ServiceVersion,
        /// For people.
        reason: String,
    },
    /// A removed service has no instance left.
    ServiceGone(ServiceId),
}

/// Health checks, without those for starting and readiness.
fn checks(spec: Option<&ServiceSpec>) -> Vec<&HealthCheck> {
    let all = spec.into_iter().flat_map(|s| &s.health_checks);
    all.filter(|c| c.purpose == CheckPurpose::Health).collect()
}

impl MasterCore {
    /// Tells who listens.
    pub(super) fn publish_news(&mut self, news: News, now: UnixMillis) {
        self.out.push(Effect::Say { news, at: now });
    }

    /// An instance changed, as level 2 sees it.
    pub(super) fn say_instance(&mut self, instance: &Instance, change: Change, now: UnixMillis) {
        let Ok(service) = ServiceId::new(&instance.task.service) else {
            return;
        };
        let state = instance.shown_state();
        let inactive = change == Change::Expunged;
        let of = InstanceRef::of(service, instance);
        match change {
            Change::Launched | Change::Expunged => {}
            // Taken on: after a restart of the master, or back after it was given up.
            Change::Adopted | Change::State | Change::Ended => {
                self.say_status(instance, &of, change == Change::Ended, now);
            }
            Change::Health | Change::Killing(_) => return,
        }
        let news = News::Instance {
            of,
            state,
            inactive,
        };
        self.publish_news(news, now);
    }

    /// The state of an instance's task, and whether its checks ended it.
    fn say_status(&mut self, instance: &Instance, of: &InstanceRef, ended: bool, now: UnixMillis) {
        let id = instance.task_id();
        let mut ended_ones = self.tasks.ended.iter().rev().map(AsRef::as_ref);
        let live = self.tasks.get(id);
        let task: Option<&Task> = live.or_else(|| ended_ones.find(|t: &&Task| t.id == *id));
        let message = task.map_or("", Task::message).to_owned();
        let own = task.and_then(|t| t.own_ip().map(IpAddr::from));
        let own6 = task.and_then(|t| t.own_ip6().map(IpAddr::from));
        let mut ips: Vec<IpAddr> = own.into_iter().chain(own6).collect();
        if ips.is_empty() {
            ips.push(instance.place.ip.into());
        }
        let by_checks = Some(StatusReason::TaskHealthCheckStatusUpdated);
        let unhealthy = ended && task.and_then(Task::status).map(|s| s.reason) == Some(by_checks);
        if unhealthy {
            let whose = (of.clone(), message.clone());
            let (of, reason) = whose.clone();
            self.publish_news(News::UnhealthyTaskKilled { of, reason }, now);
            let (of, reason) = whose;
            self.publish_news(News::UnhealthyInstanceKilled { of, reason }, now);
        }
        // Of a pod each container is told of, as its agent reports it.
        if !instance.members.is_empty() {
            return;
        }
        let news = News::Status {
            of: of.clone(),
            state: instance.shown_state(),
            message,
            ports: instance.host_ports(),
            ips,
        };
        self.publish_news(news, now);
    }

    /// The state of a pod's container, as its agent reported it.
    fn say_container(&mut self, status: &TaskStatus, now: UnixMillis) {
        let Some(instance) = self.scheduler.instance(&status.task_id) else {
            return;
        };
        let mut members = instance.members.iter();
        let member = members.find(|m| m.task.task_id == status.task_id);
        let service = ServiceId::new(&instance.task.service);
        let (Some(member), Ok(service)) = (member, service) else {
            return;
        };
        let mut of = InstanceRef::of(service, instance);
        of.task_id = status.task_id.clone();
        let own = status.ip.map(IpAddr::from).into_iter();
        let mut ips: Vec<IpAddr> = own.chain(status.ip6.map(IpAddr::from)).collect();
        if ips.is_empty() {
            ips.push(instance.place.ip.into());
        }
        let news = News::Status {
            of,
            state: status.state,
            message: status.message.clone(),
            ports: member.task.ports.iter().map(|p| p.host_port).collect(),
            ips,
        };
        self.publish_news(news, now);
    }

    /// An agent reported a task of a service: what its checks say, and ends of tasks that are no instance's. `was` is
    /// what was known of it before.
    pub(super) fn say_reported(
        &mut self,
        status: &TaskStatus,
        (state_was, was): (TaskState, HealthState),
        now: UnixMillis,
    ) {
        if state_was != status.state {
            self.say_container(status, now);
        }
        let Some(instance) = self.scheduler.instance(&status.task_id) else {
            if status.state.is_terminal() {
                let ended = self.tasks.ended.back();
                let ended = ended.filter(|t| t.id == status.task_id);
                let service = ended.map(|t| t.spec.service.clone()).unwrap_or_default();
                let news = News::UnknownEnded {
                    task_id: status.task_id.clone(),
                    service,
                    state: status.state,
                };
                self.publish_news(news, now);
            }
            return;
        };
        let mut members = instance.members.iter();
        let member = members.find(|m| m.task.task_id == status.task_id);
        let mut checks = member
            .map_or(&instance.task, |m| &m.task)
            .health_checks
            .iter();
        let check = checks.find(|c| c.purpose == CheckPurpose::Health);
        let Some(check) = check.cloned().map(Box::new) else {
            return;
        };
        let Ok(service) = ServiceId::new(&instance.task.service) else {
            return;
        };
        let changed = was != status.health;
        let failed = status.health == HealthState::Unhealthy
            && status.reason == Some(StatusReason::TaskHealthCheckStatusUpdated);
        if status.health == HealthState::Unknown || !(changed || failed) {
            return;
        }
        let of = InstanceRef::of(service, instance);
        let alive = status.health == HealthState::Healthy;
        if !alive {
            let of = of.clone();
            self.publish_news(News::CheckFailed { of, check }, now);
        }
        if !changed {
            return;
        }
        let whose = of.clone();
        self.publish_news(News::TaskHealth { of: whose, alive }, now);
        let healthy = alive;
        self.publish_news(News::InstanceHealth { of, healthy }, now);
    }

    /// A definition takes the place of another.
    pub(super) fn say_redefined(
        &mut self,
        old: Option<&ServiceSpec>,
        new: Option<&ServiceSpec>,
        now: UnixMillis,
    ) {
        let (before, after) = (checks(old), checks(new));
        if let Some(old) = old {
            for check in before.iter().filter(|c| !after.contains(c)) {
                let service = old.id.clone();
                let check = Box::new((*check).clone());
                self.publish_news(News::CheckRemoved { service, check }, now);
            }
        }
        if let Some(new) = new {
            for check in after.iter().filter(|c| !before.contains(c)) {
                let news = News::CheckAdded {
                    service: new.id.clone(),
                    version: new.version,
                    check: Box::new((*check).clone()),
                };
                self.publish_news(news, now);
            }
        }
    }

    /// A change of something in a group was refused.
    pub(super) fn say_refused(&mut self, group: &GroupId, why: &MasterError, now: UnixMillis) {
        let news = News::GroupRefused {
            group: group.to_string(),
            version: ServiceVersion(now),
            reason: why.to_string(),
        };
        self.publish_news(news, now);
    }

    /// A deployment is there: what it changes is stored. Steps that take no time are over already.
    pub(super) fn say_begun(&mut self, id: &DeploymentId, flight: &Flight, now: UnixMillis) {
        let services = flight.changes.keys().map(GroupId::of);
        let group = common(services.chain(flight.groups.keys().cloned())).to_string();
        let version = flight.version;
        self.publish_news(News::GroupChanged { group, version }, now);
        let mut phases = Vec::new();
        for step in 0..flight.rollout.step_idx() {
            phases.push((DeploymentPhase::StepBegins, step));
            phases.push((DeploymentPhase::StepDone, step));
        }
        // Who waits for the end of what changes nothing hears it, too.
        let phase = if flight.rollout.is_finished() {
            DeploymentPhase::Done
        } else {
            DeploymentPhase::StepBegins
        };
        phases.push((phase, flight.rollout.step_idx()));
        self.say_deployment(id, flight, &phases, now);
    }

    /// What a deployment comes to, each with the step that it is about.
    pub(super) fn say_deployment(
        &mut self,
        id: &DeploymentId,
        flight: &Flight,
        phases: &[(DeploymentPhase, usize)],
        now: UnixMillis,
    ) {
        let target = flight.changes.iter().filter_map(|(id, c)| {
            let version = c.after?;
            self.versions.get(id, version)
        });
        let step = |s: &DeploymentStep| s.actions.clone();
        let before = flight.changes.values().filter_map(|c| c.before.clone());
        let plan = Arc::new(PlanNews {
            id: id.clone(),
            version: flight.version,
            steps: flight.rollout.plan().steps.iter().map(step).collect(),
            original: before.collect(),
            target: target.collect(),
        });
        for (phase, step) in phases {
            let plan = Arc::clone(&plan);
            let news = News::Deployment {
                phase: *phase,
                plan,
                step: *step,
            };
            self.publish_news(news, now);
        }
    }
}
