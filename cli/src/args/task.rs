//! `waggle task`.

use clap::{Args, Subcommand};

use super::Output;

/// `waggle task ...`.
#[derive(Debug, Args)]
pub struct TaskCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: TaskSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with tasks.
#[derive(Debug, Subcommand)]
pub enum TaskSub {
    /// List tasks
    List {
        /// Only tasks of this service
        service: Option<String>,
    },
    /// Print a task's output
    Log {
        /// Task id, or a prefix that only one task has
        id: String,
        /// stderr instead of stdout
        #[arg(long)]
        stderr: bool,
        /// Only the last lines
        #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
        lines: usize,
        /// Go on as output comes, until the task ends or Ctrl-C
        #[arg(long, short)]
        follow: bool,
    },
}
