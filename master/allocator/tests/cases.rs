//! The allocator's behaviour case by case, as text.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use std::collections::VecDeque;

use common::{
    accept, add_agent, add_framework, agent, config, decline, framework, info, node, offers,
};
use waggle_allocator::{Allocator, Effect, Event, Reason, Rejection, RescindReason};
use waggle_types::{Millis, OfferId, PortSet, Resources, UnixMillis};

fn task(cpus: i64) -> Resources {
    Resources::from_millis(cpus, 512_000, 0)
}

fn reject(effects: &[Effect]) -> Rejection {
    match effects {
        [Effect::Rejected { reason, .. }] => reason.clone(),
        other => panic!("not one rejection: {other:?}"),
    }
}

#[test]
fn an_agent_is_offered_whole_and_at_once() {
    let mut a = Allocator::new(config());
    assert_eq!(add_framework(&mut a, 0, "*", 0), []);
    let made = offers(&add_agent(&mut a, 0, 5));
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].resources, node());
    assert_eq!(made[0].at, UnixMillis(5));
    assert_eq!(made[0].offer_id.as_str(), "t-O1");
    // A task's end is answered with an offer in the same call.
    a.apply(accept(&made[0], node(), Millis(0)), UnixMillis(6));
    let freed = task(1000).with_ports(PortSet::from_ports([31003]));
    let event = Event::Released {
        framework_id: framework(0),
        agent_id: agent(0),
        resources: freed.clone(),
    };
    let made = offers(&a.apply(event, UnixMillis(7)));
    assert_eq!(made[0].resources, freed);
}

#[test]
fn weights_divide_the_cluster() {
    let mut a = Allocator::new(config());
    for (i, role, weight_milli) in [(0, "light", 1000), (1, "heavy", 3000)] {
        let event = Event::FrameworkAdded {
            framework_id: framework(i),
            role: role.into(),
            weight_milli,
        };
        a.apply(event, UnixMillis(0));
    }
    let mut out = VecDeque::new();
    for i in 0..8 {
        out.extend(offers(&add_agent(&mut a, i, 0)));
    }
    // Both take a quarter CPU of every offer and leave the rest for whoever is next. Looked at while both
    // still find something: when the cluster is full, all there is has been taken.
    let mut n = [0; 2];
    let bite = Resources::from_millis(250, 64_000, 0);
    for _ in 0..64 {
        let offer = out.pop_front().unwrap();
        n[usize::from(offer.framework_id == framework(1))] += 1;
        let effects = a.apply(accept(&offer, bite.clone(), Millis(0)), UnixMillis(1));
        out.extend(offers(&effects));
    }
    let ratio = f64::from(n[1]) / f64::from(n[0]);
    assert!((2.2..=3.8).contains(&ratio), "{n:?}");
}

#[test]
fn a_decline_holds_until_it_expires_or_the_framework_revives() {
    let mut a = Allocator::new(config());
    add_framework(&mut a, 0, "*", 0);
    let first = offers(&add_agent(&mut a, 0, 0)).remove(0);
    assert_eq!(a.apply(decline(&first, Millis(5000)), UnixMillis(100)), []);
    assert_eq!(
        a.explain(&framework(0)),
        [Reason::Filtered {
            agent_id: agent(0),
            until: UnixMillis(5120)
        }]
    );
    assert_eq!(a.next_deadline(), Some(UnixMillis(5120)));
    assert_eq!(a.apply(Event::Tick, UnixMillis(5119)), []);
    let second = offers(&a.apply(Event::Tick, UnixMillis(5120))).remove(0);
    a.apply(decline(&second, Millis(5000)), UnixMillis(5200));
    let revive = Event::Revive {
        framework_id: framework(0),
    };
    assert_eq!(offers(&a.apply(revive, UnixMillis(5300))).len(), 1);
}

#[test]
fn offers_that_are_sat_on_come_back() {
    let mut a = Allocator::new(config());
    add_framework(&mut a, 0, "hoarder", 0);
    let held = offers(&add_agent(&mut a, 0, 0)).remove(0);
    add_framework(&mut a, 1, "other", 10);
    assert_eq!(a.next_deadline(), Some(UnixMillis(30_000)));
    let effects = a.apply(Event::Tick, UnixMillis(30_000));
    let [
        Effect::Rescind {
            offer_id, reason, ..
        },
        Effect::Offer(next),
    ] = effects.as_slice()
    else {
        panic!("{effects:?}");
    };
    assert_eq!(
        (offer_id, *reason),
        (&held.offer_id, RescindReason::Timeout)
    );
    assert_eq!(next.framework_id, framework(1));
    let late = a.apply(accept(&held, task(1000), Millis(0)), UnixMillis(30_001));
    assert_eq!(reject(&late), Rejection::StaleOffer(held.offer_id));
}

#[test]
fn bad_accepts_change_nothing() {
    let mut a = Allocator::new(config());
    add_framework(&mut a, 0, "*", 0);
    let one = offers(&add_agent(&mut a, 0, 0)).remove(0);
    let two = offers(&add_agent(&mut a, 1, 0)).remove(0);
    add_framework(&mut a, 1, "*", 0);
    let ids = |ids: &[&OfferId]| ids.iter().map(|i| (*i).clone()).collect::<Vec<_>>();
    let unknown = OfferId::new("t-O77").unwrap();
    let negative = Resources::from_millis(-1, 0, 0);
    for (who, offer_ids, used, want) in [
        (0, vec![], task(1), Rejection::NoOffers),
        (
            0,
            ids(&[&one.offer_id, &one.offer_id]),
            task(1),
            Rejection::DuplicateOffer(one.offer_id.clone()),
        ),
        (
            0,
            ids(&[&one.offer_id, &two.offer_id]),
            task(1),
            Rejection::MixedAgents {
                first: agent(0),
                second: agent(1),
            },
        ),
        (
            0,
            ids(&[&one.offer_id, &unknown]),
            task(1),
            Rejection::StaleOffer(unknown.clone()),
        ),
        (
            1,
            ids(&[&one.offer_id]),
            task(1),
            Rejection::ForeignOffer {
                offer_id: one.offer_id.clone(),
                framework_id: framework(1),
            },
        ),
        (
            0,
            ids(&[&one.offer_id]),
            task(4001),
            Rejection::Overuse {
                asked: Box::new(task(4001)),
                offered: Box::new(node()),
            },
        ),
        (
            0,
            ids(&[&one.offer_id]),
            negative.clone(),
            Rejection::Negative(negative.clone()),
        ),
        (
            9,
            vec![],
            task(1),
            Rejection::UnknownFramework(framework(9)),
        ),
    ] {
        let books =
            |a: &Allocator| format!("{:?}", (a.offers().collect::<Vec<_>>(), a.next_deadline()));
        let before = books(&a);
        let event = Event::Accepted {
            framework_id: framework(who),
            offer_ids,
            used,
            refuse: Millis(0),
        };
        assert_eq!(reject(&a.apply(event, UnixMillis(1))), want);
        assert_eq!(books(&a), before);
        a.check().unwrap();
    }
}

#[test]
fn usage_that_does_not_add_up_is_refused() {
    let mut a = Allocator::new(config());
    let two_holders = vec![
        (
            framework(0),
            task(1).with_ports(PortSet::from_ports([31000])),
        ),
        (
            framework(1),
            task(1).with_ports(PortSet::from_ports([31000])),
        ),
    ];
    for used in [vec![(framework(0), task(5000))], two_holders] {
        let event = Event::AgentAdded {
            info: info(0, node()),
            used,
        };
        assert_eq!(
            reject(&a.apply(event, UnixMillis(0))),
            Rejection::UsedExceedsTotal {
                agent_id: agent(0),
                total: node()
            }
        );
    }
    let nothing = Event::Released {
        framework_id: framework(0),
        agent_id: agent(0),
        resources: task(1),
    };
    assert_eq!(
        reject(&a.apply(nothing, UnixMillis(0))),
        Rejection::UnknownAgent(agent(0))
    );
}

#[test]
fn usage_is_found_again_when_a_framework_comes_after_its_agents() {
    let mut a = Allocator::new(config());
    let event = Event::AgentAdded {
        info: info(0, node()),
        used: vec![(framework(0), task(2000))],
    };
    a.apply(event, UnixMillis(0));
    add_framework(&mut a, 0, "r", 1);
    let offered = a.offers().next().map(|(o, _)| o).unwrap();
    a.apply(decline(&offered, Millis(1000)), UnixMillis(2));
    assert_eq!(a.dominant_share("r").to_string(), "0.5000");
    a.check().unwrap();
}

#[test]
fn inactive_agents_are_not_offered_and_say_so() {
    let mut a = Allocator::new(config());
    add_framework(&mut a, 0, "*", 0);
    let offer = offers(&add_agent(&mut a, 0, 0)).remove(0);
    let off = Event::AgentDeactivated { agent_id: agent(0) };
    let effects = a.apply(off, UnixMillis(1));
    assert!(matches!(
        effects.as_slice(),
        [Effect::Rescind { offer_id, reason: RescindReason::AgentDeactivated, .. }] if *offer_id == offer.offer_id
    ));
    assert_eq!(
        a.explain(&framework(0))[0].to_string(),
        "a0: the agent is inactive"
    );
    let on = Event::AgentActivated { agent_id: agent(0) };
    assert_eq!(offers(&a.apply(on, UnixMillis(2))).len(), 1);
}

/// Found by `xtask bench utilization`: a decline used to outrank fairness for as long as somebody else kept accepting.
#[test]
fn one_decline_does_not_starve_a_framework_behind_a_greedy_one() {
    let mut a = Allocator::new(config());
    add_framework(&mut a, 0, "modest", 0);
    let made = offers(&add_agent(&mut a, 0, 0));
    a.apply(decline(&made[0], Millis(1000)), UnixMillis(0));
    let mut free = offers(&add_framework(&mut a, 1, "greedy", 1));
    // The greedy one takes everything; then one task after the other ends, long after the filter is gone.
    a.apply(accept(&free[0], node(), Millis(0)), UnixMillis(1));
    let mut takers = Vec::new();
    for i in 0..4 {
        let event = Event::Released {
            framework_id: framework(1),
            agent_id: agent(0),
            resources: Resources::from_millis(100, 0, 0),
        };
        let now = UnixMillis(5000 + i);
        free = offers(&a.apply(event, now));
        assert_eq!(free.len(), 1, "what is freed is offered at once");
        takers.push(free[0].framework_id.clone());
        a.apply(accept(&free[0], free[0].resources.clone(), Millis(0)), now);
    }
    assert!(takers.contains(&framework(0)), "{takers:?}");
    assert!(
        takers[1..].iter().all(|t| *t == framework(0)),
        "once it was asked again, its share decides: {takers:?}"
    );
}

/// Found by the law of the bounded wait: a new subscription used to be as if nothing had been held.
#[test]
fn who_subscribes_again_and_again_goes_after_those_who_wait() {
    let mut a = Allocator::new(config());
    add_framework(&mut a, 0, "restless", 0);
    add_agent(&mut a, 0, 0);
    // The one that waits has the larger share.
    let event = Event::AgentAdded {
        info: info(1, node()),
        used: vec![(framework(1), node())],
    };
    a.apply(event, UnixMillis(0));
    add_framework(&mut a, 1, "waits", 0);
    let effects = add_framework(&mut a, 0, "restless", 1);
    let made = offers(&effects);
    assert_eq!(made[0].framework_id, framework(1), "{effects:?}");
    a.check().unwrap();
}
