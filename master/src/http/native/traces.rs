//! `GET /waggle/v1/traces/ID`: a deployment's or a task's trace, of what this master and all agents remember.

use waggle_api::{
    error::{ApiError, ErrorCode},
    native::{LinkView, PrefixError, SpanView, SpansView, TraceView, by_prefix, in_order, of_task},
};
use waggle_telemetry::{RecentSpan, SpanLink};

use super::gather::gather;
use crate::{
    http::{Api, respond::Fail},
    view::ClusterView,
};

/// By a deployment's id, a task's id or its beginning.
pub(super) async fn trace(api: &Api, text: &str) -> Result<TraceView, Fail> {
    let view = api.view();
    let of_deployment = api.telemetry.recent_trace_of("waggle.deployment.id", text);
    let of_deployment = of_deployment.or_else(|| under_way(&view, text, api));
    let (task_id, trace_id) = if of_deployment.is_some() {
        (None, of_deployment)
    } else {
        let id = task(&view, text)?;
        let known = view.tasks.values().find(|t| t.id.as_str() == id);
        let trace = known.and_then(|t| t.trace());
        let trace_id = trace.map(|t| format!("{:032x}", t.trace_id));
        let own = || api.telemetry.recent_trace_of("waggle.task.id", &id);
        let trace_id = trace_id.or_else(own);
        (Some(id), trace_id)
    };
    // Of a task whose master was another one, its agent still knows.
    let path = match (&trace_id, &task_id) {
        (Some(trace), _) => format!("/waggle/v1/spans?trace={trace}"),
        (None, task) => {
            let task = task.as_deref().unwrap_or_default();
            format!("/waggle/v1/spans?task={}", super::relay::encode(task))
        }
    };
    let own = trace_id.as_deref().map(|id| api.telemetry.recent_spans(id));
    let (own, mut left_out) = own.unwrap_or_default();
    let node = view.leader.as_ref().map(|l| l.hostname.clone());
    let node = node.unwrap_or_default();
    let mut spans: Vec<SpanView> = own.into_iter().map(|s| shown(s, &node)).collect();
    let take = |told: SpansView| {
        spans.extend(told.spans);
        left_out += told.left_out;
    };
    let silent = gather(api, &view, &path, take).await?;
    let mut spans = in_order(spans);
    if let Some(task) = &task_id {
        spans = of_task(spans, task);
    }
    let Some(first) = spans.first() else {
        let why = format!(
            "{text:.200}: nobody remembers its trace; it may be too long ago, or before a restart"
        );
        return Err(Fail::not_found(why));
    };
    Ok(TraceView {
        // Others' spans may have begun before, and only link here.
        trace_id: trace_id.unwrap_or_else(|| first.trace_id.clone()),
        task_id,
        left_out,
        silent,
        spans,
    })
}

/// A deployment whose own span is still open: by what was launched for one of its services since it began.
fn under_way(view: &ClusterView, text: &str, api: &Api) -> Option<String> {
    let deployment = view.deployments.values().find(|d| d.id.as_str() == text)?;
    let ours = view.tasks.values().filter(|t| {
        let mut services = deployment.services.keys();
        let is_of = services.any(|s| s.as_str() == t.spec.service);
        is_of && t.staged_at >= deployment.since
    });
    let newest = ours.max_by_key(|t| t.staged_at)?;
    let trace = newest.trace().map(|t| format!("{:032x}", t.trace_id));
    trace.or_else(|| {
        api.telemetry
            .recent_trace_of("waggle.task.id", newest.id.as_str())
    })
}

fn task(view: &ClusterView, text: &str) -> Result<String, Fail> {
    let live = by_prefix(view.tasks.values().map(|t| t.id.as_str()), text);
    let found = match live {
        Err(PrefixError::Nothing(_)) => {
            by_prefix(view.completed.iter().map(|t| t.id.as_str()), text)
        }
        found => found,
    };
    found.map(ToOwned::to_owned).map_err(|e| match e {
        PrefixError::Nothing(_) => Fail::not_found(format!(
            "{text:.200?} is no task here, and no deployment that is remembered"
        )),
        PrefixError::Several { .. } => ApiError::new(ErrorCode::Conflict, e.to_string()).into(),
    })
}

fn shown(span: RecentSpan, node: &str) -> SpanView {
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
