//! `container.volumes` of a definition.

use waggle_types::{ExternalVolume, Mount, MountSource};

use crate::read::{Errors, Obj};

/// Most mounts of one service.
pub(super) const MAX_MOUNTS: usize = 64;
/// Most options of one external volume.
const MAX_OPTIONS: usize = 128;
/// Longest path (`PATH_MAX`).
const MAX_PATH: usize = 4095;
/// Largest external volume in GiB, as Marathon counts; in MiB it fits 32 bits.
const MAX_GIB: u32 = 4_000_000;

/// Reads `volumes` of a container; with an image they may be anywhere inside, without they are in the sandbox.
pub(super) fn volumes(c: &Obj<'_>, image: bool, errs: &mut Errors) -> Vec<Mount> {
    let items = c.list("volumes", errs).unwrap_or_default();
    if items.len() > MAX_MOUNTS {
        let rule = format!("must be at most {MAX_MOUNTS}, is {}", items.len());
        errs.add(c.path("volumes"), rule);
        return Vec::new();
    }
    let mounts = items.iter().enumerate().filter_map(|(i, v)| {
        let v = Obj::of(format!("{}[{i}]", c.path("volumes")), v, errs)?;
        volume(&v, image, errs)
    });
    mounts.collect()
}

fn volume(v: &Obj<'_>, image: bool, errs: &mut Errors) -> Option<Mount> {
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
            let rule = "persistent volumes of apps (residency) are not supported yet; frameworks and \
                        `waggle volume` have them";
            errs.add(v.path("persistent"), rule);
            return None;
        }
        ["secret"] => {
            errs.add(v.path("secret"), "is not supported yet");
            return None;
        }
        _ => {
            let rule = format!("must have one of {}, has {}", kinds.join(", "), given.len());
            errs.add(v.path("hostPath"), rule);
            return None;
        }
    };
    Some(Mount {
        target: path?,
        source,
        read_only,
    })
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
