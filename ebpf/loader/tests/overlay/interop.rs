//! The other end is the kernel's own VXLAN: a bridge that learns, and a VTEP that routes as DC/OS's; and a decoder of packets
//! that knows the protocol.

use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use waggle_ebpf::common::overlay::{MTU_OVERHEAD, mac_of, reason};
use waggle_ebpf::overlay::{Peer, Place, Reach};
use waggle_tests_support::netns::TempNetNs;

use crate::rig::{World, ip4, ip6, mac, net4, net6, node_ip, text};
use crate::traffic::{tcp, udp, udp_segments};

/// The node of the kernel's, on the underlay of node 1.
const KERNEL: u8 = 3;
const VTEP: [u8; 6] = [0x70, 0xb3, 0xd5, 0x80, 0, 3];

/// A node without programs, and a container there.
struct Kernel {
    node: TempNetNs,
    container: TempNetNs,
}

/// Takes the place of node 2 on the underlay.
fn kernel(world: &World, vtep: Option<[u8; 6]>) -> anyhow::Result<Kernel> {
    let (node, container) = (world.namespace("kernel")?, world.namespace("kc")?);
    let one = world.host(1);
    one.ns.ip(&format!(
        "link add u3 type veth peer name u0 netns {}\nlink set u3 mtu 1500 up\n\
         route add {} dev u3 src {}\n",
        node.name(),
        node_ip(KERNEL),
        node_ip(1)
    ))?;
    node.ip(&format!(
        "link set u0 mtu 1500 up\naddr add {}/24 dev u0\n\
         link add p0 type veth peer name eth0 netns {}\nlink set p0 mtu 1450 up\n",
        node_ip(KERNEL),
        container.name()
    ))?;
    container.ip(&format!(
        "link set eth0 address {} mtu 1450 up\n",
        text(mac_of(ip4(KERNEL, 2).into()))
    ))?;
    let ifindex = crate::rig::ifindex(&one.ns, "u3")?;
    one.ns.run(|| one.plane.attach_underlay(ifindex))??;
    one.plane.set_peer(&Peer {
        node: node_ip(KERNEL),
        ifindex,
        source_mac: mac(&one.ns, "u3")?,
        next_hop: Some(mac(&node, "u0")?),
        mtu: 1500 - MTU_OVERHEAD as u16,
        vtep,
        reach: Reach::Fast,
    })?;
    one.place(KERNEL, Place::Peer(node_ip(KERNEL)))?;
    Ok(Kernel { node, container })
}

/// Addresses of our container and of the kernel's.
fn pairs() -> [(IpAddr, IpAddr); 2] {
    [
        (ip4(1, 2).into(), ip4(KERNEL, 2).into()),
        (ip6(1, 2).into(), ip6(KERNEL, 2).into()),
    ]
}

/// Both ways, all that there is.
fn talk(world: &World, there: &Kernel, pairs: &[(IpAddr, IpAddr)]) -> anyhow::Result<()> {
    let here = &world.of(1, 2).ns;
    for (ours, theirs) in pairs.iter().copied() {
        let how = || format!("{ours} and {theirs}: {}", world.host(1).counts());
        for n in [1, 1_000_000] {
            tcp(here, &there.container, ours, theirs, n).with_context(how)?;
            tcp(&there.container, here, theirs, ours, n).with_context(how)?;
        }
        for (client, server, to) in [
            (here, &there.container, theirs),
            (&there.container, here, ours),
        ] {
            udp(client, server, to, &[0, 1, 1400, 5000]).with_context(how)?;
            udp_segments(client, server, to, 1300, 20).with_context(how)?;
        }
    }
    let host = world.host(1);
    for never in [
        reason::FAILED,
        reason::MALFORMED,
        reason::LOOPED,
        reason::SPOOFED_NODE,
    ] {
        ensure!(host.count(never)? == 0, "{}", host.counts());
    }
    ensure!(host.count(reason::SENT)? > 0 && host.count(reason::RECEIVED)? > 0);
    Ok(())
}

#[test]
fn a_kernel_s_vxlan_and_bridge_is_a_peer() -> anyhow::Result<()> {
    let Some(mut world) = World::new("kbridge", 1500)? else {
        return Ok(());
    };
    world.container(1, 2)?;
    let there = kernel(&world, None)?;
    // It floods what it does not know, to us; we answer its questions.
    there.node.ip(&format!(
        "link add br0 type bridge\nlink set br0 mtu 1450 up\n\
         link add vx0 type vxlan id 1024 local {} dstport 64000\n\
         link set vx0 mtu 1450 master br0 up\nlink set p0 master br0\n",
        node_ip(KERNEL)
    ))?;
    let bridge = Command::new("bridge")
        .args(["-n", there.node.name(), "fdb", "append"])
        .args(["00:00:00:00:00:00", "dev", "vx0", "dst"])
        .arg(node_ip(1).to_string())
        .output()?;
    ensure!(
        bridge.status.success(),
        "{}",
        String::from_utf8_lossy(&bridge.stderr)
    );
    // On one link with the whole pool: it asks for every address.
    there.container.ip(&format!(
        "addr add {}/8 dev eth0\naddr add {}/32 dev eth0 nodad\n",
        ip4(KERNEL, 2),
        ip6(KERNEL, 2)
    ))?;
    let [v4, v6] = pairs();
    talk(&world, &there, &[v4])?;
    // A bridge has a frame delivered to whose MAC address it is for; ours are by address.
    there.container.ip(&format!(
        "link set eth0 address {}\n",
        text(mac_of(ip6(KERNEL, 2).into()))
    ))?;
    talk(&world, &there, &[v6])?;
    let host = world.host(1);
    for answered in [reason::ARP_ANSWERED, reason::ND_ANSWERED] {
        ensure!(host.count(answered)? > 1, "{}", host.counts());
    }
    Ok(())
}

#[test]
fn a_vtep_that_routes_as_in_dcos_is_a_peer() -> anyhow::Result<()> {
    let Some(mut world) = World::new("kvtep", 1500)? else {
        return Ok(());
    };
    world.container(1, 2)?;
    let there = kernel(&world, Some(VTEP))?;
    // Static neighbours and forwarding entries, and a route by our VTEP.
    let (vtep4, vtep6) = ("44.128.0.1", "fd01:a::1");
    let ours = text([0x70, 0xb3, 0xd5, 0x80, 0, 1]);
    let [(net_4, gateway4), (net_6, gateway6)] = [
        (net4(1), IpAddr::from(ip4(KERNEL, 1))),
        (net6(1), ip6(KERNEL, 1).into()),
    ];
    there.node.ip(&format!(
        "link add vtep1024 type vxlan id 1024 local {} dstport 64000 nolearning\n\
         link set vtep1024 address {} mtu 1450 up\n\
         addr add 44.128.0.3/20 dev vtep1024\naddr add fd01:a::3/64 dev vtep1024 nodad\n\
         neigh add {vtep4} lladdr {ours} dev vtep1024\nneigh add {vtep6} lladdr {ours} dev vtep1024\n\
         addr add {gateway4}/24 dev p0\naddr add {gateway6}/64 dev p0 nodad\n\
         route add {net_4} via {vtep4} dev vtep1024\nroute add {net_6} via {vtep6} dev vtep1024\n",
        node_ip(KERNEL),
        text(VTEP),
    ))?;
    let fdb = Command::new("bridge")
        .args([
            "-n",
            there.node.name(),
            "fdb",
            "add",
            &ours,
            "dev",
            "vtep1024",
            "dst",
        ])
        .arg(node_ip(1).to_string())
        .output()?;
    ensure!(
        fdb.status.success(),
        "{}",
        String::from_utf8_lossy(&fdb.stderr)
    );
    there.node.run(|| -> anyhow::Result<()> {
        for (key, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv6/conf/all/forwarding", "1"),
        ] {
            fs::write(format!("/proc/sys/net/{key}"), value).context(key)?;
        }
        Ok(())
    })??;
    there.container.ip(&format!(
        "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n\
         route add default via {gateway4}\nroute add default via {gateway6}\n",
        ip4(KERNEL, 2),
        ip6(KERNEL, 2)
    ))?;
    talk(&world, &there, &pairs())
}

#[test]
fn a_decoder_reads_what_is_sent() -> anyhow::Result<()> {
    let Some(mut world) = World::new("decode", 1500)? else {
        return Ok(());
    };
    world.container(1, 2)?;
    world.container(2, 2)?;
    let is_there = Command::new("tcpdump").arg("--version").output().is_ok();
    if !is_there {
        eprintln!("SKIP: no tcpdump");
        return Ok(());
    }
    // Checksums are made before the wire, so that the decoder sees what a card would send.
    world.of(1, 2).ns.run(|| {
        Command::new("ethtool")
            .args(["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"])
            .output()
    })??;
    let (one, two) = (world.host(1), &world.of(2, 2).ns);
    let mut tcpdump = one.ns.run(|| {
        Command::new("tcpdump")
            .args([
                "-i", "u0", "-Q", "out", "-n", "-vv", "-T", "vxlan", "-l", "-U",
            ])
            .args(["-c", "12", "udp port 64000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    })??;
    let mut listening = [0; 1];
    tcpdump
        .stderr
        .as_mut()
        .context("stderr")?
        .read_exact(&mut listening)?;
    // It says so before its socket is open; so there is traffic until it has seen enough.
    let mut rounds = 0;
    while tcpdump.try_wait()?.is_none() {
        rounds += 1;
        ensure!(rounds < 200, "tcpdump sees nothing");
        for (src, dst) in [
            (IpAddr::from(ip4(1, 2)), IpAddr::from(ip4(2, 2))),
            (ip6(1, 2).into(), ip6(2, 2).into()),
        ] {
            // No datagrams: told to read VXLAN, it reads inner ones so, too.
            tcp(&world.of(1, 2).ns, two, src, dst, 1000)?;
        }
    }
    let output = tcpdump.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.matches("VXLAN, flags [I] (0x08), vni 1024").count() >= 12,
        "{text}"
    );
    assert!(text.contains(&node_ip(2).to_string()), "{text}");
    for bad in ["bad ", "incorrect", "truncated", "[|"] {
        assert!(!text.contains(bad), "{bad}: {text}");
    }
    for inner in [ip4(1, 2).to_string(), ip6(1, 2).to_string()] {
        assert!(text.contains(&inner), "{inner}: {text}");
    }
    Ok(())
}
