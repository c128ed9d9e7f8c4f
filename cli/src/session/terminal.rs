//! The user's own terminal: raw while a session has it, as it was before on every way out.

use std::{
    io::{self, IsTerminal, stdin, stdout},
    os::fd::{AsFd, OwnedFd},
};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use terminal_size::{Height, Width, terminal_size_of};
use waggle_api::exec::Winsize;

/// A terminal in raw mode; dropping it puts back what was.
#[derive(Debug)]
pub struct Raw {
    fd: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Makes standard input raw: keys are passed on as they are, Ctrl-C as well.
    pub fn enter() -> io::Result<Self> {
        let fd = stdin().as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&fd)?;
        let raw = Self { fd, before };
        raw.again()?;
        Ok(raw)
    }

    /// After a stop: raw once more.
    pub fn again(&self) -> io::Result<()> {
        let mut mode = self.before.clone();
        cfmakeraw(&mut mode);
        Ok(tcsetattr(&self.fd, SetArg::TCSADRAIN, &mode)?)
    }

    /// As it was.
    pub fn restore(&self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(&self.fd, SetArg::TCSADRAIN, &self.before);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Whether standard input is a terminal.
pub fn input_is_terminal() -> bool {
    stdin().is_terminal()
}

/// The size of the terminal that standard output or input is, if one is.
pub fn size() -> Option<Winsize> {
    let (Width(cols), Height(rows)) =
        terminal_size_of(stdout()).or_else(|| terminal_size_of(stdin()))?;
    (rows > 0 && cols > 0).then_some(Winsize { rows, cols })
}
