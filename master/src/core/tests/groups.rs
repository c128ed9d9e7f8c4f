//! Many services in one change: order, atomicity, groups and their versions, the way back, and all of it over a crash
//! at any write.

use std::collections::BTreeSet;

use waggle_types::{GroupId, GroupUpdate};

use super::*;

fn sid(path: &str) -> ServiceId {
    ServiceId::new(path).unwrap()
}

fn gid(path: &str) -> GroupId {
    GroupId::new(path).unwrap()
}

/// A service without a VIP that depends on others.
fn plain(path: &str, instances: u32, needs: &[&str]) -> ServiceSpec {
    ServiceSpec {
        instances,
        resources: Resources::from_millis(100, 32_000, 0),
        dependencies: needs.iter().map(|p| sid(p)).collect(),
        ..ServiceSpec::new(sid(path), Command::Shell("sleep 1000".into()))
    }
}

fn update(path: &str, services: Vec<ServiceSpec>, groups: Vec<GroupUpdate>) -> GroupUpdate {
    GroupUpdate {
        pods: Vec::new(),
        id: gid(path),
        services: Some(services),
        groups: Some(groups),
        dependencies: None,
    }
}

/// A database and what needs it.
fn shop() -> GroupUpdate {
    let db = update("/shop/db", vec![plain("/shop/db/main", 1, &[])], vec![]);
    let web = GroupUpdate {
        pods: Vec::new(),
        dependencies: Some(BTreeSet::from([sid("/shop/db")])),
        ..update(
            "/shop/web",
            vec![
                plain("/shop/web/api", 2, &[]),
                plain("/shop/web/ui", 1, &["/shop/web/api"]),
            ],
            vec![],
        )
    };
    update("/shop", vec![], vec![db, web])
}

impl World {
    fn tree(&mut self, tree: TreeRequest, force: bool) -> Result<Deployment, MasterError> {
        self.n_ids += 1;
        self.event(Event::ChangeTree {
            request: RequestId(self.n_ids),
            tree: Box::new(tree),
            force,
            deployment_id: DeploymentId::new(format!("d{}", self.n_ids)).unwrap(),
            trace: None,
        });
        match self.answers.pop().unwrap() {
            Answer::Deployment(d) => d,
            other => panic!("wrong answer {other:?}"),
        }
    }

    fn group_versions(&mut self, path: &str) -> Vec<waggle_types::ServiceVersion> {
        let query = GroupQuery::Versions(gid(path));
        self.event(Event::AskGroup {
            request: RequestId(7777),
            query,
        });
        match self.answers.pop().unwrap() {
            Answer::Group(Ok(GroupAnswer::Versions(all))) => all,
            other => panic!("wrong answer {other:?}"),
        }
    }

    /// Ids of the services that have tasks.
    fn with_tasks(&mut self) -> Vec<String> {
        let view = self.view();
        let all: BTreeSet<String> = view
            .tasks
            .values()
            .map(|t| t.spec.service.clone())
            .collect();
        all.into_iter().collect()
    }

    fn step(&mut self, id: &DeploymentId) -> Option<(usize, usize)> {
        let view = self.view();
        let d = view.deployments.get(id)?;
        Some((d.step_idx + 1, d.plan.steps.len()))
    }

    fn defined(&mut self) -> Vec<(String, u32)> {
        let view = self.view();
        let all = view.services.values();
        all.map(|s| (s.spec.id.to_string(), s.spec.instances))
            .collect()
    }
}

#[test]
fn services_start_in_the_order_of_their_dependencies() {
    let mut w = World::new();
    w.join(1);
    let d = w.tree(TreeRequest::Create(shop()), false).unwrap();
    let text = w.view().deployments[&d.id].plan.to_string();
    assert_eq!(
        text,
        "\
step 1
  StartApplication /shop/db/main
  StartApplication /shop/web/api
  StartApplication /shop/web/ui
step 2
  ScaleApplication /shop/db/main
step 3
  ScaleApplication /shop/web/api
step 4
  ScaleApplication /shop/web/ui
"
    );
    assert_eq!(w.step(&d.id), Some((2, 4)));
    assert_eq!(w.with_tasks(), ["/shop/db/main"]);
    assert_eq!(w.view().services.len(), 3, "all are defined at once");
    w.run_all();
    assert_eq!(
        w.with_tasks(),
        ["/shop/db/main", "/shop/web/api", "/shop/web/ui"]
    );
    assert!(w.view().deployments.is_empty());
    assert!(!w.stored.keys().any(|k| k.starts_with("deployments/")));
    // All have the version of the change.
    assert!(
        w.view()
            .services
            .values()
            .all(|s| s.spec.version == d.version)
    );
    assert_eq!(w.view().tree_version, d.version);
    let err = w.tree(TreeRequest::Create(shop()), false).unwrap_err();
    assert_eq!(err, MasterError::GroupExists(gid("/shop")));
    // The same again is nothing to do, and whoever waits for it hears that it is done.
    let same = w.tree(TreeRequest::Update(shop()), false).unwrap();
    let view = w.view();
    assert!(view.deployments.is_empty());
    let ended = view.ended_deployments.iter().find(|e| e.id == same.id);
    assert_eq!(ended.unwrap().outcome, "finished");
}

#[test]
fn a_change_is_whole_or_nothing() {
    let mut w = World::with(|c| c.max_instances = 10);
    w.put(service("/taken", 1, "/vip:80"), PutMode::Create, false)
        .unwrap();
    w.settle();
    let before = (w.stored.clone(), w.defined());
    let mut port = plain("/b", 1, &[]);
    port.ports = service("/b", 1, "/b:80").ports;
    port.ports[0].port = 10_101;
    let same_port = ServiceSpec {
        id: sid("/c"),
        ..port.clone()
    };
    let without_vip = |mut s: ServiceSpec| {
        s.ports[0].vips.clear();
        s.ports[0].labels.clear();
        s
    };
    let bad: [(&str, Vec<ServiceSpec>); 6] = [
        (
            "VIP",
            vec![plain("/a", 1, &[]), service("/b", 1, "/vip:80")],
        ),
        (
            "VIP",
            vec![service("/a", 1, "/x:80"), service("/b", 1, "/x:80")],
        ),
        (
            "cycle: /a -> /b -> /a",
            vec![plain("/a", 1, &["/b"]), plain("/b", 1, &["/a"])],
        ),
        ("instances", vec![plain("/a", 1, &[]), plain("/b", 11, &[])]),
        (
            "/a is an app and a group",
            vec![plain("/a", 1, &[]), plain("/a/b", 1, &[])],
        ),
        (
            "service port 10101",
            vec![without_vip(port), without_vip(same_port)],
        ),
    ];
    for (why, specs) in bad {
        let err = w.tree(TreeRequest::Services(specs), false).unwrap_err();
        assert!(matches!(err, MasterError::Invalid(_)), "{err}");
        assert!(err.to_string().contains(why), "{err}");
        assert_eq!((w.stored.clone(), w.defined()), before, "{why}");
    }
    // What is wrong with each of several is said at once.
    let mut worse = plain("/c", 12, &[]);
    worse.constraints = vec![vec!["rack".into(), "NEAR".into()]];
    let several = vec![plain("/a", 1, &[]), plain("/b", 11, &[]), worse];
    let err = w.tree(TreeRequest::Services(several), false).unwrap_err();
    let MasterError::AllInvalid(all) = err else {
        panic!("{err}")
    };
    let fields: Vec<&str> = all.iter().map(|e| e.field.as_str()).collect();
    let expected = [
        "apps[/b].instances",
        "apps[/c].instances",
        "apps[/c].constraints[0][1]",
    ];
    assert_eq!(fields, expected);
    assert_eq!((w.stored.clone(), w.defined()), before);
    assert!(w.view().deployments.is_empty() || w.view().deployments.len() == 1);
}

#[test]
fn one_locked_service_locks_the_change_and_force_takes_the_whole_deployment_over() {
    let mut w = World::new();
    w.join(1);
    let first = w.tree(TreeRequest::Create(shop()), false).unwrap();
    assert_eq!(w.step(&first.id), Some((2, 4)));
    // The one whose turn has not come is locked, too.
    let err = w
        .put(plain("/shop/web/ui", 3, &[]), PutMode::Update, false)
        .unwrap_err();
    let MasterError::Locked {
        service,
        deployment,
    } = err
    else {
        panic!("{err}")
    };
    assert_eq!(
        (service, deployment),
        (sid("/shop/web/ui"), first.id.clone())
    );
    w.put(plain("/shop/web/ui", 3, &[]), PutMode::Update, true)
        .unwrap();
    assert!(!w.view().deployments.contains_key(&first.id));
    w.settle();
    // What was left of the first goes on by itself, in no order.
    let view = w.view();
    assert!(view.deployments.is_empty());
    let running: Vec<(String, u32)> = view
        .services
        .values()
        .map(|s| (s.spec.id.to_string(), s.running))
        .collect();
    assert_eq!(running, w.defined());
    assert_eq!(running.iter().map(|r| r.1).sum::<u32>(), 6);
}

#[test]
fn only_so_many_deployments_run() {
    let mut w = World::with(|c| c.max_running_deployments = 2);
    w.put(plain("/a", 1, &[]), PutMode::Create, false).unwrap();
    let b = w.put(plain("/b", 1, &[]), PutMode::Create, false).unwrap();
    let err = w
        .put(plain("/c", 1, &[]), PutMode::Create, false)
        .unwrap_err();
    assert_eq!(err, MasterError::TooManyDeployments(2));
    let err = w
        .put(plain("/c", 1, &[]), PutMode::Create, true)
        .unwrap_err();
    assert_eq!(
        err,
        MasterError::TooManyDeployments(2),
        "it takes no place over"
    );
    w.put(plain("/b", 2, &[]), PutMode::Update, true).unwrap();
    assert!(!w.view().deployments.contains_key(&b.id));
    let running: Vec<DeploymentId> = w.view().deployments.keys().cloned().collect();
    for id in &running {
        w.cancel(id, true).unwrap();
    }
    w.settle();
    w.put(plain("/c", 1, &[]), PutMode::Create, false).unwrap();
}

#[test]
fn a_group_is_scaled_and_goes_back_to_any_version() {
    let mut w = World::new();
    w.join(1);
    let first = w.tree(TreeRequest::Create(shop()), false).unwrap();
    w.settle();
    let at_first = w.defined();
    let scale = |millionths| TreeRequest::Scale {
        id: gid("/shop/web"),
        millionths,
    };
    let second = w.tree(scale(2_500_000), false).unwrap();
    w.settle();
    let at_second = w.defined();
    assert_eq!(
        at_second,
        [
            ("/shop/db/main".into(), 1),
            ("/shop/web/api".into(), 5),
            ("/shop/web/ui".into(), 3)
        ]
    );
    assert_eq!(w.task_ids().len(), 9);
    w.put(plain("/other", 1, &[]), PutMode::Create, false)
        .unwrap();
    let gone = w
        .tree(TreeRequest::Remove(gid("/shop/web")), false)
        .unwrap();
    w.settle();
    assert_eq!(w.with_tasks(), ["/other", "/shop/db/main"]);
    // The change of another group is no version of this one.
    assert_eq!(
        w.group_versions("/shop"),
        [gone.version, second.version, first.version]
    );
    assert_eq!(
        w.group_versions("/").len(),
        5,
        "and nothing, at the beginning"
    );
    w.restart();
    w.join(1);
    w.settle();
    assert_eq!(
        w.group_versions("/shop"),
        [gone.version, second.version, first.version]
    );
    let back = |version| TreeRequest::Version {
        id: gid("/shop"),
        version,
    };
    for (version, want) in [(second.version, &at_second), (first.version, &at_first)] {
        w.tree(back(version), false).unwrap();
        w.settle();
        let mut all = w.defined();
        all.retain(|(id, _)| id != "/other");
        assert_eq!(&all, want);
        let view = w.view();
        assert!(
            view.services
                .values()
                .all(|s| s.running == s.spec.instances)
        );
        let deps = &view.groups[&gid("/shop/web")];
        assert_eq!(*deps, BTreeSet::from([sid("/shop/db")]));
    }
    let never = waggle_types::ServiceVersion(UnixMillis(77));
    let err = w.tree(back(never), false).unwrap_err();
    assert!(
        matches!(err, MasterError::NoSuchGroupVersion { .. }),
        "{err}"
    );
    let err = w
        .tree(TreeRequest::Remove(gid("/none")), false)
        .unwrap_err();
    assert_eq!(err, MasterError::NoSuchGroup(gid("/none")));
}

#[test]
fn what_is_kept_of_the_past_is_bounded() {
    let mut w = World::new();
    w.put(plain("/gone", 0, &[]), PutMode::Create, false)
        .unwrap();
    w.remove("/gone").unwrap();
    let kept = |w: &World, prefix: &str| w.stored.keys().filter(|k| k.starts_with(prefix)).count();
    assert_eq!(kept(&w, "versions/gone/"), 1, "the removal can be undone");
    for n in 0..2 * KEEP_RECORDS {
        let spec = plain("/web", u32::try_from(n % 2).unwrap(), &[]);
        w.put(spec, PutMode::Upsert, true).unwrap();
    }
    assert_eq!(kept(&w, "history/"), KEEP_RECORDS);
    assert_eq!(kept(&w, "versions/gone/"), 0);
    // Not further back than the definitions of a service are kept.
    assert_eq!(w.group_versions("/").len(), KEEP_VERSIONS);
    let keys = |w: &World| w.stored.keys().cloned().collect::<Vec<_>>();
    let before = keys(&w);
    w.restart();
    assert_eq!(keys(&w), before);
    assert_eq!(w.group_versions("/").len(), KEEP_VERSIONS);
}

#[test]
fn a_dry_run_does_nothing() {
    let mut w = World::new();
    let before = w.stored.clone();
    w.event(Event::PlanTree {
        request: RequestId(1),
        tree: Box::new(TreeRequest::Create(shop())),
        force: false,
    });
    let Some(Answer::Plan(Ok(plan))) = w.answers.pop() else {
        panic!()
    };
    assert_eq!(plan.steps.len(), 4);
    assert_eq!(w.stored, before);
    assert!(w.view().services.is_empty());
}

#[test]
fn a_deployment_of_many_goes_back_as_one() {
    let mut w = World::new();
    w.join(1);
    w.tree(TreeRequest::Create(shop()), false).unwrap();
    w.put(plain("/shop/old", 1, &[]), PutMode::Create, false)
        .unwrap();
    w.settle();
    let (before, groups) = (w.defined(), w.view().groups.clone());
    let tasks = w.task_ids();
    let broken = ServiceSpec {
        command: Command::Shell("false".into()),
        ..plain("/shop/db/main", 1, &[])
    };
    let mut next = shop();
    next.groups.as_mut().unwrap()[0].services = Some(vec![broken, plain("/shop/db/new", 2, &[])]);
    let d = w.tree(TreeRequest::Update(next), false).unwrap();
    assert!(!w.view().services.contains_key(&sid("/shop/old")));
    // Over a restart of the master, in the middle.
    w.restart();
    w.join(1);
    assert!(
        w.view().deployments.contains_key(&d.id),
        "{:?}",
        w.view().deployments
    );
    w.cancel(&d.id, true).unwrap().unwrap();
    w.settle();
    assert_eq!(w.defined(), before);
    assert_eq!(w.view().groups, groups);
    assert!(w.view().deployments.is_empty());
    assert_eq!(w.task_ids().len(), tasks.len());
}

/// Whoever begins on what was stored at any write of the whole story ends where that leads: what is defined runs, as it is
/// defined, and nothing else.
#[test]
fn a_crash_at_any_write_is_made_good() {
    let mut w = World::new();
    w.join(1);
    w.saves = Some(Vec::new());
    w.tree(TreeRequest::Create(shop()), false).unwrap();
    w.settle();
    let mut next = shop();
    let groups = next.groups.as_mut().unwrap();
    groups[0].services = Some(vec![ServiceSpec {
        command: Command::Shell("sleep 2000".into()),
        ..plain("/shop/db/main", 2, &[])
    }]);
    groups[1].services = Some(vec![
        plain("/shop/web/api", 3, &[]),
        plain("/shop/web/new", 1, &["/shop/web/api"]),
    ]);
    let d = w.tree(TreeRequest::Update(next), false).unwrap();
    w.run_all();
    w.cancel(&d.id, true).unwrap();
    w.settle();
    w.restart_service("/shop/db/main", false).unwrap();
    w.settle();
    w.tree(TreeRequest::Remove(gid("/shop/web")), false)
        .unwrap();
    w.settle();
    let saves = w.saves.take().unwrap();
    assert!(saves.len() > 10, "{}", saves.len());
    for (i, (stored, agents)) in saves.into_iter().enumerate() {
        let mut w = World::new();
        (w.stored, w.agents) = (stored, agents);
        w.restart();
        let before = w.defined();
        w.join(1);
        w.settle();
        let view = w.view();
        assert_eq!(w.defined(), before, "save {i}");
        assert!(
            view.deployments.is_empty(),
            "save {i}: {:?}",
            view.deployments
        );
        let mut wanted: Vec<(String, Command)> = Vec::new();
        for s in view.services.values() {
            let one = (s.spec.id.to_string(), s.spec.command.clone());
            wanted.extend(vec![one; s.spec.instances as usize]);
        }
        let tasks = w.agents.values().flat_map(|a| a.tasks.values());
        let mut found: Vec<(String, Command)> = tasks
            .map(|(t, _)| (t.service.clone(), t.command.clone()))
            .collect();
        found.sort();
        assert_eq!(found, wanted, "save {i}");
        assert!(
            !w.stored.keys().any(|k| k.starts_with("deployments/")),
            "save {i}"
        );
    }
}

fn with_deadline(mut spec: ServiceSpec, seconds: &str) -> ServiceSpec {
    let label = (STEP_DEADLINE.to_owned(), seconds.to_owned());
    spec.labels.extend([label]);
    spec
}

#[test]
fn a_step_that_takes_too_long_goes_back_by_itself() {
    let mut w = World::new();
    w.join(1);
    w.tree(TreeRequest::Create(shop()), false).unwrap();
    w.settle();
    let before = w.defined();
    // It never fits, and what depends on it does not get its turn.
    let big = ServiceSpec {
        resources: Resources::from_millis(100_000, 32_000, 0),
        ..plain("/shop/db/main", 1, &[])
    };
    let mut next = shop();
    let groups = next.groups.as_mut().unwrap();
    groups[0].services = Some(vec![
        with_deadline(big, "60"),
        plain("/shop/db/new", 1, &[]),
    ]);
    let d = w.tree(TreeRequest::Update(next), false).unwrap();
    let due = w.now + Millis::from_secs(60);
    let shown = w.view().deployments[&d.id].goes_back_at.unwrap();
    assert!(
        shown <= due && due.since(shown) < Millis(1000),
        "{shown} {due}"
    );
    w.pass(30_000);
    // A master that starts anew gives it its time again: nobody could get on without one.
    w.restart();
    w.join(1);
    w.pass(50_000);
    assert!(w.view().deployments.contains_key(&d.id));
    w.said.clear();
    w.pass(20_000);
    assert!(!w.view().deployments.contains_key(&d.id));
    w.settle();
    assert_eq!(w.defined(), before);
    assert!(
        w.view().deployments.is_empty(),
        "and that does not go back again"
    );
    let phases = w.said.iter().filter_map(|n| match n {
        News::Deployment { phase, .. } => Some(*phase),
        _ => None,
    });
    let phases: Vec<DeploymentPhase> = phases.take(3).collect();
    assert_eq!(
        phases,
        [
            DeploymentPhase::StepFailed,
            DeploymentPhase::Failed,
            DeploymentPhase::StepBegins
        ]
    );
    let late = w.measured.iter().any(|m| {
        matches!(
            m,
            Measure::Deployment {
                outcome: "late",
                ..
            }
        )
    });
    assert!(late);
}

#[test]
fn what_can_not_go_back_goes_on() {
    let mut w = World::new();
    w.join(1);
    w.put(service("/web", 1, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.settle();
    let mut big = with_deadline(service("/web", 1, "/other:80"), "10");
    big.resources = Resources::from_millis(100_000, 32_000, 0);
    let d = w.put(big, PutMode::Update, false).unwrap();
    w.put(service("/thief", 1, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.pass(30_000);
    let view = w.view();
    assert_eq!(view.deployments[&d.id].goes_back_at, None);
    assert_eq!(view.rejections["rollback_refused"], 1);
    w.restart();
    w.join(1);
    w.pass(30_000);
    assert!(w.view().deployments.contains_key(&d.id));
    let err = w
        .put(
            with_deadline(plain("/x", 1, &[]), "soon"),
            PutMode::Create,
            false,
        )
        .unwrap_err();
    let want =
        "labels.WAGGLE_STEP_DEADLINE: must be whole seconds between 1 and 604800, is \"soon\"";
    assert_eq!(err.to_string(), want);
}

#[test]
fn a_canary_has_its_service_s_vip_and_a_part_of_its_traffic() {
    let mut w = World::new();
    w.join(1);
    w.put(service("/web", 2, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.settle();
    let weighted = |path: &str, n: u32, weight: u16| {
        let mut spec = service(path, n, "/web:80");
        spec.ports[0].balance.weight = weight;
        spec
    };
    let canary = |mut spec: ServiceSpec, of: &str| {
        spec.labels.extend([(CANARY_OF.to_owned(), of.to_owned())]);
        spec
    };
    let tasks = w.task_ids();
    let both = vec![
        weighted("/web", 2, 450),
        canary(weighted("/web-canary", 1, 100), "/web"),
    ];
    w.tree(TreeRequest::Services(both), false).unwrap();
    w.settle();
    assert!(
        tasks.iter().all(|t| w.task_ids().contains(t)),
        "nobody is replaced for a weight"
    );
    let weights = |w: &World| -> Vec<(String, u16)> {
        let all = w.net().tasks.values();
        let mut out: Vec<(String, u16)> = all
            .map(|t| (t.name.clone(), t.ports[0].balance.weight))
            .collect();
        out.sort();
        out
    };
    let web = |weight| ("web".to_owned(), weight);
    assert_eq!(
        weights(&w),
        [web(450), web(450), ("web-canary".into(), 100)]
    );
    assert_eq!(w.net().vips.len(), 1, "one VIP");
    // A second canary, but nobody else.
    let second = canary(weighted("/web-second", 1, 1), "/web");
    w.put(second, PutMode::Create, false).unwrap();
    for spec in [
        service("/thief", 1, "/web:80"),
        canary(service("/thief", 1, "/web:80"), "/web-canary"),
        canary(service("/web-canary", 1, "/web:80"), "/web-canary"),
    ] {
        let err = w.put(spec, PutMode::Upsert, true).unwrap_err();
        assert!(matches!(err, MasterError::Invalid(_)), "{err}");
    }
    w.settle();
    w.remove("/web-canary").unwrap();
    w.remove("/web-second").unwrap();
    w.settle();
    assert_eq!(weights(&w), [web(450), web(450)]);
    assert_eq!(w.net().vips.len(), 1, "the lease stays with who is left");
}
