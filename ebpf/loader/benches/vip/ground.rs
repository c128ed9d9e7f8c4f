//! Network namespaces, cgroups and a bpf file system of the bench's own, gone when dropped.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use waggle_ebpf::{DataPlane, LoaderConfig};

pub struct Ground {
    name: String,
    cgroup2: PathBuf,
    bpffs: PathBuf,
    n: RefCell<usize>,
}

/// Where one configuration lives. A namespace without a route out of the machine.
pub struct Place {
    pub netns: String,
    pub cgroup: PathBuf,
    pin_dir: PathBuf,
}

impl Ground {
    /// `None`, after saying why, where it can't run.
    pub fn new() -> anyhow::Result<Option<Self>> {
        let skip = |why: &str| {
            eprintln!("SKIP: {why}");
            Ok(None)
        };
        if !nix::unistd::geteuid().is_root() {
            return skip("needs root");
        }
        if !waggle_ebpf::is_built_with_ebpf() {
            return skip("built without ebpf programs: run `cargo xtask build-ebpf` first");
        }
        let Some(cgroup2) = waggle_ebpf::find_cgroup2_mount() else {
            return skip("no cgroup2 hierarchy is mounted");
        };
        let name = format!("wgb-vip-{}", std::process::id());
        let bpffs = std::env::temp_dir().join(&name);
        fs::create_dir(&bpffs)?;
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&bpffs))?;
        Ok(Some(Self {
            name,
            cgroup2,
            bpffs,
            n: RefCell::new(0),
        }))
    }

    pub fn place(&self, what: &str) -> anyhow::Result<Place> {
        let mut n = self.n.borrow_mut();
        *n += 1;
        let name = format!("{}-{n}-{what}", self.name);
        let place = Place {
            cgroup: self.cgroup2.join(&name),
            pin_dir: self.bpffs.join(format!("node{n}")),
            netns: name,
        };
        fs::create_dir(&place.cgroup)?;
        ip(&["netns", "add", &place.netns])?;
        ip(&["-n", &place.netns, "link", "set", "lo", "up"])?;
        // VIPs lead nowhere: what is not translated dies inside.
        ip(&[
            "-n",
            &place.netns,
            "route",
            "add",
            "11.0.0.0/8",
            "dev",
            "lo",
        ])?;
        let wide = "net.ipv4.ip_local_port_range=1024 65535";
        run(Command::new("ip").args(["netns", "exec", &place.netns, "sysctl", "-q", "-w", wide]))?;
        Ok(place)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let _ = Command::new("umount")
                .arg(&self.bpffs)
                .stderr(Stdio::null())
                .status();
            if fs::remove_dir(&self.bpffs).is_ok() {
                return;
            }
            if Instant::now() > deadline {
                eprintln!("{} stays", self.bpffs.display());
                return;
            }
        }
    }
}

impl Place {
    pub fn open(&self) -> anyhow::Result<DataPlane> {
        Ok(DataPlane::open(&LoaderConfig {
            cgroup_root: self.cgroup.clone(),
            pin_dir: self.pin_dir.clone(),
        })?)
    }

    /// The same services in nftables, by one map for each backend.
    pub fn nft(&self, services: u32, ports: &[u16]) -> anyhow::Result<()> {
        let mut script = String::from("table ip lb {\n");
        for (i, port) in ports.iter().enumerate() {
            let _ = writeln!(
                script,
                " map svc{i} {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; elements = {{"
            );
            for n in 0..services {
                let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(11, 0, 0, 1)) + n);
                let _ = writeln!(script, "{ip} . 80 : 127.0.0.1 . {port},");
            }
            script.push_str("} }\n");
        }
        for i in 0..ports.len() {
            let _ = writeln!(
                script,
                " chain to{i} {{ dnat ip to ip daddr . tcp dport map @svc{i}; }}"
            );
        }
        let goto: Vec<String> = (0..ports.len())
            .map(|i| format!("{i} : goto to{i}"))
            .collect();
        let _ = writeln!(
            script,
            " chain out {{ type nat hook output priority -100; ip daddr 11.0.0.0/8 numgen random mod {} vmap {{ {} }}; }}\n}}",
            ports.len(),
            goto.join(", ")
        );
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.netns, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("stdin")?;
        stdin.write_all(script.as_bytes())?;
        drop(stdin);
        let status = child.wait()?;
        ensure!(status.success(), "nft: {status}");
        Ok(())
    }

    fn remove(&self) -> anyhow::Result<()> {
        DataPlane::remove(&self.pin_dir)?;
        ip(&["netns", "del", &self.netns])?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while Path::exists(&self.cgroup) && fs::remove_dir(&self.cgroup).is_err() {
            ensure!(Instant::now() < deadline, "{} stays", self.cgroup.display());
        }
        Ok(())
    }
}

/// Its process must be gone, and its data plane closed.
impl Drop for Place {
    fn drop(&mut self) {
        if let Err(e) = self.remove() {
            eprintln!("{}: {e:#}", self.netns);
        }
    }
}

pub fn has_nft() -> bool {
    Command::new("nft").arg("--version").output().is_ok()
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(args))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

pub fn first_words(file: &str, n: usize) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().take(n).collect();
    words.join(" ")
}
