//! How executors end, and what is made of those that are found after a restart.

use waggle_types::{
    ExecutorEnd, ExecutorKind, ExecutorRecord, StatusReason, TaskId, TaskState, UnixMillis,
};

use super::{Executor, Life, REREGISTRATION_TIMEOUT, key_of, record_of};
use crate::{AgentCore, Effect, Exit, KillCause, Phase};

/// As `waitpid(2)` has it.
fn wait_status(exit: &Exit) -> i32 {
    match exit {
        Exit::Code(code) => (code & 0xff) << 8,
        Exit::Signal(signal) => signal & 0x7f,
        Exit::OutOfMemory { .. } => 9,
        Exit::LaunchFailed(_) | Exit::NeverStarted | Exit::Cancelled | Exit::Unknown => -1,
    }
}

impl AgentCore {
    /// An executor's container is over: so are its tasks.
    pub(crate) fn executor_exited(
        &mut self,
        container: &TaskId,
        exit: &Exit,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let Some(key) = self.containers.remove(container) else {
            return;
        };
        let Some(e) = self.executors.remove(&key) else {
            return;
        };
        let (reason, message) = match (&e.why, exit) {
            (_, Exit::LaunchFailed(why)) => (StatusReason::ContainerLaunchFailed, why.clone()),
            // Without a word it is only expected back.
            (Some((reason, message)), _) if !message.is_empty() => (*reason, message.clone()),
            (_, Exit::OutOfMemory { .. }) => {
                (StatusReason::ContainerLimitationMemory, exit.describe())
            }
            (_, _) => (
                StatusReason::ExecutorTerminated,
                format!("its executor has ended: {}", exit.describe()),
            ),
        };
        for id in self.live_on(&key) {
            let evicted = self.tasks.get(&id).and_then(|t| t.on.kill.clone());
            match evicted {
                Some((_, Some(why))) => {
                    let state = TaskState::Killed;
                    self.end_on(&id, state, why.reason, why.message, now, out);
                }
                _ => self.end_on(&id, TaskState::Failed, reason, message.clone(), now, out),
            }
        }
        let state = match exit {
            Exit::Code(0) => TaskState::Finished,
            _ => TaskState::Failed,
        };
        out.push(Effect::Release {
            task_id: container.clone(),
            state,
            exit: exit.clone(),
        });
        out.push(Effect::ExecutorEnded(ExecutorEnd {
            key,
            status: wait_status(exit),
            message: exit.describe(),
        }));
        out.push(Effect::Forget(container.clone()));
    }

    /// An executor that was found after a restart; `exit` when it has ended meanwhile. Before its tasks.
    pub(crate) fn executor_recovered(
        &mut self,
        record: ExecutorRecord,
        container: TaskId,
        runs: bool,
        now: UnixMillis,
    ) {
        let key = record.key();
        self.containers.insert(container.clone(), key.clone());
        let executor = Executor {
            life: if runs { Life::Running } else { Life::Starting },
            runs,
            deadline: Some(now + REREGISTRATION_TIMEOUT),
            why: Some((StatusReason::ExecutorReregistrationTimeout, String::new())),
            ..Executor::new(record, Some(container))
        };
        self.executors.insert(key, executor);
    }

    /// A task was found after a restart whose executor may be there or not.
    pub(crate) fn recovered_on(
        &mut self,
        task_id: &TaskId,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.tasks.get_mut(task_id) else {
            return;
        };
        let spec = entry.machine.spec();
        let (Some(key), Some(record)) = (key_of(spec), record_of(spec)) else {
            return;
        };
        let over = matches!(entry.machine.phase(), Phase::Terminal(_));
        // It may have been: the executor says whether it knows it.
        entry.on.sent = true;
        if over {
            return;
        }
        if record.spec.kind == ExecutorKind::Default {
            let executor = Executor {
                life: Life::Running,
                ..Executor::new(record, None)
            };
            self.executors.entry(key).or_insert(executor);
        } else if !self.executors.contains_key(&key) {
            let (reason, message) = (StatusReason::ExecutorTerminated, "its executor has ended");
            let state = TaskState::Failed;
            self.end_on(task_id, state, reason, message.to_owned(), now, out);
        }
    }

    /// A container of the default executor has ended: the others of its group end when it did not end well, and the
    /// executor ends with the last.
    pub(crate) fn ended_by_default(
        &mut self,
        task_id: &TaskId,
        now: UnixMillis,
        out: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.tasks.get(task_id) else {
            return;
        };
        let spec = entry.machine.spec();
        let Some(on) = spec.executor.as_ref() else {
            return;
        };
        let (Some(key), group) = (key_of(spec), on.group.clone()) else {
            return;
        };
        if on.spec.kind != ExecutorKind::Default {
            return;
        }
        if group.is_some() && entry.machine.state() != TaskState::Finished {
            let others: Vec<TaskId> = self
                .on(&key)
                .filter(|(_, e)| {
                    let on = e.machine.spec().executor.as_ref();
                    on.is_some_and(|on| on.group == group)
                })
                .map(|(id, _)| id.clone())
                .collect();
            for id in others.iter().filter(|id| *id != task_id) {
                self.kill(id, None, KillCause::Asked, now, out);
            }
        }
        if self.live_on(&key).is_empty() && self.executors.remove(&key).is_some() {
            out.push(Effect::ExecutorEnded(ExecutorEnd {
                key,
                status: 0,
                message: "its last task has ended".to_owned(),
            }));
        }
    }
}
