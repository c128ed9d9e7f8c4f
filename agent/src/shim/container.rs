//! Starting a container: the OCI runtime makes it and goes, its init stays as the shim's child.
#![allow(
    unsafe_code,
    reason = "what happens between fork and exec is made of raw system calls"
)]

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, IoSliceMut, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::{
    cmsg_space,
    fcntl::{FcntlArg, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        socket::{
            AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
            accept, bind, listen, recvmsg, socket, socketpair,
        },
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    plan::{ContainerPlan, ShimPlan},
    spawn::{Started, pipe, reset_signals},
};

/// How long the runtime's word about its end may be.
const MAX_WORD: u64 = 16 << 10;
/// How long a runtime that has ended may take to hand over the terminal: it did so before.
const CONSOLE_WAIT_MS: u16 = 1000;
/// Descriptors of the runtime are copied above this first, so that none is overwritten while they are placed.
const SPARE_FD: i32 = 10;
/// The init's descriptor of its channel (agent/init).
const CHANNEL_FD: RawFd = 3;

/// Starts the plan's container and its command. The error is for people; then nothing runs.
pub fn start(plan: &ShimPlan, container: &ContainerPlan) -> Result<Started, String> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(|e| format!("failed to make a socket: {e}"))?;
    let console = container.tty.then(|| Console::listen(&container.bundle));
    let console = console.transpose()?;
    let null = File::open("/dev/null").map_err(|e| format!("failed to open /dev/null: {e}"))?;
    let (out_read, out_write) = pipe()?;
    let (mut err_read, err_write) = pipe()?;
    let fds = [
        null.as_raw_fd(),
        out_write.as_raw_fd(),
        err_write.as_raw_fd(),
        theirs.as_raw_fd(),
    ];
    let child = fork_exec(&container.run, &container.bundle, fds)?;
    drop((out_write, err_write, theirs));
    let name = || runtime_name(container);
    let ended = wait_for(child).map_err(|e| format!("failed to wait for {}: {e}", name()))?;
    if ended != WaitStatus::Exited(child, 0) {
        return Err(format!(
            "failed to make the container: {}",
            last_words(&mut err_read, container, ended)
        ));
    }
    let pid =
        read_pid(&container.pid_file).map_err(|e| format!("{} left no process: {e}", name()))?;
    let mut channel = File::from(ours);
    let go = || -> Result<(File, Option<File>), String> {
        for dir in &container.join {
            let procs = dir.join("cgroup.procs");
            fs::write(&procs, pid.to_string())
                .map_err(|e| format!("failed to join the cgroup {}: {e}", dir.display()))?;
        }
        let terminal = console.map(Console::take).transpose()?;
        channel
            .write_all(&go_ahead(container))
            .map_err(|e| format!("the container's init is gone: {e}"))?;
        executed(&mut channel, plan)?;
        Ok(match terminal {
            Some(terminal) => (terminal, None),
            None => (out_read, Some(err_read)),
        })
    };
    match go() {
        Ok((stdout, stderr)) => {
            let flags = FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
            // Read once, when the init has ended.
            let _ = fcntl(&channel, flags);
            Ok(Started {
                pid: pid.unsigned_abs(),
                stdout,
                stderr,
                channel: Some(channel),
            })
        }
        Err(why) => {
            let pid = Pid::from_raw(pid);
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
            Err(why)
        }
    }
}

/// What the init is waiting for (agent/init): its filter, where it takes one, and the word.
fn go_ahead(container: &ContainerPlan) -> Vec<u8> {
    let mut out = Vec::new();
    if container.init_takes_filter {
        let n = u32::try_from(container.seccomp.len()).unwrap_or(u32::MAX);
        out.push(b'F');
        out.extend(n.to_ne_bytes());
        for (code, jt, jf, k) in &container.seccomp {
            out.extend(code.to_ne_bytes());
            out.extend([*jt, *jf]);
            out.extend(k.to_ne_bytes());
        }
    }
    out.push(b'G');
    out
}

/// How the command ended by its init's word: a wait status. `None` when the init did not get to say it.
pub fn last_status(channel: &mut File) -> Option<i32> {
    let mut seen = Vec::new();
    let _ = channel.take(64).read_to_end(&mut seen);
    let at = seen.iter().position(|b| *b == b'X')?;
    let status = seen.get(at + 1..at + 5)?.try_into().ok()?;
    Some(i32::from_ne_bytes(status))
}

/// Waits for the init's word about the command.
fn executed(channel: &mut File, plan: &ShimPlan) -> Result<(), String> {
    let program = plan.argv.first().map_or("", String::as_str);
    let mut word = [0; 1];
    let gone = |e: io::Error| format!("the container's init ended before {program:?}: {e}");
    channel.read_exact(&mut word).map_err(gone)?;
    match word[0] {
        b'S' => Ok(()),
        said @ (b'E' | b'F') => {
            let mut errno = [0; 4];
            channel.read_exact(&mut errno).map_err(gone)?;
            let e = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
            Err(match said {
                b'F' => format!("the kernel does not take the seccomp filter: {e}"),
                _ => format!("failed to execute {program:?} in the image: {e}"),
            })
        }
        other => Err(format!("the container's init says {other:#x}")),
    }
}

/// Runs the runtime with these descriptors as 0 to 3. It dies with us: a container without its shim is nobody's.
fn fork_exec(argv: &[String], dir: &Path, fds: [RawFd; 4]) -> Result<Pid, String> {
    let c = |text: &[u8]| CString::new(text).map_err(|e| format!("the runtime's command: {e}"));
    let args: Vec<CString> = argv
        .iter()
        .map(|a| c(a.as_bytes()))
        .collect::<Result<_, _>>()?;
    let Some(program) = args.first() else {
        return Err("the runtime's command is empty".to_owned());
    };
    let env = [
        c(b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")?,
        // Go's runtime: one thread at a time is enough for what it does, and cheaper.
        c(b"GOMAXPROCS=1")?,
    ];
    let dir = c(dir.as_os_str().as_bytes())?;
    let list = |of: &[CString]| -> Vec<*const libc::c_char> {
        of.iter()
            .map(|a| a.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (arg_list, env_list) = (list(&args), list(&env));
    let parent = std::process::id();
    // SAFETY: this process has one thread (the shim's), so the child may do what it likes; all memory that it uses was
    // made before.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(format!("failed to fork: {}", io::Error::last_os_error()));
    }
    if pid > 0 {
        return Ok(Pid::from_raw(pid));
    }
    // SAFETY: in the child; system calls on valid pointers; it never returns.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // Died before the line above: nobody waits for us.
        if libc::getppid().unsigned_abs() != parent {
            libc::_exit(1);
        }
        let _ = reset_signals();
        let mut spare = [0; 4];
        for (to, from) in spare.iter_mut().zip(fds) {
            *to = libc::fcntl(from, libc::F_DUPFD_CLOEXEC, SPARE_FD);
        }
        for (to, from) in (0..).zip(spare) {
            if from < 0 || libc::dup2(from, to) < 0 {
                libc::_exit(126);
            }
        }
        // Nothing else of ours is for the runtime, whatever its flags.
        libc::syscall(
            libc::SYS_close_range,
            CHANNEL_FD + 1,
            libc::c_int::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        if libc::chdir(dir.as_ptr()) == 0 {
            libc::execve(program.as_ptr(), arg_list.as_ptr(), env_list.as_ptr());
        }
        libc::_exit(127)
    }
}

fn wait_for(child: Pid) -> nix::Result<WaitStatus> {
    loop {
        match waitpid(child, None) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// What a runtime that failed has said: its last line, without its own name.
fn last_words(pipe: &mut File, container: &ContainerPlan, ended: WaitStatus) -> String {
    let flags = FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
    // A process that it left may hold the pipe open.
    let _ = fcntl(&*pipe, flags);
    let mut bytes = Vec::new();
    let _ = pipe.take(MAX_WORD).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().find(|l| !l.trim().is_empty());
    match (line, ended) {
        (Some(line), _) => {
            let line = line.trim();
            format!("{}: {line}", runtime_name(container))
        }
        (None, WaitStatus::Exited(_, 127)) => {
            format!("{} can't be executed", runtime_name(container))
        }
        (None, other) => format!("{} ended with {other:?}", runtime_name(container)),
    }
}

fn runtime_name(container: &ContainerPlan) -> &str {
    let program = container.run.first().map_or("runtime", String::as_str);
    program.rsplit('/').next().unwrap_or(program)
}

fn read_pid(file: &Path) -> io::Result<i32> {
    let text = fs::read_to_string(file)?;
    let pid = text.trim().parse().ok().filter(|p| *p > 1);
    pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Where the runtime hands over the terminal that it made inside (runc's `--console-socket`).
struct Console {
    socket: OwnedFd,
    path: std::path::PathBuf,
}

impl Console {
    fn listen(bundle: &Path) -> Result<Self, String> {
        let failed = |e: &dyn std::fmt::Display| format!("failed to wait for a terminal: {e}");
        let path = bundle.join("console.sock");
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&e)),
            _ => {}
        }
        // A socket's path has at most 107 bytes; the directory's descriptor makes it short.
        let dir = File::open(bundle).map_err(|e| failed(&e))?;
        let short = format!("/proc/self/fd/{}/console.sock", dir.as_raw_fd());
        let socket = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(|e| failed(&e))?;
        let address = UnixAddr::new(short.as_str()).map_err(|e| failed(&e))?;
        bind(socket.as_raw_fd(), &address).map_err(|e| failed(&e))?;
        listen(&socket, Backlog::new(1).map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
        Ok(Self { socket, path })
    }

    fn take(self) -> Result<File, String> {
        use std::os::fd::FromRawFd;
        let _ = fs::remove_file(&self.path);
        let failed = |e: &dyn std::fmt::Display| format!("the runtime gave no terminal: {e}");
        readable(&self.socket).map_err(|e| failed(&e))?;
        let peer = accept(self.socket.as_raw_fd()).map_err(|e| failed(&e))?;
        // SAFETY: accept's result is new and nobody else's.
        let peer = unsafe { OwnedFd::from_raw_fd(peer) };
        readable(&peer).map_err(|e| failed(&e))?;
        let mut name = [0; 256];
        let mut space = cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(&mut name)];
        let message = recvmsg::<()>(
            peer.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .map_err(|e| failed(&e))?;
        let fd = message
            .cmsgs()
            .map_err(|e| failed(&e))?
            .find_map(|m| match m {
                ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                _ => None,
            });
        let fd = fd.ok_or_else(|| failed(&"no descriptor came"))?;
        // SAFETY: a descriptor that was just received is ours alone.
        Ok(unsafe { File::from_raw_fd(fd) })
    }
}

fn readable(fd: &impl AsFd) -> Result<(), nix::errno::Errno> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(CONSOLE_WAIT_MS))? {
        0 => Err(nix::errno::Errno::ETIMEDOUT),
        _ => Ok(()),
    }
}
