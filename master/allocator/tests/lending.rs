//! What is lent is taken back as far as its owner has use for it, case by case.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use common::world::reservation;
use common::{accept, add_agent, agent, config, decline, framework, offers};
use waggle_allocator::{
    Allocator, Effect, Event, EvictReason, FrameworkSpec, Notice, RescindReason, Usage,
};
use waggle_types::{
    AgentId, Capabilities, Millis, Offer, Resources, RoleSubscription, ScalarKind, UnixMillis,
};

const NOW: UnixMillis = UnixMillis(1000);

fn cpus(n: i64) -> Resources {
    Resources::from_millis(n * 1000, n * 1_024_000, 0)
}

fn subscribe(a: &mut Allocator, i: usize, role: &str, smallest: Option<Resources>) -> Vec<Effect> {
    let spec = FrameworkSpec {
        roles: vec![RoleSubscription {
            role: role.into(),
            smallest,
            ..RoleSubscription::default()
        }],
        capabilities: Capabilities {
            revocable: i == 0,
            ..Capabilities::default()
        },
    };
    let framework_id = framework(i);
    a.apply(Event::Subscribed { framework_id, spec }, NOW)
}

fn reserve(a: &mut Allocator, i: usize) {
    let event = Event::Reserve {
        agent_id: agent(i),
        stack: vec![reservation("prod")],
        resources: cpus(3),
    };
    assert_eq!(a.apply(event, NOW), []);
}

/// Agents of 4 CPUs, of which 3 are reserved for `prod` and lent; framework 0 uses all of it.
fn lent(n_agents: usize) -> Allocator {
    let mut a = Allocator::new(config());
    for i in 0..n_agents {
        add_agent(&mut a, i, 1000);
        reserve(&mut a, i);
    }
    for offer in offers(&subscribe(&mut a, 0, "batch", None)) {
        assert_eq!(a.apply(accept(&offer, cpus(4), Millis(0)), NOW), []);
    }
    a
}

fn evicted(a: &Allocator) -> Vec<(AgentId, Resources)> {
    let all = a.notices().iter();
    all.map(|n| match n {
        Notice::Evict {
            agent_id,
            part,
            reason: EvictReason::Reclaimed,
            ..
        } => {
            assert!(part.revocable && part.reservation == [reservation("prod")]);
            (agent_id.clone(), part.resources.clone())
        }
        other => panic!("{other:?}"),
    })
    .collect()
}

/// Tasks of framework 0 on what is lent (or not) end.
fn ends(a: &mut Allocator, i: usize, revocable: bool, resources: Resources) -> Vec<Offer> {
    let usage = Usage {
        framework_id: framework(0),
        role: "batch".into(),
        reservation: revocable.then(|| reservation("prod")).into_iter().collect(),
        revocable,
        resources,
    };
    let agent_id = agent(i);
    offers(&a.apply(Event::UsageEnded { agent_id, usage }, NOW))
}

#[test]
fn no_more_is_taken_back_than_is_of_use() {
    let mut a = lent(4);
    subscribe(&mut a, 1, "prod/web", Some(cpus(2)));
    assert_eq!(evicted(&a), [(agent(0), cpus(2))]);
    // Nothing more is told to end as long as that has not.
    assert_eq!(ends(&mut a, 0, true, cpus(1)), []);
    assert_eq!(evicted(&a), []);
    let made = ends(&mut a, 0, true, cpus(1));
    assert_eq!(made[0].framework_id, framework(1));
    let got = made[0].resources.get(ScalarKind::Cpus);
    assert_eq!(got, cpus(2).get(ScalarKind::Cpus));
    // It uses it and wants more: the next wave is of two. On agent 0 not enough is left.
    a.apply(accept(&made[0], cpus(2), Millis(60_000)), NOW);
    assert_eq!(evicted(&a), [(agent(1), cpus(2)), (agent(2), cpus(2))]);
    ends(&mut a, 1, true, cpus(2));
    let made = ends(&mut a, 2, true, cpus(2));
    assert_eq!(a.n_offers(), 2);
    // It has enough, and the rest stays lent.
    let framework_id = framework(1);
    a.apply(Event::Suppress { framework_id }, NOW);
    a.apply(decline(&made[0], Millis(1000)), NOW);
    a.apply(Event::Tick, UnixMillis(5000));
    assert_eq!(evicted(&a), []);
    a.check().unwrap();
}

#[test]
fn waves_grow_until_nothing_is_lent() {
    let mut a = lent(8);
    // Without a word of what is of use: all that is lent of an agent; on one, on two, on four.
    subscribe(&mut a, 1, "prod", None);
    let mut sizes = Vec::new();
    let mut told = evicted(&a);
    while !told.is_empty() {
        sizes.push(told.len());
        let mut next = Vec::new();
        for (agent_id, resources) in told {
            assert_eq!(resources, cpus(3));
            let i = agent_id.as_str()[1..].parse().unwrap();
            let made = ends(&mut a, i, true, resources);
            a.apply(decline(&made[0], Millis(60_000)), NOW);
            assert!(next.is_empty(), "not before all of a wave has ended");
            next = evicted(&a);
        }
        told = next;
    }
    assert_eq!(sizes, [1, 2, 4, 1]);
    a.check().unwrap();
}

#[test]
fn what_can_not_make_enough_is_left_alone_until_it_can() {
    let mut a = lent(1);
    // There are never 4 CPUs for `prod`, as long as the fourth is in use.
    subscribe(&mut a, 1, "prod", Some(cpus(4)));
    assert_eq!(evicted(&a), []);
    assert_eq!(a.next_deadline(), Some(UnixMillis(2000)), "it looks again");
    let made = ends(&mut a, 0, false, cpus(1));
    assert_eq!(made[0].framework_id, framework(0), "of use to nobody else");
    a.apply(decline(&made[0], Millis(60_000)), NOW);
    a.apply(Event::Tick, UnixMillis(2000));
    assert_eq!(evicted(&a), [(agent(0), cpus(3))]);
    a.check().unwrap();
}

#[test]
fn offers_of_what_is_lent_come_back_at_once() {
    let mut a = Allocator::new(config());
    add_agent(&mut a, 0, 1000);
    reserve(&mut a, 0);
    subscribe(&mut a, 0, "batch", None);
    let effects = subscribe(&mut a, 1, "prod", None);
    assert!(matches!(
        effects[0],
        Effect::Rescind {
            reason: RescindReason::Reclaimed,
            ..
        }
    ));
    assert_eq!(offers(&effects)[0].framework_id, framework(1));
    assert!(a.notices().is_empty(), "nobody is evicted");
    a.check().unwrap();
}
