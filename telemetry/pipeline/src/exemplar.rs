//! Exemplars: which span an observation was made in, so that a figure leads to a trace.
//!
//! # Invariants
//! - One for a bucket of a histogram, one for a counter's series: the last.
//! - Only of traces that are sampled: others lead nowhere.

use waggle_types::TraceContext;

use crate::PointData;

/// Bit 0 of a trace's flags.
const SAMPLED: u8 = 1;

/// An observation, and the span that it was made in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// The span.
    pub trace: TraceContext,
    /// What was observed, in the metric's unit.
    pub value: f64,
    /// When, Unix nanoseconds.
    pub time_ns: u64,
}

impl Exemplar {
    /// Of an observation within a span; none where the span's trace is not sampled.
    pub fn of(trace: Option<TraceContext>, value: f64, time_ns: u64) -> Option<Self> {
        let trace = trace.filter(|t| t.flags & SAMPLED != 0)?;
        Some(Self {
            trace,
            value,
            time_ns,
        })
    }

    /// Takes the place of the one before it, if there is one.
    pub(crate) fn put(self, kept: &mut Vec<Self>, data: &PointData) {
        let of = |e: &Self| bucket(data, e.value);
        match kept.iter_mut().find(|e| of(e) == of(&self)) {
            Some(before) => *before = self,
            None => kept.push(self),
        }
    }
}

/// Position of the bucket that a value is in; 0 for what has no buckets.
pub(crate) fn bucket(data: &PointData, value: f64) -> usize {
    match data {
        PointData::Histogram { bounds, .. } => bounds.partition_point(|b| *b < value),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(span_id: u64, value: f64) -> Exemplar {
        let trace = TraceContext {
            trace_id: 7,
            span_id,
            flags: SAMPLED,
        };
        Exemplar::of(Some(trace), value, span_id).unwrap()
    }

    #[test]
    fn the_last_of_each_bucket_is_kept() {
        let data = PointData::Histogram {
            bounds: vec![1.0, 10.0].into(),
            counts: vec![0; 3],
            sum: 0.0,
            count: 0,
        };
        let mut kept = Vec::new();
        for (id, value) in [0.5, 1.0, 5.0, 11.0, 99.0].into_iter().enumerate() {
            of(id as u64, value).put(&mut kept, &data);
        }
        let ids: Vec<u64> = kept.iter().map(|e| e.trace.span_id).collect();
        assert_eq!(ids, [1, 2, 4]);
        let mut kept = Vec::new();
        of(1, 2.0).put(&mut kept, &PointData::Sum(1));
        of(2, 99.0).put(&mut kept, &PointData::Sum(1));
        assert_eq!(kept, [of(2, 99.0)], "a counter has one");
    }

    #[test]
    fn what_is_not_sampled_leads_nowhere() {
        let trace = TraceContext {
            trace_id: 7,
            span_id: 1,
            flags: 0,
        };
        assert_eq!(Exemplar::of(Some(trace), 1.0, 1), None);
        assert_eq!(Exemplar::of(None, 1.0, 1), None);
    }
}
