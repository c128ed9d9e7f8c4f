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
    process::{Command, Stdio},
};

use super::plan::{ShimPlan, UserIds};

/// A started task.
pub struct Started {
    /// Its process number, also its session and process group.
    pub pid: u32,
    /// Reads what it writes to stdout.
    pub stdout: File,
    /// Reads what it writes to stderr.
    pub stderr: File,
}

/// Steps between fork and exec, so that a failure can be told by name.
const STEPS: [&str; 7] = [
    "start a session",
    "join the cgroup",
    "join the network of",
    "reset signals",
    "limit the resources of",
    "change the user",
    "execute",
];

/// Starts the plan's command. The error names the step that failed.
pub fn spawn(plan: &ShimPlan) -> Result<Started, String> {
    let [program, args @ ..] = plan.argv.as_slice() else {
        return Err("command: must not be empty".to_owned());
    };
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    let (mut step_read, step_write) = pipe()?;
    let step_fd = step_write.as_raw_fd();
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::from(OwnedFd::from(out_write)))
        .stderr(Stdio::from(OwnedFd::from(err_write)));
    enter(&mut command, plan, Some(step_fd))?;
    let spawned = command.spawn();
    // Closes our write ends, so that the pipes end when the task's processes do.
    drop(command);
    drop(step_write);
    match spawned {
        Ok(child) => Ok(Started {
            pid: child.id(),
            stdout: out_read,
            stderr: err_read,
        }),
        Err(e) => {
            let mut seen = Vec::new();
            let _ = step_read.read_to_end(&mut seen);
            let step = seen
                .last()
                .and_then(|s| STEPS.get(usize::from(*s)))
                .copied()
                // No step was begun: the working directory, or fork itself.
                .unwrap_or("enter the sandbox of");
            Err(format!("failed to {step} {program:?}: {e}"))
        }
    }
}

/// Makes `command` run where the task runs: its environment, sandbox, cgroups, user, in a session of its
/// own. Also safe in a process with threads: see [`prepare`].
pub fn enter_task(command: &mut Command, plan: &ShimPlan) -> Result<(), String> {
    enter(command, plan, None)
}

fn enter(command: &mut Command, plan: &ShimPlan, step_fd: Option<RawFd>) -> Result<(), String> {
    let procs = plan
        .cgroups
        .iter()
        .map(|dir| CString::new(dir.join("cgroup.procs").as_os_str().as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("cgroup path: {e}"))?;
    let user = plan.user.clone();
    let netns = match &plan.netns {
        Some(path) => Some(File::open(path).map_err(|e| {
            format!(
                "failed to open the network namespace {}: {e}",
                path.display()
            )
        })?),
        None => None,
    };
    let unlimited = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
    let rlimits: Vec<(i32, libc::rlimit)> = plan
        .rlimits
        .values()
        .map(|(number, soft, hard)| {
            let limit = libc::rlimit {
                rlim_cur: unlimited(*soft),
                rlim_max: unlimited(*hard),
            };
            (*number, limit)
        })
        .collect();
    command
        .env_clear()
        .envs(&plan.env)
        .current_dir(&plan.sandbox);
    // SAFETY: the closure runs in the forked child and makes only async-signal-safe calls on memory
    // prepared above; it neither allocates nor takes locks.
    unsafe {
        command.pre_exec(move || {
            let netns = netns.as_ref().map(AsRawFd::as_raw_fd);
            prepare(step_fd, &procs, netns, &rlimits, user.as_ref())
        });
    }
    Ok(())
}

fn pipe() -> Result<(File, File), String> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map(|(r, w)| (File::from(r), File::from(w)))
        .map_err(|e| format!("failed to make a pipe: {e}"))
}

/// Runs in the child.
fn prepare(
    step_fd: Option<RawFd>,
    procs: &[CString],
    netns: Option<RawFd>,
    rlimits: &[(i32, libc::rlimit)],
    user: Option<&UserIds>,
) -> io::Result<()> {
    let begin = |step: u8| {
        let Some(step_fd) = step_fd else { return };
        // SAFETY: writes one byte from the stack to an open pipe.
        unsafe { libc::write(step_fd, std::ptr::from_ref(&step).cast(), 1) };
    };
    begin(0);
    // SAFETY: no arguments. A session and group of its own: signals to the group never reach the agent.
    check(unsafe { libc::setsid() })?;
    begin(1);
    for path in procs {
        write_to(path, b"0\n")?;
    }
    // The agent and the shim may be protected from the OOM killer; the task is not.
    let _ = write_to(c"/proc/self/oom_score_adj", b"0\n");
    begin(2);
    if let Some(netns) = netns {
        // SAFETY: an open descriptor and a flag; this process has one thread.
        check(unsafe { libc::setns(netns, libc::CLONE_NEWNET) })?;
    }
    begin(3);
    // SAFETY: the set is a plain value that sigemptyset fills in.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut(),
        ))?;
    }
    begin(4);
    for (number, limit) in rlimits {
        // The kernel refuses a number that it does not know.
        let number = u32::try_from(*number).unwrap_or(u32::MAX);
        // SAFETY: the limit outlives the call.
        check(unsafe { libc::setrlimit(number, std::ptr::from_ref(limit)) })?;
    }
    begin(5);
    if let Some(user) = user {
        // SAFETY: the slice outlives the call; groups first, while still privileged.
        unsafe {
            check(libc::setgroups(user.groups.len(), user.groups.as_ptr()))?;
            check(libc::setgid(user.gid))?;
            check(libc::setuid(user.uid))?;
        }
    }
    begin(6);
    Ok(())
}

fn write_to(path: &std::ffi::CStr, bytes: &[u8]) -> io::Result<()> {
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

fn check(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
