//! Overlay networks: leases that are given, stored, stable and taken back; typed refusals.

use waggle_types::{AddressPool, AgentSubnet, IpNet, NetworkMode, RejectReason};

use super::{client::reasons, *};

fn pool(net: &str, prefix: u8) -> Network {
    let net: IpNet = net.parse().unwrap();
    Network {
        pool: Some(AddressPool { net, prefix }),
        ..Network::dcos()
    }
}

fn add(name: &str, network: Network) -> OperatorCall {
    let name = name.to_owned();
    OperatorCall::AddNetwork { name, network }
}

fn remove(name: &str) -> OperatorCall {
    let name = name.to_owned();
    OperatorCall::RemoveNetwork { name }
}

/// What the snapshot says that an agent holds.
fn held(w: &World, n: u8) -> String {
    let Some(a) = w.net().agents.get(&agent_id(n)) else {
        return "-".to_owned();
    };
    let nets = a.overlay.subnets.values().flat_map(AgentSubnet::nets);
    let nets: Vec<String> = nets.map(|n| n.to_string()).collect();
    let vtep = a.overlay.vtep.map(|v| v.ip.to_string()).unwrap_or_default();
    format!("{vtep} {}", nets.join(" "))
}

fn on_network(name: &str) -> ServiceSpec {
    let mut spec = service("/web", 1, "/web:80");
    spec.container.network = NetworkMode::Container(name.to_owned());
    spec
}

#[test]
fn agents_get_their_part_and_keep_it() {
    let mut w = World::new();
    assert_eq!(w.net().networks.len(), 2, "as DC/OS");
    w.join(1);
    w.join(2);
    assert_eq!(held(&w, 1), "44.128.0.1 9.0.0.0/24 fd01:b::/80");
    assert_eq!(held(&w, 2), "44.128.0.2 9.0.1.0/24 fd01:b:0:0:1::/80");
    w.restart();
    // They come back in another order.
    w.join(2);
    w.join(1);
    w.pass(20_000);
    assert_eq!(held(&w, 1), "44.128.0.1 9.0.0.0/24 fd01:b::/80");
    assert_eq!(held(&w, 2), "44.128.0.2 9.0.1.0/24 fd01:b:0:0:1::/80");
}

#[test]
fn a_network_comes_and_goes_at_run_time() {
    let mut w = World::new();
    w.join(1);
    w.operate(add("db", pool("10.9.0.0/16", 24))).unwrap();
    assert_eq!(held(&w, 1), "44.128.0.1 10.9.0.0/24 9.0.0.0/24 fd01:b::/80");
    let view = w.view();
    let usage = view.networks["db"].usage;
    assert_eq!((usage.n_held, usage.n_subnets), (1, 256));
    w.operate(remove("dcos6")).unwrap();
    w.restart();
    w.join(1);
    w.pass(20_000);
    assert_eq!(held(&w, 1), "44.128.0.1 10.9.0.0/24 9.0.0.0/24");
    let names: Vec<&String> = w.net().networks.keys().collect();
    assert_eq!(names, ["db", "dcos"], "what was removed stays so");
}

#[test]
fn what_can_not_be_is_refused() {
    let mut w = World::new();
    w.join(1);
    let mut no = |call| reasons(w.operate(call));
    assert_eq!(
        no(add("dcos", pool("10.0.0.0/8", 24))),
        [RejectReason::DuplicateNetwork]
    );
    for network in [
        pool("9.9.0.0/16", 24),
        pool("11.0.0.0/16", 24),
        pool("44.128.0.0/16", 24),
        // The master's own, and the agents' addresses.
        pool("192.168.0.0/16", 24),
        pool("10.0.0.0/8", 30),
    ] {
        assert_eq!(
            no(add("mine", network.clone())),
            [RejectReason::Invalid],
            "{network:?}"
        );
    }
    assert_eq!(no(remove("mine")), [RejectReason::UnknownNetwork]);
    assert_eq!(w.view().networks.len(), 2);
}

#[test]
fn a_network_in_use_stays() {
    let mut w = World::new();
    w.join(1);
    w.put(on_network("dcos"), PutMode::Create, false).unwrap();
    let refused = w.operate(remove("dcos")).unwrap_err();
    assert_eq!(refused[0].reason, RejectReason::NetworkInUse);
    assert_eq!(refused[0].message, "in use by service /web");
    w.run_all();
    w.remove("/web").unwrap();
    let refused = w.operate(remove("dcos")).unwrap_err();
    assert!(
        refused[0].message.starts_with("in use by task"),
        "it still runs"
    );
    w.obey_kills();
    w.operate(remove("dcos")).unwrap();
    let MasterError::Invalid(error) = w
        .put(on_network("dcos"), PutMode::Create, false)
        .unwrap_err()
    else {
        panic!("must be invalid");
    };
    assert_eq!(
        error.to_string(),
        "networks[0].name: must be a network of this cluster, is \"dcos\"; there are dcos6"
    );
}

#[test]
fn what_an_agent_held_rests_before_another_gets_it() {
    let mut w = World::with(|c| {
        c.networks = BTreeMap::from([("small".to_owned(), pool("10.9.0.0/24", 25))]);
        c.lease_rest = Millis::from_secs(60);
    });
    w.join(1);
    w.join(2);
    w.join(3);
    assert_eq!(held(&w, 2), "44.128.0.2 10.9.0.128/25");
    assert_eq!(held(&w, 3), "44.128.0.3 ");
    assert_eq!(w.view().networks["small"].short, [agent_id(3)]);
    let exhausted =
        |m: &&Measure| matches!(m, Measure::NetworkExhausted { network } if network == "small");
    assert_eq!(w.measured.iter().filter(exhausted).count(), 1);
    // Another agent takes the first one's place.
    w.cut(1);
    let old = w.agents.remove(&agent_id(1)).unwrap();
    let info = AgentInfo {
        agent_id: agent_id(4),
        ..old.info
    };
    let fresh = FakeAgent {
        info,
        tasks: BTreeMap::new(),
        executors: BTreeMap::new(),
        session: None,
    };
    w.agents.insert(agent_id(4), fresh);
    w.join(4);
    assert_eq!(held(&w, 4), "44.128.0.4 ");
    w.pass(58_000);
    assert_eq!(held(&w, 3), "44.128.0.3 ");
    w.pass(3_000);
    assert_eq!(held(&w, 3), "44.128.0.3 10.9.0.0/25");
    assert_eq!(w.view().networks["small"].short, [agent_id(4)]);
}

#[test]
fn frameworks_name_networks_that_there_are() {
    let mut w = World::new();
    w.join(1);
    assert!(
        w.core
            .lacks_network(&NetworkMode::Container("dcos".into()))
            .is_none()
    );
    let why = w.core.lacks_network(&NetworkMode::Container("none".into()));
    assert!(
        why.unwrap()
            .starts_with("must be a network of this cluster, is \"none\"")
    );
    assert!(w.core.lacks_network(&NetworkMode::Bridge).is_none());
}

#[test]
fn what_a_gone_agent_held_rests_too() {
    let mut w = World::with(|c| {
        c.networks = BTreeMap::from([("small".to_owned(), pool("10.9.0.0/24", 25))]);
        c.lease_rest = Millis::from_secs(60);
    });
    w.join(1);
    w.join(2);
    w.join(3);
    w.operate(OperatorCall::MarkGone {
        agent_id: agent_id(1),
    })
    .unwrap();
    w.pass(58_000);
    assert_eq!(held(&w, 3), "44.128.0.3 ");
    w.pass(3_000);
    assert_eq!(held(&w, 3), "44.128.0.3 10.9.0.0/25");
    // Nobody who is here lacks one in a network that comes now, but who does is told of once.
    let exhausted =
        |m: &&Measure| matches!(m, Measure::NetworkExhausted { network } if network == "tiny");
    w.operate(add("tiny", pool("10.8.0.0/24", 24))).unwrap();
    assert_eq!(w.measured.iter().filter(exhausted).count(), 1);
}
