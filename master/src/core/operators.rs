//! What operators ask of level 1: validated, applied, stored before it is answered; or refused with typed
//! reasons, and nothing of it is done.

use std::collections::{BTreeMap, BTreeSet};

use waggle_allocator::Event as Level1;
use waggle_types::{
    AgentId, CallRejection, FrameworkId, Milli, OperatorCall, Quota, RejectReason, Reservation,
    ResourcePart, Resources, UnixMillis, Volume, VolumeId,
};

use super::{
    MasterCore, Measure,
    frameworks::{Called, no},
    refusals::level_1_says,
    stored,
};
use crate::store::StoreOp;

/// Parts of one call; more are refused.
const MAX_PARTS: usize = 10_000;
/// Roles with a weight, and roles with a quota; more are refused.
const MAX_SETTINGS: usize = 10_000;

/// What operators have set for roles, as stored.
#[derive(Debug, Clone, Default)]
pub(super) struct RoleSettings {
    /// Those that are not the default, in thousandths.
    pub(super) weights: BTreeMap<String, u32>,
    /// Those that are not empty.
    pub(super) quota: BTreeMap<String, Quota>,
}

impl RoleSettings {
    pub(super) fn weight(&self, role: &str) -> u32 {
        self.weights
            .get(role)
            .copied()
            .unwrap_or(stored::DEFAULT_WEIGHT)
    }

    /// Keeps what level 1 has taken; answers how it is stored.
    fn put(&mut self, setting: Setting) -> StoreOp {
        match setting {
            Setting::Weight(role, weight) => {
                let op = stored::put_weight(&role, weight);
                if weight == stored::DEFAULT_WEIGHT {
                    self.weights.remove(&role);
                } else {
                    self.weights.insert(role, weight);
                }
                op
            }
            Setting::Quota(role, quota, _) => {
                let op = stored::put_quota(&role, &quota);
                if quota.is_empty() {
                    self.quota.remove(&role);
                } else {
                    self.quota.insert(role, quota);
                }
                op
            }
        }
    }
}

/// A change of what is set for a role.
enum Setting {
    Weight(String, u32),
    Quota(String, Quota, bool),
}

/// A change of an agent's reservations.
struct Change {
    agent_id: AgentId,
    stack: Vec<Reservation>,
    what: What,
}

enum What {
    Reserve(Resources),
    Unreserve(Resources),
    Create(VolumeId, Volume, Option<String>),
    Resize(VolumeId, Milli),
    Destroy(VolumeId),
}

/// What became of an agent's volumes.
#[derive(Default)]
struct Volumes {
    destroyed: Vec<VolumeId>,
    mounts: BTreeMap<VolumeId, String>,
}

/// What can be done together with others, all or none.
enum Part {
    Setting(Setting),
    Change(Change),
}

impl Part {
    /// The call, when it is none of these.
    fn of(call: OperatorCall) -> Result<Self, Box<OperatorCall>> {
        let (agent_id, stack, what) = match call {
            OperatorCall::SetWeight { role, weight_milli } => {
                return Ok(Self::Setting(Setting::Weight(role, weight_milli)));
            }
            OperatorCall::SetQuota { role, quota, force } => {
                return Ok(Self::Setting(Setting::Quota(role, quota, force)));
            }
            OperatorCall::Reserve {
                agent_id,
                stack,
                resources,
            } => (agent_id, stack, What::Reserve(resources)),
            OperatorCall::Unreserve {
                agent_id,
                stack,
                resources,
            } => (agent_id, stack, What::Unreserve(resources)),
            OperatorCall::CreateVolume {
                agent_id,
                stack,
                volume_id,
                volume,
                mount_path,
            } => (agent_id, stack, What::Create(volume_id, volume, mount_path)),
            OperatorCall::ResizeVolume {
                agent_id,
                stack,
                volume_id,
                size,
            } => (agent_id, stack, What::Resize(volume_id, size)),
            OperatorCall::DestroyVolume {
                agent_id,
                stack,
                volume_id,
            } => (agent_id, stack, What::Destroy(volume_id)),
            other => return Err(Box::new(other)),
        };
        Ok(Self::Change(Change {
            agent_id,
            stack,
            what,
        }))
    }

    /// The role that it is about.
    fn role(&self) -> String {
        match self {
            Self::Setting(Setting::Weight(role, _) | Setting::Quota(role, ..)) => role.clone(),
            Self::Change(c) => c.stack.last().map(|r| r.role.clone()).unwrap_or_default(),
        }
    }

    fn event(&self) -> Level1 {
        match self {
            Self::Setting(Setting::Weight(role, weight_milli)) => Level1::WeightSet {
                role: role.clone(),
                weight_milli: *weight_milli,
            },
            Self::Setting(Setting::Quota(role, quota, force)) => Level1::QuotaSet {
                role: role.clone(),
                quota: quota.clone(),
                force: *force,
            },
            Self::Change(change) => change.event(),
        }
    }
}

impl Change {
    /// The same as parts, for what it adds to the store.
    fn part(&self) -> ResourcePart {
        let mut part = ResourcePart {
            reservation: self.stack.clone(),
            ..ResourcePart::default()
        };
        match &self.what {
            What::Reserve(r) | What::Unreserve(r) => part.resources = r.clone(),
            What::Create(id, v, _) => {
                part.resources.custom.set_volume(id.clone(), *v);
            }
            What::Resize(..) | What::Destroy(_) => {}
        }
        part
    }

    fn event(&self) -> Level1 {
        let (agent_id, stack) = (self.agent_id.clone(), self.stack.clone());
        match &self.what {
            What::Reserve(resources) => Level1::Reserve {
                agent_id,
                stack,
                resources: resources.clone(),
            },
            What::Unreserve(resources) => Level1::Unreserve {
                agent_id,
                stack,
                resources: resources.clone(),
            },
            What::Create(volume_id, volume, _) => Level1::CreateVolume {
                agent_id,
                stack,
                volume_id: volume_id.clone(),
                volume: *volume,
            },
            What::Resize(volume_id, size) => Level1::ResizeVolume {
                agent_id,
                stack,
                volume_id: volume_id.clone(),
                size: *size,
            },
            What::Destroy(volume_id) => Level1::DestroyVolume {
                agent_id,
                stack,
                volume_id: volume_id.clone(),
            },
        }
    }
}

impl MasterCore {
    /// Says to level 1 what was set for roles before this master started. Nobody is subscribed yet.
    pub(super) fn restore_settings(&mut self, now: UnixMillis) {
        let weights = self.settings.weights.iter();
        let mut events: Vec<(String, Level1)> = weights
            .map(|(role, w)| {
                let event = Level1::WeightSet {
                    role: role.clone(),
                    weight_milli: *w,
                };
                (role.clone(), event)
            })
            .collect();
        events.extend(self.settings.quota.iter().map(|(role, quota)| {
            let event = Level1::QuotaSet {
                role: role.clone(),
                quota: quota.clone(),
                // The cluster has nothing yet.
                force: true,
            };
            (role.clone(), event)
        }));
        for (role, event) in events {
            let what = event.name();
            if let Err(reason) = self.try_allocate(event, now) {
                tracing::warn!(what, role, %reason, "a stored setting is not taken");
                self.reject("stored_setting_refused");
            }
        }
    }

    /// One call of an operator.
    pub(super) fn operate(&mut self, call: OperatorCall, now: UnixMillis) -> Called {
        let name = call.name();
        let done = self.do_operate(call, now);
        if let Err(all) = &done {
            for r in all {
                self.reject(r.reason.name());
            }
        } else {
            tracing::info!(call = name, "an operator's call is done");
        }
        done
    }

    fn do_operate(&mut self, call: OperatorCall, now: UnixMillis) -> Called {
        let call = match Part::of(call) {
            Ok(part) => return self.do_parts(vec![part], now),
            Err(call) => call,
        };
        match *call {
            OperatorCall::SetMaintenance { agent_ids, window } => {
                self.set_maintenance(&agent_ids, window, now)
            }
            OperatorCall::Drain {
                agent_id,
                max_grace,
                mark_gone,
            } => self.drain(&agent_id, max_grace, mark_gone, now),
            OperatorCall::Deactivate { agent_id } => self.deactivate(&agent_id, now),
            OperatorCall::Activate { agent_id } => self.activate(&agent_id, now),
            OperatorCall::MarkGone { agent_id } => self.mark_gone(&agent_id, now),
            OperatorCall::AddNetwork { name, network } => self.add_network(name, network),
            OperatorCall::RemoveNetwork { name } => self.remove_network(&name),
            OperatorCall::SetPolicy { policy, force } => self.set_policy(policy, force),
            OperatorCall::RemovePolicy { name } => self.remove_policy(&name),
            OperatorCall::Teardown { framework_id } => self.teardown(&framework_id, now),
            OperatorCall::All(calls) => self.do_all(calls, now),
            // Taken above.
            OperatorCall::SetWeight { .. }
            | OperatorCall::SetQuota { .. }
            | OperatorCall::Reserve { .. }
            | OperatorCall::Unreserve { .. }
            | OperatorCall::CreateVolume { .. }
            | OperatorCall::ResizeVolume { .. }
            | OperatorCall::DestroyVolume { .. } => Ok(()),
        }
    }

    fn teardown(&mut self, framework_id: &FrameworkId, now: UnixMillis) -> Called {
        let own = [&self.framework_id, &self.jobs.framework_id].contains(&framework_id);
        if !own && self.frameworks.all.contains_key(framework_id) {
            self.remove_framework(framework_id, now);
            return Ok(());
        }
        let (reason, message) = if own {
            let message = "the master's own framework has no end";
            (RejectReason::ReservedFramework, message)
        } else if self.frameworks.is_removed(framework_id) {
            let message = "the framework was removed";
            (RejectReason::FrameworkRemoved, message)
        } else {
            (RejectReason::UnknownFramework, "no such framework")
        };
        Err(vec![no(reason, framework_id, message)])
    }

    /// Several calls, all or none.
    fn do_all(&mut self, calls: Vec<OperatorCall>, now: UnixMillis) -> Called {
        if calls.len() > MAX_PARTS {
            let message = format!("must be at most {MAX_PARTS}, are {}", calls.len());
            return Err(vec![no(RejectReason::TooMany, "parts", message)]);
        }
        let (mut parts, mut windows) = (Vec::new(), Vec::new());
        for call in calls {
            let other = match Part::of(call) {
                Ok(part) => {
                    parts.push(part);
                    continue;
                }
                Err(other) => *other,
            };
            if let OperatorCall::SetMaintenance { agent_ids, window } = other {
                windows.push((agent_ids, window));
                continue;
            }
            let message = "it cannot be done together with others";
            return Err(vec![no(RejectReason::Invalid, other.name(), message)]);
        }
        if windows.is_empty() {
            return self.do_parts(parts, now);
        }
        if !parts.is_empty() {
            let message = "maintenance is set by itself";
            return Err(vec![no(RejectReason::Invalid, "set_maintenance", message)]);
        }
        let all = windows
            .iter()
            .map(|(ids, window)| (ids.as_slice(), *window));
        self.check_maintenance(all, now)?;
        for (ids, window) in windows {
            self.put_maintenance(&ids, window, now);
        }
        Ok(())
    }

    /// All of these or none: what the core knows is checked first, then level 1 takes all or none.
    fn do_parts(&mut self, parts: Vec<Part>, now: UnixMillis) -> Called {
        let done = self.check_parts(&parts).and_then(|()| {
            let events = parts.iter().map(Part::event).collect();
            self.try_allocate_all(events, now).map_err(|(i, reason)| {
                let role = parts.get(i).map(Part::role).unwrap_or_default();
                level_1_says(&role, &reason)
            })
        });
        if let Err(r) = done {
            let changes = parts.iter().filter(|p| matches!(p, Part::Change(_)));
            let roles: BTreeSet<String> = changes.map(Part::role).collect();
            for role in roles {
                self.measure(Measure::ReservationFailed { role });
            }
            return Err(vec![r]);
        }
        let mut ops = Vec::new();
        let mut changed: BTreeMap<AgentId, Volumes> = BTreeMap::new();
        for part in parts {
            match part {
                Part::Setting(setting) => ops.push(self.settings.put(setting)),
                Part::Change(change) => {
                    let of = changed.entry(change.agent_id).or_default();
                    match change.what {
                        What::Destroy(volume) => of.destroyed.push(volume),
                        What::Create(volume, _, Some(path)) => {
                            of.mounts.insert(volume, path);
                        }
                        _ => {}
                    }
                }
            }
        }
        self.persist(ops);
        for (id, of) in changed {
            self.store_reservations(&id, of.destroyed, now);
            self.note_mounts(&id, of.mounts);
        }
        Ok(())
    }

    fn check_parts(&self, parts: &[Part]) -> Result<(), CallRejection> {
        let (mut weights, mut quotas) = (BTreeSet::new(), BTreeSet::new());
        let mut changes: BTreeMap<&AgentId, Vec<ResourcePart>> = BTreeMap::new();
        for part in parts {
            match part {
                Part::Setting(Setting::Weight(role, weight)) => {
                    if *weight != stored::DEFAULT_WEIGHT
                        && !self.settings.weights.contains_key(role)
                    {
                        weights.insert(role);
                    }
                }
                Part::Setting(Setting::Quota(role, quota, _)) => {
                    if !quota.is_empty() && !self.settings.quota.contains_key(role) {
                        quotas.insert(role);
                    }
                }
                Part::Change(c) => changes.entry(&c.agent_id).or_default().push(c.part()),
            }
        }
        let full = |new: usize, old: usize| new > 0 && old + new > MAX_SETTINGS;
        if full(weights.len(), self.settings.weights.len()) {
            return Err(too_many("weight"));
        }
        if full(quotas.len(), self.settings.quota.len()) {
            return Err(too_many("quota"));
        }
        for (id, changes) in changes {
            self.check_agent(id)?;
            self.check_storable(id, &changes)?;
            if self.allocator.total(id).is_none() {
                let message = "the agent has not come back yet, or runs more than it has";
                return Err(no(RejectReason::AgentDisconnected, id, message));
            }
        }
        Ok(())
    }
}

fn too_many(what: &str) -> CallRejection {
    let message = format!("at most {MAX_SETTINGS} roles have a {what}");
    no(RejectReason::TooMany, "role", message)
}
