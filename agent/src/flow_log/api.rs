//! `GET /waggle/v1/flows`: JSON, one connection a line, oldest first; with `follow` it goes on. And the route of the map.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query as UrlQuery, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::StreamExt as _;
use tokio::sync::{
    Semaphore,
    broadcast::{self, error::RecvError},
    mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use waggle_api::native::{EndedFlow, FlowLine};

use super::{
    FlowLog,
    filter::{Filter, Query},
    map, segments,
};
use crate::{files::problem, net::Net};

/// Questions to the disk at the same time, and followers.
const READERS: usize = 2;
const FOLLOWERS: usize = 64;
/// A follower hears at least so often, be it an empty line.
const ALIVE: Duration = Duration::from_secs(5);
/// How long one may take nothing: then it loses its place.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pieces on their way to a reader.
const WAITING: usize = 4;
/// Connections in one piece of an answer.
const PIECE: usize = 1024;

/// See the module.
#[derive(Clone)]
pub struct FlowApi {
    pub log: Arc<FlowLog>,
    pub net: Arc<Net>,
    pub readers: Arc<Semaphore>,
    followers: Arc<Semaphore>,
}

/// The routes.
pub fn routes(net: Arc<Net>) -> Router {
    Router::new()
        .route("/waggle/v1/flows", get(flows))
        .route("/waggle/v1/map", get(map::map))
        .with_state(FlowApi {
            log: Arc::clone(net.flow_log()),
            net,
            readers: Arc::new(Semaphore::new(READERS)),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
        })
}

async fn flows(
    State(api): State<FlowApi>,
    query: Result<UrlQuery<Query>, QueryRejection>,
) -> Response {
    let filter = match query {
        Ok(UrlQuery(query)) => match Filter::try_from(query) {
            Ok(filter) => filter,
            Err(e) => return problem(StatusCode::BAD_REQUEST, &e.to_string()),
        },
        Err(e) => return problem(StatusCode::BAD_REQUEST, &e.body_text()),
    };
    let Ok(place) = Arc::clone(&api.followers).try_acquire_owned() else {
        let why = format!("{FOLLOWERS} readers are there already");
        return problem(StatusCode::TOO_MANY_REQUESTS, &why);
    };
    let (extents, mut news) = api.log.subscribe();
    let Ok(reader) = Arc::clone(&api.readers).acquire_owned().await else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "the agent stops");
    };
    let wanted = filter.clone();
    let read = tokio::task::spawn_blocking(move || {
        let _reader = reader;
        segments::read(&extents, &wanted)
    });
    let old = match read.await {
        Ok(old) => old,
        Err(e) => return problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    };
    let (parts, body) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let _place = place;
        tell(old, &filter, &mut news, &parts).await;
    });
    let body = Body::from_stream(ReceiverStream::new(body).map(Ok::<Bytes, Infallible>));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// Tells what was, then what comes. Ends with a reader that is gone, or that takes nothing for too long.
async fn tell(
    old: Vec<EndedFlow>,
    filter: &Filter,
    news: &mut broadcast::Receiver<Arc<[EndedFlow]>>,
    parts: &mpsc::Sender<Bytes>,
) {
    for piece in old.chunks(PIECE) {
        if parts.send_timeout(lines(piece), PATIENCE).await.is_err() {
            return;
        }
    }
    // A follower may stay for long.
    drop(old);
    if !filter.follow {
        return;
    }
    loop {
        let piece = match tokio::time::timeout(ALIVE, news.recv()).await {
            Ok(Ok(flows)) => {
                let wanted = flows.iter().filter(|f| filter.matches(f)).cloned();
                lines(&wanted.collect::<Vec<_>>())
            }
            Ok(Err(RecvError::Lagged(missed))) => line(&FlowLine::Missed { missed }).into(),
            Ok(Err(RecvError::Closed)) => return,
            Err(_) => Bytes::from_static(b"\n"),
        };
        if !piece.is_empty() && parts.send_timeout(piece, PATIENCE).await.is_err() {
            return;
        }
    }
}

fn lines(flows: &[EndedFlow]) -> Bytes {
    let mut out = Vec::new();
    for flow in flows {
        out.extend(line(flow));
    }
    out.into()
}

fn line(what: &impl serde::Serialize) -> Vec<u8> {
    // Plain data: it has no way to fail.
    let mut line = serde_json::to_vec(what).unwrap_or_default();
    line.push(b'\n');
    line
}
