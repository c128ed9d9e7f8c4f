//! What becomes of a connection that is a member, tried out on sockets of our own on loopback.
//!
//! Nothing here waits for longer than [`LIMIT`] at a time.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use aya::maps::{MapData, SkStorage, SockHash};
use waggle_ebpf_common::inject::head::HEADER;
use waggle_ebpf_common::inject::{Caller, state};

use super::uring;
use super::verdict::{Finding, Findings};

const LIMIT: Duration = Duration::from_secs(2);
/// Body of the transfer.
const BODY: usize = 1 << 20;
/// Of an answer.
const ANSWER: usize = 1476;
const HEAD: &str = "POST /self-test HTTP/1.1\r\nHost: waggle\r\nContent-Length: 1048576\r\n\r\n";
/// Bytes of its first line.
const LINE: usize = 26;

/// Makes members.
pub(super) struct Members<'a> {
    pub(super) members: &'a mut SockHash<MapData, u64>,
    pub(super) calls: &'a mut SkStorage<MapData, Caller>,
}

impl Members<'_> {
    fn join(&mut self, stream: &TcpStream, state: u32) -> io::Result<u64> {
        let key = cookie(stream)?;
        let caller = Caller::member(key, 0, state);
        let fd = stream.as_raw_fd();
        self.calls
            .insert(&fd, caller, 0)
            .map_err(io::Error::other)?;
        self.members.insert(key, fd, 0).map_err(io::Error::other)?;
        Ok(key)
    }

    fn leave(&mut self, key: u64) -> io::Result<()> {
        self.members.remove(&key).map_err(io::Error::other)
    }
}

/// All of it.
pub(super) fn run(mut with: Members<'_>) -> Findings {
    let (fionread, fionread_after) = both(&mut with, fionread);
    let (epoll, epoll_after) = both(&mut with, epoll);
    Findings {
        transfer: finding(transfer(&mut with)),
        fionread,
        fionread_after,
        epoll,
        epoll_after,
        send_zc: send_zc(&mut with),
    }
}

/// Our own trouble counts as wrong: nothing is known then.
fn finding(tried: io::Result<Finding>) -> Finding {
    tried.unwrap_or_else(|error| Finding::Wrong(error.to_string()))
}

/// The same with a member, and once it is none any more.
fn both(with: &mut Members<'_>, check: fn(&mut Pair) -> io::Result<Finding>) -> (Finding, Finding) {
    let joined = Pair::new().and_then(|pair| {
        let key = with.join(&pair.client, state::OFF)?;
        Ok((pair, key))
    });
    let (mut pair, key) = match joined {
        Ok(joined) => joined,
        Err(error) => {
            let found = Finding::Wrong(error.to_string());
            return (found.clone(), found);
        }
    };
    let member = finding(check(&mut pair));
    let after = with.leave(key).and_then(|()| check(&mut pair));
    (member, finding(after))
}

/// A connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn new() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let client = TcpStream::connect_timeout(&listener.local_addr()?, LIMIT)?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
            stream.set_nodelay(true)?;
        }
        Ok(Self { client, server })
    }

    /// The client has something to read.
    fn wait_readable(&self) -> io::Result<()> {
        let mut poll = libc::pollfd {
            fd: self.client.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure of ours.
        match unsafe { libc::poll(&raw mut poll, 1, limit_ms()) } {
            1 => Ok(()),
            0 => Err(io::Error::new(io::ErrorKind::TimedOut, "poll did not wake")),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn limit_ms() -> i32 {
    i32::try_from(LIMIT.as_millis()).unwrap_or(i32::MAX)
}

/// A body in which each place is another.
fn body() -> Vec<u8> {
    let lines = (0_u32..).flat_map(|n| format!("GET /{n} HTTP/1.1\r\n\r\n").into_bytes());
    lines.take(BODY).collect()
}

fn transfer(with: &mut Members<'_>) -> io::Result<Finding> {
    let Pair { client, mut server } = Pair::new()?;
    with.join(&client, state::BEGIN)?;
    let mut sent = HEAD.as_bytes().to_vec();
    sent.extend(body());
    let mut came = vec![0; sent.len() + HEADER];
    let sender = {
        let (mut client, sent) = (client, sent.clone());
        std::thread::spawn(move || -> io::Result<()> {
            client.write_all(&sent)?;
            client.shutdown(std::net::Shutdown::Write)
        })
    };
    let read = server.read_exact(&mut came);
    let mut more = Vec::new();
    let ended = server.read_to_end(&mut more);
    sender
        .join()
        .map_err(|_| io::Error::other("the sender panicked"))??;
    read?;
    ended?;
    let (line, rest) = came.split_at(LINE);
    let (header, rest) = rest.split_at(HEADER);
    if !header.starts_with(b"traceparent: 00-") || !header.ends_with(b"\r\n") {
        return Ok(Finding::Wrong("the header did not come".to_owned()));
    }
    let is_same = line == &sent[..LINE] && rest == &sent[LINE..] && more.is_empty();
    Ok(if is_same {
        Finding::Right
    } else {
        Finding::Wrong("what came is not what was sent".to_owned())
    })
}

fn fionread(pair: &mut Pair) -> io::Result<Finding> {
    pair.server.write_all(&[7; ANSWER])?;
    pair.wait_readable()?;
    let mut n: libc::c_int = -1;
    // SAFETY: writes one number.
    if unsafe { libc::ioctl(pair.client.as_raw_fd(), libc::FIONREAD, &raw mut n) } != 0 {
        return Err(io::Error::last_os_error());
    }
    pair.client.read_exact(&mut [0; ANSWER])?;
    let want = libc::c_int::try_from(ANSWER).map_err(io::Error::other)?;
    Ok(if n == want {
        Finding::Right
    } else {
        Finding::Wrong(format!("ioctl(FIONREAD) says {n} of {want} bytes"))
    })
}

/// Reading three times, then writing until there is no room, and again once there is.
fn epoll(pair: &mut Pair) -> io::Result<Finding> {
    // SAFETY: a new descriptor that nobody else has.
    let epoll = unsafe {
        let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    pair.client.set_nonblocking(true)?;
    let tried = edges(&epoll, pair);
    pair.client.set_nonblocking(false)?;
    tried
}

fn edges(epoll: &OwnedFd, pair: &mut Pair) -> io::Result<Finding> {
    let events = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET).cast_unsigned();
    let mut event = libc::epoll_event { events, u64: 0 };
    let (fd, to) = (epoll.as_raw_fd(), pair.client.as_raw_fd());
    // SAFETY: one structure of ours; both descriptors are open.
    if unsafe { libc::epoll_ctl(fd, libc::EPOLL_CTL_ADD, to, &raw mut event) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for n in 0..3 {
        pair.server.write_all(&[7; 100])?;
        if !woke(epoll, libc::EPOLLIN)? {
            return Ok(Finding::Wrong(format!("epoll did not wake for answer {n}")));
        }
        let n = drain(&mut pair.client, 100)?;
        if n != 100 {
            return Ok(Finding::Wrong(format!("{n} of 100 bytes could be read")));
        }
    }
    let mut sent = 0;
    let block = [7; 16_384];
    loop {
        match pair.client.write(&block) {
            Ok(n) => sent += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    let mut left = vec![0; sent];
    pair.server.read_exact(&mut left)?;
    Ok(if woke(epoll, libc::EPOLLOUT)? {
        Finding::Right
    } else {
        Finding::Wrong("epoll did not wake when there was room".to_owned())
    })
}

/// Whether an event comes, of this kind among others.
fn woke(epoll: &OwnedFd, wanted: libc::c_int) -> io::Result<bool> {
    for _ in 0..8 {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event.
        let n = unsafe { libc::epoll_wait(epoll.as_raw_fd(), &raw mut event, 1, limit_ms()) };
        if n < 0 {
            return Err(io::Error::last_os_error());
        }
        let events = event.events;
        if n == 0 || events & wanted.cast_unsigned() != 0 {
            return Ok(n == 1);
        }
    }
    Ok(false)
}

/// Reads until there is nothing, or `most`.
fn drain(from: &mut TcpStream, most: usize) -> io::Result<usize> {
    let mut all = 0;
    let mut bytes = [0; 256];
    while all < most {
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => all += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn send_zc(with: &mut Members<'_>) -> Finding {
    const BYTES: &[u8] = &[7; 1000];
    let missing = |error: io::Error| Finding::Missing(error.to_string());
    let control = match Pair::new() {
        Ok(pair) => pair,
        Err(error) => return Finding::Wrong(error.to_string()),
    };
    // What a kernel refuses to everybody is not our doing.
    if let Err(error) = uring::send_zc(&control.client, BYTES) {
        return missing(error);
    }
    let member = Pair::new().and_then(|pair| {
        with.join(&pair.client, state::OFF)?;
        Ok(pair)
    });
    let Pair { client, mut server } = match member {
        Ok(pair) => pair,
        Err(error) => return Finding::Wrong(error.to_string()),
    };
    match uring::send_zc(&client, BYTES) {
        Ok(n) if n == BYTES.len() => {
            finding(server.read_exact(&mut [0; 1000]).map(|()| Finding::Right))
        }
        Ok(n) => Finding::Wrong(format!("SEND_ZC has sent {n} of {} bytes", BYTES.len())),
        Err(error) => Finding::Wrong(format!("SEND_ZC: {error}")),
    }
}

fn cookie(stream: &TcpStream) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut size = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: writes at most `size` bytes.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    if got == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_says_how_long_it_is() {
        assert_eq!(HEAD.find("\r\n"), Some(LINE - 2));
        assert!(HEAD.contains(&format!("Content-Length: {BODY}\r\n")));
        assert_eq!(body().len(), BODY);
    }

    #[test]
    fn without_programs_loopback_is_right() {
        let mut pair = Pair::new().unwrap();
        assert_eq!(fionread(&mut pair).unwrap(), Finding::Right);
        assert_eq!(epoll(&mut pair).unwrap(), Finding::Right);
    }
}
