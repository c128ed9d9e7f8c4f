//! Standalone containers: a directory and a cgroup of their own.

use std::{io, path::Path, time::Duration};

use waggle_types::Milli;

use super::{
    id::Id,
    order::Uses,
    sandbox::{self, Home},
};
use crate::{
    cgroup::{CgroupHost, Limits, NodeLimits, TaskCgroup},
    environment,
    launch::CLEAN_TIMEOUT,
    net::chain,
};

/// Where their directories are, below the work directory.
const CONTAINERS: &str = "containers";
/// Mesos's floor, as with tasks.
const MIN_MEMORY_BYTES: u64 = 32 << 20;
/// What one that asks for nothing weighs.
const LEAST_CPUS_MILLI: u64 = 100;

/// Makes one. The error is for people. Blocking.
pub fn make(
    cgroups: &CgroupHost,
    node: NodeLimits,
    work_dir: &Path,
    id: &Id,
    user: Option<&str>,
    uses: Uses,
) -> Result<Home, String> {
    let user = environment::user(user)?;
    let cgroup = cgroup(cgroups, id);
    let created = cgroup.create(&limits(uses, node));
    created.map_err(|e| format!("failed to prepare the cgroup: {}", chain(&e)))?;
    let dir = work_dir.join(CONTAINERS).join(id.root());
    let home = sandbox::alone(&dir, cgroup.dirs(), user);
    home.map_err(|e| format!("failed to make its sandbox: {e}"))
}

/// Whether a nested container's user is its parent's: it can be no other.
pub fn same_user(user: Option<&str>, home: &Home) -> Result<(), String> {
    let Some(name) = user else { return Ok(()) };
    let ours = home
        .user
        .as_ref()
        .map_or_else(|| nix::unistd::Uid::effective().as_raw(), |u| u.uid);
    let asked = match environment::user(Some(name))? {
        Some(user) => user.uid,
        None => nix::unistd::Uid::effective().as_raw(),
    };
    if asked == ours {
        Ok(())
    } else {
        Err(format!(
            "user: a nested container has its parent's, which is not {name:.100}"
        ))
    }
}

/// What is left of a container's processes goes; one that shares its parent's cgroup has none of its own.
pub async fn clean(cgroups: &CgroupHost, id: &Id, alone: Option<Home>) {
    if alone.is_none() {
        return;
    }
    let cgroup = cgroup(cgroups, id);
    let removed = tokio::task::spawn_blocking(move || cgroup.remove(CLEAN_TIMEOUT)).await;
    if let Ok(Err(error)) = removed {
        tracing::warn!(container = %id, error = chain(&error), "a container's cgroup stays");
    }
}

/// Removes all that one has left. Blocking.
pub fn remove(cgroups: &CgroupHost, id: &Id, home: &Home) -> io::Result<()> {
    let removed = cgroup(cgroups, id).remove(Duration::ZERO);
    removed.map_err(|e| io::Error::other(chain(&e)))?;
    match std::fs::remove_dir_all(&home.dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Removes what an agent before this one has left: its containers ended with it. Blocking.
pub fn tidy(work_dir: &Path) {
    let dir = work_dir.join(CONTAINERS);
    match std::fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), error = %e, "sandboxes of standalone containers stay");
        }
        _ => {}
    }
}

/// No task is called so: an agent that starts takes what is in there for a leftover, which it is.
fn cgroup(cgroups: &CgroupHost, id: &Id) -> TaskCgroup {
    cgroups.task(&format!("standalone {}", id.root()))
}

fn limits(uses: Uses, node: NodeLimits) -> Limits {
    let positive = |m: Milli| u64::try_from(m.0).unwrap_or(0);
    let bytes = |mib: Milli| {
        let bytes = u128::from(positive(mib)) * (1 << 20) / 1000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    };
    let cpus = uses.cpus.map_or(LEAST_CPUS_MILLI, positive);
    let own = uses.cpus.filter(|_| node.cpu_hard);
    let ceiling = uses.cpus_limit.unwrap_or(own);
    let memory = uses.mem_limit.unwrap_or(uses.mem);
    Limits {
        cpus_milli: cpus,
        cpu_quota_us: ceiling.map(|c| positive(c).saturating_mul(100).max(1000)),
        memory_bytes: memory.map(|m| bytes(m).max(MIN_MEMORY_BYTES)),
        memory_low_bytes: uses.mem.map_or(0, bytes),
        pids: node.pids,
        io_weight: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_what_was_asked_for() {
        let node = NodeLimits {
            cpu_hard: false,
            pids: 100,
        };
        let none = limits(Uses::default(), node);
        assert_eq!((none.memory_bytes, none.cpu_quota_us), (None, None));
        let uses = Uses {
            cpus: Some(Milli(500)),
            mem: Some(Milli::units(64)),
            ..Uses::default()
        };
        let some = limits(uses, node);
        assert_eq!(some.memory_bytes, Some(64 << 20));
        assert_eq!((some.cpus_milli, some.cpu_quota_us), (500, None));
        let hard = NodeLimits {
            cpu_hard: true,
            ..node
        };
        assert_eq!(limits(uses, hard).cpu_quota_us, Some(50_000));
        let more = Uses {
            cpus_limit: Some(Some(Milli(2000))),
            mem_limit: Some(None),
            ..uses
        };
        let some = limits(more, node);
        assert_eq!(
            (some.cpu_quota_us, some.memory_bytes, some.memory_low_bytes),
            (Some(200_000), None, 64 << 20)
        );
    }
}
