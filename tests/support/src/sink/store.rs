//! What the sink keeps: spans and logs newest-wins up to a bound, metric points latest per series.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;

/// Spans and log records kept, each; the oldest go first and are counted.
const MAX_RECORDS: usize = 200_000;
/// Metric series kept; new ones beyond it are dropped and counted.
const MAX_SERIES: usize = 100_000;

/// Attributes, values as text.
pub type Attributes = BTreeMap<String, String>;

/// A span. Ids in hex.
#[derive(Debug, Clone)]
pub struct Span {
    /// Trace id.
    pub trace_id: String,
    /// Span id.
    pub span_id: String,
    /// Parent's span id; empty for a root.
    pub parent_id: String,
    /// Name.
    pub name: String,
    /// Start, ns since 1970.
    pub start_ns: u64,
    /// End, ns since 1970.
    pub end_ns: u64,
    /// Attributes.
    pub attributes: Attributes,
    /// Resource attributes.
    pub resource: Arc<Attributes>,
    /// The status message of a failed span.
    pub error: Option<String>,
}

/// A log record.
#[derive(Debug, Clone)]
pub struct Log {
    /// Time, ns since 1970 (observed time when the record has none).
    pub time_ns: u64,
    /// Severity number, 1 to 24.
    pub severity: i32,
    /// Severity text.
    pub severity_text: String,
    /// Body as text.
    pub body: String,
    /// Event name, if any.
    pub event: String,
    /// Trace id in hex, or empty.
    pub trace_id: String,
    /// Span id in hex, or empty.
    pub span_id: String,
    /// Attributes.
    pub attributes: Attributes,
    /// Resource attributes.
    pub resource: Arc<Attributes>,
}

/// The latest point of a metric series.
#[derive(Debug, Clone)]
pub struct Point {
    /// Metric name.
    pub name: String,
    /// Unit.
    pub unit: String,
    /// `sum`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Attributes.
    pub attributes: Attributes,
    /// Resource attributes.
    pub resource: Arc<Attributes>,
    /// The value; a histogram's sum.
    pub value: f64,
    /// A histogram's count; 1 otherwise.
    pub count: u64,
    /// A histogram's bucket counts.
    pub buckets: Vec<u64>,
    /// A histogram's bounds.
    pub bounds: Vec<f64>,
    /// Time, ns since 1970.
    pub time_ns: u64,
}

/// Everything that arrived, within bounds.
#[derive(Debug, Default)]
pub struct Store {
    /// Spans in order of arrival.
    pub spans: VecDeque<Span>,
    /// Log records in order of arrival.
    pub logs: VecDeque<Log>,
    /// Latest point per (resource, name, attributes).
    pub points: BTreeMap<(String, String, String), Point>,
    /// Metric points received, all series.
    pub points_received: u64,
    /// Records and series that did not fit.
    pub dropped: u64,
    /// Requests that could not be relayed.
    pub relay_dropped: u64,
}

impl Store {
    pub(super) fn add_spans(&mut self, request: &ExportTraceServiceRequest) {
        for group in &request.resource_spans {
            let resource = resource_of(group.resource.as_ref());
            for span in group.scope_spans.iter().flat_map(|scope| &scope.spans) {
                let error = span
                    .status
                    .as_ref()
                    .filter(|s| s.code == 2)
                    .map(|s| s.message.clone());
                let span = Span {
                    trace_id: hex(&span.trace_id),
                    span_id: hex(&span.span_id),
                    parent_id: hex(&span.parent_span_id),
                    name: span.name.clone(),
                    start_ns: span.start_time_unix_nano,
                    end_ns: span.end_time_unix_nano,
                    attributes: attributes(&span.attributes),
                    resource: Arc::clone(&resource),
                    error,
                };
                self.dropped += push(&mut self.spans, span);
            }
        }
    }

    pub(super) fn add_logs(&mut self, request: &ExportLogsServiceRequest) {
        for group in &request.resource_logs {
            let resource = resource_of(group.resource.as_ref());
            for record in group.scope_logs.iter().flat_map(|scope| &scope.log_records) {
                let time_ns = match record.time_unix_nano {
                    0 => record.observed_time_unix_nano,
                    time => time,
                };
                let log = Log {
                    time_ns,
                    severity: record.severity_number,
                    severity_text: record.severity_text.clone(),
                    body: record.body.as_ref().map(text).unwrap_or_default(),
                    event: record.event_name.clone(),
                    trace_id: hex(&record.trace_id),
                    span_id: hex(&record.span_id),
                    attributes: attributes(&record.attributes),
                    resource: Arc::clone(&resource),
                };
                self.dropped += push(&mut self.logs, log);
            }
        }
    }

    pub(super) fn add_points(&mut self, request: &ExportMetricsServiceRequest) {
        for group in &request.resource_metrics {
            let resource = resource_of(group.resource.as_ref());
            for metric in group.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                let blank = |kind, attrs: &[KeyValue], time_ns| Point {
                    name: metric.name.clone(),
                    unit: metric.unit.clone(),
                    kind,
                    attributes: attributes(attrs),
                    resource: Arc::clone(&resource),
                    value: 0.0,
                    count: 1,
                    buckets: Vec::new(),
                    bounds: Vec::new(),
                    time_ns,
                };
                let number = |kind, point: &NumberDataPoint| Point {
                    value: match point.value {
                        Some(number_data_point::Value::AsDouble(value)) => value,
                        Some(number_data_point::Value::AsInt(value)) => value as f64,
                        None => 0.0,
                    },
                    ..blank(kind, &point.attributes, point.time_unix_nano)
                };
                let points: Vec<Point> = match &metric.data {
                    Some(Data::Gauge(g)) => {
                        g.data_points.iter().map(|p| number("gauge", p)).collect()
                    }
                    Some(Data::Sum(s)) => s.data_points.iter().map(|p| number("sum", p)).collect(),
                    Some(Data::Histogram(h)) => h
                        .data_points
                        .iter()
                        .map(|p| Point {
                            value: p.sum.unwrap_or_default(),
                            count: p.count,
                            buckets: p.bucket_counts.clone(),
                            bounds: p.explicit_bounds.clone(),
                            ..blank("histogram", &p.attributes, p.time_unix_nano)
                        })
                        .collect(),
                    _ => Vec::new(),
                };
                for point in points {
                    self.add_point(point);
                }
            }
        }
    }

    fn add_point(&mut self, point: Point) {
        self.points_received += 1;
        let key = (
            line(&point.resource),
            point.name.clone(),
            line(&point.attributes),
        );
        if self.points.len() >= MAX_SERIES && !self.points.contains_key(&key) {
            self.dropped += 1;
            return;
        }
        self.points.insert(key, point);
    }

    /// Points of a metric whose resource has `key` = `value`.
    pub fn points_of<'a>(
        &'a self,
        name: &'a str,
        key: &'a str,
        value: &'a str,
    ) -> impl Iterator<Item = &'a Point> {
        self.points.values().filter(move |point| {
            point.name == name && point.resource.get(key).is_some_and(|v| v == value)
        })
    }

    /// The sum over all series of a metric whose resource has `key` = `value`; none if there is no
    /// such series.
    #[must_use]
    pub fn total(&self, name: &str, key: &str, value: &str) -> Option<f64> {
        let mut points = self.points_of(name, key, value).peekable();
        points.peek()?;
        Some(points.map(|point| point.value).sum())
    }

    /// Like [`Store::total`], only the series with one attribute.
    #[must_use]
    pub fn total_with(
        &self,
        name: &str,
        resource: (&str, &str),
        attribute: (&str, &str),
    ) -> Option<f64> {
        let mut points = self
            .points_of(name, resource.0, resource.1)
            .filter(|p| {
                p.attributes
                    .get(attribute.0)
                    .is_some_and(|v| v == attribute.1)
            })
            .peekable();
        points.peek()?;
        Some(points.map(|point| point.value).sum())
    }

    /// Distinct values of a resource attribute over all metric points.
    #[must_use]
    pub fn resource_values(&self, key: &str) -> Vec<String> {
        let mut values: Vec<String> = self
            .points
            .values()
            .filter_map(|p| p.resource.get(key).cloned())
            .collect();
        values.sort();
        values.dedup();
        values
    }

    /// Spans of a trace.
    #[must_use]
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        self.spans
            .iter()
            .filter(|span| span.trace_id == trace_id)
            .cloned()
            .collect()
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T) -> u64 {
    let mut dropped = 0;
    if queue.len() >= MAX_RECORDS {
        queue.pop_front();
        dropped = 1;
    }
    queue.push_back(item);
    dropped
}

fn resource_of(resource: Option<&Resource>) -> Arc<Attributes> {
    Arc::new(
        resource
            .map(|r| attributes(&r.attributes))
            .unwrap_or_default(),
    )
}

fn attributes(list: &[KeyValue]) -> Attributes {
    list.iter()
        .map(|kv| {
            (
                kv.key.clone(),
                kv.value.as_ref().map(text).unwrap_or_default(),
            )
        })
        .collect()
}

fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(v)) => v.clone(),
        Some(Value::BoolValue(v)) => v.to_string(),
        Some(Value::IntValue(v)) => v.to_string(),
        Some(Value::DoubleValue(v)) => v.to_string(),
        Some(Value::BytesValue(v)) => hex(v),
        Some(Value::ArrayValue(v)) => {
            format!(
                "[{}]",
                v.values.iter().map(text).collect::<Vec<_>>().join(", ")
            )
        }
        Some(Value::KvlistValue(v)) => format!("{{{}}}", line(&attributes(&v.values))),
        Some(Value::StringValueStrindex(_)) | None => String::new(),
    }
}

fn line(attributes: &Attributes) -> String {
    attributes
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
