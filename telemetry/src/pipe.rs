//! The shared heart: queues, series and who owns them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::Notify;
use ulid::Ulid;
use waggle_telemetry_pipeline::{
    AttrValue, Attrs, Counts, DropReason, HostFacts, Limits, LogRecord, MetricDef, Point,
    PointData, PromResource, Queue, ResourceKey, SeriesStore, TaskLabels, names, prometheus_text,
};
use waggle_types::TaskId;

use crate::export::Disks;

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
}

impl Owner {
    /// The only place where a resource is chosen, for all signals.
    pub(crate) fn resource(&self, host: &HostFacts) -> Attrs {
        match self {
            Self::Component(c) => c.resource.clone(),
            Self::Task(labels) => labels.resource(host),
        }
    }

    /// Equal for items that may share a resource entry in a request.
    pub(crate) fn group(&self) -> usize {
        match self {
            Self::Component(c) => Arc::as_ptr(c).addr(),
            Self::Task(t) => Arc::as_ptr(t).addr(),
        }
    }

    pub(crate) fn key(&self) -> ResourceKey {
        match self {
            Self::Component(c) => c.key.clone(),
            Self::Task(t) => ResourceKey::Task(t.task_id.clone()),
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

#[derive(Debug)]
pub(crate) struct LogItem {
    pub(crate) owner: Owner,
    pub(crate) record: LogRecord,
    pub(crate) uid: Ulid,
}

#[derive(Debug)]
pub(crate) struct SpanItem {
    pub(crate) owner: Owner,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) struct MetricItem {
    pub(crate) owner: Owner,
    pub(crate) point: Point,
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

    pub(crate) fn push_all(&self, items: impl IntoIterator<Item = (T, usize)>) {
        self.with(|q| {
            for (item, bytes) in items {
                q.push(item, bytes);
            }
        });
        self.wake.notify_one();
    }
}

/// Series that nobody hands in for this long are no longer shown to Prometheus (its own staleness
/// limit is as long).
const STALE_NS: u64 = 300_000_000_000;

/// What all handles of one pipeline share.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Whether there is an endpoint; without one nothing is queued.
    pub(crate) exporting: bool,
    pub(crate) host: HostFacts,
    pub(crate) cluster: String,
    pub(crate) node: String,
    pub(crate) start_ns: u64,
    pub(crate) logs: Lane<LogItem>,
    pub(crate) spans: Lane<SpanItem>,
    pub(crate) metrics: Lane<MetricItem>,
    store: Mutex<SeriesStore>,
    components: Mutex<BTreeMap<ResourceKey, Arc<Component>>>,
    tasks: Mutex<BTreeMap<TaskId, Arc<TaskLabels>>>,
    base: ResourceKey,
    spools: OnceLock<Disks>,
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
        Self {
            exporting: config.otlp.is_some(),
            host,
            cluster: config.cluster.clone(),
            node: config.node.clone(),
            start_ns: now_ns(),
            logs: Lane::new(config.log_queue),
            spans: Lane::new(config.span_queue),
            metrics: Lane::new(config.metric_queue),
            store: Mutex::new(SeriesStore::new(config.max_series)),
            components: Mutex::new(BTreeMap::new()),
            tasks: Mutex::new(BTreeMap::new()),
            base: ResourceKey::Component(config.component.as_str().into()),
            spools: OnceLock::new(),
        }
    }

    /// What waits on disk is in the books.
    pub(crate) fn spools_are(&self, disks: Disks) {
        // Said once, at the start.
        let _ = self.spools.set(disks);
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

    pub(crate) fn push_log(&self, owner: Owner, record: LogRecord) {
        if !self.exporting {
            return;
        }
        let bytes = record.approx_bytes();
        let item = LogItem {
            owner,
            record,
            uid: Ulid::new(),
        };
        self.logs.push_all([(item, bytes)]);
    }

    pub(crate) fn push_span(&self, owner: Owner, span: Span) {
        if !self.exporting {
            return;
        }
        let bytes = crate::otlp::span_bytes(&span);
        self.spans.push_all([(SpanItem { owner, span }, bytes)]);
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
        self.metrics.with(|q| {
            if unregistered > 0 {
                q.refuse(unregistered, DropReason::Unregistered);
            }
            if no_room > 0 {
                q.refuse(no_room, DropReason::SeriesLimit);
            }
        });
        self.queue_points(ok.into_iter().map(|p| (owner.clone(), p)));
    }

    fn queue_points(&self, points: impl Iterator<Item = (Owner, Point)>) {
        self.metrics.push_all(points.map(|(owner, point)| {
            let bytes = point.approx_bytes();
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
        Losses {
            logs: self.logs.with(|q| q.counts()),
            spans: self.spans.with(|q| q.counts()),
            metrics: self.metrics.with(|q| q.counts()),
        }
    }

    /// The books as points.
    fn books(&self, now: u64) -> Vec<Point> {
        let losses = self.losses();
        let limits = [
            (Signal::Logs, self.logs.with(|q| q.limits())),
            (Signal::Spans, self.spans.with(|q| q.limits())),
            (Signal::Metrics, self.metrics.with(|q| q.limits())),
        ];
        let mut out = Vec::new();
        for (signal, limit) in limits {
            let counts = losses.of(signal);
            let name = || vec![(names::SIGNAL, AttrValue::from(signal.name()))];
            let up_down = |n: u64| PointData::UpDown(i64::try_from(n).unwrap_or(i64::MAX));
            let mut point =
                |def, attrs, data| out.push(Point::new(def, attrs, data, self.start_ns, now));
            point(&names::TELEMETRY_IN, name(), PointData::Sum(counts.input));
            let exported = PointData::Sum(counts.exported);
            point(&names::TELEMETRY_EXPORTED, name(), exported);
            point(&names::TELEMETRY_HELD, name(), up_down(counts.held));
            let max = up_down(limit.max_items as u64);
            point(&names::TELEMETRY_LIMIT, name(), max);
            if let Some(disk) = self.spools.get().map(|s| s.of(signal)) {
                let (size, most) = disk.size();
                point(&names::TELEMETRY_SPOOL_SIZE, name(), up_down(size));
                point(&names::TELEMETRY_SPOOL_LIMIT, name(), up_down(most));
                let age = PointData::Gauge(disk.oldest_age());
                point(&names::TELEMETRY_SPOOL_AGE, name(), age);
            }
            for reason in DropReason::ALL {
                let mut attrs = name();
                attrs.push((names::DROP_REASON, reason.name().into()));
                let n = PointData::Sum(counts.dropped(reason));
                point(&names::TELEMETRY_DROPPED, attrs, n);
            }
        }
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

    pub(crate) fn prometheus_text(&self) -> String {
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
        prometheus_text(&store, &refs)
    }
}
