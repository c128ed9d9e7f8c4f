//! JSON's numbers that are no numbers: protobuf writes `"NaN"`, and what JavaScript makes of one is `null`. The readers of
//! opentelemetry-proto know neither: some refuse all of the request for it, others leave out the value, the point's or all of
//! the metric's.

use ciborium::Value;
use serde::de::DeserializeOwned;

/// Fields that are doubles and whose reader takes numbers alone. `sum` is a metric's data as well, then it is an object.
const DOUBLES: [&str; 7] = [
    "asDouble",
    "doubleValue",
    "explicitBounds",
    "max",
    "min",
    "sum",
    "zeroThreshold",
];

/// Whether such a word may be in a request. One without is read as it is, which is faster. It must be known beforehand: a plain
/// reading may succeed and have lost values.
pub(super) fn are_in(plain: &[u8]) -> bool {
    let has = |word: &[u8]| plain.windows(word.len()).any(|w| w == word);
    has(b"\"NaN\"") || has(b"Infinity\"") || has(b"null")
}

/// What is made of a text on the way, by the values that it may have.
pub(super) fn size(plain: &[u8]) -> usize {
    let values = plain
        .split(|b| matches!(b, b',' | b':' | b'[' | b'{'))
        .count();
    plain
        .len()
        .saturating_add(values.saturating_mul(size_of::<Value>()))
}

/// Reads a message in which such words are numbers.
pub(super) fn read<T: DeserializeOwned>(plain: &[u8]) -> Option<T> {
    let mut value: Value = serde_json::from_slice(plain).ok()?;
    unword(&mut value);
    value.deserialized().ok()
}

/// As deep as serde_json lets JSON be.
fn unword(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(unword),
        Value::Map(fields) => {
            for (key, value) in fields {
                match key.as_text() {
                    Some(key) if DOUBLES.contains(&key) => to_number(key, value),
                    _ => unword(value),
                }
            }
        }
        _ => {}
    }
}

fn to_number(key: &str, value: &mut Value) {
    let number = match value {
        Value::Text(word) => match word.as_str() {
            "NaN" => f64::NAN,
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            _ => return,
        },
        // Elsewhere it is a field that is not there.
        Value::Null if key == "asDouble" || key == "doubleValue" => f64::NAN,
        Value::Array(list) => {
            for value in list {
                to_number(key, value);
            }
            return;
        }
        _ => return unword(value),
    };
    *value = Value::Float(number);
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{
        collector::{logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest},
        common::v1::any_value,
        metrics::v1::{metric::Data, number_data_point},
    };

    use super::*;

    fn metrics(points: &str) -> Vec<u8> {
        let metrics = format!(r#"[{{"name":"m",{points}}}]"#);
        format!(r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":{metrics}}}]}}]}}"#)
            .into_bytes()
    }

    fn data(points: &str) -> Data {
        let read: ExportMetricsServiceRequest = read(&metrics(points)).unwrap();
        let metric = &read.resource_metrics[0].scope_metrics[0].metrics[0];
        metric.data.clone().unwrap()
    }

    #[test]
    fn a_gauge_of_words_is_one_of_numbers() {
        let points = r#""gauge":{"dataPoints":[
            {"timeUnixNano":"1795407292000000000","asDouble":"NaN"},{"asDouble":"Infinity"},
            {"asDouble":"-Infinity"},{"asDouble":null},{"asDouble":1.5},{"asDouble":2},{"asInt":"7"}
        ]}"#;
        let Data::Gauge(gauge) = data(points) else {
            panic!("no gauge");
        };
        assert_eq!(
            gauge.data_points[0].time_unix_nano,
            1_795_407_292_000_000_000
        );
        let values: Vec<_> = gauge.data_points.iter().map(|p| p.value.unwrap()).collect();
        let double = |n: f64| number_data_point::Value::AsDouble(n);
        assert!(matches!(values[0], number_data_point::Value::AsDouble(n) if n.is_nan()));
        assert!(matches!(values[3], number_data_point::Value::AsDouble(n) if n.is_nan()));
        assert_eq!(
            values[1..3],
            [double(f64::INFINITY), double(f64::NEG_INFINITY)]
        );
        let rest = [double(1.5), double(2.0), number_data_point::Value::AsInt(7)];
        assert_eq!(values[4..], rest);
    }

    #[test]
    fn histograms_sums_and_summaries_have_them_too() {
        let points = r#""histogram":{"aggregationTemporality":2,"dataPoints":[
            {"count":"3","sum":"NaN","min":null,"max":"Infinity","bucketCounts":["1","2"],"explicitBounds":["Infinity"]}
        ]}"#;
        let Data::Histogram(histogram) = data(points) else {
            panic!("no histogram");
        };
        let point = &histogram.data_points[0];
        assert!(point.sum.unwrap().is_nan());
        assert_eq!((point.min, point.max), (None, Some(f64::INFINITY)));
        assert_eq!((point.count, &point.bucket_counts[..]), (3, &[1, 2][..]));
        assert_eq!(point.explicit_bounds, [f64::INFINITY]);
        let points = r#""sum":{"isMonotonic":true,"dataPoints":[{"asDouble":"NaN"}]}"#;
        let Data::Sum(sum) = data(points) else {
            panic!("no sum");
        };
        let value = sum.data_points[0].value;
        assert!(matches!(value, Some(number_data_point::Value::AsDouble(n)) if n.is_nan()));
        let points = r#""summary":{"dataPoints":[
            {"count":"1","sum":1,"quantileValues":[{"quantile":0.5,"value":"NaN"}]}
        ]}"#;
        let Data::Summary(summary) = data(points) else {
            panic!("no summary");
        };
        let value = &summary.data_points[0].quantile_values[0];
        assert!(value.value.is_nan());
    }

    #[test]
    fn a_word_that_is_a_text_stays_one() {
        let record = r#"{"body":{"stringValue":"NaN"},"traceId":"0af7651916cd43dd8448eb211c80319c",
            "attributes":[{"key":"sum","value":{"stringValue":"Infinity"}},{"key":"n","value":{"doubleValue":"NaN"}}]}"#;
        let text = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{record}]}}]}}]}}"#);
        let read: ExportLogsServiceRequest = read(text.as_bytes()).unwrap();
        let record = &read.resource_logs[0].scope_logs[0].log_records[0];
        let text = |v: &str| any_value::Value::StringValue(v.to_owned());
        assert_eq!(record.body.as_ref().unwrap().value, Some(text("NaN")));
        assert_eq!(record.trace_id.len(), 16);
        let attribute = |at: usize| record.attributes[at].value.as_ref().unwrap().value.clone();
        assert_eq!(attribute(0), Some(text("Infinity")));
        assert!(matches!(attribute(1), Some(any_value::Value::DoubleValue(n)) if n.is_nan()));
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        for text in [
            r#"{"resourceMetrics":"NaN"}"#,
            r#"["NaN""#,
            r#"{"resourceMetrics":[{"scopeMetrics":null}]}"#,
        ] {
            let read = read::<ExportMetricsServiceRequest>(text.as_bytes());
            assert!(read.is_none(), "{text}");
        }
        // The readers take a metric whose data is wrong for one without, which is refused by itself.
        let text = metrics(r#""histogram":{"dataPoints":[{"sum":"nan"}]}"#);
        let read: ExportMetricsServiceRequest = read(&text).unwrap();
        assert!(
            read.resource_metrics[0].scope_metrics[0].metrics[0]
                .data
                .is_none()
        );
    }
}
