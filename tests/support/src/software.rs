//! Layers of images made of what is installed on this machine: programs with the libraries that they are linked with,
//! and trees of files beside them.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use crate::images::Layer;

/// Files by the place that they have in the image, each read where it really is.
#[derive(Debug, Clone, Default)]
pub struct Files {
    files: BTreeMap<PathBuf, PathBuf>,
}

impl Files {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A program, or a library that one loads by itself; not what it is linked with.
    pub fn program(mut self, path: &str) -> anyhow::Result<Self> {
        let real = std::fs::canonicalize(path).with_context(|| path.to_owned())?;
        self.files.insert(PathBuf::from(path), real);
        Ok(self)
    }

    /// A directory with all that `wanted` lets through, by the path below it. Links are followed.
    pub fn tree(mut self, dir: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Self> {
        let mut dirs = vec![PathBuf::from(dir)];
        while let Some(at) = dirs.pop() {
            let entries = std::fs::read_dir(&at).with_context(|| at.display().to_string())?;
            for entry in entries {
                let path = entry?.path();
                let below = path.strip_prefix(dir)?.display().to_string();
                if !wanted(&below) {
                    continue;
                }
                // A link that leads nowhere is left out.
                match std::fs::canonicalize(&path) {
                    Ok(real) if real.is_dir() => dirs.push(path),
                    Ok(real) => drop(self.files.insert(path, real)),
                    Err(_) => {}
                }
            }
        }
        Ok(self)
    }

    /// All libraries that these are linked with, the loader among them (`ldd`).
    pub fn libraries(&self) -> anyhow::Result<Self> {
        let mut out = Self::new();
        for real in self.files.values() {
            let listed = Command::new("ldd").arg(real).output().context("ldd")?;
            // A file that is no program has none.
            for line in String::from_utf8_lossy(&listed.stdout).lines() {
                let path = line.split_whitespace().find(|w| w.starts_with('/'));
                if let Some(path) = path {
                    out = out.program(path)?;
                }
            }
        }
        Ok(out)
    }

    /// Both.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.files.extend(other.files);
        self
    }

    /// As a layer: root's, modes as here. Directories come before what is in them.
    pub fn layer(&self) -> anyhow::Result<Layer> {
        let mut layer = Layer::new();
        let mut dirs = BTreeSet::new();
        for (path, real) in &self.files {
            let inside = path.strip_prefix("/").unwrap_or(path);
            let above: Vec<&Path> = inside.ancestors().skip(1).collect();
            for dir in above.into_iter().rev().filter(|d| *d != Path::new("")) {
                if dirs.insert(dir.to_owned()) {
                    layer = layer.dir(&dir.display().to_string(), 0o755);
                }
            }
            let bytes = std::fs::read(real).with_context(|| real.display().to_string())?;
            let mode = std::fs::metadata(real)?.permissions().mode() & 0o777;
            layer = layer.file(&inside.display().to_string(), mode, &bytes);
        }
        if self.files.is_empty() {
            bail!("a layer without files");
        }
        Ok(layer)
    }
}
