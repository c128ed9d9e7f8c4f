//! Two nodes that encrypt what their containers say to each other: what the underlay carries, and what becomes of what is in clear.
//!
//! Needs root, the embedded object and a kernel with WireGuard; skips loudly otherwise. `cargo xtask test vm` has such kernels.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on says where it stopped"
)]

mod capture;
mod rig;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use waggle_overlay::wireguard;
use waggle_overlay_plan::wireguard::Excluded;
use waggle_tests_support::{is_root, wait_until};

use capture::{Seen, capture};
use rig::{LIMIT, MARK, NODES, VXLAN, World};

#[test]
fn containers_speak_encrypted_or_not_at_all() -> anyhow::Result<()> {
    if !is_root() {
        eprintln!("SKIP: needs root");
        return Ok(());
    }
    if !waggle_ebpf::is_built_with_ebpf() {
        eprintln!("SKIP: built without eBPF");
        return Ok(());
    }
    let mut world = World::new("seal")?;
    if !world.nodes[0].ns.run(wireguard::is_supported)?? {
        eprintln!("SKIP: this kernel has no WireGuard");
        return Ok(());
    }
    let step = |what: &str| println!("{what}");
    step("nobody is known");
    nobody_is_known(&mut world)?;
    step("all of it is encrypted");
    all_of_it_is_encrypted(&mut world)?;
    step("the agent is away");
    the_agent_is_away(&mut world)?;
    step("what somebody takes away comes back");
    what_is_taken_away_comes_back(&mut world)?;
    step("a key changes");
    a_key_changes(&mut world)?;
    step("a node without a key");
    a_node_without_a_key(&mut world)?;
    step("nobody encrypts any more");
    nobody_encrypts_any_more(&mut world)
}

/// Nothing may be seen of a connection that can't be had.
fn is_unreached(world: &World, why: &str) -> anyhow::Result<Seen> {
    let seen = capture(world, || {
        let tried = world.connect(Duration::from_millis(700));
        ensure!(tried.is_err(), "{why}: reached all the same");
        Ok(())
    })?;
    ensure!(seen.n_vxlan == 0, "{why}: {seen:?}");
    Ok(seen)
}

fn nobody_is_known(world: &mut World) -> anyhow::Result<()> {
    for at in 0..2 {
        world.start(at, true)?;
        world.sync(at, [None, None])?;
    }
    world.containers()?;
    is_unreached(world, "without keys")?;
    let check = world.check(0)?;
    assert!(check.encrypts && check.takes_part);
    assert_eq!(check.no_way.get(&NODES[1]), Some(&Excluded::NoKey));
    ensure!(check.drops.contains_key("peer_down"), "{:?}", check.drops);
    // IPv4, UDP, WireGuard, its tag; IPv4, UDP, VXLAN, Ethernet.
    assert_eq!(check.mtu, 1500 - 60 - 50);
    Ok(())
}

fn all_of_it_is_encrypted(world: &mut World) -> anyhow::Result<()> {
    world.sync_all()?;
    let seen = capture(world, || world.transfer())?;
    ensure!(
        seen.n_vxlan == 0 && !seen.has_mark && seen.n_other == 0,
        "{seen:?}"
    );
    ensure!(
        seen.n_sealed > 100 && seen.bytes > MARK.len() * 8000,
        "{seen:?}"
    );
    for at in 0..2 {
        let check = world.check(at)?;
        assert_eq!(check.no_way.len(), 0, "{check:?}");
        let (_, echo) = check.peers[&NODES[1 - at]];
        ensure!(echo.rtt.is_some() && echo.is_whole, "{check:?}");
        ensure!(!check.drops.contains_key("in_clear"), "{check:?}");
    }
    Ok(())
}

/// A connection outlives the agent's part, and the next one has the same key.
fn the_agent_is_away(world: &mut World) -> anyhow::Result<()> {
    let (mut here, mut there) = world.pair()?;
    let key = world.key(0);
    world.stop(0);
    let seen = capture(world, || {
        for _ in 0..20 {
            here.write_all(MARK)?;
            let mut got = vec![0; MARK.len()];
            there.read_exact(&mut got)?;
            ensure!(got == MARK, "other bytes");
        }
        Ok(())
    })?;
    ensure!(
        seen.n_vxlan == 0 && seen.n_sealed > 10 && !seen.has_mark,
        "{seen:?}"
    );
    world.start(0, true)?;
    assert_eq!(world.key(0), key);
    world.sync_all()?;
    here.write_all(MARK)?;
    let mut got = vec![0; MARK.len()];
    there.read_exact(&mut got)?;
    world.transfer()
}

fn what_is_taken_away_comes_back(world: &mut World) -> anyhow::Result<()> {
    // Without the rule the kernel would route it onto the underlay: the last program there does not let it.
    world.nodes[0].ns.ip("rule del pref 5182\n")?;
    is_unreached(world, "without the rule")?;
    ensure!(world.count(0, "out_in_clear")? > 0, "not counted");
    world.upkeep(0)?;
    world.transfer()?;

    world.nodes[0]
        .ns
        .ip(&format!("link del {}\n", wireguard::DEVICE))?;
    is_unreached(world, "without the device")?;
    world.upkeep(0)?;
    world.transfer()?;
    let seen = capture(world, || world.transfer())?;
    ensure!(
        seen.n_vxlan == 0 && seen.n_sealed > 100 && !seen.has_mark,
        "{seen:?}"
    );
    Ok(())
}

fn a_key_changes(world: &mut World) -> anyhow::Result<()> {
    let old = world.key(1);
    world.stop(1);
    world.forget_key(1)?;
    world.start(1, true)?;
    ensure!(world.key(1) != old, "the same key");
    // The first one still has the old one.
    world.sync(1, [Some(world.key(0)), None])?;
    is_unreached(world, "with an old key")?;
    world.sync_all()?;
    world.transfer()
}

fn a_node_without_a_key(world: &mut World) -> anyhow::Result<()> {
    let own = Some(world.key(0));
    world.sync(0, [own, None])?;
    is_unreached(world, "a peer without a key")?;
    // That node does not encrypt any more: what it says is dropped here, whatever is in it.
    world.stop(1);
    world.nodes[1].ns.run(wireguard::remove)??;
    world.start(1, false)?;
    world.sync(1, [own, None])?;
    let before = world.count(0, "in_clear")?;
    let seen = capture(world, || {
        let tried = world.connect_back(Duration::from_millis(700));
        ensure!(tried.is_err(), "a clear packet was taken");
        Ok(())
    })?;
    ensure!(seen.n_vxlan > 0, "the capture sees nothing: {seen:?}");
    ensure!(world.count(0, "in_clear")? > before, "not counted");

    // By another device, too, where no program of the underlay is.
    let [one, two] = &world.nodes;
    one.ns.ip(&format!(
        "link add u1 type veth peer name u1 netns {}\nlink set u1 up\naddr add 10.78.0.1/24 dev u1\n",
        two.ns.name()
    ))?;
    two.ns.ip(&format!(
        "link set u1 up\naddr add 10.78.0.2/24 dev u1\nroute add {}/32 via 10.78.0.1 dev u1\n",
        NODES[0]
    ))?;
    let before = world.count(0, "in_clear")?;
    let from = (Ipv4Addr::new(10, 78, 0, 2), 0);
    let socket = two.ns.run(|| UdpSocket::bind(from))??;
    let mut packet = vec![8, 0, 0, 0, 0, 4, 0, 0];
    packet.extend([2; 12]);
    packet.extend([0x08, 0x00]);
    packet.extend([0x45; 40]);
    wait_until(LIMIT, "a packet by another device to be counted", || {
        let _ = socket.send_to(&packet, (NODES[0], VXLAN));
        (world.count(0, "in_clear").ok()? > before).then_some(())
    })?;
    two.ns.ip("link del u1\n")
}

/// The same without encryption is seen: the captures would have told.
fn nobody_encrypts_any_more(world: &mut World) -> anyhow::Result<()> {
    world.stop(0);
    world.nodes[0].ns.run(wireguard::remove)??;
    world.start(0, false)?;
    for at in 0..2 {
        world.sync(at, [None, None])?;
    }
    let seen = capture(world, || world.transfer())?;
    ensure!(
        seen.has_mark && seen.n_vxlan > 10 && seen.n_sealed == 0,
        "{seen:?}"
    );
    let check = world.check(0)?;
    assert_eq!((check.encrypts, check.mtu), (false, 1450));
    let rules = Command::new("ip")
        .args(["-n", world.nodes[0].ns.name(), "rule"])
        .output()
        .context("ip rule")?;
    let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
    ensure!(!rules.contains("5182:"), "{rules}");
    Ok(())
}
