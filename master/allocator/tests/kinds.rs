//! Ports and custom kinds in shares and quota, case by case.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use common::kinds::with_custom;
use common::{accept, add_agent, add_framework, agent, config, info, node, offers};
use waggle_allocator::{Allocator, Effect, Event, MAX_KINDS, Rejection};
use waggle_types::{Milli, Millis, PortSet, Quota, RangeSet, Resources, ScalarKind, UnixMillis};

const NOW: UnixMillis = UnixMillis(1000);

fn add_custom(a: &mut Allocator, i: usize) -> Vec<Effect> {
    let event = Event::AgentAdded {
        info: info(i, with_custom(node())),
        used: Vec::new(),
    };
    a.apply(event, NOW)
}

fn limit(kind: &str, units: i64) -> Quota {
    Quota {
        limit: [(kind.to_owned(), Milli::units(units))].into(),
        ..Quota::default()
    }
}

fn set(a: &mut Allocator, role: &str, quota: Quota, force: bool) -> Vec<Effect> {
    let role = role.into();
    a.apply(Event::QuotaSet { role, quota, force }, NOW)
}

fn rejection(effects: &[Effect]) -> Rejection {
    match effects {
        [Effect::Rejected { reason, .. }] => reason.clone(),
        other => panic!("not one rejection: {other:?}"),
    }
}

#[test]
fn shares_are_of_every_kind() {
    let mut a = Allocator::new(config());
    add_framework(&mut a, 0, "r", 1000);
    let offer = offers(&add_custom(&mut a, 0)).remove(0);
    // Of 4 CPUs 1/8, of 10 ports 3, of 4 licenses 2, of 8 vlans 6, of 3 zones 1.
    let mut used = Resources::from_millis(500, 0, 0).with_ports(PortSet::from_ports(31000..31003));
    let share = |used: &Resources| {
        let mut a = a.clone();
        a.apply(accept(&offer, used.clone(), Millis(60_000)), NOW);
        a.check().unwrap();
        a.dominant_share("r").to_string()
    };
    assert_eq!(share(&used), "0.3000");
    used.custom.set_items("zones", ["x".to_owned()].into());
    assert_eq!(share(&used), "0.3333");
    used.custom.set_scalar("licenses", Milli(2000));
    assert_eq!(share(&used), "0.5000");
    used.custom
        .set_ranges("vlans", RangeSet::from_ports(100..106));
    assert_eq!(share(&used), "0.7500");
}

#[test]
fn limits_cut_to_whole_numbers_and_items() {
    let mut a = Allocator::new(config());
    add_custom(&mut a, 0);
    let mut quota = limit("ports", 3);
    quota.limit.insert("vlans".into(), Milli(2999));
    quota.limit.insert("zones".into(), Milli::units(1));
    quota.limit.insert("licenses".into(), Milli(1500));
    assert_eq!(set(&mut a, "r", quota, false), []);
    let offer = offers(&add_framework(&mut a, 0, "r", 1000)).remove(0);
    assert_eq!(
        offer.resources.to_string(),
        "cpus:4; mem:4096; disk:10240; ports:[31000-31002]; disk.fast:2048; licenses:1.5; vlans:[100-101]; zones:{x}"
    );
    let limits = a.explain_role("r").unwrap();
    assert_eq!(limits.charged["ports"], Milli::units(3));
    assert_eq!(limits.may_get["vlans"], Milli(999));
    a.check().unwrap();
}

#[test]
fn quota_of_a_kind_that_nobody_has_needs_force() {
    let mut a = Allocator::new(config());
    add_agent(&mut a, 0, 1000);
    let unknown = Rejection::UnknownKind {
        role: "r".into(),
        kind: "licenses".into(),
    };
    assert_eq!(
        rejection(&set(&mut a, "r", limit("licenses", 1), false)),
        unknown
    );
    assert!(matches!(
        rejection(&set(&mut a, "r", limit("no kind", 1), true)),
        Rejection::Field(_)
    ));
    assert_eq!(set(&mut a, "r", limit("licenses", 1), true), []);
    // Agents that have it come later, and it holds.
    let offer = offers(&add_framework(&mut a, 0, "r", 1000)).remove(0);
    assert_eq!(offer.agent_id, agent(0));
    let offer = offers(&add_custom(&mut a, 1)).remove(0);
    assert_eq!(offer.resources.custom.scalar("licenses"), Milli(1000));
    // Without the quota and the agent the row is free, and the kind unknown again.
    set(&mut a, "r", Quota::default(), false);
    let agent_id = agent(1);
    a.apply(Event::AgentRemoved { agent_id }, NOW);
    assert_eq!(
        rejection(&set(&mut a, "r", limit("licenses", 1), false)),
        unknown
    );
    a.check().unwrap();
}

#[test]
fn a_cluster_has_so_many_kinds_and_not_more() {
    let mut a = Allocator::new(config());
    add_framework(&mut a, 0, "r", 1000);
    let with = |range: std::ops::Range<usize>| {
        let mut total = node();
        for i in range {
            total.custom.set_scalar(format!("k{i}"), Milli(1000));
        }
        total
    };
    let join = |a: &mut Allocator, i: usize, total: Resources| {
        let info = info(i, total);
        let used = Vec::new();
        a.apply(Event::AgentAdded { info, used }, NOW)
    };
    let full = Rejection::Full {
        what: "kinds of resources",
        max: MAX_KINDS,
    };
    assert_eq!(rejection(&join(&mut a, 0, with(0..12))), full);
    assert_eq!(offers(&join(&mut a, 0, with(0..11))).len(), 1);
    assert_eq!(rejection(&join(&mut a, 1, with(11..12))), full);
    assert_eq!(
        rejection(&set(&mut a, "r", limit("k11", 1), true)),
        full.clone()
    );
    assert_eq!(a.stats().n_rejected, 3);
    assert_eq!(offers(&join(&mut a, 1, with(3..9))).len(), 1, "known ones");
    // It comes back with others in their place.
    assert_eq!(offers(&join(&mut a, 0, with(6..14))).len(), 1);
    assert_eq!(rejection(&join(&mut a, 2, with(2..3))), full);
    a.check().unwrap();
    // Nor more of one kind than can be counted.
    let mut total = node();
    total.custom.set_ranges(
        "k6",
        RangeSet::from_ranges([waggle_types::Interval {
            begin: 0,
            end: u64::MAX,
        }]),
    );
    assert!(matches!(
        rejection(&join(&mut a, 2, total)),
        Rejection::Full { what, .. } if what.starts_with("units")
    ));
    let mut total = node();
    total.scalars[ScalarKind::Cpus as usize] = Milli(i64::MAX);
    assert!(matches!(
        rejection(&join(&mut a, 2, total)),
        Rejection::Full { .. }
    ));
    let mut total = node();
    total.custom.set_scalar("not a name", Milli(1));
    assert!(matches!(
        rejection(&join(&mut a, 2, total)),
        Rejection::Field(_)
    ));
    a.check().unwrap();
}

#[test]
fn a_lower_limit_takes_offers_back() {
    let mut a = Allocator::new(config());
    add_agent(&mut a, 0, 1000);
    add_agent(&mut a, 1, 1000);
    let made = offers(&add_framework(&mut a, 0, "r", 1000));
    assert_eq!(made.len(), 2);
    let effects = set(&mut a, "r", limit("cpus", 5), false);
    assert!(
        matches!(
            effects[0],
            Effect::Rescind {
                reason: waggle_allocator::RescindReason::Limited,
                ..
            }
        ),
        "{effects:?}"
    );
    let again = offers(&effects);
    assert_eq!(again[0].resources.get(ScalarKind::Cpus), Milli(1000));
    a.check().unwrap();
}
