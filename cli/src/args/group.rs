//! `waggle group`, `waggle deployment`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;

/// `waggle group ...`.
#[derive(Debug, Args)]
pub struct GroupCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: GroupSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// Whether and how long to wait for a deployment.
#[derive(Debug, Args, Clone)]
pub struct Wait {
    /// Return when the deployment is over instead of at once, and say how it gets on meanwhile
    #[arg(long)]
    pub wait: bool,
    /// Give up waiting after this long
    #[arg(long, default_value = "300s", value_name = "DURATION")]
    pub timeout: String,
}

/// What to do with groups.
#[derive(Debug, Subcommand)]
pub enum GroupSub {
    /// Add a group of services from a definition
    Add {
        /// JSON or YAML file, or - for standard input
        file: PathBuf,
        /// Whether to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Change a group, or add it: all of its services at once, or none
    Update {
        /// Id, such as /shop; / is the root
        id: String,
        /// JSON or YAML file, or - for standard input
        file: PathBuf,
        /// Only print the steps that would be taken
        #[arg(long)]
        dry_run: bool,
        /// Override deployments that are running
        #[arg(long)]
        force: bool,
        /// Whether to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// List groups with their services
    List,
    /// Show one group: what it holds and depends on
    Show {
        /// Id, such as /shop; / is the root
        id: String,
    },
    /// Multiply the instances of all services of a group
    Scale {
        /// Id, such as /shop
        id: String,
        /// The factor, such as 1.5; numbers of instances are rounded up
        factor: f64,
        /// Override deployments that are running
        #[arg(long)]
        force: bool,
    },
    /// List the versions that are kept, newest first, or print one
    Versions {
        /// Id, such as /shop; / is the root
        id: String,
        /// Print the group as it was at this version
        #[arg(id = "definition", value_name = "VERSION")]
        version: Option<String>,
    },
    /// Go back to an older version of a group
    Rollback {
        /// Id, such as /shop; / is the root
        id: String,
        /// Version, as `waggle group versions` lists them
        #[arg(id = "definition", value_name = "VERSION")]
        version: String,
        /// Override deployments that are running
        #[arg(long)]
        force: bool,
    },
    /// Remove a group with all of its services
    Remove {
        /// Id, such as /shop
        id: String,
        /// Override deployments that are running
        #[arg(long)]
        force: bool,
    },
}

/// `waggle deployment ...`.
#[derive(Debug, Args)]
pub struct DeploymentCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: DeploymentSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with deployments.
#[derive(Debug, Subcommand)]
pub enum DeploymentSub {
    /// List deployments that are running, with what they wait for
    List,
    /// Show one deployment step by step
    Show {
        /// Its id
        id: String,
    },
    /// Put everything back as it was before a deployment
    Rollback {
        /// Its id
        id: String,
    },
    /// End a deployment and leave its services as they are, free for other changes
    Cancel {
        /// Its id
        id: String,
    },
    /// Wait until a deployment is over
    Watch {
        /// Its id
        id: String,
        /// Give up waiting after this long
        #[arg(long, default_value = "300s", value_name = "DURATION")]
        timeout: String,
    },
}
