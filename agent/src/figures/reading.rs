//! Points of one task as one reading, and two readings as figures. Pure.

use std::collections::BTreeMap;

use waggle_api::native::{Spread, TaskFiguresView};
use waggle_telemetry_pipeline::{AttrValue, Point, PointData, names};

/// Sums of a task since its start, and what it holds now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reading {
    // When, and when the task was started, Unix nanoseconds.
    at_ns: u64,
    start_ns: u64,
    cpu_s: Option<f64>,
    memory_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    accepts: u64,
    failures: u64,
    retransmits: u64,
    tx_bytes: u64,
    rx_bytes: u64,
    open: Option<u64>,
    connect: Spread,
    rtt: Spread,
    drops: BTreeMap<String, u64>,
    oom_kills: u64,
    log_lines_dropped: u64,
}

impl Reading {
    /// Of what is handed to telemetry.
    pub fn of(points: &[Point], (start_ns, at_ns): (u64, u64), log_lines_dropped: u64) -> Self {
        let mut out = Self {
            at_ns,
            start_ns,
            log_lines_dropped,
            ..Self::default()
        };
        for point in points {
            out.take(point);
        }
        out
    }

    fn take(&mut self, point: &Point) {
        let def = point.def;
        let is = |other: &'static names::MetricDef| std::ptr::eq(def, other);
        match &point.data {
            PointData::SumF64(s) if is(&names::CONTAINER_CPU_TIME) => {
                *self.cpu_s.get_or_insert(0.0) += s;
            }
            PointData::UpDown(n) => {
                let n = u64::try_from(*n).unwrap_or(0);
                if is(&names::CONTAINER_MEMORY_USAGE) {
                    self.memory_bytes = Some(n);
                } else if is(&names::CONTAINER_MEMORY_LIMIT) {
                    self.memory_limit_bytes = Some(n);
                } else if is(&names::CONTAINER_CONNECTIONS) {
                    self.open = Some(n);
                }
            }
            PointData::Sum(n) => self.count(point, *n),
            PointData::Histogram { counts, .. } => {
                if is(&names::TCP_CONNECT_DURATION) {
                    self.connect.merge(&Spread::of(counts));
                } else if is(&names::TCP_RTT) {
                    self.rtt.merge(&Spread::of(counts));
                }
            }
            _ => {}
        }
    }

    fn count(&mut self, point: &Point, n: u64) {
        let def = point.def;
        let is = |other: &'static names::MetricDef| std::ptr::eq(def, other);
        let attr = |key: &str| {
            let found = point.attrs.iter().find(|(k, _)| *k == key);
            found.and_then(|(_, v)| AttrValue::as_str(v))
        };
        if is(&names::TCP_ACCEPTS) {
            self.accepts += n;
        } else if is(&names::TCP_CONNECT_FAILURES) {
            self.failures += n;
        } else if is(&names::TCP_RETRANSMITS) {
            self.retransmits += n;
        } else if is(&names::CONTAINER_OOM) {
            self.oom_kills += n;
        } else if is(&names::CONTAINER_NETWORK_IO) {
            match attr(names::DIRECTION) {
                Some("transmit") => self.tx_bytes += n,
                _ => self.rx_bytes += n,
            }
        } else if is(&names::CONTAINER_PACKETS_DROPPED)
            && let Some(reason) = attr(names::DROP_REASON)
        {
            *self.drops.entry(reason.to_owned()).or_default() += n;
        }
    }

    /// Figures; what came before counts from the task's start where there is no reading before.
    pub fn since(&self, before: Option<&Self>) -> TaskFiguresView {
        let first = Self {
            at_ns: self.start_ns,
            ..Self::default()
        };
        let was = before.unwrap_or(&first);
        let window_s = self.at_ns.saturating_sub(was.at_ns) as f64 / 1e9;
        let per_s = |amount: f64| {
            if window_s > 0.0 {
                amount.max(0.0) / window_s
            } else {
                0.0
            }
        };
        let rate = |now: u64, was: u64| per_s(now.saturating_sub(was) as f64);
        let cpus = self.cpu_s.map(|s| per_s(s - was.cpu_s.unwrap_or(0.0)));
        let connect_us = self.connect.since(&was.connect);
        TaskFiguresView {
            at_us: self.at_ns / 1000,
            window_s,
            cpus,
            memory_bytes: self.memory_bytes,
            memory_limit_bytes: self.memory_limit_bytes,
            accepts_per_s: rate(self.accepts, was.accepts),
            connects_per_s: rate(connect_us.count(), 0),
            failures_per_s: rate(self.failures, was.failures),
            tx_per_s: rate(self.tx_bytes, was.tx_bytes),
            rx_per_s: rate(self.rx_bytes, was.rx_bytes),
            open: self.open,
            connect_us,
            rtt_us: self.rtt.since(&was.rtt),
            failures: self.failures,
            retransmits: self.retransmits,
            drops: self.drops.clone(),
            oom_kills: self.oom_kills,
            log_lines_dropped: self.log_lines_dropped,
            ..TaskFiguresView::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use waggle_telemetry_pipeline::{Attrs, log2_us_histogram};

    use super::*;

    fn point(def: &'static names::MetricDef, attrs: Attrs, data: PointData) -> Point {
        let point = Point::new(def, attrs, data, 1, 2);
        assert_eq!(point.violation(), None);
        point
    }

    fn points(n: u64) -> Vec<Point> {
        let mut hist = [0; 24];
        hist[6] = n;
        let mode = |m: &'static str| vec![(names::CPU_MODE, m.into())];
        let way = |d: &'static str| vec![(names::DIRECTION, d.into())];
        let reason = vec![(names::DROP_REASON, "no_socket".into())];
        let cpu = PointData::SumF64(n as f64);
        let memory = PointData::UpDown(4096);
        let sum = || PointData::Sum(n);
        vec![
            point(&names::CONTAINER_CPU_TIME, mode("user"), cpu.clone()),
            point(&names::CONTAINER_CPU_TIME, mode("system"), cpu),
            point(&names::CONTAINER_MEMORY_USAGE, vec![], memory),
            point(&names::CONTAINER_NETWORK_IO, way("transmit"), sum()),
            point(&names::CONTAINER_NETWORK_IO, way("receive"), sum()),
            point(&names::TCP_ACCEPTS, vec![], sum()),
            point(&names::TCP_CONNECT_FAILURES, vec![], sum()),
            point(
                &names::TCP_CONNECT_DURATION,
                vec![],
                log2_us_histogram(&hist, 1),
            ),
            point(&names::CONTAINER_PACKETS_DROPPED, reason, sum()),
            point(&names::CONTAINER_UPTIME, vec![], PointData::Gauge(9.0)),
        ]
    }

    #[test]
    fn rates_are_of_the_time_between_two_readings() {
        let before = Reading::of(&points(10), (0, 1_000_000_000), 0);
        let now = Reading::of(&points(30), (0, 6_000_000_000), 3);
        let shown = now.since(Some(&before));
        assert_eq!((shown.window_s, shown.cpus), (5.0, Some(8.0)));
        assert_eq!(shown.memory_bytes, Some(4096));
        assert_eq!((shown.accepts_per_s, shown.connects_per_s), (4.0, 4.0));
        assert_eq!((shown.failures_per_s, shown.failures), (4.0, 30));
        assert_eq!((shown.tx_per_s, shown.rx_per_s), (4.0, 4.0));
        assert_eq!(shown.connect_us.count(), 20);
        assert_eq!(shown.drops, BTreeMap::from([("no_socket".to_owned(), 30)]));
        assert_eq!(shown.log_lines_dropped, 3);
        // The first one: since the start.
        let first = now.since(None);
        assert_eq!((first.window_s, first.accepts_per_s), (6.0, 5.0));
        // A counter that began anew is no rate below nothing.
        assert_eq!(before.since(Some(&now)).cpus, Some(0.0));
        assert!(before.since(Some(&now)).accepts_per_s.abs() < f64::EPSILON);
    }
}
