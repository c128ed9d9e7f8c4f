//! OTLP over HTTP, in protobuf.

use std::{io::Read as _, sync::Arc};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
};
use prost::Message as _;

use super::{Inbox, MAX_REQUEST, Refusal, Sender, grpc::Answer, take::Request};

/// The one form that is read.
const PROTOBUF: &str = "application/x-protobuf";
/// Longest request when it is decompressed.
const MAX_PLAIN: u64 = MAX_REQUEST as u64;
/// Seconds after which a task that sent too much may try again.
const RETRY_AFTER: &str = "1";

pub(super) fn routes(inbox: &Inbox) -> Router {
    Router::new()
        .route(
            "/v1/logs",
            post(export::<ExportLogsServiceRequest, ExportLogsServiceResponse>),
        )
        .route(
            "/v1/traces",
            post(export::<ExportTraceServiceRequest, ExportTraceServiceResponse>),
        )
        .route(
            "/v1/metrics",
            post(export::<ExportMetricsServiceRequest, ExportMetricsServiceResponse>),
        )
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(inbox.clone())
}

async fn export<Q: Request, A: Answer>(
    State(inbox): State<Inbox>,
    sender: Option<Extension<Arc<Sender>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let is = |name, value: &str| {
        let given = headers.get(name).and_then(|v| v.to_str().ok());
        given.is_some_and(|v| v.split(';').next().is_some_and(|v| v.trim() == value))
    };
    if !is(header::CONTENT_TYPE, PROTOBUF) {
        let words = "the content type must be application/x-protobuf";
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, words);
    }
    let plain = if is(header::CONTENT_ENCODING, "gzip") {
        decompressed(&body).map(Bytes::from)
    } else {
        Some(body)
    };
    let request = plain.and_then(|p| Q::decode(p).ok());
    let taken = match request {
        Some(request) => inbox.take(sender.as_ref().map(|s| &s.0), request),
        None => Err(inbox.invalid(Q::SIGNAL)),
    };
    match taken {
        Ok(taken) => {
            let answer = A::of(taken).encode_to_vec();
            ([(header::CONTENT_TYPE, PROTOBUF)], answer).into_response()
        }
        Err(refusal @ Refusal::Stranger) => refused(StatusCode::FORBIDDEN, refusal.words()),
        Err(refusal @ Refusal::Invalid) => refused(StatusCode::BAD_REQUEST, refusal.words()),
        Err(refusal @ Refusal::Large) => refused(StatusCode::PAYLOAD_TOO_LARGE, refusal.words()),
        Err(refusal @ Refusal::Rate) => {
            let retry = [(header::RETRY_AFTER, RETRY_AFTER)];
            let answer = refused(StatusCode::TOO_MANY_REQUESTS, refusal.words());
            (retry, answer).into_response()
        }
    }
}

/// `None` for what is no gzip, or too much of it.
fn decompressed(body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut plain = GzDecoder::new(body).take(MAX_PLAIN + 1);
    plain.read_to_end(&mut out).ok()?;
    (out.len() as u64 <= MAX_PLAIN).then_some(out)
}

/// What OTLP wants in the body of a refusal: google.rpc.Status.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

fn refused(status: StatusCode, message: &str) -> Response {
    let code = match status {
        StatusCode::FORBIDDEN => tonic::Code::PermissionDenied,
        StatusCode::TOO_MANY_REQUESTS => tonic::Code::Unavailable,
        StatusCode::PAYLOAD_TOO_LARGE => tonic::Code::ResourceExhausted,
        _ => tonic::Code::InvalidArgument,
    };
    let body = RpcStatus {
        code: code.into(),
        message: message.to_owned(),
    };
    let kind = [(header::CONTENT_TYPE, PROTOBUF)];
    (status, kind, body.encode_to_vec()).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    #[test]
    fn what_grows_too_much_is_refused() {
        let packed = |n: u64| {
            let mut out = GzEncoder::new(Vec::new(), Compression::fast());
            std::io::copy(&mut std::io::repeat(0).take(n), &mut out).unwrap();
            out.flush().unwrap();
            out.finish().unwrap()
        };
        assert!(decompressed(&packed(MAX_PLAIN)).is_some());
        assert!(decompressed(&packed(MAX_PLAIN + 1)).is_none());
        assert!(decompressed(b"no gzip").is_none());
    }
}
