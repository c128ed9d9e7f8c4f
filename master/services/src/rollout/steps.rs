//! From a change of services to steps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use waggle_types::{
    Balance, Command, PodOwn, PodSpec, ServiceId, ServiceRoles, ServiceSpec, TaskPort,
};

use crate::{Dependencies, DeploymentKind};

/// What becomes of one service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceChange {
    /// Its definition before; `None` for a new service.
    pub before: Option<Arc<ServiceSpec>>,
    /// Its definition afterwards; `None` for one that goes.
    pub after: Option<Arc<ServiceSpec>>,
    /// Replace its instances even if the definition is the same.
    pub restart: bool,
}

impl ServiceChange {
    /// What that takes, apart from its announcement; `None` when there is nothing on either side.
    pub fn kind(&self) -> Option<DeploymentKind> {
        match (&self.before, &self.after) {
            (None, None) => None,
            (Some(_), None) => Some(DeploymentKind::Stop),
            (None, Some(_)) => Some(DeploymentKind::Scale),
            (Some(_), Some(_)) if self.restart => Some(DeploymentKind::Restart),
            (Some(before), Some(after)) => Some(change_kind(before, after)),
        }
    }
}

impl ServiceChange {
    /// Whether every instance that is older is replaced, whatever its task looks like: it was asked for, or where
    /// instances may be has changed, as in Marathon. Those that are at home somewhere stay there.
    pub fn replaces(&self) -> bool {
        let (Some(before), Some(after)) = (&self.before, &self.after) else {
            return self.restart;
        };
        let place = |s: &ServiceSpec| (s.constraints.clone(), s.placement.clone());
        let at_home = before.residency.is_some() || after.residency.is_some();
        self.restart || (!at_home && place(before) != place(after))
    }
}

impl ServiceChange {
    /// Whether instances that run end for it: they are replaced, or the service goes. What is said of rolling, of
    /// failures, of how many there are and of what comes first leaves them as they are.
    pub fn ends_instances(&self) -> bool {
        match (&self.before, &self.after) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(before), Some(after)) => {
                let wants = as_tasks_have_it(after);
                self.replaces() || loosened(as_tasks_have_it(before), &wants) != wants
            }
        }
    }
}

/// A definition without what can't be read off a task; see [`is_current`](crate::is_current).
fn as_tasks_have_it(spec: &ServiceSpec) -> ServiceSpec {
    if let Some(pod) = &spec.pod {
        // What a pod says for all of its containers is in what each of them runs.
        let mut pod = PodSpec {
            max_instances: None,
            ..pod.as_ref().clone()
        };
        for c in &mut pod.containers {
            c.run = as_tasks_have_it(&c.run);
            c.own = PodOwn::default();
        }
        pod.containers.sort_by(|a, b| a.name.cmp(&b.name));
        return ServiceSpec {
            pod: Some(Box::new(pod)),
            volumes: spec.volumes.clone(),
            ..ServiceSpec::new(spec.id.clone(), Command::Executor)
        };
    }
    let mut ports = spec.ports.clone();
    for p in &mut ports {
        // The one that is asked of the agent, if it is a certain one. A service port is the service's.
        p.port = match &mut p.mapping {
            Some(m) => m.host_port.as_mut().map_or(0, std::mem::take),
            None if spec.require_ports => p.port,
            None => 0,
        };
        // Of its labels a task has where it is scraped.
        let metrics = TaskPort::metrics_of(&p.labels);
        p.labels = metrics.into_iter().map(|m| (String::new(), m)).collect();
        p.sources.clear();
        p.balance = Balance::default();
    }
    let none = ServiceSpec::new(spec.id.clone(), spec.command.clone());
    ServiceSpec {
        ports,
        resources: spec.resources.clone(),
        env: spec.env.clone(),
        labels: spec.labels.clone(),
        health_checks: spec.health_checks.clone(),
        container: spec.container.clone(),
        kill_grace: spec.kill_grace,
        user: spec.user.clone(),
        roles: ServiceRoles {
            role: Some(spec.role().to_owned()),
            ..ServiceRoles::default()
        },
        volumes: spec.volumes.clone(),
        secrets: spec.secrets.clone(),
        ..none
    }
}

/// Whoever has a certain port of the agent goes on with it where any will do.
fn loosened(mut is: ServiceSpec, wants: &ServiceSpec) -> ServiceSpec {
    for (is, wants) in is.ports.iter_mut().zip(&wants.ports) {
        if wants.port == 0 {
            is.port = 0;
        }
    }
    if let (Some(is), Some(wants)) = (&mut is.pod, &wants.pod) {
        for (is, wants) in is.containers.iter_mut().zip(&wants.containers) {
            let run = std::mem::replace(&mut is.run, wants.run.clone());
            is.run = loosened(run, &wants.run);
        }
    }
    is
}

/// Whether only the number of instances differs.
fn change_kind(old: &ServiceSpec, new: &ServiceSpec) -> DeploymentKind {
    let same = ServiceSpec {
        instances: new.instances,
        version: new.version,
        ..old.clone()
    };
    if same == *new {
        DeploymentKind::Scale
    } else {
        DeploymentKind::Restart
    }
}

/// One thing that a step does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepAction {
    /// What.
    pub kind: DeploymentKind,
    /// To which service.
    pub service: ServiceId,
    /// Whether that is a pod.
    pub pod: bool,
}

impl StepAction {
    /// Marathon's name: `ScaleApplication`, `ScalePod`.
    pub const fn marathon_action(&self) -> &'static str {
        match (self.kind, self.pod) {
            (DeploymentKind::Start, false) => "StartApplication",
            (DeploymentKind::Scale, false) => "ScaleApplication",
            (DeploymentKind::Restart, false) => "RestartApplication",
            (DeploymentKind::Stop, false) => "StopApplication",
            (DeploymentKind::Start, true) => "StartPod",
            (DeploymentKind::Scale, true) => "ScalePod",
            (DeploymentKind::Restart, true) => "RestartPod",
            (DeploymentKind::Stop, true) => "StopPod",
        }
    }
}

/// Actions that run side by side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeploymentStep {
    /// By service; each service is in a step once.
    pub actions: Vec<StepAction>,
}

/// The steps of a deployment, in order; none is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeploymentPlan {
    /// The steps.
    pub steps: Vec<DeploymentStep>,
}

impl DeploymentPlan {
    /// The services that it changes.
    pub fn services(&self) -> BTreeSet<&ServiceId> {
        let actions = self.steps.iter().flat_map(|s| &s.actions);
        actions.map(|a| &a.service).collect()
    }
}

impl fmt::Display for DeploymentPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            writeln!(f, "step {}", i + 1)?;
            for a in &step.actions {
                writeln!(f, "  {} {}", a.marathon_action(), a.service)?;
            }
        }
        Ok(())
    }
}

/// Marathon's plan: first what goes is stopped, then what is new is announced, with no instance; then services are
/// scaled or restarted in the order of `dependencies`, those whose longest chain of dependencies is of one length in
/// one step.
pub fn plan_deployment(
    changes: &BTreeMap<ServiceId, ServiceChange>,
    dependencies: &Dependencies,
) -> DeploymentPlan {
    let mut stops = DeploymentStep::default();
    let mut starts = DeploymentStep::default();
    let mut ranked: BTreeMap<usize, DeploymentStep> = BTreeMap::new();
    for (service, change) in changes {
        let either = change.after.as_ref().or(change.before.as_ref());
        let action = |kind| StepAction {
            kind,
            service: service.clone(),
            pod: either.is_some_and(|s| s.pod.is_some()),
        };
        match change.kind() {
            None => {}
            Some(DeploymentKind::Stop) => stops.actions.push(action(DeploymentKind::Stop)),
            Some(kind) => {
                if change.before.is_none() {
                    starts.actions.push(action(DeploymentKind::Start));
                }
                let step = ranked.entry(dependencies.rank(service)).or_default();
                step.actions.push(action(kind));
            }
        }
    }
    let steps = [stops, starts].into_iter().chain(ranked.into_values());
    DeploymentPlan {
        steps: steps.filter(|s| !s.actions.is_empty()).collect(),
    }
}
