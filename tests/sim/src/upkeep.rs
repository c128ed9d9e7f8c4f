//! What operators ask for is so: closed agents take nothing, gone ones stay away, limits hold, reservations are
//! those that were acknowledged, and who is killed for it is told.

use waggle_master::{
    core::MasterCore,
    view::{AgentMode, ClusterView},
};
use waggle_types::{
    AgentId, Milli, Millis, Quota, SchedulerEvent, StatusReason, TaskId, TaskState, Unavailability,
};

use crate::{Sim, Violation, agent::MAX_REFUSED, ledger::Mode, network::Delivery};

/// From the answer to an operator until no message from before is on its way.
const UNDER_WAY: Millis = Millis(200);

impl Sim {
    /// Cheap enough for every event of the master.
    pub(crate) fn check_upkeep(&mut self) -> Result<(), Violation> {
        if self.plan.operators == 0 {
            return Ok(());
        }
        let Some(allocator) = self.master.as_ref().map(MasterCore::allocator) else {
            return Ok(());
        };
        for node in &self.nodes {
            let id = &node.info.agent_id;
            let Some(active) = allocator.is_active(id) else {
                continue;
            };
            self.ledger
                .check(allocator, id)
                .map_err(Violation::Reserved)?;
            let closed = self.ledger.closed_since(id, self.now);
            if active && closed.is_some_and(|at| self.now > at + Millis(1)) {
                return Err(Violation::Closed(format!("{id} takes tasks")));
            }
        }
        Ok(())
    }

    /// Level 1 lets no role grow beyond its limit. What agents bring back with them is not its act.
    pub(crate) fn check_limits(&mut self, may_exceed: bool) -> Result<(), Violation> {
        let Some(allocator) = self.master.as_ref().map(MasterCore::allocator) else {
            return Ok(());
        };
        for role in self.ledger.quotas.keys() {
            let Some(view) = allocator.explain_role(role) else {
                continue;
            };
            let before = self.charged.insert(role.clone(), view.charged.clone());
            for (kind, limit) in &view.limit {
                let of = |c: &std::collections::BTreeMap<String, Milli>| {
                    c.get(kind).copied().unwrap_or_default()
                };
                // What it had when the limit was set stays.
                let (now, before) = (of(&view.charged), before.as_ref().map(of));
                let more = before.is_some_and(|b| now > b);
                if !may_exceed && now > *limit && more {
                    return Err(Violation::OverLimit {
                        role: role.clone(),
                        charged: format!("{kind}: {now} of {limit}"),
                    });
                }
            }
        }
        Ok(())
    }

    /// A process is about to start.
    pub(crate) fn check_spawn(&self, at: usize, task: &TaskId) -> Result<(), Violation> {
        let id = &self.nodes[at].info.agent_id;
        match self.ledger.closed_since(id, self.now) {
            Some(since) if self.now > since + UNDER_WAY => Err(Violation::Closed(format!(
                "{task} starts on {id}, closed at {since}"
            ))),
            _ => Ok(()),
        }
    }

    /// An agent is told that it is gone for good. It tries some more times: nobody may take it again.
    pub(crate) fn refused_for_good(&mut self, at: usize, why: String) -> Result<(), Violation> {
        let agent_id = self.nodes[at].info.agent_id.clone();
        if !self.may_be_gone(&agent_id) {
            return Err(Violation::Refused(why));
        }
        let node = &mut self.nodes[at];
        node.n_refused += 1;
        if node.n_refused > MAX_REFUSED {
            self.agent_down(at, true);
            self.after(1_000, 20_000, Delivery::NewNode(at));
        }
        Ok(())
    }

    pub(crate) fn check_opened(&self, agent_id: &AgentId) -> Result<(), Violation> {
        let mut nodes = self.nodes.iter();
        let node = nodes.find(|n| n.info.agent_id == *agent_id);
        if node.is_some_and(|n| n.n_refused > 0) {
            return Err(Violation::CameBack(agent_id.clone()));
        }
        Ok(())
    }

    /// What a framework is about to hear: who did not ask for an end hears why.
    pub(crate) fn check_end(&self, at: usize, event: &SchedulerEvent) -> Result<(), Violation> {
        let SchedulerEvent::Update(s) = event else {
            return Ok(());
        };
        let told = matches!(
            s.reason,
            Some(StatusReason::ContainerPreempted | StatusReason::SlaveDraining)
        );
        let asked = self.frameworks[at].mind.asked_for_end(&s.task_id);
        if s.state != TaskState::Killed || told || asked {
            return Ok(());
        }
        Err(Violation::NoReason {
            task_id: s.task_id.clone(),
            told: format!("{:?} {}", s.reason, s.message),
        })
    }

    /// What the master shows against what operators were answered.
    pub(crate) fn upkeep_differences(&self, view: &ClusterView) -> Vec<String> {
        let mut out = Vec::new();
        let Some(allocator) = self.master.as_ref().map(MasterCore::allocator) else {
            return out;
        };
        for (role, r) in &self.ledger.weights {
            let has = allocator
                .explain_role(role)
                .map_or(1000, |v| v.weight_milli);
            if !(r.may_be(&Some(has)) || has == 1000 && r.may_be(&None)) {
                out.push(format!("weight of {role} is {has}"));
            }
        }
        for (role, r) in &self.ledger.quotas {
            let has = allocator.explain_role(role).map(|v| Quota {
                guarantee: v.guarantee,
                limit: v.limit,
            });
            if !r.may_be(&has.clone().unwrap_or_default()) {
                out.push(format!("quota of {role} is {has:?}"));
            }
        }
        for node in &self.nodes {
            let id = &node.info.agent_id;
            let Some(shown) = view.agents.get(id) else {
                continue;
            };
            let mode = match shown.mode {
                AgentMode::Active => Mode::Active,
                AgentMode::Deactivated => Mode::Deactivated,
                AgentMode::Draining {
                    mark_gone: true, ..
                }
                | AgentMode::Gone => Mode::Gone,
                AgentMode::Draining { .. } | AgentMode::Drained => Mode::Drained,
            };
            if self.ledger.modes.get(id).is_some_and(|r| !r.may_be(&mode)) {
                out.push(format!("{id} is {}", shown.mode.name()));
            }
            let window = &shown.maintenance;
            if self
                .ledger
                .windows
                .get(id)
                .is_some_and(|r| !r.may_be(window))
            {
                out.push(format!("{id} has the window {window:?}"));
            }
            let begun = |w: &Option<Unavailability>| w.is_some_and(|w| w.start <= self.now);
            let empty = |m: &Mode| matches!(m, Mode::Drained | Mode::Gone);
            let modes = self.ledger.modes.get(id).and_then(|r| r.surely(empty));
            let windows = self.ledger.windows.get(id).and_then(|r| r.surely(begun));
            if (modes.is_some() || windows.is_some()) && !node.processes.is_empty() {
                out.push(format!("{id} is to be empty and is not"));
            }
        }
        out
    }

    pub(crate) fn operated_summary(&self) -> String {
        let all = self.n_operated.iter();
        let all = all.map(|(name, (taken, refused))| format!("{name} {taken}+{refused}"));
        all.collect::<Vec<_>>().join(", ")
    }
}
