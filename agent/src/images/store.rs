//! Images on disk, by content.
//!
//! `<work_dir>/images/` holds `blobs/sha256/` (manifests and configurations as they came), `layers/<diff id>/fs` (each
//! layer unpacked once, whoever has it) beside `layer.json` with its size, `manifests/<digest>.json` (what an image
//! consists of; its time of change is the image's last use), `names.json` (which image a name meant last) and `tmp/`.
//! Compressed layers are not kept.
//!
//! # Invariants
//! - A layer's directory has its name only once it is whole, verified and on disk; an image's record is written after its
//!   layers, a name after its image. What a crash leaves is in `tmp/`, or a whole layer of no image.
//! - Nobody but root looks inside: layers hold set-uid programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use waggle_types::TaskId;

use super::{
    ImageConfig,
    collect::{self, Bounds, Candidate, Inventory},
    digest::Digest,
    unpack::{Unpacked, remove_path},
};
use crate::{
    clock,
    shim::{read_json, write_durably, write_json},
};

/// Most names that are kept; the one that was resolved longest ago makes room.
const MAX_NAMES: usize = 10_000;

/// What an image consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Its unpacked layers, the lowest first.
    pub layers: Vec<Digest>,
    /// What to run.
    pub config: ImageConfig,
    /// Bytes of its layers as they came, compressed.
    pub compressed_bytes: u64,
}

/// What a name meant, and when that was asked, Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The image.
    pub digest: Digest,
    /// When.
    pub at_ms: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Layer {
    disk_bytes: u64,
    came_ms: u64,
}

/// What a task has as its root.
struct Use {
    image: Digest,
    layers: Vec<Digest>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, Named>,
    images: BTreeMap<Digest, Record>,
    used_at_ms: BTreeMap<Digest, u64>,
    layers: BTreeMap<Digest, Layer>,
    uses: BTreeMap<TaskId, Use>,
    pins: BTreeMap<Digest, usize>,
}

/// The store.
pub struct Store {
    root: PathBuf,
    state: Mutex<State>,
    // Held while an image is written: two that write the same file would tear it.
    writing: Mutex<()>,
}

/// An image, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Names that mean it, in order.
    pub names: Vec<String>,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Number of its layers.
    pub n_layers: usize,
    /// Bytes of its layers on disk, those too that other images have.
    pub disk_bytes: u64,
    /// Bytes of its layers as they came, compressed.
    pub compressed_bytes: u64,
    /// When it was used last, Unix milliseconds.
    pub used_at_ms: u64,
    /// Tasks that have it as their root.
    pub tasks: Vec<String>,
}

impl Store {
    /// Opens what is there; what a crash left is removed. Blocking.
    pub fn open(root: &Path) -> io::Result<Self> {
        for dir in ["blobs/sha256", "layers", "manifests"] {
            fs::create_dir_all(root.join(dir))?;
        }
        fs::set_permissions(root, Permissions::from_mode(0o700))?;
        remove_path(&root.join("tmp"))?;
        fs::create_dir(root.join("tmp"))?;
        let mut state = State::default();
        for (digest, path) in digests(&root.join("layers"), "")? {
            match read_json(&path.join("layer.json")) {
                Ok(Some(layer)) => {
                    state.layers.insert(digest, layer);
                }
                _ => remove_path(&path)?,
            }
        }
        for (digest, path) in digests(&root.join("manifests"), ".json")? {
            let record: Option<Record> = read_json(&path).ok().flatten();
            let whole = record.filter(|r| {
                r.digest == digest && r.layers.iter().all(|l| state.layers.contains_key(l))
            });
            let Some(record) = whole else {
                fs::remove_file(&path)?;
                continue;
            };
            let used = fs::metadata(&path)?.modified()?;
            state.used_at_ms.insert(digest, millis(used));
            state.images.insert(digest, record);
        }
        // Unreadable names are like none: the registry is asked again.
        let names: Option<BTreeMap<String, Named>> =
            read_json(&root.join("names.json")).ok().flatten();
        state.names = names.unwrap_or_default();
        let State { names, images, .. } = &mut state;
        names.retain(|_, n| images.contains_key(&n.digest));
        let store = Self {
            root: root.to_owned(),
            state: Mutex::new(state),
            writing: Mutex::new(()),
        };
        store.remove_blobs_of_none()?;
        Ok(store)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a name meant last.
    pub fn named(&self, name: &str) -> Option<Named> {
        self.state().names.get(name).copied()
    }

    /// An image.
    pub fn image(&self, digest: Digest) -> Option<Record> {
        self.state().images.get(&digest).cloned()
    }

    /// Whether a layer is there. Only lasting while the layer is pinned.
    pub fn has_layer(&self, digest: Digest) -> bool {
        self.state().layers.contains_key(&digest)
    }

    /// Where a layer's files are.
    pub fn layer(&self, digest: Digest) -> PathBuf {
        self.root.join("layers").join(digest.hex()).join("fs")
    }

    /// Bytes of all layers.
    pub fn disk_bytes(&self) -> u64 {
        self.state().layers.values().map(|l| l.disk_bytes).sum()
    }

    /// Keeps layers, those too that are not there yet, until the guard is dropped.
    pub fn pin(self: &std::sync::Arc<Self>, layers: impl IntoIterator<Item = Digest>) -> Pins {
        let layers: BTreeSet<Digest> = layers.into_iter().collect();
        let mut state = self.state();
        for layer in &layers {
            *state.pins.entry(*layer).or_default() += 1;
        }
        drop(state);
        Pins {
            store: std::sync::Arc::clone(self),
            layers,
        }
    }

    /// A directory for something that is not whole yet. Blocking.
    pub fn stage(&self) -> io::Result<Staging> {
        let path = self
            .root
            .join("tmp")
            .join(uuid::Uuid::new_v4().simple().to_string());
        fs::create_dir(&path)?;
        Ok(Staging { path })
    }

    /// Takes an unpacked layer whose digest was verified. Blocking: it is on disk afterwards.
    pub fn add_layer(&self, digest: Digest, staging: &Staging, what: Unpacked) -> io::Result<()> {
        let layer = Layer {
            disk_bytes: what.disk_bytes,
            came_ms: clock::now().0,
        };
        fs::write(staging.path.join("layer.json"), serde_json::to_vec(&layer)?)?;
        nix::unistd::syncfs(File::open(&staging.path)?)?;
        let layers = self.root.join("layers");
        match fs::rename(&staging.path, layers.join(digest.hex())) {
            Ok(()) => {}
            // Somebody was faster.
            Err(_) if self.has_layer(digest) => return Ok(()),
            Err(e) => return Err(e),
        }
        File::open(layers)?.sync_all()?;
        self.state().layers.insert(digest, layer);
        Ok(())
    }

    /// Takes an image whose layers are there, with the documents that it was described by and the names that mean it.
    /// Blocking: it is on disk afterwards.
    pub fn add_image(
        &self,
        record: Record,
        documents: &[(Digest, &[u8])],
        names: &[String],
    ) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for (digest, bytes) in documents {
            let path = self.root.join("blobs/sha256").join(digest.hex());
            if !path.exists() {
                write_durably(&path, bytes)?;
            }
        }
        let path = self.record(record.digest);
        write_json(&path, &record)?;
        let now_ms = clock::now().0;
        let mut state = self.state();
        state.used_at_ms.insert(record.digest, now_ms);
        let digest = record.digest;
        state.images.insert(digest, record);
        for name in names {
            let at_ms = now_ms;
            state.names.insert(name.clone(), Named { digest, at_ms });
        }
        while state.names.len() > MAX_NAMES {
            let oldest = state.names.iter().min_by_key(|(_, n)| n.at_ms);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else {
                break;
            };
            state.names.remove(&oldest);
        }
        // With the lock: an older list must not be written after a newer one.
        self.write_names(&state)
    }

    fn write_names(&self, state: &State) -> io::Result<()> {
        write_json(&self.root.join("names.json"), &state.names)
    }

    fn record(&self, digest: Digest) -> PathBuf {
        self.root
            .join("manifests")
            .join(format!("{}.json", digest.hex()))
    }

    /// Says that a task has an image as its root. `None` when the image has gone meanwhile.
    pub fn begin_use(&self, task_id: &TaskId, digest: Digest) -> Option<Record> {
        let mut state = self.state();
        let record = state.images.get(&digest)?.clone();
        let layers = record.layers.clone();
        let image = digest;
        state.uses.insert(task_id.clone(), Use { image, layers });
        state.used_at_ms.insert(digest, clock::now().0);
        drop(state);
        // Not on disk at once: a use that is lost makes an image look older than it is.
        if let Ok(file) = File::open(self.record(digest)) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(record)
    }

    /// After a restart: a living task's root is mounted from these layers, whatever became of its image's record.
    pub fn adopt_use(&self, task_id: &TaskId, image: Digest, layers: Vec<Digest>) {
        let mut state = self.state();
        state.uses.insert(task_id.clone(), Use { image, layers });
    }

    /// A task has ended.
    pub fn end_use(&self, task_id: &TaskId) {
        self.state().uses.remove(task_id);
    }

    /// All images, by name.
    pub fn list(&self) -> Vec<Listed> {
        let state = self.state();
        let mut out: Vec<Listed> = state
            .images
            .values()
            .map(|r| {
                let names = state.names.iter().filter(|(_, n)| n.digest == r.digest);
                let layers: BTreeSet<&Digest> = r.layers.iter().collect();
                Listed {
                    names: names.map(|(name, _)| name.clone()).collect(),
                    digest: r.digest,
                    n_layers: r.layers.len(),
                    disk_bytes: layers
                        .iter()
                        .filter_map(|l| state.layers.get(l))
                        .map(|l| l.disk_bytes)
                        .sum(),
                    compressed_bytes: r.compressed_bytes,
                    used_at_ms: state.used_at_ms.get(&r.digest).copied().unwrap_or(0),
                    tasks: state
                        .uses
                        .iter()
                        .filter(|(_, u)| u.image == r.digest)
                        .map(|(t, _)| t.to_string())
                        .collect(),
                }
            })
            .collect();
        out.sort_by(|a, b| (&a.names, a.digest).cmp(&(&b.names, b.digest)));
        out
    }

    /// Removes what is too old or too much; the images that went, and the bytes that are free again. Blocking.
    pub fn collect(&self, bounds: Bounds) -> io::Result<(Vec<Digest>, u64)> {
        let mut freed = 0;
        let mut moved = Vec::new();
        let plan = {
            // Decided and moved away under one lock: nothing of it can be pinned or used meanwhile.
            let mut state = self.state();
            let plan = collect::plan(&inventory(&state), bounds);
            if plan == collect::Plan::default() {
                return Ok((Vec::new(), 0));
            }
            let State { names, .. } = &mut *state;
            names.retain(|_, n| !plan.images.contains(&n.digest));
            self.write_names(&state)?;
            for image in &plan.images {
                remove_file(&self.record(*image))?;
                state.images.remove(image);
                state.used_at_ms.remove(image);
            }
            for layer in &plan.layers {
                let to = self.root.join("tmp").join(uuid::Uuid::new_v4().to_string());
                fs::rename(self.root.join("layers").join(layer.hex()), &to)?;
                moved.push(to);
                freed += state.layers.remove(layer).map_or(0, |l| l.disk_bytes);
            }
            plan
        };
        self.remove_blobs_of_none()?;
        for path in moved {
            remove_path(&path)?;
        }
        Ok((plan.images, freed))
    }

    /// Manifests and configurations of no image.
    fn remove_blobs_of_none(&self) -> io::Result<()> {
        let blobs = digests(&self.root.join("blobs/sha256"), "")?;
        let state = self.state();
        let mut kept = BTreeSet::new();
        for record in state.images.values() {
            kept.insert(record.digest);
            kept.extend(record.config.digest.parse::<Digest>().ok());
        }
        let hour = Duration::from_hours(1);
        for (digest, path) in blobs.into_iter().filter(|(d, _)| !kept.contains(d)) {
            // A young one may belong to an image that is just being written.
            let age = fs::metadata(&path).and_then(|m| m.modified()).ok();
            let is_old = age.is_none_or(|t| t.elapsed().is_ok_and(|age| age > hour));
            if is_old {
                tracing::debug!(%digest, "a document of no image goes");
                remove_file(&path)?;
            }
        }
        Ok(())
    }
}

fn inventory(state: &State) -> Inventory {
    let in_use: BTreeSet<Digest> = state.uses.values().map(|u| u.image).collect();
    let mounted = state.uses.values().flat_map(|u| &u.layers);
    Inventory {
        images: state
            .images
            .iter()
            .map(|(digest, record)| {
                let candidate = Candidate {
                    layers: record.layers.clone(),
                    used_at_ms: state.used_at_ms.get(digest).copied().unwrap_or(0),
                    in_use: in_use.contains(digest),
                };
                (*digest, candidate)
            })
            .collect(),
        layers: state
            .layers
            .iter()
            .map(|(d, l)| (*d, (l.disk_bytes, l.came_ms)))
            .collect(),
        pinned: state.pins.keys().chain(mounted).copied().collect(),
    }
}

/// Layers that stay until it is dropped.
pub struct Pins {
    store: std::sync::Arc<Store>,
    layers: BTreeSet<Digest>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut state = self.store.state();
        for layer in &self.layers {
            if let Some(n) = state.pins.get_mut(layer) {
                *n -= 1;
                if *n == 0 {
                    state.pins.remove(layer);
                }
            }
        }
    }
}

/// A directory that goes unless it is taken.
pub struct Staging {
    path: PathBuf,
}

impl Staging {
    /// A new directory in it for a layer's files.
    pub fn make_fs(&self) -> io::Result<PathBuf> {
        let fs = self.path.join("fs");
        fs::create_dir(&fs)?;
        fs::set_permissions(&fs, Permissions::from_mode(0o755))?;
        Ok(fs)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = remove_path(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a half-made image stays until the next start");
        }
    }
}

fn digests(dir: &Path, suffix: &str) -> io::Result<Vec<(Digest, PathBuf)>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let hex = name.to_str().and_then(|n| n.strip_suffix(suffix));
        match hex.and_then(Digest::from_hex) {
            Some(digest) => out.push((digest, entry.path())),
            // What a crash left of a file that was being replaced.
            None if name.to_string_lossy().ends_with(".tmp") => remove_file(&entry.path())?,
            None => {}
        }
    }
    Ok(out)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
