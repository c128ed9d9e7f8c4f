//! Spans of requests between tasks, without a word from them: bytes that the kernel tells of, put together.
//!
//! | file | role |
//! |---|---|
//! | mod.rs | whose requests are traced; the looks at the ring |
//! | follow.rs | the kernel's tables of whose those are |
//! | inject.rs | whose requests get a `traceparent` |
//! | readers.rs | which thread has read what |
//! | spans.rs | records to pieces, spans to whom they belong |
//!
//! What bytes mean is decided in `waggle_telemetry_pipeline::requests`. The programs are loaded when the first task wants it, so a
//! node without such tasks pays nothing.
//!
//! # Invariants
//! - A span has the resource of the task in whose cgroup the socket is; of a cgroup that is no task there is none.
//! - Where the kernel refuses the programs, the feature is off, and the node says why for as long as it runs.

mod follow;
mod inject;
mod readers;
mod spans;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use waggle_ebpf::{Injector, LoadError, ProgramInfo, RequestRecords, RequestTracer};
use waggle_ebpf_common::flow::FlowRecord;
use waggle_overlay::VipNames;
use waggle_telemetry::{Feature, Telemetry, names};
use waggle_telemetry_pipeline::{
    TaskLabels,
    requests::{Connects, Rule, slow_connect},
};
use waggle_types::TaskSpec;

use follow::Followed;
use inject::Injecting;
pub use inject::{TraceInject, try_out};
use readers::{Readers, Told};
use spans::Spans;

use crate::{
    flow_log::wall_offset_ns,
    net::{Net, chain},
    run::blocking,
};

/// Between two looks at the ring; after a look that found many the next one comes sooner.
const EVERY: Duration = Duration::from_millis(250);
const SOONER: Duration = Duration::from_millis(20);
const MANY: usize = 2000;
/// Most records of one look.
const AT_ONCE: usize = 32_768;
/// Looks for which a task that is gone is known.
const LINGER: u8 = 8;
/// A task's word, as label or environment variable.
const WORD: &str = "WAGGLE_TRACE";
/// Says that it is traced, and that its requests get a `traceparent`.
const INJECT: &str = "inject";

/// Whose requests become spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TraceRequests {
    /// Nobody's.
    Off,
    /// Those of tasks with `WAGGLE_TRACE=requests` or `inject`.
    #[default]
    Labelled,
    /// Those of all but tasks with `WAGGLE_TRACE=none`.
    All,
}

impl TraceRequests {
    fn wants(self, word: Option<&str>) -> bool {
        match self {
            Self::Off => false,
            Self::Labelled => matches!(word, Some("requests" | INJECT)),
            Self::All => word != Some("none"),
        }
    }
}

/// What a task says of its requests, by its labels, or else by its environment.
#[derive(Debug, Clone, Default)]
pub struct Said {
    word: Option<String>,
    rule: Rule,
}

impl Said {
    /// Reads it; tasks of a service share what is theirs together.
    pub fn read(spec: &TaskSpec, service: &str) -> Self {
        let said = |name: &str| {
            let said = spec.labels.get(name).or_else(|| spec.env.get(name));
            said.map(String::as_str)
        };
        Self {
            word: said(WORD).map(str::to_owned),
            rule: Rule::read(service, said),
        }
    }
}

/// Whose requests are traced on this node.
#[derive(Debug)]
pub struct Requests {
    setting: TraceRequests,
    inject: TraceInject,
    tasks: Mutex<HashMap<u64, Task>>,
    tracer: OnceLock<RequestTracer>,
    injector: OnceLock<Box<Injector>>,
    /// This node's address.
    node: Ipv4Addr,
    /// What the kernel has refused, for people.
    trouble: OnceLock<String>,
}

#[derive(Debug)]
struct Task {
    labels: Arc<TaskLabels>,
    rule: Rule,
    /// It has asked for a `traceparent`.
    injects: bool,
    /// Looks for which it is known, once it is gone.
    left: Option<u8>,
}

impl Requests {
    /// Of nobody yet, on the node with this address.
    pub fn new(setting: TraceRequests, inject: TraceInject, node: Ipv4Addr) -> Self {
        Self {
            setting,
            inject,
            tasks: Mutex::default(),
            tracer: OnceLock::new(),
            injector: OnceLock::new(),
            node,
            trouble: OnceLock::new(),
        }
    }

    /// This node's address.
    pub fn node(&self) -> Ipv4Addr {
        self.node
    }

    /// Why requests are not traced here though somebody wants it, or not as well as they could be. Known once the programs were to be loaded.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.get().map(String::as_str)
    }

    /// The programs can't be loaded, or a part of them.
    fn refused(&self, what: &str, why: &LoadError) {
        let error = chain(why);
        tracing::warn!(error, "{what}");
        // Once a run is what they are loaded.
        let _ = self.trouble.set(format!("{what}: {error}"));
    }

    /// A task is there; a second time changes nothing. What it asks before the next look may be missed, unless others are traced.
    pub fn begin(&self, labels: &Arc<TaskLabels>, said: &Said) {
        let word = said.word.as_deref();
        if labels.cgroup_id == 0 || !self.setting.wants(word) {
            return;
        }
        let mut tasks = self.tasks();
        if tasks.contains_key(&labels.cgroup_id) {
            return;
        }
        let task = Task {
            labels: Arc::clone(labels),
            rule: said.rule.clone(),
            injects: word == Some(INJECT),
            left: None,
        };
        tasks.insert(labels.cgroup_id, task);
        if let Some(tracer) = self.tracer.get()
            && let Err(e) = tracer.trace(labels.cgroup_id)
        {
            tracing::debug!(error = chain(&e), "a task's requests are not traced yet");
        }
    }

    /// A task is gone; what the ring still has of it is told as its own.
    pub fn end(&self, cgroup_id: u64) {
        let mut tasks = self.tasks();
        if self.tracer.get().is_none() {
            // Nobody looks.
            tasks.remove(&cgroup_id);
        } else if let Some(task) = tasks.get_mut(&cgroup_id) {
            task.left = Some(LINGER);
        }
    }

    /// Connects through VIPs that are over: those of traced tasks that were slow or failed become spans.
    pub fn connects(&self, records: &[FlowRecord], vips: &VipNames, telemetry: &Telemetry) {
        if self.setting == TraceRequests::Off || !telemetry.allows(Feature::Requests) {
            return;
        }
        let offset_ns = wall_offset_ns();
        for record in records {
            let labels = self.labels(record.cgroup_id);
            let Some((labels, (key, name))) = labels.zip(vips.get(&record.vip_id)) else {
                continue;
            };
            let (at, name) = (
                SocketAddr::new(key.ip, key.port),
                format!("{name}:{}", key.port),
            );
            let which = Connects::default();
            if let Some(span) = slow_connect(record, (at, &name), offset_ns, which) {
                telemetry.count(&names::REQUESTS_SPANS, &[], 1);
                telemetry.request_spans(&labels, vec![span]);
            }
        }
    }

    /// The programs and what they cost; none before they are loaded.
    pub fn programs(&self) -> Vec<ProgramInfo> {
        let tracer = self.tracer.get();
        let mut all = tracer.map(RequestTracer::programs).unwrap_or_default();
        all.extend(self.injector.get().into_iter().flat_map(|i| i.programs()));
        all
    }

    fn labels(&self, cgroup_id: u64) -> Option<Arc<TaskLabels>> {
        let tasks = self.tasks();
        tasks.get(&cgroup_id).map(|task| Arc::clone(&task.labels))
    }

    /// What may become of a task's requests.
    fn rule(&self, cgroup_id: u64) -> Option<Rule> {
        let tasks = self.tasks();
        tasks.get(&cgroup_id).map(|task| task.rule.clone())
    }

    /// Cgroups of tasks that are there.
    fn wanted(&self) -> BTreeSet<u64> {
        let tasks = self.tasks();
        let there = tasks.iter().filter(|(_, task)| task.left.is_none());
        there.map(|(cgroup_id, _)| *cgroup_id).collect()
    }

    /// Those who ask for a `traceparent` in their requests, whether or not the node allows it.
    fn asking(&self) -> BTreeMap<u64, Arc<TaskLabels>> {
        let tasks = self.tasks();
        let there = tasks.iter().filter(|(_, t)| t.left.is_none() && t.injects);
        there
            .map(|(cgroup_id, task)| (*cgroup_id, Arc::clone(&task.labels)))
            .collect()
    }

    /// A look is over.
    fn pass(&self) {
        self.tasks().retain(|_, task| match &mut task.left {
            None => true,
            Some(0) => false,
            Some(n) => {
                *n -= 1;
                true
            }
        });
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<u64, Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks until it is dropped. Without a data plane, or where it is off, there is nothing to look at.
pub fn work(
    net: Arc<Net>,
    cgroup_root: Option<PathBuf>,
    telemetry: Telemetry,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    // What it keeps is large.
    Box::pin(look_on(net, cgroup_root, telemetry))
}

async fn look_on(net: Arc<Net>, cgroup_root: Option<PathBuf>, telemetry: Telemetry) {
    let (Some(plane), Some(cgroup_root)) = (net.plane().cloned(), cgroup_root) else {
        return;
    };
    if net.requests().setting == TraceRequests::Off || !telemetry.is_exporting() {
        // What an earlier run attached.
        let detached = blocking(move || RequestTracer::detach(&plane)).await;
        if let Err(e) = detached {
            tracing::warn!(error = chain(&e), "requests are traced on for nobody");
        }
        return;
    }
    let mut looking = Looking::new(cgroup_root);
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        let (net, told) = (Arc::clone(&net), telemetry.clone());
        let n;
        (looking, n) = blocking(move || {
            let n = told.cpu().run(|| looking.look(&net, &told));
            (looking, n)
        })
        .await;
        if looking.has_failed {
            return;
        }
        if n >= MANY {
            tick.reset_after(SOONER);
        }
    }
}

/// What is kept between two looks.
struct Looking {
    cgroup_root: PathBuf,
    records: Option<RequestRecords>,
    /// What the kernel was told to trace.
    traced: Followed,
    injecting: Injecting,
    readers: Readers,
    spans: Spans,
    counted: BTreeMap<&'static str, u64>,
    has_failed: bool,
}

impl Looking {
    fn new(cgroup_root: PathBuf) -> Self {
        Self {
            cgroup_root,
            records: None,
            traced: Followed::new("TRACED"),
            injecting: Injecting::default(),
            readers: Readers::default(),
            spans: Spans::default(),
            counted: BTreeMap::new(),
            has_failed: false,
        }
    }

    /// One look; how many records there were. Blocking, briefly.
    fn look(&mut self, net: &Net, telemetry: &Telemetry) -> usize {
        let requests = net.requests();
        let mut wanted = requests.wanted();
        if self.records.is_none() {
            if wanted.is_empty() {
                return 0;
            }
            self.open(net);
        }
        let (Some(records), Some(tracer)) = (&mut self.records, requests.tracer.get()) else {
            return 0;
        };
        if !telemetry.allows(Feature::Requests) {
            wanted.clear();
        }
        let (trace, forget) = (|id| tracer.trace(id), |id| tracer.forget(id));
        self.traced.look(&wanted, trace, forget, telemetry);
        // Only of those who are traced: the ids are the tracer's.
        let mut asking = requests.asking();
        asking.retain(|cgroup_id, _| self.traced.has(*cgroup_id));
        self.injecting
            .look(net, &self.cgroup_root, &asking, telemetry);
        let mut came = Vec::new();
        while came.len() < AT_ONCE
            && let Some(told) = records.next(|head, bytes| Told {
                head: *head,
                bytes: bytes.to_vec(),
            })
        {
            came.push(told);
        }
        let n = came.len();
        if tracer.tells_readers() {
            came = self.readers.join(came);
        }
        // What is lost is told before what came, which may have to do with it.
        self.count(tracer, telemetry);
        self.spans.look(&came, requests, net, telemetry);
        requests.pass();
        n
    }

    fn open(&mut self, net: &Net) {
        let Some(plane) = net.plane() else { return };
        let opened = RequestTracer::open(plane, &self.cgroup_root).and_then(|tracer| {
            self.traced.adopt(tracer.traced()?);
            self.counted = tracer.counts()?.into_iter().collect();
            Ok(tracer)
        });
        match opened {
            Ok(tracer) => {
                if let Some(why) = tracer.trouble() {
                    let requests = net.requests();
                    requests.refused("which thread reads a request is not known here", why);
                }
                self.records = tracer.take_records();
                let _ = net.requests().tracer.set(tracer);
                tracing::info!("requests of tasks are traced");
            }
            Err(e) => {
                let requests = net.requests();
                requests.refused("requests of tasks are not traced by this node's kernel", &e);
                self.has_failed = true;
            }
        }
    }

    /// What the kernel could not tell.
    fn count(&mut self, tracer: &RequestTracer, telemetry: &Telemetry) {
        for (name, now) in tracer.counts().unwrap_or_default() {
            let before = self.counted.insert(name, now).unwrap_or(0);
            if now > before {
                let attrs = [(names::DROP_REASON, name.into())];
                telemetry.count(&names::REQUESTS_LOST, &attrs, now - before);
                if name == "ring_full" {
                    self.spans.lost(now - before);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_the_last_word_where_it_has_one() {
        use TraceRequests::{All, Labelled, Off};
        let words = [
            None,
            Some("requests"),
            Some("none"),
            Some("else"),
            Some("inject"),
        ];
        let wants = |setting: TraceRequests| words.map(|word| setting.wants(word));
        assert_eq!(wants(Off), [false; 5]);
        assert_eq!(wants(Labelled), [false, true, false, false, true]);
        assert_eq!(wants(All), [true, true, false, true, true]);
    }

    #[test]
    fn a_label_says_what_may_become_of_requests_and_comes_before_the_environment() {
        let mut spec = crate::fixture::spec("task");
        let env = [("WAGGLE_TRACE", "none"), ("WAGGLE_TRACE_RATE", "0.5")];
        for (name, value) in env {
            spec.env.insert(name.to_owned(), value.to_owned());
        }
        spec.labels
            .insert("WAGGLE_TRACE".to_owned(), "requests".to_owned());
        let said = Said::read(&spec, "shop");
        assert_eq!(said.word.as_deref(), Some("requests"));
        let requests = Requests::new(
            TraceRequests::Labelled,
            TraceInject::Off,
            Ipv4Addr::LOCALHOST,
        );
        let labels = TaskLabels {
            cgroup_id: 7,
            ..crate::fixture::labels("task")
        };
        requests.begin(&Arc::new(labels), &said);
        let rule = requests.rule(7).unwrap();
        assert_eq!((&*rule.service, rule.rate), ("shop", 0.5));
        assert_eq!(rule.spans_per_s, Rule::default().spans_per_s);
    }

    #[test]
    fn a_header_is_for_who_asks() {
        let labels = |cgroup_id| {
            Arc::new(TaskLabels {
                cgroup_id,
                ..crate::fixture::labels("task")
            })
        };
        let node = Ipv4Addr::LOCALHOST;
        let requests = Requests::new(TraceRequests::All, TraceInject::Labelled, node);
        for (cgroup_id, word) in (1..).zip([Some("requests"), Some(INJECT), None, Some("none")]) {
            let said = Said {
                word: word.map(str::to_owned),
                ..Said::default()
            };
            requests.begin(&labels(cgroup_id), &said);
        }
        assert_eq!(requests.asking().into_keys().collect::<Vec<_>>(), [2]);
        assert_eq!(requests.wanted(), [1, 2, 3].into());
    }
}
