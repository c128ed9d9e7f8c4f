//! What telemetry costs in this process, and which features are left off to stay within the budget.
//!
//! CPU time is what threads spend on telemetry's own work, counted around it ([`CpuMeter`]); what the kernel's programs take is not in it.
//! Memory is what queues and series hold, as their owners estimate it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use nix::time::{ClockId, clock_gettime};
use waggle_telemetry_pipeline::{Attrs, Change, Cost, Feature, Point, PointData, Shed, Why, names};

/// CPU time of some work, wherever it runs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct CpuMeter(Arc<AtomicU64>);

impl CpuMeter {
    /// Does something, and counts the time.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let begun = thread_ns();
        let out = work();
        self.add(begun);
        out
    }

    /// The same with a future, each time that it is polled.
    pub fn wrap<F: Future>(&self, work: F) -> Metered<F> {
        Metered {
            work: Box::pin(work),
            meter: self.clone(),
        }
    }

    /// Nanoseconds so far.
    pub fn total_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, begun: u64) {
        let took = thread_ns().saturating_sub(begun);
        self.0.fetch_add(took, Ordering::Relaxed);
    }
}

/// A future whose CPU time is counted.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Metered<F> {
    work: Pin<Box<F>>,
    meter: CpuMeter,
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let begun = thread_ns();
        let out = self.work.as_mut().poll(cx);
        self.meter.add(begun);
        out
    }
}

/// CPU time of this thread; 0 where the kernel does not say.
fn thread_ns() -> u64 {
    let spent = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    spent.map_or(0, |t| {
        let (s, ns) = (t.tv_sec(), t.tv_nsec());
        u64::try_from(s).unwrap_or(0) * 1_000_000_000 + u64::try_from(ns).unwrap_or(0)
    })
}

/// The contract of a process.
#[derive(Debug)]
pub(crate) struct Contract {
    budget: Cost,
    shed: Shed,
    /// CPU time at the last reading, and when that was, Unix nanoseconds.
    last: Option<(u64, u64)>,
    cpus: f64,
}

impl Contract {
    pub(crate) fn new(budget: Cost) -> Self {
        Self {
            budget,
            shed: Shed::default(),
            last: None,
            cpus: 0.0,
        }
    }

    pub(crate) fn allows(&self, feature: Feature) -> bool {
        self.shed.allows(feature)
    }

    /// Takes a reading.
    pub(crate) fn read(&mut self, cpu_ns: u64, memory: u64, now_ns: u64) -> Option<Change> {
        let (cpu_before, then) = self.last.replace((cpu_ns, now_ns))?;
        let passed = now_ns.saturating_sub(then);
        if passed == 0 {
            return None;
        }
        self.cpus = cpu_ns.saturating_sub(cpu_before) as f64 / passed as f64;
        let used = Cost {
            cpus: self.cpus,
            memory,
        };
        self.shed.read(used, self.budget)
    }

    pub(crate) fn points(
        &self,
        cpu_ns: u64,
        memory: u64,
        start_ns: u64,
        now_ns: u64,
    ) -> Vec<Point> {
        let mut out = Vec::new();
        let mut push = |def, attrs, data| out.push(Point::new(def, attrs, data, start_ns, now_ns));
        let none = Attrs::new;
        let seconds = PointData::SumF64(cpu_ns as f64 / 1e9);
        push(&names::TELEMETRY_CPU_TIME, none(), seconds);
        let bytes = i64::try_from(memory).unwrap_or(i64::MAX);
        push(&names::TELEMETRY_MEMORY, none(), PointData::UpDown(bytes));
        let most = PointData::Gauge(self.budget.cpus);
        push(&names::TELEMETRY_CPU_LIMIT, none(), most);
        let most = i64::try_from(self.budget.memory).unwrap_or(i64::MAX);
        push(
            &names::TELEMETRY_MEMORY_LIMIT,
            none(),
            PointData::UpDown(most),
        );
        for feature in Feature::ALL {
            let attrs = vec![(names::FEATURE, feature.name().into())];
            let on = PointData::Gauge(f64::from(u8::from(self.allows(feature))));
            push(&names::TELEMETRY_FEATURE, attrs, on);
        }
        out
    }
}

/// An event about a change: its name and attributes.
pub(crate) fn event(change: Change) -> (&'static str, Attrs) {
    let feature = |f: Feature| (names::FEATURE, f.name().into());
    match change {
        Change::Off(f, why) => (
            "waggle.telemetry.feature_off",
            vec![feature(f), ("waggle.reason", why.name().into())],
        ),
        Change::On(f) => ("waggle.telemetry.feature_on", vec![feature(f)]),
    }
}

/// The same for people.
pub(crate) fn tell(change: Change) {
    match change {
        Change::Off(f, Why::Cpu) => {
            tracing::warn!(
                feature = f.name(),
                "telemetry takes more CPU time than it may: a feature is left off"
            );
        }
        Change::Off(f, Why::Memory) => {
            tracing::warn!(
                feature = f.name(),
                "telemetry holds more memory than it may: a feature is left off"
            );
        }
        Change::On(f) => tracing::info!(
            feature = f.name(),
            "telemetry has room again: a feature is back"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burn() -> u64 {
        (0..2_000_000u64).fold(1, |a, b| std::hint::black_box(a.wrapping_mul(31) ^ b))
    }

    #[tokio::test]
    async fn work_is_counted_and_waiting_is_not() {
        let meter = CpuMeter::default();
        meter.run(burn);
        let once = meter.total_ns();
        assert!(once > 0);
        meter
            .wrap(async {
                burn();
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            })
            .await;
        let both = meter.total_ns();
        assert!(both > once && both - once < 150_000_000, "{once} {both}");
    }

    #[test]
    fn a_budget_that_is_exceeded_is_told() {
        let budget = Cost {
            cpus: 0.1,
            memory: 1 << 20,
        };
        let mut contract = Contract::new(budget);
        let second = 1_000_000_000;
        let mut changes = Vec::new();
        for n in 0..4 {
            changes.extend(contract.read(n * second / 5, 0, n * second));
        }
        assert_eq!(changes, [Change::Off(Feature::Edges, Why::Cpu)]);
        let (name, attrs) = event(changes[0]);
        let def = names::find_event(name).unwrap();
        assert!(attrs.iter().all(|(k, _)| def.attributes.contains(k)));
        let points = contract.points(1, 2, 3, 4);
        assert!(points.iter().all(|p| p.violation().is_none()));
        assert!(!contract.allows(Feature::Edges) && contract.allows(Feature::Scrapes));
    }
}
