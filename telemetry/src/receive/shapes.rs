//! What OTLP's messages take in memory: which field of which holds which.

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{
        Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram,
        HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary,
        SummaryDataPoint, exponential_histogram_data_point::Buckets,
        summary_data_point::ValueAtQuantile,
    },
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link},
    },
};
use waggle_types::expansion::Shape;

macro_rules! shape {
    ($name:ident, $message:ty $(, $field:literal = $of:ident)*) => {
        pub(super) static $name: Shape = Shape {
            size: size_of::<$message>(),
            fields: &[$(($field, &$of)),*],
        };
    };
}

shape!(ANY_VALUE, AnyValue, 5 = ARRAY_VALUE, 6 = KEY_VALUE_LIST);
shape!(ARRAY_VALUE, ArrayValue, 1 = ANY_VALUE);
shape!(KEY_VALUE_LIST, KeyValueList, 1 = KEY_VALUE);
shape!(KEY_VALUE, KeyValue, 2 = ANY_VALUE);
shape!(ENTITY_REF, EntityRef);
shape!(RESOURCE, Resource, 1 = KEY_VALUE, 3 = ENTITY_REF);
shape!(SCOPE, InstrumentationScope, 3 = KEY_VALUE);

shape!(LOGS, ExportLogsServiceRequest, 1 = RESOURCE_LOGS);
shape!(RESOURCE_LOGS, ResourceLogs, 1 = RESOURCE, 2 = SCOPE_LOGS);
shape!(SCOPE_LOGS, ScopeLogs, 1 = SCOPE, 2 = LOG_RECORD);
shape!(LOG_RECORD, LogRecord, 5 = ANY_VALUE, 6 = KEY_VALUE);

shape!(SPANS, ExportTraceServiceRequest, 1 = RESOURCE_SPANS);
shape!(RESOURCE_SPANS, ResourceSpans, 1 = RESOURCE, 2 = SCOPE_SPANS);
shape!(SCOPE_SPANS, ScopeSpans, 1 = SCOPE, 2 = SPAN);
shape!(
    SPAN,
    Span,
    9 = KEY_VALUE,
    11 = EVENT,
    13 = LINK,
    15 = STATUS
);
shape!(EVENT, Event, 3 = KEY_VALUE);
shape!(LINK, Link, 4 = KEY_VALUE);
shape!(STATUS, Status);

shape!(METRICS, ExportMetricsServiceRequest, 1 = RESOURCE_METRICS);
shape!(
    RESOURCE_METRICS,
    ResourceMetrics,
    1 = RESOURCE,
    2 = SCOPE_METRICS
);
shape!(SCOPE_METRICS, ScopeMetrics, 1 = SCOPE, 2 = METRIC);
shape!(
    METRIC,
    Metric,
    5 = GAUGE,
    7 = SUM,
    9 = HISTOGRAM,
    10 = EXPONENTIAL,
    11 = SUMMARY,
    12 = KEY_VALUE
);
shape!(GAUGE, Gauge, 1 = NUMBER_POINT);
shape!(SUM, Sum, 1 = NUMBER_POINT);
shape!(HISTOGRAM, Histogram, 1 = HISTOGRAM_POINT);
shape!(EXPONENTIAL, ExponentialHistogram, 1 = EXPONENTIAL_POINT);
shape!(SUMMARY, Summary, 1 = SUMMARY_POINT);
shape!(NUMBER_POINT, NumberDataPoint, 5 = EXEMPLAR, 7 = KEY_VALUE);
shape!(
    HISTOGRAM_POINT,
    HistogramDataPoint,
    8 = EXEMPLAR,
    9 = KEY_VALUE
);
shape!(
    EXPONENTIAL_POINT,
    ExponentialHistogramDataPoint,
    1 = KEY_VALUE,
    8 = BUCKETS,
    9 = BUCKETS,
    11 = EXEMPLAR
);
shape!(BUCKETS, Buckets);
shape!(SUMMARY_POINT, SummaryDataPoint, 6 = QUANTILE, 7 = KEY_VALUE);
shape!(QUANTILE, ValueAtQuantile);
shape!(EXEMPLAR, Exemplar, 7 = KEY_VALUE);
