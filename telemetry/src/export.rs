//! The exporters: one task per signal, from its queue to the endpoint.
//!
//! A batch in hand is retried until the endpoint takes it; meanwhile its queue drops its oldest items
//! when full. What a retry cannot mend is dropped at once, under its reason.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
    metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
    trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
};
use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    codec::CompressionEncoding,
    transport::{Channel, Endpoint},
};
use waggle_telemetry_pipeline::{AttrValue, Batch, DropReason, HostFacts, names};

use crate::{
    TelemetryConfig, TelemetryError, otlp,
    pipe::{Lane, LogItem, MetricItem, Pipe, Signal, SpanItem},
};

/// Shortest and longest wait between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Attempts on a batch that fails in a way that may or may not be the connection's fault.
const DOUBTFUL_ATTEMPTS: u32 = 5;

/// A lazy channel: connects when first used, reconnects by itself.
pub(crate) fn channel(url: &str) -> Result<Channel, TelemetryError> {
    let bad = |source| TelemetryError::BadEndpoint {
        url: url.to_owned(),
        source,
    };
    // Without a scheme, or with https, every export would fail later and silently.
    if !url.starts_with("http://") {
        return Err(bad(None));
    }
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|e| bad(Some(e)))?;
    Ok(endpoint
        .connect_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(false)
        .connect_lazy())
}

/// One signal's way to the endpoint.
trait Export: Send + 'static {
    type Item: Send + Sync + 'static;
    type Request: Clone + Send + 'static;
    const SIGNAL: Signal;

    fn lane(pipe: &Pipe) -> &Lane<Self::Item>;
    fn request(batch: &Batch<Self::Item>, host: &HostFacts) -> Self::Request;
    /// Answers with the number of rejected items and the endpoint's words.
    fn send(
        &mut self,
        request: Self::Request,
    ) -> impl Future<Output = Result<(i64, String), Status>> + Send;
}

macro_rules! export {
    ($item:ident, $signal:ident, $lane:ident, $client:ident, $request:ident, $rejected:ident) => {
        impl Export for $client<Channel> {
            type Item = $item;
            type Request = $request;
            const SIGNAL: Signal = Signal::$signal;

            fn lane(pipe: &Pipe) -> &Lane<$item> {
                &pipe.$lane
            }

            fn request(batch: &Batch<$item>, host: &HostFacts) -> $request {
                otlp::$lane(batch.items(), host)
            }

            async fn send(&mut self, request: $request) -> Result<(i64, String), Status> {
                let answer = self.export(request).await?.into_inner();
                Ok(answer
                    .partial_success
                    .map_or_else(Default::default, |p| (p.$rejected, p.error_message)))
            }
        }
    };
}
export!(
    LogItem,
    Logs,
    logs,
    LogsServiceClient,
    ExportLogsServiceRequest,
    rejected_log_records
);
export!(
    SpanItem,
    Spans,
    spans,
    TraceServiceClient,
    ExportTraceServiceRequest,
    rejected_spans
);
export!(
    MetricItem,
    Metrics,
    metrics,
    MetricsServiceClient,
    ExportMetricsServiceRequest,
    rejected_data_points
);

/// When to stop, and until when to try.
#[derive(Debug, Clone, Default)]
struct Stop {
    token: CancellationToken,
    deadline: Arc<OnceLock<Instant>>,
}

impl Stop {
    fn at(&self, deadline: Instant) {
        // The first deadline stands.
        let _ = self.deadline.set(deadline);
        self.token.cancel();
    }

    fn is_over(&self) -> bool {
        self.deadline.get().is_some_and(|d| Instant::now() >= *d)
    }
}

/// The running tasks.
#[derive(Debug)]
pub(crate) struct Exporters {
    /// Stops the collector, logs and spans.
    first: Stop,
    /// Stops metrics, which go last so that the final books are as late as can be.
    last: Stop,
    first_tasks: Vec<JoinHandle<()>>,
    last_tasks: Vec<JoinHandle<()>>,
}

impl Exporters {
    pub(crate) fn spawn(
        runtime: &Handle,
        pipe: &Arc<Pipe>,
        channel: &Channel,
        config: &TelemetryConfig,
    ) -> Self {
        let (first, last) = (Stop::default(), Stop::default());
        macro_rules! client {
            ($t:ident) => {
                $t::new(channel.clone()).send_compressed(CompressionEncoding::Gzip)
            };
        }
        let worker = |stop: &Stop| Worker {
            pipe: Arc::clone(pipe),
            stop: stop.clone(),
            batch_items: config.batch_items,
            batch_bytes: config.batch_bytes,
            delay: config.batch_delay,
            timeout: config.export_timeout,
        };
        let logs = runtime.spawn(worker(&first).run(client!(LogsServiceClient)));
        let spans = runtime.spawn(worker(&first).run(client!(TraceServiceClient)));
        let metrics = runtime.spawn(worker(&last).run(client!(MetricsServiceClient)));
        let interval = config.metric_interval;
        let (collect, stop) = (Arc::clone(pipe), first.token.clone());
        let collector = runtime.spawn(async move {
            while timeout(interval, stop.cancelled()).await.is_err() {
                collect.collect();
            }
        });
        Self {
            first,
            last,
            first_tasks: vec![collector, logs, spans],
            last_tasks: vec![metrics],
        }
    }

    /// Drains logs and spans, then the metrics with the final books. Bounded by the deadline.
    pub(crate) async fn shutdown(mut self, pipe: &Pipe, deadline: Instant) {
        self.first.at(deadline);
        for task in self.first_tasks.drain(..) {
            let _ = task.await;
        }
        pipe.collect();
        self.last.at(deadline);
        for task in self.last_tasks.drain(..) {
            let _ = task.await;
        }
    }
}

impl Drop for Exporters {
    fn drop(&mut self) {
        let now = Instant::now();
        self.first.at(now);
        self.last.at(now);
    }
}

struct Worker {
    pipe: Arc<Pipe>,
    stop: Stop,
    batch_items: usize,
    batch_bytes: usize,
    delay: Duration,
    timeout: Duration,
}

/// What to do about a failed request.
enum Failure {
    /// The endpoint is not there: wait and try again, for as long as it takes.
    Away,
    /// Perhaps: try a few times.
    Doubtful,
    /// Less at a time.
    TooLarge,
    /// Never.
    Refused,
}

/// OTLP specification, "Failures": which codes are retryable. Where tonic reports a broken connection as
/// `Unknown` or `Internal`, a few attempts tell it from a real refusal.
fn classify(code: Code) -> Failure {
    match code {
        Code::Unavailable
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::DataLoss => Failure::Away,
        Code::ResourceExhausted | Code::OutOfRange => Failure::TooLarge,
        Code::Unknown | Code::Internal | Code::Ok => Failure::Doubtful,
        _ => Failure::Refused,
    }
}

impl Worker {
    async fn run<E: Export>(self, mut export: E) {
        let mut batch_items = self.batch_items;
        let mut failing = false;
        while let Some(batch) = self.next_batch::<E>(batch_items).await {
            let n = batch.len();
            let shrink = self.deliver(&mut export, batch, &mut failing).await;
            batch_items = if shrink {
                (n / 2).max(1)
            } else {
                (batch_items * 2).min(self.batch_items)
            };
        }
        E::lane(&self.pipe).with(|q| q.drop_queued(DropReason::Shutdown));
    }

    /// Waits for items and for their company; `None` when it is time to end.
    async fn next_batch<E: Export>(&self, max: usize) -> Option<Batch<E::Item>> {
        let lane = E::lane(&self.pipe);
        loop {
            while !self.stop.token.is_cancelled() && lane.with(|q| q.queued()) == 0 {
                tokio::select! {
                    () = lane.wake.notified() => {}
                    () = self.stop.token.cancelled() => {}
                }
            }
            let gather = async {
                while lane.with(|q| q.queued()) < max {
                    lane.wake.notified().await;
                }
            };
            tokio::select! {
                _ = timeout(self.delay, gather) => {}
                () = self.stop.token.cancelled() => {}
            }
            if self.stop.is_over() {
                return None;
            }
            let batch = lane.with(|q| q.take(max, self.batch_bytes));
            if batch.is_some() || self.stop.token.is_cancelled() {
                return batch;
            }
        }
    }

    /// Settles one batch; `true` when it must be cut smaller.
    async fn deliver<E: Export>(
        &self,
        export: &mut E,
        batch: Batch<E::Item>,
        failing: &mut bool,
    ) -> bool {
        let lane = E::lane(&self.pipe);
        let request = E::request(&batch, &self.pipe.host);
        let mut backoff = BACKOFF.0;
        let mut doubtful = 0;
        loop {
            let began = Instant::now();
            let limit = began + self.timeout;
            let until = self.stop.deadline.get().map_or(limit, |d| limit.min(*d));
            let answer = timeout_at(until, export.send(request.clone()))
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            self.observe(E::SIGNAL, began.elapsed(), answer.as_ref().err());
            let status = match answer {
                Ok((rejected, message)) => {
                    let rejected = u64::try_from(rejected).unwrap_or(0);
                    if rejected > 0 || !message.is_empty() {
                        tracing::warn!(signal = %E::SIGNAL, rejected, message, "otlp endpoint took a batch in part");
                    }
                    if std::mem::take(failing) {
                        tracing::info!(signal = %E::SIGNAL, "otlp export works again");
                    }
                    lane.with(|q| q.exported(batch, rejected));
                    return false;
                }
                Err(status) => status,
            };
            if !std::mem::replace(failing, true) {
                tracing::warn!(signal = %E::SIGNAL, code = ?status.code(), message = status.message(), "otlp export fails");
            }
            match classify(status.code()) {
                Failure::Away => {}
                Failure::Doubtful => {
                    doubtful += 1;
                    if doubtful >= DOUBTFUL_ATTEMPTS {
                        lane.with(|q| q.failed(batch, DropReason::ExportFailed));
                        return false;
                    }
                }
                Failure::TooLarge if batch.len() > 1 => {
                    lane.with(|q| q.requeue(batch));
                    return true;
                }
                Failure::TooLarge => {
                    lane.with(|q| q.failed(batch, DropReason::TooLarge));
                    return false;
                }
                Failure::Refused => {
                    lane.with(|q| q.failed(batch, DropReason::Rejected));
                    return false;
                }
            }
            if self.stop.is_over() {
                lane.with(|q| q.failed(batch, DropReason::Shutdown));
                return false;
            }
            // At the end there is a deadline to meet: short waits, not long ones.
            let wait = if self.stop.token.is_cancelled() {
                BACKOFF.0
            } else {
                backoff
            };
            let waited = timeout(wait, self.stop.token.cancelled()).await.is_err();
            if !waited {
                tokio::time::sleep(BACKOFF.0).await;
            }
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    fn observe(&self, signal: Signal, took: Duration, error: Option<&Status>) {
        let mut attrs = vec![(names::SIGNAL, AttrValue::from(signal.name()))];
        if let Some(status) = error {
            let code = format!("{:?}", status.code());
            attrs.push((names::ERROR_TYPE, code.into()));
        }
        self.pipe
            .own_record(&names::TELEMETRY_EXPORT_DURATION, attrs, took.as_secs_f64());
    }
}
