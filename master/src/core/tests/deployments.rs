//! Restarts, older versions, the way back, and all of it over a restart of the master.

use super::*;

fn web_id() -> ServiceId {
    ServiceId::new("/web").unwrap()
}

/// A running `/web` with `n` instances on one agent.
fn running(n: u32) -> World {
    let mut w = World::new();
    w.join(1);
    w.put(service("/web", n, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.settle();
    assert_eq!(w.task_ids().len(), n as usize);
    w
}

#[test]
fn a_restart_replaces_every_instance_once() {
    let mut w = running(3);
    let before = w.task_ids();
    let old = w.view().services[&web_id()].spec.version;
    let d = w.restart_service("/web", false).unwrap();
    assert!(d.version > old);
    let err = w.restart_service("/web", false).unwrap_err();
    assert!(matches!(err, MasterError::Locked { .. }), "{err}");
    w.settle();
    let after = w.task_ids();
    assert_eq!(after.len(), 3);
    assert!(before.iter().all(|t| !after.contains(t)));
    assert!(w.view().deployments.is_empty());
    w.settle();
    assert_eq!(w.task_ids(), after, "and then it is over");
    assert!(matches!(
        w.restart_service("/none", false),
        Err(MasterError::NoSuchService(_))
    ));
}

#[test]
fn a_restart_is_finished_by_the_next_master() {
    let mut w = running(3);
    let before = w.task_ids();
    let d = w.restart_service("/web", false).unwrap();
    w.restart();
    assert!(w.view().deployments.contains_key(&d.id));
    w.join(1);
    w.settle();
    let after = w.task_ids();
    assert_eq!(after.len(), 3);
    assert!(before.iter().all(|t| !after.contains(t)), "{after:?}");
    assert!(w.view().deployments.is_empty());
    assert!(!w.stored.keys().any(|k| k.starts_with("deployments/")));
}

#[test]
fn what_takes_the_place_of_a_restart_carries_it_on() {
    let mut w = running(3);
    let before = w.task_ids();
    w.restart_service("/web", false).unwrap();
    w.put(service("/web", 2, "/web:80"), PutMode::Update, true)
        .unwrap();
    w.restart();
    w.join(1);
    w.settle();
    let after = w.task_ids();
    assert_eq!(after.len(), 2);
    assert!(before.iter().all(|t| !after.contains(t)), "{after:?}");
}

#[test]
fn versions_are_kept_bounded_and_go_with_the_service() {
    let mut w = World::new();
    for n in 1..=30 {
        w.put(service("/web", n, "/web:80"), PutMode::Upsert, true)
            .unwrap();
    }
    let kept = |w: &mut World| -> Vec<u32> {
        let view = w.view();
        let web = &view.services[&web_id()];
        web.versions.iter().map(|s| s.instances).collect()
    };
    let wanted: Vec<u32> = (6..=30).collect();
    assert_eq!(kept(&mut w), wanted);
    w.restart();
    assert_eq!(kept(&mut w), wanted, "stored");
    let n_stored = |w: &World| {
        w.stored
            .keys()
            .filter(|k| k.starts_with("versions/"))
            .count()
    };
    assert_eq!(n_stored(&w), KEEP_VERSIONS);
    w.put(service("/web", 31, "/web:80"), PutMode::Update, true)
        .unwrap();
    assert_eq!(n_stored(&w), KEEP_VERSIONS);
    let d = w.view().services[&web_id()].deployments[0].clone();
    w.cancel(&d, false).unwrap();
    w.remove("/web").unwrap();
    // What the removal can be undone to, and what that can be undone to: see the history of groups.
    assert_eq!(n_stored(&w), KEEP_VERSIONS);
    for _ in 0..KEEP_RECORDS {
        w.put(service("/other", 1, "/other:80"), PutMode::Upsert, true)
            .unwrap();
    }
    assert!(!w.stored.keys().any(|k| k.starts_with("versions/web/")));
}

#[test]
fn a_store_without_history_is_read() {
    let mut w = running(1);
    w.stored.retain(|k, _| !k.starts_with("versions/"));
    w.restart();
    assert_eq!(w.view().services[&web_id()].versions.len(), 1);
}

#[test]
fn a_deployment_is_rolled_back_to_what_was_before() {
    let mut w = running(1);
    let before = w.task_ids();
    let changed = ServiceSpec {
        command: Command::Shell("false".into()),
        ..service("/web", 4, "/web:80")
    };
    let d = w.put(changed, PutMode::Update, false).unwrap();
    w.restart();
    w.join(1);
    let back = w.cancel(&d.id, true).unwrap().unwrap();
    assert!(back.version > d.version);
    assert_eq!(
        w.cancel(&d.id, true),
        Err(MasterError::NoSuchDeployment(d.id.clone()))
    );
    w.settle();
    let spec = w.view().services[&web_id()].spec.clone();
    assert_eq!(spec.instances, 1);
    assert_eq!(spec.command, Command::Shell("sleep 1000".into()));
    assert_eq!(w.task_ids(), before, "the old instance was never replaced");
    assert!(w.view().deployments.is_empty());
}

#[test]
fn rolling_back_a_new_service_removes_it_and_a_removal_restores_it() {
    let mut w = World::new();
    let d = w
        .put(service("/web", 1, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.cancel(&d.id, true).unwrap().unwrap();
    w.settle();
    assert!(w.view().services.is_empty() && w.view().deployments.is_empty());

    let mut w = running(2);
    let d = w.remove("/web").unwrap();
    assert!(w.view().services.is_empty());
    w.cancel(&d.id, true).unwrap().unwrap();
    w.settle();
    assert_eq!(w.task_ids().len(), 2);
    assert_eq!(w.net().vips.len(), 1);
    w.restart();
    w.join(1);
    w.settle();
    assert_eq!(w.task_ids().len(), 2, "it is stored again");
}

#[test]
fn a_roll_back_into_a_taken_vip_is_refused_and_changes_nothing() {
    let mut w = running(1);
    let d = w
        .put(service("/web", 1, "/other:80"), PutMode::Update, false)
        .unwrap();
    w.put(service("/thief", 1, "/web:80"), PutMode::Create, false)
        .unwrap();
    let before = w.stored.clone();
    let err = w.cancel(&d.id, true).unwrap_err();
    assert!(matches!(err, MasterError::Invalid(_)), "{err}");
    assert_eq!(w.stored, before);
}

#[test]
fn a_forced_cancel_only_gives_the_lock_up() {
    let mut w = World::new();
    let d = w
        .put(service("/web", 1, "/web:80"), PutMode::Create, false)
        .unwrap();
    assert_eq!(w.cancel(&d.id, false), Ok(None));
    assert!(w.view().deployments.is_empty());
    assert!(!w.stored.contains_key(&format!("deployments/{}", d.id)));
    w.put(service("/web", 2, "/web:80"), PutMode::Update, false)
        .unwrap();
    w.join(1);
    w.settle();
    assert_eq!(w.task_ids().len(), 2);
}

#[test]
fn killing_with_scale_waits_for_the_lock_unless_forced() {
    let mut w = running(3);
    w.put(service("/web", 9, "/web:80"), PutMode::Update, false)
        .unwrap();
    let one = w.task_ids()[0].clone();
    let err = w.kill(vec![one.clone()], true, false).unwrap_err();
    assert!(matches!(err, MasterError::Locked { .. }), "{err}");
    let d = w.kill(vec![one.clone()], true, true).unwrap();
    assert!(d.is_some());
    w.settle();
    assert_eq!(w.task_ids().len(), 8);
    assert!(!w.task_ids().contains(&one));
}

#[test]
fn a_delay_is_reset_for_what_waits_only() {
    let mut w = running(1);
    let reset = |w: &mut World, id: &str| {
        w.event(Event::ResetDelay {
            request: RequestId(9999),
            id: ServiceId::new(id).unwrap(),
        });
        match w.answers.pop().unwrap() {
            Answer::Done(d) => d,
            other => panic!("wrong answer {other:?}"),
        }
    };
    assert!(matches!(
        reset(&mut w, "/none"),
        Err(MasterError::NoSuchService(_))
    ));
    assert_eq!(reset(&mut w, "/web"), Err(MasterError::NotQueued(web_id())));
    let task = w.task_ids().remove(0);
    w.say(&agent_id(1), &task, TaskState::Failed);
    let launched = w.launches();
    let view = w.view();
    let queued = view.queue.values().next().unwrap();
    assert!(queued.delay(view.at).0 > 0, "{queued:?}");
    assert_eq!(reset(&mut w, "/web"), Ok(()));
    assert_eq!(w.launches(), launched + 1, "at once");
    // Counted once; what is asked for is no restart.
    let restarts = |w: &World| {
        let restarted = w.measured.iter().filter(|m| **m == Measure::Restarted);
        restarted.count()
    };
    assert_eq!(restarts(&w), 1);
    w.put(service("/web", 3, "/web:80"), PutMode::Update, true)
        .unwrap();
    w.run_all();
    let all = w.task_ids();
    w.kill(all, false, false).unwrap();
    w.run_all();
    assert_eq!(restarts(&w), 1);
}

#[test]
fn a_deployment_keeps_its_trace_over_a_restart_of_the_master() {
    let mut w = World::new();
    let root: TraceContext = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        .parse()
        .unwrap();
    let id = DeploymentId::new("d").unwrap();
    w.event(Event::Put {
        request: RequestId(1),
        spec: Box::new(service("/web", 1, "/web:80")),
        mode: PutMode::Create,
        force: false,
        deployment_id: id.clone(),
        trace: Some(root),
    });
    w.restart();
    let key = SpanKey::Deployment(id);
    assert!(w.traces.iter().any(|t| matches!(t,
        TraceOp::Begin { key: k, parent: SpanParent::Context(c), .. } if *k == key && *c == root)));
    w.join(1);
    w.settle();
    let under = SpanParent::Span(key.clone(), Some(root));
    assert!(w.traces.iter().any(
        |t| matches!(t, TraceOp::Record { name, parent, .. } if name == "offer.allocate" && *parent == under)
    ));
    assert!(
        w.traces
            .iter()
            .any(|t| matches!(t, TraceOp::End { key: k, error: None } if *k == key))
    );
}

/// Where instances may be can't be read off their tasks; all of them are replaced, once, as in Marathon.
#[test]
fn other_constraints_replace_every_instance() {
    let mut w = running(2);
    let before = w.task_ids();
    let mut spec = service("/web", 2, "/web:80");
    spec.constraints = vec![vec!["hostname".into(), "MAX_PER".into(), "5".into()]];
    w.put(spec.clone(), PutMode::Update, false).unwrap();
    w.restart();
    w.join(1);
    w.settle();
    let after = w.task_ids();
    assert_eq!(after.len(), 2);
    assert!(before.iter().all(|t| !after.contains(t)), "{after:?}");
    // More of the same is no change of the kind.
    spec.instances = 3;
    w.put(spec, PutMode::Update, false).unwrap();
    w.settle();
    let more = w.task_ids();
    assert_eq!(more.len(), 3);
    assert!(after.iter().all(|t| more.contains(t)), "{more:?}");
}
