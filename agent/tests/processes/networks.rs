//! Networks, limits and GPUs of tasks with images.
//!
//! What makes bridges runs in a network and mount namespace of its own: this program starts itself again there.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use waggle_api::proto::session::{self as pb, StatusReason, TaskState};

use crate::{
    agent::{block_on, ended, until},
    containers::{IMAGE, Node, contained},
};

const INSIDE: &str = "WAGGLE_TEST_INSIDE";

/// Runs `test` where no network of the machine is, and no mount of it is changed.
fn apart(name: &str, test: fn()) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: network namespaces need root");
        return;
    }
    if std::env::var_os(INSIDE).is_some() {
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        test();
        return;
    }
    let ended = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(ended.success(), "{name} failed apart");
}

fn on(network: pb::network::Mode, mut task: pb::TaskSpec) -> pb::TaskSpec {
    let container = task.container.as_mut().unwrap();
    container.network = Some(pb::Network {
        mode: Some(network),
    });
    task
}

fn bridge() -> pb::network::Mode {
    pb::network::Mode::Bridge(pb::Empty {})
}

fn none() -> pb::network::Mode {
    pb::network::Mode::None(pb::Empty {})
}

fn port(host_port: u32, container_port: u32) -> pb::TaskPort {
    pb::TaskPort {
        host_port,
        container_port,
        protocols: vec![pb::Protocol::Tcp.into()],
        ..pb::TaskPort::default()
    }
}

/// The body that a web server answers with.
fn fetch(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.to_owned())
}

/// What the node has of bridges.
fn devices() -> String {
    let links = Command::new("ip").args(["-o", "link"]).output().unwrap();
    let tables = Command::new("nft").args(["list", "tables"]).output();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&links.stdout) + &text(&tables.unwrap().stdout)
}

pub fn reaches_containers_behind_the_bridge() {
    apart("network_reaches_containers_behind_the_bridge", || {
        block_on(async {
            let Some(mut node) = Node::start(|_| ()).await else {
                return;
            };
            let serve =
                "ip -4 -o addr show dev eth0 | awk '{print $4}'; exec httpd -f -p 80 -h /www";
            for (id, host_port) in [("web.1", 31000), ("web.2", 31001)] {
                let mut task = on(bridge(), contained(id, IMAGE, serve));
                task.ports = vec![port(host_port, 80)];
                node.launch(task).await;
            }
            for (id, host_port, ip) in [("web.1", 31000, "172.31.254."), ("web.2", 31001, "172.")] {
                node.says(id, ip).await;
                let body = until("the web server", || fetch(host_port)).await;
                assert_eq!(body, "hello from the image\n");
                let told = until("its status", || node.master.last(id)).await.ip;
                assert!(
                    node.output(id, "stdout").starts_with(&told) && !told.is_empty(),
                    "{told}"
                );
            }
            // One reaches the other by the node's port, and what is not mapped is not there.
            let ask = "wget -q -O - http://172.31.254.1:31001/index.html; \
                       wget -q -T 2 -O - http://172.31.254.1:31009/ || echo refused";
            let (end, out) = node.run(on(bridge(), contained("ask.1", IMAGE, ask))).await;
            assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
            assert_eq!(out, "hello from the image\nrefused\n");

            // An agent that comes back finds all of it in place.
            node.vanish().await;
            assert_eq!(fetch(31000).as_deref(), Some("hello from the image\n"));
            node.begin(|_| ()).await;
            assert_eq!(fetch(31000).as_deref(), Some("hello from the image\n"));
            let told = node.master.last_registration();
            // The one that asked may still wait for its acknowledgement.
            let latest = told.tasks.iter().filter_map(|t| t.latest.as_ref());
            let ips = latest.filter(|l| l.state() == TaskState::TaskRunning);
            assert!(
                ips.clone().count() == 2 && ips.clone().all(|l| !l.ip.is_empty()),
                "{told:?}"
            );

            // A host port has one task, and says whose it is.
            let mut twice = on(bridge(), contained("twice.1", IMAGE, serve));
            twice.ports = vec![port(31000, 80)];
            let (end, _) = node.run(twice).await;
            assert_eq!(end.reason(), StatusReason::ReasonContainerLaunchFailed);
            assert_eq!(
                end.message,
                "failed to join network bridge: host port 31000/tcp leads to task web.1 already"
            );
            for id in ["web.1", "web.2"] {
                node.kill(id).await;
            }
            node.leaves_nothing().await;
            until("the bridge to go", || {
                let text = devices();
                (!text.contains("waggle0") && !text.contains("wgl")).then_some(())
            })
            .await;
        });
    });
}

pub fn is_a_pods() {
    apart("network_is_a_pods", || {
        block_on(async {
            let Some(node) = Node::start(|_| ()).await else {
                return;
            };
            let member = |id: &str, script: &str| {
                let mut task = on(none(), contained(id, IMAGE, script));
                "shop".clone_into(&mut task.container.as_mut().unwrap().pod);
                task
            };
            let tell = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; hostname";
            let wait = format!("{tell}; exec nc -l -p 5000 -e echo from a");
            node.launch(member("a.1", &wait)).await;
            node.says("a.1", "shop").await;
            let ask = format!("{tell}; until nc 127.0.0.1 5000; do sleep 0.1; done");
            let (end, b) = node.run(member("b.1", &ask)).await;
            assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
            let a = node.output("a.1", "stdout");
            let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<String>>();
            let (a, b) = (lines(&a), lines(&b));
            assert_eq!(a[..3], b[..3], "network, IPC and host name are shared");
            assert_ne!(a[3], b[3], "processes are not");
            assert_eq!((a[4].as_str(), b[4].as_str()), ("shop", "shop"));
            assert_eq!(b[5], "from a");
            // Not what a task by itself has.
            let (_, own) = node.run(on(none(), contained("own.1", IMAGE, tell))).await;
            assert!(lines(&own)[..3].iter().all(|l| !a.contains(l)), "{own}");
            ended(&node.master, "a.1").await;
            node.leaves_nothing().await;
        });
    });
}

/// A device node, removed when dropped.
struct Device(String);

impl Drop for Device {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub fn is_limited_and_has_its_gpus() {
    block_on(async {
        // Where a container's root can't have any: below /dev.
        let device = Device(format!("/dev/waggle-test-{}", std::process::id()));
        let (path, given) = (device.0.clone(), PathBuf::from(&device.0));
        // It does what /dev/null does.
        let null = nix::sys::stat::makedev(1, 3);
        let kind = nix::sys::stat::SFlag::S_IFCHR;
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        if nix::sys::stat::mknod(&given, kind, mode, null).is_err() {
            eprintln!("SKIP: device nodes need root");
            return;
        }
        let Some(node) = Node::start(|config| config.gpu_devices = Some(vec![given])).await else {
            return;
        };
        let script = format!("test -c {path} && cat {path} && echo gpu $NVIDIA_VISIBLE_DEVICES");
        let mut task = contained("gpu.1", IMAGE, &script);
        task.resources.as_mut().unwrap().gpus_milli = 1000;
        let (end, out) = node.run(task).await;
        assert_eq!(
            (end.message.as_str(), out.as_str()),
            ("command exited with status 0", "gpu 0\n")
        );
        let without = format!("test -e {path} || echo none");
        assert_eq!(
            node.run(contained("cpu.1", IMAGE, &without)).await.1,
            "none\n"
        );

        let mut hog = contained("hog.1", IMAGE, "tail /dev/zero");
        hog.container.as_mut().unwrap().limits = Some(pb::Ceilings {
            mem: Some(pb::Ceiling {
                at: Some(pb::ceiling::At::Milli(96_000)),
            }),
            ..pb::Ceilings::default()
        });
        let (end, _) = node.run(hog).await;
        assert_eq!(
            end.reason(),
            StatusReason::ReasonContainerLimitationMemory,
            "{end:?}"
        );
        assert!(
            end.message.contains("limit 100663296 bytes"),
            "{}",
            end.message
        );

        let mut busy = contained("busy.1", IMAGE, "ulimit -n; while :; do :; done");
        busy.container.as_mut().unwrap().limits = Some(pb::Ceilings {
            cpus: Some(pb::Ceiling {
                at: Some(pb::ceiling::At::Milli(200)),
            }),
            pids: Some(50),
            rlimits: [(
                "nofile".to_owned(),
                pb::Rlimit {
                    soft: Some(64),
                    hard: Some(64),
                },
            )]
            .into(),
            ..pb::Ceilings::default()
        });
        node.launch(busy).await;
        node.says("busy.1", "64\n").await;
        let read = |file: &str| {
            let dirs = node.cgroups.tasks();
            let mut dirs = dirs.iter().filter(|d| d.ends_with("busy.1"));
            dirs.find_map(|d| fs::read_to_string(d.join(file)).ok())
        };
        if Path::new("/sys/fs/cgroup/cpu").exists() {
            assert_eq!(read("cpu.cfs_quota_us").as_deref(), Some("20000\n"));
        } else {
            assert_eq!(read("cpu.max").as_deref(), Some("20000 100000\n"));
        }
        assert_eq!(read("pids.max").as_deref(), Some("50\n"));
        node.kill("busy.1").await;
        node.leaves_nothing().await;
    });
}
