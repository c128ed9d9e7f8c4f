//! What this node has of the overlay networks, and what it sees of them: routes of the agent's HTTP API.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{sync::Semaphore, time::timeout};
use waggle_api::native::{
    OverlayAgentJson, OverlayCheckView, OverlayPartJson, OverlayStatusJson, PeerCheckView,
};
use waggle_overlay::overlay::{OverlayCheck, OverlayNet};
use waggle_overlay_plan::wireguard::Excluded;

use crate::{files::problem, net::chain};

/// How long a check waits for the one before.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone)]
struct OverlayApi {
    overlay: Arc<OverlayNet>,
    /// A check asks every node: one at a time.
    turn: Arc<Semaphore>,
}

/// The routes.
pub fn routes(overlay: Arc<OverlayNet>) -> Router {
    Router::new()
        .route("/overlay-agent/overlay", get(show))
        .route("/waggle/v1/overlay/check", get(check))
        .with_state(OverlayApi {
            overlay,
            turn: Arc::new(Semaphore::new(1)),
        })
}

/// In DC/OS's shape.
async fn show(State(api): State<OverlayApi>) -> Json<OverlayAgentJson> {
    let part = api.overlay.part();
    let state = OverlayStatusJson {
        status: if part.trouble.is_some() {
            "STATUS_FAILED"
        } else {
            "STATUS_OK"
        }
        .to_owned(),
        error: part.trouble,
    };
    Json(OverlayAgentJson {
        ip: part.node_ip.to_string(),
        overlays: OverlayPartJson::of(&part.vxlan, part.networks.iter(), &part.overlay, &state),
    })
}

async fn check(State(api): State<OverlayApi>) -> Response {
    let Ok(Ok(turn)) = timeout(PATIENCE, api.turn.acquire_owned()).await else {
        let why = "other checks of this node are under way";
        return problem(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    let checked = tokio::task::spawn_blocking(move || {
        // Whoever asked may have gone: the next one still waits for this one's end.
        let _turn = turn;
        api.overlay.check()
    });
    match checked.await {
        Ok(Ok(seen)) => Json(view(&seen)).into_response(),
        Ok(Err(error)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &chain(&error)),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn view(seen: &OverlayCheck) -> OverlayCheckView {
    let peers = seen.peers.iter();
    let peers = peers.map(|(ip, (endpoint, echo))| PeerCheckView {
        ip: ip.to_string(),
        endpoint: endpoint.to_string(),
        rtt_us: echo
            .rtt
            .map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        whole: echo.is_whole,
        encrypted: seen.encrypts && !seen.no_way.contains_key(ip),
        no_way: seen.no_way.get(ip).map(|why| no_way(*why).to_owned()),
    });
    OverlayCheckView {
        ip: seen.node_ip.to_string(),
        takes_part: seen.takes_part,
        endpoint: seen.endpoint.map(|ip| ip.to_string()),
        trouble: seen.trouble.clone(),
        mtu: seen.mtu,
        peers: peers.collect(),
        encrypts: seen.encrypts,
        drops: seen.drops.clone(),
    }
}

fn no_way(why: Excluded) -> &'static str {
    match why {
        Excluded::NoKey => "it does not encrypt",
        Excluded::SharedKey => "its key is another node's, too",
        Excluded::SharedAddress => "its address is another node's, too",
    }
}
