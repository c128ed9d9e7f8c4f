//! One change of any number of services and groups: checked, stored and begun, all of it or nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_services::{
    DeploymentPlan, GroupDependencies, Rollout, ServiceChange, Tree, TreeChange,
    assign_service_ports, changed_groups, plan_deployment,
};
use waggle_types::{DeploymentId, FieldError, ServiceId, ServiceSpec, ServiceVersion, UnixMillis};

use super::{
    Flight, FlightChange, MasterCore, deployments::New, history::Record, intents::n_vips, stored,
    vips::Services,
};
use crate::{
    error::MasterError,
    handle::Deployment,
    store::{MAX_OPS, MAX_VALUE_BYTES, StoreOp},
};

/// Writes of a change beside those of services, groups and deployments.
const OTHER_OPS: usize = 64;

/// A change that is asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) tree: TreeChange,
    /// Of the services that are put: those whose instances are all replaced.
    pub(super) restart: BTreeSet<ServiceId>,
    /// Whether restarts that it takes the place of go on.
    pub(super) carries_restart: bool,
    /// Whether it may go back by itself.
    pub(super) returns: bool,
    /// What becomes of deployments that it takes the place of, for metrics.
    pub(super) outcome: &'static str,
}

impl Wanted {
    pub(super) fn of(tree: TreeChange) -> Self {
        Self {
            tree,
            restart: BTreeSet::new(),
            carries_restart: true,
            returns: true,
            outcome: "superseded",
        }
    }

    /// One definition.
    pub(super) fn one(spec: ServiceSpec) -> Self {
        Self::of(TreeChange {
            puts: BTreeMap::from([(spec.id.clone(), spec)]),
            ..TreeChange::default()
        })
    }

    fn services(&self) -> BTreeSet<ServiceId> {
        let puts = self.tree.puts.keys();
        puts.chain(&self.tree.removes).cloned().collect()
    }
}

/// The tree after a change, and the way there.
struct Next {
    services: Services,
    groups: GroupDependencies,
    changes: BTreeMap<ServiceId, ServiceChange>,
    plan: DeploymentPlan,
}

impl MasterCore {
    /// Checks a change, stores it with its leases and its deployment in one transaction, and begins it.
    pub(super) fn change(
        &mut self,
        wanted: &Wanted,
        force: bool,
        new: New,
        now: UnixMillis,
    ) -> Result<Deployment, MasterError> {
        let affected = wanted.services();
        let overtaken = self.check_locks(&affected, force)?;
        let version = self.next_version(&affected, now);
        let next = self.next(wanted, version)?;
        let flight = self.flight(wanted, &next, &new, version, now);
        self.check_size(wanted, &new.id, &flight, overtaken.len())?;
        let Some(leases) = self.vips.lease(&next.services) else {
            return Err(MasterError::VipPoolExhausted);
        };

        let mut ops = self.definition_ops(&wanted.tree, &next);
        ops.extend(self.remember(&flight, &next.services));
        ops.extend(stored::lease_ops(&leases));
        let (gone, left) = self.overtake(&overtaken, wanted.outcome, now);
        ops.extend(gone);
        for (service, c) in &next.changes {
            self.shown.touch(service);
            self.redefined(c.before.as_deref(), c.after.as_deref());
        }
        let changes = next.changes;
        self.services = next.services;
        self.groups = next.groups;
        self.net_dirty = true;
        let id = new.id;
        let under_way = !flight.rollout.is_finished();
        ops.extend(under_way.then(|| stored::put_deployment(&id, &flight)));
        self.persist(ops);
        for c in changes.values() {
            self.say_redefined(c.before.as_deref(), c.after.as_deref(), now);
        }
        self.say_begun(&id, &flight, now);
        self.plan_span(&id, &flight);
        if under_way {
            self.flights.insert(id.clone(), flight);
            self.begin_step(&id, now);
        } else {
            self.end_deployment_span(&id, None);
            // Nothing is to be done: whoever asks how it ended must hear of it all the same.
            self.ends.push(&id, "finished", now);
        }
        self.let_go(left, &affected, now);
        Ok(Deployment { id, version })
    }

    /// What would be done, and nothing is.
    pub(super) fn dry_run(
        &self,
        wanted: &Wanted,
        force: bool,
        now: UnixMillis,
    ) -> Result<DeploymentPlan, MasterError> {
        let affected = wanted.services();
        self.check_locks(&affected, force)?;
        let version = self.next_version(&affected, now);
        Ok(self.next(wanted, version)?.plan)
    }

    /// Versions are times that grow, also when two changes fall into one millisecond.
    fn next_version(&self, affected: &BTreeSet<ServiceId>, now: UnixMillis) -> ServiceVersion {
        let of_services = affected.iter().filter_map(|id| {
            let in_force = self.services.get(id).map(|s| s.version);
            in_force.max(self.versions.newest(id))
        });
        let newest = of_services.max().max(Some(self.history.newest()));
        let least = newest.filter(|v| v.0.0 > 0).map_or(0, |v| v.0.0 + 1);
        ServiceVersion(UnixMillis(now.0.max(least)))
    }

    fn next(&self, wanted: &Wanted, version: ServiceVersion) -> Result<Next, MasterError> {
        let tree = &wanted.tree;
        let mut services = self.services.clone();
        let mut changes: BTreeMap<ServiceId, ServiceChange> = BTreeMap::new();
        for id in &tree.removes {
            let change = ServiceChange {
                before: services.remove(id),
                ..ServiceChange::default()
            };
            if change.before.is_some() {
                changes.insert(id.clone(), change);
            }
        }
        let mut puts = tree.puts.clone();
        assign_service_ports(&services, &mut puts);
        for (id, spec) in puts {
            let old = services.get(&id);
            if old.is_some_and(|old| old.pod.is_some() != spec.pod.is_some()) {
                return Err(MasterError::AlreadyExists(id));
            }
            let spec = Arc::new(ServiceSpec { version, ..spec });
            let change = ServiceChange {
                before: services.insert(id.clone(), Arc::clone(&spec)),
                after: Some(spec),
                restart: wanted.restart.contains(&id),
            };
            changes.insert(id, change);
        }
        let groups = changed_groups(&self.groups, tree);
        self.check_limits(&services, &groups)?;
        let put: BTreeSet<ServiceId> = tree.puts.keys().cloned().collect();
        let specs = put.iter().filter_map(|id| services.get(id));
        let specs: Vec<&ServiceSpec> = specs.map(AsRef::as_ref).collect();
        self.check_specs(&specs)?;
        let checked = Tree {
            services: &services,
            groups: &groups,
        };
        let invalid = |e| MasterError::Invalid(FieldError::from(e));
        checked.check_ids(&put).map_err(invalid)?;
        checked.check_service_ports(&put).map_err(invalid)?;
        let dependencies = checked.dependencies().map_err(invalid)?;
        self.vips.check(&put, &services)?;
        let plan = plan_deployment(&changes, &dependencies);
        Ok(Next {
            services,
            groups,
            changes,
            plan,
        })
    }

    fn check_limits(
        &self,
        services: &Services,
        groups: &GroupDependencies,
    ) -> Result<(), MasterError> {
        let more = |new: usize, old: usize| new > old && new > self.config.max_services;
        if more(services.len(), self.services.len()) {
            return Err(MasterError::Limit("services"));
        }
        if more(groups.len(), self.groups.len()) {
            return Err(MasterError::Limit("groups"));
        }
        Ok(())
    }

    /// Whether a change fits into one transaction.
    fn check_size(
        &self,
        wanted: &Wanted,
        id: &DeploymentId,
        flight: &Flight,
        n_overtaken: usize,
    ) -> Result<(), MasterError> {
        let puts = wanted.tree.puts.values();
        let n_puts: usize = puts.map(|s| 3 + n_vips(s)).sum();
        let kept = |id: &ServiceId| 1 + self.versions.of(id).len();
        let n_removes: usize = wanted.tree.removes.iter().map(kept).sum();
        let n = n_puts + n_removes + wanted.tree.groups.len() + n_overtaken + OTHER_OPS;
        let StoreOp::Put { value, .. } = stored::put_deployment(id, flight) else {
            return Ok(());
        };
        if n > MAX_OPS || value.len() > MAX_VALUE_BYTES {
            return Err(MasterError::Limit("size of one change"));
        }
        Ok(())
    }

    fn flight(
        &self,
        wanted: &Wanted,
        next: &Next,
        new: &New,
        version: ServiceVersion,
        now: UnixMillis,
    ) -> Flight {
        let change = |(id, c): (&ServiceId, &ServiceChange)| {
            let carried = || {
                let carries = wanted.carries_restart && c.after.is_some();
                carries.then(|| self.restart_goes_on(id)).flatten()
            };
            let change = FlightChange {
                before: c.before.clone(),
                after: c.after.as_ref().map(|s| s.version),
                restart_before: c.replaces().then_some(version).or_else(carried),
            };
            (id.clone(), change)
        };
        let groups = wanted.tree.groups.keys();
        Flight {
            version,
            since: now,
            trace: new.trace,
            changes: next.changes.iter().map(change).collect(),
            groups: groups
                .map(|id| (id.clone(), self.groups.get(id).cloned()))
                .collect(),
            rollout: Rollout::new(next.plan.clone()),
            step_since: now,
            returns: wanted.returns,
            goes_back_at: None,
        }
    }

    fn definition_ops(&mut self, tree: &TreeChange, next: &Next) -> Vec<StoreOp> {
        let mut ops = Vec::new();
        for id in tree
            .removes
            .iter()
            .filter(|id| next.changes.contains_key(*id))
        {
            ops.push(stored::delete_service(id));
        }
        for spec in tree.puts.keys().filter_map(|id| next.services.get(id)) {
            ops.push(stored::put_service(spec));
            ops.push(stored::put_version(spec));
            ops.extend(self.versions.note(spec));
            self.shown.touch(&spec.id);
        }
        let groups = tree.groups.iter();
        ops.extend(groups.map(|(id, d)| stored::put_group(id, d.as_ref())));
        ops
    }

    /// Notes what a deployment takes the place of; answers what to write, and to forget.
    fn remember(&mut self, flight: &Flight, services: &Services) -> Vec<StoreOp> {
        if flight.changes.is_empty() && flight.groups.is_empty() {
            return Vec::new();
        }
        let before = |c: &FlightChange| c.before.as_ref().map(|s| s.version);
        let record = Record {
            version: flight.version,
            before: self.history.newest(),
            services: flight
                .changes
                .iter()
                .map(|(id, c)| (id.clone(), before(c)))
                .collect(),
            groups: flight.groups.clone(),
        };
        let mut ops = vec![stored::put_record(&record)];
        let in_flight = self.flights.values().map(|f| f.version);
        let gone = self.history.push(record, &in_flight.collect());
        let history = &self.history;
        let removed = flight.changes.iter().filter(|(_, c)| c.after.is_none());
        for (id, _) in removed {
            let needed = |v| history.needs(id, v);
            ops.extend(self.versions.forget_unless(id, needed));
        }
        for r in gone {
            ops.push(stored::delete_record(r.version));
            for id in r.services.keys().filter(|id| !services.contains_key(*id)) {
                let needed = |v| history.needs(id, v);
                ops.extend(self.versions.forget_unless(id, needed));
            }
        }
        ops
    }
}
