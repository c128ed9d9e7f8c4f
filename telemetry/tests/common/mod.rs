//! An OTLP endpoint inside of the test, that can go away, refuse and reject in part.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::{Metric, metric::Data, number_data_point},
    trace::v1::Span,
};
use tokio::{runtime::Runtime, time::Instant};
use tonic::{Code, Request, Response, Status, codec::CompressionEncoding};
use waggle_telemetry::{TaskLabels, Telemetry, TelemetryConfig};
use waggle_types::{AgentId, FrameworkId, TaskId};

/// Resource attributes as text.
pub type Resource = BTreeMap<String, String>;

/// What arrived, and how to behave.
#[derive(Default)]
pub struct State {
    pub logs: Vec<(Resource, LogRecord)>,
    pub spans: Vec<(Resource, Span)>,
    pub metrics: Vec<(Resource, Metric)>,
    pub log_requests: u64,
    /// Reject this many records of each log request.
    pub reject: i64,
    /// Answer every request with this.
    pub refuse: Option<Code>,
    /// Refuse log requests with more records than this.
    pub max_records: Option<usize>,
}

pub type Shared = Arc<Mutex<State>>;

/// A running endpoint. Dropping it is like killing the process: connections break.
pub struct Sink {
    runtime: Option<Runtime>,
    pub addr: SocketAddr,
}

impl Sink {
    pub fn start(state: &Shared) -> Self {
        Self::start_at(state, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    pub fn start_at(state: &Shared, addr: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(addr).unwrap();
        let listener = {
            let _context = runtime.enter();
            let std = into_listening(socket);
            tokio::net::TcpListener::from_std(std).unwrap()
        };
        let addr = listener.local_addr().unwrap();
        let endpoint = Endpoint(Arc::clone(state));
        let gzip = CompressionEncoding::Gzip;
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(LogsServiceServer::new(endpoint.clone()).accept_compressed(gzip))
                .add_service(TraceServiceServer::new(endpoint.clone()).accept_compressed(gzip))
                .add_service(MetricsServiceServer::new(endpoint).accept_compressed(gzip))
                .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
        );
        Self {
            runtime: Some(runtime),
            addr,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

fn into_listening(socket: tokio::net::TcpSocket) -> std::net::TcpListener {
    socket.listen(64).unwrap().into_std().unwrap()
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone)]
pub struct Endpoint(Shared);

impl Endpoint {
    pub fn of(state: &Shared) -> Self {
        Self(Arc::clone(state))
    }

    fn refusal(&self) -> Result<(), Status> {
        match self.0.lock().unwrap().refuse {
            Some(code) => Err(Status::new(code, "told to")),
            None => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl LogsService for Endpoint {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.refusal()?;
        let mut state = self.0.lock().unwrap();
        let groups = request.into_inner().resource_logs;
        let n: usize = groups
            .iter()
            .flat_map(|g| &g.scope_logs)
            .map(|s| s.log_records.len())
            .sum();
        if state.max_records.is_some_and(|max| n > max) {
            return Err(Status::new(Code::ResourceExhausted, "too much at once"));
        }
        state.log_requests += 1;
        let mut skip = usize::try_from(state.reject).unwrap();
        for group in groups {
            let resource = attrs(&group.resource.unwrap().attributes);
            assert!(group.schema_url.ends_with("/1.44.0"));
            for record in group.scope_logs.into_iter().flat_map(|s| s.log_records) {
                if skip > 0 {
                    skip -= 1;
                } else {
                    state.logs.push((resource.clone(), record));
                }
            }
        }
        let partial_success = (state.reject > 0).then(|| ExportLogsPartialSuccess {
            rejected_log_records: state.reject,
            error_message: "told to".to_owned(),
        });
        Ok(Response::new(ExportLogsServiceResponse { partial_success }))
    }
}

#[tonic::async_trait]
impl TraceService for Endpoint {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.refusal()?;
        let mut state = self.0.lock().unwrap();
        for group in request.into_inner().resource_spans {
            let resource = attrs(&group.resource.unwrap().attributes);
            for span in group.scope_spans.into_iter().flat_map(|s| s.spans) {
                state.spans.push((resource.clone(), span));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Endpoint {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.refusal()?;
        let mut state = self.0.lock().unwrap();
        for group in request.into_inner().resource_metrics {
            let resource = attrs(&group.resource.unwrap().attributes);
            for metric in group.scope_metrics.into_iter().flat_map(|s| s.metrics) {
                state.metrics.push((resource.clone(), metric));
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

pub fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|v| v.value.as_ref()) {
        Some(Value::StringValue(s)) => s.clone(),
        Some(Value::IntValue(i)) => i.to_string(),
        Some(Value::BoolValue(b)) => b.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

pub fn attrs(list: &[KeyValue]) -> Resource {
    list.iter()
        .map(|kv| (kv.key.clone(), text(kv.value.as_ref())))
        .collect()
}

/// Number points of a metric: attributes and value.
pub fn numbers(metric: &Metric) -> Vec<(Resource, f64)> {
    let points = match metric.data.as_ref().unwrap() {
        Data::Sum(s) => &s.data_points,
        Data::Gauge(g) => &g.data_points,
        _ => return Vec::new(),
    };
    points
        .iter()
        .map(|p| {
            let v = match p.value.unwrap() {
                number_data_point::Value::AsDouble(d) => d,
                #[allow(clippy::cast_precision_loss, reason = "small test figures")]
                number_data_point::Value::AsInt(i) => i as f64,
            };
            (attrs(&p.attributes), v)
        })
        .collect()
}

/// Keys of all attributes on a metric's points.
pub fn point_keys(metric: &Metric) -> Vec<String> {
    let lists: Vec<&Vec<KeyValue>> = match metric.data.as_ref().unwrap() {
        Data::Sum(s) => s.data_points.iter().map(|p| &p.attributes).collect(),
        Data::Gauge(g) => g.data_points.iter().map(|p| &p.attributes).collect(),
        Data::Histogram(h) => h.data_points.iter().map(|p| &p.attributes).collect(),
        _ => Vec::new(),
    };
    lists
        .into_iter()
        .flatten()
        .map(|kv| kv.key.clone())
        .collect()
}

/// Waits for a condition, for at most ten seconds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn config(otlp: Option<String>) -> TelemetryConfig {
    let mut config = TelemetryConfig::new("waggle-agent", "n1", "test");
    config.otlp = otlp
        .map(waggle_telemetry::Destination::new)
        .into_iter()
        .collect();
    config.install_subscriber = false;
    config.batch_delay = Duration::from_millis(5);
    config.metric_interval = Duration::from_millis(50);
    config.export_timeout = Duration::from_secs(2);
    config
}

pub fn labels(task: &str) -> Arc<TaskLabels> {
    Arc::new(TaskLabels {
        cluster: "test".into(),
        framework_id: FrameworkId::new("f-1").unwrap(),
        framework: "marathon".into(),
        role: "*".into(),
        agent_id: AgentId::new("a-1").unwrap(),
        hostname: "n1".into(),
        task_id: TaskId::new(task).unwrap(),
        task_name: "web".into(),
        service: "/web".into(),
        service_version: "v1".into(),
        cgroup_path: format!("/waggle/tasks/{task}"),
        cgroup_id: 4711,
        pid: 42,
        pid_start_ns: 1_795_407_292_000_000_000,
    })
}

/// A pipeline to a fresh sink.
pub fn running() -> (Telemetry, waggle_telemetry::Guard, Sink, Shared) {
    let state = Shared::default();
    let sink = Sink::start(&state);
    let (telemetry, guard) = Telemetry::start(&config(Some(sink.url()))).unwrap();
    (telemetry, guard, sink, state)
}
