//! A plan: what one look at a service decides. Plain data that renders to text, for tests and for people.

use std::fmt;

use waggle_types::{Milli, OfferId, ResourcePart, TaskId, UnixMillis};

use crate::{Choice, DeclineReason, Rule};

/// An instance to launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Position among the offers given.
    pub offer_idx: usize,
    /// Host ports, in the order of the definitions.
    pub host_ports: Vec<u16>,
    /// Of which parts of the offer; empty when it has no reserved ones.
    pub parts: Vec<ResourcePart>,
    /// Where a resident instance is at home.
    pub home: Option<HomeUse>,
    /// Why there.
    pub choice: Choice,
}

/// The home of a resident instance that is launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HomeUse {
    /// This one, which it has.
    Back(String),
    /// A new one: what it needs is reserved, and its volumes are made.
    New,
}

/// Why an instance is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KillReason {
    /// The service is being removed.
    Removed,
    /// More run than are asked for.
    Surplus,
    /// It runs an older definition.
    Outdated,
    /// It never came up.
    LaunchTimeout,
    /// It was told before and has not ended.
    Again,
    /// A person asked for it.
    Requested,
    /// It is a pod, and a container of it has ended, or is missing.
    Broken,
    /// No service that it could belong to.
    Stray,
}

impl KillReason {
    /// For logs and `explain`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Removed => "service removed",
            Self::Surplus => "surplus",
            Self::Outdated => "outdated",
            Self::LaunchTimeout => "launch timeout",
            Self::Again => "told again",
            Self::Requested => "requested",
            Self::Broken => "a container ended",
            Self::Stray => "stray",
        }
    }
}

/// An instance to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// Its task.
    pub task_id: TaskId,
    /// Why.
    pub reason: KillReason,
}

/// An offer that a waiting service could not use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The offer.
    pub offer_id: OfferId,
    /// Position among the offers given.
    pub offer_idx: usize,
    /// The first demand that it does not meet, in Marathon's words.
    pub reason: DeclineReason,
    /// The same, exactly.
    pub rule: Rule,
    /// How much it had of what is too little.
    pub had: Milli,
}

/// What to do about one service now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Instances to launch, on the offers given.
    pub launches: Vec<Launch>,
    /// Instances to end.
    pub kills: Vec<Kill>,
    /// Unreachable instances to forget.
    pub expunge: Vec<TaskId>,
    /// Homes to give up, by id.
    pub abandon: Vec<String>,
    /// How many more could be launched at once if there were offers for them.
    pub n_waiting: u32,
    /// How many more wait for the backoff delay.
    pub n_delayed: u32,
    /// More would be launched on these offers if more launches might be under way.
    pub short_of_tokens: bool,
    /// Offers looked at and not used, each with the reason.
    pub refusals: Vec<Refusal>,
    /// When to look again, if nothing happens before.
    pub look_again: Option<UnixMillis>,
    /// Everything is as asked for.
    pub done: bool,
}

impl Plan {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.launches.is_empty()
            && self.kills.is_empty()
            && self.expunge.is_empty()
            && self.abandon.is_empty()
    }

    pub(crate) fn look_at(&mut self, at: UnixMillis) {
        self.look_again = Some(self.look_again.map_or(at, |t| t.min(at)));
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for l in &self.launches {
            write!(f, "launch on offer {}", l.offer_idx)?;
            match &l.home {
                Some(HomeUse::Back(id)) => write!(f, " at home {id}")?,
                Some(HomeUse::New) => write!(f, " with a new home")?,
                None => {}
            }
            if !l.host_ports.is_empty() {
                write!(f, " ports {:?}", l.host_ports)?;
            }
            writeln!(f)?;
        }
        for k in &self.kills {
            writeln!(f, "kill {}: {}", k.task_id, k.reason.name())?;
        }
        for t in &self.expunge {
            writeln!(f, "expunge {t}")?;
        }
        for id in &self.abandon {
            writeln!(f, "abandon home {id}")?;
        }
        for r in &self.refusals {
            writeln!(f, "refuse {}: {}", r.offer_id, r.reason)?;
        }
        if self.n_waiting > 0 {
            writeln!(f, "waiting {}", self.n_waiting)?;
        }
        if self.n_delayed > 0 {
            writeln!(f, "delayed {}", self.n_delayed)?;
        }
        if let Some(at) = self.look_again {
            writeln!(f, "look again at {at}")?;
        }
        if self.done {
            writeln!(f, "done")?;
        }
        Ok(())
    }
}
