//! What a task's mounts come to: checked, in order, nothing looked up.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use waggle_types::{ExternalVolume, MountSource, TaskSpec, VolumeId};

use crate::unpack::root::Below;

/// Most mounts of one task.
pub const MAX_MOUNTS: usize = 256;
/// Longest name of an external volume, in bytes (the CSI specification's bound of identifiers).
const MAX_NAME: usize = 128;

/// Where something is mounted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// An absolute path inside the image.
    Inside(PathBuf),
    /// A path below the sandbox.
    Sandbox(PathBuf),
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A persistent volume.
    Volume(VolumeId),
    /// A path of the host; still to be resolved, links and all.
    Host(PathBuf),
    /// A path below the sandbox, or below the directory that a pod's tasks share.
    Shared(PathBuf),
    /// Storage outside of the node.
    External(ExternalVolume),
    /// The same, where its driver has put it.
    Published(PathBuf),
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Where.
    pub target: Target,
    /// What.
    pub source: Source,
    /// Whether it can't be written.
    pub read_only: bool,
}

/// The mounts of a task in order: those that it names, then `volumes/<id>` in the sandbox for each of its own volumes
/// that none of them names. Mounts of memory are the runtime's. The error names the field and the rule.
pub fn plan(spec: &TaskSpec, host_paths: &[PathBuf]) -> Result<Vec<Planned>, String> {
    let mounts = &spec.container.mounts;
    if mounts.len() > MAX_MOUNTS {
        return Err(format!(
            "container.mounts: must be at most {MAX_MOUNTS}, are {}",
            mounts.len()
        ));
    }
    let volumes: BTreeMap<&VolumeId, _> = spec.volumes().collect();
    let has_image = spec.container.image.is_some();
    let mut out = Vec::with_capacity(mounts.len());
    let mut targets = BTreeSet::new();
    let mut named = BTreeSet::new();
    for (i, mount) in mounts.iter().enumerate() {
        let field = |name: &str| format!("container.mounts[{i}].{name}");
        let target = target(&mount.target, has_image)
            .map_err(|rule| format!("{}: {rule}, is {:?}", field("target"), mount.target))?;
        if !targets.insert(target.clone()) {
            let rule = "must not be the target of another mount";
            return Err(format!(
                "{}: {rule}, is {:?}",
                field("target"),
                mount.target
            ));
        }
        let source = match &mount.source {
            MountSource::Memory(_) => {
                if has_image {
                    continue;
                }
                let rule = "memory can be mounted where there is an image only";
                return Err(format!("{}: {rule}", field("source")));
            }
            MountSource::Volume(id) => {
                if !volumes.contains_key(id) {
                    let rule = "must be a volume among the task's resources, or its pod's";
                    return Err(format!("{}: {rule}, is {id}", field("source.volume")));
                }
                named.insert(id);
                Source::Volume(id.clone())
            }
            MountSource::Host(path) => {
                let path = host_path(path, host_paths)
                    .map_err(|rule| format!("{}: {rule}", field("source.host")))?;
                Source::Host(path)
            }
            MountSource::Sandbox(path) => {
                let below = Below::new(path.as_bytes())
                    .map_err(|e| format!("{}: {e}, is {path:?}", field("source.sandbox")))?;
                Source::Shared(below.as_path().to_owned())
            }
            MountSource::External(volume) => {
                external(volume)
                    .map_err(|(of, rule)| format!("{}.{of}: {rule}", field("source.external")))?;
                Source::External(volume.clone())
            }
        };
        out.push(Planned {
            target,
            source,
            read_only: mount.read_only,
        });
    }
    let own = spec.resources.custom.volumes().map(|(id, _)| id);
    for id in own.filter(|id| !named.contains(*id)) {
        let target = Target::Sandbox(Path::new("volumes").join(id.as_str()));
        if !targets.insert(target.clone()) {
            let shown = format!("volumes/{id}");
            return Err(format!(
                "container.mounts: {shown} is where volume {id} goes, which no mount names"
            ));
        }
        out.push(Planned {
            target,
            source: Source::Volume(id.clone()),
            read_only: false,
        });
    }
    Ok(out)
}

fn target(text: &str, has_image: bool) -> Result<Target, String> {
    if let Some(rest) = text.strip_prefix('/') {
        if !has_image {
            return Err("must be relative to the sandbox where there is no image".to_owned());
        }
        return match Below::new(rest.as_bytes()) {
            Ok(below) => Ok(Target::Inside(Path::new("/").join(below.as_path()))),
            Err(e) => Err(format!("{e} below the root")),
        };
    }
    match Below::new(text.as_bytes()) {
        Ok(below) => Ok(Target::Sandbox(below.as_path().to_owned())),
        Err(e) => Err(e.to_string()),
    }
}

/// Whether a path of the host is one that the node's policy allows, by its name; links are looked at where it is
/// mounted, by the same rule.
pub fn host_path(path: &str, allowed: &[PathBuf]) -> Result<PathBuf, String> {
    let shown = path;
    let path = Path::new(path);
    let plain = |c: Component<'_>| matches!(c, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(plain) || shown.contains('\0') {
        return Err(format!("must be absolute and without .., is {shown:?}"));
    }
    if allowed.iter().any(|a| path.starts_with(a)) {
        return Ok(path.to_owned());
    }
    if allowed.is_empty() {
        return Err(format!(
            "{shown:?} is a path of the host, which this node's policy does not allow \
             (--allow-host-paths)"
        ));
    }
    let allowed: Vec<String> = allowed.iter().map(|a| a.display().to_string()).collect();
    Err(format!(
        "{shown:?} is not below what this node's policy allows: {}",
        allowed.join(", ")
    ))
}

fn external(volume: &ExternalVolume) -> Result<(), (&'static str, String)> {
    for (field, text) in [("provider", &volume.provider), ("name", &volume.name)] {
        if text.is_empty() || text.len() > MAX_NAME || text.chars().any(char::is_control) {
            let rule = format!("must be 1 to {MAX_NAME} bytes without control characters");
            return Err((field, format!("{rule}, is {text:?}")));
        }
    }
    Ok(())
}
