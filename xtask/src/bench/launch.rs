//! `cargo xtask bench launch`: level 1 through its API; `bench mesos-api`: Mesos's API; `bench
//! failover`: a master that takes over. What is measured is in `tests/frameworks/benches`; this builds both sides and runs them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::run::{cargo, own_dir, run, shown, step};

/// Arguments of both: those of the bench (`-- --help` names them).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Few agents, one short round: whether it works
    #[arg(long)]
    quick: bool,
    /// Measure the build without optimizations: soon there, not for comparisons
    #[arg(long)]
    dev: bool,
    /// Further arguments: --agents, --tasks, --frameworks, --rate, --flow, --seconds..
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// The program under test: `waggle` with optimizations, or the one in `WAGGLE_BIN_DIR`.
fn waggle(dev: bool) -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("WAGGLE_BIN_DIR") {
        return Ok(Path::new(&dir).join("waggle"));
    }
    // Without the kernel programs: a master alone has no use for them.
    let mut command = cargo();
    command.args(["build", "--bin", "waggle"]);
    if !dev {
        command.arg("--release");
    }
    step(&shown(&command), || run(&mut command))?;
    let own = own_dir()?;
    let target = own.parent().context("no target directory")?;
    let profile = if dev { "debug" } else { "release" };
    Ok(target.join(profile).join("waggle"))
}

/// Builds and runs a bench.
pub fn main(bench: &str, args: &Args) -> anyhow::Result<ExitCode> {
    let waggle = waggle(args.dev)?;
    let mut command = cargo();
    command.args(["bench", "--package", "waggle-tests-frameworks"]);
    if args.dev {
        command.args(["--profile", "dev"]);
    }
    command
        .args(["--bench", bench, "--", "--waggle"])
        .arg(waggle);
    if args.quick {
        command.arg("--quick");
    }
    command.args(&args.rest);
    println!("{}", shown(&command));
    run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}
