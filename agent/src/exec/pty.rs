//! A pseudo-terminal: its master side for the runtime, its size.
#![allow(
    unsafe_code,
    reason = "the size of a terminal is set by an ioctl, and descriptors are registered with the runtime"
)]

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    sync::Arc,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt},
};
use tokio::io::{Interest, unix::AsyncFd};
use waggle_api::exec::Winsize;

/// The master side. Clones are the same terminal.
#[derive(Debug, Clone)]
pub struct Pty {
    fd: Arc<AsyncFd<File>>,
}

impl Pty {
    /// A new terminal, and the side for the process.
    pub fn open(size: Winsize) -> io::Result<(Self, OwnedFd)> {
        let (master, slave) = pair()?;
        let master = Self::adopt(master)?;
        master.resize(size)?;
        Ok((master, slave))
    }

    /// Takes the master side of a terminal that was made elsewhere.
    pub fn adopt(master: File) -> io::Result<Self> {
        fcntl(
            &master,
            FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_RDWR),
        )?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: the returned value owns the descriptor, so it stays open and the same for as long as it is registered.
        let fd = unsafe { AsyncFd::register_with_interest(master, interest) }
            .map_err(io::Error::from)?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// What was written by whoever has the terminal; 0 when nobody has it any more.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self
            .fd
            .async_io(Interest::READABLE, |mut file| file.read(buffer));
        match read.await {
            // All of the other side is closed.
            Err(e) if e.raw_os_error() == Some(libc::EIO) => Ok(0),
            other => other,
        }
    }

    /// Input for whoever has the terminal; waits while they don't read.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.fd
            .async_io(Interest::WRITABLE, |mut file| file.write(bytes))
            .await
    }

    /// Sets the size; who has the terminal gets SIGWINCH.
    pub fn resize(&self, size: Winsize) -> io::Result<()> {
        set_size(self.fd.get_ref(), size)
    }
}

/// A new terminal: its master side, and the side for the process.
pub fn pair() -> io::Result<(File, OwnedFd)> {
    let master: PtyMaster = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(ptsname_r(&master)?)?;
    Ok((master_file(&master)?, slave.into()))
}

/// Sets a terminal's size; who has it gets SIGWINCH.
pub fn set_size(master: &File, size: Winsize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel reads one winsize from a live value.
    let rc = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes standard input the controlling terminal. For between fork and exec, after a session was begun.
pub fn control_terminal() -> io::Result<()> {
    // SAFETY: two integers; async-signal-safe.
    let rc = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn master_file(master: &PtyMaster) -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(File::from(master.as_fd().try_clone_to_owned()?))
}
