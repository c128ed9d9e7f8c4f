//! Deployments of several services: golden plans, and laws over random trees and histories.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::{agent, check, framework_id, node, offer, spec, status};
use proptest::prelude::*;
use waggle_services::{
    Action, Advance, DeploymentKind, DeploymentOutcome, DeploymentPlan, GroupDependencies, Input,
    MILLION, Rollout, ServiceChange, ServiceScheduler, Stage, Tree, TreeError, changed_groups,
    plan_deployment,
};
use waggle_types::{
    Command, DeploymentId, FieldError, GroupId, GroupUpdate, HealthState, Operation, SchedulerCall,
    SchedulerEvent, ServiceId, ServiceSpec, ServiceVersion, TaskId, TaskSpec, TaskState,
    UnixMillis,
};

type Services = BTreeMap<ServiceId, Arc<ServiceSpec>>;

fn id(path: &str) -> ServiceId {
    ServiceId::new(path).unwrap()
}

fn group(path: &str) -> GroupId {
    GroupId::new(path).unwrap()
}

/// `/a 2 -> /b /c` is service `/a` with two instances that depends on `/b` and `/c`; a third word is its command.
fn services(text: &str) -> Services {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    lines
        .map(|line| {
            let (own, needs) = line.split_once("->").unwrap_or((line, ""));
            let own: Vec<&str> = own.split_whitespace().collect();
            let mut s = spec(own.get(1).map_or(1, |n| n.parse().unwrap()));
            s.id = id(own[0]);
            s.command = Command::Shell((*own.get(2).unwrap_or(&"serve")).into());
            s.dependencies = needs.split_whitespace().map(id).collect();
            (s.id.clone(), Arc::new(s))
        })
        .collect()
}

fn groups(text: &str) -> GroupDependencies {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    lines
        .map(|line| {
            let (own, needs) = line.split_once("->").unwrap_or((line, ""));
            let needs = needs.split_whitespace().map(id).collect();
            (group(own.trim()), needs)
        })
        .collect()
}

fn changes(before: &Services, after: &Services) -> BTreeMap<ServiceId, ServiceChange> {
    let all: BTreeSet<&ServiceId> = before.keys().chain(after.keys()).collect();
    all.into_iter()
        .filter(|id| before.get(*id) != after.get(*id))
        .map(|id| {
            let change = ServiceChange {
                before: before.get(id).cloned(),
                after: after.get(id).cloned(),
                restart: false,
            };
            (id.clone(), change)
        })
        .collect()
}

fn plan(before: &Services, after: &Services, groups: &GroupDependencies) -> DeploymentPlan {
    let tree = Tree {
        services: after,
        groups,
    };
    plan_deployment(&changes(before, after), &tree.dependencies().unwrap())
}

fn golden(before: &str, after: &str, of_groups: &str, want: &str) {
    let plan = plan(&services(before), &services(after), &groups(of_groups));
    assert_eq!(plan.to_string(), want);
}

#[test]
fn a_new_service_is_announced_and_scaled() {
    golden(
        "",
        "/web 3",
        "",
        "step 1\n  StartApplication /web\nstep 2\n  ScaleApplication /web\n",
    );
    golden("/web 3", "/web 5", "", "step 1\n  ScaleApplication /web\n");
    golden(
        "/web 3",
        "/web 3 new",
        "",
        "step 1\n  RestartApplication /web\n",
    );
    golden("/web 3", "", "", "step 1\n  StopApplication /web\n");
    golden("/web 3", "/web 3", "", "");
}

#[test]
fn steps_follow_dependencies() {
    // Marathon's documentation, "application groups": a database, and services that need it.
    golden(
        "",
        "/product/database/mongo
         /product/database/mysql
         /product/service/rails 2 -> /product/database
         /product/service/play 2 -> /product/database/mongo /product/service/rails",
        "",
        "\
step 1
  StartApplication /product/database/mongo
  StartApplication /product/database/mysql
  StartApplication /product/service/play
  StartApplication /product/service/rails
step 2
  ScaleApplication /product/database/mongo
  ScaleApplication /product/database/mysql
step 3
  ScaleApplication /product/service/rails
step 4
  ScaleApplication /product/service/play
",
    );
}

#[test]
fn what_goes_is_stopped_first_and_what_stays_has_no_action() {
    golden(
        "/a 1
         /b 1 -> /a
         /c 1 -> /b
         /old 1 -> /a",
        "/a 1 new
         /b 1 -> /a
         /c 4 -> /b
         /d 1 -> /c",
        "",
        "\
step 1
  StopApplication /old
step 2
  StartApplication /d
step 3
  RestartApplication /a
step 4
  ScaleApplication /c
step 5
  ScaleApplication /d
",
    );
}

#[test]
fn groups_hand_their_dependencies_down() {
    golden(
        "",
        "/db/a
         /db/b -> /db/a
         /web/x
         /web/in/y",
        "/web -> /db",
        "\
step 1
  StartApplication /db/a
  StartApplication /db/b
  StartApplication /web/in/y
  StartApplication /web/x
step 2
  ScaleApplication /db/a
step 3
  ScaleApplication /db/b
step 4
  ScaleApplication /web/in/y
  ScaleApplication /web/x
",
    );
}

#[test]
fn what_is_not_there_is_not_waited_for() {
    golden(
        "",
        "/web 1 -> /nobody /web-2",
        "",
        "step 1\n  StartApplication /web\nstep 2\n  ScaleApplication /web\n",
    );
}

#[test]
fn cycles_are_told() {
    for (all, of_groups, want) in [
        ("/a -> /b\n/b -> /c\n/c -> /a", "", "/a -> /b -> /c -> /a"),
        (
            "/a/x -> /b\n/b/y -> /a",
            "",
            "/a/x -> /b/* -> /b/y -> /a/* -> /a/x",
        ),
        (
            "/a/x\n/b/y",
            "/a -> /b\n/b -> /a",
            "/a/x -> /b/* -> /b/y -> /a/* -> /a/x",
        ),
        ("/a/x\n/a/b/y", "/a -> /a/b", "/a/b/y -> /a/b/* -> /a/b/y"),
    ] {
        let (services, groups) = (services(all), groups(of_groups));
        let tree = Tree {
            services: &services,
            groups: &groups,
        };
        let err = tree.dependencies().unwrap_err();
        assert_eq!(
            FieldError::from(err),
            FieldError::new(
                "dependencies",
                format!("dependencies must not form a cycle: {want}")
            )
        );
    }
}

#[test]
fn a_long_chain_is_no_trouble() {
    let mut all = Services::new();
    let path = |n: usize| id(&format!("/s{n}"));
    for n in 0..20_000 {
        let mut s = spec(1);
        s.id = path(n);
        s.dependencies.extend((n > 0).then(|| path(n - 1)));
        all.insert(s.id.clone(), Arc::new(s));
    }
    let tree = Tree {
        services: &all,
        groups: &groups(""),
    };
    assert_eq!(tree.dependencies().unwrap().rank(&path(19_999)), 19_999);
}

#[test]
fn an_id_is_an_apps_or_a_groups() {
    let all = services("/a/b\n/c/d/e");
    let explicit = groups("/empty ->");
    let ids = |text: &str| {
        let mut all = all.clone();
        all.extend(services(text));
        let tree = Tree {
            services: &all,
            groups: &explicit,
        };
        tree.check_ids(&[id(text)])
    };
    for (new, clash) in [
        ("/a", Some("/a")),
        ("/a/b/c", Some("/a/b")),
        ("/c/d/e/f/g", Some("/c/d/e")),
        ("/empty", Some("/empty")),
        ("/a/c", None),
        ("/empty/x", None),
    ] {
        let want = clash.map_or(Ok(()), |c| Err(TreeError::AppAndGroup(c.into())));
        assert_eq!(ids(new), want, "{new}");
    }
}

#[test]
fn service_ports_have_one_owner() {
    let with_ports = |path: &str, ports: &[u16]| {
        let mut s = spec(1);
        s.id = id(path);
        let one = s.ports[0].clone();
        s.ports = ports
            .iter()
            .map(|p| waggle_types::PortDefinition {
                port: *p,
                ..one.clone()
            })
            .collect();
        (s.id.clone(), Arc::new(s))
    };
    let none = groups("");
    let of = |all: &Services, changed: &str| {
        let tree = Tree {
            services: all,
            groups: &none,
        };
        tree.check_service_ports(&BTreeSet::from([id(changed)]))
    };
    let all = Services::from([
        with_ports("/a", &[10_000, 0, 0]),
        with_ports("/b", &[0, 10_000]),
    ]);
    let clash = |service: &str, owner: &str| {
        Err(TreeError::ServicePort {
            port: 10_000,
            port_idx: usize::from(service == "/b"),
            service: id(service),
            owner: id(owner),
        })
    };
    assert_eq!(of(&all, "/a"), clash("/a", "/b"));
    assert_eq!(of(&all, "/b"), clash("/b", "/a"));
    let twice = Services::from([with_ports("/a", &[10_000, 10_000])]);
    assert!(of(&twice, "/a").is_err());
    let fine = Services::from([
        with_ports("/a", &[10_000, 0]),
        with_ports("/b", &[0, 10_001]),
    ]);
    assert_eq!(of(&fine, "/a"), Ok(()));
}

#[test]
fn an_update_replaces_what_it_names() {
    let all = services("/shop/cart\n/shop/eu/de\n/shop/eu/fr\n/shop/us/ny\n/other");
    let explicit = groups("/shop/us -> /other\n/shop/us/empty ->");
    let tree = Tree {
        services: &all,
        groups: &explicit,
    };
    let shop = |services, of_groups| GroupUpdate {
        pods: Vec::new(),
        id: group("/shop"),
        services,
        groups: of_groups,
        dependencies: None,
    };
    let show = |c: &waggle_services::TreeChange| {
        let puts: Vec<String> = c.puts.keys().map(|s| format!("+{s}")).collect();
        let removes = c.removes.iter().map(|s| format!("-{s}"));
        let gs = c.groups.iter().map(|(g, d)| match d {
            Some(d) => format!("+{g}{d:?}"),
            None => format!("-{g}"),
        });
        puts.into_iter()
            .chain(removes)
            .chain(gs)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(show(&tree.update(shop(None, None))), "+/shop{}");
    let cart = all[&id("/shop/cart")].as_ref().clone();
    let changed = ServiceSpec {
        instances: 9,
        ..cart.clone()
    };
    assert_eq!(show(&tree.update(shop(Some(vec![cart]), None))), "+/shop{}");
    assert_eq!(
        show(&tree.update(shop(Some(vec![changed]), None))),
        "+/shop/cart +/shop{}"
    );
    assert_eq!(
        show(&tree.update(shop(Some(vec![]), None))),
        "-/shop/cart +/shop{}"
    );
    let us = GroupUpdate {
        pods: Vec::new(),
        id: group("/shop/us"),
        services: None,
        groups: Some(vec![]),
        dependencies: Some(BTreeSet::new()),
    };
    assert_eq!(
        show(&tree.update(shop(None, Some(vec![us])))),
        "-/shop/eu/de -/shop/eu/fr +/shop{} +/shop/us{} -/shop/us/empty"
    );
    assert_eq!(
        show(&tree.removal(&group("/shop/us"))),
        "-/shop/us/ny -/shop/us -/shop/us/empty"
    );
    assert_eq!(
        show(&tree.scale(&group("/shop/eu"), 5 * MILLION / 2)),
        "+/shop/eu/de +/shop/eu/fr"
    );
    let scaled = tree.scale(&group("/shop/eu"), 5 * MILLION / 2);
    assert!(scaled.puts.values().all(|s| s.instances == 3));
    assert!(tree.scale(&group("/"), MILLION).is_empty());
    assert!(tree.has_group(&group("/shop/us/empty")) && tree.has_group(&group("/")));
    assert!(!tree.has_group(&group("/shop/cart")) && !tree.has_group(&group("/sh")));
}

// Laws.

/// A service of a random tree: who depends only on earlier ones.
fn any_services() -> impl Strategy<Value = Services> {
    let one = (
        any::<bool>(),
        0u32..3,
        0u32..2,
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    );
    prop::collection::vec(one, 1..8).prop_map(|all| {
        let path = |n: usize| id(&format!("/g{}/s{n}", n % 3));
        let mut out = Services::new();
        for (n, (there, instances, command, needs)) in all.into_iter().enumerate() {
            if !there {
                continue;
            }
            let mut s = spec(instances);
            s.id = path(n);
            s.command = Command::Shell(format!("serve {command}"));
            s.resources = waggle_types::Resources::from_millis(100, 10_000, 0);
            s.health_checks = vec![check()];
            if n > 0 {
                s.dependencies = needs.iter().map(|i| path(i.index(n))).collect();
            }
            out.insert(s.id.clone(), Arc::new(s));
        }
        out
    })
}

struct Task {
    spec: TaskSpec,
    on: usize,
    state: TaskState,
    health: HealthState,
}

/// A scheduler and a rollout that drives it, as the master does, in a world where everything ends well, late.
struct World {
    scheduler: ServiceScheduler,
    rollout: Rollout,
    changes: BTreeMap<ServiceId, ServiceChange>,
    after: Services,
    tasks: BTreeMap<TaskId, Task>,
    now: UnixMillis,
    n_offers: usize,
    n_lives: u64,
    finished: bool,
}

impl World {
    fn new(before: &Services, after: &Services) -> Self {
        let mut w = Self {
            scheduler: ServiceScheduler::new(framework_id(), "marathon", 1),
            rollout: Rollout::new(DeploymentPlan::default()),
            changes: BTreeMap::new(),
            after: before.clone(),
            tasks: BTreeMap::new(),
            now: UnixMillis(10_000),
            n_offers: 0,
            n_lives: 1,
            finished: true,
        };
        for s in before.values() {
            w.put(s, false);
        }
        w.settle();
        w.changes = changes(before, after);
        w.after = after.clone();
        w.finished = false;
        w.rollout = Rollout::new(plan(before, after, &GroupDependencies::new()));
        w.begin();
        w
    }

    fn put(&mut self, s: &ServiceSpec, deploys: bool) {
        self.handle(Input::Put {
            spec: Box::new(s.clone()),
            deployment_id: deploys.then(|| DeploymentId::new("d").unwrap()),
            restart_before: None,
            trace: None,
        });
    }

    /// Begins the actions of the step under way.
    fn begin(&mut self) {
        if self.rollout.is_finished() {
            self.finished = true;
            return;
        }
        let open: Vec<_> = self.rollout.open().cloned().collect();
        assert!(!open.is_empty(), "a step that waits for nothing is no step");
        for a in &open {
            self.nothing_starts_too_early(&a.service, a.kind);
        }
        for a in open {
            match a.kind {
                DeploymentKind::Start => unreachable!("takes no time"),
                DeploymentKind::Stop => self.handle(Input::Remove {
                    id: a.service,
                    deployment_id: Some(DeploymentId::new("d").unwrap()),
                    trace: None,
                }),
                _ => {
                    let s = self.changes[&a.service].after.clone().unwrap();
                    self.put(&s, true);
                }
            }
        }
    }

    /// All that a service depends on and that changes is as asked for when its turn comes.
    fn nothing_starts_too_early(&self, service: &ServiceId, kind: DeploymentKind) {
        if kind == DeploymentKind::Stop {
            return;
        }
        for need in &self.after[service].dependencies {
            if self.changes.contains_key(need) && self.after.contains_key(need) {
                assert_eq!(self.rollout.stage(need), Stage::Done, "{service} {need}");
                let p = self.scheduler.service(need).unwrap().progress();
                assert_eq!((p.n_ready, p.n_to_end), (p.n_wanted, 0), "{need}");
            }
        }
    }

    fn handle(&mut self, input: Input) {
        let mut actions = self.scheduler.handle(input, self.now);
        let mut at = 0;
        while at < actions.len() {
            match actions[at].clone() {
                Action::Call(SchedulerCall::Accept { operations, .. }) => {
                    for t in operations.iter().flat_map(Operation::tasks) {
                        let on = self.scheduler.instance(&t.task_id).unwrap().place.hostname[1..]
                            .parse()
                            .unwrap();
                        let service = id(&t.service);
                        assert_ne!(self.rollout.stage(&service), Stage::Pending, "{service}");
                        let task = Task {
                            spec: t.clone(),
                            on,
                            state: TaskState::Staging,
                            health: HealthState::Unknown,
                        };
                        self.tasks.insert(t.task_id.clone(), task);
                    }
                }
                Action::Call(SchedulerCall::Kill { task_id }) => {
                    if let Some(t) = self.tasks.get_mut(&task_id) {
                        t.state = TaskState::Killing;
                    }
                }
                Action::DeploymentDone {
                    service,
                    outcome: DeploymentOutcome::Finished,
                    ..
                } => {
                    let before = self.rollout.step_idx();
                    if self.rollout.done(&service) == Advance::Waits {
                        assert_eq!(self.rollout.step_idx(), before);
                    } else {
                        assert!(self.rollout.step_idx() > before, "every end is progress");
                        // Nested calls answer before what is left of this one; the order between services means nothing.
                        let rest = actions.split_off(at + 1);
                        self.begin();
                        actions.extend(rest);
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// One thing happens: what is chosen, or nothing.
    fn step(&mut self, what: usize, which: usize) {
        let pick = |w: &Self, f: &dyn Fn(&Task) -> bool| {
            let fitting: Vec<TaskId> = w
                .tasks
                .iter()
                .filter(|(_, t)| f(t))
                .map(|(id, _)| id.clone())
                .collect();
            (!fitting.is_empty()).then(|| fitting[which % fitting.len()].clone())
        };
        match what % 5 {
            0 => {
                if let Some(id) = pick(self, &|t| t.state == TaskState::Staging) {
                    self.say(&id, TaskState::Running, HealthState::Unknown);
                }
            }
            1 => {
                let new =
                    |t: &Task| t.state == TaskState::Running && t.health != HealthState::Healthy;
                if let Some(id) = pick(self, &new) {
                    self.say(&id, TaskState::Running, HealthState::Healthy);
                }
            }
            2 => {
                if let Some(id) = pick(self, &|t| t.state == TaskState::Killing) {
                    self.say(&id, TaskState::Killed, HealthState::Unknown);
                }
            }
            3 => {
                self.n_offers += 1;
                let o = offer(self.n_offers, which % 3, node());
                self.handle(Input::Scheduler(SchedulerEvent::Offers(vec![o])));
            }
            _ => {
                self.now = self.now + waggle_types::Millis(1000);
                self.handle(Input::Tick);
            }
        }
    }

    fn say(&mut self, id: &TaskId, state: TaskState, health: HealthState) {
        let on = agent(self.tasks[id].on);
        let mut s = status(id, &on, state);
        s.health = health;
        if state.is_terminal() {
            self.tasks.remove(id);
        } else if let Some(t) = self.tasks.get_mut(id) {
            (t.state, t.health) = (state, health);
        }
        self.handle(Input::Scheduler(SchedulerEvent::Update(s)));
    }

    /// The master dies and another one goes on where the store says that this one was.
    fn crash(&mut self) {
        self.n_lives += 1;
        self.scheduler = ServiceScheduler::new(framework_id(), "marathon", self.n_lives);
        let step_idx = self.rollout.step_idx();
        self.rollout = Rollout::resumed(self.rollout.plan().as_ref().clone(), step_idx);
        assert_eq!(self.rollout.step_idx(), step_idx);
        self.handle(Input::Hold);
        for (service, c) in self.changes.clone() {
            let before = c.before.clone();
            match (self.rollout.stage(&service), before) {
                (Stage::Pending, Some(before)) => self.put(&before, false),
                (Stage::Running, Some(before)) if c.after.is_none() => {
                    self.put(&before, false);
                    self.handle(Input::Remove {
                        id: service,
                        deployment_id: Some(DeploymentId::new("d").unwrap()),
                        trace: None,
                    });
                }
                (Stage::Pending, None) => {}
                (stage, _) => {
                    if let Some(after) = &c.after {
                        self.put(after, stage == Stage::Running);
                    }
                }
            }
        }
        for (service, s) in self.after.clone() {
            if !self.changes.contains_key(&service) {
                self.put(&s, false);
            }
        }
        let all: Vec<_> = self
            .tasks
            .iter()
            .map(|(id, t)| (id.clone(), t.spec.clone(), t.on, t.state, t.health))
            .collect();
        for (id, spec, on, state, health) in all {
            let mut s = status(&id, &agent(on), state);
            s.health = health;
            let place = waggle_services::Place::from(&offer(0, on, node()));
            let tasks = vec![(spec, s)];
            self.handle(Input::Adopt { tasks, place });
        }
        self.handle(Input::Resume);
    }

    fn settle(&mut self) {
        for i in 0..600 {
            self.step(i, i / 5);
        }
    }
}

proptest! {
    #[test]
    fn a_plan_does_each_thing_once_and_in_order(before in any_services(), after in any_services()) {
        let plan = plan(&before, &after, &GroupDependencies::new());
        let changes = changes(&before, &after);
        let mut at = BTreeMap::new();
        for (i, step) in plan.steps.iter().enumerate() {
            prop_assert!(!step.actions.is_empty());
            for a in &step.actions {
                prop_assert!(changes.contains_key(&a.service));
                let twice = at.insert((a.service.clone(), a.kind == DeploymentKind::Start), (i, a.kind));
                prop_assert!(twice.is_none());
            }
        }
        for (service, c) in &changes {
            let (i, kind) = at[&(service.clone(), false)];
            prop_assert_eq!(Some(kind), c.kind());
            let announced = at.get(&(service.clone(), true)).map(|(i, _)| *i);
            prop_assert_eq!(announced.is_some(), c.before.is_none());
            prop_assert!(announced.is_none_or(|a| a < i));
            for need in c.after.iter().flat_map(|s| &s.dependencies) {
                if let Some((n, k)) = at.get(&(need.clone(), false)) {
                    prop_assert!(n < &i || *k == DeploymentKind::Stop && n <= &i, "{} needs {}", service, need);
                }
            }
        }
    }

    #[test]
    fn nothing_starts_before_what_it_depends_on(
        before in any_services(),
        after in any_services(),
        steps in prop::collection::vec((0usize..12, any::<usize>()), 0..120),
    ) {
        let mut w = World::new(&before, &after);
        for (what, which) in steps {
            if what == 11 {
                w.crash();
            } else {
                w.step(what, which);
            }
        }
        w.settle();
        prop_assert!(w.finished && w.rollout.is_finished(), "{:?}", w.rollout);
        for (service, want) in &after {
            let s = w.scheduler.service(service).unwrap();
            prop_assert_eq!(s.spec(), want);
            let p = s.progress();
            prop_assert_eq!((p.n_ready, p.n_to_end), (want.instances, 0));
        }
        prop_assert_eq!(w.scheduler.services().count(), after.len());
    }

    #[test]
    fn an_undone_change_leaves_nothing(before in any_services(), after in any_services()) {
        let (none, root) = (GroupDependencies::new(), GroupId::root());
        let (was, is) = (
            Tree { services: &before, groups: &none },
            Tree { services: &after, groups: &none },
        );
        let change = is.back_to(&root, was);
        let mut back = after.clone();
        back.retain(|id, _| !change.removes.contains(id));
        for (id, s) in &change.puts {
            back.insert(id.clone(), Arc::new(ServiceSpec { version: ServiceVersion(UnixMillis(1_000)), ..s.clone() }));
        }
        prop_assert_eq!(back, before);
        prop_assert!(changed_groups(&none, &change).is_empty());
    }
}
