//! Taking a cluster down from its names alone: after a crash there may be no state to trust.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;

use super::State;
use crate::leak::bpffs_entries;
use crate::names::Names;
use crate::netns::NetNs;
use crate::wait::wait_until;
use crate::{cgroup, process};

/// In the state directory while the bpffs mount is ours to undo.
pub(super) const BPFFS_MARKER: &str = "bpffs-mounted";

/// How long nodes get to stop by themselves.
const GRACE: Duration = Duration::from_secs(3);

/// Removes every trace of the cluster; says each thing that it removes. Idempotent. What fails is
/// collected, the rest is still done.
pub fn down(names: &Names, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let mut errors: Vec<String> = Vec::new();
    let mut note = |result: anyhow::Result<()>| {
        if let Err(error) = result {
            errors.push(format!("{error:#}"));
        }
    };
    note(stop_processes(names, say));
    for hierarchy in cgroup::hierarchies() {
        let dir = hierarchy.mount.join(names.cgroup());
        note(cgroup::remove_tree(&dir).map(|(ended, dirs)| {
            if dirs > 0 {
                say(&format!(
                    "removed cgroup {}: {dirs} directories, {ended} processes",
                    dir.display()
                ));
            }
        }));
    }
    note(remove_dir(&names.bpf_dir(), "pins", say));
    for name in NetNs::list()
        .into_iter()
        .filter(|name| names.owns_netns(name))
    {
        note(NetNs::delete(&name).map(|_| say(&format!("removed network namespace {name}"))));
    }
    if names.state_dir().join(BPFFS_MARKER).exists() {
        note(unmount_bpffs(say));
    }
    note(remove_dir(&names.state_dir(), "state", say));
    if errors.is_empty() {
        Ok(())
    } else {
        bail!("left behind: {}", errors.join("; "))
    }
}

/// Ends nodes (SIGTERM, then SIGKILL), their shims and tasks: whatever is in the cgroups, and
/// whatever holds one of the network namespaces.
fn stop_processes(names: &Names, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let roots: Vec<_> = cgroup::hierarchies()
        .into_iter()
        .map(|h| h.mount.join(names.cgroup()))
        .collect();
    let nodes = |roots: &[std::path::PathBuf]| -> Vec<i32> {
        roots
            .iter()
            .flat_map(|root| cgroup::subtree(root))
            .filter(|dir| dir.ends_with("node"))
            .flat_map(|dir| cgroup::pids(&dir))
            .filter(|pid| process::exe_name(*pid).is_some_and(|exe| exe == "waggle"))
            .filter(|pid| !is_shim(*pid))
            .collect()
    };
    let terminated = nodes(&roots);
    for pid in &terminated {
        process::signal(*pid, Signal::SIGTERM);
    }
    // A node that does not stop is killed below: no error.
    let _ = wait_until(GRACE, "the nodes to stop", || {
        nodes(&roots).is_empty().then_some(())
    });
    let inodes: Vec<u64> = NetNs::list()
        .into_iter()
        .filter(|name| names.owns_netns(name))
        .filter_map(|name| NetNs::open(&name).ok()?.inode())
        .collect();
    let mut ended: std::collections::BTreeSet<i32> = terminated.into_iter().collect();
    wait_until(
        Duration::from_secs(10),
        "all processes of the cluster to end",
        || {
            let mut alive: Vec<i32> = roots
                .iter()
                .flat_map(|root| cgroup::pids_below(root))
                .collect();
            alive.extend(inodes.iter().flat_map(|inode| process::in_netns(*inode)));
            alive.retain(|pid| *pid != own && process::alive(*pid));
            for pid in &alive {
                ended.insert(*pid);
                process::signal(*pid, Signal::SIGKILL);
            }
            alive.is_empty().then_some(())
        },
    )?;
    if !ended.is_empty() {
        say(&format!("ended {} processes", ended.len()));
    }
    Ok(())
}

fn is_shim(pid: i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"shim")
}

fn remove_dir(dir: &Path, what: &str, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Ok(()) => {
            say(&format!("removed {what} {}", dir.display()));
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove {}", dir.display())),
    }
}

fn unmount_bpffs(say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    // Others pin there too by now: theirs would go with the mount.
    if !bpffs_entries().is_empty() {
        say("kept the mount /sys/fs/bpf: others use it");
        return Ok(());
    }
    match nix::mount::umount("/sys/fs/bpf") {
        Ok(()) => {
            say("unmounted /sys/fs/bpf");
            Ok(())
        }
        Err(nix::Error::EINVAL) => Ok(()),
        Err(error) => Err(error).context("unmount /sys/fs/bpf"),
    }
}

/// Before a new cluster: takes down what a crashed owner left; refuses when one is in use.
pub fn clear_leftovers(names: &Names, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    if let Ok(Some(state)) = State::load(names) {
        match &state.owner {
            Some(owner) if owner.alive() => {
                bail!(
                    "a cluster is in use by process {}; let it end first",
                    owner.pid()
                )
            }
            None if state.nodes.iter().any(|node| process::alive(node.pid)) => {
                bail!(
                    "a cluster from `cargo xtask cluster up` is running; run `cargo xtask cluster down` first"
                )
            }
            _ => say("a cluster was left behind; removing it"),
        }
    }
    down(names, say)
}
