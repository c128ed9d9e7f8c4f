//! Embeds the kernel programs' object files, or empty stubs where they were not built.
//!
//! The first object is looked for at `$WAGGLE_EBPF_OBJECT`, else at `<target>/bpf/waggle-ebpf.o`, where
//! `cargo xtask build-ebpf` puts it; the others are beside it. Cargo runs this again whenever an object (or, while it does not
//! exist, the directory in which it would appear) changes, so that no clean build is needed after
//! the first `build-ebpf`.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=WAGGLE_EBPF_OBJECT");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    let source = match env::var_os("WAGGLE_EBPF_OBJECT") {
        Some(path) => {
            let path = PathBuf::from(path);
            if !path.is_file() {
                return Err(format!("WAGGLE_EBPF_OBJECT: no file at {}", path.display()).into());
            }
            println!("cargo::rerun-if-changed={}", path.display());
            Some(path)
        }
        None => default_object(&out_dir),
    };

    // Empty means: no programs in this binary.
    let bytes = match &source {
        Some(path) => fs::read(path)?,
        None => Vec::new(),
    };
    fs::write(out_dir.join("waggle-ebpf.o"), bytes)?;
    for name in OTHERS {
        let beside = source.as_ref().map(|path| path.with_file_name(name));
        let bytes = if let Some(path) = beside.filter(|path| path.is_file()) {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(path)?
        } else {
            // Built before this object was one: where it will appear is watched.
            if let Some(dir) = source.as_ref().and_then(|path| path.parent()) {
                println!("cargo::rerun-if-changed={}", dir.display());
            }
            Vec::new()
        };
        fs::write(out_dir.join(name), bytes)?;
    }
    Ok(())
}

/// Objects that only some nodes load.
const OTHERS: [&str; 7] = [
    "waggle-edge.o",
    "waggle-dsr.o",
    "waggle-packet.o",
    "waggle-overlay.o",
    "waggle-observe.o",
    "waggle-requests.o",
    "waggle-inject.o",
];

/// Finds `<target>/bpf/waggle-ebpf.o` and tells cargo what to watch.
fn default_object(out_dir: &Path) -> Option<PathBuf> {
    let target = target_dir(out_dir)?;
    let object = target.join("bpf/waggle-ebpf.o");
    if object.is_file() {
        println!("cargo::rerun-if-changed={}", object.display());
        return Some(object);
    }
    // A path that does not exist would make cargo run this on every build; a directory is watched
    // by its newest content, and this one holds only what build-ebpf puts there.
    let dir = target.join("bpf");
    if fs::create_dir_all(&dir).is_ok() {
        println!("cargo::rerun-if-changed={}", dir.display());
    }
    None
}

/// The target directory: `OUT_DIR` is `<target>[/<triple>]/<profile>/build/<crate>-<hash>/out`. Cargo
/// marks `<target>` with `CACHEDIR.TAG` or `.rustc_info.json`.
fn target_dir(out_dir: &Path) -> Option<PathBuf> {
    out_dir
        .ancestors()
        .skip(4)
        .find(|dir| {
            dir.join(".rustc_info.json").is_file()
                || (dir.join("CACHEDIR.TAG").is_file() && dir.join("debug").is_dir())
        })
        .or_else(|| out_dir.ancestors().nth(4))
        .map(Path::to_path_buf)
}
