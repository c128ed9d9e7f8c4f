//! `waggle app`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{CanaryCommand, Output, Wait};

/// `waggle app ...`.
#[derive(Debug, Args)]
pub struct AppCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: AppSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with services.
#[derive(Debug, Subcommand)]
pub enum AppSub {
    /// Add a service from a Marathon app definition
    Add {
        /// JSON or YAML file, or - for standard input
        file: PathBuf,
        /// Waiting.
        #[command(flatten)]
        wait: Wait,
    },
    /// Make a service what a definition says; what is not in it has its default
    Update {
        /// JSON or YAML file, or - for standard input
        file: PathBuf,
        /// Override a deployment that is running
        #[arg(long)]
        force: bool,
        /// Waiting.
        #[command(flatten)]
        wait: Wait,
    },
    /// Say what `waggle app update` would change; exit code 1 if anything
    Diff {
        /// JSON or YAML file, or - for standard input
        file: PathBuf,
    },
    /// Check definitions without a cluster; exit code 2 if one is wrong
    Validate {
        /// JSON or YAML files, or - for standard input
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// List services
    List,
    /// Show one service: its definition, tasks and deployments
    Show {
        /// Id, such as /shop/cart
        id: String,
    },
    /// Change the number of instances
    Scale {
        /// Id, such as /shop/cart
        id: String,
        /// How many instances
        instances: u32,
        /// Override a deployment that is running
        #[arg(long)]
        force: bool,
        /// Waiting.
        #[command(flatten)]
        wait: Wait,
    },
    /// Replace all instances by fresh ones, as an upgrade would
    Restart {
        /// Id, such as /shop/cart
        id: String,
        /// Override a deployment that is running
        #[arg(long)]
        force: bool,
        /// Waiting.
        #[command(flatten)]
        wait: Wait,
    },
    /// List the definitions that are kept, newest first, or print one
    Versions {
        /// Id, such as /shop/cart
        id: String,
        /// Print the definition of this version
        #[arg(id = "definition", value_name = "VERSION")]
        version: Option<String>,
    },
    /// Go back to an older definition
    Rollback {
        /// Id, such as /shop/cart
        id: String,
        /// Version, as `waggle app versions` lists them
        #[arg(id = "definition", value_name = "VERSION")]
        version: String,
        /// Override a deployment that is running
        #[arg(long)]
        force: bool,
        /// Waiting.
        #[command(flatten)]
        wait: Wait,
    },
    /// Try a new definition on a part of the traffic: canary, or blue and green
    Canary(CanaryCommand),
    /// Remove a service and its tasks
    Remove {
        /// Id, such as /shop/cart
        id: String,
        /// Override a deployment that is running
        #[arg(long)]
        force: bool,
        /// Waiting.
        #[command(flatten)]
        wait: Wait,
    },
}
