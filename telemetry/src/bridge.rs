//! This process's own tracing events as log records.

use std::{borrow::Cow, fmt, sync::Arc};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};
use waggle_telemetry_pipeline::{AttrValue, LogRecord, Severity, names};
use waggle_types::TraceContext;

use crate::pipe::{Owner, Pipe, now_ns};

/// Field of a tracing span or event that names an OpenTelemetry span, as a `traceparent`.
const TRACEPARENT: &str = "traceparent";

/// Crates whose events are about moving telemetry (or any RPC): they would feed themselves.
const TRANSPORT: [&str; 9] = [
    "h2",
    "hyper",
    "hyper_util",
    "opentelemetry",
    "opentelemetry_sdk",
    "reqwest",
    "tonic",
    "tower",
    "waggle_telemetry",
];

/// Whether events of a target are kept out of the log queue.
pub(crate) fn is_transport(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or(target);
    TRANSPORT.contains(&name)
}

/// Feeds the log queue with this process's events: target, fields, event name, and the trace ids of the
/// innermost span that has a `traceparent` field.
#[derive(Debug, Clone)]
pub struct BridgeLayer {
    pipe: Arc<Pipe>,
}

impl BridgeLayer {
    pub(crate) fn new(pipe: Arc<Pipe>) -> Self {
        Self { pipe }
    }
}

impl<S> Layer<S> for BridgeLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attrs: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let mut found = FindTrace(None);
        attrs.record(&mut found);
        if let (Some(trace), Some(span)) = (found.0, ctx.span(id)) {
            span.extensions_mut().replace(trace);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        let mut found = FindTrace(None);
        values.record(&mut found);
        if let (Some(trace), Some(span)) = (found.0, ctx.span(id)) {
            span.extensions_mut().replace(trace);
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let meta = event.metadata();
        if !self.pipe.exporting || is_transport(meta.target()) {
            return;
        }
        let Some(component) = self.pipe.component_of_target(meta.target()) else {
            return;
        };
        let mut record = LogRecord::text("", now_ns());
        let target = AttrValue::from(meta.target());
        record
            .attrs
            .push((Cow::Borrowed("waggle.log.target"), target));
        event.record(&mut Fields(&mut record));
        if record.trace.is_none() {
            record.trace = ctx.event_scope(event).and_then(|mut scope| {
                scope.find_map(|s| s.extensions().get::<TraceContext>().copied())
            });
        }
        record.severity = severity(*meta.level());
        meta.level().as_str().clone_into(&mut record.severity_text);
        record.event_name = event_name(meta);
        self.pipe.push_log(Owner::Component(component), record);
    }
}

/// tracing names an event by its place in the source (`event src/x.rs:1`) unless it is given a name. One of Waggle's own
/// that is not registered is an ordinary record; other crates' names mean nothing to anybody.
fn event_name(meta: &Metadata<'_>) -> Option<String> {
    names::find_event(meta.name()).map(|def| def.name.to_owned())
}

fn severity(level: Level) -> Severity {
    match level {
        Level::TRACE => Severity::TRACE,
        Level::DEBUG => Severity::DEBUG,
        Level::INFO => Severity::INFO,
        Level::WARN => Severity::WARN,
        Level::ERROR => Severity::ERROR,
    }
}

struct FindTrace(Option<TraceContext>);

impl Visit for FindTrace {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == TRACEPARENT {
            self.0 = value.parse().ok();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == TRACEPARENT {
            self.0 = format!("{value:?}").trim_matches('"').parse().ok();
        }
    }
}

struct Fields<'a>(&'a mut LogRecord);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: AttrValue) {
        match field.name() {
            "message" => self.0.body = value,
            TRACEPARENT => {
                self.0.trace = value
                    .as_str()
                    .and_then(|s| s.trim_matches('"').parse().ok());
            }
            name => self.0.attrs.push((Cow::Borrowed(name), value)),
        }
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        // The whole chain: a cause that is not logged is a cause that is searched for.
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        self.put(field, text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}
