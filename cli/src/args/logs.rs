//! `waggle logs`, `waggle queue`, `waggle schema` and `waggle version`.

use clap::{Args, Subcommand, ValueEnum};

use super::Output;

/// `waggle logs NAME`.
#[derive(Debug, Args)]
pub struct LogsCommand {
    /// Id of a service or a pod, such as /shop/cart, of a job, or of a task or its beginning
    pub name: String,
    /// Go on as output comes, of new instances too, until Ctrl-C or the service is gone
    #[arg(long, short)]
    pub follow: bool,
    /// Only the last lines of each stream of each instance [default: 100, or all with --since]
    #[arg(long, short = 'n', visible_alias = "tail", value_name = "N")]
    pub lines: Option<usize>,
    /// Only what came since then: so long ago, such as 10m, or Unix milliseconds
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Only this stream
    #[arg(long, value_enum)]
    pub stream: Option<Stream>,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// A stream of a task's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stream {
    /// Standard output
    Stdout,
    /// Standard error
    Stderr,
}

impl Stream {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// `waggle queue`.
#[derive(Debug, Args)]
pub struct QueueCommand {
    /// What to do [default: list]
    #[command(subcommand)]
    pub command: Option<QueueSub>,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with the launch queue.
#[derive(Debug, Subcommand)]
pub enum QueueSub {
    /// List the services that wait to be launched, for how long, and which offers were of no use
    List,
    /// Forget the delay that a service has for failing again and again
    Reset {
        /// Id, such as /shop/cart
        id: String,
    },
}

/// `waggle schema`.
#[derive(Debug, Args)]
pub struct SchemaCommand {
    /// Of what
    #[arg(value_enum)]
    pub of: Schema,
}

/// What there is a schema of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Schema {
    /// A Marathon app definition
    App,
    /// A Marathon pod definition
    Pod,
}

/// `waggle version`.
#[derive(Debug, Args)]
pub struct VersionCommand {
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}
