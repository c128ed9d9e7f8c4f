//! JSON as protobuf has it: a number that JSON has no way to write is a word, `"NaN"`. Left to itself serde_json writes `null`, for which
//! endpoints refuse all of a request.

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// A message in JSON.
pub(super) fn to_vec(message: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    message.serialize(Worded(&mut serde_json::Serializer::new(&mut out)))?;
    Ok(out)
}

/// Passes everything on as it is, but such numbers: a serializer, what it has begun, or a value that is given to it.
struct Worded<T>(T);

impl<T: Serialize + ?Sized> Serialize for Worded<&T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Worded(to))
    }
}

const fn word(n: f64) -> &'static str {
    if n.is_nan() {
        "NaN"
    } else if n > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

macro_rules! as_it_is {
    ($($name:ident: $kind:ty),*) => {
        $(fn $name(self, v: $kind) -> Result<S::Ok, S::Error> {
            self.0.$name(v)
        })*
    };
}

impl<S: Serializer> Serializer for Worded<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Worded<S::SerializeSeq>;
    type SerializeTuple = Worded<S::SerializeTuple>;
    type SerializeTupleStruct = Worded<S::SerializeTupleStruct>;
    type SerializeTupleVariant = Worded<S::SerializeTupleVariant>;
    type SerializeMap = Worded<S::SerializeMap>;
    type SerializeStruct = Worded<S::SerializeStruct>;
    type SerializeStructVariant = Worded<S::SerializeStructVariant>;

    as_it_is!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_char: char, serialize_str: &str, serialize_bytes: &[u8], serialize_unit_struct: &'static str
    );

    fn serialize_f32(self, v: f32) -> Result<S::Ok, S::Error> {
        if v.is_finite() {
            return self.0.serialize_f32(v);
        }
        self.0.serialize_str(word(v.into()))
    }

    fn serialize_f64(self, v: f64) -> Result<S::Ok, S::Error> {
        if v.is_finite() {
            return self.0.serialize_f64(v);
        }
        self.0.serialize_str(word(v))
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.0.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, v: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_some(&Worded(v))
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        at: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit_variant(name, at, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        v: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_struct(name, &Worded(v))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        at: u32,
        variant: &'static str,
        v: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0
            .serialize_newtype_variant(name, at, variant, &Worded(v))
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.0.serialize_seq(len).map(Worded)
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.0.serialize_tuple(len).map(Worded)
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.0.serialize_tuple_struct(name, len).map(Worded)
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        at: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        let begun = self.0.serialize_tuple_variant(name, at, variant, len);
        begun.map(Worded)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.0.serialize_map(len).map(Worded)
    }

    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        self.0.serialize_struct(name, len).map(Worded)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        at: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        let begun = self.0.serialize_struct_variant(name, at, variant, len);
        begun.map(Worded)
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// What was begun: each part goes on in the same way.
macro_rules! parts {
    ($($begun:ident :: $part:ident),*) => {
        $(impl<S: $begun> $begun for Worded<S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn $part<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), S::Error> {
                self.0.$part(&Worded(v))
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        })*
    };
}
parts!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

macro_rules! fields {
    ($($begun:ident),*) => {
        $(impl<S: $begun> $begun for Worded<S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                v: &T,
            ) -> Result<(), S::Error> {
                self.0.serialize_field(key, &Worded(v))
            }

            fn skip_field(&mut self, key: &'static str) -> Result<(), S::Error> {
                self.0.skip_field(key)
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        })*
    };
}
fields!(SerializeStruct, SerializeStructVariant);

impl<S: SerializeMap> SerializeMap for Worded<S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.0.serialize_key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), S::Error> {
        self.0.serialize_value(&Worded(v))
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{
        collector::metrics::v1::ExportMetricsServiceRequest,
        common::v1::{AnyValue, KeyValue, any_value},
        metrics::v1::{
            Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
            ScopeMetrics, metric::Data, number_data_point::Value,
        },
    };

    use super::*;

    fn request(values: &[f64], sum: f64) -> ExportMetricsServiceRequest {
        let point = |n: &f64| NumberDataPoint {
            attributes: vec![KeyValue {
                key: "n".to_owned(),
                value: Some(AnyValue {
                    value: Some(any_value::Value::DoubleValue(*n)),
                }),
                ..KeyValue::default()
            }],
            value: Some(Value::AsDouble(*n)),
            ..NumberDataPoint::default()
        };
        let gauge = Data::Gauge(Gauge {
            data_points: values.iter().map(point).collect(),
        });
        let histogram = Data::Histogram(Histogram {
            data_points: vec![HistogramDataPoint {
                count: 7,
                sum: Some(sum),
                ..HistogramDataPoint::default()
            }],
            ..Histogram::default()
        });
        let metric = |data| Metric {
            name: "m".to_owned(),
            data: Some(data),
            ..Metric::default()
        };
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                scope_metrics: vec![ScopeMetrics {
                    metrics: vec![metric(gauge), metric(histogram)],
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        }
    }

    #[test]
    fn numbers_without_digits_are_words() {
        let message = request(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.5], f64::NAN);
        let text = String::from_utf8(to_vec(&message).unwrap()).unwrap();
        for word in ["\"NaN\"", "\"Infinity\"", "\"-Infinity\"", "1.5"] {
            for key in ["asDouble", "doubleValue"] {
                assert!(text.contains(&format!("\"{key}\":{word}")), "{text}");
            }
        }
        assert!(text.contains("\"sum\":\"NaN\""), "{text}");
    }

    #[test]
    fn all_else_is_as_serde_json_writes_it() {
        let message = request(&[0.1, -2.0, 1e300], 3.0);
        assert_eq!(
            to_vec(&message).unwrap(),
            serde_json::to_vec(&message).unwrap()
        );
    }
}
