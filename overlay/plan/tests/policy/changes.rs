//! Laws: tables say what the reference says; no write leads to a verdict that neither the old nor the new policies have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use proptest::prelude::*;
use waggle_overlay_plan::policy::{
    Direction, Limits, Lowering, Peer, PolicyWorld, Report, Tables, Verdict, evaluate,
};

use waggle_types::PolicyPeer;

use crate::{
    cases::{policy, rule, task, world as world_of},
    kernel::Kernel,
    reference,
    worlds::{TOLD, TestFlow, flow, world},
};

const NOW: u32 = 1000;

type Told = BTreeMap<(IpAddr, IpAddr), BTreeSet<String>>;

fn told() -> impl Strategy<Value = Vec<(TestFlow, usize)>> {
    prop::collection::vec((flow(), 0..TOLD.len()), 0..12)
}

fn learn(lowering: &mut Lowering, kernel: &mut Kernel, told: &[(TestFlow, usize)]) -> Told {
    let mut all = Told::new();
    for (flow, name) in told {
        let name = TOLD[*name];
        for write in lowering.learn(flow.task, name, &[(flow.peer, 60)], NOW) {
            kernel.write(&write);
        }
        all.entry((flow.task, flow.peer))
            .or_default()
            .insert(name.to_owned());
    }
    all
}

fn expect(world: &PolicyWorld, flow: &TestFlow, told: &Told) -> Verdict {
    let none = BTreeSet::new();
    let names = told.get(&(flow.task, flow.peer)).unwrap_or(&none);
    reference::verdict(
        world,
        flow.direction,
        flow.task,
        flow.peer,
        (flow.protocol, flow.port),
        names,
    )
}

/// A rule that allows everything is not told from no rule.
fn plain(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Open => Verdict::Allowed,
        other => other,
    }
}

/// Addresses that no rule's net contains any more come to the number of all such, whose rules change.
#[test]
fn who_comes_where_rules_change_finds_the_new_ones() {
    let outward = |audit, net: &str| {
        let net: waggle_types::IpNet = net.parse().unwrap();
        let except = Vec::new();
        let mut p = policy("p", "db");
        p.audit = audit;
        p.egress = Some(vec![rule(vec![PolicyPeer::Cidr { net, except }], &[])]);
        world_of(vec![p], vec![task(1, "blue", "db")])
    };
    let (before, after) = (outward(false, "::/0"), outward(true, "0.0.0.0/0"));
    let mut lowering = Lowering::new(Limits::default());
    let mut kernel = Kernel::default();
    for write in lowering.change(&before, NOW).0 {
        kernel.write(&write);
    }
    let flow = |peer: &str| TestFlow {
        direction: Direction::Egress,
        task: before.tasks[0].ips[0],
        peer: peer.parse().unwrap(),
        protocol: 6,
        port: 80,
    };
    let (left, met) = (flow("2001:db8::1"), flow("203.0.113.9"));
    assert_eq!(kernel.verdict(&left, NOW), Verdict::Allowed);
    assert_eq!(kernel.verdict(&met, NOW), Verdict::Denied);
    for write in lowering.change(&after, NOW).0 {
        kernel.write(&write);
        assert!(kernel.verdict(&left, NOW).passes(), "{write:?}");
    }
    assert_eq!(kernel.verdict(&left, NOW), Verdict::Audited);
    assert_eq!(kernel.verdict(&met, NOW), Verdict::Allowed);
    assert_eq!(kernel.tables(), *lowering.tables());
}

fn of_tables(tables: &Tables, flow: &TestFlow) -> Verdict {
    tables.verdict(
        flow.direction,
        flow.task,
        flow.peer,
        (flow.protocol, flow.port),
        NOW,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn tables_say_what_the_reference_says(
        world in world(),
        told in told(),
        flows in prop::collection::vec(flow(), 1..60),
    ) {
        let mut lowering = Lowering::new(Limits::default());
        let mut kernel = Kernel::default();
        let (writes, report) = lowering.change(&world, NOW);
        prop_assert_eq!(report, Report::default());
        for write in &writes {
            kernel.write(write);
        }
        let all = learn(&mut lowering, &mut kernel, &told);
        // What was told to whom may use it is remembered; what to others is not.
        let used = lowering.tables().names.clone();
        for flow in flows.iter().chain(told.iter().map(|(f, _)| f)) {
            let known: Told = all
                .iter()
                .filter(|(key, _)| used.contains_key(key))
                .map(|(key, names)| (*key, names.clone()))
                .collect();
            let wanted = plain(expect(&world, flow, &known));
            prop_assert_eq!(plain(of_tables(lowering.tables(), flow)), wanted, "{:?}", flow);
            prop_assert_eq!(plain(kernel.verdict(flow, NOW)), wanted, "{:?}", flow);
            prop_assert_eq!(plain(expect(&world, flow, &all)), wanted, "a name that was told and is not used: {:?}", flow);
        }
        prop_assert_eq!(&kernel.tables(), lowering.tables());
        // Nothing changes: nothing is written.
        let (writes, _) = lowering.change(&world, NOW);
        prop_assert!(writes.is_empty(), "{:?}", writes);
    }

    #[test]
    fn between_two_policies_is_no_third(
        before in world(),
        after in world(),
        keep_tasks in any::<bool>(),
        restart in any::<bool>(),
        told in told(),
        flows in prop::collection::vec(flow(), 1..30),
    ) {
        let mut after = after;
        if keep_tasks {
            after.tasks.clone_from(&before.tasks);
        }
        let mut lowering = Lowering::new(Limits::default());
        let mut kernel = Kernel::default();
        for write in lowering.change(&before, NOW).0 {
            kernel.write(&write);
        }
        learn(&mut lowering, &mut kernel, &told);
        if restart {
            // Another process, which has nothing but the kernel's tables.
            lowering = Lowering::new(Limits::default());
            lowering.adopt(kernel.tables());
        }
        let old: Vec<_> = flows.iter().map(|f| kernel.verdict(f, NOW)).collect();
        let (writes, _) = lowering.change(&after, NOW);
        let new: Vec<_> = flows.iter().map(|f| of_tables(lowering.tables(), f)).collect();
        for write in &writes {
            kernel.write(write);
            for (n, flow) in flows.iter().enumerate() {
                let now = kernel.verdict(flow, NOW);
                prop_assert!(
                    now.passes() == old[n].passes() || now.passes() == new[n].passes(),
                    "{:?} after {:?}: {:?}, neither {:?} nor {:?}", flow, write, now, old[n], new[n]
                );
            }
        }
        for (n, flow) in flows.iter().enumerate() {
            prop_assert_eq!(kernel.verdict(flow, NOW), new[n]);
        }
        prop_assert_eq!(&kernel.tables(), lowering.tables());
    }

    #[test]
    fn the_evaluator_says_what_the_reference_says(
        world in world(),
        flows in prop::collection::vec(flow(), 40),
    ) {
        for flow in flows {
            let Some(task) = world.tasks.iter().find(|t| t.is_here && t.ips.contains(&flow.task)) else {
                continue;
            };
            let none = BTreeSet::new();
            let subject = world.tasks.iter().find(|t| t.ips.contains(&flow.peer));
            let subject = subject.map(|t| Arc::clone(&t.subject));
            let pooled = world.networks.values().flatten().any(|p| p.contains(flow.peer));
            let (is_node, is_resolver) =
                (world.nodes.contains(&flow.peer), world.resolvers.contains(&flow.peer));
            let peer = match &subject {
                Some(subject) => Peer::Task(subject),
                None if pooled && !is_node && !is_resolver => Peer::Unknown,
                None => Peer::Address { ip: flow.peer, is_node, is_resolver, names: &none },
            };
            let said = evaluate(&world.policies, flow.direction, &task.subject, &peer, (flow.protocol, flow.port));
            let wanted = expect(&world, &flow, &Told::new());
            prop_assert_eq!(said.allowed, wanted.passes(), "{:?} {:?}", flow, said);
            if said.allowed && wanted == Verdict::Audited {
                prop_assert!(!said.would_be_allowed);
            }
            prop_assert_eq!(said.selected_by.is_empty(), wanted == Verdict::Open);
        }
    }
}

#[test]
fn both_directions_are_there() {
    assert_eq!(Direction::ALL.map(Direction::name), ["egress", "ingress"]);
}
