//! Which directory is whose: each endpoint has spools of its own, found again by what the endpoint is, not by its place among others.
//!
//! `DIR/HOST-IDENTITY/{logs,spans,metrics}`. The identity is made of the URL alone; where several endpoints have had one URL, the next
//! ones' directories have a number behind it. A mark in each says which headers its endpoint had: these tell tenants of one URL
//! apart. A directory whose mark fits is the endpoint's; else the only one that is left, if it is the only endpoint that is left of
//! that URL: a key has changed, and what waits is kept. So no endpoint's directory depends on what others are configured.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};

use crate::{
    Destination, SpoolConfig, TelemetryError,
    pipe::{Signal, Way},
    spool::{SpoolLimits, disk::Disk},
};

/// Bytes of an identity that are in a directory's name, and letters of the host.
const IDENTITY: usize = 8;
const HOST: usize = 40;
/// The file that says which headers an endpoint had.
const MARK: &str = "endpoint";

/// The spools of all signals of one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Disks {
    base: PathBuf,
    all: [Disk; 3],
    pub(crate) replay_bytes_s: u64,
}

impl Disks {
    /// Opens those of all endpoints; what a process before this one left is handed in again.
    pub(crate) fn open_all(
        config: &SpoolConfig,
        to: &[Destination],
        ways: &[Arc<Way>],
    ) -> Result<Vec<Self>, TelemetryError> {
        let bad = |source| TelemetryError::BadSpool {
            dir: config.dir.clone(),
            source,
        };
        fs::create_dir_all(&config.dir).map_err(bad)?;
        let dirs = dirs_of(&config.dir, to).map_err(bad)?;
        if let [only] = &dirs[..] {
            take_over(&config.dir, only).map_err(bad)?;
        }
        let open = |(dir, way): (&PathBuf, &Arc<Way>)| Self::open(config, dir, way, dirs.len());
        dirs.iter().zip(ways).map(open).collect()
    }

    fn open(
        config: &SpoolConfig,
        base: &Path,
        way: &Way,
        n: usize,
    ) -> Result<Self, TelemetryError> {
        let n = u64::try_from(n.max(1)).unwrap_or(1);
        let open = |signal: Signal, part: u64| {
            let dir = base.join(signal.name());
            let limits = SpoolLimits {
                max_bytes: config.max_bytes / (part * n),
                max_age_ms: u64::try_from(config.max_age.as_millis()).unwrap_or(u64::MAX),
            };
            let opened = Disk::open(&dir, limits);
            opened.map_err(|source| TelemetryError::BadSpool { dir, source })
        };
        let (logs, n_logs) = open(Signal::Logs, 2)?;
        let (spans, n_spans) = open(Signal::Spans, 4)?;
        let (metrics, n_metrics) = open(Signal::Metrics, 4)?;
        way.logs.with(|q| q.found(n_logs));
        way.spans.with(|q| q.found(n_spans));
        way.metrics.with(|q| q.found(n_metrics));
        Ok(Self {
            base: base.to_owned(),
            all: [logs, spans, metrics],
            replay_bytes_s: config.replay_bytes_s,
        })
    }

    /// One signal's.
    pub(crate) fn of(&self, signal: Signal) -> &Disk {
        match signal {
            Signal::Logs => &self.all[0],
            Signal::Spans => &self.all[1],
            Signal::Metrics => &self.all[2],
        }
    }
}

/// The directory of each endpoint, made and marked where it is missing.
fn dirs_of(top: &Path, all: &[Destination]) -> io::Result<Vec<PathBuf>> {
    let mut there: BTreeMap<String, Option<String>> = BTreeMap::new();
    for entry in fs::read_dir(top)?.flatten() {
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().is_dir()
        {
            let mark = fs::read_to_string(entry.path().join(MARK)).ok();
            there.insert(name, mark.map(|m| m.trim().to_owned()));
        }
    }
    let wanted: Vec<(String, String)> = all.iter().map(|to| (base_name(to), mark(to))).collect();
    let names = assign(&wanted, &there);
    let mut dirs = Vec::with_capacity(names.len());
    for (name, (_, mark)) in names.into_iter().zip(wanted) {
        let dir = top.join(&name);
        if there.get(&name).and_then(Option::as_ref) != Some(&mark) {
            fs::create_dir_all(&dir)?;
            let tmp = dir.join("endpoint.tmp");
            fs::write(&tmp, mark)?;
            fs::rename(&tmp, dir.join(MARK))?;
        }
        dirs.push(dir);
    }
    Ok(dirs)
}

/// Which directory is whose, by the base of its name and the mark that is wanted; `there` are those that exist, with their marks.
fn assign(wanted: &[(String, String)], there: &BTreeMap<String, Option<String>>) -> Vec<String> {
    let mut found: Vec<Option<String>> = vec![None; wanted.len()];
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (name, (base, mark)) in found.iter_mut().zip(wanted) {
        let fits = |(dir, m): &(&String, &Option<String>)| {
            is_of(dir, base) && m.as_ref() == Some(mark) && !taken.contains(*dir)
        };
        if let Some((dir, _)) = there.iter().find(fits) {
            taken.insert(dir.clone());
            *name = Some(dir.clone());
        }
    }
    for at in 0..wanted.len() {
        let base = &wanted[at].0;
        if found[at].is_some() {
            continue;
        }
        let left = |i: &usize| found[*i].is_none() && wanted[*i].0 == *base;
        let is_only = (0..wanted.len()).filter(left).count() == 1;
        let mut free = there
            .keys()
            .filter(|d| is_of(d, base) && !taken.contains(*d));
        let name = if let (true, Some(dir), None) = (is_only, free.next(), free.next()) {
            dir.clone()
        } else {
            let mut names = (1_u64..).map(|n| match n {
                1 => base.clone(),
                n => format!("{base}.{n}"),
            });
            let is_new = |n: &String| !there.contains_key(n) && !taken.contains(n);
            names.find(is_new).unwrap_or_else(|| base.clone())
        };
        taken.insert(name.clone());
        found[at] = Some(name);
    }
    found.into_iter().map(Option::unwrap_or_default).collect()
}

/// Whether a directory is of endpoints with this base: it is that, or has a number behind it.
fn is_of(dir: &str, base: &str) -> bool {
    dir.strip_prefix(base).is_some_and(|rest| {
        let number = rest.strip_prefix('.').unwrap_or("x");
        rest.is_empty() || number.bytes().all(|b| b.is_ascii_digit())
    })
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        // Writing to a String can't fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Which headers an endpoint has, as far as that tells it from others of its URL: they may be secret.
fn mark(to: &Destination) -> String {
    let mut hash = Sha256::new();
    hash.update(to.url.trim_end_matches('/'));
    let mut headers: Vec<_> = to.headers.iter().collect();
    headers.sort();
    for word in headers.into_iter().flat_map(|(name, value)| [name, value]) {
        hash.update([0]);
        hash.update(word);
    }
    hex(&hash.finalize())
}

/// How the name of an endpoint's directory begins: for people, then for us.
fn base_name(to: &Destination) -> String {
    let url = to.url.trim_end_matches('/');
    let rest = url.split_once("://").map_or(url, |(_, r)| r);
    let host = rest.split('/').next().unwrap_or(rest);
    let host = host.rsplit_once('@').map_or(host, |(_, h)| h);
    let known = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let host: String = host
        .chars()
        .take(HOST)
        .map(|c| if known(c) { c } else { '_' })
        .collect();
    let identity = Sha256::digest(url);
    format!("{host}-{}", hex(&identity[..IDENTITY]))
}

/// Until now the first endpoint's spools were at the top. With one endpoint they are its; with several nobody knows whose.
fn take_over(top: &Path, dir: &Path) -> io::Result<()> {
    for signal in Signal::ALL {
        let (from, to) = (top.join(signal.name()), dir.join(signal.name()));
        if holds_only_segments(&from) && !to.exists() {
            fs::rename(&from, &to)?;
            tracing::info!(%signal, to = %to.display(), "the spool has a directory of its endpoint's own now");
        }
    }
    Ok(())
}

/// Whether all that a directory has, and it has something, is a spool's: a directory of that name may be anybody's.
fn holds_only_segments(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else {
        return false;
    };
    let is_ours = |entry: io::Result<fs::DirEntry>| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let number = name.strip_suffix(".seg").unwrap_or_default();
        let is_segment = number.len() == 16 && number.bytes().all(|b| b.is_ascii_hexdigit());
        (is_segment || name == "cursor").then_some(())
    };
    let all: Option<Vec<()>> = entries.map(is_ours).collect();
    all.is_some_and(|all| !all.is_empty())
}

/// Spools that are no endpoint's any more.
#[derive(Debug)]
pub(crate) struct Others {
    top: PathBuf,
    max_age: Duration,
    known: BTreeSet<PathBuf>,
}

impl Others {
    /// All below the spool's directory but these.
    pub(crate) fn beside(config: &SpoolConfig, disks: &[Disks]) -> Self {
        Self {
            top: config.dir.clone(),
            max_age: config.max_age,
            known: disks.iter().map(|d| d.base.clone()).collect(),
        }
    }

    /// People are told what is there.
    pub(crate) fn tell(&self) {
        for (dir, bytes, _) in self.find() {
            tracing::warn!(dir = %dir.display(), bytes, "a spool is of no endpoint that is configured: it waits for that until it is too old");
        }
    }

    /// Removes what has nothing in it, or waits for longer than anything may.
    pub(crate) fn sweep(&self) {
        let now = SystemTime::now();
        for (dir, bytes, newest) in self.find() {
            let age = newest.and_then(|at| now.duration_since(at).ok());
            if (bytes == 0 || age.unwrap_or_default() > self.max_age)
                && let Err(error) = remove(&dir)
            {
                tracing::warn!(dir = %dir.display(), %error, "a spool of no endpoint stays");
            }
        }
    }

    /// Each with its bytes and when it was last written to.
    fn find(&self) -> Vec<(PathBuf, u64, Option<SystemTime>)> {
        let entries = fs::read_dir(&self.top).into_iter().flatten().flatten();
        let dirs = entries.map(|e| e.path());
        let others = dirs.filter(|d| is_spool(d) && !self.known.contains(d));
        others
            .map(|dir| {
                let (bytes, newest) = waiting(&dir);
                (dir, bytes, newest)
            })
            .collect()
    }
}

/// Whether a directory was made here: people may have put others beside it.
fn is_spool(dir: &Path) -> bool {
    let below = Signal::ALL.map(|s| dir.join(s.name()));
    let mut dirs = std::iter::once(dir.to_owned()).chain(below);
    dirs.any(|d| d.join("cursor").is_file())
}

/// Bytes of segments below a directory, and when the last was written.
fn waiting(dir: &Path) -> (u64, Option<SystemTime>) {
    let (mut bytes, mut newest) = (0, None);
    for path in segments(dir) {
        let Ok(meta) = fs::metadata(&path) else {
            continue;
        };
        bytes += meta.len();
        newest = newest.max(meta.modified().ok());
    }
    (bytes, newest)
}

/// Removes what a spool's directory has, and nothing else.
fn remove(dir: &Path) -> io::Result<()> {
    for path in segments(dir) {
        fs::remove_file(path)?;
    }
    for dir in Signal::ALL
        .map(|s| dir.join(s.name()))
        .iter()
        .chain([&dir.to_owned()])
    {
        for own in ["cursor", MARK] {
            let _ = fs::remove_file(dir.join(own));
        }
        match fs::remove_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// The segments in a directory and in those of its signals.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let below = Signal::ALL.map(|s| dir.join(s.name()));
    let dirs = std::iter::once(dir.to_owned()).chain(below);
    let entries = dirs.filter_map(|d| fs::read_dir(d).ok()).flatten();
    let paths = entries.flatten().map(|e| e.path());
    paths
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(url: &str, headers: &[(&str, &str)]) -> Destination {
        let pair = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        Destination {
            headers: headers.iter().map(pair).collect(),
            ..Destination::new(url)
        }
    }

    /// Names of directories, at the top that these tests have.
    fn names(top: &Path, all: &[&Destination]) -> Vec<String> {
        let all: Vec<Destination> = all.iter().map(|to| (*to).clone()).collect();
        let dirs = dirs_of(top, &all).unwrap();
        let name = |d: &PathBuf| d.file_name().unwrap().to_str().unwrap().to_owned();
        dirs.iter().map(name).collect()
    }

    #[test]
    fn an_endpoint_has_its_directory_whatever_others_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        let (dot, dash) = (to("http://a.b:1", &[]), to("http://a-b:1", &[]));
        let one = names(top, &[&dot, &dash]);
        let other = names(top, &[&dash, &dot]);
        assert_eq!([&one[0], &one[1]], [&other[1], &other[0]]);
        assert_ne!(one[0], one[1]);
        assert!(one[0].starts_with("a.b_1-"), "{one:?}");
        // Another key is the same endpoint; another tenant of one URL is not, wherever it stands, and changes nothing for the first.
        let keyed = to("http://a.b:1/", &[("key", "x")]);
        assert_eq!(names(top, &[&keyed])[0], one[0]);
        let tenant = to("http://a.b:1", &[("key", "y")]);
        let tenants = names(top, &[&tenant, &keyed]);
        assert_eq!(tenants[1], one[0]);
        assert_ne!(tenants[0], tenants[1]);
        assert_eq!(names(top, &[&keyed])[0], one[0]);
        assert_eq!(names(top, &[&keyed, &tenant])[1], tenants[0]);
        // One of two has another key.
        let changed = to("http://a.b:1", &[("key", "z")]);
        assert_eq!(names(top, &[&changed, &tenant])[0], one[0]);
        // Two have: nobody knows which is which.
        let (p, q) = (
            to("http://a.b:1", &[("p", "")]),
            to("http://a.b:1", &[("q", "")]),
        );
        let new = names(top, &[&p, &q]);
        assert!(new.iter().all(|n| !tenants.contains(n)), "{new:?}");
        let twins = names(top, &[&dash, &dash]);
        assert_eq!(twins[0], one[1]);
        assert_ne!(twins[0], twins[1]);
        assert_eq!(names(top, &[&dash, &dash]), twins);
        // Names are no paths.
        let odd = names(top, &[&to("http://u:p@../../x", &[])]);
        assert!(!odd[0].contains('/') && !odd[0].contains("p@"), "{odd:?}");
        assert!(is_of("a-1", "a-1") && is_of("a-1.2", "a-1"));
        assert!(!is_of("a-12", "a-1") && !is_of("a-1.x", "a-1") && !is_of("a", "a-1"));
    }

    #[test]
    fn what_is_nobodys_goes_when_it_is_too_old() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = SpoolConfig::new(dir.path());
        let file = |path: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        };
        file("old_host/logs/0000000000000001.seg");
        file("old_host/logs/cursor");
        file("people/notes.txt");
        file("mine-1/logs/0000000000000001.seg");
        let known = dir.path().join("mine-1");
        file("empty/metrics/cursor");
        let others = |config: &SpoolConfig| Others {
            known: [known.clone()].into(),
            ..Others::beside(config, &[])
        };
        others(&config).sweep();
        assert!(dir.path().join("old_host/logs").is_dir());
        assert!(!dir.path().join("empty").exists());
        config.max_age = Duration::ZERO;
        others(&config).sweep();
        assert!(!dir.path().join("old_host").exists());
        assert!(dir.path().join("people/notes.txt").exists());
        assert!(dir.path().join("mine-1/logs/0000000000000001.seg").exists());
        // Of the layout before; what only has the name of it is somebody else's.
        file("spans/0000000000000002.seg");
        file("spans/cursor");
        file("logs/app.log");
        take_over(dir.path(), &known).unwrap();
        assert!(known.join("spans/0000000000000002.seg").exists());
        assert!(!dir.path().join("spans").exists());
        assert!(dir.path().join("logs/app.log").exists());
    }
}
