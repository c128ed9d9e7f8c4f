//! What a command can end with, and the exit code it means.

/// Why a command failed. Usage and configuration mistakes exit with 2, everything else with 1.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The user's input is wrong: a flag, a file, a value.
    #[error("{0}")]
    Usage(String),
    /// The cluster refused the request (4xx).
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The server's words, details included.
        message: String,
    },
    /// A command in a task ended so; it has said what it had to say.
    #[error("exit code {0}")]
    Ended(u8),
    /// A session in a task broke off: how its command ended is not known.
    #[error("the session broke off: {0}")]
    Broken(String),
    /// Something else went wrong.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl CliError {
    /// 2 for what the user can mend on the command line; a command's own, and 255 where it is not known; else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_)
            | Self::Refused {
                status: 400 | 413 | 422,
                ..
            } => 2,
            Self::Ended(code) => *code,
            Self::Broken(_) => 255,
            Self::Refused { .. } | Self::Failed(_) => 1,
        }
    }
}

/// A usage error from anything printable.
pub fn usage(message: impl Into<String>) -> CliError {
    CliError::Usage(message.into())
}
