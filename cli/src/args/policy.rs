//! `waggle policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;

/// `waggle policy ...`.
#[derive(Debug, Args)]
pub struct PolicyCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: PolicySub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with network policies.
#[derive(Debug, Subcommand)]
pub enum PolicySub {
    /// List policies and how many tasks they select
    List,
    /// Show a policy as it was written, and whom it selects
    Show {
        /// Its name
        name: String,
    },
    /// Add a policy, or put it in place of the one with its name
    Add {
        /// A file of JSON; - is the standard input
        file: PathBuf,
        /// Also if it selects no task and no service that is there now
        #[arg(long)]
        force: bool,
    },
    /// Remove a policy
    Remove {
        /// Its name
        name: String,
    },
    /// Say whether a flow would pass, and which rule says so
    Test {
        /// Who dials: a task's id or its beginning, or an address
        from: String,
        /// Who is dialled: a task's id or its beginning, an address, or a DNS name
        to: String,
        /// What is dialled: tcp/80, udp/53 or icmp
        port: String,
    },
}
