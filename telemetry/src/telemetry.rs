//! The handle that everything else uses, and the guard that ends it.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing_subscriber::{
    EnvFilter, Layer as _, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};
use waggle_telemetry_pipeline::{
    AttrValue, Attrs, Exposition, Feature, HostFacts, LogRecord, MetricDef, Point, Severity,
    TaskLabels, names, requests::RequestSpan,
};
use waggle_types::{TaskId, TraceContext};

use crate::{
    ActiveSpan, BridgeLayer, Health, Inbox, Losses, Signal, SpanBuilder, SpanKind, TelemetryConfig,
    TelemetryError,
    bridge::is_transport,
    contract::{self, CpuMeter},
    disks::{Disks, Others},
    export::Exporters,
    link::Link,
    pipe::{Component, Owner, Pipe, lock, now_ns},
    recent::RecentSpan,
    requests,
    spans::Tracing,
    verbosity::Verbosity,
};

/// A handle on the process's telemetry, speaking for one component. Cheap to clone; no call blocks.
#[derive(Debug, Clone)]
pub struct Telemetry {
    pipe: Arc<Pipe>,
    component: Arc<Component>,
    tracing: Arc<Tracing>,
    verbosity: Verbosity,
}

impl Telemetry {
    /// Starts the pipeline: exporters if there is an endpoint, and the tracing subscriber unless the
    /// configuration says otherwise. Must be called inside of a tokio runtime that outlives the guard.
    pub fn start(config: &TelemetryConfig) -> Result<(Self, Guard), TelemetryError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(TelemetryError::NoRuntime)?;
        let links: Result<Vec<_>, _> = config.otlp.iter().map(Link::open).collect();
        let (links, doubts): (Vec<Link>, Vec<_>) = links?.into_iter().unzip();
        let pipe = Arc::new(Pipe::new(config, host_facts(&config.node)));
        let this = Self::on(Arc::clone(&pipe), &config.component);
        if config.install_subscriber {
            this.install(config)?;
        }
        for why in doubts.into_iter().flatten().collect::<BTreeSet<_>>() {
            tracing::warn!(why, "certificates of the system can't be used");
        }
        let spool = config.spool.as_ref();
        let disks = spool.map(|s| Disks::open_all(s, &config.otlp, &pipe.ways));
        let disks: Vec<Option<Disks>> = match disks.transpose()? {
            Some(disks) => disks.into_iter().map(Some).collect(),
            None => vec![None; links.len()],
        };
        for (way, disks) in pipe.ways.iter().zip(&disks) {
            way.spools_are(disks.clone());
        }
        let others = spool.map(|s| {
            let disks: Vec<Disks> = disks.iter().flatten().cloned().collect();
            Others::beside(s, &disks)
        });
        if let Some(others) = &others {
            others.sweep();
            others.tell();
        }
        let ways = links.into_iter().zip(disks).collect();
        let exporters = pipe
            .exporting
            .then(|| Exporters::spawn(&runtime, &pipe, ways, others, config));
        let guard = Guard { pipe, exporters };
        Ok((this, guard))
    }

    /// A pipeline that exports nothing and logs nothing; Prometheus text works. For tests and tools.
    pub fn disabled() -> Self {
        let config = TelemetryConfig::new("waggle", "", "");
        let pipe = Arc::new(Pipe::new(&config, HostFacts::default()));
        Self::on(pipe, &config.component)
    }

    fn on(pipe: Arc<Pipe>, component: &str) -> Self {
        let component = pipe.component(component);
        let tracing = Arc::new(Tracing::new(
            Arc::clone(&pipe),
            Owner::Component(Arc::clone(&component)),
        ));
        Self {
            pipe,
            component,
            tracing,
            verbosity: Verbosity::default(),
        }
    }

    /// The same pipeline, speaking for another component of the process: `waggle-master`. Events of its
    /// crate (`waggle_master`) carry its resource from now on.
    #[must_use]
    pub fn component(&self, name: &str) -> Self {
        Self {
            verbosity: self.verbosity.clone(),
            ..Self::on(Arc::clone(&self.pipe), name)
        }
    }

    /// The kernel's release, where it is known.
    pub fn kernel(&self) -> &str {
        &self.pipe.host.os_version
    }

    /// How much the process logs of its own events.
    pub fn verbosity(&self) -> &Verbosity {
        &self.verbosity
    }

    /// Whether there is an OTLP endpoint.
    pub fn is_exporting(&self) -> bool {
        self.pipe.exporting
    }

    /// How the endpoints do, in the order of the configuration.
    pub fn health(&self) -> Vec<Health> {
        self.pipe.health()
    }

    /// The layer that turns this process's tracing events into log records; for a subscriber of one's
    /// own. [`Self::start`] installs one by itself.
    pub fn bridge_layer(&self) -> BridgeLayer {
        BridgeLayer::new(Arc::clone(&self.pipe))
    }

    fn install(&self, config: &TelemetryConfig) -> Result<(), TelemetryError> {
        let directives = format!("hyper=warn,h2=warn,tonic=warn,tower=warn,{}", config.filter);
        let filter = || {
            EnvFilter::builder()
                .parse(&directives)
                .map_err(|source| TelemetryError::BadFilter {
                    filter: config.filter.clone(),
                    source,
                })
        };
        let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let fmt = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(ansi);
        let stderr = if config.json_logs {
            fmt.json().flatten_event(true).boxed()
        } else {
            fmt.boxed()
        };
        let not_transport = tracing_subscriber::filter::filter_fn(|m| !is_transport(m.target()));
        // A sink that is gone with its subscriber has nothing to be told.
        let (on_stderr, handle) = reload::Layer::new(filter()?);
        let stderr_sink = move |f| drop(handle.reload(f));
        let (on_bridge, handle) = reload::Layer::new(filter()?);
        let bridge_sink = move |f| drop(handle.reload(f));
        let bridge = self.pipe.exporting.then(|| {
            let layer = self.bridge_layer().with_filter(on_bridge);
            layer.with_filter(not_transport)
        });
        tracing_subscriber::registry()
            .with(stderr.with_filter(on_stderr))
            .with(bridge)
            .try_init()
            .map_err(TelemetryError::SubscriberInstalled)?;
        let sinks: Vec<Box<dyn Fn(EnvFilter) + Send + Sync>> =
            vec![Box::new(stderr_sink), Box::new(bridge_sink)];
        self.verbosity.begin(directives, sinks);
        Ok(())
    }

    /// Describes a span to begin or to record.
    pub fn span(&self, name: impl Into<Cow<'static, str>>) -> SpanBuilder<'_> {
        SpanBuilder::new(&self.tracing, name.into())
    }

    /// Begins a span now. Without a parent it starts a trace.
    pub fn begin_span(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        parent: Option<TraceContext>,
        attrs: Attrs,
    ) -> ActiveSpan {
        self.span(name)
            .kind(kind)
            .parent(parent)
            .attrs(attrs)
            .begin()
    }

    /// Records a span that is over (Unix nanoseconds).
    pub fn record_span(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        parent: Option<TraceContext>,
        start_ns: u64,
        end_ns: u64,
        attrs: Attrs,
    ) -> TraceContext {
        let span = self.span(name).kind(kind).parent(parent).attrs(attrs);
        span.start_ns(start_ns).begin().end_at(end_ns)
    }

    /// Hands in spans of a task's requests: they are queued with the task's resource, and shown by [`Self::recent_spans`].
    pub fn request_spans(&self, labels: &Arc<TaskLabels>, spans: Vec<RequestSpan>) {
        requests::put(&self.pipe, labels, spans);
    }

    /// Spans of one trace (32 hex digits) that this process's components and the tasks that it watches have ended lately, and how many
    /// more had no room.
    pub fn recent_spans(&self, trace_id: &str) -> (Vec<RecentSpan>, u64) {
        lock(&self.pipe.recent).of_trace(trace_id)
    }

    /// The newest trace in which such a span has an attribute with that value.
    pub fn recent_trace_of(&self, key: &str, value: &str) -> Option<String> {
        lock(&self.pipe.recent).find(key, value)
    }

    /// Queues a task's log record.
    pub fn task_log(&self, labels: &Arc<TaskLabels>, record: LogRecord) {
        self.pipe.push_log(Owner::Task(Arc::clone(labels)), record);
    }

    /// Queues a record of this component that is no event of its own.
    pub fn log(&self, record: LogRecord) {
        self.pipe
            .push_log(Owner::Component(Arc::clone(&self.component)), record);
    }

    /// Hands in a task's metric points: they are queued, and shown to Prometheus until
    /// [`Self::task_gone`]. Points that break the registry are refused and counted.
    pub fn task_points(&self, labels: &Arc<TaskLabels>, points: Vec<Point>) {
        let owner = Owner::Task(Arc::clone(labels));
        self.pipe.push_points(&owner, points);
    }

    /// Hands in this component's metric points: finished values of the node, the kernel programs.
    pub fn node_points(&self, points: Vec<Point>) {
        let owner = Owner::Component(Arc::clone(&self.component));
        self.pipe.push_points(&owner, points);
    }

    /// Adds to a counter of this component.
    pub fn count(&self, def: &'static MetricDef, attrs: &[(&'static str, AttrValue)], n: u64) {
        self.pipe.instrument(
            &self.component.key,
            def,
            attrs,
            |store, owner, attrs, now| {
                store.add(owner, def, attrs, n, now);
            },
        );
    }

    /// Records an observation (seconds) in a histogram of this component.
    pub fn record(
        &self,
        def: &'static MetricDef,
        attrs: &[(&'static str, AttrValue)],
        seconds: f64,
    ) {
        self.record_in(def, attrs, seconds, None);
    }

    /// The same within a span, which becomes an exemplar of the histogram.
    pub fn record_in(
        &self,
        def: &'static MetricDef,
        attrs: &[(&'static str, AttrValue)],
        seconds: f64,
        trace: Option<TraceContext>,
    ) {
        self.pipe.instrument(
            &self.component.key,
            def,
            attrs,
            |store, owner, attrs, now| {
                store.record_in(owner, def, attrs, seconds, trace, now);
            },
        );
    }

    /// Sets a gauge or an up-down counter of this component.
    pub fn set(&self, def: &'static MetricDef, attrs: &[(&'static str, AttrValue)], value: f64) {
        self.pipe.instrument(
            &self.component.key,
            def,
            attrs,
            |store, owner, attrs, now| {
                store.set(owner, def, attrs, value, now);
            },
        );
    }

    /// Queues an event: a log record with an event name, of a task or (without labels) of this
    /// component.
    pub fn event(&self, name: &str, labels: Option<&Arc<TaskLabels>>, attrs: Attrs) {
        self.event_in(name, labels, None, attrs);
    }

    /// Queues an event that belongs to a span.
    pub fn event_in(
        &self,
        name: &str,
        labels: Option<&Arc<TaskLabels>>,
        trace: Option<TraceContext>,
        mut attrs: Attrs,
    ) {
        let Some(def) = names::find_event(name) else {
            debug_assert!(false, "event {name} is not in the registry");
            self.pipe.refused_log();
            return;
        };
        let before = attrs.len();
        attrs.retain(|(k, _)| {
            let known = def.attributes.contains(k);
            debug_assert!(known, "event {name}: attribute {k} is not in the registry");
            known
        });
        self.pipe
            .stripped(Signal::Logs, (before - attrs.len()) as u64);
        let owner = labels.map_or_else(
            || Owner::Component(Arc::clone(&self.component)),
            |l| Owner::Task(Arc::clone(l)),
        );
        let mut record = LogRecord::text(name, now_ns());
        record.severity = Severity::INFO;
        Severity::INFO.name().clone_into(&mut record.severity_text);
        record.event_name = Some(name.to_owned());
        record.trace = trace;
        record.attrs = attrs
            .into_iter()
            .map(|(k, v)| (Cow::Borrowed(k), v))
            .collect();
        self.pipe.push_log(owner, record);
    }

    /// Whether a feature is on, or left off for what telemetry costs.
    pub fn allows(&self, feature: Feature) -> bool {
        self.pipe.allows(feature)
    }

    /// What counts the CPU time of telemetry: for work that others do for it.
    pub fn cpu(&self) -> &CpuMeter {
        &self.pipe.cpu
    }

    /// Compares what telemetry costs with its budget; what that changes is told. To be called at intervals.
    pub fn keep_contract(&self) {
        if let Some(change) = self.pipe.keep_contract() {
            contract::tell(change);
            let (name, attrs) = contract::event(change);
            self.event(name, None, attrs);
        }
    }

    /// Takes what tasks send; useless without an endpoint.
    pub fn inbox(&self) -> Inbox {
        Inbox::new(Arc::clone(&self.pipe))
    }

    /// Removes a task's series; call it after its last points.
    pub fn task_gone(&self, task: &TaskId) {
        self.pipe.task_gone(task);
    }

    /// All series in Prometheus's text format, version 0.0.4.
    pub fn prometheus_text(&self) -> String {
        self.prometheus_page(Exposition::Text)
    }

    /// All series in one of Prometheus's formats.
    pub fn prometheus_page(&self, format: Exposition) -> String {
        self.pipe.prometheus_page(format)
    }

    /// Items of a signal that wait in memory for the endpoint that has most of them: for who may hold back what it hands in.
    pub fn queued(&self, signal: Signal) -> usize {
        self.pipe.queued(signal)
    }

    /// The books: what came in, went out, is held and was dropped, per signal.
    pub fn losses(&self) -> Losses {
        self.pipe.losses()
    }
}

/// Keeps the exporters running. Dropping it stops them without a last export; [`Self::shutdown`] drains.
#[derive(Debug)]
#[must_use = "dropping the guard stops export"]
pub struct Guard {
    pipe: Arc<Pipe>,
    exporters: Option<Exporters>,
}

impl Guard {
    /// Exports what is held, for at most `limit`; the rest is counted as dropped. Returns the final books.
    pub async fn shutdown(mut self, limit: Duration) -> Losses {
        if let Some(exporters) = self.exporters.take() {
            exporters.shutdown(&self.pipe, Instant::now() + limit).await;
        }
        self.pipe.losses()
    }

    /// The books.
    pub fn losses(&self) -> Losses {
        self.pipe.losses()
    }
}

/// Reads what resources say of the machine; unknown facts stay empty.
fn host_facts(node: &str) -> HostFacts {
    let read = |path| {
        std::fs::read_to_string(path)
            .map(|s| s.trim().to_owned())
            .unwrap_or_default()
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    HostFacts {
        id: read("/etc/machine-id"),
        name: node.to_owned(),
        arch: arch.to_owned(),
        os_version: read("/proc/sys/kernel/osrelease"),
    }
}
