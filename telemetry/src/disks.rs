//! Which directory is whose: each endpoint has spools of its own, found again by what the endpoint is, not by its place among others.
//!
//! `DIR/HOST-IDENTITY/{logs,spans,metrics}`. The identity is made of the URL alone, so that a changed key keeps what waits; where
//! two endpoints have one URL, of their headers, too: these tell tenants apart there.

use std::{
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

/// The spools of all signals of one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Disks {
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
        let dirs: Vec<PathBuf> = (0..to.len())
            .map(|idx| config.dir.join(dir_name(to, idx)))
            .collect();
        fs::create_dir_all(&config.dir).map_err(bad)?;
        if let [only] = &dirs[..] {
            take_over(&config.dir, only).map_err(bad)?;
        }
        tell_of_others(config, &dirs);
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

/// The name of an endpoint's directory: for people, then for us.
fn dir_name(all: &[Destination], idx: usize) -> String {
    let Some(to) = all.get(idx) else {
        return String::new();
    };
    let url = to.url.trim_end_matches('/');
    let mut hash = Sha256::new();
    hash.update(url);
    let same = |other: &&Destination| other.url.trim_end_matches('/') == url;
    if all.iter().filter(same).count() > 1 {
        let mut headers: Vec<_> = to.headers.iter().collect();
        headers.sort();
        for word in headers.into_iter().flat_map(|(name, value)| [name, value]) {
            hash.update([0]);
            hash.update(word);
        }
        // What is the same in all of that is one endpoint given twice.
        let twin = |other: &&Destination| same(other) && other.headers == to.headers;
        let n = all[..idx].iter().filter(twin).count();
        if n > 0 {
            hash.update([0, 0]);
            hash.update(n.to_string());
        }
    }
    let rest = url.split_once("://").map_or(url, |(_, r)| r);
    let host = rest.split('/').next().unwrap_or(rest);
    let host = host.rsplit_once('@').map_or(host, |(_, h)| h);
    let known = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let host: String = host
        .chars()
        .take(HOST)
        .map(|c| if known(c) { c } else { '_' })
        .collect();
    let identity = &hash.finalize()[..IDENTITY];
    let mut name = host + "-";
    for byte in identity {
        // Writing to a String can't fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Until now the first endpoint's spools were at the top. With one endpoint they are its; with several nobody knows whose.
fn take_over(top: &Path, dir: &Path) -> io::Result<()> {
    for signal in Signal::ALL {
        let (from, to) = (top.join(signal.name()), dir.join(signal.name()));
        if from.is_dir() && !to.exists() {
            fs::create_dir_all(dir)?;
            fs::rename(&from, &to)?;
            tracing::info!(%signal, to = %to.display(), "the spool has a directory of its endpoint's own now");
        }
    }
    Ok(())
}

/// Spools that are no endpoint's any more: people are told; what is older than anything may wait is removed.
fn tell_of_others(config: &SpoolConfig, known: &[PathBuf]) {
    let Ok(entries) = fs::read_dir(&config.dir) else {
        return;
    };
    let dirs = entries.flatten().map(|e| e.path());
    for dir in dirs.filter(|d| is_spool(d) && !known.contains(d)) {
        let (bytes, newest) = waiting(&dir);
        let age = newest.and_then(|at| SystemTime::now().duration_since(at).ok());
        let dir_shown = dir.display();
        if bytes == 0 || age.unwrap_or(Duration::ZERO) > config.max_age {
            if let Err(error) = remove(&dir) {
                tracing::warn!(dir = %dir_shown, %error, "a spool of no endpoint stays");
            }
        } else {
            tracing::warn!(dir = %dir_shown, bytes, "a spool is of no endpoint that is configured: it waits for that until it is too old");
        }
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
        let _ = fs::remove_file(dir.join("cursor"));
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

    fn names(all: &[Destination]) -> Vec<String> {
        (0..all.len()).map(|idx| dir_name(all, idx)).collect()
    }

    #[test]
    fn an_endpoint_has_its_directory_whatever_its_place() {
        let (dot, dash) = (to("http://a.b:1", &[]), to("http://a-b:1", &[]));
        let one = names(&[dot.clone(), dash.clone()]);
        let other = names(&[dash, dot.clone()]);
        assert_eq!([&one[0], &one[1]], [&other[1], &other[0]]);
        assert_ne!(one[0], one[1]);
        assert!(one[0].starts_with("a.b_1-"), "{one:?}");
        // Another key is the same endpoint; another tenant of one URL is not.
        let keyed = to("http://a.b:1/", &[("key", "x")]);
        assert_eq!(names(std::slice::from_ref(&keyed))[0], one[0]);
        let tenants = names(&[dot.clone(), keyed.clone()]);
        assert_ne!(tenants[0], tenants[1]);
        assert_eq!(names(&[keyed, dot.clone()])[1], tenants[0]);
        let twins = names(&[dot.clone(), dot.clone()]);
        assert_ne!(twins[0], twins[1]);
        // Names are no paths.
        let odd = names(&[to("http://u:p@../../x", &[])]);
        assert!(!odd[0].contains('/') && !odd[0].contains("p@"), "{odd:?}");
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
        let known = [dir.path().join("mine-1")];
        file("empty/metrics/cursor");
        tell_of_others(&config, &known);
        assert!(dir.path().join("old_host/logs").is_dir());
        assert!(!dir.path().join("empty").exists());
        config.max_age = Duration::ZERO;
        tell_of_others(&config, &known);
        assert!(!dir.path().join("old_host").exists());
        assert!(dir.path().join("people/notes.txt").exists());
        assert!(dir.path().join("mine-1/logs/0000000000000001.seg").exists());
        // Of the layout before.
        file("spans/0000000000000002.seg");
        take_over(dir.path(), &known[0]).unwrap();
        assert!(
            dir.path()
                .join("mine-1/spans/0000000000000002.seg")
                .exists()
        );
        assert!(!dir.path().join("spans").exists());
    }
}
