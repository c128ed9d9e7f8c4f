//! Running a command where a task runs: what command checks and `waggle exec` start.
//!
//! A process joins the task's cgroups, and, where the task has namespaces of its own, these and its root; it gets
//! the task's user, limits, capabilities and seccomp filter. No runtime is asked: that would cost a tenth of a second
//! a time.
#![allow(
    unsafe_code,
    reason = "what happens between fork and exec is made of raw system calls"
)]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::Path,
    process::Command,
};

use super::{
    plan::{ContainerPlan, PLAN, ShimPlan, TASK, UserIds, read_json},
    spawn::{check, limits, reset_signals, write_to},
};
use crate::sys::ProcessId;

/// `_LINUX_CAPABILITY_VERSION_3` of `include/uapi/linux/capability.h`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Highest number that a capability may have.
const MAX_CAPABILITY: u32 = 63;

/// How a task is entered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entering<'a> {
    /// Whether descriptor 0 is a terminal, which the command's session is to have.
    pub terminal: bool,
    /// Working directory, absolute or relative to the task's own; `None`: that one.
    pub work_dir: Option<&'a str>,
}

/// Makes `command` run where the task of this directory runs: its environment, root, working directory, cgroups,
/// namespaces, user and confinement, in a session of its own.
///
/// The program is looked up in the task's `PATH` inside the task's root. Set standard streams as usual; further
/// variables by `command.env` after this call; no working directory. Where the task has namespaces, the child's process
/// number is that of a helper, which passes signals on and ends as the command ends; kill -9 of it, or of its process
/// group, ends both. Blocking, but short: two files are read. The error is for people: the task does not run (any
/// more), or was never started.
pub fn enter_task(command: &mut Command, dir: &Path, entering: Entering<'_>) -> Result<(), String> {
    let read = |e: io::Error| format!("the task's plan is not readable: {e}");
    let plan: ShimPlan = read_json(&dir.join(PLAN))
        .map_err(read)?
        .ok_or("the task was never started")?;
    let process = if plan.container.is_some() || plan.netns.is_some() {
        let id: Option<ProcessId> = read_json(&dir.join(TASK)).map_err(read)?;
        let id = id.ok_or("the task does not run yet")?;
        Some(id.open().map_err(|_| "the task does not run any more")?)
    } else {
        None
    };
    let inside = Inside::new(&plan, process, entering)?;
    command.env_clear().envs(&plan.env);
    // SAFETY: the closure runs in the forked child and makes only async-signal-safe calls on memory prepared above; it
    // neither allocates nor takes locks.
    unsafe {
        command.pre_exec(move || inside.enter());
    }
    Ok(())
}

/// All that the child needs, made before the fork.
struct Inside {
    procs: Vec<CString>,
    // The task's process, to join its namespaces, and which.
    namespaces: Option<(OwnedFd, libc::c_int)>,
    work_dir: CString,
    user: Option<UserIds>,
    limits: Vec<(u32, libc::rlimit)>,
    confinement: Option<Confinement>,
    terminal: bool,
}

struct Confinement {
    bounding: u64,
    effective: u64,
    no_new_privileges: bool,
    filter: Vec<libc::sock_filter>,
}

impl Inside {
    fn new(
        plan: &ShimPlan,
        process: Option<OwnedFd>,
        entering: Entering<'_>,
    ) -> Result<Self, String> {
        let c = |path: &Path| {
            CString::new(path.as_os_str().as_bytes()).map_err(|e| format!("path: {e}"))
        };
        let procs = plan
            .cgroups
            .iter()
            .map(|dir| c(&dir.join("cgroup.procs")))
            .collect::<Result<_, _>>()?;
        let container = plan.container.as_ref();
        let own = container.map_or(plan.sandbox.as_path(), |c| Path::new(&c.work_dir));
        let work_dir = entering
            .work_dir
            .map_or(own.to_owned(), |dir| own.join(dir));
        let kinds = match container {
            Some(container) => {
                let all = libc::CLONE_NEWNS
                    | libc::CLONE_NEWPID
                    | libc::CLONE_NEWNET
                    | libc::CLONE_NEWIPC
                    | libc::CLONE_NEWUTS
                    | libc::CLONE_NEWCGROUP;
                if container.user_namespace {
                    all | libc::CLONE_NEWUSER
                } else {
                    all
                }
            }
            None => libc::CLONE_NEWNET,
        };
        Ok(Self {
            procs,
            namespaces: process.map(|fd| (fd, kinds)),
            work_dir: c(&work_dir)?,
            user: container.map_or_else(|| plan.user.clone(), |c| Some(c.user.clone())),
            limits: limits(plan),
            confinement: container.map(Confinement::new),
            terminal: entering.terminal,
        })
    }

    /// Runs in the child.
    fn enter(&self) -> io::Result<()> {
        // SAFETY: no arguments. A session and group of its own: signals to the group never reach the agent.
        check(unsafe { libc::setsid() })?;
        for path in &self.procs {
            write_to(path, b"0\n")?;
        }
        // The agent may be protected from the OOM killer; the task is not.
        let _ = write_to(c"/proc/self/oom_score_adj", b"0\n");
        if let Some((process, kinds)) = &self.namespaces {
            // SAFETY: integer arguments.
            check(unsafe { libc::setns(process.as_raw_fd(), *kinds) })?;
            if kinds & libc::CLONE_NEWPID != 0 {
                become_child(self.terminal)?;
                if self.terminal {
                    // Who looks at its terminal's foreground group must see one of its own namespace.
                    // SAFETY: no arguments; a new child leads no group.
                    check(unsafe { libc::setsid() })?;
                }
            }
        }
        if self.terminal {
            // SAFETY: integer arguments.
            check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
        }
        reset_signals()?;
        // SAFETY: plain values, and C strings and slices that outlive the calls.
        unsafe {
            check(libc::chdir(self.work_dir.as_ptr()))?;
            for (which, limit) in &self.limits {
                check(libc::setrlimit(*which, limit))?;
            }
        }
        match &self.confinement {
            Some(confinement) => confinement.take(self.user.as_ref())?,
            None => {
                if let Some(user) = &self.user {
                    become_user(user)?;
                }
            }
        }
        if self.namespaces.is_some() {
            // Not before: a change of the user takes it back.
            // SAFETY: integer arguments.
            check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        }
        Ok(())
    }
}

impl Confinement {
    fn new(container: &ContainerPlan) -> Self {
        Self {
            bounding: container.bounding,
            effective: container.effective,
            no_new_privileges: container.no_new_privileges,
            filter: container
                .seccomp
                .iter()
                .map(|(code, jt, jf, k)| libc::sock_filter {
                    code: *code,
                    jt: *jt,
                    jf: *jf,
                    k: *k,
                })
                .collect(),
        }
    }

    /// In the order of runc's own `exec`: a filter without "no new privileges" needs a capability, so it comes first.
    fn take(&self, user: Option<&UserIds>) -> io::Result<()> {
        if !self.no_new_privileges {
            self.install_filter()?;
        }
        for capability in 0..=MAX_CAPABILITY {
            if self.bounding & (1 << capability) == 0 {
                // SAFETY: integer arguments. One that the kernel does not know is no error.
                unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
            }
        }
        // SAFETY: integer arguments: a change of the user keeps what is permitted, to be cut below.
        check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) })?;
        if let Some(user) = user {
            become_user(user)?;
        }
        let root = user.is_none_or(|u| u.uid == 0);
        let inheritable = if root { 0 } else { self.effective };
        set_capabilities(self.effective, inheritable)?;
        if !root {
            for capability in (0..=MAX_CAPABILITY).filter(|c| self.effective & (1 << c) != 0) {
                // SAFETY: integer arguments.
                check(unsafe {
                    libc::prctl(
                        libc::PR_CAP_AMBIENT,
                        libc::PR_CAP_AMBIENT_RAISE,
                        capability,
                        0,
                        0,
                    )
                })?;
            }
        }
        if self.no_new_privileges {
            // SAFETY: integer arguments.
            check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
            self.install_filter()?;
        }
        Ok(())
    }

    fn install_filter(&self) -> io::Result<()> {
        if self.filter.is_empty() {
            return Ok(());
        }
        let program = libc::sock_fprog {
            len: libc::c_ushort::try_from(self.filter.len()).unwrap_or(libc::c_ushort::MAX),
            filter: self.filter.as_ptr().cast_mut(),
        };
        // SAFETY: the program lives until the kernel has copied it.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const program,
            )
        };
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// Groups first, while still privileged.
fn become_user(user: &UserIds) -> io::Result<()> {
    // SAFETY: the slice outlives the call. Raw calls: a C library would change all threads, of which there is one.
    unsafe {
        check(libc::setgroups(user.groups.len(), user.groups.as_ptr()))?;
        check(libc::setgid(user.gid))?;
        check(libc::setuid(user.uid))
    }
}

fn set_capabilities(permitted: u64, inheritable: u64) -> io::Result<()> {
    let header = [CAPABILITY_VERSION, 0];
    let half = |set: u64, high: bool| (if high { set >> 32 } else { set } & 0xffff_ffff) as u32;
    let mut data = [0u32; 6];
    for (i, high) in [false, true].into_iter().enumerate() {
        data[i * 3] = half(permitted, high);
        data[i * 3 + 1] = half(permitted, high);
        data[i * 3 + 2] = half(inheritable, high);
    }
    // SAFETY: the kernel's layout of version 3: a header of two words, two records of three.
    let rc = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Only children are in a joined process namespace: returns in the child; the parent stays, passes signals on, and ends
/// as its child ends. A child that will lead a session of its own gets signals for its whole group; another one is in
/// its parent's.
fn become_child(leads: bool) -> io::Result<()> {
    // SAFETY: all of this is system calls on values of this frame; the raw clone is a fork without handlers.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        // Before the fork: a signal that comes at once waits. The child resets it.
        check(libc::sigprocmask(
            libc::SIG_BLOCK,
            &raw const all,
            std::ptr::null_mut(),
        ))?;
        let pid = libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0);
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        if pid == 0 {
            return Ok(());
        }
        let child = libc::pid_t::try_from(pid).unwrap_or(libc::pid_t::MAX);
        // Also the pipe by which a failed exec is told, and the streams: they end when the command's do.
        libc::syscall(libc::SYS_close_range, 0, libc::c_int::MAX, 0);
        loop {
            let signal = libc::sigwaitinfo(&raw const all, std::ptr::null_mut());
            if signal > 0 && signal != libc::SIGCHLD {
                libc::kill(if leads { -child } else { child }, signal);
                continue;
            }
            let mut status = 0;
            if libc::waitpid(child, &raw mut status, libc::WNOHANG) != child {
                continue;
            }
            if libc::WIFSIGNALED(status) {
                let signal = libc::WTERMSIG(status);
                let no_core = libc::rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core);
                libc::signal(signal, libc::SIG_DFL);
                let mut one: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut one);
                libc::sigaddset(&raw mut one, signal);
                libc::kill(libc::getpid(), signal);
                libc::sigprocmask(libc::SIG_UNBLOCK, &raw const one, std::ptr::null_mut());
                libc::_exit(128 + signal);
            }
            if libc::WIFEXITED(status) {
                libc::_exit(libc::WEXITSTATUS(status));
            }
        }
    }
}
