//! `waggle node`.

use clap::{Args, Subcommand};

use super::{Output, RunArgs};

/// `waggle node [list | drain | .. | flags]`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct NodeCommand {
    /// Without a subcommand the node itself runs.
    #[command(subcommand)]
    pub command: Option<NodeSub>,
    /// Flags of the node.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `waggle node ...`.
#[derive(Debug, Subcommand)]
pub enum NodeSub {
    /// List the cluster's nodes
    List(Output),
    /// Show how a node does, and where its telemetry goes
    Status(OneNode),
    /// Offer nothing of a node any more and end what runs there
    Drain {
        /// Name or agent id
        node: String,
        /// Longest time that tasks get to end, where it is shorter than their own, such as 30s or 5m
        #[arg(long, value_name = "DURATION")]
        max_grace: Option<String>,
        /// Remove the node for good once nothing runs there
        #[arg(long)]
        mark_gone: bool,
        /// Where and how.
        #[command(flatten)]
        output: Output,
    },
    /// Offer nothing of a node any more; what runs there goes on
    Deactivate(OneNode),
    /// Let a node that was deactivated or drained take tasks again
    Activate(OneNode),
    /// Remove a node that will never come back, with all that ran on it
    Gone(OneNode),
}

/// One node of the cluster.
#[derive(Debug, Args)]
pub struct OneNode {
    /// Name or agent id
    pub node: String,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}
