//! client - node - backend, in namespaces: TCP, datagrams, errors and fragments through the programs on the node's two
//! veths. The backend's side is the narrower one, so that a sender must learn so through the VIP.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use waggle_ebpf::TcWay;
use waggle_ebpf::common::packet::{FlowKey, reason};
use waggle_tests_support::netns::{NetNs, TempNetNs};
use waggle_tests_support::wait_until;

use crate::fixture::{TCP, UDP};
use crate::rig::{At, Rig};

const VIP: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// The node's address on the backend's side.
const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 1);
const BACKEND: At = (Ipv4Addr::new(192, 168, 2, 2), 8080);
const ECHO: At = (Ipv4Addr::new(192, 168, 2, 2), 9000);
const LIMIT: Duration = Duration::from_secs(10);

struct World {
    client: TempNetNs,
    node: TempNetNs,
    backend: TempNetNs,
}

impl World {
    fn new(name: &str) -> anyhow::Result<Self> {
        let id = std::process::id();
        let ns = |what: &str| TempNetNs::create(&format!("wgl-t-{name}-{what}-{id}"));
        let world = Self {
            client: ns("client")?,
            node: ns("node")?,
            backend: ns("backend")?,
        };
        let node = world.node.name();
        for (n, there, mtu) in [(1, &world.client, 1500), (2, &world.backend, 1400)] {
            there.ip(&format!(
                "link add up0 type veth peer name n{n} netns {node}\n\
                 link set up0 up mtu {mtu}\n\
                 addr add 192.168.{n}.2/24 dev up0\n"
            ))?;
            world.node.ip(&format!(
                "link set n{n} up mtu {mtu}\naddr add 192.168.{n}.1/24 dev n{n}\n"
            ))?;
            // More than the device has, so that long segments are tried at all.
            there.ip(&format!(
                "route add default via 192.168.{n}.1 advmss 1460\n"
            ))?;
        }
        world
            .node
            .run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        Ok(world)
    }
}

fn ifindex(ns: &NetNs, device: &str) -> anyhow::Result<u32> {
    let output = Command::new("ip")
        .args(["-n", ns.name(), "-o", "link", "show", "dev", device])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split(':').next().context("no number")?;
    number.trim().parse().context(text.clone())
}

/// Entries that connection tracking has made in a namespace; none where the kernel has no tracking.
fn tracked(ns: &NetNs) -> anyhow::Result<Option<u64>> {
    let text = ns.run(|| fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"))?;
    match text {
        Ok(text) => Ok(Some(text.trim().parse()?)),
        Err(_) => Ok(None),
    }
}

/// Echoes what so many connections send, and says who they were.
fn serve(listener: TcpListener, n: usize) -> JoinHandle<anyhow::Result<Vec<SocketAddr>>> {
    std::thread::spawn(move || {
        let mut seen = Vec::new();
        while seen.len() < n {
            let (mut stream, from) = listener.accept()?;
            stream.set_read_timeout(Some(LIMIT))?;
            seen.push(from);
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                // The clients check what they get.
                let _ = stream.read_to_end(&mut bytes);
                let _ = stream.write_all(&bytes);
            });
        }
        Ok(seen)
    })
}

fn at((ip, port): At) -> SocketAddr {
    SocketAddrV4::new(ip, port).into()
}

fn exchange(mut stream: &TcpStream, bytes: &[u8]) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut echo = Vec::new();
    stream.read_to_end(&mut echo)?;
    ensure!(echo == bytes, "{} of {} bytes", echo.len(), bytes.len());
    Ok(())
}

#[test]
fn other_namespaces_reach_backends() -> anyhow::Result<()> {
    reach("links", TcWay::Links)
}

#[test]
fn other_namespaces_reach_backends_through_filters() -> anyhow::Result<()> {
    reach("filters", TcWay::Filters)
}

fn reach(name: &str, way: TcWay) -> anyhow::Result<()> {
    let Some(mut rig) = Rig::held_by(name, way)? else {
        return Ok(());
    };
    let world = World::new(name)?;
    rig.serve((VIP, 80), TCP, 0, &[BACKEND])?;
    rig.serve((VIP, 53), UDP, 10, &[ECHO])?;
    rig.serve((VIP, 81), TCP, 20, &[])?;
    rig.serve((VIP, 81), UDP, 30, &[])?;
    rig.serve((VIP, 54), UDP, 40, &[(NODE, 54)])?;
    let devices = [ifindex(&world.node, "n1")?, ifindex(&world.node, "n2")?];
    for device in devices {
        ensure!(
            !world.node.run(|| rig.packets.attach(device))??,
            "new links"
        );
        // As after a restart: the same links.
        ensure!(world.node.run(|| rig.packets.attach(device))??, "the same");
    }
    assert_eq!(rig.packets.attached()?, devices);

    // TCP, short and long, both ways; long segments pass the narrow side only once the client was told.
    let server = serve(world.backend.run(|| TcpListener::bind(at(BACKEND)))??, 4);
    let mut ours = Vec::new();
    for length in [1, 100_000, 3_000_000] {
        let stream = world.client.connect(at((VIP, 80)), LIMIT)?;
        assert_eq!(stream.peer_addr()?, at((VIP, 80)));
        ours.push(stream.local_addr()?);
        let bytes: Vec<u8> = (0..length).map(|n: u32| (n % 251) as u8).collect();
        exchange(&stream, &bytes).with_context(|| format!("{length} bytes"))?;
    }
    assert!(rig.count(reason::ICMP_ANSWERED)? > 0, "frag needed");

    // A flow that was forgotten is reset, not left hanging.
    let mut stream = world.client.connect(at((VIP, 80)), LIMIT)?;
    stream.write_all(b"?")?;
    ours.push(stream.local_addr()?);
    rig.packets.forget(&FlowKey {
        src: u32::from(CLIENT).to_be(),
        dst: u32::from(VIP).to_be(),
        sport: stream.local_addr()?.port().to_be(),
        dport: 80_u16.to_be(),
        proto: TCP.into(),
    })?;
    stream.set_read_timeout(Some(LIMIT))?;
    let reset = wait_until(LIMIT, "a reset", || {
        let written = stream.write_all(b"?").err();
        written.or_else(|| stream.read(&mut [0]).err())
    })?;
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    assert!(rig.count(reason::NO_FLOW)? > 0);

    datagrams(&rig, &world)?;
    nobody(&rig, &world)?;
    // The same where the device wants checksums made: what a program wrote must be right in the end.
    world.node.run(|| {
        let mut ethtool = Command::new("ethtool");
        ethtool.args(["-K", "n1", "tx", "off"]).output()
    })??;
    nobody(&rig, &world)?;
    datagrams(&rig, &world)?;
    raw(&world)?;

    // The server saw the client itself.
    let seen = server.join().map_err(|_| anyhow::anyhow!("server"))??;
    assert_eq!(seen, ours);
    assert!(ours.iter().all(|ours| ours.ip() == CLIENT));

    // Nobody tracked anything; nothing was half done.
    for ns in [&world.client, &world.node, &world.backend] {
        assert!(matches!(tracked(ns)?, None | Some(0)), "{}", ns.name());
    }
    for never in [reason::FAILED, reason::MALFORMED, reason::BAD_TABLE] {
        assert_eq!(rig.count(never)?, 0, "{}", reason::NAMES[never as usize]);
    }

    // Off: nobody answers for the VIP.
    for device in devices {
        world.node.run(|| rig.packets.detach(device))??;
    }
    assert_eq!(rig.packets.attached()?, Vec::<u32>::new());
    let gone = world
        .client
        .connect(at((VIP, 80)), Duration::from_millis(300));
    assert!(gone.is_err());
    Ok(())
}

/// Also in fragments, on both sides; to a backend behind a veth and to one on the node itself.
fn datagrams(rig: &Rig, world: &World) -> anyhow::Result<()> {
    let behind = world.backend.run(|| UdpSocket::bind(at(ECHO)))??;
    let own = world.node.run(|| UdpSocket::bind(at((NODE, 54))))??;
    for (server, port, lengths) in [(&behind, 53, [5, 1390, 6000]), (&own, 54, [5, 1390, 6000])] {
        let client = world.client.run(|| UdpSocket::bind(at((CLIENT, 0))))??;
        // Connected: only what comes from the VIP is received.
        client.connect(at((VIP, port)))?;
        client.set_read_timeout(Some(LIMIT))?;
        server.set_read_timeout(Some(LIMIT))?;
        for length in lengths {
            let sent: Vec<u8> = (0..length).map(|n: u32| (n % 241) as u8).collect();
            let mut buffer = vec![0; 8000];
            // One that is too long for the narrow side is lost to the lesson about it.
            let _ = server.set_read_timeout(Some(Duration::from_millis(500)));
            let (n, from) = wait_until(LIMIT, "a datagram", || {
                client.send(&sent).ok()?;
                server.recv_from(&mut buffer).ok()
            })
            .with_context(|| format!("{length} bytes to {port}"))?;
            assert_eq!(from, client.local_addr()?);
            assert_eq!(buffer[..n], sent);
            server.send_to(&buffer[..n], from)?;
            let mut answer = vec![0; 8000];
            let n = client
                .recv(&mut answer)
                .with_context(|| format!("the answer, {length} bytes from {port}"))?;
            assert_eq!(answer[..n], sent);
        }
    }
    assert!(rig.count(reason::FRAGMENT)? > 0);
    // Nobody listens any more: the client hears so from the VIP.
    drop((behind, own));
    for port in [53, 54] {
        let client = world.client.run(|| UdpSocket::bind(at((CLIENT, 0))))??;
        client.connect(at((VIP, port)))?;
        client.set_read_timeout(Some(LIMIT))?;
        client.send(b"who?")?;
        let error = client.recv(&mut [0; 8]).err().context("an answer")?;
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{port}");
    }
    Ok(())
}

/// What a raw socket of the node itself sends goes to a backend, by the device that leads there, and is answered by the VIP.
fn raw(world: &World) -> anyhow::Result<()> {
    const PORT: u16 = 40_404;
    // The way to VIPs is another one than that to the backend.
    world
        .node
        .ip(&format!("route add 11.0.0.0/8 via {CLIENT} dev n1\n"))?;
    let server = world.backend.run(|| UdpSocket::bind(at(ECHO)))??;
    server.set_read_timeout(Some(LIMIT))?;
    let socket = |protocol| -> anyhow::Result<OwnedFd> {
        let made = world.node.run(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            socket(AddressFamily::Inet, SockType::Raw, flags, protocol)
        })??;
        setsockopt(&made, sockopt::ReceiveTimeout, &TimeVal::seconds(10))?;
        Ok(made)
    };
    let (udp, icmp) = (socket(SockProtocol::Udp)?, socket(SockProtocol::Icmp)?);
    let to = |port: u16| -> anyhow::Result<()> {
        let text = b"by hand";
        let mut datagram = Vec::new();
        for word in [PORT, port, 8 + text.len() as u16, 0] {
            datagram.extend(word.to_be_bytes());
        }
        datagram.extend(text);
        let vip = SockaddrIn::from(SocketAddrV4::new(VIP, 0));
        sendto(udp.as_raw_fd(), &datagram, &vip, MsgFlags::empty())?;
        Ok(())
    };
    to(53)?;
    let mut buffer = [0; 256];
    let (n, from) = server.recv_from(&mut buffer).context("at the backend")?;
    assert_eq!((&buffer[..n], from.port()), (&b"by hand"[..], PORT));
    server.send_to(&buffer[..n], from)?;
    // Its own IPv4 header comes first; other datagrams of the node may, too.
    let answer = wait_until(LIMIT, "the answer", || {
        let n = recv(udp.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
        let is_ours = n == 20 + 8 + 7 && buffer[22..24] == PORT.to_be_bytes();
        is_ours.then(|| buffer[..n].to_vec())
    })?;
    assert_eq!(answer[12..16], VIP.octets());
    assert_eq!(answer[20..22], 53_u16.to_be_bytes());
    assert_eq!(&answer[28..], b"by hand");
    // Nobody is there: the node is told.
    to(81)?;
    let refused = wait_until(LIMIT, "a refusal", || {
        let n = recv(icmp.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
        (n >= 22 && buffer[20..22] == [3, 3] && buffer[12..16] == VIP.octets()).then_some(n)
    })?;
    assert_eq!(refused, 20 + 8 + 28);
    Ok(())
}

/// No backend: refused at once, whatever is sent.
fn nobody(rig: &Rig, world: &World) -> anyhow::Result<()> {
    let before = rig.count(reason::NO_BACKEND)?;
    let start = Instant::now();
    let refused = world.client.connect(at((VIP, 81)), LIMIT);
    let error = refused.err().context("connected to nobody")?;
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    assert_eq!(kind, Some(ErrorKind::ConnectionRefused), "{error:#}");
    let client = world.client.run(|| UdpSocket::bind(at((CLIENT, 0))))??;
    client.connect(at((VIP, 81)))?;
    client.set_read_timeout(Some(LIMIT))?;
    for payload in [&b""[..], b"who is there, at the address of nobody?"] {
        client.send(payload)?;
        let error = client.recv(&mut [0; 8]).err().context("an answer")?;
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    // A SYN is repeated after a second: these were not.
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(rig.count(reason::NO_BACKEND)?, before + 3);
    Ok(())
}
