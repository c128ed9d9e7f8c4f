//! What to do when we are not root: run the same command again through sudo, and say so.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use waggle_tests_support::is_root;

use crate::run::{find, own_dir, own_exe};

/// Runs this command again as root when it is not; `Some` is its exit code. Builds are done before,
/// as the user: `WAGGLE_BIN_DIR` tells the second run where they are.
pub fn again(what: &str) -> anyhow::Result<Option<ExitCode>> {
    again_with(what, &own_dir()?)
}

/// The same with programs from another directory.
pub fn again_with(what: &str, bin_dir: &Path) -> anyhow::Result<Option<ExitCode>> {
    if is_root() {
        return Ok(None);
    }
    let Some(sudo) = find("sudo") else {
        bail!("root is needed for {what}, and there is no sudo here; run this as root");
    };
    eprintln!("not root: running this part again through sudo ({what})");
    outlive_interrupts()?;
    let status = Command::new(sudo)
        .arg("--preserve-env=PATH,HOME,CARGO,CARGO_HOME,CARGO_TARGET_DIR,RUSTUP_HOME,WAGGLE_CLUSTER,CI")
        .arg("env")
        .arg(format!("WAGGLE_BIN_DIR={}", bin_dir.display()))
        .arg(own_exe()?)
        .args(std::env::args_os().skip(1))
        .status()
        .context("run sudo")?;
    let code = status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1);
    Ok(Some(ExitCode::from(code)))
}

/// The terminal sends Ctrl-C to the second run as well, which takes the cluster down: until it has
/// ended, we wait. A handler, unlike an ignored signal, is not inherited.
fn outlive_interrupts() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime for signals")?;
    let _inside = runtime.enter();
    // The handler stays when its listener goes.
    drop(signal(SignalKind::interrupt()).context("handle Ctrl-C")?);
    Ok(())
}

/// A command that runs as root: itself, or through sudo.
pub fn command(program: &str) -> Command {
    if is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new(find("sudo").unwrap_or_else(|| "sudo".into()));
        command.arg(program);
        command
    }
}
