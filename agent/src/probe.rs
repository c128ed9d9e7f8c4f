//! Health checks: one loop per check, at most so many at the same moment.

use std::{net::Ipv4Addr, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::Instant,
};
use waggle_lifecycle::Event;
use waggle_types::{HealthCheck, HealthProbe, TaskId, TaskPort};

use crate::{run::Input, shim};

/// First and longest pause between attempts while a check may still fail freely.
const EAGER_FIRST: Duration = Duration::from_millis(50);
const EAGER_MAX: Duration = Duration::from_secs(1);

/// One check of one task.
pub struct Prober {
    /// The task.
    pub task_id: TaskId,
    /// Position of the check.
    pub idx: usize,
    /// The check.
    pub check: HealthCheck,
    /// The task's ports.
    pub ports: Vec<TaskPort>,
    /// Where its ports are reached: the node's own address, as for everybody else.
    pub ip: Ipv4Addr,
    /// The task's directory.
    pub dir: PathBuf,
    /// Whether it passed before the agent restarted.
    pub passed: bool,
}

impl Prober {
    /// Probes until it is dropped or nobody listens. In the grace period attempts start close together, so
    /// that a task is found healthy soon after it is; after that, at the check's interval.
    pub async fn run(mut self, slots: Arc<Semaphore>, inputs: mpsc::Sender<Input>) {
        let interval = self
            .check
            .interval
            .as_duration()
            .max(Duration::from_millis(10));
        let grace_end = Instant::now() + self.check.grace_period.as_duration();
        let mut eager = EAGER_FIRST;
        loop {
            let Ok(slot) = slots.acquire().await else {
                return;
            };
            let begun = Instant::now();
            let result = self.probe_in_time().await;
            drop(slot);
            self.passed |= result.is_ok();
            let event = Event::Checked {
                task_id: self.task_id.clone(),
                idx: self.idx,
                result,
            };
            if inputs.send(Input::Event(event)).await.is_err() {
                return;
            }
            let pause = if self.passed || begun >= grace_end {
                interval
            } else {
                eager = (eager * 2).min(EAGER_MAX);
                eager.min(interval)
            };
            tokio::time::sleep_until(begun + pause).await;
        }
    }

    async fn probe_in_time(&self) -> Result<(), String> {
        let timeout = self
            .check
            .timeout
            .as_duration()
            .max(Duration::from_millis(1));
        if let HealthProbe::Command { shell } = &self.check.probe {
            return self.command(shell, timeout).await;
        }
        match tokio::time::timeout(timeout, self.probe()).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
        }
    }

    async fn probe(&self) -> Result<(), String> {
        match &self.check.probe {
            HealthProbe::Http {
                path,
                port_index,
                port,
                ..
            } => self.http(path, self.port(*port_index, *port)?).await,
            HealthProbe::Tcp { port_index, port } => {
                let port = self.port(*port_index, *port)?;
                self.connect(port).await.map(drop)
            }
            HealthProbe::Command { .. } => Ok(()),
        }
    }

    fn port(&self, idx: usize, fixed: Option<u16>) -> Result<u16, String> {
        fixed
            .or_else(|| self.ports.get(idx).map(|p| p.host_port))
            .ok_or_else(|| format!("portIndex: the task has no port {idx}"))
    }

    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        TcpStream::connect((self.ip, port))
            .await
            .map_err(|e| format!("connect to {}:{port}: {e}", self.ip))
    }

    async fn http(&self, path: &str, port: u16) -> Result<(), String> {
        let stream = self.connect(port).await?;
        let failed = |e: hyper::Error| format!("GET {}:{port}{path}: {e}", self.ip);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let request = Request::get(path)
            .header(header::HOST, format!("{}:{port}", self.ip))
            .header(header::USER_AGENT, "waggle-health-check")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|e| format!("path {path:?}: {e}"))?;
        let mut answer = std::pin::pin!(sender.send_request(request));
        // The connection is driven here and dropped with the answer: nothing outlives the probe. A server
        // that closes at once ends the connection in the same poll that delivers the answer, so the
        // connection's end says nothing: the answer is there, or fails by itself.
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            _ = connection => answer.await,
        }
        .map_err(failed)?;
        let status = answer.status().as_u16();
        if (200..400).contains(&status) {
            Ok(())
        } else {
            Err(format!("GET {}:{port}{path}: status {status}", self.ip))
        }
    }

    /// Runs in the task's sandbox, cgroup, environment and user.
    async fn command(&self, shell: &str, timeout: Duration) -> Result<(), String> {
        let mut command = std::process::Command::new("/bin/sh");
        command
            .args(["-c", shell])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        shim::enter_task(&mut command, &self.dir, shim::Entering::default())?;
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("failed to start the check's command: {e}"))?;
        let group = child.id().and_then(|p| i32::try_from(p).ok());
        let result = tokio::time::timeout(timeout, child.wait()).await;
        match result {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("command ended with {status}")),
            Ok(Err(e)) => Err(format!("failed to wait for the check's command: {e}")),
            Err(_) => {
                // It leads its session and is not reaped yet, so the group is its own.
                if let Some(group) = group {
                    let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
                }
                let _ = child.wait().await;
                Err(format!("no answer within {} ms", timeout.as_millis()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use waggle_types::Millis;

    use super::*;

    fn prober(port: u16) -> Prober {
        Prober {
            task_id: TaskId::new("t1").unwrap(),
            idx: 0,
            check: HealthCheck {
                delay: Millis(0),
                name: None,
                purpose: waggle_types::CheckPurpose::Health,
                probe: HealthProbe::Http {
                    statuses: Vec::new(),
                    tls: false,
                    path: "/health".to_owned(),
                    port_index: 0,
                    port: Some(port),
                },
                grace_period: Millis(0),
                interval: Millis(1000),
                timeout: Millis(10_000),
                max_consecutive_failures: 3,
            },
            ports: Vec::new(),
            ip: Ipv4Addr::LOCALHOST,
            dir: PathBuf::new(),
            passed: false,
        }
    }

    /// Answers each connection with `answer` and closes it; the probe sees both in one poll, since the
    /// kernel has the whole answer and the end before the (single-threaded) runtime looks again.
    async fn probe(answer: &'static [u8], times: usize) -> Result<(), String> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            for _ in 0..times {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 4096];
                let n = stream.read(&mut request).unwrap();
                assert!(request[..n].starts_with(b"GET /health HTTP/1.1\r\n"));
                stream.write_all(answer).unwrap();
            }
        });
        let prober = prober(port);
        let mut result = Ok(());
        for _ in 0..times {
            result = result.and(prober.probe_in_time().await);
        }
        server.join().unwrap();
        result
    }

    #[tokio::test]
    async fn a_server_that_closes_with_its_answer_is_healthy() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        assert_eq!(probe(whole, 100).await, Ok(()));
        // HTTP/1.0 without a length: the end of the connection is the end of the body.
        let old = b"HTTP/1.0 204 No Content\r\n\r\n";
        assert_eq!(probe(old, 100).await, Ok(()));
    }

    #[tokio::test]
    async fn what_is_no_good_answer_is_said() {
        let bad = probe(b"HTTP/1.1 503 Down\r\nConnection: close\r\n\r\n", 1).await;
        let why = bad.unwrap_err();
        assert!(why.ends_with("/health: status 503"), "{why}");
        // Closed without an answer.
        let why = probe(b"", 1).await.unwrap_err();
        assert!(why.starts_with("GET 127.0.0.1:"), "{why}");
    }
}
