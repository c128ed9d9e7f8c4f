//! Work beside the tests, which wait more than they compute: it gets the time that nobody else wants.
//!
//! cargo lets only one of its processes build in a directory, so the work begins once the tests themselves run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};

use crate::run::{find, own_dir, shown};

/// Between two looks whether the tests run.
const LOOK: Duration = Duration::from_millis(200);

/// Steps that run one after the other, in a thread. What they print is shown when they end, of a step that failed.
pub struct Beside {
    thread: JoinHandle<Vec<Done>>,
    // Dropped: the tests have ended, or never began.
    over: Sender<()>,
}

/// A step that ended: its name, its seconds, and how.
type Done = (String, f64, anyhow::Result<()>);

impl Beside {
    /// Waits until `cargo` runs a program of ours, then begins.
    pub fn of(cargo: u32, steps: Vec<(String, Command)>) -> anyhow::Result<Self> {
        let ours = own_dir()?;
        let (over, is_over) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = is_over.recv_timeout(LOOK) {
                if runs_a_program_of(cargo, &ours) {
                    break;
                }
            }
            steps
                .into_iter()
                .map(|(name, command)| done(name, command))
                .collect()
        });
        Ok(Self { thread, over })
    }

    /// Waits for the end of all. What each took, in seconds, or all that failed.
    pub fn join(self) -> anyhow::Result<Vec<(String, f64)>> {
        drop(self.over);
        let all = self.thread.join();
        let all = all.map_err(|_| anyhow!("the steps beside the tests panicked"))?;
        let mut took = Vec::new();
        let mut failed = Vec::new();
        for (name, seconds, result) in all {
            match result {
                Ok(()) => took.push((name, seconds)),
                Err(e) => failed.push(format!("step `{name}`: {e:#}")),
            }
        }
        if failed.is_empty() {
            return Ok(took);
        }
        bail!("{}", failed.join("; "))
    }
}

fn done(name: String, command: Command) -> Done {
    let start = Instant::now();
    let result = quietly(command);
    let seconds = start.elapsed().as_secs_f64();
    let word = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!("<== {name}, beside the tests: {word} in {seconds:.1} s");
    (name, seconds, result)
}

fn quietly(command: Command) -> anyhow::Result<()> {
    let line = shown(&command);
    let out = at_leisure(command)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run `{line}`"))?;
    if out.status.success() {
        return Ok(());
    }
    // At once: the tests may take a while yet.
    eprint!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    bail!("`{line}` failed ({})", out.status)
}

/// The command under the scheduler's idle policy, where util-linux is there to ask for it.
fn at_leisure(command: Command) -> Command {
    let Some(chrt) = find("chrt") else {
        return command;
    };
    let mut idle = Command::new(chrt);
    idle.args(["--idle", "0"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => idle.env(name, value),
            None => idle.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        idle.current_dir(dir);
    }
    idle
}

/// Whether a child of this process runs a program in or below the directory.
fn runs_a_program_of(parent: u32, dir: &Path) -> bool {
    let threads = fs::read_dir(format!("/proc/{parent}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let children = threads.filter_map(|t| fs::read_to_string(t.path().join("children")).ok());
    children
        .flat_map(|line| {
            let pids: Vec<PathBuf> = line
                .split_whitespace()
                .map(|pid| Path::new("/proc").join(pid).join("exe"))
                .collect();
            pids
        })
        .filter_map(|exe| fs::read_link(exe).ok())
        .any(|exe| exe.starts_with(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("WORD", "here");
        command
    }

    #[test]
    fn steps_begin_when_the_tests_run_and_all_that_fail_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seen");
        let write = sh(&format!("echo $WORD > {}", file.display()));
        let steps = vec![
            ("one".to_owned(), write),
            ("two".to_owned(), sh("exit 3")),
            ("three".to_owned(), sh("exit 4")),
        ];
        // This test is a program of ours, and a child of whoever runs it.
        let parent = std::os::unix::process::parent_id();
        let failed = Beside::of(parent, steps).unwrap().join().unwrap_err();
        let said = format!("{failed:#}");
        assert!(said.contains("step `two`") && said.contains("step `three`"));
        assert_eq!(fs::read_to_string(file).unwrap(), "here\n");
    }

    #[test]
    fn a_program_elsewhere_is_not_ours() {
        let mut sleep = Command::new("sleep").arg("1000").spawn().unwrap();
        let me = std::process::id();
        assert!(!runs_a_program_of(me, Path::new("/no/such/directory")));
        let exe = fs::read_link(format!("/proc/{}/exe", sleep.id()));
        let seen = exe.is_ok_and(|exe| runs_a_program_of(me, exe.parent().unwrap()));
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        assert!(seen);
    }
}
