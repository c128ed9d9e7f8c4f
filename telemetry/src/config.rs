//! What a process tells its telemetry at start.

use std::time::Duration;

use waggle_telemetry_pipeline::Limits;

/// How telemetry is set up.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// `service.name` of this process: `waggle-agent`.
    pub component: String,
    /// Node name, `service.instance.id` and `host.name` of this process.
    pub node: String,
    /// Cluster name.
    pub cluster: String,
    /// OTLP/gRPC endpoint, `http://host:4317`; `None` exports nothing.
    pub otlp: Option<String>,
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
}

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
            otlp: None,
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
        }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The endpoint is not `http://host:port`.
    #[error("otlp endpoint {url:?} must be of the form http://host:port")]
    BadEndpoint {
        /// As configured.
        url: String,
        /// What the transport says of it, if it got that far.
        #[source]
        source: Option<tonic::transport::Error>,
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
