//! Starting the task's process: fork, join cgroups, drop privileges, exec.
#![allow(
    unsafe_code,
    reason = "what happens between fork and exec is made of raw system calls"
)]

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
};

use super::plan::{ShimPlan, UserIds};
use crate::exec::pty;

/// A started task.
pub struct Started {
    /// Its process number, also its session and process group.
    pub pid: u32,
    /// Reads what it writes to stdout.
    pub stdout: File,
    /// Reads what it writes to stderr; `None`: its terminal is read by `stdout`.
    pub stderr: Option<File>,
    /// The other end of a container's init.
    pub channel: Option<File>,
}

/// Steps between fork and exec, so that a failure can be told by name.
const STEPS: [&str; 8] = [
    "start a session for",
    "join the cgroup of",
    "reset the signals of",
    "join the network of",
    "limit",
    "enter the sandbox of",
    "change the user of",
    "execute",
];

/// Starts the plan's command. The error names the step that failed.
pub fn spawn(plan: &ShimPlan) -> Result<Started, String> {
    if let Some(container) = &plan.container {
        return super::container::start(plan, container);
    }
    let [program, args @ ..] = plan.argv.as_slice() else {
        return Err("command: must not be empty".to_owned());
    };
    let (mut step_read, step_write) = pipe()?;
    let step_fd = step_write.as_raw_fd();
    let mut command = Command::new(program);
    command.args(args);
    let (stdout, stderr) = streams(&mut command, plan)?;
    enter(&mut command, plan, step_fd)?;
    if plan.tty {
        // SAFETY: one system call, async-signal-safe, after the one that began a session.
        unsafe {
            command.pre_exec(pty::control_terminal);
        }
    }
    let spawned = command.spawn();
    // Closes our write ends, so that the pipes end when the task's processes do.
    drop(command);
    drop(step_write);
    match spawned {
        Ok(child) => Ok(Started {
            pid: child.id(),
            stdout,
            stderr,
            channel: None,
        }),
        Err(e) => {
            let mut seen = Vec::new();
            let _ = step_read.read_to_end(&mut seen);
            let step = seen
                .last()
                .and_then(|s| STEPS.get(usize::from(*s)))
                .copied()
                // No step was begun: fork itself.
                .unwrap_or("fork for");
            Err(format!("failed to {step} {program:?}: {e}"))
        }
    }
}

/// The command's standard streams, a terminal or pipes, and our ends of them.
fn streams(command: &mut Command, plan: &ShimPlan) -> Result<(File, Option<File>), String> {
    if plan.tty {
        let made = pty::pair().and_then(|(master, slave)| {
            if let Some(user) = &plan.user {
                std::os::unix::fs::fchown(&slave, Some(user.uid), None)?;
            }
            command
                .stdin(Stdio::from(slave.try_clone()?))
                .stdout(Stdio::from(slave.try_clone()?))
                .stderr(Stdio::from(slave));
            Ok((master, None))
        });
        return made.map_err(|e| format!("failed to make a terminal: {e}"));
    }
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::from(OwnedFd::from(out_write)))
        .stderr(Stdio::from(OwnedFd::from(err_write)));
    Ok((out_read, Some(err_read)))
}

fn enter(command: &mut Command, plan: &ShimPlan, step_fd: RawFd) -> Result<(), String> {
    let before = Before {
        step_fd,
        procs: plan
            .cgroups
            .iter()
            .map(|dir| c_path(&dir.join("cgroup.procs")))
            .collect::<Result<_, _>>()?,
        netns: plan
            .netns
            .as_ref()
            .map(|path| {
                File::open(path).map_err(|e| {
                    format!(
                        "failed to open the network namespace {}: {e}",
                        path.display()
                    )
                })
            })
            .transpose()?,
        sandbox: c_path(&plan.sandbox)?,
        limits: limits(plan),
        user: plan.user.clone(),
    };
    command.env_clear().envs(&plan.env);
    // SAFETY: the closure runs in the forked child and makes only async-signal-safe calls on memory
    // prepared above; it neither allocates nor takes locks.
    unsafe {
        command.pre_exec(move || before.prepare());
    }
    Ok(())
}

/// POSIX limits as the kernel takes them.
pub(super) fn limits(plan: &ShimPlan) -> Vec<(u32, libc::rlimit)> {
    let unlimited = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
    plan.rlimits
        .values()
        .map(|(number, soft, hard)| {
            let limit = libc::rlimit {
                rlim_cur: unlimited(*soft),
                rlim_max: unlimited(*hard),
            };
            // The kernel refuses a number that it does not know.
            (u32::try_from(*number).unwrap_or(u32::MAX), limit)
        })
        .collect()
}

fn c_path(path: &Path) -> Result<CString, String> {
    CString::new(path.as_os_str().as_bytes()).map_err(|e| format!("path {}: {e}", path.display()))
}

pub(super) fn pipe() -> Result<(File, File), String> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map(|(r, w)| (File::from(r), File::from(w)))
        .map_err(|e| format!("failed to make a pipe: {e}"))
}

/// All that the child needs, made before the fork.
struct Before {
    step_fd: RawFd,
    procs: Vec<CString>,
    netns: Option<File>,
    sandbox: CString,
    limits: Vec<(u32, libc::rlimit)>,
    user: Option<UserIds>,
}

impl Before {
    /// Runs in the child.
    fn prepare(&self) -> io::Result<()> {
        let begin = |step: u8| {
            // SAFETY: writes one byte from the stack to an open pipe.
            unsafe { libc::write(self.step_fd, std::ptr::from_ref(&step).cast(), 1) };
        };
        begin(0);
        // SAFETY: no arguments. A session and group of its own: signals to the group never reach the agent.
        check(unsafe { libc::setsid() })?;
        begin(1);
        for path in &self.procs {
            write_to(path, b"0\n")?;
        }
        // The agent and the shim may be protected from the OOM killer; the task is not.
        let _ = write_to(c"/proc/self/oom_score_adj", b"0\n");
        begin(2);
        reset_signals()?;
        begin(3);
        if let Some(netns) = &self.netns {
            // SAFETY: integer arguments.
            check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) })?;
        }
        begin(4);
        for (which, limit) in &self.limits {
            // SAFETY: a plain value that outlives the call.
            check(unsafe { libc::setrlimit(*which, limit) })?;
        }
        begin(5);
        // SAFETY: a C string.
        check(unsafe { libc::chdir(self.sandbox.as_ptr()) })?;
        begin(6);
        if let Some(user) = &self.user {
            // SAFETY: the slice outlives the call; groups first, while still privileged.
            unsafe {
                check(libc::setgroups(user.groups.len(), user.groups.as_ptr()))?;
                check(libc::setgid(user.gid))?;
                check(libc::setuid(user.uid))?;
            }
        }
        begin(7);
        Ok(())
    }
}

/// Signals that a parent had blocked or ignored for itself: an agent that was started in the background of a script ignores
/// SIGINT, and what ignores a signal when it is executed can't even trap it. Async-signal-safe.
pub(super) fn reset_signals() -> io::Result<()> {
    // SAFETY: the set is a plain value that sigemptyset fills in; no handler is set.
    unsafe {
        // Some can't be changed: that is as it should be.
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut(),
        ))
    }
}

pub(super) fn write_to(path: &std::ffi::CStr, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: a valid C string and a slice; the descriptor is closed on every path.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(fd)?;
        let n = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        let result = if n < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        };
        libc::close(fd);
        result
    }
}

pub(super) fn check(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
