//! What listeners are told: all of it, once, in order.

use waggle_types::{HealthRecord, StatusReason};

use super::*;

/// What was said of a kind, shortly.
fn told(w: &mut World) -> Vec<String> {
    let said = std::mem::take(&mut w.said);
    let one = |n: News| match n {
        News::Status { state, of, .. } => format!("{} {}", of.service, state.mesos_name()),
        News::Instance {
            state, inactive, ..
        } => {
            let inactive = if inactive { ", inactive" } else { "" };
            format!("instance {}{inactive}", state.mesos_name())
        }
        News::TaskHealth { alive, .. } => format!("alive {alive}"),
        News::InstanceHealth { healthy, .. } => format!("healthy {healthy}"),
        News::CheckFailed { .. } => "check failed".to_owned(),
        News::UnhealthyTaskKilled { reason, .. } => format!("task killed: {reason}"),
        News::UnhealthyInstanceKilled { .. } => "instance killed".to_owned(),
        News::UnknownEnded { state, .. } => format!("unknown {}", state.mesos_name()),
        News::CheckAdded { .. } => "check added".to_owned(),
        News::CheckRemoved { .. } => "check removed".to_owned(),
        News::Deployment { phase, plan, step } => {
            let n = |specs: &[Arc<ServiceSpec>]| specs.iter().map(|s| s.instances).sum::<u32>();
            let (from, to) = (n(&plan.original), n(&plan.target));
            format!("{phase:?} {step} from {from} to {to}")
        }
        News::GroupChanged { group, .. } => format!("changed {group}"),
        News::GroupRefused { group, reason, .. } => format!("refused {group}: {reason}"),
        News::ServiceGone(id) => format!("gone {id}"),
    };
    said.into_iter().map(one).collect()
}

fn checked(n: u32) -> ServiceSpec {
    let mut spec = service("/shop/web", n, "/web:80");
    spec.health_checks = vec![waggle_types::HealthCheck {
        name: None,
        purpose: waggle_types::CheckPurpose::Health,
        probe: waggle_types::HealthProbe::Tcp {
            port_index: 0,
            port: None,
        },
        delay: Millis(0),
        grace_period: Millis::from_secs(300),
        interval: Millis::from_secs(60),
        timeout: Millis::from_secs(20),
        max_consecutive_failures: 3,
        keep_response: false,
    }];
    spec
}

#[test]
fn a_life_is_told_from_begin_to_end() {
    let mut w = World::new();
    w.join(1);
    w.put(checked(1), PutMode::Create, false).unwrap();
    assert_eq!(
        told(&mut w),
        [
            "check added",
            "changed /shop",
            "StepBegins 0 from 0 to 1",
            "StepDone 0 from 0 to 1",
            "StepBegins 1 from 0 to 1",
            "instance TASK_STAGING"
        ]
    );
    w.put(checked(2), PutMode::Update, false).unwrap_err();
    let refused = told(&mut w);
    assert_eq!(refused.len(), 1);
    assert!(refused[0].starts_with("refused /shop: "), "{refused:?}");
    w.run_all();
    assert_eq!(
        told(&mut w),
        [
            "alive true",
            "healthy true",
            "/shop/web TASK_RUNNING",
            "instance TASK_RUNNING",
            "StepDone 1 from 0 to 1",
            "Done 1 from 0 to 1"
        ]
    );
    // Out of reach, replaced, and back.
    w.cut(1);
    w.pass(31_000);
    assert_eq!(
        told(&mut w),
        [
            "/shop/web TASK_UNREACHABLE",
            "instance TASK_UNREACHABLE",
            "instance TASK_UNREACHABLE, inactive"
        ]
    );
    w.join(1);
    w.settle();
    let back = told(&mut w);
    assert_eq!(
        back[..2],
        ["/shop/web TASK_RUNNING", "instance TASK_RUNNING"],
        "{back:?}"
    );
    let d = w.remove("/shop/web").unwrap();
    w.settle();
    assert_eq!(
        told(&mut w),
        [
            "check removed",
            "changed /shop",
            "StepBegins 0 from 1 to 0",
            "/shop/web TASK_KILLED",
            "instance TASK_KILLED",
            "StepDone 0 from 1 to 0",
            "Done 0 from 1 to 0",
            "gone /shop/web"
        ]
    );
    assert!(!w.view().deployments.contains_key(&d.id));
}

#[test]
fn what_ends_at_once_is_told_with_every_state_that_it_had() {
    let mut w = World::new();
    w.join(1);
    w.put(service("/a", 1, "/a:80"), PutMode::Create, false)
        .unwrap();
    w.said.clear();
    let (agent, task) = (agent_id(1), w.task_ids().remove(0));
    for state in [TaskState::Starting, TaskState::Running, TaskState::Failed] {
        w.say(&agent, &task, state);
    }
    let all = told(&mut w);
    let states: Vec<_> = all.iter().filter(|t| t.starts_with("/a ")).collect();
    assert_eq!(
        states,
        ["/a TASK_STARTING", "/a TASK_RUNNING", "/a TASK_FAILED"]
    );
}

#[test]
fn a_deployment_that_another_takes_the_place_of_has_failed() {
    let mut w = World::new();
    w.join(1);
    w.put(service("/a", 1, "/a:80"), PutMode::Create, false)
        .unwrap();
    w.said.clear();
    w.put(service("/a", 2, "/a:80"), PutMode::Update, true)
        .unwrap();
    let all = told(&mut w);
    let ends: Vec<_> = all.iter().filter(|t| t.contains("from")).collect();
    assert_eq!(ends, ["Failed 1 from 0 to 1", "StepBegins 0 from 1 to 2"]);
}

#[test]
fn what_was_heard_of_health_checks_is_kept() {
    let mut w = World::new();
    w.join(1);
    w.put(checked(1), PutMode::Create, false).unwrap();
    w.run_all();
    told(&mut w);
    let shown = |w: &mut World| w.view().services.values().next().unwrap().instances[0].clone();
    let i = shown(&mut w);
    let first = i.health_record.unwrap().first_success;
    assert!(first.is_some());
    let session = w.agents[&i.agent_id].session.unwrap();
    let mut hear = |health, reason, at, message: &str| {
        w.event(Event::Status {
            session,
            status: TaskStatus {
                health,
                reason,
                at: UnixMillis(at),
                message: message.to_owned(),
                ..status(&i.agent_id, &i.task_id, TaskState::Running)
            },
        });
        (shown(&mut w).health_record.unwrap(), told(&mut w))
    };
    let by_checks = Some(StatusReason::TaskHealthCheckStatusUpdated);
    let (_, said) = hear(HealthState::Unhealthy, by_checks, 70, "refused");
    assert_eq!(said, ["check failed", "alive false", "healthy false"]);
    let (_, said) = hear(HealthState::Unhealthy, by_checks, 80, "too slow");
    assert_eq!(said, ["check failed"]);
    // The same once more, since it was not acknowledged; and something else of a task that is as it was.
    hear(HealthState::Unhealthy, by_checks, 80, "too slow");
    let other = Some(StatusReason::TaskCheckStatusUpdated);
    let (heard, said) = hear(HealthState::Unhealthy, other, 90, "not ready");
    assert!(said.is_empty());
    let expected = HealthRecord {
        first_success: first,
        last_success: first,
        last_failure: Some(UnixMillis(80)),
        last_failure_cause: "too slow".to_owned(),
        n_failures: 2,
    };
    assert_eq!(heard, expected);
    let (heard, _) = hear(HealthState::Healthy, by_checks, 99, "passed");
    let expected = HealthRecord {
        last_success: Some(UnixMillis(99)),
        n_failures: 0,
        ..expected
    };
    assert_eq!(heard, expected);
}
