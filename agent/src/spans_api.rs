//! `GET /waggle/v1/spans`: what this process remembers of a trace, by its id or by a task's.

use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use waggle_api::native::{LinkView, SpanView, SpansView};
use waggle_telemetry::{RecentSpan, SpanLink, Telemetry};

use crate::files::problem;

/// The query, as it comes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    trace: Option<String>,
    task: Option<String>,
}

#[derive(Clone)]
struct SpansApi {
    telemetry: Telemetry,
    node: String,
}

/// The route.
pub fn routes(telemetry: Telemetry, node: String) -> Router {
    Router::new()
        .route("/waggle/v1/spans", get(spans))
        .with_state(SpansApi { telemetry, node })
}

async fn spans(
    State(api): State<SpansApi>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let wanted = match query {
        Ok(Query(wanted)) => wanted,
        Err(e) => return problem(StatusCode::BAD_REQUEST, &e.body_text()),
    };
    let trace_id = match (wanted.trace, wanted.task) {
        (Some(trace), None) => Some(trace),
        (None, Some(task)) => api.telemetry.recent_trace_of("waggle.task.id", &task),
        _ => {
            return problem(
                StatusCode::BAD_REQUEST,
                "either trace or task must be named",
            );
        }
    };
    let (spans, left_out) = trace_id
        .map(|id| api.telemetry.recent_spans(&id))
        .unwrap_or_default();
    let spans = spans.into_iter().map(|s| view(s, &api.node)).collect();
    Json(SpansView { spans, left_out }).into_response()
}

fn view(span: RecentSpan, node: &str) -> SpanView {
    SpanView {
        trace_id: span.trace_id,
        span_id: span.span_id,
        parent_id: span.parent_id,
        name: span.name,
        kind: span.kind.to_owned(),
        component: span.component,
        node: node.to_owned(),
        start_ns: span.start_ns,
        end_ns: span.end_ns,
        attributes: span.attributes,
        error: span.error,
        links: span.links.into_iter().map(link).collect(),
    }
}

fn link(to: SpanLink) -> LinkView {
    LinkView {
        trace_id: to.trace_id,
        span_id: to.span_id,
    }
}
