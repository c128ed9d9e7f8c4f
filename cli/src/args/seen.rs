//! `waggle map`, `waggle top`, `waggle drops` and `waggle trace`.

use clap::{Args, ValueEnum};

use super::Output;

/// `waggle map`.
#[derive(Debug, Args)]
pub struct MapCommand {
    /// Only edges of this service, at either end: an app's or pod's path such as /shop/cart, or a name such as cart.shop.marathon
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Count connections that ended within this time, such as 10m
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    pub since: String,
    /// The busiest so many edges; the others are one sum
    #[arg(long, short = 'n', value_name = "N", default_value_t = 200)]
    pub limit: usize,
    /// Print a graph for Graphviz: `waggle map --dot | dot -Tsvg`
    #[arg(long, conflicts_with = "json")]
    pub dot: bool,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// `waggle top`.
#[derive(Debug, Args)]
pub struct TopCommand {
    /// What comes first; while it is shown, keys c m a e l n choose, too
    #[arg(long, value_name = "COLUMN", value_enum, default_value_t = SortBy::Cpu)]
    pub sort: SortBy,
    /// The first so many services; as many as the terminal has lines for without it
    #[arg(long, short = 'n', value_name = "N")]
    pub limit: Option<usize>,
    /// How often it is asked for
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub interval: String,
    /// Print it once and end, which is so where the output is no terminal
    #[arg(long)]
    pub once: bool,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// By what services are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    /// CPUs used
    Cpu,
    /// Memory used
    Memory,
    /// Connections accepted and made per second
    Accepts,
    /// Connections that could not be made per second
    Errors,
    /// Half of the connects took longer
    Latency,
    /// Name
    Name,
}

/// `waggle drops`.
#[derive(Debug, Args)]
pub struct DropsCommand {
    /// An app's or pod's path such as /shop/cart, or a name such as cart.shop.marathon
    pub service: String,
    /// Count connections that ended within this time, such as 10m
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub since: String,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}

/// `waggle trace`.
#[derive(Debug, Args)]
pub struct TraceCommand {
    /// A deployment's id, a task's id, or the beginning of a task's id that only one has
    #[arg(value_name = "DEPLOYMENT|TASK")]
    pub what: String,
    /// Where and how.
    #[command(flatten)]
    pub output: Output,
}
