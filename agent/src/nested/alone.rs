//! Standalone containers: a directory and a cgroup of their own.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use waggle_types::Ceilings;

use super::{
    id::Id,
    order::Uses,
    sandbox::{self, Home},
};
use crate::{
    cgroup::{CgroupHost, NodeLimits, TaskCgroup, limits_of},
    environment,
    launch::CLEAN_TIMEOUT,
    net::chain,
};

/// Where their directories are, below the work directory.
const CONTAINERS: &str = "containers";
/// What is on its way out, beside them: no container is called so.
const LEAVING: &str = ".leaving";

/// Makes one. The error is for people, and what was made before it stays. Blocking.
pub fn make(
    cgroups: &CgroupHost,
    node: NodeLimits,
    work_dir: &Path,
    id: &Id,
    user: Option<&str>,
    uses: Uses,
) -> Result<Home, String> {
    let user = environment::user(user)?;
    let ceilings = Ceilings {
        cpus: uses.cpus_limit,
        mem: uses.mem_limit,
        ..Ceilings::default()
    };
    let limits = limits_of(uses.cpus, uses.mem, &ceilings, node)?;
    let cgroup = cgroup(cgroups, id);
    let created = cgroup.create(&limits);
    created.map_err(|e| format!("failed to prepare the cgroup: {}", chain(&e)))?;
    let home = sandbox::alone(&dir(work_dir, id), cgroup.dirs(), user);
    home.map_err(|e| format!("failed to make its sandbox: {e}"))
}

/// Where one is.
pub fn dir(work_dir: &Path, id: &Id) -> PathBuf {
    work_dir.join(CONTAINERS).join(id.root())
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
pub async fn clean(cgroups: &CgroupHost, id: &Id) {
    if id.is_nested() {
        return;
    }
    let cgroup = cgroup(cgroups, id);
    let removed = tokio::task::spawn_blocking(move || cgroup.remove(CLEAN_TIMEOUT)).await;
    if let Ok(Err(error)) = removed {
        tracing::warn!(container = %id, error = chain(&error), "a container's cgroup stays");
    }
}

/// Removes all that one has left. Blocking.
pub fn remove(cgroups: &CgroupHost, id: &Id, dir: &Path) -> io::Result<()> {
    let removed = cgroup(cgroups, id).remove(Duration::ZERO);
    removed.map_err(|e| io::Error::other(chain(&e)))?;
    gone(dir)
}

/// Takes the directory of one that has ended away, so that another one of its name may come at once; what is left is to be
/// [`gone`]. None where there is none, or it can't be: it is removed when an agent starts, then. Blocking, but short.
pub fn put_aside(home: &Home, number: u64) -> Option<PathBuf> {
    let aside = home.dir.parent()?.join(format!("{LEAVING}-{number}"));
    fs::rename(&home.dir, &aside).ok().map(|()| aside)
}

/// Removes a directory, if there is one. Blocking.
pub fn gone(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Removes what an agent before this one has left: its containers ended with it. Blocking.
pub fn tidy(work_dir: &Path) {
    let dir = work_dir.join(CONTAINERS);
    if let Err(e) = gone(&dir) {
        tracing::warn!(dir = %dir.display(), error = %e, "sandboxes of standalone containers stay");
    }
}

/// No task is called so: an agent that starts takes what is in there for a leftover, which it is.
fn cgroup(cgroups: &CgroupHost, id: &Id) -> TaskCgroup {
    cgroups.task(&format!("standalone {}", id.root()))
}
