//! What operators set for roles and reserve: typed refusals, stored before it is answered, there again after a
//! restart.

use waggle_types::{
    Milli, Millis, Quota, RejectReason, Reservation, Unavailability, Volume, VolumeId,
};

use super::{client::reasons, *};

pub(super) fn quota(guarantee: i64, limit: Option<i64>) -> Quota {
    let cpus = || "cpus".to_owned();
    Quota {
        guarantee: BTreeMap::from([(cpus(), Milli(guarantee))]),
        limit: limit.map(|l| (cpus(), Milli(l))).into_iter().collect(),
    }
}

pub(super) fn set_quota(role: &str, quota: Quota) -> OperatorCall {
    OperatorCall::SetQuota {
        role: role.into(),
        quota,
        force: false,
    }
}

pub(super) fn set_weight(role: &str, weight_milli: u32) -> OperatorCall {
    OperatorCall::SetWeight {
        role: role.into(),
        weight_milli,
    }
}

pub(super) fn stack(roles: &[&str]) -> Vec<Reservation> {
    let one = |r: &&str| Reservation::dynamic(*r, "ops");
    roles.iter().map(one).collect()
}

pub(super) fn reserve(n: u8, roles: &[&str], resources: Resources) -> OperatorCall {
    OperatorCall::Reserve {
        agent_id: agent_id(n),
        stack: stack(roles),
        resources,
    }
}

pub(super) fn unreserve(n: u8, roles: &[&str], resources: Resources) -> OperatorCall {
    OperatorCall::Unreserve {
        agent_id: agent_id(n),
        stack: stack(roles),
        resources,
    }
}

pub(super) fn cpus(milli: i64) -> Resources {
    Resources::from_millis(milli, 0, 0)
}

/// What is reserved of an agent, as text.
pub(super) fn reserved(w: &mut World, n: u8) -> Vec<String> {
    let agents = w.view().agents;
    let Some(a) = agents.get(&agent_id(n)) else {
        return Vec::new();
    };
    let text = |p: &waggle_types::ResourcePart| {
        let roles: Vec<&str> = p.reservation.iter().map(|r| r.role.as_str()).collect();
        format!("{}: {}", roles.join(" > "), p.resources)
    };
    let mut out: Vec<String> = a.reserved.iter().map(text).collect();
    out.sort();
    out
}

#[test]
fn weights_and_quota_outlive_the_master() {
    let mut w = World::new();
    w.join(1);
    w.operate(set_weight("eng", 3000)).unwrap();
    w.operate(set_quota("eng", quota(2000, Some(3000))))
        .unwrap();
    w.operate(set_weight("ops", 500)).unwrap();
    let check = |w: &mut World| {
        let roles = w.view().roles;
        assert_eq!(roles["eng"].weight_milli, 3000);
        assert_eq!(roles["eng"].quota, quota(2000, Some(3000)));
        assert_eq!(roles["ops"].weight_milli, 500);
        assert_eq!(roles["*"].weight_milli, 1000);
    };
    check(&mut w);
    w.restart();
    check(&mut w);
    let books = w.core.allocator().explain_role("eng").unwrap();
    assert_eq!(books.weight_milli, 3000);
    assert_eq!(
        books.guarantee["cpus"],
        Milli(2000),
        "before any agent is back"
    );
    w.operate(set_weight("ops", 1000)).unwrap();
    w.operate(set_quota("eng", Quota::default())).unwrap();
    let left: Vec<&String> = w.stored.keys().collect();
    assert!(left.iter().any(|k| *k == "weights/eng"));
    assert!(
        !left
            .iter()
            .any(|k| *k == "weights/ops" || *k == "quota/eng")
    );
    assert!(!w.view().rejections.contains_key("stored_setting_refused"));
}

#[test]
fn what_is_wrong_is_refused_by_type_and_changes_nothing() {
    let mut w = World::new();
    w.join(1);
    let before = w.stored.clone();
    let unknown = Quota {
        guarantee: BTreeMap::from([("wishes".to_owned(), Milli(1))]),
        ..Quota::default()
    };
    let stranger = FrameworkId::new("stranger").unwrap();
    let own = w.core.framework_id().clone();
    let mut labels = stack(&["eng"]);
    labels[0].labels.insert("k".into(), "v".repeat(2000));
    for (call, reason) in [
        (set_weight("eng", 0), RejectReason::Invalid),
        (set_weight("a//b", 1), RejectReason::Invalid),
        (set_quota("*", quota(1, None)), RejectReason::Invalid),
        (set_quota("eng", quota(2, Some(1))), RejectReason::BadQuota),
        (set_quota("eng", quota(-1, None)), RejectReason::BadQuota),
        (set_quota("eng", quota(5000, None)), RejectReason::BadQuota),
        (set_quota("eng", unknown), RejectReason::BadQuota),
        (reserve(1, &[], cpus(1)), RejectReason::BadReservation),
        (reserve(1, &["*"], cpus(1)), RejectReason::Invalid),
        (
            reserve(1, &["a", "b"], cpus(1)),
            RejectReason::BadReservation,
        ),
        (reserve(1, &["eng"], cpus(-1)), RejectReason::Invalid),
        (reserve(1, &["eng"], cpus(5000)), RejectReason::NotFree),
        (reserve(9, &["eng"], cpus(1)), RejectReason::UnknownAgent),
        (unreserve(1, &["eng"], cpus(1)), RejectReason::NotFree),
        (
            OperatorCall::Reserve {
                agent_id: agent_id(1),
                stack: labels,
                resources: cpus(1),
            },
            RejectReason::BadReservation,
        ),
        (
            OperatorCall::Teardown {
                framework_id: stranger,
            },
            RejectReason::UnknownFramework,
        ),
        (
            OperatorCall::Teardown { framework_id: own },
            RejectReason::ReservedFramework,
        ),
    ] {
        let name = format!("{call:?}");
        assert_eq!(reasons(w.operate(call)), [reason], "{name}");
    }
    assert_eq!(w.stored, before);
    assert!(reserved(&mut w, 1).is_empty());
}

#[test]
fn what_is_reserved_is_offered_to_its_role_alone() {
    let mut w = World::new();
    w.join(1);
    w.operate(reserve(1, &["eng"], cpus(3000))).unwrap();
    w.operate(reserve(1, &["eng", "eng/db"], cpus(1000)))
        .unwrap();
    assert_eq!(reserved(&mut w, 1), ["eng > eng/db: cpus:1", "eng: cpus:2"]);
    let offered = |w: &mut World, role: &str| {
        let info = waggle_types::FrameworkInfo::new(role.replace('/', "-"), role);
        let c = w.subscribe(info).unwrap();
        let offers = w.view().offers;
        let mine: Vec<_> = offers.iter().filter(|o| o.framework_id == c.id).collect();
        let cpus: i64 = mine.iter().map(|o| o.resources.scalars[0].0).sum();
        let parts = mine.iter().map(|o| o.parts.len()).sum::<usize>();
        w.leave(&c);
        (cpus, parts)
    };
    assert_eq!(offered(&mut w, "ops"), (1000, 0), "unreserved only");
    assert_eq!(offered(&mut w, "eng"), (3000, 2));
    assert_eq!(offered(&mut w, "eng/db"), (4000, 3));
    w.operate(unreserve(1, &["eng"], cpus(2000))).unwrap();
    assert_eq!(offered(&mut w, "ops"), (3000, 0));
    w.operate(unreserve(1, &["eng", "eng/db"], cpus(1000)))
        .unwrap();
    assert_eq!(reserved(&mut w, 1), ["eng: cpus:1"], "one refinement less");
    w.operate(unreserve(1, &["eng"], cpus(1000))).unwrap();
    assert!(!w.stored.contains_key("reservations/agent-1"));
}

#[test]
fn volumes_are_made_of_reserved_disk() {
    let mut w = World::new();
    w.join(1);
    let disk = |milli| Resources::from_millis(0, 0, milli);
    w.operate(reserve(1, &["eng"], disk(5_000_000))).unwrap();
    let volume_id = VolumeId::new("db").unwrap();
    let create = |role: &str, size| OperatorCall::CreateVolume {
        agent_id: agent_id(1),
        stack: stack(&[role]),
        volume_id: volume_id.clone(),
        volume: Volume {
            size: Milli(size),
            shared: false,
        },
        mount_path: None,
    };
    let destroy = OperatorCall::DestroyVolume {
        agent_id: agent_id(1),
        stack: stack(&["eng"]),
        volume_id: volume_id.clone(),
    };
    assert_eq!(
        reasons(w.operate(create("eng", 6_000_000))),
        [RejectReason::NotFree]
    );
    assert!(w.operate(destroy.clone()).is_err());
    w.operate(create("eng", 2_000_000)).unwrap();
    assert_eq!(
        reasons(w.operate(create("eng", 1_000_000))),
        [RejectReason::DuplicateVolume]
    );
    let made = ["eng: disk:3000; volume db:2000"];
    assert_eq!(reserved(&mut w, 1), made);
    w.restart();
    w.join(1);
    assert_eq!(reserved(&mut w, 1), made);
    let resize = |size| OperatorCall::ResizeVolume {
        agent_id: agent_id(1),
        stack: stack(&["eng"]),
        volume_id: volume_id.clone(),
        size: Milli(size),
    };
    assert_eq!(
        reasons(w.operate(resize(5_000_001))),
        [RejectReason::NotFree]
    );
    w.operate(resize(4_500_000)).unwrap();
    w.operate(resize(500_000)).unwrap();
    let small = ["eng: disk:4500; volume db:500"];
    assert_eq!(reserved(&mut w, 1), small);
    w.restart();
    w.join(1);
    assert_eq!(reserved(&mut w, 1), small, "it is stored");
    w.operate(destroy).unwrap();
    assert_eq!(reserved(&mut w, 1), ["eng: disk:5000"]);
}

#[test]
fn an_operator_ends_a_framework() {
    let mut w = World::new();
    w.join(1);
    let c = w.subscribe(client::batch(None)).unwrap();
    let framework_id = c.id.clone();
    w.operate(OperatorCall::Teardown { framework_id }).unwrap();
    assert!(!w.view().frameworks.contains_key(&c.id));
    assert_eq!(
        w.closed.last().unwrap().1.reason,
        RejectReason::FrameworkRemoved
    );
}

#[test]
fn quota_of_a_kind_that_agents_bring_is_there_before_they_are() {
    let mut w = World::new();
    w.join(1);
    let a = w.agents.get_mut(&agent_id(1)).unwrap();
    a.info.total.custom.set_scalar("licenses", Milli(5000));
    w.join(1);
    let licenses = Quota {
        guarantee: BTreeMap::from([("licenses".to_owned(), Milli(2000))]),
        ..Quota::default()
    };
    w.operate(set_quota("eng", licenses)).unwrap();
    w.restart();
    assert!(!w.view().rejections.contains_key("stored_setting_refused"));
    w.join(1);
    let books = w.core.allocator().explain_role("eng").unwrap();
    assert_eq!(books.owed["licenses"], Milli(2000));
    assert_eq!(w.view().roles["eng"].owed["licenses"], Milli(2000));
}

#[test]
fn several_calls_at_once_are_all_done_or_none_is() {
    let mut w = World::new();
    w.join(1);
    let disk = Resources::from_millis(0, 0, 5_000_000);
    w.operate(reserve(1, &["eng"], disk.clone())).unwrap();
    let window = Unavailability {
        start: w.now + Millis(60_000),
        duration: None,
    };
    let maintain = |n: u8| OperatorCall::SetMaintenance {
        agent_ids: vec![agent_id(n)],
        window: Some(window),
    };
    let volume_id = |name: &str| VolumeId::new(name).unwrap();
    let create = |name: &str, size| OperatorCall::CreateVolume {
        agent_id: agent_id(1),
        stack: stack(&["eng"]),
        volume_id: volume_id(name),
        volume: Volume {
            size: Milli(size),
            shared: false,
        },
        mount_path: None,
    };
    let over = quota(5000, None);
    let (before, books) = (w.stored.clone(), w.core.allocator().clone());
    for (calls, reason) in [
        (
            vec![set_weight("a", 2000), set_weight("b", 0)],
            RejectReason::Invalid,
        ),
        (
            vec![set_quota("a", quota(1000, None)), set_quota("b", over)],
            RejectReason::BadQuota,
        ),
        (
            // Each fits, both do not.
            vec![
                set_quota("a", quota(3000, None)),
                set_quota("b", quota(3000, None)),
            ],
            RejectReason::BadQuota,
        ),
        (
            vec![
                reserve(1, &["eng"], cpus(3000)),
                reserve(1, &["ops"], cpus(3000)),
            ],
            RejectReason::NotFree,
        ),
        (
            vec![
                unreserve(1, &["eng"], disk.clone()),
                unreserve(1, &["ops"], cpus(1)),
            ],
            RejectReason::NotFree,
        ),
        (
            vec![create("v1", 3_000_000), create("v2", 3_000_000)],
            RejectReason::NotFree,
        ),
        (
            vec![create("v1", 1_000_000), create("v1", 1_000_000)],
            RejectReason::DuplicateVolume,
        ),
        (vec![maintain(1), maintain(9)], RejectReason::UnknownAgent),
        (vec![maintain(1), maintain(1)], RejectReason::Invalid),
        (
            vec![set_weight("a", 2000), maintain(1)],
            RejectReason::Invalid,
        ),
        (
            vec![
                set_weight("a", 2000),
                OperatorCall::Deactivate {
                    agent_id: agent_id(1),
                },
            ],
            RejectReason::Invalid,
        ),
    ] {
        let name = format!("{calls:?}");
        assert_eq!(
            reasons(w.operate(OperatorCall::All(calls))),
            [reason],
            "{name}"
        );
        assert_eq!(w.stored, before, "{name}");
        assert_eq!(reserved(&mut w, 1), ["eng: disk:5000"], "{name}");
        assert!(w.view().maintenance.is_empty(), "{name}");
        for role in ["a", "b"] {
            let (now, then) = (
                w.core.allocator().explain_role(role),
                books.explain_role(role),
            );
            assert_eq!(format!("{now:?}"), format!("{then:?}"), "{name}");
        }
    }
    // Each may rest on the one before.
    w.operate(set_quota("eng", quota(0, Some(4000)))).unwrap();
    w.operate(OperatorCall::All(vec![
        reserve(1, &["eng"], cpus(2000)),
        reserve(1, &["eng"], cpus(2000)),
        create("v1", 1_000_000),
        OperatorCall::ResizeVolume {
            agent_id: agent_id(1),
            stack: stack(&["eng"]),
            volume_id: volume_id("v1"),
            size: Milli(2_000_000),
        },
    ]))
    .unwrap();
    let made = ["eng: cpus:4; disk:3000; volume v1:2000"];
    assert_eq!(reserved(&mut w, 1), made);
    w.operate(OperatorCall::All(vec![
        set_weight("a", 2000),
        set_weight("b", 3000),
    ]))
    .unwrap();
    assert_eq!(w.view().roles["b"].weight_milli, 3000);
    let OperatorCall::CreateVolume {
        agent_id: at,
        stack: of,
        volume,
        ..
    } = create("v2", 1_000_000)
    else {
        panic!("it makes a volume");
    };
    w.operate(OperatorCall::CreateVolume {
        agent_id: at.clone(),
        stack: of.clone(),
        volume_id: volume_id("v2"),
        volume,
        mount_path: Some("data".into()),
    })
    .unwrap();
    assert_eq!(w.view().mounts[&at]["v2"], "data");
    w.operate(OperatorCall::DestroyVolume {
        agent_id: at,
        stack: of,
        volume_id: volume_id("v2"),
    })
    .unwrap();
    w.operate(OperatorCall::All(vec![maintain(1)])).unwrap();
    assert_eq!(w.view().maintenance.len(), 1);
    w.restart();
    w.join(1);
    assert_eq!(reserved(&mut w, 1), made, "it is stored");
    assert_eq!(w.view().roles["a"].weight_milli, 2000);
}
