//! What a task's statsd and its Prometheus page say, as OTLP: it goes the same way as what the task sends as such.

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, metric::Data,
        number_data_point, summary_data_point::ValueAtQuantile,
    },
};
use waggle_telemetry_pipeline::{AppData, AppLabels, AppMetric, AppPoint};

use super::{Inbox, Sender};

/// In how many series at once they go: far less than a request may have.
const AT_ONCE: usize = 1000;

impl Inbox {
    /// Takes metrics of a task that were read at this time; `scope` says by what. Whether there was room for all.
    pub fn metrics(
        &self,
        sender: &Sender,
        scope: &str,
        metrics: Vec<AppMetric>,
        now_ns: u64,
    ) -> bool {
        let (mut parts, mut n) = (vec![Vec::new()], 0);
        for metric in metrics {
            n += metric.data.len();
            if n > AT_ONCE && parts.last().is_some_and(|p| !p.is_empty()) {
                n = metric.data.len();
                parts.push(Vec::new());
            }
            if let Some(part) = parts.last_mut() {
                part.push(otlp(metric, now_ns));
            }
        }
        let taken = parts.into_iter().filter(|p| !p.is_empty()).map(|metrics| {
            let scope = InstrumentationScope {
                name: scope.to_owned(),
                ..InstrumentationScope::default()
            };
            let scope = ScopeMetrics {
                scope: Some(scope),
                metrics,
                ..ScopeMetrics::default()
            };
            let request = ExportMetricsServiceRequest {
                resource_metrics: vec![ResourceMetrics {
                    scope_metrics: vec![scope],
                    ..ResourceMetrics::default()
                }],
            };
            self.take(sender, request).is_ok()
        });
        // Each part is tried, whatever became of the one before.
        let taken: Vec<bool> = taken.collect();
        taken.iter().all(|taken| *taken)
    }
}

fn otlp(metric: AppMetric, now_ns: u64) -> Metric {
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match metric.data {
        AppData::Counter(points) => Data::Sum(Sum {
            data_points: points.into_iter().map(|p| number(p, now_ns)).collect(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        AppData::Gauge(points) => Data::Gauge(Gauge {
            data_points: points.into_iter().map(|p| number(p, now_ns)).collect(),
        }),
        AppData::Histogram(points) => Data::Histogram(Histogram {
            data_points: points
                .into_iter()
                .map(|p| HistogramDataPoint {
                    attributes: attributes(p.labels),
                    start_time_unix_nano: p.start_ns,
                    time_unix_nano: now_ns,
                    count: p.value.count,
                    sum: p.value.sum,
                    bucket_counts: p.value.buckets,
                    explicit_bounds: p.value.bounds,
                    ..HistogramDataPoint::default()
                })
                .collect(),
            aggregation_temporality: cumulative,
        }),
        AppData::Summary(points) => Data::Summary(Summary {
            data_points: points
                .into_iter()
                .map(|p| SummaryDataPoint {
                    attributes: attributes(p.labels),
                    start_time_unix_nano: p.start_ns,
                    time_unix_nano: now_ns,
                    count: p.value.count,
                    sum: p.value.sum,
                    quantile_values: p
                        .value
                        .quantiles
                        .into_iter()
                        .map(|(quantile, value)| ValueAtQuantile { quantile, value })
                        .collect(),
                    ..SummaryDataPoint::default()
                })
                .collect(),
        }),
    };
    Metric {
        name: metric.name,
        description: metric.help,
        unit: metric.unit,
        data: Some(data),
        ..Metric::default()
    }
}

fn number(point: AppPoint<f64>, now_ns: u64) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(point.labels),
        start_time_unix_nano: point.start_ns,
        time_unix_nano: now_ns,
        value: Some(number_data_point::Value::AsDouble(point.value)),
        ..NumberDataPoint::default()
    }
}

fn attributes(labels: AppLabels) -> Vec<KeyValue> {
    let each = labels.into_iter().map(|(key, value)| KeyValue {
        key,
        value: Some(AnyValue {
            value: Some(Value::StringValue(value)),
        }),
        ..KeyValue::default()
    });
    each.collect()
}
