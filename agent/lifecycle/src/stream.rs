//! Status updates of one task, in order, each until it is acknowledged.

use std::collections::VecDeque;

use waggle_types::{Millis, StatusUuid, TaskState, TaskStatus, UnixMillis};

/// First retry of an update without an answer (Mesos `STATUS_UPDATE_RETRY_INTERVAL_MIN`).
pub const RETRY_FIRST: Millis = Millis::from_secs(10);
/// Updates of one task that an executor wrote and that wait; beyond, the newest takes the place of the one before.
pub const MAX_WRITTEN: usize = 1000;
/// Longest time between retries (Mesos `STATUS_UPDATE_RETRY_INTERVAL_MAX`).
pub const RETRY_MAX: Millis = Millis::from_secs(600);

/// The updates of one task that its master has not acknowledged, oldest first.
///
/// At most one is in flight. Bounded by the number of states: an update behind the head is replaced by
/// a newer one of the same state; those that an executor wrote, by a thousand.
#[derive(Debug, Clone, Default)]
pub struct UpdateStream {
    pending: VecDeque<TaskStatus>,
    latest: Option<TaskStatus>,
    // The newest acknowledged one.
    told: Option<TaskStatus>,
    // Whether the head was ever sent; such an update is never replaced.
    head_sent: bool,
    retry_at: Option<UnixMillis>,
    backoff: Option<Millis>,
    terminal_acked: bool,
}

impl UpdateStream {
    /// As it was made durable. The head counts as sent: it may have been.
    pub fn restore(latest: Option<TaskStatus>, pending: Vec<TaskStatus>) -> Self {
        let terminal_acked =
            pending.is_empty() && latest.as_ref().is_some_and(|l| l.state.is_terminal());
        Self {
            head_sent: !pending.is_empty(),
            told: latest.clone().filter(|_| pending.is_empty()),
            pending: pending.into(),
            latest,
            retry_at: None,
            backoff: None,
            terminal_acked,
        }
    }

    /// Takes a new update, which must carry a uuid. Returns whether it is the head.
    pub fn push(&mut self, status: TaskStatus) -> bool {
        let replaceable = match self.pending.back() {
            // Each of an executor's may say something of its own.
            Some(last) if last.executor.is_some() && self.pending.len() < MAX_WRITTEN => false,
            Some(last) if last.executor.is_some() => !last.state.is_terminal(),
            Some(last) if last.state == status.state => self.pending.len() > 1 || !self.head_sent,
            _ => false,
        };
        if replaceable {
            self.pending.pop_back();
            // What changed and changed back before anybody was told of it.
            let before = self.pending.back().or(self.told.as_ref());
            if let Some(before) = before.filter(|b| says_the_same(b, &status)) {
                self.latest = Some(before.clone());
                return false;
            }
        }
        self.latest = Some(status.clone());
        self.pending.push_back(status);
        self.pending.len() == 1
    }

    /// The update to send now, if one is due; sets when it is due again.
    pub fn due(&mut self, now: UnixMillis) -> Option<TaskStatus> {
        let head = self.pending.front()?;
        if self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        let backoff = match self.backoff {
            None => RETRY_FIRST,
            Some(b) => Millis((b.0 * 2).min(RETRY_MAX.0)),
        };
        self.backoff = Some(backoff);
        self.retry_at = Some(now + backoff);
        self.head_sent = true;
        Some(head.clone())
    }

    /// Forgets the retry timer: the head is due at once (a new connection).
    pub fn reset_timer(&mut self) {
        self.retry_at = None;
        self.backoff = None;
    }

    /// Takes an acknowledgement. Only the head's counts; a late or unknown one changes nothing.
    /// Returns whether the head was removed.
    pub fn ack(&mut self, uuid: StatusUuid) -> bool {
        if self.pending.front().and_then(|s| s.uuid) != Some(uuid) {
            return false;
        }
        if let Some(done) = self.pending.pop_front() {
            self.terminal_acked |= done.state.is_terminal();
            self.told = Some(done);
        }
        self.head_sent = false;
        self.reset_timer();
        true
    }

    /// Whether the task's end was acknowledged: nothing of it is needed any more.
    pub fn is_done(&self) -> bool {
        self.terminal_acked
    }

    /// When [`UpdateStream::due`] has something, `None` when nothing is pending.
    pub fn deadline(&self) -> Option<UnixMillis> {
        self.pending
            .front()
            .map(|_| self.retry_at.unwrap_or(UnixMillis(0)))
    }

    /// The newest update, acknowledged or not.
    pub fn latest(&self) -> Option<&TaskStatus> {
        self.latest.as_ref()
    }

    /// What is not acknowledged, oldest first.
    pub fn pending(&self) -> impl Iterator<Item = &TaskStatus> {
        self.pending.iter()
    }

    /// The newest state told, for registration.
    pub fn latest_state(&self) -> Option<TaskState> {
        self.latest.as_ref().map(|s| s.state)
    }
}

fn says_the_same(a: &TaskStatus, b: &TaskStatus) -> bool {
    let said = |s: &TaskStatus| TaskStatus {
        at: UnixMillis(0),
        uuid: None,
        ..s.clone()
    };
    said(a) == said(b)
}
