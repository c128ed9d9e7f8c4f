//! Instances that are pods: several tasks that are launched together, count as one, and end together.
//!
//! To everything that decides, such an instance is one task, made of its containers' ([`whole`]); what is heard of one
//! container is folded into what that means for all of it. When one ends, for whatever reason, the instance does.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use waggle_types::{
    CheckPurpose, Command, ContainerSpec, ExecutorId, ExecutorKind, ExecutorSpec, HealthCheck,
    HealthState, Millis, Offer, OnExecutor, ResourcePart, Resources, SchedulerCall, ServiceId,
    ServiceSpec, TaskId, TaskSpec, TaskState, TaskStatus, TraceContext, UnixMillis,
};

use crate::{
    Action, Change, Goal, Instance, KillReason, Place, ServiceScheduler,
    ids::task_of,
    matching::{on_agent, take},
    residency,
    scheduler::Run,
    task::{self, Identity},
    updates::{parse_version, rank},
};

/// Label of a pod's executor: its containers, so that one that is missing is missed.
const CONTAINERS: &str = "waggle.containers";

/// A container of an instance that is a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its task as launched.
    pub task: Arc<TaskSpec>,
    /// State as last reported by its agent.
    pub state: TaskState,
    /// Health as last reported.
    pub health: HealthState,
    /// Readiness as last reported; `None` when no check says so.
    pub ready: Option<bool>,
}

impl Member {
    /// A container that is being launched.
    pub(crate) fn new(task: TaskSpec) -> Self {
        Self {
            task: Arc::new(task),
            state: TaskState::Staging,
            health: HealthState::Unknown,
            ready: None,
        }
    }

    /// The container's name in the pod.
    pub fn name(&self) -> &str {
        self.task.task_id.container().unwrap_or_default()
    }

    /// States do not go back, unless an end that nobody asked for is called off.
    fn take(&mut self, status: &TaskStatus, wanted: bool) {
        let state = match status.state {
            // It answers a reconciliation: nobody runs it.
            TaskState::Unknown => TaskState::Lost,
            state => state,
        };
        let called_off = wanted && self.state == TaskState::Killing && state == TaskState::Running;
        if !self.state.is_terminal() && (called_off || rank(state) >= rank(self.state)) {
            self.state = state;
        }
        self.health = status.health;
        self.ready = status.ready;
    }

    fn passes(&self) -> bool {
        HealthCheck::all_pass(&self.task.health_checks, self.health, self.ready)
    }
}

/// What containers come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Folded {
    pub state: TaskState,
    pub health: HealthState,
    pub ready: Option<bool>,
    /// Some have ended, and not all.
    pub broken: bool,
}

/// The state of all of an instance: it has begun when all of it has, and ended when all of it has; in between it is
/// ending as soon as one has.
pub(crate) fn fold(members: &[Member]) -> Folded {
    let n_ended = members.iter().filter(|m| m.state.is_terminal()).count();
    let all_ended = n_ended == members.len();
    let state = if all_ended {
        // What ended by itself says more than what was ended with it.
        let telling = |m: &&Member| match m.state {
            TaskState::Killed => 0,
            TaskState::Finished => 1,
            _ => 2,
        };
        let first = members.iter().rev().max_by_key(telling);
        first.map_or(TaskState::Lost, |m| m.state)
    } else if n_ended > 0 || members.iter().any(|m| m.state == TaskState::Killing) {
        TaskState::Killing
    } else {
        let least = members.iter().map(|m| m.state).min_by_key(|s| rank(*s));
        least.unwrap_or(TaskState::Staging)
    };
    let checked = |m: &&Member| HealthCheck::any(&m.task.health_checks, CheckPurpose::Health);
    let mut of_checked = members.iter().filter(checked).map(|m| m.health);
    let health = if of_checked.clone().any(|h| h == HealthState::Unhealthy) {
        HealthState::Unhealthy
    } else if of_checked.clone().count() > 0 && of_checked.all(|h| h == HealthState::Healthy) {
        HealthState::Healthy
    } else {
        HealthState::Unknown
    };
    let says_ready = |m: &Member| HealthCheck::says_ready(&m.task.health_checks);
    let any_says = members.iter().any(says_ready);
    Folded {
        state,
        health,
        ready: any_says.then(|| members.iter().all(Member::passes)),
        broken: n_ended > 0 && !all_ended,
    }
}

/// One task that stands for all of an instance; nobody runs it.
pub(crate) fn whole(tasks: &[&TaskSpec]) -> Option<TaskSpec> {
    let first = *tasks.first()?;
    let mut out = TaskSpec {
        task_id: TaskId::new(first.task_id.instance()).ok()?,
        name: first.discovery.name.clone(),
        command: Command::Executor,
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        container: ContainerSpec {
            network: first.container.network.clone(),
            ..ContainerSpec::default()
        },
        executor: None,
        ..first.clone()
    };
    if let Some(on) = &first.executor {
        out.resources.try_add(&on.spec.resources);
    }
    for t in &tasks[1..] {
        out.resources.try_add(&t.resources);
        out.parts.extend(t.parts.iter().cloned());
        out.ports.extend(t.ports.iter().cloned());
        out.health_checks.extend(t.health_checks.iter().cloned());
        out.kill_grace = out.kill_grace.max(t.kill_grace);
    }
    Some(out)
}

/// The tasks of one instance on an offer: one for each container, on one executor, which holds the volumes. Each launch
/// of an instance that has a home is another executor: nothing of the one before is waited for.
pub(crate) fn build(
    spec: &ServiceSpec,
    of: &Identity,
    (instance, launch): (&str, u64),
    offer: &Offer,
    (host_ports, mut parts): (&[u16], Vec<ResourcePart>),
    trace: Option<TraceContext>,
) -> Option<Vec<TaskSpec>> {
    let pod = spec.pod.as_deref()?;
    let plain = parts.is_empty();
    let mut given = |need: &Resources| {
        if plain {
            return Some(Vec::new());
        }
        take(&mut parts, |_| true, need)
    };
    let names: Vec<&str> = pod.containers.iter().map(|c| c.name.as_str()).collect();
    let (path, uuid) = instance.rsplit_once(".instance-")?;
    let again = if launch == 1 {
        String::new()
    } else {
        format!(".{launch}")
    };
    let held = residency::held_by_pod(spec, instance)?;
    let executor = Arc::new(ExecutorSpec {
        executor_id: ExecutorId::new(format!("instance-{path}.{uuid}{again}")).ok()?,
        name: spec.id.to_string(),
        kind: ExecutorKind::Default,
        command: Command::Executor,
        env: BTreeMap::new(),
        labels: BTreeMap::from([(CONTAINERS.to_owned(), names.join(","))]),
        parts: given(&held)?,
        resources: held,
        container: ContainerSpec::default(),
        shutdown_grace: Millis(0),
        user: None,
        checkpoint: true,
        info: Vec::new(),
        framework_info: Vec::new(),
    });
    let task_id = |name: &str| task_of(instance, name, launch);
    let group = task_id(names.first()?)?;
    let endpoints = task::endpoints_env(spec, host_ports);
    let mut rest = host_ports;
    let mut out = Vec::with_capacity(pod.containers.len());
    for c in &pod.containers {
        let (mine, others) = rest.split_at_checked(c.run.ports.len())?;
        rest = others;
        let need = c.run.resources.clone().with_ports(on_agent(mine));
        let parts = given(&need)?;
        let id = task_id(&c.name)?;
        let mut env = task::container_env(spec, c, &id, &offer.hostname);
        env.extend(endpoints.clone());
        let mut task = task::assemble(
            &c.run,
            of,
            (id, spec.version.to_string()),
            offer,
            (mine, parts),
            env,
            trace,
        );
        task.name.clone_from(&c.name);
        let volumes = residency::pod_mounts(spec, c, instance);
        task.container.mounts.extend(volumes);
        task.container.pod = Some(format!("{}.{}", of.framework_id, executor.executor_id));
        task.executor = Some(OnExecutor {
            spec: Arc::clone(&executor),
            starts: false,
            group: Some(group.clone()),
            n_group: u32::try_from(pod.containers.len()).unwrap_or(0),
            info: Vec::new(),
        });
        out.push(task);
    }
    Some(out)
}

/// Whether an instance is what the spec would launch now, but for ids, host ports and version; see
/// [`is_current`](crate::is_current).
pub fn is_current_instance(spec: &ServiceSpec, instance: &Instance) -> bool {
    let Some(pod) = &spec.pod else {
        return instance.members.is_empty() && task::is_current(spec, &instance.task);
    };
    pod.containers.len() == instance.members.len()
        && pod.containers.iter().all(|c| {
            let mine = instance.members.iter().find(|m| m.name() == c.name);
            let executor = mine.and_then(|m| m.task.executor.as_ref());
            mine.is_some_and(|m| task::is_current_of(Some((spec, c)), &c.run, &m.task))
                && executor.is_some_and(|on| on.spec.resources.scalars == pod.executor.scalars)
        })
}

impl ServiceScheduler {
    /// What a status says of all of the instance that its task is of. One of a pod's container is noted.
    pub(crate) fn of_whole<'a>(
        &mut self,
        id: &ServiceId,
        status: &'a TaskStatus,
    ) -> Cow<'a, TaskStatus> {
        let instance = self.services.get_mut(id);
        let instance = instance.and_then(|s| s.get_mut(&status.task_id));
        let Some(i) = instance.filter(|i| *i.task_id() != status.task_id) else {
            return Cow::Borrowed(status);
        };
        let mut out = TaskStatus {
            task_id: i.task_id().clone(),
            uuid: None,
            ..status.clone()
        };
        if status.state == TaskState::Unreachable {
            return Cow::Owned(out);
        }
        let wanted = i.goal == Goal::Run;
        for m in &mut i.members {
            if m.task.task_id == status.task_id {
                m.take(status, wanted);
            }
        }
        let all = fold(&i.members);
        (out.state, out.health, out.ready) = (all.state, all.health, all.ready);
        Cow::Owned(out)
    }

    /// A container of an instance has ended and others have not: it has failed as a whole, and the rest of it ends.
    pub(crate) fn end_broken(
        &mut self,
        id: &ServiceId,
        status: &TaskStatus,
        now: UnixMillis,
        run: &mut Run,
    ) {
        let Some(service) = self.services.get_mut(id) else {
            return;
        };
        let Some(at) = service.of_task(&status.task_id) else {
            return;
        };
        let i = &service.instances[at];
        if i.goal != Goal::Run || !fold(&i.members).broken {
            return;
        }
        let whole = i.task_id().clone();
        service.failed(at, status, now);
        self.kill(id, &whole, KillReason::Broken, now, run);
        run.revive = true;
    }

    /// An agent runs these tasks: an app's one, or those of an instance that is a pod, as far as they are there.
    pub(crate) fn adopt(
        &mut self,
        tasks: Vec<(TaskSpec, TaskStatus)>,
        place: Place,
        now: UnixMillis,
        run: &mut Run,
    ) {
        let (known, new): (Vec<_>, Vec<_>) = tasks
            .into_iter()
            .partition(|(t, s)| self.tasks.contains_key(&t.task_id) || s.state.is_terminal());
        for (_, status) in &known {
            self.update(status, now, run);
        }
        if new.is_empty() {
            return;
        }
        let Some((id, instance, complete)) = self.instance_of(&new, place, now) else {
            for (task, _) in new {
                self.strays.insert(task.task_id.clone(), now);
                let task_id = task.task_id;
                run.actions
                    .push(Action::Call(SchedulerCall::Kill { task_id }));
            }
            return;
        };
        let whole = instance.task_id().clone();
        let ending = instance.goal == Goal::Stop;
        self.enter(&id, instance.clone());
        self.home_adopted(&id, &instance, now);
        run.actions.push(Action::InstanceChanged {
            instance: Box::new(instance),
            change: Change::Adopted,
        });
        if !complete && !ending {
            self.kill(&id, &whole, KillReason::Broken, now, run);
        }
        run.dirty.insert(id);
    }

    /// The instance that these tasks are of, and whether all of it is there; `None` when no service claims it.
    fn instance_of(
        &self,
        tasks: &[(TaskSpec, TaskStatus)],
        place: Place,
        now: UnixMillis,
    ) -> Option<(ServiceId, Instance, bool)> {
        let (first, status) = tasks.first()?;
        let id = ServiceId::new(&first.service).ok()?;
        let is_pod = self.services.get(&id)?.spec.pod.is_some();
        let on = first.executor.as_ref();
        if is_pod != on.is_some() {
            return None;
        }
        let instance = |task: TaskSpec, members: Vec<Member>, seen: Folded| {
            let ending = seen.state == TaskState::Killing;
            let running = matches!(seen.state, TaskState::Running | TaskState::Killing);
            Instance {
                version: parse_version(&first.service_version),
                task: Arc::new(task),
                place,
                state: seen.state,
                health: seen.health,
                ready: seen.ready,
                goal: if ending { Goal::Stop } else { Goal::Run },
                staged_at: now,
                started_at: running.then_some(now),
                unreachable_since: None,
                kill_sent_at: ending.then_some(now),
                members,
            }
        };
        let Some(on) = on else {
            let seen = Folded {
                state: status.state,
                health: status.health,
                ready: status.ready,
                broken: false,
            };
            return Some((id, instance(first.clone(), Vec::new(), seen), true));
        };
        let specs: Vec<&TaskSpec> = tasks.iter().map(|(t, _)| t).collect();
        let task = whole(&specs)?;
        // One whose instance is there without it was given up.
        if self.tasks.contains_key(&task.task_id) {
            return None;
        }
        let members = tasks.iter().map(|(task, status)| {
            let mut m = Member::new(task.clone());
            m.take(status, true);
            m
        });
        let members: Vec<Member> = members.collect();
        let expected = on.spec.labels.get(CONTAINERS);
        let complete = expected.is_none_or(|names| {
            let mut names = names.split(',');
            names.all(|n| members.iter().any(|m| m.name() == n))
        });
        let seen = fold(&members);
        Some((id, instance(task, members, seen), complete))
    }

    /// Notes an instance and its tasks.
    pub(crate) fn enter(&mut self, id: &ServiceId, instance: Instance) {
        for task_id in instance.all_ids() {
            self.tasks.insert(task_id.clone(), id.clone());
        }
        if let Some(service) = self.services.get_mut(id) {
            service.insert(instance);
        }
    }
}
