//! Two nodes, between namespaces: what containers use, and what they must not.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use waggle_ebpf::RunStats;
use waggle_ebpf::common::overlay::{mac_of, reason};
use waggle_ebpf::overlay::{At, Endpoint, OverlayPlane, Peer, Reach};
use waggle_tests_support::netns::NetNs;
use waggle_tests_support::wait_until;

use crate::frame::{Frame, UDP};
use crate::netkit;
use crate::rig::{NETWORK, World, ip4, ip6, node_ip};
use crate::traffic::{LIMIT, error_of, raw, tcp, udp, udp_segments};

/// Both families' addresses of two containers.
fn pairs(from: (u8, u8), to: (u8, u8)) -> [(IpAddr, IpAddr); 2] {
    [
        (ip4(from.0, from.1).into(), ip4(to.0, to.1).into()),
        (ip6(from.0, from.1).into(), ip6(to.0, to.1).into()),
    ]
}

fn told(world: &World) -> String {
    format!("{}\n{}", world.host(1).counts(), world.host(2).counts())
}

/// What must never be counted when nobody misbehaves.
fn nothing_is_lost(world: &World) -> anyhow::Result<()> {
    for host in &world.hosts {
        for never in [
            reason::FAILED,
            reason::MALFORMED,
            reason::BAD_TABLE,
            reason::NO_DEVICE,
            reason::SPOOFED_SOURCE,
            reason::SPOOFED_MAC,
            reason::SPOOFED_NODE,
            reason::SPOOFED_NEIGHBOUR,
            reason::LOOPED,
        ] {
            let name = reason::NAMES[never as usize];
            ensure!(host.count(never)? == 0, "{name}: {}", host.counts());
        }
    }
    Ok(())
}

/// TCP, datagrams, fragments and segments between two containers.
fn everything(world: &World, from: (u8, u8), to: (u8, u8), bytes: usize) -> anyhow::Result<()> {
    let (client, server) = (&world.of(from.0, from.1).ns, &world.of(to.0, to.1).ns);
    for (src, dst) in pairs(from, to) {
        let how = || format!("{src} -> {dst}; {}", told(world));
        for n in [1, bytes] {
            tcp(client, server, src, dst, n).with_context(how)?;
        }
        udp(client, server, dst, &[0, 1, 1200, 5000, 60_000]).with_context(how)?;
        udp_segments(client, server, dst, 1200, 20).with_context(how)?;
    }
    Ok(())
}

#[test]
fn containers_reach_each_other() -> anyhow::Result<()> {
    reach("reach", false)
}

#[test]
fn containers_behind_veths_reach_each_other_where_there_is_netkit() -> anyhow::Result<()> {
    reach("veths", true)
}

/// Netkit devices where the kernel has them and is not told otherwise.
fn reach(name: &str, only_veths: bool) -> anyhow::Result<()> {
    let has_netkit = nix::unistd::geteuid().is_root() && netkit::is_there()?;
    if !has_netkit && only_veths {
        eprintln!("SKIP: no netkit devices here: all tests have veths");
        return Ok(());
    }
    if !has_netkit {
        eprintln!("SKIP: netkit devices: none here; with veths");
    }
    let Some(mut world) = World::new(name, 1500)? else {
        return Ok(());
    };
    world.container(1, 2)?;
    for host in &mut world.hosts {
        host.only_veths = only_veths;
    }
    world.container(1, 3)?;
    world.container(2, 2)?;
    if has_netkit && !only_veths {
        sends_at_once(&world, (1, 2), (2, 2))?;
    }
    everything(&world, (1, 2), (1, 3), 3_000_000)?;
    everything(&world, (1, 2), (2, 2), 3_000_000)?;
    everything(&world, (2, 2), (1, 3), 100_000)?;
    for path in [
        reason::LOCAL,
        reason::SENT,
        reason::RECEIVED,
        reason::UP_GSO,
        reason::RECEIVED_SLOW,
        reason::ARP_ANSWERED,
        reason::ND_ANSWERED,
    ] {
        let sum = world.host(1).count(path)? + world.host(2).count(path)?;
        assert!(
            sum > 0,
            "{}: {}",
            reason::NAMES[path as usize],
            told(&world)
        );
    }
    // A process of the node itself, both ways.
    for (container, of) in [((1, 2), 1), ((2, 2), 1)] {
        let ns = &world.of(container.0, container.1).ns;
        let node = &world.host(of).ns;
        for (gateway, ip) in pairs((of, 1), container) {
            let how = || format!("{gateway} and {ip}; {}", told(&world));
            tcp(node, ns, gateway, ip, 100_000).with_context(how)?;
            tcp(ns, node, ip, gateway, 100_000).with_context(how)?;
        }
    }
    nothing_is_lost(&world)
}

/// What a container behind a netkit device sends to another node is steered where it sends, once, and not by the program on the
/// host's side.
fn sends_at_once(world: &World, from: (u8, u8), to: (u8, u8)) -> anyhow::Result<()> {
    let (client, server) = (&world.of(from.0, from.1).ns, &world.of(to.0, to.1).ns);
    let host = world.host(from.0);
    let runs = |name: &str| {
        let programs = host.plane.programs();
        let program = programs.iter().find(|program| program.name == name);
        program.map_or(0, |program| program.run_cnt)
    };
    // Neighbours are known after that.
    let [(src, dst), _] = pairs(from, to);
    tcp(client, server, src, dst, 1)?;
    let _stats = RunStats::enable()?;
    let (direct, other, sent) = (
        runs("overlay_direct"),
        runs("overlay_from"),
        host.count(reason::SENT)?,
    );
    for _ in 0..20 {
        tcp(client, server, src, dst, 10_000)?;
    }
    let direct = runs("overlay_direct") - direct;
    let other = runs("overlay_from") - other;
    let sent = host.count(reason::SENT)? - sent;
    // Each connection has more than four packets; who speaks of neighbours in between, few.
    ensure!(
        sent > 80 && direct >= sent && other < sent / 8,
        "sent {sent}, by {direct} runs of overlay_direct and {other} of overlay_from; {}",
        host.counts()
    );
    Ok(())
}

#[test]
fn jumbo_frames_narrow_underlays_and_no_offloads_at_all() -> anyhow::Result<()> {
    for (name, mtu, is_offloaded) in [
        ("jumbo", 9000, true),
        ("narrow", 1350, true),
        ("plain", 1500, false),
    ] {
        let Some(mut world) = World::new(name, mtu)? else {
            return Ok(());
        };
        world.container(1, 2)?;
        world.container(2, 2)?;
        if !is_offloaded {
            for host in &world.hosts {
                ethtool(&host.ns, "u0")?;
                ethtool(&host.containers[0].ns, "eth0")?;
                ethtool(&host.ns, "c2")?;
            }
        }
        everything(&world, (1, 2), (2, 2), 1_000_000).context(name)?;
        nothing_is_lost(&world).context(name)?;
    }
    Ok(())
}

/// Takes a device's offloads away, those for tunnels too.
fn ethtool(ns: &NetNs, device: &str) -> anyhow::Result<()> {
    let device = device.to_owned();
    let output = ns.run(move || {
        Command::new("ethtool")
            .args([
                "-K", &device, "tx", "off", "tso", "off", "gso", "off", "gro", "off",
            ])
            .args(["tx-udp_tnl-segmentation", "off"])
            .args(["tx-udp_tnl-csum-segmentation", "off"])
            .output()
    })??;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn a_path_that_is_too_narrow_is_told() -> anyhow::Result<()> {
    let Some(mut world) = World::new("mtu", 1500)? else {
        return Ok(());
    };
    world.container(1, 2)?;
    world.container(2, 2)?;
    // The underlay shrinks after containers were made.
    let narrow = 1300;
    for host in &world.hosts {
        for peer in host.plane.peers()?.into_values() {
            host.plane.set_peer(&Peer {
                mtu: narrow,
                ..peer
            })?;
        }
        host.ns.ip("link set u0 mtu 1350\n")?;
    }
    let (one, two) = (&world.of(1, 2).ns, &world.of(2, 2).ns);
    for (src, dst) in pairs((1, 2), (2, 2)) {
        let before = world.host(1).count(reason::TOO_BIG)?;
        tcp(one, two, src, dst, 1_000_000).with_context(|| told(&world))?;
        ensure!(
            world.host(1).count(reason::TOO_BIG)? > before,
            "{}",
            told(&world)
        );
        // Who asks the kernel not to fragment hears of it; also where the device wants checksums made.
        let socket = one.run(move || -> anyhow::Result<UdpSocket> {
            let any = if dst.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.connect((dst, 9))?;
            crate::traffic::never_fragment(&socket, dst.is_ipv4())?;
            Ok(socket)
        })??;
        let error = error_of(|| socket.send(&[7; 1400]), "too long")?;
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{dst}: {error}");
    }
    // IPv4 that may be fragmented is, outside.
    let before = world.host(1).count(reason::SLOW_LONG)?;
    one.run(|| fs::write("/proc/sys/net/ipv4/ip_no_pmtu_disc", "1"))??;
    one.ip("route flush cache\n")?;
    udp(one, two, ip4(2, 2).into(), &[1400]).with_context(|| told(&world))?;
    ensure!(
        world.host(1).count(reason::SLOW_LONG)? > before,
        "{}",
        told(&world)
    );
    nothing_is_lost(&world)
}

#[test]
fn who_can_t_be_reached_is_told_at_once() -> anyhow::Result<()> {
    let Some(mut world) = World::new("unreach", 1500)? else {
        return Ok(());
    };
    world.container(1, 2)?;
    world.container(1, 3)?;
    world.container(2, 2)?;
    let client = &world.of(1, 2).ns;
    let refused = |what: &str, to: (u8, u8), why: u32, on: u8| -> anyhow::Result<()> {
        for (_, ip) in pairs((1, 2), to) {
            let before = world.host(on).count(why)?;
            let result = client.run(move || TcpStream::connect_timeout(&(ip, 80).into(), LIMIT))?;
            let error = result.err().context("connected to nobody")?;
            // RFC 1122 calls these soft for TCP; Linux tells who connects.
            let told = matches!(
                error.raw_os_error(),
                Some(libc::EHOSTUNREACH | libc::EACCES)
            );
            ensure!(told, "{what} {ip}: {error}; {}", self::told(&world));
            ensure!(
                world.host(on).count(why)? > before,
                "{what}: {}",
                self::told(&world)
            );
        }
        Ok(())
    };
    refused("nobody here", (1, 77), reason::UNKNOWN_DESTINATION, 1)?;
    refused("nobody anywhere", (99, 2), reason::UNKNOWN_DESTINATION, 1)?;
    refused("nobody there", (2, 77), reason::UNKNOWN_DESTINATION, 2)?;

    // Other networks, here and there.
    let elsewhere = |ip: IpAddr, node: u8, network: u32| -> anyhow::Result<()> {
        let host = world.host(node);
        let endpoint = host.plane.endpoints()?[&ip];
        host.plane.set_endpoint(
            ip,
            &Endpoint {
                network,
                ..endpoint
            },
        )?;
        Ok(())
    };
    for (_, ip) in pairs((1, 2), (1, 3)) {
        elsewhere(ip, 1, NETWORK + 1)?;
    }
    refused("another network", (1, 3), reason::OTHER_NETWORK, 1)?;
    for (_, ip) in pairs((1, 2), (1, 3)) {
        elsewhere(ip, 1, NETWORK)?;
    }
    // The other node drops what should not have come.
    for (_, ip) in pairs((1, 2), (2, 2)) {
        elsewhere(ip, 2, NETWORK + 1)?;
        let before = world.host(2).count(reason::OTHER_NETWORK)?;
        let late = client.run(move || {
            TcpStream::connect_timeout(&(ip, 80).into(), Duration::from_millis(200))
        })?;
        ensure!(late.is_err() && world.host(2).count(reason::OTHER_NETWORK)? > before);
        elsewhere(ip, 2, NETWORK)?;
    }

    // A node that is down, and is back.
    let peers = world.host(1).plane.peers()?;
    for peer in peers.values() {
        world.host(1).plane.set_peer(&Peer {
            reach: Reach::Down,
            ..*peer
        })?;
    }
    refused("a node that is down", (2, 2), reason::PEER_DOWN, 1)?;
    for peer in peers.values() {
        world.host(1).plane.set_peer(peer)?;
    }
    everything(&world, (1, 2), (2, 2), 10_000)?;
    nothing_is_lost(&world)
}

#[test]
fn nobody_speaks_for_another() -> anyhow::Result<()> {
    let Some(mut world) = World::new("spoof", 1500)? else {
        return Ok(());
    };
    for (node, n) in [(1, 2), (1, 3), (2, 2)] {
        world.container(node, n)?;
    }
    let (host, attacker) = (world.host(1), world.of(1, 2));
    let victims = [
        world.of(1, 3).ns.run(|| UdpSocket::bind("0.0.0.0:9"))??,
        world.of(2, 2).ns.run(|| UdpSocket::bind("0.0.0.0:9"))??,
    ];
    let drops = |why: u32, frame: Vec<u8>| -> anyhow::Result<()> {
        let before = host.count(why)?;
        attacker.ns.run(move || raw("eth0", &frame))??;
        wait_until(LIMIT, reason::NAMES[why as usize], || {
            host.count(why).ok().filter(|n| *n > before)
        })
        .with_context(|| host.counts())?;
        Ok(())
    };
    let own = mac_of(ip4(1, 2).into());
    for to in [(1, 3), (2, 2)] {
        for (src, dst) in pairs((1, 2), to) {
            let good = Frame {
                ports: [9, 9],
                ..Frame::new(src, dst, UDP)
            };
            // In another's name: of this node, of another one, and of nobody's.
            for name in [(1, 3), (2, 2), (1, 77), (99, 9)] {
                let (_, name) = pairs((1, 2), name)[usize::from(src.is_ipv6())];
                let frame = Frame {
                    src: name,
                    src_mac: own,
                    ..good.clone()
                };
                drops(reason::SPOOFED_SOURCE, frame.bytes())?;
            }
            let other_mac = Frame {
                src_mac: [2, 9, 9, 9, 9, 9],
                ..good.clone()
            };
            drops(reason::SPOOFED_MAC, other_mac.bytes())?;
            let own_mac = Frame {
                src_mac: own,
                ..good
            };
            let whole = own_mac.bytes();
            for length in [15, 20, 33, 34, 40, 50, whole.len() - 1] {
                drops(reason::MALFORMED, whole[..length].to_vec())?;
            }
        }
    }
    // To a node's tunnel port itself, where a masquerade would make it look like the node's own.
    let mut forged = Frame::new(ip4(1, 2).into(), node_ip(2).into(), UDP);
    forged.ports = [40_000, 64_000];
    forged.src_mac = own;
    drops(reason::FORGED_TUNNEL, forged.bytes())?;
    // To another address of a node it leaves as any datagram does, and says that it comes from its own node.
    let (sender, receiver) = (world.host(1), world.host(2));
    receiver.ns.ip("addr add 198.18.0.2/32 dev u0\n")?;
    sender.ns.ip("route add 198.18.0.2/32 dev u0\n")?;
    let inner = Frame {
        ports: [9, 9],
        ..Frame::new(ip4(1, 3).into(), ip4(2, 2).into(), UDP)
    };
    let tunnel = [&[8, 0, 0, 0, 0, 4, 0, 0], inner.bytes().as_slice()].concat();
    let before = receiver.count(reason::FORGED_TUNNEL)?;
    sender.ns.run(|| -> std::io::Result<()> {
        let socket = UdpSocket::bind((node_ip(1), 0))?;
        socket.send_to(&tunnel, ("198.18.0.2", 64_000))?;
        Ok(())
    })??;
    wait_until(LIMIT, "a tunnel to nobody", || {
        let n = receiver.count(reason::FORGED_TUNNEL).ok();
        n.filter(|n| *n > before)
    })
    .with_context(|| receiver.counts())?;
    // Neither IP nor ARP; and tagged.
    let mut other = vec![0xff; 14];
    other[6..12].copy_from_slice(&own);
    other[12..].copy_from_slice(&[0x88, 0xcc]);
    other.extend([0; 60]);
    drops(reason::NOT_IP, other)?;
    for victim in victims {
        victim.set_nonblocking(true)?;
        let error = victim
            .recv(&mut [0; 64])
            .err()
            .context("a forged datagram arrived")?;
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    everything(&world, (1, 2), (2, 2), 10_000)
}

#[test]
fn a_container_that_forwards() -> anyhow::Result<()> {
    // Whether or not it is known that it does.
    for (name, is_known) in [("fwd", true), ("fwd-unknown", false)] {
        let Some(mut world) = World::new(name, 1500)? else {
            return Ok(());
        };
        world.container(1, 2)?;
        world.container_that(2, 2, is_known)?;
        // An L4 proxy: in by the overlay and out of it again.
        let (client, proxy) = (&world.of(1, 2).ns, &world.of(2, 2).ns);
        proxy.run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        let rules = format!(
            "table ip n {{\n\
               chain pre {{ type nat hook prerouting priority -100; tcp dport 7000 dnat to {}:8080; }}\n\
               chain post {{ type nat hook postrouting priority 100; oifname \"eth0\" masquerade; }}\n\
             }}\n",
            ip4(1, 2)
        );
        nft(proxy, &rules)?;
        let listener = client.run(|| TcpListener::bind((ip4(1, 2), 8080)))??;
        let bytes: Vec<u8> = (0..1_000_000).map(|i| (i % 251) as u8).collect();
        let echo = std::thread::spawn(move || -> anyhow::Result<IpAddr> {
            let (mut stream, from) = listener.accept()?;
            stream.set_read_timeout(Some(LIMIT))?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            stream.write_all(&bytes)?;
            Ok(from.ip())
        });
        let mut stream = client
            .connect((ip4(2, 2), 7000).into(), LIMIT)
            .with_context(|| told(&world))?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(&bytes)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut back = Vec::new();
        stream
            .read_to_end(&mut back)
            .with_context(|| told(&world))?;
        ensure!(back == bytes, "{} bytes came back", back.len());
        let from = echo.join().map_err(|_| anyhow::anyhow!("the server"))??;
        assert_eq!(from, ip4(2, 2), "masqueraded");
        let path = if is_known {
            reason::UP_FORWARDS
        } else {
            reason::SLOW_REFUSED
        };
        assert!(world.host(2).count(path)? > 0, "{}", told(&world));
        nothing_is_lost(&world)?;
    }
    Ok(())
}

fn nft(ns: &NetNs, rules: &str) -> anyhow::Result<()> {
    let rules = rules.to_owned();
    ns.run(move || -> anyhow::Result<()> {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("stdin")?
            .write_all(rules.as_bytes())?;
        ensure!(child.wait()?.success(), "nft");
        Ok(())
    })?
}

#[test]
fn connections_outlive_the_process_that_loaded_the_programs() -> anyhow::Result<()> {
    let Some(mut world) = World::new("restart", 1500)? else {
        return Ok(());
    };
    world.container(1, 2)?;
    world.container(2, 2)?;
    let listener = world
        .of(2, 2)
        .ns
        .run(|| TcpListener::bind((ip4(2, 2), 0)))??;
    let mut client = world.of(1, 2).ns.connect(listener.local_addr()?, LIMIT)?;
    let (mut server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(LIMIT))?;
    }
    let mut say = |bytes: &[u8]| -> anyhow::Result<()> {
        let mut buffer = vec![0; bytes.len()];
        client.write_all(bytes)?;
        server.read_exact(&mut buffer)?;
        ensure!(buffer == bytes);
        server.write_all(bytes)?;
        client.read_exact(&mut buffer)?;
        Ok(())
    };
    say(b"before")?;
    // Both ends at once: nobody holds the programs but their pins.
    let mut planes = Vec::new();
    for host in world.hosts.drain(..) {
        let config = *host.plane.config();
        let attached = host.plane.attached()?;
        let pin_dir = world.pins.pin_dir.join(format!("n{}", host.n));
        drop(host.plane);
        planes.push((host.ns, host.containers, config, attached, pin_dir));
    }
    say(b"meanwhile")?;
    for (ns, containers, config, attached, pin_dir) in planes {
        let plane = OverlayPlane::open(&pin_dir, &config)?;
        say(b"opened")?;
        assert_eq!(plane.attached()?, attached);
        for (ifindex, roles) in attached {
            for role in roles {
                let found = ns.run(|| plane.attach(role, ifindex))??;
                ensure!(found, "{role:?} of {ifindex} was there");
            }
            say(b"attached")?;
        }
        let here = plane.endpoints()?;
        let known = |at: &At| matches!(at, At::Container { ifindex, .. } if *ifindex == containers[0].ifindex);
        ensure!(here.values().filter(|endpoint| known(&endpoint.at)).count() == 2);
        world.keep(ns, containers, plane);
    }
    say(b"after")
}
