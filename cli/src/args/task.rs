//! `waggle task`.

use std::path::PathBuf;

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
    /// The API of the task's agent, past the master (log, ls, cat, download)
    #[arg(long, value_name = "URL", global = true)]
    pub agent: Option<String>,
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
    /// List what is in a task's sandbox
    Ls {
        /// Task id, or a prefix that only one task has
        id: String,
        /// Below the sandbox
        #[arg(default_value = "", hide_default_value = true)]
        path: String,
    },
    /// Print a file of a task's sandbox
    Cat {
        /// Task id, or a prefix that only one task has
        id: String,
        /// Below the sandbox
        path: String,
    },
    /// Copy a file or a directory out of a task's sandbox
    Download {
        /// Task id, or a prefix that only one task has
        id: String,
        /// Below the sandbox
        path: String,
        /// File or directory to make [default: the same name here]
        to: Option<PathBuf>,
    },
}
