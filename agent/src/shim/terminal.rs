//! A task's terminal, and who is attached to it.
//!
//! They come over a socket in the task's directory and speak frames (`waggle_api::exec`): input and sizes one way, output
//! and room for more input the other. Nobody who is attached can hold up the task: output that a client does not take
//! is not kept for it beyond [`MAX_HELD`].

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags},
};
use waggle_api::exec::{Frame, parse};

use crate::exec::pty;

/// Where clients of a task's terminal connect, in the task's directory.
pub const ATTACH: &str = "attach.sock";
/// Clients at once; one more is turned away.
const MAX_CLIENTS: usize = 4;
/// Most bytes that are held for a client, each way.
const MAX_HELD: usize = 64 << 10;
/// Input that is read at once.
const PART: usize = 4096;

/// The terminal.
pub struct Terminal {
    master: File,
    listener: UnixListener,
    clients: Vec<Client>,
}

struct Client {
    stream: UnixStream,
    // Frames that are not whole yet.
    frames: Vec<u8>,
    // Input that the terminal has no room for.
    input: Vec<u8>,
    // What the client has no room for.
    output: Vec<u8>,
    gone: bool,
}

/// A path to the socket that is short enough for an address (107 bytes), for as long as the directory is open.
pub fn socket_path(dir: &File) -> String {
    format!("/proc/self/fd/{}/{ATTACH}", dir.as_raw_fd())
}

impl Terminal {
    /// Of this master side, which reads and writes without waiting from now on; clients come to the task's directory.
    pub fn new(master: &File, dir: &Path) -> io::Result<Self> {
        fcntl(master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_RDWR))?;
        let open = File::open(dir)?;
        match fs::remove_file(dir.join(ATTACH)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(socket_path(&open))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            master: master.try_clone()?,
            listener,
            clients: Vec::new(),
        })
    }

    /// What to wait for.
    pub fn polled(&self) -> Vec<PollFd<'_>> {
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        for client in &self.clients {
            let mut flags = PollFlags::empty();
            if client.input.is_empty() {
                flags |= PollFlags::POLLIN;
            } else {
                fds.push(PollFd::new(self.master.as_fd(), PollFlags::POLLOUT));
            }
            if !client.output.is_empty() {
                flags |= PollFlags::POLLOUT;
            }
            fds.push(PollFd::new(client.stream.as_fd(), flags));
        }
        fds
    }

    /// Shows what the task has written.
    pub fn show(&mut self, bytes: &[u8]) {
        let frame = Frame::Stdout(bytes.to_vec()).bytes();
        for client in &mut self.clients {
            // A whole frame or none: its reader would lose its place.
            if client.output.len() + frame.len() <= 2 * MAX_HELD {
                client.output.extend(&frame);
            }
            client.flush();
        }
    }

    /// Does what can be done without waiting.
    pub fn serve(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < MAX_CLIENTS && stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    stream,
                    frames: Vec::new(),
                    input: Vec::new(),
                    output: Vec::new(),
                    gone: false,
                });
            }
        }
        for client in &mut self.clients {
            if client.input.is_empty() {
                client.read(&self.master);
            }
            client.feed(&self.master);
            client.flush();
        }
        self.clients.retain(|c| !c.gone);
    }
}

impl Client {
    fn read(&mut self, master: &File) {
        let mut part = [0; PART];
        match self.stream.read(&mut part) {
            Ok(0) => self.gone = true,
            Ok(n) => self.frames.extend(&part[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.gone = true,
        }
        loop {
            match parse(&self.frames) {
                Ok(Some((frame, n))) => {
                    self.frames.drain(..n);
                    match frame {
                        Frame::Stdin(bytes) => self.input.extend(bytes),
                        Frame::Resize(size) => drop(pty::set_size(master, size)),
                        _ => {}
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }

    /// Types what the terminal has room for, and allows the client as much again.
    fn feed(&mut self, mut master: &File) {
        let mut n_typed = 0;
        while n_typed < self.input.len() {
            match master.write(&self.input[n_typed..]) {
                Ok(n) if n > 0 => n_typed += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // Nobody has the terminal any more.
                Ok(_) | Err(_) => n_typed = self.input.len(),
            }
        }
        if n_typed > 0 {
            self.input.drain(..n_typed);
            let n = u32::try_from(n_typed).unwrap_or(u32::MAX);
            Frame::Window(n).write(&mut self.output);
        }
    }

    fn flush(&mut self) {
        while !self.output.is_empty() && !self.gone {
            match self.stream.write(&self.output) {
                Ok(n) if n > 0 => drop(self.output.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => self.gone = true,
            }
        }
    }
}
