//! Spans as lines, those that hang under others indented. Pure.

use std::collections::{BTreeMap, BTreeSet};

use waggle_api::native::{SpanView, TraceView};

use crate::{show::micros, times};

/// Deeper ones begin anew at the margin.
const MAX_DEPTH: usize = 32;
/// Attributes that say something which the line does not say already, and how.
const TOLD: [(&str, &str); 11] = [
    ("waggle.deployment.of", "of"),
    ("waggle.deployment.actions", ""),
    ("service.name", ""),
    ("waggle.task.id", ""),
    ("waggle.role", "role"),
    ("waggle.image", ""),
    ("waggle.runtime", ""),
    ("waggle.vip.names", ""),
    ("waggle.generation", "generation"),
    ("waggle.map.writes", "map writes"),
    ("waggle.traffic.source", "by"),
];

/// The whole tree: when each began after the first, how long it took, what it was, where.
pub fn text(trace: &TraceView) -> String {
    let first = trace.spans.iter().map(|s| s.start_ns).min().unwrap_or(0);
    let last = trace.spans.iter().map(|s| s.end_ns).max().unwrap_or(0);
    let known: BTreeSet<&str> = trace.spans.iter().map(|s| s.span_id.as_str()).collect();
    let mut under: BTreeMap<&str, Vec<&SpanView>> = BTreeMap::new();
    let mut linked: BTreeMap<&str, Vec<&SpanView>> = BTreeMap::new();
    for span in &trace.spans {
        let parent = span.parent_id.as_str();
        let is_known = known.contains(parent) && parent != span.span_id;
        let links: BTreeSet<&str> = span.links.iter().map(|l| l.span_id.as_str()).collect();
        let mut is_linked = false;
        for to in links.intersection(&known).copied() {
            if to == parent {
                continue;
            }
            linked.entry(to).or_default().push(span);
            is_linked = true;
        }
        // One of another trace has its place by its link.
        if is_linked && !is_known {
            continue;
        }
        under
            .entry(if is_known { parent } else { "" })
            .or_default()
            .push(span);
    }
    let at = times::exact(first / 1_000_000);
    let took = micros(last.saturating_sub(first) / 1000);
    let n = trace.spans.len();
    let mut out = format!("trace {}, {at}, {took}, {n} spans\n", trace.trace_id);
    let mut lines = Lines {
        under,
        linked,
        first,
        out: Vec::new(),
    };
    for span in lines.under.remove("").unwrap_or_default() {
        lines.add(span, 0);
    }
    // What hangs under itself by others, or too deep.
    while let Some((_, left)) = lines.under.pop_first() {
        for span in left {
            lines.add(span, 0);
        }
    }
    let columns: [usize; 2] = [0_usize, 1].map(|i| {
        let widths = lines.out.iter().map(|l| l[i].chars().count());
        widths.max().unwrap_or(0)
    });
    for [at, took, what] in &lines.out {
        let [first, second] = columns;
        out.push_str(&format!("{at:>first$}  {took:>second$}  {what}\n"));
    }
    out
}

struct Lines<'a> {
    under: BTreeMap<&'a str, Vec<&'a SpanView>>,
    linked: BTreeMap<&'a str, Vec<&'a SpanView>>,
    first: u64,
    out: Vec<[String; 3]>,
}

impl<'a> Lines<'a> {
    fn add(&mut self, span: &'a SpanView, depth: usize) {
        self.line(span, depth, "");
        if depth < MAX_DEPTH {
            // Each is added once: one that was here before has no children left.
            for child in self.under.remove(span.span_id.as_str()).unwrap_or_default() {
                self.add(child, depth + 1);
            }
        }
        // What hangs under them has its place where they have.
        for other in self
            .linked
            .remove(span.span_id.as_str())
            .unwrap_or_default()
        {
            self.line(other, depth + 1, " (linked)");
        }
    }

    fn line(&mut self, span: &SpanView, depth: usize, how: &str) {
        let after = span.start_ns.saturating_sub(self.first) / 1000;
        let took = span.end_ns.saturating_sub(span.start_ns) / 1000;
        let indent = "  ".repeat(depth);
        let mut what = format!("{indent}{} [{}]{how}", span.name, place(span));
        for (key, word) in TOLD {
            if let Some(value) = span.attributes.get(key).filter(|v| !v.is_empty()) {
                let space = if word.is_empty() { "" } else { " " };
                what.push_str(&format!(" {word}{space}{value}"));
            }
        }
        if let Some(error) = &span.error {
            what.push_str(&format!(" failed: {error}"));
        }
        let took = if took == 0 {
            String::new()
        } else {
            micros(took)
        };
        self.out.push([format!("+{}", micros(after)), took, what]);
    }
}

/// `master n1`.
fn place(span: &SpanView) -> String {
    let who = span.component.trim_start_matches("waggle-");
    format!("{who} {}", span.node)
}

#[cfg(test)]
mod tests {
    use waggle_api::native::LinkView;

    use super::*;

    fn span(id: &str, parent: &str, name: &str, (start, end): (u64, u64)) -> SpanView {
        let master = name.starts_with("dep") || name.starts_with("offer");
        SpanView {
            trace_id: "t1".to_owned(),
            span_id: id.to_owned(),
            parent_id: parent.to_owned(),
            name: name.to_owned(),
            kind: "internal".to_owned(),
            component: if master {
                "waggle-master"
            } else {
                "waggle-agent"
            }
            .to_owned(),
            node: if master { "n1" } else { "n2" }.to_owned(),
            start_ns: 1_764_000_000_000_000_000 + start * 1000,
            end_ns: 1_764_000_000_000_000_000 + end * 1000,
            attributes: BTreeMap::new(),
            error: None,
            links: Vec::new(),
        }
    }

    #[test]
    fn what_was_done_for_several_is_shown_with_each() {
        let link = |to: &str| LinkView {
            trace_id: "t1".to_owned(),
            span_id: to.to_owned(),
        };
        let mut both = span("c", "a", "vip.apply", (10, 20));
        both.links = vec![link("b"), link("far")];
        // Of another trace: its own parent is not here.
        let mut other = span("d", "elsewhere", "vip.apply", (30, 40));
        other.links = vec![link("b")];
        let trace = TraceView {
            trace_id: "t1".to_owned(),
            spans: vec![
                span("a", "", "vip.publish", (0, 0)),
                span("b", "", "vip.publish", (1, 1)),
                both,
                other,
            ],
            ..TraceView::default()
        };
        let text = text(&trace);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                " +0 us         vip.publish [agent n2]",
                "+10 us  10 us    vip.apply [agent n2]",
                " +1 us         vip.publish [agent n2]",
                "+10 us  10 us    vip.apply [agent n2] (linked)",
                "+30 us  10 us    vip.apply [agent n2] (linked)",
            ]
        );
    }

    #[test]
    fn spans_are_a_tree_with_times() {
        let mut launch = span("c", "b", "task.launch", (900, 21_000));
        launch.attributes = [("waggle.task.id".to_owned(), "web.1".to_owned())].into();
        let mut failed = span("d", "c", "image.pull", (1_000, 3_500));
        failed.error = Some("not found".to_owned());
        let trace = TraceView {
            trace_id: "t1".to_owned(),
            spans: vec![
                span("a", "", "deployment d1", (0, 1_250_000)),
                span("b", "a", "offer.accept", (400, 400)),
                launch,
                failed,
                span("x", "gone", "vip.apply", (30_000, 30_120)),
                span("y", "y", "odd", (40_000, 40_001)),
            ],
            ..TraceView::default()
        };
        assert_eq!(
            text(&trace),
            "\
trace t1, 2025-11-24T16:00:00.000Z, 1250.0 ms, 6 spans
   +0 us  1250.0 ms  deployment d1 [master n1]
 +400 us               offer.accept [master n1]
 +900 us    20.1 ms      task.launch [agent n2] web.1
 +1.0 ms     2.5 ms        image.pull [agent n2] failed: not found
+30.0 ms     120 us  vip.apply [agent n2]
+40.0 ms       1 us  odd [agent n2]
"
        );
    }
}
