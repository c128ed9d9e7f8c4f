//! Waiting, spawning, cleaning up.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Longest that anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Polls until `f` gives something.
pub fn wait_for<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(t) = f() {
            return t;
        }
        assert!(Instant::now() < until, "timed out: {what}");
        let _ = nix::poll::poll(&mut [], nix::poll::PollTimeout::from(5u8));
    }
}

/// A task directory with a plan.
pub struct ShimDir(pub tempfile::TempDir);

impl ShimDir {
    pub fn new(argv: &[&str], change: impl FnOnce(&mut Value)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = dir.path().join("sandbox");
        fs::create_dir(&sandbox).unwrap();
        let mut plan = json!({
            "argv": argv, "env": {"PATH": "/usr/bin:/bin", "GREETING": "hello"},
            "sandbox": sandbox, "cgroups": [], "kill_cgroup": null, "memory_cgroup": null,
            "user": null, "kill_grace_ms": 200,
        });
        change(&mut plan);
        fs::write(dir.path().join("plan.json"), plan.to_string()).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn start(&self) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .arg("shim")
            .arg(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    pub fn json(&self, name: &str) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.path().join(name)).ok()?).ok()
    }

    pub fn output(&self, name: &str) -> String {
        fs::read_to_string(self.path().join("sandbox").join(name)).unwrap()
    }
}

/// Whether a process runs (a zombie does not).
pub fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|s| s.rsplit_once(") ").map(|(_, r)| !r.starts_with('Z')))
        .unwrap_or(false)
}

/// Signals a process of ours.
pub fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

/// In the environment of everything that this run starts, but for tasks, whose environment is their own.
const MARK: &str = "WAGGLE_TEST_RUN";

/// Runs this program again with everything that it starts marked, and ends what it leaves, also when it crashes.
/// `None` in that second one.
pub fn run_marked() -> Option<ExitCode> {
    if std::env::var_os(MARK).is_some() {
        return None;
    }
    let mark = std::process::id().to_string();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env(MARK, &mark)
        .status();
    end_what_is_left(&mark);
    let code = status.unwrap().code().and_then(|c| u8::try_from(c).ok());
    Some(ExitCode::from(code.unwrap_or(101)))
}

/// Tests without cgroups, and tests that failed, leave tasks: their shims end them.
fn end_what_is_left(mark: &str) {
    let mark = format!("{MARK}={mark}");
    let ours = |pid: &u32| {
        let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let shim = read("cmdline").split(|b| *b == 0).nth(1) == Some(b"shim");
        shim && read("environ")
            .split(|b| *b == 0)
            .any(|v| v == mark.as_bytes())
    };
    let left = || -> Vec<u32> {
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|e| e.file_name().to_str()?.parse().ok());
        pids.filter(ours).filter(|pid| runs(*pid)).collect()
    };
    for pid in left() {
        eprintln!("shim {pid} is left: it is told to end its task");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
    wait_for("shims that are left to end", || {
        left().is_empty().then_some(())
    });
}

/// A cgroup root of this test's own, removed on drop; `None` (said loudly) where that is not allowed.
pub struct CgroupRoot {
    pub path: PathBuf,
    name: String,
}

impl CgroupRoot {
    pub fn new() -> Option<Self> {
        Self::named("")
    }

    /// One of several of this process.
    pub fn named(suffix: &str) -> Option<Self> {
        let name = format!("wgh-d-{}{suffix}", std::process::id());
        let mount = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .iter()
            .map(PathBuf::from)
            .find(|m| m.join("cgroup.controllers").exists());
        let Some(path) = mount.map(|m| m.join(&name)) else {
            eprintln!("SKIP: no cgroup2 hierarchy is mounted");
            return None;
        };
        match fs::create_dir_all(&path) {
            Ok(()) => Some(Self { path, name }),
            Err(e) => {
                eprintln!("SKIP: no cgroup can be made ({e}): needs root");
                None
            }
        }
    }

    /// Where tasks are in the cgroup2 hierarchy: another name on hybrid hosts.
    pub fn v2_tasks(&self) -> PathBuf {
        let [own, other] = ["waggle.tasks", "tasks"].map(|holder| self.path.join(holder));
        if own.exists() { own } else { other }
    }

    /// Every directory of ours in any hierarchy.
    fn dirs(&self) -> Vec<PathBuf> {
        let v1 = fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
        let mut out: Vec<PathBuf> = v1.map(|e| e.path().join(&self.name)).collect();
        out.push(self.path.clone());
        out.retain(|d| d.exists());
        out
    }

    /// The directories that hold tasks.
    fn holders(&self) -> Vec<PathBuf> {
        let names = ["tasks", "waggle.tasks"];
        let all = self.dirs().into_iter();
        all.flat_map(|d| names.map(|n| d.join(n)))
            .filter(|d| d.is_dir())
            .collect()
    }

    /// Task directories that are left.
    pub fn tasks(&self) -> Vec<PathBuf> {
        let below = |d: PathBuf| {
            let entries = fs::read_dir(d).into_iter().flatten().flatten();
            entries.map(|e| e.path()).filter(|p| p.is_dir())
        };
        self.holders().into_iter().flat_map(below).collect()
    }
}

impl Drop for CgroupRoot {
    fn drop(&mut self) {
        let all = [self.tasks(), self.holders(), self.dirs()].concat();
        for dir in all {
            let _ = fs::remove_dir(dir);
        }
    }
}
