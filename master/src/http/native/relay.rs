//! Requests about one task's insides, passed on to the agent that has it: sessions, files, output.
//!
//! Pure routing: the task is found by id or by a beginning that only one has, the request goes to its agent, the
//! answer comes back as it is. A session becomes a tunnel of bytes that holds one buffer each way, so its
//! ends slow each other down as if they were connected.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, HeaderValue, Method, Request, StatusCode, header},
    response::Response,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use waggle_api::{
    error::{ApiError, ErrorCode},
    exec::{MAX_REQUEST, UPGRADE},
    native::{PrefixError, by_prefix},
};

use crate::{
    http::{Api, request::Call, respond::Fail},
    view::{ClusterView, TaskView},
};

/// Tunnels at the same moment; one more is answered 503.
const MAX_TUNNELS: usize = 256;
/// How long an agent may take to be reached.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an agent may take to begin its answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Bytes that a tunnel holds each way.
const BUFFER: usize = 16 << 10;
/// Headers of an agent's answer that the client gets.
const PASSED: [&str; 10] = [
    "cache-control",
    "message-content-type",
    "x-journal-skip-next",
    "x-journal-skip-prev",
    "content-type",
    "content-length",
    "content-disposition",
    "retry-after",
    "x-waggle-size",
    "x-waggle-next-offset",
];

/// All tunnels; they end when nobody serves any more.
#[derive(Debug, Clone)]
pub(in crate::http) struct Tunnels {
    slots: Arc<Semaphore>,
    refused: Arc<AtomicU64>,
    stop: CancellationToken,
    _end: Arc<DropGuard>,
}

impl Default for Tunnels {
    fn default() -> Self {
        let stop = CancellationToken::new();
        Self {
            slots: Arc::new(Semaphore::new(MAX_TUNNELS)),
            refused: Arc::default(),
            _end: Arc::new(stop.clone().drop_guard()),
            stop,
        }
    }
}

impl Tunnels {
    /// A place for one more.
    pub(in crate::http) fn one_more(&self) -> Result<OwnedSemaphorePermit, Fail> {
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        slot.map_err(|_| full(&self.refused))
    }

    /// Cancelled when nobody serves any more.
    pub(in crate::http) fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }
}

/// What of a request is not in its [`Call`].
pub(in crate::http) struct Caller {
    peer: Option<SocketAddr>,
    upgrade: Option<OnUpgrade>,
}

impl Caller {
    /// Takes the right to upgrade its connection out of a request.
    pub(in crate::http) fn of(request: &mut Request<Body>, peer: Option<SocketAddr>) -> Self {
        let wanted = request.headers().contains_key(header::UPGRADE);
        Self {
            peer,
            upgrade: wanted.then(|| hyper::upgrade::on(request)),
        }
    }
}

/// Whether a path is an agent's to answer: the task and what is asked of it.
pub(in crate::http) fn wanted(call: &Call) -> Option<(&str, &[String])> {
    let [waggle, v1, tasks, id, rest @ ..] = call.segments.as_slice() else {
        return None;
    };
    let ours = [waggle.as_str(), v1, tasks] == ["waggle", "v1", "tasks"];
    let rest_ours = match rest {
        [one] => ["exec", "attach", "files", "file"].contains(&one.as_str()),
        [log, _] => log == "log",
        _ => false,
    };
    (ours && rest_ours).then_some((id, rest))
}

/// Passes a request on.
pub(in crate::http) async fn relay(
    api: &Api,
    call: &Call,
    (id, rest): (&str, &[String]),
    body: Body,
    caller: Caller,
) -> Result<Response, Fail> {
    let session = matches!(rest, [one] if one == "exec" || one == "attach");
    let method = if session { Method::POST } else { Method::GET };
    if call.method != method {
        return Err(Fail::method(call, if session { "POST" } else { "GET" }));
    }
    let (task_id, agent) = place(&api.view(), id)?;
    let slot = if session {
        Some(api.tunnels.one_more()?)
    } else {
        None
    };
    let read = Limited::new(body, MAX_REQUEST).collect();
    let bytes = match tokio::time::timeout(ANSWER, read).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => return Err(ApiError::new(ErrorCode::BadRequest, "body could not be read").into()),
    };
    let mut path = format!("/waggle/v1/tasks/{}", encode(&task_id));
    for part in rest {
        path.push('/');
        path.push_str(&encode(part));
    }
    if !call.raw_query.is_empty() {
        path.push('?');
        path.push_str(&call.raw_query);
    }
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, agent.to_string())
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(peer) = caller.peer {
        request = request.header("x-waggle-client", peer.to_string());
    }
    if caller.upgrade.is_some() {
        request = request
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, UPGRADE);
    }
    let request = request
        .body(Full::new(bytes))
        .map_err(|e| ApiError::new(ErrorCode::BadRequest, e.to_string()))?;
    let mut answer = ask(agent, request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(pass(answer));
    }
    let (Some(upgrade), Some(slot)) = (caller.upgrade, slot) else {
        let why = format!("the agent at {agent} answered an ordinary request with an upgrade");
        return Err(ApiError::new(ErrorCode::Unavailable, why).into());
    };
    let theirs = hyper::upgrade::on(&mut answer);
    let stop = api.tunnels.stop.clone();
    tokio::spawn(async move {
        let _slot = slot;
        let tunnel = async {
            let (ours, theirs) = tokio::try_join!(upgrade, theirs)?;
            let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
            let copied =
                tokio::io::copy_bidirectional_with_sizes(&mut ours, &mut theirs, BUFFER, BUFFER);
            // Either end may be cut off: the other one sees its end.
            if let Err(error) = copied.await {
                tracing::debug!(%error, "a tunnel broke off");
            }
            Ok::<(), hyper::Error>(())
        };
        if let Some(Err(error)) = stop.run_until_cancelled(tunnel).await {
            tracing::debug!(%error, "a tunnel was not opened");
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
    Ok(response)
}

/// Told at 1, 2, 4, 8..: a flood must not fill the log too.
fn full(refused: &AtomicU64) -> Fail {
    let n = refused.fetch_add(1, Ordering::Relaxed) + 1;
    if n.is_power_of_two() {
        tracing::warn!(
            n,
            max = MAX_TUNNELS,
            "too many sessions pass through this master"
        );
    }
    let why = format!("sessions: this master passes on {MAX_TUNNELS} at most");
    ApiError::new(ErrorCode::Unavailable, why).into()
}

/// The task's whole id, and where its agent answers. Running tasks come first.
fn place(view: &ClusterView, text: &str) -> Result<(String, SocketAddr), Fail> {
    let live = by_prefix(view.tasks.values().map(|t| t.id.as_str()), text);
    let id = match live {
        Err(PrefixError::Nothing(_)) => {
            by_prefix(view.completed.iter().map(|t| t.id.as_str()), text)
        }
        found => found,
    };
    let id = id.map_err(|e| {
        let code = match e {
            PrefixError::Nothing(_) => ErrorCode::NotFound,
            PrefixError::Several { .. } => ErrorCode::Conflict,
        };
        ApiError::new(code, e.to_string())
    })?;
    let of = |t: &&TaskView| t.id.as_str() == id;
    let mut all = view.tasks.values().chain(view.completed.iter().rev());
    let task = all.by_ref().map(AsRef::as_ref).find(of);
    let agent = task.and_then(|t| view.agents.get(t.agent_id()));
    match (task, agent) {
        (Some(_), Some(agent)) => {
            let at = SocketAddr::from((agent.info.ip, agent.info.http_port));
            Ok((id.to_owned(), at))
        }
        (task, _) => {
            let node = task.map_or("", |t| t.hostname());
            let why = format!("{id}: its agent {node} is not known");
            Err(ApiError::new(ErrorCode::Unavailable, why).into())
        }
    }
}

/// Asks an agent, which is to begin its answer in time.
pub(in crate::http) async fn ask(
    agent: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<hyper::Response<hyper::body::Incoming>, Fail> {
    ask_within(agent, request, Some(ANSWER)).await
}

/// The same with a body of any kind, and as much time as is said.
pub(in crate::http) async fn ask_within<B>(
    agent: SocketAddr,
    request: Request<B>,
    patience: Option<Duration>,
) -> Result<hyper::Response<hyper::body::Incoming>, Fail>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let away = |why: String| {
        let why = format!("the task's agent at {agent} does not answer: {why}");
        Fail::from(ApiError::new(ErrorCode::Unavailable, why))
    };
    let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(agent)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return Err(away(e.to_string())),
        Err(_) => return Err(away(format!("not within {} s", CONNECT.as_secs()))),
    };
    // Keys that are typed must not wait for more.
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| away(e.to_string()))?;
    // Ends with the answer's body, or hands the connection over.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to an agent ended early");
        }
    });
    let answer = sender.send_request(request);
    let answer = match patience {
        None => answer.await,
        Some(patience) => tokio::time::timeout(patience, answer)
            .await
            .map_err(|_| away(format!("not within {} s", patience.as_secs())))?,
    };
    answer.map_err(|e| away(e.to_string()))
}

/// The answer as it came, at the client's pace.
pub(in crate::http) fn pass(answer: hyper::Response<hyper::body::Incoming>) -> Response {
    let (parts, body) = answer.into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = parts.status;
    for name in PASSED {
        if let Some(value) = parts.headers.get(name) {
            let name = HeaderName::from_static(name);
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// Percent-encodes what a segment may not hold.
pub(in crate::http) fn encode(segment: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    segment
        .bytes()
        .map(|b| {
            if keep(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}
