//! What must hold, and what it is called when it does not.

use std::collections::{BTreeMap, BTreeSet};

use waggle_services::Instance;
use waggle_types::{AgentId, Generation, Resources, ServiceId, ServiceVersion, TaskId};

use crate::Sim;

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A task's process was started a second time.
    StartedTwice(TaskId),
    /// A node runs more than it has.
    Overcommitted {
        /// Which node.
        agent_id: AgentId,
        /// What it runs.
        used: String,
    },
    /// The allocator's books do not add up.
    Books(String),
    /// A node was sent an older generation than it has.
    GenerationWentBack {
        /// Which node.
        agent_id: AgentId,
        /// What it has.
        has: Generation,
        /// What it was sent.
        sent: Generation,
    },
    /// The store could not be read back.
    Store(String),
    /// An agent was told to go away for good.
    Refused(String),
    /// Something never came to rest.
    TooManyEvents,
    /// After healing, within the time given, this was not so.
    NotConverged(String),
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Sim {
    /// Checks that are cheap enough for every event of the master.
    pub(crate) fn check_books(&self) -> Result<(), Violation> {
        match &self.master {
            Some(m) => m
                .allocator()
                .check()
                .map_err(|e| Violation::Books(e.to_string())),
            None => Ok(()),
        }
    }

    /// What still differs from what was asked for; empty when converged.
    pub(crate) fn differences(&self) -> Vec<String> {
        let mut out = Vec::new();
        let Some(master) = &self.master else {
            return vec!["no master".into()];
        };
        let scheduler = master.scheduler();
        let mut known: BTreeMap<&AgentId, BTreeSet<&TaskId>> = BTreeMap::new();
        let mut held: BTreeMap<&AgentId, Resources> = BTreeMap::new();
        for i in scheduler.instances() {
            let on = &i.place.agent_id;
            known.entry(on).or_default().insert(i.task_id());
            let sum = held.entry(on).or_default();
            match sum.checked_add(&i.task.resources) {
                Some(s) => *sum = s,
                None => out.push(format!("{on}: two instances hold one port")),
            }
        }
        for s in scheduler.services() {
            let id = &s.spec().id;
            let p = s.progress();
            if s.is_removing() || p.n_ready != s.spec().instances || p.n_to_end > 0 {
                out.push(format!("{id}: {p:?}"));
            }
            if s.deployment().is_some() {
                out.push(format!("{id}: deployment in flight"));
            }
        }
        for (id, version) in &self.answered {
            self.check_answer(id, *version, &mut out);
        }
        for node in &self.nodes {
            let id = &node.info.agent_id;
            let run: BTreeSet<&TaskId> = node.processes.values().collect();
            let want = known.remove(id).unwrap_or_default();
            if run != want {
                let lost: Vec<_> = want.difference(&run).collect();
                let stray: Vec<_> = run.difference(&want).collect();
                out.push(format!("{id}: not running {lost:?}, not known {stray:?}"));
            }
            let used = master.allocator().used(id);
            if used != Some(&held.remove(id).unwrap_or_default()) {
                out.push(format!("{id}: level 1 says that {used:?} is used"));
            }
            if node.applied != master.net().generation {
                out.push(format!(
                    "{id}: has generation {}, not {}",
                    node.applied,
                    master.net().generation
                ));
            }
        }
        for on in known.keys() {
            out.push(format!("{on}: instances on an agent that is not there"));
        }
        let tasks: BTreeSet<&TaskId> = master.net().tasks.keys().collect();
        let instances: BTreeSet<&TaskId> = scheduler.instances().map(Instance::task_id).collect();
        if tasks != instances {
            out.push("the network's tasks are not the instances".into());
        }
        out
    }

    /// What a client was told is in force, or something newer is.
    fn check_answer(&self, id: &ServiceId, version: Option<ServiceVersion>, out: &mut Vec<String>) {
        let Some(master) = &self.master else {
            return;
        };
        let found = master.scheduler().service(id).map(|s| s.spec().version);
        let unsure = self.unanswered.contains(id);
        match (version, found) {
            (Some(v), Some(f)) if f < v => out.push(format!("{id}: answered {v}, found {f}")),
            (Some(v), None) if !unsure => out.push(format!("{id}: answered {v}, found nothing")),
            (None, Some(f)) if !unsure => out.push(format!("{id}: removed, found {f}")),
            _ => {}
        }
    }
}
