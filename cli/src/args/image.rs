//! `waggle image`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `waggle image ...`.
#[derive(Debug, Args)]
pub struct ImageCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: ImageSub,
    /// The node's agent API
    #[arg(
        long,
        env = "WAGGLE_AGENT",
        default_value = "http://127.0.0.1:5051",
        value_name = "URL",
        global = true
    )]
    pub agent: String,
    /// Print JSON for programs instead of a table
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do with a node's images.
#[derive(Debug, Subcommand)]
pub enum ImageSub {
    /// Get an image from its registry, so that tasks start at once
    Pull {
        /// As docker writes it: nginx, registry:5000/team/app:1.2, app@sha256:...
        reference: String,
        /// Ask the registry only if the node has no image of this name
        #[arg(long)]
        cached: bool,
        /// Name of the passwords among those that the node was given
        #[arg(long, value_name = "NAME")]
        credentials: Option<String>,
    },
    /// List the images of the node, with their size and tasks
    List,
    /// Take images from a file of the node: an OCI layout (directory or tar), or what docker save wrote
    Load {
        /// The file or directory
        path: PathBuf,
        /// Name of the image, if there is one and it should have another name than the file says
        #[arg(long, value_name = "REFERENCE")]
        name: Option<String>,
    },
    /// Remove images without tasks that are too old, and the longest unused until the rest fits
    Prune {
        /// Remove all without tasks
        #[arg(long, conflicts_with = "max_size")]
        all: bool,
        /// How much may stay, such as 5GiB [default: the node's bound]
        #[arg(long, value_name = "SIZE")]
        max_size: Option<String>,
    },
}
