//! Traces of the control plane as nodes remember them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::SilentView;

/// A span that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanView {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// The same; empty where it begins a trace.
    pub parent_id: String,
    /// Name.
    pub name: String,
    /// `server`, `client`, `producer`, `consumer` or `internal`.
    pub kind: String,
    /// Which component: `waggle-agent`.
    pub component: String,
    /// Name of the node.
    pub node: String,
    /// When it began, Unix nanoseconds.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// What it says.
    pub attributes: BTreeMap<String, String>,
    /// What failed.
    pub error: Option<String>,
    /// Spans that it was done for as well, of this trace and others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkView>,
}

/// Where a span's link leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
}

/// A trace as one node remembers it: `GET /waggle/v1/spans?trace=` of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SpansView {
    /// Its spans there.
    pub spans: Vec<SpanView>,
    /// Spans that had no room.
    pub left_out: u64,
}

/// A trace: `GET /waggle/v1/traces/ID` of a master.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TraceView {
    /// 32 hex digits.
    pub trace_id: String,
    /// The task that was asked for; else the whole trace is here.
    pub task_id: Option<String>,
    /// Its spans, and those of other traces that link to one of them, in the order of their beginnings.
    pub spans: Vec<SpanView>,
    /// Spans that had no room on their nodes.
    pub left_out: u64,
    /// Nodes that did not tell.
    pub silent: Vec<SilentView>,
}

/// Each span once, in the order of their beginnings.
pub fn in_order(spans: impl IntoIterator<Item = SpanView>) -> Vec<SpanView> {
    let by_id: BTreeMap<String, SpanView> =
        spans.into_iter().map(|s| (s.span_id.clone(), s)).collect();
    let mut out: Vec<SpanView> = by_id.into_values().collect();
    out.sort_by(|a, b| {
        let order = (a.start_ns, b.end_ns).cmp(&(b.start_ns, a.end_ns));
        order.then_with(|| a.span_id.cmp(&b.span_id))
    });
    out
}

/// What of a trace a task's life is: spans that name it, what they hang under, what links to them, and what hangs under them but
/// names another task.
pub fn of_task(spans: Vec<SpanView>, task_id: &str) -> Vec<SpanView> {
    const TASK: &str = "waggle.task.id";
    let named = |s: &SpanView| s.attributes.get(TASK).map(|t| t == task_id);
    let parents: BTreeMap<&str, &str> = spans
        .iter()
        .map(|s| (s.span_id.as_str(), s.parent_id.as_str()))
        .collect();
    let ours: BTreeSet<&str> = spans
        .iter()
        .filter(|s| named(s) == Some(true))
        .map(|s| s.span_id.as_str())
        .collect();
    let mut keep: BTreeSet<String> = ours.iter().map(|id| (*id).to_owned()).collect();
    for id in &ours {
        // Parents that others have sent may be a circle.
        let mut up = parents.get(id);
        while let Some(parent) = up
            && keep.insert((*parent).to_owned())
        {
            up = parents.get(parent);
        }
    }
    for span in &spans {
        if span.links.iter().any(|l| ours.contains(l.span_id.as_str())) {
            keep.insert(span.span_id.clone());
        }
    }
    for span in spans.iter().filter(|s| named(s).is_none()) {
        let mut up = span.parent_id.as_str();
        for _ in 0..spans.len() {
            if ours.contains(up) {
                keep.insert(span.span_id.clone());
                break;
            }
            let Some(next) = parents.get(up) else { break };
            up = next;
        }
    }
    spans
        .into_iter()
        .filter(|s| keep.contains(&s.span_id))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: &str, task: &str, start_ns: u64) -> SpanView {
        let task = (!task.is_empty()).then(|| ("waggle.task.id".to_owned(), task.to_owned()));
        SpanView {
            trace_id: "t".to_owned(),
            span_id: id.to_owned(),
            parent_id: parent.to_owned(),
            name: id.to_owned(),
            kind: "internal".to_owned(),
            component: "waggle-agent".to_owned(),
            node: "n1".to_owned(),
            start_ns,
            end_ns: start_ns + 1,
            attributes: task.into_iter().collect(),
            error: None,
            links: Vec::new(),
        }
    }

    fn all() -> Vec<SpanView> {
        vec![
            span("deployment", "", "", 1),
            span("accept", "deployment", "", 2),
            span("launch-1", "accept", "web.1", 3),
            span("launch-2", "accept", "web.2", 3),
            span("receive-1", "launch-1", "web.1", 4),
            span("pull-1", "receive-1", "", 5),
            span("pull-2", "launch-2", "", 5),
            span("circle", "circle", "", 6),
        ]
    }

    #[test]
    fn a_task_has_its_own_spans_and_those_around_them() {
        let ids = |spans: Vec<SpanView>| {
            let ids = spans.into_iter().map(|s| s.span_id);
            ids.collect::<Vec<_>>()
        };
        assert_eq!(
            ids(of_task(all(), "web.1")),
            ["deployment", "accept", "launch-1", "receive-1", "pull-1"]
        );
        assert_eq!(ids(of_task(all(), "web.3")), Vec::<String>::new());
    }

    #[test]
    fn a_task_has_what_links_to_its_spans() {
        let mut spans = all();
        spans.push(span("publish-1", "launch-1", "web.1", 7));
        spans.push(span("publish-2", "launch-2", "web.2", 7));
        let mut apply = span("apply", "publish-2", "web.2", 8);
        apply.links.push(LinkView {
            trace_id: "t".to_owned(),
            span_id: "publish-1".to_owned(),
        });
        spans.push(apply);
        let has = |task: &str| {
            let of = of_task(spans.clone(), task);
            of.iter().any(|s| s.span_id == "apply")
        };
        assert!(has("web.1") && has("web.2") && !has("web.3"));
    }

    #[test]
    fn what_two_nodes_tell_is_there_once() {
        let mut twice = all();
        twice.extend(all());
        twice.reverse();
        let spans = in_order(twice);
        assert_eq!(spans.len(), all().len());
        assert!(spans.windows(2).all(|w| w[0].start_ns <= w[1].start_ns));
    }
}
