//! How a task ended, and how that is told.

use waggle_types::{HealthState, StatusReason, TaskState};

use crate::{KillCause, machine::OVER_TIME};

/// How a task ended, as its shim recorded it or as the agent found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The command ended by itself.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The kernel killed it for its memory limit.
    OutOfMemory {
        /// The limit in bytes, 0 when unknown.
        limit_bytes: u64,
        /// The highest use seen in bytes, 0 when unknown.
        peak_bytes: u64,
    },
    /// It never ran: which step failed and why.
    LaunchFailed(String),
    /// The agent restarted before the shim was started; it never ran.
    NeverStarted,
    /// It was killed while what it needs was being prepared; it never ran.
    Cancelled,
    /// It is gone, and nobody saw how.
    Unknown,
}

impl Exit {
    /// The terminal state, reason and message for people, given who asked for the end, if anybody.
    pub fn report(&self, kill: Option<&KillCause>) -> (TaskState, Option<StatusReason>, String) {
        match (self, kill) {
            (Self::LaunchFailed(why), _) => (
                TaskState::Failed,
                Some(StatusReason::ContainerLaunchFailed),
                why.clone(),
            ),
            (Self::Unknown, Some(KillCause::Evicted(why))) => (
                TaskState::Killed,
                Some(why.reason),
                format!("{}: its shim died, exit code unknown", why.message),
            ),
            (Self::Unknown, Some(KillCause::OverDisk { why })) => (
                TaskState::Failed,
                Some(StatusReason::ContainerLimitationDisk),
                format!("{why}; its shim died, exit code unknown"),
            ),
            (Self::Unknown, Some(KillCause::OverTime)) => (
                TaskState::Failed,
                Some(StatusReason::MaxCompletionTimeReached),
                format!("{OVER_TIME}; its shim died, exit code unknown"),
            ),
            (Self::Unknown, Some(_)) => (
                TaskState::Killed,
                Some(StatusReason::ExecutorTerminated),
                "killed; its shim died, exit code unknown".to_owned(),
            ),
            (Self::Unknown, None) => (
                TaskState::Failed,
                Some(StatusReason::ExecutorTerminated),
                "its shim died, exit code unknown".to_owned(),
            ),
            (_, Some(KillCause::Evicted(why))) => (
                TaskState::Killed,
                Some(why.reason),
                format!("{}: {}", why.message, self.describe()),
            ),
            (Self::NeverStarted | Self::Cancelled, Some(KillCause::Asked)) => (
                TaskState::Killed,
                Some(StatusReason::TaskKilledDuringLaunch),
                format!("killed as asked: {}", self.describe()),
            ),
            (_, Some(KillCause::Asked)) => (
                TaskState::Killed,
                Some(StatusReason::TaskKilled),
                format!("killed as asked: {}", self.describe()),
            ),
            (_, Some(KillCause::Unhealthy { failures, why })) => (
                TaskState::Failed,
                Some(StatusReason::TaskHealthCheckStatusUpdated),
                match failures {
                    0 => format!("killed after consecutive health check failures: {why}"),
                    n => format!("killed after {n} consecutive health check failures: {why}"),
                },
            ),
            (_, Some(KillCause::OverDisk { why })) => (
                TaskState::Failed,
                Some(StatusReason::ContainerLimitationDisk),
                why.clone(),
            ),
            (_, Some(KillCause::OverTime)) => (
                TaskState::Failed,
                Some(StatusReason::MaxCompletionTimeReached),
                OVER_TIME.to_owned(),
            ),
            (Self::Code(0), None) => (TaskState::Finished, None, self.describe()),
            (Self::OutOfMemory { .. }, None) => (
                TaskState::Failed,
                Some(StatusReason::ContainerLimitationMemory),
                self.describe(),
            ),
            // Only a kill cancels.
            (Self::NeverStarted | Self::Cancelled, None) => (
                TaskState::Failed,
                Some(StatusReason::SlaveRestarted),
                self.describe(),
            ),
            (Self::Code(_) | Self::Signal(_), None) => (
                TaskState::Failed,
                Some(StatusReason::CommandExecutorFailed),
                self.describe(),
            ),
        }
    }

    /// Health to report with the end.
    pub(crate) fn health(kill: Option<&KillCause>, last: HealthState) -> HealthState {
        match kill {
            Some(KillCause::Unhealthy { .. }) => HealthState::Unhealthy,
            _ => last,
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::Code(code) => format!("command exited with status {code}"),
            Self::Signal(signal) => {
                format!("command terminated with signal {}", signal_name(*signal))
            }
            Self::OutOfMemory {
                limit_bytes,
                peak_bytes,
            } => format!(
                "killed by the kernel for memory: limit {limit_bytes} bytes, peak {peak_bytes} bytes"
            ),
            Self::LaunchFailed(why) => why.clone(),
            Self::NeverStarted => "the agent restarted before the task was started".to_owned(),
            Self::Cancelled => "it was not started yet".to_owned(),
            Self::Unknown => "exit code unknown".to_owned(),
        }
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        _ => return signal.to_string(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_began_was_killed_during_its_launch() {
        let asked = Some(&KillCause::Asked);
        for (exit, reason) in [
            (Exit::Cancelled, StatusReason::TaskKilledDuringLaunch),
            (Exit::NeverStarted, StatusReason::TaskKilledDuringLaunch),
            (Exit::Signal(15), StatusReason::TaskKilled),
        ] {
            let (state, said, _) = exit.report(asked);
            assert_eq!((state, said), (TaskState::Killed, Some(reason)), "{exit:?}");
        }
    }
}
