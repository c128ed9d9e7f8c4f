//! The two text formats of a Prometheus page: which one a scraper is given, and where they differ.

use std::fmt::Write as _;

use crate::{Exemplar, names::Kind};

/// Media type of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text";
/// Of the format that everybody reads.
const TEXT: &str = "text/plain";

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exposition {
    /// Prometheus's, version 0.0.4. It has no exemplars.
    #[default]
    Text,
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
}

impl Exposition {
    /// What a scraper gets for its `Accept` header: OpenMetrics where that is named, and no less wanted than the other one.
    pub fn accepted(header: Option<&str>) -> Self {
        let header = header.unwrap_or_default();
        let open = quality(header, OPEN_METRICS);
        if open > 0.0 && open >= quality(header, TEXT) {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// Value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// A family's name and kind, as its `HELP` and `TYPE` say them. In OpenMetrics only a counter's sample ends in `_total`.
    pub(crate) fn family(self, name: &str, kind: Kind) -> (&str, &'static str) {
        match (self, kind) {
            (Self::OpenMetrics, Kind::Counter) => {
                (name.strip_suffix("_total").unwrap_or(name), "counter")
            }
            (_, Kind::Counter) => (name, "counter"),
            (_, Kind::UpDownCounter | Kind::Gauge) => (name, "gauge"),
            (_, Kind::Histogram) => (name, "histogram"),
        }
    }

    /// A help text. In OpenMetrics quotes are escaped, too.
    pub(crate) fn help(self, text: &str) -> String {
        let text = text.replace('\\', "\\\\").replace('\n', "\\n");
        match self {
            Self::Text => text,
            Self::OpenMetrics => text.replace('"', "\\\""),
        }
    }

    /// A bucket's upper bound, of a finite number. OpenMetrics wants it as Go writes it, with a point or an exponent.
    pub(crate) fn bound(self, bound: f64) -> String {
        match self {
            Self::Text => bound.to_string(),
            Self::OpenMetrics => canonical(bound),
        }
    }

    /// What follows a sample of which a span is known.
    pub(crate) fn exemplar(self, of: Option<&Exemplar>) -> String {
        let (Self::OpenMetrics, Some(e)) = (self, of) else {
            return String::new();
        };
        let (trace, span) = (e.trace.trace_id, e.trace.span_id);
        let (s, ms) = (e.time_ns / 1_000_000_000, e.time_ns / 1_000_000 % 1000);
        let mut out = String::new();
        let _ = write!(
            out,
            " # {{trace_id=\"{trace:032x}\",span_id=\"{span:016x}\"}} {} {s}.{ms:03}",
            e.value
        );
        out
    }
}

/// How much a header wants a media type by its name: its highest weight (RFC 9110, section 12.4.2), 0 for one that is not there.
fn quality(header: &str, media: &str) -> f64 {
    let ranges = header.split(',').filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_it = parts.next()?.eq_ignore_ascii_case(media);
        let weight = parts.find_map(|p| p.strip_prefix("q="));
        let weight = weight.map_or(Some(1.0), |q| q.parse::<f64>().ok());
        weight.filter(|w| is_it && (0.0..=1.0).contains(w))
    });
    ranges.fold(0.0, f64::max)
}

/// The shortest digits that give the number again, with an exponent below 10^-4 and from 10^6 on.
fn canonical(n: f64) -> String {
    let text = format!("{n:e}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if n == 0.0 || (-4..6).contains(&exponent) {
        return format!("{n:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_ask_gets_what_all_read() {
        for header in [
            None,
            Some(""),
            Some("*/*"),
            Some("text/plain"),
            Some("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.5"),
            Some("application/openmetrics-text;q=0"),
            Some("application/openmetrics-text;q=x"),
            Some("application/openmetrics-text;q=7"),
        ] {
            assert_eq!(Exposition::accepted(header), Exposition::Text, "{header:?}");
        }
        // Prometheus 2 and 3.
        for header in [
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/openmetrics-text; version=1.0.0; escaping=allow-utf-8; q=0.6,text/plain; version=0.0.4;q=0.3",
            "Application/OpenMetrics-Text",
        ] {
            let got = Exposition::accepted(Some(header));
            assert_eq!(got, Exposition::OpenMetrics, "{header}");
        }
    }

    #[test]
    fn bounds_are_as_go_writes_them() {
        for (n, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (0.25, "0.25"),
            (0.0001, "0.0001"),
            (0.000_002, "2e-06"),
            (0.000_016, "1.6e-05"),
            (8.388_608, "8.388608"),
            (100_000.0, "100000.0"),
            (1_000_000.0, "1e+06"),
            (1_048_576.0, "1.048576e+06"),
        ] {
            assert_eq!(canonical(n), text);
        }
    }
}
