//! `waggle framework`, `waggle offer`.

use clap::{Args, Subcommand};

use super::Output;

/// `waggle framework ...`.
#[derive(Debug, Args)]
pub struct FrameworkCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: FrameworkSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with frameworks.
#[derive(Debug, Subcommand)]
pub enum FrameworkSub {
    /// List frameworks with what they use and are offered
    List,
    /// Show one framework: its roles, what it can handle, what it uses
    Show {
        /// Name or id
        framework: String,
    },
    /// End a framework: its tasks are killed and its id is not taken again
    Teardown {
        /// Name or id
        framework: String,
    },
}

/// `waggle offer ...`.
#[derive(Debug, Args)]
pub struct OfferCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: OfferSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with offers.
#[derive(Debug, Subcommand)]
pub enum OfferSub {
    /// List offers that are out, with what of them is reserved or lent
    List,
}
