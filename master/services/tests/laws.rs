//! The laws of the service scheduler over random histories of a small, honest world.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use std::collections::BTreeMap;

use common::{agent, framework_id, node, pod, spec, status, with_runs};
use proptest::prelude::*;
use waggle_services::{
    Action, Capacity, Change, Goal, Input, KillReason, Place, ServiceScheduler, is_current_instance,
};
use waggle_types::{
    AgentId, CheckPurpose, Command, DeploymentId, HealthCheck, HealthState, Millis, Operation,
    Resources, SchedulerCall, SchedulerEvent, ServiceSpec, ServiceVersion, TaskId, TaskSpec,
    TaskState, UnixMillis, UpgradeStrategy,
};

const N_AGENTS: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    /// A staging task starts.
    Start(usize),
    /// A running task's check passes, or fails.
    Health(usize, bool),
    /// A running task gets ready, or is not any more.
    Ready(usize, bool),
    /// A task fails.
    Fail(usize),
    /// A task that was told to end does.
    End(usize),
    /// Time passes.
    Wait(u64),
    /// All that is free is offered.
    Offer,
    /// Another number of instances.
    Scale(u32),
    /// Another command.
    Upgrade(u32),
    /// The same again.
    Restart,
    /// The master's process dies and comes back.
    Crash,
    /// An agent is not heard.
    Cut(usize),
    /// It is heard again.
    Heal(usize),
    /// Somebody kills a task.
    Kill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let n = any::<usize>;
    prop_oneof![
        12 => n().prop_map(Step::Start),
        12 => (n(), prop::bool::weighted(0.8)).prop_map(|(i, ok)| Step::Health(i, ok)),
        8 => (n(), prop::bool::weighted(0.7)).prop_map(|(i, ok)| Step::Ready(i, ok)),
        3 => n().prop_map(Step::Fail),
        10 => n().prop_map(Step::End),
        8 => (0u64..5000).prop_map(Step::Wait),
        12 => Just(Step::Offer),
        2 => (0u32..7).prop_map(Step::Scale),
        2 => (0u32..4).prop_map(Step::Upgrade),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
        1 => (0..N_AGENTS).prop_map(Step::Cut),
        2 => (0..N_AGENTS).prop_map(Step::Heal),
        1 => n().prop_map(Step::Kill),
    ]
}

struct Task {
    spec: TaskSpec,
    on: AgentId,
    state: TaskState,
    health: HealthState,
    ready: Option<bool>,
}

impl Task {
    /// What its agent says of it.
    fn status(&self, id: &TaskId) -> waggle_types::TaskStatus {
        let mut s = status(id, &self.on, self.state);
        (s.health, s.ready) = (self.health, self.ready);
        s
    }

    fn passes(&self) -> bool {
        HealthCheck::all_pass(&self.spec.health_checks, self.health, self.ready)
    }
}

struct World {
    scheduler: ServiceScheduler,
    spec: ServiceSpec,
    restart: bool,
    tasks: BTreeMap<TaskId, Task>,
    cut: BTreeMap<AgentId, bool>,
    suppressed: bool,
    now: UnixMillis,
    n_offers: usize,
    n_lives: u64,
    ever: usize,
}

impl World {
    fn new(mut first: ServiceSpec, upgrade: UpgradeStrategy) -> Self {
        first.upgrade = upgrade;
        let mut world = Self {
            scheduler: ServiceScheduler::new(framework_id(), "marathon", 1),
            spec: first,
            restart: false,
            tasks: BTreeMap::new(),
            cut: BTreeMap::new(),
            suppressed: false,
            now: UnixMillis(10_000),
            n_offers: 0,
            n_lives: 1,
            ever: 0,
        };
        world.put(true);
        world
    }

    fn put(&mut self, deploys: bool) {
        let id = DeploymentId::new(format!("d{}", self.spec.version.0.0)).unwrap();
        self.handle(Input::Put {
            spec: Box::new(self.spec.clone()),
            deployment_id: deploys.then_some(id),
            restart_before: self.restart.then_some(self.spec.version),
            trace: None,
        });
    }

    fn ready(&self) -> usize {
        self.scheduler.instances().filter(|i| i.is_ready()).count()
    }

    fn handle(&mut self, input: Input) {
        let ready_before = self.ready();
        let rolling = {
            let old = |i: &&waggle_services::Instance| {
                i.goal == Goal::Run && (self.restart || !is_current_instance(&self.spec, i))
            };
            self.scheduler.instances().any(|i| old(&i)) || self.restart
        };
        let exempt = matches!(input, Input::KillTasks { .. });
        let actions = self.scheduler.handle(input, self.now);
        let mut n_ready_killed = 0;
        let mut launched = false;
        for action in actions {
            match action {
                Action::Call(SchedulerCall::Accept { operations, .. }) => {
                    launched = true;
                    let place = |t: &TaskSpec| {
                        self.scheduler
                            .instance(&t.task_id)
                            .unwrap()
                            .place
                            .agent_id
                            .clone()
                    };
                    let tasks = || operations.iter().flat_map(Operation::tasks);
                    let containers = self.spec.pod.as_ref().map_or(1, |p| p.containers.len());
                    let mut whole: BTreeMap<&str, usize> = BTreeMap::new();
                    for t in tasks() {
                        *whole.entry(t.task_id.instance()).or_default() += 1;
                    }
                    assert!(
                        whole.values().all(|n| *n == containers),
                        "all of an instance or nothing: {whole:?}"
                    );
                    for t in tasks() {
                        let on = place(t);
                        self.ever += 1;
                        let task = Task {
                            on,
                            state: TaskState::Staging,
                            health: HealthState::Unknown,
                            ready: HealthCheck::any(&t.health_checks, CheckPurpose::Readiness)
                                .then_some(false),
                            spec: t.clone(),
                        };
                        let old = self.tasks.insert(t.task_id.clone(), task);
                        assert!(old.is_none(), "task ids are used once");
                    }
                }
                Action::Call(SchedulerCall::Kill { task_id }) => {
                    if let Some(t) = self.tasks.get_mut(&task_id)
                        && !self.cut.contains_key(&t.on)
                    {
                        t.state = TaskState::Killing;
                    }
                }
                Action::Call(SchedulerCall::Suppress { .. }) => self.suppressed = true,
                Action::Call(SchedulerCall::Revive { .. }) => self.suppressed = false,
                Action::InstanceChanged {
                    instance,
                    change: Change::Killing(reason),
                } => {
                    let by_us = matches!(reason, KillReason::Outdated | KillReason::Surplus);
                    let mut was = (*instance).clone();
                    was.goal = Goal::Run;
                    if by_us && was.is_ready() {
                        n_ready_killed += 1;
                    }
                    // Who is not ready is no loss, and who is ready is so by all of its checks.
                    let checks = &was.task.health_checks;
                    assert!(
                        !was.is_ready() || HealthCheck::all_pass(checks, was.health, was.ready)
                    );
                }
                _ => {}
            }
        }
        let capacity = Capacity::of(&self.spec, rolling);
        if n_ready_killed > 0 && !exempt {
            let left = self.ready();
            assert!(
                left >= capacity.min_ready,
                "{left} of {ready_before} left, {capacity:?}"
            );
        }
        if launched {
            let n = self.scheduler.instances().count();
            assert!(n <= capacity.max_total, "{n} instances, {capacity:?}");
        }
    }

    fn nth(&self, n: usize, f: impl Fn(&Task) -> bool) -> Option<TaskId> {
        let fit = |t: &&TaskId| f(&self.tasks[*t]) && !self.cut.contains_key(&self.tasks[*t].on);
        let all: Vec<&TaskId> = self.tasks.keys().filter(fit).collect();
        (!all.is_empty()).then(|| all[n % all.len()].clone())
    }

    fn report(&mut self, id: &TaskId) {
        let t = &self.tasks[id];
        let s = t.status(id);
        if t.state.is_terminal() {
            self.tasks.remove(id);
        }
        self.handle(Input::Scheduler(SchedulerEvent::Update(s)));
    }

    fn offer(&mut self) {
        if self.suppressed {
            return;
        }
        let mut offers = Vec::new();
        for i in (0..N_AGENTS).filter(|i| !self.cut.contains_key(&agent(*i))) {
            let mut free = node();
            for t in self.tasks.values().filter(|t| t.on == agent(i)) {
                free = free
                    .checked_sub(&t.spec.resources)
                    .expect("never over-committed");
            }
            let executors: BTreeMap<_, _> = self
                .tasks
                .values()
                .filter(|t| t.on == agent(i))
                .filter_map(|t| t.spec.executor.as_ref())
                .map(|on| (&on.spec.executor_id, &on.spec.resources))
                .collect();
            for held in executors.values() {
                free = free.checked_sub(held).expect("never over-committed");
            }
            self.n_offers += 1;
            if free != Resources::default() {
                offers.push(common::offer(self.n_offers, i, free));
            }
        }
        self.handle(Input::Scheduler(SchedulerEvent::Offers(offers)));
    }

    fn adopt_all_of(&mut self, on: &AgentId) {
        let i: usize = on.as_str()[1..].parse().unwrap();
        let place = Place::from(&common::offer(0, i, Resources::default()));
        let here = self.tasks.iter().filter(|(_, t)| t.on == *on);
        let mut instances: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (id, t) in here {
            let of = instances.entry(id.instance().to_owned()).or_default();
            of.push((t.spec.clone(), t.status(id)));
        }
        for tasks in instances.into_values() {
            let place = place.clone();
            self.handle(Input::Adopt { tasks, place });
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Start(n) => {
                if let Some(id) = self.nth(*n, |t| t.state == TaskState::Staging) {
                    self.tasks.get_mut(&id).unwrap().state = TaskState::Running;
                    self.report(&id);
                }
            }
            Step::Health(n, ok) => {
                if let Some(id) = self.nth(*n, |t| t.state == TaskState::Running) {
                    let health = if *ok {
                        HealthState::Healthy
                    } else {
                        HealthState::Unhealthy
                    };
                    self.tasks.get_mut(&id).unwrap().health = health;
                    self.report(&id);
                }
            }
            Step::Ready(n, ok) => {
                if let Some(id) =
                    self.nth(*n, |t| t.state == TaskState::Running && t.ready.is_some())
                {
                    self.tasks.get_mut(&id).unwrap().ready = Some(*ok);
                    self.report(&id);
                }
            }
            Step::Fail(n) => {
                if let Some(id) = self.nth(*n, |_| true) {
                    self.tasks.get_mut(&id).unwrap().state = TaskState::Failed;
                    self.report(&id);
                }
            }
            Step::End(n) => {
                if let Some(id) = self.nth(*n, |t| t.state == TaskState::Killing) {
                    self.tasks.get_mut(&id).unwrap().state = TaskState::Killed;
                    self.report(&id);
                }
            }
            Step::Wait(ms) => {
                let end = self.now + Millis(*ms);
                while let Some(at) = self.scheduler.next_deadline().filter(|at| *at <= end) {
                    self.now = self.now.max(at);
                    self.handle(Input::Tick);
                }
                self.now = end;
            }
            Step::Offer => self.offer(),
            Step::Scale(n) => {
                self.change();
                self.spec.instances = *n;
                self.put(true);
            }
            Step::Upgrade(n) => {
                self.change();
                let command = Command::Shell(format!("serve {n}"));
                if self.spec.pod.is_some() {
                    self.spec = with_runs(&self.spec, |_, run| run.command = command.clone());
                } else {
                    self.spec.command = command;
                }
                self.put(true);
            }
            Step::Restart => {
                self.change();
                self.restart = true;
                self.put(true);
            }
            Step::Crash => {
                self.n_lives += 1;
                self.scheduler = ServiceScheduler::new(framework_id(), "marathon", self.n_lives);
                self.suppressed = false;
                self.handle(Input::Hold);
                self.put(true);
                for i in (0..N_AGENTS)
                    .filter(|i| !self.cut.contains_key(&agent(*i)))
                    .collect::<Vec<_>>()
                {
                    self.adopt_all_of(&agent(i));
                }
                self.handle(Input::Resume);
            }
            Step::Cut(i) => {
                self.cut.insert(agent(*i), true);
                self.handle(Input::AgentUnreachable {
                    agent_id: agent(*i),
                });
            }
            Step::Heal(i) => {
                if self.cut.remove(&agent(*i)).is_some() {
                    self.handle(Input::AgentBack {
                        agent_id: agent(*i),
                    });
                    self.adopt_all_of(&agent(*i));
                }
            }
            Step::Kill(n) => {
                if let Some(id) = self.nth(*n, |_| true) {
                    self.handle(Input::KillTasks {
                        task_ids: vec![id],
                        wipe: false,
                    });
                }
            }
        }
    }

    fn change(&mut self) {
        self.now = self.now + Millis(1);
        self.restart = false;
        self.spec.version = ServiceVersion(self.now);
    }

    /// Everything works from here on: where does it end?
    fn settle(&mut self) {
        for i in 0..N_AGENTS {
            self.run(&Step::Heal(i));
        }
        for _ in 0..400 {
            for s in [
                Step::Offer,
                Step::Start(0),
                Step::Health(0, true),
                Step::End(0),
                Step::Wait(2000),
            ] {
                self.run(&s);
            }
            let sick = self.nth(0, |t| t.state == TaskState::Running && !t.passes());
            if let Some(id) = sick {
                let task = self.tasks.get_mut(&id).unwrap();
                task.health = HealthState::Healthy;
                task.ready = task.ready.map(|_| true);
                self.report(&id);
            }
        }
    }
}

fn upgrade() -> impl Strategy<Value = UpgradeStrategy> {
    let part = prop_oneof![Just(0u32), Just(1000), 0u32..=1000];
    (part.clone(), part).prop_map(|(min, over)| UpgradeStrategy {
        minimum_health_capacity_milli: min,
        maximum_over_capacity_milli: over,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Capacity holds at every step; whatever happened, it ends where it was asked to, and stays there.
    #[test]
    fn converges_within_capacity(
        n in 0u32..6,
        checked in any::<bool>(),
        readiness in any::<bool>(),
        containers in 0usize..4,
        upgrade in upgrade(),
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let check = |first: &mut ServiceSpec| {
            if checked {
                first.health_checks.push(common::check());
            }
            if readiness {
                first.health_checks.push(HealthCheck {
                    purpose: CheckPurpose::Readiness,
                    ..common::check()
                });
            }
        };
        // None: an app.
        let first = if containers == 0 {
            let mut first = spec(n);
            check(&mut first);
            first
        } else {
            // Not every container has a check.
            let pod = pod(n, containers);
            with_runs(&pod, |i, run| if i != 1 { check(run) })
        };
        let mut world = World::new(first, upgrade);
        for s in &steps {
            world.run(s);
        }
        world.settle();
        let want = world.spec.instances as usize;
        let service = world.scheduler.service(&world.spec.id).unwrap();
        prop_assert_eq!(service.instances().len(), want, "{:?}", service.progress());
        prop_assert!(service.instances().iter().all(|i| i.is_ready() && is_current_instance(&world.spec, i)));
        let tasks = want * containers.max(1);
        prop_assert_eq!(world.tasks.len(), tasks, "what runs is what is known");
        prop_assert!(service.deployment().is_none());
        prop_assert_eq!(world.scheduler.queue().count(), 0);
        prop_assert!(want == 0 || world.ever >= want);
        // A fixpoint: looking again does nothing, ever.
        let again = world.scheduler.handle(Input::Tick, world.now);
        prop_assert_eq!(again, vec![]);
        prop_assert_eq!(world.scheduler.next_deadline(), None);
        prop_assert!(world.suppressed);
    }

    /// A service that is removed goes, at once or after whatever it is in the middle of.
    #[test]
    fn removal_ends_everything(
        of_pods in any::<bool>(),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let first = if of_pods { pod(4, 2) } else { spec(4) };
        let mut world = World::new(first, UpgradeStrategy::default());
        for s in &steps {
            world.run(s);
        }
        let id = world.spec.id.clone();
        let deployment_id = DeploymentId::new("gone").unwrap();
        world.handle(Input::Remove { id: id.clone(), deployment_id: Some(deployment_id), trace: None });
        world.settle();
        prop_assert!(world.scheduler.service(&id).is_none());
        prop_assert_eq!(world.tasks.len(), 0);
        prop_assert_eq!(world.scheduler.next_deadline(), None);
    }
}

/// Names that a pod's endpoints might have made are its author's own where no endpoint has them.
#[test]
fn a_pod_gives_up_every_variable_that_it_no_longer_names() {
    let own = ["ENDPOINT_URL", "EP_HOST_OF_MINE"];
    let with = with_runs(&pod(2, 2), |_, run| {
        run.env.extend(own.map(|k| (k.to_owned(), "x".to_owned())));
    });
    let mut world = World::new(with, UpgradeStrategy::default());
    world.settle();
    let has = |world: &World| {
        let all = world.tasks.values();
        all.filter(|t| own.iter().all(|k| t.spec.env.contains_key(*k)))
            .count()
    };
    assert_eq!((world.tasks.len(), has(&world)), (4, 4));
    world.change();
    world.spec = with_runs(&world.spec, |_, run| {
        run.env.retain(|k, _| !own.contains(&k.as_str()));
    });
    world.put(true);
    world.settle();
    assert_eq!((world.tasks.len(), has(&world)), (4, 0));
    let made = "ENDPOINT_HTTP_MAIN";
    assert!(world.tasks.values().all(|t| t.spec.env.contains_key(made)));
}
