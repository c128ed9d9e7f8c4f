//! What a task is put together from, each part by its owner: image, mounts, fetched files, network.
//!
//! [`Parts::prepare`] makes them in that order before the task's shim starts, [`Parts::release`] undoes them in
//! reverse when it has ended, and [`Parts::keep`] removes, after a restart, what belongs to no task. A part that
//! this node does not have refuses the spec that asks for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use waggle_overlay::overlay::OverlayNet;
use waggle_telemetry::{SpanKind, Telemetry};
use waggle_types::{TaskId, TaskSpec, TraceContext};

pub use crate::storage::BindMount;
use crate::{
    AgentConfig, AgentError,
    checkpoint::TaskDir,
    clock, environment,
    fetch::Fetcher,
    gpus::{Assigned, Gpu, Gpus},
    images::{Images, RootFs},
    net::chain,
    networks::{Joined, Networks},
    runtime::{self, ImageUser, Runtimes},
    shim::UserIds,
    storage::Storage,
};

/// The node's parts. One of each, shared by all launches.
pub struct Parts {
    /// How tasks are run.
    pub runtimes: Runtimes,
    /// Its images.
    pub images: Arc<Images>,
    /// Which networks its tasks can be on.
    pub networks: Arc<Networks>,
    gpus: Arc<Gpus>,
    policy: crate::NodePolicy,
    user_namespace_base: u32,
    work_dir: PathBuf,
    /// Volumes, mounts.
    pub storage: Storage,
    fetcher: Fetcher,
    telemetry: Telemetry,
}

/// What was made for one task.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    /// Its root file system, where it has an image.
    pub root: Option<RootFs>,
    /// Its user on the host; `None` keeps the agent's.
    pub user: Option<UserIds>,
    /// The same inside, where it has an image.
    pub image_user: Option<ImageUser>,
    /// What is mounted, in order.
    pub mounts: Vec<BindMount>,
    /// Its network and what it shares with its pod; `None`: what the node has.
    pub network: Option<Joined>,
    /// Its GPUs.
    pub gpus: Option<Assigned>,
}

impl Parts {
    /// Opens all of them. Blocking.
    pub fn open(
        config: &AgentConfig,
        gpus: Vec<Gpu>,
        overlay: Arc<OverlayNet>,
        telemetry: &Telemetry,
    ) -> Result<Self, AgentError> {
        let storage = Storage::open(&config.work_dir, &config.storage, &config.policy.host_paths)
            .map_err(AgentError::file("open", config.work_dir.join("storage")))?;
        let fetcher = Fetcher::open(
            &config.work_dir,
            &config.fetch,
            &config.policy.host_paths,
            config.storage.enforce_disk,
            telemetry.clone(),
        )
        .map_err(AgentError::file("open", config.work_dir.join("fetch")))?;
        let images = Images::open(&config.work_dir, config.images.clone(), telemetry.clone())
            .map_err(AgentError::file("open", config.work_dir.join("images")))?;
        Ok(Self {
            runtimes: Runtimes::open(config),
            images,
            gpus: Arc::new(Gpus::open(&config.work_dir, gpus)),
            networks: Networks::open(
                &config.work_dir,
                &config.networks,
                config.dns.ips.clone(),
                overlay,
                Some(telemetry.clone()),
            )?,
            policy: config.policy.clone(),
            user_namespace_base: config.runtime.user_namespace_base,
            work_dir: config.work_dir.clone(),
            storage,
            fetcher,
            telemetry: telemetry.clone(),
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
    /// `trace` is what spans of it hang below.
    pub async fn prepare(
        &self,
        spec: &TaskSpec,
        dir: &TaskDir,
        trace: Option<TraceContext>,
    ) -> Result<Prepared, String> {
        runtime::check(&spec.container, &self.policy)?;
        self.runtimes.of(spec)?;
        let sandbox = dir.sandbox();
        let mut prepared = Prepared::default();
        if let Some(image) = &spec.container.image {
            prepared.root = Some(self.images.prepare(&spec.task_id, image, trace).await?);
        }
        self.find_user(spec, &mut prepared).await?;
        self.own_sandbox(&sandbox, prepared.user.as_ref()).await?;
        let user = prepared.user.as_ref();
        prepared.mounts = self.storage.prepare(spec, &sandbox, user).await?;
        self.fetcher.fetch(spec, &sandbox, user).await?;
        let (gpus, asking) = (Arc::clone(&self.gpus), spec.clone());
        prepared.gpus = tokio::task::spawn_blocking(move || gpus.take(&asking))
            .await
            .map_err(|e| format!("gpus: {e}"))??;
        let began_ns = clock::now_ns();
        prepared.network = self.networks.join(spec).await?;
        if prepared.network.is_some() {
            let attrs = vec![("waggle.task.id", spec.task_id.as_str().into())];
            let (kind, now_ns) = (SpanKind::Internal, clock::now_ns());
            let telemetry = &self.telemetry;
            telemetry.record_span("network.join", kind, trace, began_ns, now_ns, attrs);
        }
        Ok(prepared)
    }

    /// Undoes what was made for a task whose processes have ended; idempotent. Blocking. Goes on after a failure
    /// and tells all of them.
    pub fn release(&self, task_id: &TaskId) -> Vec<String> {
        let dir = TaskDir::new(&self.work_dir, task_id);
        let steps: [(&str, io::Result<()>); 5] = [
            ("container", self.runtimes.release(&dir)),
            ("network", self.networks.leave(task_id)),
            ("gpus", self.gpus.release(task_id)),
            ("storage", self.storage.release(task_id)),
            ("image", self.images.release(task_id)),
        ];
        failures(steps)
    }

    /// After a restart: removes what belongs to none of the tasks that live or whose end is still to be told.
    /// Blocking.
    pub fn keep(&self, live: &BTreeMap<TaskId, TaskSpec>) -> Vec<String> {
        let ids: BTreeSet<TaskId> = live.keys().cloned().collect();
        let steps: [(&str, io::Result<()>); 5] = [
            ("container", self.runtimes.keep(&ids)),
            ("networks", self.networks.keep(live)),
            ("gpus", self.gpus.keep(live)),
            ("storage", self.storage.keep(&ids)),
            ("images", self.images.keep(&ids)),
        ];
        failures(steps)
    }

    /// The node's user of that name, or, with an image, the image's.
    async fn find_user(&self, spec: &TaskSpec, prepared: &mut Prepared) -> Result<(), String> {
        let Some(root) = &prepared.root else {
            prepared.user = environment::user(spec.user.as_deref())?;
            return Ok(());
        };
        let path = root.path.clone();
        let text = spec.user.clone().or_else(|| root.config.user.clone());
        let has_namespace = spec.container.isolation.user_namespace;
        let base = self.user_namespace_base;
        let found = tokio::task::spawn_blocking(move || {
            let user = runtime::find_user(&path, text.as_deref().unwrap_or_default())?;
            if has_namespace {
                runtime::shift(&path, base).map_err(|e| {
                    format!("container.isolation.user_namespace: failed to give it its files: {e}")
                })?;
            }
            Ok::<_, String>(user)
        });
        let user = found
            .await
            .map_err(|e| format!("failed to look up the user: {e}"))??;
        let base = if has_namespace { base } else { 0 };
        prepared.user = Some(runtime::on_host(&user, base, spec)?);
        prepared.image_user = Some(user);
        Ok(())
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

fn failures<const N: usize>(steps: [(&str, io::Result<()>); N]) -> Vec<String> {
    let failed = steps.into_iter();
    failed
        .filter_map(|(what, done)| Some(format!("{what}: {}", chain(&done.err()?))))
        .collect()
}
