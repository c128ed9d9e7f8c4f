//! The processes of one configuration: a server, and a client that measures.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket,
    sockopt::{Linger, TcpNoDelay},
};
use waggle_tests_support::netns::NetNs;

/// The address to listen on, or `client`; set in children only.
pub const ENV: &str = "WAGGLE_BENCH_OVERLAY";
const CPU: &str = "WAGGLE_BENCH_CPU";
const CGROUP: &str = "WAGGLE_BENCH_CGROUP";
const MARK: &str = "ANSWER ";
const PORT: u16 = 8080;
/// Connections that are opened at once.
const AT_ONCE: usize = 8;
/// Bytes of a write, and of a read.
const WRITE: usize = 64 << 10;
const READ: usize = 256 << 10;
/// A connection that does not move for so long is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Of one visit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Round trips, connections or bytes.
    pub n: f64,
    /// Seconds that it took.
    pub wall_s: f64,
    /// CPU seconds of client and server.
    pub cpu_s: f64,
    /// Median of a round trip, microseconds.
    pub p50_us: f64,
}

/// The parent's end.
pub struct Child {
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Child {
    fn start(what: &str, ns: &NetNs, cgroup: Option<&Path>, cpu: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .env(ENV, what)
            .env(CPU, cpu.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(cgroup) = cgroup {
            command.env(CGROUP, cgroup);
        }
        let mut process = ns.run(move || command.spawn())??;
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().context("stdout")?);
        Ok(Self {
            process,
            stdin,
            stdout,
        })
    }

    pub fn client(ns: &NetNs, cgroup: Option<&Path>, cpu: usize) -> anyhow::Result<Self> {
        Self::start("client", ns, cgroup, cpu)
    }

    /// Listens when this returns.
    pub fn server(
        ns: &NetNs,
        cgroup: Option<&Path>,
        cpu: usize,
        ip: IpAddr,
    ) -> anyhow::Result<Self> {
        let mut child = Self::start(&ip.to_string(), ns, cgroup, cpu)?;
        child.ask("cpu")?;
        Ok(child)
    }

    fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        writeln!(self.stdin.as_mut().context("stdin")?, "{command}")?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.stdout.read_line(&mut line)? == 0 {
                bail!("the process ended at {command:?}");
            }
            if let Some(answer) = line.strip_prefix(MARK) {
                return Ok(answer.trim().to_owned());
            }
        }
    }

    /// Does something for so many milliseconds.
    pub fn measure(
        &mut self,
        server: &mut Self,
        op: &str,
        to: IpAddr,
        ms: u64,
    ) -> anyhow::Result<Sample> {
        let before: f64 = server.ask("cpu")?.parse()?;
        let answer = self.ask(&format!("{op} {to} {ms}"))?;
        let after: f64 = server.ask("cpu")?.parse()?;
        let words = answer
            .split(' ')
            .map(|word| Ok(word.parse()?))
            .collect::<anyhow::Result<Vec<f64>>>()?;
        let [n, wall_s, cpu_s, p50_us] = words[..] else {
            bail!("{answer}");
        };
        ensure!(n > 0.0, "nothing got through");
        Ok(Sample {
            n,
            wall_s,
            cpu_s: cpu_s + after - before,
            p50_us,
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // End of input ends it.
        drop(self.stdin.take());
        let _ = self.process.wait();
    }
}

/// The child's end.
pub fn serve(what: &str) -> anyhow::Result<()> {
    if let Some(cgroup) = std::env::var_os(CGROUP) {
        std::fs::write(Path::new(&cgroup).join("cgroup.procs"), "0")?;
    }
    let cpu: usize = std::env::var(CPU)?.parse()?;
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
    if what != "client" {
        let listener = TcpListener::bind((what.parse::<IpAddr>()?, PORT))?;
        std::thread::spawn(move || {
            if let Err(error) = answer_all(&listener) {
                eprintln!("server: {error:#}");
            }
        });
    }
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["cpu"] => cpu_s()?.to_string(),
            [op, to, ms] => {
                let to = SocketAddr::new(to.parse()?, PORT);
                let time = Duration::from_millis(ms.parse()?);
                let (at, before) = (Instant::now(), cpu_s()?);
                let (n, p50_us) = match op {
                    "rr" => round_trips(to, time)?,
                    "crr" => connections(to, time)?,
                    "bulk" => bulk(to, time)?,
                    _ => bail!("unknown operation {op:?}"),
                };
                let (wall, cpu) = (at.elapsed().as_secs_f64(), cpu_s()? - before);
                format!("{n} {wall} {cpu} {p50_us}")
            }
            _ => bail!("unknown command {line:?}"),
        };
        println!("{MARK}{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}

fn cpu_s() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let s = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Ok(s(usage.user_time()) + s(usage.system_time()))
}

/// Answers one byte by one byte, swallows more.
fn answer_all(listener: &TcpListener) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let mut open: Vec<TcpStream> = Vec::new();
    let mut buffer = vec![0; READ];
    loop {
        let mut ready = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        ready.extend(
            open.iter()
                .map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)),
        );
        poll(&mut ready, PollTimeout::NONE)?;
        let is_ready: Vec<bool> = ready.iter().map(|fd| fd.any() == Some(true)).collect();
        let mut at = 0;
        open.retain_mut(|stream| {
            at += 1;
            if !is_ready[at] {
                return true;
            }
            match stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(1) => stream.write_all(&buffer[..1]).is_ok(),
                Ok(_) => true,
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            }
        });
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            open.push(stream);
        }
    }
}

fn dial(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn round_trips(to: SocketAddr, time: Duration) -> anyhow::Result<(f64, f64)> {
    let mut stream = dial(to)?;
    let begin = Instant::now();
    let mut took: Vec<u128> = Vec::new();
    while begin.elapsed() < time {
        let at = Instant::now();
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])?;
        took.push(at.elapsed().as_nanos());
    }
    took.sort_unstable();
    let p50 = took.get(took.len() / 2).copied().unwrap_or(0);
    Ok((took.len() as f64, p50 as f64 / 1e3))
}

fn bulk(to: SocketAddr, time: Duration) -> anyhow::Result<(f64, f64)> {
    let mut stream = dial(to)?;
    let buffer = vec![7; WRITE];
    let begin = Instant::now();
    let mut bytes = 0_usize;
    while begin.elapsed() < time {
        stream.write_all(&buffer)?;
        bytes += buffer.len();
    }
    Ok((bytes as f64, 0.0))
}

/// Connects, asks, is answered, resets; several at once.
fn connections(to: SocketAddr, time: Duration) -> anyhow::Result<(f64, f64)> {
    let begin = Instant::now();
    let mut n = 0_usize;
    while begin.elapsed() < time {
        let open: Vec<OwnedFd> = (0..AT_ONCE)
            .map(|_| begin_dial(to))
            .collect::<anyhow::Result<_>>()?;
        each(open.iter().collect(), PollFlags::POLLOUT, |fd| {
            nix::unistd::write(fd, b"?")
        })?;
        each(open.iter().collect(), PollFlags::POLLIN, |fd| {
            nix::unistd::read(fd, &mut [0])
        })?;
        n += open.len();
    }
    Ok((n as f64, 0.0))
}

/// A connection that is being opened, and will be reset.
fn begin_dial(to: SocketAddr) -> anyhow::Result<OwnedFd> {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)?;
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&fd, Linger, &at_once)?;
    setsockopt(&fd, TcpNoDelay, &true)?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(error) => Err(error.into()),
    }
}

/// Does something with each as soon as it is ready; one byte each.
fn each(
    mut waiting: Vec<&OwnedFd>,
    events: PollFlags,
    act: impl Fn(&OwnedFd) -> nix::Result<usize>,
) -> anyhow::Result<()> {
    let patience = PollTimeout::try_from(PATIENCE)?;
    while !waiting.is_empty() {
        let mut ready: Vec<PollFd<'_>> = waiting
            .iter()
            .map(|fd| PollFd::new(fd.as_fd(), events))
            .collect();
        ensure!(poll(&mut ready, patience)? > 0, "a connection is lost");
        let is_ready: Vec<bool> = ready.iter().map(|fd| fd.any() == Some(true)).collect();
        let mut left = Vec::new();
        for (fd, is_ready) in waiting.into_iter().zip(is_ready) {
            if is_ready {
                ensure!(act(fd).context("a connection")? == 1, "an end");
            } else {
                left.push(fd);
            }
        }
        waiting = left;
    }
    Ok(())
}
