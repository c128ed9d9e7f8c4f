//! What an agent asks its master for after its network has refused something.

use std::net::Ipv4Addr;

use waggle_overlay::overlay::OverlayNetConfig;

use super::*;

/// A node's network without maps and DNS, in a work directory of its own.
async fn net(dir: &std::path::Path) -> Net {
    let config = NodeNetConfig {
        dns_ips: Vec::new(),
        ..NodeNetConfig::new(Ipv4Addr::LOCALHOST)
    };
    Net {
        node: Some(NodeNet::start_resolver(config).await.unwrap()),
        plane: None,
        observer: Arc::default(),
        flow_log: Arc::new(FlowLog::without_disk()),
        requests: Arc::new(Requests::new(
            crate::TraceRequests::Off,
            crate::TraceInject::Off,
            Ipv4Addr::LOCALHOST,
        )),
        flows: Mutex::default(),
        edge: None,
        packets: None,
        overlay: Arc::new(OverlayNet::off(
            OverlayNetConfig {
                node_ip: Ipv4Addr::LOCALHOST,
                pin_dir: dir.join("overlay"),
            },
            "not in this test",
        )),
        encryption: None,
        troubles: Vec::new(),
        since_ns: 0,
        inbox: Inbox::default(),
        wake: Notify::new(),
        settled: AtomicBool::new(false),
        restored: None,
        kept: Kept::new(dir),
    }
}

fn snapshot(generation: u64) -> NetSnapshot {
    NetSnapshot {
        generation: Generation(generation),
        ..NetSnapshot::default()
    }
}

fn change(from: u64, to: u64) -> NetDelta {
    snapshot(from).delta_to(&snapshot(to))
}

/// Applies what waits; the generation that the network has then, and how much it refused.
async fn work(net: &Net) -> (u64, usize) {
    let wanted = net.inbox.with(|w| w.wanted.take()).unwrap();
    let node = net.node.as_ref().unwrap();
    let applied = net.take(node, wanted, &Telemetry::disabled(), "n").await;
    (applied.generation, applied.failures.len())
}

#[tokio::test]
async fn what_was_refused_is_forgotten_so_that_all_of_it_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let net = net(dir.path()).await;
    net.desired(snapshot(5));
    assert_eq!(work(&net).await, (5, 0));
    assert!(net.change(change(5, 6)), "a change of what is here");
    assert_eq!(work(&net).await, (6, 0));

    // A master that has lost its store begins anew, and is refused.
    net.desired(snapshot(2));
    assert_eq!(work(&net).await, (6, 1));
    // Its changes lead nowhere: the first of them asks for the snapshot, none is refused after the other.
    assert!(!net.change(change(2, 3)), "a change of what was refused");
    assert!(net.inbox.with(|w| w.wanted.is_none()), "something waits");

    // The snapshot that then comes is taken, and changes of it.
    net.desired(snapshot(7));
    assert!(net.change(change(7, 8)));
    assert_eq!(work(&net).await, (8, 0));
}

#[tokio::test]
async fn a_snapshot_that_came_meanwhile_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let net = net(dir.path()).await;
    net.desired(snapshot(5));
    assert_eq!(work(&net).await, (5, 0));
    net.desired(snapshot(2));
    let refused = net.inbox.with(|w| w.wanted.take()).unwrap();
    // While it is being refused.
    net.desired(snapshot(9));
    let node = net.node.as_ref().unwrap();
    net.take(node, refused, &Telemetry::disabled(), "n").await;
    assert!(net.change(change(9, 10)));
    assert_eq!(work(&net).await, (10, 0));
}

#[tokio::test]
async fn what_is_done_for_several_is_one_span_with_links() {
    let dir = tempfile::tempdir().unwrap();
    let net = net(dir.path()).await;
    let telemetry = Telemetry::disabled().component("waggle-agent");
    let cause = |n: u8| Cause {
        task_id: TaskId::new(format!("web.{n}")).unwrap(),
        trace: waggle_types::TraceContext {
            trace_id: n.into(),
            span_id: u64::from(n) + 100,
            flags: 1,
        },
    };
    net.desired(NetSnapshot {
        causes: vec![cause(1), cause(2)],
        ..snapshot(5)
    });
    // Overtaken before it was applied: its causes are carried on.
    net.desired(NetSnapshot {
        causes: vec![cause(3)],
        ..snapshot(6)
    });
    let wanted = net.inbox.with(|w| w.wanted.take()).unwrap();
    let node = net.node.as_ref().unwrap();
    net.take(node, wanted, &telemetry, "n1").await;
    let of = |n: u8| telemetry.recent_spans(&format!("{n:032x}")).0;
    let [apply] = <[_; 1]>::try_from(of(1)).unwrap();
    assert_eq!(apply.parent_id, format!("{:016x}", 101));
    assert_eq!(apply.attributes["waggle.generation"], "6");
    let to: Vec<&str> = apply.links.iter().map(|l| l.span_id.as_str()).collect();
    assert_eq!(to, [format!("{:016x}", 102), format!("{:016x}", 103)]);
    assert_eq!((of(2), of(3)), (vec![apply.clone()], vec![apply]));
}

#[test]
fn a_change_of_policies_or_tasks_reaches_the_policies() {
    let touched = |later: NetSnapshot| {
        let delta = snapshot(1).delta_to(&later);
        Touched::by(&Wanted::Change(Arc::new(delta)))
    };
    assert_eq!(touched(snapshot(2)), Touched::Neither);
    let policy = waggle_types::NetworkPolicy {
        name: "closed".into(),
        selects: waggle_types::TaskSelector::default(),
        audit: false,
        ingress: Some(Vec::new()),
        egress: None,
    };
    let policies = BTreeMap::from([("closed".to_owned(), Arc::new(policy))]);
    let later = NetSnapshot {
        policies,
        ..snapshot(2)
    };
    assert_eq!(snapshot(1).delta_to(&later).len(), 1);
    assert_eq!(touched(later), Touched::Policies);
    let whole = Wanted::Snapshot(Arc::new(snapshot(2)));
    assert_eq!(Touched::by(&whole), Touched::Overlay);
}
