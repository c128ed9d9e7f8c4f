//! Building what the demo and the tests run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::run::{cargo, run, step};

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
    if let Some(dir) = std::env::var_os("WAGGLE_BIN_DIR") {
        return in_dir(Path::new(&dir));
    }
    ebpf()?;
    step("build", || {
        // All default members: the same features as tests and lints have, so nothing is built twice.
        run(cargo().arg("build"))
    })?;
    let exe = std::env::current_exe().context("find the own executable")?;
    in_dir(
        exe.parent()
            .context("the own executable has no directory")?,
    )
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
