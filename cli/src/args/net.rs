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
        /// Record type [default: a; ptr for an address]
        #[arg(value_name = "TYPE", ignore_case = true)]
        record_type: Option<RecordType>,
        /// The same
        #[arg(
            long = "type",
            short = 't',
            value_name = "TYPE",
            ignore_case = true,
            conflicts_with = "record_type"
        )]
        type_flag: Option<RecordType>,
        /// Resolver to ask, IP[:PORT]
        #[arg(long, default_value = "198.51.100.1", value_name = "IP[:PORT]")]
        server: String,
        /// Print JSON for programs
        #[arg(long)]
        json: bool,
    },
    /// List what a node's resolver holds: all of it, or what is at and below a name
    Zone {
        /// The name, such as marathon.mesos
        name: Option<String>,
        /// Where and how
        #[command(flatten)]
        api: DnsApi,
    },
    /// Say how a node's resolver answers, and why: zone, alias, upstreams, which tasks are left out
    Trace {
        /// The name
        name: String,
        /// Record type [default: a; ptr for an address]
        #[arg(value_name = "TYPE", ignore_case = true)]
        record_type: Option<RecordType>,
        /// Where and how
        #[command(flatten)]
        api: DnsApi,
    },
}

/// The node that is asked, and how to print.
#[derive(Debug, Args)]
pub struct DnsApi {
    /// The node's API about names
    #[arg(
        long,
        env = "WAGGLE_DNS_API",
        default_value = "http://127.0.0.1:62080",
        value_name = "URL"
    )]
    pub api: String,
    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
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

impl RecordType {
    /// As DNS writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
            Self::Soa => "SOA",
            Self::Ns => "NS",
            Self::Txt => "TXT",
            Self::Ptr => "PTR",
        }
    }
}
