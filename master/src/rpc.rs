//! How long gRPC calls take, streams to their end.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use futures::future::{BoxFuture, FutureExt as _};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tonic::{Status, body::Body};
use waggle_telemetry::{Telemetry, served};

/// gRPC's code of a call that its caller let go of.
const CANCELLED: u32 = 1;
/// Longest path that is remembered: those of our calls are shorter.
const MAX_PATH: usize = 100;
/// Where a code is said.
const STATUS: &str = "grpc-status";

/// Has calls recorded.
#[derive(Debug, Clone)]
pub(crate) struct Observed(pub(crate) Telemetry);

impl<S> tower::Layer<S> for Observed {
    type Service = Observing<S>;

    fn layer(&self, inner: S) -> Observing<S> {
        Observing {
            inner,
            telemetry: self.0.clone(),
        }
    }
}

/// See [`Observed`].
#[derive(Debug, Clone)]
pub(crate) struct Observing<S> {
    inner: S,
    telemetry: Telemetry,
}

impl<S> tower::Service<Request<Body>> for Observing<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path: String = request.uri().path().chars().take(MAX_PATH).collect();
        let under_way = UnderWay {
            telemetry: self.telemetry.clone(),
            path: path.into(),
            began: Instant::now(),
            code: CANCELLED,
        };
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await?;
            // Said at once where nothing follows.
            if let Some(code) = code(answer.headers()) {
                under_way.end(code);
                return Ok(answer);
            }
            Ok(answer.map(|inner| Body::new(Answer { inner, under_way })))
        }
        .boxed()
    }
}

fn code(headers: &HeaderMap) -> Option<u32> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

/// A call; recorded when it is over, whoever ended it.
struct UnderWay {
    telemetry: Telemetry,
    path: Arc<str>,
    began: Instant,
    code: u32,
}

impl UnderWay {
    /// It is over, and went so.
    fn end(mut self, code: u32) {
        self.code = code;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let took = self.began.elapsed().as_secs_f64();
        served::grpc(&self.telemetry, &self.path, self.code, took);
    }
}

/// An answer whose end says how it went.
struct Answer {
    inner: Body,
    under_way: UnderWay,
}

impl http_body::Body for Answer {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(code) = frame.trailers_ref().and_then(code)
        {
            self.under_way.code = code;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt as _, StreamBody};
    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::*;

    fn counts(t: &Telemetry) -> Vec<String> {
        let text = t.prometheus_text();
        let of_it = |l: &&str| l.starts_with("rpc_server_call_duration_seconds_count");
        text.lines().filter(of_it).map(ToOwned::to_owned).collect()
    }

    async fn ask(t: &Telemetry, path: &str, answer: fn() -> Response<Body>, to_the_end: bool) {
        let inner =
            service_fn(move |_: Request<Body>| async move { Ok::<_, Infallible>(answer()) });
        let service = Observed(t.clone()).layer(inner);
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let answer = service.oneshot(request).await.unwrap();
        if to_the_end {
            answer.into_body().collect().await.unwrap();
        }
    }

    fn streamed() -> Response<Body> {
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static(STATUS),
            http::HeaderValue::from_static("0"),
        )]);
        let frames = [
            Ok::<_, Status>(Frame::data(bytes::Bytes::from_static(b"x"))),
            Ok(Frame::trailers(trailers)),
        ];
        Response::new(Body::new(StreamBody::new(futures::stream::iter(frames))))
    }

    #[tokio::test]
    async fn calls_are_recorded_by_how_they_ended() {
        let t = Telemetry::disabled().component("waggle-master");
        let path = "/waggle.framework.v1.Framework/Subscribe";
        ask(&t, path, streamed, true).await;
        ask(&t, path, streamed, false).await;
        let refused = || Status::unavailable("not now").into_http();
        ask(&t, path, refused, true).await;
        let unknown = || Status::unimplemented("no such call").into_http();
        ask(&t, "/a/b", unknown, true).await;
        ask(&t, "/a/c", unknown, true).await;
        let all = counts(&t);
        assert_eq!(all.len(), 4, "{all:?}");
        for part in ["\"OK\"", "\"CANCELLED\"", "\"UNAVAILABLE\""] {
            let one = all.iter().find(|l| l.contains(part));
            assert!(
                one.is_some_and(|l| l.contains(&path[1..])),
                "{part}: {all:?}"
            );
        }
        let other = all.iter().find(|l| l.contains("_OTHER")).unwrap();
        assert!(other.ends_with(" 2"), "{other}");
    }
}
