//! DNS addresses in a network namespace of their own (needs root; skips loudly).
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
};

use nix::sched::{CloneFlags, unshare};
use waggle_overlay::{
    NodeNet, NodeNetConfig,
    address::{DEVICE, LO_LABEL, ensure, remove},
};

const FIRST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

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
