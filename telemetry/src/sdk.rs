//! The books under the names that the conventions have for a pipeline of telemetry: what dashboards of others look for.

use waggle_telemetry_pipeline::{
    AttrValue, Attrs, Counts, DropReason, MetricDef, Point, PointData, names,
};

use crate::{Protocol, Signal};

/// One signal's way to an endpoint, at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage<'a> {
    pub(crate) signal: Signal,
    /// The endpoint: host and port.
    pub(crate) to: &'a str,
    pub(crate) protocol: Protocol,
    pub(crate) counts: Counts,
    pub(crate) queued: u64,
    pub(crate) capacity: u64,
    pub(crate) in_flight: u64,
}

/// What never came as far as an exporter.
const BEFORE: [DropReason; 4] = [
    DropReason::QueueFull,
    DropReason::TooLarge,
    DropReason::SeriesLimit,
    DropReason::Unregistered,
];
/// What exporters gave up.
const FAILED: [DropReason; 2] = [DropReason::Rejected, DropReason::ExportFailed];

/// The exporter of a signal, as a component of an SDK: its type, and a name that no other has.
pub(crate) fn exporter(signal: Signal, protocol: Protocol, to: &str) -> Attrs {
    let kind = match (protocol, signal) {
        (Protocol::Grpc, Signal::Logs) => "otlp_grpc_log_exporter",
        (Protocol::Grpc, Signal::Spans) => "otlp_grpc_span_exporter",
        (Protocol::Grpc, Signal::Metrics) => "otlp_grpc_metric_exporter",
        (Protocol::Http, Signal::Logs) => "otlp_http_log_exporter",
        (Protocol::Http, Signal::Spans) => "otlp_http_span_exporter",
        (Protocol::Http, Signal::Metrics) => "otlp_http_metric_exporter",
        (Protocol::HttpJson, Signal::Logs) => "otlp_http_json_log_exporter",
        (Protocol::HttpJson, Signal::Spans) => "otlp_http_json_span_exporter",
        (Protocol::HttpJson, Signal::Metrics) => "otlp_http_json_metric_exporter",
    };
    component(kind, to)
}

fn component(kind: &'static str, to: &str) -> Attrs {
    vec![
        (names::OTEL_COMPONENT_TYPE, kind.into()),
        (names::OTEL_COMPONENT_NAME, format!("{kind}/{to}").into()),
    ]
}

fn up_down(n: u64) -> PointData {
    PointData::UpDown(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Its points.
pub(crate) fn points(stage: &Stage<'_>, start_ns: u64, now_ns: u64) -> Vec<Point> {
    let Stage { signal, counts, .. } = *stage;
    let mut out = Vec::new();
    let mut push = |def, attrs, data| out.push(Point::new(def, attrs, data, start_ns, now_ns));
    let (exported, in_flight): (&'static MetricDef, &'static MetricDef) = match signal {
        Signal::Logs => (&names::OTEL_LOG_EXPORTED, &names::OTEL_LOG_INFLIGHT),
        Signal::Spans => (&names::OTEL_SPAN_EXPORTED, &names::OTEL_SPAN_INFLIGHT),
        Signal::Metrics => (&names::OTEL_POINT_EXPORTED, &names::OTEL_POINT_INFLIGHT),
    };
    let exporter = exporter(signal, stage.protocol, stage.to);
    let failed = |attrs: &Attrs, why: DropReason| {
        let mut attrs = attrs.clone();
        attrs.push((names::ERROR_TYPE, AttrValue::from(why.name())));
        attrs
    };
    push(exported, exporter.clone(), PointData::Sum(counts.exported));
    for why in FAILED {
        let n = PointData::Sum(counts.dropped(why));
        push(exported, failed(&exporter, why), n);
    }
    push(in_flight, exporter, up_down(stage.in_flight));
    let (kind, size, capacity, processed) = match signal {
        Signal::Logs => (
            "batching_log_processor",
            &names::OTEL_LOG_QUEUE_SIZE,
            &names::OTEL_LOG_QUEUE_CAPACITY,
            &names::OTEL_LOG_PROCESSED,
        ),
        Signal::Spans => (
            "batching_span_processor",
            &names::OTEL_SPAN_QUEUE_SIZE,
            &names::OTEL_SPAN_QUEUE_CAPACITY,
            &names::OTEL_SPAN_PROCESSED,
        ),
        // The conventions know of no processor of points.
        Signal::Metrics => return out,
    };
    let processor = component(kind, stage.to);
    push(size, processor.clone(), up_down(stage.queued));
    push(capacity, processor.clone(), up_down(stage.capacity));
    let before: u64 = BEFORE.iter().map(|why| counts.dropped(*why)).sum();
    let handed_on = counts.input.saturating_sub(stage.queued + before);
    push(processed, processor.clone(), PointData::Sum(handed_on));
    for why in BEFORE {
        let n = PointData::Sum(counts.dropped(why));
        push(processed, failed(&processor, why), n);
    }
    out
}

#[cfg(test)]
mod tests {
    use waggle_telemetry_pipeline::{Limits, Queue};

    use super::*;

    #[test]
    fn what_is_processed_and_exported_adds_up_to_what_came() {
        let mut queue = Queue::new(Limits {
            max_items: 3,
            max_bytes: 1000,
        });
        // Two find no room, one waits, two are on their way.
        for n in 0..5 {
            queue.push(n, 1);
        }
        let batch = queue.take(2, 1000).unwrap();
        let stage = |counts, queued, in_flight| Stage {
            signal: Signal::Logs,
            to: "a:4317",
            protocol: Protocol::Grpc,
            counts,
            queued,
            capacity: 3,
            in_flight,
        };
        let of = |points: &[Point], name: &str, error: Option<&str>| {
            let found = points.iter().find(|p| {
                let has = p.attrs.iter().find(|(k, _)| *k == names::ERROR_TYPE);
                p.def.name == name
                    && has.map(|(_, v)| v.clone()) == error.map(|e| e.to_owned().into())
            });
            match found.map(|p| &p.data) {
                Some(PointData::Sum(n)) => i64::try_from(*n).unwrap(),
                Some(PointData::UpDown(n)) => *n,
                other => panic!("{name}: {other:?}"),
            }
        };
        let all = points(&stage(queue.counts(), 1, 2), 1, 2);
        assert!(all.iter().all(|p| p.violation().is_none()));
        let processed = "otel.sdk.processor.log.processed";
        let exported = "otel.sdk.exporter.log.exported";
        assert_eq!(of(&all, processed, None), 2);
        assert_eq!(of(&all, processed, Some("queue_full")), 2);
        assert_eq!(of(&all, "otel.sdk.processor.log.queue.size", None), 1);
        assert_eq!(of(&all, "otel.sdk.processor.log.queue.capacity", None), 3);
        assert_eq!(of(&all, "otel.sdk.exporter.log.inflight", None), 2);
        assert_eq!(of(&all, exported, None), 0);
        queue.exported(batch, 1);
        let all = points(&stage(queue.counts(), 1, 0), 1, 2);
        assert_eq!(of(&all, exported, None), 1);
        assert_eq!(of(&all, exported, Some("rejected")), 1);
        for signal in Signal::ALL {
            let stage = Stage {
                signal,
                ..stage(queue.counts(), 1, 0)
            };
            assert!(points(&stage, 1, 2).iter().all(|p| p.violation().is_none()));
        }
    }
}
