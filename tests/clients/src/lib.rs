//! Other people's clients, unmodified, against a real cluster: what their code sends and parses is the contract.
//!
//! This crate finds an interpreter that the client still runs on and puts the client into a virtual
//! environment under the target directory. Without one, or without the package registry, the test
//! skips and says why.
//!
//! What it never does: patch a client.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

/// Longest name of an environment's directory.
const MAX_NAME: usize = 100;

/// A virtual environment's interpreter with `requirements` (such as `marathon==0.13.0`) installed.
///
/// The Python clients of the Mesos world need CPython 3.9 or older.
pub fn old_python_with(requirements: &[&str], target: &Path) -> anyhow::Result<PathBuf> {
    let find = || old_python().context("no CPython 3.7 to 3.9 on this machine");
    environment(find, requirements, &[], target)
}

/// The same with these packages and no others: for a client that pins what can't be built any more.
pub fn old_python_with_only(packages: &[&str], target: &Path) -> anyhow::Result<PathBuf> {
    let find = || old_python().context("no CPython 3.7 to 3.9 on this machine");
    environment(find, packages, &["--no-deps"], target)
}

/// The same with any Python 3 and several requirements.
pub fn python_with(requirements: &[&str], target: &Path) -> anyhow::Result<PathBuf> {
    environment(|| Ok(PathBuf::from("python3")), requirements, &[], target)
}

/// Where the files of one of Debian's packages are, unpacked under the target directory: nothing of it is installed or started.
pub fn debian(package: &str, target: &Path) -> anyhow::Result<PathBuf> {
    let dir = target.join("clients").join(format!("debian-{package}"));
    let (root, done) = (dir.join("root"), dir.join("unpacked"));
    if done.is_file() {
        return Ok(root);
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    run(Command::new("apt-get")
        .args(["-q", "download", package])
        .current_dir(&dir))?;
    let files = std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
    let is_package = |p: &PathBuf| p.extension().is_some_and(|e| e == "deb");
    let file = files.flatten().map(|f| f.path()).find(is_package);
    let file = file.with_context(|| format!("apt-get left no package in {}", dir.display()))?;
    run(Command::new("dpkg").arg("-x").arg(&file).arg(&root))?;
    std::fs::write(&done, package).with_context(|| format!("write {}", done.display()))?;
    Ok(root)
}

fn environment(
    find: impl FnOnce() -> anyhow::Result<PathBuf>,
    requirements: &[&str],
    how: &[&str],
    target: &Path,
) -> anyhow::Result<PathBuf> {
    let name = requirements.join("-").replace("==", "-");
    let name: String = name.chars().take(MAX_NAME).collect();
    let venv = target.join("clients").join(name);
    let python = venv.join("bin/python");
    let done = venv.join("installed");
    if done.is_file() {
        return Ok(python);
    }
    run(Command::new(find()?)
        .args(["-m", "venv", "--clear"])
        .arg(&venv))?;
    let install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        // A machine without a way out finds out soon.
        "--retries=1",
        "--timeout=10",
    ];
    run(Command::new(&python)
        .args(install)
        .args(how)
        .args(requirements))?;
    std::fs::write(&done, requirements.join("\n"))
        .with_context(|| format!("write {}", done.display()))?;
    Ok(python)
}

/// `python3.9` and older on PATH, then those of pyenv.
fn old_python() -> Option<PathBuf> {
    const MINORS: [u32; 3] = [9, 8, 7];
    let works = |p: &PathBuf| {
        Command::new(p)
            .arg("--version")
            .output()
            .is_ok_and(|out| out.status.success())
    };
    let on_path = MINORS.iter().map(|m| PathBuf::from(format!("python3.{m}")));
    let pyenv = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")))?;
    let versions = std::fs::read_dir(pyenv.join("versions"))
        .ok()
        .into_iter()
        .flatten()
        .flatten();
    let mut installed: Vec<PathBuf> = versions
        .filter(|v| {
            let name = v.file_name();
            let name = name.to_string_lossy();
            MINORS.iter().any(|m| name.starts_with(&format!("3.{m}.")))
        })
        .map(|v| v.path().join("bin/python"))
        .collect();
    installed.sort();
    // pyenv's shims answer to any name and fail when run; installed versions first.
    installed.into_iter().rev().chain(on_path).find(works)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let out = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    if !out.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(())
}
