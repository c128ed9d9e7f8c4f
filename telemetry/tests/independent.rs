//! An endpoint that shares nothing with this code takes all three signals, and its tables join them by resource.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use common::{config, labels};
use serde_json::Value;
use waggle_telemetry::{
    Destination, IoStream, Point, PointData, Protocol, SpanKind, Telemetry, names,
    pipeline::decode_line,
};

fn script() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.join("../tests/clients/scripts/otlp_sqlite.py")
}

fn python() -> Option<Command> {
    let mut probe = Command::new("python3");
    let found = probe
        .args(["-c", "import http.server, sqlite3, gzip"])
        .stderr(Stdio::null())
        .status();
    if !found.is_ok_and(|s| s.success()) {
        eprintln!("SKIP: no python3 with http.server and sqlite3 here");
        return None;
    }
    let mut command = Command::new("python3");
    command.arg(script());
    Some(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_of_a_task_meet_in_its_tables() {
    let (Some(mut serve), Some(mut join), Some(mut lead)) = (python(), python(), python()) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("otlp.db");
    let mut server = serve
        .arg("serve")
        .arg(&database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut port = String::new();
    let mut said = BufReader::new(server.stdout.take().unwrap());
    said.read_line(&mut port).unwrap();

    let mut config = config(None);
    config.otlp = vec![Destination {
        url: format!("http://127.0.0.1:{}", port.trim()),
        protocol: Protocol::HttpJson,
        ..Destination::default()
    }];
    let (t, guard) = Telemetry::start(&config).unwrap();
    let task = labels("web.1");
    for line in [
        "plain",
        r#"{"level":"warn","msg":"of JSON","n":1.5}"#,
        "\u{7}\u{1f}",
    ] {
        t.task_log(
            &task,
            decode_line(line.as_bytes(), IoStream::Stdout, 1_795_407_292_000_000_000),
        );
    }
    let uptime = Point::new(
        &names::CONTAINER_UPTIME,
        vec![],
        PointData::Gauge(1.5),
        1,
        2,
    );
    t.task_points(&task, vec![uptime]);
    t.begin_span("allocation", SpanKind::Internal, None, vec![])
        .end();
    t.record(&names::AGENT_TICK_DURATION, &[], 0.1);
    let (kind, attrs) = (SpanKind::Internal, vec![("waggle.task.id", "web.1".into())]);
    let traffic = t.record_span("task.first_traffic", kind, None, 1, 2_500_000_000, attrs);
    t.record_in(&names::TASK_TIME_TO_TRAFFIC, &[], 2.5, Some(traffic));
    let attrs = vec![("waggle.agent.id", "a1".into())];
    t.event_in("waggle.agent.lost", None, Some(traffic), attrs);
    let losses = guard.shutdown(Duration::from_secs(10)).await;
    assert!(losses.balanced(), "{losses:?}");
    for signal in waggle_telemetry::Signal::ALL {
        let counts = losses.of(signal);
        let lost = (counts.dropped_total(), counts.held);
        assert_eq!(lost, (0, 0), "{signal}: {counts:?}");
    }

    let out = join.arg("join").arg(&database).output().unwrap();
    let led = lead.arg("exemplars").arg(&database).output().unwrap();
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
    let rows: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    let of = |key: &str, name: &str| {
        let found = rows.iter().filter(|r| r[0][key] == name);
        found.collect::<Vec<_>>()
    };
    let task = of("waggle.task.id", "web.1");
    assert_eq!(task.len(), 1, "one resource of all signals: {rows:#?}");
    assert_eq!((&task[0][1], &task[0][3]), (&3.into(), &1.into()));
    let agent = of("service.name", "waggle-agent");
    assert_eq!(agent.len(), 1, "{rows:#?}");
    assert_eq!(agent[0][2], 2, "its spans");
    assert!(agent[0][3].as_u64().unwrap() > 10, "its metrics");

    // A figure leads to a span, and that to what was logged about it by the same resource.
    let led: Vec<Value> = serde_json::from_slice(&led.stdout).unwrap();
    let [one] = &led[..] else { panic!("{led:#?}") };
    let found = (&one[0], &one[1], &one[2]);
    let wanted = (
        "waggle.task.time_to_traffic".into(),
        2.5.into(),
        "task.first_traffic".into(),
    );
    assert_eq!(found, (&wanted.0, &wanted.1, &wanted.2));
    assert_eq!(
        (&one[3]["service.name"], &one[4]),
        (&"waggle-agent".into(), &1.into())
    );
}
