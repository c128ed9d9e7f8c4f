//! Checks against real sockets.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tokio::{sync::mpsc, time::timeout};
use waggle_telemetry::Telemetry;
use waggle_types::{CheckPurpose, HealthCheck, HealthProbe, Millis, Protocol, TaskId, TaskPort};

use super::*;
use crate::sys::ProcessId;

fn check(probe: HealthProbe) -> HealthCheck {
    HealthCheck {
        name: None,
        purpose: CheckPurpose::Health,
        probe,
        delay: Millis(0),
        grace_period: Millis(0),
        interval: Millis(50),
        timeout: Millis(10_000),
        max_consecutive_failures: 3,
        keep_response: false,
    }
}

fn http(port: Option<u16>, tls: bool, statuses: &[u16]) -> HealthCheck {
    check(HealthProbe::Http {
        tls,
        statuses: statuses.to_vec(),
        path: "/health".to_owned(),
        port_index: 0,
        port,
    })
}

fn tcp(port: u16) -> HealthCheck {
    check(HealthProbe::Tcp {
        port_index: 0,
        port: Some(port),
    })
}

fn target(name: &str) -> Target {
    Target {
        task_id: TaskId::new(name).unwrap(),
        dir: PathBuf::new(),
        ports: Vec::new(),
        reach: Reach::Node(Ipv4Addr::LOCALHOST, Arc::default()),
    }
}

async fn once(target: &Target, check: &HealthCheck) -> Result<(), String> {
    let probe = Probe::new(target, check);
    probe.run(&Tools::default(), &mut Vec::new()).await.result
}

/// Answers each connection with `answer` and closes it; the check sees both in one poll, since the
/// kernel has the whole answer and the end before the (single-threaded) runtime looks again.
async fn asked(answer: &'static [u8], statuses: &[u16], times: usize) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        for _ in 0..times {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let n = stream.read(&mut request).unwrap();
            assert!(request[..n].starts_with(b"GET /health HTTP/1.1\r\n"));
            assert!(request[..n].ends_with(b"\r\n\r\n"));
            stream.write_all(answer).unwrap();
        }
    });
    let (target, check) = (target("t"), http(Some(port), false, statuses));
    let mut result = Ok(());
    for _ in 0..times {
        result = result.and(once(&target, &check).await);
    }
    server.join().unwrap();
    result
}

#[tokio::test]
async fn a_server_that_closes_with_its_answer_is_healthy() {
    let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    assert_eq!(asked(whole, &[], 100).await, Ok(()));
    // HTTP/1.0 without a length: the end of the connection is the end of the body.
    let old = b"HTTP/1.0 204 No Content\r\n\r\n";
    assert_eq!(asked(old, &[], 100).await, Ok(()));
    let early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 302 Found\r\n\r\n";
    assert_eq!(asked(early, &[], 1).await, Ok(()));
}

#[tokio::test]
async fn what_it_was_answered_is_told_where_that_is_wanted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // One after the other, with the connection left open: the length says when it is whole.
    let server = std::thread::spawn(move || {
        let mut open = Vec::new();
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 512]).unwrap();
            let head = b"HTTP/1.1 503 No\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\n";
            stream.write_all(head).unwrap();
            stream.write_all(b"warming").unwrap();
            open.push(stream);
        }
        open
    });
    let kept = HealthCheck {
        purpose: CheckPurpose::Readiness,
        keep_response: true,
        ..http(Some(port), false, &[200])
    };
    let (tools, mut buffer) = (Tools::default(), Vec::new());
    let attempt = Probe::new(&target("t"), &kept)
        .run(&tools, &mut buffer)
        .await;
    assert!(attempt.result.unwrap_err().ends_with("status 503"));
    let told = attempt.answer.unwrap().told(4);
    assert_eq!((told.idx, told.status), (4, 503));
    assert_eq!(
        (told.content_type.as_str(), told.body.as_str()),
        ("text/plain", "warming")
    );
    let plain = HealthCheck {
        keep_response: false,
        ..kept.clone()
    };
    let attempt = Probe::new(&target("t"), &plain)
        .run(&tools, &mut buffer)
        .await;
    assert_eq!(attempt.answer, None);
    // By way of the loop, with its position.
    let checks = Checks::default();
    let (tell, mut results) = mpsc::channel::<CheckResult>(16);
    let run = tokio::spawn(checks.clone().run(1, Telemetry::disabled(), tell));
    checks.set(target("t"), vec![wanted(1, &kept)]);
    let told = next(&mut results).await;
    assert_eq!(told.response.unwrap().idx, 1);
    run.abort();
    server.join().unwrap();
}

#[tokio::test]
async fn what_is_no_good_answer_is_said() {
    let down = b"HTTP/1.1 503 Down\r\nConnection: close\r\n\r\n";
    let why = asked(down, &[], 1).await.unwrap_err();
    assert!(why.ends_with("/health: status 503"), "{why}");
    assert_eq!(asked(down, &[200, 503], 1).await, Ok(()));
    let why = asked(b"HTTP/1.1 204 Fine\r\n\r\n", &[200], 1).await;
    assert!(why.unwrap_err().ends_with("status 204"));
    // Closed without an answer.
    let why = asked(b"", &[], 1).await.unwrap_err();
    assert!(why.starts_with("GET 127.0.0.1:"), "{why}");
    let why = asked(b"SSH-2.0-OpenSSH\r\n", &[], 1).await.unwrap_err();
    assert!(why.ends_with("the answer is not HTTP/1"), "{why}");
    // Nobody listens on a port that was just given back.
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = port.local_addr().unwrap().port();
    drop(port);
    let why = once(&target("t"), &tcp(number)).await.unwrap_err();
    assert!(
        why.starts_with(&format!("connect to 127.0.0.1:{number}: ")),
        "{why}"
    );
    let why = once(&target("t"), &http(None, false, &[])).await;
    assert_eq!(why, Err("portIndex: the task has no port 0".to_owned()));
}

#[tokio::test]
async fn silence_is_a_failure_after_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut silent = http(Some(port), false, &[]);
    silent.timeout = Millis(50);
    let why = once(&target("t"), &silent).await;
    assert_eq!(why, Err("no answer within 50 ms".to_owned()));
    // The kernel accepts for the server: a connect is enough here.
    assert_eq!(once(&target("t"), &tcp(port)).await, Ok(()));
}

#[tokio::test]
async fn any_certificate_will_do() {
    let made = rcgen::generate_simple_self_signed(vec!["elsewhere.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut request = [0; 512];
        let n = tokio::io::AsyncReadExt::read(&mut stream, &mut request)
            .await
            .unwrap();
        assert!(request[..n].starts_with(b"GET /health"));
        let answer = b"HTTP/1.1 200 OK\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer)
            .await
            .unwrap();
    };
    let (target, check) = (target("t"), http(Some(port), true, &[]));
    let (result, ()) = tokio::join!(once(&target, &check), server);
    assert_eq!(result, Ok(()));
    // Whoever speaks no TLS fails, and is told so.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = plain.accept().unwrap();
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let why = once(&target, &http(Some(port), true, &[]))
        .await
        .unwrap_err();
    assert!(
        why.starts_with(&format!("tls with 127.0.0.1:{port}: ")),
        "{why}"
    );
    server.join().unwrap();
}

/// A process in a network namespace of its own; ended with this.
struct Elsewhere {
    child: std::process::Child,
    process: Arc<OwnedFd>,
}

impl Elsewhere {
    fn new() -> Self {
        let script = "ip link set lo up && echo up && exec sleep 600";
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 3];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut said)
            .unwrap();
        let process = ProcessId::of(child.id()).unwrap().open().unwrap();
        Self {
            child,
            process: Arc::new(process),
        }
    }

    /// Listens there, and answers each connection.
    fn serve(&self, port: u16) {
        let netns = File::open(format!("/proc/{}/ns/net", self.child.id())).unwrap();
        let (ready, wait) = std::sync::mpsc::channel();
        // It ends with the test's process, blocked in a socket of a namespace that is gone by then.
        std::thread::spawn(move || {
            setns(&netns, CloneFlags::CLONE_NEWNET).unwrap();
            let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
            ready.send(()).unwrap();
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.read(&mut [0; 512]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            }
        });
        wait.recv().unwrap();
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_task_with_a_network_of_its_own_is_asked_there() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("SKIP: network namespaces take root");
        return;
    }
    let elsewhere = [Elsewhere::new(), Elsewhere::new()];
    elsewhere[0].serve(8080);
    let inside = |at: usize| Target {
        ports: vec![TaskPort {
            metrics: None,
            name: None,
            host_port: 31_000,
            container_port: Some(8080),
            protocols: vec![Protocol::Tcp],
            vips: Vec::new(),
            balance: waggle_types::Balance::default(),
        }],
        reach: Reach::Inside(Arc::clone(&elsewhere[at].process)),
        ..target("t")
    };
    let by_index = http(None, false, &[]);
    let tools = Tools::default();
    // One after the other from the same thread that makes the sockets.
    for _ in 0..3 {
        for (at, fine) in [(0, true), (1, false)] {
            let probe = Probe::new(&inside(at), &by_index);
            let result = probe.run(&tools, &mut Vec::new()).await.result;
            assert_eq!(result.is_ok(), fine, "{result:?}");
        }
    }
    // The node itself has nothing there, and the runtime's own thread has not moved.
    let node = Probe::new(&target("t"), &tcp(8080));
    let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    assert_eq!(here, std::fs::read_link("/proc/self/ns/net").unwrap());
    if let Ok(()) = node.run(&tools, &mut Vec::new()).await.result {
        eprintln!("something listens on this machine's port 8080");
    }
    // Its process is gone: that is said.
    let [first, second] = elsewhere;
    let gone = inside_of(&first);
    drop((first, second));
    let why = Probe::new(&gone, &by_index)
        .run(&tools, &mut Vec::new())
        .await
        .result;
    assert!(why.unwrap_err().starts_with("failed to make a socket: "));
}

fn inside_of(e: &Elsewhere) -> Target {
    Target {
        ports: vec![TaskPort {
            metrics: None,
            name: None,
            host_port: 0,
            container_port: Some(8080),
            protocols: vec![Protocol::Tcp],
            vips: Vec::new(),
            balance: waggle_types::Balance::default(),
        }],
        reach: Reach::Inside(Arc::clone(&e.process)),
        ..target("t")
    }
}

/// Serves for as long as the test's process lives.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        }
    });
    port
}

fn wanted(idx: usize, check: &HealthCheck) -> Wanted {
    Wanted {
        idx,
        check: check.clone(),
        age: Duration::ZERO,
        passed: false,
    }
}

async fn next(results: &mut mpsc::Receiver<CheckResult>) -> CheckResult {
    timeout(Duration::from_secs(20), results.recv())
        .await
        .expect("a result in time")
        .unwrap()
}

#[tokio::test]
async fn one_that_hangs_keeps_nobody_waiting_and_passes_are_told_once() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, silent_port) = (server(), silent.local_addr().unwrap().port());
    let checks = Checks::default();
    let (tell, mut results) = mpsc::channel::<CheckResult>(16);
    // Room for both, and no more.
    let run = tokio::spawn(checks.clone().run(2, Telemetry::disabled(), tell));
    let hangs = http(Some(silent_port), false, &[]);
    checks.set(target("silent"), vec![wanted(0, &hangs)]);
    for i in 0..40 {
        let check = http(Some(port), false, &[]);
        checks.set(target(&format!("t{i}")), vec![wanted(0, &check)]);
    }
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 40 {
        let told = next(&mut results).await;
        assert_eq!(told.result, Ok(()));
        assert!(seen.insert(told.task_id.clone()), "told twice: {told:?}");
    }
    // A second check of one of them: the first goes on, and its passes are no news.
    let (again, refused) = (http(Some(port), false, &[]), tcp(1));
    checks.set(target("t0"), vec![wanted(0, &again), wanted(1, &refused)]);
    for _ in 0..3 {
        let told = next(&mut results).await;
        assert_eq!((told.task_id.as_str(), told.idx), ("t0", 1));
        assert!(told.result.is_err(), "each failure is told");
    }
    // Stopped: after what is under way nothing comes any more.
    checks.stop(&TaskId::new("t0").unwrap());
    let marker = tcp(2);
    checks.set(target("marker"), vec![wanted(7, &marker)]);
    while next(&mut results).await.idx != 7 {}
    for _ in 0..5 {
        assert_eq!(next(&mut results).await.task_id.as_str(), "marker");
    }
    // It ends with whoever listened.
    drop(results);
    timeout(Duration::from_secs(20), run)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_delay_is_kept_and_what_is_over_of_it_counts() {
    let checks = Checks::default();
    let (tell, mut results) = mpsc::channel::<CheckResult>(16);
    let run = tokio::spawn(checks.clone().run(8, Telemetry::disabled(), tell));
    let mut check = tcp(server());
    check.delay = Millis(600);
    let begun = Instant::now();
    let late = Wanted {
        age: Duration::from_mins(1),
        ..wanted(0, &check)
    };
    checks.set(target("old"), vec![late]);
    checks.set(target("new"), vec![wanted(0, &check)]);
    assert_eq!(next(&mut results).await.task_id.as_str(), "old");
    assert_eq!(next(&mut results).await.task_id.as_str(), "new");
    assert!(begun.elapsed() >= Duration::from_millis(600));
    run.abort();
}

#[tokio::test]
async fn answers_are_told_as_they_are_and_once() {
    let said = async |check: &HealthCheck| {
        let probe = Probe::new(&target("t"), check);
        probe.run(&Tools::default(), &mut Vec::new()).await.said
    };
    let port = server();
    let answer = said(&http(Some(port), false, &[500])).await;
    assert_eq!(answer, CheckStatus::Http { status: Some(200) });
    let connected = |connected| CheckStatus::Tcp { connected };
    assert_eq!(said(&tcp(port)).await, connected(Some(true)));
    assert_eq!(said(&tcp(1)).await, connected(Some(false)));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut late = http(Some(silent.local_addr().unwrap().port()), false, &[]);
    late.timeout = Millis(50);
    assert_eq!(said(&late).await, CheckStatus::Http { status: None });

    let checks = Checks::default();
    let (tell, mut results) = mpsc::channel::<CheckResult>(16);
    let run = tokio::spawn(checks.clone().run(8, Telemetry::disabled(), tell));
    let mut report = tcp(1);
    report.purpose = CheckPurpose::Report;
    checks.set(target("t"), vec![wanted(0, &report), wanted(1, &tcp(1))]);
    let mut told = Vec::new();
    while told.iter().filter(|idx| **idx == 1).count() < 5 {
        let result = next(&mut results).await;
        let is_told = result.said == Some(connected(Some(false)));
        assert_eq!(is_told, result.idx == 0, "{result:?}");
        told.push(result.idx);
    }
    assert_eq!(told.iter().filter(|idx| **idx == 0).count(), 1);
    run.abort();
}
