//! The compiler for the kernel programs: rustup's nightly with core's source, else the
//! distribution's, driven by the ordinary cargo.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use waggle_tests_support::wait_until;

use crate::run::{find, shown};

/// A compiler and core's source of the same version.
pub const PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];
/// What bpf-linker needs for that compiler's bitcode.
pub const LLVM_PACKAGES: [&str; 3] = ["llvm-22-dev", "libpolly-22-dev", "libzstd-dev"];
/// How long rustup may try before the distribution's packages are taken.
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

/// The one that is there. bpf-linker must read the compiler's bitcode, so the distribution's is
/// preferred when its LLVM is what is installed.
pub fn toolchain() -> Option<Toolchain> {
    if nightly_has_source() {
        return Some(Toolchain::Nightly);
    }
    distribution_has_source().then_some(Toolchain::Distribution)
}

/// Which compiler to install; asked once, and remembered when it turned out not to work.
#[derive(Debug, Default)]
pub struct Compilers {
    rustup: Option<bool>,
}

impl Compilers {
    /// The one to install: rustup's when it is there and can reach its server.
    pub fn choose(&mut self) -> Toolchain {
        let rustup = *self
            .rustup
            .get_or_insert_with(|| find("rustup").is_some() && rustup_reachable());
        if rustup {
            Toolchain::Nightly
        } else {
            Toolchain::Distribution
        }
    }

    /// rustup could not install it.
    pub fn without_rustup(&mut self) {
        self.rustup = Some(false);
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

/// A quick look, so that a machine without a way to rustup's server does not wait for its timeouts.
fn rustup_reachable() -> bool {
    let server = std::env::var("RUSTUP_DIST_SERVER")
        .unwrap_or_else(|_| "https://static.rust-lang.org".to_owned());
    let host = server
        .split("://")
        .last()
        .unwrap_or_default()
        .split('/')
        .next()
        .unwrap_or_default();
    let target = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:443")
    };
    let Ok(addrs) = target.to_socket_addrs() else {
        return false;
    };
    addrs
        .take(2)
        .any(|addr| TcpStream::connect_timeout(&addr, Duration::from_secs(3)).is_ok())
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
