//! What is recorded about a cluster; a convenience, never needed to take it down.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::names::Names;
use crate::process;

/// One node, as `cluster up --json` prints it.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct NodeInfo {
    /// `n1`, `n2`, ...
    pub name: String,
    /// Its number, from 1.
    pub index: u8,
    /// Its network namespace.
    pub netns: String,
    /// Its address on the bridge.
    pub ip: Ipv4Addr,
    /// Its cgroup2 directory.
    pub cgroup: PathBuf,
    /// Its directory in bpffs.
    pub bpf_dir: PathBuf,
    /// Its working directory.
    pub work_dir: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// Its process, 0 before the start.
    pub pid: i32,
    /// Mesos-style API and `/waggle/v1`.
    pub mesos_url: String,
    /// Marathon's API.
    pub marathon_url: String,
    /// The agent's API.
    pub agent_url: String,
    /// Prometheus text.
    pub metrics_url: String,
}

/// The process that a cluster belongs to.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Owner {
    pid: i32,
    start_ticks: u64,
}

impl Owner {
    /// This process.
    #[must_use]
    pub fn this_process() -> Self {
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        Self {
            pid,
            start_ticks: process::start_ticks(pid).unwrap_or(0),
        }
    }

    /// Whether that very process still runs.
    #[must_use]
    pub fn alive(&self) -> bool {
        process::alive(self.pid) && process::start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

/// The state file.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct State {
    /// The prefix of its names.
    pub prefix: String,
    /// Where the nodes ship telemetry.
    pub otlp: Option<String>,
    /// The owning process; none for `cluster up`.
    pub owner: Option<Owner>,
    /// The nodes.
    pub nodes: Vec<NodeInfo>,
}

impl State {
    /// Writes it, replacing the old one at once.
    pub fn save(&self, names: &Names) -> anyhow::Result<()> {
        let dir = names.state_dir();
        let (path, next) = (dir.join("state.json"), dir.join("state.json.next"));
        std::fs::write(&next, serde_json::to_vec_pretty(self)?)
            .and_then(|()| std::fs::rename(&next, &path))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Reads it; none when there is no cluster.
    pub fn load(names: &Names) -> anyhow::Result<Option<Self>> {
        let path = names.state_dir().join("state.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} is damaged", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}
