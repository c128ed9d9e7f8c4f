//! Frameworks with several roles, and what they say of each.

use waggle_types::{
    AttributeConstraint, Capabilities, FrameworkInfo, Offer, Predicate, RejectReason,
    RoleSubscription, SchedulerCall, Selector,
};

use super::{
    client::{Client, batch, reasons, task},
    *,
};

fn two_roles() -> FrameworkInfo {
    FrameworkInfo {
        roles: vec![
            RoleSubscription::new("eng"),
            RoleSubscription {
                suppressed: true,
                ..RoleSubscription::new("eng/batch")
            },
        ],
        ..batch(None)
    }
}

fn offers(w: &mut World, c: &Client) -> Vec<Offer> {
    let all = w.view().offers;
    all.iter()
        .filter(|o| o.framework_id == c.id)
        .map(|o| o.as_ref().clone())
        .collect()
}

fn decline(w: &mut World, c: &Client) {
    let offer_ids = w.offers_of(c);
    let refuse = Millis(0);
    w.call(c, SchedulerCall::Decline { offer_ids, refuse })
        .unwrap();
}

#[test]
fn roles_are_suppressed_and_revived_one_by_one() {
    let mut w = World::new();
    let c = w.subscribe(two_roles()).unwrap();
    w.join(1);
    assert_eq!(offers(&mut w, &c)[0].role, "eng", "the other is suppressed");
    let suppress = |roles: &[&str]| SchedulerCall::Suppress {
        roles: roles.iter().map(ToString::to_string).collect(),
    };
    let revive = |roles: &[&str]| SchedulerCall::Revive {
        roles: roles.iter().map(ToString::to_string).collect(),
    };
    w.call(&c, suppress(&["eng"])).unwrap();
    decline(&mut w, &c);
    assert!(offers(&mut w, &c).is_empty());
    assert!(w.view().frameworks[&c.id].suppressed);
    w.call(&c, revive(&["eng/batch"])).unwrap();
    assert_eq!(offers(&mut w, &c)[0].role, "eng/batch");
    let roles = w.view().frameworks[&c.id].roles.clone();
    let suppressed: Vec<(&str, bool)> = roles
        .iter()
        .map(|r| (r.role.as_str(), r.suppressed))
        .collect();
    assert_eq!(suppressed, [("eng", true), ("eng/batch", false)]);
    let called = w.call(&c, revive(&["eng", "ops"]));
    assert_eq!(reasons(called), [RejectReason::NotInRole]);
    assert!(
        w.view().frameworks[&c.id].roles[0].suppressed,
        "nothing half done"
    );
    w.call(&c, revive(&[])).unwrap();
    w.call(&c, suppress(&[])).unwrap();
    assert!(w.view().frameworks[&c.id].suppressed);
}

#[test]
fn a_demand_and_constraints_keep_useless_offers_away() {
    let mut w = World::new();
    w.join(1);
    let smallest = Some(Resources::from_millis(8_000, 0, 0));
    let constraint = AttributeConstraint {
        selector: Selector::Hostname,
        predicate: Predicate::TextEquals("n2".into()),
    };
    let c = w
        .subscribe(FrameworkInfo {
            roles: vec![RoleSubscription {
                smallest: smallest.clone(),
                constraints: vec![vec![constraint.clone()]],
                ..RoleSubscription::new("eng")
            }],
            ..batch(None)
        })
        .unwrap();
    w.join(2);
    assert!(offers(&mut w, &c).is_empty(), "4 CPUs are not 8");
    let demand = |role: &str, smallest| SchedulerCall::Demand {
        role: role.into(),
        smallest,
    };
    w.call(&c, demand("eng", None)).unwrap();
    let got: Vec<String> = offers(&mut w, &c)
        .iter()
        .map(|o| o.hostname.clone())
        .collect();
    assert_eq!(got, ["n2"]);
    assert_eq!(w.view().frameworks[&c.id].roles[0].smallest, None);
    let negative = Some(Resources::from_millis(-1, 0, 0));
    assert_eq!(
        reasons(w.call(&c, demand("eng", negative))),
        [RejectReason::Invalid]
    );
    assert_eq!(
        reasons(w.call(&c, demand("ops", smallest))),
        [RejectReason::NotInRole]
    );
    let bad = AttributeConstraint {
        predicate: Predicate::TextMatches("(".into()),
        ..constraint.clone()
    };
    for constraints in [vec![vec![bad]], vec![vec![constraint; 64]; 17]] {
        let info = FrameworkInfo {
            id: Some(c.id.clone()),
            roles: vec![RoleSubscription {
                constraints,
                ..RoleSubscription::new("eng")
            }],
            ..batch(None)
        };
        let called = w.subscribe(info).map(|_| ());
        assert_eq!(reasons(called), [RejectReason::Invalid]);
    }
    assert!(
        w.view().frameworks[&c.id].connected,
        "a bad subscription does not end the good one"
    );
    assert_eq!(offers(&mut w, &c).len(), 1);
}

#[test]
fn a_new_subscription_replaces_roles_and_both_outlive_the_master() {
    let mut w = World::new();
    w.join(1);
    let c = w.subscribe(two_roles()).unwrap();
    let offer_ids = w.offers_of(&c);
    w.accept(&c, offer_ids, vec![task("t1")]).unwrap();
    let capabilities = Capabilities {
        revocable: true,
        ..Capabilities::default()
    };
    let c = w
        .subscribe(FrameworkInfo {
            id: Some(c.id.clone()),
            roles: vec![RoleSubscription::new("ops")],
            capabilities,
            ..batch(None)
        })
        .unwrap();
    assert_eq!(offers(&mut w, &c)[0].role, "ops");
    let t1 = TaskId::new("t1").unwrap();
    assert_eq!(
        w.view().tasks.get(&t1).unwrap().spec.role,
        "eng",
        "it stays what it was"
    );
    w.restart();
    let f = w.view().frameworks[&c.id].clone();
    assert_eq!(f.roles, [RoleSubscription::new("ops")]);
    assert_eq!(f.capabilities, capabilities);
    w.join(1);
    w.say(&agent_id(1), &t1, TaskState::Finished);
    w.core.allocator().check().unwrap();
    assert!(!w.view().rejections.contains_key("level_1_refused"));
}

#[test]
fn agents_of_other_regions_are_for_those_that_are_aware_of_them() {
    let mut w = World::with(|c| c.region = Some("eu".into()));
    w.join(1);
    w.join(2);
    let domain = |region: &str| waggle_types::Domain {
        region: region.into(),
        zone: "a".into(),
    };
    for (n, region) in [(1, "eu"), (2, "us")] {
        w.agents.get_mut(&agent_id(n)).unwrap().info.domain = Some(domain(region));
        w.join(n);
    }
    let c = w.subscribe(batch(None)).unwrap();
    let got: Vec<_> = offers(&mut w, &c)
        .iter()
        .map(|o| o.agent_id.clone())
        .collect();
    assert_eq!(got, [agent_id(1)]);
    let aware = FrameworkInfo {
        id: Some(c.id.clone()),
        capabilities: Capabilities {
            region_aware: true,
            ..Capabilities::default()
        },
        ..batch(None)
    };
    let c = w.subscribe(aware).unwrap();
    assert_eq!(offers(&mut w, &c).len(), 2);
}
