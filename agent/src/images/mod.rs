//! Images: where tasks' root file systems come from.
//!
//! ```text
//! reference -> name -> sources -> registry -> ingest -> store -> root (overlayfs)
//!                                 layout ----^
//! ```
//!
//! # Invariants
//! - What was not verified against its digest is never a task's root.
//! - An image that a task has, or that is being pulled, is not collected.
//! - A name that was resolved once starts tasks without its registry, unless the task asks for the newest.

mod api;
mod auth;
mod collect;
mod digest;
mod error;
mod flights;
mod ingest;
mod layout;
mod manifest;
mod name;
mod pull;
mod registry;
mod root;
mod store;
#[cfg(test)]
mod tests;
pub mod unpack;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use waggle_telemetry::{SpanKind, Telemetry, names};
use waggle_types::{ImageSpec, TaskId, TraceContext};

pub(crate) use self::api::routes;
use self::{
    collect::Bounds,
    digest::Digest,
    ingest::{Expected, ingest},
    layout::{Found, Layout},
    manifest::{MAX_LAYERS, Platform},
    pull::Puller,
    root::RootDir,
    store::{Record, Store},
};
pub use self::{
    error::ImageError,
    name::{ImageName, ImageSettings},
    root::written,
    store::Listed,
};
use crate::{checkpoint::TaskDir, clock, net::chain};

/// Time between looks at what may go.
const COLLECT_EVERY: Duration = Duration::from_mins(10);

/// A task's root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootFs {
    /// Where it is mounted: ready to be a root, writable, the task's own. Only root gets there.
    pub path: PathBuf,
    /// What the image says.
    pub config: ImageConfig,
}

/// What an image says about the program in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Digest of the configuration: Docker's image id.
    pub digest: String,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program where there is no entry point.
    pub cmd: Vec<String>,
    /// Working directory.
    pub work_dir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub user: Option<String>,
    /// What ends it: `SIGTERM`, or a number.
    pub stop_signal: Option<String>,
}

/// This node's images.
pub struct Images {
    store: Arc<Store>,
    puller: Puller,
    settings: Arc<ImageSettings>,
    work_dir: PathBuf,
    telemetry: Telemetry,
    // What tasks use is known only once they are: before that nothing is collected.
    kept: AtomicBool,
}

/// What was loaded from a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loaded {
    /// Its names now.
    pub names: Vec<String>,
    /// Its manifest's digest.
    pub digest: String,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Digests of the images that went.
    pub images: Vec<String>,
    /// Bytes that are free again.
    pub bytes: u64,
}

impl Images {
    /// Opens the store below an agent's work directory, which must be locked by the caller; what a crash left half-made
    /// is removed. Blocking.
    pub fn open(
        work_dir: &Path,
        settings: ImageSettings,
        telemetry: Telemetry,
    ) -> io::Result<Arc<Self>> {
        // The library asks rustls for the process's provider. Another one that is there already does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = work_dir.join("images");
        let store = Arc::new(Store::open(&dir).map_err(|e| {
            io::Error::new(e.kind(), format!("image store {}: {e}", dir.display()))
        })?);
        let settings = Arc::new(settings);
        Ok(Arc::new(Self {
            puller: Puller::new(Arc::clone(&store), Arc::clone(&settings)),
            store,
            settings,
            work_dir: work_dir.to_owned(),
            telemetry,
            kept: AtomicBool::new(false),
        }))
    }

    /// Makes a task's root file system: gets the image unless the node has it, mounts it. The error is the reason for
    /// people; then nothing of it is left. `trace` is what its span hangs below.
    pub async fn prepare(
        &self,
        task_id: &TaskId,
        image: &ImageSpec,
        trace: Option<TraceContext>,
    ) -> Result<RootFs, String> {
        let mut digest = self.resolve(image, trace).await?;
        let mut record = self.store.begin_use(task_id, digest);
        if record.is_none() {
            // Collected between the two: then it has to come again.
            digest = self.resolve(image, trace).await?;
            record = self.store.begin_use(task_id, digest);
        }
        let record = record.ok_or_else(|| format!("image {} went away", image.reference))?;
        let dir = TaskDir::new(&self.work_dir, task_id);
        let root = RootDir::new(dir.path());
        let with_path = |l: &Digest| (*l, self.store.layer(*l));
        let layers: Vec<(Digest, PathBuf)> = record.layers.iter().map(with_path).collect();
        let made = tokio::task::spawn_blocking(move || {
            root.make(digest, &layers).inspect_err(|_| {
                if let Err(error) = root.remove() {
                    tracing::warn!(%error, "a root that could not be made stays");
                }
            })
        });
        match made.await.map_err(io::Error::other).flatten() {
            Ok(path) => Ok(RootFs {
                path,
                config: record.config,
            }),
            Err(e) => {
                self.store.end_use(task_id);
                let reference = &image.reference;
                Err(format!(
                    "failed to make the root file system of image {reference}: {}",
                    chain(&e)
                ))
            }
        }
    }

    async fn resolve(
        &self,
        image: &ImageSpec,
        trace: Option<TraceContext>,
    ) -> Result<Digest, String> {
        self.get(image, trace).await.map_err(|e| e.describe())
    }

    /// The image that a task means, from the store or its registry.
    async fn get(
        &self,
        image: &ImageSpec,
        trace: Option<TraceContext>,
    ) -> Result<Digest, Arc<ImageError>> {
        let name: ImageName = image
            .reference
            .parse()
            .map_err(|e: name::NameError| Arc::new(e.into()))?;
        name::sources(&name, &self.settings).map_err(|e| Arc::new(e.into()))?;
        let known = self.known(&name);
        if let (Some(digest), false) = (known, image.force_pull) {
            self.telemetry.count(&names::IMAGE_CACHE_HITS, &[], 1);
            return Ok(digest);
        }
        self.pull(&name, image.credentials.as_deref(), trace).await
    }

    fn known(&self, name: &ImageName) -> Option<Digest> {
        let named = self.store.named(&name.to_string()).map(|n| n.digest);
        let by_digest = match name.version {
            name::Version::Digest(digest) => self.store.image(digest).map(|r| r.digest),
            name::Version::Tag(_) => None,
        };
        named.or(by_digest)
    }

    async fn pull(
        &self,
        name: &ImageName,
        credentials: Option<&str>,
        trace: Option<TraceContext>,
    ) -> Result<Digest, Arc<ImageError>> {
        let began = Instant::now();
        let before = self.puller.n_bytes();
        let mut span = self.telemetry.begin_span(
            "image.pull",
            SpanKind::Client,
            trace,
            vec![("waggle.image", name.to_string().into())],
        );
        let mut pulled = self.puller.pull(name, credentials).await;
        if pulled.as_ref().is_err_and(|e| e.is_no_space()) {
            // What no task has makes room, then once more.
            tracing::warn!(image = %name, "the disk is full: unused images go");
            if self.collect(0).await.is_ok_and(|p| p.bytes > 0) {
                pulled = self.puller.pull(name, credentials).await;
            }
        }
        let outcome = match &pulled {
            Ok(digest) => {
                span.set("waggle.image.digest", digest.to_string());
                "pulled"
            }
            Err(e) => {
                span.error(e.kind(), &e.describe());
                e.kind()
            }
        };
        span.end();
        let outcome = [(names::OUTCOME, outcome.into())];
        self.telemetry.count(&names::IMAGE_PULLS, &outcome, 1);
        let took = began.elapsed().as_secs_f64();
        self.telemetry
            .record(&names::IMAGE_PULL_DURATION, &outcome, took);
        let bytes = self.puller.n_bytes() - before;
        self.telemetry.count(&names::IMAGE_PULL_BYTES, &[], bytes);
        self.tell_size();
        match &pulled {
            Ok(digest) => {
                tracing::info!(image = %name, %digest, took = ?began.elapsed(), "image pulled");
            }
            Err(e) => tracing::warn!(image = %name, error = e.describe(), "no image"),
        }
        pulled
    }

    /// Takes the images of an OCI layout (a directory or a tar) or of what `docker save` wrote. `name` is the name of the
    /// one that is there; without it they have those that the file says. Blocking, long.
    pub fn load(&self, path: &Path, name: Option<&str>) -> Result<Vec<Loaded>, ImageError> {
        let name: Option<ImageName> = name.map(str::parse).transpose()?;
        let scratch = self
            .store
            .stage()
            .map_err(ImageError::store("make a directory for the images"))?;
        let most = self.settings.max_image_bytes;
        let layout = Layout::open(path, scratch.path(), most)?;
        let node = Platform::of_node();
        let mut found = layout.images(&node)?;
        if let Some(name) = name {
            match found.as_mut_slice() {
                [one] => one.names = vec![name.to_string()],
                many => {
                    return Err(ImageError::Layout(layout::LayoutError::Rule {
                        field: "name".to_owned(),
                        rule: format!("must be for one image, there are {}", many.len()),
                    }));
                }
            }
        }
        found
            .iter()
            .map(|image| self.take(&layout, image, &node))
            .collect()
    }

    fn take(&self, layout: &Layout, found: &Found, node: &Platform) -> Result<Loaded, ImageError> {
        let digest = Digest::of(&found.bytes);
        let name = found
            .names
            .first()
            .cloned()
            .unwrap_or_else(|| digest.to_string());
        let bad = |source| ImageError::Manifest {
            name: name.clone(),
            source,
        };
        let config = layout.document(&found.config)?;
        if Digest::of(&config) != found.manifest.config.digest {
            return Err(ImageError::Mismatch {
                name,
                what: "the configuration",
                want: found.manifest.config.digest,
                is: Digest::of(&config),
            });
        }
        let n_layers = found.manifest.layers.len();
        let config_digest = found.manifest.config.digest;
        let (run, diff_ids) =
            manifest::parse_config(&config, config_digest, n_layers, node).map_err(bad)?;
        let _pins = self.store.pin(diff_ids.iter().copied());
        let mut compressed_bytes = 0u64;
        debug_assert!(diff_ids.len() <= MAX_LAYERS, "manifests are bounded");
        for ((layer, file), diff_id) in found
            .manifest
            .layers
            .iter()
            .zip(&found.layers)
            .zip(&diff_ids)
        {
            compressed_bytes = compressed_bytes.saturating_add(layer.size);
            if self.store.has_layer(*diff_id) {
                continue;
            }
            let expected = Expected {
                name: name.clone(),
                blob: layer.digest,
                size: layer.size,
                diff_id: *diff_id,
                max_bytes: self.settings.max_image_bytes,
            };
            ingest(&self.store, &expected, layout.file(file)?)?;
        }
        let record = Record {
            digest,
            layers: diff_ids,
            config: run,
            compressed_bytes,
        };
        let documents = [
            (digest, found.bytes.as_slice()),
            (config_digest, config.as_slice()),
        ];
        self.store
            .add_image(record, &documents, &found.names)
            .map_err(ImageError::store("keep the image"))?;
        self.tell_size();
        tracing::info!(image = name, %digest, "image loaded");
        Ok(Loaded {
            names: found.names.clone(),
            digest: digest.to_string(),
        })
    }

    /// Unmounts and removes a task's root. Blocking; nothing for a task that has none.
    pub fn release(&self, task_id: &TaskId) -> io::Result<()> {
        let dir = TaskDir::new(&self.work_dir, task_id);
        let done = RootDir::new(dir.path()).remove();
        // Also when something of it stays: its layers are not what is left.
        self.store.end_use(task_id);
        done
    }

    /// After a restart: the roots of these tasks stay, all others go. From here on images are collected. Blocking.
    pub fn keep(&self, live: &BTreeSet<TaskId>) -> io::Result<()> {
        let mut first = Ok(());
        let tasks = match fs::read_dir(self.work_dir.join("tasks")) {
            Ok(tasks) => tasks,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.kept.store(true, Ordering::SeqCst);
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        for entry in tasks {
            let name = entry?.file_name();
            let Some(task_id) = name.to_str().and_then(|n| TaskId::new(n).ok()) else {
                continue;
            };
            let root = RootDir::new(TaskDir::new(&self.work_dir, &task_id).path());
            if !root.exists() {
                continue;
            }
            if live.contains(&task_id) {
                if let Some((image, layers)) = root.image() {
                    self.store.adopt_use(&task_id, image, layers);
                }
            } else if let Err(e) = self.release(&task_id) {
                tracing::warn!(%task_id, error = %e, "the root of a task that is gone stays");
                first = first.and(Err(e));
            }
        }
        self.kept.store(true, Ordering::SeqCst);
        self.tell_size();
        first
    }

    /// All images, by name.
    pub fn list(&self) -> Vec<Listed> {
        self.store.list()
    }

    /// Removes images that are too old or too much, from time to time, until it is dropped.
    pub async fn work(self: Arc<Self>) {
        let mut tick = tokio::time::interval(COLLECT_EVERY);
        loop {
            tick.tick().await;
            if let Err(error) = self.collect(self.settings.store_bytes).await {
                tracing::warn!(%error, "images that should go stay");
            }
        }
    }

    /// Removes what no task has: all that is too old, and the longest unused until the rest is at most `bytes`.
    pub async fn collect(&self, bytes: u64) -> io::Result<Pruned> {
        if !self.kept.load(Ordering::SeqCst) {
            let why = "which images tasks have is not known yet";
            return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
        }
        let max_age = u64::try_from(self.settings.max_age.as_millis()).unwrap_or(u64::MAX);
        let bounds = Bounds {
            bytes,
            oldest_ms: clock::now().0.saturating_sub(max_age),
        };
        let store = Arc::clone(&self.store);
        let (images, bytes) = tokio::task::spawn_blocking(move || store.collect(bounds))
            .await
            .map_err(io::Error::other)
            .flatten()?;
        if !images.is_empty() || bytes > 0 {
            tracing::info!(n = images.len(), bytes, "images collected");
            let n = images.len() as u64;
            self.telemetry.count(&names::IMAGES_COLLECTED, &[], n);
            self.tell_size();
        }
        Ok(Pruned {
            images: images.iter().map(ToString::to_string).collect(),
            bytes,
        })
    }

    fn tell_size(&self) {
        let bytes = self.store.disk_bytes() as f64;
        self.telemetry.set(&names::IMAGE_STORE_SIZE, &[], bytes);
    }
}
