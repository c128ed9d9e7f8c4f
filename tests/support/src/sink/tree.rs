//! Spans of a trace as a tree, and as text for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::store::Span;

/// A span with its children, in order of their start.
#[derive(Debug, Clone)]
pub struct Node {
    /// The span.
    pub span: Span,
    /// Its children.
    pub children: Vec<Node>,
}

/// The trees of one trace. A span whose parent never arrived is a root of its own.
#[must_use]
pub fn forest(spans: &[Span]) -> Vec<Node> {
    let mut by_parent: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    let known: BTreeMap<&str, &Span> = spans.iter().map(|s| (s.span_id.as_str(), s)).collect();
    for span in known.values() {
        // A span that names itself as its parent would never be reached.
        let parent =
            if span.parent_id != span.span_id && known.contains_key(span.parent_id.as_str()) {
                span.parent_id.as_str()
            } else {
                ""
            };
        by_parent.entry(parent).or_default().push(span);
    }
    for children in by_parent.values_mut() {
        children.sort_by_key(|span| (span.start_ns, span.end_ns, span.span_id.clone()));
    }
    children("", &by_parent, 0)
}

/// Deeper trees are cut: a cycle in what others send must not end us.
const MAX_DEPTH: usize = 64;

fn children(parent: &str, by_parent: &BTreeMap<&str, Vec<&Span>>, depth: usize) -> Vec<Node> {
    if depth > MAX_DEPTH {
        return Vec::new();
    }
    by_parent
        .get(parent)
        .into_iter()
        .flatten()
        .map(|span| Node {
            span: (*span).clone(),
            children: children(&span.span_id, by_parent, depth + 1),
        })
        .collect()
}

/// One line per span: offset from the first start, duration, name, who, a few attributes.
#[must_use]
pub fn render(roots: &[Node]) -> String {
    let origin = roots
        .iter()
        .map(|root| root.span.start_ns)
        .min()
        .unwrap_or_default();
    let mut out = String::new();
    for root in roots {
        render_node(&mut out, root, origin, "", "");
    }
    out
}

fn render_node(out: &mut String, node: &Node, origin: u64, branch: &str, indent: &str) {
    let span = &node.span;
    let at_ms = span.start_ns.saturating_sub(origin) as f64 / 1e6;
    let took_ms = span.end_ns.saturating_sub(span.start_ns) as f64 / 1e6;
    let who = span
        .resource
        .get("service.name")
        .map_or("?", String::as_str);
    let host = span.resource.get("host.name").map_or("", String::as_str);
    let shown: Vec<String> = span
        .attributes
        .iter()
        .filter(|(key, _)| !key.starts_with("code.") && !key.starts_with("thread."))
        .take(4)
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let error = span
        .error
        .as_ref()
        .map(|e| format!(" ERROR {e}"))
        .unwrap_or_default();
    let _ = writeln!(
        out,
        "{at_ms:9.1} ms {took_ms:9.1} ms  {branch}{}  [{who}{}{host}] {}{error}",
        span.name,
        if host.is_empty() { "" } else { " on " },
        shown.join(" "),
    );
    let last = node.children.len().saturating_sub(1);
    for (index, child) in node.children.iter().enumerate() {
        let (branch, more) = if index == last {
            ("`- ", "   ")
        } else {
            ("|- ", "|  ")
        };
        render_node(
            out,
            child,
            origin,
            &format!("{indent}{branch}"),
            &format!("{indent}{more}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn span(id: &str, parent: &str, start_ns: u64) -> Span {
        Span {
            trace_id: "t".to_owned(),
            span_id: id.to_owned(),
            parent_id: parent.to_owned(),
            name: format!("span {id}"),
            start_ns,
            end_ns: start_ns + 1_000_000,
            attributes: BTreeMap::new(),
            resource: Arc::default(),
            error: None,
        }
    }

    #[test]
    fn orphans_and_cycles_are_shown_not_lost() {
        let spans = [
            span("a", "", 1),
            span("b", "a", 3),
            span("c", "a", 2),
            span("d", "gone", 4),
            span("e", "e", 5),
        ];
        let roots = forest(&spans);
        let names: Vec<&str> = roots.iter().map(|n| n.span.span_id.as_str()).collect();
        assert_eq!(names, ["a", "d", "e"]);
        let under: Vec<&str> = roots[0]
            .children
            .iter()
            .map(|n| n.span.span_id.as_str())
            .collect();
        assert_eq!(under, ["c", "b"]);
        let text = render(&roots);
        assert_eq!(text.lines().count(), 5);
        assert!(text.contains("|- span c") && text.contains("`- span b"));
    }
}
