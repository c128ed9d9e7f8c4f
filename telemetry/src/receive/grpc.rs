//! OTLP over gRPC: one message comes, one goes. Its framing is five bytes, so that a request goes the same way as over HTTP:
//! what is too much is known before it is decoded.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{Request as HttpRequest, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse as _, Response},
    routing::post,
};
use http_body_util::{BodyExt as _, Full};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
    metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    },
    trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
};
use tonic::Status;

use super::{
    Inbox, Refusal, Sender, Taken,
    decode::{Form, Raw},
    take::Request,
};

/// Before a message: whether it is compressed, and its length.
const FRAME: usize = 5;
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

pub(super) fn routes(inbox: &Inbox) -> Router {
    macro_rules! export {
        ($path:literal, $request:ident, $response:ident) => {
            Router::new()
                .route(
                    concat!("/opentelemetry.proto.collector.", $path, "/Export"),
                    post(export::<$request, $response>),
                )
                .with_state(inbox.clone())
        };
    }
    export!(
        "logs.v1.LogsService",
        ExportLogsServiceRequest,
        ExportLogsServiceResponse
    )
    .merge(export!(
        "trace.v1.TraceService",
        ExportTraceServiceRequest,
        ExportTraceServiceResponse
    ))
    .merge(export!(
        "metrics.v1.MetricsService",
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse
    ))
}

async fn export<Q: Request, A: Answer>(
    State(inbox): State<Inbox>,
    sender: Option<Extension<Arc<Sender>>>,
    request: HttpRequest,
) -> Response {
    let (head, body) = request.into_parts();
    let unpack = |bytes: Bytes| unframed(&bytes, &head.headers);
    let sender = sender.map(|s| s.0);
    match inbox.serve::<Q>(sender, body, unpack).await {
        Ok(taken) => answer(&A::of(taken)),
        Err(refusal) => Status::from(refusal).into_http::<Body>(),
    }
}

/// The message in a body, which must be the only one.
fn unframed(body: &Bytes, headers: &HeaderMap) -> Result<Raw, Refusal> {
    let is_grpc = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(GRPC.as_bytes()));
    if !is_grpc {
        return Err(Refusal::Form);
    }
    let Some((&[flag, a, b, c, d], message)) = body.split_first_chunk::<FRAME>() else {
        return Err(Refusal::Invalid);
    };
    let whole = u32::from_be_bytes([a, b, c, d]) as usize == message.len();
    let encoding = headers.get("grpc-encoding").map(HeaderValue::as_bytes);
    let gzip = match (flag, encoding) {
        (0, _) => false,
        (1, Some(b"gzip")) => true,
        (1, _) => return Err(Refusal::Form),
        _ => return Err(Refusal::Invalid),
    };
    if !whole {
        return Err(Refusal::Invalid);
    }
    Ok(Raw {
        bytes: body.slice(FRAME..),
        gzip,
        form: Form::Protobuf,
    })
}

fn answer(message: &impl prost::Message) -> Response {
    let mut framed = vec![0; FRAME];
    let len = u32::try_from(message.encoded_len()).unwrap_or_default();
    framed[1..].copy_from_slice(&len.to_be_bytes());
    framed.extend_from_slice(&message.encode_to_vec());
    let end = HeaderMap::from_iter([(
        header::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let body = Full::new(Bytes::from(framed)).with_trailers(std::future::ready(Some(Ok(end))));
    ([(header::CONTENT_TYPE, GRPC)], Body::new(body)).into_response()
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.words())
    }
}

/// The partial success of an answer, where there is something to say.
pub(super) trait Answer: prost::Message + Default + serde::Serialize {
    fn of(taken: Taken) -> Self;
}

macro_rules! answer {
    ($response:ident, $partial:ident, $rejected:ident) => {
        impl Answer for $response {
            fn of(taken: Taken) -> Self {
                let partial_success = (taken != Taken::default()).then(|| $partial {
                    $rejected: taken.rejected,
                    error_message: taken.words(),
                });
                Self { partial_success }
            }
        }
    };
}
answer!(
    ExportLogsServiceResponse,
    ExportLogsPartialSuccess,
    rejected_log_records
);
answer!(
    ExportTraceServiceResponse,
    ExportTracePartialSuccess,
    rejected_spans
);
answer!(
    ExportMetricsServiceResponse,
    ExportMetricsPartialSuccess,
    rejected_data_points
);
