//! What a node lets its tasks ask for. Pure.

use waggle_types::{ContainerSpec, MountSource, NetworkMode, Seccomp};

use super::capabilities;
use crate::NodePolicy;

/// Longest host name that the kernel takes (`__NEW_UTS_LEN`).
const MAX_HOSTNAME: usize = 64;

/// Whether a task may be contained as it asks. The error names the field and the rule.
pub fn check(container: &ContainerSpec, policy: &NodePolicy) -> Result<(), String> {
    let isolation = &container.isolation;
    let needs = |asked: bool, field: &str, allowed: bool, word: &str| {
        if asked && !allowed {
            return Err(format!(
                "container.{field}: this node does not allow it (--allow {word})"
            ));
        }
        Ok(())
    };
    if container.network == NetworkMode::Host && !policy.host_network {
        return Err(
            "container.network: this node does not allow its own network (--deny host-network)"
                .to_owned(),
        );
    }
    needs(
        isolation.privileged,
        "isolation.privileged",
        policy.privileged,
        "privileged",
    )?;
    needs(
        isolation.host_ipc,
        "isolation.host_ipc",
        policy.host_ipc,
        "host-ipc",
    )?;
    needs(
        isolation.seccomp == Seccomp::Unconfined && !isolation.privileged,
        "isolation.seccomp",
        policy.unconfined,
        "unconfined",
    )?;
    needs(
        !isolation.devices.is_empty() && !isolation.privileged,
        "isolation.devices",
        policy.devices,
        "devices",
    )?;
    for (field, names) in [
        ("cap_add", &isolation.cap_add),
        ("cap_drop", &isolation.cap_drop),
    ] {
        for name in names {
            if capabilities::mask(name).is_none() {
                return Err(format!(
                    "container.isolation.{field}: {name:?} is no capability"
                ));
            }
        }
    }
    let beyond = isolation.cap_add.iter().find(|name| {
        capabilities::mask(name).is_some_and(|mask| mask & !capabilities::DEFAULT != 0)
    });
    if let Some(name) = beyond
        && !policy.capabilities
        && !isolation.privileged
    {
        return Err(format!(
            "container.isolation.cap_add: this node does not allow {name} (--allow capabilities)"
        ));
    }
    for mount in &container.mounts {
        if let MountSource::Host(path) = &mount.source {
            host_path(path, policy)?;
        }
    }
    if let Some(name) = &container.hostname {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if name.is_empty() || name.len() > MAX_HOSTNAME || !name.chars().all(good) {
            return Err(format!(
                "container.hostname: must be 1 to {MAX_HOSTNAME} letters, digits, dashes and dots, is {name:.80?}"
            ));
        }
    }
    if container.image.is_none() {
        return without_image(container);
    }
    Ok(())
}

/// Whether a directory or file of the host may be mounted: by its text; who mounts it makes sure that no link
/// below an allowed directory leads out of it.
pub fn host_path(path: &str, policy: &NodePolicy) -> Result<(), String> {
    let path = std::path::Path::new(path);
    let plain = path
        .components()
        .all(|c| !matches!(c, std::path::Component::ParentDir));
    if !path.is_absolute() || !plain {
        return Err(format!(
            "container.mounts: a host path must be absolute, without .., is {}",
            path.display()
        ));
    }
    if policy.host_paths.iter().any(|dir| path.starts_with(dir)) {
        return Ok(());
    }
    Err(format!(
        "container.mounts: this node does not allow {} (--allow-host-paths)",
        path.display()
    ))
}

/// What only makes sense with files of its own is refused, rather than ignored.
fn without_image(container: &ContainerSpec) -> Result<(), String> {
    let isolation = &container.isolation;
    let asked = [
        (isolation.privileged, "isolation.privileged"),
        (isolation.read_only_root, "isolation.read_only_root"),
        (isolation.user_namespace, "isolation.user_namespace"),
        (!isolation.cap_add.is_empty(), "isolation.cap_add"),
        (!isolation.cap_drop.is_empty(), "isolation.cap_drop"),
        (!isolation.devices.is_empty(), "isolation.devices"),
        (isolation.seccomp != Seccomp::Default, "isolation.seccomp"),
        (container.hostname.is_some(), "hostname"),
        (container.limits.shm_mib.is_some(), "limits.shm_mib"),
    ];
    match asked.into_iter().find(|(asked, _)| *asked) {
        Some((_, field)) => Err(format!("container.{field}: needs an image")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use waggle_types::{ImageSpec, Isolation, Mount};

    use super::*;

    fn refused(change: impl FnOnce(&mut ContainerSpec, &mut NodePolicy)) -> Option<String> {
        let mut container = ContainerSpec {
            image: Some(ImageSpec::default()),
            ..ContainerSpec::default()
        };
        let mut policy = NodePolicy::default();
        change(&mut container, &mut policy);
        check(&container, &policy).err()
    }

    fn mount(path: &str) -> Mount {
        Mount {
            target: "/data".to_owned(),
            source: MountSource::Host(path.to_owned()),
            read_only: true,
        }
    }

    #[test]
    fn the_default_asks_for_nothing() {
        assert_eq!(refused(|_, _| ()), None);
        assert_eq!(
            check(&ContainerSpec::default(), &NodePolicy::default()),
            Ok(())
        );
    }

    #[test]
    fn power_over_the_node_is_given_by_its_operator_alone() {
        type Ask = fn(&mut Isolation);
        let asks: [(&str, &str, Ask); 6] = [
            ("privileged", "privileged", |i| i.privileged = true),
            ("host_ipc", "host-ipc", |i| i.host_ipc = true),
            ("seccomp", "unconfined", |i| i.seccomp = Seccomp::Unconfined),
            ("devices", "devices", |i| {
                i.devices.insert("/dev/fuse".to_owned(), "rw".to_owned());
            }),
            ("cap_add", "capabilities", |i| {
                i.cap_add.insert("SYS_ADMIN".to_owned());
            }),
            ("cap_add", "capabilities", |i| {
                i.cap_add.insert("ALL".to_owned());
            }),
        ];
        for (field, word, ask) in asks {
            let why = refused(|c, _| ask(&mut c.isolation)).unwrap();
            assert!(
                why.starts_with(&format!("container.isolation.{field}: ")),
                "{why}"
            );
            assert!(why.contains(&format!("--allow {word}")), "{why}");
            let all = NodePolicy {
                privileged: true,
                host_ipc: true,
                unconfined: true,
                capabilities: true,
                devices: true,
                ..NodePolicy::default()
            };
            assert_eq!(refused(|c, p| (ask(&mut c.isolation), *p = all).0), None);
        }
        let chown = refused(|c, _| {
            c.isolation.cap_add.insert("CAP_CHOWN".to_owned());
        });
        assert_eq!(chown, None, "it is a default one");
        let why = refused(|_, p| p.host_network = false).unwrap();
        assert!(why.starts_with("container.network: "), "{why}");
    }

    #[test]
    fn host_paths_are_those_below_the_allowed_ones() {
        let allowed = |path: &str| {
            refused(|c, p| {
                c.mounts = vec![mount(path)];
                p.host_paths = vec!["/srv/data".into()];
            })
            .is_none()
        };
        assert!(allowed("/srv/data") && allowed("/srv/data/a/b"));
        assert!(!allowed("/srv/database"), "a name is not a prefix");
        assert!(!allowed("/srv/data/../../etc") && !allowed("srv/data") && !allowed("/"));
    }

    #[test]
    fn what_needs_an_image_says_so() {
        let why = refused(|c, _| {
            c.image = None;
            c.isolation.read_only_root = true;
        });
        assert_eq!(
            why.as_deref(),
            Some("container.isolation.read_only_root: needs an image")
        );
        let why = refused(|c, _| c.hostname = Some("a b".to_owned())).unwrap();
        assert!(why.starts_with("container.hostname: "), "{why}");
        let why = refused(|c, _| {
            c.isolation.cap_drop.insert("FLYING".to_owned());
        });
        assert!(why.unwrap().contains("\"FLYING\" is no capability"));
    }
}
