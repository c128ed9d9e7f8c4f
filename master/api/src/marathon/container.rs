//! The `container` of a definition, and what stands beside it: `networks`, `resourceLimits`, `tty`.

use std::collections::BTreeMap;

use serde_json::Value;
use waggle_types::{
    Ceiling, Ceilings, ContainerSpec, ContainerType, ImageSpec, Milli, MountSource,
    PersistentVolume, Resources, ScalarKind, Seccomp, SecretFile,
};

use super::{
    fetch::fetch,
    network::network,
    parameters::{Told, parameters},
    volumes::{Volumes, volumes},
};
use crate::read::{Errors, Obj};

/// Largest `/dev/shm`, in MiB: 1 TiB.
pub(super) const MAX_SHM_MIB: u32 = 1 << 20;
/// Longest name of an image.
const MAX_IMAGE: usize = 512;

/// What a definition says about its container.
#[derive(Debug, Default)]
pub(crate) struct Container {
    pub spec: ContainerSpec,
    pub kind: ContainerType,
    /// Environment that docker parameters add; the app's own wins.
    pub env: BTreeMap<String, String>,
    /// User that docker parameters name.
    pub user: Option<String>,
    /// Persistent volumes; a Mesos framework's are among its task's resources instead.
    pub persistent: Vec<PersistentVolume>,
    /// Secrets that become files, each with the path of its key.
    pub secrets: Vec<(String, SecretFile)>,
}

/// Reads `container`, `networks`, `fetch`, `resourceLimits` and `tty`; `resources` are what the limits must not be below.
pub(crate) fn container(obj: &Obj<'_>, resources: &Resources, errs: &mut Errors) -> Container {
    let c = obj.object("container", errs);
    let mut told = Told::default();
    let docker = c.as_ref().and_then(|c| c.object("docker", errs));
    let kind = kind(c.as_ref(), docker.is_some(), errs);
    let image = docker.as_ref().and_then(|d| {
        told = parameters(d, resources.get(ScalarKind::Mem), errs);
        told.spec.isolation.privileged |= d.boolean("privileged", errs).unwrap_or(false);
        image(d, errs)
    });
    let mut said = Volumes::default();
    if let Some(c) = &c {
        c.not_yet("appc", errs);
        said = volumes(c, image.is_some(), errs);
        linux_info(c, image.is_some(), &mut told.spec, errs);
    }
    if told.spec.isolation.host_ipc && told.spec.limits.shm_mib.is_some() {
        let rule =
            "shared memory has no size of its own with the host's IPC (SHARE_PARENT, ipc=host)";
        errs.add("container", rule);
    }
    let Volumes {
        mut mounts,
        persistent,
        secrets,
    } = said;
    mounts.append(&mut told.spec.mounts);
    // What is mounted inside of another mount comes after it, as docker does.
    mounts.sort_by_key(|m| (depth(&m.target), matches!(m.source, MountSource::Memory(_))));
    let others = persistent.iter().map(|v| v.target.as_str());
    let others = others.chain(secrets.iter().map(|(_, s)| s.target.as_str()));
    unique_targets(mounts.iter().map(|m| m.target.as_str()).chain(others), errs);
    let limits = limits(obj, resources, told.spec.limits, errs);
    Container {
        spec: ContainerSpec {
            image,
            network: network(obj, docker.as_ref(), errs),
            mounts,
            fetch: fetch(obj, errs),
            limits,
            tty: obj.boolean("tty", errs).unwrap_or(false),
            ..told.spec
        },
        kind,
        env: told.env,
        user: told.user,
        persistent,
        secrets,
    }
}

/// `DOCKER` is Marathon's default; without an image there is nothing of Docker's.
fn kind(c: Option<&Obj<'_>>, docker: bool, errs: &mut Errors) -> ContainerType {
    let Some(c) = c else {
        return ContainerType::Mesos;
    };
    match c.string("type", errs).as_deref() {
        None if docker => ContainerType::Docker,
        None | Some("MESOS") => ContainerType::Mesos,
        Some("DOCKER") => {
            if c.get("docker").is_none() {
                errs.add(c.path("docker"), "must be set for type DOCKER");
            }
            ContainerType::Docker
        }
        Some(t) => {
            let rule = format!("must be MESOS or DOCKER, is {t:?}");
            errs.add(c.path("type"), rule);
            ContainerType::Mesos
        }
    }
}

fn image(d: &Obj<'_>, errs: &mut Errors) -> Option<ImageSpec> {
    let before = errs.count();
    let reference = d.string("image", errs);
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    match &reference {
        None if errs.count() == before => errs.add(d.path("image"), "must be set"),
        Some(r)
            if r.is_empty()
                || r.len() > MAX_IMAGE
                || !r.chars().all(fine)
                || !r.starts_with(|c: char| c.is_ascii_alphanumeric()) =>
        {
            let rule = format!(
                "must be an image's name such as nginx:1.25 or registry:5000/team/app@sha256:.., is {r:?}"
            );
            errs.add(d.path("image"), rule);
        }
        _ => {}
    }
    if d.get("credential").is_some() {
        errs.add(
            d.path("credential"),
            "is not supported, name an entry of the node's registry credentials in pullConfig.secret",
        );
    }
    let credentials = d.object("pullConfig", errs).and_then(|p| {
        let secret = p.string("secret", errs);
        if secret.as_ref().is_none_or(String::is_empty) {
            errs.add(p.path("secret"), "must be set");
        }
        secret
    });
    Some(ImageSpec {
        reference: reference?,
        force_pull: d.boolean("forcePullImage", errs).unwrap_or(false),
        credentials,
    })
}

/// `linuxInfo`, Mesos's words for what docker parameters say too.
fn linux_info(c: &Obj<'_>, image: bool, spec: &mut ContainerSpec, errs: &mut Errors) {
    let Some(info) = c.object("linuxInfo", errs) else {
        return;
    };
    if !image && info.entries().any(|(_, v)| !v.is_null()) {
        errs.add(c.path("linuxInfo"), "is for containers with an image");
        return;
    }
    if let Some(s) = info.object("seccomp", errs) {
        let unconfined = s.boolean("unconfined", errs).unwrap_or(false);
        match (s.string("profileName", errs), unconfined) {
            (Some(_), true) => errs.add(
                s.path("profileName"),
                "must not be set together with unconfined",
            ),
            (Some(name), false) => match profile(&name) {
                Ok(profile) => spec.isolation.seccomp = profile,
                Err(rule) => errs.add(s.path("profileName"), rule),
            },
            (None, true) => spec.isolation.seccomp = Seccomp::Unconfined,
            (None, false) => {}
        }
    }
    if let Some(ipc) = info.object("ipcInfo", errs) {
        match ipc.string("mode", errs).as_deref() {
            None | Some("PRIVATE") => {}
            Some("SHARE_PARENT") => spec.isolation.host_ipc = true,
            Some(m) => {
                let rule = format!("must be PRIVATE or SHARE_PARENT, is {m:?}");
                errs.add(ipc.path("mode"), rule);
            }
        }
        if let Some(mib) = ipc.integer("shmSize", 1, MAX_SHM_MIB, errs) {
            spec.limits.shm_mib = Some(mib);
        }
    }
}

/// A profile by its file's name in the node's profile directory.
pub(super) fn profile(name: &str) -> Result<Seccomp, String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || name.len() > 255 || name.starts_with('.') || !name.bytes().all(fine) {
        return Err(format!(
            "must be the name of a file in the node's profile directory, is {name:?}"
        ));
    }
    Ok(Seccomp::Profile(name.to_owned()))
}

/// Parts of a mount's path; relative ones are below `/mnt/mesos/sandbox`.
fn depth(target: &str) -> usize {
    let parts = target.split('/').filter(|p| !p.is_empty() && *p != ".");
    parts.count() + if target.starts_with('/') { 0 } else { 3 }
}

fn unique_targets<'a>(targets: impl Iterator<Item = &'a str>, errs: &mut Errors) {
    let (mut seen, mut n) = (std::collections::BTreeSet::new(), 0);
    for target in targets {
        n += 1;
        let target = target.trim_end_matches('/');
        if !seen.insert(target) {
            let rule = format!("two of them are mounted at {target:?}");
            errs.add("container.volumes", rule);
        }
    }
    if n > super::volumes::MAX_MOUNTS {
        let rule = format!("must be at most {}, is {n}", super::volumes::MAX_MOUNTS);
        errs.add("container.volumes", rule);
    }
}

/// `resourceLimits`: not below what the app asks for.
fn limits(obj: &Obj<'_>, resources: &Resources, limits: Ceilings, errs: &mut Errors) -> Ceilings {
    let Some(l) = obj.object("resourceLimits", errs) else {
        return limits;
    };
    l.only(&["cpus", "mem"], errs);
    let mut one = |key: &str, kind| match l.get(key) {
        None => Ceiling::Usual,
        Some(Value::String(s)) if s == "unlimited" => Ceiling::Unlimited,
        Some(Value::String(s)) => {
            let rule = format!("must be a number or \"unlimited\", is {s:?}");
            errs.add(l.path(key), rule);
            Ceiling::Usual
        }
        Some(_) => {
            let Some(at) = l
                .number(key, super::parse::MAX_SCALAR, errs)
                .and_then(Milli::from_f64)
            else {
                return Ceiling::Usual;
            };
            let least = resources.get(kind);
            if at < least || at.0 == 0 {
                let rule = format!(
                    "must not be below the app's {key} ({}), is {}",
                    least.to_f64(),
                    at.to_f64()
                );
                errs.add(l.path(key), rule);
            }
            Ceiling::At(at)
        }
    };
    Ceilings {
        cpus: one("cpus", ScalarKind::Cpus),
        mem: one("mem", ScalarKind::Mem),
        ..limits
    }
}
