//! Turns the core's trace operations into spans, and remembers their contexts for what follows.

use std::collections::{BTreeMap, VecDeque};

use waggle_telemetry::{ActiveSpan, AttrValue, SpanKind, Telemetry};
use waggle_types::{TraceContext, UnixMillis};

use crate::core::{SpanKey, SpanParent, TraceAttrs, TraceKind, TraceOp};

/// Contexts remembered; the oldest are forgotten, their children then hang under the fallback.
const MAX_CONTEXTS: usize = 16_384;
/// Spans open at once; the oldest are ended with an error.
const MAX_OPEN: usize = 16_384;

/// Open spans and remembered contexts.
#[derive(Debug)]
pub(crate) struct Spans {
    telemetry: Telemetry,
    open: BTreeMap<SpanKey, ActiveSpan>,
    opened: VecDeque<SpanKey>,
    contexts: BTreeMap<SpanKey, TraceContext>,
    remembered: VecDeque<SpanKey>,
}

fn ns(at: UnixMillis) -> u64 {
    at.0.saturating_mul(1_000_000)
}

fn kind(k: TraceKind) -> SpanKind {
    match k {
        TraceKind::Internal => SpanKind::Internal,
        TraceKind::Producer => SpanKind::Producer,
    }
}

fn attrs(list: TraceAttrs) -> Vec<(&'static str, AttrValue)> {
    list.into_iter().map(|(k, v)| (k, v.into())).collect()
}

impl Spans {
    pub(crate) fn new(telemetry: Telemetry) -> Self {
        Self {
            telemetry,
            open: BTreeMap::new(),
            opened: VecDeque::new(),
            contexts: BTreeMap::new(),
            remembered: VecDeque::new(),
        }
    }

    /// Begins a span that the shell itself knows of.
    pub(crate) fn begin(
        &mut self,
        key: SpanKey,
        name: String,
        kind: SpanKind,
        parent: Option<TraceContext>,
        list: TraceAttrs,
    ) -> TraceContext {
        let span = self.telemetry.begin_span(name, kind, parent, attrs(list));
        let context = span.context();
        self.remember(key.clone(), context);
        self.open.insert(key.clone(), span);
        self.opened.push_back(key);
        while self.opened.len() > MAX_OPEN {
            if let Some(old) = self.opened.pop_front()
                && let Some(mut span) = self.open.remove(&old)
            {
                span.error("abandoned", "too many spans were open");
                span.end();
            }
        }
        context
    }

    /// Ends a span, if it is open.
    pub(crate) fn end(&mut self, key: &SpanKey, error: Option<(&str, &str)>) {
        if let Some(mut span) = self.open.remove(key) {
            if let Some((kind, message)) = error {
                span.error(kind, message);
            }
            span.end();
            self.opened.retain(|k| k != key);
        }
    }

    /// Does what the core asks for.
    pub(crate) fn run(&mut self, op: TraceOp) {
        match op {
            TraceOp::Begin {
                key,
                name,
                kind: k,
                parent,
                attrs: list,
            } => {
                let parent = self.parent(&parent);
                self.begin(key, name, kind(k), parent, list);
            }
            TraceOp::End { key, error } => {
                let error = error.as_ref().map(|(k, m)| (*k, m.as_str()));
                self.end(&key, error);
            }
            TraceOp::Record {
                key,
                name,
                kind: k,
                parent,
                start,
                end,
                attrs: list,
            } => {
                let parent = self.parent(&parent);
                let context = self.telemetry.record_span(
                    name,
                    kind(k),
                    parent,
                    ns(start),
                    ns(end),
                    attrs(list),
                );
                self.remember(key, context);
            }
        }
    }

    /// Records a span of no length and answers its context.
    pub(crate) fn point(
        &mut self,
        name: &'static str,
        parent: &SpanParent,
        list: TraceAttrs,
    ) -> TraceContext {
        let parent = self.parent(parent);
        let span = self
            .telemetry
            .begin_span(name, SpanKind::Producer, parent, attrs(list));
        span.end()
    }

    /// The context of a span that was begun or recorded here, while it is remembered.
    pub(crate) fn context(&self, key: &SpanKey) -> Option<TraceContext> {
        self.contexts.get(key).copied()
    }

    fn parent(&self, parent: &SpanParent) -> Option<TraceContext> {
        match parent {
            SpanParent::Root => None,
            SpanParent::Span(key, fallback) => self.context(key).or(*fallback),
            SpanParent::Context(c) => Some(*c),
        }
    }

    fn remember(&mut self, key: SpanKey, context: TraceContext) {
        if self.contexts.insert(key.clone(), context).is_none() {
            self.remembered.push_back(key);
        }
        while self.remembered.len() > MAX_CONTEXTS {
            if let Some(old) = self.remembered.pop_front() {
                self.contexts.remove(&old);
            }
        }
    }
}
