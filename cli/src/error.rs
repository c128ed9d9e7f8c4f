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
    /// Something else went wrong.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl CliError {
    /// 2 for what the user can mend on the command line, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_)
            | Self::Refused {
                status: 400 | 413 | 422,
                ..
            } => 2,
            Self::Refused { .. } | Self::Failed(_) => 1,
        }
    }
}

/// A usage error from anything printable.
pub fn usage(message: impl Into<String>) -> CliError {
    CliError::Usage(message.into())
}
