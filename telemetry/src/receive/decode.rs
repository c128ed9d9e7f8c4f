//! From bytes to a request: what it would take in memory is counted before it is made.

use std::io::Read as _;

use axum::body::Bytes;
use flate2::read::GzDecoder;
use waggle_types::expansion::decoded_size;

use super::{MAX_REQUEST, Refusal, take::Request, words};

/// What a request may take in memory, to within a factor of four.
const MAX_DECODED: usize = 64 << 20;
/// The largest of OTLP's messages, about: what an object of JSON may become.
const OBJECT: usize = 320;

/// How a request is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Protobuf.
    Protobuf,
    /// OTLP's JSON.
    Json,
}

/// A request as it came.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) bytes: Bytes,
    pub(super) gzip: bool,
    pub(super) form: Form,
}

impl Raw {
    /// Reads it. Takes some time, and as much memory as it may.
    pub(super) fn read<R: Request>(self) -> Result<R, Refusal> {
        let plain = if self.gzip {
            decompressed(&self.bytes)?.into()
        } else {
            self.bytes
        };
        match self.form {
            Form::Protobuf => {
                if decoded_size(&plain, R::shape(), MAX_DECODED) > MAX_DECODED {
                    return Err(Refusal::Large);
                }
                R::decode(plain).map_err(|_| Refusal::Invalid)
            }
            Form::Json => {
                if json_size(&plain) > MAX_DECODED {
                    return Err(Refusal::Large);
                }
                if !words::are_in(&plain) {
                    return serde_json::from_slice(&plain).map_err(|_| Refusal::Invalid);
                }
                if words::size(&plain) > MAX_DECODED {
                    return Err(Refusal::Large);
                }
                words::read(&plain).ok_or(Refusal::Invalid)
            }
        }
    }
}

/// What JSON may take, by the objects that it may have: `[]` is read as one, too.
fn json_size(plain: &[u8]) -> usize {
    let objects = plain.split(|b| matches!(b, b'{' | b'[')).count();
    plain.len().saturating_add(objects.saturating_mul(OBJECT))
}

fn decompressed(body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    let mut plain = GzDecoder::new(body).take(MAX_REQUEST as u64 + 1);
    plain.read_to_end(&mut out).map_err(|_| Refusal::Invalid)?;
    if out.len() > MAX_REQUEST {
        return Err(Refusal::Large);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};
    use opentelemetry_proto::tonic::collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    };
    use opentelemetry_proto::tonic::{logs::v1::LogRecord, trace::v1::Span};
    use proptest::prelude::*;

    use super::*;

    fn raw(bytes: Vec<u8>, form: Form) -> Raw {
        Raw {
            bytes: bytes.into(),
            gzip: false,
            form,
        }
    }

    /// A field with bytes: key, length, value.
    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        prost::encode_length_delimiter(value.len(), &mut out).unwrap();
        out.extend_from_slice(value);
        out
    }

    #[test]
    fn what_grows_too_much_is_refused() {
        let packed = |n: usize| {
            let mut out = GzEncoder::new(Vec::new(), Compression::fast());
            std::io::copy(&mut std::io::repeat(0).take(n as u64), &mut out).unwrap();
            out.flush().unwrap();
            out.finish().unwrap()
        };
        assert!(decompressed(&packed(MAX_REQUEST)).is_ok());
        let long = decompressed(&packed(MAX_REQUEST + 1));
        assert_eq!(long, Err(Refusal::Large));
        assert_eq!(decompressed(b"no gzip"), Err(Refusal::Invalid));
        // Two bytes for each of what takes some hundred.
        let n = MAX_REQUEST / 2;
        let empty = |number| field(number, &[]).repeat(n);
        let logs = field(1, &field(2, &empty(2)));
        let read = raw(logs, Form::Protobuf).read::<ExportLogsServiceRequest>();
        assert_eq!(read, Err(Refusal::Large));
        let spans = field(1, &field(2, &empty(2)));
        let read = raw(spans, Form::Protobuf).read::<ExportTraceServiceRequest>();
        assert_eq!(read, Err(Refusal::Large));
        let points = field(1, &field(2, &field(2, &field(7, &empty(1)))));
        let read = raw(points, Form::Protobuf).read::<ExportMetricsServiceRequest>();
        assert_eq!(read, Err(Refusal::Large));
        let json = format!("[{}]", "{},".repeat(1 << 20));
        let read = raw(json.into_bytes(), Form::Json).read::<ExportLogsServiceRequest>();
        assert_eq!(read, Err(Refusal::Large));
        let json = format!("[{}]", "[],".repeat(1 << 20));
        let read = raw(json.into_bytes(), Form::Json).read::<ExportLogsServiceRequest>();
        assert_eq!(read, Err(Refusal::Large));
        let json = format!("[null{}]", ",1".repeat(4 << 20));
        let read = raw(json.into_bytes(), Form::Json).read::<ExportLogsServiceRequest>();
        assert_eq!(read, Err(Refusal::Large));
        assert!(size_of::<LogRecord>() <= OBJECT && size_of::<Span>() <= OBJECT);
    }

    #[test]
    fn what_is_deep_is_refused_and_nothing_falls() {
        let mut deep = Vec::new();
        while deep.len() < 1 << 20 {
            // A list in a value, a value in a list.
            deep = field(5, &field(1, &deep));
            if deep.len() > 4000 {
                break;
            }
        }
        let record = field(1, &field(2, &field(2, &field(5, &deep))));
        let read = raw(record, Form::Protobuf).read::<ExportLogsServiceRequest>();
        assert_eq!(read, Err(Refusal::Large));
        let json = format!(
            r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{}"#,
            r#"{"arrayValue":{"values":["#.repeat(10_000)
        );
        let read = raw(json.into_bytes(), Form::Json).read::<ExportLogsServiceRequest>();
        assert_eq!(read, Err(Refusal::Invalid));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            gzip: bool,
            json: bool,
        ) {
            let form = if json { Form::Json } else { Form::Protobuf };
            let raw = || Raw { bytes: bytes.clone().into(), gzip, form };
            let _ = raw().read::<ExportLogsServiceRequest>();
            let _ = raw().read::<ExportTraceServiceRequest>();
            let _ = raw().read::<ExportMetricsServiceRequest>();
        }
    }
}
