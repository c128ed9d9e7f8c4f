//! Names of CONTRACTS section 3, and answers that resolvers can rely on.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

mod common;

use common::{any_snapshot, small, task_id, task_mut};
use proptest::prelude::*;
use rstest::rstest;
use std::net::IpAddr;

use waggle_overlay_plan::{
    DnsName, LocalFacts, NameError, Outcome, Question, RData, RType, Reason, Verdict, render, zone,
    zone::{HealthPolicy, Rule, Scope, ZoneOptions, reverse_address, reverse_name, zone_with},
};
use waggle_types::{AgentId, HealthState, NetSnapshot, TaskNet, TaskState};

fn ask(snapshot: &NetSnapshot, name: &str, rtype: RType) -> (Outcome, Vec<String>) {
    let zone = zone(snapshot, &LocalFacts::new(), 3);
    let answer = zone.answer(&Question::new(name, rtype).unwrap());
    let texts = |rrs: &[_]| -> Vec<String> { rrs.iter().map(render::record).collect() };
    let mut out = texts(&answer.answers);
    out.extend(
        texts(&answer.authority)
            .iter()
            .map(|r| format!("auth: {r}")),
    );
    out.extend(
        texts(&answer.additional)
            .iter()
            .map(|r| format!("add: {r}")),
    );
    (answer.outcome, out)
}

#[rstest]
#[case("web.marathon.l4lb.thisdcos.directory", "11.0.0.1")]
#[case("idle.marathon.l4lb.thisdcos.directory", "11.0.0.2")]
#[case("WEB.Marathon.L4LB.thisdcos.DIRECTORY.", "11.0.0.1")]
#[case("web.marathon.dclb.thisdcos.directory", "11.0.0.1")]
#[case("web.marathon.l4lb.thisdcos.global", "11.0.0.1")]
#[case("web.marathon.dclb.thisdcos.global", "11.0.0.1")]
#[case("web.marathon.mesos", "10.0.0.1 10.0.0.2")]
#[case("web.marathon.slave.mesos", "10.0.0.1 10.0.0.2")]
#[case("web.marathon.agentip.dcos.thisdcos.directory", "10.0.0.1 10.0.0.2")]
#[case(
    "web.marathon.containerip.dcos.thisdcos.directory",
    "10.0.0.1 10.0.0.2"
)]
#[case("web.marathon.autoip.dcos.thisdcos.directory", "10.0.0.1 10.0.0.2")]
#[case("cart.shop.marathon.mesos", "10.0.0.2")]
#[case("cart-shop.marathon.mesos", "10.0.0.2")]
#[case("cart-shop.marathon.autoip.dcos.thisdcos.directory", "10.0.0.2")]
#[case("leader.mesos", "10.0.0.1")]
#[case("master.mesos", "10.0.0.1")]
#[case("master0.mesos", "10.0.0.1")]
#[case("marathon.mesos", "10.0.0.1")]
#[case("slave.mesos", "10.0.0.1 10.0.0.2")]
#[case("leader.dcos.thisdcos.directory", "10.0.0.1")]
#[case("master.dcos.thisdcos.directory", "10.0.0.1")]
#[case("ready.spartan", "127.0.0.1")]
#[case("ns.spartan", "198.51.100.1")]
#[case("localhost", "127.0.0.1")]
#[case("zk-1.zk", "10.0.0.1")]
#[case("zk-5.zk", "10.0.0.1")]
#[case("n2.node.dcos.thisdcos.directory", "10.0.0.2")]
fn addresses(#[case] name: &str, #[case] want: &str) {
    let owner = DnsName::parse(name).unwrap();
    let want: Vec<String> = want
        .split(' ')
        .map(|ip| format!("{owner} 5 IN A {ip}"))
        .collect();
    assert_eq!(ask(&small(), name, RType::A), (Outcome::Found, want));
}

#[test]
fn a_named_vip_with_an_ipv6_address_has_both() {
    let mut snapshot = small();
    let lease = snapshot.vips.get_mut(&common::vip_name("web")).unwrap();
    lease.ip6 = Some(waggle_overlay_plan::ipam::twin(lease.ip));
    let name = "web.marathon.l4lb.thisdcos.directory";
    assert_eq!(
        ask(&snapshot, name, RType::AAAA),
        (
            Outcome::Found,
            vec![format!("{name}. 5 IN AAAA fd01:c::b00:1")]
        )
    );
    assert_eq!(ask(&small(), name, RType::AAAA).0, Outcome::NoData);
    let reverse = "1.0.0.0.0.0.b.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.c.0.0.0.1.0.d.f.ip6.arpa";
    assert_eq!(
        ask(&snapshot, reverse, RType::PTR).1,
        [format!("{reverse}. 5 IN PTR {name}.")]
    );
}

#[rstest]
#[case("_web._tcp.marathon.mesos")]
#[case("_http._web._tcp.marathon.mesos")]
fn services(#[case] name: &str) {
    let (outcome, rrs) = ask(&small(), name, RType::SRV);
    assert_eq!(outcome, Outcome::Found);
    // Targets are per task, so that a port is only ever joined with its own task's address.
    assert_eq!(
        rrs,
        [
            format!("{name}. 5 IN SRV 0 0 31001 web-e844k-s1.marathon.mesos."),
            format!("{name}. 5 IN SRV 0 0 31002 web-izm16-s2.marathon.mesos."),
            "add: web-e844k-s1.marathon.mesos. 5 IN A 10.0.0.1".to_owned(),
            "add: web-izm16-s2.marathon.mesos. 5 IN A 10.0.0.2".to_owned(),
        ]
    );
}

const MESOS_SOA: &str = "SOA ns.spartan. support.mesosphere.com. 3 1";

#[rstest]
// A name with nothing below it.
#[case("nobody.marathon.mesos", RType::A, Outcome::NxDomain, "mesos. 1")]
// There, but not of this type.
#[case("web.marathon.mesos", RType::AAAA, Outcome::NoData, "mesos. 1")]
#[case("web.marathon.mesos", RType::SRV, Outcome::NoData, "mesos. 1")]
// Empty non-terminals: other names are below them.
#[case("_tcp.marathon.mesos", RType::A, Outcome::NoData, "mesos. 1")]
#[case("shop.marathon.mesos", RType::A, Outcome::NoData, "mesos. 1")]
#[case(
    "marathon.l4lb.thisdcos.directory",
    RType::A,
    Outcome::NoData,
    "l4lb.thisdcos.directory. 1"
)]
#[case(
    "x.l4lb.thisdcos.directory",
    RType::A,
    Outcome::NxDomain,
    "l4lb.thisdcos.directory. 1"
)]
#[case(
    "x.thisdcos.directory",
    RType::A,
    Outcome::NxDomain,
    "thisdcos.directory. 1"
)]
#[case("x.spartan", RType::A, Outcome::NxDomain, "spartan. 1")]
// Under an alias the SOA's owner is above the name that was asked for.
#[case(
    "x.dclb.thisdcos.directory",
    RType::A,
    Outcome::NxDomain,
    "dclb.thisdcos.directory. 1"
)]
#[case(
    "x.l4lb.thisdcos.global",
    RType::A,
    Outcome::NxDomain,
    "l4lb.thisdcos.global. 1"
)]
fn negative(#[case] name: &str, #[case] rtype: RType, #[case] outcome: Outcome, #[case] soa: &str) {
    let want = vec![format!("auth: {soa} IN {MESOS_SOA}")];
    assert_eq!(ask(&small(), name, rtype), (outcome, want), "{name}");
}

#[rstest]
#[case("example.com")]
#[case(".")]
#[case("directory")]
#[case("other.directory")]
#[case("mesos.example.com")]
#[case("4.3.2.1.in-addr.arpa")]
// Above and beside addresses of the cluster.
#[case("in-addr.arpa")]
#[case("0.0.11.in-addr.arpa")]
#[case("9.0.0.11.in-addr.arpa")]
#[case("x.1.0.0.11.in-addr.arpa")]
#[case("web.l4lb.abc.dcos.directory")]
fn other_names_are_not_ours(#[case] name: &str) {
    assert_eq!(ask(&small(), name, RType::A), (Outcome::NotOurs, vec![]));
    assert!(!Scope::default().is_ours(&DnsName::parse(name).unwrap()));
}

#[test]
fn apexes_have_soa_and_ns() {
    for apex in [
        "mesos",
        "spartan",
        "zk",
        "localhost",
        "1.0.0.11.in-addr.arpa",
        "thisdcos.directory",
        "dcos.thisdcos.directory",
        "l4lb.thisdcos.directory",
        "thisdcos.global",
    ] {
        let (outcome, soa) = ask(&small(), apex, RType::SOA);
        assert_eq!(outcome, Outcome::Found);
        assert_eq!(soa, [format!("{apex}. 5 IN {MESOS_SOA}")]);
        let (_, ns) = ask(&small(), apex, RType::NS);
        assert_eq!(
            ns,
            [
                format!("{apex}. 3600 IN NS ns.spartan."),
                "add: ns.spartan. 5 IN A 198.51.100.1".to_owned()
            ]
        );
    }
}

#[test]
fn zone_transfers_are_refused() {
    for rtype in [RType::AXFR, RType::IXFR] {
        assert_eq!(ask(&small(), "mesos", rtype), (Outcome::Refused, vec![]));
    }
}

#[test]
fn only_running_tasks_have_records_and_local_facts_win() {
    let name = Question::new("cart.shop.marathon.mesos", RType::A).unwrap();
    let mut snapshot = small();
    let outcome = |s: &NetSnapshot, l: &LocalFacts| zone(s, l, 1).answer(&name).outcome;
    assert_eq!(outcome(&snapshot, &LocalFacts::new()), Outcome::Found);
    let dead = LocalFacts::from([(
        task_id("cart.1"),
        (TaskState::Failed, HealthState::Unknown).into(),
    )]);
    assert_eq!(outcome(&snapshot, &dead), Outcome::NxDomain);
    for state in TaskState::ALL {
        task_mut(&mut snapshot, "cart.1").state = state;
        let want = if state == TaskState::Running {
            Outcome::Found
        } else {
            Outcome::NxDomain
        };
        assert_eq!(outcome(&snapshot, &LocalFacts::new()), want, "{state:?}");
    }
}

fn options(health: HealthPolicy) -> ZoneOptions {
    ZoneOptions {
        health,
        ..ZoneOptions::default()
    }
}

/// Addresses of `web.marathon.mesos`, over all kinds of names that the tasks share.
fn web(snapshot: &NetSnapshot, health: HealthPolicy) -> Vec<RData> {
    let zone = zone_with(snapshot, &LocalFacts::new(), 1, &options(health));
    let ask = |name: &str, rtype| -> Vec<RData> {
        let answer = zone.answer(&Question::new(name, rtype).unwrap());
        answer.answers.into_iter().map(|rr| rr.data).collect()
    };
    let out = ask("web.marathon.mesos", RType::A);
    for kind in ["agentip", "containerip", "autoip"] {
        let name = format!("web.marathon.{kind}.dcos.thisdcos.directory");
        assert_eq!(ask(&name, RType::A), out, "{name}");
    }
    // Tasks of one agent share its address.
    assert!(ask("_web._tcp.marathon.mesos", RType::SRV).len() >= out.len());
    out
}

#[test]
fn a_task_with_an_address_of_its_own_has_it_where_nothing_leads_there() {
    let mut snapshot = small();
    let own = std::net::Ipv4Addr::new(172, 31, 254, 2);
    for (id, host_port) in [("web.1", 31001), ("web.2", 0)] {
        let task = task_mut(&mut snapshot, id);
        task.ip = Some(own);
        task.ports[0].host_port = host_port;
    }
    let kinds = |kind: &str| -> Vec<String> {
        let name = format!("web.marathon.{kind}.dcos.thisdcos.directory");
        let (_, found) = ask(&snapshot, &name, RType::A);
        let ip = |r: &String| r.rsplit(' ').next().unwrap().to_owned();
        found.iter().map(ip).collect()
    };
    assert_eq!(kinds("agentip"), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(kinds("containerip"), ["172.31.254.2"]);
    // One is reached through its agent; to the other no port of its agent leads.
    assert_eq!(kinds("autoip"), ["10.0.0.1", "172.31.254.2"]);
}

#[rstest]
#[case::unhealthy(|t: &mut TaskNet| t.health = HealthState::Unhealthy)]
#[case::no_result(|t: &mut TaskNet| t.health = HealthState::Unknown)]
#[case::not_ready(|t: &mut TaskNet| t.ready = Some(false))]
#[case::unreachable(|t: &mut TaskNet| t.agent_id = AgentId::new("a1b2-S3").unwrap())]
fn names_follow_health_unless_none_would_remain(#[case] ail: fn(&mut TaskNet)) {
    let mut snapshot = small();
    let (id, agent) = common::agent(3, false);
    snapshot.agents.insert(id, agent);
    let all = web(&snapshot, HealthPolicy::Aware);
    assert_eq!(all.len(), 2);
    ail(task_mut(&mut snapshot, "web.1"));
    assert_eq!(web(&snapshot, HealthPolicy::Aware), all[1..]);
    assert_eq!(web(&snapshot, HealthPolicy::Ignore).len(), 2);
    // The task's own name stays.
    let own = if snapshot.tasks["web.1"].agent_id.as_str() == "a1b2-S3" {
        "web-e844k-s3.marathon.mesos"
    } else {
        "web-e844k-s1.marathon.mesos"
    };
    assert_eq!(ask(&snapshot, own, RType::A).0, Outcome::Found);
    ail(task_mut(&mut snapshot, "web.2"));
    assert!(!web(&snapshot, HealthPolicy::Aware).is_empty());
    // Who does not run is no last resort.
    task_mut(&mut snapshot, "web.2").state = TaskState::Killing;
    assert_eq!(web(&snapshot, HealthPolicy::Aware).len(), 1);
}

#[test]
fn addresses_of_the_cluster_have_names() {
    let ptr = |ip: &str| {
        ask(
            &small(),
            &reverse_name(ip.parse().unwrap()).to_string(),
            RType::PTR,
        )
    };
    for (ip, name) in [
        ("11.0.0.1", "web.marathon.l4lb.thisdcos.directory."),
        ("10.0.0.1", "n1.node.dcos.thisdcos.directory."),
        ("198.51.100.1", "ns.spartan."),
    ] {
        let (outcome, rrs) = ptr(ip);
        assert_eq!(outcome, Outcome::Found, "{ip}");
        assert_eq!(rrs.len(), 1, "{rrs:?}");
        assert!(rrs[0].ends_with(&format!("5 IN PTR {name}")), "{rrs:?}");
    }
    assert_eq!(ptr("11.0.0.9").0, Outcome::NotOurs);
    // Ours, but without an address of its own.
    let (outcome, rrs) = ask(&small(), "1.0.0.11.in-addr.arpa", RType::A);
    assert_eq!(outcome, Outcome::NoData);
    assert_eq!(
        rrs,
        [format!("auth: 1.0.0.11.in-addr.arpa. 1 IN {MESOS_SOA}")]
    );
}

#[test]
fn a_resolver_on_ipv6_has_records_too() {
    let ip: IpAddr = "fd01:d::c633:6401".parse().unwrap();
    let options = ZoneOptions {
        dns_ips: vec!["198.51.100.1".parse().unwrap(), ip],
        ..ZoneOptions::default()
    };
    let zone = zone_with(&small(), &LocalFacts::new(), 1, &options);
    let ask = |name: &str, rtype| -> Vec<String> {
        let answer = zone.answer(&Question::new(name, rtype).unwrap());
        let all = answer.answers.iter().chain(&answer.additional);
        all.map(render::record).collect()
    };
    assert_eq!(
        ask("ns.spartan", RType::AAAA),
        ["ns.spartan. 5 IN AAAA fd01:d::c633:6401"]
    );
    assert_eq!(ask("mesos", RType::NS).len(), 3);
    let reverse = "1.0.4.6.3.3.6.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.0.0.0.1.0.d.f.ip6.arpa";
    assert_eq!(
        ask(reverse, RType::PTR),
        [format!("{reverse}. 5 IN PTR ns.spartan.")]
    );
}

#[test]
fn a_node_with_ipv6_has_both_addresses_and_names_for_both() {
    let mut snapshot = small();
    let ip = "fd00::7".parse().unwrap();
    for agent in snapshot.agents.values_mut().take(1) {
        agent.ip6 = Some(ip);
    }
    let name = "n1.node.dcos.thisdcos.directory";
    let (_, rrs) = ask(&snapshot, name, RType::AAAA);
    assert_eq!(rrs, [format!("{name}. 5 IN AAAA fd00::7")]);
    let reverse = reverse_name(ip.into()).to_string();
    let (_, rrs) = ask(&snapshot, &reverse, RType::PTR);
    assert_eq!(rrs, [format!("{reverse} 5 IN PTR {name}.")]);
    assert_eq!(
        ask(&snapshot, "web.marathon.mesos", RType::AAAA).0,
        Outcome::NoData
    );
}

#[test]
fn zk_has_five_names_however_many_masters() {
    let mut snapshot = small();
    snapshot.masters = [3, 1, 2].map(|i| [10, 0, 0, i].into()).into();
    let addresses: Vec<String> = (1..=5)
        .flat_map(|i| ask(&snapshot, &format!("zk-{i}.zk"), RType::A).1)
        .map(|rr| rr.rsplit(' ').next().unwrap().to_owned())
        .collect();
    let want = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1", "10.0.0.2"];
    assert_eq!(addresses, want);
    assert_eq!(ask(&snapshot, "zk-6.zk", RType::A).0, Outcome::NxDomain);
}

#[test]
fn a_crypto_id_names_the_zones_again() {
    let scope = Scope::new(Some("8wzdy")).unwrap();
    let options = ZoneOptions {
        scope: scope.clone(),
        ..ZoneOptions::default()
    };
    let zone = zone_with(&small(), &LocalFacts::new(), 1, &options);
    let ask = |name: &str| zone.answer(&Question::new(name, RType::A).unwrap());
    for name in [
        "web.marathon.l4lb.8wzdy.dcos.directory",
        "web.marathon.dclb.8wzdy.dcos.directory",
        "web.marathon.autoip.dcos.8wzdy.dcos.directory",
        "leader.dcos.8wzdy.dcos.directory",
    ] {
        let answer = ask(name);
        assert_eq!(answer.outcome, Outcome::Found, "{name}");
        assert_eq!(answer.answers[0].owner.to_string(), format!("{name}."));
        assert!(scope.is_ours(&answer.answers[0].owner));
    }
    let negative = ask("x.l4lb.8wzdy.dcos.directory");
    assert_eq!(negative.outcome, Outcome::NxDomain);
    let owner = negative.authority[0].owner.to_string();
    assert_eq!(owner, "l4lb.8wzdy.dcos.directory.");
    let other = ask("web.marathon.l4lb.other.dcos.directory");
    assert_eq!(other.outcome, Outcome::NotOurs);
    for bad in ["", "a\u{0}".repeat(40).as_str()] {
        assert!(Scope::new(Some(bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn a_zone_says_what_it_is_made_from() {
    let (_, rrs) = ask(&small(), "_zone.thisdcos.directory", RType::TXT);
    let text = r#""serial=3" "generation=7" "agents=2" "vips=2" "tasks=3""#;
    assert_eq!(rrs, [format!("_zone.thisdcos.directory. 5 IN TXT {text}")]);
}

#[test]
fn a_trace_says_why() {
    let mut snapshot = small();
    task_mut(&mut snapshot, "web.1").health = HealthState::Unhealthy;
    let local = LocalFacts::new();
    let zone = zone(&snapshot, &local, 1);
    let trace = |name: &str| {
        let asked = Question::new(name, RType::A).unwrap();
        zone::trace(&zone, &snapshot, &local, HealthPolicy::Aware, &asked)
    };
    let web = trace("web.marathon.agentip.dcos.thisdcos.global");
    assert_eq!(web.rule.to_string(), "zone dcos.thisdcos.directory.");
    assert_eq!(web.alias.unwrap().0.to_string(), "thisdcos.global.");
    let tasks: Vec<_> = web.tasks.iter().map(|(id, v)| (id.as_str(), *v)).collect();
    let out = Verdict::Excluded(Reason::Unhealthy);
    assert_eq!(tasks, [("web.1", out), ("web.2", Verdict::Eligible)]);
    for name in [
        "_web._tcp.marathon.mesos",
        "_http._web._tcp.marathon.slave.mesos",
        "cart.shop.marathon.mesos",
        "_http._cart.shop._tcp.marathon.mesos",
        "cart-shop.marathon.mesos",
    ] {
        assert!(!trace(name).tasks.is_empty(), "{name}");
    }
    let nobody = trace("a.b.nobody.marathon.mesos");
    assert_eq!(nobody.closest.unwrap().to_string(), "marathon.mesos.");
    assert!(nobody.tasks.is_empty());
    assert_eq!(trace("example.com").rule, Rule::Forward);
    assert_eq!(trace("1.0.0.11.in-addr.arpa").rule, Rule::Reverse);
}

#[test]
fn the_whole_zone() {
    let mut snapshot = small();
    snapshot.tasks.remove("web.2");
    snapshot.tasks.remove("cart.1");
    snapshot.vips.remove(&common::vip_name("idle"));
    let text = render::zone(&zone(&snapshot, &LocalFacts::new(), 3));
    assert_eq!(text, include_str!("golden/zone.txt"));
}

#[test]
fn without_a_leader_its_name_has_no_data() {
    let mut snapshot = small();
    snapshot.leader = None;
    assert_eq!(ask(&snapshot, "leader.mesos", RType::A).0, Outcome::NoData);
}

#[test]
fn odd_task_names_leave_only_their_own_records_out() {
    let mut snapshot = small();
    for (i, name) in ["", "...", &"x".repeat(300), "a..b", "\u{1F41D}"]
        .into_iter()
        .enumerate()
    {
        let mut t = (*snapshot.tasks["cart.1"]).clone();
        t.name = name.into();
        snapshot
            .tasks
            .insert(task_id(&format!("odd.{i}")), t.into());
    }
    assert_eq!(
        ask(&snapshot, "web.marathon.mesos", RType::A).0,
        Outcome::Found
    );
}

#[test]
fn names_are_checked() {
    assert_eq!(
        DnsName::parse("a..b"),
        Err(NameError::EmptyLabel(String::new()))
    );
    assert!(matches!(
        DnsName::parse(&"a".repeat(64)),
        Err(NameError::LongLabel(_))
    ));
    assert!(matches!(
        DnsName::parse(&"a.".repeat(128)),
        Err(NameError::LongName(_))
    ));
    assert_eq!(DnsName::parse("a.B.").unwrap().to_string(), "a.b.");
    let odd = DnsName::from_labels([b"a.\\\x00".as_slice(), b"b"].into_iter()).unwrap();
    assert_eq!(odd.to_string(), "a\\.\\\\\\000.b.");
}

fn any_name() -> impl Strategy<Value = DnsName> {
    let label = prop_oneof![
        prop::sample::select(vec![
            &b"mesos"[..],
            b"marathon",
            b"thisdcos",
            b"directory",
            b"global",
            b"dclb",
            b"l4lb",
            b"dcos",
            b"v1",
            b"a",
            b"_tcp",
            b"spartan",
        ])
        .prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 0..70),
    ];
    prop::collection::vec(label, 0..8).prop_filter_map("no name", |labels| {
        DnsName::from_labels(labels.iter().map(Vec::as_slice)).ok()
    })
}

proptest! {
    #[test]
    fn answers_are_total_and_sound(s in any_snapshot(), name in any_name(), rtype in 0u16..300) {
        let zone = zone(&s, &LocalFacts::new(), 1);
        let rtype = RType(rtype);
        let answer = zone.answer(&Question { name: name.clone(), rtype });
        prop_assert_eq!(answer.outcome != Outcome::NotOurs, zone.is_ours(&name));
        prop_assert!(!Scope::default().is_ours(&name) || zone.is_ours(&name));
        prop_assert_eq!(answer.outcome == Outcome::Found, !answer.answers.is_empty());
        for rr in &answer.answers {
            prop_assert_eq!(&rr.owner, &name);
            prop_assert!(rtype == RType::ANY || rr.data.rtype() == rtype);
        }
        if matches!(answer.outcome, Outcome::NoData | Outcome::NxDomain) {
            prop_assert_eq!(answer.authority.len(), 1);
            prop_assert_eq!(answer.authority[0].data.rtype(), RType::SOA);
            prop_assert!(name.is_within(&answer.authority[0].owner));
        }
    }

    #[test]
    fn every_record_can_be_asked_for_and_nothing_above_it_is_nxdomain(s in any_snapshot()) {
        let zone = zone(&s, &LocalFacts::new(), 1);
        for rr in zone.records() {
            let asked = Question { name: rr.owner.clone(), rtype: rr.data.rtype() };
            prop_assert!(zone.answer(&asked).answers.contains(&rr));
            let mut above = rr.owner.parent();
            while let Some(up) = above {
                let outcome = zone.answer(&Question { name: up.clone(), rtype: RType::A }).outcome;
                prop_assert!(outcome != Outcome::NxDomain, "{} above {}", up, rr.owner);
                above = up.parent();
            }
        }
    }

    #[test]
    fn every_defined_vip_resolves_to_its_lease(s in any_snapshot()) {
        let zone = zone(&s, &LocalFacts::new(), 1);
        for (name, lease) in &s.vips {
            let asked = Question::new(&name.to_string(), RType::A).unwrap();
            let got: Vec<RData> = zone.answer(&asked).answers.into_iter().map(|r| r.data).collect();
            prop_assert_eq!(got, vec![RData::A(lease.ip)]);
        }
    }

    #[test]
    fn every_address_that_a_zone_names_is_there_and_named_back(s in any_snapshot()) {
        let zone = zone(&s, &LocalFacts::new(), 1);
        for rr in zone.records() {
            let RData::Ptr(name) = &rr.data else { continue };
            let ip = reverse_address(&rr.owner).unwrap();
            let rtype = if ip.is_ipv4() { RType::A } else { RType::AAAA };
            let asked = Question { name: name.clone(), rtype };
            let back = zone.answer(&asked).answers;
            prop_assert!(back.iter().any(|rr| rr.data == RData::from(ip)), "{} of {}", ip, name);
        }
        for lease in s.vips.values() {
            let asked = Question { name: reverse_name(lease.ip.into()), rtype: RType::PTR };
            prop_assert_eq!(zone.answer(&asked).outcome, Outcome::Found);
        }
    }

    #[test]
    fn reverse_names_are_one_to_one(v6 in any::<bool>(), bits in any::<u128>()) {
        let v4 = u32::try_from(bits & 0xffff_ffff).unwrap();
        let ip = if v6 { IpAddr::from(bits.to_be_bytes()) } else { IpAddr::from(v4.to_be_bytes()) };
        let name = reverse_name(ip);
        prop_assert_eq!(reverse_address(&name), Some(ip));
        prop_assert_eq!(reverse_address(&name.parent().unwrap()), None);
        prop_assert_eq!(reverse_address(&name.child(b"0").unwrap()), None);
    }

    /// Health never takes a name away that would be there without it, and never adds an address.
    #[test]
    fn health_only_narrows(s in any_snapshot()) {
        let local = LocalFacts::new();
        let zone_of = |health| zone_with(&s, &local, 1, &options(health));
        let (aware, all) = (zone_of(HealthPolicy::Aware), zone_of(HealthPolicy::Ignore));
        let text = DnsName::parse("_zone.thisdcos.directory").unwrap();
        for rr in aware.records().filter(|rr| rr.owner != text) {
            let asked = Question { name: rr.owner.clone(), rtype: rr.data.rtype() };
            prop_assert!(all.answer(&asked).answers.contains(&rr));
        }
        for rr in all.records().filter(|rr| rr.data.rtype() == RType::A) {
            let asked = Question { name: rr.owner.clone(), rtype: RType::A };
            prop_assert_eq!(aware.answer(&asked).outcome, Outcome::Found, "{}", rr.owner);
        }
    }

    #[test]
    fn any_text_is_a_name_or_an_error(text in ".{0,300}") {
        if let Ok(name) = DnsName::parse(&text) {
            let again = DnsName::from_labels(
                name.labels_from_root().collect::<Vec<_>>().into_iter().rev(),
            );
            prop_assert_eq!(again.unwrap(), name);
        }
    }
}
