//! The first process of a virtual machine: mounts, modules, one program after the other, and power off.
//!
//! What: carries out [`Plan`] and says so ([`Line`]). Whatever happens, the machine ends: by itself, or by the host's limit.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use waggle_tests_vm::{Job, Line, PLAN, Plan};

/// As timeout(1).
const TOO_LONG: i32 = 124;
/// What, where.
const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
];

fn main() {
    if let Err(error) = run() {
        say(&Line::Output(format!(
            "the machine's first process: {error:#}"
        )));
    }
    let _ = std::io::stdout().flush();
    // Nothing here outlives the machine: no file system to write back.
    let _ = reboot(RebootMode::RB_POWER_OFF);
}

fn run() -> anyhow::Result<()> {
    for (kind, at) in MOUNTS {
        fs::create_dir_all(at).with_context(|| format!("create {at}"))?;
        let none = None::<&str>;
        // The kernel may have mounted the devices.
        match mount(Some(kind), at, Some(kind), MsFlags::empty(), none) {
            Ok(()) | Err(nix::Error::EBUSY) => {}
            Err(error) => return Err(error).with_context(|| format!("mount {at}")),
        }
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the release")?;
    // The firmware leaves its line unfinished.
    println!();
    say(&Line::Kernel(release.trim().to_owned()));
    let plan = fs::read_to_string(PLAN).with_context(|| format!("read {PLAN}"))?;
    let plan = Plan::parse(&plan)?;
    for module in &plan.modules {
        let file = File::open(module).with_context(|| format!("open {module}"))?;
        let no_flags = nix::kmod::ModuleInitFlags::empty();
        match nix::kmod::finit_module(&file, c"", no_flags) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            // A kernel that can't use one still runs what needs none of it.
            Err(error) => say(&Line::Output(format!("module {module}: {error}"))),
        }
    }
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    up.context("run ip")?;
    for job in &plan.jobs {
        let start = Instant::now();
        let code = match carry_out(job) {
            Ok(code) => code,
            Err(error) => {
                say(&Line::Output(format!("{error:#}")));
                127
            }
        };
        say(&Line::Result {
            name: job.name.clone(),
            code,
            milliseconds: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
    }
    say(&Line::End);
    Ok(())
}

fn say(line: &Line) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Runs a job in a process group of its own, its output line by line; its exit code.
fn carry_out(job: &Job) -> anyhow::Result<i32> {
    use std::os::unix::process::CommandExt as _;
    let (program, args) = job.words.split_first().context("a job without a program")?;
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("copy a pipe")?)
        .stderr(writer)
        .process_group(0);
    let mut child = command.spawn().with_context(|| format!("run {program}"))?;
    // It holds the pipe's other end.
    drop(command);
    // Ends when nobody writes any more.
    let printing = std::thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n') {
            let Ok(line) = line else { return };
            say(&Line::Output(String::from_utf8_lossy(&line).into_owned()));
        }
    });
    let group = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(child.wait());
    });
    let code = match ended.recv_timeout(job.limit) {
        Ok(status) => exit_code(status.context("wait")?),
        Err(_) => TOO_LONG,
    };
    // What it left is not the next one's.
    let _ = killpg(group, Signal::SIGKILL);
    if code == TOO_LONG {
        let _ = ended.recv_timeout(Duration::from_secs(5));
    }
    wait_for(printing);
    Ok(code)
}

/// Waits for a thread, but not for long: a process that left its group may still hold the pipe.
fn wait_for(thread: std::thread::JoinHandle<()>) {
    let (sender, done) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = thread.join();
        let _ = sender.send(());
    });
    let _ = done.recv_timeout(Duration::from_secs(2));
}

fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(TOO_LONG)
}
