//! Metric points: one value of one series at one time.

use std::borrow::Cow;

use crate::{Attrs, Exemplar, MetricDef, names::Kind};

/// One data point, cumulative since `start_ns` (gauges: now).
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Which metric.
    pub def: &'static MetricDef,
    /// Its attributes; keys are listed in the definition.
    pub attrs: Attrs,
    /// The value.
    pub data: PointData,
    /// Since when a cumulative value counts, Unix nanoseconds. New when the counting starts anew
    /// (maps reloaded, process restarted); ignored for gauges.
    pub start_ns: u64,
    /// When it was read, Unix nanoseconds.
    pub time_ns: u64,
    /// Spans behind it, at most one for each bucket; none of gauges.
    pub exemplars: Vec<Exemplar>,
}

/// A point's value; must suit the definition's [`Kind`].
#[derive(Debug, Clone, PartialEq)]
pub enum PointData {
    /// A counter.
    Sum(u64),
    /// A counter of a fractional quantity (seconds).
    SumF64(f64),
    /// A value that goes up and down and adds up over series.
    UpDown(i64),
    /// The same, fractional (CPUs).
    UpDownF64(f64),
    /// A value that does not add up.
    Gauge(f64),
    /// A distribution.
    Histogram {
        /// Upper bounds (inclusive), ascending; one fewer than `counts`.
        bounds: Cow<'static, [f64]>,
        /// Observations per bucket; the last one is above every bound.
        counts: Vec<u64>,
        /// Sum of observations.
        sum: f64,
        /// Number of observations, the sum of `counts`.
        count: u64,
    },
}

impl PointData {
    /// Whether the value suits a kind.
    pub const fn suits(&self, kind: Kind) -> bool {
        matches!(
            (self, kind),
            (Self::Sum(_) | Self::SumF64(_), Kind::Counter)
                | (Self::UpDown(_) | Self::UpDownF64(_), Kind::UpDownCounter)
                | (Self::Gauge(_), Kind::Gauge)
                | (Self::Histogram { .. }, Kind::Histogram)
        )
    }
}

impl Point {
    /// A point of a cumulative or up-down series.
    pub fn new(
        def: &'static MetricDef,
        attrs: Attrs,
        data: PointData,
        start_ns: u64,
        time_ns: u64,
    ) -> Self {
        Self {
            def,
            attrs,
            data,
            start_ns,
            time_ns,
            exemplars: Vec::new(),
        }
    }

    /// What breaks the registry's rules: a value of another kind, an attribute that is not listed.
    pub fn violation(&self) -> Option<String> {
        if !self.data.suits(self.def.kind) {
            return Some(format!(
                "{}: value is not a {:?}",
                self.def.name, self.def.kind
            ));
        }
        self.attrs
            .iter()
            .find(|(k, _)| !self.def.attributes.contains(k))
            .map(|(k, _)| format!("{}: attribute {k} is not registered", self.def.name))
    }

    /// About how many bytes it takes on the wire; for queue limits.
    pub fn approx_bytes(&self) -> usize {
        let data = match &self.data {
            PointData::Histogram { counts, .. } => counts.len() * 16,
            _ => 8,
        };
        let attrs: usize = self
            .attrs
            .iter()
            .map(|(k, v)| k.len() + 8 + v.approx_bytes())
            .sum();
        48 + data + attrs + self.exemplars.len() * 48
    }
}
