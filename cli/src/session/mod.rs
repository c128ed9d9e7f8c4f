//! The client's end of a session in a task: keys one way, output the other.
//!
//! Two threads of its own read and write the standard streams, which block; both hold one part at most, so a reader
//! that is slow slows down the command. Whatever happens, the terminal is put back first.

mod detach;
mod terminal;

use std::{
    io::{self, Read, Write},
    sync::Arc,
    time::Duration,
};

use anyhow::anyhow;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    signal::unix::{Signal, SignalKind, signal},
    sync::{Semaphore, mpsc},
};
use waggle_api::exec::{
    Ended, FIRST_WINDOW, Frame, PING_SECONDS, SILENCE_SECONDS, Started, Winsize, parse,
};

use crate::error::CliError;
use detach::Detach;
pub use terminal::{Raw, input_is_terminal, size};

/// Input that is read at once.
const PART: usize = 8 << 10;

type Io = TokioIo<Upgraded>;

/// What a session is to do with this end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Whether standard input is passed on, if the other end takes it.
    pub stdin: bool,
    /// Whether this terminal becomes the other's, if that has one.
    pub tty: bool,
    /// Whether it is somebody else's process: keys leave it, signals are not its business.
    pub attached: bool,
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The command did.
    Ended(Ended),
    /// The user left it: by keys, or by this signal.
    Left(Option<u8>),
    /// Nobody reads the output any more.
    Unread,
}

/// Holds a session until it ends.
pub async fn hold(upgraded: Upgraded, mode: Mode) -> Result<End, CliError> {
    let (read, write) = split(TokioIo::new(upgraded));
    let mut reader = Reader {
        half: read,
        bytes: Vec::new(),
        part: vec![0; 16 << 10].into_boxed_slice(),
    };
    let mut writer = Writer { half: write };
    let started = loop {
        match reader.next().await? {
            Frame::Started(started) => break started,
            Frame::Ended(ended) => return Ok(End::Ended(ended)),
            _ => {}
        }
    };
    let input = mode.stdin && started.input;
    if mode.attached && !input {
        let why = if started.input {
            "output only"
        } else {
            "input is not connected, the task was started without"
        };
        eprintln!("waggle: attached to {}: {why}", started.task_id);
    }
    let raw = if mode.tty && started.tty && input_is_terminal() {
        Some(Raw::enter().map_err(|e| anyhow!("this terminal can't be made raw: {e}"))?)
    } else {
        None
    };
    let (output, print) = printer();
    let credit = Arc::new(Semaphore::new(
        usize::try_from(FIRST_WINDOW).unwrap_or(PART),
    ));
    let end = {
        let receive = receive(&mut reader, &output, &credit);
        let send = send(&mut writer, &started, mode, input, raw.as_ref(), &credit);
        tokio::select! {
            end = receive => end,
            end = send => end,
        }
    };
    // The agent sees the end of the connection, and ends what is left.
    drop((reader, writer, output));
    // What is left is printed while the terminal is still raw, as it was meant to be shown.
    let _ = tokio::task::spawn_blocking(move || print.join()).await;
    drop(raw);
    end
}

/// What comes, until the end.
async fn receive(
    reader: &mut Reader,
    output: &mpsc::Sender<(bool, Vec<u8>)>,
    credit: &Semaphore,
) -> Result<End, CliError> {
    loop {
        let (errors, bytes) = match reader.next().await? {
            Frame::Stdout(bytes) => (false, bytes),
            Frame::Stderr(bytes) => (true, bytes),
            Frame::Note(text) => (true, format!("waggle: {text}\r\n").into_bytes()),
            Frame::Window(n) => {
                let room = Semaphore::MAX_PERMITS - credit.available_permits();
                credit.add_permits(usize::try_from(n).unwrap_or(0).min(room));
                continue;
            }
            Frame::Ended(ended) => return Ok(End::Ended(ended)),
            _ => continue,
        };
        if output.send((errors, bytes)).await.is_err() {
            return Ok(End::Unread);
        }
    }
}

/// What goes, until the user leaves; keys, signals, sizes and pings.
async fn send(
    writer: &mut Writer,
    started: &Started,
    mode: Mode,
    input: bool,
    raw: Option<&Raw>,
    credit: &Semaphore,
) -> Result<End, CliError> {
    let mut keys = input.then(keyboard);
    let mut detach = (mode.attached && raw.is_some()).then(Detach::default);
    let mut pending: Vec<u8> = Vec::new();
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    let mut ping = tokio::time::interval(Duration::from_secs(PING_SECONDS));
    let mut interrupted = false;
    let mut shown = None;
    if raw.is_some() {
        resize(writer, &mut shown).await?;
    }
    loop {
        tokio::select! {
            typed = next(keys.as_mut()), if pending.is_empty() => match typed {
                None => {
                    keys = None;
                    writer.send(&Frame::StdinEnd).await?;
                }
                Some(typed) => match detach.as_mut().map(|d| d.look(&typed)) {
                    Some(seen) if seen.detached => return Ok(End::Left(None)),
                    Some(seen) => pending = seen.bytes,
                    None => pending = typed,
                },
            },
            allowed = credit.acquire_many(u32::try_from(pending.len()).unwrap_or(u32::MAX)), if !pending.is_empty() => {
                if let Ok(allowed) = allowed {
                    allowed.forget();
                }
                if raw.is_some() {
                    // The signal may be later than keys that were typed after it.
                    resize(writer, &mut shown).await?;
                }
                writer.send(&Frame::Stdin(std::mem::take(&mut pending))).await?;
            }
            what = signals.next() => match what {
                Told::Resized => if started.tty && raw.is_some() {
                    resize(writer, &mut shown).await?;
                },
                Told::Suspended => suspend(raw),
                Told::Continued => if let Some(raw) = raw {
                    let _ = raw.again();
                    resize(writer, &mut shown).await?;
                },
                Told::End(number) => {
                    // Whose process it is decides; who asks twice, or closes the terminal, is not kept.
                    let last = mode.attached || interrupted || number == hang_up();
                    if !mode.attached {
                        writer.send(&Frame::Signal(number)).await?;
                    }
                    if last {
                        return Ok(End::Left(Some(number)));
                    }
                    interrupted = true;
                }
            },
            _ = ping.tick() => writer.send(&Frame::Ping).await?,
        }
    }
}

/// Tells the terminal's size, where it is not the one that was told last.
async fn resize(writer: &mut Writer, shown: &mut Option<Winsize>) -> Result<(), CliError> {
    let now = size();
    if now == *shown {
        return Ok(());
    }
    *shown = now;
    match now {
        Some(size) => writer.send(&Frame::Resize(size)).await,
        None => Ok(()),
    }
}

/// Stops this process as it would have stopped without a handler, with the terminal as the shell wants it.
fn suspend(raw: Option<&Raw>) {
    if let Some(raw) = raw {
        raw.restore();
    }
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
}

fn hang_up() -> u8 {
    u8::try_from(nix::sys::signal::Signal::SIGHUP as i32).unwrap_or(1)
}

async fn next(keys: Option<&mut mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match keys {
        Some(keys) => keys.recv().await,
        None => std::future::pending().await,
    }
}

/// Reads standard input. The thread is left behind when the session ends: nothing can wake it but input.
pub fn keyboard() -> mpsc::Receiver<Vec<u8>> {
    let (keys, typed) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let mut part = vec![0; PART];
            match stdin.read(&mut part) {
                Ok(0) => return,
                Ok(n) => {
                    part.truncate(n);
                    if keys.blocking_send(part).is_err() {
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    typed
}

/// Writes standard output and error, in the order of arrival.
fn printer() -> (mpsc::Sender<(bool, Vec<u8>)>, std::thread::JoinHandle<()>) {
    let (output, mut parts) = mpsc::channel::<(bool, Vec<u8>)>(1);
    let print = std::thread::spawn(move || {
        while let Some((errors, bytes)) = parts.blocking_recv() {
            let written = if errors {
                let mut to = io::stderr().lock();
                to.write_all(&bytes).and_then(|()| to.flush())
            } else {
                let mut to = io::stdout().lock();
                to.write_all(&bytes).and_then(|()| to.flush())
            };
            if written.is_err() {
                return;
            }
        }
    });
    (output, print)
}

/// What this process is told by signals.
enum Told {
    Resized,
    Suspended,
    Continued,
    End(u8),
}

struct Signals {
    resized: Signal,
    suspended: Signal,
    continued: Signal,
    ends: [(u8, Signal); 4],
}

impl Signals {
    fn new() -> io::Result<Self> {
        let of = |kind: SignalKind| {
            let number = u8::try_from(kind.as_raw_value()).unwrap_or(0);
            Ok::<_, io::Error>((number, signal(kind)?))
        };
        Ok(Self {
            resized: signal(SignalKind::window_change())?,
            suspended: signal(SignalKind::from_raw(
                nix::sys::signal::Signal::SIGTSTP as i32,
            ))?,
            continued: signal(SignalKind::from_raw(
                nix::sys::signal::Signal::SIGCONT as i32,
            ))?,
            ends: [
                of(SignalKind::interrupt())?,
                of(SignalKind::terminate())?,
                of(SignalKind::hangup())?,
                of(SignalKind::quit())?,
            ],
        })
    }

    async fn next(&mut self) -> Told {
        let [a, b, c, d] = &mut self.ends;
        tokio::select! {
            _ = self.resized.recv() => Told::Resized,
            _ = self.suspended.recv() => Told::Suspended,
            _ = self.continued.recv() => Told::Continued,
            _ = a.1.recv() => Told::End(a.0),
            _ = b.1.recv() => Told::End(b.0),
            _ = c.1.recv() => Told::End(c.0),
            _ = d.1.recv() => Told::End(d.0),
        }
    }
}

struct Reader {
    half: ReadHalf<Io>,
    bytes: Vec<u8>,
    part: Box<[u8]>,
}

impl Reader {
    /// The next frame. A connection that ends without a word, or is silent for too long, is an error.
    async fn next(&mut self) -> Result<Frame, CliError> {
        loop {
            if let Some((frame, n)) =
                parse(&self.bytes).map_err(|e| CliError::Broken(e.to_string()))?
            {
                self.bytes.drain(..n);
                return Ok(frame);
            }
            let silence = Duration::from_secs(SILENCE_SECONDS);
            let read = tokio::time::timeout(silence, self.half.read(&mut self.part)).await;
            match read {
                Ok(Ok(0)) => return Err(CliError::Broken("the connection was closed".to_owned())),
                Ok(Ok(n)) => self.bytes.extend(&self.part[..n]),
                Ok(Err(e)) => return Err(CliError::Broken(e.to_string())),
                Err(_) => {
                    let why = format!("nothing was heard for {SILENCE_SECONDS} s");
                    return Err(CliError::Broken(why));
                }
            }
        }
    }
}

struct Writer {
    half: WriteHalf<Io>,
}

impl Writer {
    async fn send(&mut self, frame: &Frame) -> Result<(), CliError> {
        let sent = async {
            self.half.write_all(&frame.bytes()).await?;
            self.half.flush().await
        };
        match sent.await {
            Ok(()) => Ok(()),
            // What came before the end is still to be read: the reader says how it ended.
            Err(_) => std::future::pending().await,
        }
    }
}
