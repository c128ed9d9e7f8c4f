//! What operators decide about agents: set aside, drained, under maintenance, gone for good.
//!
//! It is stored, and said to level 1 again whenever an agent (re-)registers: level 1 begins anew with each
//! registration, operators do not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_allocator::{Event as Level1, EvictReason};
use waggle_types::{
    AgentId, CallRejection, Millis, RejectReason, StatusReason, TaskState, Unavailability,
    UnixMillis,
};

use super::{
    Effect, MasterCore, MasterMsg, Measure,
    frameworks::{Called, no},
    levels::own_status,
    stored,
};
use crate::view::AgentMode;

/// Agents that are remembered as gone for good; the oldest are forgotten.
const MAX_GONE: usize = 10_000;
/// Most agents of one change of maintenance, which is one transaction.
const MAX_AT_ONCE: usize = 3000;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Upkeep {
    /// Of agents that are not active.
    modes: BTreeMap<AgentId, AgentMode>,
    /// Planned maintenance of known agents.
    pub(super) windows: BTreeMap<AgentId, Unavailability>,
    /// Shared with views.
    pub(super) gone: Arc<BTreeMap<AgentId, UnixMillis>>,
    gone_by_age: BTreeSet<(UnixMillis, AgentId)>,
}

impl Upkeep {
    pub(super) fn restored(
        modes: impl IntoIterator<Item = (AgentId, AgentMode)>,
        windows: BTreeMap<AgentId, Unavailability>,
        gone: BTreeMap<AgentId, UnixMillis>,
    ) -> Self {
        let modes = modes.into_iter();
        Self {
            modes: modes.filter(|(_, m)| *m != AgentMode::Active).collect(),
            windows,
            gone_by_age: gone.iter().map(|(id, at)| (*at, id.clone())).collect(),
            gone: Arc::new(gone),
        }
    }

    pub(super) fn mode(&self, id: &AgentId) -> AgentMode {
        if self.is_gone(id) {
            return AgentMode::Gone;
        }
        self.modes.get(id).copied().unwrap_or_default()
    }

    /// Agents that are not active.
    pub(super) fn modes(&self) -> impl Iterator<Item = (&AgentId, AgentMode)> {
        self.modes.iter().map(|(id, mode)| (id, *mode))
    }

    pub(super) fn is_gone(&self, id: &AgentId) -> bool {
        self.gone.contains_key(id)
    }

    /// Whether an agent's maintenance has begun.
    fn is_down(&self, id: &AgentId, now: UnixMillis) -> bool {
        self.windows.get(id).is_some_and(|w| w.start <= now)
    }

    fn set_mode(&mut self, id: &AgentId, mode: AgentMode) {
        if mode == AgentMode::Active {
            self.modes.remove(id);
        } else {
            self.modes.insert(id.clone(), mode);
        }
    }

    /// An agent is no longer known.
    fn forget(&mut self, id: &AgentId) {
        self.modes.remove(id);
        self.windows.remove(id);
    }
}

impl MasterCore {
    /// Whether an agent is registered, or was when the master started.
    pub(super) fn check_agent(&self, id: &AgentId) -> Result<(), CallRejection> {
        if self.upkeep.is_gone(id) {
            let message = "the agent is gone for good";
            return Err(no(RejectReason::UnknownAgent, id, message));
        }
        if self.agents.all.contains_key(id) || self.expected.contains_key(id) {
            return Ok(());
        }
        let message = "there is no such agent";
        Err(no(RejectReason::UnknownAgent, id, message))
    }

    /// Whether an agent is there, and operators let it take tasks.
    pub(super) fn is_at_work(&self, id: &AgentId) -> bool {
        let here = self.agents.all.get(id);
        let here = here.is_some_and(|a| a.reachable && a.session.is_some());
        here && self.upkeep.mode(id) == AgentMode::Active
    }

    /// What level 1 has to hear of an agent, so that it treats it as operators want. `fresh`: it does not
    /// know the maintenance that is planned now, and everybody there is asked (again) to leave.
    pub(super) fn standing(&self, id: &AgentId, fresh: bool, now: UnixMillis) -> Vec<Level1> {
        let agent_id = || id.clone();
        // Active first, which ends a draining.
        let mut out = vec![Level1::AgentActivated {
            agent_id: agent_id(),
        }];
        let window = self.upkeep.windows.get(id);
        if let Some(window) = window.filter(|_| fresh || self.upkeep.is_down(id, now)) {
            // While it is active, since what has begun evicts from active agents only.
            out.push(Level1::MaintenanceSet {
                agent_id: agent_id(),
                window: Some(*window),
            });
        }
        match self.upkeep.mode(id) {
            AgentMode::Active if self.is_at_work(id) => {}
            AgentMode::Draining {
                max_grace,
                mark_gone,
            } => out.push(Level1::AgentDrained {
                agent_id: agent_id(),
                max_grace,
                mark_gone,
            }),
            _ => out.push(Level1::AgentDeactivated {
                agent_id: agent_id(),
            }),
        }
        out
    }

    /// An agent is connected again, with nothing changed.
    pub(super) fn reactivate(&mut self, id: &AgentId, now: UnixMillis) {
        if self.upkeep.mode(id) != AgentMode::Active {
            return;
        }
        if self.upkeep.is_down(id, now) {
            self.stand(id, now);
        } else {
            let agent_id = id.clone();
            self.allocate(Level1::AgentActivated { agent_id }, now);
        }
    }

    /// Says to level 1 how an agent stands, if it knows the agent.
    fn stand(&mut self, id: &AgentId, now: UnixMillis) {
        if self.allocator.total(id).is_some() {
            let events = self.standing(id, false, now);
            self.allocate_all(events, now);
        }
    }

    fn change_mode(&mut self, id: &AgentId, mode: AgentMode) {
        self.upkeep.set_mode(id, mode);
        self.store_agent(id);
        self.measure(Measure::Event {
            name: "waggle.agent.mode_changed",
            attrs: vec![
                ("waggle.agent.id", id.to_string()),
                ("waggle.agent.mode", mode.name().to_owned()),
            ],
            trace: None,
        });
    }

    pub(super) fn drain(
        &mut self,
        id: &AgentId,
        max_grace: Option<Millis>,
        mark_gone: bool,
        now: UnixMillis,
    ) -> Called {
        self.check_agent(id).map_err(|r| vec![r])?;
        let mode = AgentMode::Draining {
            max_grace,
            mark_gone,
        };
        self.change_mode(id, mode);
        if self.allocator.total(id).is_some() {
            self.stand(id, now);
        } else {
            // Level 1 left it out, since it runs more than it has, or it is not back yet.
            self.evict_all_on(id, max_grace, EvictReason::Drained, now);
        }
        Ok(())
    }

    pub(super) fn deactivate(&mut self, id: &AgentId, now: UnixMillis) -> Called {
        self.check_agent(id).map_err(|r| vec![r])?;
        self.change_mode(id, AgentMode::Deactivated);
        self.stand(id, now);
        Ok(())
    }

    pub(super) fn activate(&mut self, id: &AgentId, now: UnixMillis) -> Called {
        self.check_agent(id).map_err(|r| vec![r])?;
        self.change_mode(id, AgentMode::Active);
        self.stand(id, now);
        Ok(())
    }

    pub(super) fn set_maintenance(
        &mut self,
        ids: &[AgentId],
        window: Option<Unavailability>,
        now: UnixMillis,
    ) -> Called {
        self.check_maintenance([(ids, window)], now)?;
        self.put_maintenance(ids, window, now);
        Ok(())
    }

    /// Whether all of these windows can be set; no agent may be in two of them.
    pub(super) fn check_maintenance<'a>(
        &self,
        windows: impl IntoIterator<Item = (&'a [AgentId], Option<Unavailability>)>,
        now: UnixMillis,
    ) -> Called {
        let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
        for (ids, window) in windows {
            if ids.is_empty() || ids.len() > MAX_AT_ONCE {
                let message = format!("must be 1 to {MAX_AT_ONCE} agents, are {}", ids.len());
                wrong.push(no(RejectReason::Invalid, "agent_ids", message));
            }
            for id in ids.iter().take(MAX_AT_ONCE) {
                wrong.extend(self.check_agent(id).err());
                if !seen.insert(id) {
                    wrong.push(no(RejectReason::Invalid, id, "the agent is named twice"));
                }
            }
            let end = window.and_then(|w| Some(w.start + w.duration?));
            if end.is_some_and(|end| end <= now) {
                let message = "must not be over already";
                wrong.push(no(RejectReason::Invalid, "window", message));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Sets a window that was checked.
    pub(super) fn put_maintenance(
        &mut self,
        ids: &[AgentId],
        window: Option<Unavailability>,
        now: UnixMillis,
    ) {
        let ops = ids.iter().map(|id| stored::put_window(id, window));
        self.persist(ops.collect());
        let mut events = Vec::new();
        for id in ids {
            self.rescind_inverse_on(id, now);
            match window {
                Some(w) => self.upkeep.windows.insert(id.clone(), w),
                None => self.upkeep.windows.remove(id),
            };
            if self.allocator.total(id).is_none() {
                continue;
            }
            if window.is_none() {
                events.push(Level1::MaintenanceSet {
                    agent_id: id.clone(),
                    window,
                });
            }
            events.extend(self.standing(id, true, now));
        }
        self.allocate_all(events, now);
    }

    /// Level 1 says that an agent that was drained runs nothing any more.
    pub(super) fn drained(&mut self, id: &AgentId, now: UnixMillis) {
        let AgentMode::Draining { mark_gone, .. } = self.upkeep.mode(id) else {
            return;
        };
        if mark_gone {
            self.gone(id, now);
        } else {
            self.change_mode(id, AgentMode::Drained);
        }
    }

    pub(super) fn mark_gone(&mut self, id: &AgentId, now: UnixMillis) -> Called {
        self.check_agent(id).map_err(|r| vec![r])?;
        self.gone(id, now);
        Ok(())
    }

    /// An agent is gone for good, and all that ran on it with it.
    fn gone(&mut self, id: &AgentId, now: UnixMillis) {
        let mut ops = vec![
            stored::put_gone(id, now),
            stored::delete_agent(id),
            stored::put_window(id, None),
            stored::put_reservations(id, &[]),
        ];
        self.rescind_inverse_on(id, now);
        self.upkeep.forget(id);
        Arc::make_mut(&mut self.upkeep.gone).insert(id.clone(), now);
        self.upkeep.gone_by_age.insert((now, id.clone()));
        while self.upkeep.gone.len() > MAX_GONE {
            let Some((_, oldest)) = self.upkeep.gone_by_age.pop_first() else {
                break;
            };
            Arc::make_mut(&mut self.upkeep.gone).remove(&oldest);
            ops.push(stored::delete_gone(&oldest));
        }
        self.persist(ops);
        self.measure(Measure::Event {
            name: "waggle.agent.gone",
            attrs: vec![("waggle.agent.id", id.to_string())],
            trace: None,
        });
        self.stand(id, now);
        let state = TaskState::GoneByOperator;
        let reason = StatusReason::SlaveRemovedByOperator;
        let message = "the agent was marked as gone for good";
        for task_id in self.tasks.on_agent(id) {
            let agent = id.clone();
            let status = own_status(task_id, agent, state, Some(reason), message.to_owned(), now);
            self.report(status, now);
        }
        self.end_launches(id, state, reason, message, now);
        if let Some(session) = self.agents.session(id) {
            self.out.push(Effect::SendAgent {
                session,
                msg: MasterMsg::Refused {
                    reason: message.to_owned(),
                    permanent: true,
                },
            });
            self.out.push(Effect::Close { session });
        }
        self.tell_removed(id, now);
        if self.allocator.total(id).is_some() {
            let agent_id = id.clone();
            self.allocate(Level1::AgentRemoved { agent_id }, now);
        }
        self.agents.remove(id);
        self.expected.remove(id);
        self.forget_upkeep(id, now);
        self.net_dirty = true;
        self.end_recovery_when_done(now);
    }

    /// An agent is no longer known: nothing of what was decided about it stays.
    pub(super) fn forget_upkeep(&mut self, id: &AgentId, now: UnixMillis) {
        self.held_losses.remove(id);
        self.rescind_inverse_on(id, now);
        self.upkeep.forget(id);
        self.reservations.stored.remove(id);
        self.forget_wiped(Some(id));
        self.reservations.given_way.remove(id);
        self.forget_executors(id);
        self.forget_mounts(id);
        self.release_subnets(id, now);
    }
}
