//! `GET /waggle/v1/map`: who speaks with whom, summed over the connections that have ended lately, with those that are open now.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query as UrlQuery, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use waggle_api::native::{Denials, EdgeName, NodeMapView, ServiceMap};

use super::{FlowLog, api::FlowApi, filter::Filter, segments};
use crate::{clock, files::problem, net::Net};

/// Edges in an answer; the others are one sum.
const MAX_SHOWN: usize = 4096;
/// Kinds of denials in an answer; the others are one number.
const MAX_DENIALS: usize = 256;
/// Connections that are looked at, the newest: some seconds of one processor.
const MAX_LOOKED: usize = 1_000_000;

/// The query, as it comes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MapQuery {
    since_us: u64,
    /// Names at either end, with commas; none for all.
    services: Option<String>,
}

impl MapQuery {
    fn wants(&self, source: &str, destination: &str) -> bool {
        let is = |name: &str| name == source || name == destination;
        let services = self.services.as_deref();
        services.is_none_or(|all| all.split(',').any(is))
    }
}

pub async fn map(
    State(api): State<FlowApi>,
    query: Result<UrlQuery<MapQuery>, QueryRejection>,
) -> Response {
    let query = match query {
        Ok(UrlQuery(query)) => query,
        Err(e) => return problem(StatusCode::BAD_REQUEST, &e.body_text()),
    };
    let Ok(reader) = Arc::clone(&api.readers).acquire_owned().await else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "the agent stops");
    };
    let made = tokio::task::spawn_blocking(move || {
        let _reader = reader;
        summed(&api.log, &api.net, &query)
    });
    match made.await {
        Ok(map) => Json(map).into_response(),
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

/// Blocking.
fn summed(log: &FlowLog, net: &Net, query: &MapQuery) -> NodeMapView {
    let (extents, _news) = log.subscribe();
    let until_us = clock::now_ns() / 1000;
    let filter = Filter {
        since_us: query.since_us,
        until_us,
        ..Filter::default()
    };
    let (mut map, mut denials) = (ServiceMap::default(), Denials::default());
    let cut = segments::each(&extents, &filter, MAX_LOOKED, |flow| {
        if query.wants(&flow.source, &flow.destination) {
            if Denials::is_one(flow) {
                denials.take(flow);
            } else {
                map.ended(flow);
            }
        }
    });
    let since_us = cut.unwrap_or(query.since_us).max(query.since_us);
    open(log, net, query, &mut map);
    map.came_within(until_us.saturating_sub(since_us) as f64 / 1e6);
    let (edges, other, folded) = map.shown(MAX_SHOWN);
    let (denials, denied_other) = denials.shown(MAX_DENIALS);
    NodeMapView {
        node: log.node.clone(),
        since_us,
        until_us,
        edges,
        other,
        folded,
        denials,
        denied_other,
    }
}

/// What is open, as of the agent's last tick.
fn open(log: &FlowLog, net: &Net, query: &MapQuery, map: &mut ServiceMap) {
    let vips = net.vip_names();
    let owners = log.owners();
    net.flows(|flows| {
        for (cgroup_id, edge, n) in flows.open() {
            let Some(own) = owners.get(cgroup_id).map(|o| o.name.as_str()) else {
                continue;
            };
            let (source, destination) = if edge.accepted {
                (edge.peer, own)
            } else {
                (own, edge.peer)
            };
            if !query.wants(source, destination) {
                continue;
            }
            let vip = vips.get(&edge.vip_id);
            let name = EdgeName {
                source: source.to_owned(),
                vip: vip.map(|(key, name)| format!("{name}:{}", key.port)),
                destination: destination.to_owned(),
            };
            map.open(name, edge.accepted, n);
        }
    });
}
