//! Views share what did not change with the ones before them. That they say the same as one made from nothing is
//! checked wherever a test looks at one (`World::view`).

use super::*;

fn id(n: usize) -> ServiceId {
    ServiceId::new(&format!("/s{n}")).unwrap()
}

/// Services made anew by a look at the cluster, which is given back.
fn look(w: &mut World) -> (ClusterView, u64) {
    let before = w.core.shown.n_made;
    let view = w.core.view(w.now);
    (view, w.core.shown.n_made - before)
}

#[test]
fn only_what_changed_is_made_anew() {
    let mut w = World::new();
    w.join(1);
    for n in 0..20 {
        let vip = format!("/s{n}:80");
        w.put(service(&format!("/s{n}"), 1, &vip), PutMode::Create, false)
            .unwrap();
    }
    w.run_all();
    let (first, n) = look(&mut w);
    assert_eq!((first.services.len(), n), (20, 20), "each once");
    assert_eq!(first.services[&id(7)].running, 1);
    let (second, n) = look(&mut w);
    assert_eq!(n, 0, "nothing happened");
    assert!(second.sequence > first.sequence);

    let task = first.services[&id(7)].instances[0].task_id.clone();
    let agent = first.services[&id(7)].instances[0].agent_id.clone();
    let session = w.agents[&agent].session.unwrap();
    w.event(Event::Status {
        session,
        status: TaskStatus {
            health: HealthState::Unhealthy,
            ..status(&agent, &task, TaskState::Running)
        },
    });
    let (third, n) = look(&mut w);
    assert_eq!(n, 1);
    let health = |v: &ClusterView| v.services[&id(7)].instances[0].health;
    assert_eq!(health(&third), HealthState::Unhealthy);
    assert_eq!(
        health(&second),
        HealthState::Healthy,
        "a view never changes"
    );
    for s in (0..20).filter(|n| *n != 7) {
        assert!(Arc::ptr_eq(
            &third.services[&id(s)],
            &first.services[&id(s)]
        ));
    }

    // A change of one is a deployment of one.
    w.put(service("/s3", 2, "/s3:80"), PutMode::Upsert, false)
        .unwrap();
    let (fourth, n) = look(&mut w);
    assert_eq!(n, 1);
    assert_eq!(fourth.services[&id(3)].deployments.len(), 1);
    w.run_all();
    let (fifth, n) = look(&mut w);
    assert_eq!(n, 1);
    assert!(fifth.services[&id(3)].deployments.is_empty());
    assert_eq!(fifth.services[&id(3)].versions.len(), 2);
    assert_eq!(
        fifth.services[&id(3)].configured_at,
        first.services[&id(3)].spec.version,
        "scaling is no change of the configuration"
    );
    w.view();
}

#[test]
fn what_is_gone_is_shown_no_more_and_what_waits_is_queued() {
    let mut w = World::new();
    w.put(service("/s1", 1, "/s1:80"), PutMode::Create, false)
        .unwrap();
    let (view, _) = look(&mut w);
    assert_eq!(view.queue[&id(1)].count, 1, "no agent");
    w.join(1);
    w.run_all();
    w.remove("/s1").unwrap();
    w.pass(2_000);
    w.obey_kills();
    w.settle();
    let (view, _) = look(&mut w);
    assert!(view.services.is_empty() && view.queue.is_empty());
    w.view();
}
