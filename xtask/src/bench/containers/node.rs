//! The node under test: one app whose instances come and go, by its public APIs alone.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use waggle_tests_support::cluster::{Cluster, NodeInfo, port};
use waggle_tests_support::http::Client;
use waggle_tests_support::wait::sleep;

/// Between looks.
const LOOK: Duration = Duration::from_millis(4);
const LIMIT: Duration = Duration::from_mins(1);

/// A node and the app on it.
pub struct Node<'a> {
    cluster: &'a Cluster,
    info: &'a NodeInfo,
    client: Client,
    reference: &'a str,
}

/// What one start took.
pub struct Start {
    /// From receiving the task to its process, as the agent measures it.
    pub launch: Duration,
    /// From the request to that.
    pub deploy: Duration,
}

impl<'a> Node<'a> {
    /// Nothing is deployed yet.
    pub fn new(cluster: &'a Cluster, info: &'a NodeInfo, reference: &'a str) -> Self {
        Self {
            cluster,
            info,
            client: cluster.client(),
            reference,
        }
    }

    /// The node's process.
    pub fn pid(&self) -> i32 {
        self.info.pid
    }

    /// CPU time of all that the node is and runs.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let path = self.info.cgroup.join("cpu.stat");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let usage = text
            .lines()
            .find_map(|l| l.strip_prefix("usage_usec "))
            .context("no usage_usec")?;
        Ok(usage.trim().parse::<f64>()? / 1e6)
    }

    /// Adds the app, without instances.
    pub fn deploy(&self) -> anyhow::Result<()> {
        let app = json!({
            "id": "/bench", "instances": 0, "cpus": 0.001, "mem": 16, "disk": 0,
            "container": { "type": "MESOS", "docker": { "image": self.reference } },
            "networks": [{ "mode": "host" }], "portDefinitions": [],
        });
        self.marathon("POST", "/v2/apps", &app)
    }

    /// Removes it.
    pub fn remove(&self) -> anyhow::Result<()> {
        self.marathon("DELETE", "/v2/apps/bench?force=true", &json!({}))
    }

    /// Starts the first instance.
    pub fn start_one(&self) -> anyhow::Result<Start> {
        let (sum, count) = self.launches()?;
        let began = Instant::now();
        self.instances(1)?;
        let launch = self.until(LIMIT, "a task to run", || {
            let (now, n) = self.launches().ok()?;
            (n > count).then_some(now - sum)
        })?;
        Ok(Start {
            launch: Duration::from_secs_f64(launch),
            deploy: began.elapsed(),
        })
    }

    /// A directory beside the node's files, for others.
    pub fn scratch(&self, name: &str) -> std::path::PathBuf {
        self.info.work_dir.join(name)
    }

    /// The bundle of the task that runs.
    pub fn bundle(&self) -> anyhow::Result<std::path::PathBuf> {
        let tasks = self.info.work_dir.join("agent/tasks");
        let mut entries = std::fs::read_dir(&tasks)
            .with_context(|| tasks.display().to_string())?
            .flatten()
            .map(|e| e.path().join("bundle"));
        entries
            .find(|bundle| bundle.join("config.json").exists())
            .context("no bundle")
    }

    /// Stops it; how long until it and its root are gone.
    pub fn stop_one(&self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.instances(0)?;
        self.until(LIMIT, "the task to go", || {
            (self.n_tasks().ok()? == 0 && self.n_roots().ok()? == 0).then_some(())
        })?;
        Ok(began.elapsed())
    }

    /// Waits until so many run.
    pub fn scale(&self, n: u32, limit: Duration) -> anyhow::Result<()> {
        let (_, before) = self.launches()?;
        let running = self.n_tasks()?;
        self.instances(n)?;
        let wanted = before + f64::from(n) - running as f64;
        let mut looked = Instant::now();
        self.until(limit, "the tasks", || {
            // Looking costs the node CPU.
            sleep(Duration::from_millis(200).saturating_sub(looked.elapsed()));
            looked = Instant::now();
            if n == 0 {
                return (self.n_tasks().ok()? == 0 && self.n_roots().ok()? == 0).then_some(());
            }
            (self.launches().ok()?.1 >= wanted).then_some(())
        })
    }

    fn until<T>(
        &self,
        limit: Duration,
        what: &str,
        mut look: impl FnMut() -> Option<T>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if began.elapsed() > limit {
                let path = "/v2/apps/bench";
                let marathon = self.cluster.leader(port::MARATHON);
                let shown = self.client.get(marathon, path)?.json()?;
                let app = &shown["app"];
                anyhow::bail!(
                    "waited {} s for {what}: staged {}, running {}; last failure {}",
                    limit.as_secs(),
                    app["tasksStaged"],
                    app["tasksRunning"],
                    app["lastTaskFailure"]["message"]
                );
            }
            sleep(LOOK);
        }
    }

    fn instances(&self, n: u32) -> anyhow::Result<()> {
        self.marathon(
            "PUT",
            "/v2/apps/bench?force=true",
            &json!({ "instances": n }),
        )
    }

    fn marathon(&self, method: &str, path: &str, body: &serde_json::Value) -> anyhow::Result<()> {
        let marathon = self.cluster.leader(port::MARATHON);
        let bytes = body.to_string();
        self.client
            .request(method, marathon, path, Some(bytes.as_bytes()), &[])?
            .ok()?;
        Ok(())
    }

    /// Sum and number of launches that the agent has measured.
    fn launches(&self) -> anyhow::Result<(f64, f64)> {
        let addr = SocketAddr::from((self.info.ip, port::METRICS));
        let text = self.client.get(addr, "/metrics")?.ok()?.body;
        let of = |suffix: &str| {
            text.lines()
                .filter(|l| l.starts_with("waggle_agent_launch_duration"))
                .filter(|l| {
                    l.split(['{', ' '])
                        .next()
                        .is_some_and(|n| n.ends_with(suffix))
                })
                .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
                .sum::<f64>()
        };
        Ok((of("_sum"), of("_count")))
    }

    fn n_tasks(&self) -> anyhow::Result<usize> {
        let addr = SocketAddr::from((self.info.ip, port::AGENT));
        let json = self.client.get(addr, "/waggle/v1/tasks")?.ok()?.json()?;
        Ok(json["tasks"].as_array().map_or(0, Vec::len))
    }

    /// Root file systems that are mounted below the node's directory.
    fn n_roots(&self) -> anyhow::Result<usize> {
        let own = self.info.work_dir.display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        Ok(mounts
            .lines()
            .filter(|l| l.starts_with("overlay ") && l.contains(&own))
            .count())
    }
}
