//! An OTLP/gRPC endpoint in process: takes all three signals, stores a bounded amount, answers
//! questions, and can relay everything to another endpoint.

mod store;
mod tree;

use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::sync::{mpsc, oneshot};
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

pub use store::{Attributes, Log, Point, Span, Store};
pub use tree::{Node, forest, render};

/// Requests waiting to be relayed; more are dropped and counted.
const RELAY_QUEUE: usize = 1024;

/// How long what is queued may take to be relayed when the sink stops.
const RELAY_LAST: Duration = Duration::from_secs(5);

/// One request on its way to another endpoint.
#[derive(Debug)]
enum Relayed {
    Spans(ExportTraceServiceRequest),
    Points(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
    /// Nothing comes after it: answered when all before it is delivered.
    Last(oneshot::Sender<()>),
}

#[derive(Debug, Clone)]
struct Services {
    store: Arc<Mutex<Store>>,
    relay: Option<mpsc::Sender<Relayed>>,
}

impl Services {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forward(&self, request: Relayed) {
        if let Some(relay) = &self.relay
            && relay.try_send(request).is_err()
        {
            self.store().relay_dropped += 1;
        }
    }
}

#[tonic::async_trait]
impl TraceService for Services {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner();
        self.store().add_spans(&request);
        self.forward(Relayed::Spans(request));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Services {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let request = request.into_inner();
        self.store().add_points(&request);
        self.forward(Relayed::Points(request));
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Services {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let request = request.into_inner();
        self.store().add_logs(&request);
        self.forward(Relayed::Logs(request));
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

/// A running sink. Dropping it stops it.
#[derive(Debug)]
pub struct Sink {
    store: Arc<Mutex<Store>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Serves on `listener` (which may belong to another network namespace) from a thread of its
    /// own; relays to `relay`, an endpoint as seen from this process's namespace.
    pub fn start(listener: TcpListener, relay: Option<String>) -> anyhow::Result<Self> {
        listener
            .set_nonblocking(true)
            .context("make the sink's listener non-blocking")?;
        let store = Arc::new(Mutex::new(Store::default()));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime for the sink")?;
        let shared = Arc::clone(&store);
        let thread = std::thread::Builder::new()
            .name("otlp-sink".to_owned())
            .spawn(move || {
                if let Err(error) = runtime.block_on(serve(listener, shared, relay, stopped)) {
                    eprintln!("otlp sink: {error:#}");
                }
            })
            .context("start the sink's thread")?;
        Ok(Self {
            store,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Looks at what has arrived.
    pub fn with<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        look(&self.store.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets what has arrived, so that there is room for more.
    pub fn forget(&self) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = Store::default();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: TcpListener,
    store: Arc<Mutex<Store>>,
    relay: Option<String>,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let relay = match relay {
        None => None,
        Some(url) => {
            let (send, receive) = mpsc::channel(RELAY_QUEUE);
            tokio::spawn(relay_to(url, receive, Arc::clone(&store)));
            Some(send)
        }
    };
    let services = Services {
        store,
        relay: relay.clone(),
    };
    let listener = tokio::net::TcpListener::from_std(listener).context("adopt the listener")?;
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let gzip = CompressionEncoding::Gzip;
    // The signal ends the accept loop; connections that agents keep open end with the runtime.
    let serving = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(services.clone()).accept_compressed(gzip))
        .add_service(MetricsServiceServer::new(services.clone()).accept_compressed(gzip))
        .add_service(LogsServiceServer::new(services).accept_compressed(gzip))
        .serve_with_incoming(incoming);
    tokio::select! {
        result = serving => result.context("serve OTLP")?,
        _ = stopped => {}
    }
    if let Some(relay) = relay {
        let (last, delivered) = oneshot::channel();
        let all = async {
            if relay.send(Relayed::Last(last)).await.is_ok() {
                let _ = delivered.await;
            }
        };
        if tokio::time::timeout(RELAY_LAST, all).await.is_err() {
            eprintln!("otlp relay: the last requests were not delivered");
        }
    }
    Ok(())
}

async fn relay_to(url: String, mut requests: mpsc::Receiver<Relayed>, store: Arc<Mutex<Store>>) {
    let channel = match tonic::transport::Endpoint::from_shared(url.clone()) {
        Ok(endpoint) => endpoint.connect_lazy(),
        Err(error) => {
            eprintln!("otlp relay: {url} is not an endpoint: {error}");
            return;
        }
    };
    let mut spans = TraceServiceClient::new(channel.clone());
    let mut points = MetricsServiceClient::new(channel.clone());
    let mut logs = LogsServiceClient::new(channel);
    let mut warned = false;
    while let Some(request) = requests.recv().await {
        let result = match request {
            Relayed::Spans(request) => spans.export(request).await.map(|_| ()),
            Relayed::Points(request) => points.export(request).await.map(|_| ()),
            Relayed::Logs(request) => logs.export(request).await.map(|_| ()),
            Relayed::Last(delivered) => {
                let _ = delivered.send(());
                return;
            }
        };
        if let Err(status) = result {
            store
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .relay_dropped += 1;
            if !warned {
                eprintln!(
                    "otlp relay: {url}: {} (further failures are counted)",
                    status.message()
                );
                warned = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};

    use super::*;

    #[test]
    fn takes_and_relays() {
        let last = TcpListener::bind("127.0.0.1:0").unwrap();
        let last_url = format!("http://{}", last.local_addr().unwrap());
        let last = Sink::start(last, None).unwrap();
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let first_url = format!("http://{}", first.local_addr().unwrap());
        let first = Sink::start(first, Some(last_url)).unwrap();

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut client = LogsServiceClient::connect(first_url)
                .await
                .unwrap()
                .send_compressed(CompressionEncoding::Gzip);
            let record = LogRecord {
                severity_number: 9,
                ..LogRecord::default()
            };
            let scope = ScopeLogs {
                log_records: vec![record],
                ..ScopeLogs::default()
            };
            let resource = ResourceLogs {
                scope_logs: vec![scope],
                ..ResourceLogs::default()
            };
            client
                .export(ExportLogsServiceRequest {
                    resource_logs: vec![resource],
                })
                .await
                .unwrap();
        });
        assert_eq!(first.with(|s| s.logs.len()), 1);
        // Stopping delivers what was taken.
        drop(first);
        assert_eq!(last.with(|s| s.logs.len()), 1);
    }
}
