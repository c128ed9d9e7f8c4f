//! curl through an edge to nginx, in namespaces: client - router - {edge, two nodes}.
//!
//! The router sends VIPs to the edge; answers don't pass it. The underlay's MTU is the client's, so that what is full on the
//! client's side is too long once encapsulated, and the client must be told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use waggle_ebpf::common::edge::{dsr_reason, reason};
use waggle_ebpf::edge::{EdgeMode, EdgePlane, NodePlane, Served};
use waggle_overlay_plan::maglev::{EdgeBackend, EdgePlan, EdgePlanConfig, EdgeService};
use waggle_tests_support::netns::{NetNs, TempNetNs};
use waggle_tests_support::wait_until;
use waggle_types::{Protocol, UnixMillis, VipKey};

use crate::rig::{Rig, execute, run};

const VIP: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const EDGE: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 2);
const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 3, 2), Ipv4Addr::new(192, 168, 4, 2)];
const HTTP: [u16; 2] = [8081, 8082];
const ECHO: u16 = 9000;
const LIMIT: Duration = Duration::from_secs(10);

/// The namespaces and what runs in them; all of it goes when dropped.
struct World {
    client: TempNetNs,
    router: TempNetNs,
    edge: TempNetNs,
    nodes: Vec<TempNetNs>,
    servers: Vec<Child>,
    dir: PathBuf,
}

impl World {
    fn new(name: &str) -> anyhow::Result<Self> {
        let id = std::process::id();
        let ns = |what: &str| TempNetNs::create(&format!("wgl-t-{name}-{what}-{id}"));
        let dir = std::env::temp_dir().join(format!("wgl-t-{name}-{id}"));
        let world = Self {
            client: ns("client")?,
            router: ns("router")?,
            edge: ns("edge")?,
            nodes: vec![ns("n0")?, ns("n1")?],
            servers: Vec::new(),
            dir,
        };
        fs::create_dir_all(&world.dir)?;
        let router = world.router.name();
        for (n, there) in (1..).zip([&world.client, &world.edge].into_iter().chain(&world.nodes)) {
            there.ip(&format!(
                "link add up0 type veth peer name r{n} netns {router}\n\
                 link set up0 up\n\
                 addr add 192.168.{n}.2/24 dev up0\n"
            ))?;
            world.router.ip(&format!(
                "link set r{n} up\naddr add 192.168.{n}.1/24 dev r{n}\n"
            ))?;
            there.ip(&format!("route add default via 192.168.{n}.1\n"))?;
        }
        world
            .router
            .ip(&format!("route add 11.0.0.0/8 via {EDGE}\n"))?;
        world
            .router
            .run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        // A frame that a program sends on has lost the kernel's note that a checksum is still to be made. Real devices
        // have made it by then; this veth is told to.
        ethtool(&world.router, &["-K", "r2", "tx", "off"])?;
        Ok(world)
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        for (n, node) in self.nodes.iter().enumerate() {
            let dir = self.dir.join(format!("nginx{n}"));
            fs::create_dir_all(&dir)?;
            let config = dir.join("nginx.conf");
            // Bodies are read and thrown away: uploads have a way to go.
            fs::write(
                &config,
                format!(
                    "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;\n\
                     events {{ worker_connections 64; }}\n\
                     http {{ access_log {dir}/access.log; client_body_temp_path {dir}/body;\n\
                     proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
                     client_max_body_size 10m;\n\
                     server {{ listen {port}; location / {{ return 200 'node{n} $remote_addr $server_addr:$server_port\\n'; }}\n\
                     location /big {{ root {dir}; }}\n\
                     location /put {{ proxy_pass http://127.0.0.1:{port}/; }} }} }}\n",
                    dir = dir.display(),
                    port = HTTP[n],
                ),
            )?;
            fs::write(dir.join("big"), vec![b'x'; 3_000_000])?;
            let child = node.run(|| {
                Command::new("nginx")
                    .arg("-p")
                    .arg(&dir)
                    .arg("-c")
                    .arg(&config)
                    .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
            })?;
            self.servers.push(child.context("run nginx")?);
            wait_until(LIMIT, "nginx to listen", || {
                node.connect(
                    SocketAddrV4::new(NODES[n], HTTP[n]).into(),
                    Duration::from_secs(1),
                )
                .ok()
            })?;
        }
        Ok(())
    }

    fn curl(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.client.run(|| {
            Command::new("curl")
                .args(["-sS", "--fail", "--max-time", "10"])
                .args(args)
                .output()
        })??;
        ensure!(
            output.status.success(),
            "curl {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Link-layer address of the router's side towards the edge: the next hop of everything.
    fn next_hop(&self) -> anyhow::Result<[u8; 6]> {
        mac(&self.router, "r2")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn ethtool(ns: &NetNs, args: &[&str]) -> anyhow::Result<()> {
    ns.run(|| run(Command::new("ethtool").args(args).stdout(Stdio::null())))?
}

/// What `/sys` would say, which shows one namespace only.
fn link_of(ns: &NetNs, device: &str) -> anyhow::Result<String> {
    let output = Command::new("ip")
        .args(["-n", ns.name(), "-o", "link", "show", "dev", device])
        .output()?;
    ensure!(output.status.success(), "ip link show {device}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn mac(ns: &NetNs, device: &str) -> anyhow::Result<[u8; 6]> {
    let text = link_of(ns, device)?;
    let word = text
        .split_whitespace()
        .skip_while(|word| *word != "link/ether")
        .nth(1)
        .context("no link-layer address")?;
    let bytes = word
        .split(':')
        .map(|part| u8::from_str_radix(part, 16))
        .collect::<Result<Vec<_>, _>>()?;
    bytes.try_into().ok().context("no link-layer address")
}

fn ifindex(ns: &NetNs, device: &str) -> anyhow::Result<u32> {
    let text = link_of(ns, device)?;
    Ok(text
        .split(':')
        .next()
        .context("no number")?
        .trim()
        .parse()?)
}

/// Entries that connection tracking has made in a namespace; none where the kernel has no tracking.
fn tracked(ns: &NetNs) -> anyhow::Result<Option<u64>> {
    let text = ns.run(|| fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"))?;
    match text {
        Ok(text) => Ok(Some(text.trim().parse()?)),
        Err(_) => Ok(None),
    }
}

fn key(protocol: Protocol, port: u16) -> VipKey {
    VipKey {
        protocol,
        ip: VIP.into(),
        port,
    }
}

fn clients_reach_backends(name: &str, mode: EdgeMode) -> anyhow::Result<()> {
    let Some(rig) = Rig::new(name)? else {
        return Ok(());
    };
    let mut world = World::new(name)?;
    world.serve()?;

    // The edge.
    let edge = EdgePlane::open(&rig.config("edge"))?;
    let mut config = EdgePlanConfig::new(EDGE, mac(&world.edge, "up0")?, 1500);
    config.records = 256;
    config.backends = 4096;
    config.slots = 1 << 19;
    // One of two drains: half of the slots change at once.
    config.ring.most_marked = 1000;
    let mut plan = EdgePlan::new(config);
    let next_hop = Some(world.next_hop()?);
    let place = |n: usize, weight| EdgeBackend {
        node: NODES[n],
        next_hop,
        is_local: false,
        weight,
    };
    let at = |n: usize, port| SocketAddrV4::new(NODES[n], port);
    let mut services = BTreeMap::from([
        (
            key(Protocol::Tcp, 80),
            EdgeService {
                backends: (0..2).map(|n| (at(n, HTTP[n]), place(n, 1))).collect(),
                ..EdgeService::default()
            },
        ),
        (
            key(Protocol::Udp, 53),
            EdgeService {
                backends: BTreeMap::from([(at(1, ECHO), place(1, 1))]),
                ..EdgeService::default()
            },
        ),
        (key(Protocol::Tcp, 81), EdgeService::default()),
        (
            key(Protocol::Tcp, 82),
            EdgeService {
                backends: BTreeMap::from([(at(0, HTTP[0]), place(0, 1))]),
                ranges: Some(BTreeSet::from([(Ipv4Addr::new(10, 0, 0, 0), 8)])),
                ..EdgeService::default()
            },
        ),
    ]);
    let mut clock = 1_000;
    let mut change = |plan: &mut EdgePlan, services: &BTreeMap<_, _>| -> anyhow::Result<()> {
        clock += 5_000;
        let planned = plan.apply(services, UnixMillis(clock));
        ensure!(planned.failures.is_empty(), "{:?}", planned.failures);
        Ok(execute(edge.tables(), &planned.writes)?)
    };
    change(&mut plan, &services)?;
    let device = ifindex(&world.edge, "up0")?;
    ensure!(
        !world.edge.run(|| edge.attach(device, mode))??,
        "a new link"
    );
    if mode == EdgeMode::Native {
        let other = ifindex(&world.router, "r2")?;
        world.router.run(|| edge.attach_pass(other))??;
    }
    // The same again, as after a restart: the link stays.
    ensure!(
        world.edge.run(|| edge.attach(device, mode))??,
        "the same link"
    );

    // The nodes.
    let mut planes = Vec::new();
    for (n, ns) in world.nodes.iter().enumerate() {
        let plane = NodePlane::open(&rig.bpffs.join(format!("node{n}")))?;
        plane.add_edge(EDGE)?;
        for (protocol, port, own) in [
            (Protocol::Tcp, 80, HTTP[n]),
            (Protocol::Tcp, 82, HTTP[n]),
            (Protocol::Udp, 53, ECHO),
        ] {
            plane.serve(&Served {
                vip: SocketAddrV4::new(VIP, port),
                backend: at(n, own),
                proto: protocol.number(),
            })?;
        }
        let device = ifindex(ns, "up0")?;
        ensure!(!ns.run(|| plane.attach(device))??, "new links");
        ensure!(ns.run(|| plane.attach(device))??, "the same links");
        planes.push(plane);
    }

    // Both backends answer as the VIP, and see the client.
    let url = format!("http://{VIP}/");
    let mut seen = BTreeMap::<String, u32>::new();
    for _ in 0..40 {
        *seen.entry(world.curl(&[&url])?).or_default() += 1;
    }
    let expected: BTreeSet<String> = (0..2)
        .map(|n| format!("node{n} {CLIENT} {}:{}\n", NODES[n], HTTP[n]))
        .collect();
    assert_eq!(seen.keys().cloned().collect::<BTreeSet<_>>(), expected);

    // Long answers, long questions: the second need the client to learn that encapsulated packets are longer.
    let big = world.curl(&[
        &format!("{url}big"),
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
    ])?;
    assert_eq!(big, "3000000");
    let body = world.dir.join("body");
    fs::write(&body, vec![b'y'; 2_000_000])?;
    let data = format!("@{}", body.display());
    let put = world.curl(&[
        &format!("{url}put"),
        "-H",
        "Expect:",
        "--data-binary",
        &data,
    ])?;
    assert!(put.starts_with("node"), "{put}");
    assert!(edge.counters().count(reason::TOO_BIG)? > 0);

    // Datagrams, also ones in fragments.
    let server = world.nodes[1].run(|| UdpSocket::bind((NODES[1], ECHO)))??;
    server.set_read_timeout(Some(LIMIT))?;
    let client = world.client.run(|| UdpSocket::bind((CLIENT, 0)))??;
    // Connected: only what comes from the VIP is received.
    client.connect((VIP, 53))?;
    client.set_read_timeout(Some(Duration::from_millis(500)))?;
    for length in [5, 1400, 4000] {
        let sent = vec![7_u8; length];
        // The first long one may be lost to the lesson about the path.
        let echoed = (0..4).find_map(|_| {
            client.send(&sent).ok()?;
            server
                .set_read_timeout(Some(Duration::from_millis(500)))
                .ok()?;
            let mut buffer = vec![0; 8000];
            let (n, from) = server.recv_from(&mut buffer).ok()?;
            assert_eq!(from.ip(), CLIENT);
            server.send_to(&buffer[..n], from).ok()?;
            client.recv(&mut buffer).ok()
        });
        assert_eq!(echoed, Some(length));
    }
    // Nobody listens any more: the client hears so from the VIP.
    drop(server);
    let refused = wait_until(LIMIT, "a refusal", || {
        client
            .send(b"who?")
            .err()
            .or_else(|| client.recv(&mut [0; 8]).err())
            .filter(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    refused.context("port unreachable")?;
    assert!(planes[1].count(dsr_reason::ICMP_ANSWERED)? > 0);

    // No backend: refused at once. Not in the ranges: silence, as of nobody.
    let refused = world
        .client
        .connect(SocketAddrV4::new(VIP, 81).into(), LIMIT);
    let error = refused.err().context("connected to nobody")?;
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    assert_eq!(
        kind,
        Some(std::io::ErrorKind::ConnectionRefused),
        "{error:#}"
    );
    let denied = world.client.connect(
        SocketAddrV4::new(VIP, 82).into(),
        Duration::from_millis(300),
    );
    assert!(denied.is_err());
    assert!(edge.counters().count(reason::DENIED)? > 0);

    // A backend drains while a connection to it is open: that goes on, new ones go to the other.
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(
            world
                .client
                .connect(SocketAddrV4::new(VIP, 80).into(), LIMIT)?,
        );
    }
    for service in services.values_mut() {
        if let Some(backend) = service.backends.get_mut(&at(0, HTTP[0])) {
            backend.weight = 0;
        }
    }
    change(&mut plan, &services)?;
    let mut nodes = BTreeSet::new();
    for stream in &mut open {
        use std::io::{Read as _, Write as _};
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let line = text.lines().last().unwrap_or_default().to_owned();
        ensure!(line.starts_with("node"), "{text}");
        nodes.insert(line);
    }
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    for _ in 0..20 {
        assert!(world.curl(&[&url])?.starts_with("node1 "));
    }

    // Nobody tracked anything.
    for ns in [&world.client, &world.router, &world.edge]
        .into_iter()
        .chain(&world.nodes)
    {
        assert!(matches!(tracked(ns)?, None | Some(0)), "{}", ns.name());
    }
    let answered: u64 = planes
        .iter()
        .map(|plane| plane.count(dsr_reason::ANSWERED))
        .sum::<Result<u64, _>>()?;
    assert!(answered > 100, "{answered}");
    for plane in &planes {
        assert_eq!(plane.count(dsr_reason::FAILED)?, 0);
        assert_eq!(plane.count(dsr_reason::NO_SERVICE)?, 0);
    }

    // Off: nobody answers for the VIP.
    edge.detach()?;
    let gone = world.client.connect(
        SocketAddrV4::new(VIP, 80).into(),
        Duration::from_millis(300),
    );
    if gone.is_ok() {
        bail!("a detached edge serves");
    }
    Ok(())
}

#[test]
fn clients_reach_backends_through_a_native_edge() -> anyhow::Result<()> {
    clients_reach_backends("native", EdgeMode::Native)
}

#[test]
fn clients_reach_backends_through_a_generic_edge() -> anyhow::Result<()> {
    clients_reach_backends("generic", EdgeMode::Generic)
}
