//! Plans as text: a change of behaviour is read as a diff here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{agent, framework_id, node, offer, spec, status};
use insta::assert_snapshot;
use waggle_services::{
    Action, Context, DeclineReason, DeploymentOutcome, Goal, Input, Instance, OpenOffer, Place,
    Plan, ServiceScheduler, is_current, reconcile,
};
use waggle_types::{
    DeploymentId, HealthState, ImageSpec, Millis, NetworkMode, Offer, PortDefinition, PortMapping,
    PortSet, Resources, SchedulerCall, SchedulerEvent, ServiceSpec, ServiceVersion, TaskId,
    TaskSpec, TaskState, UnixMillis, UnreachableStrategy,
};

/// A task as the scheduler launches it, with an id that reads well.
fn task(spec: &ServiceSpec, id: &str) -> TaskSpec {
    let mut one = spec.clone();
    one.instances = 1;
    let mut s = ServiceScheduler::new(framework_id(), "marathon", 1);
    s.handle(put(&one, "d"), UnixMillis(0));
    let event = SchedulerEvent::Offers(vec![offer(1, 0, node())]);
    let launched = accepted(&s.handle(Input::Scheduler(event), UnixMillis(0)));
    let mut task = launched[0].clone();
    task.task_id = TaskId::new(id).unwrap();
    task
}

fn instance(spec: &ServiceSpec, id: &str, on: usize, at: u64) -> Instance {
    Instance {
        task: Arc::new(task(spec, id)),
        version: spec.version,
        place: Place::from(&offer(0, on, Resources::default())),
        state: TaskState::Running,
        health: HealthState::Unknown,
        ready: None,
        goal: Goal::Run,
        staged_at: UnixMillis(at),
        started_at: Some(UnixMillis(at)),
        unreachable_since: None,
        kill_sent_at: None,
        members: Vec::new(),
    }
}

fn put(spec: &ServiceSpec, deployment: &str) -> Input {
    Input::Put {
        spec: Box::new(spec.clone()),
        deployment_id: Some(DeploymentId::new(deployment).unwrap()),
        restart_before: None,
        trace: None,
    }
}

fn accepted(actions: &[Action]) -> Vec<TaskSpec> {
    let operations = actions.iter().flat_map(|a| match a {
        Action::Call(SchedulerCall::Accept { operations, .. }) => operations.as_slice(),
        _ => &[],
    });
    operations.flat_map(|o| o.tasks().to_vec()).collect()
}

fn plan(spec: &ServiceSpec, instances: &[Instance], offers: &[Offer]) -> Plan {
    let mut open: Vec<OpenOffer> = offers.iter().cloned().map(OpenOffer::from).collect();
    let context = Context::default();
    reconcile(spec, instances, &mut open, &context, UnixMillis(50_000))
}

fn newer(spec: &ServiceSpec) -> ServiceSpec {
    let mut new = spec.clone();
    new.version = ServiceVersion(UnixMillis(2_000));
    new.env.insert("MODE".into(), "test".into());
    new
}

#[test]
fn a_new_service_spreads_over_agents() {
    let offers = [
        offer(1, 1, node()),
        offer(2, 2, node()),
        offer(3, 3, node()),
    ];
    let mut spec = spec(4);
    spec.ports.clear();
    assert_snapshot!(plan(&spec, &[], &offers), @r"
    launch on offer 0
    launch on offer 1
    launch on offer 2
    launch on offer 0
    ");
}

#[test]
fn every_refusal_has_its_first_reason() {
    let mut spec = spec(2);
    spec.require_ports = true;
    spec.ports[0].port = 8080;
    spec.constraints = vec![vec!["rack".into(), "IS".into(), "r1".into()]];
    let big = PortSet::from_ports([8080]);
    let with = |cpus, mem| Resources::from_millis(cpus, mem, 0);
    let offers = [
        offer(1, 2, node()),
        offer(2, 1, with(100, 128_000)),
        offer(3, 1, with(500, 1000)),
        offer(4, 1, node()),
        offer(5, 1, with(500, 128_000).with_ports(big)),
    ];
    assert_snapshot!(plan(&spec, &[], &offers), @r"
    launch on offer 4 ports [8080]
    refuse o1: UnfulfilledConstraint
    refuse o2: InsufficientCpus
    refuse o3: InsufficientMemory
    refuse o4: InsufficientPorts
    waiting 1
    ");
}

#[test]
fn scaling_down_ends_what_is_not_ready_and_then_the_youngest() {
    let spec3 = spec(3);
    let mut all = vec![
        instance(&spec3, "old", 1, 10),
        instance(&spec3, "middle", 2, 20),
        instance(&spec3, "young", 3, 30),
        instance(&spec3, "starting", 1, 5),
    ];
    all[3].state = TaskState::Staging;
    assert_snapshot!(plan(&spec(2), &all, &[]), @r"
    kill starting: surplus
    kill young: surplus
    ");
    let mut oldest = spec(2);
    oldest.kill_selection = waggle_types::KillSelection::OldestFirst;
    assert_snapshot!(plan(&oldest, &all, &[]), @r"
    kill starting: surplus
    kill old: surplus
    ");
}

#[test]
fn a_rolling_upgrade_starts_new_ones_before_it_ends_old_ones() {
    let old = spec(2);
    let new = newer(&old);
    let mut all = vec![
        instance(&old, "old-1", 1, 10),
        instance(&old, "old-2", 2, 10),
    ];
    let mut big = offer(1, 3, node());
    big.resources.ports = PortSet::from_ports([31000, 31001]);
    let two = plan(&new, &all, &[big]);
    assert_eq!((two.launches.len(), two.kills.len()), (2, 0));
    all.push(instance(&new, "new-1", 3, 20));
    assert_snapshot!(plan(&new, &all, &[]), @r"
    kill old-2: outdated
    waiting 1
    ");
    // One at a time when there is no room on top.
    let mut tight = new.clone();
    tight.upgrade.maximum_over_capacity_milli = 0;
    tight.upgrade.minimum_health_capacity_milli = 500;
    assert_snapshot!(plan(&tight, &all[..2], &[]), @"kill old-2: outdated");
    // Neither room nor slack: one more than asked for is allowed, as in Marathon.
    tight.upgrade.minimum_health_capacity_milli = 1000;
    assert_snapshot!(plan(&tight, &all[..2], &[]), @"waiting 1");
}

#[test]
fn unreachable_instances_are_replaced_and_forgotten_by_the_strategy() {
    let mut spec = spec(2);
    let mut all = vec![instance(&spec, "a", 1, 10), instance(&spec, "b", 2, 10)];
    all[1].unreachable_since = Some(UnixMillis(45_000));
    spec.unreachable = UnreachableStrategy::Disabled;
    assert_snapshot!(plan(&spec, &all, &[]), @"");
    spec.unreachable = UnreachableStrategy::After {
        inactive_after: Millis(6_000),
        expunge_after: Millis(60_000),
    };
    assert_snapshot!(plan(&spec, &all, &[]), @"look again at 51.000");
    all[1].unreachable_since = Some(UnixMillis(40_000));
    assert_snapshot!(plan(&spec, &all, &[]), @r"
    waiting 1
    look again at 100.000
    ");
    all[1].unreachable_since = Some(UnixMillis(0));
    spec.unreachable = UnreachableStrategy::After {
        inactive_after: Millis(0),
        expunge_after: Millis(0),
    };
    assert_snapshot!(plan(&spec, &all, &[]), @r"
    expunge b
    waiting 1
    ");
}

#[test]
fn tasks_get_marathons_environment() {
    let mut spec = spec(1);
    spec.env.insert("PORT0".into(), "mine".into());
    let mut task = task(&spec, "x");
    // The port is the seed's choice.
    let port = task.ports[0].host_port.to_string();
    let id = task
        .env
        .insert("MESOS_TASK_ID".into(), "ID".into())
        .unwrap();
    assert!(
        id.starts_with("shop_cart.instance-") && id.ends_with("._app.1"),
        "{id}"
    );
    let env: BTreeMap<String, String> = task
        .env
        .iter()
        .map(|(k, v)| (k.replace(&port, "<port>"), v.replace(&port, "<port>")))
        .collect();
    let text: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_snapshot!(text.join("\n"), @r"
    HOST=n0
    MARATHON_APP_ID=/shop/cart
    MARATHON_APP_LABELS=TEAM_NAME
    MARATHON_APP_LABEL_TEAM_NAME=bees
    MARATHON_APP_RESOURCE_CPUS=0.5
    MARATHON_APP_RESOURCE_DISK=0.0
    MARATHON_APP_RESOURCE_GPUS=0
    MARATHON_APP_RESOURCE_MEM=128.0
    MARATHON_APP_VERSION=1970-01-01T00:00:01.000Z
    MESOS_TASK_ID=ID
    MODE=prod
    PORT=<port>
    PORT0=mine
    PORTS=<port>
    PORT_<port>=<port>
    PORT_HTTP_MAIN=<port>
    ");
    assert!(is_current(&spec, &task));
    for change in [
        |s: &mut ServiceSpec| s.env.clear(),
        |s: &mut ServiceSpec| s.labels.clear(),
        |s: &mut ServiceSpec| s.ports.clear(),
        |s: &mut ServiceSpec| {
            let label = ("DCOS_METRICS_FORMAT".into(), "prometheus".into());
            s.ports[0].labels.extend([label]);
        },
        |s: &mut ServiceSpec| s.kill_grace = Millis(1),
        |s: &mut ServiceSpec| s.resources = Resources::default(),
        |s: &mut ServiceSpec| s.health_checks.push(common::check()),
    ] {
        let mut other = spec.clone();
        change(&mut other);
        assert!(!is_current(&other, &task), "{other:?}");
    }
    spec.instances = 9;
    spec.version = ServiceVersion(UnixMillis(77));
    assert!(is_current(&spec, &task), "scaling leaves tasks as they are");
}

#[test]
fn failures_back_off_and_the_queue_says_so() {
    let mut s = ServiceScheduler::new(framework_id(), "marathon", 7);
    let one = spec(1);
    let asked = s.handle(put(&one, "d1"), UnixMillis(0));
    assert!(
        asked.contains(&Action::Call(SchedulerCall::Revive {
            roles: vec!["*".into()]
        })),
        "{asked:?}"
    );
    let small = offer(1, 1, Resources::from_millis(100, 1000, 0));
    let event = SchedulerEvent::Offers(vec![small]);
    let refused = s.handle(Input::Scheduler(event), UnixMillis(1));
    assert!(refused.iter().any(|a| matches!(
        a,
        Action::Declined {
            reason: DeclineReason::InsufficientCpus,
            service: Some(_),
            ..
        }
    )));
    let item = s.queue().next().unwrap();
    assert_eq!(
        (item.count, item.n_unused_offers, item.since),
        (1, 1, UnixMillis(0))
    );
    let cpus = item.launch_attempt[&DeclineReason::InsufficientCpus];
    assert_eq!((cpus.declined, cpus.processed), (1, 1));

    let event = SchedulerEvent::Offers(vec![offer(2, 1, node())]);
    let actions = s.handle(Input::Scheduler(event), UnixMillis(2));
    let launched = accepted(&actions);
    assert_eq!(launched.len(), 1);
    assert_eq!(
        actions.last(),
        Some(&Action::Call(SchedulerCall::Suppress {
            roles: vec!["*".into()]
        }))
    );
    let failed = status(&launched[0].task_id, &agent(1), TaskState::Failed);
    s.handle(
        Input::Scheduler(SchedulerEvent::Update(failed)),
        UnixMillis(10),
    );
    let item = s.queue().next().unwrap();
    assert_eq!(item.delayed_until, Some(UnixMillis(1010)));
    assert_eq!(s.next_deadline(), Some(UnixMillis(1010)));
    assert_eq!(
        s.services().next().unwrap().last_failure().unwrap().state,
        TaskState::Failed
    );
    let due = s.handle(Input::Tick, UnixMillis(1010));
    assert!(
        due.contains(&Action::Call(SchedulerCall::Revive {
            roles: vec!["*".into()]
        })),
        "{due:?}"
    );
}

#[test]
fn a_newer_deployment_takes_the_place_of_the_older() {
    let mut s = ServiceScheduler::new(framework_id(), "marathon", 7);
    s.handle(put(&spec(1), "d1"), UnixMillis(0));
    let actions = s.handle(put(&newer(&spec(1)), "d2"), UnixMillis(1));
    assert!(actions.iter().any(|a| matches!(
        a,
        Action::DeploymentDone { deployment_id, outcome: DeploymentOutcome::Superseded, .. }
            if deployment_id.as_str() == "d1"
    )));
    assert_eq!(
        s.deployments().next().unwrap().waiting_for(),
        "0 of 1 instances ready"
    );
}

/// A bridged instance: one port of the node's choice, one fixed, one that is reached inside only.
#[test]
fn mapped_ports_take_what_they_ask_for_of_the_agent() {
    let mut spec = spec(1);
    let template = spec.ports[0].clone();
    spec.ports = [(80, Some(0)), (53, Some(31_005)), (9000, None)]
        .into_iter()
        .enumerate()
        .map(|(i, (container_port, host_port))| PortDefinition {
            name: Some(format!("p{i}")),
            mapping: Some(PortMapping {
                container_port,
                host_port,
            }),
            ..template.clone()
        })
        .collect();
    spec.container.network = NetworkMode::Bridge;
    spec.container.image = Some(ImageSpec {
        reference: "nginx:1.25".into(),
        ..ImageSpec::default()
    });
    let task = task(&spec, "x");
    let [any, fixed, inside] = task.ports.as_slice() else {
        panic!("{:?}", task.ports)
    };
    assert!((31_000..=31_009).contains(&any.host_port) && any.host_port != 31_005);
    assert_eq!((fixed.host_port, inside.host_port), (31_005, 0));
    let inner = task.ports.iter().map(|p| p.container_port);
    assert_eq!(inner.collect::<Vec<_>>(), [Some(80), Some(53), Some(9000)]);
    let taken = PortSet::from_ports([any.host_port, 31_005]);
    assert_eq!(task.resources.ports, taken);
    let env = |key: &str| task.env.get(key).map(String::as_str);
    let host_port = any.host_port.to_string();
    assert_eq!(env("PORT0"), Some(host_port.as_str()));
    assert_eq!(env("PORT_80"), Some(host_port.as_str()));
    assert_eq!(
        (env("PORT1"), env("PORT_53")),
        (Some("31005"), Some("31005"))
    );
    assert_eq!((env("PORT2"), env("PORT_P2")), (Some("9000"), Some("9000")));
    assert_eq!(env("MARATHON_APP_DOCKER_IMAGE"), Some("nginx:1.25"));
    assert!(is_current(&spec, &task));
    let mut other = spec.clone();
    other.ports[1].mapping = Some(PortMapping {
        container_port: 53,
        host_port: Some(31_006),
    });
    assert!(!is_current(&other, &task));
    // An agent without the fixed port is passed over, and says so.
    let mut without = node();
    without.ports = PortSet::from_ports(31_000..31_005);
    let mut offers = vec![OpenOffer::from(offer(0, 0, without))];
    let context = Context::default();
    let plan = reconcile(&spec, &[], &mut offers, &context, UnixMillis(0));
    assert_snapshot!(plan, @r"
    refuse o0: InsufficientPorts
    waiting 1
    ");
}
