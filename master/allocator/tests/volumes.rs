//! Persistent volumes, case by case.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use common::world::reservation;
use common::{add_agent, agent, config, decline, framework, offers};
use waggle_allocator::{Allocator, Effect, Event, FrameworkSpec, Operation, Rejection};
use waggle_types::{
    Capabilities, Milli, Millis, Offer, Reservation, ResourcePart, Resources, RoleSubscription,
    UnixMillis, Volume, VolumeId,
};

const NOW: UnixMillis = UnixMillis(1000);

fn subscribe(a: &mut Allocator, i: usize, role: &str) -> Vec<Offer> {
    let spec = FrameworkSpec {
        roles: vec![RoleSubscription::new(role)],
        capabilities: Capabilities {
            revocable: true,
            ..Capabilities::default()
        },
    };
    let framework_id = framework(i);
    offers(&a.apply(Event::Subscribed { framework_id, spec }, NOW))
}

fn id(name: &str) -> VolumeId {
    VolumeId::new(name).unwrap()
}

fn mib(disk: i64) -> Resources {
    Resources::from_millis(0, 0, disk * 1000)
}

fn task(cpus: i64, volume: Option<(&str, Volume)>) -> Resources {
    let mut r = Resources::from_millis(cpus, 128_000, 0);
    if let Some((name, v)) = volume {
        r.custom.set_volume(id(name), v);
    }
    r
}

fn size(mib: i64, shared: bool) -> Volume {
    Volume {
        size: Milli::units(mib),
        shared,
    }
}

fn reserve(stack: &[Reservation], resources: Resources) -> Operation {
    let stack = stack.to_vec();
    Operation::Reserve { stack, resources }
}

fn create(stack: &[Reservation], name: &str, volume: Volume) -> Operation {
    Operation::CreateVolume {
        stack: stack.to_vec(),
        volume_id: id(name),
        volume,
    }
}

fn destroy(stack: &[Reservation], name: &str) -> Operation {
    Operation::DestroyVolume {
        stack: stack.to_vec(),
        volume_id: id(name),
    }
}

fn launch(resources: Resources) -> Operation {
    let parts = Vec::new();
    Operation::Launch { resources, parts }
}

fn operate(a: &mut Allocator, offer: &Offer, operations: Vec<Operation>) -> Vec<Effect> {
    let event = Event::Operated {
        framework_id: offer.framework_id.clone(),
        offer_ids: vec![offer.offer_id.clone()],
        operations,
        refuse: Millis(60_000),
    };
    a.apply(event, NOW)
}

fn rejection(effects: &[Effect]) -> Rejection {
    match effects {
        [Effect::Rejected { reason, .. }] => reason.clone(),
        other => panic!("not one rejection: {other:?}"),
    }
}

#[test]
fn one_accept_reserves_makes_a_volume_and_launches_on_it() {
    let mut a = Allocator::new(config());
    subscribe(&mut a, 0, "db");
    let offer = offers(&add_agent(&mut a, 0, 1000)).remove(0);
    let stack = [reservation("db")];
    let volume = size(1000, true);
    let used = task(500, Some(("v", volume)));
    let effects = operate(
        &mut a,
        &offer,
        vec![
            reserve(&stack, task(500, None).checked_add(&mib(1500)).unwrap()),
            create(&stack, "v", volume),
            launch(used.clone()),
        ],
    );
    let part = ResourcePart {
        reservation: stack.to_vec(),
        revocable: false,
        resources: used,
    };
    assert_eq!(
        effects,
        [Effect::Launched {
            parts: vec![vec![part]]
        }]
    );
    a.check().unwrap();
}

/// An agent with a volume of role `db`, of 1000 MiB, and as much disk beside it.
fn with_volume(shared: bool) -> (Allocator, Vec<Reservation>, Volume) {
    let mut a = Allocator::new(config());
    add_agent(&mut a, 0, 1000);
    let stack = vec![reservation("db")];
    let volume = size(1000, shared);
    for event in [
        Event::Reserve {
            agent_id: agent(0),
            stack: stack.clone(),
            resources: mib(2000),
        },
        Event::CreateVolume {
            agent_id: agent(0),
            stack: stack.clone(),
            volume_id: id("v"),
            volume,
        },
    ] {
        assert_eq!(a.apply(event, NOW), []);
    }
    (a, stack, volume)
}

#[test]
fn a_volume_is_disk_of_its_reservation_and_has_one_holder() {
    let (mut a, stack, volume) = with_volume(false);
    let mut reserved = mib(1000);
    reserved.custom.set_volume(id("v"), volume);
    assert_eq!(a.reserved(&agent(0)), [(stack.clone(), reserved)]);
    // It counts as disk for its role, and goes to that role only, with what is not reserved.
    let quota = a.explain_role("db").unwrap().charged;
    assert_eq!(quota, [("disk".to_owned(), Milli::units(2000))].into());
    let made = subscribe(&mut a, 1, "batch");
    assert!(made[0].resources.custom.is_empty(), "and is never lent");
    a.apply(decline(&made[0], Millis(60_000)), NOW);
    let made = subscribe(&mut a, 0, "db");
    assert_eq!(made[0].resources.custom.volume(&id("v")), Some(volume));
    let used = task(500, Some(("v", volume)));
    let twice = vec![launch(used.clone()), launch(used.clone())];
    let effects = operate(&mut a, &made[0], twice);
    assert!(matches!(rejection(&effects), Rejection::NotFree { .. }));
    operate(&mut a, &made[0], vec![launch(used.clone())]);
    assert_eq!(a.used(&agent(0)), Some(&used));
    a.check().unwrap();
}

#[test]
fn a_shared_volume_is_always_free_and_its_users_are_counted() {
    let (mut a, stack, volume) = with_volume(true);
    let mut made = subscribe(&mut a, 0, "db");
    let used = task(500, Some(("v", volume)));
    let both = vec![launch(used.clone()), launch(used.clone())];
    made = offers(&operate(&mut a, &made[0], both));
    assert!(made.is_empty(), "the rest is filtered");
    let share = a.dominant_share("db").as_f64();
    assert!(
        (share - 0.25).abs() < 1e-9,
        "a shared volume costs nobody a share"
    );
    // Another framework of the role is offered it too.
    made = subscribe(&mut a, 1, "db");
    assert_eq!(made[0].resources.custom.volume(&id("v")), Some(volume));
    operate(&mut a, &made[0], vec![launch(used.clone())]);
    let gone = Event::DestroyVolume {
        agent_id: agent(0),
        stack: stack.clone(),
        volume_id: id("v"),
    };
    let usage = |i| waggle_allocator::Usage {
        framework_id: framework(i),
        role: "db".into(),
        reservation: stack.clone(),
        revocable: false,
        resources: just(&used, volume),
    };
    // One task after the other ends; the agent comes back in between with what it runs.
    for i in [0, 1] {
        let agent_id = agent(0);
        let usage = usage(i);
        a.apply(Event::UsageEnded { agent_id, usage }, NOW);
        let effects = a.apply(gone.clone(), NOW);
        assert!(matches!(rejection(&effects), Rejection::VolumeInUse { .. }));
    }
    let again = Event::AgentJoined {
        spec: waggle_allocator::AgentSpec {
            info: std::sync::Arc::new(common::info(0, common::node())),
            reserved: a.reserved(&agent(0)),
        },
        used: vec![usage(0)],
    };
    a.apply(again, NOW);
    let effects = a.apply(gone.clone(), NOW);
    assert!(matches!(rejection(&effects), Rejection::VolumeInUse { .. }));
    let usage = usage(0);
    let agent_id = agent(0);
    a.apply(Event::UsageEnded { agent_id, usage }, NOW);
    let effects = a.apply(gone, NOW);
    let rescinded = |e: &Effect| matches!(e, Effect::Rescind { .. });
    assert!(
        effects.iter().any(rescinded),
        "offers that hold it are void"
    );
    assert_eq!(a.reserved(&agent(0)), [(stack, mib(2000))]);
    a.check().unwrap();
}

/// Only the volume of what a task uses.
fn just(used: &Resources, volume: Volume) -> Resources {
    let mut r = Resources::default();
    assert!(used.custom.volume(&id("v")).is_some());
    r.custom.set_volume(id("v"), volume);
    r
}

#[test]
fn what_can_not_be_done_with_volumes_is_refused() {
    let (mut a, stack, volume) = with_volume(false);
    let volume_id = id("v");
    let new = |stack: &[Reservation], name: &str, volume| Event::CreateVolume {
        agent_id: agent(0),
        stack: stack.to_vec(),
        volume_id: id(name),
        volume,
    };
    let unreserve = |resources| Event::Unreserve {
        agent_id: agent(0),
        stack: stack.clone(),
        resources,
    };
    let refined = Event::Reserve {
        agent_id: agent(0),
        stack: vec![reservation("db"), reservation("db/a")],
        resources: just(&task(1, Some(("v", volume))), volume),
    };
    let gone = |stack: &[Reservation], name: &str| Event::DestroyVolume {
        agent_id: agent(0),
        stack: stack.to_vec(),
        volume_id: id(name),
    };
    let agent_id = agent(0);
    let other = [reservation("other")];
    let held = Rejection::HasVolume {
        agent_id: agent_id.clone(),
        volume_id: volume_id.clone(),
    };
    let unknown = |name: &str| Rejection::UnknownVolume {
        agent_id: agent(0),
        volume_id: id(name),
    };
    let free = |r: Resources| Rejection::NotFree {
        agent_id: agent(0),
        resources: r,
    };
    for (event, want) in [
        (
            new(&stack, "v", size(1, true)),
            Rejection::DuplicateVolume {
                agent_id: agent_id.clone(),
                volume_id: volume_id.clone(),
            },
        ),
        (
            new(&stack, "w", size(0, true)),
            Rejection::BadVolume {
                volume_id: id("w"),
                rule: "its size must be over 0",
            },
        ),
        (new(&stack, "w", size(1001, true)), free(mib(1001))),
        (new(&other, "w", size(1, true)), free(mib(1))),
        (
            new(&[], "w", size(1, true)),
            Rejection::BadReservation("a stack must not be empty"),
        ),
        (unreserve(mib(2000)), held.clone()),
        (unreserve(just(&task(1, Some(("v", volume))), volume)), held),
        (unreserve(mib(2001)), free(mib(2001))),
        (
            refined,
            Rejection::BadReservation("a volume stays in the reservation that it was made of"),
        ),
        (gone(&stack, "w"), unknown("w")),
        (gone(&other, "v"), unknown("v")),
    ] {
        let before = format!("{:?}", a.reserved(&agent_id));
        assert_eq!(rejection(&a.apply(event, NOW)), want);
        assert_eq!(format!("{:?}", a.reserved(&agent_id)), before);
        a.check().unwrap();
    }
    // The disk beside it may go.
    assert_eq!(a.apply(unreserve(mib(1000)), NOW), []);
    // In an accept, as an operator's: in use, or not in the hand.
    let made = subscribe(&mut a, 0, "db");
    let used = task(500, Some(("v", volume)));
    let both = vec![launch(used), destroy(&stack, "v")];
    let effects = operate(&mut a, &made[0], both);
    assert!(matches!(rejection(&effects), Rejection::VolumeInUse { .. }));
    let made_twice = vec![
        destroy(&stack, "v"),
        create(&stack, "v", volume),
        create(&stack, "v", volume),
    ];
    let effects = operate(&mut a, &made[0], made_twice);
    assert!(matches!(
        rejection(&effects),
        Rejection::DuplicateVolume { .. }
    ));
    let strangers = vec![reserve(&[reservation("other")], mib(1))];
    let effects = operate(&mut a, &made[0], strangers);
    assert!(matches!(rejection(&effects), Rejection::NotInRole { .. }));
    assert!(a.offer(&made[0].offer_id).is_some(), "nothing was done");
    a.check().unwrap();
}

#[test]
fn a_volume_grows_and_shrinks_while_nobody_uses_it() {
    let (mut a, stack, _) = with_volume(false);
    let resize = |name: &str, mib| Event::ResizeVolume {
        agent_id: agent(0),
        stack: stack.clone(),
        volume_id: id(name),
        size: Milli::units(mib),
    };
    let volume = |a: &Allocator| {
        let all = a.reserved(&agent(0));
        let of = all[0].1.clone();
        (
            of.custom.volume(&id("v")).unwrap().size,
            of.get(waggle_types::ScalarKind::Disk),
        )
    };
    let offer = subscribe(&mut a, 0, "db").remove(0);
    assert!(offer.resources.custom.volume(&id("v")).is_some());
    let effects = a.apply(resize("v", 1500), NOW);
    assert!(
        effects.iter().any(|e| matches!(e, Effect::Rescind { .. })),
        "an offer of the old size is void"
    );
    assert_eq!(volume(&a), (Milli::units(1500), Milli::units(500)));
    a.check().unwrap();
    a.apply(resize("v", 200), NOW);
    assert_eq!(volume(&a), (Milli::units(200), Milli::units(1800)));
    a.apply(resize("v", 200), NOW);
    assert_eq!(volume(&a), (Milli::units(200), Milli::units(1800)));
    a.check().unwrap();
    for (event, said) in [
        (resize("v", 2001), "NotFree"),
        (resize("v", 0), "BadVolume"),
        (resize("w", 1), "UnknownVolume"),
    ] {
        let refused = rejection(&a.apply(event, NOW));
        assert!(format!("{refused:?}").starts_with(said), "{refused:?}");
        assert_eq!(volume(&a), (Milli::units(200), Milli::units(1800)));
    }
    // In use it stays as it is.
    let offer = a
        .offers()
        .find(|(o, _)| o.resources.custom.volume(&id("v")).is_some());
    let offer = offer.unwrap().0.clone();
    let used = task(500, Some(("v", size(200, false))));
    operate(&mut a, &offer, vec![launch(used)]);
    let refused = rejection(&a.apply(resize("v", 300), NOW));
    assert!(
        matches!(refused, Rejection::VolumeInUse { .. }),
        "{refused:?}"
    );
    a.check().unwrap();
}

#[test]
fn a_volume_on_a_disk_of_its_own_is_made_of_that_disk() {
    let mut a = Allocator::new(config());
    let total = common::kinds::with_custom(common::node());
    let info = common::info(0, total.clone());
    a.apply(
        Event::AgentAdded {
            info,
            used: Vec::new(),
        },
        NOW,
    );
    let stack = vec![reservation("db")];
    let mut fast = Resources::default();
    fast.custom.set_scalar("disk.fast", Milli::units(2000));
    let event = Event::Reserve {
        agent_id: agent(0),
        stack: stack.clone(),
        resources: fast.clone(),
    };
    a.apply(event, NOW);
    let new = |name: &str, mib| Event::CreateVolume {
        agent_id: agent(0),
        stack: stack.clone(),
        volume_id: id(name),
        volume: size(mib, false),
    };
    // All of it: the kind is still the node's.
    a.apply(new("v@fast", 2000), NOW);
    a.check().unwrap();
    let refused = rejection(&a.apply(new("w@fast", 1), NOW));
    assert_eq!(
        refused.to_string(),
        "disk.fast:1 is not free there on agent a0"
    );
    let refused = rejection(&a.apply(new("w@slow", 1), NOW));
    assert_eq!(
        refused.to_string(),
        "disk.slow:1 is not free there on agent a0"
    );
    let refused = rejection(&a.apply(new("w", 1), NOW));
    assert_eq!(refused.to_string(), "disk:1 is not free there on agent a0");
    let gone = Event::DestroyVolume {
        agent_id: agent(0),
        stack: stack.clone(),
        volume_id: id("v@fast"),
    };
    a.apply(gone, NOW);
    assert_eq!(a.reserved(&agent(0)), [(stack, fast)]);
    assert_eq!(a.total(&agent(0)), Some(&total));
    a.check().unwrap();
}
