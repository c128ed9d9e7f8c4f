//! OTLP over HTTP/1.1, in protobuf or in JSON.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode, Uri,
    body::Bytes,
    header::{self, HeaderName, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tonic::{Code, Status};

use super::{
    CONNECT, json,
    tls::{self, Doubt},
};
use crate::{Destination, Protocol, TelemetryError};

/// Longest answer that is read.
const MAX_ANSWER: usize = 1 << 20;
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// A client of one endpoint; connections are kept.
#[derive(Debug, Clone)]
pub(crate) struct HttpLink {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// In JSON, not in protobuf.
    json: bool,
}

impl HttpLink {
    pub(super) fn open(to: &Destination) -> Result<(Self, Doubt), TelemetryError> {
        let base = to.url.trim_end_matches('/').to_owned();
        if base.parse::<Uri>().is_err() {
            return Err(TelemetryError::BadEndpoint {
                url: to.url.clone(),
                source: None,
            });
        }
        let header = |(name, value): &(String, String)| {
            let parsed = HeaderName::from_bytes(name.as_bytes())
                .ok()
                .zip(HeaderValue::from_str(value).ok());
            parsed.ok_or_else(|| TelemetryError::BadHeader { name: name.clone() })
        };
        let headers = to.headers.iter().map(header).collect::<Result<_, _>>()?;
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.enforce_http(false);
        let (tls, doubt) = tls::of_http(to)?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let link = Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            base,
            headers,
            json: to.protocol == Protocol::HttpJson,
        };
        Ok((link, doubt))
    }

    /// Posts a message below the endpoint's URL.
    pub(super) async fn post<A>(
        &self,
        path: &str,
        message: &(impl prost::Message + serde::Serialize),
    ) -> Result<A, Status>
    where
        A: prost::Message + serde::de::DeserializeOwned + Default,
    {
        let plain = if self.json {
            json::to_vec(message).map_err(|e| Status::invalid_argument(format!("no JSON: {e}")))?
        } else {
            message.encode_to_vec()
        };
        let body = packed(&plain)
            .map_err(|e| Status::internal(format!("a request can't be compressed: {e}")))?;
        let form = if self.json { JSON } else { PROTOBUF };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{path}", self.base))
            .header(header::CONTENT_TYPE, form)
            .header(header::CONTENT_ENCODING, GZIP)
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| Status::internal(e.to_string()))?;
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        let answer = self.client.request(request).await.map_err(|e| away(&e))?;
        let status = answer.status();
        let kind = answer.headers().get(header::CONTENT_TYPE);
        let is_page = kind.is_some_and(|k| k.as_bytes().starts_with(b"text/html"));
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|e| Status::unavailable(e.to_string()))?;
        let body = body.to_bytes();
        if status.is_success() {
            if is_page {
                let why = "the answer is a page, not one of an OTLP endpoint";
                return Err(Status::unimplemented(why));
            }
            // It was taken; what it says about that in another form is not read, and sending it again would not help.
            return Ok(if self.json {
                serde_json::from_slice(&body).unwrap_or_default()
            } else {
                A::decode(body).unwrap_or_default()
            });
        }
        let words: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        let words = words.replace(|c: char| c.is_control(), " ");
        Err(Status::new(code(status), format!("{status}: {words}")))
    }
}

fn packed(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(plain)?;
    out.finish()
}

fn away(error: &hyper_util::client::legacy::Error) -> Status {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        source = cause.source();
    }
    Status::unavailable(words)
}

/// What a status means in gRPC's words (OTLP, "Failures").
fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 | 405 | 415 | 426 | 501 => Code::Unimplemented,
        413 => Code::ResourceExhausted,
        408 | 429 | 502 | 503 | 504 => Code::Unavailable,
        s if (300..400).contains(&s) => Code::Unimplemented,
        s if s >= 500 => Code::Internal,
        _ => Code::InvalidArgument,
    }
}
