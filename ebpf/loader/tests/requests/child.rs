//! The child's side: joins the cgroup, then does with streams what it is told, one thing after the other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::support::child::{ENV, MARK};
use crate::{ktls, zero};

/// Serves commands until the end of input.
pub fn serve() -> anyhow::Result<()> {
    let Some(cgroup) = std::env::var_os(ENV) else {
        return Ok(());
    };
    fs::write(PathBuf::from(cgroup).join("cgroup.procs"), "0")?;
    let mut listeners = Vec::new();
    let mut streams: BTreeMap<usize, TcpStream> = BTreeMap::new();
    let mut n_streams = 0;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let stream = |id: &str| -> anyhow::Result<TcpStream> {
            let stream = streams.get(&id.parse()?).context("no such stream")?;
            Ok(stream.try_clone()?)
        };
        let mut new = None;
        let answer = match words[..] {
            ["listen", at] => {
                let listener = TcpListener::bind(at)?;
                let at = listener.local_addr()?;
                listeners.push(listener);
                at.to_string()
            }
            ["accept"] => {
                new = Some(listeners.last().context("no listener")?.accept()?.0);
                String::new()
            }
            ["connect", to] => {
                new = Some(TcpStream::connect(to)?);
                String::new()
            }
            ["write", id, hex] => {
                stream(id)?.write_all(&from_hex(hex)?)?;
                "ok".to_owned()
            }
            ["copyless", id, hex] => {
                zero::copy_less(&stream(id)?, &from_hex(hex)?)?;
                "ok".to_owned()
            }
            ["ktls", id] => {
                ktls::encrypt(&stream(id)?)?;
                "ok".to_owned()
            }
            ["read", id, n] => {
                let mut bytes = vec![0; n.parse()?];
                stream(id)?.read_exact(&mut bytes)?;
                "ok".to_owned()
            }
            ["half", id] => {
                stream(id)?.shutdown(Shutdown::Write)?;
                "ok".to_owned()
            }
            ["close", id] => {
                streams.remove(&id.parse()?);
                "ok".to_owned()
            }
            ["thread"] => {
                let tid = nix::unistd::gettid().as_raw();
                (u64::from(std::process::id()) << 32 | u64::try_from(tid)?).to_string()
            }
            ["send", id, how, n] => {
                if !send(&mut stream(id)?, how, &body(n.parse()?))? {
                    bail!("no io_uring");
                }
                "ok".to_owned()
            }
            ["waiting", id] => waiting(&stream(id)?)?.to_string(),
            ["transfer", how, n] => transfer(how, n.parse()?)?,
            _ => bail!("unknown command {line:?}"),
        };
        let answer = match new {
            Some(stream) => {
                stream.set_nodelay(true)?;
                n_streams += 1;
                streams.insert(n_streams, stream);
                n_streams.to_string()
            }
            None => answer,
        };
        println!("\n{MARK}{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> anyhow::Result<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
        .collect()
}

/// An HTTP/1 answer whose body has heads in it, sent over a connection of its own in some way; a request before it, and a half-close
/// after that. `ok`, if what came is what was sent.
fn transfer(how: &str, n: usize) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let request = b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(request)?;
    client.shutdown(Shutdown::Write)?;
    let mut came = Vec::new();
    server.read_to_end(&mut came)?;
    if came != request {
        bail!("the request is not what was sent");
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {n}\r\n\r\n");
    let (sent, how) = (body(n), how.to_owned());
    let reader = std::thread::spawn(move || -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        client.read_to_end(&mut all)?;
        Ok(all)
    });
    server.write_all(head.as_bytes())?;
    if !send(&mut server, &how, &sent)? {
        return Ok("no io_uring".to_owned());
    }
    drop(server);
    let came = reader.join().map_err(|_| io::Error::other("panicked"))??;
    let is_same = came.strip_prefix(head.as_bytes()) == Some(&sent[..]);
    Ok(if is_same { "ok" } else { "changed" }.to_owned())
}

fn send(to: &mut TcpStream, how: &str, sent: &[u8]) -> anyhow::Result<bool> {
    match how {
        "write" => to.write_all(sent)?,
        "small" => {
            for part in sent.chunks(700) {
                to.write_all(part)?;
            }
        }
        "lines" => {
            for line in sent.split_inclusive(|byte| *byte == b'\n') {
                to.write_all(line)?;
            }
        }
        "nowait" => nowait(to, sent)?,
        "sendfile" => from_file(to, sent, sendfile)?,
        "splice" => from_file(to, sent, splice)?,
        "zerocopy" => zero::copy_less(to, sent)?,
        "uring" | "uring_zc" => return Ok(zero::by_ring(to, sent, how == "uring")?.is_some()),
        _ => bail!("no way {how}"),
    }
    Ok(true)
}

/// Sends what there is room for, and the rest once there is.
fn nowait(to: &mut TcpStream, mut sent: &[u8]) -> anyhow::Result<()> {
    to.set_nonblocking(true)?;
    while !sent.is_empty() {
        match to.write(sent) {
            Ok(n) => sent = &sent[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => room(to)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(to.set_nonblocking(false)?)
}

fn room(to: &TcpStream) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd: to.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    #[allow(unsafe_code, reason = "poll(2)")]
    // SAFETY: one structure of ours.
    match unsafe { libc::poll(&raw mut poll, 1, 10_000) } {
        1 => Ok(()),
        0 => Err(io::Error::other("there is no room for 10 s")),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes that can be read, once there are some.
fn waiting(from: &TcpStream) -> io::Result<i32> {
    from.peek(&mut [0; 1])?;
    let mut n = -1;
    #[allow(unsafe_code, reason = "ioctl(2)")]
    // SAFETY: writes one number.
    match unsafe { libc::ioctl(from.as_raw_fd(), libc::FIONREAD, &raw mut n) } {
        0 => Ok(n),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lines that look like heads, and a number that makes each place another.
pub fn body(n: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(n + 64);
    let mut line: u64 = 0;
    while out.len() < n {
        line += 1;
        let text = format!("GET /{line} HTTP/1.1\r\nHTTP/1.1 200 OK\r\n\r\n");
        out.extend_from_slice(text.as_bytes());
    }
    out.truncate(n);
    out
}

type Way = fn(&File, &TcpStream, usize) -> io::Result<usize>;

fn from_file(to: &TcpStream, sent: &[u8], way: Way) -> anyhow::Result<()> {
    let mut file = tempfile::tempfile()?;
    file.write_all(sent)?;
    io::Seek::rewind(&mut file)?;
    let mut left = sent.len();
    while left > 0 {
        let n = way(&file, to, left)?;
        if n == 0 {
            bail!("the file is too short");
        }
        left -= n;
    }
    Ok(())
}

fn checked(n: isize) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

fn sendfile(file: &File, to: &TcpStream, n: usize) -> io::Result<usize> {
    #[allow(unsafe_code, reason = "sendfile(2)")]
    // SAFETY: both descriptors are open; a null offset uses the file's own.
    checked(unsafe { libc::sendfile(to.as_raw_fd(), file.as_raw_fd(), std::ptr::null_mut(), n) })
}

fn splice(file: &File, to: &TcpStream, n: usize) -> io::Result<usize> {
    let mut ends = [0; 2];
    #[allow(unsafe_code, reason = "pipe(2), splice(2)")]
    // SAFETY: room for two descriptors, which are owned from then on; null offsets use the files' own.
    unsafe {
        checked(libc::pipe(ends.as_mut_ptr()) as isize)?;
        let (from, into) = (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]));
        let null = std::ptr::null_mut();
        let most = n.min(65_536);
        let n = checked(libc::splice(
            file.as_raw_fd(),
            null,
            into.as_raw_fd(),
            null,
            most,
            0,
        ))?;
        let mut left = n;
        while left > 0 {
            left -= checked(libc::splice(
                from.as_raw_fd(),
                null,
                to.as_raw_fd(),
                null,
                left,
                0,
            ))?;
        }
        Ok(n)
    }
}
