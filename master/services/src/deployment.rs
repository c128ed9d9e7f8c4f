//! Deployments: a change of one service, from its request until it is as asked for.

use waggle_types::{DeploymentId, ServiceId, ServiceVersion, TraceContext, UnixMillis};

/// What a deployment does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeploymentKind {
    /// The service is new.
    Start,
    /// Another number of the same.
    Scale,
    /// Another definition, or the same afresh.
    Restart,
    /// The service goes.
    Stop,
}

/// How a deployment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeploymentOutcome {
    /// The service is as asked for.
    Finished,
    /// A newer deployment of the same service took its place.
    Superseded,
}

/// How far a service is from what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Progress {
    /// Instances asked for; 0 for a service that goes.
    pub n_wanted: u32,
    /// Instances of the current definition that are ready.
    pub n_ready: u32,
    /// Instances of the current definition, ready or not.
    pub n_current: u32,
    /// Instances that have to end.
    pub n_to_end: u32,
}

/// A deployment in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// The service that it changes.
    pub service: ServiceId,
    /// The definition that it brings.
    pub version: ServiceVersion,
    /// What it does.
    pub kind: DeploymentKind,
    /// When it was asked for.
    pub since: UnixMillis,
    /// How far it is.
    pub progress: Progress,
    /// The span that its launches hang under.
    pub trace: Option<TraceContext>,
}

impl Deployment {
    /// What it waits for, in words.
    pub fn waiting_for(&self) -> String {
        let p = self.progress;
        if self.kind == DeploymentKind::Stop {
            return format!("{} instances to end", p.n_to_end);
        }
        let ready = format!("{} of {} instances ready", p.n_ready, p.n_wanted);
        match p.n_to_end {
            0 => ready,
            n => format!("{ready}, {n} to end"),
        }
    }
}
