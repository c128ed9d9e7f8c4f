//! Quota, reservations, lending, barriers, maintenance and draining, case by case.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use std::sync::Arc;

use common::world::reservation;
use common::{accept, add_agent, agent, config, decline, framework, info, node, offers};
use waggle_allocator::{
    AgentSpec, Allocator, Barrier, Effect, Event, EvictReason, FrameworkSpec, Notice, Operation,
    Reason, Rejection, Usage,
};
use waggle_types::{
    AttributeConstraint, Capabilities, Domain, Milli, Millis, OfferConstraints, Predicate, Quota,
    Reservation, ResourcePart, Resources, RoleSubscription, ScalarKind, Selector, Unavailability,
    UnixMillis,
};

const NOW: UnixMillis = UnixMillis(1000);

fn cpus(n: i64) -> Resources {
    Resources::from_millis(n * 1000, n * 1_024_000, 0)
}

fn spec(role: &str, capabilities: Capabilities) -> FrameworkSpec {
    FrameworkSpec {
        roles: vec![RoleSubscription {
            role: role.into(),
            ..RoleSubscription::default()
        }],
        capabilities,
    }
}

fn subscribe(a: &mut Allocator, i: usize, spec: FrameworkSpec) -> Vec<Effect> {
    let framework_id = framework(i);
    a.apply(Event::Subscribed { framework_id, spec }, NOW)
}

fn open() -> Capabilities {
    Capabilities {
        gpus: true,
        region_aware: true,
        revocable: true,
    }
}

fn rejection(effects: &[Effect]) -> Rejection {
    match effects {
        [Effect::Rejected { reason, .. }] => reason.clone(),
        other => panic!("not one rejection: {other:?}"),
    }
}

fn quota(guarantee_cpus: i64, limit_cpus: Option<i64>) -> Quota {
    let mut q = Quota::default();
    q.guarantee
        .insert("cpus".into(), Milli::units(guarantee_cpus));
    q.limit
        .extend(limit_cpus.map(|l| ("cpus".to_owned(), Milli::units(l))));
    q
}

fn set_quota(a: &mut Allocator, role: &str, quota: Quota) -> Vec<Effect> {
    let role = role.into();
    let force = false;
    a.apply(Event::QuotaSet { role, quota, force }, NOW)
}

#[test]
fn headroom_is_held_back_and_guarantees_come_first() {
    let mut a = Allocator::new(config());
    add_agent(&mut a, 0, 1000);
    add_agent(&mut a, 1, 1000);
    assert_eq!(set_quota(&mut a, "prod", quota(6, None)), []);
    // 8 CPUs in all, 6 are owed: others get 2.
    let made = offers(&subscribe(&mut a, 0, spec("batch", open())));
    let total: i64 = made
        .iter()
        .map(|o| o.resources.get(ScalarKind::Cpus).0)
        .sum();
    assert_eq!(total, 2000);
    let why = a.explain_role("prod").unwrap();
    assert_eq!(why.owed, [("cpus".to_owned(), Milli(6000))].into());
    assert!(why.charged.is_empty());
    assert!(
        a.explain(&framework(0))
            .iter()
            .any(|r| matches!(r, Reason::HeldBack { .. }))
    );
    let made = offers(&subscribe(&mut a, 1, spec("prod/web", open())));
    let total: i64 = made
        .iter()
        .map(|o| o.resources.get(ScalarKind::Cpus).0)
        .sum();
    assert_eq!(total, 6000);
    assert!(a.explain_role("prod").unwrap().owed.is_empty());
    a.check().unwrap();
}

#[test]
fn limits_cut_offers_and_room_is_used_at_once() {
    let mut a = Allocator::new(config());
    add_agent(&mut a, 0, 1000);
    add_agent(&mut a, 1, 1000);
    set_quota(&mut a, "team", quota(0, Some(5)));
    let made = offers(&subscribe(&mut a, 0, spec("team/a", open())));
    let sizes: Vec<_> = made
        .iter()
        .map(|o| o.resources.get(ScalarKind::Cpus))
        .collect();
    // The second agent's memory is still worth an offer.
    assert_eq!(sizes, [Milli(4000), Milli(1000)]);
    a.apply(accept(&made[1], cpus(1), Millis(0)), NOW);
    let effects = a.apply(decline(&made[0], Millis(60_000)), NOW);
    let more = offers(&effects);
    assert!(
        more.iter()
            .any(|o| o.agent_id == agent(1) && o.resources.get(ScalarKind::Cpus).0 == 3000)
    );
    a.check().unwrap();
}

#[test]
fn quota_that_contradicts_is_refused() {
    let mut a = Allocator::new(config());
    add_agent(&mut a, 0, 1000);
    for (role, q) in [
        ("*", quota(1, None)),
        ("a", quota(3, Some(2))),
        ("a", quota(5, None)),
        ("a", quota(-1, None)),
    ] {
        rejection(&set_quota(&mut a, role, q));
    }
    assert_eq!(set_quota(&mut a, "a", quota(2, Some(3))), []);
    for (role, q) in [("a/b", quota(3, None)), ("a/b", quota(0, Some(4)))] {
        assert!(matches!(
            rejection(&set_quota(&mut a, role, q)),
            Rejection::BadQuota { .. }
        ));
    }
    assert_eq!(set_quota(&mut a, "a/b", quota(1, Some(2))), []);
    for name in [
        "",
        "a//b",
        "a/../b",
        "-a",
        "a b",
        "a/*",
        "a/b/c/d/e/f/g/h/i",
    ] {
        let role = name.into();
        let weight = Event::WeightSet {
            role,
            weight_milli: 1,
        };
        assert!(
            matches!(rejection(&a.apply(weight, NOW)), Rejection::Field(_)),
            "{name}"
        );
    }
}

#[test]
fn what_idle_roles_have_reserved_is_lent_and_taken_back() {
    let mut a = Allocator::new(config());
    add_agent(&mut a, 0, 1000);
    let reserve = Event::Reserve {
        agent_id: agent(0),
        stack: vec![reservation("prod")],
        resources: cpus(3),
    };
    assert_eq!(a.apply(reserve, NOW), []);
    let made = offers(&subscribe(&mut a, 0, spec("batch", open())));
    assert_eq!(made.len(), 1);
    assert_eq!(
        made[0].resources,
        node(),
        "all of it, three CPUs of that lent"
    );
    let parts = a.offer_parts(&made[0].offer_id);
    let lent: Vec<_> = parts.iter().filter(|p| p.revocable).collect();
    assert_eq!((lent.len(), &lent[0].resources), (1, &cpus(3)));
    let left = offers(&a.apply(accept(&made[0], cpus(4), Millis(0)), NOW));
    assert!(left.is_empty(), "disk and ports alone are not offered");
    assert!(a.notices().is_empty());
    // The owner comes: evicted, and once that is done, offered to it.
    assert_eq!(offers(&subscribe(&mut a, 1, spec("prod/web", open()))), []);
    let want = Notice::Evict {
        framework_id: framework(0),
        role: "batch".into(),
        agent_id: agent(0),
        part: ResourcePart {
            reservation: vec![reservation("prod")],
            revocable: true,
            resources: cpus(3),
        },
        max_grace: None,
        reason: EvictReason::Reclaimed,
    };
    assert_eq!(a.notices(), [want]);
    let ended = Event::Released {
        framework_id: framework(0),
        agent_id: agent(0),
        resources: cpus(3),
    };
    let made = offers(&a.apply(ended, NOW));
    assert_eq!(made[0].framework_id, framework(1));
    assert_eq!(made[0].resources.get(ScalarKind::Cpus), Milli(3000));
    a.check().unwrap();
}

#[test]
fn reservations_are_refined_down_the_tree_only() {
    let mut a = Allocator::new(config());
    add_agent(&mut a, 0, 1000);
    let mut reserve = |stack: &[&str]| {
        let event = Event::Reserve {
            agent_id: agent(0),
            stack: stack.iter().map(|r| reservation(r)).collect(),
            resources: cpus(1),
        };
        a.apply(event, NOW)
    };
    for bad in [
        &[][..],
        &["*"],
        &["a", "a"],
        &["a", "b"],
        &["a", "ab"],
        &["a", "a/b", "a"],
    ] {
        rejection(&reserve(bad));
    }
    assert!(matches!(
        rejection(&reserve(&["a", "a/b"])),
        Rejection::NotFree { .. }
    ));
    assert_eq!(reserve(&["a"]), []);
    assert_eq!(reserve(&["a", "a/b"]), []);
    let stack = vec![reservation("a"), reservation("a/b")];
    assert_eq!(a.reserved(&agent(0)), [(stack.clone(), cpus(1))]);
    // Only a/b and below see it now.
    let made = offers(&subscribe(&mut a, 0, spec("a", Capabilities::default())));
    assert_eq!(made[0].resources.get(ScalarKind::Cpus), Milli(3000));
    let made = offers(&subscribe(
        &mut a,
        1,
        spec("a/b/c", Capabilities::default()),
    ));
    assert_eq!(made[0].resources, cpus(1));
    // Unreserved one level: a sees it.
    let event = Event::Unreserve {
        agent_id: agent(0),
        stack,
        resources: cpus(1),
    };
    a.apply(event, NOW);
    assert_eq!(a.reserved(&agent(0)), [(vec![reservation("a")], cpus(1))]);
    a.check().unwrap();
}

#[test]
fn operations_are_all_or_nothing() {
    let mut a = Allocator::new(config());
    subscribe(&mut a, 0, spec("a", open()));
    let offer = offers(&add_agent(&mut a, 0, 1000)).remove(0);
    let operate = |operations| Event::Operated {
        framework_id: framework(0),
        offer_ids: vec![offer.offer_id.clone()],
        operations,
        refuse: Millis(0),
    };
    let reserve = Operation::Reserve {
        stack: vec![reservation("a")],
        resources: cpus(3),
    };
    let launch = |n| Operation::Launch {
        resources: cpus(n),
        parts: Vec::new(),
    };
    let effects = a.apply(operate(vec![reserve.clone(), launch(5)]), NOW);
    assert!(matches!(rejection(&effects), Rejection::NotFree { .. }));
    assert!(a.offer(&offer.offer_id).is_some() && a.reserved(&agent(0)).is_empty());
    let effects = a.apply(operate(vec![reserve, launch(2), launch(2)]), NOW);
    let stack = vec![reservation("a")];
    let part = |reservation: &[Reservation], n| ResourcePart {
        reservation: reservation.to_vec(),
        revocable: false,
        resources: cpus(n),
    };
    let given = Effect::Launched {
        parts: vec![vec![part(&stack, 2)], vec![part(&stack, 1), part(&[], 1)]],
    };
    assert_eq!(effects, [given], "nothing is left to be offered");
    assert_eq!(a.used(&agent(0)), Some(&cpus(4)));
    assert_eq!(a.reserved(&agent(0)), [(stack, cpus(3))]);
    a.check().unwrap();
}

#[test]
fn barriers_are_named() {
    let mut config = config();
    config.region = Some("eu".into());
    let mut a = Allocator::new(config);
    let mut join = |i: usize, region: &str, gpus: i64, rack: &str| {
        let mut spec = AgentSpec {
            info: Arc::new(info(i, node())),
            reserved: Vec::new(),
        };
        let own = Arc::make_mut(&mut spec.info);
        own.domain = Some(Domain {
            region: region.into(),
            zone: "z".into(),
        });
        own.total.scalars[ScalarKind::Gpus as usize] = Milli::units(gpus);
        own.attributes.insert("rack".into(), rack.into());
        a.apply(
            Event::AgentJoined {
                spec,
                used: Vec::new(),
            },
            NOW,
        );
    };
    join(0, "eu", 1, "r1");
    join(1, "us", 0, "r1");
    join(2, "eu", 0, "r22");
    join(3, "eu", 0, "r1");
    let constraint = |p: &str| -> OfferConstraints {
        vec![vec![AttributeConstraint {
            selector: Selector::Attribute("rack".into()),
            predicate: Predicate::TextMatches(p.into()),
        }]]
    };
    let mut s = spec("a", Capabilities::default());
    for bad in ["(", "a{1000}{1000}", &"x".repeat(2000)] {
        s.roles[0].constraints = constraint(bad);
        let effects = subscribe(&mut a, 0, s.clone());
        assert!(matches!(rejection(&effects), Rejection::Field(_)));
    }
    s.roles[0].constraints = constraint("r[0-9]");
    let made = offers(&subscribe(&mut a, 0, s));
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].agent_id, agent(3));
    let barriers: Vec<Barrier> = a
        .explain(&framework(0))
        .into_iter()
        .filter_map(|r| match r {
            Reason::Barred { barrier, .. } => Some(barrier),
            _ => None,
        })
        .collect();
    assert_eq!(
        barriers,
        [Barrier::Gpus, Barrier::Region, Barrier::Constraints]
    );
    let (who, role, why) = &a.explain_agent(&agent(1))[0];
    assert_eq!((who, role.as_str()), (&framework(0), "a"));
    assert!(matches!(
        why[0],
        Reason::Barred {
            barrier: Barrier::Region,
            ..
        }
    ));
}

#[test]
fn maintenance_evicts_also_where_nothing_is_offered() {
    let mut a = Allocator::new(config());
    subscribe(&mut a, 0, spec("a", open()));
    let offer = offers(&add_agent(&mut a, 0, 1000)).remove(0);
    a.apply(accept(&offer, cpus(1), Millis(60_000)), NOW);
    let window = Unavailability {
        start: UnixMillis(100_000),
        duration: None,
    };
    let agent_id = agent(0);
    let plan = Event::MaintenanceSet {
        agent_id: agent_id.clone(),
        window: Some(window),
    };
    a.apply(plan, NOW);
    a.apply(Event::AgentDeactivated { agent_id }, NOW);
    let is_eviction = |n: &Notice| {
        let Notice::Evict { reason, .. } = n else {
            return false;
        };
        *reason == EvictReason::Maintenance
    };
    a.apply(Event::Tick, UnixMillis(100_000));
    assert_eq!(a.notices().iter().filter(|n| is_eviction(n)).count(), 1);
    a.apply(Event::Tick, UnixMillis(100_001));
    assert!(a.notices().is_empty(), "once");
}

#[test]
fn maintenance_asks_first_and_evicts_at_the_start() {
    let mut a = Allocator::new(config());
    subscribe(&mut a, 0, spec("a", open()));
    let offer = offers(&add_agent(&mut a, 0, 1000)).remove(0);
    a.apply(accept(&offer, cpus(1), Millis(60_000)), NOW);
    let window = Unavailability {
        start: UnixMillis(100_000),
        duration: None,
    };
    let agent_id = agent(0);
    let plan = |window| Event::MaintenanceSet {
        agent_id: agent(0),
        window,
    };
    a.apply(plan(Some(window)), NOW);
    let asked = Notice::InverseOffer {
        framework_id: framework(0),
        agent_id: agent_id.clone(),
        window,
        resources: cpus(1),
    };
    assert_eq!(a.notices(), std::slice::from_ref(&asked));
    let answer = |framework_id, accepted| Event::InverseAnswered {
        framework_id,
        agent_id: agent(0),
        accepted,
        refuse: Millis(5000),
    };
    let stranger = a.apply(answer(framework(1), true), NOW);
    assert_eq!(
        rejection(&stranger),
        Rejection::UnknownFramework(framework(1))
    );
    assert_eq!(a.apply(answer(framework(0), false), NOW), []);
    a.apply(Event::Tick, UnixMillis(5999));
    assert!(a.notices().is_empty());
    a.apply(Event::Tick, UnixMillis(6000));
    assert_eq!(a.notices(), [asked], "a refusal is asked again");
    a.apply(Event::Tick, UnixMillis(100_000));
    assert!(matches!(
        a.notices(),
        [
            Notice::InverseRescinded { .. },
            Notice::Evict {
                reason: EvictReason::Maintenance,
                ..
            }
        ]
    ));
    assert_eq!(a.is_active(&agent_id), Some(false));
    a.apply(plan(None), UnixMillis(100_001));
    let back = Event::AgentActivated { agent_id };
    assert_eq!(offers(&a.apply(back, UnixMillis(200_000))).len(), 1);
    a.check().unwrap();
}

#[test]
fn drained_agents_say_when_they_are_empty_and_may_go() {
    let mut a = Allocator::new(config());
    subscribe(&mut a, 0, spec("a", open()));
    let offer = offers(&add_agent(&mut a, 0, 1000)).remove(0);
    a.apply(accept(&offer, cpus(1), Millis(0)), NOW);
    let drain = Event::AgentDrained {
        agent_id: agent(0),
        max_grace: Some(Millis(3000)),
        mark_gone: true,
    };
    let effects = a.apply(drain, NOW);
    assert!(matches!(effects.as_slice(), [Effect::Rescind { .. }]));
    assert!(matches!(
        a.notices(),
        [Notice::Evict {
            max_grace: Some(Millis(3000)),
            reason: EvictReason::Drained,
            ..
        }]
    ));
    let ended = Event::Released {
        framework_id: framework(0),
        agent_id: agent(0),
        resources: cpus(1),
    };
    assert_eq!(a.apply(ended, NOW), []);
    let gone = Notice::Drained {
        agent_id: agent(0),
        gone: true,
    };
    assert_eq!(a.notices(), [gone]);
    assert_eq!(a.total(&agent(0)), None);
    a.check().unwrap();
}

#[test]
fn who_comes_during_a_planned_maintenance_is_asked_and_who_leaves_is_not() {
    let mut a = Allocator::new(config());
    add_agent(&mut a, 0, 1000);
    let window = Unavailability {
        start: UnixMillis(100_000),
        duration: Some(Millis(60_000)),
    };
    let agent_id = agent(0);
    let plan = Event::MaintenanceSet {
        agent_id: agent_id.clone(),
        window: Some(window),
    };
    assert_eq!(a.apply(plan, NOW), []);
    assert!(a.notices().is_empty(), "nobody is there");
    let offer = offers(&subscribe(&mut a, 0, spec("a", open()))).remove(0);
    assert_eq!(offer.unavailability, Some(window), "it is said beforehand");
    a.apply(accept(&offer, cpus(1), Millis(60_000)), NOW);
    let framework_id = framework(0);
    let asked = Notice::InverseOffer {
        framework_id: framework_id.clone(),
        agent_id: agent_id.clone(),
        window,
        resources: cpus(1),
    };
    assert_eq!(a.notices(), [asked]);
    let usage = Usage {
        framework_id: framework_id.clone(),
        role: "a".into(),
        reservation: Vec::new(),
        revocable: false,
        resources: cpus(1),
    };
    let ended = Event::UsageEnded {
        agent_id: agent_id.clone(),
        usage,
    };
    a.apply(ended, NOW);
    let over = Notice::InverseRescinded {
        framework_id: framework_id.clone(),
        agent_id: agent_id.clone(),
    };
    assert_eq!(a.notices(), [over]);
    let late = Event::InverseAnswered {
        framework_id: framework_id.clone(),
        agent_id: agent_id.clone(),
        accepted: true,
        refuse: Millis(0),
    };
    assert_eq!(
        rejection(&a.apply(late, NOW)),
        Rejection::NoInverseOffer {
            framework_id,
            agent_id
        }
    );
}

#[test]
fn usage_is_released_even_if_it_found_another_place() {
    let mut a = Allocator::new(config());
    subscribe(&mut a, 0, spec("a", open()));
    let usage = Usage {
        framework_id: framework(0),
        role: "a".into(),
        reservation: Vec::new(),
        revocable: false,
        resources: cpus(3),
    };
    // Three CPUs are said to be of what is not reserved, where there are but two.
    let joined = Event::AgentJoined {
        spec: AgentSpec {
            info: Arc::new(info(0, node())),
            reserved: vec![(vec![reservation("a")], cpus(2))],
        },
        used: vec![usage.clone()],
    };
    let offer = offers(&a.apply(joined, NOW)).remove(0);
    a.apply(decline(&offer, Millis(60_000)), NOW);
    assert_eq!(a.used(&agent(0)), Some(&cpus(3)));
    let agent_id = agent(0);
    a.apply(Event::UsageEnded { agent_id, usage }, NOW);
    assert_eq!(a.used(&agent(0)), Some(&Resources::default()));
    a.check().unwrap();
}

/// What is offered to a role counts against its limit; a reservation for it takes the place of offers.
#[test]
fn a_reservation_takes_the_place_of_offers_that_fill_the_limit() {
    let mut a = Allocator::new(config());
    add_agent(&mut a, 0, 1000);
    add_agent(&mut a, 1, 1000);
    set_quota(&mut a, "team", quota(0, Some(5)));
    let made = offers(&subscribe(&mut a, 0, spec("team/a", open())));
    assert_eq!(made.len(), 2, "4 cpus and 1: the limit is full");
    let reserve = |a: &mut Allocator, at: usize, n: i64| {
        let effects = a.apply(
            Event::Reserve {
                agent_id: agent(at),
                stack: vec![Reservation::dynamic("team", "ops")],
                resources: cpus(n),
            },
            NOW,
        );
        let rescinded = effects.iter().filter_map(|e| match e {
            Effect::Rescind { offer_id, .. } => Some(offer_id.clone()),
            _ => None,
        });
        let refused = effects.iter().find_map(|e| match e {
            Effect::Rejected { reason, .. } => Some(reason.clone()),
            _ => None,
        });
        (rescinded.collect::<Vec<_>>(), refused)
    };
    // More than the limit, whatever comes back: nothing is done.
    let before = a.clone();
    let (rescinded, refused) = reserve(&mut a, 0, 6);
    assert!(matches!(refused, Some(Rejection::NotFree { .. })));
    assert_eq!(rescinded, []);
    assert_eq!(a.offers().count(), before.offers().count());
    // What is offered of the agent itself comes back, and that is enough.
    let (rescinded, refused) = reserve(&mut a, 0, 4);
    assert_eq!(refused, None);
    assert_eq!(rescinded, [made[0].offer_id.clone()]);
    let books = a.explain_role("team").unwrap();
    assert_eq!(books.charged["cpus"], Milli(5000), "4 reserved, 1 offered");
    // On the other agent enough is free, but the limit is full of an offer.
    let (rescinded, refused) = reserve(&mut a, 1, 1);
    assert_eq!(refused, None);
    assert_eq!(rescinded.len(), 1);
    let (rescinded, refused) = reserve(&mut a, 1, 1);
    assert!(matches!(refused, Some(Rejection::OverLimit { .. })));
    assert_eq!(rescinded, []);
    a.check().unwrap();
}
