//! Sessions in tasks: `exec` runs a command beside the task's own, `attach` shows the task's output.
//!
//! A session is one upgraded HTTP connection (`waggle_api::exec`), or has another door, which translates
//! ([`crate::nested`]). Its command runs under a process of its own
//! ([`shim`]), which joins the task's cgroups, environment and user as the task itself did, and ends
//! everything that the command started when the client, or the agent, goes.
//!
//! # Invariants
//! - Held of a session: one window of input, one part of each output stream, one frame; nothing grows with time.
//! - At most [`MAX_SESSIONS`] at once; every one, and every refusal, is counted, and logged with who asked.
//! - Nothing of a session outlives it.

pub mod attach;
mod books;
mod input;
pub mod pty;
pub mod shim;
pub mod start;
pub mod talk;
pub mod wire;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path as UrlPath, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use http_body_util::{BodyExt, Limited};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use waggle_api::{
    exec::{AttachRequest, Ended, ExecRequest, Frame, MAX_REQUEST, Started, UPGRADE},
    native::PrefixError,
};
use waggle_telemetry::{Telemetry, names};

use crate::{
    AgentConfig, ShimCommand,
    checkpoint::TaskDir,
    files::{find_task, problem},
    http::View,
    serve::Peer,
};
use books::Books;
pub use books::{Open, Session};
pub use shim::exec_shim_main;
use talk::{Outcome, goodbye, talk};

/// Sessions at the same moment; one more is answered 503.
pub const MAX_SESSIONS: usize = 64;
/// How long a request's body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a session may lie unused.
pub const IDLE: Duration = Duration::from_hours(4);
/// Who asked a master that passed the request on.
pub const CLIENT: &str = "x-waggle-client";

/// An answer instead of a session.
pub type Refused = Box<Response>;

/// What every session has.
#[derive(Debug, Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    work_dir: PathBuf,
    view: View,
    command: ShimCommand,
    books: Arc<Books>,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Sessions {
    /// In the tasks of an agent, until `stop`.
    pub fn new(
        config: &AgentConfig,
        view: View,
        telemetry: Telemetry,
        stop: CancellationToken,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                work_dir: config.work_dir.clone(),
                view,
                command: config.exec_shim.clone(),
                books: Arc::new(Books::new(telemetry)),
                slots: Arc::new(Semaphore::new(MAX_SESSIONS)),
                stop,
            }),
        }
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/waggle/v1/tasks/{id}/exec", post(exec))
            .route("/waggle/v1/tasks/{id}/attach", post(attach))
            .with_state(self)
    }

    /// A running task, by id or by its beginning.
    fn task(&self, id: &str) -> Result<TaskDir, Refused> {
        let found = find_task(&self.inner.work_dir, &self.inner.view, id);
        let dir = found.map_err(|e| {
            let status = match e {
                PrefixError::Nothing(_) => StatusCode::NOT_FOUND,
                PrefixError::Several { .. } => StatusCode::CONFLICT,
            };
            Box::new(problem(status, &e.to_string()))
        })?;
        if dir.is_done() || dir.exit().is_some() || dir.process().is_none() {
            let why = format!("task {} does not run", dir.task_id());
            return Err(Box::new(problem(StatusCode::CONFLICT, &why)));
        }
        Ok(dir)
    }

    /// A place for one more, which it holds.
    pub fn slot(&self) -> Result<OwnedSemaphorePermit, Refused> {
        Arc::clone(&self.inner.slots)
            .try_acquire_owned()
            .map_err(|_| {
                let reason = [(names::DROP_REASON, "sessions".into())];
                let telemetry = self.inner.books.telemetry();
                telemetry.count(&names::AGENT_REQUESTS_REFUSED, &reason, 1);
                let why = format!("this agent has {MAX_SESSIONS} sessions, its limit");
                Box::new(problem(StatusCode::SERVICE_UNAVAILABLE, &why))
            })
    }

    /// Answers 101 and runs the session over what becomes of the connection.
    fn open<F>(
        self,
        session: Session,
        slot: OwnedSemaphorePermit,
        upgrade: OnUpgrade,
        run: impl FnOnce(Self, Session, Upgraded) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let stop = self.inner.stop.clone();
        tokio::spawn(async move {
            let _slot = slot;
            // An agent that stops lets go of everything, which ends the command.
            let _ = stop
                .run_until_cancelled(async move {
                    match upgrade.await {
                        Ok(upgraded) => {
                            let open = self.begin(session.clone());
                            let outcome = run(self, session, upgraded).await;
                            open.ended(&outcome);
                        }
                        Err(e) => tracing::debug!(error = %e, "a session's connection broke off"),
                    }
                })
                .await;
        });
        let headers = [
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static(UPGRADE)),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }

    /// A session begins. It is told to be over by what comes of it, at the latest when that goes.
    pub fn begin(&self, session: Session) -> Open {
        Arc::clone(&self.inner.books).begin(session)
    }
}

/// `POST /waggle/v1/tasks/<id>/exec`.
async fn exec(
    State(sessions): State<Sessions>,
    UrlPath(id): UrlPath<String>,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Response {
    let (who, upgrade, body) = match accept(peer, request) {
        Ok(parts) => parts,
        Err(refused) => return *refused,
    };
    let request: ExecRequest = match json(body).await {
        Ok(request) => request,
        Err(refused) => return *refused,
    };
    if let Err(e) = request.check() {
        return problem(StatusCode::UNPROCESSABLE_ENTITY, &e.to_string());
    }
    let (dir, slot) = match sessions
        .task(&id)
        .and_then(|dir| Ok((dir, sessions.slot()?)))
    {
        Ok(both) => both,
        Err(refused) => return *refused,
    };
    let session = Session {
        kind: "exec",
        who,
        task: dir.task_id().to_string(),
        program: request.argv.first().cloned().unwrap_or_default(),
    };
    sessions.open(
        session,
        slot,
        upgrade,
        async move |sessions, session, upgraded| {
            let (mut reader, writer) = wire::open(TokioIo::new(upgraded));
            let started = start::start(&sessions.inner.command, dir.path(), &request).await;
            let running = match started {
                Ok(running) => running,
                Err(why) => {
                    let last = Ended {
                        code: Some(why.code),
                        signal: None,
                        message: why.message,
                    };
                    goodbye(&mut reader, &writer, last.clone()).await;
                    return Outcome::Ended(last);
                }
            };
            let started = Frame::Started(Started {
                task_id: session.task,
                pid: running.pid,
                input: request.stdin,
                tty: request.tty.is_some(),
            });
            if let Err(e) = writer.send(&started).await {
                running.shim.end().await;
                return Outcome::Gone(e.to_string());
            }
            talk(reader, writer, running, IDLE).await
        },
    )
}

/// `POST /waggle/v1/tasks/<id>/attach`.
async fn attach(
    State(sessions): State<Sessions>,
    UrlPath(id): UrlPath<String>,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Response {
    let (who, upgrade, body) = match accept(peer, request) {
        Ok(parts) => parts,
        Err(refused) => return *refused,
    };
    let request: AttachRequest = match json(body).await {
        Ok(request) => request,
        Err(refused) => return *refused,
    };
    let (dir, slot) = match sessions
        .task(&id)
        .and_then(|dir| Ok((dir, sessions.slot()?)))
    {
        Ok(both) => both,
        Err(refused) => return *refused,
    };
    let session = Session {
        kind: "attach",
        who,
        task: dir.task_id().to_string(),
        program: String::new(),
    };
    sessions.open(session, slot, upgrade, async move |_, session, upgraded| {
        let (mut reader, writer) = wire::open(TokioIo::new(upgraded));
        let terminal = attach::terminal(&dir).await;
        let started = Frame::Started(Started {
            task_id: session.task,
            pid: dir.process().map_or(0, |p| p.pid),
            input: terminal.is_some(),
            tty: terminal.is_some(),
        });
        if let Err(e) = writer.send(&started).await {
            return Outcome::Gone(e.to_string());
        }
        let (dir, stdin) = (&dir, request.stdin);
        let outcome = match terminal {
            Some(terminal) => attach::join(&mut reader, &writer, dir, terminal, stdin, IDLE).await,
            None => attach::follow(&mut reader, &writer, dir, request.lines, IDLE).await,
        };
        if let Outcome::Ended(ended) = &outcome {
            goodbye(&mut reader, &writer, ended.clone()).await;
        }
        outcome
    })
}

/// What a request for a session must have.
fn accept(
    peer: Option<Extension<Peer>>,
    mut request: Request,
) -> Result<(String, OnUpgrade, Body), Refused> {
    let wanted = request.headers().get(header::UPGRADE);
    let asked = wanted.is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(UPGRADE.as_bytes()));
    if !asked {
        let why = format!("this path wants `Connection: upgrade` and `Upgrade: {UPGRADE}`");
        let mut refused = problem(StatusCode::UPGRADE_REQUIRED, &why);
        let headers = refused.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
        return Err(Box::new(refused));
    }
    let who = client(peer.map(|Extension(Peer(at))| at), request.headers());
    let upgrade = hyper::upgrade::on(&mut request);
    Ok((who, upgrade, request.into_body()))
}

/// Who asks: the connection's other end, and whom that says to speak for.
pub fn client(peer: Option<SocketAddr>, headers: &HeaderMap) -> String {
    let peer = peer.map_or_else(|| "unknown".to_owned(), |at| at.to_string());
    let behind = headers.get(CLIENT).and_then(|v| v.to_str().ok());
    match behind {
        Some(text) => {
            let text: String = text.chars().take(64).collect();
            format!("{text} via {peer}")
        }
        None => peer,
    }
}

/// A small JSON body.
async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Refused> {
    let bad = |why: &str| Err(Box::new(problem(StatusCode::BAD_REQUEST, why)));
    let read = Limited::new(body, MAX_REQUEST).collect();
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) => return bad(&format!("body: {e}")),
        Err(_) => return bad("body: did not arrive in time"),
    };
    serde_json::from_slice(&bytes).or_else(|e| bad(&format!("body: {e}")))
}
