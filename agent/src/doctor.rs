//! What this machine offers a node, for `waggle doctor`: changes nothing.

use std::{fs, path::Path};

use waggle_ebpf::Check;

use crate::{
    cgroup::{CgroupHost, Hierarchy},
    gpus, networks, runtime,
};

/// The data plane's checks, then what the agent itself needs.
pub fn doctor() -> Vec<Check> {
    let mut checks = waggle_ebpf::doctor();
    checks.extend([
        root(),
        controllers(),
        shell(),
        oci_runtime(),
        bridge(),
        gpus(),
    ]);
    checks
}

fn root() -> Check {
    let ok = nix::unistd::geteuid().is_root();
    let detail = if ok {
        "uid 0"
    } else {
        "run as root: namespaces, cgroups and bpf need it"
    };
    Check {
        name: "root",
        ok,
        detail: detail.to_owned(),
    }
}

fn controllers() -> Check {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let root = waggle_ebpf::find_cgroup2_mount().unwrap_or_default();
    let (ok, detail) = match CgroupHost::from_mountinfo(&mountinfo, &root).hierarchy() {
        Hierarchy::V2 => (true, "pure cgroup v2"),
        Hierarchy::Hybrid => (true, "hybrid: v1 controllers, cgroup2 beside them"),
        Hierarchy::V1 => (
            true,
            "v1 only: limits work, per-task network metrics do not",
        ),
        Hierarchy::None => (
            false,
            "no cgroup hierarchy is mounted: tasks would run without limits",
        ),
    };
    Check {
        name: "cgroup limits",
        ok,
        detail: detail.to_owned(),
    }
}

fn shell() -> Check {
    let ok = Path::new("/bin/sh").exists();
    let detail = if ok {
        "/bin/sh"
    } else {
        "no /bin/sh: apps with `cmd` can't run"
    };
    Check {
        name: "shell",
        ok,
        detail: detail.to_owned(),
    }
}

/// Other networks do without it: no failure.
fn bridge() -> Check {
    let detail = match networks::nft_program() {
        None => "no nft (package nftables): tasks can't have network mode bridge".to_owned(),
        Some(program) => match networks::who_drops().as_slice() {
            [] => program.display().to_string(),
            tables => format!(
                "{} drops what is forwarded: let it accept what comes from and goes to the bridge",
                tables.join(", ")
            ),
        },
    };
    Check {
        name: "bridge networks",
        ok: true,
        detail,
    }
}

fn gpus() -> Check {
    let found = gpus::discover(None);
    let models: Vec<String> = found
        .iter()
        .map(|gpu| format!("{} ({})", gpu.model, gpu.id))
        .collect();
    Check {
        name: "gpus",
        ok: true,
        detail: if models.is_empty() {
            "none".to_owned()
        } else {
            models.join(", ")
        },
    }
}

/// Only tasks with images need one.
fn oci_runtime() -> Check {
    let detail = match runtime::look(Path::new("runc")) {
        Ok(found) => {
            let what = format!(
                "{} {} at {}",
                found.version.name,
                found.version.text,
                found.program.display()
            );
            match found.faults.as_slice() {
                [] => what,
                faults => format!("{what}: too old: {}", faults.join("; ")),
            }
        }
        Err(why) => format!("{why}: tasks with images are refused"),
    };
    Check {
        name: "oci runtime",
        ok: true,
        detail,
    }
}
