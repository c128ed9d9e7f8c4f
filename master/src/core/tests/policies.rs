//! Network policies: refused by field, stored, told to every node with what they select by.

use std::collections::BTreeMap;

use waggle_types::{
    LabelTest, NetworkMatch, NetworkMode, NetworkPolicy, RejectReason, TaskSelector,
};

use super::*;

fn policy(network: &str) -> NetworkPolicy {
    NetworkPolicy {
        name: "closed".into(),
        selects: TaskSelector {
            network: NetworkMatch::Named(network.into()),
            labels: BTreeMap::from([("tier".into(), LabelTest::Is("db".into()))]),
            ..TaskSelector::default()
        },
        audit: false,
        ingress: Some(Vec::new()),
        egress: None,
    }
}

fn set(policy: NetworkPolicy, force: bool) -> OperatorCall {
    OperatorCall::SetPolicy { policy, force }
}

#[test]
fn who_names_nobody_is_refused() {
    let mut w = World::new();
    w.join(1);
    let mut refused = |policy| {
        let all = w.operate(set(policy, false)).unwrap_err();
        (all[0].reason, all[0].object.clone())
    };
    let invalid = |field: &str| (RejectReason::Invalid, field.to_owned());
    assert_eq!(refused(policy("dcos")), invalid("selects"));
    assert_eq!(refused(policy("nowhere")), invalid("selects.network"));
    let unsaid = NetworkPolicy {
        ingress: None,
        ..policy("dcos")
    };
    assert_eq!(refused(unsaid), invalid("ingress"));
    w.operate(set(policy("dcos"), true)).unwrap();
    let name = "other".to_owned();
    let unknown = w.operate(OperatorCall::RemovePolicy { name }).unwrap_err();
    assert_eq!(unknown[0].reason, RejectReason::UnknownPolicy);
}

#[test]
fn nodes_are_told_of_policies_and_of_what_they_select_by() {
    let mut w = World::new();
    w.join(1);
    let mut spec = service("/db", 1, "/db:80");
    spec.container.network = NetworkMode::Container("dcos".to_owned());
    spec.ports.clear();
    spec.labels.insert("tier".into(), "db".into());
    spec.labels.insert("secret".into(), "x".into());
    w.put(spec, PutMode::Create, false).unwrap();
    w.run_all();
    let subject = |w: &World| w.net().tasks.values().next().unwrap().subject.clone();
    assert_eq!(subject(&w), None, "nobody asks");
    // The service is there: no need to force it.
    w.operate(set(policy("dcos"), false)).unwrap();
    w.pass(20_000);
    assert_eq!(w.net().policies.len(), 1);
    let told = subject(&w).unwrap();
    assert_eq!(
        (told.network.as_str(), told.service.as_str()),
        ("dcos", "/db")
    );
    let labels = BTreeMap::from([("tier".to_owned(), "db".to_owned())]);
    assert_eq!(told.labels, labels, "what no policy asks for is not told");
    w.restart();
    w.join(1);
    w.pass(20_000);
    assert_eq!(*w.net().policies["closed"], policy("dcos"));
    let name = "closed".to_owned();
    w.operate(OperatorCall::RemovePolicy { name }).unwrap();
    w.pass(20_000);
    assert!(w.net().policies.is_empty());
    assert!(w.net().tasks.values().all(|t| t.subject.is_none()));
}
