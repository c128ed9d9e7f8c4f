//! Numbers for gauges, and what is measured of level 1.

use std::sync::atomic::{AtomicU64, Ordering};

use waggle_types::{Milli, Operation, ScalarKind, SchedulerCall};

use super::{
    client::{batch, task},
    *,
};
use crate::{
    core::{RoleSums, Sums},
    view::AgentMode,
};

/// What agents hold of each network, by the store.
fn networks_of(w: &mut World) -> BTreeMap<String, waggle_overlay_plan::network::Usage> {
    let held = w
        .stored
        .iter()
        .filter(|(key, _)| key.starts_with("overlay/"));
    let held: Vec<serde_json::Value> = held
        .map(|(_, value)| serde_json::from_slice(value).unwrap())
        .filter(|v: &serde_json::Value| v.get("released_ms").is_none())
        .collect();
    let one = |(name, n): (&String, &NetworkView)| {
        let holds = |v: &&serde_json::Value| v["subnets"].get(name).is_some();
        let usage = waggle_overlay_plan::network::Usage {
            n_held: held.iter().filter(holds).count(),
            ..n.usage
        };
        (name.clone(), usage)
    };
    w.view().networks.iter().map(one).collect()
}

/// What the sums must be, by looking at everything.
pub(super) fn recount(w: &mut World) -> Sums {
    let networks = networks_of(w);
    let view = w.view();
    let mut out = Sums {
        deployments: view.deployments.len() as u64,
        networks,
        ..Sums::default()
    };
    let add = |sum: &mut [Milli; 4], r: &Resources| {
        for (s, q) in sum.iter_mut().zip(r.scalars) {
            s.0 += q.0;
        }
    };
    for f in view.frameworks.values() {
        // The built-in one may wait, but is never away.
        out.frameworks[usize::from(!f.connected)] += 1;
    }
    out.tasks.insert("marathon".into(), Default::default());
    for t in view.tasks.values() {
        let framework = view.frameworks.get(&t.spec.framework_id);
        let name = framework.map(|f| f.name.clone()).unwrap_or_default();
        out.tasks.entry(name).or_default()[t.state() as usize] += 1;
        let role = out.roles.entry(t.spec.role.clone()).or_default();
        for (s, q) in role.used.iter_mut().zip(t.spec.quantities.scalars) {
            s.0 += q.0;
        }
    }
    for o in &view.offers {
        let role = out.roles.entry(o.role.clone()).or_default();
        add(&mut role.offered, &o.resources);
    }
    let modes = [
        "unreachable",
        "active",
        "deactivated",
        "draining",
        "drained",
    ];
    out.agents = modes.into_iter().map(|m| (m, 0)).collect();
    for a in view.agents.values() {
        let state = if a.reachable {
            a.mode.name()
        } else {
            "unreachable"
        };
        *out.agents.entry(state).or_default() += 1;
    }
    let allocator = w.core.allocator();
    for agent in allocator.agents() {
        if let Some(total) = allocator.total(agent) {
            add(&mut out.total, total);
            let volumes: i64 = total.custom.volumes().map(|(_, v)| v.size.0).sum();
            out.total[ScalarKind::Disk as usize].0 += volumes;
        }
    }
    for role in allocator.roles() {
        let share = allocator.dominant_share(role).as_f64();
        out.roles.entry(role.to_owned()).or_default().share = Some(share);
    }
    out
}

#[test]
fn sums_follow_what_happens() {
    let mut w = World::new();
    w.join(1);
    w.join(2);
    let c = w.subscribe(batch(None)).unwrap();
    let one = w.offers_of(&c).remove(0);
    w.call(
        &c,
        SchedulerCall::Accept {
            offer_ids: vec![one],
            operations: vec![Operation::Launch(vec![task("t1"), task("t2")])],
            refuse: Millis(60_000),
        },
    )
    .unwrap();
    assert!(
        w.say(&agent_id(1), &task("t1").task_id, TaskState::Running)
            || w.say(&agent_id(2), &task("t1").task_id, TaskState::Running)
    );
    w.operate(OperatorCall::Deactivate {
        agent_id: agent_id(2),
    })
    .unwrap();
    let sums = w.core.sums();
    assert_eq!(sums.tasks["batch"][TaskState::Running as usize], 1);
    assert_eq!(sums.tasks["batch"][TaskState::Staging as usize], 1);
    assert_eq!(sums.roles["batch"].used[0], Milli(2000));
    assert!(sums.roles["batch"].share.unwrap() > 0.0);
    assert_eq!(sums.agents["active"], 1);
    assert_eq!(sums.agents[AgentMode::Deactivated.name()], 1);
    assert_eq!(sums.frameworks, [2, 0]);
    assert_eq!(sums, recount(&mut w));
    w.leave(&c);
    assert_eq!(w.core.sums().frameworks, [1, 1]);
    assert_eq!(
        w.core.sums().roles["batch"].offered,
        RoleSums::default().offered
    );
}

#[test]
fn an_allocation_says_how_long_it_took_and_what_it_did() {
    static NS: AtomicU64 = AtomicU64::new(0);
    let mut w = World::with(|c| c.stopwatch = || NS.fetch_add(7, Ordering::Relaxed));
    w.subscribe(batch(None)).unwrap();
    w.measured.clear();
    w.join(1);
    let made: Vec<_> = w
        .measured
        .iter()
        .filter_map(|m| match m {
            Measure::Allocation {
                ns,
                offers,
                looked_at,
            } => Some((*ns, *offers, *looked_at)),
            _ => None,
        })
        .collect();
    assert!(made.iter().all(|(ns, ..)| *ns == 7), "{made:?}");
    let offers: u64 = made.iter().map(|(_, offers, _)| offers).sum();
    let looked_at: u64 = made.iter().map(|(.., n)| n).sum();
    assert_eq!(offers, 1, "{made:?}");
    assert!(looked_at >= 1, "{made:?}");
}
