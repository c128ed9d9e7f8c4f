//! Code generated from the protobuf files: committed, and checked for freshness.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::run::repo;

/// Regenerates, or checks with `check` that there is nothing to regenerate.
pub fn main(check: bool) -> anyhow::Result<ExitCode> {
    if check {
        fresh()?;
        println!("generated code is fresh");
    } else {
        let gen_dir = out_dir();
        std::fs::create_dir_all(&gen_dir)?;
        for (name, text) in generate()? {
            std::fs::write(gen_dir.join(&name), text)?;
            println!("wrote master/api/src/gen/{name}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn out_dir() -> PathBuf {
    repo().join("master/api/src/gen")
}

/// Fails when the committed code is not what would be generated.
pub fn fresh() -> anyhow::Result<()> {
    for (name, text) in generate()? {
        let committed = std::fs::read_to_string(out_dir().join(&name)).unwrap_or_default();
        if committed != text {
            bail!("master/api/src/gen/{name} is not what its .proto says; run `cargo xtask proto`");
        }
    }
    Ok(())
}

fn generate() -> anyhow::Result<BTreeMap<String, String>> {
    let dir = repo().join("master/api/proto");
    let mut protos: Vec<PathBuf> = std::fs::read_dir(&dir)
        .with_context(|| format!("read {}", dir.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "proto"))
        .collect();
    protos.sort();
    let out = tempfile::tempdir().context("make a directory to generate into")?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // tonic's own `connect` would collide with the call of that name.
        .build_transport(false)
        // Ordered, so that equal messages have equal bytes.
        .btree_map(".")
        .out_dir(out.path())
        .compile_protos(&protos, &[dir])
        .context("generate code (needs protoc)")?;
    read_all(out.path())
}

fn read_all(dir: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, std::fs::read_to_string(entry.path())?);
    }
    Ok(files)
}
