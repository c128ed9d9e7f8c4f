//! What a process tells its telemetry at start.

use std::{io, path::PathBuf, time::Duration};

use waggle_telemetry_pipeline::{Cost, Limits};

use crate::Destination;

/// How telemetry is set up.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// `service.name` of this process: `waggle-agent`.
    pub component: String,
    /// Node name, `service.instance.id` and `host.name` of this process.
    pub node: String,
    /// Cluster name.
    pub cluster: String,
    /// OTLP endpoints; each gets everything. Without any nothing is exported.
    pub otlp: Vec<Destination>,
    /// Which of the process's own events are logged, in the syntax of `RUST_LOG`.
    pub filter: String,
    /// Own events on stderr as JSON lines instead of text.
    pub json_logs: bool,
    /// Whether to install the process-wide tracing subscriber (stderr and OTLP bridge). Off in tests
    /// and where several pipelines share a process.
    pub install_subscriber: bool,
    /// Bounds of the log queue.
    pub log_queue: Limits,
    /// Bounds of the span queue.
    pub span_queue: Limits,
    /// Bounds of the queue of metric points.
    pub metric_queue: Limits,
    /// Most metric series held.
    pub max_series: usize,
    /// Most items in one export request.
    pub batch_items: usize,
    /// Most bytes (estimated) in one export request; receivers commonly refuse more than 4 MiB.
    pub batch_bytes: usize,
    /// How long items wait for company before they are sent.
    pub batch_delay: Duration,
    /// How often counters and histograms recorded in this process are exported.
    pub metric_interval: Duration,
    /// Longest time that one export request may take.
    pub export_timeout: Duration,
    /// What telemetry may cost before features are left off.
    pub budget: Cost,
    /// Where what is exported waits on disk; `None`: in memory alone.
    pub spool: Option<SpoolConfig>,
}

/// Where and how much waits on disk.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// A directory of its own; made where it is missing.
    pub dir: PathBuf,
    /// Most bytes of all endpoints, half of them for logs, a quarter each for spans and metrics; the oldest go first.
    pub max_bytes: u64,
    /// How long anything waits.
    pub max_age: Duration,
    /// Most bytes a second and signal of what has waited, so that an endpoint that is back is not overrun.
    pub replay_bytes_s: u64,
}

impl SpoolConfig {
    /// Defaults: 256 MiB, a day, 8 MiB/s.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            max_bytes: 256 << 20,
            max_age: Duration::from_hours(24),
            replay_bytes_s: 8 << 20,
        }
    }
}

/// What telemetry may cost, unless the configuration says otherwise.
pub const BUDGET: Cost = Cost {
    cpus: 1.0,
    memory: 128 << 20,
};

impl TelemetryConfig {
    /// Defaults: no endpoint, `info`, text on stderr, queues of 16 Ki logs (32 MiB), 16 Ki spans
    /// (16 MiB) and 64 Ki points (16 MiB).
    pub fn new(
        component: impl Into<String>,
        node: impl Into<String>,
        cluster: impl Into<String>,
    ) -> Self {
        let limits = |max_items, mib: usize| Limits {
            max_items,
            max_bytes: mib << 20,
        };
        Self {
            component: component.into(),
            node: node.into(),
            cluster: cluster.into(),
            otlp: Vec::new(),
            filter: "info".to_owned(),
            json_logs: false,
            install_subscriber: true,
            log_queue: limits(16 << 10, 32),
            span_queue: limits(16 << 10, 16),
            metric_queue: limits(64 << 10, 16),
            max_series: 50_000,
            batch_items: 1024,
            batch_bytes: 2 << 20,
            batch_delay: Duration::from_millis(200),
            metric_interval: Duration::from_secs(5),
            export_timeout: Duration::from_secs(5),
            budget: BUDGET,
            spool: None,
        }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The endpoint is not `http://host:port` or `https://host:port`.
    #[error("otlp endpoint {url:?} must be of the form http://host:port or https://host:port")]
    BadEndpoint {
        /// As configured.
        url: String,
        /// What the transport says of it, if it got that far.
        #[source]
        source: Option<tonic::transport::Error>,
    },
    /// A header for an endpoint is none.
    #[error("otlp header {name:?} must be a name and a value of visible characters")]
    BadHeader {
        /// Its name; values may be secret.
        name: String,
    },
    /// A file of certificates or keys can't be read.
    #[error("otlp: failed to read {path}")]
    BadFile {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that must hold certificates has none.
    #[error("otlp: {path} must hold a certificate in PEM")]
    NoCertificate {
        /// Which.
        path: PathBuf,
    },
    /// A file that must hold a key has none.
    #[error("otlp: {path} must hold a private key in PEM")]
    NoKey {
        /// Which.
        path: PathBuf,
    },
    /// Certificate and key do not go together, or are of a kind that is not known.
    #[error("otlp endpoint {url:?}: certificates can't be used")]
    BadTls {
        /// As configured.
        url: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The spool's directory can't be used.
    #[error("telemetry spool {dir}")]
    BadSpool {
        /// As configured.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log filter does not parse.
    #[error("log filter {filter:?} is not valid")]
    BadFilter {
        /// As configured.
        filter: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Exporters need a tokio runtime.
    #[error("telemetry must be started inside of a tokio runtime")]
    NoRuntime(#[source] tokio::runtime::TryCurrentError),
    /// Another subscriber is installed.
    #[error("a tracing subscriber is already installed in this process")]
    SubscriberInstalled(#[source] tracing_subscriber::util::TryInitError),
}
