//! A spec's container as Marathon's JSON. Clients' models are strict: what a spec does not say is left out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use waggle_types::{
    Ceiling, ContainerSpec, ContainerType, FetchUri, ImageSpec, Mount, MountSource, NetworkMode,
    PersistentVolume, PortDefinition, Seccomp, SecretFile, ServiceSpec,
};

use super::{
    definition::{Number, protocol_text},
    parameters,
};

/// `container`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's container")]
pub struct ContainerJson {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<DockerJson>,
    #[serde(default)]
    pub volumes: Vec<VolumeJson>,
    /// Absent on the host's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_mappings: Option<Vec<PortMappingJson>>,
    /// Only where the app says something in it: clients' models do not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linux_info: Option<LinuxInfoJson>,
}

/// `container.docker`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's docker container")]
pub struct DockerJson {
    pub image: String,
    #[serde(default)]
    pub force_pull_image: bool,
    #[serde(default)]
    pub privileged: bool,
    #[serde(default)]
    pub parameters: Vec<ParameterJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_config: Option<PullConfigJson>,
}

/// One docker parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of Marathon's docker parameter")]
pub struct ParameterJson {
    pub key: String,
    pub value: String,
}

/// `{"secret": "name"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullConfigJson {
    /// An entry of the node's registry credentials.
    pub secret: String,
}

/// A port of a network of the instance's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's port mapping")]
pub struct PortMappingJson {
    pub container_port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    pub service_port: u16,
    pub protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's volume")]
pub struct VolumeJson {
    pub container_path: String,
    pub mode: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent: Option<PersistentJson>,
    /// Only where the app has one: clients' models do not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// A volume of each instance's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's persistent volume")]
pub struct PersistentJson {
    /// MiB.
    pub size: i64,
    #[serde(rename = "type")]
    pub kind: String,
    /// A disk of nodes by name; without one it is that of their work directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_name: Option<String>,
}

/// An external volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of Marathon's external volume")]
pub struct ExternalJson {
    pub name: String,
    pub provider: String,
    /// GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    pub options: BTreeMap<String, String>,
}

/// `container.linuxInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's Linux info")]
pub struct LinuxInfoJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<SeccompJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipc_info: Option<IpcInfoJson>,
}

/// Which system calls are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's seccomp")]
pub struct SeccompJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_name: Option<String>,
    pub unconfined: bool,
}

/// Whose IPC namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's IPC info")]
pub struct IpcInfoJson {
    pub mode: String,
    /// MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<u32>,
}

/// Something to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's artifact")]
pub struct FetchJson {
    pub uri: String,
    pub extract: bool,
    pub executable: bool,
    pub cache: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dest_path: Option<String>,
    /// An addition to Marathon's keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// `resourceLimits`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of Marathon's resource limits")]
pub struct ResourceLimitsJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<LimitJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem: Option<LimitJson>,
}

/// A number, or the text `unlimited`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LimitJson {
    /// At most so much.
    At(Number),
    /// `unlimited`.
    Word(String),
}

/// `{"mode": "host"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkJson {
    /// `host`, `container/bridge`, `container`, or `none`, which is an addition to Marathon's.
    pub mode: String,
    /// Which network, for `container`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl From<&NetworkMode> for NetworkJson {
    fn from(n: &NetworkMode) -> Self {
        let (mode, name) = match n {
            NetworkMode::Host => ("host", None),
            NetworkMode::Bridge => ("container/bridge", None),
            NetworkMode::Container(name) => ("container", Some(name.clone())),
            NetworkMode::None => ("none", None),
        };
        Self {
            mode: mode.into(),
            name,
        }
    }
}

/// The container of a spec; nothing for a plain process without volumes.
pub(super) fn container(s: &ServiceSpec) -> Option<ContainerJson> {
    let c = &s.container;
    let mapped = matches!(c.network, NetworkMode::Bridge | NetworkMode::Container(_));
    let linux_info = linux_info(c).filter(|_| s.container_type == ContainerType::Mesos);
    let out = ContainerJson {
        kind: match s.container_type {
            ContainerType::Mesos => "MESOS".into(),
            ContainerType::Docker => "DOCKER".into(),
        },
        docker: c.image.as_ref().map(|i| DockerJson {
            parameters: parameters::print(c, s.container_type == ContainerType::Mesos),
            ..docker(i, c.isolation.privileged)
        }),
        volumes: volumes(s),
        port_mappings: mapped.then(|| s.ports.iter().map(port_mapping).collect()),
        linux_info,
    };
    let empty = out.docker.is_none() && out.volumes.is_empty() && out.port_mappings.is_none();
    (!empty).then_some(out)
}

fn docker(i: &ImageSpec, privileged: bool) -> DockerJson {
    DockerJson {
        image: i.reference.clone(),
        force_pull_image: i.force_pull,
        privileged,
        parameters: Vec::new(),
        pull_config: i
            .credentials
            .clone()
            .map(|secret| PullConfigJson { secret }),
    }
}

fn linux_info(c: &ContainerSpec) -> Option<LinuxInfoJson> {
    let seccomp = match &c.isolation.seccomp {
        Seccomp::Default => None,
        Seccomp::Unconfined => Some((None, true)),
        Seccomp::Profile(p) => Some((Some(p.clone()), false)),
    };
    let ipc = c.isolation.host_ipc || c.limits.shm_mib.is_some();
    let mode = if c.isolation.host_ipc {
        "SHARE_PARENT"
    } else {
        "PRIVATE"
    };
    let info = LinuxInfoJson {
        seccomp: seccomp.map(|(profile_name, unconfined)| SeccompJson {
            profile_name,
            unconfined,
        }),
        ipc_info: ipc.then(|| IpcInfoJson {
            mode: mode.into(),
            shm_size: c.limits.shm_mib,
        }),
    };
    (info != LinuxInfoJson::default()).then_some(info)
}

fn volumes(s: &ServiceSpec) -> Vec<VolumeJson> {
    let mounts = s.container.mounts.iter().filter_map(volume);
    let persistent = s.volumes.iter().map(persistent);
    let secrets = s.secrets.files.iter().map(secret);
    mounts.chain(persistent).chain(secrets).collect()
}

fn persistent(v: &PersistentVolume) -> VolumeJson {
    VolumeJson {
        container_path: v.target.clone(),
        mode: if v.read_only { "RO" } else { "RW" }.into(),
        host_path: None,
        external: None,
        persistent: Some(PersistentJson {
            size: v.size.0 / 1000,
            kind: if v.disk.is_some() { "path" } else { "root" }.into(),
            profile_name: v.disk.clone(),
        }),
        secret: None,
    }
}

fn secret(f: &SecretFile) -> VolumeJson {
    VolumeJson {
        container_path: f.target.clone(),
        mode: "RO".into(),
        host_path: None,
        external: None,
        persistent: None,
        secret: Some(f.secret.clone()),
    }
}

/// Memory is said by a docker parameter; what tasks of frameworks bring along is no part of a definition.
fn volume(m: &Mount) -> Option<VolumeJson> {
    let (host_path, external) = match &m.source {
        MountSource::Host(p) | MountSource::Sandbox(p) => (Some(p.clone()), None),
        MountSource::External(e) => {
            let external = ExternalJson {
                name: e.name.clone(),
                provider: e.provider.clone(),
                size: (e.size_mib > 0).then_some(e.size_mib / 1024),
                options: e.options.clone(),
            };
            (None, Some(external))
        }
        MountSource::Memory(_) | MountSource::Volume(_) => return None,
    };
    Some(VolumeJson {
        container_path: m.target.clone(),
        mode: if m.read_only { "RO" } else { "RW" }.into(),
        host_path,
        external,
        persistent: None,
        secret: None,
    })
}

fn port_mapping(p: &PortDefinition) -> PortMappingJson {
    PortMappingJson {
        container_port: p.mapping.map_or(0, |m| m.container_port),
        host_port: p.mapping.and_then(|m| m.host_port),
        service_port: p.port,
        protocol: protocol_text(&p.protocols).into(),
        name: p.name.clone(),
        labels: p.labels.clone(),
    }
}

impl From<&FetchUri> for FetchJson {
    fn from(f: &FetchUri) -> Self {
        Self {
            uri: f.uri.clone(),
            extract: f.extract,
            executable: f.executable,
            cache: f.cache,
            dest_path: f.output_file.clone(),
            sha256: f.sha256.clone(),
        }
    }
}

/// `resourceLimits` of a spec, where it has any.
pub(super) fn resource_limits(c: &ContainerSpec) -> Option<ResourceLimitsJson> {
    let one = |c| match c {
        Ceiling::Usual => None,
        Ceiling::At(n) => Some(LimitJson::At(Number(n.to_f64()))),
        Ceiling::Unlimited => Some(LimitJson::Word("unlimited".into())),
    };
    let out = ResourceLimitsJson {
        cpus: one(c.limits.cpus),
        mem: one(c.limits.mem),
    };
    (out.cpus.is_some() || out.mem.is_some()).then_some(out)
}
