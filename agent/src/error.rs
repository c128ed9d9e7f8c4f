//! Why an agent cannot start or go on.

use std::{io, path::PathBuf};

/// An agent's fatal errors. A task's troubles are statuses, not errors.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file or directory of the agent's own.
    #[error("failed to {what} {}", path.display())]
    File {
        /// The verb: `create`.
        what: &'static str,
        /// The object.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another agent runs on the same work directory.
    #[error("another agent holds {}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Another agent's tasks are below the same cgroup directory; they would be taken for leftovers.
    #[error("another agent holds the tasks in {}", path.display())]
    CgroupsInUse {
        /// The cgroup directory.
        path: PathBuf,
    },
    /// The agent is another one than it was, and may not be.
    #[error(
        "this agent is not what it was, which --reconfiguration-policy {policy} does not allow: {what}"
    )]
    Reconfigured {
        /// What may change.
        policy: crate::Reconfiguration,
        /// What has.
        what: String,
    },
    /// The stored agent id is not an id.
    #[error("bad agent id in {}", path.display())]
    BadAgentId {
        /// The file.
        path: PathBuf,
        /// The rule.
        #[source]
        source: waggle_types::IdError,
    },
    /// The data plane is required and does not load.
    #[error("failed to load the data plane")]
    DataPlane(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// DNS and VIP tables cannot be served and are required.
    #[error("failed to start the node's network")]
    Network(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A listener given does not work.
    #[error("failed to listen for {what}")]
    Listen {
        /// Which one.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The master refused this agent for good.
    #[error("the master refused this agent: {reason}")]
    Refused {
        /// In the master's words.
        reason: String,
    },
    /// A setting that cannot work.
    #[error(transparent)]
    Config(#[from] waggle_types::FieldError),
}

impl AgentError {
    /// For `map_err`: names the verb and the path.
    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}
