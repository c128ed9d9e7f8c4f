//! After a restart: look at what was written and at what runs, decide, carry out.

use std::{sync::Arc, time::Duration};

use waggle_lifecycle::{Checkpoint, Event, Observed, Recovery, recover as decide};
use waggle_types::{Command, TaskId, TaskSpec, UnixMillis};

use crate::{
    AgentError,
    cgroup::CgroupHost,
    checkpoint::TaskDir,
    executors,
    launch::{self, CLEAN_TIMEOUT, Shim},
    net::chain,
    parts::Parts,
    run::Agent,
};

/// How long leftovers of tasks that nobody knows may take to die.
const PATIENCE: Duration = CLEAN_TIMEOUT;

struct Found {
    dir: TaskDir,
    checkpoint: Checkpoint,
    shim: Option<Shim>,
    decision: Recovery,
}

/// Adopts what runs, reports what ended, removes what is nobody's.
pub async fn recover(
    agent: &mut Agent,
    cgroups: &CgroupHost,
    parts: &Arc<Parts>,
) -> Result<(), AgentError> {
    let work = agent.work.clone();
    let host = cgroups.clone();
    let parts = Arc::clone(parts);
    let found = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<Found>> {
        let dirs = work.all()?;
        let (done, open): (Vec<TaskDir>, Vec<TaskDir>) =
            dirs.into_iter().partition(TaskDir::is_done);
        let found: Vec<Found> = open.into_iter().map(|dir| look(dir, &host)).collect();
        for f in &found {
            clean(f, &host, &parts);
        }
        let known = |name: &String| found.iter().any(|f| f.dir.task_id().as_str() == name);
        let strays: Vec<String> = host
            .existing_tasks()
            .into_iter()
            .filter(|n| !known(n))
            .collect();
        for name in strays {
            tracing::warn!(
                task_id = name,
                finished = done.iter().any(|d| d.task_id().as_str() == name),
                "cgroup of an ended task is removed"
            );
            if let Err(e) = host.task(&name).remove(PATIENCE) {
                tracing::warn!(error = chain(&e), "leftovers stay");
            }
        }
        // An agent that died while it took a container apart has left the rest, also where its end was settled.
        for dir in &done {
            if let Err(e) = parts.runtimes.release(dir) {
                tracing::warn!(task_id = %dir.task_id(), error = %e, "leftovers of an ended container stay");
            }
        }
        // Those that live, and those whose end is still to be told: they are released after that.
        let live = found
            .iter()
            .filter(|f| matches!(f.decision, Recovery::Adopt { .. } | Recovery::Report { .. }));
        let live = live.filter_map(|f| Some((f.dir.task_id().clone(), f.checkpoint.spec.clone()?)));
        for error in parts.keep(&live.collect()) {
            tracing::warn!(error, "leftovers of ended tasks stay");
        }
        Ok(found)
    })
    .await
    .map_err(std::io::Error::other)
    .and_then(|r| r)
    .map_err(AgentError::file("read", agent.work.tasks_dir()))?;

    // Executors come before their tasks, their ends after them.
    let executor = |f: &Found| {
        let spec = f.checkpoint.spec.as_ref();
        spec.and_then(executors::record)
    };
    let (executors, tasks): (Vec<Found>, Vec<Found>) =
        found.into_iter().partition(|f| executor(f).is_some());
    let mut ended = Vec::new();
    for f in executors {
        let Some((record, spec)) = executor(&f).zip(f.checkpoint.spec.clone()) else {
            continue;
        };
        let container = spec.task_id.clone();
        let (runs, exit) = match &f.decision {
            Recovery::Adopt { pid } => (pid.is_some(), None),
            Recovery::Report { exit, .. } => (true, Some(exit.clone())),
            Recovery::Resend { .. } | Recovery::Clean { .. } => continue,
        };
        tracing::info!(%container, executor = %record.key(), decision = describe(&f.decision), "executor found");
        let process = f.dir.process();
        agent.tasks.adopt(spec, f.dir, f.shim);
        let recovered = Event::ExecutorRecovered {
            record: Box::new(record),
            container: container.clone(),
            runs,
        };
        agent.handle(recovered).await;
        if let Some(exit) = exit {
            agent.tasks.observe_ended(&container, process);
            ended.push((container, exit));
        }
    }
    for f in tasks {
        let Some(spec) = f.checkpoint.spec.clone() else {
            continue;
        };
        let task_id = spec.task_id.clone();
        tracing::info!(%task_id, decision = describe(&f.decision), "task found");
        if spec.command == Command::Executor && !matches!(f.decision, Recovery::Clean { .. }) {
            let (latest, pending) = (f.checkpoint.latest, f.checkpoint.pending);
            recovered(agent, spec, latest, pending, None, None).await;
            continue;
        }
        match f.decision {
            Recovery::Adopt { pid } => {
                let since = f.dir.process_since();
                agent.tasks.adopt(spec.clone(), f.dir, f.shim);
                // The identity counts, not the number that was read before.
                let (latest, pending) = (f.checkpoint.latest, f.checkpoint.pending);
                recovered(agent, spec, latest, pending, pid, since).await;
            }
            Recovery::Report { exit, .. } => {
                agent.tasks.adopt(spec.clone(), f.dir.clone(), None);
                agent.tasks.observe_ended(&task_id, f.dir.process());
                let (latest, pending) = (f.checkpoint.latest, f.checkpoint.pending);
                recovered(agent, spec, latest, pending, None, None).await;
                // Once all are known: what ends a group must see all of it.
                ended.push((task_id, exit));
            }
            Recovery::Resend { .. } => {
                agent.tasks.adopt(spec.clone(), f.dir, None);
                let (latest, pending) = (f.checkpoint.latest, f.checkpoint.pending);
                recovered(agent, spec, latest, pending, None, None).await;
            }
            Recovery::Clean { .. } => {}
        }
    }
    for (task_id, exit) in ended {
        agent.handle(Event::Exited { task_id, exit }).await;
    }
    Ok(())
}

async fn recovered(
    agent: &mut Agent,
    spec: TaskSpec,
    latest: Option<waggle_types::TaskStatus>,
    pending: Vec<waggle_types::TaskStatus>,
    pid: Option<u32>,
    since: Option<UnixMillis>,
) {
    let event = Event::Recovered {
        spec: Box::new(spec),
        latest,
        pending,
        pid,
        since,
    };
    agent.handle(event).await;
}

fn look(dir: TaskDir, host: &CgroupHost) -> Found {
    let shim = launch::find_shim(&dir);
    // After the shim: one that ended in between has left its record by now.
    let checkpoint = dir.read();
    let observed = Observed {
        shim_alive: shim.is_some(),
        cgroup_populated: host.task(dir.task_id().as_str()).populated(),
    };
    let decision = decide(&checkpoint, observed);
    Found {
        dir,
        checkpoint,
        shim,
        decision,
    }
}

/// The blocking part of a decision: kill and remove.
fn clean(f: &Found, host: &CgroupHost, parts: &Parts) {
    let task_id: &TaskId = f.dir.task_id();
    let cgroup = host.task(task_id.as_str());
    let kill = match f.decision {
        Recovery::Adopt { .. } => return,
        Recovery::Report { kill_remains, .. }
        | Recovery::Resend { kill_remains }
        | Recovery::Clean { kill_remains } => kill_remains,
    };
    if kill {
        tracing::warn!(%task_id, "processes without a shim are killed");
        if let Err(e) = cgroup.kill_and_wait(PATIENCE) {
            tracing::warn!(%task_id, error = chain(&e), "processes of a lost task stay");
        }
    }
    if f.shim.is_none()
        && let Some(fd) = f.dir.process().and_then(|p| p.open().ok())
    {
        // Without cgroups the process itself is all that is known.
        let _ = crate::sys::pidfd_signal(&fd, libc::SIGKILL);
    }
    match f.decision {
        Recovery::Clean { .. } => {
            let removed = cgroup.remove(PATIENCE).map_err(|e| chain(&e));
            release(f, parts);
            let removed = removed.and_then(|()| f.dir.remove().map_err(|e| chain(&e)));
            if let Err(error) = removed {
                tracing::warn!(%task_id, error, "leftovers stay");
            }
        }
        // Its figures are read once more before its cgroup goes.
        Recovery::Report { .. } | Recovery::Adopt { .. } => {}
        Recovery::Resend { .. } => {
            if let Err(e) = cgroup.remove(PATIENCE) {
                tracing::warn!(%task_id, error = chain(&e), "leftovers stay");
            }
            release(f, parts);
        }
    }
}

fn release(f: &Found, parts: &Parts) {
    for error in parts.release(f.dir.task_id()) {
        tracing::warn!(task_id = %f.dir.task_id(), error, "leftovers stay");
    }
}

fn describe(decision: &Recovery) -> &'static str {
    match decision {
        Recovery::Adopt { .. } => "adopt",
        Recovery::Report { .. } => "report its end",
        Recovery::Resend { .. } => "send its end again",
        Recovery::Clean { .. } => "remove",
    }
}
