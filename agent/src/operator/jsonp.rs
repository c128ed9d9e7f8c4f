//! `?jsonp=callback` of Mesos's endpoints.

use axum::{
    body::{Body, Bytes},
    extract::{Query, Request},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::{StreamExt as _, stream};
use serde::Deserialize;
use waggle_api::mesos::jsonp::{Callback, JAVASCRIPT};

#[derive(Deserialize)]
struct Asked {
    jsonp: Option<String>,
}

/// Turns JSON into a call of the function that a read asks for.
pub async fn jsonp(request: Request, next: Next) -> Response {
    let asked = Query::<Asked>::try_from_uri(request.uri()).ok();
    let asked = asked.and_then(|q| q.0.jsonp);
    let asked = asked.filter(|_| request.method() == Method::GET);
    let Some(name) = asked else {
        return next.run(request).await;
    };
    let callback = match Callback::new(&name) {
        Ok(callback) => callback,
        Err(e) => return (StatusCode::BAD_REQUEST, e.to_string()).into_response(),
    };
    let response = next.run(request).await;
    let json = HeaderValue::from_static("application/json");
    let is_json = response.headers().get(header::CONTENT_TYPE) == Some(&json);
    if !is_json || response.status() != StatusCode::OK {
        return response;
    }
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

#[cfg(test)]
mod tests {
    use axum::{Json, Router, body::to_bytes, middleware, routing::get};
    use serde_json::json;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(path: &str) -> (StatusCode, String, String) {
        let router = Router::new()
            .route("/state", get(async || Json(json!({"a": 1}))))
            .route("/text", get(async || "plain"))
            .layer(middleware::from_fn(jsonp));
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
        let kind = kind.to_owned();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, kind, String::from_utf8(body.into()).unwrap())
    }

    #[tokio::test]
    async fn json_is_a_call_of_what_was_asked_for() {
        let (status, kind, body) = ask("/state?jsonp=app.show").await;
        assert_eq!((status, kind.as_str()), (StatusCode::OK, JAVASCRIPT));
        assert_eq!(body, "app.show({\"a\":1});");
        let (_, kind, body) = ask("/state?x=1").await;
        assert_eq!(
            (kind.as_str(), body.as_str()),
            ("application/json", "{\"a\":1}")
        );
        let (_, _, body) = ask("/text?jsonp=cb").await;
        assert_eq!(body, "plain");
        let (status, _, body) = ask("/state?jsonp=alert(1)").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(
            body.starts_with("jsonp: must be the name of a function"),
            "{body}"
        );
    }
}
