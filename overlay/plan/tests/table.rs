//! The VIP table's laws: only eligible backends, exact diffs, and reasons for those who are out.

mod common;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use common::{agent, any_snapshot, small, task_id, task_mut, vip_name};
use proptest::prelude::*;
use waggle_overlay_plan::{
    Fact, LocalFacts, MapOp, Reason, Verdict, apply, diff, explain, ipam, render, table,
};
use waggle_types::{HealthState, NetSnapshot, Protocol, TaskState, VipKey};

fn facts(of: &[(&str, TaskState, HealthState)]) -> LocalFacts {
    of.iter()
        .map(|(id, s, h)| (task_id(id), (*s, *h).into()))
        .collect()
}

/// What the table's text is after a change to the small cluster.
fn check(change: impl FnOnce(&mut NetSnapshot), local: &LocalFacts, want: &[&str]) {
    let mut snapshot = small();
    change(&mut snapshot);
    let text = render::table(&table(&snapshot, local));
    let got: Vec<&str> = text.lines().collect();
    assert_eq!(got, want);
}

const IDLE: &str = "11.0.0.2:5432/tcp idle.marathon.l4lb.thisdcos.directory -> refuses";
const LITERAL: &str = "11.9.9.9:443/tcp (literal) -> 10.0.0.2:31003";
const WEB: &str = "11.0.0.1:80/tcp web.marathon.l4lb.thisdcos.directory ->";

#[test]
fn healthy_tasks_back_their_vips_and_idle_ones_refuse() {
    let web = format!("{WEB} 10.0.0.1:31001 10.0.0.2:31002");
    check(|_| {}, &LocalFacts::new(), &[&web, IDLE, LITERAL]);
}

#[test]
fn states_and_health_that_take_a_backend_out() {
    let drains_text = format!("{WEB} 10.0.0.1:31001 (drains) 10.0.0.2:31002");
    let only_second = format!("{WEB} 10.0.0.2:31002");
    let want = [drains_text.as_str(), IDLE, LITERAL];
    for health in [HealthState::Unhealthy, HealthState::Unknown] {
        let change = |s: &mut NetSnapshot| {
            task_mut(s, "web.1").health = health;
        };
        check(change, &LocalFacts::new(), &want);
    }
    let unready = |s: &mut NetSnapshot| task_mut(s, "web.1").ready = Some(false);
    check(unready, &LocalFacts::new(), &want);
    let ready = |s: &mut NetSnapshot| task_mut(s, "web.1").ready = Some(true);
    let web = format!("{WEB} 10.0.0.1:31001 10.0.0.2:31002");
    check(ready, &LocalFacts::new(), &[&web, IDLE, LITERAL]);
    for state in TaskState::ALL {
        if state != TaskState::Running {
            let change = |s: &mut NetSnapshot| {
                task_mut(s, "web.1").state = state;
            };
            let drains = state == TaskState::Killing;
            let web = if drains { &drains_text } else { &only_second };
            check(change, &LocalFacts::new(), &[web, IDLE, LITERAL]);
        }
    }
}

#[test]
fn without_a_check_unknown_health_is_well() {
    let change = |s: &mut NetSnapshot| {
        let t = task_mut(s, "web.1");
        t.has_check = false;
        t.health = HealthState::Unknown;
    };
    let web = format!("{WEB} 10.0.0.1:31001 10.0.0.2:31002");
    check(change, &LocalFacts::new(), &[&web, IDLE, LITERAL]);
}

#[test]
fn local_facts_win_over_the_snapshot() {
    let dead = facts(&[("web.1", TaskState::Failed, HealthState::Unknown)]);
    let web = format!("{WEB} 10.0.0.2:31002");
    check(|_| {}, &dead, &[&web, IDLE, LITERAL]);
    let alive = facts(&[("web.1", TaskState::Running, HealthState::Healthy)]);
    let web = format!("{WEB} 10.0.0.1:31001 10.0.0.2:31002");
    let lagging = |s: &mut NetSnapshot| {
        let t = task_mut(s, "web.1");
        t.state = TaskState::Starting;
        t.health = HealthState::Unknown;
    };
    check(lagging, &alive, &[&web, IDLE, LITERAL]);
}

#[test]
fn unreachable_agents_are_dropped_unless_none_would_remain() {
    let web = format!("{WEB} 10.0.0.2:31002");
    check(
        |s| s.agents.extend([agent(1, false)]),
        &LocalFacts::new(),
        &[&web, IDLE, LITERAL],
    );
    let web = format!("{WEB} 10.0.0.1:31001 10.0.0.2:31002");
    check(
        |s| s.agents.extend([agent(1, false), agent(2, false)]),
        &LocalFacts::new(),
        &[&web, IDLE, LITERAL],
    );
    // The master may have marked the tasks already; that is no reason to send nobody anywhere.
    check(
        |s| {
            s.agents.extend([agent(1, false), agent(2, false)]);
            for t in s.tasks.values_mut() {
                Arc::make_mut(t).state = TaskState::Unreachable;
            }
        },
        &LocalFacts::new(),
        &[&web, IDLE, LITERAL],
    );
}

#[test]
fn labels_that_no_service_defines_back_nothing() {
    check(
        |s| {
            s.vips.clear();
            s.literal_vips.clear();
        },
        &LocalFacts::new(),
        &[],
    );
}

/// A name has an IPv6 address for those who say that they listen there; others drain nothing and get nothing.
#[test]
fn an_ipv6_twin_leads_to_those_who_say_that_they_listen() {
    let mut snapshot = small();
    let twin = ipam::twin(Ipv4Addr::new(11, 0, 0, 1));
    assert_eq!(twin.to_string(), "fd01:c::b00:1");
    snapshot.vips.get_mut(&vip_name("web")).unwrap().ip6 = Some(twin);
    for agent in snapshot.agents.values_mut() {
        agent.ip6 = Some(Ipv6Addr::new(
            0xfd00,
            0,
            0,
            0,
            0,
            0,
            0,
            agent.ip.octets()[3].into(),
        ));
    }
    task_mut(&mut snapshot, "web.2").ports[0].balance.ipv6 = true;
    let text = render::explained(&snapshot, &LocalFacts::new());
    let of_twin: Vec<&str> = text.lines().skip_while(|l| !l.starts_with('[')).collect();
    assert_eq!(
        of_twin,
        [
            "[fd01:c::b00:1]:80/tcp web.marathon.l4lb.thisdcos.directory",
            "  web.1 [fd00::1]:31001 out: its port has no label LB_IPV6=true",
            "  web.2 [fd00::2]:31002 in",
        ]
    );
    let key = VipKey {
        protocol: Protocol::Tcp,
        ip: twin.into(),
        port: 80,
    };
    let set = &table(&snapshot, &LocalFacts::new())[&key];
    assert_eq!(
        set.backends
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["[fd00::2]:31002"]
    );
}

#[test]
fn explanations_read_well() {
    let mut snapshot = small();
    snapshot.agents.extend([agent(2, false)]);
    task_mut(&mut snapshot, "cart.1").health = HealthState::Unknown;
    assert_eq!(
        render::explained(&snapshot, &LocalFacts::new()),
        "\
11.0.0.1:80/tcp web.marathon.l4lb.thisdcos.directory
  web.1 10.0.0.1:31001 in
  web.2 10.0.0.2:31002 out: its agent is unreachable
11.0.0.2:5432/tcp idle.marathon.l4lb.thisdcos.directory
11.9.9.9:443/tcp (literal)
  cart.1 10.0.0.2:31003 out: no health check has answered yet
"
    );
}

#[test]
fn diffs_read_well() {
    let old = table(&small(), &LocalFacts::new());
    let mut next = small();
    next.tasks.remove("web.2");
    next.literal_vips.clear();
    let ops = diff(&old, &table(&next, &LocalFacts::new()));
    assert_eq!(
        render::ops(&ops),
        "- 11.9.9.9:443/tcp\n+ 11.0.0.1:80/tcp -> 10.0.0.1:31001\n"
    );
}

fn any_facts() -> impl Strategy<Value = LocalFacts> {
    let fact = (
        prop::sample::select(TaskState::ALL.to_vec()),
        prop::sample::select(vec![
            HealthState::Unknown,
            HealthState::Healthy,
            HealthState::Unhealthy,
        ]),
        any::<Option<bool>>(),
    )
        .prop_map(|(state, health, ready)| Fact {
            state,
            health,
            ready,
        });
    prop::collection::btree_map("[a-f]".prop_map(|s| task_id(&s)), fact, 0..3)
}

proptest! {
    #[test]
    fn applying_a_diff_gives_the_new_table(a in any_snapshot(), b in any_snapshot()) {
        let (a, b) = (table(&a, &LocalFacts::new()), table(&b, &LocalFacts::new()));
        let ops = diff(&a, &b);
        prop_assert_eq!(apply(&ops, &a), b.clone());
        prop_assert!(diff(&b, &b).is_empty());
        // Each VIP is touched once at most.
        let keys: BTreeSet<_> = ops.iter().map(MapOp::key).collect();
        prop_assert_eq!(keys.len(), ops.len());
    }

    #[test]
    fn only_eligible_backends(s in any_snapshot(), local in any_facts()) {
        let defined: usize = s.literal_vips.len() + s.vips.values().map(|l| l.ports.len() * (1 + l.ip6.iter().count())).sum::<usize>();
        let vips = table(&s, &local);
        prop_assert_eq!(vips.len(), defined);
        for (key, (name, candidates)) in explain(&s, &local) {
            let set = &vips[&key];
            prop_assert_eq!(&set.name, &name);
            for c in &candidates {
                let t = &s.tasks[&c.task_id];
                let Fact { state, health, ready } = local.get(&c.task_id).copied().unwrap_or(Fact {
                    state: t.state,
                    health: t.health,
                    ready: t.ready,
                });
                let reachable = s.agents.get(&t.agent_id).is_some_and(|a| a.reachable)
                    || local.contains_key(&c.task_id);
                if c.verdict == Verdict::Eligible {
                    prop_assert_eq!(state, TaskState::Running);
                    prop_assert!(reachable);
                }
                if c.verdict.is_in() {
                    prop_assert!(health != HealthState::Unhealthy);
                    prop_assert!(ready != Some(false));
                    prop_assert!(!t.has_check || health == HealthState::Healthy);
                    let share = set.backends[&c.addr.unwrap()];
                    prop_assert!(share.weight_milli >= u32::from(c.balance.weight) * 1000);
                }
                if c.verdict == Verdict::LastResort {
                    prop_assert!(candidates.iter().all(|c| c.verdict != Verdict::Eligible));
                }
                if c.verdict == Verdict::Excluded(Reason::AgentUnreachable) {
                    prop_assert!(candidates.iter().any(|c| c.verdict == Verdict::Eligible));
                }
            }
            // And nobody else.
            for (addr, share) in &set.backends {
                let fits = |c: &waggle_overlay_plan::Candidate| match c.verdict.reason() {
                    None => share.weight_milli == u32::from(c.balance.weight) * 1000,
                    Some(reason) => reason.is_draining() && share.weight_milli == 0,
                };
                prop_assert!(candidates.iter().any(|c| c.addr == Some(*addr) && fits(c)));
            }
        }
    }
}
