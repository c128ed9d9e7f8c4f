//! `waggle maintenance`.

use clap::{Args, Subcommand};

use super::Output;

/// `waggle maintenance ...`.
#[derive(Debug, Args)]
pub struct MaintenanceCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: MaintenanceSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with maintenance.
#[derive(Debug, Subcommand)]
pub enum MaintenanceSub {
    /// List planned maintenance, who was asked to leave and what they answered
    List,
    /// Plan maintenance: frameworks are asked to leave, and what is left is killed when it begins
    Schedule {
        /// Nodes by name or agent id
        #[arg(
            long = "agent",
            value_name = "NODE,..",
            value_delimiter = ',',
            required = true
        )]
        agents: Vec<String>,
        /// When it begins: now, +10m, or 2030-01-31T22:00:00Z
        #[arg(long, value_name = "TIME")]
        start: String,
        /// How long it takes, such as 30m or 4h [default: nobody knows]
        #[arg(long, value_name = "DURATION")]
        duration: Option<String>,
    },
    /// Cancel planned maintenance, or end it
    Cancel {
        /// Nodes by name or agent id
        #[arg(
            long = "agent",
            value_name = "NODE,..",
            value_delimiter = ',',
            required = true
        )]
        agents: Vec<String>,
    },
}
