//! The HTTP APIs: Mesos and native JSON on one listener, Marathon on another.
//!
//! Requests are dispatched on the decoded path's segments, since Marathon ids are paths and clients
//! write double slashes: empty segments do not count. Wire types and validation are `waggle-api`'s.
//! Clients of DC/OS's gateway find what it had at one address on the Mesos listener: `/service/marathon/..`, `/mesos/..`, and
//! more in `gateway`.
//!
//! # Invariants
//! - Reads take the newest [`ClusterView`] and never touch the core.
//! - Changes that read a definition first (PUT, PATCH, restart) run one at a time, and a change is
//!   answered when the view shows it (at most `SETTLE` later): a client reads its own writes.
//! - Every refusal is JSON with a sentence that stands alone; bodies over [`MAX_BODY`] are a 413 (calls of
//!   Mesos's schedulers, which carry task infos, have a larger bound of their own).
//!
//! # What it never does
//! No scheduling and no state of its own.

mod gateway;
mod gauges;
mod jsonp;
mod marathon;
mod mesos;
mod metronome;
mod native;
mod operator;
mod pieces;
mod reader;
mod request;
mod respond;
mod routes;
mod scheduler;
mod serve;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware,
    response::{IntoResponse, Response},
};
use tokio::sync::{Mutex, MutexGuard};
use waggle_telemetry::Telemetry;
use waggle_types::UnixMillis;

use crate::{framework::SchedulerDoor, handle::MasterHandle, view::ClusterView};
use native::relay::{self, Caller, Tunnels};
use request::Call;
use respond::Fail;
pub use serve::HttpLimits;
pub(crate) use serve::serve;
use serve::{Cut, Peer};

/// Largest body, in bytes.
pub const MAX_BODY: usize = 1 << 20;
/// A body that takes longer is refused, so that idle clients hold nothing.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Where DC/OS's gateway had Marathon's API, for clients that know only that.
const MARATHON: [&str; 2] = ["service", "marathon"];
/// Longest wait for the view to show a change that is on disk.
const SETTLE: Duration = Duration::from_secs(1);

/// What every handler has.
#[derive(Debug, Clone)]
struct Api {
    handle: MasterHandle,
    /// Held from reading a definition to storing the changed one.
    changes: Arc<Mutex<()>>,
    /// Sessions in tasks that pass through here.
    tunnels: Tunnels,
    /// Who follows output.
    readers: native::logs::Readers,
    /// Questions to all agents.
    questions: native::gather::Questions,
    /// Mesos's scheduler API.
    scheduler: Option<SchedulerDoor>,
    /// Who listens to Mesos's operator events.
    hub: operator::Hub,
    telemetry: Telemetry,
}

impl Api {
    fn new(handle: MasterHandle, telemetry: Telemetry) -> Self {
        Self {
            changes: Arc::clone(handle.changes()),
            tunnels: Tunnels::default(),
            readers: native::logs::Readers::default(),
            questions: native::gather::Questions::default(),
            scheduler: None,
            hub: operator::Hub::default(),
            telemetry,
            handle,
        }
    }

    fn view(&self) -> Arc<ClusterView> {
        self.handle.view()
    }

    /// Waiters are bounded by open connections.
    async fn exclusive(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().await
    }

    /// Waits until the view shows a change. A late view is no error: the change is on disk.
    async fn settled(&self, mut shown: impl FnMut(&ClusterView) -> bool) -> Arc<ClusterView> {
        let mut views = self.handle.subscribe();
        let _ = tokio::time::timeout(SETTLE, views.wait_for(|v| shown(v))).await;
        self.view()
    }
}

/// The wall clock, read here and handed on.
fn now() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Routes of the Mesos listener (`/version`, `/state`, `/api/v1`, `/waggle/v1/..`); without a door there is no
/// scheduler API.
pub(crate) fn mesos_router(
    handle: MasterHandle,
    scheduler: Option<SchedulerDoor>,
    telemetry: Telemetry,
) -> Router {
    let observed = middleware::from_fn_with_state(telemetry.clone(), routes::observe);
    Router::new()
        .fallback(serve_mesos)
        .with_state(Api {
            scheduler,
            ..Api::new(handle, telemetry)
        })
        .layer(observed)
}

/// Routes of the Marathon listener (`/v2/..`, `/ping`).
pub fn marathon_router(handle: MasterHandle, telemetry: Telemetry) -> Router {
    let observed = middleware::from_fn_with_state(telemetry.clone(), routes::observe);
    Router::new()
        .fallback(serve_marathon)
        .with_state(Api::new(handle, telemetry))
        .layer(observed)
}

async fn serve_mesos(State(api): State<Api>, mut request: Request) -> Response {
    let cut = request.extensions().get::<Cut>().map(|c| c.0.clone());
    if scheduler::is_mine(request.uri().path()) {
        return match Call::new(request) {
            Ok((call, body)) => scheduler::route(&api, &call, body, cut.unwrap_or_default()).await,
            Err(e) => Fail::from(e).into_response(),
        };
    }
    api.handle.fresh().await;
    let peer = request.extensions().get::<Peer>().map(|p| p.0);
    let caller = Caller::of(&mut request, peer);
    let (mut call, body) = match Call::new(request) {
        Ok(taken) => taken,
        Err(e) => return Fail::from(e).into_response(),
    };
    if call.is_below(&MARATHON) {
        return marathon::route(&api, &call, body).await.into_response();
    }
    call.is_below(&["mesos"]);
    let answer = match call.segments.first().map(String::as_str) {
        Some("waggle") => match relay::wanted(&call) {
            Some(wanted) => relay::relay(&api, &call, wanted, body, caller).await,
            None => native::route(&api, &call, body).await,
        },
        Some("system") if native::dcos_logs::is_mine(&call) => {
            native::dcos_logs::route(&api, &call).await
        }
        Some("slave" | "agent") if gateway::agent(&call).is_some() => {
            gateway::pass(&api, &call, body).await
        }
        Some("mesos_dns") if gateway::is_host(&call) => gateway::host(&api.view(), &call),
        _ if operator::is_mine(&call) => {
            return operator::route(&api, &call, body, cut.unwrap_or_default()).await;
        }
        _ => {
            let callback = match jsonp::asked(&call) {
                Ok(callback) => callback,
                Err(e) => return e.into_response(),
            };
            return jsonp::wrap(callback, serve_old(api, call, body).await);
        }
    };
    answer.into_response()
}

/// Mesos's endpoints with paths of their own.
async fn serve_old(api: Api, call: Call, body: Body) -> Response {
    let answer = match call {
        call if operator::is_legacy(&call) => return operator::legacy(&api, &call, body).await,
        call if mesos::is_large(&call) => {
            let made = reader::read(move || mesos::route(&api, &call)).await;
            made.unwrap_or_else(|e| Err(e.into()))
        }
        call => mesos::route(&api, &call),
    };
    answer.into_response()
}

async fn serve_marathon(State(api): State<Api>, request: Request) -> Response {
    api.handle.fresh().await;
    let answer: Result<Response, Fail> = match Call::new(request) {
        Ok((mut call, body)) => {
            call.is_below(&MARATHON);
            match metronome::is_mine(&call) {
                Some(path) => metronome::route(&api, &call, &path, body).await,
                None => marathon::route(&api, &call, body).await,
            }
        }
        Err(e) => Err(e.into()),
    };
    answer.into_response()
}
