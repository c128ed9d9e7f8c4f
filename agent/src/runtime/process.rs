//! Plain processes: the host's files, limits by cgroup.

use std::{fs, io, path::Path};

use waggle_types::MountSource;

use super::{Contained, Runtime, SEGMENT_BYTES};
use crate::{
    cgroup::process_limits,
    checkpoint::TaskDir,
    environment,
    shim::{SandboxMount, ShimPlan},
};

/// Runs tasks without an image.
pub struct Process;

impl Runtime for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    fn plan(&self, task: &Contained<'_>) -> Result<ShimPlan, String> {
        let sandbox = task.dir.sandbox();
        let (spec, cgroup) = (task.spec, task.cgroup);
        let mut env = environment::environment(spec, task.node, &sandbox, task.trace);
        if let Some(gpus) = &task.prepared.gpus {
            env.extend(gpus.env.iter().cloned());
        }
        Ok(ShimPlan {
            argv: environment::argv(&spec.command),
            env,
            sandbox,
            cgroups: cgroup.dirs(),
            kill_cgroup: cgroup.kill_dir().map(ToOwned::to_owned),
            memory_cgroup: cgroup.controller("memory").map(ToOwned::to_owned),
            user: task.prepared.user.clone(),
            kill_grace_ms: spec.kill_grace.0,
            segment_bytes: SEGMENT_BYTES,
            container: None,
            netns: task.prepared.network.as_ref().and_then(|n| n.netns.clone()),
            mounts: mounts(task)?,
            rlimits: process_limits(&spec.container.limits)?,
        })
    }

    fn release(&self, _: &TaskDir) -> io::Result<()> {
        Ok(())
    }
}

/// Mounts of a process are below its sandbox; where they go is made here.
fn mounts(task: &Contained<'_>) -> Result<Vec<SandboxMount>, String> {
    let wanted = &task.spec.container.mounts;
    if let Some(m) = wanted
        .iter()
        .find(|m| matches!(m.source, MountSource::Memory(_)))
    {
        return Err(format!(
            "container.mounts: memory at {:.200?} needs an image",
            m.target
        ));
    }
    let sandbox = task.dir.sandbox();
    task.prepared
        .mounts
        .iter()
        .map(|m| {
            let target = Path::new(&m.target);
            let plain = |c| matches!(c, std::path::Component::Normal(_));
            if !target.components().all(plain) || m.target.is_empty() {
                return Err(format!(
                    "container.mounts: without an image a target must be below the sandbox, is {:.200?}",
                    m.target
                ));
            }
            let place = sandbox.join(target);
            make_place(&m.from, &place).map_err(|e| {
                format!("container.mounts: failed to make {}: {e}", place.display())
            })?;
            Ok(SandboxMount {
                from: m.from.clone(),
                target: target.to_owned(),
                read_only: m.read_only,
            })
        })
        .collect()
}

/// An empty directory, or an empty file for a file.
fn make_place(from: &Path, place: &Path) -> io::Result<()> {
    if fs::metadata(from)?.is_dir() {
        return fs::create_dir_all(place);
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(place)
        .map(drop)
}
