//! A person at a terminal: a pseudo-terminal with a program on it.
#![allow(
    unsafe_code,
    reason = "the size of a terminal is set by an ioctl, and the program gets it between fork and exec"
)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use nix::sys::termios::{Termios, tcgetattr};
use waggle_tests_privileged::LIMIT;
use waggle_tests_support::{process, wait_until};

/// A program on a terminal of its own.
pub struct Terminal {
    master: File,
    // Kept: what the terminal is set to is looked at here, also when the program is gone.
    slave: OwnedFd,
    before: Termios,
    child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts it.
    pub fn start(mut command: Command, rows: u16, cols: u16) -> Self {
        let size = size(rows, cols);
        let pty = openpty(Some(&size), None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let side = || Stdio::from(pty.slave.try_clone().unwrap());
        command.stdin(side()).stdout(side()).stderr(side());
        // SAFETY: two system calls, async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                // Fails when it leads a session already, which is as good.
                let _ = libc::setsid();
                if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut from = File::from(pty.master.try_clone().unwrap());
        let to = Arc::clone(&seen);
        // Ends with the terminal.
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut part) {
                let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
                to.extend_from_slice(&part[..n]);
            }
        });
        Self {
            master: File::from(pty.master),
            slave: pty.slave,
            before,
            child,
            seen,
        }
    }

    /// Types.
    pub fn type_(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// All that was shown so far.
    pub fn shown(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Waits until it shows this.
    pub fn expect(&self, text: &str) {
        let found = wait_until(LIMIT, &format!("{text:?} on the terminal"), || {
            self.shown().contains(text).then_some(())
        });
        found.unwrap_or_else(|e| panic!("{e:#}; it shows {:?}", self.shown()));
    }

    /// Makes the window so large.
    pub fn resize(&self, rows: u16, cols: u16) {
        let size = size(rows, cols);
        // SAFETY: the kernel reads one winsize from a live value. The program's process group gets SIGWINCH.
        let rc = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(rc, 0);
    }

    /// Sends a signal to the program itself.
    pub fn signal(&self, signal: Signal) {
        process::signal(i32::try_from(self.child.id()).unwrap(), signal);
    }

    /// Whether the terminal is as the program found it.
    pub fn is_restored(&self) -> bool {
        tcgetattr(&self.slave).unwrap() == self.before
    }

    /// Waits for its end: its exit code.
    pub fn code(&mut self) -> i32 {
        let status = wait_until(LIMIT, "the program's end", || {
            self.child.try_wait().unwrap()
        });
        let status = status.unwrap_or_else(|e| panic!("{e:#}; it shows {:?}", self.shown()));
        assert!(self.is_restored(), "the terminal stays raw");
        status.code().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, cols: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
