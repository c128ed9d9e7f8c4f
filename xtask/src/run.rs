//! Running other programs, and saying what happens and how long it took.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

/// The repository's root.
pub fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// The own program's file. A build that we started may have replaced it: the kernel then marks the
/// old name, and the new file under that name is as good.
pub fn own_exe() -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe().context("find the own executable")?;
    Ok(unmarked(&exe))
}

fn unmarked(exe: &Path) -> PathBuf {
    let name = exe.as_os_str().as_bytes();
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    PathBuf::from(OsStr::from_bytes(name))
}

/// The directory of the own program and of what is built with it.
pub fn own_dir() -> anyhow::Result<PathBuf> {
    let exe = own_exe()?;
    let dir = exe
        .parent()
        .context("the own executable has no directory")?;
    Ok(dir.to_owned())
}

/// The cargo that runs us, else the one in PATH.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repo());
    command
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut words: Vec<String> = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!(
                "{}={}",
                name.to_string_lossy(),
                quoted(&value.to_string_lossy())
            ));
        }
    }
    let program = Path::new(command.get_program());
    words.push(
        program
            .file_name()
            .unwrap_or(program.as_os_str())
            .to_string_lossy()
            .into_owned(),
    );
    words.extend(command.get_args().map(|arg| quoted(&arg.to_string_lossy())));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    if !word.is_empty()
        && word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_=./:,@+".contains(c))
    {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Runs it with its output shown; a failure is an error that names it.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let line = shown(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("run `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Runs it and returns its standard output.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let line = shown(command);
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run `{line}`"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        let errors = String::from_utf8_lossy(&out.stderr);
        bail!(
            "`{line}` failed ({}): {}{}",
            out.status,
            text.trim(),
            errors.trim()
        );
    }
    Ok(text)
}

/// Runs a step between two lines that name it.
pub fn step<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    eprintln!("==> {name}");
    let start = Instant::now();
    let result = work().with_context(|| format!("step `{name}`"));
    let word = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!(
        "<== {name}: {word} in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    result
}

/// Finds a program in PATH and in the administrator's directories.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo_bin = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .map(|dir| dir.join("bin"));
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .chain(cargo_bin)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_program_is_found_under_its_name() {
        let replaced = Path::new("/target/debug/xtask (deleted)");
        assert_eq!(unmarked(replaced), Path::new("/target/debug/xtask"));
        assert_eq!(unmarked(Path::new("/a/xtask")), Path::new("/a/xtask"));
    }
}
