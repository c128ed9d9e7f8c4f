//! The process between an agent and a task: it outlives the agent, so exit code and output are kept.
//!
//! Synchronous and single-threaded; it is told everything by `plan.json` in the task's directory and
//! tells everything by files there. SIGTERM to the shim ends the task: SIGTERM to its process
//! group, its grace period, SIGKILL to its whole cgroup. The shim ends when its task has ended, its
//! cgroup is empty, its output is on disk and its exit record is durable.

mod container;
mod enter;
mod plan;
mod spawn;
mod terminal;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, killpg},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, setsid},
};

pub use plan::{
    ABANDONED, ContainerPlan, EXIT, ExitRecord, LOCK, PLAN, SHIM, ShimPlan, TASK, UserIds,
    read_json, write_durably, write_json, write_json_for_boot,
};

use crate::{
    cgroup,
    logs::{LOOK, Output, OutputDir, Stalled},
    sys::{self, ProcessId},
};
pub use enter::{Entering, enter_task};
use terminal::Terminal;
pub use terminal::socket_path;

/// What the agent writes to a shim's standard input when its plan is there, before it closes it.
pub const GO: &[u8] = b"G";
/// Longest wait for output and for the cgroup to empty once the task's process is gone.
const DRAIN: Duration = Duration::from_secs(5);

/// Becomes the shim of the task in `dir`. Call it before any thread is started.
///
/// Its exit code says whether the shim worked, not how the task ended: that is in `exit.json`.
pub fn shim_main(dir: &Path) -> ExitCode {
    match run(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("waggle shim of {}: {e}", dir.display());
            ExitCode::FAILURE
        }
    }
}

/// The lock that a shim holds on its task; an agent that gets it knows that no shim runs.
pub fn try_lock(dir: &Path) -> io::Result<Option<Flock<File>>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join(LOCK))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(e.into()),
    }
}

fn run(dir: &Path) -> io::Result<()> {
    let Some(_lock) = try_lock(dir)? else {
        return Err(io::Error::other("the task has a shim, or was given up"));
    };
    if dir.join(ABANDONED).exists() || dir.join(TASK).exists() || dir.join(EXIT).exists() {
        return Err(io::Error::other("the task was started or given up before"));
    }
    // Fails when it is a session leader already, which is as good.
    let _ = setsid();
    sys::become_subreaper()?;
    let Some(plan) = wait_for_plan(dir)? else {
        return Err(io::Error::other("plan.json is missing"));
    };
    write_json_for_boot(&dir.join(SHIM), &ProcessId::of(std::process::id())?)?;

    let mut handled = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        handled.add(signal);
    }
    handled.thread_block()?;
    let signals = SignalFd::with_flags(&handled, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;

    let record = match spawn::spawn(&plan) {
        Ok(started) => {
            write_json_for_boot(&dir.join(TASK), &ProcessId::of(started.pid)?)?;
            // The agent reads our stdout until its end: the files above are there now.
            nix::unistd::dup2_stdout(File::open("/dev/null")?)?;
            let has_terminal = started.stderr.is_none();
            let terminal = has_terminal.then(|| Terminal::new(&started.stdout, dir));
            // A task whose terminal nobody can attach to runs all the same.
            let terminal =
                terminal.and_then(|t| t.inspect_err(|e| eprintln!("no attaching: {e}")).ok());
            supervise(dir, &plan, started, terminal, &signals)
        }
        Err(launch_error) => ExitRecord {
            launch_error: Some(launch_error),
            ..ExitRecord::default()
        },
    };
    write_json(
        &dir.join(EXIT),
        &ExitRecord {
            at_ms: now_ms(),
            ..record
        },
    )
}

/// The agent starts its shims before it has written their plans, and says when. One that dies before takes the task
/// back: it was never started.
fn wait_for_plan(dir: &Path) -> io::Result<Option<ShimPlan>> {
    let path = dir.join(PLAN);
    if let Some(plan) = read_json(&path)? {
        return Ok(Some(plan));
    }
    let mut word = Vec::new();
    io::stdin().read_to_end(&mut word)?;
    if word == GO {
        read_json(&path)
    } else {
        Ok(None)
    }
}

/// Copies output and reaps until the task's process has ended; then ends what it left behind.
fn supervise(
    dir: &Path,
    plan: &ShimPlan,
    mut started: spawn::Started,
    mut terminal: Option<Terminal>,
    signals: &SignalFd,
) -> ExitRecord {
    let main = Pid::from_raw(i32::try_from(started.pid).unwrap_or(i32::MAX));
    let owner = plan.user.as_ref().map(|u| (u.uid, u.gid));
    let output = |pipe, name| {
        let place = OutputDir::new(&plan.sandbox, dir, name);
        Output::new(pipe, place, plan.logs, owner, now_us())
    };
    let mut outputs = [
        output(Some(started.stdout), "stdout"),
        output(started.stderr, "stderr"),
    ];
    let mut buffer = vec![0; 64 * 1024];
    let mut stalled = Stalled::default();
    let mut kill_at: Option<Instant> = None;
    let mut ended: Option<(WaitStatus, Instant)> = None;
    loop {
        let now = Instant::now();
        if kill_at.is_some_and(|at| at <= now) {
            kill_all(plan, main, ended.is_none());
            kill_at = Some(now + Duration::from_millis(200));
        }
        if let Some((_, since)) = &ended {
            let pipes_open = outputs.iter().any(|o| o.pipe().is_some());
            let emptied = is_empty(plan, main);
            if (!pipes_open && emptied) || since.elapsed() > DRAIN {
                break;
            }
            kill_all(plan, main, false);
        }
        let wait_ms = match (&ended, kill_at) {
            (Some(_), _) => 10,
            _ if stalled.is_so() => u16::try_from(LOOK.as_millis()).unwrap_or(60),
            (None, Some(at)) => {
                u16::try_from(at.saturating_duration_since(now).as_millis() + 1).unwrap_or(60_000)
            }
            (None, None) => 60_000,
        };
        wait(
            &outputs,
            stalled.is_so(),
            terminal.as_ref(),
            signals,
            wait_ms,
        );
        for out in &mut outputs {
            // Bounded, so that a task that writes without end cannot keep signals waiting.
            if !stalled.is_so() && readable(out) {
                let n = out.pump(&mut buffer, now_us());
                if let Some(terminal) = &mut terminal
                    && n > 0
                {
                    terminal.show(&buffer[..n]);
                }
            }
        }
        stalled.keep(&mut outputs, ended.is_some(), now_us());
        if let Some(terminal) = &mut terminal {
            terminal.serve();
        }
        while let Ok(Some(info)) = signals.read_signal() {
            let asked = [Signal::SIGTERM as u32, Signal::SIGINT as u32];
            if asked.contains(&info.ssi_signo) && kill_at.is_none() && ended.is_none() {
                ask_to_end(plan, main);
                kill_at = Some(Instant::now() + Duration::from_millis(plan.kill_grace_ms));
            }
        }
        while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
            if status.pid() == Some(main)
                && matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..))
            {
                ended = Some((status, Instant::now()));
            }
        }
    }
    let (oom_kills, limit, peak) = plan
        .memory_cgroup
        .as_deref()
        .map(cgroup::memory_end)
        .unwrap_or_default();
    // A container's init ends by itself with 128 and the signal: its word is exact.
    let said = started
        .channel
        .as_mut()
        .and_then(container::last_status)
        .and_then(|status| WaitStatus::from_raw(main, status).ok());
    let (code, signal) = match said.or(ended.map(|(status, _)| status)) {
        Some(WaitStatus::Exited(_, code)) => (Some(code), None),
        Some(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal as i32)),
        _ => (None, None),
    };
    ExitRecord {
        code,
        signal,
        oom_kills,
        memory_limit_bytes: limit,
        memory_peak_bytes: peak,
        launch_error: None,
        lost_output_bytes: outputs.iter().map(Output::lost_bytes).sum(),
        at_ms: 0,
    }
}

/// Waits until a pipe or a signal has something, or the time is over.
fn wait(
    outputs: &[Output; 2],
    stalled: bool,
    terminal: Option<&Terminal>,
    signals: &SignalFd,
    wait_ms: u16,
) {
    // What nobody may take would only wake us.
    let watched = if stalled { &[] } else { outputs.as_slice() };
    let mut fds: Vec<PollFd<'_>> = watched
        .iter()
        .filter_map(Output::pipe)
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    fds.push(PollFd::new(
        std::os::fd::AsFd::as_fd(signals),
        PollFlags::POLLIN,
    ));
    fds.extend(terminal.map(Terminal::polled).into_iter().flatten());
    // An interrupted wait is a wake-up like any other.
    let _ = poll(&mut fds, PollTimeout::from(wait_ms));
}

fn readable(out: &Output) -> bool {
    out.pipe().is_some_and(|fd| {
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
    })
}

/// To the task's process group; a container's init passes it on to its own.
fn ask_to_end(plan: &ShimPlan, main: Pid) {
    match &plan.container {
        // By its number: nix knows no real-time signals.
        Some(container) => sys::kill(main.as_raw(), container.stop_signal),
        None => drop(killpg(main, Signal::SIGTERM)),
    }
}

/// SIGKILL to everything of the task. The group's number is only ours while its leader is not reaped.
fn kill_all(plan: &ShimPlan, main: Pid, main_unreaped: bool) {
    if let Some(dir) = &plan.kill_cgroup {
        let _ = cgroup::kill_all(dir);
    }
    if main_unreaped {
        let _ = killpg(main, Signal::SIGKILL);
    }
    for child in children() {
        let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
    }
}

/// Whether nothing of the task is left: neither in its cgroup nor among our adopted children.
fn is_empty(plan: &ShimPlan, _main: Pid) -> bool {
    let cgroup_empty = plan
        .kill_cgroup
        .as_deref()
        .is_none_or(|dir| !cgroup::populated(dir));
    cgroup_empty && children().is_empty()
}

/// Direct children of this process: as subreaper that includes orphans of the task. None can vanish
/// and be replaced under us, since only we reap them.
pub fn children() -> Vec<Pid> {
    let pid = std::process::id();
    fs::read_to_string(format!("/proc/self/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|p| p.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

fn now_ms() -> u64 {
    now_us() / 1000
}

fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}
