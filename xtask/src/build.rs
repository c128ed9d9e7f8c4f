//! Building what the demo and the tests run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::run::{cargo, own_dir, run, step};

/// The programs of a build.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The waggle binary.
    pub waggle: PathBuf,
    /// The probe of tests/support.
    pub probe: PathBuf,
}

/// Builds the kernel programs.
pub fn ebpf() -> anyhow::Result<PathBuf> {
    step("build-ebpf", || {
        crate::ebpf::build(crate::ebpf::Options::default())
    })
}

/// Builds everything, the kernel programs first because the binary embeds them. In the second run
/// under sudo nothing is built: the first one did.
pub fn programs() -> anyhow::Result<Programs> {
    // All default members: the same features whatever is asked for, so nothing is built twice.
    build_with(&["build"])
}

/// The same, and everything that tests need, in the one set of features that `cargo test` then finds
/// built: tests' own dependencies switch features on in libraries that the programs share.
pub fn programs_and_tests(packages: &[&str]) -> anyhow::Result<Programs> {
    let mut args = vec!["build"];
    args.extend(packages);
    args.extend(["--lib", "--bins", "--tests"]);
    build_with(&args)
}

/// Optimized programs, for figures.
pub fn release_programs() -> anyhow::Result<Programs> {
    if let Some(dir) = std::env::var_os("WAGGLE_BIN_DIR") {
        return in_dir(Path::new(&dir));
    }
    ebpf()?;
    let mut command = cargo();
    command.args([
        "build",
        "--release",
        "--bin",
        "waggle",
        "--bin",
        "waggle-probe",
    ]);
    step("build with optimizations", || run(&mut command))?;
    // Beside the directory of the build that runs us.
    let debug = own_dir()?;
    let target = debug.parent().context("no target directory")?;
    in_dir(&target.join("release"))
}

fn build_with(args: &[&str]) -> anyhow::Result<Programs> {
    if let Some(dir) = std::env::var_os("WAGGLE_BIN_DIR") {
        return in_dir(Path::new(&dir));
    }
    ebpf()?;
    step("build", || run(cargo().args(args)))?;
    in_dir(&own_dir()?)
}

fn in_dir(dir: &Path) -> anyhow::Result<Programs> {
    let programs = Programs {
        waggle: dir.join("waggle"),
        probe: dir.join("waggle-probe"),
    };
    for path in [&programs.waggle, &programs.probe] {
        if !path.is_file() {
            bail!("{} was not built", path.display());
        }
    }
    Ok(programs)
}
