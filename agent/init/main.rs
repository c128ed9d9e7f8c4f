//! The first process of a container: starts the task's command, passes signals on to it, reaps what is orphaned,
//! and ends as the command ended.
//!
//! It is freestanding (no libc, no allocator, raw system calls), so the same file runs in every image. Its first
//! argument says whether it waits for a seccomp filter (`filter`) or has none to take (`plain`), the others are the
//! command. The shim holds the other end of descriptor 3:
//!
//! | from | bytes | meaning |
//! |---|---|---|
//! | shim | `F` + number (4 bytes) + instructions (8 bytes each) | the filter |
//! | shim | `G` | go: the container is in its cgroups |
//! | init | `S` | the command was executed |
//! | init | `E` + errno (4 bytes) | it could not be |
//! | init | `F` + errno (4 bytes) | the kernel did not take the filter |
//! | init | `X` + wait status (4 bytes) | it has ended |
//!
//! Integers are in the machine's order. When the shim dies before `G`, the command is never started; after that
//! its death changes nothing here. An init that waits for a filter starts nothing without one. It takes the filter
//! itself: the runtime's library needs as long to make it from a profile as for all the rest of a container.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;

use arch::{nr, syscall};

const CHANNEL: usize = 3;

const SIG_BLOCK: usize = 0;
const SIG_SETMASK: usize = 2;
const SIGCHLD: i32 = 17;
const SIGKILL: usize = 9;
const WNOHANG: usize = 1;
const O_CLOEXEC: usize = 0o2_000_000;
const F_SETFD: usize = 2;
const FD_CLOEXEC: usize = 1;
const TCGETS: usize = 0x5401;
const TIOCSPGRP: usize = 0x5410;
const EINTR: isize = -4;
const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;
/// Longest path that is tried, with its end (Linux `PATH_MAX`).
const PATH_MAX: usize = 4096;
/// Longest filter (Linux `BPF_MAXINSNS`), and the bytes of an instruction.
const MAX_INSTRUCTIONS: usize = 4096;
const INSTRUCTION: usize = 8;
const PR_SET_SECCOMP: usize = 22;
const SECCOMP_MODE_FILTER: usize = 2;
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0";

/// What a shell says of a command that is not there, and of one that can't be run.
const NOT_FOUND: usize = 127;
const NOT_EXECUTABLE: usize = 126;

/// All signals: the kernel's set is 64 bits.
static ALL: u64 = u64::MAX;

/// Called with the stack as the kernel left it: argc, argv, a null, the environment, a null.
///
/// # Safety
/// `stack` must be that.
#[unsafe(no_mangle)]
unsafe extern "C" fn init(stack: *const usize) -> ! {
    // SAFETY: the kernel's layout of a new process (execve(2)); all pointers stay valid for its life.
    unsafe {
        let argc = *stack;
        let argv = stack.add(1).cast::<*const u8>();
        let envp = argv.add(argc + 1);
        if argc < 3 {
            exit(NOT_EXECUTABLE);
        }
        let waits = match **argv.add(1) {
            b'f' => true,
            b'p' => false,
            _ => exit(NOT_EXECUTABLE),
        };
        run(waits, argv.add(2), envp)
    }
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    len: u16,
    filter: *const u8,
}

/// # Safety
/// Both are null-terminated lists of C strings.
unsafe fn run(waits: bool, argv: *const *const u8, envp: *const *const u8) -> ! {
    // SAFETY: raw system calls on memory of this function, or on the lists.
    unsafe {
        let mut inherited = 0u64;
        let mask = (&raw const ALL) as usize;
        syscall(
            nr::RT_SIGPROCMASK,
            SIG_BLOCK,
            mask,
            (&raw mut inherited) as usize,
            8,
            0,
        );
        syscall(nr::FCNTL, CHANNEL, F_SETFD, FD_CLOEXEC, 0, 0);
        if waits {
            take_filter();
        } else if !told_to_go() {
            exit(NOT_EXECUTABLE);
        }
        let mut pipe = [0i32; 2];
        if syscall(nr::PIPE2, (&raw mut pipe) as usize, O_CLOEXEC, 0, 0, 0) < 0 {
            exit(NOT_EXECUTABLE);
        }
        let child = syscall(nr::CLONE, SIGCHLD as usize, 0, 0, 0, 0);
        if child == 0 {
            become_command(argv, envp, inherited, pipe[1]);
        }
        if child < 0 {
            report(b'E', neg(child));
            exit(NOT_EXECUTABLE);
        }
        // In both processes, so that it holds whoever comes first.
        syscall(nr::SETPGID, child as usize, child as usize, 0, 0, 0);
        syscall(nr::CLOSE, pipe[1] as usize, 0, 0, 0, 0);
        let mut errno = 0i32;
        if read_i32(pipe[0], &mut errno) {
            report(b'E', errno);
            let missing = errno == ENOENT || errno == ENOTDIR;
            exit(if missing { NOT_FOUND } else { NOT_EXECUTABLE });
        }
        syscall(nr::CLOSE, pipe[0] as usize, 0, 0, 0, 0);
        let started = b'S';
        syscall(nr::WRITE, CHANNEL, (&raw const started) as usize, 1, 0, 0);
        supervise(child)
    }
}

/// Waits for the filter and the shim's word, then holds itself and all that it starts to it, for good.
#[inline(never)]
unsafe fn take_filter() {
    let mut filter = [core::mem::MaybeUninit::<u8>::uninit(); MAX_INSTRUCTIONS * INSTRUCTION];
    // SAFETY: reads and writes within this frame; what the kernel looks at was read.
    unsafe {
        let mut head = [0u8; 5];
        if !read_all((&raw mut head).cast(), head.len()) || head[0] != b'F' {
            exit(NOT_EXECUTABLE);
        }
        let n = u32::from_ne_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let start: *mut u8 = (&raw mut filter).cast();
        if n > MAX_INSTRUCTIONS || !read_all(start, n * INSTRUCTION) || !told_to_go() {
            exit(NOT_EXECUTABLE);
        }
        let program = Program {
            len: n as u16,
            filter: start,
        };
        let at = (&raw const program) as usize;
        let taken = syscall(nr::PRCTL, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, at, 0, 0);
        if taken < 0 {
            report(b'F', neg(taken));
            exit(NOT_EXECUTABLE);
        }
    }
}

/// So many bytes of the channel; false when it ends before.
unsafe fn read_all(to: *mut u8, n: usize) -> bool {
    let mut done = 0;
    while done < n {
        // SAFETY: the caller's memory has `n` bytes.
        let got = unsafe { syscall(nr::READ, CHANNEL, to as usize + done, n - done, 0, 0) };
        match got {
            EINTR => {}
            1.. => done += got as usize,
            _ => return false,
        }
    }
    true
}

/// Waits for the shim's word; false when it is gone. Without a channel there is nobody to wait for.
unsafe fn told_to_go() -> bool {
    let mut byte = 0u8;
    loop {
        // SAFETY: reads one byte into this frame.
        let n = unsafe { syscall(nr::READ, CHANNEL, (&raw mut byte) as usize, 1, 0, 0) };
        match n {
            1 => return byte == b'G',
            EINTR => {}
            _ => return false,
        }
    }
}

/// In the child: its own process group, in front where there is a terminal, signals as they were, then the command.
unsafe fn become_command(
    argv: *const *const u8,
    envp: *const *const u8,
    mask: u64,
    tell: i32,
) -> ! {
    // SAFETY: raw system calls on memory of this function, or on the lists.
    unsafe {
        syscall(nr::SETPGID, 0, 0, 0, 0, 0);
        let mut termios = [0u8; 64];
        if syscall(nr::IOCTL, 0, TCGETS, (&raw mut termios) as usize, 0, 0) == 0 {
            let me = syscall(nr::GETPID, 0, 0, 0, 0, 0) as i32;
            // SIGTTOU is blocked still.
            syscall(nr::IOCTL, 0, TIOCSPGRP, (&raw const me) as usize, 0, 0);
        }
        syscall(
            nr::RT_SIGPROCMASK,
            SIG_SETMASK,
            (&raw const mask) as usize,
            0,
            8,
            0,
        );
        let errno = execute(argv, envp);
        syscall(
            nr::WRITE,
            tell as usize,
            (&raw const errno) as usize,
            4,
            0,
            0,
        );
        exit(NOT_EXECUTABLE)
    }
}

/// execve along `PATH`, as execvp(3) does; answers the error when there is one. A text file without `#!` is an error.
unsafe fn execute(argv: *const *const u8, envp: *const *const u8) -> i32 {
    // SAFETY: C strings from the kernel; the buffer is only written within its bounds.
    unsafe {
        let file = *argv;
        let n_file = strlen(file);
        let exec = |path: *const u8| {
            neg(syscall(
                nr::EXECVE,
                path as usize,
                argv as usize,
                envp as usize,
                0,
                0,
            ))
        };
        if n_file == 0 {
            return ENOENT;
        }
        if (0..n_file).any(|i| *file.add(i) == b'/') {
            return exec(file);
        }
        let mut path = variable(envp, b"PATH=");
        if path.is_null() {
            path = DEFAULT_PATH.as_ptr();
        }
        let mut buffer = [0u8; PATH_MAX];
        let mut denied = false;
        loop {
            let mut n = 0;
            while *path.add(n) != 0 && *path.add(n) != b':' {
                n += 1;
            }
            if n + 1 + n_file < PATH_MAX {
                for i in 0..n {
                    buffer[i] = *path.add(i);
                }
                // An empty part is the working directory.
                let mut at = n;
                if n > 0 {
                    buffer[n] = b'/';
                    at += 1;
                }
                for i in 0..n_file {
                    buffer[at + i] = *file.add(i);
                }
                buffer[at + n_file] = 0;
                match exec(buffer.as_ptr()) {
                    ENOENT | ENOTDIR => {}
                    EACCES => denied = true,
                    other => return other,
                }
            }
            if *path.add(n) == 0 {
                return if denied { EACCES } else { ENOENT };
            }
            path = path.add(n + 1);
        }
    }
}

/// Passes signals on and reaps, until the command has ended.
unsafe fn supervise(child: isize) -> ! {
    // SAFETY: raw system calls on memory of this function.
    unsafe {
        loop {
            let set = (&raw const ALL) as usize;
            let signal = syscall(nr::RT_SIGTIMEDWAIT, set, 0, 0, 8, 0);
            if signal < 0 {
                continue;
            }
            if signal as i32 != SIGCHLD {
                // To its group: a shell's children hear it as well.
                syscall(nr::KILL, (-child) as usize, signal as usize, 0, 0, 0);
                continue;
            }
            loop {
                let mut status = 0i32;
                let pid = syscall(
                    nr::WAIT4,
                    usize::MAX,
                    (&raw mut status) as usize,
                    WNOHANG,
                    0,
                    0,
                );
                if pid <= 0 {
                    break;
                }
                if pid == child {
                    report(b'X', status);
                    // Nothing that it left outlives us: we are the first of the namespace. Anywhere else, ask.
                    let me = syscall(nr::GETPID, 0, 0, 0, 0, 0);
                    if me != 1 {
                        syscall(nr::KILL, (-child) as usize, SIGKILL, 0, 0, 0);
                    }
                    let signal = status & 0x7f;
                    let code = if signal == 0 {
                        (status >> 8) & 0xff
                    } else {
                        128 + signal
                    };
                    exit(code as usize);
                }
            }
        }
    }
}

/// Tells the shim; when it is gone, nobody.
unsafe fn report(what: u8, value: i32) {
    let mut message = [what, 0, 0, 0, 0];
    let bytes = value.to_ne_bytes();
    for i in 0..4 {
        message[i + 1] = bytes[i];
    }
    // SAFETY: writes from this frame. SIGPIPE is blocked.
    unsafe {
        syscall(nr::WRITE, CHANNEL, (&raw const message) as usize, 5, 0, 0);
    }
}

/// Four bytes, or nothing when the other end was closed.
unsafe fn read_i32(fd: i32, value: &mut i32) -> bool {
    loop {
        // SAFETY: reads four bytes into an i32; a pipe delivers so few at once.
        let n = unsafe { syscall(nr::READ, fd as usize, value as *mut i32 as usize, 4, 0, 0) };
        if n != EINTR {
            return n == 4;
        }
    }
}

/// The value of an environment variable, null when it is not there.
unsafe fn variable(mut envp: *const *const u8, prefix: &[u8]) -> *const u8 {
    // SAFETY: a null-terminated list of C strings; comparing stops at a difference, so within the string.
    unsafe {
        while !(*envp).is_null() {
            let text = *envp;
            if (0..prefix.len()).all(|i| *text.add(i) == prefix[i]) {
                return text.add(prefix.len());
            }
            envp = envp.add(1);
        }
        core::ptr::null()
    }
}

/// A system call's error as a positive number.
fn neg(result: isize) -> i32 {
    (-result) as i32
}

fn exit(code: usize) -> ! {
    loop {
        // SAFETY: does not return.
        unsafe { syscall(nr::EXIT_GROUP, code, 0, 0, 0, 0) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(NOT_EXECUTABLE)
}

// The compiler may call these for arrays and strings; without a C library they are ours.

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut n = 0;
    // SAFETY: a C string; volatile, so that the loop does not become a call of itself.
    while unsafe { text.add(n).read_volatile() } != 0 {
        n += 1;
    }
    n
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // SAFETY: as C's; volatile as above.
    unsafe {
        for i in 0..n {
            to.add(i).write_volatile(from.add(i).read_volatile());
        }
    }
    to
}

/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, n: usize) -> *mut u8 {
    // SAFETY: as above.
    unsafe {
        for i in 0..n {
            to.add(i).write_volatile(byte as u8);
        }
    }
    to
}

/// Named by the precompiled core library for unwinding, which never happens here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
