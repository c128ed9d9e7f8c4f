//! From a request to items of the queues.

use std::{collections::BTreeSet, sync::Arc};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    metrics::v1::{Metric, metric::Data},
    resource::v1::Resource,
};
use prost::Message as _;
use ulid::Ulid;
use waggle_telemetry_pipeline::{Feature, names};
use waggle_types::expansion::Shape;

use super::{Inbox, MAX_ITEMS, Refusal, Sender, Sent, Taken, shapes};
use crate::{
    otlp,
    pipe::{LogBody, LogItem, MetricBody, MetricItem, Owner, Pipe, Signal, SpanItem},
};

/// Attribute by which what comes twice is known.
const UID: &str = "log.record.uid";

/// How names of Waggle's own begin.
const OURS: &str = "waggle.";
/// What a task says of itself: keys, and bytes of all.
const MAX_CLAIMS: usize = 128;
const MAX_CLAIMED: usize = 16 << 10;
/// Name, description, unit and metadata of a metric, which each of its points is passed on with.
const MAX_HEAD: usize = 4 << 10;
/// The same for all points of a metric together.
const MAX_COPIED: u64 = 4 << 20;

/// A request that tasks send.
pub(super) trait Request:
    prost::Message + serde::de::DeserializeOwned + Default + Send + 'static
{
    const SIGNAL: Signal;
    /// Which feature it is, where it is one that may be left off.
    const FEATURE: Option<Feature>;
    type Item: Send;

    /// What it takes in memory.
    fn shape() -> &'static Shape;
    fn items(&self) -> u64;
    /// What is to be queued, with its bytes.
    fn apart(self, sender: &Sender) -> (Vec<(Self::Item, usize)>, Taken);
    fn put(pipe: &Pipe, items: Vec<(Self::Item, usize)>);
}

impl Inbox {
    /// Takes a whole request, or nothing of it.
    pub(super) fn take<R: Request>(&self, sender: &Sender, request: R) -> Result<Taken, Refusal> {
        let n = request.items();
        if let Some(feature) = R::FEATURE
            && !self.pipe.allows(feature)
        {
            return Err(self.refuse(Some(R::SIGNAL), Refusal::Shed, n));
        }
        if n > MAX_ITEMS {
            return Err(self.refuse(Some(R::SIGNAL), Refusal::Large, n));
        }
        let (items, taken) = request.apart(sender);
        let bytes = items.iter().map(|(_, b)| b).sum();
        // Not all of the queues: what a task sends must not push out what others have sent, which was said to be accepted.
        let fits = self.pipe.has_room(R::SIGNAL, items.len(), bytes);
        if !fits || !sender.may_send(n, bytes) {
            return Err(self.refuse(Some(R::SIGNAL), Refusal::Rate, n));
        }
        R::put(&self.pipe, items);
        let rejected = u64::try_from(taken.rejected).unwrap_or(0);
        self.count(Some(R::SIGNAL), "accepted", n.saturating_sub(rejected));
        self.count(Some(R::SIGNAL), Refusal::Invalid.name(), rejected);
        Ok(taken)
    }

    /// Counts what is refused: items where they are known, else one.
    pub(super) fn refuse(&self, signal: Option<Signal>, why: Refusal, items: u64) -> Refusal {
        self.count(signal, why.name(), items.max(1));
        why
    }
}

impl Sender {
    fn owner(
        &self,
        claims: &Arc<[KeyValue]>,
        scope: Option<InstrumentationScope>,
        schema_url: &str,
    ) -> Owner {
        Owner::Sent(Arc::new(Sent {
            labels: Arc::clone(&self.labels),
            claims: Arc::clone(claims),
            scope: scope.filter(|s| !s.name.starts_with(OURS)),
            schema_url: schema_url.to_owned(),
        }))
    }
}

/// What a task may say of itself: nothing that is known of it, nothing in Waggle's name, each once, not too much: every batch
/// that is sent says it again. Who made the signals is the one thing that it knows better.
fn claims(resource: Option<&Resource>) -> Arc<[KeyValue]> {
    let mut seen = BTreeSet::new();
    let mut room = MAX_CLAIMED;
    let may = |key: &str| {
        let known = names::RESOURCE_TASK.contains(&key) || key.starts_with(OURS);
        !key.is_empty() && (!known || key.starts_with("telemetry.sdk."))
    };
    let attributes = resource.map_or(&[][..], |r| &r.attributes).iter();
    attributes
        .filter(|a| may(&a.key) && seen.insert(a.key.as_str()))
        .take(MAX_CLAIMS)
        .take_while(|a| {
            let left = room.checked_sub(a.encoded_len());
            room = left.unwrap_or(0);
            left.is_some()
        })
        .cloned()
        .collect()
}

/// Whether a name is one that the node's own signals have: nobody could tell them apart.
fn is_ours(name: &str) -> bool {
    name.starts_with(OURS) || names::find(name).is_some()
}

fn is_event_of_ours(name: &str) -> bool {
    name.starts_with(OURS) || names::find_event(name).is_some()
}

/// Takes off what only Waggle says, of whatever task; how many that were.
fn strip(attributes: &mut Vec<KeyValue>) -> u32 {
    let before = attributes.len();
    attributes.retain(|a| !a.key.starts_with(OURS));
    u32::try_from(before - attributes.len()).unwrap_or(u32::MAX)
}

/// Ids that are what they must be: of the right length, not zero.
fn is_id(id: &[u8], len: usize) -> bool {
    id.len() == len && id.iter().any(|b| *b != 0)
}

impl Request for ExportLogsServiceRequest {
    const SIGNAL: Signal = Signal::Logs;
    const FEATURE: Option<Feature> = None;
    type Item = LogItem;

    fn shape() -> &'static Shape {
        &shapes::LOGS
    }

    fn put(pipe: &Pipe, items: Vec<(LogItem, usize)>) {
        pipe.put_logs(items);
    }

    fn items(&self) -> u64 {
        let scopes = self.resource_logs.iter().flat_map(|r| &r.scope_logs);
        scopes.map(|s| s.log_records.len() as u64).sum()
    }

    fn apart(self, sender: &Sender) -> (Vec<(Self::Item, usize)>, Taken) {
        let mut items = Vec::new();
        for of_resource in self.resource_logs {
            let claims = claims(of_resource.resource.as_ref());
            for scope in of_resource.scope_logs {
                let owner = sender.owner(&claims, scope.scope, &scope.schema_url);
                for mut record in scope.log_records {
                    if is_event_of_ours(&record.event_name) {
                        record.event_name.clear();
                    }
                    if !is_id(&record.trace_id, 16) {
                        record.trace_id.clear();
                        record.span_id.clear();
                    } else if !is_id(&record.span_id, 8) {
                        record.span_id.clear();
                    }
                    record.dropped_attributes_count = record
                        .dropped_attributes_count
                        .saturating_add(strip(&mut record.attributes));
                    if !record.attributes.iter().any(|a| a.key == UID) {
                        record.attributes.push(KeyValue {
                            key: UID.to_owned(),
                            value: Some(AnyValue {
                                value: Some(Value::StringValue(Ulid::new().to_string())),
                            }),
                            ..KeyValue::default()
                        });
                    }
                    let bytes = record.encoded_len();
                    let owner = owner.clone();
                    let record = LogBody::Sent(Box::new(record));
                    items.push((LogItem { owner, record }, bytes));
                }
            }
        }
        (items, Taken::default())
    }
}

impl Request for ExportTraceServiceRequest {
    const SIGNAL: Signal = Signal::Spans;
    const FEATURE: Option<Feature> = Some(Feature::TaskSpans);
    type Item = SpanItem;

    fn shape() -> &'static Shape {
        &shapes::SPANS
    }

    fn put(pipe: &Pipe, items: Vec<(SpanItem, usize)>) {
        pipe.put_spans(items);
    }

    fn items(&self) -> u64 {
        let scopes = self.resource_spans.iter().flat_map(|r| &r.scope_spans);
        scopes.map(|s| s.spans.len() as u64).sum()
    }

    fn apart(self, sender: &Sender) -> (Vec<(Self::Item, usize)>, Taken) {
        let (mut items, mut taken) = (Vec::new(), Taken::default());
        for of_resource in self.resource_spans {
            let claims = claims(of_resource.resource.as_ref());
            for scope in of_resource.scope_spans {
                let owner = sender.owner(&claims, scope.scope, &scope.schema_url);
                for mut span in scope.spans {
                    if !is_id(&span.trace_id, 16) || !is_id(&span.span_id, 8) {
                        taken.rejected += 1;
                        continue;
                    }
                    if !is_id(&span.parent_span_id, 8) {
                        span.parent_span_id.clear();
                    }
                    span.dropped_attributes_count = span
                        .dropped_attributes_count
                        .saturating_add(strip(&mut span.attributes));
                    span.links
                        .retain(|l| is_id(&l.trace_id, 16) && is_id(&l.span_id, 8));
                    let bytes = span.encoded_len();
                    let owner = owner.clone();
                    items.push((SpanItem { owner, span }, bytes));
                }
            }
        }
        (items, taken)
    }
}

impl Request for ExportMetricsServiceRequest {
    const SIGNAL: Signal = Signal::Metrics;
    const FEATURE: Option<Feature> = Some(Feature::TaskMetrics);
    type Item = MetricItem;

    fn shape() -> &'static Shape {
        &shapes::METRICS
    }

    fn put(pipe: &Pipe, items: Vec<(MetricItem, usize)>) {
        pipe.put_metrics(items);
    }

    fn items(&self) -> u64 {
        let scopes = self.resource_metrics.iter().flat_map(|r| &r.scope_metrics);
        scopes.flat_map(|s| &s.metrics).map(otlp::points).sum()
    }

    fn apart(self, sender: &Sender) -> (Vec<(Self::Item, usize)>, Taken) {
        let (mut items, mut taken) = (Vec::new(), Taken::default());
        for of_resource in self.resource_metrics {
            let claims = claims(of_resource.resource.as_ref());
            for scope in of_resource.scope_metrics {
                let owner = sender.owner(&claims, scope.scope, &scope.schema_url);
                for metric in scope.metrics {
                    let head = metric.name.len() + metric.description.len() + metric.unit.len();
                    let metadata = metric.metadata.iter().map(KeyValue::encoded_len);
                    let head = head + metadata.sum::<usize>();
                    let n = otlp::points(&metric);
                    let copied = u64::try_from(head).unwrap_or(u64::MAX).saturating_mul(n);
                    let is_long = head > MAX_HEAD || copied > MAX_COPIED;
                    let is_empty = metric.name.is_empty() || metric.data.is_none();
                    if is_empty || is_long || is_ours(&metric.name) {
                        let n = i64::try_from(n.max(1)).unwrap_or(i64::MAX);
                        taken.rejected = taken.rejected.saturating_add(n);
                        continue;
                    }
                    for one in apart(metric) {
                        let bytes = one.encoded_len();
                        let owner = owner.clone();
                        let point = MetricBody::Sent(Box::new(one));
                        items.push((MetricItem { owner, point }, bytes));
                    }
                }
            }
        }
        (items, taken)
    }
}

/// One metric for each point, as the books count them.
fn apart(metric: Metric) -> Vec<Metric> {
    let Metric {
        name,
        description,
        unit,
        metadata,
        data,
    } = metric;
    let one = |data| Metric {
        name: name.clone(),
        description: description.clone(),
        unit: unit.clone(),
        metadata: metadata.clone(),
        data: Some(data),
    };
    macro_rules! each {
        ($kind:ident, $all:expr) => {{
            let mut all = $all;
            let points = std::mem::take(&mut all.data_points);
            let with = |point| {
                let mut of_one = all.clone();
                of_one.data_points = vec![point];
                one(Data::$kind(of_one))
            };
            points.into_iter().map(with).collect()
        }};
    }
    match data {
        Some(Data::Gauge(all)) => each!(Gauge, all),
        Some(Data::Sum(all)) => each!(Sum, all),
        Some(Data::Histogram(all)) => each!(Histogram, all),
        Some(Data::ExponentialHistogram(all)) => each!(ExponentialHistogram, all),
        Some(Data::Summary(all)) => each!(Summary, all),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(key: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            ..KeyValue::default()
        }
    }

    #[test]
    fn a_task_may_not_claim_to_be_another() {
        let given = [
            "service.name",
            "waggle.task.id",
            "waggle.x",
            "a",
            "a",
            "",
            "telemetry.sdk.name",
        ];
        let of = |attributes| {
            claims(Some(&Resource {
                attributes,
                ..Resource::default()
            }))
        };
        let kept = of(given.map(attribute).to_vec());
        let keys: Vec<&str> = kept.iter().map(|a| a.key.as_str()).collect();
        assert_eq!(keys, ["a", "telemetry.sdk.name"]);
        // Not too much, neither in keys nor in bytes.
        let many = (0..1000).map(|n| attribute(&format!("k{n}")));
        assert_eq!(of(many.collect()).len(), MAX_CLAIMS);
        let long = (0..100).map(|n| attribute(&format!("{n}{}", "x".repeat(1000))));
        assert_eq!(of(long.collect()).len(), 16);
        assert!(is_ours("waggle.x") && is_ours("container.cpu.time") && !is_ours("shop.orders"));
    }

    #[test]
    fn attributes_in_waggles_name_are_taken_off() {
        let keys = ["waggle.task.id", "shop.id", "waggle.state", "service.name"];
        let mut given = keys.map(attribute).to_vec();
        assert_eq!(strip(&mut given), 2);
        let left: Vec<&str> = given.iter().map(|a| a.key.as_str()).collect();
        assert_eq!(left, ["shop.id", "service.name"]);
    }

    #[test]
    fn ids_are_looked_at() {
        assert!(is_id(&[1; 16], 16));
        assert!(!is_id(&[0; 16], 16) && !is_id(&[1; 15], 16) && !is_id(&[], 8));
    }
}
