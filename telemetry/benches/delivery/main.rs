//! `cargo xtask bench telemetry`, delivery: a corpus of log lines from a file to an endpoint by way of the disk, and to the disk alone while the
//! endpoint is away, each beside rsyslog with a disk queue; and what the receiver of tasks' OTLP takes.
//!
//! The endpoint is a process of its own, for each side the cheapest there is: it counts. Rounds alternate between the sides. CPU time is that of
//! the side's process alone.
#![allow(clippy::print_stdout, reason = "its output")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on must fail")]

mod peer;
mod sink;

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Extension, body::Body, http::Request};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
};
use prost::Message as _;
use tower::ServiceExt as _;
use waggle_telemetry::{
    Destination, IoStream, Sender, Signal, SpoolConfig, TaskLabels, Telemetry, TelemetryConfig,
    pipeline::{LineSplitter, LogRate, decode_line},
};
use waggle_types::{AgentId, FrameworkId, TaskId};

const CORPUS: &str = include_str!("../../../tests/fixtures/logs/lines.txt");

/// What one side took for the corpus.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
}

fn main() {
    if let Some(kind) = std::env::var_os(sink::ENV) {
        return sink::serve(&kind);
    }
    let args: Vec<String> = std::env::args().collect();
    let quick = args.iter().any(|a| a == "--quick");
    let (mib, rounds) = if quick { (4, 1) } else { (256, 5) };
    let dir = tempfile::tempdir().unwrap();
    let (file, lines, bytes) = corpus(dir.path(), mib);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{mib} MiB of {lines} lines, {rounds} rounds; {} CPUs; load average {}",
        std::thread::available_parallelism().map_or(0, usize::from),
        load.split(' ').take(3).collect::<Vec<_>>().join(" "),
    );
    let (mut own, mut peers) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        own.push(delivered(
            &file,
            lines,
            &dir.path().join(format!("spool{round}")),
        ));
        if let Some(took) = peer::rsyslog(&file, lines, &dir.path().join(format!("peer{round}"))) {
            peers.push(took);
        }
    }
    show("waggle, joined, decoded, OTLP", &own, lines, bytes);
    if peers.is_empty() {
        println!("  rsyslog: not measured, it is not installed");
    } else {
        show("rsyslog, whole lines, TCP", &peers, lines, bytes);
    }
    println!("  the endpoint away, all to disk:");
    for round in 0..rounds {
        let held = spooled(&file, &dir.path().join(format!("held{round}")));
        show_held("waggle, joined, decoded, OTLP", &held, lines, bytes);
        let dir = dir.path().join(format!("peer-held{round}"));
        if let Some(held) = peer::rsyslog_held(&file, lines, &dir) {
            show_held("rsyslog, whole lines", &held, lines, bytes);
        }
    }
    received(if quick { 100 } else { 4000 });
}

/// The corpus again and again, in a file.
fn corpus(dir: &Path, mib: usize) -> (PathBuf, u64, u64) {
    let path = dir.join("corpus");
    let mut out = std::io::BufWriter::new(fs::File::create(&path).unwrap());
    let per = CORPUS.lines().count() as u64;
    let times = ((mib << 20) / CORPUS.len()).max(1);
    for _ in 0..times {
        out.write_all(CORPUS.as_bytes()).unwrap();
        if !CORPUS.ends_with('\n') {
            out.write_all(b"\n").unwrap();
        }
    }
    out.into_inner().unwrap();
    let bytes = fs::metadata(&path).unwrap().len();
    (path, per * times as u64, bytes)
}

fn show(who: &str, took: &[Took], lines: u64, bytes: u64) {
    let median = |of: fn(&Took) -> f64| {
        let mut all: Vec<f64> = took.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (wall, cpu) = (median(|t| t.wall_s), median(|t| t.cpu_s));
    println!(
        "  {who}: {:.0} lines/s, {:.1} MB/s; {:.1} us of CPU a line",
        lines as f64 / wall,
        bytes as f64 / wall / 1e6,
        cpu / lines as f64 * 1e6
    );
}

fn config(url: String, spool: &Path) -> TelemetryConfig {
    let mut config = TelemetryConfig::new("waggle-agent", "n1", "bench");
    config.otlp = vec![Destination::new(url)];
    config.install_subscriber = false;
    let mut on_disk = SpoolConfig::new(spool);
    on_disk.max_bytes = 4 << 30;
    on_disk.replay_bytes_s = u64::MAX / 2000;
    config.spool = Some(on_disk);
    config
}

fn labels() -> Arc<TaskLabels> {
    Arc::new(TaskLabels {
        cluster: "bench".into(),
        framework_id: FrameworkId::new("f-1").unwrap(),
        framework: "marathon".into(),
        role: "*".into(),
        agent_id: AgentId::new("a-1").unwrap(),
        hostname: "n1".into(),
        task_id: TaskId::new("web.1").unwrap(),
        task_name: "web".into(),
        service: "/web".into(),
        service_version: "v1".into(),
        cgroup_path: "/waggle/tasks/web.1".into(),
        cgroup_id: 4711,
        pid: 42,
        pid_start_ns: 1,
    })
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Reads the file, and waits until the endpoint has all of it.
fn delivered(file: &Path, lines: u64, spool: &Path) -> Took {
    let sink = sink::Sink::start("otlp");
    let runtime = runtime();
    let _inside = runtime.enter();
    let (t, guard) = Telemetry::start(&config(sink.url(), spool)).unwrap();
    let (begun, cpu) = (Instant::now(), cpu_s());
    read(&t, file);
    while t.losses().logs.exported + t.losses().logs.dropped_total() < lines {
        std::thread::yield_now();
    }
    let took = Took {
        wall_s: begun.elapsed().as_secs_f64(),
        cpu_s: cpu_s() - cpu,
    };
    let losses = t.losses().logs;
    assert_eq!(losses.dropped_total(), 0, "{losses:?}");
    runtime.block_on(guard.shutdown(Duration::from_secs(5)));
    took
}

/// What one side has brought to disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) took: Took,
    /// Lines, or the records that they became.
    pub(crate) n: u64,
    pub(crate) disk_bytes: u64,
}

fn show_held(who: &str, held: &Held, lines: u64, bytes: u64) {
    let wall = held.took.wall_s;
    println!(
        "    {who}: {:.0} lines/s, {:.1} MB/s of lines, {:.1} MB/s to disk; {:.1} us of CPU a line; {} held",
        lines as f64 / wall,
        bytes as f64 / wall / 1e6,
        held.disk_bytes as f64 / wall / 1e6,
        held.took.cpu_s / lines as f64 * 1e6,
        held.n,
    );
}

/// Reads the file as an agent does, while nobody is at the endpoint, until all of it is on disk.
fn spooled(file: &Path, spool: &Path) -> Held {
    let runtime = runtime();
    let _inside = runtime.enter();
    let config = config("http://127.0.0.1:9".to_owned(), spool);
    let (t, guard) = Telemetry::start(&config).unwrap();
    let (begun, cpu) = (Instant::now(), cpu_s());
    read(&t, file);
    while t.queued(Signal::Logs) > 0 {
        std::thread::yield_now();
    }
    let took = Took {
        wall_s: begun.elapsed().as_secs_f64(),
        cpu_s: cpu_s() - cpu,
    };
    let n = t.losses().logs.held;
    runtime.block_on(guard.shutdown(Duration::from_millis(100)));
    let disk_bytes = size_of(spool);
    fs::remove_dir_all(spool).unwrap();
    Held {
        took,
        n,
        disk_bytes,
    }
}

/// Reads the file as an agent does.
fn read(t: &Telemetry, file: &Path) {
    let (labels, mut splitter) = (labels(), LineSplitter::default());
    let mut input = fs::File::open(file).unwrap();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let n = input.read(&mut chunk).unwrap();
        if n == 0 {
            return;
        }
        for line in splitter.push(&chunk[..n]) {
            t.task_log(&labels, decode_line(&line.bytes, IoStream::Stdout, 1));
        }
        // Whoever tails a file waits for the queue: nothing is to be lost here.
        while t.queued(Signal::Logs) > 8192 {
            std::thread::yield_now();
        }
    }
}

pub(crate) fn size_of(dir: &Path) -> u64 {
    if let Ok(meta) = fs::metadata(dir)
        && meta.is_file()
    {
        return meta.len();
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |e: fs::DirEntry| match e.metadata() {
        Ok(meta) if meta.is_dir() => size_of(&e.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

/// Records a second that tasks may hand in, on one thread, over HTTP's path without the network.
fn received(requests: usize) {
    const EACH: usize = 512;
    let sink = sink::Sink::start("otlp");
    let runtime = runtime();
    let _inside = runtime.enter();
    let mut config = config(sink.url(), Path::new("/"));
    config.spool = None;
    config.log_queue.max_items = 1 << 20;
    config.log_queue.max_bytes = 1 << 30;
    let (t, guard) = Telemetry::start(&config).unwrap();
    let rate = LogRate {
        lines_s: u64::MAX / 100,
        bytes_s: u64::MAX / 100,
    };
    let sender = Arc::new(Sender::at_most(labels(), rate));
    let router = t.inbox().routes().layer(Extension(sender));
    let record = |i: usize| LogRecord {
        time_unix_nano: 1,
        body: Some(AnyValue {
            value: Some(Value::StringValue(format!(
                "a line of some length, number {i}"
            ))),
        }),
        ..LogRecord::default()
    };
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            scope_logs: vec![ScopeLogs {
                log_records: (0..EACH).map(record).collect(),
                ..ScopeLogs::default()
            }],
            ..ResourceLogs::default()
        }],
    };
    let body = request.encode_to_vec();
    let begun = Instant::now();
    let mut refused = 0;
    runtime.block_on(async {
        for _ in 0..requests {
            let request = Request::post("/v1/logs")
                .header("content-type", "application/x-protobuf")
                .body(Body::from(body.clone()))
                .unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            refused += usize::from(!answer.status().is_success());
        }
    });
    let wall = begun.elapsed().as_secs_f64();
    println!(
        "  OTLP of tasks: {:.0} records/s taken by one connection ({refused} of {requests} requests refused)",
        (requests * EACH) as f64 / wall
    );
    runtime.block_on(guard.shutdown(Duration::from_secs(5)));
}

/// CPU time of this process.
fn cpu_s() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    ticks(&stat) as f64 / 100.0
}

/// User and system time in `/proc/PID/stat`.
pub(crate) fn ticks(stat: &str) -> u64 {
    let after = stat.rsplit_once(") ").unwrap().1;
    let fields = after.split(' ').skip(11).take(2);
    fields.map(|f| f.parse::<u64>().unwrap()).sum()
}
