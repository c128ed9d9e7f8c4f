//! Containers made of an image, by an OCI runtime.
//!
//! A task's bundle is in its directory. Its shim runs `<runtime> run --detach` and so becomes the parent of the
//! container's init, which waits until the shim has put it into the task's cgroups and says go (agent/init): the
//! cgroups, and so the id that BPF programs see, are there before the runtime starts. Limits are written by
//! [`crate::cgroup`]; the runtime writes none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;
use waggle_types::{Seccomp as Wanted, TaskId, TaskSpec};

use super::{
    Contained, Instruction, Runtime, bundle, filter,
    find::look,
    seccomp::{self, Arch, Seccomp},
    spec::{self, Device, Facts, Namespaces},
    version::Version,
};
use crate::{
    AgentConfig, RuntimeSettings,
    cgroup::process_limits,
    checkpoint::TaskDir,
    crash, environment,
    gpus::DeviceNode,
    shim::{ContainerPlan, ShimPlan, UserIds},
    sys::{self, ProcessId},
};

/// The container's init, built from agent/init.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/waggle-init"));
/// How long a cgroup that was just emptied may stay busy.
const RMDIR_PATIENCE: Duration = Duration::from_secs(2);

/// Sets of capabilities whose default filter is kept: few nodes see more than two. When there are more, all are made
/// anew.
const MAX_DEFAULTS: usize = 16;

/// A seccomp profile for one set of capabilities.
struct Held {
    // For a runtime.
    lowered: Seccomp,
    // For the kernel.
    filter: Vec<Instruction>,
}

/// Runs tasks with an image.
pub struct Oci {
    program: PathBuf,
    version: Version,
    // `<work_dir>/runtime`: the runtime's state in `state`, the init in `init`.
    dir: PathBuf,
    settings: RuntimeSettings,
    kernel: (u32, u32),
    // What the agent can give.
    capabilities: u64,
    // What the default profile comes to, by capabilities.
    defaults: Mutex<BTreeMap<u64, Arc<Held>>>,
    // Where the host's hierarchies are mounted, all of them: a runtime makes its cgroup in each.
    cgroup_mounts: Vec<PathBuf>,
}

impl Oci {
    /// Looks for the node's runtime and prepares its directory. The error is for people. Blocking.
    pub fn open(config: &AgentConfig) -> Result<Self, String> {
        let found = look(&config.runtime.program)?;
        for fault in &found.faults {
            tracing::warn!(
                runtime = %found.program.display(),
                version = found.version.text,
                fault,
                "the OCI runtime is too old"
            );
        }
        let dir = config.work_dir.join("runtime");
        let prepared = fs::create_dir_all(dir.join("state")).and_then(|()| place_init(&dir));
        prepared.map_err(|e| format!("failed to prepare {}: {e}", dir.display()))?;
        let release = nix::sys::utsname::uname()
            .map(|u| u.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        let mut parts = release.split('.').map_while(|p| p.parse().ok());
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Ok(Self {
            kernel: (parts.next().unwrap_or(0), parts.next().unwrap_or(0)),
            program: found.program,
            version: found.version,
            settings: config.runtime.clone(),
            defaults: Mutex::default(),
            capabilities: own_capabilities(
                &fs::read_to_string("/proc/self/status").unwrap_or_default(),
            ),
            cgroup_mounts: cgroup_mounts(&mountinfo),
            dir,
        })
    }

    /// What a task's system calls are held to; `None`: nothing is refused.
    fn seccomp(&self, spec: &TaskSpec, capabilities: u64) -> Result<Option<Arc<Held>>, String> {
        if !spec::wants_seccomp(spec) {
            return Ok(None);
        }
        if let Wanted::Profile(name) = &spec.container.isolation.seccomp {
            // Its file may have changed.
            let profile = self.named_profile(name)?;
            return Ok(Some(Arc::new(self.hold(&profile, capabilities)?)));
        }
        let mut made = self.defaults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = made.get(&capabilities) {
            return Ok(Some(Arc::clone(held)));
        }
        let held = Arc::new(self.hold(&seccomp::default_profile()?, capabilities)?);
        if made.len() >= MAX_DEFAULTS {
            made.clear();
        }
        made.insert(capabilities, Arc::clone(&held));
        Ok(Some(held))
    }

    fn hold(&self, profile: &seccomp::Profile, capabilities: u64) -> Result<Held, String> {
        let facts = seccomp::Facts {
            capabilities,
            kernel: self.kernel,
            arch: Arch::native(),
        };
        let lowered = seccomp::lower(profile, &facts);
        let filter = filter::compile(&lowered, facts.arch)
            .map_err(|why| format!("container.isolation.seccomp: {why}"))?;
        Ok(Held { lowered, filter })
    }

    fn named_profile(&self, name: &str) -> Result<seccomp::Profile, String> {
        let said = |why: String| format!("container.isolation.seccomp: profile {name:.80?} {why}");
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(said("is no name".to_owned()));
        }
        let Some(dir) = &self.settings.seccomp_dir else {
            return Err(said(
                "is not there: this node has no profiles (--seccomp-profiles)".to_owned(),
            ));
        };
        let path = dir
            .join(name.strip_suffix(".json").unwrap_or(name))
            .with_extension("json");
        let file = fs::File::open(&path)
            .map_err(|e| said(format!("can't be read: {}: {e}", path.display())))?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, seccomp::MAX_BYTES), &mut bytes)
            .map_err(|e| said(format!("can't be read: {e}")))?;
        seccomp::parse(&bytes).map_err(said)
    }

    fn state(&self, id: &str) -> PathBuf {
        self.dir.join("state").join(id)
    }

    /// What a runtime's own `delete` does for a container that has ended: without its time (runc 1.1 waits 100 ms).
    fn delete(&self, id: &str) -> io::Result<()> {
        let state = self.state(id);
        if !state.exists() {
            return Ok(());
        }
        // Written by runc and crun alike; with neither cgroups nor a shim this is all that is known of it.
        let init: Option<State> = fs::read(state.join("state.json"))
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok());
        if let Some(init) = init
            && let Ok(fd) = (ProcessId {
                pid: init.init_process_pid,
                start_ticks: init.init_process_start,
            })
            .open()
            && init.is_still_there()
        {
            let _ = sys::pidfd_signal(&fd, libc::SIGKILL);
        }
        if self.version.name != "runc" {
            // Its state is its own business.
            let root = self.dir.join("state");
            let status = Command::new(&self.program)
                .arg("--root")
                .arg(root)
                .args(["delete", "--force", id])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            if !status.success() {
                tracing::debug!(id, %status, "runtime's delete");
            }
        }
        match fs::remove_dir_all(&state) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes the cgroups that the runtime made beside the agent's.
    fn remove_cgroups(&self, cgroup: &str) -> io::Result<()> {
        let below = cgroup.trim_start_matches('/');
        if below.is_empty() {
            return Ok(());
        }
        let until = Instant::now() + RMDIR_PATIENCE;
        for mount in &self.cgroup_mounts {
            let dir = mount.join(below);
            loop {
                // A container that may write there has made its own below.
                match crate::cgroup::remove_tree(&dir) {
                    Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                        crate::cgroup::pause();
                    }
                    Err(e) => return Err(e),
                    Ok(()) => break,
                }
            }
        }
        Ok(())
    }
}

impl Runtime for Oci {
    fn name(&self) -> &str {
        &self.version.name
    }

    fn plan(&self, task: &Contained<'_>) -> Result<ShimPlan, String> {
        let (task_spec, cgroup, prepared) = (task.spec, task.cgroup, task.prepared);
        let (Some(root), Some(user)) = (&prepared.root, &prepared.image_user) else {
            return Err("container.image: its files are not there".to_owned());
        };
        let container = &task_spec.container;
        let id = container_id(task_spec.task_id.as_str());
        let bundle_dir = bundle_dir(task.dir);
        let sandbox = task.dir.sandbox();
        let caps = spec::capability_sets(task_spec, user.uid, self.capabilities);
        let held = self.seccomp(task_spec, caps.bounding)?;
        // Without that, taking a filter needs a capability that the init may not have.
        let init_takes_filter = held.is_some() && spec::no_new_privileges(task_spec);
        let hostname = container
            .hostname
            .clone()
            .unwrap_or_else(|| bundle::hostname(task_spec.task_id.as_str()));
        let network = prepared.network.as_ref();
        let netns = network.and_then(|n| n.netns.as_deref());
        let pod = network.and_then(|n| n.pod.as_ref());
        let mut env = environment::in_container(
            task_spec,
            task.node,
            &sandbox,
            network.and_then(|n| n.own.ips().next()),
            task.trace,
        );
        let gpus = prepared.gpus.as_ref();
        let mut devices: Vec<Device> = gpus.iter().flat_map(|g| &g.devices).map(gpu).collect();
        env.extend(gpus.iter().flat_map(|g| g.env.iter().cloned()));
        for (path, access) in &container.isolation.devices {
            devices.push(device(path, access)?);
        }
        let facts = Facts {
            spec: task_spec,
            image: &root.config,
            root: &root.path,
            user,
            capabilities: caps,
            env: &env,
            sandbox: &sandbox,
            bundle: &bundle_dir,
            init: &self.dir.join("init"),
            mounts: &prepared.mounts,
            namespaces: Namespaces {
                network: netns,
                ipc: pod.map(|p| p.ipc.as_path()),
                uts: pod.map(|p| p.uts.as_path()),
            },
            hostname: &hostname,
            cgroups_path: Some(cgroup.runtime_path.as_str()).filter(|p| !p.is_empty()),
            seccomp: held
                .as_ref()
                .filter(|_| !init_takes_filter)
                .map(|h| &h.lowered),
            init_takes_filter,
            devices: &devices,
            user_namespace: container
                .isolation
                .user_namespace
                .then_some(self.settings.user_namespace_base),
        };
        let config = spec::oci_spec(&facts)?;
        let node_resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let ip = if netns.is_some() {
            network.and_then(|n| n.own.ips().next())
        } else {
            Some(task.node.ip.into())
        };
        let files = [
            ("hosts", bundle::hosts(&hostname, ip)),
            ("hostname", format!("{hostname}\n")),
            (
                "resolv.conf",
                bundle::resolv_conf(&task.node.resolver, &node_resolv, netns.is_none()),
            ),
        ];
        bundle::write(&bundle_dir, &config, &files)
            .map_err(|e| format!("failed to write the bundle {}: {e}", bundle_dir.display()))?;
        let pid_file = bundle_dir.join("pid");
        let joins_elsewhere = cgroup
            .v2
            .iter()
            .filter(|_| !cgroup.runtime_path.is_empty() && cgroup.runtime_path != cgroup.v2_path);
        Ok(ShimPlan {
            argv: spec::argv(&task_spec.command, &root.config)?,
            env: spec::environment(&facts),
            sandbox: sandbox.clone(),
            cgroups: cgroup.dirs(),
            kill_cgroup: cgroup.kill_dir().map(ToOwned::to_owned),
            memory_cgroup: cgroup.controller("memory").map(ToOwned::to_owned),
            user: prepared.user.clone(),
            kill_grace_ms: task_spec.kill_grace.0,
            logs: task.logs,
            netns: None,
            tty: false,
            rlimits: process_limits(&container.limits)?,
            container: Some(ContainerPlan {
                run: self.run_command(&id, &bundle_dir, &pid_file, container.tty),
                tty: container.tty,
                join: joins_elsewhere.cloned().collect(),
                stop_signal: stop_signal(root.config.stop_signal.as_deref()),
                user: UserIds {
                    uid: user.uid,
                    gid: user.gid,
                    groups: user.groups.clone(),
                },
                work_dir: spec::work_dir(&facts)?,
                bounding: caps.bounding,
                effective: caps.effective,
                no_new_privileges: spec::no_new_privileges(task_spec),
                seccomp: held.map(|h| h.filter.clone()).unwrap_or_default(),
                init_takes_filter,
                user_namespace: container.isolation.user_namespace,
                bundle: bundle_dir,
                pid_file,
            }),
        })
    }

    fn release(&self, dir: &TaskDir) -> io::Result<()> {
        let id = container_id(dir.task_id().as_str());
        let bundle = bundle_dir(dir);
        crash::point(&bundle, "release");
        let deleted = self.delete(&id);
        crash::point(&bundle, "deleted");
        let cgroup = config_cgroup(&bundle);
        let removed = cgroup.map_or(Ok(()), |path| self.remove_cgroups(&path));
        deleted.and(removed)?;
        match fs::remove_dir_all(&bundle) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

impl Oci {
    fn run_command(&self, id: &str, bundle: &Path, pid_file: &Path, tty: bool) -> Vec<String> {
        let text = |p: &Path| p.display().to_string();
        let mut run = vec![
            text(&self.program),
            "--root".to_owned(),
            text(&self.dir.join("state")),
            // What it has to say beside its last error is not the task's output.
            "--log".to_owned(),
            text(&bundle.join("runtime.log")),
            "run".to_owned(),
            "--detach".to_owned(),
            "--bundle".to_owned(),
            text(bundle),
            "--pid-file".to_owned(),
            text(pid_file),
            "--preserve-fds".to_owned(),
            "1".to_owned(),
        ];
        if tty {
            // Relative: a socket's path is short, and the runtime works in the bundle.
            run.extend(["--console-socket".to_owned(), "console.sock".to_owned()]);
        }
        run.push(id.to_owned());
        run
    }

    /// Removes what the runtime keeps of containers that are none of `live`'s. Blocking.
    pub fn keep(&self, live: &BTreeSet<TaskId>) -> io::Result<()> {
        let ids: BTreeSet<String> = live.iter().map(|t| container_id(t.as_str())).collect();
        for entry in fs::read_dir(self.dir.join("state"))? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if !ids.contains(name) {
                tracing::warn!(container = name, "state of an ended container is removed");
                self.delete(name)?;
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct State {
    init_process_pid: u32,
    init_process_start: u64,
    #[serde(default)]
    cgroup_paths: BTreeMap<String, String>,
}

impl State {
    /// Whether the process is in one of the container's cgroups: after a boot, number and start may be another's.
    fn is_still_there(&self) -> bool {
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", self.init_process_pid));
        cgroups.unwrap_or_default().lines().any(|line| {
            let path = line.splitn(3, ':').nth(2).unwrap_or("/");
            path != "/" && self.cgroup_paths.values().any(|own| own.ends_with(path))
        })
    }
}

/// Where a task's bundle is.
fn bundle_dir(dir: &TaskDir) -> PathBuf {
    dir.path().join("bundle")
}

/// A container's id for the runtime, which takes letters, digits, `_`, `-`, `.` and `+`; other bytes, and `+` itself,
/// are written as `+` and two hexadecimal digits, so two tasks never meet.
fn container_id(task_id: &str) -> String {
    let mut out = String::new();
    for byte in task_id.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.') {
            out.push(char::from(byte));
        } else {
            out += &format!("+{byte:02x}");
        }
    }
    out
}

/// The cgroup that a written bundle asks for.
fn config_cgroup(bundle: &Path) -> Option<String> {
    let bytes = fs::read(bundle.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    Some(config["linux"]["cgroupsPath"].as_str()?.to_owned())
}

/// SIGTERM unless the image says otherwise, by name or number.
fn stop_signal(text: Option<&str>) -> i32 {
    let Some(text) = text else {
        return libc::SIGTERM;
    };
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    let number = text.parse().ok().filter(|n| (1..=64).contains(n));
    number
        .or_else(|| Some(name.parse::<nix::sys::signal::Signal>().ok()? as i32))
        // SIGRTMIN+3 is systemd's; the first real-time signal is 34 for C libraries.
        .or_else(|| {
            let offset: i32 = name.strip_prefix("SIGRTMIN+")?.parse().ok()?;
            Some(34 + offset).filter(|n| *n <= 64)
        })
        .unwrap_or(libc::SIGTERM)
}

/// A device node of the host by its path. The error names the field.
pub fn device(path: &str, access: &str) -> Result<Device, String> {
    let said = |why: String| format!("container.isolation.devices: {path:.200} {why}");
    let good = !access.is_empty() && access.chars().all(|c| "rwm".contains(c));
    if !good {
        return Err(said(format!("must be used by r, w, m, is {access:.20?}")));
    }
    if !path.starts_with("/dev/") || path.split('/').any(|p| p == "..") {
        return Err(said("must be below /dev".to_owned()));
    }
    let meta = fs::metadata(path).map_err(|e| said(format!("can't be used: {e}")))?;
    let kind = meta.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return Err(said("is no device".to_owned()));
    }
    let rdev = meta.rdev();
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Device {
        path: path.to_owned(),
        block: kind.is_block_device(),
        numbers: (
            number(nix::sys::stat::major(rdev)),
            number(nix::sys::stat::minor(rdev)),
        ),
        mode: meta.permissions().mode() & 0o777,
        access: access.to_owned(),
    })
}

/// A node of a GPU, for reading and writing: nobody makes another one of it.
fn gpu(node: &DeviceNode) -> Device {
    Device {
        path: node.path.display().to_string(),
        block: false,
        numbers: (node.major, node.minor),
        mode: node.mode & 0o777,
        access: "rw".to_owned(),
    }
}

/// What a process may give to another one (proc_pid_status(5)); all where that can't be read.
fn own_capabilities(status: &str) -> u64 {
    let set = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok())
            .unwrap_or(u64::MAX)
    };
    set("CapBnd:") & set("CapPrm:")
}

/// Every mount of a cgroup hierarchy, one for each hierarchy.
fn cgroup_mounts(mountinfo: &str) -> Vec<PathBuf> {
    let mut by_device: BTreeMap<&str, PathBuf> = BTreeMap::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<&str> = left.split(' ').collect();
        let (Some(device), Some(point)) = (left.get(2), left.get(4)) else {
            continue;
        };
        if right.starts_with("cgroup ") || right.starts_with("cgroup2 ") {
            by_device
                .entry(device)
                .or_insert_with(|| PathBuf::from(point));
        }
    }
    by_device.into_values().collect()
}

/// The init that containers of this agent are given; those that run keep theirs.
fn place_init(dir: &Path) -> io::Result<()> {
    let path = dir.join("init");
    if fs::read(&path).is_ok_and(|bytes| bytes == INIT) {
        return Ok(());
    }
    let tmp = dir.join("init.tmp");
    fs::write(&tmp, INIT)?;
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o755))?;
    fs::rename(tmp, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_containers_are_the_runtimes_and_differ() {
        assert_eq!(container_id("web.1-a_b"), "web.1-a_b");
        assert_eq!(container_id("a+b:ü"), "a+2bb+3a+c3+bc");
        assert_ne!(container_id("a+2b"), container_id("a+"));
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, signal) in [
            (None, 15),
            (Some("SIGQUIT"), 3),
            (Some("quit"), 3),
            (Some("10"), 10),
            (Some("SIGRTMIN+3"), 37),
            (Some("0"), 15),
            (Some("SIGNOTHING"), 15),
        ] {
            assert_eq!(stop_signal(text), signal, "{text:?}");
        }
    }

    #[test]
    fn devices_are_nodes_below_dev() {
        let null = device("/dev/null", "rw").unwrap();
        assert_eq!((null.numbers, null.block), ((1, 3), false));
        for (path, access) in [
            ("/dev/null", "x"),
            ("/dev/null", ""),
            ("/etc/passwd", "r"),
            ("/dev/../etc/passwd", "r"),
            ("/dev/shm", "r"),
            ("/dev/none", "r"),
        ] {
            let why = device(path, access).unwrap_err();
            assert!(why.starts_with("container.isolation.devices: "), "{why}");
        }
    }

    #[test]
    fn every_hierarchy_counts_once() {
        let text = "1 0 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    2 0 0:1 / /mnt/memory rw - cgroup cgroup rw,memory\n\
                    3 0 0:2 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                    4 0 0:3 / /proc rw - proc proc rw\n";
        let mounts = cgroup_mounts(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[1], Path::new("/sys/fs/cgroup/unified"));
    }
}
