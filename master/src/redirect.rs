//! What a master candidate that does not lead answers: where the leader is.
//!
//! Clients read `/version` on a stand-by and take its absence for an ancient master (CONTRACTS 1.1), so
//! that and `/ping` are answered here; all else is a 307 with a scheme-relative `Location`.

use std::net::SocketAddr;

use axum::{
    Json, Router,
    extract::OriginalUri,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waggle_api::mesos::Version;

use crate::error::MasterError;

/// Where the leading master listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// Its Mesos API.
    pub mesos: SocketAddr,
    /// Its Marathon API.
    pub marathon: SocketAddr,
}

/// Listeners of a candidate that does not lead.
#[derive(Debug)]
pub struct RedirectListeners {
    /// Mesos API.
    pub mesos: TcpListener,
    /// Marathon API.
    pub marathon: TcpListener,
}

/// Redirects until stopped.
pub async fn run(
    leader: Leader,
    listeners: RedirectListeners,
    stop: CancellationToken,
) -> Result<(), MasterError> {
    let serve = |listener, to, name: &'static str| {
        let stop = stop.clone();
        async move {
            axum::serve(listener, router(to))
                .with_graceful_shutdown(stop.cancelled_owned())
                .await
                .map_err(|e| MasterError::Server(format!("the {name} redirect failed: {e}")))
        }
    };
    tokio::try_join!(
        serve(listeners.mesos, leader.mesos, "Mesos"),
        serve(listeners.marathon, leader.marathon, "Marathon"),
    )?;
    Ok(())
}

/// The routes of one redirecting listener.
pub fn router(to: SocketAddr) -> Router {
    Router::new()
        .route("/version", get(version))
        .route("/ping", get("pong\n"))
        .fallback(move |OriginalUri(uri): OriginalUri| async move {
            let path = uri.path_and_query().map_or("/", |p| p.as_str());
            redirect(to, path)
        })
}

async fn version() -> Json<Version> {
    Json(Version::new(env!("CARGO_PKG_VERSION")))
}

fn redirect(to: SocketAddr, path: &str) -> Response {
    let location = format!("//{to}{path}");
    (
        StatusCode::TEMPORARY_REDIRECT,
        [(header::LOCATION, location)],
    )
        .into_response()
}
