//! Launches under way at once, how often offers are asked for, and what is not launched without its secrets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use std::collections::BTreeMap;

use common::{agent, framework_id, node, offer, spec, status};
use waggle_services::{
    Action, DeclineReason, Input, Limits, Rule, ServiceScheduler, is_current, tell,
};
use waggle_types::{
    DeploymentId, Millis, SchedulerCall, SchedulerEvent, SecretFile, ServiceSpec, TaskSpec,
    TaskState, UnixMillis,
};

fn scheduler(limits: Limits) -> ServiceScheduler {
    ServiceScheduler::with_limits(framework_id(), "marathon", 1, limits)
}

fn put(spec: &ServiceSpec) -> Input {
    Input::Put {
        spec: Box::new(spec.clone()),
        deployment_id: Some(DeploymentId::new("d").unwrap()),
        restart_before: None,
        trace: None,
    }
}

/// Offers of so many nodes, with ids of their own.
fn offers(n: &mut usize, nodes: usize) -> Input {
    let each = (0..nodes).map(|on| {
        *n += 1;
        offer(*n, on, node())
    });
    Input::Scheduler(SchedulerEvent::Offers(each.collect()))
}

fn launched(actions: &[Action]) -> Vec<TaskSpec> {
    let operations = actions.iter().flat_map(|a| match a {
        Action::Call(SchedulerCall::Accept { operations, .. }) => operations.as_slice(),
        _ => &[],
    });
    operations.flat_map(|o| o.tasks().to_vec()).collect()
}

fn revives(actions: &[Action]) -> bool {
    let revive = |a: &Action| matches!(a, Action::Call(SchedulerCall::Revive { .. }));
    actions.iter().any(revive)
}

fn runs(task: &TaskSpec) -> Input {
    let said = status(&task.task_id, &agent(0), TaskState::Running);
    Input::Scheduler(SchedulerEvent::Update(said))
}

#[test]
fn only_so_many_launches_are_under_way() {
    let mut s = scheduler(Limits {
        launch_tokens: Some(3),
        ..Limits::default()
    });
    let at = UnixMillis;
    let (one, mut other) = (spec(2), spec(4));
    other.id = waggle_types::ServiceId::new("/other").unwrap();
    s.handle(put(&one), at(0));
    s.handle(put(&other), at(0));
    let mut n = 0;
    let first = s.handle(offers(&mut n, 4), at(0));
    let begun = launched(&first);
    assert_eq!(begun.len(), 3, "over both services");
    let waiting: Vec<u32> = s.queue().map(|q| q.count).collect();
    assert_eq!(waiting.iter().sum::<u32>(), 3);
    // What stands in the way is told.
    let q = s.queue().last().unwrap();
    assert!(q.rules.contains_key(&Rule::Tokens), "{:?}", q.rules);
    let service = s.service(&q.service).unwrap();
    let why = tell(service.spec(), &q.rules, "offer");
    assert!(
        why[0].message.starts_with("as many launches are under way"),
        "{why:?}"
    );
    assert_eq!(why[0].reason, DeclineReason::NoWaitingInstance);
    assert!(launched(&s.handle(offers(&mut n, 4), at(10))).is_empty());

    // One runs: one more may begin, and is asked offers for.
    assert!(revives(&s.handle(runs(&begun[0]), at(20))));
    let next = launched(&s.handle(offers(&mut n, 4), at(20)));
    assert_eq!(next.len(), 1);
    // One that hangs does not hold others up for ever.
    let refresh = Limits::default().launch_token_refresh;
    assert_eq!(s.next_deadline(), Some(at(0) + refresh));
    assert!(revives(&s.handle(Input::Tick, at(0) + refresh)));
    let rest = launched(&s.handle(offers(&mut n, 4), at(0) + refresh));
    assert_eq!(rest.len(), 2, "all that are left");
    assert!(s.queue().next().is_none());
}

#[test]
fn without_tokens_launches_are_not_bounded() {
    let mut s = scheduler(Limits::default());
    s.handle(put(&spec(8)), UnixMillis(0));
    let mut n = 0;
    assert_eq!(
        launched(&s.handle(offers(&mut n, 8), UnixMillis(0))).len(),
        8
    );
}

#[test]
fn offers_are_asked_for_at_most_that_often() {
    let pause = Millis::from_secs(5);
    let mut s = scheduler(Limits {
        min_revive_interval: pause,
        ..Limits::default()
    });
    let at = UnixMillis;
    // At first nothing waits: no offers are wanted.
    s.handle(Input::Tick, at(0));
    assert!(
        revives(&s.handle(put(&spec(1)), at(1000))),
        "the first at once"
    );
    let mut more = spec(2);
    assert!(!revives(&s.handle(put(&more), at(1100))), "too soon");
    more.instances = 3;
    assert!(!revives(&s.handle(put(&more), at(3000))));
    assert_eq!(s.next_deadline(), Some(at(1000) + pause));
    assert!(!revives(&s.handle(Input::Tick, at(5999))));
    assert!(
        revives(&s.handle(Input::Tick, at(6000))),
        "once for all of it"
    );
    assert!(!revives(&s.handle(Input::Tick, at(20_000))), "nothing new");
}

#[test]
fn what_needs_secrets_is_not_launched_without_their_values() {
    let mut s = scheduler(Limits::default());
    let mut app = spec(1);
    app.secrets.sources = BTreeMap::from([("pw".to_owned(), "shop/db".to_owned())]);
    s.handle(put(&app), UnixMillis(0));
    let mut n = 0;
    let plain = launched(&s.handle(offers(&mut n, 1), UnixMillis(0)));
    assert_eq!(plain.len(), 1, "named, but not used");

    let mut used = app.clone();
    used.secrets.env = BTreeMap::from([("PASSWORD".to_owned(), "pw".to_owned())]);
    assert!(!is_current(&used, &plain[0]), "it lacks the variable");
    let mut file = app.clone();
    file.secrets.files = vec![SecretFile {
        target: "tls/key".to_owned(),
        secret: "pw".to_owned(),
    }];
    assert!(!is_current(&file, &plain[0]));

    // A container's secret is its pod's.
    let mut of_pod = common::pod(1, 2);
    of_pod.secrets = app.secrets.clone();
    let run = &mut of_pod.pod.as_mut().unwrap().containers[0].run;
    run.secrets = used.secrets.clone();

    for asked in [used, file, of_pod] {
        let mut s = scheduler(Limits::default());
        s.handle(put(&asked), UnixMillis(0));
        assert!(launched(&s.handle(offers(&mut n, 3), UnixMillis(0))).is_empty());
        let q = s.queue().next().unwrap();
        assert_eq!(
            q.launch_attempt[&DeclineReason::UnfulfilledConstraint].declined,
            3
        );
        let why = tell(&asked, &q.rules, "offer");
        assert_eq!(
            why[0].message,
            "needs the values of secrets (pw) and there is no secret store: 3 offers refused"
        );
        // Said at once, before there is any offer.
        let never = waggle_services::feasible(&asked, vec![offer(1, 1, node())]);
        assert_eq!(
            (never.n_fit, never.rules.contains_key(&Rule::Secrets)),
            (0, true)
        );
    }
}
