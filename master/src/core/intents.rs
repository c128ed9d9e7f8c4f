//! What people ask for: define, change and remove services, kill tasks.

use std::{collections::BTreeMap, sync::Arc};

use waggle_services::{Input, validate_constraints};
use waggle_types::{
    DeploymentId, FieldError, Placement, Resources, ServiceId, ServiceSpec, ServiceVersion, TaskId,
    TraceContext, UnixMillis,
};

use super::{Flight, MasterCore, SERVICE_FRAMEWORK, deployments::New, levels::service_of, stored};
use crate::{
    error::MasterError,
    handle::{Deployment, PutMode},
    store::MAX_VALUE_BYTES,
    view::DeploymentKind,
};

/// VIPs of one service, so that its leases fit into one transaction.
const MAX_VIPS: usize = 1000;

impl MasterCore {
    /// Hands stored definitions to the framework, which waits for their instances.
    pub(super) fn restore_services(&mut self, now: UnixMillis) {
        self.schedule(Input::Hold, now);
        let specs: Vec<Arc<ServiceSpec>> = self.services.values().cloned().collect();
        for spec in specs {
            let flight = self.flights.iter().find(|(_, f)| f.service == spec.id);
            let (deployment_id, trace, restart_before) = match flight {
                Some((id, f)) => (Some(id.clone()), f.trace, f.restart_before),
                None => (None, None, None),
            };
            if let (Some(id), Some(root)) = (&deployment_id, trace) {
                self.resume_span(id.clone(), &spec.id, root);
            }
            self.schedule(
                Input::Put {
                    spec: Box::new(spec.as_ref().clone()),
                    deployment_id,
                    restart_before,
                    trace,
                },
                now,
            );
        }
    }

    pub(super) fn put(
        &mut self,
        mut spec: ServiceSpec,
        mode: PutMode,
        force: bool,
        id: DeploymentId,
        trace: Option<TraceContext>,
        now: UnixMillis,
    ) -> Result<Deployment, MasterError> {
        let old = self.services.get(&spec.id).cloned();
        match (mode, &old) {
            (PutMode::Create, Some(_)) => return Err(MasterError::AlreadyExists(spec.id)),
            (PutMode::Update, None) => return Err(MasterError::NoSuchService(spec.id)),
            (_, None) if self.services.len() >= self.config.max_services => {
                return Err(MasterError::Limit("services"));
            }
            _ => {}
        }
        self.check_lock(&spec.id, force)?;
        self.check_spec(&spec)?;
        spec.version = next_version(old.as_deref(), now);
        let kind = old
            .as_deref()
            .map_or(DeploymentKind::Start, |old| change_kind(old, &spec));
        let restart_before = self.restart_goes_on(&spec.id);
        self.define(spec, kind, restart_before, New { id, trace }, now)
    }

    /// What the spec says against what this cluster allows.
    pub(super) fn check_spec(&self, spec: &ServiceSpec) -> Result<(), MasterError> {
        if spec.instances > self.config.max_instances {
            let rule = format!(
                "must be at most {}, is {}",
                self.config.max_instances, spec.instances
            );
            return Err(FieldError::new("instances", rule).into());
        }
        validate_constraints(&spec.constraints)?;
        not_yet(spec)?;
        if n_vips(spec) > MAX_VIPS {
            return Err(MasterError::Limit("VIPs of one service"));
        }
        // Counted on the way to the store: a body may grow when defaults are filled in.
        if stored::spec_bytes(spec) > MAX_VALUE_BYTES {
            return Err(MasterError::Limit("size of the definition"));
        }
        self.vips.check(spec, &self.services)?;
        self.check_network_of(spec)?;
        Ok(())
    }

    /// Stores a definition with its leases and its deployment in one transaction, then begins it.
    pub(super) fn define(
        &mut self,
        spec: ServiceSpec,
        kind: DeploymentKind,
        restart_before: Option<ServiceVersion>,
        new: New,
        now: UnixMillis,
    ) -> Result<Deployment, MasterError> {
        let New { id, trace } = new;
        let service = spec.id.clone();
        let version = spec.version;
        let spec = Arc::new(spec);
        let old = self.services.insert(service.clone(), Arc::clone(&spec));
        let Some(leases) = self.vips.lease(&self.services) else {
            match old {
                Some(old) => self.services.insert(service, old),
                None => self.services.remove(&service),
            };
            return Err(MasterError::VipPoolExhausted);
        };
        self.redefined(old.as_deref(), Some(&spec));
        let before = old.clone();
        let flight = Flight {
            service,
            version,
            kind,
            since: now,
            trace,
            restart_before,
            previous: old,
        };
        let mut ops = vec![
            stored::put_service(&spec),
            stored::put_deployment(&id, &flight),
            stored::put_version(&spec),
        ];
        ops.extend(self.versions.note(&spec));
        ops.extend(stored::lease_ops(&leases));
        ops.extend(self.overtake(&flight.service, "superseded", now));
        self.persist(ops);
        self.say_redefined(before.as_deref(), Some(&spec), now);
        self.say_begun(&id, &flight, now);
        self.flights.insert(id.clone(), flight);
        self.net_dirty = true;
        self.schedule(
            Input::Put {
                spec: Box::new(spec.as_ref().clone()),
                deployment_id: Some(id.clone()),
                restart_before,
                trace,
            },
            now,
        );
        Ok(Deployment { id, version })
    }

    pub(super) fn remove(
        &mut self,
        service: &ServiceId,
        force: bool,
        id: DeploymentId,
        trace: Option<TraceContext>,
        now: UnixMillis,
    ) -> Result<Deployment, MasterError> {
        let Some(spec) = self.services.get(service).cloned() else {
            return Err(MasterError::NoSuchService(service.clone()));
        };
        self.check_lock(service, force)?;
        self.services.remove(service);
        self.redefined(Some(&spec), None);
        let flight = Flight {
            service: service.clone(),
            version: spec.version,
            kind: DeploymentKind::Stop,
            since: now,
            trace,
            restart_before: None,
            previous: Some(Arc::clone(&spec)),
        };
        let mut ops = vec![
            stored::delete_service(service),
            stored::put_deployment(&id, &flight),
        ];
        ops.extend(self.versions.drop_unless(|id| id != service));
        // Releasing never needs an address.
        if let Some(leases) = self.vips.lease(&self.services) {
            ops.extend(stored::lease_ops(&leases));
        }
        ops.extend(self.overtake(service, "superseded", now));
        self.persist(ops);
        self.say_redefined(Some(&spec), None, now);
        self.say_begun(&id, &flight, now);
        self.flights.insert(id.clone(), flight);
        self.net_dirty = true;
        self.schedule(
            Input::Remove {
                id: service.clone(),
                deployment_id: Some(id.clone()),
                trace,
            },
            now,
        );
        let version = spec.version;
        Ok(Deployment { id, version })
    }

    /// Kills tasks; `scale` is set to scale their service down, and then says whether to override a
    /// deployment.
    pub(super) fn kill(
        &mut self,
        ids: &[TaskId],
        scale: Option<bool>,
        new: New,
        now: UnixMillis,
    ) -> Result<Option<Deployment>, MasterError> {
        let mut per_service: BTreeMap<ServiceId, u32> = BTreeMap::new();
        for task_id in ids {
            let task = self.tasks.get(task_id);
            let service = task.and_then(|t| service_of(&self.services, &t.spec));
            let Some(service) = service else {
                return Err(MasterError::NoSuchTask(task_id.clone()));
            };
            *per_service.entry(service).or_default() += 1;
        }
        if scale.is_some() && per_service.len() > 1 {
            let rule = "with scale they must be of one service";
            return Err(FieldError::new("ids", rule).into());
        }
        if let (Some(force), Some(service)) = (scale, per_service.keys().next()) {
            self.check_lock(service, force)?;
        }
        self.schedule(
            Input::KillTasks {
                task_ids: ids.to_vec(),
            },
            now,
        );
        if scale.is_none() {
            return Ok(None);
        }
        let Some((service, n)) = per_service.pop_first() else {
            return Ok(None);
        };
        let Some(old) = self.services.get(&service).cloned() else {
            return Ok(None);
        };
        let spec = ServiceSpec {
            instances: old.instances.saturating_sub(n),
            version: next_version(Some(&old), now),
            ..old.as_ref().clone()
        };
        let restart_before = self.restart_goes_on(&service);
        self.define(spec, DeploymentKind::Scale, restart_before, new, now)
            .map(Some)
    }
}

/// What definitions may say and nothing here does yet.
fn not_yet(spec: &ServiceSpec) -> Result<(), FieldError> {
    let asked = [
        ("residency", spec.residency.is_some()),
        ("secrets", !spec.secrets.is_empty()),
        ("role", spec.role() != "*"),
        (
            "labels.WAGGLE_PLACE",
            spec.placement != Placement::default(),
        ),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(FieldError::new(field, "is not supported yet")),
        None => Ok(()),
    }
}

/// Versions are times that grow, also when two changes fall into one millisecond.
pub(super) fn next_version(old: Option<&ServiceSpec>, now: UnixMillis) -> ServiceVersion {
    let least = old.map_or(0, |o| o.version.0.0 + 1);
    ServiceVersion(UnixMillis(now.0.max(least)))
}

fn n_vips(spec: &ServiceSpec) -> usize {
    spec.ports.iter().map(|p| p.vips.len()).sum()
}

/// Whether only the number of instances differs.
pub(super) fn change_kind(old: &ServiceSpec, new: &ServiceSpec) -> DeploymentKind {
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

/// The sum of what tasks take; `None` when two want one port.
pub(super) fn sum<'a>(all: impl IntoIterator<Item = &'a Resources>) -> Option<Resources> {
    all.into_iter()
        .try_fold(Resources::default(), |acc, r| acc.checked_add(r))
}

/// Whether a framework name is the built-in one's.
pub(super) fn is_builtin(name: &str) -> bool {
    name == SERVICE_FRAMEWORK
}
