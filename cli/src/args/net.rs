//! `waggle vip`, `waggle dns`.

use clap::{Args, Subcommand, ValueEnum};

use super::Output;

/// `waggle vip ...`.
#[derive(Debug, Args)]
pub struct VipCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: VipSub,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// What to do with VIPs.
#[derive(Debug, Subcommand)]
pub enum VipSub {
    /// List VIPs with their backends, and why a backend gets no connections
    List,
}

/// `waggle dns ...`.
#[derive(Debug, Args)]
pub struct DnsCommand {
    /// What to do.
    #[command(subcommand)]
    pub command: DnsSub,
}

/// What to ask of DNS.
#[derive(Debug, Subcommand)]
pub enum DnsSub {
    /// Ask for a name
    Query {
        /// The name, such as web.marathon.l4lb.thisdcos.directory
        name: String,
        /// Record type
        #[arg(long = "type", short = 't', default_value = "a", ignore_case = true)]
        record_type: RecordType,
        /// Resolver to ask, IP[:PORT]
        #[arg(long, default_value = "198.51.100.1", value_name = "IP[:PORT]")]
        server: String,
        /// Print JSON for programs
        #[arg(long)]
        json: bool,
    },
}

/// Record types that Waggle answers.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RecordType {
    /// IPv4 address
    A,
    /// IPv6 address
    Aaaa,
    /// Service: target and port
    Srv,
    /// Start of authority
    Soa,
    /// Name servers
    Ns,
    /// Text
    Txt,
    /// Name of an address
    Ptr,
}
