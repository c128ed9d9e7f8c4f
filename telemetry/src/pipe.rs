//! The shared heart: queues, series and who owns them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    logs::v1::LogRecord as OtlpLog, metrics::v1::Metric, trace::v1::Span,
};
use tokio::sync::Notify;
use ulid::Ulid;
use waggle_telemetry_pipeline::{
    AttrValue, Attrs, Change, Counts, DropReason, Exposition, Feature, HostFacts, Limits,
    LogRecord, MetricDef, Point, PointData, PromResource, Queue, ResourceKey, SeriesStore,
    TaskLabels, exposition, names,
};
use waggle_types::TaskId;

use crate::{
    Destination, Health, Protocol, State,
    contract::{Contract, CpuMeter},
    destination::Watch,
    disks::Disks,
    own,
    receive::Sent,
    recent::Recent,
    sdk,
};

/// One of the three kinds of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Log records and events.
    Logs,
    /// Spans.
    Spans,
    /// Metric points.
    Metrics,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Logs, Self::Spans, Self::Metrics];

    /// Value of `waggle.telemetry.signal`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Spans => "spans",
            Self::Metrics => "metrics",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The books of all signals at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Log records.
    pub logs: Counts,
    /// Spans.
    pub spans: Counts,
    /// Metric points.
    pub metrics: Counts,
}

impl Losses {
    /// The books of one signal.
    pub fn of(&self, signal: Signal) -> Counts {
        match signal {
            Signal::Logs => self.logs,
            Signal::Spans => self.spans,
            Signal::Metrics => self.metrics,
        }
    }

    /// Whether every signal's books balance.
    pub fn balanced(&self) -> bool {
        Signal::ALL.into_iter().all(|s| self.of(s).balanced())
    }
}

/// Whose signal it is; decides the resource.
#[derive(Debug, Clone)]
pub(crate) enum Owner {
    Component(Arc<Component>),
    Task(Arc<TaskLabels>),
    /// What a task has sent itself.
    Sent(Arc<Sent>),
}

impl Owner {
    /// The only place where a resource is chosen, for all signals.
    pub(crate) fn resource(&self, host: &HostFacts) -> Attrs {
        match self {
            Self::Component(c) => c.resource.clone(),
            Self::Task(labels) => labels.resource(host),
            Self::Sent(sent) => sent.labels.resource(host),
        }
    }

    /// Equal for items that may share a resource entry in a request.
    pub(crate) fn group(&self) -> usize {
        match self {
            Self::Component(c) => Arc::as_ptr(c).addr(),
            Self::Task(t) => Arc::as_ptr(t).addr(),
            Self::Sent(s) => Arc::as_ptr(s).addr(),
        }
    }

    pub(crate) fn key(&self) -> ResourceKey {
        match self {
            Self::Component(c) => c.key.clone(),
            Self::Task(t) => ResourceKey::Task(t.task_id.clone()),
            Self::Sent(s) => ResourceKey::Task(s.labels.task_id.clone()),
        }
    }
}

/// A component of Waggle in this process.
#[derive(Debug)]
pub(crate) struct Component {
    pub(crate) key: ResourceKey,
    pub(crate) resource: Attrs,
    /// Target prefix of its own events: `waggle_agent`.
    pub(crate) target: String,
}

impl Component {
    /// `waggle-agent`.
    pub(crate) fn name(&self) -> &str {
        match &self.key {
            ResourceKey::Component(name) => name,
            ResourceKey::Task(task) => task.as_str(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct LogItem {
    pub(crate) owner: Owner,
    pub(crate) record: LogBody,
}

#[derive(Debug)]
pub(crate) enum LogBody {
    /// Made here.
    Own(Box<LogRecord>, Ulid),
    /// As a task has sent it.
    Sent(Box<OtlpLog>),
}

#[derive(Debug)]
pub(crate) struct SpanItem {
    pub(crate) owner: Owner,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) struct MetricItem {
    pub(crate) owner: Owner,
    pub(crate) point: MetricBody,
}

#[derive(Debug)]
pub(crate) enum MetricBody {
    /// Made here.
    Own(Point),
    /// As a task has sent it, with one point.
    Sent(Box<Metric>),
}

/// A queue that wakes its exporter.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    queue: Mutex<Queue<T>>,
    pub(crate) wake: Notify,
}

impl<T> Lane<T> {
    fn new(limits: Limits) -> Self {
        Self {
            queue: Mutex::new(Queue::new(limits)),
            wake: Notify::new(),
        }
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Queue<T>) -> R) -> R {
        f(&mut lock(&self.queue))
    }

    fn push_all(&self, items: impl IntoIterator<Item = (T, usize)>) {
        self.with(|q| {
            for (item, bytes) in items {
                q.push(item, bytes);
            }
        });
        self.wake.notify_one();
    }
}

/// The way to one endpoint: its queues, its spools, how it does.
#[derive(Debug)]
pub(crate) struct Way {
    /// Value of `waggle.telemetry.destination`.
    pub(crate) name: String,
    url: String,
    pub(crate) protocol: Protocol,
    pub(crate) logs: Lane<Arc<LogItem>>,
    pub(crate) spans: Lane<Arc<SpanItem>>,
    pub(crate) metrics: Lane<Arc<MetricItem>>,
    spools: OnceLock<Disks>,
    watches: [Watch; 3],
    /// Items in requests that are not answered, by signal.
    in_flight: [AtomicU64; 3],
}

impl Way {
    fn new(name: String, to: &Destination, config: &crate::TelemetryConfig) -> Self {
        Self {
            name,
            url: to.url.clone(),
            protocol: to.protocol,
            logs: Lane::new(config.log_queue),
            spans: Lane::new(config.span_queue),
            metrics: Lane::new(config.metric_queue),
            spools: OnceLock::new(),
            watches: Default::default(),
            in_flight: Default::default(),
        }
    }

    /// A request of so many items is on its way; 0: none is.
    pub(crate) fn sending(&self, signal: Signal, items: u64) {
        self.in_flight[signal as usize].store(items, Ordering::Relaxed);
    }

    fn queued(&self, signal: Signal) -> usize {
        match signal {
            Signal::Logs => self.logs.with(|q| q.queued()),
            Signal::Spans => self.spans.with(|q| q.queued()),
            Signal::Metrics => self.metrics.with(|q| q.queued()),
        }
    }

    /// What waits on disk is in the books.
    pub(crate) fn spools_are(&self, disks: Option<Disks>) {
        if let Some(disks) = disks {
            // Said once, at the start.
            let _ = self.spools.set(disks);
        }
    }

    /// How the endpoint does with a signal.
    pub(crate) fn watch(&self, signal: Signal) -> &Watch {
        let [logs, spans, metrics] = &self.watches;
        match signal {
            Signal::Logs => logs,
            Signal::Spans => spans,
            Signal::Metrics => metrics,
        }
    }

    fn counts(&self, signal: Signal) -> Counts {
        match signal {
            Signal::Logs => self.logs.with(|q| q.counts()),
            Signal::Spans => self.spans.with(|q| q.counts()),
            Signal::Metrics => self.metrics.with(|q| q.counts()),
        }
    }

    fn limits(&self, signal: Signal) -> Limits {
        match signal {
            Signal::Logs => self.logs.with(|q| q.limits()),
            Signal::Spans => self.spans.with(|q| q.limits()),
            Signal::Metrics => self.metrics.with(|q| q.limits()),
        }
    }

    fn held_bytes(&self, signal: Signal) -> usize {
        match signal {
            Signal::Logs => self.logs.with(|q| q.bytes()),
            Signal::Spans => self.spans.with(|q| q.bytes()),
            Signal::Metrics => self.metrics.with(|q| q.bytes()),
        }
    }

    fn half_room(&self, signal: Signal) -> Limits {
        match signal {
            Signal::Logs => self.logs.with(|q| q.half_room()),
            Signal::Spans => self.spans.with(|q| q.half_room()),
            Signal::Metrics => self.metrics.with(|q| q.half_room()),
        }
    }

    /// The worst of what the signals say.
    fn health(&self) -> Health {
        let states = self.watches.iter().map(Watch::state);
        let worst = states.max_by_key(|(state, _)| *state);
        let (state, why) = worst.unwrap_or((State::Idle, String::new()));
        Health {
            url: self.url.clone(),
            state,
            why,
            held: Signal::ALL.map(|s| self.counts(s).held).iter().sum(),
        }
    }
}

/// `host:port` of a URL, as short as metrics need it; what comes twice is numbered.
fn way_name(to: &Destination, before: &[Way]) -> String {
    let rest = to.url.split_once("://").map_or(to.url.as_str(), |(_, r)| r);
    let host = rest.split('/').next().unwrap_or(rest);
    let name = host.rsplit_once('@').map_or(host, |(_, h)| h);
    let is_new = |name: &String| before.iter().all(|w| w.name != *name);
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    let mut all = std::iter::once(name.to_owned()).chain(numbered);
    all.find(is_new).unwrap_or_default()
}

/// Series that nobody hands in for this long are no longer shown to Prometheus (its own staleness
/// limit is as long).
const STALE_NS: u64 = 300_000_000_000;

/// What a series takes, about.
const SERIES_BYTES: usize = 600;

/// What all handles of one pipeline share.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Whether there is an endpoint; without one nothing is queued.
    pub(crate) exporting: bool,
    pub(crate) host: HostFacts,
    pub(crate) cluster: String,
    pub(crate) node: String,
    pub(crate) start_ns: u64,
    pub(crate) ways: Vec<Arc<Way>>,
    /// What telemetry takes of CPU time.
    pub(crate) cpu: CpuMeter,
    /// What this process has made: spans begun, of these not ended, log records.
    spans_started: AtomicU64,
    spans_live: AtomicI64,
    logs_created: AtomicU64,
    contract: Mutex<Contract>,
    store: Mutex<SeriesStore>,
    components: Mutex<BTreeMap<ResourceKey, Arc<Component>>>,
    tasks: Mutex<BTreeMap<TaskId, Arc<TaskLabels>>>,
    base: ResourceKey,
    /// Spans of components that have ended lately.
    pub(crate) recent: Mutex<Recent>,
}

/// A poisoned lock means that some caller panicked between two steps of a map update; the data is
/// still sound, and telemetry must go on.
pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unix nanoseconds.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|d| u64::try_from(d.as_nanos()).ok())
        .unwrap_or(0)
}

impl Pipe {
    pub(crate) fn new(config: &crate::TelemetryConfig, host: HostFacts) -> Self {
        let mut ways: Vec<Way> = Vec::new();
        for to in &config.otlp {
            let name = way_name(to, &ways);
            ways.push(Way::new(name, to, config));
        }
        Self {
            exporting: !ways.is_empty(),
            host,
            cluster: config.cluster.clone(),
            node: config.node.clone(),
            start_ns: now_ns(),
            ways: ways.into_iter().map(Arc::new).collect(),
            cpu: CpuMeter::default(),
            spans_started: AtomicU64::new(0),
            spans_live: AtomicI64::new(0),
            logs_created: AtomicU64::new(0),
            contract: Mutex::new(Contract::new(config.budget)),
            store: Mutex::new(SeriesStore::new(config.max_series)),
            components: Mutex::new(BTreeMap::new()),
            tasks: Mutex::new(BTreeMap::new()),
            base: ResourceKey::Component(config.component.as_str().into()),
            recent: Mutex::default(),
        }
    }

    /// Whether a feature is on.
    pub(crate) fn allows(&self, feature: Feature) -> bool {
        lock(&self.contract).allows(feature)
    }

    /// Reads what telemetry costs; what has changed by that.
    pub(crate) fn keep_contract(&self) -> Option<Change> {
        let (cpu_ns, memory) = (self.cpu.total_ns(), self.memory());
        lock(&self.contract).read(cpu_ns, memory, now_ns())
    }

    /// What queues and series hold, in bytes, about. Queues of several endpoints share their items.
    fn memory(&self) -> u64 {
        let fullest = |signal| self.ways.iter().map(|w| w.held_bytes(signal)).max();
        let queues: usize = Signal::ALL.map(|s| fullest(s).unwrap_or(0)).iter().sum();
        (queues + lock(&self.store).len() * SERIES_BYTES) as u64
    }

    /// Queues log records for every endpoint.
    pub(crate) fn put_logs(&self, items: impl IntoIterator<Item = (LogItem, usize)>) {
        let items: Vec<_> = items.into_iter().map(|(i, n)| (Arc::new(i), n)).collect();
        for way in &self.ways {
            way.logs.push_all(items.iter().cloned());
        }
    }

    /// The same with spans.
    pub(crate) fn put_spans(&self, items: impl IntoIterator<Item = (SpanItem, usize)>) {
        let items: Vec<_> = items.into_iter().map(|(i, n)| (Arc::new(i), n)).collect();
        for way in &self.ways {
            way.spans.push_all(items.iter().cloned());
        }
    }

    /// The same with points.
    pub(crate) fn put_metrics(&self, items: impl IntoIterator<Item = (MetricItem, usize)>) {
        let items: Vec<_> = items.into_iter().map(|(i, n)| (Arc::new(i), n)).collect();
        for way in &self.ways {
            way.metrics.push_all(items.iter().cloned());
        }
    }

    /// Whether so much fits into a queue of a signal until half of it is taken. One endpoint that is away fills its own and
    /// no other: only when none takes anything is there no room. Without endpoints there is always room.
    pub(crate) fn has_room(&self, signal: Signal, items: usize, bytes: usize) -> bool {
        let fits = |way: &Arc<Way>| {
            let room = way.half_room(signal);
            items <= room.max_items && bytes <= room.max_bytes
        };
        self.ways.is_empty() || self.ways.iter().any(fits)
    }

    /// Items that wait in memory, in the longest queue of a signal.
    pub(crate) fn queued(&self, signal: Signal) -> usize {
        let of = self.ways.iter().map(|way| way.queued(signal));
        of.max().unwrap_or(0)
    }

    /// Counts what is not handed on, in every book.
    pub(crate) fn refuse(&self, signal: Signal, n: u64, reason: DropReason) {
        if n == 0 {
            return;
        }
        for way in &self.ways {
            match signal {
                Signal::Logs => way.logs.with(|q| q.refuse(n, reason)),
                Signal::Spans => way.spans.with(|q| q.refuse(n, reason)),
                Signal::Metrics => way.metrics.with(|q| q.refuse(n, reason)),
            }
        }
    }

    /// How the endpoints do.
    pub(crate) fn health(&self) -> Vec<Health> {
        self.ways.iter().map(|w| w.health()).collect()
    }

    /// The component of that name, made on first use.
    pub(crate) fn component(&self, name: &str) -> Arc<Component> {
        let key = ResourceKey::Component(name.into());
        let mut all = lock(&self.components);
        let found = all.entry(key).or_insert_with_key(|key| {
            let resource = waggle_telemetry_pipeline::component_resource(
                name,
                env!("CARGO_PKG_VERSION"),
                &self.cluster,
                &self.node,
                &self.host,
            );
            Arc::new(Component {
                key: key.clone(),
                resource,
                target: name.replace('-', "_"),
            })
        });
        Arc::clone(found)
    }

    /// The component whose crate an event comes from, else the process's own.
    pub(crate) fn component_of_target(&self, target: &str) -> Option<Arc<Component>> {
        let all = lock(&self.components);
        let of_crate = all.values().find(|c| {
            target
                .strip_prefix(c.target.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        of_crate.or_else(|| all.get(&self.base)).cloned()
    }

    /// A span has begun, or has ended.
    pub(crate) fn span_begun(&self) {
        self.spans_started.fetch_add(1, Ordering::Relaxed);
        self.spans_live.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn span_ended(&self) {
        self.spans_live.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn push_log(&self, owner: Owner, record: LogRecord) {
        self.logs_created.fetch_add(1, Ordering::Relaxed);
        if !self.exporting {
            return;
        }
        let bytes = record.approx_bytes();
        let uid = record.uid.map_or_else(Ulid::new, Ulid);
        let item = LogItem {
            owner,
            record: LogBody::Own(Box::new(record), uid),
        };
        self.put_logs([(item, bytes)]);
    }

    pub(crate) fn push_span(&self, owner: Owner, span: Span) {
        if !self.exporting {
            return;
        }
        let bytes = crate::otlp::span_bytes(&span);
        self.put_spans([(SpanItem { owner, span }, bytes)]);
    }

    /// Keeps points as the latest values and queues them; what breaks the registry is refused.
    pub(crate) fn push_points(&self, owner: &Owner, points: Vec<Point>) {
        let key = owner.key();
        let now = now_ns();
        let mut ok = Vec::with_capacity(points.len());
        let (mut unregistered, mut no_room) = (0u64, 0u64);
        {
            let mut store = lock(&self.store);
            for point in points {
                if let Some(why) = point.violation() {
                    tracing::debug!(why, "metric point refused");
                    unregistered += 1;
                } else if store.put(&key, &point, now) {
                    ok.push(point);
                } else {
                    no_room += 1;
                }
            }
        }
        if let (Owner::Task(labels), false) = (owner, ok.is_empty()) {
            lock(&self.tasks).insert(labels.task_id.clone(), Arc::clone(labels));
        }
        if !self.exporting {
            return;
        }
        self.refuse(Signal::Metrics, unregistered, DropReason::Unregistered);
        self.refuse(Signal::Metrics, no_room, DropReason::SeriesLimit);
        self.queue_points(ok.into_iter().map(|p| (owner.clone(), p)));
    }

    fn queue_points(&self, points: impl Iterator<Item = (Owner, Point)>) {
        self.put_metrics(points.map(|(owner, point)| {
            let bytes = point.approx_bytes();
            let point = MetricBody::Own(point);
            (MetricItem { owner, point }, bytes)
        }));
    }

    /// Records in an instrument; attributes that are not registered are left off.
    pub(crate) fn instrument(
        &self,
        owner: &ResourceKey,
        def: &'static MetricDef,
        attrs: &[(&'static str, AttrValue)],
        f: impl FnOnce(&mut SeriesStore, &ResourceKey, Attrs, u64),
    ) {
        let attrs: Attrs = attrs
            .iter()
            .filter(|(k, _)| {
                let known = def.attributes.contains(k);
                if !known {
                    tracing::warn!(
                        metric = def.name,
                        attribute = k,
                        "attribute is not registered"
                    );
                }
                known
            })
            .cloned()
            .collect();
        f(&mut lock(&self.store), owner, attrs, now_ns());
    }

    /// Adds to a counter of the process itself.
    pub(crate) fn own_add(&self, def: &'static MetricDef, attrs: Attrs, n: u64) {
        lock(&self.store).add(&self.base, def, attrs, n, now_ns());
    }

    /// Attributes of spans or events that are not registered were left off.
    pub(crate) fn stripped(&self, signal: Signal, n: u64) {
        if n > 0 {
            let attrs = vec![(names::SIGNAL, AttrValue::from(signal.name()))];
            let def = &names::TELEMETRY_ATTRIBUTES_DROPPED;
            self.own_add(def, attrs, n);
        }
    }

    /// A record that is not registered.
    pub(crate) fn refused_log(&self) {
        self.refuse(Signal::Logs, 1, DropReason::Unregistered);
    }

    /// Records in a histogram of the process itself.
    pub(crate) fn own_record(&self, def: &'static MetricDef, attrs: Attrs, value: f64) {
        lock(&self.store).record(&self.base, def, attrs, value, now_ns());
    }

    /// Queues all that was recorded in this process, and the books themselves.
    pub(crate) fn collect(&self) {
        if !self.exporting {
            return;
        }
        let now = now_ns();
        let base = Owner::Component(self.component(match &self.base {
            ResourceKey::Component(name) => name,
            ResourceKey::Task(_) => return,
        }));
        let own = lock(&self.store).collect_own(now);
        let components = lock(&self.components).clone();
        let owned = own.into_iter().filter_map(|(key, point)| {
            components
                .get(&key)
                .map(|c| (Owner::Component(Arc::clone(c)), point))
        });
        let books = self.books(now).into_iter().map(|p| (base.clone(), p));
        self.queue_points(owned.chain(books));
    }

    pub(crate) fn losses(&self) -> Losses {
        let sum = |signal| {
            let all = self.ways.iter().map(|w| w.counts(signal));
            all.fold(Counts::default(), Counts::plus)
        };
        Losses {
            logs: sum(Signal::Logs),
            spans: sum(Signal::Spans),
            metrics: sum(Signal::Metrics),
        }
    }

    /// The books as points.
    fn books(&self, now: u64) -> Vec<Point> {
        let mut out = Vec::new();
        let each = |way| Signal::ALL.map(|signal| (way, signal));
        for (way, signal) in self.ways.iter().flat_map(each) {
            let counts = way.counts(signal);
            let limit = way.limits(signal);
            let name = || {
                vec![
                    (names::SIGNAL, AttrValue::from(signal.name())),
                    (names::DESTINATION, way.name.as_str().into()),
                ]
            };
            let up_down = |n: u64| PointData::UpDown(i64::try_from(n).unwrap_or(i64::MAX));
            let mut point =
                |def, attrs, data| out.push(Point::new(def, attrs, data, self.start_ns, now));
            point(&names::TELEMETRY_IN, name(), PointData::Sum(counts.input));
            let exported = PointData::Sum(counts.exported);
            point(&names::TELEMETRY_EXPORTED, name(), exported);
            point(&names::TELEMETRY_HELD, name(), up_down(counts.held));
            let max = up_down(limit.max_items as u64);
            point(&names::TELEMETRY_LIMIT, name(), max);
            if let Some(disk) = way.spools.get().map(|s| s.of(signal)) {
                let (size, most) = disk.size();
                point(&names::TELEMETRY_SPOOL_SIZE, name(), up_down(size));
                point(&names::TELEMETRY_SPOOL_LIMIT, name(), up_down(most));
                let age = PointData::Gauge(disk.oldest_age());
                point(&names::TELEMETRY_SPOOL_AGE, name(), age);
            }
            let (now_is, _) = way.watch(signal).state();
            for state in State::ALL {
                let mut attrs = name();
                attrs.push((names::STATE, state.name().into()));
                let is = PointData::Gauge(f64::from(u8::from(state == now_is)));
                point(&names::TELEMETRY_DESTINATION, attrs, is);
            }
            let law = counts.exported + counts.held + counts.dropped_total();
            let off =
                PointData::UpDown(i64::try_from(counts.input.abs_diff(law)).unwrap_or(i64::MAX));
            point(&names::TELEMETRY_UNACCOUNTED, name(), off);
            for reason in DropReason::ALL {
                let mut attrs = name();
                attrs.push((names::DROP_REASON, reason.name().into()));
                let n = PointData::Sum(counts.dropped(reason));
                point(&names::TELEMETRY_DROPPED, attrs, n);
            }
            let stage = sdk::Stage {
                signal,
                to: &way.name,
                protocol: way.protocol,
                counts,
                queued: way.queued(signal) as u64,
                capacity: limit.max_items as u64,
                in_flight: way.in_flight[signal as usize].load(Ordering::Relaxed),
            };
            out.extend(sdk::points(&stage, self.start_ns, now));
        }
        let made = |n: &AtomicU64| PointData::Sum(n.load(Ordering::Relaxed));
        let live = PointData::UpDown(self.spans_live.load(Ordering::Relaxed));
        for (def, data) in [
            (&names::OTEL_SPAN_STARTED, made(&self.spans_started)),
            (&names::OTEL_SPAN_LIVE, live),
            (&names::OTEL_LOG_CREATED, made(&self.logs_created)),
        ] {
            out.push(Point::new(def, Vec::new(), data, self.start_ns, now));
        }
        out.extend(own::points(self.start_ns, now));
        let (cpu_ns, memory) = (self.cpu.total_ns(), self.memory());
        out.extend(lock(&self.contract).points(cpu_ns, memory, self.start_ns, now));
        let series = i64::try_from(lock(&self.store).len()).unwrap_or(i64::MAX);
        let held = PointData::UpDown(series);
        out.push(Point::new(
            &names::TELEMETRY_SERIES,
            Vec::new(),
            held,
            self.start_ns,
            now,
        ));
        out
    }

    pub(crate) fn task_gone(&self, task: &TaskId) {
        lock(&self.tasks).remove(task);
        lock(&self.store).forget(&ResourceKey::Task(task.clone()));
    }

    pub(crate) fn prometheus_page(&self, format: Exposition) -> String {
        let now = now_ns();
        let books = self.books(now);
        let tasks = lock(&self.tasks).clone();
        let components = lock(&self.components).clone();
        let mut resources: Vec<(ResourceKey, Attrs)> = components
            .into_iter()
            .map(|(key, c)| (key, c.resource.clone()))
            .collect();
        resources.extend(
            tasks
                .into_iter()
                .map(|(id, labels)| (ResourceKey::Task(id), labels.resource(&self.host))),
        );
        let refs: Vec<PromResource<'_>> = resources
            .iter()
            .map(|(key, attrs)| PromResource { key, attrs })
            .collect();
        let mut store = lock(&self.store);
        for point in &books {
            store.put(&self.base, point, now);
        }
        store.forget_stale(now.saturating_sub(STALE_NS));
        exposition(&store, &refs, format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_ways_have_one_name() {
        let mut config = crate::TelemetryConfig::new("waggle-agent", "n1", "test");
        let urls = [
            "http://a:4317",
            "http://a:43",
            "https://x@a:43/otlp",
            "http://a:43-2",
            "http://a:43",
        ];
        config.otlp = urls.map(Destination::new).to_vec();
        let pipe = Pipe::new(&config, HostFacts::default());
        let names: Vec<&str> = pipe.ways.iter().map(|w| w.name.as_str()).collect();
        assert_eq!(names, ["a:4317", "a:43", "a:43-2", "a:43-2-2", "a:43-3"]);
    }
}
