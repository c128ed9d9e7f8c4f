//! Which traces are kept: the same on every node, by the trace id.

use std::{collections::BTreeMap, sync::Arc};

/// Share of traces that are kept.
const RATE: &str = "WAGGLE_TRACE_RATE";
/// Spans a second.
const SPANS: &str = "WAGGLE_TRACE_SPANS_PER_SECOND";
/// Most that a task may ask for.
const MOST_SPANS_S: u32 = 100_000;

/// What a task's requests may become.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The service; tasks of one service share a bound and their templates.
    pub service: Arc<str>,
    /// Share of traces that are kept, 0 to 1. A `traceparent` that says whether it is sampled wins.
    pub rate: f64,
    /// Spans a second; what is beyond is counted.
    pub spans_per_s: u32,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            service: "".into(),
            rate: 1.0,
            spans_per_s: 1000,
        }
    }
}

impl Rule {
    /// What a task says of itself, by label or else in its environment, and the defaults for the rest. What can't be read is left
    /// alone: a task runs with a wrong label, too.
    pub fn read<'a>(service: &str, said: impl Fn(&str) -> Option<&'a str>) -> Self {
        let default = Self::default();
        let rate = said(RATE).and_then(|v| v.trim().parse::<f64>().ok());
        let spans_per_s = said(SPANS).and_then(|v| v.trim().parse::<u32>().ok());
        Self {
            service: service.into(),
            rate: rate
                .filter(|rate| (0.0..=1.0).contains(rate))
                .unwrap_or(default.rate),
            spans_per_s: spans_per_s
                .filter(|n| *n > 0)
                .map_or(default.spans_per_s, |n| n.min(MOST_SPANS_S)),
        }
    }

    /// OpenTelemetry's consistent sampling: the lowest 56 bits of a trace id are random (W3C Trace Context level 2), and a trace is
    /// kept if they are not below a threshold. So whoever has a higher rate keeps all that one with a lower rate keeps.
    pub(super) fn keeps(&self, trace_id: u128) -> bool {
        const ALL: f64 = (1_u64 << 56) as f64;
        let low = trace_id & ((1 << 56) - 1);
        let random = u64::try_from(low).unwrap_or(0) as f64;
        let rate = if self.rate.is_nan() { 1.0 } else { self.rate };
        random >= (1.0 - rate) * ALL
    }
}

/// Spans a second of each service: a second's worth may come at once.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    services: BTreeMap<Arc<str>, (u64, f64)>,
}

impl Bounds {
    pub(super) fn take(&mut self, rule: &Rule, now: u64) -> bool {
        let most = f64::from(rule.spans_per_s);
        let (last, left) = self
            .services
            .entry(Arc::clone(&rule.service))
            .or_insert((now, most));
        let passed = now.saturating_sub(*last) as f64 / 1e9;
        *last = now.max(*last);
        *left = (*left + passed * most).min(most);
        let has = *left >= 1.0;
        if has {
            *left -= 1.0;
        }
        has
    }

    pub(super) fn keep(&mut self, is_there: impl Fn(&Arc<str>) -> bool) {
        self.services.retain(|s, _| is_there(s));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_higher_rate_keeps_what_a_lower_one_does(trace: u128, a in 0.0..=1.0, b in 0.0..=1.0) {
            let rule = |rate| Rule { rate, ..Rule::default() };
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            prop_assert!(!rule(low).keeps(trace) || rule(high).keeps(trace));
            prop_assert!(rule(1.0).keeps(trace) && !rule(0.0).keeps(trace));
        }
    }

    #[test]
    fn what_a_task_says_wrongly_of_itself_is_left_alone() {
        let read = |rate: &'static str, spans: &'static str| {
            let rule = Rule::read("shop", |name| match name {
                RATE => Some(rate),
                SPANS => Some(spans),
                _ => None,
            });
            (rule.rate, rule.spans_per_s)
        };
        assert_eq!(read(" 0.25 ", "50"), (0.25, 50));
        assert_eq!(read("0", "1"), (0.0, 1));
        assert_eq!(read("1", "4000000000"), (1.0, MOST_SPANS_S));
        for (rate, spans) in [("1.5", "0"), ("-0.1", "-1"), ("NaN", "many"), ("", "")] {
            assert_eq!(read(rate, spans), (1.0, 1000), "{rate:?} {spans:?}");
        }
    }

    #[test]
    fn a_rate_is_a_share() {
        let rule = Rule {
            rate: 0.25,
            ..Rule::default()
        };
        let ids =
            (0..10_000_u128).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        let kept = ids.filter(|id| rule.keeps(*id)).count();
        assert!((2300..2700).contains(&kept), "{kept}");
    }

    #[test]
    fn a_service_has_so_many_a_second() {
        let rule = Rule {
            spans_per_s: 10,
            ..Rule::default()
        };
        let mut bounds = Bounds::default();
        let mut taken = |at: u64| (0..100).filter(|_| bounds.take(&rule, at)).count();
        assert_eq!((taken(5), taken(5), taken(500_000_005)), (10, 0, 5));
        assert_eq!(taken(9_000_000_000), 10);
    }
}
