//! `cargo xtask bench checks`: what checks of tasks cost. What is measured is in `agent/benches/checks`; this builds and
//! runs it.

use std::process::ExitCode;

use crate::run::{cargo, run, shown};

/// Arguments of `bench checks`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Two seconds a case: whether it works
    #[arg(long)]
    quick: bool,
}

/// Builds and runs it.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let mut command = cargo();
    command
        .args(["bench", "--package", "waggle-agent"])
        .args(["--bench", "checks", "--"]);
    if args.quick {
        command.arg("--quick");
    }
    println!("{}", shown(&command));
    run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}
