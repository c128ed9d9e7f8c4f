//! Load from inside a node: wrk for volume, the probe for a record of every attempt.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context as _;
use serde::Deserialize;

use crate::cluster::Cluster;

/// One attempt of the probe.
#[derive(Debug, Clone, Deserialize)]
pub struct Attempt {
    /// When it began, ns since 1970.
    pub at_ns: u64,
    /// How long it took, microseconds.
    pub us: u64,
    /// The answer's body.
    pub body: Option<String>,
    /// Why there was none.
    pub error: Option<String>,
}

impl Attempt {
    /// When it ended, ns since 1970.
    #[must_use]
    pub fn end_ns(&self) -> u64 {
        self.at_ns + self.us * 1000
    }

    /// The task that answered: the first word of the body.
    #[must_use]
    pub fn task(&self) -> Option<&str> {
        self.body.as_deref()?.split_whitespace().next()
    }
}

/// Attempts kept of one probe; it runs seconds, so this is never reached.
const MAX_ATTEMPTS: usize = 1_000_000;

/// A running probe on a node. Dropping it ends it.
#[derive(Debug)]
pub struct Probe {
    child: Child,
    reader: Option<JoinHandle<()>>,
    attempts: Arc<Mutex<Vec<Attempt>>>,
}

impl Probe {
    /// Starts one: a GET on a new connection every `every_us`, for at most `seconds`.
    pub fn start(
        cluster: &Cluster,
        program: &Path,
        node: &str,
        target: &str,
        every_us: u64,
        seconds: u64,
    ) -> anyhow::Result<Self> {
        let every = every_us.to_string();
        let what = ["get", target, "--every-us", &every];
        Self::run(cluster, program, node, &what, seconds)
    }

    /// Starts one that holds `n` connections: a GET on the next of them every `every_us`, for at most `seconds`.
    pub fn hold(
        cluster: &Cluster,
        program: &Path,
        node: &str,
        (target, n): (&str, u64),
        every_us: u64,
        seconds: u64,
    ) -> anyhow::Result<Self> {
        let (every, n) = (every_us.to_string(), n.to_string());
        let what = ["hold", target, "--every-us", &every, "--connections", &n];
        Self::run(cluster, program, node, &what, seconds)
    }

    fn run(
        cluster: &Cluster,
        program: &Path,
        node: &str,
        what: &[&str],
        seconds: u64,
    ) -> anyhow::Result<Self> {
        let mut child = cluster
            .command(node, program)?
            .args(what)
            .args(["--for", &seconds.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start the probe on {node}"))?;
        let stdout = child.stdout.take().context("the probe's output")?;
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&attempts);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(attempt) = serde_json::from_str(&line) else {
                    continue;
                };
                let mut list = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if list.len() < MAX_ATTEMPTS {
                    list.push(attempt);
                }
            }
        });
        Ok(Self {
            child,
            reader: Some(reader),
            attempts,
        })
    }

    /// The attempts so far.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Looks at the attempts without copying them.
    pub fn with<T>(&self, look: impl FnOnce(&[Attempt]) -> T) -> T {
        look(&self.attempts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The probe's pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it and returns all attempts.
    #[must_use]
    pub fn stop(mut self) -> Vec<Attempt> {
        self.end();
        self.attempts()
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.end();
    }
}

/// What wrk measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wrk {
    /// Requests answered.
    pub requests: u64,
    /// Requests per second.
    pub per_second: f64,
    /// Connect, read, write errors and timeouts, and answers other than 2xx and 3xx.
    pub failed: u64,
}

/// Starts wrk on a node, a new connection per request; [`Wrk::finish`] reads its result.
/// The URL must name its port: without one wrk asks /etc/services, which minimal machines lack.
pub fn wrk(cluster: &Cluster, node: &str, url: &str, seconds: u64) -> anyhow::Result<Child> {
    cluster
        .command(node, "wrk")?
        .args(["-t1", "-c8", "--timeout", "5s", "-H", "Connection: close"])
        .arg(format!("-d{seconds}s"))
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("start wrk on {node}"))
}

impl Wrk {
    /// Waits for wrk's end and reads what it printed.
    pub fn finish(child: Child) -> anyhow::Result<Self> {
        let out = child.wait_with_output().context("wait for wrk")?;
        let text = String::from_utf8_lossy(&out.stdout);
        anyhow::ensure!(
            out.status.success(),
            "wrk failed ({}): {}",
            out.status,
            text.trim()
        );
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut result = Self::default();
        for line in text.lines().map(str::trim) {
            if let Some((n, _)) = line.split_once(" requests in ") {
                result.requests = n.parse().unwrap_or(0);
            } else if let Some(rest) = line.strip_prefix("Requests/sec:") {
                result.per_second = rest.trim().parse().unwrap_or(0.0);
            } else if let Some(rest) = line.strip_prefix("Socket errors:") {
                result.failed += rest
                    .split(|c: char| !c.is_ascii_digit())
                    .filter_map(|word| word.parse::<u64>().ok())
                    .sum::<u64>();
            } else if let Some(rest) = line.strip_prefix("Non-2xx or 3xx responses:") {
                result.failed += rest.trim().parse::<u64>().unwrap_or(0);
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_wrk() {
        let text = "Running 4s test @ http://x\n  1 threads and 8 connections\n  \
            1234 requests in 4.00s, 1.2MB read\n  Socket errors: connect 1, read 2, write 0, timeout 3\n  \
            Non-2xx or 3xx responses: 4\nRequests/sec:    308.50\nTransfer/sec: 1MB\n";
        assert_eq!(
            Wrk::parse(text),
            Wrk {
                requests: 1234,
                per_second: 308.5,
                failed: 10
            }
        );
        assert_eq!(Wrk::parse(""), Wrk::default());
    }
}
