//! Where instances go: constraints, spread, packing, neighbours; and that what is refused is refused rightly.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{framework_id, node, offer, spec};
use proptest::prelude::*;
use waggle_services::{
    Action, Because, Context, Input, Limits, OpenOffer, Plan, Rule, ServiceScheduler, feasible,
    reconcile, tell,
};
use waggle_types::{
    DeploymentId, Domain, Offer, Operation, Resources, SchedulerCall, SchedulerEvent, ServiceId,
    ServiceSpec, Spread, UnixMillis,
};

fn placed(spec: &ServiceSpec, offers: &[Offer]) -> (Plan, Vec<OpenOffer>) {
    let mut open: Vec<OpenOffer> = offers.iter().cloned().map(OpenOffer::from).collect();
    let context = Context {
        limits: Limits {
            max_instances_per_offer: 100,
            ..Limits::default()
        },
        ..Context::default()
    };
    let plan = reconcile(spec, &[], &mut open, &context, UnixMillis(0));
    (plan, open)
}

/// A node with room for `room` instances in a rack and a zone.
fn place(n: usize, room: i64, rack: Option<u8>, zone: u8) -> Offer {
    let mut o = offer(n, n, Resources::from_millis(500 * room, 128_000 * room, 0));
    o.attributes.clear();
    if let Some(rack) = rack {
        o.attributes.insert("rack".into(), format!("r{rack}"));
    }
    o.domain = Some(Domain {
        region: format!("e{}", zone / 2),
        zone: format!("z{zone}"),
    });
    o
}

fn offers(room: std::ops::Range<i64>) -> impl Strategy<Value = Vec<Offer>> {
    let one = (room, prop::option::weighted(0.9, 0u8..3), 0u8..4);
    prop::collection::vec(one, 1..10).prop_map(|all| {
        let each = all.into_iter().enumerate();
        each.map(|(n, (room, rack, zone))| place(n, room, rack, zone))
            .collect()
    })
}

fn portless(n: u32) -> ServiceSpec {
    let mut s = spec(n);
    s.ports.clear();
    s
}

/// What a field is at a place: written apart from the code.
fn field<'a>(name: &str, o: &'a Offer) -> Option<&'a str> {
    match name {
        "hostname" => Some(&o.hostname),
        "@zone" => o.domain.as_ref().map(|d| d.zone.as_str()),
        "@region" => o.domain.as_ref().map(|d| d.region.as_str()),
        name => o.attributes.get(name).map(String::as_str),
    }
}

fn counts(name: &str, plan: &Plan, offers: &[Offer]) -> BTreeMap<Option<String>, u32> {
    let mut out = BTreeMap::new();
    for l in &plan.launches {
        let v = field(name, &offers[l.offer_idx]).map(str::to_owned);
        *out.entry(v).or_default() += 1;
    }
    out
}

fn constraint() -> impl Strategy<Value = Vec<String>> {
    let name = prop::sample::select(vec!["hostname", "rack", "@zone", "@region"]);
    let operator = prop::sample::select(vec![
        ("UNIQUE", ""),
        ("MAX_PER", "2"),
        ("IS", "r1"),
        ("CLUSTER", ""),
        ("CLUSTER", "z1"),
        ("GROUP_BY", ""),
        ("GROUP_BY", "2"),
        ("LIKE", "[rz][01]"),
        ("UNLIKE", "r0|z0|n1"),
    ]);
    (name, operator).prop_map(|(name, (operator, value))| {
        let mut out = vec![name.to_owned(), operator.to_owned()];
        if !value.is_empty() {
            out.push(value.to_owned());
        }
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Every constraint holds of what is placed, by rules written down apart; and nothing that could be placed waits.
    #[test]
    fn constraints_hold(
        offers in offers(0..4),
        n in 0u32..12,
        constraints in prop::collection::vec(constraint(), 0..3),
    ) {
        let mut s = portless(n);
        s.constraints.clone_from(&constraints);
        let (plan, open) = placed(&s, &offers);
        for c in &constraints {
            let seen = counts(&c[0], &plan, &offers);
            let value = c.get(2).map(String::as_str);
            match (c[1].as_str(), value) {
                ("UNIQUE", _) => prop_assert!(seen.values().all(|n| *n == 1)),
                ("MAX_PER", _) => prop_assert!(seen.values().all(|n| *n <= 2)),
                ("IS" | "CLUSTER", Some(v)) => {
                    prop_assert!(seen.keys().all(|k| k.as_deref() == Some(v)));
                }
                ("CLUSTER", None) => prop_assert!(seen.len() <= 1),
                ("GROUP_BY", least) => {
                    let (max, min) = (seen.values().max(), seen.values().min());
                    if let (Some(max), Some(min)) = (max, min) {
                        prop_assert!(max - min <= 1, "{:?}", seen);
                        let least = least.map_or(0, |v| v.parse::<usize>().unwrap());
                        prop_assert!(*max <= 1 || seen.len() >= least);
                    }
                }
                ("LIKE", _) => {
                    let like = |k: &str| {
                        k.len() == 2
                            && (k.starts_with('r') || k.starts_with('z'))
                            && (k.ends_with('0') || k.ends_with('1'))
                    };
                    let all = seen.keys().all(|k| like(k.as_deref().unwrap_or("")));
                    prop_assert!(all);
                }
                ("UNLIKE", _) => {
                    let like = |k: &Option<String>| matches!(k.as_deref(), Some("r0" | "z0" | "n1"));
                    prop_assert!(!seen.keys().any(like));
                }
                other => prop_assert!(false, "{:?}", other),
            }
            // Who lacks the attribute is taken by `UNLIKE` alone.
            prop_assert!(c[1] == "UNLIKE" || !seen.contains_key(&None));
        }
        // Without constraints, who waits does so for lack of room.
        if constraints.is_empty() && plan.n_waiting > 0 {
            for o in &open {
                prop_assert!(!o.offer.resources.contains(&s.resources));
            }
        }
        // Whoever waits knows why of each offer that was not used.
        let used: BTreeSet<usize> = plan.launches.iter().map(|l| l.offer_idx).collect();
        if n > 0 {
            prop_assert_eq!(used.len() + plan.refusals.len(), offers.len());
        }
        for r in &plan.refusals {
            prop_assert_eq!(r.reason, r.rule.reason());
            prop_assert!(plan.n_waiting == 0 || r.rule != Rule::Unneeded);
        }
    }

    /// With room everywhere, regions, zones and nodes differ by one at most where they have as many below them.
    #[test]
    fn instances_spread_over_fault_domains(
        zones in prop::collection::vec(0u8..4, 1..10),
        n in 0u32..20,
    ) {
        let offers: Vec<Offer> = zones.iter().enumerate().map(|(i, z)| place(i, 40, None, *z)).collect();
        let (plan, _) = placed(&portless(n), &offers);
        prop_assert_eq!(plan.launches.len(), n as usize);
        let even = |all: Vec<u32>| {
            all.iter().max().unwrap_or(&0) - all.iter().min().unwrap_or(&0) <= 1
        };
        let of = |f: &dyn Fn(&Offer) -> String| {
            let mut out: BTreeMap<String, u32> = offers.iter().map(|o| (f(o), 0)).collect();
            for l in &plan.launches {
                *out.get_mut(&f(&offers[l.offer_idx])).unwrap() += 1;
            }
            out
        };
        let region = |o: &Offer| o.domain.clone().unwrap().region;
        let zone = |o: &Offer| o.domain.clone().unwrap().zone;
        prop_assert!(even(of(&region).into_values().collect()));
        for r in of(&region).keys() {
            let zones = of(&|o| format!("{} {}", region(o), zone(o)));
            let here = zones.iter().filter(|(k, _)| k.starts_with(r.as_str()));
            prop_assert!(even(here.map(|(_, n)| *n).collect()));
        }
        for z in of(&zone).keys() {
            let nodes = of(&|o| format!("{} {}", zone(o), o.hostname));
            let here = nodes.iter().filter(|(k, _)| k.starts_with(z.as_str()));
            prop_assert!(even(here.map(|(_, n)| *n).collect()));
        }
    }

    /// Packed instances fill one node before they begin another.
    #[test]
    fn packing_leaves_nodes_empty(rooms in prop::collection::vec(1i64..6, 1..8), n in 0u32..20) {
        let mut s = portless(n);
        s.placement.spread = Spread::Pack;
        let offers: Vec<Offer> = rooms.iter().enumerate().map(|(i, room)| place(i, *room, None, 0)).collect();
        let (plan, open) = placed(&s, &offers);
        let has_room = |o: &&OpenOffer| o.offer.resources.contains(&s.resources);
        let begun = open.iter().filter(|o| o.n_launched > 0);
        prop_assert!(begun.filter(has_room).count() <= 1);
        let all: i64 = rooms.iter().sum();
        prop_assert_eq!(i64::try_from(plan.launches.len()).unwrap(), all.min(n.into()));
    }

    /// What is said to fit on empty nodes does fit there, and one more does not.
    #[test]
    fn what_can_never_run_is_known(
        offers in offers(0..4),
        n in 0u32..30,
        constraints in prop::collection::vec(constraint(), 0..2),
    ) {
        let mut s = portless(n);
        s.constraints = constraints;
        let f = feasible(&s, offers.clone());
        let (plan, _) = placed(&s, &offers);
        prop_assert_eq!(f.n_fit as usize, plan.launches.len());
        prop_assert_eq!(f.n_tried, n);
        if f.n_fit < n {
            // Every node says why it takes no more.
            let refused: u64 = f.rules.values().map(|c| c.n_offers).sum();
            prop_assert_eq!(refused, offers.len() as u64);
            prop_assert!(tell(&s, &f.rules, "node").iter().all(|w| !w.fix.is_empty()));
        } else {
            prop_assert!(f.rules.is_empty());
        }
    }
}

#[test]
fn reasons_are_told_with_counts_and_what_helps() {
    let mut s = portless(4);
    s.resources = Resources::from_millis(4000, 128_000, 0);
    s.constraints = vec![vec!["hostname".into(), "UNIQUE".into()]];
    let big = |n| place(n, 8, Some(0), 0);
    let nodes = vec![big(1), big(2), place(3, 4, None, 0), place(4, 2, None, 0)];
    let f = feasible(&s, nodes);
    assert_eq!((f.n_fit, f.n_tried), (2, 4));
    let told: Vec<String> = tell(&s, &f.rules, "node")
        .into_iter()
        .map(|w| format!("{}\n  {}", w.message, w.fix))
        .collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    UNIQUE hostname: 2 nodes of a hostname that is taken or of none (n1, n2)
      ask for fewer instances, add another hostname, or use MAX_PER
    needs 4 cpus: 2 nodes had less, the most was 2
      ask for at most 2 cpus, free some, or add a node that has more
    ");
}

fn define(s: &mut ServiceScheduler, spec: &ServiceSpec) {
    s.handle(
        Input::Put {
            spec: Box::new(spec.clone()),
            deployment_id: Some(DeploymentId::new("d").unwrap()),
            restart_before: None,
            trace: None,
        },
        UnixMillis(0),
    );
}

/// Offers all that is left of each node, and takes what is launched off it.
fn round(s: &mut ServiceScheduler, free: &mut [Resources], n: &mut usize) {
    let offers: Vec<Offer> = free
        .iter()
        .enumerate()
        .map(|(i, r)| {
            *n += 1;
            offer(*n, i, r.clone())
        })
        .collect();
    let of: BTreeMap<_, usize> = offers
        .iter()
        .enumerate()
        .map(|(i, o)| (o.offer_id.clone(), i))
        .collect();
    let said = s.handle(
        Input::Scheduler(SchedulerEvent::Offers(offers)),
        UnixMillis(1),
    );
    for a in said {
        if let Action::Call(SchedulerCall::Accept {
            offer_ids,
            operations,
            ..
        }) = a
        {
            for t in operations.iter().flat_map(Operation::tasks) {
                let at = of[&offer_ids[0]];
                free[at] = free[at].checked_sub(&t.resources).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Services that must be apart never share a node, whichever of them says so; who must be with another is only
    /// where that runs, and comes there.
    #[test]
    fn neighbours_are_kept(a in 1u32..5, b in 1u32..5, both in any::<bool>(), first in any::<bool>()) {
        let mut s = ServiceScheduler::new(framework_id(), "marathon", 3);
        let id = |t: &str| ServiceId::new(t).unwrap();
        let named = |t: &str, n| ServiceSpec { id: id(t), ..portless(n) };
        let mut one = named("/a", a);
        let mut two = named("/b", b);
        let mut with = named("/c", 1);
        one.placement.apart = [id("/b")].into();
        if both {
            two.placement.apart = [id("/a")].into();
        }
        with.placement.with = [id("/a")].into();
        let order = if first { [&one, &two, &with] } else { [&with, &two, &one] };
        for spec in order {
            define(&mut s, spec);
        }
        let (mut free, mut n) = (vec![node(); 4], 0);
        for _ in 0..4 {
            round(&mut s, &mut free, &mut n);
        }
        let on = |t: &str| -> BTreeSet<String> {
            let i = s.service(&id(t)).unwrap().instances().iter();
            i.map(|i| i.place.hostname.clone()).collect()
        };
        prop_assert!(on("/a").is_disjoint(&on("/b")));
        prop_assert!(on("/c").is_subset(&on("/a")));
        if !on("/a").is_empty() && a < 4 {
            prop_assert_eq!(on("/c").len(), 1);
        }
    }
}

/// Why an instance is where it is can be asked afterwards.
#[test]
fn decisions_are_kept_with_what_was_waited_for() {
    let spec = portless(2);
    let mut s = ServiceScheduler::new(framework_id(), "marathon", 1);
    let put = Input::Put {
        spec: Box::new(spec.clone()),
        deployment_id: None,
        restart_before: None,
        trace: None,
    };
    s.handle(put, UnixMillis(0));
    let mut offered = |offers: Vec<Offer>, at: u64| {
        let event = SchedulerEvent::Offers(offers);
        s.handle(Input::Scheduler(event), UnixMillis(at));
        let service = s.service(&spec.id).unwrap();
        service.decisions().cloned().collect::<Vec<_>>()
    };
    assert!(offered(vec![place(0, 0, None, 0)], 1).is_empty());
    let both = vec![
        place(1, 5, None, 0),
        place(2, 5, None, 2),
        place(3, 0, None, 3),
    ];
    let kept = offered(both, 2);
    let nodes: Vec<&str> = kept.iter().map(|d| d.hostname.as_str()).collect();
    assert_eq!(nodes, ["n1", "n2"], "each in a region of its own");
    for d in &kept {
        assert_eq!((d.n_offers, d.choice.n_fit, d.n_before), (3, 2, 1));
        assert_eq!(d.choice.because, Because::Fewest([0; 3]));
        let why = &d.refused[0].message;
        assert!(why.starts_with("needs 0.5 cpus: 1 offer had less"), "{why}");
        assert_eq!(d.at, UnixMillis(2));
    }
}
