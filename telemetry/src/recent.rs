//! Spans of the process's own components, and of tasks' requests, that have ended lately, kept in memory: for people who ask, whether
//! there is an endpoint or not.
//!
//! # Invariants
//! - At most [`MAX_SPANS`] in all and [`MAX_OF_TRACE`] of one trace; the trace that was begun first goes first, whole.
//! - Of requests, of which there may be thousands a second, at most [`MAX_REQUESTS`], beside the others.
//! - What a trace had no room for is counted in it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry::trace::{Link, SpanId, SpanKind, Status};
use opentelemetry_sdk::trace::SpanData;
use waggle_types::TraceContext;

/// A few hundred bytes each.
const MAX_SPANS: usize = 16_384;
/// Two thousand bytes each.
const MAX_REQUESTS: usize = 4096;
/// A deployment of some hundred tasks.
const MAX_OF_TRACE: usize = 4096;

/// A span that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentSpan {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// The same; empty where it begins a trace.
    pub parent_id: String,
    /// Name.
    pub name: String,
    /// `server`, `client`, `producer`, `consumer` or `internal`.
    pub kind: &'static str,
    /// Which component: `waggle-agent`.
    pub component: String,
    /// Unix nanoseconds.
    pub start_ns: u64,
    /// The same.
    pub end_ns: u64,
    /// What it says.
    pub attributes: BTreeMap<String, String>,
    /// What failed.
    pub error: Option<String>,
    /// Spans that it was done for as well, of this trace and others.
    pub links: Vec<SpanLink>,
}

/// Where a link leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanLink {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
}

impl RecentSpan {
    fn of(span: &SpanData, component: &str) -> Self {
        let attributes = span.attributes.iter();
        let attributes = attributes.map(|a| {
            let key = a.key.as_str().to_owned();
            (key, a.value.as_str().into_owned())
        });
        Self {
            trace_id: span.span_context.trace_id().to_string(),
            span_id: span.span_context.span_id().to_string(),
            parent_id: Some(span.parent_span_id)
                .filter(|id| *id != SpanId::INVALID)
                .map(|id| id.to_string())
                .unwrap_or_default(),
            name: span.name.to_string(),
            kind: match span.span_kind {
                SpanKind::Server => "server",
                SpanKind::Client => "client",
                SpanKind::Producer => "producer",
                SpanKind::Consumer => "consumer",
                SpanKind::Internal => "internal",
            },
            component: component.to_owned(),
            start_ns: ns(span.start_time),
            end_ns: ns(span.end_time),
            attributes: attributes.collect(),
            error: match &span.status {
                Status::Error { description } => Some(description.to_string()),
                _ => None,
            },
            links: span.links.iter().map(SpanLink::of).collect(),
        }
    }
}

impl SpanLink {
    /// To a span.
    pub(crate) fn to(span: &TraceContext) -> Self {
        Self {
            trace_id: format!("{:032x}", span.trace_id),
            span_id: format!("{:016x}", span.span_id),
        }
    }

    fn of(link: &Link) -> Self {
        Self {
            trace_id: link.span_context.trace_id().to_string(),
            span_id: link.span_context.span_id().to_string(),
        }
    }
}

fn ns(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Recent {
    own: Traces,
    requests: Traces,
}

#[derive(Debug)]
struct Traces {
    most: usize,
    by_id: BTreeMap<String, Trace>,
    order: VecDeque<String>,
    n_spans: usize,
}

#[derive(Debug, Default)]
struct Trace {
    spans: Vec<RecentSpan>,
    left_out: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            own: Traces::new(MAX_SPANS),
            requests: Traces::new(MAX_REQUESTS),
        }
    }
}

impl Recent {
    /// A component's span has ended.
    pub(crate) fn ended(&mut self, span: &SpanData, component: &str) {
        self.own.put(RecentSpan::of(span, component));
    }

    /// So has a task's request.
    pub(crate) fn request(&mut self, span: RecentSpan) {
        self.requests.put(span);
    }

    /// Spans of one trace, and how many more there were.
    pub(crate) fn of_trace(&self, trace_id: &str) -> (Vec<RecentSpan>, u64) {
        let (mut spans, own) = self.own.of_trace(trace_id);
        let (of_requests, theirs) = self.requests.of_trace(trace_id);
        spans.extend(of_requests);
        (spans, own + theirs)
    }

    /// The newest trace with a span that says so; of requests if no component's does.
    pub(crate) fn find(&self, key: &str, value: &str) -> Option<String> {
        let own = self.own.find(key, value);
        own.or_else(|| self.requests.find(key, value))
    }
}

impl Traces {
    fn new(most: usize) -> Self {
        Self {
            most,
            by_id: BTreeMap::new(),
            order: VecDeque::new(),
            n_spans: 0,
        }
    }

    fn put(&mut self, span: RecentSpan) {
        let trace = self
            .by_id
            .entry(span.trace_id.clone())
            .or_insert_with_key(|id| {
                self.order.push_back(id.clone());
                Trace::default()
            });
        if trace.spans.len() >= MAX_OF_TRACE {
            trace.left_out += 1;
            return;
        }
        trace.spans.push(span);
        self.n_spans += 1;
        while self.n_spans > self.most {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            let gone = self.by_id.remove(&oldest);
            self.n_spans -= gone.map_or(0, |t| t.spans.len());
        }
    }

    /// Spans of one trace, then those of others that link to one of it, and how many more there were of it.
    fn of_trace(&self, trace_id: &str) -> (Vec<RecentSpan>, u64) {
        let found = self.by_id.get(trace_id);
        let (mut spans, left_out) =
            found.map_or((Vec::new(), 0), |t| (t.spans.clone(), t.left_out));
        let others = self.by_id.iter().filter(|(id, _)| *id != trace_id);
        let leads_here = |s: &&RecentSpan| s.links.iter().any(|l| l.trace_id == trace_id);
        let linked = others.flat_map(|(_, t)| t.spans.iter().filter(leads_here));
        spans.extend(linked.take(MAX_OF_TRACE).cloned());
        (spans, left_out)
    }

    fn find(&self, key: &str, value: &str) -> Option<String> {
        let says = |s: &RecentSpan| s.attributes.get(key).is_some_and(|v| v == value);
        let mut newest = self.order.iter().rev();
        let found = newest.find(|id| {
            let trace = self.by_id.get(*id);
            trace.is_some_and(|t| t.spans.iter().any(says))
        });
        found.cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(trace: usize, n: usize) -> RecentSpan {
        RecentSpan {
            trace_id: format!("{trace:032x}"),
            span_id: format!("{n:016x}"),
            parent_id: String::new(),
            name: "task.receive".to_owned(),
            kind: "consumer",
            component: "waggle-agent".to_owned(),
            start_ns: 1,
            end_ns: 2,
            attributes: [("waggle.task.id".to_owned(), format!("web.{trace}"))].into(),
            error: None,
            links: Vec::new(),
        }
    }

    #[test]
    fn the_oldest_trace_goes_whole_and_no_trace_takes_all() {
        let mut recent = Traces::new(MAX_SPANS);
        for n in 0..MAX_OF_TRACE + 3 {
            recent.put(span(0, n));
        }
        let (spans, left_out) = recent.of_trace(&format!("{:032x}", 0));
        assert_eq!((spans.len(), left_out), (MAX_OF_TRACE, 3));
        for trace in 1..=MAX_SPANS - MAX_OF_TRACE {
            recent.put(span(trace, 1));
        }
        assert_eq!(recent.n_spans, MAX_SPANS);
        assert!(recent.find("waggle.task.id", "web.0").is_some());
        recent.put(span(MAX_SPANS, 1));
        assert_eq!(recent.find("waggle.task.id", "web.0"), None);
        assert_eq!(recent.n_spans, MAX_SPANS - MAX_OF_TRACE + 1);
        assert_eq!(recent.order.len(), recent.by_id.len());
        let found = recent.find("waggle.task.id", "web.7").unwrap();
        assert_eq!(recent.of_trace(&found).0, [span(7, 1)]);
    }

    #[test]
    fn a_trace_has_what_links_to_it() {
        let telemetry = crate::Telemetry::disabled().component("waggle-agent");
        let publish = |task: &str| {
            let attrs = vec![("waggle.task.id", task.into())];
            telemetry.record_span("vip.publish", SpanKind::Producer, None, 1, 2, attrs)
        };
        let tasks: Vec<_> = (0..100).map(|n| publish(&format!("web.{n}"))).collect();
        let apply = telemetry.span("vip.apply").parent(Some(tasks[0]));
        apply.links(tasks[1..].iter().copied()).begin().end();
        let of = |n: usize| {
            telemetry
                .recent_spans(&format!("{:032x}", tasks[n].trace_id))
                .0
        };
        let [_, own] = of(0).try_into().unwrap();
        assert_eq!(own.links.len(), crate::spans::MAX_LINKS as usize);
        let [published, linked] = of(5).try_into().unwrap();
        assert_eq!(linked.span_id, own.span_id);
        let to = SpanLink {
            trace_id: published.trace_id,
            span_id: published.span_id,
        };
        assert!(linked.links.contains(&to));
        assert_eq!(of(99).len(), 1, "beyond the bound");
    }

    #[test]
    fn requests_take_no_room_of_the_others() {
        let mut recent = Recent::default();
        recent.own.put(span(0, 1));
        for trace in 0..2 * MAX_REQUESTS {
            recent.request(span(trace, 2));
        }
        assert_eq!(recent.requests.n_spans, MAX_REQUESTS);
        let of = |trace: usize| recent.of_trace(&format!("{trace:032x}")).0;
        assert_eq!(of(0), [span(0, 1)]);
        assert_eq!(of(2 * MAX_REQUESTS - 1), [span(2 * MAX_REQUESTS - 1, 2)]);
        assert!(recent.find("waggle.task.id", "web.0").is_some());
    }

    #[test]
    fn components_are_remembered_without_an_endpoint() {
        let telemetry = crate::Telemetry::disabled().component("waggle-agent");
        let attrs = vec![("waggle.task.id", "web.1".into())];
        let (consumer, internal) = (SpanKind::Consumer, SpanKind::Internal);
        let receive = telemetry.record_span("task.receive", consumer, None, 1, 2, attrs);
        let mut create = telemetry.begin_span("container.create", internal, Some(receive), vec![]);
        create.error("launch_failed", "no such user");
        create.end();
        let trace = telemetry
            .recent_trace_of("waggle.task.id", "web.1")
            .unwrap();
        let (spans, left_out) = telemetry.recent_spans(&trace);
        assert_eq!((spans.len(), left_out), (2, 0));
        let [first, second] = spans.as_slice() else {
            panic!("{spans:?}")
        };
        assert_eq!(
            (first.start_ns, first.end_ns, first.kind),
            (1, 2, "consumer")
        );
        assert_eq!(
            (first.parent_id.as_str(), first.component.as_str()),
            ("", "waggle-agent")
        );
        assert_eq!(second.parent_id, first.span_id);
        assert_eq!(second.error.as_deref(), Some("no such user"));
        assert_eq!(telemetry.recent_spans("0").0, []);
    }
}
