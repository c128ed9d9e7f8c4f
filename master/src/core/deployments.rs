//! Deployments in flight: their lock, their steps and end, restarts and the way back.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use waggle_services::{Advance, DeploymentKind, Input, StepAction, TreeChange};
use waggle_types::{
    DeploymentId, ServiceId, ServiceSpec, ServiceVersion, TraceContext, UnixMillis,
};

use super::{
    DeploymentPhase, Effect, Flight, MasterCore, Measure, SpanKey, SpanParent, TraceKind, TraceOp,
    change::Wanted, stored,
};
use crate::{error::MasterError, handle::Deployment, store::StoreOp, view::EndedDeployment};

/// Ended deployments that are remembered, for who waited for one.
const MAX_ENDED: usize = 128;
/// Actions of a plan that its span tells.
const MAX_TOLD_ACTIONS: usize = 32;

/// How deployments have ended, newest last; shared with views until it changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends(Arc<VecDeque<EndedDeployment>>);

impl Ends {
    pub(super) fn show(&self) -> Arc<VecDeque<EndedDeployment>> {
        Arc::clone(&self.0)
    }

    pub(super) fn push(&mut self, id: &DeploymentId, outcome: &'static str, at: UnixMillis) {
        let all = Arc::make_mut(&mut self.0);
        if all.len() >= MAX_ENDED {
            all.pop_front();
        }
        let id = id.clone();
        all.push_back(EndedDeployment { id, outcome, at });
    }
}

/// A deployment that begins, if the request is allowed.
#[derive(Debug, Clone)]
pub(super) struct New {
    /// Made by the shell.
    pub(super) id: DeploymentId,
    /// Its root span, begun by the shell.
    pub(super) trace: Option<TraceContext>,
}

impl MasterCore {
    /// Replaces all instances by fresh ones: a new version of the same definition, and the order, kept
    /// with the deployment, that older ones go even though they would be the same.
    pub(super) fn restart(
        &mut self,
        service: &ServiceId,
        force: bool,
        id: DeploymentId,
        trace: Option<TraceContext>,
        now: UnixMillis,
    ) -> Result<Deployment, MasterError> {
        let Some(old) = self.services.get(service) else {
            return Err(MasterError::NoSuchService(service.clone()));
        };
        let wanted = Wanted {
            restart: BTreeSet::from([service.clone()]),
            ..Wanted::one(old.as_ref().clone())
        };
        self.change(&wanted, force, New { id, trace }, now)
    }

    /// Ends a deployment. With `rollback` all that it changed is put back as it was before, as a new deployment:
    /// services that it made are removed, those that it removes are defined again.
    pub(super) fn cancel(
        &mut self,
        id: &DeploymentId,
        rollback: bool,
        new: DeploymentId,
        trace: Option<TraceContext>,
        now: UnixMillis,
    ) -> Result<Option<Deployment>, MasterError> {
        let Some(flight) = self.flights.get(id) else {
            return Err(MasterError::NoSuchDeployment(id.clone()));
        };
        if rollback {
            let wanted = Wanted {
                carries_restart: false,
                returns: false,
                outcome: "rolled_back",
                ..Wanted::of(way_back(flight))
            };
            let new = New { id: new, trace };
            return self.change(&wanted, true, new, now).map(Some);
        }
        // The services' core goes on towards what is in force: only the lock is given up.
        let (ops, left) = self.overtake(std::slice::from_ref(id), "cancelled", now);
        self.persist(ops);
        self.let_go(left, &BTreeSet::new(), now);
        Ok(None)
    }

    /// Forgets the backoff delay of a service that waits.
    pub(super) fn reset_delay(
        &mut self,
        id: &ServiceId,
        now: UnixMillis,
    ) -> Result<(), MasterError> {
        if !self.services.contains_key(id) {
            return Err(MasterError::NoSuchService(id.clone()));
        }
        let queued = self
            .scheduler
            .service(id)
            .and_then(waggle_services::Service::queue_item);
        if queued.is_none() {
            return Err(MasterError::NotQueued(id.clone()));
        }
        self.schedule(Input::ResetDelay { id: id.clone() }, now);
        Ok(())
    }

    /// Deployments that have to give way for some services to be changed: none, unless forced. And whether there is
    /// room for one more.
    pub(super) fn check_locks(
        &self,
        services: &BTreeSet<ServiceId>,
        force: bool,
    ) -> Result<Vec<DeploymentId>, MasterError> {
        let mut overtaken = Vec::new();
        for (id, f) in &self.flights {
            let Some(service) = f.changes.keys().find(|s| services.contains(*s)) else {
                continue;
            };
            if !force {
                return Err(MasterError::Locked {
                    service: service.clone(),
                    deployment: id.clone(),
                });
            }
            overtaken.push(id.clone());
        }
        let max = self.config.max_running_deployments;
        if self.flights.len() - overtaken.len() >= max {
            return Err(MasterError::TooManyDeployments(max));
        }
        Ok(overtaken)
    }

    /// The order to replace older instances that a deployment of the service carries: what takes its
    /// place carries it on.
    pub(super) fn restart_goes_on(&self, service: &ServiceId) -> Option<ServiceVersion> {
        let of_it = self.flights.values().filter_map(|f| f.changes.get(service));
        of_it.filter_map(|c| c.restart_before).max()
    }

    /// Ends deployments that something else takes the place of; answers what is to be written, and those.
    pub(super) fn overtake(
        &mut self,
        ids: &[DeploymentId],
        outcome: &'static str,
        now: UnixMillis,
    ) -> (Vec<StoreOp>, Vec<Flight>) {
        let (mut ops, mut flights) = (Vec::new(), Vec::new());
        for id in ids {
            if let Some(f) = self.flights.remove(id) {
                f.changes.keys().for_each(|s| self.shown.touch(s));
                let step = f.rollout.step_idx();
                self.say_deployment(id, &f, &[(DeploymentPhase::Failed, step)], now);
                let (ms, trace) = (now.since(f.since).0, f.trace);
                self.measure(Measure::Deployment { outcome, ms, trace });
                self.ends.push(id, outcome, now);
                flights.push(f);
            }
            self.end_deployment_span(id, Some(outcome));
            ops.push(stored::delete_deployment(id));
        }
        (ops, flights)
    }

    /// Services whose turn had not come when their deployment ended become what is in force, in no order. Those that
    /// are changed by what took its place are left to that.
    pub(super) fn let_go(
        &mut self,
        flights: Vec<Flight>,
        changed: &BTreeSet<ServiceId>,
        now: UnixMillis,
    ) {
        for f in flights {
            for (service, change) in &f.changes {
                let pending = f.rollout.stage(service) == waggle_services::Stage::Pending;
                if !pending || changed.contains(service) {
                    continue;
                }
                if let Some(spec) = self.services.get(service) {
                    let input = Input::Put {
                        spec: Box::new(spec.as_ref().clone()),
                        deployment_id: None,
                        restart_before: change.restart_before,
                        trace: f.trace,
                    };
                    self.schedule(input, now);
                }
            }
        }
    }

    /// Begins the actions of the step under way, and of those after it while there is nothing to wait for.
    pub(super) fn begin_step(&mut self, id: &DeploymentId, now: UnixMillis) {
        loop {
            self.set_deadline(id);
            let Some(flight) = self.flights.get(id) else {
                return;
            };
            let open: Vec<StepAction> = flight.rollout.open().cloned().collect();
            let mut over = Vec::new();
            for action in open {
                if !self.begin_action(id, &action, now) {
                    over.push(action.service);
                }
            }
            if !over.iter().any(|s| self.action_over(id, s, now)) {
                return;
            }
        }
    }

    /// Whether it takes time.
    fn begin_action(&mut self, id: &DeploymentId, action: &StepAction, now: UnixMillis) -> bool {
        let service = &action.service;
        let Some(flight) = self.flights.get(id) else {
            return false;
        };
        let (trace, deployment_id) = (flight.trace, Some(id.clone()));
        let input = match action.kind {
            DeploymentKind::Start => return false,
            DeploymentKind::Stop => {
                // Its turn never came.
                if self.scheduler.service(service).is_none() {
                    return false;
                }
                Input::Remove {
                    id: service.clone(),
                    deployment_id,
                    trace,
                }
            }
            DeploymentKind::Scale | DeploymentKind::Restart => {
                let change = flight.changes.get(service);
                let restart_before = change.and_then(|c| c.restart_before);
                let Some(spec) = self.services.get(service) else {
                    return false;
                };
                self.restarts.forget(service.as_str());
                Input::Put {
                    spec: Box::new(spec.as_ref().clone()),
                    deployment_id,
                    restart_before,
                    trace,
                }
            }
        };
        self.schedule(input, now);
        true
    }

    /// A service is as a deployment wants it.
    pub(super) fn action_done(&mut self, id: &DeploymentId, service: &ServiceId, now: UnixMillis) {
        if self.action_over(id, service, now) {
            self.begin_step(id, now);
        }
    }

    /// Whether another step begins with the end of an action.
    fn action_over(&mut self, id: &DeploymentId, service: &ServiceId, now: UnixMillis) -> bool {
        let Some(flight) = self.flights.get_mut(id) else {
            return false;
        };
        let step = flight.rollout.step_idx();
        match flight.rollout.done(service) {
            Advance::Waits => return false,
            Advance::Next => {}
            Advance::Finished => {
                self.finished(id, step, now);
                return false;
            }
        }
        flight.step_since = now;
        let flight = flight.clone();
        self.persist(vec![stored::put_deployment(id, &flight)]);
        let next = flight.rollout.step_idx();
        let mut phases = vec![(DeploymentPhase::StepDone, step)];
        for between in step + 1..next {
            phases.push((DeploymentPhase::StepBegins, between));
            phases.push((DeploymentPhase::StepDone, between));
        }
        phases.push((DeploymentPhase::StepBegins, next));
        self.say_deployment(id, &flight, &phases, now);
        true
    }

    /// The last step of a deployment is over.
    fn finished(&mut self, id: &DeploymentId, step: usize, now: UnixMillis) {
        let Some(flight) = self.flights.remove(id) else {
            return;
        };
        flight.changes.keys().for_each(|s| self.shown.touch(s));
        let (outcome, ms) = ("finished", now.since(flight.since).0);
        let trace = flight.trace;
        self.measure(Measure::Deployment { outcome, ms, trace });
        self.ends.push(id, outcome, now);
        self.persist(vec![stored::delete_deployment(id)]);
        let ends = [
            (DeploymentPhase::StepDone, step),
            (DeploymentPhase::Done, step),
        ];
        self.say_deployment(id, &flight, &ends, now);
        self.end_deployment_span(id, None);
    }

    pub(super) fn end_deployment_span(&mut self, id: &DeploymentId, error: Option<&'static str>) {
        self.out.push(Effect::Trace(TraceOp::End {
            key: SpanKey::Deployment(id.clone()),
            error: error.map(|e| (e, format!("deployment {e}"))),
        }));
    }

    /// What a deployment is going to do, as a span of no length: the core has no clock of its own.
    pub(super) fn plan_span(&mut self, id: &DeploymentId, flight: &Flight) {
        let Some(root) = flight.trace else {
            return;
        };
        let plan = flight.rollout.plan();
        let actions = plan.steps.iter().enumerate().flat_map(|(n, step)| {
            let of =
                move |a: &StepAction| format!("{} {} {}", n + 1, a.marathon_action(), a.service);
            step.actions.iter().map(of)
        });
        let n_actions: usize = plan.steps.iter().map(|s| s.actions.len()).sum();
        let mut told: Vec<String> = actions.take(MAX_TOLD_ACTIONS).collect();
        if n_actions > told.len() {
            told.push(format!("and {} more", n_actions - told.len()));
        }
        self.out.push(Effect::Trace(TraceOp::Record {
            key: SpanKey::Plan(id.clone()),
            name: "deployment.plan".to_owned(),
            kind: TraceKind::Internal,
            parent: SpanParent::Span(SpanKey::Deployment(id.clone()), Some(root)),
            start: flight.since,
            end: flight.since,
            attrs: vec![
                ("waggle.deployment.id", id.to_string()),
                ("waggle.deployment.steps", plan.steps.len().to_string()),
                ("waggle.deployment.actions", told.join(", ")),
            ],
        }));
    }

    /// A deployment that a master before this one began goes on in the same trace. The first root span
    /// died with that master, so a second one begins here, under the stored context of the first; what
    /// is launched from now on hangs under the second.
    pub(super) fn resume_span(&mut self, id: DeploymentId, flight: &Flight) {
        let Some(root) = flight.trace else {
            return;
        };
        let services: Vec<&str> = flight.changes.keys().map(ServiceId::as_str).collect();
        self.out.push(Effect::Trace(TraceOp::Begin {
            name: format!("deployment {id}"),
            kind: TraceKind::Internal,
            parent: SpanParent::Context(root),
            attrs: vec![
                ("waggle.deployment.id", id.to_string()),
                (
                    "service.name",
                    services.first().copied().unwrap_or_default().to_owned(),
                ),
                ("waggle.deployment.resumed", "true".to_owned()),
            ],
            key: SpanKey::Deployment(id),
        }));
    }

    /// Kept definitions of a service, oldest first, for readers.
    pub(super) fn show_versions(&self, id: &ServiceId) -> Vec<Arc<ServiceSpec>> {
        self.versions.of(id)
    }
}

/// What makes everything as it was before a deployment.
pub(super) fn way_back(flight: &Flight) -> TreeChange {
    let mut change = TreeChange {
        puts: BTreeMap::new(),
        removes: BTreeSet::new(),
        groups: flight.groups.clone(),
    };
    for (service, c) in &flight.changes {
        match &c.before {
            Some(spec) => {
                change.puts.insert(service.clone(), spec.as_ref().clone());
            }
            None => {
                change.removes.insert(service.clone());
            }
        }
    }
    change
}
