//! Accepts as Mesos has them: what can't be done is named, the rest is done.

use waggle_types::{
    FrameworkInfo, Milli, OfferId, Operation, RejectReason, ResourcePart, RoleSubscription,
    TaskSpec, Volume, VolumeId,
};

use super::{
    client::{Client, batch, task},
    operators::{reserved, stack},
    *,
};
use crate::core::EachOperation;

fn eng(w: &mut World) -> Client {
    w.subscribe(FrameworkInfo {
        roles: vec![RoleSubscription::new("eng")],
        ..batch(None)
    })
    .unwrap()
}

fn each(operations: Vec<Operation>, whole: bool) -> Vec<EachOperation> {
    let one = |(index, operation)| EachOperation {
        index,
        operation,
        whole,
        agents: BTreeMap::new(),
    };
    operations.into_iter().enumerate().map(one).collect()
}

fn accept(
    w: &mut World,
    c: &Client,
    offer_ids: Vec<OfferId>,
    operations: Vec<EachOperation>,
    mounts: BTreeMap<VolumeId, String>,
) -> Vec<(String, RejectReason)> {
    let call = FrameworkCall::AcceptEach {
        offer_ids,
        operations,
        mounts,
        refuse: Millis(0),
    };
    let refused = w.do_call(c, call).err().unwrap_or_default();
    refused.into_iter().map(|r| (r.object, r.reason)).collect()
}

fn takes(
    w: &mut World,
    c: &Client,
    operations: Vec<Operation>,
    whole: bool,
) -> Vec<(String, RejectReason)> {
    let offers = w.offers_of(c);
    accept(w, c, offers, each(operations, whole), BTreeMap::new())
}

fn sized(id: &str, cpus: i64) -> TaskSpec {
    TaskSpec {
        resources: Resources::from_millis(cpus, 1000, 0),
        ..task(id)
    }
}

#[test]
fn a_task_that_is_too_large_leaves_the_others() {
    let mut w = World::new();
    w.join(1);
    let c = eng(&mut w);
    let tasks = vec![
        sized("a", 100),
        sized("big", 1_000_000),
        sized("b", 100),
        sized("a", 100),
        sized("none", 0),
    ];
    let mut none = sized("none", 0);
    none.resources = Resources::default();
    let tasks = tasks.into_iter().take(4).chain([none]).collect();
    let refused = takes(&mut w, &c, vec![Operation::Launch(tasks)], false);
    assert_eq!(
        refused,
        [
            ("big".to_owned(), RejectReason::Overuse),
            ("a".to_owned(), RejectReason::DuplicateTask),
            ("none".to_owned(), RejectReason::Invalid),
        ]
    );
    assert_eq!(w.launches(), 2);
}

#[test]
fn a_group_is_launched_wholly_or_not_at_all() {
    let mut w = World::new();
    w.join(1);
    let c = eng(&mut w);
    let group = |tasks| vec![Operation::Launch(tasks)];
    let broken = group(vec![sized("a", 100), sized("big", 1_000_000)]);
    let refused = takes(&mut w, &c, broken, true);
    let reasons: Vec<RejectReason> = refused.iter().map(|(_, r)| *r).collect();
    assert_eq!(reasons, [RejectReason::Refused, RejectReason::Overuse]);
    assert_eq!(w.launches(), 0);
    let fine = group(vec![sized("a", 100), sized("b", 100)]);
    assert_eq!(takes(&mut w, &c, fine, true), []);
    assert_eq!(w.launches(), 2);
}

#[test]
fn stale_offers_refuse_all_and_the_valid_ones_come_back() {
    let mut w = World::new();
    w.join(1);
    let c = eng(&mut w);
    let mut offers = w.offers_of(&c);
    offers.push(OfferId::new("gone").unwrap());
    let launch = each(vec![Operation::Launch(vec![sized("a", 100)])], false);
    let refused = accept(&mut w, &c, offers.clone(), launch, BTreeMap::new());
    assert_eq!(refused, [("a".to_owned(), RejectReason::StaleOffer)]);
    assert_eq!(w.launches(), 0);
    let again = w.offers_of(&c);
    assert!(
        !again.is_empty() && again.iter().all(|o| !offers.contains(o)),
        "offered anew"
    );
}

#[test]
fn a_refused_operation_leaves_those_that_need_it_not() {
    let mut w = World::new();
    w.join(1);
    let c = eng(&mut w);
    let id = VolumeId::new("db").unwrap();
    let volume = Volume {
        size: Milli::units(1000),
        shared: false,
    };
    let create = |stack| Operation::CreateVolume {
        stack,
        volume_id: id.clone(),
        volume,
    };
    let mut held = Resources::from_millis(1000, 0, 0);
    held.custom.set_volume(id.clone(), volume);
    let on = |id: &str, role: &str| TaskSpec {
        parts: vec![ResourcePart {
            reservation: stack(&[role]),
            revocable: false,
            resources: held.clone(),
        }],
        resources: held.clone(),
        ..task(id)
    };
    let operations = vec![
        // Nobody reserved that.
        create(stack(&["other"])),
        Operation::Reserve {
            stack: stack(&["eng"]),
            resources: Resources::from_millis(1000, 0, 1_000_000),
        },
        create(stack(&["eng"])),
        Operation::Launch(vec![on("lost", "other"), on("db", "eng")]),
    ];
    let offers = w.offers_of(&c);
    let mounts = BTreeMap::from([(id.clone(), "data".to_owned())]);
    let refused = accept(&mut w, &c, offers, each(operations, false), mounts);
    let names: Vec<&str> = refused.iter().map(|(o, _)| o.as_str()).collect();
    assert_eq!(names, ["operations[0]", "lost"]);
    assert_eq!(reserved(&mut w, 1), ["eng: cpus:1; volume db:1000"]);
    assert_eq!(w.launches(), 1);
    let mounted = |w: &mut World| w.view().mounts[&agent_id(1)]["db"].clone();
    assert_eq!(mounted(&mut w), "data");
    w.restart();
    w.join(1);
    assert_eq!(mounted(&mut w), "data", "stored");
}

#[test]
fn a_task_of_another_agent_is_wrong() {
    let mut w = World::new();
    w.join(1);
    let c = eng(&mut w);
    let mut launch = each(vec![Operation::Launch(vec![sized("a", 100)])], false);
    launch[0]
        .agents
        .insert(TaskId::new("a").unwrap(), agent_id(7));
    let offers = w.offers_of(&c);
    let refused = accept(&mut w, &c, offers, launch, BTreeMap::new());
    assert_eq!(refused, [("a".to_owned(), RejectReason::Invalid)]);
}

#[test]
fn a_kill_of_nobodys_task_is_answered_by_what_is_known() {
    let mut w = World::new();
    w.join(1);
    let c = eng(&mut w);
    let task_id = TaskId::new("who").unwrap();
    w.do_call(
        &c,
        FrameworkCall::Kill {
            task_id,
            grace: None,
        },
    )
    .unwrap();
    assert_eq!(w.updates(&c).last().unwrap().state, TaskState::Unknown);
    assert_eq!(
        takes(
            &mut w,
            &c,
            vec![Operation::Launch(vec![sized("a", 100)])],
            false
        ),
        []
    );
    let a = TaskId::new("a").unwrap();
    let grace = Some(Millis(10));
    w.do_call(
        &c,
        FrameworkCall::Kill {
            task_id: a.clone(),
            grace,
        },
    )
    .unwrap();
    let short = w.sent.iter().any(|(_, m)| {
        matches!(m, MasterMsg::Kill { task_id, grace: Some(Millis(10)), .. } if *task_id == a)
    });
    assert!(short, "with less time than its own");
}

#[test]
fn a_framework_changes_what_it_subscribed_with() {
    let mut w = World::new();
    w.join(1);
    let c = eng(&mut w);
    let info = |role: &str| FrameworkInfo {
        roles: vec![RoleSubscription::new(role)],
        ..batch(None)
    };
    w.do_call(&c, FrameworkCall::Update(Box::new(info("ops"))))
        .unwrap();
    let offers = w.view().offers;
    assert!(
        offers
            .iter()
            .any(|o| o.framework_id == c.id && o.role == "ops")
    );
    let other = FrameworkInfo {
        name: "x".into(),
        ..info("ops")
    };
    assert!(
        w.do_call(&c, FrameworkCall::Update(Box::new(other)))
            .is_err()
    );
}
