//! Spans: the SDK's tracer in front of our own queue.

use std::{
    borrow::Cow,
    cell::Cell,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{
        Link, Span as _, SpanBuilder as OtelBuilder, SpanContext, SpanId, SpanKind, Status,
        TraceContextExt as _, TraceFlags, TraceId, TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider, Span as SdkSpan, SpanData,
        SpanProcessor,
    },
};
use waggle_telemetry_pipeline::{AttrValue, Attrs, DropReason, TaskLabels, names};
use waggle_types::TraceContext;

use crate::pipe::{Owner, Pipe, Signal, lock};

/// Links of a span.
pub(crate) const MAX_LINKS: u32 = 64;

/// A tracer whose spans carry one owner's resource.
#[derive(Debug)]
pub(crate) struct Tracing {
    pipe: Arc<Pipe>,
    tracer: SdkTracer,
}

impl Tracing {
    pub(crate) fn new(pipe: Arc<Pipe>, owner: Owner) -> Self {
        let tracer = tracer(&pipe, owner);
        Self { pipe, tracer }
    }
}

fn tracer(pipe: &Arc<Pipe>, owner: Owner) -> SdkTracer {
    let queue = IntoQueue {
        pipe: Arc::clone(pipe),
        owner,
    };
    // Resources are ours to make (`Owner::resource`); the SDK's detectors are not asked.
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder_empty().build())
        .with_span_processor(queue)
        .with_id_generator(Ids(RandomIdGenerator::default()))
        .with_max_links_per_span(MAX_LINKS)
        .build();
    provider.tracer(names::SCOPE_SPANS)
}

/// The end of a span puts it into the queue: on the caller's thread, without waiting.
struct IntoQueue {
    pipe: Arc<Pipe>,
    owner: Owner,
}

impl fmt::Debug for IntoQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntoQueue").finish_non_exhaustive()
    }
}

impl SpanProcessor for IntoQueue {
    fn on_start(&self, _span: &mut SdkSpan, _cx: &Context) {
        self.pipe.span_begun();
    }

    fn on_end(&self, mut span: SpanData) {
        self.pipe.span_ended();
        let fits = fit(&mut span);
        debug_assert!(fits.is_ok(), "{fits:?}");
        if let (Ok(()), Owner::Component(of)) = (&fits, &self.owner) {
            lock(&self.pipe.recent).ended(&span, of.name());
        }
        if !self.pipe.exporting || !span.span_context.is_sampled() {
            return;
        }
        match fits {
            Ok(()) => {}
            Err(Stray::Attributes(_, n)) => self.pipe.stripped(Signal::Spans, n),
            Err(Stray::Name(_)) => {
                self.pipe.refuse(Signal::Spans, 1, DropReason::Unregistered);
                return;
            }
        }
        self.pipe.push_span(self.owner.clone(), span.into());
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// What of a span is not in the registry.
#[derive(Debug, PartialEq, Eq)]
enum Stray {
    /// Its name.
    Name(String),
    /// So many attributes, which are gone from it; one of them.
    Attributes(String, u64),
}

/// Takes off a span what the registry does not know.
fn fit(span: &mut SpanData) -> Result<(), Stray> {
    let Some(def) = names::find_span(&span.name) else {
        return Err(Stray::Name(span.name.to_string()));
    };
    let mut stray: Option<(String, u64)> = None;
    span.attributes.retain(|a| {
        let known = def.allows(a.key.as_str());
        if !known {
            let (_, n) = stray.get_or_insert_with(|| (format!("{}: {}", def.name, a.key), 0));
            *n += 1;
        }
        known
    });
    stray.map_or(Ok(()), |(first, n)| Err(Stray::Attributes(first, n)))
}

thread_local! {
    /// Ids for the span that this thread is about to start, where they were chosen elsewhere.
    static CHOSEN: Cell<Option<TraceContext>> = const { Cell::new(None) };
}

/// Random ids, unless the builder has chosen them.
#[derive(Debug)]
struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        CHOSEN.get().map_or_else(
            || self.0.new_trace_id(),
            |c| TraceId::from_bytes(c.trace_id.to_be_bytes()),
        )
    }

    fn new_span_id(&self) -> SpanId {
        CHOSEN.get().map_or_else(
            || self.0.new_span_id(),
            |c| SpanId::from_bytes(c.span_id.to_be_bytes()),
        )
    }
}

/// A span to be begun.
#[derive(Debug)]
#[must_use = "nothing happens until begin"]
pub struct SpanBuilder<'a> {
    tracing: &'a Tracing,
    name: Cow<'static, str>,
    kind: SpanKind,
    parent: Option<TraceContext>,
    links: Vec<TraceContext>,
    chosen: Option<TraceContext>,
    start_ns: Option<u64>,
    attrs: Attrs,
    task: Option<Arc<TaskLabels>>,
}

impl<'a> SpanBuilder<'a> {
    pub(crate) fn new(tracing: &'a Tracing, name: Cow<'static, str>) -> Self {
        Self {
            tracing,
            name,
            kind: SpanKind::Internal,
            parent: None,
            links: Vec::new(),
            chosen: None,
            start_ns: None,
            attrs: Vec::new(),
            task: None,
        }
    }

    /// Sets the kind; internal by default.
    pub fn kind(mut self, kind: SpanKind) -> Self {
        self.kind = kind;
        self
    }

    /// Hangs it under another span, of this process or another. Without one it starts a trace.
    pub fn parent(mut self, parent: Option<TraceContext>) -> Self {
        self.parent = parent;
        self
    }

    /// Links to other spans: what else it was done for. The first 64 are kept, and how many more there were.
    pub fn links(mut self, to: impl IntoIterator<Item = TraceContext>) -> Self {
        self.links.extend(to);
        self
    }

    /// Gives it ids that were chosen elsewhere (by a core, so that it could hand them on before the
    /// span began). With a parent, the parent's trace id wins.
    pub fn context(mut self, ids: TraceContext) -> Self {
        self.chosen = Some(ids);
        self
    }

    /// When it began, Unix nanoseconds; now by default.
    pub fn start_ns(mut self, ns: u64) -> Self {
        self.start_ns = Some(ns);
        self
    }

    /// Adds attributes.
    pub fn attrs(mut self, attrs: Attrs) -> Self {
        self.attrs.extend(attrs);
        self
    }

    /// Makes it the task's span: it carries the task's resource instead of the component's.
    pub fn task(mut self, labels: &Arc<TaskLabels>) -> Self {
        self.task = Some(Arc::clone(labels));
        self
    }

    /// Begins it.
    pub fn begin(self) -> ActiveSpan {
        let mut builder = OtelBuilder::from_name(self.name).with_kind(self.kind);
        if let Some(ns) = self.start_ns {
            builder = builder.with_start_time(at(ns));
        }
        let attrs = self
            .attrs
            .into_iter()
            .map(|(k, v)| KeyValue::new(k, value(v)));
        builder = builder.with_attributes(attrs);
        let links = self.links.into_iter();
        builder = builder.with_links(
            links
                .map(|l| Link::with_context(remote(l)))
                .collect::<Vec<_>>(),
        );
        let cx = self.parent.map_or_else(Context::new, |p| {
            Context::new().with_remote_span_context(remote(p))
        });
        CHOSEN.set(self.chosen);
        let span = match self.task {
            Some(labels) => {
                let tracer = tracer(&self.tracing.pipe, Owner::Task(labels));
                tracer.build_with_context(builder, &cx)
            }
            None => self.tracing.tracer.build_with_context(builder, &cx),
        };
        CHOSEN.set(None);
        let context = local(span.span_context());
        ActiveSpan { span, context }
    }
}

/// A span that has begun. Ends when it is told to, else when it is dropped.
#[derive(Debug)]
pub struct ActiveSpan {
    span: SdkSpan,
    context: TraceContext,
}

impl ActiveSpan {
    /// Its identity, to be handed on.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// Sets an attribute.
    pub fn set(&mut self, key: &'static str, v: impl Into<AttrValue>) {
        self.span.set_attribute(KeyValue::new(key, value(v.into())));
    }

    /// Marks it as failed: status, and `error.type` (a short, bounded word).
    pub fn error(&mut self, error_type: &str, message: &str) {
        let kind = KeyValue::new(names::ERROR_TYPE, error_type.to_owned());
        self.span.set_attribute(kind);
        self.span.set_status(Status::error(message.to_owned()));
    }

    /// A tracing span that stands for this one: events inside of it carry its ids.
    pub fn tracing_span(&self) -> tracing::Span {
        tracing::info_span!("span", traceparent = %self.context)
    }

    /// Ends it now.
    pub fn end(mut self) -> TraceContext {
        self.span.end();
        self.context
    }

    /// Ends it at a time, Unix nanoseconds.
    pub fn end_at(mut self, ns: u64) -> TraceContext {
        self.span.end_with_timestamp(at(ns));
        self.context
    }
}

fn at(ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(ns)
}

fn remote(c: TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(c.trace_id.to_be_bytes()),
        SpanId::from_bytes(c.span_id.to_be_bytes()),
        TraceFlags::new(c.flags),
        true,
        TraceState::default(),
    )
}

fn local(c: &SpanContext) -> TraceContext {
    TraceContext {
        trace_id: u128::from_be_bytes(c.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(c.span_id().to_bytes()),
        flags: c.trace_flags().to_u8(),
    }
}

fn value(v: AttrValue) -> opentelemetry::Value {
    match v {
        AttrValue::Bool(b) => b.into(),
        AttrValue::I64(i) => i.into(),
        AttrValue::F64(f) => f.into(),
        AttrValue::Str(s) => s.into(),
        other => other.to_text().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(name: &'static str, keys: &[&'static str]) -> SpanData {
        SpanData {
            span_context: SpanContext::NONE,
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: UNIX_EPOCH,
            end_time: UNIX_EPOCH,
            attributes: keys.iter().map(|k| KeyValue::new(*k, "x")).collect(),
            dropped_attributes_count: 0,
            events: opentelemetry_sdk::trace::SpanEvents::default(),
            links: opentelemetry_sdk::trace::SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: opentelemetry::InstrumentationScope::default(),
        }
    }

    #[test]
    fn what_the_registry_does_not_know_goes() {
        let mut fine = data("task.running", &["waggle.task.id", names::ERROR_TYPE]);
        assert_eq!(fit(&mut fine), Ok(()));
        let mut odd = data("task.running", &["made.up", "waggle.node", "made.too"]);
        let stray = Stray::Attributes("task.running: made.up".into(), 2);
        assert_eq!(fit(&mut odd), Err(stray));
        assert_eq!(odd.attributes.len(), 1);
        assert_eq!(
            fit(&mut data("made.up", &[])),
            Err(Stray::Name("made.up".into()))
        );
    }
}
