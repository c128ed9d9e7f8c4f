//! To OTLP's protobuf. One request per batch, one resource entry per owner.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value},
    logs::v1::{LogRecord as OtlpLog, ResourceLogs, ScopeLogs},
    metrics::v1::{
        AggregationTemporality, Exemplar as OtlpExemplar, Gauge, Histogram, HistogramDataPoint,
        Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar, metric,
        number_data_point,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use ulid::Ulid;
use waggle_telemetry_pipeline::{
    AttrValue, Attrs, Exemplar, HostFacts, Kind, LogRecord, MetricDef, Point, PointData, names,
};

use crate::pipe::{LogBody, LogItem, MetricBody, MetricItem, Owner, SpanItem};

/// How many points a metric has.
pub(crate) fn points(metric: &Metric) -> u64 {
    let n = match &metric.data {
        Some(metric::Data::Sum(s)) => s.data_points.len(),
        Some(metric::Data::Gauge(g)) => g.data_points.len(),
        Some(metric::Data::Histogram(h)) => h.data_points.len(),
        Some(metric::Data::ExponentialHistogram(h)) => h.data_points.len(),
        Some(metric::Data::Summary(s)) => s.data_points.len(),
        None => 0,
    };
    n as u64
}

/// About how many bytes a span takes on the wire.
pub(crate) fn span_bytes(span: &Span) -> usize {
    128 + span.name.len() + span.attributes.len() * 48 + (span.events.len() + span.links.len()) * 64
}

pub(crate) fn logs<'a>(
    items: impl Iterator<Item = &'a LogItem>,
    host: &HostFacts,
) -> ExportLogsServiceRequest {
    let groups = grouped(items, |i| &i.owner);
    ExportLogsServiceRequest {
        resource_logs: groups
            .into_iter()
            .map(|(owner, items)| ResourceLogs {
                resource: Some(resource(owner, host)),
                scope_logs: vec![ScopeLogs {
                    scope: scope(owner, names::SCOPE_LOGS),
                    log_records: items.into_iter().map(log).collect(),
                    schema_url: schema_url(owner),
                }],
                schema_url: names::SCHEMA_URL.to_owned(),
            })
            .collect(),
    }
}

pub(crate) fn spans<'a>(
    items: impl Iterator<Item = &'a SpanItem>,
    host: &HostFacts,
) -> ExportTraceServiceRequest {
    let groups = grouped(items, |i| &i.owner);
    ExportTraceServiceRequest {
        resource_spans: groups
            .into_iter()
            .map(|(owner, items)| ResourceSpans {
                resource: Some(resource(owner, host)),
                scope_spans: vec![ScopeSpans {
                    scope: scope(owner, names::SCOPE_SPANS),
                    spans: items.into_iter().map(|i| i.span.clone()).collect(),
                    schema_url: schema_url(owner),
                }],
                schema_url: names::SCHEMA_URL.to_owned(),
            })
            .collect(),
    }
}

pub(crate) fn metrics<'a>(
    items: impl Iterator<Item = &'a MetricItem>,
    host: &HostFacts,
) -> ExportMetricsServiceRequest {
    let groups = grouped(items, |i| &i.owner);
    ExportMetricsServiceRequest {
        resource_metrics: groups
            .into_iter()
            .map(|(owner, items)| {
                let mut by_def: BTreeMap<&'static MetricDef, Vec<&Point>> = BTreeMap::new();
                let mut sent: Vec<Metric> = Vec::new();
                for item in items {
                    match &item.point {
                        MetricBody::Own(point) => by_def.entry(point.def).or_default().push(point),
                        MetricBody::Sent(one) => {
                            if !sent.last_mut().is_some_and(|last| together(last, one)) {
                                sent.push(one.as_ref().clone());
                            }
                        }
                    }
                }
                sent.extend(by_def.into_iter().map(|(d, p)| metric(d, &p)));
                ResourceMetrics {
                    resource: Some(resource(owner, host)),
                    scope_metrics: vec![ScopeMetrics {
                        scope: scope(owner, names::SCOPE_METRICS),
                        metrics: sent,
                        schema_url: schema_url(owner),
                    }],
                    schema_url: names::SCHEMA_URL.to_owned(),
                }
            })
            .collect(),
    }
}

/// Groups items by owner, keeping their order.
fn grouped<'a, T>(
    items: impl Iterator<Item = &'a T>,
    owner: impl Fn(&T) -> &Owner,
) -> Vec<(&'a Owner, Vec<&'a T>)>
where
    T: 'a,
{
    let mut at: BTreeMap<usize, usize> = BTreeMap::new();
    let mut out: Vec<(&Owner, Vec<&T>)> = Vec::new();
    for item in items {
        let o = owner(item);
        let i = *at.entry(o.group()).or_insert_with(|| {
            out.push((o, Vec::new()));
            out.len() - 1
        });
        if let Some((_, items)) = out.get_mut(i) {
            items.push(item);
        }
    }
    out
}

/// Puts points of one metric together again, as they were sent.
fn together(a: &mut Metric, b: &Metric) -> bool {
    use metric::Data;
    if (&a.name, &a.unit, &a.description, &a.metadata)
        != (&b.name, &b.unit, &b.description, &b.metadata)
    {
        return false;
    }
    match (&mut a.data, &b.data) {
        (Some(Data::Gauge(a)), Some(Data::Gauge(b))) => {
            a.data_points.extend_from_slice(&b.data_points);
        }
        (Some(Data::Sum(a)), Some(Data::Sum(b)))
            if (a.aggregation_temporality, a.is_monotonic)
                == (b.aggregation_temporality, b.is_monotonic) =>
        {
            a.data_points.extend_from_slice(&b.data_points);
        }
        (Some(Data::Histogram(a)), Some(Data::Histogram(b)))
            if a.aggregation_temporality == b.aggregation_temporality =>
        {
            a.data_points.extend_from_slice(&b.data_points);
        }
        (Some(Data::ExponentialHistogram(a)), Some(Data::ExponentialHistogram(b)))
            if a.aggregation_temporality == b.aggregation_temporality =>
        {
            a.data_points.extend_from_slice(&b.data_points);
        }
        (Some(Data::Summary(a)), Some(Data::Summary(b))) => {
            a.data_points.extend_from_slice(&b.data_points);
        }
        _ => return false,
    }
    true
}

/// What a task says of itself comes after what is known; who made what it sent is its own word.
fn resource(owner: &Owner, host: &HostFacts) -> Resource {
    let mut attributes = key_values(&owner.resource(host));
    if let Owner::Sent(sent) = owner {
        let claimed = |key: &str| sent.claims.iter().any(|c| c.key == key);
        attributes.retain(|a| !claimed(&a.key));
        attributes.extend_from_slice(&sent.claims);
    }
    Resource {
        attributes,
        ..Resource::default()
    }
}

fn scope(owner: &Owner, name: &str) -> Option<InstrumentationScope> {
    match owner {
        Owner::Sent(sent) => sent.scope.clone(),
        Owner::Component(_) | Owner::Task(_) => Some(InstrumentationScope {
            name: name.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        }),
    }
}

fn schema_url(owner: &Owner) -> String {
    match owner {
        Owner::Sent(sent) => sent.schema_url.clone(),
        Owner::Component(_) | Owner::Task(_) => names::SCHEMA_URL.to_owned(),
    }
}

fn log(item: &LogItem) -> OtlpLog {
    match &item.record {
        LogBody::Own(record, uid) => own_log(record, *uid),
        LogBody::Sent(record) => record.as_ref().clone(),
    }
}

fn own_log(record: &LogRecord, uid: Ulid) -> OtlpLog {
    let LogRecord {
        time_ns,
        observed_ns,
        severity,
        severity_text,
        body,
        attrs,
        event_name,
        trace,
        stream,
        uid: _,
    } = record;
    let mut attributes: Vec<KeyValue> = attrs.iter().map(|(k, v)| key_value(k, v)).collect();
    if let Some(stream) = stream {
        attributes.push(key_value("log.iostream", &stream.name().into()));
    }
    let uid = AttrValue::from(uid.to_string());
    attributes.push(key_value("log.record.uid", &uid));
    let (trace_id, span_id, flags) = trace.map_or((Vec::new(), Vec::new(), 0), |t| {
        let span = if t.span_id == 0 {
            Vec::new()
        } else {
            t.span_id.to_be_bytes().to_vec()
        };
        (t.trace_id.to_be_bytes().to_vec(), span, u32::from(t.flags))
    });
    OtlpLog {
        time_unix_nano: *time_ns,
        observed_time_unix_nano: *observed_ns,
        severity_number: i32::from(severity.number()),
        severity_text: severity_text.clone(),
        body: Some(any(body)),
        attributes,
        dropped_attributes_count: 0,
        flags,
        trace_id,
        span_id,
        event_name: event_name.clone().unwrap_or_default(),
    }
}

fn metric(def: &MetricDef, points: &[&Point]) -> Metric {
    let temporality = AggregationTemporality::Cumulative as i32;
    let numbers = || points.iter().map(|p| number(p)).collect();
    let data = match def.kind {
        Kind::Counter | Kind::UpDownCounter => metric::Data::Sum(Sum {
            data_points: numbers(),
            aggregation_temporality: temporality,
            is_monotonic: def.kind == Kind::Counter,
        }),
        Kind::Gauge => metric::Data::Gauge(Gauge {
            data_points: numbers(),
        }),
        Kind::Histogram => metric::Data::Histogram(Histogram {
            data_points: points.iter().filter_map(|p| histogram(p)).collect(),
            aggregation_temporality: temporality,
        }),
    };
    Metric {
        name: def.name.to_owned(),
        description: def.description.to_owned(),
        unit: def.unit.to_owned(),
        metadata: Vec::new(),
        data: Some(data),
    }
}

fn number(p: &Point) -> NumberDataPoint {
    use number_data_point::Value;
    let value = match &p.data {
        PointData::Sum(v) => Some(Value::AsInt(i64::try_from(*v).unwrap_or(i64::MAX))),
        PointData::UpDown(v) => Some(Value::AsInt(*v)),
        PointData::SumF64(v) | PointData::UpDownF64(v) | PointData::Gauge(v) => {
            Some(Value::AsDouble(*v))
        }
        // Refused at the door (`Point::violation`).
        PointData::Histogram { .. } => None,
    };
    let start = if p.def.kind == Kind::Gauge {
        0
    } else {
        p.start_ns
    };
    NumberDataPoint {
        attributes: key_values(&p.attrs),
        start_time_unix_nano: start,
        time_unix_nano: p.time_ns,
        exemplars: exemplars(p),
        value,
        ..NumberDataPoint::default()
    }
}

fn histogram(p: &Point) -> Option<HistogramDataPoint> {
    let PointData::Histogram {
        bounds,
        counts,
        sum,
        count,
    } = &p.data
    else {
        return None;
    };
    Some(HistogramDataPoint {
        attributes: key_values(&p.attrs),
        start_time_unix_nano: p.start_ns,
        time_unix_nano: p.time_ns,
        count: *count,
        sum: Some(*sum),
        bucket_counts: counts.clone(),
        explicit_bounds: bounds.to_vec(),
        exemplars: exemplars(p),
        ..HistogramDataPoint::default()
    })
}

fn exemplars(p: &Point) -> Vec<OtlpExemplar> {
    let of = |e: &Exemplar| OtlpExemplar {
        filtered_attributes: Vec::new(),
        time_unix_nano: e.time_ns,
        span_id: e.trace.span_id.to_be_bytes().to_vec(),
        trace_id: e.trace.trace_id.to_be_bytes().to_vec(),
        value: Some(exemplar::Value::AsDouble(e.value)),
    };
    p.exemplars.iter().map(of).collect()
}

pub(crate) fn key_values(attrs: &Attrs) -> Vec<KeyValue> {
    attrs.iter().map(|(k, v)| key_value(k, v)).collect()
}

fn key_value(key: &str, value: &AttrValue) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(any(value)),
        ..KeyValue::default()
    }
}

fn any(value: &AttrValue) -> AnyValue {
    use any_value::Value;
    let value = match value {
        AttrValue::Null => None,
        AttrValue::Bool(b) => Some(Value::BoolValue(*b)),
        AttrValue::I64(i) => Some(Value::IntValue(*i)),
        AttrValue::F64(f) => Some(Value::DoubleValue(*f)),
        AttrValue::Str(s) => Some(Value::StringValue(s.clone())),
        AttrValue::List(l) => Some(Value::ArrayValue(ArrayValue {
            values: l.iter().map(any).collect(),
        })),
        AttrValue::Map(m) => Some(Value::KvlistValue(KeyValueList {
            values: m.iter().map(|(k, v)| key_value(k, v)).collect(),
        })),
    };
    AnyValue { value }
}
