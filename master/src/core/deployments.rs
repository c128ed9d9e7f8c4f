//! Deployments in flight: their lock, their end, restarts and the way back.

use std::sync::Arc;

use waggle_services::Input;
use waggle_types::{
    DeploymentId, ServiceId, ServiceSpec, ServiceVersion, TraceContext, UnixMillis,
};

use super::{
    DeploymentPhase, Effect, MasterCore, Measure, SpanKey, SpanParent, TraceKind, TraceOp,
    intents::{change_kind, next_version},
    stored,
};
use crate::{error::MasterError, handle::Deployment, store::StoreOp, view::DeploymentKind};

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
        let Some(old) = self.services.get(service).cloned() else {
            return Err(MasterError::NoSuchService(service.clone()));
        };
        self.check_lock(service, force)?;
        let spec = ServiceSpec {
            version: next_version(Some(&old), now),
            ..old.as_ref().clone()
        };
        let before = Some(spec.version);
        let kind = DeploymentKind::Restart;
        self.define(spec, kind, before, New { id, trace }, now)
    }

    /// Ends a deployment. With `rollback` the definition before it is put in force again, as a new
    /// deployment; a service that it made is removed, one that it removes is defined again.
    pub(super) fn cancel(
        &mut self,
        id: &DeploymentId,
        rollback: bool,
        new: DeploymentId,
        trace: Option<TraceContext>,
        now: UnixMillis,
    ) -> Result<Option<Deployment>, MasterError> {
        let Some(flight) = self.flights.get(id).cloned() else {
            return Err(MasterError::NoSuchDeployment(id.clone()));
        };
        if !rollback {
            // The services' core goes on towards what is in force: only the lock is given up.
            let ops = self.overtake(&flight.service, "cancelled", now);
            self.persist(ops);
            return Ok(None);
        }
        let current = self.services.get(&flight.service).cloned();
        let Some(previous) = flight.previous else {
            return self
                .remove(&flight.service, true, new, trace, now)
                .map(Some);
        };
        // What was free then may be taken by another service now.
        self.check_spec(&previous)?;
        let newest = current.as_deref().unwrap_or(&previous);
        let spec = ServiceSpec {
            version: next_version(Some(newest), now),
            ..previous.as_ref().clone()
        };
        let kind = current
            .as_deref()
            .map_or(DeploymentKind::Start, |c| change_kind(c, &spec));
        let new = New { id: new, trace };
        self.define(spec, kind, None, new, now).map(Some)
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

    pub(super) fn check_lock(&self, service: &ServiceId, force: bool) -> Result<(), MasterError> {
        match self.flights.iter().find(|(_, f)| f.service == *service) {
            Some((id, _)) if !force => Err(MasterError::Locked {
                service: service.clone(),
                deployment: id.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The order to replace older instances that a deployment of the service carries: what takes its
    /// place carries it on.
    pub(super) fn restart_goes_on(&self, service: &ServiceId) -> Option<ServiceVersion> {
        let of_it = self.flights.values().filter(|f| f.service == *service);
        of_it.filter_map(|f| f.restart_before).max()
    }

    /// Ends the deployments of a service that something else takes the place of.
    pub(super) fn overtake(
        &mut self,
        service: &ServiceId,
        outcome: &'static str,
        now: UnixMillis,
    ) -> Vec<StoreOp> {
        let old: Vec<DeploymentId> = self
            .flights
            .iter()
            .filter(|(_, f)| f.service == *service)
            .map(|(id, _)| id.clone())
            .collect();
        old.iter()
            .map(|id| {
                if let Some(f) = self.flights.remove(id) {
                    self.say_deployment(id, &f, &[DeploymentPhase::Failed], now);
                    let ms = now.since(f.since).0;
                    self.measure(Measure::Deployment { outcome, ms });
                }
                self.end_deployment_span(id, Some(outcome));
                stored::delete_deployment(id)
            })
            .collect()
    }

    /// A deployment ended by itself.
    pub(super) fn deployment_done(&mut self, id: &DeploymentId, now: UnixMillis) {
        if let Some(f) = self.flights.remove(id) {
            let (outcome, ms) = ("finished", now.since(f.since).0);
            self.measure(Measure::Deployment { outcome, ms });
            self.persist(vec![stored::delete_deployment(id)]);
            let ends = [DeploymentPhase::StepDone, DeploymentPhase::Done];
            self.say_deployment(id, &f, &ends, now);
            self.end_deployment_span(id, None);
        }
    }

    fn end_deployment_span(&mut self, id: &DeploymentId, error: Option<&'static str>) {
        self.out.push(Effect::Trace(TraceOp::End {
            key: SpanKey::Deployment(id.clone()),
            error: error.map(|e| (e, format!("deployment {e}"))),
        }));
    }

    /// A deployment that a master before this one began goes on in the same trace. The first root span
    /// died with that master, so a second one begins here, under the stored context of the first; what
    /// is launched from now on hangs under the second.
    pub(super) fn resume_span(
        &mut self,
        id: DeploymentId,
        service: &ServiceId,
        root: TraceContext,
    ) {
        self.out.push(Effect::Trace(TraceOp::Begin {
            name: format!("deployment {id}"),
            kind: TraceKind::Internal,
            parent: SpanParent::Context(root),
            attrs: vec![
                ("waggle.deployment.id", id.to_string()),
                ("service.name", service.to_string()),
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
