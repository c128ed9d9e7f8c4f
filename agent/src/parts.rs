//! What a task is put together from, each part by its owner: image, mounts, fetched files, network.
//!
//! [`Parts::prepare`] makes them in that order before the task's shim starts, [`Parts::release`] undoes them in
//! reverse when it has ended, and [`Parts::keep`] removes, after a restart, what belongs to no task. A part that
//! this node does not have refuses the spec that asks for it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use waggle_telemetry::Telemetry;
use waggle_types::{TaskId, TaskSpec};

pub use crate::storage::BindMount;
use crate::{
    AgentConfig, AgentError,
    checkpoint::TaskDir,
    environment,
    fetch::Fetcher,
    net::chain,
    networks::{Joined, Networks},
    runtime::{self, Runtimes},
    shim::UserIds,
    storage::Storage,
};

/// The node's parts. One of each, shared by all launches.
pub struct Parts {
    /// How tasks are run.
    pub runtimes: Runtimes,
    /// Which networks its tasks can be on.
    pub networks: Arc<Networks>,
    policy: crate::NodePolicy,
    work_dir: PathBuf,
    /// Volumes, mounts.
    pub storage: Storage,
    fetcher: Fetcher,
}

/// What was made for one task.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    /// Its root file system, where it has an image.
    pub root: Option<RootFs>,
    /// Its user; `None` keeps the agent's.
    pub user: Option<UserIds>,
    /// What is mounted, in order.
    pub mounts: Vec<BindMount>,
    /// Its network and what it shares with its pod; `None`: what the node has.
    pub network: Option<Joined>,
}

// The next two are images' and move there.

/// An image's files, ready to be a root.
#[derive(Debug, Clone, Default)]
pub struct RootFs {
    /// A mounted overlayfs.
    pub path: PathBuf,
    /// What the image says.
    pub config: ImageConfig,
}

/// What an image says about how it is run (OCI image spec, `config`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Of the manifest.
    pub digest: String,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// First words of the command.
    pub entrypoint: Vec<String>,
    /// The rest of it, where the task has none of its own.
    pub cmd: Vec<String>,
    /// Working directory.
    pub work_dir: Option<String>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// Instead of SIGTERM: a name or a number.
    pub stop_signal: Option<String>,
}

impl Parts {
    /// Opens all of them. Blocking.
    pub fn open(config: &AgentConfig, telemetry: Telemetry) -> Result<Self, AgentError> {
        // I: open yours here.
        let storage = Storage::open(&config.work_dir, &config.storage, &config.policy.host_paths)
            .map_err(AgentError::file("open", config.work_dir.join("storage")))?;
        let fetcher = Fetcher::open(
            &config.work_dir,
            &config.fetch,
            &config.policy.host_paths,
            config.storage.enforce_disk,
            telemetry,
        )
        .map_err(AgentError::file("open", config.work_dir.join("fetch")))?;
        Ok(Self {
            runtimes: Runtimes::open(config),
            networks: Networks::open(&config.work_dir, &config.networks, config.dns.ips.clone())?,
            policy: config.policy.clone(),
            work_dir: config.work_dir.clone(),
            storage,
            fetcher,
        })
    }

    /// Why some tasks can't run on this node, for people.
    pub fn troubles(&self) -> Vec<String> {
        self.runtimes
            .trouble()
            .map(|why| format!("images: {why}"))
            .into_iter()
            .collect()
    }

    /// Makes everything that a task needs before its shim starts. The error is the message for people; what was
    /// made until then is undone by [`Parts::release`].
    pub async fn prepare(&self, spec: &TaskSpec, dir: &TaskDir) -> Result<Prepared, String> {
        runtime::check(&spec.container, &self.policy)?;
        self.runtimes.of(spec)?;
        let sandbox = dir.sandbox();
        let mut prepared = Prepared::default();
        // I: `prepared.root = Some(self.images.prepare(&spec.task_id, image).await?)`
        if spec.container.image.is_some() {
            return Err("container.image: this node has no store of images".to_owned());
        }
        prepared.user = environment::user(spec.user.as_deref())?;
        self.own_sandbox(&sandbox, prepared.user.as_ref()).await?;
        let user = prepared.user.as_ref();
        prepared.mounts = self.storage.prepare(spec, &sandbox, user).await?;
        self.fetcher.fetch(spec, &sandbox, user).await?;
        prepared.network = self.networks.join(spec).await?;
        Ok(prepared)
    }

    /// Undoes what was made for a task whose processes have ended; idempotent. Blocking. Goes on after a failure
    /// and tells all of them.
    pub fn release(&self, task_id: &TaskId) -> Vec<String> {
        let dir = TaskDir::new(&self.work_dir, task_id);
        let steps: [(&str, io::Result<()>); 3] = [
            ("container", self.runtimes.release(&dir)),
            ("network", self.networks.leave(task_id)),
            ("storage", self.storage.release(task_id)),
            // I: ("image", self.images.release(task_id)),
        ];
        steps
            .into_iter()
            .filter_map(|(what, done)| Some(format!("{what}: {}", chain(&done.err()?))))
            .collect()
    }

    /// After a restart: removes what belongs to none of the tasks that live or whose end is still to be told.
    /// Blocking.
    pub fn keep(&self, live: &BTreeMap<TaskId, TaskSpec>) -> Vec<String> {
        let ids = live.keys().cloned().collect();
        // I: images.
        let steps: [(&str, io::Result<()>); 2] = [
            ("networks", self.networks.keep(live)),
            ("storage", self.storage.keep(&ids)),
        ];
        steps
            .into_iter()
            .filter_map(|(what, done)| Some(format!("{what}: {}", chain(&done.err()?))))
            .collect()
    }

    /// The sandbox belongs to the task's user.
    async fn own_sandbox(&self, sandbox: &Path, user: Option<&UserIds>) -> Result<(), String> {
        let (sandbox, user) = (sandbox.to_owned(), user.cloned());
        let made = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&sandbox)?;
            if let Some(UserIds { uid, gid, .. }) = &user {
                std::os::unix::fs::chown(&sandbox, Some(*uid), Some(*gid))?;
            }
            Ok(())
        });
        made.await
            .map_err(io::Error::other)
            .and_then(|r| r)
            .map_err(|e| format!("failed to prepare the sandbox: {e}"))
    }
}
