//! `waggle app`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{CanaryCommand, Output};

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
        /// JSON file, or - for standard input
        file: PathBuf,
        /// Return when the deployment is over instead of at once
        #[arg(long)]
        wait: bool,
        /// Give up waiting after this long
        #[arg(long, default_value = "300s", value_name = "DURATION")]
        timeout: String,
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
    },
    /// Replace all instances by fresh ones, as an upgrade would
    Restart {
        /// Id, such as /shop/cart
        id: String,
        /// Override a deployment that is running
        #[arg(long)]
        force: bool,
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
    },
}
