//! The laws of the allocator over random histories, against a slow and naive oracle that keeps its own
//! books from events and effects alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use common::world::{Features, World, split_mix, world_config};
use common::{config, framework, info, node};
use proptest::prelude::*;
use waggle_allocator::{Allocator, Event};
use waggle_types::{Millis, Offer, Resources, UnixMillis};

const FLAT: Features = Features {
    roles: false,
    quota: false,
    reserve: false,
    barriers: false,
    custom: false,
    volumes: false,
};

const ALL: Features = Features {
    roles: true,
    quota: true,
    reserve: true,
    barriers: true,
    custom: true,
    volumes: true,
};

fn live(features: Features, history: &[u64]) -> World {
    let mut world = World::new(features, true);
    for n in history {
        world.step(*n);
    }
    // The same history gives the same effects.
    let mut again = Allocator::new(world_config());
    let mut effects = Vec::new();
    let (events, seen) = world.log.as_ref().unwrap();
    for (event, at) in events {
        effects.extend(again.apply(event.clone(), *at));
    }
    assert_eq!(effects, *seen);
    world
}

fn histories() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(any::<u64>(), 1..120)
}

/// A long history from one seed, the same on every machine.
fn long_run(features: Features, n_events: u64) -> World {
    let mut world = World::new(features, false);
    let mut state = 0;
    for _ in 0..n_events {
        state = split_mix(state);
        world.step(state);
    }
    world
}

/// With `WAGGLE_ALLOCATOR_EVENTS=1000000`, a million steps; two thousand otherwise.
#[test]
fn the_oracle_agrees_over_a_long_history() {
    let n = std::env::var("WAGGLE_ALLOCATOR_EVENTS").ok();
    let n = n.map_or(2000, |n| n.parse().expect("a number of events"));
    let world = long_run(ALL, n);
    eprintln!(
        "{n} steps, {} offers, {} evictions, accepts by operations {:?}",
        world.n_offers, world.n_evicted, world.n_operated
    );
    assert!(world.n_offers > n / 20, "only {} offers", world.n_offers);
    assert!(world.n_evicted > 0);
    let several: u64 = world.n_operated[2..].iter().sum();
    assert!(
        several > n / 500,
        "only {several} accepts of several operations"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Books, filters, fairness and work conservation agree with the oracle after every event.
    #[test]
    fn the_oracle_agrees(history in histories()) {
        live(FLAT, &history);
    }

    /// The same with roles in a tree, weights, several roles to a framework, and demand hints.
    #[test]
    fn the_oracle_agrees_on_roles(history in histories()) {
        live(Features { roles: true, ..FLAT }, &history);
    }

    /// The same with guarantees and limits: limits are never exceeded, headroom is held back.
    #[test]
    fn the_oracle_agrees_on_quota(history in histories()) {
        live(Features { roles: true, quota: true, ..FLAT }, &history);
    }

    /// The same with reservations, refined, lent and taken back.
    #[test]
    fn the_oracle_agrees_on_reservations(history in histories()) {
        live(Features { roles: true, reserve: true, ..FLAT }, &history);
    }

    /// The same with persistent volumes, shared ones too, and several operations in one accept.
    #[test]
    fn the_oracle_agrees_on_volumes(history in histories()) {
        live(Features { roles: true, reserve: true, volumes: true, ..FLAT }, &history);
    }

    /// Custom kinds in shares and quota.
    #[test]
    fn the_oracle_agrees_on_custom_kinds(history in histories()) {
        live(Features { roles: true, quota: true, custom: true, ..FLAT }, &history);
    }

    /// Everything at once.
    #[test]
    fn the_oracle_agrees_on_everything(history in histories()) {
        live(ALL, &history);
    }

    /// A framework that wants something is asked soon, whatever the others do: each of them can turn an
    /// agent down at most twice before it (once, if it has not turned it down itself in this round).
    #[test]
    fn nobody_starves(n_idle in 1usize..40, refuse in 0u64..3000, hold in any::<bool>()) {
        let mut allocator = Allocator::new(config());
        let mut now = 0;
        // The hungry one already has a large share, so that fairness alone would put it last always.
        let used = Resources::from_millis(3000, 1_024_000, 0);
        let event = Event::AgentAdded { info: info(0, node()), used: vec![(framework(0), used)] };
        allocator.apply(event, UnixMillis(now));
        common::add_framework(&mut allocator, 0, "hungry", now);
        let held = common::offers(&allocator.apply(
            Event::Suppress { framework_id: framework(0) }, UnixMillis(now)));
        prop_assert!(held.is_empty());
        let first = allocator.offers().map(|(o, _)| o).collect::<Vec<_>>();
        let mut out: Vec<Offer> = Vec::new();
        for i in 1..=n_idle {
            out.extend(common::offers(&common::add_framework(&mut allocator, i, &format!("r{i}"), now)));
        }
        for o in first {
            out.extend(common::offers(&allocator.apply(common::decline(&o, Millis(0)), UnixMillis(now))));
        }
        allocator.apply(Event::Revive { framework_id: framework(0) }, UnixMillis(now));
        let mut n_before = 0;
        while let Some(offer) = out.pop() {
            if offer.framework_id == framework(0) {
                prop_assert!(n_before <= 2 * n_idle, "{n_before} others were asked first");
                return Ok(());
            }
            n_before += 1;
            prop_assert!(n_before <= 2 * n_idle, "the hungry one is never asked");
            let effects = if hold {
                let at = allocator.next_deadline().expect("an offer is out");
                now = now.max(at.0);
                let mut effects = allocator.apply(Event::Tick, UnixMillis(now));
                while common::offers(&effects).is_empty() {
                    now = allocator.next_deadline().expect("something is free").0;
                    effects = allocator.apply(Event::Tick, UnixMillis(now));
                }
                effects
            } else {
                now += 200;
                allocator.apply(common::decline(&offer, Millis(refuse)), UnixMillis(now))
            };
            out = common::offers(&effects);
        }
        prop_assert!(false, "no offer is out");
    }
}

/// A role that waits for an agent turns down an older offer of it while a new round runs: that counts as its turn in this
/// round, and the other role may turn the agent down twice from then on. `WAGGLE_ALLOCATOR_TRACE=1` prints it.
#[test]
fn two_roles_of_one_framework_wait_for_each_other() {
    let history = "
        2008052735714029080 14184341547598190308 15666082430955571869 8549221440218184576
        10397823940602849577 3731194222412105184 17578856584896774422 2884855384755859406
        9008312942774423013 6366148296472306275 2294259722486199868 823824072968630177
        8817867339854002452 3986601710722225115 525576496459967257 6755855609405274972
        3586718487970400831 3312838438438949911 6690271719431080024 2632474095200538809
        17897789164468295370 14775741368483375008 12105353407550967636 6196948463475524077
        9369580243765387080 2644984903693816874 9311648050795636478 17565337537170622938
        7332377484912322844 9160355352590787137 5811005965078099789 13836557511455247991
        1645131545756215166 2309263595827907791 16925271209193286584 1489298286141432909
        5805976555303088121 3545381961916371996 10348718829455702496
    ";
    let history: Vec<u64> = history
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    live(ALL, &history);
}
