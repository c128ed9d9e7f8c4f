//! How fast the scheduler goes where it is told to: launches under way at once, and how often offers are asked for again.

use waggle_types::{TaskState, UnixMillis};

use crate::{Goal, Instance, Limits, ServiceScheduler};

/// What waits for the pace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    /// More would have been launched if more launches might be under way.
    pub short: bool,
    /// When the oldest launch under way does not count any more, where that is waited for.
    tokens_at: Option<UnixMillis>,
    /// Offers are to be asked for as soon as that may be.
    pub revive: bool,
    /// When they were last asked for.
    pub revived_at: Option<UnixMillis>,
}

impl Pace {
    /// When there is something to do, if nothing happens before.
    pub fn next(&self, limits: &Limits) -> Option<UnixMillis> {
        let revive = self.revived_at.filter(|_| self.revive);
        let revive = revive.map(|at| at + limits.min_revive_interval);
        revive.into_iter().chain(self.tokens_at).min()
    }

    /// Whether offers were asked for too short a time ago.
    pub fn is_early(&self, limits: &Limits, now: UnixMillis) -> bool {
        self.revived_at
            .is_some_and(|at| now < at + limits.min_revive_interval)
    }

    /// Whether launches are possible again that were not.
    pub fn has_tokens_again(&mut self, tokens: Option<usize>) -> bool {
        let again = self.short && tokens.is_none_or(|n| n > 0);
        self.short &= !again;
        again
    }

    /// All services had their turn: until when to wait where launches were not possible.
    pub fn wait_for_tokens(&mut self, tokens: Option<usize>, first: Option<UnixMillis>) {
        let waits = self.short && tokens == Some(0);
        self.tokens_at = first.filter(|_| waits);
    }
}

impl ServiceScheduler {
    /// Launches that are under way and count.
    fn under_way(&self, now: UnixMillis) -> impl Iterator<Item = &Instance> {
        let refresh = self.limits.launch_token_refresh;
        self.instances().filter(move |i| {
            let starts = matches!(i.state, TaskState::Staging | TaskState::Starting);
            starts && i.goal == Goal::Run && now < i.staged_at + refresh
        })
    }

    /// Launches that may begin now, where that is limited.
    pub(crate) fn tokens(&self, now: UnixMillis) -> Option<usize> {
        let all = usize::try_from(self.limits.launch_tokens?).unwrap_or(usize::MAX);
        Some(all.saturating_sub(self.under_way(now).count()))
    }

    /// When the oldest launch under way does not count any more, where they are limited.
    pub(crate) fn first_launch(&self, now: UnixMillis) -> Option<UnixMillis> {
        self.limits.launch_tokens?;
        let begun = self.under_way(now).map(|i| i.staged_at).min()?;
        Some(begun + self.limits.launch_token_refresh)
    }
}
