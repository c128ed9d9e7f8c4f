//! A client that runs inside a node and reports every attempt: when, how long, what came back.
//!
//! `waggle-probe get HOST:PORT --for SECONDS --every-us N [--threads N]`: one HTTP GET per new
//! connection, one JSON line per attempt.
//! `waggle-probe hold HOST:PORT --for SECONDS --every-us N --connections N`: so many connections that
//! stay, one HTTP GET every N microseconds on the next of them, one JSON line per attempt; a connection
//! that breaks is an error each time that it is its turn.
//! `waggle-probe connect ROUNDS HOST:PORT...`: connects to each target in turn, and prints the
//! median and 99th percentile per target.
//! `waggle-probe flood --for SECONDS [--per-second N] [--count N]`: connections to a listener of its own on loopback, each
//! reset at once, so many a second or as many as there can be, until the time is over or there were so many; a line each
//! second and one at the end, `flood TIME N`: when (ns since 1970), and how many there were until then.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;
use waggle_tests_support::sleep;

const TIMEOUT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("get") => get(&args[1..]),
        Some("hold") => hold(&args[1..]),
        Some("connect") => connect(&args[1..]),
        Some("flood") => flood(&args[1..]),
        _ => Err(anyhow::anyhow!(
            "usage: waggle-probe get|hold|connect|flood ..."
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waggle-probe: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn option(args: &[String], name: &str, default: f64) -> anyhow::Result<f64> {
    match args.iter().position(|arg| arg == name) {
        None => Ok(default),
        Some(at) => args
            .get(at + 1)
            .and_then(|value| value.parse().ok())
            .with_context(|| format!("{name} needs a number")),
    }
}

fn resolve(target: &str) -> anyhow::Result<SocketAddr> {
    target
        .to_socket_addrs()
        .with_context(|| format!("resolve {target}"))?
        .next()
        .with_context(|| format!("{target} has no address"))
}

fn now_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn get(args: &[String]) -> anyhow::Result<()> {
    let target = args.first().context("get needs HOST:PORT")?;
    let limit = Duration::from_secs_f64(option(args, "--for", 5.0)?);
    let every = Duration::from_secs_f64(option(args, "--every-us", 1000.0)? / 1e6);
    let n_threads = option(args, "--threads", 1.0)?;
    let addr = resolve(target)?;
    let host = target.clone();
    std::thread::scope(|scope| {
        let mut started = 0.0;
        while started < n_threads {
            started += 1.0;
            scope.spawn(|| attempts(addr, &host, limit, every));
        }
    });
    Ok(())
}

fn attempts(addr: SocketAddr, host: &str, limit: Duration, every: Duration) {
    let start = Instant::now();
    let mut next = start;
    while start.elapsed() < limit {
        let at_ns = now_ns();
        let began = Instant::now();
        let result = one_get(addr, host);
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let line = match result {
            Ok(body) => json!({"at_ns": at_ns, "us": took_us, "body": body}),
            Err(error) => json!({"at_ns": at_ns, "us": took_us, "error": format!("{error:#}")}),
        };
        // The reader is gone: the end.
        if writeln!(std::io::stdout(), "{line}").is_err() {
            return;
        }
        next += every;
        let now = Instant::now();
        if next > now {
            sleep(next - now);
        } else {
            next = now;
        }
    }
}

fn one_get(addr: SocketAddr, host: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, TIMEOUT).context("connect")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("send")?;
    let mut answer = String::new();
    stream
        .take(64 * 1024)
        .read_to_string(&mut answer)
        .context("read")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer is cut short")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    Ok(body.trim().to_owned())
}

fn hold(args: &[String]) -> anyhow::Result<()> {
    let target = args.first().context("hold needs HOST:PORT")?;
    let limit = Duration::from_secs_f64(option(args, "--for", 5.0)?);
    let every = Duration::from_secs_f64(option(args, "--every-us", 1000.0)? / 1e6);
    let n_connections = option(args, "--connections", 100.0)?;
    let addr = resolve(target)?;
    let mut held = Vec::new();
    while (held.len() as f64) < n_connections {
        let stream = TcpStream::connect_timeout(&addr, TIMEOUT).context("connect")?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        held.push(stream);
    }
    let start = Instant::now();
    let mut next = start;
    for turn in (0..held.len()).cycle() {
        if start.elapsed() >= limit {
            break;
        }
        let at_ns = now_ns();
        let began = Instant::now();
        let result = held_get(&mut held[turn], target);
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let line = match result {
            Ok(body) => json!({"at_ns": at_ns, "us": took_us, "body": body}),
            Err(error) => json!({"at_ns": at_ns, "us": took_us, "error": format!("{error:#}")}),
        };
        if writeln!(std::io::stdout(), "{line}").is_err() {
            break;
        }
        next += every;
        sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// One request on a connection that stays.
fn held_get(stream: &mut TcpStream, host: &str) -> anyhow::Result<String> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).context("send")?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        let n = stream.read(&mut part).context("read")?;
        anyhow::ensure!(n > 0, "the connection was closed");
        answer.extend_from_slice(&part[..n]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("Content-Length: "))
                .and_then(|n| n.parse::<usize>().ok())
                .context("no Content-Length")?;
            if body.len() >= length {
                anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
                return Ok(body.trim().to_owned());
            }
        }
    }
}

fn connect(args: &[String]) -> anyhow::Result<()> {
    let (rounds, targets) = args
        .split_first()
        .context("connect needs ROUNDS HOST:PORT...")?;
    let rounds: usize = rounds.parse().context("ROUNDS is a number")?;
    let addrs: Vec<SocketAddr> = targets
        .iter()
        .map(|t| resolve(t))
        .collect::<Result<_, _>>()?;
    let mut samples: Vec<Vec<u64>> = vec![Vec::new(); addrs.len()];
    let mut failures = 0_u64;
    for round in 0..rounds {
        for step in 0..addrs.len() {
            // Another order each round, so that no target always follows the same one.
            let which = (round + step) % addrs.len();
            let began = Instant::now();
            match TcpStream::connect_timeout(&addrs[which], TIMEOUT) {
                Ok(stream) => {
                    let took = began.elapsed();
                    reset_at_close(&stream)?;
                    samples[which].push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
                }
                Err(_) => failures += 1,
            }
        }
    }
    let targets: Vec<_> = targets
        .iter()
        .zip(&mut samples)
        .map(|(target, samples)| {
            samples.sort_unstable();
            let at = |share: usize| samples.get(samples.len() * share / 100).copied();
            json!({"target": target, "n": samples.len(), "p50_ns": at(50), "p99_ns": at(99)})
        })
        .collect();
    println!("{}", json!({"targets": targets, "failures": failures}));
    Ok(())
}

/// TIME_WAIT would eat the ephemeral ports.
fn reset_at_close(stream: &TcpStream) -> anyhow::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(stream, sockopt::Linger, &linger).context("set SO_LINGER")
}

fn flood(args: &[String]) -> anyhow::Result<()> {
    let limit = Duration::from_secs_f64(option(args, "--for", 5.0)?);
    let rate = option(args, "--per-second", 0.0)?;
    let most = option(args, "--count", f64::INFINITY)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
    let addr = listener.local_addr()?;
    let start = Instant::now();
    let (mut done, mut told) = (0_u64, Duration::ZERO);
    loop {
        let elapsed = start.elapsed();
        let is_over = elapsed >= limit || done as f64 >= most;
        if is_over || elapsed.saturating_sub(told) >= Duration::from_secs(1) {
            told = elapsed;
            writeln!(std::io::stdout(), "flood {} {done}", now_ns())?;
        }
        if is_over {
            return Ok(());
        }
        if rate > 0.0 && done as f64 >= elapsed.as_secs_f64() * rate {
            sleep(Duration::from_micros(100));
            continue;
        }
        let client = TcpStream::connect(addr).context("connect")?;
        let (server, _) = listener.accept().context("accept")?;
        reset_at_close(&client)?;
        drop(client);
        drop(server);
        done += 1;
    }
}
