//! With real packets: the node is a thread in a network and mount namespace of its own, tasks are threads in the
//! namespaces that were joined. Nothing of it outlives the test, and none of it has a route out of the machine.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use waggle_types::{Balance, TaskPort};

use waggle_overlay::overlay::{OverlayNet, OverlayNetConfig};

use super::*;
use crate::fixture;

const SOON: Duration = Duration::from_secs(5);
const NODE: &str = "10.99.0.1";
const OUTSIDE: &str = "10.99.0.2";

/// Runs `test` on a node of its own.
fn on_a_node(test: impl FnOnce(&Path) + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: network namespaces need root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let on_thread = std::thread::scope(|scope| {
        let node = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none).unwrap();
            ip("link set lo up");
            test(dir.path());
        });
        node.join()
    });
    if let Err(panic) = on_thread {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` where the calling thread is.
fn ip(arguments: &str) -> String {
    let out = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "ip {arguments}: {said}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Runs `f` in a namespace.
fn inside<T: Send>(netns: &Path, f: impl FnOnce() -> T + Send) -> T {
    within(&File::open(netns).unwrap(), f)
}

fn within<T: Send>(netns: &File, f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            f()
        });
        thread.join().unwrap()
    })
}

/// A namespace beside the node, on a cable with it.
fn outside(dir: &Path) -> PathBuf {
    let path = dir.join("outside");
    namespace::make(&[(Kind::Net, path.clone())], "outside").unwrap();
    let shown = path.display();
    ip(&format!(
        "link add up0 type veth peer name out0 netns {shown}"
    ));
    ip(&format!("addr add {NODE}/24 dev up0"));
    ip("link set up0 up");
    inside(&path, || {
        ip(&format!("addr add {OUTSIDE}/24 dev out0"));
        ip("link set out0 up");
    });
    path
}

fn open(dir: &Path, subnet: &str) -> Arc<Networks> {
    let settings = NetworkSettings {
        subnet: subnet.parse().unwrap(),
        ..NetworkSettings::default()
    };
    let config = OverlayNetConfig {
        node_ip: Ipv4Addr::LOCALHOST,
        pin_dir: dir.join("pins"),
    };
    let overlay = Arc::new(OverlayNet::off(config, "this node takes no part"));
    let own = vec!["198.51.100.1".parse().unwrap()];
    Networks::open(dir, &settings, own, overlay, None).unwrap()
}

const SUBNET: &str = "172.31.254.0/24";

fn spec(id: &str, network: NetworkMode, ports: &[(Protocol, u16, u16)]) -> TaskSpec {
    let mut spec = fixture::spec(id);
    spec.container.network = network;
    let port = |(protocol, host_port, inside): &(Protocol, u16, u16)| TaskPort {
        metrics: None,
        name: None,
        host_port: *host_port,
        container_port: Some(*inside),
        protocols: vec![*protocol],
        vips: Vec::new(),
        balance: Balance::default(),
    };
    spec.ports = ports.iter().map(port).collect();
    spec
}

fn join(networks: &Networks, spec: &TaskSpec) -> Result<Joined, String> {
    networks.join_blocking(&spec.task_id, &Want::of(spec).unwrap())
}

/// Answers each connection with its peer's address until dropped.
struct Server {
    stop: SocketAddr,
    // Held: its name may be gone before.
    netns: File,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn serve(netns: &Path, port: u16) -> Server {
    let file = File::open(netns).unwrap();
    let netns = file.try_clone().unwrap();
    let (ready, wait) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
        let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            if peer.is_loopback() {
                return;
            }
            let _ = stream.write_all(peer.to_string().as_bytes());
        }
    });
    wait.recv_timeout(SOON).unwrap();
    Server {
        stop: ([127, 0, 0, 1], port).into(),
        netns,
        thread: Some(thread),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = within(&self.netns, || TcpStream::connect(self.stop));
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || (stopped.is_ok() && matches!(ended, Some(Ok(())))));
    }
}

/// What the server at an address says of its peer.
fn ask(to: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(SOON))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// What is left on the node of everything that we make.
fn left(dir: &Path) -> Vec<String> {
    let mut out: Vec<String> = ip("-o link show")
        .lines()
        .filter(|l| l.contains("wgl") || l.contains("waggle0"))
        .map(str::to_owned)
        .collect();
    let tables = Command::new("nft").args(["list", "tables"]).output();
    let tables = String::from_utf8_lossy(&tables.unwrap().stdout).into_owned();
    out.extend(tables.lines().map(str::to_owned));
    let files = fs::read_dir(dir.join("networks")).unwrap();
    let files = files.map(|e| e.unwrap().file_name().display().to_string());
    out.extend(files.filter(|f| f != "bridge.json"));
    out
}

#[test]
fn ports_of_the_node_lead_to_tasks_from_everywhere() {
    on_a_node(|dir| {
        let out = outside(dir);
        let networks = open(dir, SUBNET);
        let web = join(
            &networks,
            &spec("web", NetworkMode::Bridge, &[(Protocol::Tcp, 31000, 80)]),
        )
        .unwrap();
        let other = join(&networks, &spec("other", NetworkMode::Bridge, &[])).unwrap();
        assert_eq!(web.own.v4, Some(Ipv4Addr::new(172, 31, 254, 2)));
        let (web, other) = (web.netns.unwrap(), other.netns.unwrap());
        let _server = serve(&web, 80);
        let port = format!("{NODE}:31000");

        // From outside, with the source as it is.
        assert_eq!(inside(&out, || ask(&port)).unwrap(), OUTSIDE);
        // From the node.
        assert_eq!(ask(&port).unwrap(), NODE);
        assert_eq!(ask("127.0.0.1:31000").unwrap(), "172.31.254.1");
        // From another task, from itself, and without the port.
        for netns in [&other, &web] {
            assert_eq!(inside(netns, || ask(&port)).unwrap(), "172.31.254.1");
        }
        let direct = inside(&other, || ask("172.31.254.2:80")).unwrap();
        assert_eq!(direct, "172.31.254.3");
        // To the outside, which sees the node.
        let _far = serve(&out, 9000);
        let seen = inside(&web, || ask(&format!("{OUTSIDE}:9000"))).unwrap();
        assert_eq!(seen, NODE);
        // What is not mapped is out of reach from outside, also for who knows the way.
        inside(&out, || {
            ip(&format!("route add {SUBNET} via {NODE}"));
            let to = "172.31.254.2:80".parse().unwrap();
            TcpStream::connect_timeout(&to, Duration::from_millis(300)).unwrap_err();
        });
        // The other way in is shut: a task can't reach what listens on the node's loopback.
        let own = TcpListener::bind("127.0.0.1:7777").unwrap();
        inside(&other, || {
            ip("route add 127.0.0.9 via 172.31.254.1");
            let to = "127.0.0.9:7777".parse().unwrap();
            TcpStream::connect_timeout(&to, Duration::from_millis(300)).unwrap_err();
        });
        drop(own);

        for id in ["web", "other", "never"] {
            networks.leave(&TaskId::new(id).unwrap()).unwrap();
        }
        assert_eq!(left(dir), Vec::<String>::new());
    });
}

#[test]
fn a_later_holder_of_a_port_gets_its_datagrams() {
    on_a_node(|dir| {
        let out = outside(dir);
        let networks = open(dir, SUBNET);
        let answer = |netns: &Path, word: &'static str| {
            let file = File::open(netns).unwrap();
            let (ready, wait) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
                let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
                socket.set_read_timeout(Some(SOON)).unwrap();
                ready.send(()).unwrap();
                let mut bytes = [0; 16];
                let (_, from) = socket.recv_from(&mut bytes).unwrap();
                socket.send_to(word.as_bytes(), from).unwrap();
            });
            wait.recv_timeout(SOON).unwrap();
            thread
        };
        let client = inside(&out, || UdpSocket::bind((OUTSIDE, 4000)).unwrap());
        client.set_read_timeout(Some(SOON)).unwrap();
        let question = || {
            client.send_to(b"?", (NODE, 31001)).unwrap();
            let mut bytes = [0; 16];
            let (n, from) = client.recv_from(&mut bytes).unwrap();
            assert_eq!(from.to_string(), format!("{NODE}:31001"));
            String::from_utf8_lossy(&bytes[..n]).into_owned()
        };
        let ports = [(Protocol::Udp, 31001, 53)];
        let mut holder = None;
        for word in ["first", "second"] {
            if let Some(id) = holder {
                networks.leave(&TaskId::new(id).unwrap()).unwrap();
            }
            // Another one keeps the bridge.
            let _ = join(&networks, &spec("stays", NetworkMode::Bridge, &[])).unwrap();
            let joined = join(&networks, &spec(word, NetworkMode::Bridge, &ports)).unwrap();
            let task = answer(&joined.netns.unwrap(), word);
            assert_eq!(question(), word);
            task.join().unwrap();
            holder = Some(word);
        }
    });
}

#[test]
fn an_agent_that_comes_back_keeps_what_lives_and_removes_the_rest() {
    on_a_node(|dir| {
        let out = outside(dir);
        let networks = open(dir, SUBNET);
        let lives = spec("lives", NetworkMode::Bridge, &[(Protocol::Tcp, 31000, 80)]);
        let ended = spec("ended", NetworkMode::Bridge, &[(Protocol::Tcp, 31001, 80)]);
        let alone = spec("alone", NetworkMode::None, &[]);
        let netns = join(&networks, &lives).unwrap().netns.unwrap();
        let dead = join(&networks, &ended).unwrap();
        join(&networks, &alone).unwrap();
        let _server = serve(&netns, 80);
        drop(networks);

        // Nothing stops while nobody is there.
        let port = format!("{NODE}:31000");
        assert_eq!(inside(&out, || ask(&port)).unwrap(), OUTSIDE);
        let networks = open(dir, SUBNET);
        // One whose leftovers were found before the rest was looked at.
        networks.leave(&alone.task_id).unwrap();
        assert_eq!(inside(&out, || ask(&port)).unwrap(), OUTSIDE);
        let live = BTreeMap::from([(lives.task_id.clone(), lives.clone())]);
        networks.keep(&live).unwrap();
        assert_eq!(inside(&out, || ask(&port)).unwrap(), OUTSIDE);
        let again = networks.joined(&lives.task_id).unwrap();
        assert_eq!(again.netns.as_deref(), Some(&*netns));
        assert_eq!(networks.joined(&ended.task_id), None);
        let gone = plan::device_name(dead.own.v4.unwrap());
        assert!(!ip("-o link show").contains(&gone));
        // Its port is free, its address rests.
        let next = spec("next", NetworkMode::Bridge, &[(Protocol::Tcp, 31001, 80)]);
        let next = join(&networks, &next).unwrap();
        assert_eq!(next.own.v4, Some(Ipv4Addr::new(172, 31, 254, 4)));

        // Somebody else empties the packet filter.
        assert!(
            Command::new("nft")
                .args(["flush", "ruleset"])
                .status()
                .unwrap()
                .success()
        );
        networks.upkeep();
        assert_eq!(inside(&out, || ask(&port)).unwrap(), OUTSIDE);

        // Another subnet from now on; those who are there stay where they are.
        let networks = open(dir, "10.98.0.0/24");
        networks.keep(&live).unwrap();
        assert_eq!(inside(&out, || ask(&port)).unwrap(), OUTSIDE);
        networks.leave(&lives.task_id).unwrap();
        assert_eq!(left(dir), Vec::<String>::new());
        let fresh = join(&networks, &spec("fresh", NetworkMode::Bridge, &[])).unwrap();
        assert_eq!(fresh.own.v4, Some(Ipv4Addr::new(10, 98, 0, 2)));
        let networks = open(dir, "10.98.0.0/24");
        networks.keep(&BTreeMap::new()).unwrap();
        assert_eq!(left(dir), Vec::<String>::new());
    });
}

#[test]
fn a_task_without_network_has_loopback() {
    on_a_node(|dir| {
        let networks = open(dir, SUBNET);
        let joined = join(&networks, &spec("alone", NetworkMode::None, &[])).unwrap();
        assert_eq!((joined.own, &joined.pod), (Own::default(), &None));
        let netns = joined.netns.unwrap();
        inside(&netns, || {
            // Whoever it runs as may listen where it wants.
            let listener = TcpListener::bind("127.0.0.1:80").unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let links = ip("-o link show");
            assert_eq!(links.lines().count(), 1, "{links}");
            let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
            assert_eq!(first.unwrap().trim(), "0");
        });
        networks.leave(&TaskId::new("alone").unwrap()).unwrap();
        assert_eq!(left(dir), Vec::<String>::new());
        assert!(!namespace::is_pinned(&netns));
    });
}

#[test]
fn the_tasks_of_a_pod_share_one_namespace_until_the_last_leaves() {
    on_a_node(|dir| {
        let networks = open(dir, SUBNET);
        let member = |id: &str, port| {
            let mut spec = spec(id, NetworkMode::Bridge, &[(Protocol::Tcp, port, port)]);
            spec.container.pod = Some("shop".to_owned());
            spec
        };
        let (a, b) = (member("a", 31000), member("b", 31001));
        let first = join(&networks, &a).unwrap();
        let second = join(&networks, &b).unwrap();
        assert_eq!(first, second);
        let shared = first.pod.unwrap();
        for pin in [&shared.ipc, &shared.uts] {
            assert!(namespace::is_pinned(pin));
        }
        let mut odd = member("c", 31002);
        odd.container.network = NetworkMode::None;
        let why = join(&networks, &odd).unwrap_err();
        assert_eq!(
            why,
            "container.network: must be the same for all of pod shop: none here, bridge there"
        );
        let netns = first.netns.unwrap();
        let _servers = [serve(&netns, 31000), serve(&netns, 31001)];
        for port in [31000, 31001] {
            assert_eq!(ask(&format!("127.0.0.1:{port}")).unwrap(), "172.31.254.1");
        }
        networks.leave(&a.task_id).unwrap();
        ask("127.0.0.1:31000").unwrap_err();
        // Over a restart, too.
        let networks = open(dir, SUBNET);
        let live = BTreeMap::from([(b.task_id.clone(), b.clone())]);
        networks.keep(&live).unwrap();
        assert_eq!(join(&networks, &member("d", 31003)).unwrap(), second);
        assert_eq!(ask("127.0.0.1:31001").unwrap(), "172.31.254.1");
        for id in ["b", "d"] {
            networks.leave(&TaskId::new(id).unwrap()).unwrap();
        }
        assert_eq!(left(dir), Vec::<String>::new());
    });
}

#[test]
fn what_can_not_be_joined_says_why_and_leaves_nothing() {
    on_a_node(|dir| {
        let networks = open(dir, "10.97.0.0/29");
        let why = |spec: &TaskSpec| join(&networks, spec).unwrap_err();
        let overlay = spec("o", NetworkMode::Container("dcos".to_owned()), &[]);
        assert_eq!(
            why(&overlay),
            "failed to join network container/dcos: this node takes no part"
        );
        let ports = [(Protocol::Tcp, 31000, 80)];
        for id in ["a", "b", "c", "d", "e"] {
            let ports = if id == "a" { &ports[..] } else { &[] };
            join(&networks, &spec(id, NetworkMode::Bridge, ports)).unwrap();
        }
        let twice = spec("twice", NetworkMode::Bridge, &ports);
        assert_eq!(
            why(&twice),
            "failed to join network bridge: host port 31000/tcp leads to task a already"
        );
        let full = spec("full", NetworkMode::Bridge, &[]);
        assert_eq!(
            why(&full),
            "failed to join network bridge: no address is free in 10.97.0.0/29: tasks have all 5; a wider \
             --bridge-subnet has more"
        );
        for id in ["a", "b", "c", "d", "e"] {
            networks.leave(&TaskId::new(id).unwrap()).unwrap();
        }
        assert_eq!(left(dir), Vec::<String>::new());
        // A subnet that the node has elsewhere.
        ip("link add taken0 type bridge");
        ip("addr add 10.97.0.1/29 dev taken0");
        ip("link set taken0 up");
        assert_eq!(
            why(&full),
            "failed to join network bridge: the bridge's subnet 10.97.0.0/29 is in use: 10.97.0.0/29 is behind \
             taken0; choose another one with --bridge-subnet"
        );
        assert_eq!(left(dir), Vec::<String>::new());
    });
}

/// Not a benchmark: an order of magnitude, told to who runs it.
#[test]
fn a_join_takes_milliseconds() {
    on_a_node(|dir| {
        let networks = open(dir, SUBNET);
        let all: Vec<TaskSpec> = (0..100u16)
            .map(|n| {
                let ports = [(Protocol::Tcp, 31000 + n, 80)];
                spec(&format!("t{n}"), NetworkMode::Bridge, &ports)
            })
            .collect();
        let mut took: Vec<Duration> = Vec::new();
        for spec in &all {
            let begun = Instant::now();
            join(&networks, spec).unwrap();
            took.push(begun.elapsed());
        }
        let first = took[0];
        took.sort();
        let mut left_in: Vec<Duration> = Vec::new();
        for spec in &all[..10] {
            let begun = Instant::now();
            networks.leave(&spec.task_id).unwrap();
            left_in.push(begun.elapsed());
        }
        left_in.sort();
        // As an agent does it: many at the same time.
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for spec in &all[10..] {
                let networks = &networks;
                scope.spawn(move || networks.leave(&spec.task_id).unwrap());
            }
        });
        let together = begun.elapsed();
        println!(
            "join: first {first:?}, median {:?}, slowest {:?}; leave: alone median {:?}, 90 together {together:?}",
            took[50], took[99], left_in[5]
        );
        assert!(
            took[50] < Duration::from_millis(200),
            "median {:?}",
            took[50]
        );
        assert_eq!(left(dir), Vec::<String>::new());
    });
}
