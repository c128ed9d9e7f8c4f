//! `waggle role`, `waggle quota`, `waggle weight`.

use clap::{Args, Subcommand};

use super::Output;

/// `waggle role ...`.
#[derive(Debug, Args)]
pub struct RoleCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: RoleSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with roles.
#[derive(Debug, Subcommand)]
pub enum RoleSub {
    /// List roles that have frameworks, a weight, a quota or reservations
    List,
    /// Show one role: weight, share, quota, frameworks, reservations
    Show {
        /// Path, such as eng/batch
        role: String,
    },
}

/// `waggle quota ...`.
#[derive(Debug, Args)]
pub struct QuotaCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: QuotaSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with quotas.
#[derive(Debug, Subcommand)]
pub enum QuotaSub {
    /// List quotas and how far they are used
    List,
    /// Set a role's quota in place of the one that it has
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["guarantee", "limit"]))]
    Set {
        /// Path, such as eng/batch
        role: String,
        /// Held back for the role: quantities by kind such as cpus=4,mem=8192, memory and disk in MiB
        #[arg(long, value_name = "KIND=N,..")]
        guarantee: Option<String>,
        /// Never exceeded by the role, such as cpus=8; kinds that are not named have no limit
        #[arg(long, value_name = "KIND=N,..")]
        limit: Option<String>,
        /// Even if all guarantees are then more than the cluster has
        #[arg(long)]
        force: bool,
    },
    /// Remove a role's quota: it is promised nothing and limited by nothing
    Remove {
        /// Path, such as eng/batch
        role: String,
    },
}

/// `waggle weight ...`.
#[derive(Debug, Args)]
pub struct WeightCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: WeightSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with weights.
#[derive(Debug, Subcommand)]
pub enum WeightSub {
    /// List the weights that are set; all others are 1
    List,
    /// Set a role's weight among its siblings: with 2 it gets twice the share of one with 1
    Set {
        /// Path, such as eng/batch
        role: String,
        /// Over 0, in steps of 0.001
        #[arg(allow_negative_numbers = true)]
        weight: String,
    },
    /// Remove a role's weight: it is 1 again
    Remove {
        /// Path, such as eng/batch
        role: String,
    },
}
