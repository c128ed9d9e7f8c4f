//! The registry of tasks: rebuilt from the agents, never stored. Who asks for an agent's or a framework's
//! tasks, or for numbers, is answered without looking at all of them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use waggle_types::{
    AgentId, AgentInfo, CheckPurpose, FrameworkId, HealthCheck, Milli, PortNet, TaskId, TaskNet,
    TaskSpec, TaskState, UnixMillis,
};

use crate::{
    cow::CowMap,
    task::{Shapes, TaskPlace, TaskView},
};

/// A task that is not known to have ended.
pub(super) type Task = TaskView;

/// What a framework's tasks are, summed up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// By state as shown, in the order of [`TaskState::ALL`].
    pub(super) states: [u32; TaskState::ALL.len()],
    /// What they hold.
    pub(super) used: [Milli; 4],
}

impl Tally {
    pub(super) fn tasks(&self) -> u32 {
        self.states.iter().sum()
    }

    fn count(&mut self, t: &Task, more: bool) {
        let at = t.state() as usize;
        if let Some(n) = self.states.get_mut(at) {
            *n = if more {
                n.saturating_add(1)
            } else {
                n.saturating_sub(1)
            };
        }
        add(&mut self.used, t, if more { 1 } else { -1 });
    }
}

fn add(sum: &mut [Milli; 4], t: &Task, times: i64) {
    for (sum, q) in sum.iter_mut().zip(t.spec.quantities.scalars) {
        sum.0 = sum.0.saturating_add(q.0 * times);
    }
}

/// Tasks by id, and the last ones that ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Tasks {
    live: CowMap<TaskView>,
    by_agent: BTreeMap<AgentId, OnAgent>,
    /// Those that the network tells of in a cluster of any size: they have ports, or a service.
    networked: BTreeSet<TaskId>,
    /// Networked ones that the network has to be told of anew.
    touched: BTreeSet<TaskId>,
    /// Some that are not networked came, changed or went.
    others: bool,
    tallies: BTreeMap<FrameworkId, Tally>,
    roles: BTreeMap<String, (usize, [Milli; 4])>,
    shapes: Shapes,
    /// Oldest first.
    pub(super) ended: VecDeque<Arc<TaskView>>,
    /// How many have ended, by state, in the order of [`TaskState::ALL`].
    pub(super) n_ended: [u64; TaskState::ALL.len()],
}

#[derive(Debug, Clone)]
struct OnAgent {
    place: Arc<TaskPlace>,
    /// In id order.
    tasks: Vec<TaskId>,
}

impl Tasks {
    pub(super) fn get(&self, id: &TaskId) -> Option<&Task> {
        self.live.get(id).map(AsRef::as_ref)
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn contains(&self, id: &TaskId) -> bool {
        self.live.contains_key(id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &TaskId> {
        self.live.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Task> {
        self.live.values().map(AsRef::as_ref)
    }

    /// A copy for readers, which costs little and stays as it is.
    pub(super) fn snapshot(&self) -> CowMap<TaskView> {
        self.live.clone()
    }

    /// A new task of an agent; `info` is the agent's, if it is known.
    pub(super) fn new_task(
        &mut self,
        spec: TaskSpec,
        agent: &AgentId,
        info: Option<&AgentInfo>,
        now: UnixMillis,
    ) -> Task {
        let place = match (self.by_agent.get(agent), info) {
            (Some(on), _) => Arc::clone(&on.place),
            (None, Some(info)) => TaskPlace::of(info),
            (None, None) => Arc::new(TaskPlace {
                agent_id: agent.clone(),
                hostname: String::new(),
                ip: std::net::Ipv4Addr::UNSPECIFIED,
            }),
        };
        TaskView::new(spec, place, now, &mut self.shapes)
    }

    pub(super) fn insert(&mut self, task: Task) {
        self.take(&task.id);
        self.insert_new(task);
    }

    /// As [`Self::insert`], of one that is known not to be there.
    pub(super) fn insert_new(&mut self, task: Task) {
        let on = self
            .by_agent
            .entry(task.agent_id().clone())
            .or_insert_with(|| OnAgent {
                place: Arc::clone(&task.place),
                tasks: Vec::new(),
            });
        if let Err(at) = on.tasks.binary_search(&task.id) {
            on.tasks.insert(at, task.id.clone());
        }
        if is_networked(&task) {
            self.networked.insert(task.id.clone());
            self.touched.insert(task.id.clone());
        } else {
            self.others = true;
        }
        let tally = self.tallies.entry(task.spec.framework_id.clone());
        tally.or_default().count(&task, true);
        if !self.roles.contains_key(&task.spec.role) {
            self.roles
                .insert(task.spec.role.clone(), Default::default());
        }
        if let Some((n, sum)) = self.roles.get_mut(&task.spec.role) {
            *n += 1;
            add(sum, &task, 1);
        }
        self.live.insert(Arc::new(task));
    }

    /// Changes a task's state; not its id, shape, ports or place.
    pub(super) fn change<T>(&mut self, id: &TaskId, f: impl FnOnce(&mut Task) -> T) -> Option<T> {
        let task = self.live.get_mut(id)?;
        let before = task.state();
        let told = |t: &Task| (t.reported, t.health, t.ready, t.own_ip(), t.kill_wanted);
        let told_before = told(task);
        let out = f(task);
        if told(task) != told_before {
            if is_networked(task) {
                self.touched.insert(id.clone());
            } else {
                self.others = true;
            }
        }
        if task.state() != before
            && let Some(tally) = self.tallies.get_mut(&task.spec.framework_id)
        {
            let (from, to) = (before as usize, task.state() as usize);
            tally.states[from] = tally.states[from].saturating_sub(1);
            tally.states[to] += 1;
        }
        Some(out)
    }

    /// Ids of an agent's tasks, in order.
    pub(super) fn ids_of(&self, agent: &AgentId) -> impl Iterator<Item = &TaskId> {
        self.by_agent
            .get(agent)
            .into_iter()
            .flat_map(|on| &on.tasks)
    }

    /// Ids of an agent's tasks, in order, for who changes them.
    pub(super) fn on_agent(&self, agent: &AgentId) -> Vec<TaskId> {
        self.ids_of(agent).cloned().collect()
    }

    /// An agent's tasks, in order of their ids.
    pub(super) fn of_agent(&self, agent: &AgentId) -> impl Iterator<Item = &Task> {
        self.ids_of(agent).filter_map(|id| self.get(id))
    }

    /// An agent is elsewhere now, or has another name.
    pub(super) fn moved(&mut self, info: &AgentInfo) {
        let Some(on) = self.by_agent.get_mut(&info.agent_id) else {
            return;
        };
        if on.place.hostname == info.hostname && on.place.ip == info.ip {
            return;
        }
        on.place = TaskPlace::of(info);
        for id in &on.tasks {
            if let Some(t) = self.live.get_mut(id) {
                t.place = Arc::clone(&on.place);
            }
        }
    }

    /// Ids of a framework's tasks, in order. Looks at all tasks: for rare events.
    pub(super) fn of_framework(&self, id: &FrameworkId) -> Vec<TaskId> {
        if !self.tallies.contains_key(id) {
            return Vec::new();
        }
        let all = self.iter().filter(|t| t.spec.framework_id == *id);
        all.map(|t| t.id.clone()).collect()
    }

    /// Sums by framework.
    pub(super) fn tallies(&self) -> &BTreeMap<FrameworkId, Tally> {
        &self.tallies
    }

    /// What tasks of each role hold.
    pub(super) fn by_role(&self) -> impl Iterator<Item = (&str, &[Milli; 4])> {
        let roles = self.roles.iter();
        roles.map(|(role, (_, sum))| (role.as_str(), sum))
    }

    /// Tasks with ports or a service.
    pub(super) fn networked(&self) -> impl Iterator<Item = &Task> {
        self.networked.iter().filter_map(|id| self.get(id))
    }

    /// What the network is to be told of a task may be another thing now.
    pub(super) fn touch(&mut self, id: &TaskId) {
        if self.get(id).is_some_and(is_networked) {
            self.touched.insert(id.clone());
        }
    }

    /// Whether there are such tasks.
    pub(super) fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Networked tasks that came, changed or went since the last call, and whether others did.
    pub(super) fn take_touched(&mut self) -> (BTreeSet<TaskId>, bool) {
        (
            std::mem::take(&mut self.touched),
            std::mem::take(&mut self.others),
        )
    }

    /// Whether tasks that are not networked came, changed or went.
    #[cfg(test)]
    pub(super) fn others_changed(&self) -> bool {
        self.others
    }

    /// Moves a task to the ended ones; the oldest of more than `keep` are forgotten.
    pub(super) fn end(&mut self, id: &TaskId, keep: usize) {
        let ended = self.take(id);
        if let Some(t) = &ended {
            self.n_ended[t.state() as usize] += 1;
        }
        self.ended.extend(ended);
        while self.ended.len() > keep {
            self.ended.pop_front();
        }
    }

    fn take(&mut self, id: &TaskId) -> Option<Arc<Task>> {
        let task = self.live.remove(id)?;
        if let Some(on) = self.by_agent.get_mut(task.agent_id()) {
            if let Ok(at) = on.tasks.binary_search(id) {
                on.tasks.remove(at);
            }
            if on.tasks.is_empty() {
                self.by_agent.remove(task.agent_id());
            }
        }
        if self.networked.remove(id) {
            self.touched.insert(id.clone());
        } else {
            self.others = true;
        }
        if let Some(tally) = self.tallies.get_mut(&task.spec.framework_id) {
            tally.count(&task, false);
            if tally.tasks() == 0 {
                self.tallies.remove(&task.spec.framework_id);
            }
        }
        if let Some((n, sum)) = self.roles.get_mut(&task.spec.role) {
            *n -= 1;
            add(sum, &task, -1);
            if *n == 0 {
                self.roles.remove(&task.spec.role);
            }
        }
        Some(task)
    }
}

/// Whether the network tells of a task in a cluster of any size.
pub(super) fn is_networked(t: &Task) -> bool {
    !t.ports().is_empty() || !t.spec.service.is_empty() || t.network().is_some()
}

/// The task as the network sees it. The state is the reported one: whether the agent is out of reach is
/// the agent's property there. One that clients are sent to and is to end gets no connections, whatever its agent says yet.
pub(super) fn net(t: &Task) -> TaskNet {
    TaskNet {
        ip: t.own_ip(),
        ip6: t.own_ip6(),
        network: t.network().map(ToOwned::to_owned),
        subject: None,
        ready: t.ready,
        agent_id: t.agent_id().clone(),
        name: t.discovery_name().to_owned(),
        framework: t.spec.framework_name.clone(),
        state: if t.kill_wanted && t.reported == TaskState::Running && t.is_named() {
            TaskState::Killing
        } else {
            t.reported
        },
        has_check: HealthCheck::any(&t.spec.health_checks, CheckPurpose::Health),
        health: t.health,
        ports: t
            .ports()
            .iter()
            .map(|p| PortNet {
                container_port: p.container_port,
                name: p.name.clone(),
                host_port: p.host_port,
                protocols: p.protocols.clone(),
                vips: p.vips.clone(),
                balance: p.balance,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use waggle_types::{
        Command, DiscoveryInfo, HealthState, Millis, Resources, StatusSource, TaskStatus,
    };

    use super::*;

    fn spec(id: &str, framework: &str) -> TaskSpec {
        TaskSpec {
            container: waggle_types::ContainerSpec::default(),
            task_id: TaskId::new(id).unwrap(),
            framework_id: FrameworkId::new(framework).unwrap(),
            framework_name: framework.into(),
            role: "*".into(),
            name: id.into(),
            command: Command::Shell("true".into()),
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            resources: Resources::from_millis(100, 10, 0),
            parts: Vec::new(),
            ports: Vec::new(),
            discovery: DiscoveryInfo { name: id.into() },
            health_checks: Vec::new(),
            kill_grace: Millis(0),
            user: None,
            service: String::new(),
            service_version: String::new(),
            trace: None,
            executor: None,
        }
    }

    #[test]
    fn numbers_and_indexes_follow_the_tasks() {
        let mut tasks = Tasks::default();
        let (a, b) = (AgentId::new("a").unwrap(), AgentId::new("b").unwrap());
        for (id, f, agent) in [("1", "x", &a), ("2", "x", &b), ("3", "y", &a)] {
            let t = tasks.new_task(spec(id, f), agent, None, UnixMillis(1));
            tasks.insert(t);
        }
        let ids = |all: Vec<TaskId>| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(ids(tasks.on_agent(&a)), ["1", "3"]);
        let x = FrameworkId::new("x").unwrap();
        assert_eq!(ids(tasks.of_framework(&x)), ["1", "2"]);
        let one = TaskId::new("1").unwrap();
        let running = TaskStatus {
            ip: None,
            ip6: None,
            ready: None,
            check: None,
            responses: Vec::new(),
            task_id: one.clone(),
            agent_id: a.clone(),
            state: TaskState::Running,
            health: HealthState::Unknown,
            reason: None,
            message: String::new(),
            source: StatusSource::Executor,
            at: UnixMillis(2),
            uuid: None,
            executor: None,
        };
        tasks.change(&one, |t| t.take(&running, UnixMillis(3)));
        let tally = tasks.tallies()[&x].clone();
        assert_eq!(tally.states[TaskState::Running as usize], 1);
        assert_eq!(tally.states[TaskState::Staging as usize], 1);
        assert_eq!(tally.used[0], Milli(200));
        let before = tasks.snapshot();
        let lost = TaskStatus {
            state: TaskState::Lost,
            ..running
        };
        tasks.change(&one, |t| t.take(&lost, UnixMillis(4)));
        tasks.end(&one, 10);
        assert_eq!(tasks.n_ended[TaskState::Lost as usize], 1);
        assert_eq!(ids(tasks.on_agent(&a)), ["3"]);
        assert_eq!(tasks.tallies()[&x].tasks(), 1);
        assert_eq!(tasks.ended.len(), 1);
        assert!(before.contains_key(&one), "a snapshot stays as it is");
        tasks.end(&TaskId::new("2").unwrap(), 10);
        assert!(!tasks.tallies().contains_key(&x));
        assert!(tasks.on_agent(&b).is_empty());
    }
}
