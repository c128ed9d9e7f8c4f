//! What checks cost: `cargo xtask bench checks`, or `cargo bench -p waggle-agent --bench checks`.
//!
//! Checks run on a runtime of one thread, whose CPU time is read from the kernel; the servers that they ask are threads
//! of their own and not counted. `--quick` for seconds instead of a minute.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program that prints figures and fails loudly"
)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use waggle_agent::checks::{CheckResult, Checks, Reach, Target, Wanted};
use waggle_telemetry::Telemetry;
use waggle_types::{CheckPurpose, HealthCheck, HealthProbe, Millis, TaskId};

/// Servers; each is asked by many checks.
const SERVERS: usize = 4;

struct Case {
    name: &'static str,
    n_checks: usize,
    interval_ms: u64,
    http: bool,
    namespace: bool,
    /// So many of the checks ask who never answers, with a timeout of a second.
    n_silent: usize,
}

fn main() {
    let quick = std::env::args().any(|a| a == "--quick" || a == "--test");
    let seconds = if quick { 2 } else { 10 };
    println!("checks on one thread, {seconds} s each (servers on other threads, not counted)");
    println!(
        "{:<44} {:>9} {:>9} {:>11} {:>9}",
        "case", "wanted/s", "done/s", "CPU/check", "CPU"
    );
    for case in [
        Case {
            name: "1000 HTTP checks, every second",
            n_checks: 1000,
            interval_ms: 1000,
            http: true,
            namespace: false,
            n_silent: 0,
        },
        Case {
            name: "1000 TCP checks, every second",
            n_checks: 1000,
            interval_ms: 1000,
            http: false,
            namespace: false,
            n_silent: 0,
        },
        Case {
            name: "1000 HTTP checks in a namespace, every second",
            n_checks: 1000,
            interval_ms: 1000,
            http: true,
            namespace: true,
            n_silent: 0,
        },
        Case {
            name: "the same, 100 of them never answered",
            n_checks: 1000,
            interval_ms: 1000,
            http: true,
            namespace: false,
            n_silent: 100,
        },
        Case {
            name: "1000 HTTP checks, every 10 ms (all it can)",
            n_checks: 1000,
            interval_ms: 10,
            http: true,
            namespace: false,
            n_silent: 0,
        },
    ] {
        measure(&case, seconds);
    }
}

fn measure(case: &Case, seconds: u64) {
    let answered = Arc::new(AtomicU64::new(0));
    let ports: Vec<u16> = (0..SERVERS).map(|_| serve(Arc::clone(&answered))).collect();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let checks = Checks::default();
        let (tell, mut results) = tokio::sync::mpsc::channel::<CheckResult>(4096);
        let run = tokio::spawn(checks.clone().run(256, Telemetry::disabled(), tell));
        let me = std::process::id();
        for i in 0..case.n_checks {
            let port = if i < case.n_silent {
                silent_port
            } else {
                ports[i % SERVERS]
            };
            let reach = if case.namespace {
                Reach::Inside(pidfd(me))
            } else {
                Reach::Node(Ipv4Addr::LOCALHOST, Arc::default())
            };
            let target = Target {
                task_id: TaskId::new(format!("t{i}")).unwrap(),
                dir: PathBuf::new(),
                ports: Vec::new(),
                reach,
            };
            let wanted = Wanted {
                idx: 0,
                check: check(case, port),
                age: Duration::from_hours(1),
                passed: true,
            };
            checks.set(target, vec![wanted]);
        }
        let drain = tokio::spawn(async move { while results.recv().await.is_some() {} });
        // Until every check has found its place.
        tokio::time::sleep(Duration::from_millis(
            case.interval_ms.clamp(1000, 5000) + 500,
        ))
        .await;
        let (before, cpu, begun) = (
            answered.load(Ordering::Relaxed),
            thread_cpu(),
            Instant::now(),
        );
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let took = begun.elapsed().as_secs_f64();
        let cpu = thread_cpu().saturating_sub(cpu).as_secs_f64();
        let n = (answered.load(Ordering::Relaxed) - before) as f64;
        let wanted = (case.n_checks - case.n_silent) as f64 * 1000.0 / case.interval_ms as f64;
        println!(
            "{:<44} {:>9.0} {:>9.0} {:>8.1} us {:>7.1} %",
            case.name,
            wanted,
            n / took,
            cpu * 1e6 / n,
            cpu * 100.0 / took
        );
        run.abort();
        drain.abort();
    });
}

fn check(case: &Case, port: u16) -> HealthCheck {
    let port = Some(port);
    HealthCheck {
        name: None,
        purpose: CheckPurpose::Health,
        probe: if case.http {
            HealthProbe::Http {
                tls: false,
                statuses: Vec::new(),
                path: "/".to_owned(),
                port_index: 0,
                port,
            }
        } else {
            HealthProbe::Tcp {
                port_index: 0,
                port,
            }
        },
        delay: Millis(0),
        grace_period: Millis(0),
        interval: Millis(case.interval_ms),
        timeout: Millis(1000),
        max_consecutive_failures: 0,
        keep_response: false,
    }
}

fn pidfd(pid: u32) -> Arc<std::os::fd::OwnedFd> {
    Arc::new(waggle_agent::checks::process(pid).unwrap())
}

/// Answers whatever is asked and closes, and counts.
fn serve(answered: Arc<AtomicU64>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut request = [0; 512];
        while let Ok((mut stream, _)) = listener.accept() {
            // A connect alone is closed by the other side without a word.
            if stream.read(&mut request).is_ok_and(|n| n > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
            answered.fetch_add(1, Ordering::Relaxed);
        }
    });
    port
}

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}
