//! What operators ask of level 1: validated, applied, stored before it is answered; or refused with typed
//! reasons, and nothing of it is done.

use std::collections::BTreeMap;

use waggle_allocator::Event as Level1;
use waggle_types::{
    AgentId, Milli, OperatorCall, Quota, RejectReason, Reservation, ResourcePart, Resources,
    UnixMillis, Volume, VolumeId,
};

use super::{
    MasterCore, Measure,
    frameworks::{Called, no},
    refusals::level_1_says,
    stored,
};

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
    Create(VolumeId, Volume),
    Resize(VolumeId, Milli),
    Destroy(VolumeId),
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
            What::Create(id, v) => {
                part.resources.custom.set_volume(id.clone(), *v);
            }
            What::Resize(..) | What::Destroy(_) => {}
        }
        part
    }

    fn event(self) -> Level1 {
        let Self {
            agent_id,
            stack,
            what,
        } = self;
        match what {
            What::Reserve(resources) => Level1::Reserve {
                agent_id,
                stack,
                resources,
            },
            What::Unreserve(resources) => Level1::Unreserve {
                agent_id,
                stack,
                resources,
            },
            What::Create(volume_id, volume) => Level1::CreateVolume {
                agent_id,
                stack,
                volume_id,
                volume,
            },
            What::Resize(volume_id, size) => Level1::ResizeVolume {
                agent_id,
                stack,
                volume_id,
                size,
            },
            What::Destroy(volume_id) => Level1::DestroyVolume {
                agent_id,
                stack,
                volume_id,
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
        let (agent_id, stack, what) = match call {
            OperatorCall::SetWeight { role, weight_milli } => {
                return self.set_weight(role, weight_milli, now);
            }
            OperatorCall::SetQuota { role, quota, force } => {
                return self.set_quota(role, quota, force, now);
            }
            OperatorCall::SetMaintenance { agent_ids, window } => {
                return self.set_maintenance(&agent_ids, window, now);
            }
            OperatorCall::Drain {
                agent_id,
                max_grace,
                mark_gone,
            } => return self.drain(&agent_id, max_grace, mark_gone, now),
            OperatorCall::Deactivate { agent_id } => return self.deactivate(&agent_id, now),
            OperatorCall::Activate { agent_id } => return self.activate(&agent_id, now),
            OperatorCall::MarkGone { agent_id } => return self.mark_gone(&agent_id, now),
            OperatorCall::AddNetwork { name, network } => {
                return self.add_network(name, network);
            }
            OperatorCall::RemoveNetwork { name } => return self.remove_network(&name),
            OperatorCall::SetPolicy { policy, force } => return self.set_policy(policy, force),
            OperatorCall::RemovePolicy { name } => return self.remove_policy(&name),
            OperatorCall::Teardown { framework_id } => {
                if self.frameworks.all.contains_key(&framework_id) {
                    self.remove_framework(&framework_id, now);
                    return Ok(());
                }
                let (reason, message) = if framework_id == self.framework_id {
                    let message = "the master's own framework has no end";
                    (RejectReason::ReservedFramework, message)
                } else if self.frameworks.is_removed(&framework_id) {
                    let message = "the framework was removed";
                    (RejectReason::FrameworkRemoved, message)
                } else {
                    (RejectReason::UnknownFramework, "no such framework")
                };
                return Err(vec![no(reason, &framework_id, message)]);
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
            } => (agent_id, stack, What::Create(volume_id, volume)),
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
        };
        let change = Change {
            agent_id,
            stack,
            what,
        };
        self.change_reservations(change, now)
    }

    fn set_weight(&mut self, role: String, weight_milli: u32, now: UnixMillis) -> Called {
        let default = weight_milli == stored::DEFAULT_WEIGHT;
        let new = !default && !self.settings.weights.contains_key(&role);
        if new && self.settings.weights.len() >= MAX_SETTINGS {
            return Err(vec![too_many("weight")]);
        }
        let event = Level1::WeightSet {
            role: role.clone(),
            weight_milli,
        };
        self.try_allocate(event, now)
            .map_err(|reason| vec![level_1_says(&role, &reason)])?;
        self.persist(vec![stored::put_weight(&role, weight_milli)]);
        if default {
            self.settings.weights.remove(&role);
        } else {
            self.settings.weights.insert(role, weight_milli);
        }
        Ok(())
    }

    fn set_quota(&mut self, role: String, quota: Quota, force: bool, now: UnixMillis) -> Called {
        let new = !quota.is_empty() && !self.settings.quota.contains_key(&role);
        if new && self.settings.quota.len() >= MAX_SETTINGS {
            return Err(vec![too_many("quota")]);
        }
        let event = Level1::QuotaSet {
            role: role.clone(),
            quota: quota.clone(),
            force,
        };
        self.try_allocate(event, now)
            .map_err(|reason| vec![level_1_says(&role, &reason)])?;
        self.persist(vec![stored::put_quota(&role, &quota)]);
        if quota.is_empty() {
            self.settings.quota.remove(&role);
        } else {
            self.settings.quota.insert(role, quota);
        }
        Ok(())
    }

    fn change_reservations(&mut self, change: Change, now: UnixMillis) -> Called {
        let id = change.agent_id.clone();
        let role = change.stack.last().map(|r| r.role.clone());
        let role = role.unwrap_or_default();
        let destroyed = match &change.what {
            What::Destroy(volume) => vec![volume.clone()],
            _ => Vec::new(),
        };
        let done = self
            .check_agent(&id)
            .and_then(|()| self.check_storable(&id, &[change.part()]))
            .and_then(|()| {
                if self.allocator.total(&id).is_some() {
                    return Ok(());
                }
                let message = "the agent has not come back yet, or runs more than it has";
                Err(no(RejectReason::AgentDisconnected, &id, message))
            })
            .and_then(|()| {
                self.try_allocate(change.event(), now)
                    .map_err(|reason| level_1_says(&role, &reason))
            });
        if let Err(r) = done {
            self.measure(Measure::ReservationFailed { role });
            return Err(vec![r]);
        }
        self.store_reservations(&id, destroyed);
        Ok(())
    }
}

fn too_many(what: &str) -> waggle_types::CallRejection {
    let message = format!("{MAX_SETTINGS} roles have a {what} already");
    no(RejectReason::TooMany, "role", message)
}
