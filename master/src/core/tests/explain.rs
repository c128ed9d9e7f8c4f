//! Everything that waits or is passed over says why.

use waggle_types::{FrameworkInfo, RoleSubscription, SchedulerCall};

use super::{
    client::batch,
    operators::{cpus, quota, reserve, set_quota, set_weight},
    *,
};
use crate::explain::{FrameworkExplained, RoleExplained};

fn framework(w: &mut World, id: &FrameworkId) -> FrameworkExplained {
    match w.explain(ExplainQuery::Framework(id.clone())).unwrap() {
        Explained::Framework(f) => *f,
        other => panic!("wrong answer {other:?}"),
    }
}

fn role(w: &mut World, role: &str) -> RoleExplained {
    match w.explain(ExplainQuery::Role(role.into())).unwrap() {
        Explained::Role(r) => *r,
        other => panic!("wrong answer {other:?}"),
    }
}

fn codes(f: &FrameworkExplained, at: usize) -> Vec<&'static str> {
    f.roles[at].agents.iter().map(|a| a.because.code).collect()
}

#[test]
fn a_framework_is_told_by_role_and_agent() {
    let mut w = World::new();
    let own = w.core.framework_id().clone();
    assert_eq!(framework(&mut w, &own).general[0].code, "no_agents");
    for n in 1..=3 {
        w.join(n);
    }
    let mut one_agent = quota(0, Some(4000));
    let mem = ("mem".to_owned(), waggle_types::Milli(8_192_000));
    one_agent.limit.extend([mem]);
    w.operate(set_quota("eng", one_agent)).unwrap();
    let c = w
        .subscribe(FrameworkInfo {
            roles: vec![
                RoleSubscription::new("eng"),
                RoleSubscription {
                    suppressed: true,
                    ..RoleSubscription::new("ops")
                },
            ],
            ..batch(None)
        })
        .unwrap();
    let f = framework(&mut w, &c.id);
    assert!(f.connected && f.general.is_empty());
    let held = codes(&f, 0).iter().filter(|c| **c == "holds_offer").count();
    assert_eq!((held, f.roles[0].n_offers), (1, 1), "{f:?}");
    assert!(codes(&f, 0).contains(&"quota"), "{f:?}");
    assert_eq!(
        f.roles[0].headroom.as_ref().unwrap().get("cpus"),
        Some(&waggle_types::Milli(0))
    );
    assert_eq!(codes(&f, 1), ["suppressed"; 3]);
    w.operate(OperatorCall::Deactivate {
        agent_id: agent_id(2),
    })
    .unwrap();
    w.cut(3);
    let offer_ids = w.offers_of(&c);
    let refuse = Millis(60_000);
    w.call(&c, SchedulerCall::Decline { offer_ids, refuse })
        .unwrap();
    let f = framework(&mut w, &c.id);
    assert_eq!(codes(&f, 0)[1..], ["deactivated", "not_connected"], "{f:?}");
    w.leave(&c);
    assert_eq!(framework(&mut w, &c.id).general[0].code, "not_subscribed");
    let nobody = FrameworkId::new("nobody").unwrap();
    assert_eq!(
        w.explain(ExplainQuery::Framework(nobody.clone())),
        Err(MasterError::NoSuchFramework(nobody))
    );
}

#[test]
fn answers_are_bounded_and_count_the_rest() {
    let mut w = World::new();
    for n in 1..=150 {
        w.join(n);
    }
    let c = w.subscribe(batch(None)).unwrap();
    let f = framework(&mut w, &c.id);
    let told = f.roles[0].agents.len();
    let rest: usize = f.roles[0].rest.values().sum();
    assert_eq!(told, crate::explain::MAX_TOLD);
    assert!(told + rest >= 150, "{:?}", f.roles[0].rest);
}

#[test]
fn a_role_is_told_with_quota_weight_and_family() {
    let mut w = World::new();
    w.join(1);
    w.operate(set_weight("eng", 2000)).unwrap();
    w.operate(set_quota("eng", quota(1000, Some(3000))))
        .unwrap();
    w.operate(reserve(1, &["eng/db"], cpus(500))).unwrap();
    let c = w
        .subscribe(FrameworkInfo {
            roles: vec![RoleSubscription::new("eng/batch")],
            ..batch(None)
        })
        .unwrap();
    let r = role(&mut w, "eng");
    assert_eq!((r.weight_milli, r.quota), (2000, quota(1000, Some(3000))));
    assert_eq!(r.subroles, ["eng/batch", "eng/db"]);
    assert_eq!(r.charged["cpus"].0, 3000, "reserved and offered");
    assert_eq!(r.headroom.unwrap()["cpus"].0, 0);
    assert_eq!(role(&mut w, "eng/batch").frameworks, [c.id]);
    assert_eq!(
        w.explain(ExplainQuery::Role("x".into())),
        Err(MasterError::NoSuchRole("x".into()))
    );
}

#[test]
fn an_agent_is_told_with_who_is_passed_over() {
    let mut w = World::new();
    w.join(1);
    w.operate(reserve(1, &["eng"], cpus(4000))).unwrap();
    let c = w.subscribe(batch(None)).unwrap();
    let a = match w.explain(ExplainQuery::Agent(agent_id(1))).unwrap() {
        Explained::Agent(a) => *a,
        other => panic!("wrong answer {other:?}"),
    };
    assert_eq!((a.hostname.as_str(), a.reachable), ("n1", true));
    assert_eq!(a.reserved.len(), 1);
    assert_eq!(a.last_choice.unwrap().framework_id, c.id);
    let mine = a.passed_over.iter().find(|p| p.framework_id == c.id);
    assert!(!mine.unwrap().because.is_empty());
    let nobody = AgentId::new("nobody").unwrap();
    assert_eq!(
        w.explain(ExplainQuery::Agent(nobody.clone())),
        Err(MasterError::NoSuchAgent(nobody))
    );
}
