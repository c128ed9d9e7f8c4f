//! `waggle pod`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Output, Wait};

/// `waggle pod ...`.
#[derive(Debug, Args)]
pub struct PodCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: PodSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with pods.
#[derive(Debug, Subcommand)]
pub enum PodSub {
    /// Add a pod from a Marathon pod definition
    Add {
        /// JSON or YAML file, or - for standard input
        file: PathBuf,
        /// Waiting.
        #[command(flatten)]
        wait: Wait,
    },
    /// Make a pod what a definition says; what is not in it has its default
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
    /// Check definitions without a cluster; exit code 2 if one is wrong
    Validate {
        /// JSON or YAML files, or - for standard input
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// List pods
    List,
    /// Print the definition of a pod
    Show {
        /// Id, such as /shop/cart
        id: String,
    },
    /// Show the instances of a pod and their containers, and those that ended last
    Status {
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
    /// End instances; others take their place
    Kill {
        /// Id, such as /shop/cart
        id: String,
        /// Instances, as `waggle pod status` lists them
        #[arg(required = true)]
        instances: Vec<String>,
        /// Give back what they reserved and destroy their volumes; others begin with empty ones
        #[arg(long)]
        wipe: bool,
    },
    /// List the definitions that are kept, newest first, or print one
    #[command(visible_alias = "version")]
    Versions {
        /// Id, such as /shop/cart
        id: String,
        /// Print the definition of this version
        #[arg(id = "definition", value_name = "VERSION")]
        version: Option<String>,
    },
    /// Remove a pod and its instances
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
