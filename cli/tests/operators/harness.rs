//! A master process with two emulated agents, and the CLI against it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Output, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};
use waggle_tests_frameworks::agent::{self, Books};

pub const PATIENCE: Duration = Duration::from_secs(30);

/// A loopback address of this test's own, so that its master can have the usual ports and have them again
/// after a restart.
pub fn own_address() -> Ipv4Addr {
    static N: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high, low, N.fetch_add(1, Ordering::Relaxed))
}

pub struct Master {
    process: Child,
    ip: Ipv4Addr,
    agents: Vec<JoinHandle<()>>,
}

impl Master {
    /// Starts the process, and agents `n1` and `n2` with what they still run.
    pub async fn start(work_dir: &Path, ip: Ipv4Addr, books: &[Books; 2]) -> Self {
        let process = Command::new(env!("CARGO_BIN_EXE_waggle"))
            .args(["master", "--name", "m1", "--agent-timeout", "60s"])
            .args(["--log", "warn", "--ip", &ip.to_string()])
            .args(["--http-address", &ip.to_string()])
            .arg("--work-dir")
            .arg(work_dir)
            .env_remove("WAGGLE_CONFIG")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut master = Self {
            process,
            ip,
            agents: Vec::new(),
        };
        for (n, books) in (1..).zip(books) {
            master.agents.push(master.agent(n, books).await);
        }
        let both = |v: &Value| {
            let all = v.as_array().unwrap();
            all.len() == 2 && all.iter().all(|n| n["connected"] == true)
        };
        master.until(&["node", "list"], both).await;
        master
    }

    /// An agent with a session.
    async fn agent(&self, n: u8, books: &Books) -> JoinHandle<()> {
        let channel = self.channel().await;
        let info = agent::info(n, 4).unwrap();
        let run = agent::run(channel, info, books.clone());
        tokio::spawn(async move {
            // How a session ends is the test's to judge.
            let _ = run.await;
        })
    }

    /// To the session listener, as soon as it listens.
    pub async fn channel(&self) -> Channel {
        let at = SocketAddr::from((self.ip, 5060));
        let endpoint = Endpoint::from_shared(format!("http://{at}")).unwrap();
        poll(async || endpoint.connect().await.ok()).await
    }

    /// SIGTERM, as a service manager does it.
    pub async fn stop(mut self) -> Ipv4Addr {
        let pid = self.process.id().unwrap();
        let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let ended = timeout(PATIENCE, self.process.wait()).await.unwrap();
        assert!(ended.unwrap().success());
        for agent in self.agents {
            agent.abort();
        }
        self.ip
    }

    pub async fn waggle(&self, args: &[&str]) -> Output {
        let url = |port: u16| format!("http://{}:{port}", self.ip);
        let run = Command::new(env!("CARGO_BIN_EXE_waggle"))
            .args(args)
            .env("WAGGLE_MASTER", url(5050))
            .env("WAGGLE_MARATHON", url(8080))
            .output();
        timeout(PATIENCE, run).await.unwrap().unwrap()
    }

    /// Standard output of a command that succeeds.
    pub async fn says(&self, args: &[&str]) -> String {
        let out = self.waggle(args).await;
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{args:?}: {err}");
        String::from_utf8(out.stdout).unwrap()
    }

    /// The same as data.
    pub async fn json(&self, args: &[&str]) -> Value {
        let text = self.says(&[args, &["--json"]].concat()).await;
        serde_json::from_str(&text).unwrap()
    }

    /// Exit code and standard error of a command that does not succeed.
    pub async fn fails(&self, args: &[&str]) -> (i32, String) {
        let out = self.waggle(args).await;
        let err = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success(), "{args:?}");
        (out.status.code().unwrap(), err)
    }

    /// Waits until a command's answer is as wanted.
    pub async fn until(&self, args: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        poll(async || {
            let out = self.waggle(&[args, &["--json"]].concat()).await;
            let value = serde_json::from_slice::<Value>(&out.stdout).ok();
            value.filter(|v| out.status.success() && wanted(v))
        })
        .await
    }
}

/// Asks until there is an answer.
async fn poll<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    let mut interval = tokio::time::interval(Duration::from_millis(20));
    let found = timeout(PATIENCE, async {
        loop {
            interval.tick().await;
            if let Some(found) = ask().await {
                return found;
            }
        }
    });
    found.await.expect("in time")
}
