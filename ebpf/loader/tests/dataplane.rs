//! The programs on this machine's kernel: verifier, translation, attribution, counters, adoption.
//!
//! Needs root, cgroup2 and the embedded object; skips loudly otherwise. Every test has a cgroup and a pin
//! directory of its own, and touches nothing else.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};

use support::Node;
use waggle_ebpf::DataPlane;
use waggle_ebpf::common::{Backend, VipKey, VipValue};

#[test]
fn loads() -> anyhow::Result<()> {
    let Some(node) = Node::new("loads")? else { return Ok(()) };
    let plane = node.open()?;
    for program in plane.programs() {
        eprintln!("{program:?}");
    }
    Ok(())
}
