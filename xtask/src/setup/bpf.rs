//! The compiler for the kernel programs: the distribution's with core's source, driven by the ordinary
//! cargo, else rustup's nightly.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use waggle_tests_support::wait_until;

use crate::run::shown;

/// A compiler and core's source of the same version.
pub const PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];
/// What bpf-linker needs for that compiler's bitcode.
pub const LLVM_PACKAGES: [&str; 3] = ["llvm-22-dev", "libpolly-22-dev", "libzstd-dev"];
/// How long rustup may try.
pub const RUSTUP_LIMIT: Duration = Duration::from_mins(5);

const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Which compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toolchain {
    /// rustup's nightly, with the component rust-src.
    Nightly,
    /// The distribution's, with its source package.
    Distribution,
}

impl Toolchain {
    /// For people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Nightly => "rustup's nightly with rust-src",
            Self::Distribution => "the distribution's rustc with its source",
        }
    }
}

/// The one that is there. bpf-linker must read the compiler's bitcode, and only the distribution has a compiler
/// and an LLVM that fit each other: rustup's nightly is often an LLVM ahead of every package.
pub fn toolchain() -> Option<Toolchain> {
    if distribution_has_source() {
        return Some(Toolchain::Distribution);
    }
    nightly_has_source().then_some(Toolchain::Nightly)
}

/// Which compiler to install; remembered when it turned out that the distribution has none.
#[derive(Debug, Default)]
pub struct Compilers {
    no_packages: bool,
}

impl Compilers {
    /// The one to install: the distribution's as long as its packages are not known to be missing.
    pub fn choose(&self) -> Toolchain {
        if self.no_packages {
            Toolchain::Nightly
        } else {
            Toolchain::Distribution
        }
    }

    /// apt-get could not install it.
    pub fn without_packages(&mut self) {
        self.no_packages = true;
    }
}

/// Whether LLVM's development files for bpf-linker are there.
pub fn llvm_is_there() -> bool {
    let prefix = Path::new(LLVM_PREFIX);
    prefix.join("include/llvm").exists() && prefix.join("lib/libPolly.a").exists()
}

fn nightly_has_source() -> bool {
    let home = std::env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".rustup")));
    let Some(home) = home else { return false };
    let Ok(entries) = std::fs::read_dir(home.join("toolchains")) else {
        return false;
    };
    entries.flatten().any(|entry| {
        // Dated nightlies are other people's choice.
        let name = entry.file_name().to_string_lossy().into_owned();
        let dated = name.starts_with("nightly-2");
        name.starts_with("nightly-")
            && !dated
            && entry
                .path()
                .join("lib/rustlib/src/rust/library/core")
                .exists()
    })
}

fn distribution_has_source() -> bool {
    Path::new("/usr/bin/rustc").exists()
        && Path::new("/usr/lib/rustlib/src/rust/library/core").exists()
}

/// The command that installs the nightly.
pub fn install_nightly() -> Command {
    let mut command = Command::new("rustup");
    command.args([
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ]);
    command
}

/// The command that installs bpf-linker.
pub fn install_linker(toolchain: Toolchain, mut cargo: Command) -> Command {
    cargo.args(["install", "bpf-linker", "--locked"]);
    if toolchain == Toolchain::Distribution {
        cargo.env("LLVM_PREFIX", LLVM_PREFIX);
        cargo.args(["--no-default-features", "--features", "llvm-22"]);
    }
    // Its own profile makes full debug information, which takes longer than the code. What is slow in it is LLVM, which is there.
    cargo
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    // Not into the workspace's target directory, and with the stable compiler.
    cargo
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO_TARGET_DIR");
    cargo
}

/// Runs it, and ends it after the limit.
pub fn run_limited(command: &mut Command, limit: Duration) -> anyhow::Result<()> {
    let line = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("run `{line}`"))?;
    let waited = wait_until(limit, &format!("`{line}`"), || child.try_wait().transpose());
    match waited {
        Ok(status) => {
            let status = status.with_context(|| format!("wait for `{line}`"))?;
            if !status.success() {
                bail!("`{line}` failed ({status})");
            }
            Ok(())
        }
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}
