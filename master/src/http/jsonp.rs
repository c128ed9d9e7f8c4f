//! `?jsonp=callback` of Mesos's endpoints.

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Method, StatusCode, header},
    response::Response,
};
use futures::{StreamExt as _, stream};
use waggle_api::{
    error::{ApiError, ErrorCode},
    mesos::jsonp::{Callback, JAVASCRIPT},
};

use super::{request::Call, respond::Fail};

/// The function that a read asks for.
pub(super) fn asked(call: &Call) -> Result<Option<Callback>, Fail> {
    let name = call.query.first("jsonp");
    let name = name.filter(|_| call.method == Method::GET);
    name.map(Callback::new)
        .transpose()
        .map_err(|e| ApiError::new(ErrorCode::BadRequest, e.to_string()).into())
}

/// A JSON answer as a call of that function; others, and refusals, stay as they are.
pub(super) fn wrap(callback: Option<Callback>, response: Response) -> Response {
    let json = HeaderValue::from_static("application/json");
    let is_json = response.headers().get(header::CONTENT_TYPE) == Some(&json);
    let Some(callback) = callback.filter(|_| is_json && response.status() == StatusCode::OK) else {
        return response;
    };
    let (before, behind) = callback.around();
    let (mut parts, body) = response.into_parts();
    let kind = HeaderValue::from_static(JAVASCRIPT);
    parts.headers.insert(header::CONTENT_TYPE, kind);
    parts.headers.remove(header::CONTENT_LENGTH);
    // What is inside is data, whatever it looks like.
    let nosniff = HeaderValue::from_static("nosniff");
    parts
        .headers
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    let around = |text: Bytes| stream::once(async move { Ok(text) });
    let whole = around(before.into())
        .chain(body.into_data_stream())
        .chain(around(Bytes::from_static(behind.as_bytes())));
    Response::from_parts(parts, Body::from_stream(whole))
}
