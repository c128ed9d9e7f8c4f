//! What people ask for: define, change and remove services, kill tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_services::{Input, Stage, TreeChange, wrong_constraints};
use waggle_types::{
    DeploymentId, FieldError, Resources, ScalarKind, ServiceId, ServiceSpec, TaskId, TraceContext,
    UnixMillis,
};

use super::{
    Flight, MasterCore, SERVICE_FRAMEWORK, change::Wanted, deadlines::step_deadline,
    deployments::New, homes, levels::service_of, stored, vips::check_canary,
};
use crate::{
    error::MasterError,
    handle::{Deployment, PutMode},
    store::MAX_VALUE_BYTES,
};

/// VIPs of one service, so that its leases fit into one transaction.
const MAX_VIPS: usize = 1000;
/// Most fields that a refusal of several definitions names.
const MAX_WRONG: usize = 100;

impl MasterCore {
    /// Hands stored definitions to the framework, which waits for their instances: each as far as its deployment had
    /// brought it.
    pub(super) fn restore_services(&mut self, now: UnixMillis) {
        self.schedule(Input::Hold, now);
        for (id, flight) in self.flights.clone() {
            self.resume_span(id.clone(), &flight);
            // What was removed is known again until it has ended.
            for (service, change) in &flight.changes {
                if let (None, Some(before)) = (change.after, &change.before)
                    && flight.rollout.stage(service) == Stage::Running
                {
                    self.define(before, None, now);
                }
            }
        }
        let mut begun: BTreeMap<ServiceId, (DeploymentId, Flight)> = BTreeMap::new();
        for (id, flight) in &mut self.flights {
            // Nobody could get on while there was no master.
            flight.step_since = now;
            let mine = flight.changes.keys().cloned();
            begun.extend(mine.map(|s| (s, (id.clone(), flight.clone()))));
        }
        let specs: Vec<Arc<ServiceSpec>> = self.services.values().cloned().collect();
        for spec in specs {
            let Some((_, flight)) = begun.get(&spec.id) else {
                self.define(&spec, None, now);
                continue;
            };
            let before = flight.changes.get(&spec.id).and_then(|c| c.before.as_ref());
            match (flight.rollout.stage(&spec.id), before) {
                (Stage::Pending, Some(before)) => self.define(before, None, now),
                // Begun below, or not begun.
                (Stage::Pending | Stage::Running, _) => {}
                (Stage::Apart | Stage::Done, _) => self.define(&spec, flight.trace, now),
            }
        }
        let ids: Vec<DeploymentId> = self.flights.keys().cloned().collect();
        for id in ids {
            self.begin_step(&id, now);
        }
    }

    fn define(&mut self, spec: &Arc<ServiceSpec>, trace: Option<TraceContext>, now: UnixMillis) {
        let input = Input::Put {
            spec: Box::new(spec.as_ref().clone()),
            deployment_id: None,
            restart_before: None,
            trace,
        };
        self.schedule(input, now);
    }

    pub(super) fn put(
        &mut self,
        spec: ServiceSpec,
        mode: PutMode,
        force: bool,
        new: New,
        now: UnixMillis,
    ) -> Result<Deployment, MasterError> {
        match (mode, self.services.contains_key(&spec.id)) {
            (PutMode::Create, true) => return Err(MasterError::AlreadyExists(spec.id)),
            (PutMode::Update, false) => return Err(MasterError::NoSuchService(spec.id)),
            _ => {}
        }
        self.change(&Wanted::one(spec), force, new, now)
    }

    /// What the specs say against what this cluster allows: every field of each that breaks a rule. Of several they are
    /// named with whose they are.
    pub(super) fn check_specs(&self, specs: &[&ServiceSpec]) -> Result<(), MasterError> {
        let alone = specs.len() < 2;
        let each = specs.iter().flat_map(|spec| {
            let kind = if spec.pod.is_some() { "pods" } else { "apps" };
            let place = move |e: FieldError| {
                let field = format!("{kind}[{}].{}", spec.id, e.field);
                FieldError::new(field, e.rule)
            };
            let wrong = self.wrong_of(spec).into_iter();
            wrong.map(move |e| if alone { e } else { place(e) })
        });
        MasterError::if_any(each.take(MAX_WRONG).collect())?;
        specs.iter().try_for_each(|spec| check_sizes(spec))
    }

    fn wrong_of(&self, spec: &ServiceSpec) -> Vec<FieldError> {
        let mut wrong = Vec::new();
        if spec.instances > self.config.max_instances {
            let rule = format!(
                "must be at most {}, is {}",
                self.config.max_instances, spec.instances
            );
            wrong.push(FieldError::new("instances", rule));
        }
        wrong.extend(wrong_alone(spec));
        let here = [self.check_homes(spec), self.check_network_of(spec)];
        wrong.extend(here.into_iter().filter_map(Result::err));
        wrong
    }

    pub(super) fn remove(
        &mut self,
        service: &ServiceId,
        force: bool,
        new: New,
        now: UnixMillis,
    ) -> Result<Deployment, MasterError> {
        if !self.services.contains_key(service) {
            return Err(MasterError::NoSuchService(service.clone()));
        }
        let tree = TreeChange {
            removes: BTreeSet::from([service.clone()]),
            ..TreeChange::default()
        };
        self.change(&Wanted::of(tree), force, new, now)
    }

    /// Kills tasks; with `wipe` their volumes are destroyed; `scale` is set to scale their service down, and then says whether to override a
    /// deployment.
    pub(super) fn kill(
        &mut self,
        ids: &[TaskId],
        (scale, wipe): (Option<bool>, bool),
        new: New,
        now: UnixMillis,
    ) -> Result<Option<Deployment>, MasterError> {
        let mut instances: BTreeMap<ServiceId, BTreeSet<&str>> = BTreeMap::new();
        for task_id in ids {
            let task = self.tasks.get(task_id);
            let task = task.and_then(|t| service_of(&self.services, &t.spec));
            // An instance that is a pod is no task of its own.
            let pod = || {
                let id = ServiceId::new(&self.scheduler.instance(task_id)?.task.service).ok();
                id.filter(|id| self.services.contains_key(id))
            };
            let Some(service) = task.or_else(pod) else {
                return Err(MasterError::NoSuchTask(task_id.clone()));
            };
            let of = instances.entry(service).or_default();
            of.insert(task_id.instance());
        }
        let counted = instances.into_iter();
        let mut per_service: BTreeMap<ServiceId, u32> = counted
            .map(|(id, of)| (id, u32::try_from(of.len()).unwrap_or(u32::MAX)))
            .collect();
        if scale.is_some() && per_service.len() > 1 {
            let rule = "with scale they must be of one service";
            return Err(FieldError::new("ids", rule).into());
        }
        if let Some(force) = scale {
            self.check_locks(&per_service.keys().cloned().collect(), force)?;
        }
        if wipe {
            self.note_wiped(ids);
        }
        self.schedule(
            Input::KillTasks {
                task_ids: ids.to_vec(),
                wipe,
            },
            now,
        );
        if scale.is_none() {
            return Ok(None);
        }
        let Some((service, n)) = per_service.pop_first() else {
            return Ok(None);
        };
        let Some(old) = self.services.get(&service) else {
            return Ok(None);
        };
        let spec = ServiceSpec {
            instances: old.instances.saturating_sub(n),
            ..old.as_ref().clone()
        };
        let force = scale == Some(true);
        self.change(&Wanted::one(spec), force, new, now).map(Some)
    }
}

/// What a definition says, as far as that can be judged without a cluster: every field that breaks a rule.
pub fn check_alone(spec: &ServiceSpec) -> Result<(), MasterError> {
    MasterError::if_any(wrong_alone(spec))?;
    check_sizes(spec)
}

fn wrong_alone(spec: &ServiceSpec) -> Vec<FieldError> {
    let mut wrong = wrong_constraints(&spec.constraints);
    wrong.extend(step_deadline(spec).err());
    wrong.extend(check_canary(spec).err());
    wrong.extend(homes::wrong_alone(spec));
    wrong.extend(wrong_gpus(spec));
    wrong
}

fn check_sizes(spec: &ServiceSpec) -> Result<(), MasterError> {
    if n_vips(spec) > MAX_VIPS {
        return Err(MasterError::Limit("VIPs of one service"));
    }
    // Counted on the way to the store: a body may grow when defaults are filled in.
    if stored::spec_bytes(spec) > MAX_VALUE_BYTES {
        return Err(MasterError::Limit("size of the definition"));
    }
    Ok(())
}

/// A device is one task's or another's.
pub(super) fn wrong_gpus(spec: &ServiceSpec) -> Vec<FieldError> {
    let of_pod = spec.pod.iter().flat_map(|pod| {
        let each = pod.containers.iter().enumerate();
        let each = each.map(|(i, c)| {
            let field = format!("containers[{i}].resources.gpus");
            (field, &c.run.resources)
        });
        std::iter::once(("executorResources.gpus".to_owned(), &pod.executor)).chain(each)
    });
    let own = ("gpus".to_owned(), &spec.resources);
    let own = spec.pod.is_none().then_some(own);
    own.into_iter()
        .chain(of_pod)
        .filter_map(|(field, r)| {
            let gpus = r.get(ScalarKind::Gpus);
            let whole = gpus.0 % 1000 == 0;
            (!whole).then(|| FieldError::new(field, format!("must be a whole number, is {gpus}")))
        })
        .collect()
}

pub(super) fn n_vips(spec: &ServiceSpec) -> usize {
    spec.ports.iter().map(|p| p.vips.len()).sum()
}

/// The sum of what tasks take; `None` when two want one port.
pub(super) fn sum<'a>(all: impl IntoIterator<Item = &'a Resources>) -> Option<Resources> {
    all.into_iter()
        .try_fold(Resources::default(), |acc, r| acc.checked_add(r))
}

/// Whether a framework name is the built-in one's.
pub(super) fn is_builtin(name: &str) -> bool {
    name == SERVICE_FRAMEWORK
}
