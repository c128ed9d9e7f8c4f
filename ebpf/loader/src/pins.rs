//! The layout of the pin directory: `<pin_dir>/v<ABI>/{maps,links,filters}/<name>`.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use waggle_ebpf_common::ABI_VERSION;

use crate::{LoadError, sys, tc};

/// Paths of this ABI version's pins.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
    version: PathBuf,
}

impl Pins {
    pub(crate) fn new(pin_dir: &Path) -> Self {
        Self::of(pin_dir, ABI_VERSION)
    }

    /// Those of a part with a version of its own.
    pub(crate) fn of(pin_dir: &Path, version: u32) -> Self {
        Self {
            root: pin_dir.to_path_buf(),
            version: pin_dir.join(format!("v{version}")),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.version.join("maps").join(name)
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.version.join("links").join(name)
    }

    /// The program of a filter at tc.
    pub(crate) fn filter(&self, name: &str) -> PathBuf {
        self.version.join("filters").join(name)
    }

    /// Makes the directories. The pin directory's parent must be on a bpffs.
    pub(crate) fn create(&self) -> Result<(), LoadError> {
        for dir in ["maps", "links", "filters"].map(|kind| self.version.join(kind)) {
            // Checked before anything is made: an ordinary directory would take mkdir, then refuse the pins.
            let existing = dir
                .ancestors()
                .find(|path| path.is_dir())
                .unwrap_or(Path::new("/"));
            if !is_bpffs(existing) {
                return Err(LoadError::NotBpffs {
                    path: self.root.clone(),
                });
            }
            fs::create_dir_all(&dir).map_err(|source| LoadError::File {
                action: "create directory",
                path: dir.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// Removes the pins of other ABI versions, links first. Their maps can't be reused.
    pub(crate) fn remove_other_versions(&self) -> Result<usize, LoadError> {
        let mut removed = 0;
        for name in entries(&self.root)? {
            let path = self.root.join(&name);
            if is_version(&name) && path != self.version {
                remove_version(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Whether a path is on a bpffs.
pub(crate) fn is_bpffs(path: &Path) -> bool {
    File::open(path)
        .and_then(|file| sys::fs_type(file.as_fd()))
        .is_ok_and(|kind| kind == sys::BPF_FS_MAGIC)
}

/// Removes all pins below a pin directory, and the directory. Unpinning a link detaches its program once
/// no process holds it. A directory that does not exist is success.
pub(crate) fn remove_all(pin_dir: &Path) -> Result<(), LoadError> {
    if !pin_dir.exists() {
        return Ok(());
    }
    for name in entries(pin_dir)? {
        let path = pin_dir.join(&name);
        if is_version(&name) {
            remove_version(&path)?;
        } else {
            // Pins of a part with an object of its own.
            remove_all(&path)?;
        }
    }
    remove_dir(pin_dir)
}

/// Whether a name in a pin directory is an ABI version's.
fn is_version(name: &str) -> bool {
    name.strip_prefix('v')
        .is_some_and(|v| v.parse::<u32>().is_ok())
}

/// Removes one version's pins: what is attached before maps, so that no program runs on a half-removed set.
fn remove_version(version: &Path) -> Result<(), LoadError> {
    for kind in ["links", "filters", "maps"] {
        let dir = version.join(kind);
        if !dir.exists() {
            continue;
        }
        let mut names = entries(&dir)?;
        if kind == "filters" {
            names = tc::in_order_of_removal(names);
        }
        for name in names {
            let path = dir.join(name);
            if kind == "filters" {
                // It is no pin that holds a filter.
                tc::remove_record(&path).map_err(|source| LoadError::File {
                    action: "remove the filter of",
                    path: path.clone(),
                    source,
                })?;
            }
            fs::remove_file(&path).map_err(|source| LoadError::File {
                action: "unpin",
                path: path.clone(),
                source,
            })?;
        }
        remove_dir(&dir)?;
    }
    remove_dir(version)
}

fn remove_dir(path: &Path) -> Result<(), LoadError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(LoadError::File {
            action: "remove directory",
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// Names in a directory, sorted.
fn entries(dir: &Path) -> Result<Vec<String>, LoadError> {
    let fail = |source| LoadError::File {
        action: "list",
        path: dir.to_path_buf(),
        source,
    };
    let mut names = fs::read_dir(dir)
        .map_err(fail)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail)?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_abi_version_is_part_of_every_path() {
        let pins = Pins::new(Path::new("/sys/fs/bpf/waggle/n1"));
        let version = format!("v{ABI_VERSION}");
        assert_eq!(
            pins.map("VIPS"),
            Path::new("/sys/fs/bpf/waggle/n1")
                .join(&version)
                .join("maps/VIPS")
        );
        assert_eq!(
            pins.link("connect4"),
            Path::new("/sys/fs/bpf/waggle/n1")
                .join(&version)
                .join("links/connect4")
        );
    }

    #[test]
    fn an_ordinary_directory_is_refused_and_stays_empty() {
        let dir = std::env::temp_dir().join(format!("waggle-pins-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let result = Pins::new(&dir).create();
        assert!(
            matches!(result, Err(LoadError::NotBpffs { .. })),
            "{result:?}"
        );
        assert_eq!(entries(&dir).unwrap(), Vec::<String>::new());
        fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn removing_what_is_not_there_is_success() {
        remove_all(Path::new("/nonexistent/waggle")).unwrap();
    }
}
