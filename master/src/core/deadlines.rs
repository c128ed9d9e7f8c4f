//! Steps of deployments that take too long: services that ask for it with a label are put back as they were.

use waggle_types::{DeploymentId, FieldError, Millis, ServiceId, ServiceSpec, UnixMillis};

use super::{
    DeploymentPhase, Effect, Flight, MasterCore, Measure, SpanKey, SpanParent, TraceKind, TraceOp,
    change::Wanted,
    deployments::{New, way_back},
    stored,
};

/// Seconds that a step which changes the service may take, a whole number from 1 to those of a week. Of several services of
/// one step the least counts. When the step is not over by then, the whole deployment goes back.
pub const STEP_DEADLINE: &str = "WAGGLE_STEP_DEADLINE";

/// A week.
const MAX_SECONDS: u64 = 7 * 24 * 3600;

/// What a service's label asks for.
pub(super) fn step_deadline(spec: &ServiceSpec) -> Result<Option<Millis>, FieldError> {
    let Some(text) = spec.labels.get(STEP_DEADLINE) else {
        return Ok(None);
    };
    let seconds = text.parse().ok().filter(|s| (1..=MAX_SECONDS).contains(s));
    if let Some(seconds) = seconds {
        return Ok(Some(Millis::from_secs(seconds)));
    }
    let rule = format!("must be whole seconds between 1 and {MAX_SECONDS}, is {text:.40?}");
    Err(FieldError::new(format!("labels.{STEP_DEADLINE}"), rule))
}

impl MasterCore {
    /// A step begins: until when it may take.
    pub(super) fn set_deadline(&mut self, id: &DeploymentId) {
        let at = self.flights.get(id).and_then(|f| self.deadline(f));
        if let Some(flight) = self.flights.get_mut(id) {
            flight.goes_back_at = at;
        }
    }

    fn deadline(&self, flight: &Flight) -> Option<UnixMillis> {
        if !flight.returns {
            return None;
        }
        let spec = |service: &ServiceId| {
            let before = || flight.changes.get(service)?.before.as_ref();
            self.services.get(service).or_else(before)
        };
        let specs = flight.rollout.open().filter_map(|a| spec(&a.service));
        let least = specs.filter_map(|s| step_deadline(s).ok().flatten()).min();
        least.map(|d| flight.step_since + d)
    }

    /// When a step takes too long.
    pub(super) fn next_step_deadline(&self) -> Option<UnixMillis> {
        self.flights.values().filter_map(|f| f.goes_back_at).min()
    }

    /// Puts back what takes too long.
    pub(super) fn go_back_late(&mut self, now: UnixMillis) {
        let late = self.flights.iter();
        let late = late.filter(|(_, f)| f.goes_back_at.is_some_and(|at| at <= now));
        let late: Vec<DeploymentId> = late.map(|(id, _)| id.clone()).collect();
        for id in late {
            self.go_back(&id, now);
        }
    }

    fn go_back(&mut self, id: &DeploymentId, now: UnixMillis) {
        let (Some(flight), Some(new)) = (self.flights.get(id).cloned(), back_id(id)) else {
            return;
        };
        let step = flight.rollout.step_idx();
        self.say_deployment(id, &flight, &[(DeploymentPhase::StepFailed, step)], now);
        self.out.push(Effect::Trace(TraceOp::Begin {
            key: SpanKey::Deployment(new.clone()),
            name: format!("deployment {new}"),
            kind: TraceKind::Internal,
            parent: SpanParent::Span(SpanKey::Deployment(id.clone()), flight.trace),
            attrs: vec![
                ("waggle.deployment.id", new.to_string()),
                ("waggle.deployment.of", id.to_string()),
            ],
        }));
        let wanted = Wanted {
            carries_restart: false,
            returns: false,
            outcome: "late",
            ..Wanted::of(way_back(&flight))
        };
        let back = New {
            id: new.clone(),
            trace: flight.trace,
        };
        let done = self.change(&wanted, true, back, now);
        let outcome = match &done {
            Ok(_) => "rolled back",
            Err(_) => "stuck",
        };
        self.measure(Measure::Event {
            name: "waggle.deployment.late",
            attrs: vec![
                ("waggle.deployment.id", id.to_string()),
                ("waggle.deployment.step", (step + 1).to_string()),
                ("waggle.outcome", outcome.to_owned()),
            ],
            trace: flight.trace,
        });
        if let Err(why) = done {
            // What was free then is taken now. It goes on, and is not tried again.
            tracing::warn!(deployment = %id, error = %why, "a late deployment can't be rolled back");
            self.reject("rollback_refused");
            self.end_deployment_span(&new, Some("refused"));
            if let Some(flight) = self.flights.get_mut(id) {
                (flight.returns, flight.goes_back_at) = (false, None);
                let op = stored::put_deployment(id, flight);
                self.persist(vec![op]);
            }
        }
    }
}

/// The id of the deployment that takes another one back: the same in any life of the master, so that one which dies in
/// between and the next do not make two. An UUID of version 8 (RFC 9562, section 5.8) from the FNV-1a hash of the id.
fn back_id(id: &DeploymentId) -> Option<DeploymentId> {
    let half = |basis: u64| {
        let bytes = id.as_str().bytes();
        bytes.fold(basis, |hash, b| {
            (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    let high = half(0xcbf2_9ce4_8422_2325) & !0xf000 | 0x8000;
    let low = half(0x6c62_272e_07bb_0142) & !(0b11 << 62) | 0b10 << 62;
    let text = format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    );
    DeploymentId::new(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_way_back_are_uuids_of_their_own() {
        let id = |text: &str| DeploymentId::new(text).unwrap();
        let back = back_id(&id("2b7f33e3-1c5e-4f6e-9d5b-6f1c7b1d0e11")).unwrap();
        let text = back.as_str();
        assert_eq!((text.len(), &text[14..15]), (36, "8"), "{text}");
        assert!("89ab".contains(&text[19..20]), "{text}");
        assert_ne!(
            back,
            back_id(&id("2b7f33e3-1c5e-4f6e-9d5b-6f1c7b1d0e12")).unwrap()
        );
        assert_ne!(back, back_id(&back).unwrap());
    }
}
