//! The queue, the leader and information about the service itself.

use std::collections::BTreeMap;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use waggle_api::{
    error::ApiError,
    marathon::{
        Delay, HttpConfig, Info, Leader, MarathonConfig, Number, ProcessedOffers, Queue, QueueItem,
        Rejection, ZooKeeperConfig, pod_json,
    },
};
use waggle_services::{DeclineReason, ReasonCount};
use waggle_types::{Millis, ServiceId, ServiceVersion, UnixMillis};

use super::{
    super::{
        Api,
        request::{Call, Query},
        respond::{Fail, ok},
    },
    apps::{Embed, app},
};
use crate::view::{ClusterView, MasterView, QueueView};

/// The Marathon release whose API this follows; numeric, as clients compare it.
pub(in crate::http) const MARATHON_VERSION: &str = "1.11.24";

/// Order in which Marathon tests offers and lists the reasons.
const REASONS: [&str; 10] = [
    "UnfulfilledRole",
    "UnfulfilledConstraint",
    "NoCorrespondingReservationFound",
    "AgentMaintenance",
    "InsufficientCpus",
    "InsufficientMemory",
    "InsufficientDisk",
    "InsufficientGpus",
    "InsufficientPorts",
    "DeclinedScarceResources",
];

/// Forgets the backoff delay of an app that waits.
pub(super) async fn reset_delay(api: &Api, id: &ServiceId) -> Result<Response, Fail> {
    api.handle.reset_delay(id.clone()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) fn queue(view: &ClusterView, query: &Query) -> Queue {
    let embeds = |what: &str| query.all("embed").any(|e| e == what);
    // Marathon has pods here unasked; clients that know nothing of them break.
    let (offers, pods) = (embeds("lastUnusedOffers"), embeds("pods"));
    let items = view.queue.values().filter_map(|q| {
        let embed = Embed {
            tasks: false,
            last_failure: false,
            readiness: false,
            stats: None,
        };
        let (app, pod) = match view.app(&q.service) {
            Some(service) => (Some(app(service, embed)), None),
            None if pods => (None, Some(pod_json(&view.pod(&q.service)?.spec)?)),
            None => return None,
        };
        Some(QueueItem {
            app,
            pod,
            count: q.count,
            delay: Delay {
                time_left_seconds: Number(q.delay(view.at).0 as f64 / 1000.0),
                overdue: q.delay(view.at) == Millis(0),
            },
            since: ServiceVersion(q.since).to_string(),
            processed_offers_summary: processed(q),
            last_unused_offers: offers
                .then(|| q.unused.iter().map(super::offers::unused).collect()),
        })
    });
    Queue {
        queue: items.collect(),
    }
}

fn processed(q: &QueueView) -> ProcessedOffers {
    let time = |at: Option<UnixMillis>| at.map(|at| ServiceVersion(at).to_string());
    ProcessedOffers {
        processed_offers_count: q.n_offers,
        unused_offers_count: q.n_unused,
        last_unused_offer_at: time(q.last_unused_at),
        last_used_offer_at: time(q.last_used_at),
        reject_summary_last_offers: rejections(&q.last_offers),
        reject_summary_launch_attempt: rejections(&q.launch_attempt),
    }
}

/// Every reason has a row: dcoscli prints a table of exactly these.
fn rejections(counts: &BTreeMap<DeclineReason, ReasonCount>) -> Vec<Rejection> {
    let row = |reason: &&'static str| {
        let count = counts.iter().find(|(r, _)| r.name() == *reason);
        let count = count.map(|(_, c)| *c).unwrap_or_default();
        Rejection {
            reason: (*reason).to_owned(),
            declined: count.declined,
            processed: count.processed,
        }
    };
    REASONS.iter().map(row).collect()
}

fn marathon_address(m: &MasterView) -> String {
    format!("{}:{}", m.ip, m.marathon_port)
}

pub(super) fn leader(view: &ClusterView) -> Result<Response, Fail> {
    let leader = view.leader.as_ref().map(marathon_address);
    let leader = leader.ok_or_else(|| Fail::not_found("There is no leader"))?;
    Ok(ok(&Leader { leader }))
}

/// The leader steps down. Where it is the only candidate it is elected again at once: what it knows is what is stored,
/// and agents and clients come to it anew.
pub(super) fn abdicate(api: &Api, call: &Call) -> Result<Response, Fail> {
    for of_backup in ["backup", "restore"] {
        if call.query.first(of_backup).is_some() {
            let rule = "is not supported; copy the store's file while no master runs";
            return Err(ApiError::invalid(of_backup, rule).into());
        }
    }
    api.handle.abdicate();
    Ok(ok(&json!({ "message": "Leadership abdicated" })))
}

pub(super) fn info(view: &ClusterView) -> Info {
    let framework = view.frameworks.values().find(|f| f.name == "marathon");
    let leader = view.leader.as_ref();
    let limits = &view.launches;
    Info {
        name: "marathon".into(),
        version: MARATHON_VERSION.into(),
        buildref: format!("waggle-{}", env!("CARGO_PKG_VERSION")),
        elected: leader.is_some(),
        leader: leader.map(marathon_address),
        framework_id: framework.map(|f| f.id.to_string()),
        marathon_config: MarathonConfig {
            framework_name: "marathon".into(),
            ha: view.masters.len() > 1,
            checkpoint: true,
            hostname: leader.map(|l| l.hostname.clone()),
            master: leader.map(|l| format!("{}:{}", l.ip, l.mesos_port)),
            mesos_role: framework.map_or("*", |f| f.role()).to_owned(),
            mesos_leader_ui_url: leader.map(|l| format!("http://{}:{}/", l.ip, l.mesos_port)),
            executor: "//cmd".into(),
            features: Vec::new(),
            default_network_name: "dcos".into(),
            max_instances_per_offer: limits.max_instances_per_offer,
            task_launch_timeout: limits.launch_timeout.0,
            decline_offer_duration: limits.decline_duration.0,
            launch_token: limits.launch_tokens,
            launch_token_refresh_interval: limits.launch_token_refresh.0,
            min_revive_offers_interval: limits.min_revive_interval.0,
        },
        zookeeper_config: ZooKeeperConfig {},
        http_config: HttpConfig {
            http_port: leader.map(|l| l.marathon_port),
        },
    }
}

/// Marathon's shape (dropwizard); the master's own metrics are at its Prometheus listener.
pub(super) fn metrics(view: &ClusterView) -> Value {
    let total = |count: fn(&crate::view::ServiceView) -> u32| -> u64 {
        view.services.values().map(|s| u64::from(count(s))).sum()
    };
    dropwizard([
        ("marathon.apps.active.gauge", view.apps().count() as u64),
        ("marathon.pods.active.gauge", view.pods().count() as u64),
        (
            "marathon.deployments.active.gauge",
            view.deployments.len() as u64,
        ),
        ("marathon.instances.staged.gauge", total(|s| s.staged)),
        ("marathon.instances.running.gauge", total(|s| s.running)),
        ("marathon.instances.healthy.gauge", total(|s| s.healthy)),
        ("marathon.instances.unhealthy.gauge", total(|s| s.unhealthy)),
    ])
}

/// Gauges in dropwizard's shape.
pub(in crate::http) fn dropwizard<const N: usize>(gauges: [(&'static str, u64); N]) -> Value {
    let gauges: BTreeMap<&str, Value> = gauges.map(|(k, v)| (k, json!({ "value": v }))).into();
    json!({"version": "4.0.0", "gauges": gauges, "counters": {}, "histograms": {}, "meters": {}, "timers": {}})
}
