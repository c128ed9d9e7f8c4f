//! What nobody should send: messages with any value in any field, and valid ones that were damaged. Each is
//! refused with a field and a rule, or accepted; and what is accepted survives the wire unchanged, so it is
//! as regular as what we make ourselves.

use std::fmt::Debug;

use proptest::{collection::vec, prelude::*};
use prost::Message;
use waggle_types::{
    AgentInfo, FrameworkInfo, NetSnapshot, Operation, Reservation, Resources, SchedulerEvent,
    TaskSpec, TaskStatus, check_role, sum_parts,
};

use super::{given, wild::*};
use crate::{
    convert::{
        ConvertError, check_register, event, framework_id, ids, operations, registered_task, role,
        roles, scheduler_event, smallest,
    },
    proto::{framework as pb, session},
};

/// What is accepted is regular: it survives the wire.
fn settles<W, D>(wire: W) -> Option<D>
where
    W: Message + Default + for<'a> From<&'a D>,
    D: TryFrom<W, Error = ConvertError> + PartialEq + Debug,
{
    let accepted = D::try_from(wire).ok()?;
    let bytes = W::from(&accepted).encode_to_vec();
    let again = W::decode(bytes.as_slice()).unwrap();
    assert_eq!(D::try_from(again).as_ref(), Ok(&accepted));
    Some(accepted)
}

fn check_stack(stack: &[Reservation]) {
    for two in stack.windows(2) {
        assert!(two[1].role.starts_with(&format!("{}/", two[0].role)));
    }
    assert!(stack.len() <= 8);
    assert!(
        stack
            .iter()
            .all(|r| check_role(&r.role).is_ok() && r.role != "*")
    );
}

fn check_spec(spec: &TaskSpec) {
    assert!(!spec.resources.is_negative());
    if !spec.parts.is_empty() {
        assert_eq!(sum_parts(&spec.parts).as_ref(), Some(&spec.resources));
    }
    spec.parts.iter().for_each(|p| check_stack(&p.reservation));
    if let Some(on) = &spec.executor {
        let spec = &on.spec;
        assert!(!spec.resources.is_negative());
        if !spec.parts.is_empty() {
            assert_eq!(sum_parts(&spec.parts).as_ref(), Some(&spec.resources));
        }
    }
}

/// Everything that the master does with a framework's request before its core sees it.
fn take_accept(m: pb::AcceptRequest) {
    let id = m
        .caller
        .and_then(|c| framework_id("framework_id", c.framework_id).ok());
    let id = id.unwrap_or_else(|| waggle_types::FrameworkId::new("f").unwrap());
    let _ = ids("offer_ids", m.offer_ids, waggle_types::OfferId::new);
    let read = |launch, all| operations(launch, all, &id, &m.traceparent);
    let Ok(accepted) = read(m.launch, m.operations) else {
        return;
    };
    for op in &accepted {
        match op {
            Operation::Launch(tasks) => tasks.iter().for_each(check_spec),
            Operation::Reserve { stack, resources } | Operation::Unreserve { stack, resources } => {
                check_stack(stack);
                assert!(!resources.is_empty() && !resources.is_negative());
            }
            Operation::CreateVolume { stack, volume, .. } => {
                check_stack(stack);
                assert!(volume.size.0 > 0);
            }
            Operation::ResizeVolume { stack, size, .. } => {
                check_stack(stack);
                assert!(size.0 > 0);
            }
            Operation::DestroyVolume { stack, .. } => check_stack(stack),
        }
    }
    let again: Vec<pb::Operation> = accepted.iter().map(Into::into).collect();
    let again = read(Vec::new(), again).unwrap();
    // A task without a grace gets one, once.
    assert_eq!(again, accepted);
}

fn take_subscribe(m: pb::SubscribeRequest) {
    if let Some(info) = settles::<_, FrameworkInfo>(m) {
        assert_eq!(info.check(), Ok(()));
    }
}

fn take_register(m: session::Register) {
    if check_register(&m).is_err() {
        return;
    }
    if let Some(info) = m.agent.and_then(settles::<_, AgentInfo>) {
        assert!(!info.total.is_negative());
        for (_, r) in &info.reserved {
            assert!(info.total.contains(r));
        }
    }
    for t in m.tasks {
        if let Ok((spec, status)) = registered_task(t) {
            check_spec(&spec);
            assert_eq!(spec.task_id, status.task_id);
        }
    }
}

fn take_event(m: pb::Event) {
    let id = waggle_types::FrameworkId::new("f").unwrap();
    let Some(Ok(Some(e))) = m.kind.map(|k| scheduler_event(k, &id)) else {
        return;
    };
    let again = event(&e).map(|k| scheduler_event(k, &id));
    assert_eq!(again, Some(Ok(Some(e))));
}

/// Any bytes as each message that somebody reads.
fn take_bytes(bytes: &[u8]) {
    macro_rules! read {
        ($($message:ty => $take:expr),+ $(,)?) => {
            $(if let Ok(m) = <$message>::decode(bytes) {
                #[allow(clippy::redundant_closure_call, reason = "the list reads as a table")]
                ($take)(m);
            })+
        };
    }
    read! {
        pb::AcceptRequest => take_accept,
        pb::SubscribeRequest => take_subscribe,
        pb::DeclineRequest => |m: pb::DeclineRequest| {
            let _ = ids("offer_ids", m.offer_ids, waggle_types::OfferId::new);
        },
        pb::SuppressRequest => |m: pb::SuppressRequest| drop(roles("roles", m.roles)),
        pb::DemandRequest => |m: pb::DemandRequest| {
            let _ = (role("role", m.role), smallest(m.smallest));
        },
        pb::Event => take_event,
        session::Register => take_register,
        session::TaskSpec => |m| drop(settles::<session::TaskSpec, TaskSpec>(m)),
        session::TaskStatus => |m| drop(settles::<session::TaskStatus, TaskStatus>(m)),
        session::Resources => |m| drop(settles::<session::Resources, Resources>(m)),
        session::NetSnapshot => |m| drop(NetSnapshot::try_from(m)),
    }
}

/// For long runs: `WAGGLE_FUZZ_CASES=1000000 cargo test --release -p waggle-api fuzz`.
fn cases() -> u32 {
    let asked = std::env::var("WAGGLE_FUZZ_CASES").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(256)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn any_value_anywhere_is_refused_or_regular(
        accept in accept(),
        subscribe in subscribe(),
        agent in agent(),
        spec in spec(),
        status in status(),
        r in resources(),
    ) {
        take_accept(accept);
        take_subscribe(subscribe);
        settles::<_, Resources>(r);
        if let Some(spec) = settles::<_, TaskSpec>(spec.clone()) {
            check_spec(&spec);
        }
        settles::<_, TaskStatus>(status.clone());
        let task = session::RegisteredTask {
            spec: Some(spec),
            latest: Some(status.clone()),
        };
        take_register(session::Register {
            agent: Some(agent),
            tasks: vec![task],
            ..session::Register::default()
        });
        take_event(pb::Event { kind: Some(pb::event::Kind::Update(status)) });
    }

    #[test]
    fn any_bytes_are_refused_or_regular(bytes in vec(any::<u8>(), 0..300)) {
        take_bytes(&bytes);
    }

    #[test]
    fn damaged_requests_are_refused_or_regular(
        accept in accept(),
        subscribe in subscribe(),
        agent in given::agent_info(),
        task in given::task_spec(),
        status in given::status(),
        how in vec(damage(), 1..5),
    ) {
        take_bytes(&damaged(accept.encode_to_vec(), &how));
        take_bytes(&damaged(subscribe.encode_to_vec(), &how));
        take_bytes(&damaged(session::TaskSpec::from(&task).encode_to_vec(), &how));
        take_bytes(&damaged(session::TaskStatus::from(&status).encode_to_vec(), &how));
        let task = session::RegisteredTask {
            spec: Some((&task).into()),
            latest: Some((&status).into()),
        };
        let register = session::Register {
            agent: Some((&agent).into()),
            tasks: vec![task],
            ..session::Register::default()
        };
        take_bytes(&damaged(register.encode_to_vec(), &how));
        let update = SchedulerEvent::Update(status);
        let e = pb::Event { kind: event(&update) };
        take_bytes(&damaged(e.encode_to_vec(), &how));
    }
}

/// The largest that passes: what it costs is bounded, however it is cut up.
#[test]
fn much_in_one_message_is_refused_before_it_costs() {
    let range = |i: u64| session::Range {
        begin: 2 * i,
        end: 2 * i,
    };
    let bundle = |from: u64, n: u64| session::Resources {
        cpus_milli: 1,
        ranges: [(
            "vlans".to_owned(),
            session::Ranges {
                ranges: (from..from + n).map(range).collect(),
            },
        )]
        .into(),
        ..session::Resources::default()
    };
    let task = |i: u64, n: u64| pb::TaskInfo {
        task_id: format!("t{i}"),
        command: Some(pb::task_info::Command::Shell("true".into())),
        resources: Some(bundle(i * n, n)),
        ..pb::TaskInfo::default()
    };
    let id = waggle_types::FrameworkId::new("f").unwrap();
    let read = |tasks| operations(tasks, Vec::new(), &id, "");
    let field = |tasks| read(tasks).unwrap_err().field;
    assert_eq!(field((0..400).map(|i| task(i, 100)).collect()), "launch");
    assert!(read((0..300).map(|i| task(i, 100)).collect()).is_ok());
    assert_eq!(
        field(vec![task(0, 5000)]),
        "launch[0].resources.ranges.vlans.ranges"
    );
    let mut long = task(0, 1);
    long.env.insert("A".into(), "x".repeat(300_000));
    assert_eq!(field(vec![long]), "launch[0].task_id");
    assert_eq!(
        smallest(Some(bundle(0, 100))).unwrap_err().field,
        "smallest"
    );
    // Everything, said once: it is not counted out.
    let all = session::Resources {
        ranges: [(
            "all".to_owned(),
            session::Ranges {
                ranges: vec![session::Range {
                    begin: 0,
                    end: u64::MAX,
                }],
            },
        )]
        .into(),
        ..session::Resources::default()
    };
    let all = Resources::try_from(all).unwrap();
    assert!(all.contains(&all.common(&all)));
    assert_eq!(all.checked_add(&all), None);
    assert_eq!(all.checked_sub(&all), Some(Resources::default()));
}
