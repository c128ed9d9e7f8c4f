//! `container.docker.parameters`: flags of `docker run` that mean something here, both ways.
//!
//! Marathon handed them to the docker command line as they were. There is none here: each known flag is mapped to what
//! the spec says, the others are refused by name, for a flag that is silently ignored runs something else than was meant.

use std::collections::BTreeMap;

use waggle_types::{
    Ceilings, ContainerSpec, Isolation, Milli, Mount, MountSource, Rlimit, Seccomp,
};

use super::{
    container::{MAX_SHM_MIB, profile},
    container_json::ParameterJson,
    volumes::{host_path, target},
};
use crate::read::{Errors, Obj};

/// Most parameters of one container.
const MAX_PARAMETERS: usize = 256;
/// Size of a `tmpfs` that names none, in MiB.
const TMPFS_MIB: u32 = 64;

/// Capabilities by name (capabilities(7)).
const CAPABILITIES: &[&str] = &[
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// POSIX limits by name (getrlimit(2)).
const RLIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// What the parameters say.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Isolation, ceilings, mounts, working directory and host name; the rest is as by default.
    pub spec: ContainerSpec,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
}

/// Reads `parameters` of `docker`; `mem` is the app's memory in MiB.
pub(super) fn parameters(docker: &Obj<'_>, mem: Milli, errs: &mut Errors) -> Told {
    let mut told = Told::default();
    let items = docker.list("parameters", errs).unwrap_or_default();
    if items.len() > MAX_PARAMETERS {
        let rule = format!("must be at most {MAX_PARAMETERS}, is {}", items.len());
        errs.add(docker.path("parameters"), rule);
        return told;
    }
    for (i, v) in items.iter().enumerate() {
        let path = format!("{}[{i}]", docker.path("parameters"));
        let Some(p) = Obj::of(path, v, errs) else {
            continue;
        };
        let before = errs.count();
        let (key, value) = (p.string("key", errs), p.string("value", errs));
        let Some(key) = key else {
            if errs.count() == before {
                errs.add(p.path("key"), "must be set");
            }
            continue;
        };
        match take(&mut told, &key, value.as_deref().unwrap_or(""), mem) {
            Ok(()) => {}
            Err(Wrong::Key(rule)) => errs.add(p.path("key"), rule),
            Err(Wrong::Value(rule)) => errs.add(p.path("value"), rule),
        }
    }
    told
}

enum Wrong {
    Key(String),
    Value(String),
}

impl From<String> for Wrong {
    fn from(rule: String) -> Self {
        Self::Value(rule)
    }
}

fn take(told: &mut Told, key: &str, value: &str, mem: Milli) -> Result<(), Wrong> {
    let Told { spec, env, user } = told;
    let ContainerSpec {
        isolation, limits, ..
    } = spec;
    match key {
        "cap-add" => {
            isolation.cap_add.insert(capability(value)?);
        }
        "cap-drop" => {
            isolation.cap_drop.insert(capability(value)?);
        }
        "device" => {
            let (path, access) = device(value)?;
            isolation.devices.insert(path, access);
        }
        "env" | "e" => {
            let (k, v) = value
                .split_once('=')
                .filter(|(k, _)| !k.is_empty())
                .ok_or_else(|| format!("must be NAME=value, is {value:?}"))?;
            env.insert(k.to_owned(), v.to_owned());
        }
        "hostname" | "h" => spec.hostname = Some(hostname(value)?),
        "user" | "u" => {
            if value.is_empty() {
                return Err(Wrong::Value("must not be empty".into()));
            }
            *user = Some(value.to_owned());
        }
        "workdir" | "w" => {
            if !value.starts_with('/') {
                return Err(format!("must be an absolute path, is {value:?}").into());
            }
            spec.work_dir = Some(value.to_owned());
        }
        "volume" | "v" => spec.mounts.push(volume(value)?),
        "tmpfs" => spec.mounts.push(tmpfs(value)?),
        "privileged" => isolation.privileged = flag(value)?,
        "read-only" => isolation.read_only_root = flag(value)?,
        "ipc" => match value {
            "host" => isolation.host_ipc = true,
            "private" | "" => isolation.host_ipc = false,
            _ => return Err(format!("must be private or host, is {value:?}").into()),
        },
        "userns" => match value {
            "private" => isolation.user_namespace = true,
            "host" | "" => isolation.user_namespace = false,
            _ => return Err(format!("must be private or host, is {value:?}").into()),
        },
        "security-opt" => security(isolation, value)?,
        // Every task has one.
        "init" => {
            flag(value)?;
        }
        _ => return ceilings(limits, key, value, mem),
    }
    Ok(())
}

/// Flags that are numbers.
fn ceilings(limits: &mut Ceilings, key: &str, value: &str, mem: Milli) -> Result<(), Wrong> {
    match key {
        "shm-size" => {
            let mib = mebibytes(value)?;
            if mib == 0 || mib > MAX_SHM_MIB {
                let rule = format!("must be between 1 byte and {MAX_SHM_MIB} MiB, is {value:?}");
                return Err(rule.into());
            }
            limits.shm_mib = Some(mib);
        }
        "ulimit" => {
            let (name, limit) = ulimit(value)?;
            limits.rlimits.insert(name, limit);
        }
        "pids-limit" => limits.pids = Some(between(value, 1, 4_194_304)?),
        "blkio-weight" => {
            limits.io_weight = u16::try_from(between(value, 10, 1000)?).ok();
        }
        "memory-swap" => {
            // Tasks get no swap, which docker says by the same figure for memory and for memory with swap.
            let same = i64::from(mebibytes(value)?) == mem.0.div_euclid(1000);
            if !same {
                let rule = format!(
                    "tasks get no swap, so it must be the app's mem ({mem}m), is {value:?}"
                );
                return Err(rule.into());
            }
        }
        "memory" | "m" | "memory-reservation" => return Err(instead(key, "mem")),
        "cpus" | "cpu-shares" | "cpu-quota" | "cpu-period" => {
            return Err(instead(key, "cpus and resourceLimits.cpus"));
        }
        "net" | "network" => return Err(instead(key, "networks")),
        "publish" | "p" => return Err(instead(key, "container.portMappings")),
        "label" | "l" => return Err(instead(key, "labels")),
        _ => {
            let rule = format!("docker parameter {key:?} is not supported yet");
            return Err(Wrong::Key(rule));
        }
    }
    Ok(())
}

fn instead(key: &str, by: &str) -> Wrong {
    Wrong::Key(format!(
        "docker parameter {key:?} is said by {by} of the app"
    ))
}

fn flag(value: &str) -> Result<bool, String> {
    match value {
        "true" | "" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("must be true or false, is {value:?}")),
    }
}

fn between(value: &str, min: u32, max: u32) -> Result<u32, String> {
    match value.parse() {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ => Err(format!("must be between {min} and {max}, is {value:?}")),
    }
}

fn capability(value: &str) -> Result<String, String> {
    let name = value.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    if CAPABILITIES.contains(&name) {
        Ok(name.to_owned())
    } else {
        Err(format!(
            "must be a capability such as NET_ADMIN, is {value:?}"
        ))
    }
}

/// `/dev/fuse`, `/dev/fuse:/dev/fuse` or `/dev/fuse:/dev/fuse:rwm`; a node has the same path inside.
fn device(value: &str) -> Result<(String, String), String> {
    let mut parts = value.splitn(3, ':');
    let outside = parts.next().unwrap_or_default();
    let (inside, access) = match (parts.next(), parts.next()) {
        (None, _) => (outside, "rwm"),
        (Some(access), None) if !access.starts_with('/') => (outside, access),
        (Some(inside), access) => (inside, access.unwrap_or("rwm")),
    };
    if inside != outside {
        return Err(format!(
            "must have the same path inside and outside, is {value:?}"
        ));
    }
    let normal = outside.split('/').skip(1);
    let mut normal = normal.map(|p| !p.is_empty() && p != "." && p != "..");
    if !outside.starts_with("/dev/") || !normal.all(|fine| fine) {
        return Err(format!("must be a path below /dev, is {value:?}"));
    }
    let mut seen = [false; 3];
    for c in access.chars() {
        match "rwm".find(c) {
            Some(at) if !seen[at] => seen[at] = true,
            _ => return Err(format!("access must be of r, w and m, is {access:?}")),
        }
    }
    if access.is_empty() {
        return Err("access must not be empty".into());
    }
    let access = "rwm".chars().zip(seen).filter_map(|(c, s)| s.then_some(c));
    Ok((outside.to_owned(), access.collect()))
}

fn hostname(value: &str) -> Result<String, String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if value.is_empty()
        || value.len() > 63
        || value.starts_with(['-', '.'])
        || !value.bytes().all(fine)
    {
        return Err(format!(
            "must be 1 to 63 letters, digits, - or ., is {value:?}"
        ));
    }
    Ok(value.to_owned())
}

/// `no-new-privileges`, `seccomp=unconfined` or `seccomp=PROFILE`; docker takes a colon as well.
fn security(isolation: &mut Isolation, value: &str) -> Result<(), String> {
    let (key, arg) = value.split_once(['=', ':']).unwrap_or((value, ""));
    match key {
        "no-new-privileges" => isolation.new_privileges = !flag(arg)?,
        "seccomp" if arg == "unconfined" => isolation.seccomp = Seccomp::Unconfined,
        "seccomp" => isolation.seccomp = profile(arg)?,
        _ => {
            return Err(format!(
                "must be no-new-privileges or seccomp=PROFILE, is {value:?}"
            ));
        }
    }
    Ok(())
}

/// `/host:/inside[:ro|rw]`.
fn volume(value: &str) -> Result<Mount, String> {
    let parts: Vec<&str> = value.split(':').collect();
    let (from, to, mode) = match parts.as_slice() {
        [from, to] => (*from, *to, "rw"),
        [from, to, mode] => (*from, *to, *mode),
        _ => ("", "", ""),
    };
    let read_only = match mode {
        "ro" => true,
        "rw" => false,
        _ => {
            return Err(format!(
                "must be /host/path:/path/inside, with :ro or :rw, is {value:?}"
            ));
        }
    };
    if !from.starts_with('/') || !to.starts_with('/') {
        return Err(format!("both paths must be absolute, is {value:?}"));
    }
    host_path(from)?;
    target(to, true)?;
    Ok(Mount {
        target: to.to_owned(),
        source: MountSource::Host(from.to_owned()),
        read_only,
    })
}

/// `/run` or `/run:size=64m,ro`.
fn tmpfs(value: &str) -> Result<Mount, String> {
    let (to, options) = value.split_once(':').unwrap_or((value, ""));
    if !to.starts_with('/') {
        return Err(format!("must begin with an absolute path, is {value:?}"));
    }
    target(to, true)?;
    let (mut mib, mut read_only) = (TMPFS_MIB, false);
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", size) => mib = mebibytes(size)?.max(1),
            ("ro", "") => read_only = true,
            ("rw", "") => read_only = false,
            // As every mount here is.
            ("noexec" | "nosuid" | "nodev", "") => {}
            _ => return Err(format!("option {option:?} of tmpfs is not supported yet")),
        }
    }
    Ok(Mount {
        target: to.to_owned(),
        source: MountSource::Memory(mib),
        read_only,
    })
}

/// docker's sizes: `67108864`, `64m`, `64mb`, `1g`; rounded up to whole MiB.
fn mebibytes(value: &str) -> Result<u32, String> {
    let wrong = || format!("must be a size such as 64m or 1g, is {value:?}");
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let n: u64 = value[..digits].parse().map_err(|_| wrong())?;
    let unit = value[digits..].to_ascii_lowercase();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong()),
    };
    let bytes = n.checked_mul(1 << shift).ok_or_else(wrong)?;
    u32::try_from(bytes.div_ceil(1 << 20)).map_err(|_| wrong())
}

/// `nofile=1024` or `nofile=1024:4096`; -1 is unlimited.
fn ulimit(value: &str) -> Result<(String, Rlimit), String> {
    let wrong = || format!("must be NAME=soft[:hard] such as nofile=1024:4096, is {value:?}");
    let (name, limits) = value.split_once('=').ok_or_else(wrong)?;
    if !RLIMITS.contains(&name) {
        return Err(format!(
            "must be one of {}, is {name:?}",
            RLIMITS.join(", ")
        ));
    }
    let one = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        n => n.parse().map(Some).map_err(|_| wrong()),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (one(soft)?, one(hard)?);
    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
        return Err(format!(
            "the soft limit must not be above the hard one, is {value:?}"
        ));
    }
    Ok((name.to_owned(), Rlimit { soft, hard }))
}

/// What [`parameters`] reads back; `in_linux_info`: seccomp, IPC and shared memory are said in `linuxInfo`.
pub(super) fn print(spec: &ContainerSpec, in_linux_info: bool) -> Vec<ParameterJson> {
    let mut out = Vec::new();
    let mut say = |key: &str, value: String| {
        out.push(ParameterJson {
            key: key.to_owned(),
            value,
        });
    };
    let (i, l) = (&spec.isolation, &spec.limits);
    for c in &i.cap_add {
        say("cap-add", c.clone());
    }
    for c in &i.cap_drop {
        say("cap-drop", c.clone());
    }
    for (path, access) in &i.devices {
        say("device", format!("{path}:{path}:{access}"));
    }
    if let Some(h) = &spec.hostname {
        say("hostname", h.clone());
    }
    if let Some(d) = &spec.work_dir {
        say("workdir", d.clone());
    }
    if i.read_only_root {
        say("read-only", "true".into());
    }
    if i.user_namespace {
        say("userns", "private".into());
    }
    if i.new_privileges {
        say("security-opt", "no-new-privileges=false".into());
    }
    if !in_linux_info {
        match &i.seccomp {
            Seccomp::Default => {}
            Seccomp::Unconfined => say("security-opt", "seccomp=unconfined".into()),
            Seccomp::Profile(p) => say("security-opt", format!("seccomp={p}")),
        }
        if i.host_ipc {
            say("ipc", "host".into());
        }
        if let Some(mib) = l.shm_mib {
            say("shm-size", format!("{mib}m"));
        }
    }
    if let Some(n) = l.pids {
        say("pids-limit", n.to_string());
    }
    if let Some(n) = l.io_weight {
        say("blkio-weight", n.to_string());
    }
    let limit = |n: Option<u64>| n.map_or_else(|| "-1".into(), |n| n.to_string());
    for (name, r) in &l.rlimits {
        say(
            "ulimit",
            format!("{name}={}:{}", limit(r.soft), limit(r.hard)),
        );
    }
    for m in &spec.mounts {
        if let MountSource::Memory(mib) = m.source {
            let ro = if m.read_only { ",ro" } else { "" };
            say("tmpfs", format!("{}:size={mib}m{ro}", m.target));
        }
    }
    out
}
