//! `build-ebpf`: the kernel programs, compiled for the BPF target, at `<target>/bpf/waggle-ebpf.o`.
//!
//! The compiler is a rustc of the distribution with core's source, driven by the ordinary cargo
//! (`RUSTC_BOOTSTRAP`), else rustup's nightly. The object is rebuilt when a source,
//! a flag or the toolchain changes, and rewritten only when its bytes change, so that what embeds it
//! is not rebuilt for nothing.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

const TARGET: &str = "bpfel-unknown-none";
const PACKAGE: &str = "waggle-ebpf-programs";
/// The `[[bin]]`s of the package: the programs of every node (first), then those that only some load.
const BINARIES: [&str; 10] = [
    "waggle-ebpf",
    "waggle-edge",
    "waggle-edge-bench",
    "waggle-empty-bench",
    "waggle-dsr",
    "waggle-packet",
    "waggle-overlay",
    "waggle-observe",
    "waggle-requests",
    "waggle-inject",
];
/// Overrides the compiler that is looked for.
const COMPILER_ENV: &str = "WAGGLE_BPF_RUSTC";
/// The workspace's rust-version: cargo refuses older compilers.
const MIN_RUSTC: (u32, u32) = (1, 95);
/// `debuginfo` and `--btf`: map definitions are in BTF, which is made of debug information.
const FLAGS: [&str; 4] = ["-C", "debuginfo=2", "-C", "link-arg=--btf"];

/// How to build.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Build even when nothing changed.
    pub force: bool,
}

/// A compiler for the BPF target, complete.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// rustc, with core's source in its sysroot.
    pub rustc: PathBuf,
    /// Its cargo, where it has one of its own; else the cargo that runs us.
    pub cargo: Option<PathBuf>,
    /// Versions of compiler and linker, for the cache and for reports.
    pub id: String,
}

/// A part of the toolchain that is not there.
#[derive(Debug, Clone)]
pub struct Missing {
    /// What.
    pub what: &'static str,
    /// The commands that install it.
    pub install: Vec<&'static str>,
}

/// Finds the toolchain, or says what is missing and how to install it.
pub fn toolchain() -> Result<Toolchain, Vec<Missing>> {
    let mut missing = Vec::new();
    let compiler = compiler();
    if compiler.is_none() {
        missing.push(Missing {
            what: "a rustc with core's source (Debian's rustc-web, or rustup's nightly with rust-src)",
            install: vec![
                "apt-get install -y rustc-web rust-web-src llvm-22-dev libpolly-22-dev libzstd-dev",
                "rustup toolchain install nightly --profile minimal --component rust-src   # where no package has it",
            ],
        });
    }
    let linker = output(Command::new("bpf-linker").arg("--version"));
    if linker.is_none() {
        missing.push(Missing {
            what: "bpf-linker",
            install: vec![
                "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --locked \
                 --no-default-features --features llvm-22   # with Debian's rustc and llvm-22-dev",
                "cargo install bpf-linker --locked   # with a nightly, whose LLVM must be there",
            ],
        });
    }
    match (compiler, linker) {
        (Some((rustc, cargo, version)), Some(linker)) => {
            let id = format!("{version}\n{}", linker.trim());
            Ok(Toolchain { rustc, cargo, id })
        }
        _ => Err(missing),
    }
}

/// Builds the programs if needed; returns the path of the first object.
pub fn build(options: Options) -> anyhow::Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    let root = metadata.workspace_root.into_std_path_buf();
    let target = metadata.target_directory.into_std_path_buf();
    let directory = target.join("bpf");
    let object = |binary: &str| directory.join(format!("{binary}.o"));
    let first = object(BINARIES[0]);
    // Beside the directory, which the loader's build script watches.
    let work = target.join("bpf-build");
    let stamp = work.join("stamp");

    let toolchain = toolchain().map_err(|missing| anyhow::anyhow!(explain(&missing)))?;
    let key = cache_key(&root, &toolchain)?;
    let complete = BINARIES.iter().all(|binary| object(binary).is_file());
    let cached = complete && fs::read_to_string(&stamp).is_ok_and(|old| old == key);
    if cached && !options.force {
        return Ok(first);
    }

    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    compile(&root, &work, &toolchain)?;
    for binary in BINARIES {
        let built = work.join(TARGET).join("release").join(binary);
        publish(&built, &object(binary), &work)?;
    }
    fs::write(&stamp, key).with_context(|| format!("write {}", stamp.display()))?;
    Ok(first)
}

/// Puts a built object where it is embedded from, if its bytes changed.
fn publish(built: &Path, object: &Path, work: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(built).with_context(|| format!("read {}", built.display()))?;
    ensure!(
        bytes.starts_with(b"\x7fELF"),
        "{} is not an object file",
        built.display()
    );
    if fs::read(object).ok().as_deref() == Some(&bytes) {
        return Ok(());
    }
    let directory = object.parent().context("no directory")?;
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    // Whole or not at all: a build may be reading it. The partial file stays out of the watched directory.
    let partial = work.join("object.partial");
    fs::write(&partial, &bytes).with_context(|| format!("write {}", partial.display()))?;
    fs::rename(&partial, object).with_context(|| format!("write {}", object.display()))
}

fn explain(missing: &[Missing]) -> String {
    let mut text = String::from("the kernel programs can't be built:");
    for part in missing {
        text.push_str("\n  missing: ");
        text.push_str(part.what);
        for (i, command) in part.install.iter().enumerate() {
            text.push_str(if i == 0 {
                "\n    install: "
            } else {
                "\n    or:      "
            });
            text.push_str(command);
        }
    }
    text.push_str("\n  `cargo xtask setup` does this.");
    text
}

fn compile(root: &Path, work: &Path, toolchain: &Toolchain) -> anyhow::Result<()> {
    let own_cargo = || std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let cargo = toolchain
        .cargo
        .clone()
        .map_or_else(own_cargo, PathBuf::into_os_string);
    let mut flags: Vec<String> = FLAGS.iter().map(|&flag| flag.to_owned()).collect();
    // The object is embedded in the binary: it must not say where it was built.
    flags.push(format!("--remap-path-prefix={}=.", root.display()));

    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args([
            "build",
            "--release",
            "--package",
            PACKAGE,
            "--target",
            TARGET,
        ])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(work)
        .env("RUSTC", &toolchain.rustc)
        // Unstable flags of a stable compiler; nightly does not mind.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .stdin(Stdio::null());
    // What belongs to the build that runs us.
    for name in [
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTUP_TOOLCHAIN",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
    ] {
        command.env_remove(name);
    }
    let status = command
        .status()
        .with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!(
            "build {PACKAGE} with {}: {status}",
            toolchain.rustc.display()
        );
    }
    Ok(())
}

/// The compiler, its cargo and its version.
fn compiler() -> Option<(PathBuf, Option<PathBuf>, String)> {
    if let Some(path) = std::env::var_os(COMPILER_ENV) {
        return usable(&PathBuf::from(path)).map(|(rustc, version)| (rustc, None, version));
    }
    // The distribution's first: its LLVM is the one that bpf-linker can be built with.
    if let Some((rustc, version)) = usable(Path::new("/usr/bin/rustc")) {
        return Some((rustc, None, version));
    }
    let which = |tool| {
        let mut rustup = Command::new("rustup");
        rustup.args(["which", "--toolchain", "nightly", tool]);
        output(&mut rustup).map(|path| PathBuf::from(path.trim()))
    };
    let (rustc, version) = which("rustc").and_then(|path| usable(&path))?;
    Some((rustc, which("cargo"), version))
}

/// Whether a compiler is new enough and has core's source.
fn usable(rustc: &Path) -> Option<(PathBuf, String)> {
    let version = output(Command::new(rustc).arg("-vV"))?;
    let release = version
        .lines()
        .find_map(|line| line.strip_prefix("release: "))?;
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().ok());
    let release = (numbers.next()??, numbers.next()??);
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]))?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    (release >= MIN_RUSTC && core.is_dir()).then(|| (rustc.to_path_buf(), version))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Everything that decides the object's bytes: sources, dependencies, profile, flags, toolchain.
fn cache_key(root: &Path, toolchain: &Toolchain) -> anyhow::Result<String> {
    let mut files = vec![root.join("Cargo.toml"), root.join("Cargo.lock")];
    for folder in ["ebpf/common", "ebpf/programs"] {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    let mut hash = Fnv::new();
    for path in &files {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        hash.part(
            path.strip_prefix(root)
                .unwrap_or(path)
                .as_os_str()
                .as_encoded_bytes(),
        );
        hash.part(&bytes);
    }
    hash.part(toolchain.id.as_bytes());
    hash.part(toolchain.rustc.as_os_str().as_encoded_bytes());
    hash.part(FLAGS.join(" ").as_bytes());
    Ok(format!("{:016x}", hash.0))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// FNV-1a: the same on every toolchain, which the standard library's hasher does not promise.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds a part with its length, so that parts can't run into each other.
    fn part(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u64).to_le_bytes();
        for &byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let hash = |parts: &[&str]| {
            let mut hash = Fnv::new();
            for part in parts {
                hash.part(part.as_bytes());
            }
            hash.0
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["ab", "c"]), hash(&["ab", "c"]));
    }

    #[test]
    fn what_is_missing_comes_with_a_command() {
        let text = explain(&[Missing {
            what: "bpf-linker",
            install: vec!["cargo install bpf-linker"],
        }]);
        assert!(
            text.contains("missing: bpf-linker\n    install: cargo install bpf-linker"),
            "{text}"
        );
    }
}
