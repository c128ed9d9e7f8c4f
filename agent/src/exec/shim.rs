//! The process between an agent and a command that was started in a task by `exec`.
//!
//! It is told everything over one socket, its standard input: first a byte that carries the command's three
//! standard streams, then an [`Order`], then [`Ask`]s, a line of JSON each; it answers [`Report`]s. When the
//! socket ends (the client has gone, or the agent has), it ends all that the command started: it is their
//! subreaper, so that nothing gets away by forking twice. It touches no byte of input or output.
#![allow(unsafe_code, reason = "descriptors arrive as numbers")]

use std::{
    collections::BTreeMap,
    io::{self, IoSliceMut, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::{fs::fchown, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use nix::{
    cmsg_space,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill, killpg},
        signalfd::{SfdFlags, SignalFd},
        socket::{ControlMessageOwned, MsgFlags, recvmsg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, setsid},
};
use serde::{Deserialize, Serialize};

use crate::{
    shim::{self, Entering, PLAN, ShimPlan, read_json},
    sys::ProcessId,
};

/// Variable of a session's processes.
const SESSION: &str = "WAGGLE_SESSION";
/// Standard streams of the command.
pub const STREAMS: usize = 3;
/// Longest line on the socket, in bytes.
pub const MAX_LINE: usize = 512 << 10;
/// From the hang-up to the kill.
const GRACE: Duration = Duration::from_millis(500);
/// Longest that what is left may take to die; nothing survives SIGKILL but a process that hangs in the kernel.
const KILL: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The task's directory.
    pub dir: PathBuf,
    /// Program and arguments, never empty.
    pub argv: Vec<String>,
    /// Variables beside the task's.
    pub env: BTreeMap<String, String>,
    /// Working directory; none: the task's.
    pub work_dir: Option<String>,
    /// Whether the streams are a terminal.
    pub tty: bool,
}

/// What is asked of it later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// This signal for the command's process group.
    Signal(i32),
}

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The command runs.
    Started {
        /// Its process.
        pid: u32,
    },
    /// It can't be started.
    Failed {
        /// 127 when there is no such program, else 126.
        code: i32,
        /// Why.
        message: String,
    },
    /// It has ended.
    Ended {
        /// Exit code.
        code: Option<i32>,
        /// Signal that ended it.
        signal: Option<i32>,
    },
}

/// Becomes the shim of a command in a task. Call it before any thread is started.
pub fn exec_shim_main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("waggle exec-shim: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let mut agent = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let streams = receive_streams(&agent)?;
    let mut lines = Lines::default();
    let order: Order = loop {
        if let Some(order) = lines.next()? {
            break order;
        }
        if !lines.fill(&mut agent)? {
            return Err(io::Error::other("the agent is gone"));
        }
    };
    // Fails when it is a session leader already, which is as good.
    let _ = setsid();
    crate::sys::become_subreaper()?;
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
    let main = match spawn(&order, streams) {
        Ok(pid) => pid,
        Err((code, message)) => return say(&mut agent, &Report::Failed { code, message }),
    };
    let pid = u32::try_from(main.as_raw()).unwrap_or_default();
    let told = say(&mut agent, &Report::Started { pid });
    if told
        .and_then(|()| watch(&mut agent, &mut lines, main, &signals))
        .is_err()
    {
        hang_up(main, &signals);
    }
    kill_rest(&order.dir, &signals);
    Ok(())
}

/// Serves until the command ends; an error is the agent's end.
fn watch(
    agent: &mut UnixStream,
    lines: &mut Lines,
    main: Pid,
    signals: &SignalFd,
) -> io::Result<()> {
    loop {
        while let Some(Ask::Signal(number)) = lines.next()? {
            if let Ok(signal) = Signal::try_from(number) {
                let _ = killpg(main, signal);
            }
        }
        let mut fds = [
            PollFd::new(agent.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        // An interrupted wait is a wake-up like any other.
        let _ = poll(&mut fds, PollTimeout::NONE);
        let asked = fds[0].any().unwrap_or(true);
        while let Ok(Some(_)) = signals.read_signal() {}
        if let Some(status) = reap(main) {
            let (code, signal) = match status {
                WaitStatus::Exited(_, code) => (Some(code), None),
                WaitStatus::Signaled(_, signal, _) => (None, Some(signal as i32)),
                _ => (None, None),
            };
            return say(agent, &Report::Ended { code, signal });
        }
        if asked && !lines.fill(agent)? {
            return Err(io::Error::other("the agent is gone"));
        }
    }
}

/// Starts the command as the task's own: its environment, sandbox, cgroups, user.
fn spawn(order: &Order, streams: [OwnedFd; STREAMS]) -> Result<Pid, (i32, String)> {
    let fail = |message: String| (126, message);
    let [program, args @ ..] = order.argv.as_slice() else {
        return Err(fail("argv: must not be empty".to_owned()));
    };
    let plan: ShimPlan = read_json(&order.dir.join(PLAN))
        .ok()
        .flatten()
        .ok_or_else(|| fail("the task's plan is not readable".to_owned()))?;
    if let (true, Some(user)) = (order.tty, &plan.user) {
        // The user may open its terminal again, as /dev/tty.
        let _ = fchown(&streams[0], Some(user.uid), None);
    }
    let [stdin, stdout, stderr] = streams;
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr));
    let entering = Entering {
        terminal: order.tty,
        work_dir: order.work_dir.as_deref(),
    };
    shim::enter_task(&mut command, &order.dir, entering).map_err(fail)?;
    command.envs(&order.env).env(SESSION, session());
    // Dropping the command closes our ends of its streams: they end when its processes do.
    match command.spawn() {
        Ok(child) => Ok(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err((127, format!("{program}: no such program in the task ({e})")))
        }
        Err(e) => Err(fail(format!("{program}: {e}"))),
    }
}

/// As a terminal that is closed: SIGHUP, and a moment to tidy up.
fn hang_up(main: Pid, signals: &SignalFd) {
    let _ = killpg(main, Signal::SIGHUP);
    let _ = killpg(main, Signal::SIGCONT);
    let until = Instant::now() + GRACE;
    while Instant::now() < until && reap(main).is_none() {
        pause(signals);
    }
}

/// Kills what is left until nothing is: orphans become children of this process, but for those in a container, which
/// become its init's; they are known by their environment.
fn kill_rest(dir: &Path, signals: &SignalFd) {
    let plan: Option<ShimPlan> = read_json(&dir.join(PLAN)).ok().flatten();
    let container = plan.filter(|p| p.container.is_some());
    let cgroup = container.and_then(|p| p.kill_cgroup);
    let until = Instant::now() + KILL;
    while Instant::now() < until {
        let left = shim::children();
        let n_strays = cgroup.as_deref().map_or(0, kill_strays);
        if left.is_empty() && n_strays == 0 {
            return;
        }
        for child in left {
            // Only we reap them, so the number is still theirs.
            let _ = kill(child, Signal::SIGKILL);
        }
        while reap(Pid::from_raw(0)).is_some() {}
        pause(signals);
    }
}

/// Kills those of a cgroup that this session began; answers how many there were.
fn kill_strays(cgroup: &Path) -> usize {
    let mark = format!("{SESSION}={}", session());
    let of_session = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|v| v == mark.as_bytes())
    };
    let mut n = 0;
    for pid in crate::cgroup::pids_below(cgroup) {
        // Held before it is looked at: the number can't become another's in between.
        let held = ProcessId::of(pid).and_then(ProcessId::open);
        if let Ok(held) = held
            && of_session(&pid)
        {
            n += 1;
            let _ = crate::sys::pidfd_signal(&held, libc::SIGKILL);
        }
    }
    n
}

/// What marks the processes of this session, whoever's children they become.
fn session() -> String {
    let start = ProcessId::of(std::process::id()).map_or(0, |id| id.start_ticks);
    format!("{}-{start}", std::process::id())
}

/// Until a child ends, or a moment.
fn pause(signals: &SignalFd) {
    let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut fds, PollTimeout::from(10u8));
    while let Ok(Some(_)) = signals.read_signal() {}
}

/// Reaps whoever has ended; says how `main` did, if it was among them.
fn reap(main: Pid) -> Option<WaitStatus> {
    let mut ended = None;
    while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
        let over = matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
        if over && status.pid() == Some(main) {
            ended = Some(status);
        }
    }
    ended
}

fn say(agent: &mut UnixStream, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    agent.write_all(&line)
}

/// The byte that carries the command's streams.
fn receive_streams(agent: &UnixStream) -> io::Result<[OwnedFd; STREAMS]> {
    let mut byte = [0];
    let mut iov = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([std::os::fd::RawFd; STREAMS]);
    let message = recvmsg::<()>(
        agent.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut streams = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
            streams.extend(
                fds.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    <[OwnedFd; STREAMS]>::try_from(streams)
        .map_err(|_| io::Error::other("the command's streams did not arrive"))
}

/// Lines that have arrived.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    /// The next whole line, decoded.
    fn next<T: serde::de::DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(end) = self.bytes.iter().position(|b| *b == b'\n') else {
            return Ok(None);
        };
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// One read; whether there may be more.
    fn fill(&mut self, from: &mut UnixStream) -> io::Result<bool> {
        if self.bytes.len() > MAX_LINE {
            return Err(io::Error::other("a line is too long"));
        }
        let mut part = [0; 8192];
        match from.read(&mut part) {
            Ok(n) => {
                self.bytes.extend(&part[..n]);
                Ok(n > 0)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(e),
        }
    }
}
