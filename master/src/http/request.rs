//! Reading requests: path segments, query, body, trace.

use std::net::SocketAddr;

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, Method, header},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use waggle_api::{
    error::{ApiError, ErrorCode},
    marathon::parse_json,
};
use waggle_types::TraceContext;

use super::{
    BODY_TIMEOUT, MAX_BODY,
    serve::{Cut, Peer},
};

/// A request, decoded as far as every handler needs it.
#[derive(Debug)]
pub(super) struct Call {
    /// HEAD reads as GET; the server drops the body.
    pub method: Method,
    /// As sent, for messages.
    pub path: String,
    /// Decoded, without empty ones.
    pub segments: Vec<String>,
    pub query: Query,
    /// As sent, to be passed on.
    pub raw_query: String,
    headers: HeaderMap,
    peer: Option<SocketAddr>,
    /// Closes the connection, whatever is going on there.
    pub cut: CancellationToken,
}

impl Call {
    /// The body comes apart: it is not `Sync`, and only some handlers want it.
    pub(super) fn new(request: Request) -> Result<(Self, Body), ApiError> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        // Decoded before splitting: some clients escape the slashes of ids.
        let decoded = decode(&path, false).ok_or_else(|| bad("path is not UTF-8"))?;
        let segments = decoded.split('/').filter(|s| !s.is_empty());
        let call = Self {
            method: match parts.method {
                Method::HEAD => Method::GET,
                m => m,
            },
            segments: segments.map(ToOwned::to_owned).collect(),
            query: Query::parse(parts.uri.query().unwrap_or_default())?,
            raw_query: parts.uri.query().unwrap_or_default().to_owned(),
            path,
            headers: parts.headers,
            peer: parts.extensions.get::<Peer>().map(|p| p.0),
            cut: parts
                .extensions
                .get::<Cut>()
                .map(|c| c.0.clone())
                .unwrap_or_default(),
        };
        Ok((call, body))
    }

    /// Whether the path is below another one, which is taken off then.
    pub(super) fn is_below(&mut self, prefix: &[&str]) -> bool {
        let below = self.segments.get(..prefix.len());
        let below = below.is_some_and(|s| s == prefix);
        if below {
            self.segments.drain(..prefix.len());
        }
        below
    }

    /// The client's address; empty when it is not known.
    pub(super) fn client(&self) -> String {
        self.peer.map(|p| p.ip().to_string()).unwrap_or_default()
    }

    /// As sent.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The caller's span, if it sent a valid one; W3C says to ignore others.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.headers.get("traceparent")?.to_str().ok()?.parse().ok()
    }

    /// The body as JSON, whatever it is called: `curl -d` says it is a form, and Marathon took that. Only
    /// what is clearly something else is refused.
    pub(super) async fn json(&self, body: Body) -> Result<Value, ApiError> {
        parse_json(&self.bytes(body).await?)
    }

    /// As [`Call::json`]; no body at all reads as `null`.
    pub(super) async fn json_or_null(&self, body: Body) -> Result<Value, ApiError> {
        let bytes = self.bytes(body).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        parse_json(&bytes)
    }

    async fn bytes(&self, body: Body) -> Result<Bytes, ApiError> {
        if let Some(given) = self.headers.get(header::CONTENT_TYPE) {
            let text = given.to_str().unwrap_or_default().to_ascii_lowercase();
            let mime = text.split(';').next().unwrap_or_default().trim();
            let foreign =
                mime.starts_with("multipart/") || mime.ends_with("/xml") || mime.ends_with("+xml");
            if foreign {
                return Err(ApiError::new(
                    ErrorCode::UnsupportedMediaType,
                    format!("Content-Type must be application/json, is {text:?}"),
                ));
            }
        }
        let collected = Limited::new(body, MAX_BODY).collect();
        match tokio::time::timeout(BODY_TIMEOUT, collected).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(e)) if e.is::<LengthLimitError>() => Err(ApiError::new(
                ErrorCode::TooLarge,
                format!("body must be at most {MAX_BODY} bytes"),
            )),
            Ok(Err(e)) => Err(bad(&format!("body could not be read: {e}"))),
            Err(_) => {
                let secs = BODY_TIMEOUT.as_secs();
                Err(bad(&format!("body did not arrive within {secs} s")))
            }
        }
    }
}

fn bad(message: &str) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, message)
}

/// Query parameters in order; names may repeat.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let mut out = Vec::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(k), Some(v)) = (decode(k, true), decode(v, true)) else {
                return Err(bad("query is not UTF-8"));
            };
            out.push((k, v));
        }
        Ok(Self(out))
    }

    /// All of them.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }

    pub(super) fn first<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// True or false in any case (Python writes `True`); the bare name means true.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        match self.first(name) {
            None => Ok(default),
            Some("") => Ok(true),
            Some(v) if v.eq_ignore_ascii_case("true") => Ok(true),
            Some(v) if v.eq_ignore_ascii_case("false") => Ok(false),
            Some(v) => Err(bad(&format!("{name}: must be true or false, is {v:?}"))),
        }
    }
}

/// Percent-decoding; a `%` without two hex digits stays as it is. `None` when the result is not UTF-8.
fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let hex = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let escaped = match bytes[i..] {
            [b'%', hi, lo, ..] => hex(hi).zip(hex(lo)).map(|(hi, lo)| hi * 16 + lo),
            _ => None,
        };
        match (escaped, bytes[i]) {
            (Some(b), _) => {
                out.push(b);
                i += 3;
                continue;
            }
            (None, b'+') if plus_is_space => out.push(b' '),
            (None, b) => out.push(b),
        }
        i += 1;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_decoding_is_total() {
        for (given, want) in [
            ("a%20b", Some("a b")),
            ("%2Fprobe%2fweb", Some("/probe/web")),
            ("100%", Some("100%")),
            ("%zz", Some("%zz")),
            ("%ff", None),
            ("a+b", Some("a b")),
        ] {
            assert_eq!(decode(given, true).as_deref(), want, "{given}");
        }
    }

    #[test]
    fn flags_are_read_as_python_writes_them() {
        let q = Query::parse("force=True&scale=false&x&y=7").unwrap();
        assert!(q.flag("force", false).unwrap());
        assert!(!q.flag("scale", true).unwrap());
        assert!(q.flag("x", false).unwrap());
        assert!(!q.flag("absent", false).unwrap());
        let err = q.flag("y", false).unwrap_err();
        assert_eq!(err.message, "y: must be true or false, is \"7\"");
    }
}
