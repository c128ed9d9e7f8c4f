//! What must hold, and what it is called when it does not.

use std::collections::{BTreeMap, BTreeSet};

use waggle_master::view::ClusterView;
use waggle_services::Instance;
use waggle_types::{
    AgentId, FrameworkId, Generation, Millis, Resources, ServiceId, ServiceVersion, TaskId,
};

use crate::{Sim, pods::held_by_executors};

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
    /// An agent was told to go away for good, or a framework that keeps the rules was refused.
    Refused(String),
    /// A framework was offered nothing although there was room for it.
    Starved {
        /// Which.
        framework: String,
        /// Where there was room.
        agent_id: AgentId,
        /// For how long.
        waited: Millis,
    },
    /// A task was killed by the master's will, and its framework was not told why.
    NoReason {
        /// Which.
        task_id: TaskId,
        /// What it was told.
        told: String,
    },
    /// A role got more than its limit.
    OverLimit {
        /// Which.
        role: String,
        /// How much of what.
        charged: String,
    },
    /// What is reserved is not what was acknowledged.
    Reserved(String),
    /// A task was started, or is offered room, on an agent that takes none.
    Closed(String),
    /// An agent that is gone for good was taken again.
    CameBack(AgentId),
    /// A job's runs are not what they must be.
    Job(String),
    /// An instance that is a pod is not whole, or not where it must be.
    Pod(String),
    /// A master that starts on the same store has another cluster.
    NotRestored(String),
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

/// Without shared volumes, which are never used up.
fn held_alone(r: &Resources) -> Resources {
    let mut out = r.clone();
    for (id, _) in r.custom.volumes().filter(|(_, v)| v.shared) {
        out.custom.remove_volume(id);
    }
    out
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
    pub(crate) fn differences(&mut self) -> Vec<String> {
        let now = self.now;
        let Some(view) = self.master.as_mut().map(|m| m.view(now)) else {
            return vec!["no master".into()];
        };
        let mut out = self.framework_differences(&view);
        out.extend(self.upkeep_differences(&view));
        out.extend(self.job_differences());
        out.extend(self.pod_differences());
        let Some(master) = &self.master else {
            return out;
        };
        let scheduler = master.scheduler();
        let mut known: BTreeMap<&AgentId, BTreeSet<&TaskId>> = BTreeMap::new();
        let mut held: BTreeMap<&AgentId, Resources> = BTreeMap::new();
        for i in scheduler.instances() {
            let on = &i.place.agent_id;
            known.entry(on).or_default().extend(i.live_ids());
            let sum = held.entry(on).or_default();
            match sum.checked_add(&i.task.resources) {
                Some(s) => *sum = s,
                None => out.push(format!("{on}: two instances hold one port")),
            }
        }
        let foreign = view
            .tasks
            .iter()
            .filter(|(_, t)| self.is_foreign(&t.spec.framework_id));
        for (task_id, t) in foreign {
            known.entry(t.agent_id()).or_default().insert(task_id);
            let sum = held.entry(t.agent_id()).or_default();
            sum.try_add(&held_alone(&t.resources()));
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
            let used = master.allocator().used(id).cloned().unwrap_or_default();
            let held = held.remove(id).unwrap_or_default();
            if used != held {
                out.push(format!(
                    "{id}: level 1 says that {used} is used, not {held}"
                ));
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
        let instances = scheduler.instances().flat_map(Instance::live_ids);
        let foreign = self.frameworks.iter().flat_map(|f| f.mind.live());
        if tasks != instances.chain(foreign).collect() {
            out.push("the network's tasks are not those that run".into());
        }
        out
    }

    fn is_foreign(&self, id: &FrameworkId) -> bool {
        self.master.as_ref().is_some_and(|m| m.framework_id() != id)
    }

    /// What frameworks believe, what runs, and what level 1 holds for each.
    fn framework_differences(&self, view: &ClusterView) -> Vec<String> {
        let mut out = Vec::new();
        let registered: BTreeSet<&FrameworkId> = view.frameworks.keys().collect();
        let mut living = BTreeSet::new();
        for (at, f) in self.frameworks.iter().enumerate() {
            if f.is_gone {
                continue;
            }
            if f.retired || !f.is_idle() {
                out.push(format!("framework {at} is not at rest"));
            }
            out.extend(f.mind.unfinished().map(|u| format!("framework {at}: {u}")));
            living.extend(&f.id);
        }
        let of_people = |id: &&FrameworkId| {
            let name = view.frameworks.get(*id).map(|f| f.name.as_str());
            self.is_foreign(id) && name != Some(waggle_master::core::JOB_FRAMEWORK)
        };
        let others = registered.into_iter().filter(of_people);
        if living != others.collect() {
            out.push(format!("registered are {:?}", view.frameworks.keys()));
        }
        let mut running: BTreeMap<&FrameworkId, BTreeMap<&AgentId, Resources>> = BTreeMap::new();
        let mut tasks: BTreeMap<&FrameworkId, BTreeSet<&TaskId>> = BTreeMap::new();
        let executors: Vec<_> = self.nodes.iter().map(held_by_executors).collect();
        for (at, node) in self.nodes.iter().enumerate() {
            for task_id in node.processes.values() {
                let Some(spec) = node.disk.get(task_id).and_then(|d| d.spec.as_ref()) else {
                    out.push(format!("{task_id} runs and nothing is written of it"));
                    continue;
                };
                let of = &spec.framework_id;
                tasks.entry(of).or_default().insert(task_id);
                let sum = running.entry(of).or_default();
                sum.entry(&node.info.agent_id)
                    .or_default()
                    .try_add(&held_alone(&spec.resources));
            }
            for (id, held) in &executors[at] {
                let sum = running.entry(id).or_default();
                let sum = sum.entry(&node.info.agent_id).or_default();
                sum.try_add(held);
            }
        }
        for f in &self.frameworks {
            let live: BTreeSet<&TaskId> = f.mind.live().collect();
            let run =
                f.id.as_ref()
                    .and_then(|id| tasks.remove(id))
                    .unwrap_or_default();
            if live != run {
                let name = f.mind.info().name;
                out.push(format!("{name} believes in {live:?}, {run:?} run"));
            }
        }
        tasks.retain(|id, _| self.is_foreign(id));
        for (id, left) in tasks {
            out.push(format!("{left:?} of {id}, which is gone, run"));
        }
        let Some(master) = &self.master else {
            return out;
        };
        let (allocator, nothing) = (master.allocator(), BTreeMap::new());
        for id in view.frameworks.keys() {
            let run = running.get(id).unwrap_or(&nothing);
            for node in &self.nodes {
                let agent = &node.info.agent_id;
                let used = allocator.used_by(agent, id).unwrap_or_default();
                let used = held_alone(&used);
                let run = run.get(agent).cloned().unwrap_or_default();
                if used != run {
                    out.push(format!(
                        "{agent}: level 1 says that {id} uses {used}, not {run}"
                    ));
                }
            }
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
