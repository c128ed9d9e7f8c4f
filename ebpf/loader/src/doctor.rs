//! What this machine offers, for `waggle doctor`.

use std::fs;
use std::path::Path;

use crate::pins::is_bpffs;
use crate::{LoadError, cgroup, object, sys};

/// Where bpffs is expected.
const BPFFS: &str = "/sys/fs/bpf";
/// The oldest kernel supported.
const MIN_KERNEL: (u32, u32) = (6, 1);
/// The first kernel with links at tc.
const TC_LINKS: (u32, u32) = (6, 6);
/// `CAP_NET_ADMIN`, `CAP_SYS_ADMIN`, `CAP_BPF` (`linux/capability.h`).
const CAPABILITIES: [(u32, &str); 3] = [
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (39, "CAP_BPF"),
];

/// One thing that the data plane needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is good enough.
    pub ok: bool,
    /// What was found and, if it is not good, what to do.
    pub detail: String,
}

/// Looks at everything that the data plane needs; changes nothing.
pub fn doctor() -> Vec<Check> {
    vec![
        programs(),
        kernel(),
        btf(),
        bpffs(),
        cgroup2(),
        capabilities(),
        jit(),
        edge(),
    ]
}

/// Traffic from outside and VIPs per packet, which not every node has to do with: an edge needs XDP links, the nodes that it
/// sends to and packets need programs at tc.
fn edge() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if object::edge().is_err() || object::dsr().is_err() || object::packet().is_err() {
        return check(
            "edge",
            false,
            "no programs for --edge, --edges and --packet-vips in this binary: run `cargo xtask build-ebpf`, then build again",
        );
    }
    let links = parse_release(release.trim()).is_some_and(|version| version >= TC_LINKS);
    let held = if links {
        "links"
    } else {
        "filters of clsact (links from kernel 6.6)"
    };
    check(
        "edge",
        true,
        format!("--edge, --edges and --packet-vips; programs at tc are held by {held}"),
    )
}

/// Mounts a bpffs at `/sys/fs/bpf` if there is none. Returns whether it was mounted by this call.
///
/// # Errors
/// [`LoadError::File`] when it can't be mounted.
pub fn mount_bpffs_if_missing() -> Result<bool, LoadError> {
    let target = Path::new(BPFFS);
    if is_bpffs(target) {
        return Ok(false);
    }
    let fail = |source| LoadError::File {
        action: "mount a bpf file system at",
        path: target.to_path_buf(),
        source,
    };
    sys::mount_bpffs(target).map_err(fail)?;
    Ok(true)
}

fn check(name: &'static str, ok: bool, detail: impl Into<String>) -> Check {
    Check {
        name,
        ok,
        detail: detail.into(),
    }
}

fn programs() -> Check {
    if object::is_built_with_ebpf() {
        check("ebpf programs", true, "embedded in this binary")
    } else {
        check(
            "ebpf programs",
            false,
            LoadError::BuiltWithoutEbpf.to_string(),
        )
    }
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let (major, minor) = MIN_KERNEL;
    match parse_release(release) {
        Some(version) if version >= MIN_KERNEL => check("kernel", true, release),
        _ => check(
            "kernel",
            false,
            format!("{release}: {major}.{minor} or newer is needed"),
        ),
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn btf() -> Check {
    let path = "/sys/kernel/btf/vmlinux";
    if Path::new(path).exists() {
        check("btf", true, path)
    } else {
        check(
            "btf",
            false,
            format!("{path} is missing: the kernel needs CONFIG_DEBUG_INFO_BTF"),
        )
    }
}

fn bpffs() -> Check {
    if is_bpffs(Path::new(BPFFS)) {
        check("bpffs", true, format!("mounted at {BPFFS}"))
    } else {
        // The agent mounts it, so only a missing directory is in the way.
        let can = Path::new(BPFFS).is_dir();
        let detail = if can {
            "not mounted yet; the agent mounts it"
        } else {
            "/sys/fs/bpf is missing"
        };
        check("bpffs", can, detail)
    }
}

fn cgroup2() -> Check {
    match cgroup::find_cgroup2_mount() {
        Some(path) => check("cgroup2", true, format!("mounted at {}", path.display())),
        None => check(
            "cgroup2",
            false,
            "not mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified`",
        ),
    }
}

fn capabilities() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        check("capabilities", true, "sufficient")
    } else {
        check(
            "capabilities",
            false,
            format!("missing {}: run as root", missing.join(", ")),
        )
    }
}

fn jit() -> Check {
    // Works without, only slower: never a failure. Not readable without root on some systems.
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")
        .as_deref()
        .map(str::trim)
    {
        Ok("0") => check(
            "bpf jit",
            true,
            "off: programs are interpreted (sysctl net.core.bpf_jit_enable=1)",
        ),
        Ok(_) => check("bpf jit", true, "on"),
        Err(_) => check("bpf jit", true, "unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(parse_release("6.1.0-56-cloud-amd64"), Some((6, 1)));
        assert_eq!(parse_release("6.18.44-x"), Some((6, 18)));
        assert!(parse_release("6.18.44").unwrap() >= MIN_KERNEL);
        assert!(parse_release("5.15.0").unwrap() < MIN_KERNEL);
        assert_eq!(parse_release(""), None);
        assert_eq!(parse_release("6"), None);
    }

    #[test]
    fn every_check_explains_itself() {
        for check in doctor() {
            assert!(!check.detail.is_empty(), "{check:?}");
        }
    }
}
