//! OTLP over HTTP, in protobuf and in JSON.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{Request as HttpRequest, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
};

use super::{
    Inbox, Refusal, Sender,
    decode::{Form, Raw},
    grpc::Answer,
    take::Request,
};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";
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
        .with_state(inbox.clone())
}

async fn export<Q: Request, A: Answer>(
    State(inbox): State<Inbox>,
    sender: Option<Extension<Arc<Sender>>>,
    request: HttpRequest,
) -> Response {
    let (head, body) = request.into_parts();
    let form = form(&head.headers);
    let gzip = is(&head.headers, header::CONTENT_ENCODING, "gzip");
    let plain = !head.headers.contains_key(header::CONTENT_ENCODING)
        || is(&head.headers, header::CONTENT_ENCODING, "identity");
    let raw = |bytes| match form {
        Some(form) if gzip || plain => Ok(Raw { bytes, gzip, form }),
        _ => Err(Refusal::Form),
    };
    let sender = sender.map(|s| s.0);
    let taken = inbox.serve::<Q>(sender, body, raw).await;
    let form = form.unwrap_or(Form::Protobuf);
    match taken {
        Ok(taken) => said(StatusCode::OK, form, &A::of(taken)),
        Err(refusal) => refused(refusal, form),
    }
}

fn is(headers: &HeaderMap, name: header::HeaderName, value: &str) -> bool {
    let given = headers.get(name).and_then(|v| v.to_str().ok());
    let given = given.and_then(|v| v.split(';').next());
    given.is_some_and(|v| v.trim().eq_ignore_ascii_case(value))
}

fn form(headers: &HeaderMap) -> Option<Form> {
    if is(headers, header::CONTENT_TYPE, PROTOBUF) {
        Some(Form::Protobuf)
    } else if is(headers, header::CONTENT_TYPE, JSON) {
        Some(Form::Json)
    } else {
        None
    }
}

/// What OTLP wants in the body of a refusal: google.rpc.Status.
#[derive(Clone, PartialEq, prost::Message, serde::Serialize)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

fn refused(refusal: Refusal, form: Form) -> Response {
    let status = match refusal {
        Refusal::Stranger => StatusCode::FORBIDDEN,
        Refusal::Invalid => StatusCode::BAD_REQUEST,
        Refusal::Form => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Refusal::Large => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Shed => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Slow => StatusCode::REQUEST_TIMEOUT,
        Refusal::Rate | Refusal::Connections => StatusCode::TOO_MANY_REQUESTS,
    };
    let body = RpcStatus {
        code: refusal.code().into(),
        message: refusal.words().to_owned(),
    };
    let answer = said(status, form, &body);
    if status == StatusCode::TOO_MANY_REQUESTS {
        return ([(header::RETRY_AFTER, RETRY_AFTER)], answer).into_response();
    }
    answer
}

fn said(
    status: StatusCode,
    form: Form,
    message: &(impl prost::Message + serde::Serialize),
) -> Response {
    match form {
        Form::Protobuf => {
            let kind = [(header::CONTENT_TYPE, PROTOBUF)];
            (status, kind, message.encode_to_vec()).into_response()
        }
        Form::Json => (status, axum::Json(message)).into_response(),
    }
}
