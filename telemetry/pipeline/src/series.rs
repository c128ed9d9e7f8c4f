//! The latest value of every series, and instruments for what is recorded in user space.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use waggle_types::{TaskId, TraceContext};

use crate::{
    AttrValue, Attrs, Exemplar, MetricDef, Point, PointData, exemplar::bucket, names::Kind,
    names::OVERFLOW,
};

/// Whom a series belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKey {
    /// A component of Waggle: `waggle-agent`.
    Component(Arc<str>),
    /// A task.
    Task(TaskId),
}

type SeriesKey = (ResourceKey, &'static MetricDef, Attrs);

#[derive(Debug, Clone)]
struct Series {
    data: PointData,
    exemplars: Vec<Exemplar>,
    start_ns: u64,
    time_ns: u64,
    /// When it was last handed in or recorded.
    seen_ns: u64,
    /// Recorded here, as against handed in whole.
    own: bool,
}

/// Series by owner, metric and attributes. Bounded: beyond the limit, instruments fold into one series
/// per metric marked `otel.metric.overflow`, and points handed in are refused.
#[derive(Debug)]
pub struct SeriesStore {
    max: usize,
    series: BTreeMap<SeriesKey, Series>,
}

impl SeriesStore {
    /// An empty store for at most `max` series (plus one overflow series per metric).
    pub fn new(max: usize) -> Self {
        Self {
            max,
            series: BTreeMap::new(),
        }
    }

    /// Keeps a point as its series' latest value; `false` when there is no room for a new series.
    pub fn put(&mut self, owner: &ResourceKey, point: &Point, now_ns: u64) -> bool {
        let key = (owner.clone(), point.def, sorted(point.attrs.clone()));
        if self.series.len() >= self.max && !self.series.contains_key(&key) {
            return false;
        }
        let series = Series {
            data: point.data.clone(),
            exemplars: point.exemplars.clone(),
            start_ns: point.start_ns,
            time_ns: point.time_ns,
            seen_ns: now_ns,
            own: false,
        };
        self.series.insert(key, series);
        true
    }

    /// Adds to a counter (or an up-down counter).
    pub fn add(
        &mut self,
        owner: &ResourceKey,
        def: &'static MetricDef,
        attrs: Attrs,
        n: u64,
        now_ns: u64,
    ) {
        let zero = match def.kind {
            Kind::UpDownCounter => PointData::UpDown(0),
            _ => PointData::Sum(0),
        };
        let series = self.own(owner, def, attrs, now_ns, zero);
        match &mut series.data {
            PointData::Sum(v) => *v = v.saturating_add(n),
            PointData::SumF64(v) => *v += n as f64,
            PointData::UpDown(v) => {
                *v = v.saturating_add(i64::try_from(n).unwrap_or(i64::MAX));
            }
            PointData::UpDownF64(_) | PointData::Gauge(_) | PointData::Histogram { .. } => {}
        }
    }

    /// Sets a gauge or an up-down counter.
    pub fn set(
        &mut self,
        owner: &ResourceKey,
        def: &'static MetricDef,
        attrs: Attrs,
        value: f64,
        now_ns: u64,
    ) {
        let zero = match def.kind {
            Kind::UpDownCounter => PointData::UpDownF64(0.0),
            _ => PointData::Gauge(0.0),
        };
        let series = self.own(owner, def, attrs, now_ns, zero);
        match &mut series.data {
            PointData::UpDownF64(v) | PointData::Gauge(v) => *v = value,
            _ => {}
        }
    }

    /// Records an observation in a histogram with the definition's bounds; not a number is ignored.
    pub fn record(
        &mut self,
        owner: &ResourceKey,
        def: &'static MetricDef,
        attrs: Attrs,
        value: f64,
        now_ns: u64,
    ) {
        self.record_in(owner, def, attrs, value, None, now_ns);
    }

    /// The same of an observation within a span, which becomes its bucket's exemplar.
    pub fn record_in(
        &mut self,
        owner: &ResourceKey,
        def: &'static MetricDef,
        attrs: Attrs,
        value: f64,
        trace: Option<TraceContext>,
        now_ns: u64,
    ) {
        if value.is_nan() {
            return;
        }
        let zero = PointData::Histogram {
            bounds: Cow::Borrowed(def.bounds),
            counts: vec![0; def.bounds.len() + 1],
            sum: 0.0,
            count: 0,
        };
        let series = self.own(owner, def, attrs, now_ns, zero);
        let at = bucket(&series.data, value);
        if let PointData::Histogram {
            counts, sum, count, ..
        } = &mut series.data
            && let Some(c) = counts.get_mut(at)
        {
            *c += 1;
            *sum += value;
            *count += 1;
            if let Some(exemplar) = Exemplar::of(trace, value, now_ns) {
                exemplar.put(&mut series.exemplars, &series.data);
            }
        }
    }

    fn own(
        &mut self,
        owner: &ResourceKey,
        def: &'static MetricDef,
        attrs: Attrs,
        now_ns: u64,
        zero: PointData,
    ) -> &mut Series {
        let mut key = (owner.clone(), def, sorted(attrs));
        if self.series.len() >= self.max && !self.series.contains_key(&key) {
            key.2 = vec![(OVERFLOW, AttrValue::Bool(true))];
        }
        let series = self.series.entry(key).or_insert_with(|| Series {
            data: zero,
            exemplars: Vec::new(),
            start_ns: now_ns,
            time_ns: now_ns,
            seen_ns: now_ns,
            own: true,
        });
        series.time_ns = series.time_ns.max(now_ns);
        series
    }

    /// The instruments' series as points, to be exported; points handed in are not repeated.
    pub fn collect_own(&self, now_ns: u64) -> Vec<(ResourceKey, Point)> {
        self.series
            .iter()
            .filter(|(_, s)| s.own)
            .map(|((owner, def, attrs), s)| {
                let point = Point {
                    def,
                    attrs: attrs.clone(),
                    data: s.data.clone(),
                    start_ns: s.start_ns,
                    time_ns: s.time_ns.max(now_ns),
                    exemplars: s.exemplars.clone(),
                };
                (owner.clone(), point)
            })
            .collect()
    }

    /// Every series, by owner, then metric name, then attributes.
    pub fn iter(
        &self,
    ) -> impl Iterator<Item = (&ResourceKey, &'static MetricDef, &Attrs, &PointData)> {
        self.with_exemplars()
            .map(|(owner, def, attrs, data, _)| (owner, def, attrs, data))
    }

    /// The same with the spans behind them.
    pub(crate) fn with_exemplars(
        &self,
    ) -> impl Iterator<
        Item = (
            &ResourceKey,
            &'static MetricDef,
            &Attrs,
            &PointData,
            &[Exemplar],
        ),
    > {
        self.series
            .iter()
            .map(|((owner, def, attrs), s)| (owner, *def, attrs, &s.data, s.exemplars.as_slice()))
    }

    /// Removes an owner's series.
    pub fn forget(&mut self, owner: &ResourceKey) {
        self.series.retain(|(o, _, _), _| o != owner);
    }

    /// Removes series that were last handed in before `before_ns`: their subject (a VIP, a backend) is
    /// gone. Series recorded here stay.
    pub fn forget_stale(&mut self, before_ns: u64) {
        self.series.retain(|_, s| s.own || s.seen_ns >= before_ns);
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }
}

/// Attribute order is not part of a series' identity.
fn sorted(mut attrs: Attrs) -> Attrs {
    attrs.sort();
    attrs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;

    fn agent() -> ResourceKey {
        ResourceKey::Component("waggle-agent".into())
    }

    #[test]
    fn counters_and_histograms_accumulate_from_their_own_start() {
        let mut s = SeriesStore::new(10);
        s.add(&agent(), &names::DNS_QUERIES, vec![], 2, 100);
        s.add(&agent(), &names::DNS_QUERIES, vec![], 3, 200);
        for v in [0.0001, 0.000_11, 1e9, f64::NAN] {
            s.record(&agent(), &names::AGENT_TICK_DURATION, vec![], v, 300);
        }
        let points = s.collect_own(400);
        assert_eq!(points.len(), 2);
        let hist = &points[0].1;
        let PointData::Histogram { counts, count, .. } = &hist.data else {
            panic!("{hist:?}")
        };
        assert_eq!((*count, counts[0], counts[1]), (3, 1, 1));
        assert_eq!(counts.last(), Some(&1));
        assert_eq!((hist.start_ns, hist.time_ns), (300, 400));
        assert_eq!(points[1].1.data, PointData::Sum(5));
        assert_eq!(points[1].1.start_ns, 100);
    }

    #[test]
    fn observations_within_spans_are_exemplars() {
        let mut s = SeriesStore::new(10);
        let span = |span_id| {
            Some(TraceContext {
                trace_id: 1,
                span_id,
                flags: 1,
            })
        };
        let def = &names::AGENT_TICK_DURATION;
        for (n, value) in [(1, 0.003), (2, 0.004), (3, 2.0)] {
            s.record_in(&agent(), def, vec![], value, span(n), 100 + n);
        }
        s.record(&agent(), def, vec![], 0.004, 200);
        let (_, point) = s.collect_own(300).remove(0);
        let told: Vec<_> = point
            .exemplars
            .iter()
            .map(|e| (e.trace.span_id, e.value, e.time_ns))
            .collect();
        assert_eq!(told, [(2, 0.004, 102), (3, 2.0, 103)]);
        let PointData::Histogram { count, .. } = point.data else {
            panic!("{point:?}")
        };
        assert_eq!(count, 4);
    }

    #[test]
    fn beyond_the_limit_totals_stay_exact() {
        let mut s = SeriesStore::new(2);
        for i in 0..10i64 {
            let attrs = vec![("waggle.dns.rcode", AttrValue::I64(i))];
            s.add(&agent(), &names::DNS_QUERIES, attrs, 1, 1);
        }
        assert_eq!(s.len(), 3);
        let total: u64 = s
            .iter()
            .map(|(_, _, _, d)| if let PointData::Sum(n) = d { *n } else { 0 })
            .sum();
        assert_eq!(total, 10);
        let p = Point::new(
            &names::CONTAINER_UPTIME,
            vec![],
            PointData::Gauge(1.0),
            0,
            1,
        );
        assert!(!s.put(&agent(), &p, 1));
    }

    #[test]
    fn what_is_no_longer_handed_in_is_forgotten() {
        let mut s = SeriesStore::new(10);
        s.add(&agent(), &names::DNS_QUERIES, vec![], 1, 1);
        for port in [1i64, 2] {
            let attrs = vec![(names::SERVER_PORT, port.into())];
            let p = Point::new(&names::VIP_NO_BACKEND, attrs, PointData::Sum(1), 0, 1);
            assert!(s.put(&agent(), &p, 1));
            if port == 2 {
                assert!(s.put(&agent(), &p, 100));
            }
        }
        s.forget_stale(50);
        assert_eq!(s.len(), 2);
    }
}
