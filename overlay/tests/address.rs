//! DNS addresses in a network namespace of their own (needs root; skips loudly).
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use waggle_overlay::{
    NodeNet, NodeNetConfig,
    address::{DEVICE, LO_LABEL, ensure, remove},
};

const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
/// DC/OS's, of IPv6.
const SIXTH: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd01, 0xd, 0, 0, 0, 0, 0xc633, 0x6401));

/// Runs a test on a thread that is alone in a new network namespace, which ends with the thread.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: needs root to make a network namespace");
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip(&["link", "set", "lo", "up"]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip` in this thread's namespace.
fn ip(args: &[&str]) -> String {
    let out = Command::new("ip").args(args).output().unwrap();
    assert!(out.status.success(), "ip {args:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn n_addresses() -> usize {
    ip(&["-4", "-o", "addr", "show"])
        .lines()
        .filter(|l| l.contains("198.51.100."))
        .count()
}

#[test]
fn set_up_is_idempotent_and_removal_is_whole() {
    in_namespace(|| async {
        let before = ip(&["-o", "addr", "show"]);
        let first = ensure(&[FIRST]).await.unwrap();
        let device = first.devices[&FIRST].clone();
        assert!(device == DEVICE || device == "lo", "{device}");
        if device == "lo" {
            let shown = ip(&["-4", "-o", "addr", "show", "dev", "lo"]);
            assert!(shown.contains(LO_LABEL), "{shown}");
        }
        assert_eq!(n_addresses(), 1);
        // Again, with one more: the first is adopted, the second joins it.
        let both = ensure(&[FIRST, SECOND]).await.unwrap();
        assert_eq!(both.devices.len(), 2);
        assert_eq!(n_addresses(), 2);
        assert_eq!(ensure(&[FIRST, SECOND]).await.unwrap(), both);
        both.remove().await.unwrap();
        assert_eq!(ip(&["-o", "addr", "show"]), before);
        // What is not there is no error.
        remove(&[FIRST, SECOND]).await.unwrap();
    });
}

#[test]
fn addresses_of_others_are_adopted_and_not_removed() {
    in_namespace(|| async {
        ip(&["addr", "add", "198.51.100.1/32", "dev", "lo"]);
        let adopted = ensure(&[FIRST]).await.unwrap();
        assert_eq!(adopted.devices[&FIRST], "lo");
        adopted.remove().await.unwrap();
        assert_eq!(n_addresses(), 1);
    });
}

#[test]
fn a_node_answers_on_port_53_and_its_address_outlives_it() {
    in_namespace(|| async {
        let config = NodeNetConfig::new(Ipv4Addr::new(10, 0, 0, 1));
        for removes in [false, true] {
            let config = NodeNetConfig {
                remove_addresses: removes,
                ..config.clone()
            };
            let node = NodeNet::start(config, None).await.unwrap();
            assert_eq!(node.dns_addrs(), [SocketAddr::from((FIRST, 53))]);
            node.shutdown().await.unwrap();
            assert_eq!(n_addresses(), usize::from(!removes));
        }
    });
}

#[test]
fn ipv6_is_set_up_used_and_removed_like_ipv4() {
    in_namespace(|| async {
        if !std::path::Path::new("/proc/net/if_inet6").exists() {
            eprintln!("SKIP: no ipv6 on this machine");
            return;
        }
        let before = ip(&["-6", "-o", "addr", "show"]);
        let node = NodeNet::start(
            NodeNetConfig {
                dns_ips: vec![FIRST, SIXTH],
                remove_addresses: true,
                ..NodeNetConfig::new(Ipv4Addr::new(10, 0, 0, 1))
            },
            None,
        )
        .await
        .unwrap();
        let want = [FIRST, SIXTH].map(|ip| SocketAddr::from((ip, 53)));
        assert_eq!(node.dns_addrs(), want);
        let snapshot = waggle_types::NetSnapshot::default();
        node.apply(std::sync::Arc::new(snapshot)).await;
        // Over the new address, about itself.
        let asked = waggle_overlay_plan::wire::question(
            7,
            &waggle_overlay_plan::DnsName::parse("ns.spartan").unwrap(),
            waggle_overlay_plan::RType::AAAA,
        );
        let socket = tokio::net::UdpSocket::bind("[::]:0").await.unwrap();
        let mut answer = [0; 512];
        // The kernel makes an address's route a moment after the address: what is asked until then is lost.
        let ask = async {
            loop {
                let _ = socket.send_to(&asked, (SIXTH, 53)).await;
                let answered = socket.recv_from(&mut answer);
                if let Ok(came) = tokio::time::timeout(Duration::from_secs(1), answered).await {
                    break came.unwrap();
                }
            }
        };
        let (n, from) = tokio::time::timeout(Duration::from_secs(30), ask)
            .await
            .unwrap();
        assert_eq!(from.ip(), SIXTH);
        let IpAddr::V6(sixth) = SIXTH else { return };
        assert!(answer[..n].ends_with(&sixth.octets()), "{:?}", &answer[..n]);
        node.shutdown().await.unwrap();
        assert_eq!(ip(&["-6", "-o", "addr", "show"]), before);
    });
}

#[test]
fn without_ipv6_the_others_answer() {
    in_namespace(|| async {
        let off = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
        if std::fs::write(off, "1").is_err() {
            eprintln!("SKIP: ipv6 can't be turned off here");
            return;
        }
        let there = ensure(&[FIRST, SIXTH]).await.unwrap();
        assert_eq!(there.devices.keys().collect::<Vec<_>>(), [&FIRST]);
    });
}
