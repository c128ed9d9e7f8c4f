//! Tables that are full: what doesn't fit is closed, told, and comes in when there is room.

use std::net::IpAddr;

use waggle_overlay_plan::policy::{Direction, Limits, Lowering, Verdict};
use waggle_types::{NetworkPolicy, PolicyPeer};

use crate::cases::{labelled, policy, rule, task, world};

fn closed_db(name: &str, app: &str) -> NetworkPolicy {
    NetworkPolicy {
        ingress: Some(vec![
            rule(vec![PolicyPeer::Tasks(labelled("web"))], &["tcp/80"]),
            rule(vec![PolicyPeer::Tasks(labelled("other"))], &["tcp/81-2000"]),
        ]),
        ..policy(name, app)
    }
}

#[test]
fn what_does_not_fit_is_closed() {
    let tasks = || {
        vec![
            task(1, "blue", "web"),
            task(2, "blue", "db"),
            task(3, "blue", "cache"),
            task(4, "blue", "other"),
        ]
    };
    let policies = || vec![closed_db("a", "db"), closed_db("b", "cache")];
    let verdict = |lowering: &Lowering, to: usize| {
        let all = tasks();
        let (to, from): (IpAddr, IpAddr) = (all[to].ips[0], all[0].ips[0]);
        lowering
            .tables()
            .verdict(Direction::Ingress, to, from, (6, 80), 0)
    };
    let all = Limits::default();
    let cases = [
        (Limits { locals: 1, ..all }, (0, 1)),
        (Limits { pairs: 3, ..all }, (0, 1)),
        (Limits { sets: 1, ..all }, (0, 2)),
        (Limits { blocks: 2, ..all }, (0, 2)),
        (
            Limits {
                addresses: 4,
                ..all
            },
            (6, 0),
        ),
        (Limits { numbers: 4, ..all }, (4, 0)),
    ];
    for (limits, (unknown, closed)) in cases {
        let mut lowering = Lowering::new(limits);
        let (_, report) = lowering.change(&world(policies(), tasks()), 0);
        assert_eq!(
            (report.unknown, report.closed),
            (unknown, closed),
            "{limits:?}"
        );
        let passing = [1, 2].map(|n| verdict(&lowering, n));
        assert!(
            passing.contains(&Verdict::NoState) || unknown > 0,
            "{limits:?}: {passing:?}"
        );
        for verdict in passing {
            assert!(matches!(
                verdict,
                Verdict::Allowed | Verdict::NoState | Verdict::Denied
            ));
        }
    }
    // With less to say there is room.
    let mut lowering = Lowering::new(Limits { pairs: 3, ..all });
    lowering.change(&world(policies(), tasks()), 0);
    let (_, report) = lowering.change(&world(vec![closed_db("b", "cache")], tasks()), 0);
    assert_eq!(report.closed, 0);
    assert_eq!(verdict(&lowering, 2), Verdict::Allowed);
    assert_eq!(verdict(&lowering, 1), Verdict::Open);
}

#[test]
fn ten_thousand_rules_are_ten_thousand_entries() {
    let peers = |n: u32| {
        let net = format!("10.{}.{}.0/24", n / 250, n % 250);
        vec![PolicyPeer::Cidr {
            net: net.parse().unwrap(),
            except: Vec::new(),
        }]
    };
    let rules = (0..10_000_u32).map(|n| rule(peers(n), &[&format!("tcp/{}", 1 + n % 5000)]));
    let many = NetworkPolicy {
        ingress: Some(rules.collect()),
        ..policy("many", "db")
    };
    many.check().unwrap();
    let tasks = vec![task(1, "blue", "db")];
    let mut lowering = Lowering::new(Limits::default());
    let (writes, report) = lowering.change(&world(vec![many.clone()], tasks.clone()), 0);
    assert_eq!(report, waggle_overlay_plan::policy::Report::default());
    assert_eq!(lowering.tables().pairs.len(), 10_000);
    assert!(writes.len() > 20_000);
    // One rule less is a handful of writes.
    let mut fewer = many;
    fewer.ingress.as_mut().unwrap().pop();
    let (writes, _) = lowering.change(&world(vec![fewer], tasks), 0);
    assert!(writes.len() < 10, "{writes:?}");
}
