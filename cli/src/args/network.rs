//! `waggle network ...`

use clap::{Args, Subcommand};

use super::Output;

/// `waggle network ...`.
#[derive(Debug, Args)]
pub struct NetworkCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: NetworkSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum NetworkSub {
    /// Networks, with what is used of their addresses
    List {
        /// What each node has of them
        #[arg(long)]
        nodes: bool,
    },
    /// Make a network that tasks can be on; every node gets its part at once
    Add {
        /// At most 13 letters, digits, -, _ or .
        name: String,
        /// IPv4 addresses, such as 10.9.0.0/16
        #[arg(long, value_name = "NET")]
        subnet: Option<String>,
        /// Length of each node's part [default: 24]
        #[arg(long, value_name = "BITS")]
        prefix: Option<u8>,
        /// IPv6 addresses, such as fd01:9::/64
        #[arg(long, value_name = "NET")]
        subnet6: Option<String>,
        /// Length of each node's part [default: 80]
        #[arg(long, value_name = "BITS")]
        prefix6: Option<u8>,
        /// MTU inside of containers [default: what the node's own network carries, less 50]
        #[arg(long, value_name = "BYTES")]
        mtu: Option<u16>,
        /// Containers keep their own address outside: something there must know the way back
        #[arg(long)]
        no_masquerade: bool,
    },
    /// Whether every node reaches every other one by the tunnel, also with long packets, and what nodes have dropped; exit code 1 if
    /// something is wrong
    Doctor,
    /// Remove a network that no service and no task is on
    Remove {
        /// Its name
        name: String,
    },
}
