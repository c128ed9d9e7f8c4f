//! `container.volumes` of a definition.

use waggle_types::{ExternalVolume, Milli, Mount, MountSource, PersistentVolume, SecretFile};

use crate::read::{Errors, Obj};

/// Most mounts of one service.
pub(super) const MAX_MOUNTS: usize = 64;
/// Most options of one external volume.
const MAX_OPTIONS: usize = 128;
/// Longest path (`PATH_MAX`).
const MAX_PATH: usize = 4095;
/// Largest persistent volume in MiB.
const MAX_PERSISTENT_MIB: u32 = 1 << 30;
/// Largest external volume in GiB, as Marathon counts; in MiB it fits 32 bits.
const MAX_GIB: u32 = 4_000_000;

/// What `volumes` of a container say.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    pub mounts: Vec<Mount>,
    pub persistent: Vec<PersistentVolume>,
    /// Each with the path of its key.
    pub secrets: Vec<(String, SecretFile)>,
}

/// Reads `volumes` of a container; with an image they may be anywhere inside, without they are in the sandbox.
pub(super) fn volumes(c: &Obj<'_>, image: bool, errs: &mut Errors) -> Volumes {
    let mut out = Volumes::default();
    let items = c.list("volumes", errs).unwrap_or_default();
    if items.len() > MAX_MOUNTS {
        let rule = format!("must be at most {MAX_MOUNTS}, is {}", items.len());
        errs.add(c.path("volumes"), rule);
        return out;
    }
    for (i, v) in items.iter().enumerate() {
        if let Some(v) = Obj::of(format!("{}[{i}]", c.path("volumes")), v, errs) {
            volume(&v, image, &mut out, errs);
        }
    }
    out
}

/// Reads one into `out`; `None` after an error.
fn volume(v: &Obj<'_>, image: bool, out: &mut Volumes, errs: &mut Errors) -> Option<()> {
    let before = errs.count();
    let path = v.string("containerPath", errs);
    match path.as_deref().map(|p| target(p, image)) {
        None if errs.count() == before => errs.add(v.path("containerPath"), "must be set"),
        Some(Err(rule)) => errs.add(v.path("containerPath"), rule),
        _ => {}
    }
    let read_only = match v.string("mode", errs).as_deref() {
        None | Some("RW") => false,
        Some("RO") => true,
        Some(m) => {
            errs.add(v.path("mode"), format!("must be RO or RW, is {m:?}"));
            false
        }
    };
    let kinds = ["hostPath", "external", "persistent", "secret"];
    let given: Vec<&str> = kinds.into_iter().filter(|k| v.get(k).is_some()).collect();
    let source = match given.as_slice() {
        ["hostPath"] => {
            let from = v.string("hostPath", errs)?;
            match host_path(&from) {
                Ok(source) => source,
                Err(rule) => {
                    errs.add(v.path("hostPath"), rule);
                    return None;
                }
            }
        }
        ["external"] => MountSource::External(external(&v.object("external", errs)?, errs)),
        ["persistent"] => {
            let (size, disk) = persistent(&v.object("persistent", errs)?, errs);
            out.persistent.push(PersistentVolume {
                target: path?,
                size,
                disk,
                read_only,
            });
            return Some(());
        }
        ["secret"] => {
            let secret = v.string("secret", errs)?;
            let file = SecretFile {
                target: path?,
                secret,
            };
            out.secrets.push((v.path("secret"), file));
            return Some(());
        }
        _ => {
            let rule = format!("must have one of {}, has {}", kinds.join(", "), given.len());
            errs.add(v.path("hostPath"), rule);
            return None;
        }
    };
    out.mounts.push(Mount {
        target: path?,
        source,
        read_only,
    });
    Some(())
}

/// Size, and the disk of its own that `profileName` names.
fn persistent(p: &Obj<'_>, errs: &mut Errors) -> (Milli, Option<String>) {
    p.only(&["constraints", "profileName", "size", "type"], errs);
    let constraints = p.list("constraints", errs).unwrap_or_default();
    if !constraints.is_empty() {
        let rule = "is not supported: nodes offer their disks by name and not by path, so name one of them in profileName";
        errs.add(p.path("constraints"), rule);
    }
    let before = errs.count();
    let size = p.integer("size", 1, MAX_PERSISTENT_MIB, errs);
    if size.is_none() && errs.count() == before {
        errs.add(p.path("size"), "must be set");
    }
    let disk = p.string("profileName", errs);
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if let Some(d) = &disk
        && (d.is_empty() || d.len() > 32 || !d.bytes().all(fine))
    {
        let rule = format!("must be 1 to 32 of [a-z0-9-], the name of a disk of nodes, is {d:?}");
        errs.add(p.path("profileName"), rule);
    }
    match p.string("type", errs).as_deref() {
        None => {}
        Some("root") if disk.is_none() => {}
        Some("root") => errs.add(p.path("profileName"), "must not be set for type root"),
        Some("mount" | "path") if disk.is_some() => {}
        Some(t @ ("mount" | "path")) => {
            let rule = format!("must name a disk of nodes for type {t}");
            errs.add(p.path("profileName"), rule);
        }
        Some(t) => {
            let rule = format!("must be root, path or mount, is {t:?}");
            errs.add(p.path("type"), rule);
        }
    }
    (Milli::units(size.unwrap_or(0).into()), disk)
}

/// Where something is mounted: absolute inside of an image, else below the sandbox.
pub(crate) fn target(path: &str, image: bool) -> Result<(), String> {
    if path.starts_with('/') && !image {
        return Err(format!(
            "must be relative to the sandbox where there is no image, is {path:?}"
        ));
    }
    let named = path.split('/').any(|p| !p.is_empty() && p != ".");
    if !named || path.len() > MAX_PATH || path.split('/').any(|p| p == "..") {
        return Err(format!("must be a path without .., is {path:?}"));
    }
    Ok(())
}

/// A path of the host, or one relative to the sandbox.
pub(super) fn host_path(path: &str) -> Result<MountSource, String> {
    if path.is_empty() || path.len() > MAX_PATH || path.split('/').any(|p| p == "..") {
        return Err(format!("must be a path without .., is {path:?}"));
    }
    Ok(if path.starts_with('/') {
        MountSource::Host(path.to_owned())
    } else {
        MountSource::Sandbox(path.to_owned())
    })
}

fn external(e: &Obj<'_>, errs: &mut Errors) -> ExternalVolume {
    let mut named = |key: &str| {
        let before = errs.count();
        let text = e.string(key, errs).unwrap_or_default();
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if errs.count() == before
            && (text.is_empty() || text.len() > 128 || !text.bytes().all(fine))
        {
            let rule = format!("must be 1 to 128 letters, digits, ., - or _, is {text:?}");
            errs.add(e.path(key), rule);
        }
        text
    };
    let (provider, name) = (named("provider"), named("name"));
    let options = e.string_map("options", errs).unwrap_or_default();
    if options.len() > MAX_OPTIONS {
        let rule = format!("must be at most {MAX_OPTIONS}, is {}", options.len());
        errs.add(e.path("options"), rule);
    }
    let gib = e.integer("size", 1, MAX_GIB, errs).unwrap_or(0);
    ExternalVolume {
        provider,
        name,
        size_mib: gib * 1024,
        options,
    }
}
