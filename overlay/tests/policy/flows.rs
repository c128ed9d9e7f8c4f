//! What belongs to a flow that was allowed passes with it, and only for as long as it is allowed.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use waggle_ebpf_common::policy::verdict;
use waggle_overlay_plan::policy::{Direction, PolicyWorld, WorldTask};
use waggle_types::{
    LabelTest, NamePattern, NetworkPolicy, PolicyPeer, PolicyRule, PolicySubject, TaskSelector,
};

use crate::{
    frame::{ACK, FIN, Packet, SYN},
    rig::Rig,
    worlds::{networks, task_ips},
};

fn app(value: &str) -> TaskSelector {
    TaskSelector {
        labels: BTreeMap::from([("app".into(), LabelTest::Is(value.into()))]),
        ..TaskSelector::default()
    }
}

fn task(n: usize, app: &str) -> WorldTask {
    WorldTask {
        ips: task_ips("blue", n),
        is_here: true,
        subject: Arc::new(PolicySubject {
            network: "blue".into(),
            framework: "marathon".into(),
            role: "*".into(),
            service: format!("/{app}"),
            labels: BTreeMap::from([("app".into(), app.into())]),
        }),
    }
}

pub fn world(policies: Vec<NetworkPolicy>) -> PolicyWorld {
    PolicyWorld {
        policies: policies.into_iter().map(Arc::new).collect(),
        tasks: vec![task(1, "db"), task(2, "web"), task(3, "other")],
        networks: networks(),
        nodes: ["192.0.2.1".parse().unwrap()].into(),
        resolvers: ["198.51.100.1".parse().unwrap()].into(),
    }
}

fn allow(peers: Vec<PolicyPeer>, ports: &[&str]) -> PolicyRule {
    PolicyRule {
        peers,
        ports: ports.iter().map(|p| p.parse().unwrap()).collect(),
    }
}

/// Web may dial db at 5432, and ask it; db may dial nobody.
pub fn db() -> NetworkPolicy {
    NetworkPolicy {
        name: "db".into(),
        selects: app("db"),
        audit: false,
        ingress: Some(vec![allow(
            vec![PolicyPeer::Tasks(app("web"))],
            &["tcp/5432", "udp/53", "icmp"],
        )]),
        egress: Some(Vec::new()),
    }
}

pub fn rig(name: &str) -> Option<Rig> {
    let all: Vec<IpAddr> = (1..10).flat_map(|n| task_ips("blue", n)).collect();
    Rig::new(name, &all).unwrap()
}

/// db, web, other, of one family.
pub fn ips(family: usize) -> [IpAddr; 3] {
    [1, 2, 3].map(|n| task_ips("blue", n)[family])
}

#[test]
fn answers_pass_and_nothing_else() {
    let Some(mut rig) = rig("answers") else {
        return;
    };
    assert!(
        !rig.sends(&Packet::new(ips(0)[0], ips(0)[1], 6, 1, 2)),
        "nobody has said anything yet"
    );
    rig.apply(&world(vec![db()])).unwrap();
    for family in 0..2 {
        let [db, web, other] = ips(family);
        let dial = Packet::new(web, db, 6, 40_000, 5432);
        let answer = dial.back().flags(SYN | ACK);
        assert!(!rig.sends(&answer.clone()), "an answer to nothing");
        assert!(rig.gets(&dial));
        assert!(rig.sends(&answer));
        assert!(rig.sends(&answer.clone().flags(ACK | FIN)));
        assert!(rig.gets(&dial.clone().flags(ACK)));
        assert!(
            !rig.sends(&dial.back().flags(SYN)),
            "a connection of its own"
        );
        assert!(!rig.gets(&Packet::new(web, db, 6, 40_000, 5433)));
        assert!(!rig.gets(&Packet::new(other, db, 6, 40_000, 5432)));

        let ask = Packet::new(web, db, 17, 40_001, 53);
        assert!(!rig.sends(&ask.back()));
        assert!(rig.gets(&ask));
        assert!(rig.sends(&ask.back()));
        assert!(!rig.sends(&Packet::new(db, web, 17, 53, 40_002)));

        let (request, reply) = if family == 0 { (8, 0) } else { (128, 129) };
        let rest = [0, 9, 0, 1];
        assert!(!rig.sends(&Packet::icmp(db, web, reply, &rest)));
        assert!(rig.gets(&Packet::icmp(web, db, request, &rest)));
        assert!(rig.sends(&Packet::icmp(db, web, reply, &rest)));
        assert!(
            !rig.sends(&Packet::icmp(db, web, request, &rest)),
            "the same number, its own request"
        );
        assert!(!rig.sends(&Packet::icmp(db, web, reply, &[0, 8, 0, 1])));
    }
    assert!(rig.count(verdict::ANSWER) >= 8, "{}", rig.counts());
    assert!(rig.count(verdict::NO_FLOW) >= 4, "{}", rig.counts());
}

#[test]
fn errors_pass_with_what_they_are_about() {
    let Some(mut rig) = rig("errors") else { return };
    rig.apply(&world(vec![db()])).unwrap();
    let routers: [IpAddr; 2] = [
        "192.0.2.99".parse().unwrap(),
        "2001:db8::99".parse().unwrap(),
    ];
    for (family, router) in routers.into_iter().enumerate() {
        let [db, web, _] = ips(family);
        let kind = if family == 0 { 3 } else { 2 };
        let about = |packet: &Packet| {
            let mut rest = vec![0, 0, 5, 0];
            rest.extend(packet.ip());
            rest
        };
        let dial = Packet::new(web, db, 6, 40_000, 5432);
        // What the task answered was too long for somebody.
        let error = Packet::icmp(router, db, kind, &about(&dial.back()));
        assert!(!rig.gets(&error), "about nothing");
        assert!(rig.gets(&dial));
        assert!(rig.gets(&error));
        // Nobody listens: the task's own error.
        let ask = Packet::new(web, db, 17, 40_001, 53);
        let refusal = Packet::icmp(db, web, if family == 0 { 3 } else { 1 }, &about(&ask));
        assert!(!rig.sends(&refusal));
        assert!(rig.gets(&ask));
        assert!(rig.sends(&refusal));
        let foreign = Packet::new(web, router, 17, 40_001, 53);
        assert!(
            !rig.sends(&Packet::icmp(db, web, kind, &about(&foreign))),
            "of somebody else"
        );
    }
    assert_eq!(rig.count(verdict::RELATED), 4, "{}", rig.counts());
}

#[test]
fn taking_a_rule_away_ends_what_it_allowed() {
    let Some(mut rig) = rig("removal") else {
        return;
    };
    rig.apply(&world(vec![db()])).unwrap();
    let [db_ip, web, _] = ips(0);
    let dial = Packet::new(web, db_ip, 6, 40_000, 5432);
    assert!(rig.gets(&dial));
    assert!(rig.sends(&dial.back().flags(ACK)));
    // Whatever else changes, it goes on.
    let more = NetworkPolicy {
        name: "other".into(),
        selects: app("other"),
        ..db()
    };
    rig.apply(&world(vec![db(), more])).unwrap();
    assert!(rig.sends(&dial.back().flags(ACK)));
    assert!(rig.gets(&dial.clone().flags(ACK)));
    let mut fewer = db();
    fewer.ingress = Some(Vec::new());
    rig.apply(&world(vec![fewer.clone()])).unwrap();
    assert!(!rig.sends(&dial.back().flags(ACK)), "its answers, too");
    assert!(!rig.gets(&dial.clone().flags(ACK)));
    // Open for what the task dials: that makes the old connection no answer's answer.
    fewer.egress = None;
    rig.apply(&world(vec![fewer])).unwrap();
    assert!(!rig.gets(&dial.clone().flags(ACK)));
    rig.apply(&world(vec![db()])).unwrap();
    assert!(rig.gets(&dial.clone().flags(ACK)));
    rig.apply(&world(Vec::new())).unwrap();
    assert!(rig.gets(&Packet::new(web, db_ip, 6, 1, 2)));
}

#[test]
fn connections_that_were_there_before_policies_go_on_if_they_may() {
    let Some(mut rig) = rig("adopt") else { return };
    rig.apply(&world(Vec::new())).unwrap();
    let [db_ip, web, other] = ips(0);
    let mut policy = db();
    policy.egress = Some(vec![allow(
        vec![PolicyPeer::Tasks(app("other"))],
        &["tcp/443"],
    )]);
    rig.apply(&world(vec![policy])).unwrap();
    // Dialled by web, by the task, and by somebody who may not; first seen in the middle, in either direction.
    let dialled = Packet::new(web, db_ip, 6, 40_000, 5432).flags(ACK);
    assert!(rig.sends(&dialled.back()));
    assert!(rig.gets(&dialled));
    let own = Packet::new(db_ip, other, 6, 40_001, 443).flags(ACK);
    assert!(rig.gets(&own.back()));
    assert!(rig.sends(&own));
    let bad = Packet::new(other, db_ip, 6, 40_002, 5432).flags(ACK);
    assert!(!rig.sends(&bad.back()));
    assert!(!rig.gets(&bad));
}

#[test]
fn audit_passes_and_counts() {
    let Some(mut rig) = rig("audit") else { return };
    let policy = NetworkPolicy {
        audit: true,
        ..db()
    };
    rig.apply(&world(vec![policy])).unwrap();
    let [db_ip, web, other] = ips(0);
    assert!(rig.gets(&Packet::new(web, db_ip, 6, 40_000, 5432)));
    assert_eq!(rig.count(verdict::AUDITED_INGRESS), 0);
    let bad = Packet::new(other, db_ip, 6, 40_000, 5432);
    assert!(rig.gets(&bad) && rig.gets(&bad.clone().flags(ACK)));
    assert_eq!(rig.count(verdict::AUDITED_INGRESS), 2, "{}", rig.counts());
    assert!(rig.sends(&Packet::new(db_ip, other, 17, 1000, 53)));
    assert_eq!(rig.count(verdict::AUDITED_EGRESS), 1, "{}", rig.counts());
    assert!(rig.sends(&bad.back().flags(ACK)), "its answers are answers");
}

#[test]
fn fragments_follow_their_first_one() {
    let Some(mut rig) = rig("fragments") else {
        return;
    };
    rig.apply(&world(vec![db()])).unwrap();
    let [db_ip, web, other] = ips(0);
    let first = Packet {
        fragment: (0, true),
        ..Packet::new(web, db_ip, 17, 40_000, 53)
    };
    let later = Packet {
        fragment: (2, false),
        ..first.clone()
    };
    assert!(!rig.gets(&later));
    assert!(rig.gets(&first));
    assert!(rig.gets(&later));
    assert!(!rig.gets(&Packet {
        id: 8,
        ..later.clone()
    }));
    assert!(!rig.gets(&Packet {
        src: other,
        ..later
    }));
    // A header of ICMP that ends in the middle.
    assert!(!rig.gets(&Packet::icmp(web, db_ip, 3, &[0, 0])));
}

#[test]
fn a_net_of_one_family_says_nothing_of_the_other() {
    let Some(mut rig) = rig("families") else {
        return;
    };
    let net = |net: &str| PolicyPeer::Cidr {
        net: net.parse().unwrap(),
        except: Vec::new(),
    };
    let outside: [IpAddr; 2] = ["203.0.113.9", "2001:db8::9"].map(|ip| ip.parse().unwrap());
    let allowed = [("::/0", 1), ("::/64", 2), ("0.0.0.0/0", 0)];
    for (n, (text, allowed)) in (40_000..).zip(allowed) {
        let policy = NetworkPolicy {
            egress: Some(vec![allow(vec![net(text)], &[])]),
            ..db()
        };
        rig.apply(&world(vec![policy])).unwrap();
        for (family, outside) in outside.into_iter().enumerate() {
            let dial = Packet::new(ips(family)[0], outside, 6, n, 443);
            assert_eq!(rig.sends(&dial), family == allowed, "{text} {outside}");
        }
    }
}

#[test]
fn names_and_new_tasks() {
    let Some(mut rig) = rig("names") else { return };
    let api = NamePattern::parse("api.example.com").unwrap();
    let policy = NetworkPolicy {
        egress: Some(vec![allow(vec![PolicyPeer::Name(api)], &["tcp/443"])]),
        ..db()
    };
    rig.apply(&world(vec![policy.clone()])).unwrap();
    let db_ip = ips(0)[0];
    let outside: IpAddr = "203.0.113.9".parse().unwrap();
    let dial = Packet::new(db_ip, outside, 6, 40_000, 443);
    assert!(!rig.sends(&dial));
    assert!(rig.sends(&Packet::new(
        db_ip,
        "198.51.100.1".parse().unwrap(),
        17,
        40_000,
        53
    )));
    rig.learn(db_ip, "api.example.com", &[(outside, 300)]);
    assert!(rig.sends(&dial));
    assert!(rig.gets(&dial.back().flags(SYN | ACK)));
    assert!(!rig.sends(&Packet::new(db_ip, outside, 6, 40_000, 80)));
    // A restart forgets neither what was told nor what was allowed.
    let mut rig = rig.restart().unwrap();
    assert!(rig.sends(&Packet::new(db_ip, outside, 6, 40_001, 443)));
    rig.apply(&world(vec![policy.clone()])).unwrap();
    assert!(rig.sends(&Packet::new(db_ip, outside, 6, 40_002, 443)));
    assert!(rig.sends(&dial.clone().flags(ACK)));
    // A task that has not been told about gets nothing, then what it may.
    let mut late = world(vec![policy]);
    let new = late.tasks.remove(0);
    rig.apply(&late).unwrap();
    assert!(!rig.sends(&dial) && !rig.gets(&Packet::new(ips(0)[1], new.ips[0], 6, 40_000, 5432)));
    assert!(rig.count(verdict::NO_STATE) >= 2);
    late.tasks.push(new);
    rig.apply(&late).unwrap();
    assert!(rig.gets(&Packet::new(ips(0)[1], db_ip, 6, 40_003, 5432)));
    assert!(
        rig.passes(
            Direction::Ingress,
            &Packet::new(ips(0)[1], db_ip, 6, 40_004, 5432)
        )
        .unwrap()
    );
}
