//! Apps through Marathon's API.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::cgroup;
use crate::cluster::{Cluster, NodeInfo, port};
use crate::process;
use crate::wait::wait_until;

/// A task as Marathon's API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Task id.
    pub id: String,
    /// The node's name or address.
    pub host: String,
    /// Its first host port.
    pub port: u16,
    /// State, such as `TASK_RUNNING`.
    pub state: String,
}

impl Task {
    /// The node that it runs on.
    pub fn node<'a>(&self, cluster: &'a Cluster) -> anyhow::Result<&'a NodeInfo> {
        cluster
            .state
            .nodes
            .iter()
            .find(|n| n.name == self.host || n.ip.to_string() == self.host)
            .with_context(|| format!("task {}: host {} is no node", self.id, self.host))
    }

    /// Its nginx processes, as the kernel has them.
    pub fn nginx_pids(&self, cluster: &Cluster) -> anyhow::Result<Vec<i32>> {
        let node = self.node(cluster)?;
        let mut pids: Vec<i32> = cgroup::pids_below(&node.cgroup)
            .into_iter()
            .filter(|pid| process::comm(*pid) == "nginx")
            .filter(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                    .is_ok_and(|text| text.contains(&self.id))
            })
            .collect();
        pids.sort_unstable();
        Ok(pids)
    }
}

/// An app that was deployed, and how long each part took since the request was sent.
#[derive(Debug, Clone)]
pub struct App {
    /// The id, `/web`.
    pub id: String,
    /// The deployment's id.
    pub deployment: String,
    /// Until the API accepted it.
    pub accepted: Duration,
    /// Until all instances ran.
    pub running: Duration,
    /// Until all instances were healthy.
    pub healthy: Duration,
    /// Until the deployment was done.
    pub deployed: Duration,
    /// How many instances.
    pub instances: u64,
}

impl App {
    /// Its tasks now.
    pub fn tasks(&self, cluster: &Cluster) -> anyhow::Result<Vec<Task>> {
        let path = format!("/v2/apps{}/tasks", self.id);
        let json = cluster
            .client()
            .get(cluster.leader(port::MARATHON), &path)?
            .ok()?
            .json()?;
        let list = json["tasks"]
            .as_array()
            .context("no `tasks` in the answer")?;
        Ok(list.iter().map(task).collect())
    }

    /// The app as the API has it.
    pub fn show(&self, cluster: &Cluster) -> anyhow::Result<Value> {
        let path = format!("/v2/apps{}", self.id);
        let json = cluster
            .client()
            .get(cluster.leader(port::MARATHON), &path)?
            .ok()?
            .json()?;
        Ok(json["app"].clone())
    }
}

fn task(json: &Value) -> Task {
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    Task {
        id: text("id"),
        host: text("host"),
        port: json["ports"][0]
            .as_u64()
            .and_then(|p| u16::try_from(p).ok())
            .unwrap_or(0),
        state: text("state"),
    }
}

/// Adds the app and waits until all instances are healthy and the deployment is done.
pub fn deploy(cluster: &Cluster, definition: &str, limit: Duration) -> anyhow::Result<App> {
    let start = Instant::now();
    let wanted: Value = serde_json::from_str(definition).context("the app definition")?;
    let client = cluster.client();
    let marathon = cluster.leader(port::MARATHON);
    let answer = client.request(
        "POST",
        marathon,
        "/v2/apps",
        Some(definition.as_bytes()),
        &[],
    )?;
    let accepted = start.elapsed();
    if answer.status != 201 {
        bail!(
            "POST /v2/apps: status {}, expected 201: {}",
            answer.status,
            answer.body
        );
    }
    let json = answer.json()?;
    let id = json["id"]
        .as_str()
        .context("the answer has no `id`")?
        .to_owned();
    let deployment = json["deployments"][0]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let instances = wanted["instances"].as_u64().unwrap_or(1);
    let blank = Duration::ZERO;
    let mut app = App {
        id,
        deployment,
        accepted,
        running: blank,
        healthy: blank,
        deployed: blank,
        instances,
    };
    let mut last = Value::Null;
    let path = format!("/v2/apps{}", app.id);
    let done = wait_until(
        limit,
        &format!("{} to be deployed and healthy", app.id),
        || {
            let shown = client.get(marathon, &path).ok()?.json().ok()?["app"].clone();
            let count = |key: &str| shown[key].as_u64().unwrap_or(0);
            let now = start.elapsed();
            if app.running.is_zero() && count("tasksRunning") >= instances {
                app.running = now;
            }
            if app.healthy.is_zero() && count("tasksHealthy") >= instances {
                app.healthy = now;
            }
            let busy = shown["deployments"]
                .as_array()
                .is_some_and(|list| !list.is_empty());
            let done = !app.healthy.is_zero() && !busy;
            last = shown;
            done.then(|| app.deployed = start.elapsed())
        },
    );
    done.with_context(|| {
        let of = |key: &str| last[key].to_string();
        let failure = &last["lastTaskFailure"]["message"];
        format!(
            "staged {}, running {}, healthy {}, unhealthy {}; deployments {}; last failure {failure}",
            of("tasksStaged"),
            of("tasksRunning"),
            of("tasksHealthy"),
            of("tasksUnhealthy"),
            of("deployments"),
        )
    })?;
    Ok(app)
}

/// Removes the app and waits until it and its tasks are gone.
pub fn remove(cluster: &Cluster, id: &str, limit: Duration) -> anyhow::Result<()> {
    let client = cluster.client();
    let marathon = cluster.leader(port::MARATHON);
    let path = format!("/v2/apps{id}");
    client
        .request("DELETE", marathon, &format!("{path}?force=true"), None, &[])?
        .ok()?;
    wait_until(limit, &format!("{id} and its tasks to go"), || {
        let gone = client.get(marathon, &path).ok()?.status == 404;
        let tasks = client.get(marathon, "/v2/tasks").ok()?.json().ok()?;
        let left = tasks["tasks"]
            .as_array()
            .map_or(0, |list| list.iter().filter(|t| t["appId"] == id).count());
        let busy = client
            .get(marathon, "/v2/deployments")
            .ok()?
            .body
            .contains(&format!("\"{id}\""));
        (gone && left == 0 && !busy).then_some(())
    })
}

/// The list in an answer: the answer itself, or the only member that is one.
#[must_use]
pub fn list_of(json: &Value) -> Vec<Value> {
    match json {
        Value::Array(list) => list.clone(),
        Value::Object(map) => map
            .values()
            .find_map(|value| value.as_array().cloned())
            .unwrap_or_default(),
        _ => Vec::new(),
    }
}
