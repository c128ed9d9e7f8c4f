//! statsd, as dcos-metrics took it: counters, gauges, timers, histograms, sample rates, and the tags of DogStatsD.
//!
//! What a task sends is summed up and read at intervals. Nothing that it may send takes more than the limits: series beyond
//! them are refused, and every sample that was refused is counted.

use std::collections::BTreeMap;

use crate::app::{AppData, AppHistogram, AppLabels, AppMetric, AppPoint};

/// Series of one task.
const MAX_SERIES: usize = 1000;
/// Tags of a series, and bytes of a name, a key or a value.
const MAX_TAGS: usize = 32;
const MAX_WORD: usize = 255;
/// Bytes of all tags of a line.
const MAX_TAG_BYTES: usize = 1024;
/// Values of one line.
const MAX_VALUES: usize = 256;
/// A series that is not sent for so long is forgotten.
const IDLE_NS: u64 = 600_000_000_000;
/// Buckets of timers and histograms: OpenTelemetry's own.
const BOUNDS: [f64; 15] = [
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0,
    10_000.0,
];

/// What became of samples since the last reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatsdCounts {
    /// Summed up.
    pub accepted: u64,
    /// Not statsd.
    pub malformed: u64,
    /// Of a kind that is not known: sets, events, service checks.
    pub unsupported: u64,
    /// The task has too many series.
    pub no_room: u64,
}

/// What one line says.
#[derive(Debug, Clone, PartialEq)]
struct Line<'a> {
    name: &'a str,
    values: Vec<Value>,
    kind: Kind,
    /// How many observations one stands for.
    weight: f64,
    tags: AppLabels,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Value {
    number: f64,
    /// It was given with a sign: a gauge changes by it.
    signed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Counter,
    Gauge,
    Timer,
    Histogram,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bad {
    Malformed,
    Unsupported,
}

#[derive(Debug)]
struct Series {
    start_ns: u64,
    seen_ns: u64,
    value: Held,
}

#[derive(Debug)]
enum Held {
    Number(f64),
    Observed {
        sum: f64,
        buckets: [u64; BOUNDS.len() + 1],
    },
}

/// One task's.
#[derive(Debug, Default)]
pub struct Statsd {
    all: BTreeMap<(Kind, String), BTreeMap<AppLabels, Series>>,
    n_series: usize,
    counts: StatsdCounts,
}

impl Statsd {
    /// Takes a datagram: lines. No more than `room` series are new.
    pub fn take(&mut self, datagram: &[u8], room: usize, now_ns: u64) {
        let most = self.n_series.saturating_add(room).min(MAX_SERIES);
        let lines = datagram.split(|b| *b == b'\n');
        for line in lines.map(|l| l.strip_suffix(b"\r").unwrap_or(l)) {
            if line.is_empty() {
                continue;
            }
            match parse(line) {
                Ok(line) => self.add(line, most, now_ns),
                Err(Bad::Malformed) => self.counts.malformed += 1,
                Err(Bad::Unsupported) => self.counts.unsupported += 1,
            }
        }
    }

    /// What became of samples since the last call.
    pub fn take_counts(&mut self) -> StatsdCounts {
        std::mem::take(&mut self.counts)
    }

    /// How many series are held.
    pub const fn len(&self) -> usize {
        self.n_series
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.n_series == 0
    }

    /// All series as they are; those that are idle are forgotten.
    pub fn read(&mut self, now_ns: u64) -> Vec<AppMetric> {
        let oldest = now_ns.saturating_sub(IDLE_NS);
        for series in self.all.values_mut() {
            series.retain(|_, s| s.seen_ns >= oldest);
        }
        self.all.retain(|_, series| !series.is_empty());
        self.n_series = self.all.values().map(BTreeMap::len).sum();
        self.all.iter().map(metric).collect()
    }

    fn add(&mut self, line: Line<'_>, most: usize, now_ns: u64) {
        let n = line.values.len() as u64;
        let key = (line.kind, line.name.to_owned());
        let of_name = self.all.entry(key).or_default();
        if !of_name.contains_key(&line.tags) {
            if self.n_series >= most {
                self.counts.no_room += n;
                if of_name.is_empty() {
                    self.all.remove(&(line.kind, line.name.to_owned()));
                }
                return;
            }
            self.n_series += 1;
        }
        let series = of_name.entry(line.tags).or_insert_with(|| Series {
            start_ns: now_ns,
            seen_ns: now_ns,
            value: match line.kind {
                Kind::Counter | Kind::Gauge => Held::Number(0.0),
                Kind::Timer | Kind::Histogram => Held::Observed {
                    sum: 0.0,
                    buckets: [0; BOUNDS.len() + 1],
                },
            },
        });
        series.seen_ns = series.seen_ns.max(now_ns);
        for value in line.values {
            series.value.add(line.kind, value, line.weight);
        }
        self.counts.accepted += n;
    }
}

impl Held {
    fn add(&mut self, kind: Kind, value: Value, weight: f64) {
        match self {
            Self::Number(held) if kind == Kind::Gauge && !value.signed => *held = value.number,
            Self::Number(held) if kind == Kind::Gauge => *held = finite(*held + value.number),
            Self::Number(held) => *held = finite(*held + value.number * weight),
            Self::Observed { sum, buckets } => {
                let idx = BOUNDS.partition_point(|b| *b < value.number);
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a weight is between 1 and a million"
                )]
                let n = weight.round() as u64;
                if let Some(bucket) = buckets.get_mut(idx) {
                    *bucket = bucket.saturating_add(n);
                }
                *sum = finite(*sum + value.number * weight);
            }
        }
    }
}

/// A sum that is too large stays the largest number.
const fn finite(n: f64) -> f64 {
    n.clamp(f64::MIN, f64::MAX)
}

fn metric(((kind, name), series): (&(Kind, String), &BTreeMap<AppLabels, Series>)) -> AppMetric {
    let number = |(labels, s): (&AppLabels, &Series)| match s.value {
        Held::Number(value) => Some(AppPoint {
            labels: labels.clone(),
            start_ns: s.start_ns,
            value,
        }),
        Held::Observed { .. } => None,
    };
    let observed = |(labels, s): (&AppLabels, &Series)| match &s.value {
        Held::Observed { sum, buckets } => Some(AppPoint {
            labels: labels.clone(),
            start_ns: s.start_ns,
            value: AppHistogram {
                count: buckets.iter().fold(0, |a, b| a.saturating_add(*b)),
                sum: Some(*sum),
                bounds: BOUNDS.to_vec(),
                buckets: buckets.to_vec(),
            },
        }),
        Held::Number(_) => None,
    };
    let data = match kind {
        Kind::Counter => AppData::Counter(series.iter().filter_map(number).collect()),
        Kind::Gauge => AppData::Gauge(series.iter().filter_map(number).collect()),
        Kind::Timer | Kind::Histogram => {
            AppData::Histogram(series.iter().filter_map(observed).collect())
        }
    };
    AppMetric {
        name: name.clone(),
        help: String::new(),
        unit: if *kind == Kind::Timer { "ms" } else { "" }.to_owned(),
        data,
    }
}

/// `name:1|c`, `name:1:2|ms|@0.1|#key:value,flag`.
fn parse(line: &[u8]) -> Result<Line<'_>, Bad> {
    let line = std::str::from_utf8(line).map_err(|_| Bad::Malformed)?;
    if line.starts_with("_e{") || line.starts_with("_sc|") {
        return Err(Bad::Unsupported);
    }
    let (name, rest) = line.split_once(':').ok_or(Bad::Malformed)?;
    let mut parts = rest.split('|');
    let (values, kind) = (parts.next(), parts.next());
    let (Some(values), Some(kind)) = (values, kind) else {
        return Err(Bad::Malformed);
    };
    let kind = match kind {
        "c" => Kind::Counter,
        "g" => Kind::Gauge,
        "ms" => Kind::Timer,
        "h" | "d" => Kind::Histogram,
        "s" => return Err(Bad::Unsupported),
        _ => return Err(Bad::Malformed),
    };
    let (mut weight, mut tags) = (1.0, AppLabels::new());
    for part in parts {
        if let Some(rate) = part.strip_prefix('@') {
            let rate: f64 = rate.parse().map_err(|_| Bad::Malformed)?;
            if !(1e-6..=1.0).contains(&rate) {
                return Err(Bad::Malformed);
            }
            weight = 1.0 / rate;
        } else if let Some(list) = part.strip_prefix('#') {
            tags = labels(list)?;
        }
        // What else DogStatsD puts there (a container's id, a time) is not a task's to say.
    }
    let values: Vec<Value> = values
        .split(':')
        .take(MAX_VALUES + 1)
        .map(number)
        .collect::<Option<_>>()
        .ok_or(Bad::Malformed)?;
    let falls = kind == Kind::Counter && values.iter().any(|v| v.number < 0.0);
    if falls || values.len() > MAX_VALUES || !is_word(name) {
        return Err(Bad::Malformed);
    }
    Ok(Line {
        name,
        values,
        kind,
        weight,
        tags,
    })
}

fn number(text: &str) -> Option<Value> {
    let number: f64 = text.parse().ok()?;
    number.is_finite().then_some(Value {
        number,
        signed: text.starts_with(['+', '-']),
    })
}

/// Each key once; the last one counts.
fn labels(list: &str) -> Result<AppLabels, Bad> {
    if list.len() > MAX_TAG_BYTES {
        return Err(Bad::Malformed);
    }
    let mut all = BTreeMap::new();
    for tag in list.split(',').filter(|t| !t.is_empty()) {
        let (key, value) = tag.split_once(':').unwrap_or((tag, ""));
        if all.len() >= MAX_TAGS || !is_word(key) || !(value.is_empty() || is_word(value)) {
            return Err(Bad::Malformed);
        }
        all.insert(key.to_owned(), value.to_owned());
    }
    Ok(all.into_iter().collect())
}

fn is_word(text: &str) -> bool {
    (1..=MAX_WORD).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: usize = usize::MAX;

    fn all(datagrams: &[&str]) -> (Statsd, Vec<AppMetric>) {
        let mut statsd = Statsd::default();
        for datagram in datagrams {
            statsd.take(datagram.as_bytes(), ROOM, 5);
        }
        let read = statsd.read(6);
        (statsd, read)
    }

    fn numbers(metric: &AppMetric) -> Vec<(String, f64)> {
        let (AppData::Counter(points) | AppData::Gauge(points)) = &metric.data else {
            panic!("{metric:?}");
        };
        let label = |(k, v): &(String, String)| format!("{k}={v}");
        let of = |p: &AppPoint<f64>| {
            let labels: Vec<String> = p.labels.iter().map(label).collect();
            (labels.join(","), p.value)
        };
        points.iter().map(of).collect()
    }

    #[test]
    fn what_is_sent_is_summed_up() {
        let (mut statsd, read) = all(&[
            "shop.orders:1|c\nshop.orders:2|c|@0.5\n",
            "shop.orders:3|c|#b:2,a:1,flag\r\nshop.orders:1|c|#flag,a:1,b:2",
            "depth:5|g\ndepth:+2|g\ndepth:-3|g",
            "took:12:300|ms|@0.1\nsize:7|h|c:abc|T1656581400",
        ]);
        assert_eq!(read.len(), 4);
        let orders = [(String::new(), 5.0), ("a=1,b=2,flag=".to_owned(), 4.0)];
        assert_eq!(numbers(&read[0]), orders);
        assert_eq!(numbers(&read[1]), [(String::new(), 4.0)]);
        let AppData::Histogram(took) = &read[2].data else {
            panic!("{read:?}");
        };
        assert_eq!((read[2].unit.as_str(), took[0].start_ns), ("ms", 5));
        let took = &took[0].value;
        assert_eq!((took.count, took.sum), (20, Some(3120.0)));
        assert_eq!((took.buckets[3], took.buckets[8]), (10, 10));
        assert_eq!(read[3].data.len(), 1);
        let counts = statsd.take_counts();
        assert_eq!((counts.accepted, counts.malformed), (10, 0));
        assert_eq!(statsd.take_counts(), StatsdCounts::default());
    }

    #[test]
    fn what_is_wrong_is_counted_and_changes_nothing() {
        let bad = [
            "a",
            "a:",
            "a:1",
            ":1|c",
            "a:x|c",
            "a:nan|g",
            "a:inf|g",
            "a:-1|c",
            "a:1|c|@0",
            "a:1|c|@2",
            "a:1|y",
            "a\u{7}:1|c",
            "a:1|c|#:x",
        ];
        for line in bad {
            let (mut statsd, read) = all(&[line]);
            assert!(read.is_empty() && statsd.is_empty(), "{line}");
            assert_eq!(statsd.take_counts().malformed, 1, "{line}");
        }
        let (mut statsd, _) = all(&["users:7|s", "_e{1,1}:a|b", "_sc|a|0"]);
        assert_eq!(statsd.take_counts().unsupported, 3);
    }

    #[test]
    fn series_are_bounded_and_idle_ones_go() {
        let mut statsd = Statsd::default();
        for n in 0..MAX_SERIES + 5 {
            statsd.take(format!("m:1|c|#n:{n}\nm{n}:1|c").as_bytes(), ROOM, 1);
        }
        assert_eq!(statsd.len(), MAX_SERIES);
        let counts = statsd.take_counts();
        assert_eq!(counts.accepted, MAX_SERIES as u64);
        assert_eq!(counts.no_room, MAX_SERIES as u64 + 10);
        statsd.take(b"m:1|c|#n:0", ROOM, IDLE_NS);
        let read = statsd.read(IDLE_NS + 2);
        assert_eq!((read.len(), statsd.len()), (1, 1));
        assert_eq!(numbers(&read[0]), [("n=0".to_owned(), 2.0)]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(datagram in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut statsd = Statsd::default();
            statsd.take(&datagram, ROOM, 1);
            let _ = statsd.read(2);
        }

        /// Every sample is in exactly one count, and no more series than there may be.
        #[test]
        fn every_sample_is_counted(
            lines in prop::collection::vec("[ab]:(1|x|-2|1e308)\\|(c|g|ms|s|z)(\\|@0\\.1)?(\\|#k:[0-9])?", 0..60),
        ) {
            let mut statsd = Statsd::default();
            statsd.take(lines.join("\n").as_bytes(), 3, 1);
            let n: usize = statsd.read(2).iter().map(|m| m.data.len()).sum();
            prop_assert_eq!(n, statsd.len());
            prop_assert!(n <= 3);
            let c = statsd.take_counts();
            let all = c.accepted + c.malformed + c.unsupported + c.no_room;
            prop_assert_eq!(all, lines.len() as u64);
        }
    }
}
