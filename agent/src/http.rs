//! The agent's HTTP API and its Prometheus page.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use waggle_api::mesos::{ResourcesJson, Version, seconds};
use waggle_lifecycle::TaskSummary;
use waggle_overlay::overlay::OverlayNet;
use waggle_telemetry::{Exposition, Telemetry};
use waggle_types::{AgentInfo, ExecutorRecord, Resources, TaskId, UnixMillis};

use crate::{
    AgentConfig,
    cgroup::CgroupHost,
    checkpoint::WorkDir,
    clock,
    exec::Sessions,
    executors::{self, Door},
    figures::{self, Figures},
    files::{Files, find_task, problem},
    flow_log, images,
    logs::{Logs, OutputDir, Reader, Step},
    nested::{self, Containers},
    net::Net,
    networks::Own,
    operator::{Meter, Operator, Sources, jsonp},
    overlay_api,
    parts::Parts,
    serve, spans_api, storage,
};

/// Most bytes of output in one answer.
const MAX_LENGTH: u64 = 1 << 20;

/// What the API shows; replaced after every change, never locked while it is read.
#[derive(Debug, Clone)]
pub struct AgentView {
    /// The master of the session, while there is one.
    pub master: Option<String>,
    /// Applied generation.
    pub generation: u64,
    /// Tasks that are not acknowledged as ended.
    pub tasks: Vec<TaskView>,
    /// Executors of frameworks' own.
    pub executors: Vec<ExecutorView>,
    /// The agent, as it registers.
    pub agent: AgentInfo,
    /// When it began.
    pub started_at: UnixMillis,
    /// Tasks that have ended since, by Mesos's name of the state.
    pub ended: BTreeMap<&'static str, u64>,
    /// What of the agent does not change, in Mesos's JSON.
    pub info: Value,
    /// What does not work, for people.
    pub troubles: Vec<String>,
    /// UDP port of WireGuard, where overlay networks are encrypted.
    pub encrypt: Option<u16>,
    work_dir: PathBuf,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskView {
    /// Task id.
    pub id: String,
    /// Name.
    pub name: String,
    /// App path.
    pub service: String,
    /// Framework.
    pub framework_id: String,
    /// Framework's name.
    pub framework: String,
    /// The executor of its framework's that runs it; empty where it is a process or container of its own.
    pub executor_id: String,
    /// Mesos's name of the state.
    pub state: String,
    /// `unknown`, `healthy`, `unhealthy`.
    pub health: String,
    /// Process, once it runs.
    pub pid: Option<u32>,
    /// An address of its own, where it is not on the node's network.
    pub ip: Option<Ipv4Addr>,
    /// The same over IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// Host ports in definition order.
    pub ports: Vec<u16>,
    /// When it ran first, Unix milliseconds.
    pub started_at_ms: Option<u64>,
    /// The newest status in words.
    pub message: String,
    /// Its sandbox.
    pub directory: String,
    /// All that is known of it.
    #[serde(skip)]
    pub summary: TaskSummary,
}

/// One executor of a framework's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorView {
    /// Executor id.
    pub id: String,
    /// For people.
    pub name: String,
    /// Framework.
    pub framework_id: String,
    /// Framework's name.
    pub framework: String,
    /// Its container; empty where the agent itself is the executor.
    pub container: String,
    /// What it holds beside its tasks.
    pub resources: Resources,
    /// The same with its tasks: what its container may use.
    pub used: Resources,
    /// All that is known of it.
    pub record: ExecutorRecord,
    /// Its sandbox, which its tasks have, too.
    pub directory: String,
}

/// An executor as the API shows it.
pub fn executor_view(
    record: &ExecutorRecord,
    container: Option<&TaskId>,
    used: Resources,
    work: &WorkDir,
) -> ExecutorView {
    let sandbox = container.map(|c| work.task(c).sandbox().display().to_string());
    ExecutorView {
        id: record.spec.executor_id.to_string(),
        name: record.spec.name.clone(),
        framework_id: record.framework_id.to_string(),
        framework: record.framework_name.clone(),
        container: container.map(ToString::to_string).unwrap_or_default(),
        resources: record.spec.resources.clone(),
        used,
        record: record.clone(),
        directory: sandbox.unwrap_or_default(),
    }
}

/// A task as the API shows it.
pub fn task_view(task: TaskSummary, work: &WorkDir, own: Own) -> TaskView {
    let sandbox = work.task(&task.spec.task_id).sandbox();
    TaskView::of(task, sandbox.display().to_string(), own)
}

impl TaskView {
    /// Of a task with this sandbox.
    pub fn of(task: TaskSummary, directory: String, own: Own) -> Self {
        let spec = &task.spec;
        Self {
            id: spec.task_id.to_string(),
            name: spec.name.clone(),
            service: spec.service.clone(),
            framework_id: spec.framework_id.to_string(),
            framework: spec.framework_name.clone(),
            executor_id: spec
                .executor
                .as_ref()
                .map(|on| on.spec.executor_id.to_string())
                .unwrap_or_default(),
            state: task.state.mesos_name().to_owned(),
            health: format!("{:?}", task.health).to_lowercase(),
            pid: task.pid,
            ip: own.v4,
            ip6: own.v6,
            ports: spec.ports.iter().map(|p| p.host_port).collect(),
            started_at_ms: task.started_at.map(|t| t.0),
            message: task
                .latest
                .as_ref()
                .map(|l| l.message.clone())
                .unwrap_or_default(),
            directory,
            summary: task,
        }
    }
}

impl AgentView {
    /// Before the first change.
    pub fn new(info: &AgentInfo, config: &AgentConfig, troubles: &[String]) -> Self {
        let reserved: BTreeMap<&str, ResourcesJson> = info
            .reserved
            .iter()
            .map(|(role, r)| (role.as_str(), r.into()))
            .collect();
        let unreserved = info
            .reserved
            .iter()
            .try_fold(info.total.clone(), |left, (_, r)| left.checked_sub(r));
        let domain = info.domain.as_ref().map(
            |d| json!({"fault_domain": {"region": {"name": d.region}, "zone": {"name": d.zone}}}),
        );
        let started_at = clock::now();
        Self {
            agent: info.clone(),
            started_at,
            ended: BTreeMap::new(),
            master: None,
            generation: 0,
            tasks: Vec::new(),
            executors: Vec::new(),
            info: json!({
                "id": info.agent_id.as_str(),
                "hostname": info.hostname,
                "pid": format!("slave(1)@{}:{}", info.ip, info.http_port),
                "resources": ResourcesJson::from(&info.total),
                "reserved_resources": reserved,
                "unreserved_resources": unreserved.as_ref().map(ResourcesJson::from),
                "domain": domain,
                "attributes": info.attributes,
                "version": env!("CARGO_PKG_VERSION"),
                "start_time": seconds(started_at),
            }),
            troubles: troubles.to_vec(),
            encrypt: config.encrypt,
            work_dir: config.work_dir.clone(),
        }
    }
}

/// The newest picture of the agent.
pub type View = watch::Receiver<Arc<AgentView>>;

/// What may stand before and behind the names of Mesos's endpoints.
pub const SPELLINGS: [(&str, &str); 4] = [
    ("", ""),
    ("", ".json"),
    ("/slave(1)", ""),
    ("/slave(1)", ".json"),
];

/// The API's routes.
fn router(view: View, net: Arc<Net>) -> Router {
    let health = {
        let view = view.clone();
        move || std::future::ready(health(&view.borrow(), net.requests().trouble()))
    };
    let mut router = Router::new();
    for (prefix, suffix) in SPELLINGS {
        let path = |name: &str| format!("{prefix}/{name}{suffix}");
        router = router
            .route(&path("version"), get(version))
            .route(&path("health"), get(health.clone()));
    }
    router
        .route("/waggle/v1/tasks", get(tasks))
        .route("/waggle/v1/tasks/{id}/log/{stream}", get(log))
        .fallback(async || problem(StatusCode::NOT_FOUND, "no such path"))
        .with_state(view)
}

/// What the API's parts show beside the view.
pub struct Shown {
    /// Settings.
    pub config: Arc<AgentConfig>,
    /// The node's parts.
    pub parts: Arc<Parts>,
    /// Where executors' calls go.
    pub executors: Door,
    /// Figures of containers.
    pub meter: Meter,
    /// Where containers are.
    pub cgroups: CgroupHost,
    /// Overlay networks.
    pub overlay: Arc<OverlayNet>,
    /// The node's network.
    pub net: Arc<Net>,
    /// What was read of tasks.
    pub figures: Arc<Figures>,
    /// The agent's own figures.
    pub telemetry: Telemetry,
}

/// Serves the API until it is dropped; sessions in tasks end with it.
pub async fn serve_api(listener: TcpListener, view: View, shown: Shown) {
    let Shown {
        config,
        parts,
        executors,
        meter,
        cgroups,
        overlay,
        net,
        figures,
        telemetry,
    } = shown;
    let stop = CancellationToken::new();
    let _end = stop.clone().drop_guard();
    let files = Files::new(&config.work_dir, view.clone(), telemetry.clone());
    let logs = Logs::new(
        &config.work_dir,
        &config.hostname,
        view.clone(),
        telemetry.clone(),
    );
    let verbosity = telemetry.verbosity().clone();
    let destinations = destinations(telemetry.clone());
    let sessions = Sessions::new(&config, view.clone(), telemetry.clone(), stop.clone());
    let observing = telemetry.clone();
    let work_dir = config.work_dir.clone();
    // Before anything new is there.
    let tidied = tokio::task::spawn_blocking(move || nested::tidy(&work_dir)).await;
    if let Err(error) = tidied {
        tracing::error!(%error, "sandboxes of standalone containers stay");
    }
    let containers = Containers::new(
        &config,
        sessions.clone(),
        view.clone(),
        cgroups,
        telemetry,
        stop,
    );
    let operator = Operator::new(Sources {
        view: view.clone(),
        config: Arc::clone(&config),
        files: files.clone(),
        meter,
        verbosity,
        containers,
        sessions: sessions.clone(),
    });
    let mesos = operator.router().merge(files.router());
    let mesos = mesos.layer(axum::middleware::from_fn(jsonp));
    let router = router(view, Arc::clone(&net))
        .merge(destinations)
        .merge(mesos)
        .merge(logs.router())
        .merge(sessions.router())
        .merge(executors::routes(executors))
        .merge(overlay_api::routes(overlay))
        .merge(figures::routes(
            figures,
            Arc::clone(&net),
            config.hostname.clone(),
        ))
        .merge(flow_log::routes(net))
        .merge(spans_api::routes(
            observing.clone(),
            config.hostname.clone(),
        ))
        .merge(images::routes(Arc::clone(&parts.images)))
        .merge(storage::api::router(parts.storage.clone()));
    let router = serve::observed(router, observing);
    serve::serve_many(listener, router, "agent API").await;
}

/// Serves `GET /metrics` until it is dropped.
pub async fn serve_metrics(listener: TcpListener, telemetry: Telemetry) {
    let page = async |State(telemetry): State<Telemetry>, headers: HeaderMap| {
        metrics_page(&telemetry, &headers)
    };
    let router = Router::new()
        .route("/metrics", get(page))
        .with_state(telemetry);
    serve::serve(listener, router, "metrics").await;
}

/// All series, in the format that a scraper asks for.
pub fn metrics_page(telemetry: &Telemetry, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    let format = Exposition::accepted(accept);
    let kind = [(header::CONTENT_TYPE, format.content_type())];
    (kind, telemetry.prometheus_page(format)).into_response()
}

async fn version() -> Json<Value> {
    // Clients compare numbers: a suffix would end them.
    let version = Version::new(env!("CARGO_PKG_VERSION"));
    Json(json!({
        "version": version.version, "waggle_version": version.waggle_version, "build_time": 0,
    }))
}

/// 200 also when degraded: tasks run. What does not work is in the body: what was so when the agent began, and what showed since.
fn health(view: &AgentView, since: Option<&str>) -> Json<Value> {
    let troubles = view.troubles.iter().map(String::as_str);
    let troubles: Vec<&str> = troubles.chain(since).collect();
    let status = match (troubles.is_empty(), &view.master) {
        (true, Some(_)) => "healthy",
        (true, None) => "no_master",
        (false, _) => "degraded",
    };
    Json(json!({
        "status": status,
        "master": view.master,
        "generation": view.generation,
        "troubles": troubles,
        "encrypt": view.encrypt,
    }))
}

/// Where telemetry goes, and how that goes.
fn destinations(telemetry: Telemetry) -> Router {
    let show = move || {
        let all = telemetry.health().into_iter().map(|d| {
            json!({
                "url": d.url,
                "state": d.state.name(),
                "why": d.why,
                "held": d.held,
            })
        });
        std::future::ready(Json(json!({"destinations": all.collect::<Vec<_>>()})))
    };
    Router::new().route("/waggle/v1/telemetry", get(show))
}

async fn tasks(State(view): State<View>) -> Json<Value> {
    let view = Arc::clone(&view.borrow());
    Json(json!({ "tasks": view.tasks }))
}

/// Which part of a stream.
#[derive(Debug, Default, Deserialize)]
struct Part {
    offset: Option<u64>,
    length: Option<u64>,
    tail: Option<u64>,
}

/// Output as text. Offsets count the bytes of the stream; what is there no more is left out, and `x-waggle-next-offset` is
/// where to go on.
async fn log(
    State(view): State<View>,
    UrlPath((id, stream)): UrlPath<(String, String)>,
    part: Result<Query<Part>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let part = match part {
        Ok(Query(part)) => part,
        Err(e) => return problem(StatusCode::BAD_REQUEST, &e.body_text()),
    };
    if stream != "stdout" && stream != "stderr" {
        let why = format!("stream: must be stdout or stderr, is {stream:?}");
        return problem(StatusCode::BAD_REQUEST, &why);
    }
    let work_dir = view.borrow().work_dir.clone();
    let read = tokio::task::spawn_blocking(move || {
        let dir = find_task(&work_dir, &view, &id).map_err(|_| std::io::ErrorKind::NotFound)?;
        read_log(OutputDir::new(&dir.sandbox(), dir.path(), &stream), &part)
    });
    let read = read.await;
    match read {
        Ok(Ok((bytes, next))) => {
            let mut headers = HeaderMap::new();
            let kind = HeaderValue::from_static("text/plain; charset=utf-8");
            headers.insert(header::CONTENT_TYPE, kind);
            headers.insert("x-waggle-next-offset", HeaderValue::from(next));
            (headers, bytes).into_response()
        }
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => problem(
            StatusCode::NOT_FOUND,
            "no such task on this agent, or no output",
        ),
        Ok(Err(e)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

fn read_log(dir: OutputDir, part: &Part) -> std::io::Result<(Vec<u8>, u64)> {
    let mut reader = Reader::new(dir, 0, None);
    if reader.index().is_none() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    let (first, end) = reader.bounds();
    let length = part.length.unwrap_or(MAX_LENGTH).min(MAX_LENGTH);
    let offset = match (part.offset, part.tail) {
        (Some(offset), _) => offset.clamp(first, end),
        (None, Some(_)) => end.saturating_sub(length).max(first),
        (None, None) => first,
    };
    reader.seek(offset);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut n = 0;
    while n < bytes.len() {
        match reader.step(&mut bytes[n..])? {
            Step::Bytes(more) => n += more,
            Step::Gap(_) => {}
            Step::End => break,
        }
    }
    bytes.truncate(n);
    if let (None, Some(lines)) = (part.offset, part.tail) {
        keep_last_lines(&mut bytes, lines);
    }
    Ok((bytes, reader.at()))
}

fn keep_last_lines(bytes: &mut Vec<u8>, lines: u64) {
    let ends = bytes.ends_with(b"\n");
    let mut seen = 0;
    let cut = bytes.iter().rposition(|b| {
        if *b == b'\n' {
            seen += 1;
        }
        *b == b'\n' && seen > lines.saturating_sub(u64::from(!ends))
    });
    if lines == 0 {
        bytes.clear();
    } else if let Some(cut) = cut {
        bytes.drain(..=cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_read_over_all_segments() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("stdout.1"), "one\ntwo\n").unwrap();
        std::fs::write(dir.path().join("stdout"), "three\nfour\n").unwrap();
        let place = |name| OutputDir::new(dir.path(), dir.path(), name);
        let read = |part: Part| {
            let (bytes, next) = read_log(place("stdout"), &part).unwrap();
            (String::from_utf8(bytes).unwrap(), next)
        };
        let part = Part::default;
        assert_eq!(read(part()), ("one\ntwo\nthree\nfour\n".into(), 19));
        let tail = |n| Part {
            tail: Some(n),
            ..part()
        };
        assert_eq!(read(tail(2)).0, "three\nfour\n");
        assert_eq!(read(tail(3)).0, "two\nthree\nfour\n");
        assert_eq!(read(tail(0)).0, "");
        assert_eq!(read(tail(9)).0, "one\ntwo\nthree\nfour\n");
        let middle = Part {
            offset: Some(6),
            length: Some(4),
            ..part()
        };
        assert_eq!(read(middle), ("o\nth".into(), 10));
        let beyond = Part {
            offset: Some(99),
            ..part()
        };
        assert_eq!(read(beyond), (String::new(), 19));
        assert!(read_log(place("stderr"), &part()).is_err());
    }

    #[test]
    fn an_unfinished_line_is_a_line() {
        let mut bytes = b"a\nb\nc".to_vec();
        keep_last_lines(&mut bytes, 2);
        assert_eq!(bytes, b"b\nc");
    }
}
