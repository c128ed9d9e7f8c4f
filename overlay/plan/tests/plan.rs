//! A plan that is kept as things change is what a plan made anew would be; preferences for what is near.

mod common;

use std::{collections::BTreeMap, net::SocketAddr};

use common::{agent_id, any_snapshot, placed, small, task_id, task_mut};
use proptest::prelude::*;
use waggle_overlay_plan::{Fact, LocalFacts, MapOp, Plan, apply, render, table};
use waggle_types::{
    Generation, HealthState, Locality, NetSnapshot, Policy, Protocol, TaskId, TaskState, VipKey,
    VipLabel,
};

type Facts = BTreeMap<TaskId, Option<Fact>>;

#[derive(Debug, Clone)]
enum Step {
    Snapshot(Box<NetSnapshot>),
    Facts(Facts),
    Here(u8),
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let fact = (
        prop::sample::select(TaskState::ALL.to_vec()),
        prop::sample::select(vec![HealthState::Unhealthy, HealthState::Healthy]),
        any::<Option<bool>>(),
    )
        .prop_map(|(state, health, ready)| Fact {
            state,
            health,
            ready,
        });
    let id = "[a-f]".prop_map(|s| task_id(&s));
    prop::collection::btree_map(id, prop::option::of(fact), 0..3)
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => any_snapshot().prop_map(|s| Step::Snapshot(Box::new(s))),
        2 => any_facts().prop_map(Step::Facts),
        1 => (1u8..6).prop_map(Step::Here),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn a_kept_plan_is_what_a_new_one_would_be(steps in prop::collection::vec(any_step(), 1..12)) {
        let mut plan = Plan::new(None);
        let mut generation = 0;
        for step in steps {
            let before = plan.table().clone();
            let ops = match step {
                Step::Snapshot(mut s) => {
                    generation += 1;
                    s.generation = Generation(generation);
                    plan.replace(&s)
                }
                Step::Facts(facts) => plan.local_facts(&facts),
                Step::Here(i) => plan.set_here(agent_id(i)),
            };
            // Each op once, and together they are the change.
            prop_assert_eq!(&apply(&ops, &before), plan.table());
            for op in &ops {
                match op {
                    MapOp::Set { key, set } => prop_assert_ne!(before.get(key), Some(set)),
                    MapOp::Remove { key } => prop_assert!(before.contains_key(key)),
                }
            }
            let mut anew = Plan::new(plan.here().cloned());
            anew.replace(plan.snapshot());
            let facts = plan.local().iter().map(|(id, f)| (id.clone(), Some(*f))).collect();
            anew.local_facts(&facts);
            prop_assert_eq!(anew.table(), plan.table());
            if plan.here().is_none() {
                prop_assert_eq!(&table(plan.snapshot(), plan.local()), plan.table());
            }
        }
    }
}

const WEB: &str = "11.0.0.1:80/tcp web.marathon.l4lb.thisdcos.directory ->";

/// The web VIP's line, seen from agent `here`, of which agents 1 and 3 share a zone.
fn web_from(here: u8, snapshot: &NetSnapshot) -> String {
    let mut plan = Plan::new(Some(agent_id(here)));
    plan.replace(snapshot);
    let text = render::table(plan.table());
    text.lines()
        .next()
        .unwrap_or_default()
        .replace(WEB, "")
        .trim()
        .to_owned()
}

#[test]
fn near_backends_are_preferred_where_there_are_some() {
    let mut s = small();
    s.agents = [placed(1, true), placed(2, true), placed(3, true)].into();
    for id in ["web.1", "web.2"] {
        task_mut(&mut s, id).ports[0].balance.locality = Locality::Node;
    }
    let (one, two) = ("10.0.0.1:31001", "10.0.0.2:31002");
    assert_eq!(web_from(1, &s), format!("{one} {two} (drains)"));
    assert_eq!(web_from(2, &s), format!("{one} (drains) {two}"));
    // Nobody here, but one in the zone.
    assert_eq!(web_from(3, &s), format!("{one} {two} (drains)"));
    // Not when it is unwell.
    task_mut(&mut s, "web.1").health = HealthState::Unhealthy;
    assert_eq!(web_from(1, &s), format!("{one} (drains) {two}"));
    assert_eq!(web_from(9, &s), format!("{one} (drains) {two}"));
}

#[test]
fn ipv6_vips_lead_to_ipv6_addresses_of_agents_that_have_one() {
    let mut s = small();
    let key = VipKey {
        protocol: Protocol::Tcp,
        ip: "fd01:c::7".parse().unwrap(),
        port: 80,
    };
    s.literal_vips.push(key);
    for id in ["web.1", "web.2"] {
        let label = VipLabel::parse("l", "[fd01:c::7]:80").unwrap();
        task_mut(&mut s, id).ports[0].vips.push(label);
    }
    let agent = s.agents.get_mut(&agent_id(2)).unwrap();
    agent.ip6 = Some("fd00::2".parse().unwrap());
    let text = render::explained(&s, &LocalFacts::new());
    let want = "\
[fd01:c::7]:80/tcp (literal)
  web.1 - out: neither it nor its agent has an address of that family
  web.2 [fd00::2]:31002 in
";
    assert!(text.ends_with(want), "{text}");
    let table = table(&s, &LocalFacts::new());
    let serving: Vec<SocketAddr> = table[&key].serving().collect();
    assert_eq!(serving, ["[fd00::2]:31002".parse().unwrap()]);
}

#[test]
fn labels_shape_the_set() {
    let mut s = small();
    let ports = &mut task_mut(&mut s, "web.1").ports;
    ports[0].balance.weight = 5;
    ports[0].balance.policy = Policy::LeastConnections;
    ports[0].balance.affinity_s = 60;
    let want = "10.0.0.1:31001 (weight 5) 10.0.0.2:31002 by least-connections affinity 60 s";
    assert_eq!(web_from(1, &s), want);
    // Weight 0 drains, even where nobody is left.
    task_mut(&mut s, "web.1").ports[0].balance.weight = 0;
    s.tasks.remove("web.2");
    assert!(web_from(1, &s).starts_with("10.0.0.1:31001 (drains) by"));
    assert_eq!(
        table(&s, &LocalFacts::new())
            .values()
            .next()
            .unwrap()
            .serving()
            .count(),
        0
    );
}
