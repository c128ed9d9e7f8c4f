//! Prometheus's text format (0.0.4, and what OpenMetrics 1.0 adds to it), as tasks answer a scrape with it.
//!
//! Total on any bytes, and within limits: what is beyond them, or what is wrong, is left out and counted.

use std::collections::BTreeMap;

use crate::app::{AppData, AppHistogram, AppLabels, AppMetric, AppPoint, AppSummary};

/// Labels of a series, and bytes of a name or a value.
const MAX_LABELS: usize = 64;
const MAX_WORD: usize = 1024;
/// Bytes of a description that are kept.
const MAX_HELP: usize = 256;

/// What a page says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scraped {
    /// Its metrics, by name.
    pub metrics: Vec<AppMetric>,
    /// Samples that could not be read.
    pub malformed: u64,
    /// Samples of series that were too many.
    pub no_room: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    #[default]
    Unknown,
}

#[derive(Debug, Default)]
struct Family {
    kind: Kind,
    help: String,
    unit: String,
    series: BTreeMap<AppLabels, Series>,
}

#[derive(Debug, Default)]
struct Series {
    value: Option<f64>,
    count: Option<f64>,
    sum: Option<f64>,
    /// `le` or `quantile`, and the value.
    parts: Vec<(f64, f64)>,
}

/// What a sample is to its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Value,
    Bucket,
    Quantile,
    Sum,
    Count,
    Ignored,
}

/// Reads a page; no more series than that are kept. `start_ns`: since when what counts there counts.
pub fn read_scraped(page: &[u8], max_series: usize, start_ns: u64) -> Scraped {
    let mut out = Scraped::default();
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut n_series = 0;
    for line in page.split(|b| *b == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else {
            out.malformed += 1;
            continue;
        };
        let line = line.trim();
        if let Some(comment) = line.strip_prefix('#') {
            if comment.trim() == "EOF" {
                break;
            }
            // As many families as there may be series: those without any are dropped below.
            describe(comment, &mut families, max_series);
        } else if !line.is_empty() {
            match sample(line) {
                Some(sample) => match put(sample, &mut families, &mut n_series, max_series) {
                    Put::Taken => {}
                    Put::NoRoom => out.no_room += 1,
                    Put::Malformed => out.malformed += 1,
                },
                None => out.malformed += 1,
            }
        }
    }
    for (name, family) in families {
        let (data, bad) = family.data(start_ns);
        out.malformed += bad;
        if !data.is_empty() {
            out.metrics.push(AppMetric {
                name,
                help: family.help,
                unit: family.unit,
                data,
            });
        }
    }
    out
}

/// `HELP name words`, `TYPE name kind`, `UNIT name unit`; anything else is a comment.
fn describe(comment: &str, families: &mut BTreeMap<String, Family>, most: usize) {
    let mut words = comment.trim_start().splitn(3, [' ', '\t']);
    let (Some(what), Some(name), rest) = (words.next(), words.next(), words.next()) else {
        return;
    };
    let known = families.contains_key(name) || families.len() < most;
    if !matches!(what, "HELP" | "TYPE" | "UNIT") || !is_name(name) || !known {
        return;
    }
    let family = families.entry(name.to_owned()).or_default();
    let rest = rest.unwrap_or_default().trim();
    match what {
        "HELP" => family.help = unescaped(rest).chars().take(MAX_HELP).collect(),
        "UNIT" => family.unit = rest.chars().take(MAX_HELP).collect(),
        // Samples come after their type, or have none.
        _ if family.series.is_empty() => {
            family.kind = match rest {
                "counter" => Kind::Counter,
                "gauge" | "info" | "stateset" => Kind::Gauge,
                "histogram" => Kind::Histogram,
                "summary" => Kind::Summary,
                _ => Kind::Unknown,
            };
        }
        _ => {}
    }
}

struct Sample {
    name: String,
    labels: AppLabels,
    value: f64,
}

/// `name{label="value"} 1.5 1700000000 # exemplar`: times and exemplars are left out.
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(end);
    if !is_name(name) {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (AppLabels::new(), rest),
    };
    let value = rest.split_whitespace().next()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: float(value)?,
    })
}

/// Labels up to the closing brace, sorted, and what follows it.
fn labels(text: &str) -> Option<(AppLabels, &str)> {
    let mut all = BTreeMap::new();
    let mut rest = text.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Some((all.into_iter().collect(), after));
        }
        let (key, after) = rest.split_once('=')?;
        let key = key.trim();
        let after = after.trim_start().strip_prefix('"')?;
        let (value, after) = quoted(after)?;
        if all.len() >= MAX_LABELS || !is_name(key) || value.len() > MAX_WORD {
            return None;
        }
        if all.insert(key.to_owned(), value).is_some() {
            return None;
        }
        rest = after.trim_start();
        rest = match rest.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if rest.starts_with('}') => rest,
            None => return None,
        };
    }
}

/// A string up to its closing quote, and what follows that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some((unescaped(&text[..at]), &text[at + 1..])),
            _ => {}
        }
    }
    None
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, false) => out.push(c),
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
        }
    }
    out
}

fn float(text: &str) -> Option<f64> {
    match text {
        "+Inf" | "Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" | "Nan" => Some(f64::NAN),
        _ => text.parse().ok(),
    }
}

fn is_name(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.' | '-');
    (1..=MAX_WORD).contains(&text.len())
        && text.chars().all(known)
        && !text.starts_with(|c: char| c.is_ascii_digit() || c == '-')
}

/// What became of a sample.
enum Put {
    Taken,
    NoRoom,
    /// It is of a bucket or a quantile that there can't be.
    Malformed,
}

/// Puts a sample into its family, where there is room.
fn put(
    mut sample: Sample,
    families: &mut BTreeMap<String, Family>,
    n_series: &mut usize,
    most: usize,
) -> Put {
    let (name, role) = role(&sample, families);
    if role == Role::Ignored {
        return Put::Taken;
    }
    let key = match role {
        Role::Bucket => "le",
        Role::Quantile => "quantile",
        _ => "",
    };
    let part = sample.labels.iter().position(|(k, _)| k == key);
    let part = part.and_then(|at| float(&sample.labels.remove(at).1));
    let can_be = match role {
        Role::Bucket => part.is_some_and(|p| !p.is_nan()),
        Role::Quantile => part.is_some_and(|p| (0.0..=1.0).contains(&p)),
        _ => true,
    };
    if !can_be {
        return Put::Malformed;
    }
    let is_new = families
        .get(&name)
        .is_none_or(|f| !f.series.contains_key(&sample.labels));
    if is_new {
        if *n_series >= most {
            return Put::NoRoom;
        }
        *n_series += 1;
    }
    let family = families.entry(name).or_default();
    let series = family.series.entry(sample.labels).or_default();
    match role {
        Role::Value => series.value = Some(sample.value),
        Role::Sum => series.sum = Some(sample.value),
        Role::Count => series.count = Some(sample.value),
        Role::Bucket | Role::Quantile => {
            // As many as there may be series.
            if series.parts.len() >= most {
                return Put::NoRoom;
            }
            series.parts.extend(part.map(|p| (p, sample.value)));
        }
        Role::Ignored => {}
    }
    Put::Taken
}

/// Which family a sample belongs to.
fn role(sample: &Sample, families: &BTreeMap<String, Family>) -> (String, Role) {
    let kind = |name: &str| families.get(name).map(|f| f.kind);
    let has = |key: &str| sample.labels.iter().any(|(k, _)| k == key);
    let name = sample.name.as_str();
    let suffixes = [
        ("_bucket", Role::Bucket),
        ("_sum", Role::Sum),
        ("_count", Role::Count),
        ("_total", Role::Value),
        ("_created", Role::Ignored),
    ];
    for (suffix, role) in suffixes {
        let Some(base) = name.strip_suffix(suffix) else {
            continue;
        };
        let fits = match (kind(base), role) {
            (Some(Kind::Histogram), Role::Bucket) => has("le"),
            (Some(Kind::Histogram | Kind::Summary), Role::Sum | Role::Count | Role::Ignored)
            | (Some(Kind::Counter), Role::Value | Role::Ignored) => true,
            _ => false,
        };
        if fits {
            return (base.to_owned(), role);
        }
    }
    let role = match kind(name) {
        Some(Kind::Summary) if has("quantile") => Role::Quantile,
        _ => Role::Value,
    };
    (name.to_owned(), role)
}

impl Family {
    /// Its series, and how many made no sense.
    fn data(&self, start_ns: u64) -> (AppData, u64) {
        let n = self.series.len();
        let numbers = || -> Vec<AppPoint<f64>> {
            let with = |(l, s): (&AppLabels, &Series)| Some(point(l, start_ns, s.value?));
            self.series.iter().filter_map(with).collect()
        };
        let data = match self.kind {
            Kind::Counter => {
                let mut points = numbers();
                points.retain(|p| p.value.is_finite() && p.value >= 0.0);
                AppData::Counter(points)
            }
            Kind::Gauge | Kind::Unknown => AppData::Gauge(numbers()),
            Kind::Histogram => {
                let with = |(l, s): (&AppLabels, &Series)| Some(point(l, start_ns, s.histogram()?));
                AppData::Histogram(self.series.iter().filter_map(with).collect())
            }
            Kind::Summary => {
                let with = |(l, s): (&AppLabels, &Series)| Some(point(l, start_ns, s.summary()?));
                AppData::Summary(self.series.iter().filter_map(with).collect())
            }
        };
        let bad = n - data.len().min(n);
        (data, bad as u64)
    }
}

fn point<T>(labels: &AppLabels, start_ns: u64, value: T) -> AppPoint<T> {
    AppPoint {
        labels: labels.clone(),
        start_ns,
        value,
    }
}

impl Series {
    /// From buckets that hold all below them to such that hold their own.
    fn histogram(&self) -> Option<AppHistogram> {
        let mut parts = self.parts.clone();
        parts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut bounds, mut buckets, mut below) = (Vec::new(), Vec::new(), 0);
        for (bound, cumulative) in parts {
            let cumulative = whole(cumulative)?;
            buckets.push(cumulative.checked_sub(below)?);
            below = cumulative;
            if bounds.last().is_some_and(|b| *b >= bound) {
                return None;
            }
            bounds.push(bound);
        }
        let count = match self.count {
            Some(count) => whole(count)?,
            None => below,
        };
        if bounds.last() == Some(&f64::INFINITY) {
            bounds.pop();
        } else {
            buckets.push(count.checked_sub(below)?);
        }
        // What the count says beyond the buckets can't be told from them.
        let all: u64 = buckets.iter().sum();
        (all == count).then_some(AppHistogram {
            count,
            sum: self.sum.filter(|s| s.is_finite()),
            bounds,
            buckets,
        })
    }

    fn summary(&self) -> Option<AppSummary> {
        Some(AppSummary {
            count: whole(self.count?)?,
            sum: self.sum.filter(|s| s.is_finite()).unwrap_or(0.0),
            quantiles: self.parts.clone(),
        })
    }
}

/// A number of things.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "within what fits, by the check before"
)]
fn whole(n: f64) -> Option<u64> {
    (0.0..9e15).contains(&n).then(|| n.round() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(page: &str) -> Scraped {
        read_scraped(page.as_bytes(), 1000, 7)
    }

    fn find<'a>(read: &'a Scraped, name: &str) -> &'a AppMetric {
        read.metrics.iter().find(|m| m.name == name).unwrap()
    }

    #[test]
    fn what_clients_write_is_read() {
        let page = r#"
# HELP http_requests_total The \\ total\nof requests
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{code="400",method="post",} 3
# TYPE temp gauge
temp NaN
temp{at="a\\b\"c\n"} -1.5e3
# TYPE took histogram
took_bucket{le="0.1"} 1
took_bucket{le="+Inf"} 4 # {trace_id="x"} 0.3
took_bucket{le="1"} 3
took_sum 5.5
took_count 4
took_created 1e9
# TYPE size summary
size{quantile="0.5"} 10
size{quantile="0.99"} 99
size_sum 1000
size_count 50
bare 1
# TYPE open counter
open_total 5
# EOF
after 1
"#;
        let read = read(page);
        assert_eq!((read.malformed, read.no_room), (0, 0), "{read:?}");
        assert_eq!(read.metrics.len(), 6);
        let requests = find(&read, "http_requests_total");
        assert_eq!(requests.help, "The \\ total\nof requests");
        let AppData::Counter(points) = &requests.data else {
            panic!("{requests:?}");
        };
        assert_eq!(
            (points.len(), points[0].value, points[0].start_ns),
            (2, 1027.0, 7)
        );
        assert_eq!(points[0].labels[0], ("code".to_owned(), "200".to_owned()));
        let AppData::Gauge(points) = &find(&read, "temp").data else {
            panic!();
        };
        assert!(points[0].value.is_nan());
        assert_eq!(points[1].labels[0].1, "a\\b\"c\n");
        let AppData::Histogram(points) = &find(&read, "took").data else {
            panic!();
        };
        let want = AppHistogram {
            count: 4,
            sum: Some(5.5),
            bounds: vec![0.1, 1.0],
            buckets: vec![1, 2, 1],
        };
        assert_eq!(points[0].value, want);
        let AppData::Summary(points) = &find(&read, "size").data else {
            panic!();
        };
        assert_eq!(points[0].value.quantiles, [(0.5, 10.0), (0.99, 99.0)]);
        assert_eq!(find(&read, "open").data.len(), 1);
        assert_eq!(find(&read, "bare").data.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_left_out_and_counted() {
        for bad in [
            "1a 1",
            "a",
            "a x",
            "a{b} 1",
            "a{b=\"c} 1",
            "a{b=\"c\" d=\"e\"} 1",
            "a{b=\"1\",b=\"2\"} 1",
            "a{1b=\"x\"} 1",
            "# TYPE c counter\nc -1",
            "# TYPE h histogram\nh_bucket{le=\"1\"} 5\nh_count 3",
            "# TYPE h histogram\nh_bucket{le=\"1\"} 5\nh_bucket{le=\"2\"} 3",
            "# TYPE s summary\ns{quantile=\"0.5\"} 1",
            "# TYPE h histogram\nh_bucket{le=\"one\"} 5",
            "# TYPE h histogram\nh_bucket{le=\"NaN\"} 5",
            "# TYPE s summary\ns{quantile=\"2\"} 1",
        ] {
            let read = read(bad);
            assert_eq!((read.malformed, read.metrics.len()), (1, 0), "{bad}");
        }
        let lines = (0..30).map(|n| format!("a{{n=\"{n}\"}} 1"));
        let page = lines.collect::<Vec<_>>().join("\n");
        let read = read_scraped(page.as_bytes(), 10, 0);
        assert_eq!((read.metrics[0].data.len(), read.no_room), (10, 20));
        let odd = read_scraped(b"\xff 1\na 1", 10, 0);
        assert_eq!((odd.malformed, odd.metrics.len()), (1, 1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(page in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = read_scraped(&page, 10, 0);
        }

        #[test]
        fn what_looks_like_a_page_stays_within_its_limits(
            lines in prop::collection::vec(
                "(# (TYPE|HELP) [ab] (counter|histogram|summary|x)|[ab](_bucket|_sum|_count|_total)?(\\{(le|quantile|n)=\"[0-3]\"\\})? (-?[0-9]|NaN|\\+Inf))",
                0..60,
            ),
        ) {
            let read = read_scraped(lines.join("\n").as_bytes(), 5, 0);
            let n: usize = read.metrics.iter().map(|m| m.data.len()).sum();
            prop_assert!(n <= 5);
            for metric in &read.metrics {
                if let AppData::Histogram(points) = &metric.data {
                    for p in points {
                        prop_assert_eq!(p.value.buckets.len(), p.value.bounds.len() + 1);
                        prop_assert_eq!(p.value.buckets.iter().sum::<u64>(), p.value.count);
                    }
                }
            }
        }
    }
}
