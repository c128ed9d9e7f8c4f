//! `waggle flows`.

use clap::{Args, ValueEnum};

use super::Output;

/// `waggle flows`.
#[derive(Debug, Args)]
pub struct FlowsCommand {
    /// Go on as connections end, until Ctrl-C
    #[arg(long, short)]
    pub follow: bool,
    /// Only of this service, at either end: an app's or pod's path such as /shop/cart, or a name such as cart.shop.marathon
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only through this VIP: its name, whole or the first labels of it
    #[arg(long, value_name = "NAME")]
    pub vip: Option<String>,
    /// Only those that ended so; several with commas
    #[arg(long, value_name = "VERDICT", value_enum, value_delimiter = ',')]
    pub verdict: Vec<Verdict>,
    /// Only of this task
    #[arg(long, value_name = "ID")]
    pub task: Option<String>,
    /// Only of this node
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Only those that ended within this time, such as 10m
    #[arg(long, value_name = "DURATION")]
    pub since: Option<String>,
    /// Only those that ended before this time, such as 5m
    #[arg(long, value_name = "DURATION")]
    pub until: Option<String>,
    /// The newest so many, before those that are followed
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Connections between tasks as both ends saw them, not as their source alone
    #[arg(long)]
    pub both: bool,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verdict {
    /// By one of both ends, as it should
    Closed,
    /// The peer reset it
    Reset,
    /// The peer refused it
    Refused,
    /// No answer, no way, or given up while it opened
    Failed,
    /// The VIP had no backend
    #[value(name = "no_backend")]
    NoBackend,
    /// A network policy dropped it
    Denied,
    /// It passed, and a network policy in audit mode would drop it
    Audited,
}

impl Verdict {
    /// As flows say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::NoBackend => "no_backend",
            Self::Denied => "denied",
            Self::Audited => "audited",
        }
    }
}
