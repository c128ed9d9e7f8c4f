//! Plain processes: the host's files, limits by cgroup.

use std::io;

use waggle_types::MountSource;

use super::{Contained, Runtime};
use crate::{cgroup::process_limits, checkpoint::TaskDir, environment, shim::ShimPlan};

/// Runs tasks without an image.
pub struct Process;

impl Runtime for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    fn plan(&self, task: &Contained<'_>) -> Result<ShimPlan, String> {
        memory(task)?;
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
            logs: task.logs,
            container: None,
            tty: spec.container.tty,
            netns: task.prepared.network.as_ref().and_then(|n| n.netns.clone()),
            rlimits: process_limits(&spec.container.limits)?,
        })
    }

    fn release(&self, _: &TaskDir) -> io::Result<()> {
        Ok(())
    }
}

/// Other mounts of a process are links in its sandbox; memory would need a mount namespace.
fn memory(task: &Contained<'_>) -> Result<(), String> {
    let mut mounts = task.spec.container.mounts.iter();
    match mounts.find(|m| matches!(m.source, MountSource::Memory(_))) {
        Some(m) => Err(format!(
            "container.mounts: memory at {:.200?} needs an image",
            m.target
        )),
        None => Ok(()),
    }
}
