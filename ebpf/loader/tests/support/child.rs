//! The child's side: joins the cgroup, then answers commands.

use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use waggle_ebpf::{DataPlane, LoaderConfig};

/// The test that a child runs instead of all.
pub const TEST: &str = "child";
/// The cgroup to join; set in children only.
pub const ENV: &str = "WAGGLE_TEST_CGROUP";
/// Before every answer.
pub const MARK: &str = "ANSWER ";

/// Serves commands until the end of input.
pub fn serve() -> anyhow::Result<()> {
    let Some(cgroup) = std::env::var_os(ENV) else {
        return Ok(());
    };
    fs::write(PathBuf::from(cgroup).join("cgroup.procs"), "0")?;
    let (mut planes, mut sockets, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["listen", at] => listen(at)?,
            ["dial", to, bytes] => dial(to.parse()?, bytes.parse()?),
            ["dials", to, n, bytes] => dials(to.parse()?, n.parse()?, bytes.parse()?),
            ["flood", n] => flood(n.parse()?)?,
            ["listen-rst", at] => listen_and_reset(at)?,
            ["hold", to] => match TcpStream::connect(to) {
                Ok(stream) => {
                    held.push(stream);
                    "ok".to_owned()
                }
                Err(error) => format!("error {}", error.raw_os_error().unwrap_or(0)),
            },
            ["release"] => {
                held.clear();
                "ok".to_owned()
            }
            ["udp", to] => udp(to.parse()?)?,
            ["serve-udp", at] => serve_udp(at)?,
            ["socket", at] => {
                let socket = UdpSocket::bind(at)?;
                socket.set_read_timeout(Some(Duration::from_secs(5)))?;
                sockets.push(socket);
                (sockets.len() - 1).to_string()
            }
            ["address", n] => sockets[n.parse::<usize>()?].local_addr()?.to_string(),
            ["drain", n] => drain(&sockets[n.parse::<usize>()?])?.to_string(),
            ["send", n, to] => send(&sockets[n.parse::<usize>()?], to.parse()?),
            ["ask", n, to] => {
                let socket = &sockets[n.parse::<usize>()?];
                socket.connect(to)?;
                ask(socket, socket.send(b"?"))
            }
            ["bench", a, b, rounds] => bench(a.parse()?, b.parse()?, rounds.parse()?)?,
            ["plane", cgroup_root, pin_dir] => {
                let config = LoaderConfig {
                    cgroup_root: cgroup_root.into(),
                    pin_dir: pin_dir.into(),
                };
                planes.push(DataPlane::open(&config)?);
                "open".to_owned()
            }
            _ => bail!("unknown command {line:?}"),
        };
        println!("\n{MARK}{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}

/// Takes the datagrams that a socket has; how many they were.
fn drain(socket: &UdpSocket) -> anyhow::Result<u32> {
    socket.set_nonblocking(true)?;
    let mut n = 0;
    loop {
        match socket.recv(&mut [0; 2048]) {
            Ok(_) => n += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(n),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Echoes on a port, for as long as the process lives.
fn listen(at: &str) -> anyhow::Result<String> {
    let listener = TcpListener::bind(at)?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            let _ = stream.write_all(&bytes);
        }
    });
    Ok(port.to_string())
}

/// Reads a little of what comes on a port and resets: what a server does that dies over a request.
fn listen_and_reset(at: &str) -> anyhow::Result<String> {
    let listener = TcpListener::bind(at)?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 1]);
            reset_at_close(&stream);
        }
    });
    Ok(port.to_string())
}

/// Connects, sends, half-closes and reads to the end.
fn dial(to: SocketAddr, bytes: usize) -> String {
    let start = Instant::now();
    let exchange = || -> io::Result<String> {
        let mut stream = TcpStream::connect(to)?;
        let peer = stream.peer_addr()?;
        stream.write_all(&vec![b'x'; bytes])?;
        stream.shutdown(Shutdown::Write)?;
        let mut echo = Vec::new();
        stream.read_to_end(&mut echo)?;
        Ok(format!("ok {peer} {}", echo.len()))
    };
    exchange().unwrap_or_else(|error| {
        let errno = error.raw_os_error().unwrap_or(0);
        format!("error {errno} {}", start.elapsed().as_millis())
    })
}

/// The same so many times, one after the other.
fn dials(to: SocketAddr, n: usize, bytes: usize) -> String {
    let want = format!("ok {to} {bytes}");
    let wrong = (0..n).map(|_| dial(to, bytes)).find(|said| *said != want);
    wrong.unwrap_or_else(|| format!("ok {n}"))
}

/// So many connections to a listener of its own, each reset at once.
fn flood(n: usize) -> anyhow::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = listener.local_addr()?;
    for _ in 0..n {
        let client = TcpStream::connect(to)?;
        let (_server, _) = listener.accept()?;
        reset_at_close(&client);
    }
    Ok("ok".to_owned())
}

fn reset_at_close(stream: &TcpStream) {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &at_once);
}

/// Connects a datagram socket; says what the socket thinks its peer is.
fn udp(to: SocketAddr) -> anyhow::Result<String> {
    let socket = UdpSocket::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), 0))?;
    match socket.connect(to) {
        Ok(()) => Ok(format!("ok {}", socket.peer_addr()?)),
        Err(error) => Ok(format!("error {}", error.raw_os_error().context("errno")?)),
    }
}

/// Answers each datagram with the port on which it came, for as long as the process lives.
fn serve_udp(at: &str) -> anyhow::Result<String> {
    let socket = UdpSocket::bind(at)?;
    let port = socket.local_addr()?.port().to_string();
    let answer = port.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(answer.as_bytes(), from);
        }
    });
    Ok(port)
}

/// Sends a datagram to an address and says who answered from where.
fn send(socket: &UdpSocket, to: SocketAddr) -> String {
    ask(socket, socket.send_to(b"?", to))
}

fn ask(socket: &UdpSocket, sent: io::Result<usize>) -> String {
    let answer = || -> io::Result<String> {
        sent?;
        let mut bytes = [0; 64];
        let (n, from) = socket.recv_from(&mut bytes)?;
        Ok(format!(
            "{} from {from}",
            String::from_utf8_lossy(&bytes[..n])
        ))
    };
    answer().unwrap_or_else(|e| format!("error {}", e.raw_os_error().unwrap_or(0)))
}

/// Median nanoseconds of connect(2) to a and to b, interleaved.
fn bench(a: SocketAddr, b: SocketAddr, rounds: usize) -> anyhow::Result<String> {
    let mut times = [Vec::with_capacity(rounds), Vec::with_capacity(rounds)];
    for _ in 0..rounds {
        for (to, times) in [a, b].into_iter().zip(&mut times) {
            let start = Instant::now();
            let stream = TcpStream::connect(to)?;
            times.push(start.elapsed().as_nanos());
            // Until the server is done: a full backlog would drop SYNs, and cost a second each.
            stream.shutdown(Shutdown::Write)?;
            io::copy(&mut &stream, &mut io::sink())?;
        }
    }
    let [a, b] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    Ok(format!("{a} {b}"))
}
