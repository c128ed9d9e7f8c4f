//! The laws of resident instances over random histories, against a small level 1 that keeps its books.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{agent, framework_id, offer, spec, status};
use proptest::prelude::*;
use waggle_services::{Action, Input, Place, ServiceScheduler, home_of, is_current_instance};
use waggle_types::{
    DeploymentId, ExecutorId, Milli, Millis, Offer, Operation, PersistentVolume, PodMount,
    PortRange, PortSet, RESIDENT_ROLE, Reservation, Residency, ResourcePart, Resources,
    SchedulerCall, SchedulerEvent, ServiceSpec, ServiceVersion, StatusSource, TaskId, TaskSpec,
    TaskState, UnixMillis, UnreachableStrategy, UpgradeStrategy, Volume, VolumeId, sum_parts,
};

const N_AGENTS: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    Offer,
    /// As `Offer`, and what is accepted is refused: its offers were gone.
    OfferInVain,
    Start(usize),
    Fail(usize),
    End(usize),
    Wait(u64),
    Scale(u32),
    Upgrade(u32),
    Crash,
    Cut(usize),
    Heal(usize),
    Kill(usize),
    Wipe(usize),
    /// An executor whose tasks have ended ends, too.
    ExecutorEnds(usize),
    /// An operator takes a home that nobody uses: its volumes, then what is reserved.
    Take(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let n = any::<usize>;
    prop_oneof![
        12 => Just(Step::Offer),
        1 => Just(Step::OfferInVain),
        12 => n().prop_map(Step::Start),
        4 => n().prop_map(Step::Fail),
        10 => n().prop_map(Step::End),
        6 => (0u64..5000).prop_map(Step::Wait),
        2 => (0u32..5).prop_map(Step::Scale),
        2 => (0u32..4).prop_map(Step::Upgrade),
        1 => Just(Step::Crash),
        1 => (0..N_AGENTS).prop_map(Step::Cut),
        2 => (0..N_AGENTS).prop_map(Step::Heal),
        1 => n().prop_map(Step::Kill),
        1 => n().prop_map(Step::Wipe),
        8 => n().prop_map(Step::ExecutorEnds),
        1 => n().prop_map(Step::Take),
    ]
}

/// A service with two volumes, or a pod whose containers share them, but for the last, which has one.
fn resident(n: u32, pod: bool) -> ServiceSpec {
    let residency = Some(Residency::default());
    let mut s = if pod {
        let mut all = common::pod(n, 2);
        let mut of = all.pod.take().unwrap();
        let mount = |volume: &str| PodMount {
            volume: volume.into(),
            path: format!("at/{volume}"),
            read_only: false,
        };
        for c in &mut of.containers {
            c.mounts = vec![mount("data"), mount("log-a")];
            c.run.residency = residency;
        }
        of.containers[1].mounts.pop();
        all.of_pod(*of)
    } else {
        spec(n)
    };
    s.residency = residency;
    s.unreachable = UnreachableStrategy::Disabled;
    s.upgrade = UpgradeStrategy {
        minimum_health_capacity_milli: 500,
        maximum_over_capacity_milli: 0,
    };
    let volume = |target: &str, mib| PersistentVolume {
        target: target.into(),
        size: Milli::units(mib),
        disk: None,
        read_only: false,
    };
    let second = if pod { "log-a" } else { "log/a" };
    s.volumes = vec![volume("data", 100), volume(second, 10)];
    s
}

fn total() -> Resources {
    Resources::from_millis(2000, 2_048_000, 500_000).with_ports(PortSet::from_ranges([PortRange {
        begin: 31000,
        end: 31009,
    }]))
}

struct Task {
    spec: TaskSpec,
    on: usize,
    state: TaskState,
}

/// One agent in level 1's books: what is free, by reservation.
type Books = BTreeMap<Vec<Reservation>, Resources>;

/// Whether a task or an executor has something of a reservation on an agent.
fn is_used(
    tasks: &BTreeMap<TaskId, Task>,
    executors: &BTreeMap<ExecutorId, (usize, Vec<ResourcePart>)>,
    on: usize,
    stack: &[Reservation],
) -> bool {
    let mine = |parts: &[ResourcePart]| parts.iter().any(|p| p.reservation == stack);
    let tasks = tasks.values().filter(|t| t.on == on);
    let executors = executors.values().filter(|(at, _)| *at == on);
    let held = executors.map(|(_, parts)| parts);
    tasks.map(|t| &t.spec.parts).chain(held).any(|p| mine(p))
}

fn home_gone(stack: &[Reservation], on: usize) -> Input {
    let (id, service) = home_of(stack).unwrap();
    Input::HomeGone {
        id: id.to_owned(),
        service: service.to_owned(),
        agent_id: agent(on),
    }
}

struct World {
    scheduler: ServiceScheduler,
    spec: ServiceSpec,
    free: Vec<Books>,
    tasks: BTreeMap<TaskId, Task>,
    /// What executors of pods hold where, until some time after the last of their tasks has ended.
    executors: BTreeMap<ExecutorId, (usize, Vec<ResourcePart>)>,
    cut: BTreeSet<usize>,
    suppressed: bool,
    now: UnixMillis,
    n_offers: usize,
    n_lives: u64,
    /// The most instances that were ever asked for, and how many were wiped, or taken: there are never more homes.
    most: u32,
    n_wiped: u32,
    n_taken: u32,
    homes_ever: BTreeSet<String>,
}

impl World {
    fn new(n: u32, pod: bool) -> Self {
        let mut world = Self {
            scheduler: ServiceScheduler::new(framework_id(), "marathon", 1),
            spec: resident(n, pod),
            free: vec![Books::from([(Vec::new(), total())]); N_AGENTS],
            tasks: BTreeMap::new(),
            executors: BTreeMap::new(),
            cut: BTreeSet::new(),
            suppressed: true,
            now: UnixMillis(10_000),
            n_offers: 0,
            n_lives: 1,
            most: n,
            n_wiped: 0,
            n_taken: 0,
            homes_ever: BTreeSet::new(),
        };
        world.put();
        world
    }

    fn put(&mut self) {
        self.most = self.most.max(self.spec.instances);
        let id = DeploymentId::new(format!("d{}", self.spec.version.0.0)).unwrap();
        self.handle(
            Input::Put {
                spec: Box::new(self.spec.clone()),
                deployment_id: Some(id),
                restart_before: None,
                trace: None,
            },
            true,
        );
    }

    fn handle(&mut self, input: Input, honest: bool) {
        let (mut refused, mut told) = (Vec::new(), Vec::new());
        for action in self.scheduler.handle(input, self.now) {
            match action {
                Action::Call(SchedulerCall::Accept {
                    offer_ids,
                    operations,
                    ..
                }) => {
                    // The offer's name says which agent.
                    let on: usize = offer_ids[0]
                        .as_str()
                        .rsplit_once('-')
                        .unwrap()
                        .1
                        .parse()
                        .unwrap();
                    if honest {
                        let before: Vec<_> = self.free[on].keys().cloned().collect();
                        for op in operations {
                            self.apply(on, op);
                        }
                        let gone = before
                            .into_iter()
                            .filter(|s| !self.free[on].contains_key(s));
                        told.extend(gone.map(|s| home_gone(&s, on)));
                    } else {
                        let tasks = operations.iter().flat_map(|o| o.tasks().to_vec());
                        refused.extend(tasks.map(|t| (t.task_id, on)));
                    }
                }
                Action::Call(SchedulerCall::Kill { task_id }) => {
                    if let Some(t) = self.tasks.get_mut(&task_id)
                        && !self.cut.contains(&t.on)
                    {
                        t.state = TaskState::Killing;
                    }
                }
                Action::Call(SchedulerCall::Suppress { roles }) => {
                    self.suppressed |= roles.iter().any(|r| r == RESIDENT_ROLE);
                }
                Action::Call(SchedulerCall::Revive { roles }) => {
                    self.suppressed &= !roles.iter().any(|r| r == RESIDENT_ROLE);
                }
                _ => {}
            }
        }
        for gone in told {
            self.handle(gone, true);
        }
        for (task_id, on) in refused {
            let mut s = status(&task_id, &agent(on), TaskState::Dropped);
            (s.source, s.uuid) = (StatusSource::Master, None);
            self.handle(Input::Scheduler(SchedulerEvent::Update(s)), true);
        }
        assert!(
            self.homes_ever.len() <= (self.most + self.n_wiped + self.n_taken) as usize,
            "{:?} for {} instances, {} wiped, {} taken",
            self.homes_ever,
            self.most,
            self.n_wiped,
            self.n_taken
        );
    }

    /// Level 1 does what it is told; every demand must be met by what is free.
    fn apply(&mut self, on: usize, op: Operation) {
        let at = on;
        let books = &mut self.free[on];
        let empty = Vec::new();
        let volume = |id: &VolumeId, v: Volume| {
            let mut r = Resources::default();
            r.custom.set_volume(id.clone(), v);
            r
        };
        let disk = |v: Volume| Resources::from_millis(0, 0, v.size.0);
        match op {
            Operation::Reserve { stack, resources } => {
                books
                    .get_mut(&empty)
                    .unwrap()
                    .try_sub(&resources)
                    .expect("reserved of what is free");
                self.homes_ever
                    .insert(home_of(&stack).unwrap().0.to_owned());
                assert!(
                    books.insert(stack, resources).is_none(),
                    "a home is made once"
                );
            }
            Operation::CreateVolume {
                stack,
                volume_id,
                volume: v,
            } => {
                let part = books.get_mut(&stack).unwrap();
                part.try_sub(&disk(v))
                    .expect("made of the reservation's disk");
                part.try_add(&volume(&volume_id, v)).expect("a new volume");
            }
            Operation::DestroyVolume { stack, volume_id } => {
                let part = books
                    .get_mut(&stack)
                    .expect("the reservation of the volume");
                let v = part
                    .custom
                    .remove_volume(&volume_id)
                    .expect("nobody uses it");
                part.try_add(&disk(v)).unwrap();
            }
            Operation::Unreserve { stack, resources } => {
                let part = books.get_mut(&stack).expect("the reservation");
                part.try_sub(&resources).expect("free");
                // The rest is in use: what is reserved is so until all of it is given back.
                if part.is_empty() && !is_used(&self.tasks, &self.executors, on, &stack) {
                    books.remove(&stack);
                }
                books.get_mut(&empty).unwrap().try_add(&resources).unwrap();
            }
            Operation::Launch(tasks) => {
                let take = |books: &mut Books, parts: &[ResourcePart], all: &Resources| {
                    assert_eq!(sum_parts(parts).as_ref(), Some(all));
                    for p in parts {
                        let part = books.get_mut(&p.reservation).expect("the part");
                        part.try_sub(&p.resources).expect("free");
                    }
                };
                for t in tasks {
                    if let Some(on) = &t.executor {
                        let id = on.spec.executor_id.clone();
                        self.executors.entry(id).or_insert_with(|| {
                            take(books, &on.spec.parts, &on.spec.resources);
                            (at, on.spec.parts.clone())
                        });
                    }
                    take(books, &t.parts, &t.resources);
                    let wanted = match t.task_id.container() {
                        Some("c1") => 1,
                        _ => 2,
                    };
                    let n = t.held_volumes().count();
                    assert_eq!(n, wanted, "each task has its volumes");
                    let state = TaskState::Staging;
                    let old = self
                        .tasks
                        .insert(t.task_id.clone(), Task { spec: t, on, state });
                    assert!(old.is_none(), "task ids are used once");
                }
                // Of a new life, those on agents that it has not heard yet are not known to it.
                let known = self.scheduler.instances().count();
                assert!(known <= self.spec.instances as usize, "{known} instances");
            }
            Operation::ResizeVolume { .. } => panic!("never asked for"),
        }
    }

    fn offer(&mut self, honest: bool) {
        if self.suppressed {
            return;
        }
        let mut offers = Vec::new();
        for i in (0..N_AGENTS).filter(|i| !self.cut.contains(i)) {
            self.n_offers += 1;
            offers.push(self.offer_of(i));
        }
        self.handle(Input::Scheduler(SchedulerEvent::Offers(offers)), honest);
    }

    fn offer_of(&self, on: usize) -> Offer {
        let parts: Vec<ResourcePart> = self.free[on]
            .iter()
            .filter(|(_, r)| !r.is_empty())
            .map(|(stack, r)| ResourcePart {
                reservation: stack.clone(),
                revocable: false,
                resources: r.clone(),
            })
            .collect();
        let mut o = offer(self.n_offers, on, sum_parts(&parts).unwrap());
        o.offer_id = waggle_types::OfferId::new(format!("o{}-{on}", self.n_offers)).unwrap();
        o.role = RESIDENT_ROLE.into();
        // A plain offer has no parts, as from level 1.
        o.parts = if parts.iter().all(ResourcePart::is_plain) {
            Vec::new()
        } else {
            parts
        };
        o
    }

    fn nth(&self, n: usize, f: impl Fn(&Task) -> bool) -> Option<TaskId> {
        let fit = |(_, t): &(&TaskId, &Task)| f(t) && !self.cut.contains(&t.on);
        let all: Vec<&TaskId> = self.tasks.iter().filter(fit).map(|(id, _)| id).collect();
        (!all.is_empty()).then(|| all[n % all.len()].clone())
    }

    fn becomes(&mut self, id: &TaskId, state: TaskState) {
        let t = self.tasks.get_mut(id).unwrap();
        t.state = state;
        let s = status(id, &agent(t.on), state);
        if state.is_terminal() {
            let t = self.tasks.remove(id).unwrap();
            self.frees(t.on, t.spec.parts);
        }
        self.handle(Input::Scheduler(SchedulerEvent::Update(s)), true);
    }

    fn frees(&mut self, on: usize, parts: Vec<ResourcePart>) {
        for p in parts {
            let part = self.free[on].entry(p.reservation).or_default();
            part.try_add(&p.resources).unwrap();
        }
    }

    /// The n-th executor without a task ends. Its agent must be heard.
    fn executor_ends(&mut self, n: usize) -> bool {
        let idle = |(id, (on, _)): &(&ExecutorId, &(usize, Vec<ResourcePart>))| {
            let of = |t: &Task| {
                let on = t.spec.executor.as_ref();
                on.is_some_and(|on| on.spec.executor_id == **id)
            };
            !self.cut.contains(on) && !self.tasks.values().any(of)
        };
        let all = self.executors.iter().filter(idle);
        let all: Vec<ExecutorId> = all.map(|(id, _)| id.clone()).collect();
        let Some(id) = (!all.is_empty()).then(|| &all[n % all.len()]) else {
            return false;
        };
        let (on, parts) = self.executors.remove(id).unwrap();
        self.frees(on, parts);
        true
    }

    /// Homes that nobody uses, and where they are.
    fn idle_homes(&self) -> Vec<(usize, Vec<Reservation>)> {
        let all = self.free.iter().enumerate();
        let all = all.flat_map(|(on, books)| books.keys().map(move |s| (on, s.clone())));
        all.filter(|(on, s)| !s.is_empty() && !is_used(&self.tasks, &self.executors, *on, s))
            .collect()
    }

    /// An operator destroys the volumes of a home.
    fn destroy(&mut self, on: usize, stack: &[Reservation]) {
        let volumes: Vec<VolumeId> = self.free[on][stack]
            .custom
            .volumes()
            .map(|(id, _)| id.clone())
            .collect();
        for volume_id in volumes {
            let stack = stack.to_vec();
            self.apply(on, Operation::DestroyVolume { stack, volume_id });
        }
    }

    /// An operator takes a home.
    fn takes(&mut self, on: usize, stack: Vec<Reservation>) {
        self.destroy(on, &stack);
        let resources = self.free[on][&stack].clone();
        let gone = home_gone(&stack, on);
        self.apply(on, Operation::Unreserve { stack, resources });
        self.n_taken += 1;
        self.handle(gone, true);
    }

    fn place(on: usize) -> Place {
        Place::from(&offer(0, on, Resources::default()))
    }

    fn adopt_all_of(&mut self, on: usize) {
        let here = self.tasks.iter().filter(|(_, t)| t.on == on);
        let mut instances: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (id, t) in here {
            let of = instances.entry(id.instance().to_owned()).or_default();
            of.push((t.spec.clone(), status(id, &agent(on), t.state)));
        }
        for tasks in instances.into_values() {
            let place = Self::place(on);
            self.handle(Input::Adopt { tasks, place }, true);
        }
    }

    /// All that is reserved so on an agent, in use or not.
    fn reserved(&self, on: usize, stack: &[Reservation]) -> Resources {
        let tasks = self.tasks.values().filter(|t| t.on == on);
        let executors = self.executors.values().filter(|(at, _)| *at == on);
        let held = executors.flat_map(|(_, parts)| parts);
        let used = tasks.flat_map(|t| &t.spec.parts).chain(held);
        let mut out = self.free[on][stack].clone();
        for part in used.filter(|p| p.reservation == stack) {
            out.try_add(&part.resources).unwrap();
        }
        out
    }

    fn crash(&mut self) {
        self.n_lives += 1;
        self.suppressed = true;
        self.scheduler = ServiceScheduler::new(framework_id(), "marathon", self.n_lives);
        self.handle(Input::Hold, true);
        self.handle(
            Input::Put {
                spec: Box::new(self.spec.clone()),
                deployment_id: None,
                restart_before: None,
                trace: None,
            },
            true,
        );
        let mut found = Vec::new();
        for (on, books) in self.free.iter().enumerate() {
            for stack in books.keys().filter(|s| !s.is_empty()) {
                let (id, service) = home_of(stack).unwrap();
                found.push(Input::FoundHome {
                    reserved: self.reserved(on, stack),
                    id: id.to_owned(),
                    service: service.to_owned(),
                    role: RESIDENT_ROLE.into(),
                    place: Self::place(on),
                    given_up: false,
                });
            }
        }
        for home in found {
            self.handle(home, true);
        }
        for on in (0..N_AGENTS)
            .filter(|i| !self.cut.contains(i))
            .collect::<Vec<_>>()
        {
            self.adopt_all_of(on);
        }
        self.handle(Input::Resume, true);
    }

    fn heal(&mut self, on: usize) {
        if self.cut.remove(&on) {
            self.handle(
                Input::AgentBack {
                    agent_id: agent(on),
                },
                true,
            );
            self.adopt_all_of(on);
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Offer => self.offer(true),
            Step::OfferInVain => self.offer(false),
            Step::Start(n) => {
                if let Some(id) = self.nth(*n, |t| t.state == TaskState::Staging) {
                    self.becomes(&id, TaskState::Running);
                }
            }
            Step::Fail(n) => {
                if let Some(id) = self.nth(*n, |_| true) {
                    self.becomes(&id, TaskState::Failed);
                }
            }
            Step::End(n) => {
                if let Some(id) = self.nth(*n, |t| t.state == TaskState::Killing) {
                    self.becomes(&id, TaskState::Killed);
                }
            }
            Step::Wait(ms) => {
                let end = self.now + Millis(*ms);
                while let Some(at) = self.scheduler.next_deadline().filter(|at| *at <= end) {
                    self.now = self.now.max(at);
                    self.handle(Input::Tick, true);
                }
                self.now = end;
            }
            Step::Scale(n) => {
                self.change();
                self.spec.instances = *n;
                self.put();
            }
            Step::Upgrade(n) => {
                self.change();
                self.spec.env.insert("N".into(), n.to_string());
                if let Some(pod) = &mut self.spec.pod {
                    let last = pod.containers.last_mut().unwrap();
                    last.run.env.insert("N".into(), n.to_string());
                }
                self.put();
            }
            Step::Crash => self.crash(),
            Step::Cut(on) => {
                if self.cut.insert(*on) {
                    self.handle(
                        Input::AgentUnreachable {
                            agent_id: agent(*on),
                        },
                        true,
                    );
                }
            }
            Step::Heal(on) => self.heal(*on),
            Step::Kill(n) | Step::Wipe(n) => {
                let wipe = matches!(step, Step::Wipe(_));
                if let Some(id) = self.nth(*n, |t| t.state == TaskState::Running) {
                    self.n_wiped += u32::from(wipe);
                    let task_ids = vec![id];
                    self.handle(Input::KillTasks { task_ids, wipe }, true);
                }
            }
            Step::ExecutorEnds(n) => {
                self.executor_ends(*n);
            }
            Step::Take(n) => {
                let all = self.idle_homes();
                if !all.is_empty() {
                    let (on, stack) = all[n % all.len()].clone();
                    self.takes(on, stack);
                }
            }
        }
    }

    fn change(&mut self) {
        self.spec.version = ServiceVersion(UnixMillis(self.spec.version.0.0 + 1));
    }

    fn settle(&mut self) {
        for on in 0..N_AGENTS {
            self.heal(on);
        }
        for _ in 0..60 {
            self.run(&Step::Wait(400_000));
            // Twice, so that what gives homes back comes upon them in parts.
            for _ in 0..2 {
                self.offer(true);
                while let Some(id) = self.nth(0, |t| t.state == TaskState::Staging) {
                    self.becomes(&id, TaskState::Running);
                }
                while let Some(id) = self.nth(0, |t| t.state == TaskState::Killing) {
                    self.becomes(&id, TaskState::Killed);
                }
            }
            while self.executor_ends(0) {}
        }
    }

    fn homes(&self) -> usize {
        let all = self.free.iter().flat_map(BTreeMap::keys);
        all.filter(|s| !s.is_empty()).count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens, instances come back to their homes, no more homes are made than instances were asked for (or
    /// wiped), the service gets what it asks for, and its removal gives everything back.
    #[test]
    fn instances_come_back_to_their_volumes(
        first in 0u32..5,
        pod in any::<bool>(),
        destroyed in any::<bool>(),
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut world = World::new(first, pod);
        for s in &steps {
            world.run(s);
        }
        world.settle();
        let n = world.spec.instances as usize;
        prop_assert_eq!(world.tasks.len(), if pod { 2 * n } else { n });
        for t in world.tasks.values() {
            prop_assert_eq!(t.state, TaskState::Running);
        }
        prop_assert_eq!(world.scheduler.instances().count(), n);
        for i in world.scheduler.instances() {
            prop_assert!(i.is_ready() && is_current_instance(&world.spec, i));
        }
        prop_assert!(world.homes() >= n);

        let id = world.spec.id.clone();
        let deployment_id = Some(DeploymentId::new("gone").unwrap());
        world.spec.instances = 0;
        world.handle(Input::Remove { id: id.clone(), deployment_id, trace: None }, true);
        if destroyed {
            while let Some(id) = world.nth(0, |_| true) {
                world.becomes(&id, TaskState::Killed);
            }
            while world.executor_ends(0) {}
            // All the same, what is left of homes is given back.
            for (on, stack) in world.idle_homes() {
                world.destroy(on, &stack);
            }
        }
        world.settle();
        prop_assert!(world.tasks.is_empty() && world.executors.is_empty());
        prop_assert!(world.scheduler.service(&id).is_none());
        for books in &world.free {
            prop_assert_eq!(books, &Books::from([(Vec::new(), total())]));
        }
        prop_assert!(world.suppressed, "nothing is wanted any more");
    }
}

/// What is given back goes in parts: the executor of a pod has its volumes until it ends.
#[test]
fn what_is_left_of_a_home_is_given_back_by_the_next_scheduler() {
    let mut world = World::new(2, true);
    for s in [
        Step::Offer,
        Step::Start(0),
        Step::Wipe(0),
        Step::Fail(0),
        Step::Fail(1),
        Step::Offer,
        Step::Fail(0),
        Step::Offer,
        Step::Crash,
    ] {
        world.run(&s);
    }
    world.settle();
    assert_eq!(world.tasks.len(), 4);
    assert_eq!(world.homes(), 2);
}

#[test]
fn an_instance_whose_home_is_lost_waits_or_begins_anew_as_it_was_told() {
    let run = |task_lost| {
        let mut world = World::new(1, false);
        world.spec.residency = Some(Residency {
            relaunch_after: Millis::from_secs(60),
            task_lost,
        });
        world.put();
        world.offer(true);
        let id = world.nth(0, |_| true).unwrap();
        world.becomes(&id, TaskState::Running);
        let on = world.tasks[&id].on;
        world.run(&Step::Cut(on));
        world.run(&Step::Wait(59_000));
        world.offer(true);
        assert_eq!(world.tasks.len(), 1);
        world.run(&Step::Wait(2_000));
        // The second home is no surprise.
        world.most = 2;
        world.spec.instances = 2;
        world.offer(true);
        (world, on)
    };
    let (world, _) = run(waggle_types::TaskLost::WaitForever);
    assert_eq!(world.tasks.len(), 1);
    let (mut world, on) = run(waggle_types::TaskLost::RelaunchAfterTimeout);
    assert_eq!(world.tasks.len(), 2, "one out of reach, one new");
    // Once it is back, the old one is told to end and its home is given back.
    world.run(&Step::Start(0));
    world.heal(on);
    let old = world.tasks.values().find(|t| t.on == on).unwrap();
    assert_eq!(old.state, TaskState::Killing);
    let id = old.spec.task_id.clone();
    world.becomes(&id, TaskState::Killed);
    world.offer(true);
    world.offer(true);
    assert_eq!(world.homes(), 1);
}
