//! The OCI spec of a task: a pure function of what is known about it.
//!
//! Field by field: OCI runtime spec 1.0 (github.com/opencontainers/runtime-spec, `config.md`, `config-linux.md`).
//! Defaults that the spec leaves open are docker's, since images are made for those.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};
use waggle_types::{Command, MountSource, Seccomp as Wanted, TaskSpec};

use super::{capabilities, seccomp::Seccomp, users::ImageUser};
use crate::{cgroup::process_limits, images::ImageConfig, storage::BindMount};

/// Where a task with an image finds its sandbox, as in Mesos.
pub const SANDBOX: &str = "/mnt/mesos/sandbox";
/// Where the container's init is, inside.
pub const INIT: &str = "/.waggle-init";
/// Ids that a user namespace holds.
pub const USER_NAMESPACE_IDS: u32 = 65_536;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SHM_MIB: u32 = 64;

/// What containers may not see of `/proc` and `/sys`, nor write (moby, `daemon/pkg/oci/defaults.go`).
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Where, on the host and inside.
    pub path: String,
    /// Whether it is a block device.
    pub block: bool,
    /// Its numbers.
    pub numbers: (u32, u32),
    /// Permissions of the node.
    pub mode: u32,
    /// `r`, `w`, `m` as in the cgroup's list.
    pub access: String,
}

/// Namespaces that are joined instead of made, by their files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Namespaces<'a> {
    /// Network; `None`: the node's.
    pub network: Option<&'a Path>,
    /// IPC, of a pod.
    pub ipc: Option<&'a Path>,
    /// Host name, of a pod.
    pub uts: Option<&'a Path>,
}

/// All that a spec is made of.
pub struct Facts<'a> {
    /// The task.
    pub spec: &'a TaskSpec,
    /// What its image says.
    pub image: &'a ImageConfig,
    /// Its root file system.
    pub root: &'a Path,
    /// Who it runs as, inside.
    pub user: &'a ImageUser,
    /// What that user may.
    pub capabilities: Capabilities,
    /// The agent's variables: below the task's, above the image's.
    pub env: &'a BTreeMap<String, String>,
    /// The sandbox on the host.
    pub sandbox: &'a Path,
    /// The task's bundle, with the files that are mounted from it.
    pub bundle: &'a Path,
    /// The container's init.
    pub init: &'a Path,
    /// What is mounted, in order.
    pub mounts: &'a [BindMount],
    /// What is joined.
    pub namespaces: Namespaces<'a>,
    /// Host name inside.
    pub hostname: &'a str,
    /// Its cgroup below the hierarchies' mounts; `None`: the runtime's choice.
    pub cgroups_path: Option<&'a str>,
    /// System calls, unless none is refused or the init is given a filter.
    pub seccomp: Option<&'a Seccomp>,
    /// Whether the init waits for a filter (agent/init).
    pub init_takes_filter: bool,
    /// Device nodes beyond the usual ones.
    pub devices: &'a [Device],
    /// First id of the host in its user namespace, where it has one.
    pub user_namespace: Option<u32>,
}

/// Program and arguments inside the container. The error names the field.
pub fn argv(command: &Command, image: &ImageConfig) -> Result<Vec<String>, String> {
    let argv = match command {
        Command::Shell(text) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()],
        Command::Argv(argv) => argv.clone(),
        Command::Image(args) => {
            let rest = if args.is_empty() { &image.cmd } else { args };
            [image.entrypoint.as_slice(), rest].concat()
        }
        Command::Executor => Vec::new(),
    };
    match argv.first() {
        Some(program) if !program.is_empty() => Ok(argv),
        _ => Err(
            "command: must not be empty: the image has no entry point and no command".to_owned(),
        ),
    }
}

/// The whole environment: what images expect, the image's, the agent's, the task's; later ones win.
pub fn environment(facts: &Facts<'_>) -> BTreeMap<String, String> {
    let base = [
        ("PATH", PATH),
        ("HOME", &facts.user.home),
        ("HOSTNAME", facts.hostname),
    ];
    let mut env: BTreeMap<String, String> = base
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    if facts.spec.container.tty {
        env.insert("TERM".to_owned(), "xterm".to_owned());
    }
    env.extend(facts.image.env.iter().cloned());
    env.extend(facts.env.clone());
    env.extend(facts.spec.env.clone());
    env
}

/// Working directory inside. The error names the field.
pub fn work_dir(facts: &Facts<'_>) -> Result<String, String> {
    let dir = facts.spec.container.work_dir.as_ref();
    match dir {
        Some(dir) if !dir.starts_with('/') => Err(format!(
            "container.work_dir: must be absolute, is {dir:.200?}"
        )),
        Some(dir) => Ok(dir.clone()),
        None => Ok(facts
            .image
            .work_dir
            .as_ref()
            .filter(|d| d.starts_with('/'))
            .map_or_else(|| SANDBOX.to_owned(), Clone::clone)),
    }
}

/// Capabilities of a container's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// What they may ever have.
    pub bounding: u64,
    /// What they start with, and keep over execve.
    pub effective: u64,
}

/// Root has the default ones; who is not root has none but what the task adds, and may not get more unless it
/// asks for that. `ALL` in both lists is all, or none, but for those that the other one names. `available` are those
/// that the agent can give: a machine may have taken some from everybody.
pub fn capability_sets(spec: &TaskSpec, uid: u32, available: u64) -> Capabilities {
    let wanted = wanted_capabilities(spec, uid);
    Capabilities {
        bounding: wanted.bounding & available,
        effective: wanted.effective & available,
    }
}

fn wanted_capabilities(spec: &TaskSpec, uid: u32) -> Capabilities {
    let isolation = &spec.container.isolation;
    let masks = |names: &std::collections::BTreeSet<String>| {
        names
            .iter()
            .filter_map(|n| capabilities::mask(n))
            .fold((0, false), |(set, all), mask| {
                if mask == capabilities::ALL {
                    (set, true)
                } else {
                    (set | mask, all)
                }
            })
    };
    let (add, add_all) = masks(&isolation.cap_add);
    let (drop, drop_all) = masks(&isolation.cap_drop);
    if isolation.privileged {
        return Capabilities {
            bounding: capabilities::ALL,
            effective: capabilities::ALL,
        };
    }
    let of = |base: u64| {
        let base = if add_all { capabilities::ALL } else { base };
        let base = if drop_all { 0 } else { base };
        (base | add) & !drop
    };
    let root = of(capabilities::DEFAULT);
    if uid == 0 {
        return Capabilities {
            bounding: root,
            effective: root,
        };
    }
    let own = of(0);
    Capabilities {
        bounding: if isolation.new_privileges { root } else { own },
        effective: own,
    }
}

/// The spec. The error names the field.
pub fn oci_spec(facts: &Facts<'_>) -> Result<Value, String> {
    let container = &facts.spec.container;
    let isolation = &container.isolation;
    let filter = if facts.init_takes_filter {
        "filter"
    } else {
        "plain"
    };
    let mut args = vec![INIT.to_owned(), filter.to_owned()];
    args.extend(argv(&facts.spec.command, facts.image)?);
    let caps = facts.capabilities;
    let (bounding, effective) = (
        capabilities::names(caps.bounding),
        capabilities::names(caps.effective),
    );
    // Who is not root keeps capabilities over execve only as ambient ones (capabilities(7)).
    let ambient = if facts.user.uid == 0 {
        Vec::new()
    } else {
        effective.clone()
    };
    let env: Vec<String> = environment(facts)
        .into_iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": container.tty,
            "user": {
                "uid": facts.user.uid,
                "gid": facts.user.gid,
                "additionalGids": facts.user.groups,
            },
            "args": args,
            "env": env,
            "cwd": work_dir(facts)?,
            "capabilities": {
                "bounding": bounding,
                "effective": effective,
                "permitted": effective,
                "inheritable": ambient,
                "ambient": ambient,
            },
            "rlimits": rlimits(facts.spec)?,
            "noNewPrivileges": no_new_privileges(facts.spec),
            // The agent and the shim may be protected from the OOM killer; the task is not.
            "oomScoreAdj": 0,
        },
        "root": {"path": facts.root, "readonly": isolation.read_only_root},
        "hostname": facts.hostname,
        "mounts": mounts(facts)?,
        "linux": linux(facts),
    });
    if facts.namespaces.uts.is_some() {
        // It is the pod's.
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("hostname");
        }
    }
    Ok(spec)
}

fn linux(facts: &Facts<'_>) -> Value {
    let isolation = &facts.spec.container.isolation;
    let mut namespaces = vec![json!({"type": "pid"}), json!({"type": "mount"})];
    let joined = |kind: &str, path: Option<&Path>| match path {
        Some(path) => json!({"type": kind, "path": path}),
        None => json!({"type": kind}),
    };
    if !isolation.host_ipc {
        namespaces.push(joined("ipc", facts.namespaces.ipc));
    }
    namespaces.push(joined("uts", facts.namespaces.uts));
    namespaces.push(json!({"type": "cgroup"}));
    if let Some(path) = facts.namespaces.network {
        namespaces.push(joined("network", Some(path)));
    }
    let mut rules = vec![json!({"allow": isolation.privileged, "access": "rwm"})];
    let mut nodes = Vec::new();
    for device in facts.devices {
        let kind = if device.block { "b" } else { "c" };
        let (major, minor) = device.numbers;
        nodes.push(json!({
            "path": device.path, "type": kind, "major": major, "minor": minor, "fileMode": device.mode,
            "uid": 0, "gid": 0,
        }));
        rules.push(json!({
            "allow": true, "type": kind, "major": major, "minor": minor, "access": device.access,
        }));
    }
    let mut linux = json!({
        "namespaces": namespaces,
        // Limits are written by the agent, into the cgroups that the container joins.
        "resources": {"devices": rules},
        "devices": nodes,
    });
    let mut set = |key: &str, value: Value| linux[key] = value;
    if let Some(path) = facts.cgroups_path {
        set("cgroupsPath", path.into());
    }
    if !isolation.privileged {
        set("maskedPaths", json!(MASKED));
        set("readonlyPaths", json!(READ_ONLY));
    }
    if let Some(seccomp) = facts.seccomp {
        set("seccomp", json!(seccomp));
    }
    if let Some(base) = facts.user_namespace {
        namespaces.push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": base, "size": USER_NAMESPACE_IDS}]);
        set("namespaces", json!(namespaces));
        set("uidMappings", map.clone());
        set("gidMappings", map);
    } else if facts.namespaces.network.is_some() {
        // Who is not root may listen on port 80 of its own network, as in docker.
        set(
            "sysctl",
            json!({"net.ipv4.ip_unprivileged_port_start": "0"}),
        );
    }
    linux
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": target, "type": kind, "source": source, "options": options})
}

fn mounts(facts: &Facts<'_>) -> Result<Vec<Value>, String> {
    let container = &facts.spec.container;
    let isolation = &container.isolation;
    let text = |path: &Path| path.to_str().map(ToOwned::to_owned);
    let bind = |from: &Path, target: &str, read_only: bool| {
        let from = text(from)
            .ok_or_else(|| format!("container.mounts: {} is no UTF-8", from.display()))?;
        let mode = if read_only { "ro" } else { "rw" };
        Ok::<Value, String>(mount(target, "bind", &from, &["rbind", "rprivate", mode]))
    };
    let quiet = ["nosuid", "noexec", "nodev"];
    let system = if isolation.privileged { "rw" } else { "ro" };
    let shm = format!("size={}m", container.limits.shm_mib.unwrap_or(SHM_MIB));
    let mut out = vec![
        mount("/proc", "proc", "proc", &quiet),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &quiet),
    ];
    if isolation.host_ipc {
        out.push(mount(
            "/dev/shm",
            "bind",
            "/dev/shm",
            &["rbind", "rprivate", "rw"],
        ));
    } else {
        let options = ["nosuid", "noexec", "nodev", "mode=1777", &shm];
        out.push(mount("/dev/shm", "tmpfs", "shm", &options));
    }
    // A sysfs belongs to its network namespace, and this one to the initial user namespace: it can only be bound.
    if facts.user_namespace.is_some() {
        let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro"];
        out.push(mount("/sys", "bind", "/sys", &options));
    } else {
        out.push(mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", system],
        ));
        out.push(mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", system],
        ));
    }
    out.push(bind(facts.sandbox, SANDBOX, false)?);
    for (file, target) in [
        ("hosts", "/etc/hosts"),
        ("hostname", "/etc/hostname"),
        ("resolv.conf", "/etc/resolv.conf"),
    ] {
        out.push(bind(&facts.bundle.join(file), target, false)?);
    }
    out.push(bind(facts.init, INIT, true)?);
    out.extend(own_mounts(facts, &bind)?);
    Ok(out)
}

/// The task's own mounts: its memory ones in their place among those that were prepared.
fn own_mounts(
    facts: &Facts<'_>,
    bind: &dyn Fn(&Path, &str, bool) -> Result<Value, String>,
) -> Result<Vec<Value>, String> {
    let mut prepared: Vec<&BindMount> = facts.mounts.iter().collect();
    let mut out = Vec::new();
    for wanted in &facts.spec.container.mounts {
        if let MountSource::Memory(mib) = &wanted.source {
            let size = format!("size={mib}m");
            let mode = if wanted.read_only { "ro" } else { "rw" };
            let options = ["nosuid", "nodev", "mode=1777", &size, mode];
            out.push(mount(&inside(&wanted.target)?, "tmpfs", "tmpfs", &options));
            continue;
        }
        let same = |m: &&BindMount| m.target == wanted.target.trim_end_matches('/');
        if let Some(one) = prepared.iter().position(same).map(|at| prepared.remove(at)) {
            out.push(bind(&one.from, &inside(&one.target)?, one.read_only)?);
        }
    }
    for one in prepared {
        out.push(bind(&one.from, &inside(&one.target)?, one.read_only)?);
    }
    Ok(out)
}

/// Where a mount is inside: a relative target is below the sandbox.
fn inside(target: &str) -> Result<String, String> {
    let reserved = ["/", "/proc", "/sys", "/dev", INIT];
    let below = |dir: &str| target.starts_with(&format!("{dir}/"));
    let parts = || target.split('/').filter(|p| !p.is_empty());
    if parts().any(|p| p == ".." || p == ".") || parts().next().is_none() {
        return Err(format!(
            "container.mounts: a target must be a path without . and .., is {target:.200?}"
        ));
    }
    if reserved.contains(&target.trim_end_matches('/')) || below("/proc") || below("/sys") {
        return Err(format!(
            "container.mounts: {target:.200?} is the container's own"
        ));
    }
    Ok(if target.starts_with('/') {
        target.to_owned()
    } else {
        format!("{SANDBOX}/{target}")
    })
}

/// POSIX limits, each with its bounds.
fn rlimits(spec: &TaskSpec) -> Result<Vec<Value>, String> {
    let limit = |v: Option<u64>| v.unwrap_or(u64::MAX);
    let all = process_limits(&spec.container.limits)?.into_iter();
    Ok(all
        .map(|(name, (_, soft, hard))| {
            let kind = format!("RLIMIT_{}", name.to_ascii_uppercase());
            json!({"type": kind, "hard": limit(hard), "soft": limit(soft)})
        })
        .collect())
}

/// Whether execve gives a task's processes no privileges.
pub fn no_new_privileges(spec: &TaskSpec) -> bool {
    let isolation = &spec.container.isolation;
    !(isolation.new_privileges || isolation.privileged)
}

/// Which profile a task is to have.
pub fn wants_seccomp(spec: &TaskSpec) -> bool {
    let isolation = &spec.container.isolation;
    !isolation.privileged && isolation.seccomp != Wanted::Unconfined
}

#[cfg(test)]
mod tests;
