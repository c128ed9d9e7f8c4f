//! dcos-net's HTTP API about names, VIPs and nodes (CONTRACTS section 3), in its JSON, and what `waggle dns` asks.
//!
//! Names have no dot at the end here. It is for programs on the node: it answers from what the node has, also
//! while the master is away.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use waggle_overlay::dns::DnsServer;
use waggle_overlay_plan::{
    DnsName, Outcome, Question, RData, RType, Rr, Verdict, Zone,
    zone::{Rule, Trace},
};
use waggle_telemetry::Telemetry;

use crate::{clock, http::metrics_page, net::Net, serve};

/// Most records in one answer of the zone; the answer says that there are more.
const MAX_RECORDS: usize = 10_000;

struct Api {
    net: Arc<Net>,
    telemetry: Telemetry,
}

type Shared = State<Arc<Api>>;

/// Serves the API until it is dropped.
pub async fn serve(listener: TcpListener, net: Arc<Net>, telemetry: Telemetry) {
    let observing = telemetry.clone();
    let router = Router::new()
        .route("/v1/version", get(version))
        .route("/v1/hosts/{host}", get(hosts))
        .route("/v1/services/{service}", get(services))
        .route("/v1/records", get(records))
        .route("/v1/vips", get(vips))
        .route("/v1/nodes", get(nodes))
        .route("/v1/metrics", get(metrics))
        .route("/waggle/v1/dns/zone", get(zone))
        .route("/waggle/v1/dns/trace", get(trace))
        .fallback(async || problem(StatusCode::NOT_FOUND, "no such path"))
        .with_state(Arc::new(Api { net, telemetry }));
    let router = serve::observed(router, observing);
    serve::serve(listener, router, "DNS API").await;
}

impl Api {
    fn server(&self) -> Option<&DnsServer> {
        self.net.node()?.dns()
    }

    fn zone(&self) -> Result<Arc<Zone>, Problem> {
        let zone = self.server().and_then(DnsServer::zone);
        zone.ok_or_else(|| {
            let why = "no zone yet: this node has not heard from a master";
            problem(StatusCode::SERVICE_UNAVAILABLE, why)
        })
    }
}

/// What is answered instead.
struct Problem(StatusCode, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "message": self.1 }))).into_response()
    }
}

fn problem(status: StatusCode, message: &str) -> Problem {
    Problem(status, message.to_owned())
}

fn bare(name: &DnsName) -> String {
    let text = name.to_string();
    text.strip_suffix('.').map_or(text.clone(), str::to_owned)
}

/// The question in a path or query; the answer names the field and the rule.
fn question(field: &str, name: &str, rtype: RType) -> Result<Question, Problem> {
    Question::new(name, rtype)
        .map_err(|e| problem(StatusCode::BAD_REQUEST, &format!("{field}: {e}")))
}

async fn version() -> Json<Value> {
    Json(json!({ "Service": "waggle-dns", "Version": env!("CARGO_PKG_VERSION") }))
}

async fn metrics(State(api): Shared, headers: HeaderMap) -> Response {
    metrics_page(&api.telemetry, &headers)
}

async fn hosts(State(api): Shared, Path(host): Path<String>) -> Result<Json<Value>, Problem> {
    let asked = question("host", &host, RType::A)?;
    let list = addresses(&*api.zone()?, &asked.name);
    let name = bare(&asked.name);
    Ok(Json(
        list.iter()
            .map(|ip| json!({"host": name, "ip": ip}))
            .collect(),
    ))
}

fn addresses(zone: &Zone, name: &DnsName) -> Vec<IpAddr> {
    let asked = Question {
        name: name.clone(),
        rtype: RType::A,
    };
    let answers = zone.answer(&asked).answers.into_iter();
    answers
        .filter_map(|rr| match rr.data {
            RData::A(ip) => Some(ip.into()),
            _ => None,
        })
        .collect()
}

async fn services(State(api): Shared, Path(service): Path<String>) -> Result<Json<Value>, Problem> {
    let asked = question("service", &service, RType::SRV)?;
    let zone = api.zone()?;
    let mut out = Vec::new();
    for rr in zone.answer(&asked).answers {
        let RData::Srv { port, target } = &rr.data else {
            continue;
        };
        let mut one = json!({"service": bare(&rr.owner), "host": bare(target), "port": port});
        if let Some(ip) = addresses(&zone, target).first() {
            one["ip"] = json!(ip);
        }
        out.push(one);
    }
    Ok(Json(out.into()))
}

async fn records(State(api): Shared) -> Result<Response, Problem> {
    let zone = api.zone()?;
    // All of a large cluster: not on the runtime's threads.
    let text = tokio::task::spawn_blocking(move || {
        let all: Vec<Value> = zone.records().filter_map(|rr| record(&rr)).collect();
        Value::from(all).to_string()
    })
    .await
    .map_err(|e| problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// The types that dcos-net and mesos-dns list.
fn record(rr: &Rr) -> Option<Value> {
    let host = match &rr.data {
        RData::A(ip) => ip.to_string(),
        RData::Aaaa(ip) => ip.to_string(),
        RData::Srv { port, target } => format!("{}:{port}", bare(target)),
        _ => return None,
    };
    Some(json!({"name": bare(&rr.owner), "host": host, "rtype": rr.data.rtype().to_string()}))
}

async fn vips(State(api): Shared) -> Json<Value> {
    let Some(node) = api.net.node() else {
        return Json(json!([]));
    };
    let table = node.table();
    let list = table.iter().map(|(key, set)| {
        let name = set.name.as_ref();
        let host = name.map_or_else(|| key.ip.to_string(), ToString::to_string);
        let backends: Vec<Value> = set
            .backends
            .keys()
            .map(|at| json!({"ip": at.ip().to_string(), "port": at.port()}))
            .collect();
        json!({
            "vip": match set.name {
                Some(_) => format!("{host}:{}", key.port),
                None => SocketAddr::new(key.ip, key.port).to_string(),
            },
            "protocol": key.protocol.name(),
            "backend": backends,
        })
    });
    Json(list.collect())
}

/// `updated` is the time of the answer: agents are pushed, not polled. `public_ips` is always empty: nothing finds
/// these out.
async fn nodes(State(api): Shared) -> Json<Value> {
    let snapshot = api.net.node().and_then(waggle_overlay::NodeNet::snapshot);
    let updated = clock::now().rfc3339().to_string();
    let list = snapshot
        .iter()
        .flat_map(|s| s.agents.values())
        .map(|agent| {
            json!({
                "private_ip": agent.ip.to_string(),
                "public_ips": [],
                "hostname": agent.hostname,
                "updated": updated,
                "reachable": agent.reachable,
            })
        });
    Json(list.collect())
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

fn read(asked: Result<Query<Asked>, QueryRejection>) -> Result<Asked, Problem> {
    let Query(asked) = asked.map_err(|e| problem(StatusCode::BAD_REQUEST, &e.body_text()))?;
    Ok(asked)
}

/// Records at and below a name, or all.
async fn zone(
    State(api): Shared,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let asked = read(asked)?;
    let top = question("name", asked.name.as_deref().unwrap_or("."), RType::ANY)?.name;
    let zone = api.zone()?;
    let generation = api.net.generation().0;
    let work = move || {
        let mut all = zone.records().filter(|rr| rr.owner.is_within(&top));
        let list: Vec<Value> = all
            .by_ref()
            .take(MAX_RECORDS)
            .map(|rr| rr_json(&rr))
            .collect();
        json!({
            "serial": zone.serial(),
            "generation": generation,
            "records": list,
            "left_out": all.count(),
        })
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map(Json)
        .map_err(|e| problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()))
}

/// Name, TTL, type and data, as in a zone file.
fn rr_json(rr: &Rr) -> Value {
    let line = waggle_overlay_plan::render::record(rr);
    let data = line.splitn(5, ' ').nth(4).unwrap_or_default();
    json!({
        "name": rr.owner.to_string(), "ttl": rr.ttl, "type": rr.data.rtype().to_string(), "data": data,
    })
}

async fn trace(
    State(api): Shared,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let asked = read(asked)?;
    let Some(name) = asked.name else {
        return Err(problem(StatusCode::BAD_REQUEST, "name: must be given"));
    };
    let kind = asked.kind.as_deref().unwrap_or("A");
    let Some(rtype) = RType::from_name(kind) else {
        let known: Vec<&str> = RType::NAMED.iter().map(|(_, n)| *n).collect();
        let why = format!("type: must be one of {}, is {kind:?}", known.join(", "));
        return Err(problem(StatusCode::BAD_REQUEST, &why));
    };
    let asked = question("name", &name, rtype)?;
    let zone = api.zone()?;
    let traced = api.net.node().and_then(|node| node.trace(&asked));
    let Some(traced) = traced else {
        let why = "nothing is known yet";
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, why));
    };
    let mut out = trace_json(&asked, &traced);
    out["serial"] = json!(zone.serial());
    out["generation"] = json!(api.net.generation().0);
    if traced.rule == Rule::Forward {
        out["forward"] = match api.server().and_then(|s| s.route(&asked)) {
            Some(route) => json!({
                "suffix": route.suffix.to_string(),
                "upstreams": route.upstreams,
                "cached_for_seconds": route.kept_for,
            }),
            None => Value::Null,
        };
    }
    Ok(Json(out))
}

fn trace_json(asked: &Question, traced: &Trace) -> Value {
    let rule = match &traced.rule {
        Rule::Zone { apex } => json!({"kind": "zone", "zone": apex.to_string()}),
        Rule::Reverse => json!({"kind": "address"}),
        Rule::Forward => json!({"kind": "forward"}),
    };
    let outcome = match traced.answer.outcome {
        Outcome::Found => "found",
        Outcome::NoData => "no_data",
        Outcome::NxDomain => "no_such_name",
        Outcome::Refused => "refused",
        Outcome::NotOurs => "not_ours",
    };
    let tasks: Vec<Value> = traced
        .tasks
        .iter()
        .map(|(id, verdict)| {
            let (listed, why) = match verdict {
                Verdict::Eligible => (true, String::new()),
                Verdict::LastResort => (true, "nobody else is left".to_owned()),
                Verdict::Excluded(reason) => (false, reason.to_string()),
            };
            json!({"task_id": id.as_str(), "listed": listed, "why": why})
        })
        .collect();
    let answer = &traced.answer;
    let sections: BTreeMap<&str, Vec<Value>> = [
        ("answers", &answer.answers),
        ("authority", &answer.authority),
        ("additional", &answer.additional),
    ]
    .map(|(section, rrs)| (section, rrs.iter().map(rr_json).collect()))
    .into();
    let alias = traced
        .alias
        .as_ref()
        .map(|(from, to)| json!({"from": from.to_string(), "to": to.to_string()}));
    json!({
        "name": asked.name.to_string(),
        "type": asked.rtype.to_string(),
        "rule": rule,
        "alias": alias,
        "looked_up": traced.name.to_string(),
        "outcome": outcome,
        "closest": traced.closest.as_ref().map(ToString::to_string),
        "tasks": tasks,
        "answers": sections["answers"],
        "authority": sections["authority"],
        "additional": sections["additional"],
    })
}
