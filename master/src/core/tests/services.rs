//! From a definition to running instances, leases and snapshots.

use super::*;

fn web_name() -> waggle_types::VipName {
    waggle_types::VipName {
        label: "web".into(),
        framework: SERVICE_FRAMEWORK.into(),
    }
}

#[test]
fn a_service_is_stored_then_launched_then_a_backend() {
    let mut w = World::new();
    w.join(1);
    let effects = w.core.handle(
        Event::Put {
            request: RequestId(1),
            spec: Box::new(service("/web", 2, "/web:80")),
            mode: PutMode::Create,
            force: false,
            deployment_id: DeploymentId::new("d").unwrap(),
            trace: None,
        },
        w.now,
    );
    let first_launch = effects
        .iter()
        .position(|e| matches!(e, Effect::SendAgent { .. }));
    let last_persist = effects
        .iter()
        .rposition(|e| matches!(e, Effect::Persist(_)))
        .unwrap();
    assert!(
        first_launch.is_some_and(|l| last_persist < l),
        "persist, then act"
    );
    w.execute(effects);
    w.finish();
    assert_eq!(w.launches(), 2);
    assert!(w.stored.contains_key("services/web"));
    assert!(w.stored.contains_key("vips/marathon/web"));
    assert!(w.stored.contains_key("deployments/d"));
    w.run_all();
    let view = w.view();
    assert!(view.deployments.is_empty(), "{:?}", view.deployments);
    assert!(!w.stored.contains_key("deployments/d"));
    let net = w.net();
    assert_eq!(net.vips[&web_name()].ports, [(Protocol::Tcp, 80)]);
    let running = net.tasks.values().filter(|t| t.state == TaskState::Running);
    assert_eq!(running.count(), 2);
    assert_eq!(w.causes.len(), 2, "one cause per new backend");
    let web = &view.services[&ServiceId::new("/web").unwrap()];
    assert_eq!((web.running, web.staged), (2, 0));
}

#[test]
fn each_launch_hangs_under_its_offers_spans() {
    let mut w = World::new();
    w.join(1);
    w.put(service("/web", 1, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.run_all();
    let names: Vec<&str> = w
        .traces
        .iter()
        .filter_map(|t| match t {
            TraceOp::Begin { name, .. } | TraceOp::Record { name, .. } => Some(name.as_str()),
            TraceOp::End { .. } => None,
        })
        .collect();
    assert_eq!(names, ["offer.allocate", "offer.accept", "task.launch"]);
    let task = w.task_ids().remove(0);
    let key = SpanKey::Launch(task);
    assert!(
        w.traces
            .iter()
            .any(|t| matches!(t, TraceOp::End { key: k, error: None } if *k == key))
    );
    assert!(w.traces.iter().any(|t| matches!(
        t,
        TraceOp::End {
            key: SpanKey::Deployment(_),
            ..
        }
    )));
    let parent = &w.causes[0].parent;
    assert_eq!(*parent, SpanParent::Span(key, None));
}

#[test]
fn a_taken_vip_is_refused_by_field_and_nothing_changes() {
    let mut w = World::new();
    w.put(service("/web", 1, "/web:80"), PutMode::Create, false)
        .unwrap();
    let before = w.stored.clone();
    let err = w
        .put(service("/other", 1, "web:80"), PutMode::Create, false)
        .unwrap_err();
    let MasterError::Invalid(e) = err else {
        panic!("{err}")
    };
    assert_eq!(e.field, "portDefinitions[0].labels.VIP_0");
    assert!(e.rule.contains("/web"), "{e}");
    let ip = w.core.net().vips[&web_name()].ip;
    let literal = format!("{ip}:80");
    let err = w
        .put(service("/other", 1, &literal), PutMode::Create, false)
        .unwrap_err();
    assert!(matches!(err, MasterError::Invalid(_)), "{err}");
    assert_eq!(w.stored, before);
    w.put(service("/other", 1, "/web:81"), PutMode::Create, false)
        .unwrap();
    assert_eq!(w.net().vips[&web_name()].ports.len(), 2, "a name is shared");
    // The same service may keep its own.
    w.put(service("/web", 2, "/web:80"), PutMode::Upsert, true)
        .unwrap();
}

/// A change of the labels that say how a VIP chooses is in force without new tasks, also after a restart of the master.
#[test]
fn tasks_are_chosen_as_their_definition_says_now() {
    let mut w = World::new();
    w.join(1);
    let mut web = service("/web", 2, "/web:80");
    let weigh = |web: &mut ServiceSpec, weight: u16| {
        let port = &mut web.ports[0];
        port.labels.insert("LB_WEIGHT".into(), weight.to_string());
        port.balance.weight = weight;
    };
    weigh(&mut web, 3);
    w.put(web.clone(), PutMode::Create, false).unwrap();
    w.run_all();
    let weights = |w: &World| -> Vec<u16> {
        let ports = w.net().tasks.values().flat_map(|t| &t.ports);
        ports.map(|p| p.balance.weight).collect()
    };
    assert_eq!(weights(&w), [3, 3]);
    let (ids, launches) = (w.task_ids(), w.launches());
    weigh(&mut web, 0);
    w.put(web, PutMode::Upsert, true).unwrap();
    w.run_all();
    assert_eq!(weights(&w), [0, 0]);
    assert_eq!((w.task_ids(), w.launches()), (ids, launches));
    assert!(w.view().deployments.is_empty());
    w.restart();
    w.join(1);
    assert_eq!(weights(&w), [0, 0]);
}

#[test]
fn a_lease_lives_as_long_as_its_name_is_defined() {
    let mut w = World::new();
    w.join(1);
    w.put(service("/web", 1, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.run_all();
    let ip = w.net().vips[&web_name()].ip;
    w.restart();
    w.join(1);
    assert_eq!(w.net().vips[&web_name()].ip, ip);
    w.remove("/web").unwrap();
    assert!(w.net().vips.is_empty());
    assert!(!w.stored.contains_key("vips/marathon/web"));
    assert!(!w.stored.contains_key("services/web"));
    w.obey_kills();
    let view = w.view();
    assert!(view.tasks.is_empty() && view.deployments.is_empty());
    assert!(w.net().tasks.is_empty());
    assert!(matches!(
        w.remove("/web"),
        Err(MasterError::NoSuchService(_))
    ));
}

#[test]
fn ports_say_whether_they_have_ipv6_and_who_may_come_from_outside() {
    let mut w = World::new();
    let mut web = service("/web", 1, "/web:80");
    web.ports[0].balance.ipv6 = true;
    web.ports[0].sources = vec!["192.0.2.0/24".parse().unwrap()];
    w.put(web.clone(), PutMode::Create, false).unwrap();
    w.run_all();
    let lease = w.net().vips[&web_name()].clone();
    assert_eq!(lease.ip6, Some(waggle_overlay_plan::ipam::twin(lease.ip)));
    let sources: Vec<_> = w
        .net()
        .sources
        .iter()
        .map(|(k, s)| (k.ip, s.clone()))
        .collect();
    assert_eq!(sources, [(lease.ip.into(), web.ports[0].sources.clone())]);
    web.ports[0].balance.ipv6 = false;
    web.ports[0].sources.clear();
    w.put(web, PutMode::Upsert, true).unwrap();
    assert_eq!(w.net().vips[&web_name()].ip6, None);
    assert!(w.net().sources.is_empty());
}

#[test]
fn modes_locks_and_limits_are_typed() {
    let mut w = World::with(|c| {
        c.max_services = 1;
        c.max_instances = 5;
    });
    let web = || service("/web", 1, "/web:80");
    let err = w.put(web(), PutMode::Update, false).unwrap_err();
    assert!(matches!(err, MasterError::NoSuchService(_)), "{err}");
    let d = w.put(web(), PutMode::Create, false).unwrap();
    let err = w.put(web(), PutMode::Create, false).unwrap_err();
    assert!(matches!(err, MasterError::AlreadyExists(_)), "{err}");
    let err = w.put(web(), PutMode::Upsert, false).unwrap_err();
    let MasterError::Locked { deployment, .. } = err else {
        panic!("{err}")
    };
    assert_eq!(deployment, d.id, "nothing runs, so it is still under way");
    let newer = w.put(web(), PutMode::Upsert, true).unwrap();
    assert!(
        newer.version > d.version,
        "versions grow within one instant"
    );
    assert_eq!(w.view().deployments.len(), 1);
    let err = w
        .put(service("/b", 1, "/b:80"), PutMode::Create, false)
        .unwrap_err();
    assert_eq!(err, MasterError::Limit("services"));
    let err = w
        .put(service("/web", 6, "/web:80"), PutMode::Upsert, true)
        .unwrap_err();
    let MasterError::Invalid(e) = err else {
        panic!("{err}")
    };
    assert_eq!(e.field, "instances");
}

#[test]
fn killing_replaces_and_killing_with_scale_does_not() {
    let mut w = World::new();
    w.join(1);
    w.put(service("/web", 2, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.run_all();
    let ids = w.task_ids();
    assert!(matches!(
        w.kill(vec![TaskId::new("nobody").unwrap()], false, false),
        Err(MasterError::NoSuchTask(_))
    ));
    assert_eq!(w.kill(vec![ids[0].clone()], false, false), Ok(None));
    w.obey_kills();
    w.pass(5000);
    w.run_all();
    let now = w.task_ids();
    assert_eq!(now.len(), 2);
    assert!(!now.contains(&ids[0]));
    let d = w.kill(vec![now[0].clone()], true, false).unwrap();
    assert!(d.is_some());
    w.obey_kills();
    w.pass(5000);
    w.run_all();
    assert_eq!(w.task_ids(), [now[1].clone()]);
    assert!(w.view().deployments.is_empty());
}

/// What a launch had waited for is in its trace.
#[test]
fn a_span_says_which_rules_turned_offers_away() {
    let mut w = World::new();
    w.join(1);
    let mut spec = service("/web", 1, "/web:80");
    spec.constraints = vec![vec!["hostname".into(), "IS".into(), "n2".into()]];
    w.put(spec, PutMode::Create, false).unwrap();
    w.run_all();
    w.traces.clear();
    w.join(2);
    w.run_all();
    let attrs = w.traces.iter().find_map(|t| match t {
        TraceOp::Record { name, attrs, .. } if name == "offer.allocate" => Some(attrs),
        _ => None,
    });
    let attrs: BTreeMap<_, _> = attrs.unwrap().iter().cloned().collect();
    let looked_at: u64 = attrs["waggle.offers.looked_at"].parse().unwrap();
    assert!(looked_at >= 2, "{attrs:?}");
    let why = &attrs["waggle.offers.refused"];
    assert!(why.contains("hostname IS n2"), "{why}");
    let id = ServiceId::new("/web").unwrap();
    assert_eq!(w.view().services[&id].decisions[0].hostname, "n2");
}

/// Marathon gives every port a service port of its own.
#[test]
fn ports_that_nobody_named_have_service_ports_and_keep_them() {
    let mut w = World::new();
    w.join(1);
    let ports = |w: &mut World| {
        let view = w.view();
        let all = view.services.values().flat_map(|s| &s.spec.ports);
        all.map(|p| p.port).collect::<Vec<u16>>()
    };
    for id in ["/a", "/b"] {
        w.put(service(id, 1, &format!("{id}:80")), PutMode::Create, false)
            .unwrap();
    }
    w.run_all();
    let (given, tasks) = (ports(&mut w), w.task_ids());
    assert!(given[0] != given[1] && given.iter().all(|p| (10_000..=20_000).contains(p)));
    // As clients send it again, and over a restart of the master.
    let mut again = service("/a", 2, "/a:80");
    w.put(again.clone(), PutMode::Update, false).unwrap();
    w.run_all();
    w.restart();
    w.join(1);
    w.run_all();
    assert_eq!(ports(&mut w), given);
    assert!(
        tasks.iter().all(|t| w.task_ids().contains(t)),
        "nothing was replaced"
    );
    // One that is another's is refused.
    again.ports[0].port = given[1];
    let refused = w.put(again, PutMode::Update, false).unwrap_err();
    assert!(
        refused.to_string().contains("is already that of /b"),
        "{refused}"
    );
}

#[test]
fn half_a_gpu_is_refused() {
    let mut w = World::new();
    let mut spec = service("/web", 1, "/web:80");
    spec.resources.scalars[waggle_types::ScalarKind::Gpus as usize] = waggle_types::Milli(500);
    let refused = w.put(spec, PutMode::Create, false).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("gpus: must be a whole number, is 0.5"),
        "{refused}"
    );
}

#[test]
fn every_field_that_breaks_a_rule_is_named() {
    let mut w = World::new();
    let mut bad = service("/web", 1, "/web:80");
    bad.constraints = vec![
        vec!["rack".into(), "NEAR".into()],
        vec!["hostname".into(), "UNIQUE".into()],
        vec!["@rack".into(), "UNIQUE".into()],
    ];
    bad.instances = w.core.config.max_instances + 1;
    bad.labels
        .insert("WAGGLE_STEP_DEADLINE".into(), "soon".into());
    bad.container.network = waggle_types::NetworkMode::Container("nowhere".into());
    bad.resources.scalars[3] = waggle_types::Milli(500);
    let err = w.put(bad.clone(), PutMode::Create, false).unwrap_err();
    let MasterError::AllInvalid(all) = err else {
        panic!("{err}")
    };
    let fields: Vec<&str> = all.iter().map(|e| e.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "instances",
            "constraints[0][1]",
            "constraints[2][0]",
            "labels.WAGGLE_STEP_DEADLINE",
            "gpus",
            "networks[0].name",
        ]
    );
    assert!(w.view().services.is_empty());
    // One alone is what it was.
    bad.constraints.clear();
    bad.labels.clear();
    bad.resources.scalars[3] = waggle_types::Milli(0);
    bad.instances = 1;
    let err = w.put(bad, PutMode::Create, false).unwrap_err();
    assert!(
        matches!(&err, MasterError::Invalid(e) if e.field == "networks[0].name"),
        "{err}"
    );
}

#[test]
fn an_app_waits_for_its_secrets_and_says_so() {
    let mut w = World::new();
    w.join(1);
    let mut app = service("/db", 1, "/db:80");
    app.secrets.sources = BTreeMap::from([("pw".into(), "shop/db".into())]);
    app.secrets.env = BTreeMap::from([("PASSWORD".into(), "pw".into())]);
    w.put(app.clone(), PutMode::Create, false).unwrap();
    w.run_all();
    for _ in 0..2 {
        let view = w.view();
        let id = &app.id;
        assert_eq!(view.services[id].spec.secrets, app.secrets);
        assert_eq!(view.services[id].instances, []);
        let why = view.queue[id].why();
        assert_eq!(
            why[0].message,
            "needs the values of secrets (pw) and there is no secret store: 1 offer refused"
        );
        assert!(view.tasks.is_empty());
        // It is stored as it is, and the next master knows no more.
        w.restart();
        w.join(1);
        w.pass(60_000);
    }
    // Without the secret it runs.
    app.secrets.env.clear();
    w.put(app.clone(), PutMode::Upsert, true).unwrap();
    w.run_all();
    assert_eq!(w.view().services[&app.id].running, 1);
}
