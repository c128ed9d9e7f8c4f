//! What only watches, on this machine's kernel: waiting for a CPU, requests to disks, packets that the kernel dropped.
//!
//! Needs root, cgroup2 and the embedded object; skips loudly otherwise. Every test has cgroups and a pin directory of its own,
//! and touches nothing else.

#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::Context;
use support::{Node, Task, eventually};
use waggle_ebpf::{DataPlane, Observer};

/// What children run; nothing in the parent.
#[test]
fn child() -> anyhow::Result<()> {
    support::child::serve()
}

/// A shell in a cgroup, on the first CPU that this process may use.
fn shell(cgroups: &[&Path], script: &str) -> anyhow::Result<Child> {
    let joins: Vec<PathBuf> = cgroups.iter().map(|c| c.join("cgroup.procs")).collect();
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let cpus = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
    let first = (0..nix::sched::CpuSet::count())
        .find(|cpu| cpus.is_set(*cpu).unwrap_or(false))
        .context("no cpu")?;
    let mut one = nix::sched::CpuSet::new();
    one.set(first)?;
    let join = move || {
        for file in &joins {
            fs::write(file, "0")?;
        }
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one)?;
        Ok(())
    };
    #[allow(unsafe_code, reason = "what the child does before exec")]
    // SAFETY: one thread of this process forks; the closure writes files and sets an affinity.
    unsafe {
        command.pre_exec(join);
    }
    Ok(command.spawn()?)
}

#[test]
fn threads_that_share_a_cpu_are_seen_waiting_once_they_have_ended() -> anyhow::Result<()> {
    const BUSY: &str = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    let Some(mut node) = Node::new("run")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let observer = Observer::open(&plane)?;
    assert!(observer.troubles().is_empty(), "{:?}", observer.troubles());
    let (busy, busy_id) = node.leaf("busy")?;
    let (other, other_id) = node.leaf("other")?;
    assert_eq!(observer.run_delay(busy_id)?, None, "nobody asked");
    observer.watch(busy_id, None)?;

    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(shell(&[&busy], BUSY)?);
    }
    // Not watched: nothing is kept of it.
    all.push(shell(&[&other], "true")?);
    for mut child in all {
        assert!(child.wait()?.success());
    }
    let waited = observer.run_delay(busy_id)?.context("not watched")?;
    // Three that need tens of milliseconds each of one CPU.
    assert!(waited > 1_000_000, "{waited} ns");
    assert!(waited < 600_000_000_000, "{waited} ns");
    assert_eq!(observer.run_delay(other_id)?, None);

    // Another process goes on from there.
    drop(observer);
    drop(plane);
    let plane = node.open()?;
    let observer = Observer::open(&plane)?;
    assert_eq!(observer.run_delay(busy_id)?, Some(waited));
    observer.watch(busy_id, None)?;
    assert_eq!(observer.run_delay(busy_id)?, Some(waited), "kept");
    assert!(shell(&[&busy], "true")?.wait()?.success());
    assert!(observer.run_delay(busy_id)? >= Some(waited));
    observer.forget(&[(busy_id, None)].into())?;
    observer.forget(&[(busy_id, None)].into())?;
    assert_eq!(observer.run_delay(busy_id)?, None);
    Ok(())
}

#[test]
fn datagrams_that_find_no_room_are_counted_for_their_socket() -> anyhow::Result<()> {
    const SENT: u32 = 4000;
    let Some(mut node) = Node::new("drop")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let observer = Observer::open(&plane)?;
    let (leaf, id) = node.leaf("slow")?;
    observer.watch(id, None)?;
    let mut slow = Task::start(&leaf)?;
    let n = slow.ask("socket 127.0.0.1:0")?;
    let to = slow.ask(&format!("address {n}"))?;
    let before = of_node(&observer)?;

    let sender = UdpSocket::bind("127.0.0.1:0")?;
    for _ in 0..SENT {
        assert_eq!(sender.send_to(&[b'x'; 1000], &to)?, 1000);
    }
    let taken: u32 = slow.ask(&format!("drain {n}"))?.parse()?;
    assert!(taken < SENT, "the socket had room for all");
    let lost = u64::from(SENT - taken);
    let drops = observer.drops()?;
    let mine: Vec<(&str, u64)> = drops
        .iter()
        .filter(|((owner, _), _)| *owner == id)
        .map(|((_, reason), n)| (*reason, *n))
        .collect();
    // Which socket a packet was for is told since kernel 6.11.
    if !mine.is_empty() {
        assert_eq!(mine, [("socket_rcvbuff", lost)]);
    }
    let after = of_node(&observer)?;
    assert!(after >= before + lost, "{before} {after} {lost}");
    assert_eq!(observer.missed()?, [("drops_map_full", 0)]);
    observer.forget(&[(id, None)].into())?;
    assert!(observer.drops()?.keys().all(|(owner, _)| *owner != id));
    assert!(of_node(&observer)? >= after, "the node's sum only grows");
    Ok(())
}

fn of_node(observer: &Observer) -> anyhow::Result<u64> {
    Ok(*observer.node_drops()?.get("socket_rcvbuff").unwrap_or(&0))
}

#[test]
fn requests_to_a_disk_are_timed_by_direction() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("disk")? else {
        return Ok(());
    };
    let Some(file) = on_a_disk()? else {
        return Ok(());
    };
    let plane = node.open()?;
    let observer = Observer::open(&plane)?;
    let (leaf, id) = node.leaf("writer")?;
    let v1 = Path::new("/sys/fs/cgroup/blkio");
    let v1 = v1
        .is_dir()
        .then(|| v1.join(format!("wgl-t-ebpf-disk-{}", std::process::id())));
    let disk_id = match &v1 {
        Some(dir) => {
            fs::create_dir(dir)?;
            fs::metadata(dir)?.ino()
        }
        None => id,
    };
    observer.watch(id, Some(disk_id))?;
    let mut cgroups = vec![leaf.as_path()];
    cgroups.extend(v1.as_deref());
    let script = format!(
        "dd if=/dev/zero of={0} bs=64k count=32 oflag=direct,dsync status=none && \
         dd if={0} of=/dev/null bs=64k iflag=direct status=none",
        file.path().display()
    );
    let done = shell(&cgroups, &script)?.wait()?;
    if let Some(dir) = &v1 {
        eventually(|| Ok(fs::remove_dir(dir).is_ok()))?;
    }
    assert!(done.success());
    let disk = observer.disk(disk_id)?.context("not watched")?;
    for io in [disk.write, disk.read] {
        assert!(io.hist.iter().sum::<u64>() >= 32, "{disk:?}");
        assert!(io.sum_us > 0 && io.sum_us < 600_000_000, "{disk:?}");
    }
    observer.forget(&[(id, Some(disk_id))].into())?;
    assert_eq!(observer.disk(disk_id)?, None);
    Ok(())
}

/// A file on a disk whose statistics are on; `None`, after saying so, where there is none.
fn on_a_disk() -> anyhow::Result<Option<tempfile::NamedTempFile>> {
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR"))?;
    let device = fs::metadata(file.path())?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let queue = format!("/sys/dev/block/{major}:{minor}/queue/iostats");
    if fs::read_to_string(&queue).unwrap_or_default().trim() != "1" {
        eprintln!("SKIP: {queue} is not 1");
        return Ok(None);
    }
    Ok(Some(file))
}

#[test]
fn nothing_stays_attached_when_a_node_is_removed() -> anyhow::Result<()> {
    let Some(node) = Node::new("gone")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let observer = Observer::open(&plane)?;
    assert_eq!(observer.attached().len(), 3);
    assert_eq!(observer.programs().len(), 3);
    let links = node
        .pin_dir
        .join(format!("v{}/links", waggle_ebpf::common::ABI_VERSION));
    assert!(links.join("dropped").exists());
    drop(observer);
    drop(plane);
    DataPlane::remove(&node.pin_dir)?;
    assert!(!links.exists());
    Ok(())
}
