//! Two nodes, an underlay between them, and VXLAN on it: what is seen of it there, with WireGuard and without.
//!
//! Needs root and a kernel with WireGuard (`cargo xtask test vm` has some), tcpdump and ping; skips loudly otherwise.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use waggle_overlay::wireguard::{self, Wireguard, WireguardConfig, WireguardError};
use waggle_overlay_plan::wireguard::Excluded;
use waggle_tests_support::is_root;
use waggle_tests_support::netns::{NetNs, TempNetNs};
use waggle_types::WireguardKey;

const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];
const INSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(9, 0, 0, 1), Ipv4Addr::new(9, 0, 0, 2)];
const VXLAN: u16 = 64000;
const MTU: u16 = 1500;
const MARK: &[u8] = b"the honey is in the hollow oak. ";
const LIMIT: Duration = Duration::from_secs(20);

/// Two nodes with an underlay, `u0`.
fn world(name: &str) -> anyhow::Result<[TempNetNs; 2]> {
    let id = std::process::id();
    let nodes = [
        TempNetNs::create(&format!("wgl-t-wg-{name}-a-{id}"))?,
        TempNetNs::create(&format!("wgl-t-wg-{name}-b-{id}"))?,
    ];
    let other = nodes[1].name();
    nodes[0].ip(&format!(
        "link add u0 type veth peer name u0 netns {other}\n"
    ))?;
    for (node, ip) in nodes.iter().zip(NODES) {
        node.ip(&format!(
            "link set u0 up mtu {MTU}\naddr add {ip}/24 dev u0\n"
        ))?;
        // As on machines that care.
        node.run(|| fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1"))??;
    }
    Ok(nodes)
}

/// A VXLAN device between the nodes, whose packets the kernel routes.
fn tunnel(nodes: &[TempNetNs; 2], mtu: u16) -> anyhow::Result<()> {
    for (at, node) in nodes.iter().enumerate() {
        let (own, other, inside) = (NODES[at], NODES[1 - at], INSIDE[at]);
        node.ip(&format!(
            "link add vx0 type vxlan id 1024 dstport {VXLAN} local {own} remote {other}\n\
             link set vx0 up mtu {mtu}\naddr add {inside}/24 dev vx0\n"
        ))?;
    }
    Ok(())
}

fn config(dir: &Path, at: usize) -> WireguardConfig {
    WireguardConfig {
        node: NODES[at],
        key_file: dir.join(format!("{at}.key")),
        port: wireguard::DEFAULT_PORT,
        vxlan_port: VXLAN,
        underlay_mtu: MTU,
    }
}

/// Everything that one node's underlay carries while something is done.
fn seen(
    node: &NetNs,
    dir: &Path,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<u8>> {
    let file = dir.join("seen.pcap");
    let mut child = node.run(|| {
        Command::new("tcpdump")
            .args(["-i", "u0", "-U", "-Z", "root", "-s", "0", "-w"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    })??;
    let errors = child.stderr.take().context("its errors")?;
    let capture = Capture(child);
    let mut errors = BufReader::new(errors);
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        ensure!(errors.read_line(&mut line)? > 0, "tcpdump ended");
    }
    work()?;
    // What was sent before is in the file when what comes now is.
    let last = b"and this was all of it";
    let socket = node.run(|| std::net::UdpSocket::bind((NODES[0], 0)))??;
    waggle_tests_support::wait_until(LIMIT, "the capture", || {
        let _ = socket.send_to(last, (NODES[1], 9));
        let bytes = fs::read(&file).ok()?;
        has(&bytes, last).then_some(())
    })?;
    drop(capture);
    Ok(fs::read(&file)?)
}

struct Capture(Child);

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// Whether a capture (of Ethernet, as the machine writes it) has a datagram to the tunnel's port: two bytes of a port are found by
/// chance in addresses and times.
fn has_tunnel(mut capture: &[u8]) -> anyhow::Result<bool> {
    let mut take = |n: usize| capture.split_off(..n);
    take(24).context("a capture's head")?;
    while let Some(head) = take(16) {
        let length = u32::from_ne_bytes(head[8..12].try_into()?);
        // The last one may not be whole.
        let Some(frame) = take(usize::try_from(length)?) else {
            break;
        };
        let Some((b"\x08\x00", packet)) = frame.get(12..).and_then(|f| f.split_at_checked(2))
        else {
            continue;
        };
        let is_udp = packet.get(9) == Some(&17);
        let header = packet
            .first()
            .map_or(0, |first| usize::from(first & 15) * 4);
        if is_udp && packet.get(header + 2..header + 4) == Some(&VXLAN.to_be_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sends marked bytes from the first node to the second, inside of the tunnel; how many arrived, all right.
fn transfer(nodes: &[TempNetNs; 2]) -> anyhow::Result<usize> {
    let listener = nodes[1].run(|| TcpListener::bind((INSIDE[1], 0)))??;
    let to = listener.local_addr()?;
    let server = std::thread::spawn(move || -> anyhow::Result<Vec<u8>> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let sent = MARK.repeat(8000);
    // Who was not found before may be given up once more.
    let mut stream = waggle_tests_support::wait_until(LIMIT, "a connection", || {
        nodes[0].connect(to, Duration::from_secs(5)).ok()
    })?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(&sent)?;
    stream.shutdown(Shutdown::Write)?;
    let got = server.join().map_err(|_| anyhow::anyhow!("server"))??;
    ensure!(got == sent, "{} of {} bytes", got.len(), sent.len());
    Ok(got.len())
}

fn both(keys: [WireguardKey; 2]) -> Vec<(Ipv4Addr, Option<WireguardKey>)> {
    NODES.into_iter().zip(keys.map(Some)).collect()
}

#[test]
fn nothing_of_the_overlay_is_seen_between_nodes() -> anyhow::Result<()> {
    if !is_root() {
        eprintln!("SKIP: needs root");
        return Ok(());
    }
    let nodes = world("seen")?;
    if !nodes[0].run(wireguard::is_supported)?? {
        eprintln!("SKIP: this kernel has no WireGuard");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    assert_eq!(nodes[0].run(|| wireguard::underlay_mtu(NODES[0]))??, MTU);
    let start = |at: usize| nodes[at].run(|| Wireguard::start(config(dir.path(), at)));
    let (a, b) = (start(0)??, start(1)??);
    assert_ne!(a.key(), b.key());
    let inside = wireguard::mtu_inside(MTU)?;
    tunnel(&nodes, inside - 50)?;

    // Nobody is known yet: no way, and nothing in clear.
    let bytes = seen(&nodes[0], dir.path(), || {
        let to = SocketAddr::from((INSIDE[1], 7));
        let nobody = nodes[0].connect(to, Duration::from_millis(300));
        ensure!(nobody.is_err(), "reached without a key");
        Ok(())
    })?;
    ensure!(!has_tunnel(&bytes)?, "vxlan in clear");

    let keys = both([a.key(), b.key()]);
    for (node, wireguard) in nodes.iter().zip([&a, &b]) {
        let plan = wireguard.plan(&keys);
        node.run(|| wireguard.sync(VXLAN, MTU, &plan))??;
        assert_eq!((plan.peers.len(), plan.excluded), (1, BTreeMap::new()));
    }
    let mut carried = 0;
    let bytes = seen(&nodes[0], dir.path(), || {
        carried = transfer(&nodes)?;
        Ok(())
    })?;
    ensure!(bytes.len() > carried, "captured {} bytes", bytes.len());
    ensure!(!has(&bytes, MARK), "seen in clear");
    let traffic = nodes[0].run(|| a.read())??[&NODES[1]];
    ensure!(traffic.tx_bytes > carried as u64, "{traffic:?}");
    ensure!(traffic.last_handshake_s > 0, "{traffic:?}");

    // What is as long as the MTU passes whole.
    let size = inside - 50 - 28;
    let ping = nodes[0].run(|| {
        let size = size.to_string();
        let to = INSIDE[1].to_string();
        Command::new("ping")
            .args(["-M", "do", "-c", "1", "-W", "5", "-s", &size, &to])
            .output()
    })??;
    ensure!(ping.status.success(), "{ping:?}");

    // After a restart: the same key, and the same ways at once.
    let key = a.key();
    drop(a);
    let a = start(0)??;
    assert_eq!(a.key(), key);
    transfer(&nodes)?;
    let known: Vec<Ipv4Addr> = nodes[0].run(|| a.read())??.into_keys().collect();
    assert_eq!(known, [NODES[1]]);

    // A node that has no key any more has no way any more, and is told nothing in clear.
    let without = [(NODES[0], Some(a.key())), (NODES[1], None)];
    let plan = a.plan(&without);
    nodes[0].run(|| a.sync(VXLAN, MTU, &plan))??;
    assert_eq!(plan.excluded, BTreeMap::from([(NODES[1], Excluded::NoKey)]));
    let bytes = seen(&nodes[0], dir.path(), || {
        let to = SocketAddr::from((INSIDE[1], 7));
        let gone = nodes[0].connect(to, Duration::from_millis(300));
        ensure!(gone.is_err(), "reached without a key");
        Ok(())
    })?;
    ensure!(!has_tunnel(&bytes)?, "vxlan in clear");

    // Without encryption the same is seen: the capture would have told.
    for node in &nodes {
        node.run(wireguard::remove)??;
    }
    let bytes = seen(&nodes[0], dir.path(), || transfer(&nodes).map(drop))?;
    ensure!(has(&bytes, MARK), "not seen without encryption");
    ensure!(has_tunnel(&bytes)?, "not seen as a tunnel");
    for node in &nodes {
        assert_eq!(ours(node)?, "");
        // What is not there is no error.
        node.run(wireguard::remove)??;
    }
    Ok(())
}

/// Rules, routes and devices of ours in a namespace.
fn ours(node: &NetNs) -> anyhow::Result<String> {
    let mut found = String::new();
    for (words, ours) in [
        ("rule", "5182:"),
        ("route show table 51820", ""),
        ("-o link", wireguard::DEVICE),
    ] {
        let output = Command::new("ip")
            .args(["-n", node.name()])
            .args(words.split(' '))
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        found.extend(text.lines().filter(|line| line.contains(ours)));
    }
    Ok(found)
}

#[test]
fn a_kernel_without_wireguard_is_told_and_left_as_it_was() -> anyhow::Result<()> {
    if !is_root() {
        eprintln!("SKIP: needs root");
        return Ok(());
    }
    let nodes = world("none")?;
    let dir = tempfile::tempdir()?;
    let small = WireguardConfig {
        underlay_mtu: 600,
        ..config(dir.path(), 0)
    };
    let refused = nodes[0].run(|| Wireguard::start(small))?.err();
    let refused = refused.context("started on a small underlay")?.to_string();
    ensure!(refused.contains("MTU of 600"), "{refused}");
    if nodes[0].run(wireguard::is_supported)?? {
        eprintln!("SKIP: this kernel has WireGuard");
        return Ok(());
    }
    let refused = nodes[0].run(|| Wireguard::start(config(dir.path(), 0)))?;
    let error = refused.err().context("started")?;
    ensure!(matches!(error, WireguardError::Unsupported), "{error}");
    ensure!(error.to_string().contains("CONFIG_WIREGUARD"), "{error}");
    assert_eq!(ours(&nodes[0])?, "");
    Ok(())
}
