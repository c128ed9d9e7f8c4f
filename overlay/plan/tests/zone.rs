//! Names of CONTRACTS section 3, and answers that resolvers can rely on.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

mod common;

use common::{any_snapshot, small, task_id};
use proptest::prelude::*;
use rstest::rstest;
use waggle_overlay_plan::{
    DnsName, LocalFacts, NameError, Outcome, Question, RData, RType, render, zone,
};
use waggle_types::{HealthState, NetSnapshot, TaskState};

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
fn addresses(#[case] name: &str, #[case] want: &str) {
    let owner = DnsName::parse(name).unwrap();
    let want: Vec<String> = want
        .split(' ')
        .map(|ip| format!("{owner} 5 IN A {ip}"))
        .collect();
    assert_eq!(ask(&small(), name, RType::A), (Outcome::Found, want));
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
fn other_names_are_not_ours(#[case] name: &str) {
    assert_eq!(ask(&small(), name, RType::A), (Outcome::NotOurs, vec![]));
    assert!(!zone::is_ours(&DnsName::parse(name).unwrap()));
}

#[test]
fn apexes_have_soa_and_ns() {
    for apex in [
        "mesos",
        "spartan",
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
    // Health is no matter here.
    snapshot.tasks.get_mut("cart.1").unwrap().health = HealthState::Unhealthy;
    let outcome = |s: &NetSnapshot, l: &LocalFacts| zone(s, l, 1).answer(&name).outcome;
    assert_eq!(outcome(&snapshot, &LocalFacts::new()), Outcome::Found);
    let dead = LocalFacts::from([(task_id("cart.1"), (TaskState::Failed, HealthState::Unknown))]);
    assert_eq!(outcome(&snapshot, &dead), Outcome::NxDomain);
    for state in TaskState::ALL {
        snapshot.tasks.get_mut("cart.1").unwrap().state = state;
        let want = if state == TaskState::Running {
            Outcome::Found
        } else {
            Outcome::NxDomain
        };
        assert_eq!(outcome(&snapshot, &LocalFacts::new()), want, "{state:?}");
    }
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
        let mut t = snapshot.tasks["cart.1"].clone();
        t.name = name.into();
        snapshot.tasks.insert(task_id(&format!("odd.{i}")), t);
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
        prop_assert_eq!(answer.outcome != Outcome::NotOurs, zone::is_ours(&name));
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
    fn any_text_is_a_name_or_an_error(text in ".{0,300}") {
        if let Ok(name) = DnsName::parse(&text) {
            let again = DnsName::from_labels(
                name.labels_from_root().collect::<Vec<_>>().into_iter().rev(),
            );
            prop_assert_eq!(again.unwrap(), name);
        }
    }
}
