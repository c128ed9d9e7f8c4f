//! `waggle app canary`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `waggle app canary ...`.
#[derive(Debug, Args)]
pub struct CanaryCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: CanarySub,
}

/// What to do with a new definition beside the one in force.
#[derive(Debug, Subcommand)]
pub enum CanarySub {
    /// Run a new definition beside the one in force, with a part of the new connections to its VIPs
    Start {
        /// Id, such as /shop/cart; the canary is /shop/cart-canary
        id: String,
        /// JSON file with the new definition, or - for standard input
        file: PathBuf,
        /// Part of new connections that it gets
        #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
        weight: u8,
        /// How many instances of it
        #[arg(long, default_value_t = 1)]
        instances: u32,
        /// Give up waiting for it after this long
        #[arg(long, default_value = "300s", value_name = "DURATION")]
        timeout: String,
    },
    /// Change the part of new connections that the canary gets; 100 is all of them (blue and green)
    Weight {
        /// Id, such as /shop/cart
        id: String,
        /// Part of new connections
        #[arg(value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
        weight: u8,
    },
    /// Show both definitions' instances and weights
    Show {
        /// Id, such as /shop/cart
        id: String,
    },
    /// Roll the canary's definition out to all instances, then remove it
    Promote {
        /// Id, such as /shop/cart
        id: String,
        /// Give up waiting for each of both steps after this long
        #[arg(long, default_value = "300s", value_name = "DURATION")]
        timeout: String,
    },
    /// Give all new connections back to the definition in force, then remove the canary
    Abort {
        /// Id, such as /shop/cart
        id: String,
        /// Give up waiting for each of both steps after this long
        #[arg(long, default_value = "300s", value_name = "DURATION")]
        timeout: String,
    },
}
