//! Puts what a task's spec names into its sandbox before it starts, as Mesos's fetcher does: from web servers and files
//! of the host, unpacked where that is asked for, as the task's user's.
//!
//! A file of the host is read with the rights of the task's user. A task with an image does not see the host's files, so
//! it only gets those below the directories that the node's policy lets tasks mount.

mod cache;
mod http;
mod uri;

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use url::Url;
use waggle_telemetry::{Telemetry, names};
use waggle_types::{ScalarKind, TaskSpec};

use crate::{
    shim::UserIds,
    storage::records::hex,
    sys,
    unpack::{Bounds, root::Root, unpack},
};
use cache::{Cache, Held, Key, Ready};
use http::{Client, HttpError, Sink};
use uri::{From, Then, Wanted};

/// Downloads of one node at the same time; others wait for their turn.
const MAX_DOWNLOADS: usize = 16;
/// Attempts at one download.
const MAX_ATTEMPTS: u32 = 4;
/// Wait after the first attempt; doubled after each.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Least that an entry of the cache counts, so that empty ones are bounded too.
const MIN_ENTRY: u64 = 4096;

/// What the fetcher is told by the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchSettings {
    /// Size of the cache; Mesos's default is 2 GB.
    pub cache_bytes: u64,
    /// A download of which nothing comes for so long is given up; Mesos's default is 1 minute.
    pub stall: Duration,
    /// Certificates of servers to trust beside the system's, as a PEM file.
    pub tls_roots: Option<PathBuf>,
    /// Largest file, and most that an archive may unpack to.
    pub max_bytes: u64,
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            cache_bytes: 2 << 30,
            stall: Duration::from_mins(1),
            tls_roots: None,
            max_bytes: 64 << 30,
        }
    }
}

/// The node's fetcher.
#[derive(Clone)]
pub struct Fetcher {
    cache: Cache,
    client: Client,
    host_paths: Vec<PathBuf>,
    max_bytes: u64,
    enforce_disk: bool,
    turns: Arc<Semaphore>,
    telemetry: Telemetry,
}

impl Fetcher {
    /// With a cache below a work directory, which begins empty. With `enforce_disk` no task gets more than its disk.
    /// Blocking.
    pub fn open(
        work_dir: &Path,
        settings: &FetchSettings,
        host_paths: &[PathBuf],
        enforce_disk: bool,
        telemetry: Telemetry,
    ) -> io::Result<Self> {
        Ok(Self {
            cache: Cache::open(&work_dir.join("fetch"), settings.cache_bytes)?,
            client: Client::new(settings.tls_roots.as_deref(), settings.stall),
            host_paths: host_paths.to_vec(),
            max_bytes: settings.max_bytes,
            enforce_disk,
            turns: Arc::new(Semaphore::new(MAX_DOWNLOADS)),
            telemetry,
        })
    }

    /// Fetches all that a task names, one after the other. The error names the URI and says what failed.
    pub async fn fetch(
        &self,
        spec: &TaskSpec,
        sandbox: &Path,
        owner: Option<&UserIds>,
    ) -> Result<(), String> {
        let all = uri::plan(&spec.container.fetch)?;
        let job = Job {
            fetcher: self.clone(),
            sandbox: sandbox.to_owned(),
            owner: owner.cloned(),
            has_image: spec.container.image.is_some(),
            max_bytes: self.max_of(spec),
        };
        for wanted in all {
            let begun = Instant::now();
            let shown = wanted.shown.clone();
            let done = job.one(wanted).await;
            let outcome = if done.is_ok() { "ok" } else { "error" };
            let attrs = [(names::OUTCOME, outcome.into())];
            self.telemetry.count(&names::FETCHES, &attrs, 1);
            let took = begun.elapsed().as_secs_f64();
            self.telemetry.record(&names::FETCH_DURATION, &attrs, took);
            let (bytes, evicted) = self.cache.figures();
            self.telemetry
                .set(&names::FETCH_CACHE_SIZE, &[], bytes as f64);
            self.telemetry
                .set(&names::FETCH_CACHE_EVICTED, &[], evicted as f64);
            match done {
                Ok(bytes) => self.telemetry.count(&names::FETCH_BYTES, &[], bytes),
                Err(why) => return Err(format!("failed to fetch {shown}: {why}")),
            }
        }
        Ok(())
    }

    /// Most bytes that a task may get.
    fn max_of(&self, spec: &TaskSpec) -> u64 {
        let disk = spec.resources.get(ScalarKind::Disk).0;
        match u64::try_from(disk) {
            // Thousandths of a MiB.
            Ok(disk) if disk > 0 && self.enforce_disk => {
                self.max_bytes.min(disk.saturating_mul(1 << 20) / 1000)
            }
            _ => self.max_bytes,
        }
    }
}

/// Fetching for one task.
#[derive(Clone)]
struct Job {
    fetcher: Fetcher,
    sandbox: PathBuf,
    owner: Option<UserIds>,
    has_image: bool,
    max_bytes: u64,
}

/// A file to copy or to unpack.
enum Source {
    Host(File),
    Cached(Held),
}

impl Job {
    /// Answers how many bytes were put into the sandbox.
    async fn one(&self, wanted: Wanted) -> Result<u64, String> {
        let source = match &wanted.from {
            From::File(path) => {
                let (job, path) = (self.clone(), path.clone());
                Source::Host(blocking(move || job.open_host(&path)).await?)
            }
            From::Http(url) => {
                let cached = if wanted.cache {
                    self.cached(url, &wanted).await?
                } else {
                    None
                };
                match cached {
                    Some(held) => Source::Cached(held),
                    None => return self.direct(url.clone(), wanted).await,
                }
            }
        };
        let job = self.clone();
        blocking(move || job.place(&source, &wanted)).await
    }

    fn open_host(&self, path: &Path) -> Result<File, String> {
        let failed = |e: io::Error| e.to_string();
        if self.has_image {
            let real = fs::canonicalize(path).map_err(failed)?;
            let allowed = |dir: &PathBuf| {
                let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.clone());
                real.starts_with(dir)
            };
            if !self.fetcher.host_paths.iter().any(allowed) {
                return Err(
                    "a task with an image gets files of the host only where the node's policy allows \
                     (--allow-host-paths)"
                        .to_owned(),
                );
            }
            return sys::open_plain(&real).map_err(failed);
        }
        match &self.owner {
            Some(user) => sys::open_as(user, path).map_err(failed),
            None => sys::open_plain(path).map_err(failed),
        }
    }

    /// Copies or unpacks what is there. Blocking.
    fn place(&self, source: &Source, wanted: &Wanted) -> Result<u64, String> {
        let root = self.root()?;
        let (mut file, checked) = match source {
            Source::Host(file) => (file.try_clone().map_err(|e| e.to_string())?, false),
            Source::Cached(held) => (File::open(&held.path).map_err(|e| e.to_string())?, true),
        };
        if !checked && let Some(want) = wanted.sha256 {
            compare(want, digest(&mut file)?)?;
        }
        if let Then::Unpack(format) = wanted.then {
            return unpack(file, &wanted.name, format, &root, self.bounds())
                .map_err(|e| format!("failed to unpack it: {e}"));
        }
        let mut to = create(&root, wanted)?;
        let n = io::copy(&mut (&mut file).take(self.max_bytes + 1), &mut to)
            .map_err(|e| format!("failed to write it: {e}"))?;
        if n > self.max_bytes {
            return Err(HttpError::TooLarge(self.max_bytes).to_string());
        }
        Ok(n)
    }

    /// Downloads into the sandbox. An archive stays beside what was in it, as in Mesos.
    async fn direct(&self, url: Url, wanted: Wanted) -> Result<u64, String> {
        let (job, to) = (self.clone(), wanted.clone());
        let file = blocking(move || {
            let root = job.root()?;
            create(&root, &to)
        })
        .await?;
        let mut sink = FileSink::new(file, self.max_bytes, None);
        let got = self.download(&url, &mut sink).await;
        let (file, bytes, sha256) = match got {
            Ok(()) => sink.end(),
            Err(e) => {
                // Half a file is worse than none.
                let path = self.sandbox.join(wanted.name.as_path());
                let _ = fs::remove_file(path);
                return Err(e.to_string());
            }
        };
        if let Some(want) = wanted.sha256
            && let Err(e) = compare(want, sha256)
        {
            let _ = fs::remove_file(self.sandbox.join(wanted.name.as_path()));
            return Err(e);
        }
        let Then::Unpack(format) = wanted.then else {
            return Ok(bytes);
        };
        drop(file);
        let job = self.clone();
        blocking(move || {
            let root = job.root()?;
            let file = root
                .read(&wanted.name)
                .map_err(|e| format!("failed to open the archive: {e}"))?;
            let n = unpack(file, &wanted.name, format, &root, job.bounds())
                .map_err(|e| format!("failed to unpack it: {e}"))?;
            Ok(bytes + n)
        })
        .await
    }

    /// The file in the cache, downloaded if it is not there; `None` when there is no room for it.
    async fn cached(&self, url: &Url, wanted: &Wanted) -> Result<Option<Held>, String> {
        let key = Key {
            uid: self.owner.as_ref().map(|o| o.uid),
            uri: url.to_string(),
        };
        let (held, hit) = self.fetcher.cache.hold(&key);
        let got = held.cell.get_or_try_init(|| self.fill(url, &held)).await;
        let outcome = match (&got, hit) {
            (Ok(_), true) => "hit",
            (Ok(_), false) => "miss",
            (Err(HttpError::NoRoom), _) => "no_room",
            (Err(_), _) => "error",
        };
        let attrs = [(names::OUTCOME, outcome.into())];
        self.fetcher
            .telemetry
            .count(&names::FETCH_CACHE_REQUESTS, &attrs, 1);
        let ready = match got {
            Ok(ready) => ready.clone(),
            Err(HttpError::NoRoom) => return Ok(None),
            Err(e) => return Err(e.to_string()),
        };
        match wanted.sha256 {
            // What is in the cache may be old: what the server has now is the answer.
            Some(want) if want != ready.sha256 && hit => Ok(None),
            Some(want) => {
                compare(want, ready.sha256)?;
                Ok(Some(held))
            }
            None => Ok(Some(held)),
        }
    }

    async fn fill(&self, url: &Url, held: &Held) -> Result<Ready, HttpError> {
        let path = held.path.clone();
        let file = blocking(move || File::create(path).map_err(|e| e.to_string()))
            .await
            .map_err(|e| HttpError::Write(io::Error::other(e)))?;
        let mut sink = FileSink::new(file, self.fetcher.max_bytes, Some(held));
        if let Err(e) = self.download(url, &mut sink).await {
            held.give_back();
            return Err(e);
        }
        let (_, _, sha256) = sink.end();
        Ok(Ready {
            path: held.path.clone(),
            sha256,
        })
    }

    async fn download(&self, url: &Url, sink: &mut FileSink<'_>) -> Result<(), HttpError> {
        let turn = self.fetcher.turns.acquire().await;
        let _turn = turn.map_err(|_| HttpError::Unreachable("the agent stops".to_owned()))?;
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            match self.fetcher.client.get(url, sink).await {
                Err(e) if e.may_pass() && attempt < MAX_ATTEMPTS => {
                    tracing::info!(url = uri::without_credentials(url), error = %e, "a download is tried again");
                    sink.again()?;
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                other => return other,
            }
        }
        Ok(())
    }

    fn root(&self) -> Result<Root, String> {
        Root::open(&self.sandbox, self.owner.as_ref())
            .map_err(|e| format!("failed to open the sandbox: {e}"))
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            bytes: self.max_bytes,
            ..Bounds::default()
        }
    }
}

fn create(root: &Root, wanted: &Wanted) -> Result<File, String> {
    let mode = if wanted.then == Then::Executable {
        0o755
    } else {
        0o644
    };
    root.create(&wanted.name, mode).map_err(|e| {
        let name = wanted.name.as_path().display();
        format!("failed to create {name} in the sandbox: {e}")
    })
}

/// Writes a download, and adds up its digest.
struct FileSink<'a> {
    file: File,
    digest: Sha256,
    bytes: u64,
    max_bytes: u64,
    // An entry of the cache must have room first.
    held: Option<&'a Held>,
    reserved: u64,
}

impl<'a> FileSink<'a> {
    fn new(file: File, max_bytes: u64, held: Option<&'a Held>) -> Self {
        Self {
            file,
            digest: Sha256::new(),
            bytes: 0,
            max_bytes,
            held,
            reserved: 0,
        }
    }

    /// From the beginning.
    fn again(&mut self) -> Result<(), HttpError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(HttpError::Write)?;
        (self.digest, self.bytes) = (Sha256::new(), 0);
        Ok(())
    }

    fn end(self) -> (File, u64, [u8; 32]) {
        (self.file, self.bytes, self.digest.finalize().into())
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), HttpError> {
        if bytes > self.max_bytes {
            return Err(HttpError::TooLarge(self.max_bytes));
        }
        let bytes = bytes.max(MIN_ENTRY);
        if let Some(held) = self.held
            && bytes > self.reserved
        {
            if !held.reserve(bytes - self.reserved) {
                return Err(HttpError::NoRoom);
            }
            self.reserved = bytes;
        }
        Ok(())
    }
}

impl Sink for FileSink<'_> {
    fn expect(&mut self, bytes: u64) -> Result<(), HttpError> {
        self.reserve(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HttpError> {
        self.bytes += bytes.len() as u64;
        self.reserve(self.bytes)?;
        self.digest.update(bytes);
        // A page cache away: no thread is kept waiting for a disk here.
        self.file.write_all(bytes).map_err(HttpError::Write)
    }
}

fn digest(file: &mut File) -> Result<[u8; 32], String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let n = file.read(&mut buffer).map_err(|e| e.to_string())?;
        if n == 0 {
            break;
        }
        digest.update(&buffer[..n]);
    }
    file.rewind().map_err(|e| e.to_string())?;
    Ok(digest.finalize().into())
}

fn compare(want: [u8; 32], have: [u8; 32]) -> Result<(), String> {
    if want == have {
        return Ok(());
    }
    Err(format!("its sha256 is {}, not {}", hex(&have), hex(&want)))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(format!("a helper of the fetcher ended: {e}")))
}

#[cfg(test)]
mod tests;
