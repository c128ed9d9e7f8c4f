//! What to do with what a restarted agent finds.

use waggle_types::{TaskSpec, TaskStatus};

use crate::Exit;

/// What was written of one task before the agent ended.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    /// Its spec; `None` when it is missing or unreadable.
    pub spec: Option<TaskSpec>,
    /// The newest status made durable.
    pub latest: Option<TaskStatus>,
    /// Updates not acknowledged, oldest first.
    pub pending: Vec<TaskStatus>,
    /// Whether a shim wrote its identity.
    pub shim_recorded: bool,
    /// The task's process, where the shim recorded it.
    pub pid: Option<u32>,
    /// How it ended, where the shim recorded it.
    pub exit: Option<Exit>,
}

/// What is seen of it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Observed {
    /// Its shim lives: same process id *and* start time, and it holds the task's lock.
    pub shim_alive: bool,
    /// Processes are left in its cgroup.
    pub cgroup_populated: bool,
}

/// What to do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// It runs under its shim: watch it again.
    Adopt {
        /// Its process; `None` while the shim is still starting it.
        pid: Option<u32>,
    },
    /// It is over: report this end once.
    Report {
        /// How it ended.
        exit: Exit,
        /// Kill what is left in its cgroup first.
        kill_remains: bool,
    },
    /// Its end was reported; send what is not acknowledged.
    Resend {
        /// Kill what is left in its cgroup first.
        kill_remains: bool,
    },
    /// Nothing is owed to anybody: remove its leftovers.
    Clean {
        /// Kill what is left in its cgroup first.
        kill_remains: bool,
    },
}

/// Decides about one task; total over every combination.
///
/// In order: without a readable spec nothing can be reported, so leftovers are removed. An end that
/// was already made durable is only sent again. An exit record is the truth. A living shim means that
/// the task lives. A shim that was recorded and is gone without a record took the exit code with it;
/// one that was never recorded never started the task.
pub fn recover(checkpoint: &Checkpoint, observed: Observed) -> Recovery {
    let kill_remains = observed.cgroup_populated && !observed.shim_alive;
    if checkpoint.spec.is_none() {
        return Recovery::Clean {
            kill_remains: observed.cgroup_populated,
        };
    }
    let terminal_told = checkpoint
        .latest
        .as_ref()
        .is_some_and(|l| l.state.is_terminal());
    if terminal_told {
        return if checkpoint.pending.is_empty() {
            Recovery::Clean { kill_remains }
        } else {
            Recovery::Resend { kill_remains }
        };
    }
    if let Some(exit) = &checkpoint.exit {
        return Recovery::Report {
            exit: exit.clone(),
            kill_remains,
        };
    }
    if observed.shim_alive {
        return Recovery::Adopt {
            pid: checkpoint.pid,
        };
    }
    let exit = if checkpoint.shim_recorded || checkpoint.pid.is_some() || kill_remains {
        Exit::Unknown
    } else {
        Exit::NeverStarted
    };
    Recovery::Report { exit, kill_remains }
}
