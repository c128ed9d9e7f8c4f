//! What level 1 wants back: tasks that are told to end before their time.

use std::collections::BTreeMap;

use waggle_allocator::{EvictReason, Notice};
use waggle_types::{
    AgentId, Evicted, FrameworkId, Millis, ResourcePart, Resources, StatusReason, TaskId,
    TaskState, TaskStatus, UnixMillis,
};

use super::{MasterCore, MasterMsg, Measure, tasks::Task};

/// Why a task was told to end before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Eviction {
    reason: EvictReason,
    /// For its last status.
    why: String,
    /// Longest time to end, when that is shorter than its own.
    grace: Option<Millis>,
}

impl Eviction {
    fn status_reason(&self) -> StatusReason {
        match self.reason {
            EvictReason::Reclaimed => StatusReason::ContainerPreempted,
            EvictReason::Drained | EvictReason::Maintenance => StatusReason::SlaveDraining,
        }
    }
}

/// Evicted tasks that have not ended.
pub(super) type Evictions = BTreeMap<TaskId, Eviction>;

/// A task that could be evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    task_id: TaskId,
    /// It ends anyhow.
    ending: bool,
    staged_at: UnixMillis,
    /// What it would give back.
    gives: Resources,
}

/// Fewest of these that give back `amount`, those that end anyhow first, then the newest.
fn choose(mut from: Vec<Candidate>, amount: &Resources) -> Vec<TaskId> {
    from.sort_by(|a, b| {
        let key = |c: &Candidate| (c.ending, c.staged_at);
        (key(b), &b.task_id).cmp(&(key(a), &a.task_id))
    });
    let mut left = amount.clone();
    let mut chosen: Vec<Candidate> = Vec::new();
    for c in from {
        let part = left.common(&c.gives);
        if !part.is_empty() {
            left.try_sub(&part);
            chosen.push(c);
        }
    }
    // The last ones may give what the first ones gave a part of.
    let mut sum = Resources::default();
    let adds_up = chosen.iter().all(|c| sum.try_add(&c.gives).is_some());
    chosen.retain(|c| {
        let rest = sum.checked_sub(&c.gives).filter(|_| adds_up && !c.ending);
        match rest.filter(|rest| rest.contains(amount)) {
            Some(rest) => {
                sum = rest;
                false
            }
            None => true,
        }
    });
    chosen.into_iter().map(|c| c.task_id).collect()
}

impl MasterCore {
    /// Does what a notice of level 1 asks for.
    pub(super) fn notice(&mut self, notice: Notice, now: UnixMillis) {
        match notice {
            Notice::Evict {
                framework_id,
                role,
                agent_id,
                part,
                max_grace,
                reason,
            } => match reason {
                EvictReason::Reclaimed => {
                    self.reclaim(&framework_id, &role, &agent_id, &part, max_grace, now);
                }
                // Nothing stays there, whatever it holds.
                EvictReason::Drained | EvictReason::Maintenance => {
                    if reason == EvictReason::Maintenance {
                        self.rescind_inverse_on(&agent_id, now);
                    }
                    self.evict_all_on(&agent_id, max_grace, reason, now);
                }
            },
            Notice::InverseOffer {
                framework_id,
                agent_id,
                window,
                resources,
            } => self.ask_to_leave(framework_id, agent_id, window, resources, now),
            Notice::InverseRescinded {
                framework_id,
                agent_id,
            } => self.rescind_inverse(&agent_id, &framework_id, now),
            Notice::Drained { agent_id, .. } => self.drained(&agent_id, now),
        }
    }

    /// Ends tasks that give back what was lent to them.
    fn reclaim(
        &mut self,
        framework: &FrameworkId,
        role: &str,
        agent: &AgentId,
        amount: &ResourcePart,
        grace: Option<Millis>,
        now: UnixMillis,
    ) {
        let lent = |t: &Task| {
            let mut sum = Resources::default();
            let of_it = |p: &&ResourcePart| p.revocable && p.reservation == amount.reservation;
            for p in self.booked(t).iter().filter(of_it) {
                sum.try_add(&p.resources);
            }
            sum
        };
        let of_it = |t: &&Task| t.spec.framework_id == *framework && t.spec.role == role;
        let candidates = self.tasks.of_agent(agent).filter(of_it).map(|t| Candidate {
            task_id: t.id.clone(),
            ending: t.kill_wanted,
            staged_at: t.staged_at,
            gives: lent(t),
        });
        for task in choose(candidates.collect(), &amount.resources) {
            self.evict(&task, grace, EvictReason::Reclaimed, now);
        }
    }

    /// Ends all tasks of an agent.
    pub(super) fn evict_all_on(
        &mut self,
        agent: &AgentId,
        grace: Option<Millis>,
        reason: EvictReason,
        now: UnixMillis,
    ) {
        for task in self.tasks.on_agent(agent) {
            self.evict(&task, grace, reason, now);
        }
        self.end_idle_executors(agent);
    }

    /// Tells a task to end, if it has not been told so already with as little time.
    fn evict(
        &mut self,
        task_id: &TaskId,
        max_grace: Option<Millis>,
        reason: EvictReason,
        now: UnixMillis,
    ) {
        let Some(t) = self.tasks.get(task_id) else {
            return;
        };
        let grace = max_grace.filter(|g| *g < t.spec.kill_grace);
        let hurry = |old: Option<Millis>| grace.is_some_and(|g| old.is_none_or(|old| g < old));
        let told = match self.evictions.get(task_id) {
            Some(e) => !hurry(e.grace),
            None => t.kill_wanted && !hurry(None),
        };
        if told {
            return;
        }
        let owner = self.booked(t).into_iter().find(|p| p.revocable);
        let owner = owner.and_then(|p| p.reservation.last().map(|r| r.role.clone()));
        let (agent, framework) = (t.agent_id().clone(), t.spec.framework_id.clone());
        let (role, trace) = (t.spec.role.clone(), t.trace());
        let why = match reason {
            EvictReason::Reclaimed => {
                let owner = owner.unwrap_or_else(|| "another role".to_owned());
                format!("role {owner} wants back what was lent to role {role}")
            }
            EvictReason::Drained => "the agent is drained".to_owned(),
            EvictReason::Maintenance => "the agent is down for maintenance".to_owned(),
        };
        self.measure(Measure::Event {
            name: "waggle.task.evicted",
            attrs: vec![
                ("waggle.task.id", task_id.to_string()),
                ("waggle.agent.id", agent.to_string()),
                ("waggle.framework.id", framework.to_string()),
                ("waggle.role", role),
                ("waggle.message", why.clone()),
            ],
            trace,
        });
        let eviction = Eviction { reason, why, grace };
        self.evictions.insert(task_id.clone(), eviction);
        self.tasks.change(task_id, |t| t.kill_wanted = true);
        self.end(&agent, task_id, now);
    }

    /// Tells an agent to end a task, within the time that its eviction leaves it.
    pub(super) fn send_kill(&mut self, agent: &AgentId, task_id: &TaskId) {
        let eviction = self.evictions.get(task_id);
        let grace = eviction.and_then(|e| e.grace);
        let why = eviction.map(|e| Evicted {
            reason: e.status_reason(),
            message: e.why.clone(),
        });
        let task_id = task_id.clone();
        let msg = MasterMsg::Kill {
            task_id,
            grace,
            why,
        };
        self.send(agent, msg);
    }

    /// The last status of a task that had to end with its framework, or to go, says so.
    pub(super) fn explain_end(&self, mut status: TaskStatus) -> TaskStatus {
        // Some processes end with an error when they are told to end; what ran out of memory, or could not be
        // started, did not end for that.
        let by_itself = matches!(
            status.reason,
            Some(
                StatusReason::ContainerLimitationMemory
                    | StatusReason::ContainerLaunchFailed
                    | StatusReason::TaskInvalid
            )
        );
        let told = match status.state {
            TaskState::Killed => true,
            TaskState::Failed => !by_itself,
            _ => false,
        };
        if let Some(e) = self.evictions.get(&status.task_id).filter(|_| told) {
            status.reason = Some(e.status_reason());
            status.message.clone_from(&e.why);
        } else if status.state == TaskState::Killed
            && let Some(t) = self.tasks.get(&status.task_id)
            && self.frameworks.is_removed(&t.spec.framework_id)
        {
            status.reason = Some(StatusReason::FrameworkRemoved);
            status.message = format!("framework {} removed", t.spec.framework_id);
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (0i64..4, 0i64..4, 0u64..4, any::<bool>());
        prop::collection::vec(one, 0..8).prop_map(|all| {
            let all = all.into_iter().enumerate();
            all.map(|(i, (cpus, mem, at, ending))| Candidate {
                task_id: TaskId::new(format!("t{i}")).unwrap(),
                ending,
                staged_at: UnixMillis(at),
                gives: Resources::from_millis(cpus, mem, 0),
            })
            .collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_chosen_suffices_and_none_of_it_is_spare(
            from in candidates(),
            cpus in 0i64..12,
            mem in 0i64..12,
        ) {
            let amount = Resources::from_millis(cpus, mem, 0);
            let chosen = choose(from.clone(), &amount);
            let sum = |skip: Option<&TaskId>, of: &[TaskId]| {
                let mut sum = Resources::default();
                for c in from.iter().filter(|c| of.contains(&c.task_id) && Some(&c.task_id) != skip) {
                    sum.try_add(&c.gives);
                }
                sum
            };
            let all: Vec<TaskId> = from.iter().map(|c| c.task_id.clone()).collect();
            let can = sum(None, &all).contains(&amount);
            prop_assert_eq!(sum(None, &chosen).contains(&amount), can);
            if can {
                for c in from.iter().filter(|c| chosen.contains(&c.task_id) && !c.ending) {
                    prop_assert!(!sum(Some(&c.task_id), &chosen).contains(&amount));
                }
            }
        }
    }

    #[test]
    fn the_newest_go_first() {
        let one = |id: &str, at: u64, ending: bool| Candidate {
            task_id: TaskId::new(id).unwrap(),
            ending,
            staged_at: UnixMillis(at),
            gives: Resources::from_millis(1000, 0, 0),
        };
        let all = vec![
            one("old", 1, false),
            one("new", 3, false),
            one("mid", 2, false),
        ];
        let ids = |chosen: Vec<TaskId>| chosen.iter().map(ToString::to_string).collect::<Vec<_>>();
        let two = Resources::from_millis(1500, 0, 0);
        assert_eq!(ids(choose(all.clone(), &two)), ["new", "mid"]);
        let all = [all, vec![one("ends", 0, true)]].concat();
        assert_eq!(ids(choose(all, &two)), ["ends", "new"]);
    }
}
