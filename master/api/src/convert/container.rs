//! How tasks are contained, on the wire.

use std::collections::BTreeSet;

use waggle_types::{
    Ceiling, Ceilings, ContainerSpec, ExternalVolume, FetchUri, ImageSpec, Isolation, Milli,
    Millis, Mount, MountSource, NetworkMode, Rlimit, Seccomp, VolumeId,
};

use super::{ConvertError, at_most, each, id, required};
use crate::proto::session as pb;

/// Most mounts, and most things to fetch, of one task.
const MAX_EACH: usize = 64;
/// Most capabilities, devices, limits and options in one list.
const MAX_LIST: usize = 128;

/// An empty string on the wire is nothing here.
fn word(s: String) -> Option<String> {
    Some(s).filter(|s| !s.is_empty())
}

fn network(n: Option<pb::Network>) -> NetworkMode {
    use pb::network::Mode;
    match n.and_then(|n| n.mode) {
        None | Some(Mode::Host(_)) => NetworkMode::Host,
        Some(Mode::Bridge(_)) => NetworkMode::Bridge,
        Some(Mode::Container(name)) => NetworkMode::Container(name),
        Some(Mode::None(_)) => NetworkMode::None,
    }
}

fn mount(m: pb::Mount) -> Result<Mount, ConvertError> {
    use pb::mount::Source;
    let source = match required("source", m.source)? {
        Source::Volume(v) => MountSource::Volume(id("volume", v, VolumeId::new)?),
        Source::Host(p) => MountSource::Host(p),
        Source::Sandbox(p) => MountSource::Sandbox(p),
        Source::MemoryMib(n) => MountSource::Memory(n),
        Source::External(e) => {
            at_most("external.options", e.options.len(), MAX_LIST)?;
            MountSource::External(ExternalVolume {
                provider: e.provider,
                name: e.name,
                size_mib: e.size_mib,
                options: e.options,
            })
        }
    };
    Ok(Mount {
        target: m.target,
        source,
        read_only: m.read_only,
    })
}

fn mount_to_wire(m: &Mount) -> pb::Mount {
    use pb::mount::Source;
    let source = match &m.source {
        MountSource::Volume(v) => Source::Volume(v.to_string()),
        MountSource::Host(p) => Source::Host(p.clone()),
        MountSource::Sandbox(p) => Source::Sandbox(p.clone()),
        MountSource::Memory(n) => Source::MemoryMib(*n),
        MountSource::External(e) => Source::External(pb::ExternalVolume {
            provider: e.provider.clone(),
            name: e.name.clone(),
            size_mib: e.size_mib,
            options: e.options.clone(),
        }),
    };
    pb::Mount {
        target: m.target.clone(),
        read_only: m.read_only,
        source: Some(source),
    }
}

fn fetch(f: pb::Fetch) -> FetchUri {
    FetchUri {
        uri: f.uri,
        extract: f.extract,
        executable: f.executable,
        cache: f.cache,
        output_file: word(f.output_file),
        sha256: word(f.sha256),
    }
}

fn names(field: &str, items: Vec<String>) -> Result<BTreeSet<String>, ConvertError> {
    at_most(field, items.len(), MAX_LIST)?;
    Ok(items.into_iter().collect())
}

fn isolation(i: pb::Isolation) -> Result<Isolation, ConvertError> {
    use pb::isolation::Seccomp as Wire;
    at_most("devices", i.devices.len(), MAX_LIST)?;
    Ok(Isolation {
        privileged: i.privileged,
        read_only_root: i.read_only_root,
        user_namespace: i.user_namespace,
        new_privileges: i.new_privileges,
        host_ipc: i.host_ipc,
        cap_add: names("cap_add", i.cap_add)?,
        cap_drop: names("cap_drop", i.cap_drop)?,
        seccomp: match i.seccomp {
            None => Seccomp::Default,
            Some(Wire::SeccompUnconfined(_)) => Seccomp::Unconfined,
            Some(Wire::SeccompProfile(p)) => Seccomp::Profile(p),
        },
        devices: i.devices,
    })
}

fn isolation_to_wire(i: &Isolation) -> pb::Isolation {
    use pb::isolation::Seccomp as Wire;
    pb::Isolation {
        privileged: i.privileged,
        read_only_root: i.read_only_root,
        user_namespace: i.user_namespace,
        new_privileges: i.new_privileges,
        host_ipc: i.host_ipc,
        cap_add: i.cap_add.iter().cloned().collect(),
        cap_drop: i.cap_drop.iter().cloned().collect(),
        seccomp: match &i.seccomp {
            Seccomp::Default => None,
            Seccomp::Unconfined => Some(Wire::SeccompUnconfined(pb::Empty {})),
            Seccomp::Profile(p) => Some(Wire::SeccompProfile(p.clone())),
        },
        devices: i.devices.clone(),
    }
}

fn ceiling(field: &str, c: Option<pb::Ceiling>) -> Result<Ceiling, ConvertError> {
    use pb::ceiling::At;
    match c.and_then(|c| c.at) {
        None => Ok(Ceiling::Usual),
        Some(At::Unlimited(_)) => Ok(Ceiling::Unlimited),
        Some(At::Milli(n)) if n > 0 => Ok(Ceiling::At(Milli(n))),
        Some(At::Milli(n)) => Err(ConvertError::new(field, format!("must be above 0, is {n}"))),
    }
}

fn ceiling_to_wire(c: Ceiling) -> Option<pb::Ceiling> {
    use pb::ceiling::At;
    let at = match c {
        Ceiling::Usual => return None,
        Ceiling::At(n) => At::Milli(n.0),
        Ceiling::Unlimited => At::Unlimited(pb::Empty {}),
    };
    Some(pb::Ceiling { at: Some(at) })
}

fn ceilings(c: pb::Ceilings) -> Result<Ceilings, ConvertError> {
    at_most("rlimits", c.rlimits.len(), MAX_LIST)?;
    let io_weight = c.io_weight.map(|w| {
        u16::try_from(w)
            .map_err(|_| ConvertError::new("io_weight", format!("must be at most 65535, is {w}")))
    });
    Ok(Ceilings {
        cpus: ceiling("cpus", c.cpus)?,
        mem: ceiling("mem", c.mem)?,
        pids: c.pids,
        io_weight: io_weight.transpose()?,
        run_time: c.run_time_ms.map(Millis),
        shm_mib: c.shm_mib,
        rlimits: c
            .rlimits
            .into_iter()
            .map(|(name, r)| {
                let limit = Rlimit {
                    soft: r.soft,
                    hard: r.hard,
                };
                (name, limit)
            })
            .collect(),
    })
}

fn ceilings_to_wire(c: &Ceilings) -> pb::Ceilings {
    pb::Ceilings {
        cpus: ceiling_to_wire(c.cpus),
        mem: ceiling_to_wire(c.mem),
        pids: c.pids,
        io_weight: c.io_weight.map(Into::into),
        run_time_ms: c.run_time.map(|t| t.0),
        shm_mib: c.shm_mib,
        rlimits: c
            .rlimits
            .iter()
            .map(|(name, r)| {
                let limit = pb::Rlimit {
                    soft: r.soft,
                    hard: r.hard,
                };
                (name.clone(), limit)
            })
            .collect(),
    }
}

impl TryFrom<pb::Container> for ContainerSpec {
    type Error = ConvertError;

    fn try_from(c: pb::Container) -> Result<Self, ConvertError> {
        at_most("mounts", c.mounts.len(), MAX_EACH)?;
        at_most("fetch", c.fetch.len(), MAX_EACH)?;
        let within = |field: &'static str| move |e: ConvertError| e.within(field);
        Ok(Self {
            image: c.image.map(|i| ImageSpec {
                reference: i.reference,
                force_pull: i.force_pull,
                credentials: word(i.credentials),
            }),
            network: network(c.network),
            pod: word(c.pod),
            mounts: each("mounts", c.mounts, mount)?,
            fetch: c.fetch.into_iter().map(fetch).collect(),
            isolation: isolation(c.isolation.unwrap_or_default()).map_err(within("isolation"))?,
            limits: ceilings(c.limits.unwrap_or_default()).map_err(within("limits"))?,
            work_dir: word(c.work_dir),
            hostname: word(c.hostname),
            tty: c.tty,
        })
    }
}

/// Nothing for a plain process, which is what a peer that is older reads.
pub(super) fn to_wire(c: &ContainerSpec) -> Option<pb::Container> {
    use pb::network::Mode;
    if *c == ContainerSpec::default() {
        return None;
    }
    let mode = match &c.network {
        NetworkMode::Host => Mode::Host(pb::Empty {}),
        NetworkMode::Bridge => Mode::Bridge(pb::Empty {}),
        NetworkMode::Container(name) => Mode::Container(name.clone()),
        NetworkMode::None => Mode::None(pb::Empty {}),
    };
    Some(pb::Container {
        image: c.image.as_ref().map(|i| pb::Image {
            reference: i.reference.clone(),
            force_pull: i.force_pull,
            credentials: i.credentials.clone().unwrap_or_default(),
        }),
        network: Some(pb::Network { mode: Some(mode) }),
        pod: c.pod.clone().unwrap_or_default(),
        mounts: c.mounts.iter().map(mount_to_wire).collect(),
        fetch: c
            .fetch
            .iter()
            .map(|f| pb::Fetch {
                uri: f.uri.clone(),
                extract: f.extract,
                executable: f.executable,
                cache: f.cache,
                output_file: f.output_file.clone().unwrap_or_default(),
                sha256: f.sha256.clone().unwrap_or_default(),
            })
            .collect(),
        isolation: Some(isolation_to_wire(&c.isolation)),
        limits: Some(ceilings_to_wire(&c.limits)),
        work_dir: c.work_dir.clone().unwrap_or_default(),
        hostname: c.hostname.clone().unwrap_or_default(),
        tty: c.tty,
    })
}
