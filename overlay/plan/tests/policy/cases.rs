//! Single cases that tell how policies are meant.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use waggle_overlay_plan::policy::{
    Direction, Limits, Lowering, Peer, PolicyWorld, Verdict, WorldTask, evaluate,
};
use waggle_types::{
    LabelTest, NamePattern, NetworkPolicy, PathMatch, PolicyPeer, PolicyRule, PolicySubject,
    TaskSelector,
};

use crate::worlds::{networks, task_ips};

pub fn labelled(value: &str) -> TaskSelector {
    TaskSelector {
        labels: BTreeMap::from([("app".into(), LabelTest::Is(value.into()))]),
        ..TaskSelector::default()
    }
}

pub fn task(n: usize, network: &str, app: &str) -> WorldTask {
    WorldTask {
        ips: task_ips(network, n),
        is_here: true,
        subject: Arc::new(PolicySubject {
            network: network.into(),
            framework: "marathon".into(),
            role: "*".into(),
            service: format!("/{app}"),
            labels: BTreeMap::from([("app".into(), app.into())]),
        }),
    }
}

pub fn policy(name: &str, app: &str) -> NetworkPolicy {
    NetworkPolicy {
        name: name.into(),
        selects: labelled(app),
        audit: false,
        ingress: None,
        egress: None,
    }
}

pub fn rule(peers: Vec<PolicyPeer>, ports: &[&str]) -> PolicyRule {
    PolicyRule {
        peers,
        ports: ports.iter().map(|p| p.parse().unwrap()).collect(),
    }
}

pub fn world(policies: Vec<NetworkPolicy>, tasks: Vec<WorldTask>) -> PolicyWorld {
    PolicyWorld {
        policies: policies.into_iter().map(Arc::new).collect(),
        tasks,
        networks: networks(),
        nodes: ["192.0.2.1".parse().unwrap()].into(),
        resolvers: ["198.51.100.1".parse().unwrap()].into(),
    }
}

fn dials(lowering: &Lowering, task: IpAddr, peer: &str, port: u16, now_s: u32) -> Verdict {
    let peer = peer.parse().unwrap();
    lowering
        .tables()
        .verdict(Direction::Egress, task, peer, (6, port), now_s)
}

#[test]
fn two_networks_with_the_same_labels_do_not_mix() {
    let tasks = vec![
        task(1, "blue", "web"),
        task(2, "blue", "db"),
        task(3, "green", "web"),
        task(4, "green", "db"),
    ];
    let db = NetworkPolicy {
        ingress: Some(vec![rule(
            vec![PolicyPeer::Tasks(labelled("web"))],
            &["tcp/5432"],
        )]),
        ..policy("db", "db")
    };
    let mut lowering = Lowering::new(Limits::default());
    lowering.change(&world(vec![db], tasks.clone()), 0);
    let verdict = |to: usize, from: usize, family: usize| {
        let (to, from) = (tasks[to].ips[family], tasks[from].ips[family]);
        lowering
            .tables()
            .verdict(Direction::Ingress, to, from, (6, 5432), 0)
    };
    for family in 0..2 {
        assert_eq!(verdict(1, 0, family), Verdict::Allowed);
        assert_eq!(verdict(3, 2, family), Verdict::Allowed);
        assert_eq!(verdict(1, 2, family), Verdict::Denied, "green web, blue db");
        assert_eq!(verdict(3, 0, family), Verdict::Denied, "blue web, green db");
    }
    let numbers: BTreeSet<u32> = lowering
        .tables()
        .addresses
        .values()
        .map(|e| e.number)
        .collect();
    // Four kinds of tasks, a node, the resolver.
    assert_eq!(numbers.len(), 6);
}

#[test]
fn tasks_that_are_alike_share_a_number_and_keep_it() {
    let tasks = vec![
        task(1, "blue", "web"),
        task(2, "blue", "web"),
        task(3, "blue", "db"),
    ];
    let mut lowering = Lowering::new(Limits::default());
    let policies = || {
        vec![NetworkPolicy {
            ingress: Some(Vec::new()),
            ..policy("db", "db")
        }]
    };
    lowering.change(&world(policies(), tasks.clone()), 0);
    let number =
        |lowering: &Lowering, n: usize| lowering.tables().addresses[&tasks[n].ips[0]].number;
    assert_eq!(number(&lowering, 0), number(&lowering, 1));
    assert_ne!(number(&lowering, 0), number(&lowering, 2));
    let before = number(&lowering, 0);
    let mut fewer = tasks.clone();
    fewer.remove(1);
    let mut more = policies();
    more.push(NetworkPolicy {
        egress: Some(Vec::new()),
        ..policy("web", "web")
    });
    lowering.change(&world(more, fewer), 0);
    assert_eq!(number(&lowering, 0), before);
}

#[test]
fn a_task_that_nobody_knows_gets_nothing() {
    let new: IpAddr = "9.1.0.77".parse().unwrap();
    let mut lowering = Lowering::new(Limits::default());
    let verdict = |lowering: &Lowering, task| dials(lowering, task, "192.0.2.9", 80, 0);
    assert_eq!(verdict(&lowering, new), Verdict::Open);
    let mut blue = policy("a", "web");
    blue.egress = Some(Vec::new());
    blue.selects.network = waggle_types::NetworkMatch::Named("blue".into());
    lowering.change(&world(vec![blue.clone()], Vec::new()), 0);
    assert_eq!(verdict(&lowering, new), Verdict::NoState);
    let green: IpAddr = "9.2.0.77".parse().unwrap();
    assert_eq!(
        verdict(&lowering, green),
        Verdict::Open,
        "no policy can select it"
    );
    // A policy in audit mode changes nothing.
    blue.audit = true;
    lowering.change(&world(vec![blue], Vec::new()), 0);
    assert_eq!(verdict(&lowering, new), Verdict::Open);
}

#[test]
fn names_open_what_was_told_to_whom_it_was_told_for_as_long_as_was_said() {
    let web = NetworkPolicy {
        egress: Some(vec![rule(
            vec![PolicyPeer::Name(
                NamePattern::parse("*.example.com").unwrap(),
            )],
            &["tcp/443"],
        )]),
        ..policy("web", "web")
    };
    let tasks = vec![
        task(1, "blue", "web"),
        task(2, "blue", "web"),
        task(3, "blue", "db"),
    ];
    let (one, other) = (tasks[0].ips[0], tasks[1].ips[0]);
    let mut lowering = Lowering::new(Limits::default());
    lowering.change(&world(vec![web], tasks.clone()), 0);
    let askers = tasks[..2].iter().flat_map(|t| t.ips.iter().copied());
    assert_eq!(lowering.askers(), askers.collect());
    assert_eq!(
        dials(&lowering, one, "203.0.113.5", 443, 0),
        Verdict::Denied
    );
    // It may ask.
    assert_eq!(
        dials(&lowering, one, "198.51.100.1", 53, 0),
        Verdict::Allowed
    );
    let at: IpAddr = "203.0.113.5".parse().unwrap();
    assert!(
        lowering
            .learn(one, "example.com", &[(at, 60)], 0)
            .is_empty(),
        "not below"
    );
    assert!(
        lowering
            .learn(tasks[2].ips[0], "a.example.com", &[(at, 60)], 0)
            .is_empty()
    );
    assert!(
        !lowering
            .learn(one, "a.example.com", &[(at, 60)], 100)
            .is_empty()
    );
    assert_eq!(
        dials(&lowering, one, "203.0.113.5", 443, 159),
        Verdict::Allowed
    );
    assert_eq!(
        dials(&lowering, one, "203.0.113.5", 80, 159),
        Verdict::Denied
    );
    assert_eq!(
        dials(&lowering, one, "203.0.113.5", 443, 160),
        Verdict::Denied,
        "expired"
    );
    assert_eq!(
        dials(&lowering, other, "203.0.113.5", 443, 159),
        Verdict::Denied,
        "told to the other one"
    );
    // Whoever answers with a task's address opens nothing.
    let db = tasks[2].ips[0];
    assert!(
        lowering
            .learn(one, "a.example.com", &[(db, 60)], 100)
            .is_empty()
    );
    // Many addresses: the ones that expire first give way.
    for n in 0..2000_u32 {
        let at = IpAddr::from((0x0b00_0000 + n).to_be_bytes());
        lowering.learn(one, "b.example.com", &[(at, 100 + n)], 100);
    }
    assert_eq!(lowering.learned().all().count(), 1024);
    assert!(lowering.learned().dropped() > 0);
    assert_eq!(
        dials(&lowering, one, "11.0.7.207", 443, 159),
        Verdict::Allowed
    );
}

#[test]
fn with_no_room_for_names_what_expires_first_gives_way_whoevers_it_is() {
    let web = NetworkPolicy {
        egress: Some(vec![rule(
            vec![PolicyPeer::Name(
                NamePattern::parse("*.example.com").unwrap(),
            )],
            &["tcp/443"],
        )]),
        ..policy("web", "web")
    };
    let tasks = vec![task(1, "blue", "web"), task(2, "blue", "web")];
    let (one, other) = (tasks[0].ips[0], tasks[1].ips[0]);
    let mut lowering = Lowering::new(Limits {
        names: 2,
        ..Limits::default()
    });
    lowering.change(&world(vec![web], tasks), 0);
    let at = |n: u8| IpAddr::from([203, 0, 113, n]);
    for (task, n, ttl) in [(one, 1, 300), (one, 2, 60), (other, 3, 100)] {
        lowering.learn(task, "a.example.com", &[(at(n), ttl)], 0);
    }
    let left: Vec<_> = lowering.tables().names.keys().copied().collect();
    assert_eq!(left, [(one, at(1)), (other, at(3))]);
    assert_eq!(lowering.learned().dropped(), 1);
}

#[test]
fn a_rule_of_two_policies_is_enough_and_audit_is_told() {
    let web = || vec![PolicyPeer::Tasks(labelled("web"))];
    let first = NetworkPolicy {
        ingress: Some(Vec::new()),
        ..policy("closed", "db")
    };
    let second = NetworkPolicy {
        ingress: Some(vec![
            rule(web(), &["tcp/1-100"]),
            rule(web(), &["tcp/5432"]),
        ]),
        ..policy("web", "db")
    };
    let mut audit = NetworkPolicy {
        ingress: Some(Vec::new()),
        ..policy("watch", "cache")
    };
    audit.audit = true;
    let policies: Vec<_> = [first, second, audit].into_iter().map(Arc::new).collect();
    let (db, cache) = (task(1, "blue", "db"), task(2, "blue", "cache"));
    let from = task(3, "blue", "web");
    let peer = Peer::Task(&from.subject);
    let ask = |task: &WorldTask, port| {
        evaluate(
            &policies,
            Direction::Ingress,
            &task.subject,
            &peer,
            (6, port),
        )
    };
    let said = ask(&db, 5432);
    assert!(said.allowed && said.would_be_allowed);
    assert_eq!(said.selected_by, ["closed", "web"]);
    assert_eq!(
        said.rule.map(|r| (r.policy, r.rule)),
        Some(("web".into(), 1))
    );
    assert!(!ask(&db, 101).allowed);
    let said = ask(&cache, 80);
    assert!(said.allowed && !said.would_be_allowed && said.rule.is_none());
    assert!(
        evaluate(&policies, Direction::Egress, &db.subject, &peer, (6, 1))
            .selected_by
            .is_empty()
    );
    let service = TaskSelector {
        service: Some(PathMatch::parse("/*")),
        ..TaskSelector::default()
    };
    assert!(service.matches(&db.subject, None));
}
