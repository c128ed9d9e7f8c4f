//! The agent's side of starting a command in a task.

use std::{
    fs::File,
    io::{self, IoSlice},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream as StdStream,
    },
    path::Path,
    process::Stdio,
    time::Duration,
};

use nix::{
    fcntl::OFlag,
    sys::socket::{ControlMessage, MsgFlags, sendmsg},
    unistd::pipe2,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{
            OwnedReadHalf, OwnedWriteHalf,
            pipe::{Receiver, Sender},
        },
    },
    process::Child,
};
use waggle_api::exec::{ExecRequest, Winsize};

use super::{
    pty::Pty,
    shim::{Ask, Order, Report},
};
use crate::ShimCommand;

/// How long the shim may take to say that the command runs.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// A command that runs in a task.
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Its input and output.
    pub streams: Streams,
    /// Its shim; dropping this ends the command and all that it started.
    pub shim: Shim,
}

/// Input and output.
pub enum Streams {
    /// One terminal.
    Tty(Pty),
    /// A pipe each.
    Pipes {
        /// Where input goes.
        stdin: Option<Sender>,
        /// Output.
        stdout: Receiver,
        /// Error output.
        stderr: Receiver,
    },
}

/// The connection to a command's shim.
pub struct Shim {
    /// What it says, a line each: see [`next_report`].
    pub reports: Reports,
    /// For what is asked of it.
    pub asks: Asks,
    child: Child,
}

/// Where reports come from.
pub type Reports = BufReader<OwnedReadHalf>;

/// The way to ask.
pub struct Asks(OwnedWriteHalf);

/// Why there is no command: an exit code and a message.
#[derive(Debug)]
pub struct NotStarted {
    /// 127 when there is no such program, else 126.
    pub code: i32,
    /// For people.
    pub message: String,
}

impl From<io::Error> for NotStarted {
    fn from(e: io::Error) -> Self {
        Self {
            code: 126,
            message: format!("failed to start the command: {e}"),
        }
    }
}

/// Starts a command in a task, whose directory has its plan.
pub async fn start(
    command: &ShimCommand,
    dir: &Path,
    request: &ExecRequest,
) -> Result<Running, NotStarted> {
    let (streams, theirs) = match request.tty {
        Some(size) => terminal(size)?,
        None => pipes(request.stdin)?,
    };
    let (ours, socket) = StdStream::pair()?;
    let child = tokio::process::Command::new(&command.exe)
        .args(&command.args)
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(false)
        .spawn()?;
    let numbers: Vec<RawFd> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let byte = [IoSlice::new(&[0])];
    // One byte into an empty socket: it does not block.
    sendmsg::<()>(ours.as_raw_fd(), &byte, &rights, MsgFlags::empty(), None)
        .map_err(io::Error::from)?;
    drop(theirs);
    ours.set_nonblocking(true)?;
    let (read, write) = UnixStream::from_std(ours)?.into_split();
    let mut shim = Shim {
        reports: BufReader::new(read),
        asks: Asks(write),
        child,
    };
    let order = Order {
        dir: dir.to_owned(),
        argv: request.argv.clone(),
        env: request.env.clone(),
        work_dir: request.work_dir.clone(),
        tty: request.tty.is_some(),
    };
    let begin = async {
        shim.asks.line(&order).await?;
        next_report(&mut shim.reports).await
    };
    match tokio::time::timeout(START_TIMEOUT, begin).await {
        Ok(Ok(Some(Report::Started { pid }))) => Ok(Running { pid, streams, shim }),
        Ok(Ok(Some(Report::Failed { code, message }))) => Err(NotStarted { code, message }),
        Ok(Ok(_)) => Err(io::Error::other("its shim died").into()),
        Ok(Err(e)) => Err(e.into()),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

impl Shim {
    /// Lets go of the command, which ends it, and waits until the shim has ended all of it.
    pub async fn end(self) {
        let Self {
            reports,
            asks,
            mut child,
        } = self;
        drop((reports, asks));
        // Bounded by the shim's own patience; the runtime reaps it in any case.
        let _ = tokio::time::timeout(START_TIMEOUT, child.wait()).await;
    }
}

impl Asks {
    /// Asks for a signal.
    pub async fn signal(&mut self, number: u8) -> io::Result<()> {
        self.line(&Ask::Signal(number.into())).await
    }

    async fn line(&mut self, what: &impl serde::Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        self.0.write_all(&line).await
    }
}

/// The next thing that a shim says; `None` when it is gone.
pub async fn next_report(reports: &mut Reports) -> io::Result<Option<Report>> {
    let mut line = Vec::new();
    // Reports are short, and the shim is ours.
    match reports.read_until(b'\n', &mut line).await? {
        0 => Ok(None),
        _ => Ok(Some(serde_json::from_slice(&line)?)),
    }
}

type Theirs = [OwnedFd; super::shim::STREAMS];

fn terminal(size: Winsize) -> io::Result<(Streams, Theirs)> {
    let (pty, slave) = Pty::open(size)?;
    let theirs = [slave.try_clone()?, slave.try_clone()?, slave];
    Ok((Streams::Tty(pty), theirs))
}

fn pipes(input: bool) -> io::Result<(Streams, Theirs)> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from);
    let (stdin, their_stdin) = if input {
        let (read, write) = pipe()?;
        (Some(Sender::from_owned_fd(write)?), read)
    } else {
        (None, OwnedFd::from(File::open("/dev/null")?))
    };
    let (stdout, their_stdout) = pipe()?;
    let (stderr, their_stderr) = pipe()?;
    let streams = Streams::Pipes {
        stdin,
        stdout: Receiver::from_owned_fd(stdout)?,
        stderr: Receiver::from_owned_fd(stderr)?,
    };
    Ok((streams, [their_stdin, their_stdout, their_stderr]))
}
