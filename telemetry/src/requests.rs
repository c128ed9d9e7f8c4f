//! Spans of tasks' requests, which were made of what passed by on the wire, on their way to the endpoints.

use std::sync::Arc;

use opentelemetry_proto::tonic::trace::v1::{Span, Status, span, status};
use waggle_telemetry_pipeline::{
    DropReason, TaskLabels,
    names::{self, SpanSide},
    requests::RequestSpan,
};
use waggle_types::TraceContext;

use crate::{
    otlp,
    pipe::{Owner, Pipe, Signal, lock},
    recent::{RecentSpan, SpanLink},
};

/// OTLP's flags beside W3C's: whether it is known if the parent is in another process, and whether it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// Remembers a task's spans for people who ask, and queues them.
pub(crate) fn put(pipe: &Pipe, labels: &Arc<TaskLabels>, spans: Vec<RequestSpan>) {
    let owner = Owner::Task(Arc::clone(labels));
    let service = labels.service_name();
    for mut span in spans {
        pipe.span_begun();
        pipe.span_ended();
        let Some(def) = names::find_span(&span.name) else {
            debug_assert!(false, "span {} is not in the registry", span.name);
            pipe.refuse(Signal::Spans, 1, DropReason::Unregistered);
            continue;
        };
        let before = span.attrs.len();
        span.attrs.retain(|(key, _)| {
            let known = def.allows(key);
            debug_assert!(known, "span {}: {key} is not in the registry", span.name);
            known
        });
        pipe.stripped(Signal::Spans, (before - span.attrs.len()) as u64);
        lock(&pipe.recent).request(recent(&span, &service));
        pipe.push_span(owner.clone(), wire(span));
    }
}

fn recent(span: &RequestSpan, service: &str) -> RecentSpan {
    let error = span.attrs.iter().find(|(key, _)| *key == names::ERROR_TYPE);
    RecentSpan {
        trace_id: format!("{:032x}", span.context.trace_id),
        span_id: format!("{:016x}", span.context.span_id),
        parent_id: span
            .parent
            .map_or_else(String::new, |p| format!("{p:016x}")),
        name: span.name.clone(),
        kind: match span.side {
            SpanSide::Server => "server",
            _ => "client",
        },
        component: service.to_owned(),
        start_ns: span.start_ns,
        end_ns: span.end_ns,
        attributes: span
            .attrs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.to_text()))
            .collect(),
        error: error.map(|(_, value)| value.to_text()),
        links: span.links.iter().map(SpanLink::to).collect(),
    }
}

fn wire(span: RequestSpan) -> Span {
    let remote = if span.parent_is_remote { IS_REMOTE } else { 0 };
    let link = |to: TraceContext| span::Link {
        trace_id: to.trace_id.to_be_bytes().to_vec(),
        span_id: to.span_id.to_be_bytes().to_vec(),
        flags: u32::from(to.flags),
        ..span::Link::default()
    };
    let kind = match span.side {
        SpanSide::Server => span::SpanKind::Server,
        _ => span::SpanKind::Client,
    };
    Span {
        trace_id: span.context.trace_id.to_be_bytes().to_vec(),
        span_id: span.context.span_id.to_be_bytes().to_vec(),
        parent_span_id: span
            .parent
            .map_or_else(Vec::new, |p| p.to_be_bytes().to_vec()),
        flags: u32::from(span.context.flags) | HAS_IS_REMOTE | remote,
        name: span.name,
        kind: kind as i32,
        start_time_unix_nano: span.start_ns,
        end_time_unix_nano: span.end_ns,
        attributes: otlp::key_values(&span.attrs),
        links: span.links.into_iter().map(link).collect(),
        // What failed is in `error.type`; a description that repeats it is not wanted.
        status: span.failed.then(|| Status {
            code: status::StatusCode::Error as i32,
            ..Status::default()
        }),
        ..Span::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> RequestSpan {
        RequestSpan {
            cgroup: 7,
            context: TraceContext {
                trace_id: 0x1,
                span_id: 0x2,
                flags: 1,
            },
            parent: Some(3),
            parent_is_remote: true,
            links: vec![TraceContext {
                trace_id: 4,
                span_id: 5,
                flags: 1,
            }],
            side: SpanSide::Client,
            name: "GET /cart/{id}".to_owned(),
            start_ns: 10,
            end_ns: 20,
            attrs: vec![
                ("http.request.method", "GET".into()),
                ("http.response.status_code", 503_u16.into()),
                ("error.type", "503".into()),
            ],
            failed: true,
        }
    }

    #[test]
    fn on_the_wire_nothing_is_lost() {
        let span = wire(request());
        assert_eq!(span.trace_id.last(), Some(&1));
        assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
        assert_eq!(span.parent_span_id, [0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!((span.flags, span.links.len()), (0x301, 1));
        assert_eq!(span.kind, span::SpanKind::Client as i32);
        let status = span.status.unwrap();
        assert_eq!((status.code, status.message.as_str()), (2, ""));
        assert_eq!(span.attributes.len(), 3);
        let root = wire(RequestSpan {
            parent: None,
            parent_is_remote: false,
            failed: false,
            ..request()
        });
        assert_eq!((root.parent_span_id.len(), root.flags), (0, 0x101));
        assert_eq!(root.status, None);
    }

    #[test]
    fn people_can_ask_for_them() {
        let shown = recent(&request(), "shop.web");
        assert_eq!(shown.trace_id, format!("{:032x}", 1));
        assert_eq!(shown.parent_id, format!("{:016x}", 3));
        assert_eq!(
            (shown.kind, shown.error.as_deref()),
            ("client", Some("503"))
        );
        assert_eq!(shown.component, "shop.web");
    }
}
