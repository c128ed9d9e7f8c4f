//! The native framework API.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{collection::vec, option, prelude::*};
use prost::Message;
use waggle_types::{
    AgentId, AttributeConstraint, Capabilities, Command, DiscoveryInfo, ExecutorKind, ExecutorSpec,
    FrameworkId, FrameworkInfo, InverseOffer, Milli, Millis, Offer, OfferId, OnExecutor, Operation,
    Predicate, RejectReason, RoleSubscription, SchedulerEvent, Selector, TaskId, TaskSpec,
    Unavailability, UnixMillis, Volume, VolumeId,
};

use super::{given::*, round_trip};
use crate::{
    convert::{
        ConvertError, MAX_ITEMS, MAX_OPERATIONS, event, operations, role, roles, scheduler_event,
    },
    proto::{framework as pb, session},
};

fn constraint() -> impl Strategy<Value = AttributeConstraint> {
    let selector = prop_oneof![
        ".{1,9}".prop_map(Selector::Attribute),
        Just(Selector::Hostname),
        Just(Selector::Region),
        Just(Selector::Zone),
    ];
    let predicate = prop_oneof![
        Just(Predicate::Exists),
        Just(Predicate::NotExists),
        ".{0,9}".prop_map(Predicate::TextEquals),
        ".{0,9}".prop_map(Predicate::TextNotEquals),
        ".{0,9}".prop_map(Predicate::TextMatches),
        ".{0,9}".prop_map(Predicate::TextNotMatches),
    ];
    (selector, predicate).prop_map(|(selector, predicate)| AttributeConstraint {
        selector,
        predicate,
    })
}

pub(super) fn framework_info() -> impl Strategy<Value = FrameworkInfo> {
    let one = (
        any::<bool>(),
        vec(vec(constraint(), 0..3), 0..3),
        option::of(resources()),
    );
    let roles = vec(one, 1..4).prop_map(|all| {
        let named = all.into_iter().enumerate();
        named
            .map(
                |(i, (suppressed, constraints, smallest))| RoleSubscription {
                    role: if i == 0 {
                        "*".into()
                    } else {
                        format!("eng/r{i}")
                    },
                    suppressed,
                    constraints,
                    smallest,
                },
            )
            .collect()
    });
    let capabilities = (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(gpus, region_aware, revocable)| Capabilities {
            gpus,
            region_aware,
            revocable,
        },
    );
    (
        option::of(word()),
        "[a-z][a-z0-9]{0,9}",
        roles,
        capabilities,
        0u64..1_000_000,
    )
        .prop_map(|(id, name, roles, capabilities, failover)| FrameworkInfo {
            about: Arc::default(),
            id: id.map(|id| FrameworkId::new(id).unwrap()),
            name,
            roles,
            capabilities,
            failover_timeout: Millis(failover),
        })
}

fn unavailability() -> impl Strategy<Value = Unavailability> {
    (any::<u64>(), option::of(any::<u64>())).prop_map(|(start, duration)| Unavailability {
        start: UnixMillis(start),
        duration: duration.map(Millis),
    })
}

fn framework() -> FrameworkId {
    FrameworkId::new("f").unwrap()
}

fn offer() -> impl Strategy<Value = Offer> {
    (
        (word(), word(), word(), addr(), map()),
        (
            parts(),
            option::of(domain()),
            option::of(unavailability()),
            any::<u64>(),
        ),
    )
        .prop_map(
            |((id, agent, hostname, ip, attributes), ((parts, resources), domain, down, at))| {
                Offer {
                    offer_id: OfferId::new(id).unwrap(),
                    framework_id: framework(),
                    role: "*".into(),
                    agent_id: AgentId::new(agent).unwrap(),
                    hostname,
                    ip,
                    resources,
                    parts,
                    attributes,
                    domain,
                    unavailability: down,
                    at: UnixMillis(at),
                }
            },
        )
}

fn inverse() -> impl Strategy<Value = InverseOffer> {
    (word(), word(), unavailability(), resources()).prop_map(
        |(id, agent, unavailability, resources)| InverseOffer {
            offer_id: OfferId::new(id).unwrap(),
            framework_id: framework(),
            agent_id: AgentId::new(agent).unwrap(),
            unavailability,
            resources,
        },
    )
}

pub(super) fn operation() -> impl Strategy<Value = Operation> {
    let some = || resources().prop_filter("reserves something", |r| !r.is_empty());
    let volume_id = || word().prop_map(|id| VolumeId::new(id).unwrap());
    let volume = (1..i64::MAX, any::<bool>()).prop_map(|(size, shared)| Volume {
        size: Milli(size),
        shared,
    });
    prop_oneof![
        (stack(), some()).prop_map(|(stack, resources)| Operation::Reserve { stack, resources }),
        (stack(), some()).prop_map(|(stack, resources)| Operation::Unreserve { stack, resources }),
        (stack(), volume_id(), volume).prop_map(|(stack, volume_id, volume)| {
            Operation::CreateVolume {
                stack,
                volume_id,
                volume,
            }
        }),
        (stack(), volume_id(), 1..i64::MAX).prop_map(|(stack, volume_id, size)| {
            Operation::ResizeVolume {
                stack,
                volume_id,
                size: Milli(size),
            }
        }),
        (stack(), volume_id())
            .prop_map(|(stack, volume_id)| Operation::DestroyVolume { stack, volume_id }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn subscriptions_round_trip(info in framework_info()) {
        round_trip!(pb::SubscribeRequest, info);
    }

    #[test]
    fn events_round_trip(offers in vec(offer(), 0..3), inverse in inverse(), status in status()) {
        let id = offers.first().map_or(inverse.offer_id.clone(), |o| o.offer_id.clone());
        for e in [
            SchedulerEvent::Offers(offers),
            SchedulerEvent::Rescind(id.clone()),
            SchedulerEvent::RescindInverse(id),
            SchedulerEvent::AgentLost(inverse.agent_id.clone()),
            SchedulerEvent::AgentUnreachable(inverse.agent_id.clone()),
            SchedulerEvent::InverseOffer(inverse),
            SchedulerEvent::Update(status),
        ] {
            let wire = pb::Event { kind: event(&e) };
            let back = pb::Event::decode(wire.encode_to_vec().as_slice()).unwrap();
            prop_assert_eq!(scheduler_event(back.kind.unwrap(), &framework()), Ok(Some(e)));
        }
    }

    /// A group says so in every task, and is on one executor.
    #[test]
    fn groups_round_trip(one in plain_task_spec(), on in on_executor(), n in 1usize..4) {
        let tasks: Vec<TaskSpec> = (0..n).map(|i| {
            let id = TaskId::new(format!("t{i}")).unwrap();
            TaskSpec {
                discovery: DiscoveryInfo { name: "x".into() },
                name: "x".into(),
                framework_id: framework(),
                framework_name: String::new(),
                role: String::new(),
                service: String::new(),
                service_version: String::new(),
                trace: None,
                ports: Vec::new(),
                health_checks: Vec::new(),
                env: BTreeMap::new(),
                kill_grace: Millis(1000),
                command: Command::Shell("true".into()),
                executor: Some(OnExecutor {
                    starts: false,
                    group: Some(TaskId::new("t0").unwrap()),
                    n_group: u32::try_from(n).unwrap(),
                    spec: Arc::new(ExecutorSpec {
                        kind: ExecutorKind::Default,
                        command: Command::Executor,
                        env: BTreeMap::new(),
                        ..on.spec.as_ref().clone()
                    }),
                    ..on.clone()
                }),
                task_id: id,
                ..one.clone()
            }
        }).collect();
        let all = vec![Operation::Launch(tasks)];
        let wire: Vec<pb::Operation> = all.iter().map(Into::into).collect();
        prop_assert!(matches!(wire[0].kind, Some(pb::operation::Kind::LaunchGroup(_))));
        prop_assert_eq!(operations(Vec::new(), wire, &framework(), ""), Ok(all));
    }

    #[test]
    fn operations_round_trip(all in vec(operation(), 1..5)) {
        let wire = pb::AcceptRequest {
            operations: all.iter().map(Into::into).collect(),
            ..pb::AcceptRequest::default()
        };
        let back = pb::AcceptRequest::decode(wire.encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(operations(Vec::new(), back.operations, &framework(), ""), Ok(all));
    }
}

fn subscribe() -> pb::SubscribeRequest {
    pb::SubscribeRequest {
        name: "f".into(),
        ..pb::SubscribeRequest::default()
    }
}

fn subscription(role: &str) -> pb::RoleSubscription {
    pb::RoleSubscription {
        role: role.into(),
        ..pb::RoleSubscription::default()
    }
}

#[test]
fn one_role_can_be_named_the_old_way() {
    let read = |role: &str, roles: &[&str]| {
        let request = pb::SubscribeRequest {
            role: role.into(),
            roles: roles.iter().map(|r| subscription(r)).collect(),
            ..subscribe()
        };
        let info = FrameworkInfo::try_from(request).map_err(|e| e.field)?;
        Ok::<_, String>(info.roles.into_iter().map(|r| r.role).collect::<Vec<_>>())
    };
    assert_eq!(read("", &[]).unwrap(), ["*"]);
    assert_eq!(read("a", &[]).unwrap(), ["a"]);
    assert_eq!(read("a", &["a"]).unwrap(), ["a"]);
    assert_eq!(read("", &["a", "b"]).unwrap(), ["a", "b"]);
    assert_eq!(read("a", &["b"]), Err("role".into()));
    assert_eq!(read("a", &["a", "b"]), Err("role".into()));
    assert_eq!(read("", &["a", "a"]), Err("roles[1].role".into()));
    assert_eq!(read("", &[""]), Err("roles[0].role".into()));
    let many: Vec<String> = (0..65).map(|i| format!("r{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(read("", &many), Err("roles".into()));
    // An older master reads the only role.
    let wire = pb::SubscribeRequest::from(&FrameworkInfo::new("f", "a"));
    assert_eq!(wire.role, "a");
}

#[test]
fn constraints_are_checked_by_field() {
    use pb::attribute_constraint::{Predicate, Selector};
    let good = || pb::AttributeConstraint {
        selector: Some(Selector::Attribute("rack".into())),
        predicate: Some(Predicate::Exists(true)),
    };
    let read = |constraints: Vec<Vec<pb::AttributeConstraint>>| {
        let group = |constraints| pb::ConstraintGroup { constraints };
        let request = pb::SubscribeRequest {
            roles: vec![pb::RoleSubscription {
                constraints: constraints.into_iter().map(group).collect(),
                ..subscription("a")
            }],
            ..subscribe()
        };
        FrameworkInfo::try_from(request).map_err(|e| e.field)
    };
    assert!(read(vec![vec![good()], vec![good(), good()]]).is_ok());
    assert_eq!(read(vec![Vec::new(); 65]), Err("roles".into()));
    assert_eq!(read(vec![vec![good(); 33]; 2]), Err("roles".into()));
    let wrong = |c| read(vec![vec![good(), c]]).unwrap_err();
    let at = |field: &str| format!("roles[0].constraints[0].constraints[1].{field}");
    let none = pb::AttributeConstraint::default();
    assert_eq!(wrong(none), at("selector"));
    let pseudo = pb::AttributeConstraint {
        selector: Some(Selector::Pseudo(9)),
        ..good()
    };
    assert_eq!(wrong(pseudo), at("pseudo"));
    let long = pb::AttributeConstraint {
        predicate: Some(Predicate::TextMatches("x".repeat(1025))),
        ..good()
    };
    assert_eq!(wrong(long), at("text_matches"));
}

#[test]
fn operations_are_checked_by_field() {
    let read = |launch: Vec<pb::TaskInfo>, kinds: Vec<Option<pb::operation::Kind>>| {
        let kinds = kinds.into_iter().map(|kind| pb::Operation { kind });
        operations(launch, kinds.collect(), &framework(), "")
    };
    let wrong = |kind| {
        let e: ConvertError = read(Vec::new(), vec![kind]).unwrap_err();
        (e.field, e.reason)
    };
    let task = pb::TaskInfo {
        task_id: "t".into(),
        command: Some(pb::task_info::Command::Shell("true".into())),
        resources: Some(session::Resources::default()),
        ..pb::TaskInfo::default()
    };
    let launch = |tasks| Some(pb::operation::Kind::Launch(pb::Launch { tasks }));
    let reserve = |roles: &[&str], cpus_milli| {
        let reservation = |role: &&str| session::Reservation {
            role: (*role).into(),
            dynamic: true,
            ..session::Reservation::default()
        };
        Some(pb::operation::Kind::Reserve(pb::Reserve {
            stack: roles.iter().map(reservation).collect(),
            resources: Some(session::Resources {
                cpus_milli,
                ..session::Resources::default()
            }),
        }))
    };
    assert_eq!(read(Vec::new(), Vec::new()), Ok(Vec::new()));
    let short = read(vec![task.clone()], Vec::new());
    assert_eq!(short, read(Vec::new(), vec![launch(vec![task.clone()])]));
    assert_eq!(short.unwrap()[0].tasks().len(), 1);
    let both = read(vec![task.clone()], vec![launch(vec![task.clone()])]);
    assert_eq!(both.unwrap_err().field, "launch");
    let invalid = |field: &str| (format!("operations[0].{field}"), RejectReason::Invalid);
    assert_eq!(wrong(None), invalid("kind"));
    assert_eq!(wrong(launch(Vec::new())), invalid("launch.tasks"));
    let nameless = pb::TaskInfo::default();
    assert_eq!(
        wrong(launch(vec![task.clone(), nameless])),
        invalid("launch.tasks[1].command")
    );
    assert_eq!(
        wrong(reserve(&["a"], -1)),
        invalid("reserve.resources.cpus_milli")
    );
    assert_eq!(wrong(reserve(&["a"], 0)), invalid("reserve.resources"));
    assert_eq!(
        wrong(reserve(&["a b"], 1)),
        invalid("reserve.stack[0].role")
    );
    let bad = |field: &str| {
        (
            format!("operations[0].{field}"),
            RejectReason::BadReservation,
        )
    };
    assert_eq!(wrong(reserve(&[], 1)), bad("reserve.stack"));
    assert_eq!(wrong(reserve(&["*"], 1)), bad("reserve.stack[0].role"));
    assert_eq!(wrong(reserve(&["a", "b"], 1)), bad("reserve.stack[1].role"));
    assert_eq!(
        wrong(reserve(&["a/b", "a"], 1)),
        bad("reserve.stack[1].role")
    );
    assert_eq!(wrong(reserve(&["a", "a"], 1)), bad("reserve.stack[1].role"));
    assert_eq!(
        wrong(reserve(&["a", "ab/c"], 1)),
        bad("reserve.stack[1].role")
    );
    assert_eq!(wrong(reserve(&["a"; 9], 1)), bad("reserve.stack"));
    let create = |volume_id: &str, size_milli| {
        Some(pb::operation::Kind::CreateVolume(pb::CreateVolume {
            stack: vec![session::Reservation {
                role: "a".into(),
                dynamic: true,
                ..session::Reservation::default()
            }],
            volume_id: volume_id.into(),
            volume: Some(session::Volume {
                size_milli,
                shared: false,
            }),
        }))
    };
    assert_eq!(wrong(create("v/w", 1)), invalid("create_volume.volume_id"));
    assert_eq!(
        wrong(create("v", 0)),
        invalid("create_volume.volume.size_milli")
    );
    let many = vec![reserve(&["a"], 1); MAX_OPERATIONS + 1];
    assert_eq!(read(Vec::new(), many).unwrap_err().field, "operations");
    let tasks = vec![task; MAX_ITEMS / 2 + 1];
    let many = vec![launch(tasks.clone()), launch(tasks)];
    assert_eq!(read(Vec::new(), many).unwrap_err().field, "operations");
}

#[test]
fn roles_of_calls_are_checked() {
    let given = |roles: &[&str]| roles.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        roles("roles", given(&["*", "a/b"])),
        Ok(given(&["*", "a/b"]))
    );
    assert_eq!(
        roles("roles", given(&["a", ""])).unwrap_err().field,
        "roles[1]"
    );
    assert_eq!(
        roles("roles", vec!["a".into(); 65]).unwrap_err().field,
        "roles"
    );
    assert_eq!(role("role", "a/".into()).unwrap_err().field, "role");
}
