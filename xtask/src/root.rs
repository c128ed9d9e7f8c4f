//! What to do when we are not root: run the same command again through sudo, and say so.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use waggle_tests_support::is_root;

use crate::run::{find, own_dir, own_exe};

/// Runs this command again as root when it is not; `Some` is its exit code. Builds are done before,
/// as the user: `WAGGLE_BIN_DIR` tells the second run where they are.
pub fn again(what: &str) -> anyhow::Result<Option<ExitCode>> {
    if is_root() {
        return Ok(None);
    }
    if find("sudo").is_none() {
        bail!("{what} needs root, and there is no sudo here; run this as root");
    }
    eprintln!("not root: {what} needs it; running this part again through sudo");
    let status = Command::new("sudo")
        .arg("--preserve-env=PATH,HOME,CARGO,CARGO_HOME,CARGO_TARGET_DIR,RUSTUP_HOME,WAGGLE_CLUSTER,CI")
        .arg("env")
        .arg(format!("WAGGLE_BIN_DIR={}", own_dir()?.display()))
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

/// A command that runs as root: itself, or through sudo.
pub fn command(program: &str) -> Command {
    if is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.arg(program);
        command
    }
}
