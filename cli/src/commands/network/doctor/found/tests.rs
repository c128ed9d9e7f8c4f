use serde_json::json;

use super::*;

/// Nodes 1 to `n` that all reach each other.
fn whole(n: u8) -> Vec<Seen> {
    let node = |i: u8| {
        let others = (1..=n).filter(|o| *o != i);
        let peers = others.map(|o| PeerCheckView {
            ip: format!("10.0.0.{o}"),
            endpoint: format!("44.128.0.{o}"),
            rtt_us: Some(u64::from(o) * 300),
            whole: true,
            encrypted: false,
            no_way: None,
        });
        Seen {
            hostname: format!("n{i}"),
            ip: format!("10.0.0.{i}"),
            check: Ok(OverlayCheckView {
                ip: format!("10.0.0.{i}"),
                takes_part: true,
                endpoint: Some(format!("44.128.0.{i}")),
                trouble: None,
                mtu: 1450,
                encrypts: false,
                peers: peers.collect(),
                drops: BTreeMap::new(),
            }),
        }
    };
    (1..=n).map(node).collect()
}

fn check(seen: &mut [Seen], node: usize) -> &mut OverlayCheckView {
    seen[node - 1].check.as_mut().unwrap()
}

/// What one node says of another.
fn peer(seen: &mut [Seen], node: usize, other: usize) -> &mut PeerCheckView {
    let ip = format!("10.0.0.{other}");
    let mut peers = check(seen, node).peers.iter_mut();
    peers.find(|p| p.ip == ip).unwrap()
}

fn silent(seen: &mut [Seen], node: usize, other: usize) {
    let peer = peer(seen, node, other);
    (peer.rtt_us, peer.whole) = (None, false);
}

fn said(seen: &[Seen]) -> Vec<String> {
    let all = find(seen).into_iter();
    all.map(|f| format!("{:?} {}: {}", f.kind, f.node, f.says))
        .collect()
}

#[test]
fn a_whole_cluster_has_nothing() {
    for n in 0..4 {
        assert_eq!(said(&whole(n)), Vec::<String>::new(), "{n}");
    }
    assert_eq!(
        overview(&whole(3)),
        "NODE  IP        ENDPOINT    MTU   REACHES  SLOWEST   ENCRYPTED\n\
         n1    10.0.0.1  44.128.0.1  1450  2/2      0.900 ms  no\n\
         n2    10.0.0.2  44.128.0.2  1450  2/2      0.900 ms  no\n\
         n3    10.0.0.3  44.128.0.3  1450  2/2      0.600 ms  no\n"
    );
    assert_eq!(drops(&whole(3)), "");
}

#[test]
fn a_node_that_nobody_reaches_is_named_once() {
    let mut seen = whole(4);
    for other in [1, 2, 4] {
        silent(&mut seen, 3, other);
        silent(&mut seen, other, 3);
    }
    assert_eq!(
        said(&seen),
        [
            "CutOff n3: reaches no other node by the tunnel and is reached by none: does UDP to and from 10.0.0.3 pass?"
        ]
    );
    seen[2].check = Err("refused".into());
    assert_eq!(
        said(&seen),
        [
            "NotAsked n3: can't be asked: refused",
            "CutOff n3: is reached by no other node by the tunnel: does UDP to and from 10.0.0.3 pass?",
        ]
    );
    // Of two it can't be said which one it is.
    let mut seen = whole(2);
    silent(&mut seen, 1, 2);
    silent(&mut seen, 2, 1);
    assert_eq!(
        said(&seen),
        [
            "UnreachablePeer n1: does not reach n2 (10.0.0.2): no answer from 44.128.0.2",
            "UnreachablePeer n2: does not reach n1 (10.0.0.1): no answer from 44.128.0.1",
        ]
    );
}

#[test]
fn what_is_between_two_nodes_is_said_of_both() {
    let mut seen = whole(3);
    silent(&mut seen, 1, 2);
    peer(&mut seen, 2, 3).whole = false;
    check(&mut seen, 3).peers.retain(|p| p.ip != "10.0.0.1");
    assert_eq!(
        said(&seen),
        [
            "UnreachablePeer n1: does not reach n2 (10.0.0.2): no answer from 44.128.0.2",
            "PathMtu n2: packets of 1450 bytes don't come back from n3 (10.0.0.3), short ones do: the path carries less than the network's mtu",
            "UnknownPeer n3: does not know that n1 (10.0.0.1) has an endpoint",
        ]
    );
    let finding = serde_json::to_value(&find(&seen)[1]).unwrap();
    assert_eq!(finding["kind"], json!("path_mtu"));
    assert_eq!(finding["peer"], json!("n3"));
}

#[test]
fn nodes_that_can_not_or_need_not_be_asked() {
    let mut seen = whole(4);
    seen[1].check = Err("the master does not hear from it".into());
    silent(&mut seen, 3, 2);
    let off = check(&mut seen, 4);
    (off.takes_part, off.trouble) = (false, Some("this node takes no part".into()));
    off.peers.clear();
    silent(&mut seen, 1, 4);
    assert_eq!(
        said(&seen),
        [
            "NotAsked n2: can't be asked: the master does not hear from it",
            "UnreachablePeer n3: does not reach n2 (10.0.0.2): no answer from 44.128.0.2",
        ]
    );
    let table = overview(&seen);
    assert!(
        table.contains("n2    10.0.0.2  not asked\n") && table.contains("10.0.0.4  takes no part"),
        "{table}"
    );
    let mut seen = whole(3);
    check(&mut seen, 1).trouble = Some("device vtep1024 is there and is not ours".into());
    assert_eq!(
        said(&seen),
        ["Trouble n1: device vtep1024 is there and is not ours"]
    );
}

#[test]
fn nodes_that_encrypt_and_one_that_does_not() {
    let mut seen = whole(3);
    for (node, others) in [(1, [2, 3]), (2, [1, 3])] {
        check(&mut seen, node).encrypts = true;
        for other in others {
            peer(&mut seen, node, other).encrypted = other != 3;
        }
        peer(&mut seen, node, 3).no_way = Some("it does not encrypt".into());
        silent(&mut seen, node, 3);
        silent(&mut seen, 3, node);
    }
    assert_eq!(
        said(&seen),
        [
            "NoEncryptedWay n1: encrypts, and sends nothing to n3 (10.0.0.3): it does not encrypt",
            "NoEncryptedWay n2: encrypts, and sends nothing to n3 (10.0.0.3): it does not encrypt",
            "NoEncryptedWay n3: does not encrypt, and n1 (10.0.0.1) takes nothing in clear (--encrypt)",
            "NoEncryptedWay n3: does not encrypt, and n2 (10.0.0.2) takes nothing in clear (--encrypt)",
        ]
    );
    let table = overview(&seen);
    for line in ["0.600 ms  1/2\n", "0.300 ms  1/2\n", "-         no\n"] {
        assert!(table.contains(line), "{table}");
    }
    // What an older agent says of itself.
    let older = json!({"ip": "10.0.0.1", "takes_part": true, "endpoint": null, "trouble": null,
        "mtu": 1450, "peers": [], "drops": {}});
    let older: OverlayCheckView = serde_json::from_value(older).unwrap();
    assert!(!older.encrypts);
}

#[test]
fn drops_are_told_with_what_they_mean() {
    let mut seen = whole(2);
    check(&mut seen, 1).drops = BTreeMap::from([
        ("multicast".into(), 3),
        ("policy_denied_egress".into(), 12),
        ("unknown_destination".into(), 1),
    ]);
    assert_eq!(said(&seen), Vec::<String>::new(), "they are no finding");
    assert_eq!(
        drops(&seen),
        "NODE  DROPPED  REASON\n\
         n1    3        multicast\n\
         n1    12       policy_denied_egress: no policy's rule lets the task send it\n\
         n1    1        unknown_destination: nobody has the address; the sender was told\n"
    );
}
