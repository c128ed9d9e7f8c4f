//! How a task of a Mesos framework is contained.
//!
//! What is asked for is the same as in a Marathon definition, in other words; so it is put into those and read
//! by the same rules. Errors name the field in Mesos's words.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use waggle_types::{ContainerSpec, FieldError, Resources};

use crate::{
    convert::ConvertError,
    marathon::container::container,
    proto::mesos::{
        self as pb, container_info, docker_info, image, linux_info::IpcMode, rlimit, secret,
        volume, volume_source,
    },
    read::{Errors, Obj},
};

/// What a task says about its container.
#[derive(Debug, Default)]
pub(super) struct Contained {
    pub spec: ContainerSpec,
    /// Environment that docker parameters add.
    pub env: BTreeMap<String, String>,
    /// User that docker parameters name.
    pub user: Option<String>,
}

fn wrong(field: &str, rule: impl Into<String>) -> ConvertError {
    ConvertError::new(field, rule)
}

/// Reads `container`, the URIs of `command` and `limits` of what takes `resources`.
pub(super) fn contained(
    asked: Option<&pb::ContainerInfo>,
    command: Option<&pb::CommandInfo>,
    limits: &BTreeMap<String, pb::ValueScalar>,
    resources: &Resources,
) -> Result<Contained, ConvertError> {
    let mut said = Map::new();
    if let Some(c) = asked {
        put_container(c, &mut said)?;
    }
    let uris = command.iter().flat_map(|c| &c.uris);
    let fetch: Vec<Value> = uris
        .map(|u| {
            let mut one = json!({
                "uri": u.value,
                "extract": u.extract() && !u.executable(),
                "executable": u.executable(),
                "cache": u.cache(),
            });
            if let Some(name) = &u.output_file {
                one["destPath"] = json!(name);
            }
            one
        })
        .collect();
    if !fetch.is_empty() {
        said.insert("fetch".into(), fetch.into());
    }
    if !limits.is_empty() {
        let limit = |(name, s): (&String, &pb::ValueScalar)| {
            let value = if s.value.is_infinite() {
                json!("unlimited")
            } else {
                json!(s.value)
            };
            (name.clone(), value)
        };
        let limits: Map<String, Value> = limits.iter().map(limit).collect();
        said.insert("resourceLimits".into(), limits.into());
    }
    let mut errs = Errors::default();
    let c = container(&Obj::root(&said), resources, &mut errs);
    if let Some(e) = errs.as_slice().first() {
        return Err(in_mesos_words(e));
    }
    Ok(Contained {
        spec: c.spec,
        env: c.env,
        user: c.user,
    })
}

/// `container.volumes[0].containerPath` is `container.volumes[0].container_path`.
fn in_mesos_words(e: &FieldError) -> ConvertError {
    let mut field = String::new();
    for c in e.field.chars() {
        if c.is_ascii_uppercase() {
            field.push('_');
        }
        field.push(c.to_ascii_lowercase());
    }
    for (ours, theirs) in [
        ("fetch[", "command.uris["),
        ("networks[", "container.network_infos["),
        ("networks", "container.network_infos"),
        ("resource_limits", "limits"),
    ] {
        if let Some(rest) = field.strip_prefix(ours) {
            field = format!("{theirs}{rest}");
            break;
        }
    }
    if field.starts_with("command.uris[") {
        for (ours, theirs) in [(".uri", ".value"), (".dest_path", ".output_file")] {
            if let Some(rest) = field.strip_suffix(ours) {
                field = format!("{rest}{theirs}");
                break;
            }
        }
    }
    wrong(&field, e.rule.clone())
}

fn put_container(c: &pb::ContainerInfo, said: &mut Map<String, Value>) -> Result<(), ConvertError> {
    let Some(Ok(kind)) = c.r#type.map(container_info::Type::try_from) else {
        return Err(wrong("container.type", "must be DOCKER or MESOS"));
    };
    let mut out = Map::new();
    let mut parameters = Vec::new();
    let parameter = |key: &str, value: String| json!({ "key": key, "value": value });
    let mut docker = match kind {
        container_info::Type::Docker => {
            let d = c
                .docker
                .as_ref()
                .ok_or_else(|| wrong("container.docker", "must be set for type DOCKER"))?;
            out.insert("type".into(), "DOCKER".into());
            parameters.extend(
                d.parameters
                    .iter()
                    .map(|p| parameter(&p.key, p.value.clone())),
            );
            let mut docker = Map::new();
            docker.insert("image".into(), d.image.clone().into());
            docker.insert("privileged".into(), d.privileged().into());
            docker.insert("forcePullImage".into(), d.force_pull_image().into());
            Some(docker)
        }
        container_info::Type::Mesos => {
            out.insert("type".into(), "MESOS".into());
            let image = c.mesos.as_ref().and_then(|m| m.image.as_ref());
            image.map(mesos_image).transpose()?
        }
    };
    if let Some(name) = &c.hostname {
        parameters.push(parameter("hostname", name.clone()));
    }
    let limits = c.rlimit_info.iter().flat_map(|i| &i.rlimits);
    for (i, l) in limits.enumerate() {
        parameters.push(parameter("ulimit", ulimit(i, l)?));
    }
    if let Some(l) = &c.linux_info {
        linux(l, &mut out, &mut parameters)?;
    }
    match &mut docker {
        Some(d) => {
            d.insert("parameters".into(), parameters.into());
        }
        None if !parameters.is_empty() => {
            let rule = "host name, limits and capabilities need an image";
            return Err(wrong("container", rule));
        }
        None => {}
    }
    if let Some(d) = docker {
        out.insert("docker".into(), d.into());
    }
    let volumes: Result<Vec<Value>, ConvertError> = c
        .volumes
        .iter()
        .enumerate()
        .map(|(i, v)| volume_json(v).map_err(|e| e.within(&format!("container.volumes[{i}]"))))
        .collect();
    out.insert("volumes".into(), volumes?.into());
    said.insert("container".into(), out.into());
    if let Some(network) = network(kind, c)? {
        said.insert("networks".into(), json!([network]));
    }
    if c.tty_info.is_some() {
        said.insert("tty".into(), true.into());
    }
    Ok(())
}

fn mesos_image(i: &pb::Image) -> Result<Map<String, Value>, ConvertError> {
    let docker = i
        .docker
        .as_ref()
        .filter(|_| i.r#type == Some(image::Type::Docker.into()))
        .ok_or_else(|| wrong("container.mesos.image.type", "must be DOCKER"))?;
    let mut out = Map::new();
    out.insert("image".into(), docker.name.clone().into());
    out.insert("forcePullImage".into(), (!i.cached()).into());
    if let Some(config) = &docker.config {
        let reference = config
            .reference
            .as_ref()
            .filter(|_| config.r#type() == secret::Type::Reference)
            .ok_or_else(|| wrong("container.mesos.image.docker.config", "must be a reference"))?;
        out.insert("pullConfig".into(), json!({ "secret": reference.name }));
    }
    Ok(out)
}

fn ulimit(i: usize, l: &pb::Rlimit) -> Result<String, ConvertError> {
    let kind = l.r#type();
    let name = kind.as_str_name().strip_prefix("RLMT_");
    let name = name
        .filter(|_| kind != rlimit::Type::Unknown)
        .ok_or_else(|| {
            let field = format!("container.rlimit_info.rlimits[{i}].type");
            wrong(&field, "is not known")
        })?;
    let text = |n: Option<u64>| n.map_or_else(|| "-1".to_owned(), |n| n.to_string());
    Ok(format!(
        "{}={}:{}",
        name.to_ascii_lowercase(),
        text(l.soft),
        text(l.hard)
    ))
}

fn linux(
    l: &pb::LinuxInfo,
    out: &mut Map<String, Value>,
    parameters: &mut Vec<Value>,
) -> Result<(), ConvertError> {
    let parameter = |key: &str, value: &str| json!({ "key": key, "value": value });
    if let Some(wanted) = l
        .effective_capabilities
        .as_ref()
        .or(l.capability_info.as_ref())
    {
        parameters.push(parameter("cap-drop", "ALL"));
        for c in wanted.capabilities() {
            if c != pb::capability_info::Capability::Unknown {
                parameters.push(parameter("cap-add", c.as_str_name()));
            }
        }
    }
    if l.share_pid_namespace() {
        let rule = "must not be set: each task has processes of its own";
        return Err(wrong("container.linux_info.share_pid_namespace", rule));
    }
    let mut info = Map::new();
    if let Some(s) = &l.seccomp {
        let mut seccomp = Map::new();
        if let Some(name) = &s.profile_name {
            seccomp.insert("profileName".into(), name.clone().into());
        }
        seccomp.insert("unconfined".into(), s.unconfined().into());
        info.insert("seccomp".into(), seccomp.into());
    }
    let mut ipc = Map::new();
    match l.ipc_mode() {
        IpcMode::Unknown => {}
        IpcMode::Private => _ = ipc.insert("mode".into(), "PRIVATE".into()),
        IpcMode::ShareParent => _ = ipc.insert("mode".into(), "SHARE_PARENT".into()),
    }
    if let Some(mib) = l.shm_size {
        ipc.insert("shmSize".into(), mib.into());
    }
    if !ipc.is_empty() {
        info.insert("ipcInfo".into(), ipc.into());
    }
    if !info.is_empty() {
        out.insert("linuxInfo".into(), info.into());
    }
    Ok(())
}

fn volume_json(v: &pb::Volume) -> Result<Value, ConvertError> {
    let mode = match v.mode.map(volume::Mode::try_from) {
        Some(Ok(mode)) => mode.as_str_name(),
        _ => return Err(wrong("mode", "must be RW or RO")),
    };
    let mut out = json!({ "containerPath": v.container_path, "mode": mode });
    if v.image.is_some() {
        return Err(wrong("image", "is not supported yet"));
    }
    if let Some(path) = &v.host_path {
        out["hostPath"] = json!(path);
    }
    let Some(source) = &v.source else {
        return Ok(out);
    };
    match source.r#type() {
        volume_source::Type::HostPath => {
            let path = source.host_path.as_ref();
            let path = path.ok_or_else(|| wrong("source.host_path", "is missing"))?;
            out["hostPath"] = json!(path.path);
        }
        // Relative to the sandbox; that of a parent is the pod's, which its tasks share.
        volume_source::Type::SandboxPath => {
            let path = source.sandbox_path.as_ref();
            let path = path.ok_or_else(|| wrong("source.sandbox_path", "is missing"))?;
            if path.path.starts_with('/') {
                return Err(wrong("source.sandbox_path.path", "must be relative"));
            }
            out["hostPath"] = json!(path.path);
        }
        volume_source::Type::DockerVolume => {
            let d = source.docker_volume.as_ref();
            let d = d.ok_or_else(|| wrong("source.docker_volume", "is missing"))?;
            let options = d.driver_options.iter().flat_map(|o| &o.parameter);
            let options: Map<String, Value> = options
                .map(|p| (p.key.clone(), p.value.clone().into()))
                .collect();
            out["external"] = json!({
                "provider": d.driver.clone().unwrap_or_default(),
                "name": d.name,
                "options": options,
            });
        }
        other => {
            let rule = format!("{} is not supported yet", other.as_str_name());
            return Err(wrong("source.type", rule));
        }
    }
    Ok(out)
}

fn network(
    kind: container_info::Type,
    c: &pb::ContainerInfo,
) -> Result<Option<Value>, ConvertError> {
    if c.network_infos.len() > 1 {
        let rule = format!("only one is supported, is {}", c.network_infos.len());
        return Err(wrong("container.network_infos", rule));
    }
    let name = c.network_infos.first().and_then(|n| n.name.as_deref());
    let by_name = |name: &str| json!({ "mode": "container", "name": name });
    let bridge = json!({ "mode": "container/bridge" });
    if kind == container_info::Type::Docker {
        let mode = c.docker.as_ref().map(pb::DockerInfo::network);
        return Ok(match (mode, name) {
            (Some(docker_info::Network::User), Some(name)) => Some(by_name(name)),
            (Some(docker_info::Network::User), None) => {
                return Err(wrong(
                    "container.network_infos[0].name",
                    "must be set for network USER",
                ));
            }
            (Some(docker_info::Network::Bridge), _) => Some(bridge),
            (Some(docker_info::Network::None), _) => Some(json!({ "mode": "none" })),
            (Some(docker_info::Network::Host) | None, _) => None,
        });
    }
    // DC/OS's name of the bridge for Mesos's containerizer.
    Ok(match name {
        Some("mesos-bridge") => Some(bridge),
        Some(name) => Some(by_name(name)),
        None => None,
    })
}
