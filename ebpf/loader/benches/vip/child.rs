//! The process of one configuration: listens, connects to itself, and says what that took.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{setsockopt, sockopt::Linger};

use crate::ground::Place;

/// The cgroup to join; set in children only.
pub const ENV: &str = "WAGGLE_BENCH_CGROUP";
const CPU: &str = "WAGGLE_BENCH_CPU";
const MARK: &str = "ANSWER ";

/// Of one visit, per operation.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub wall_ns: f64,
    pub cpu_ns: f64,
}

/// The parent's end.
pub struct Child {
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Child {
    pub fn start(place: &Place, cpu: usize) -> anyhow::Result<Self> {
        // Not `ip netns exec`, which hides the cgroups.
        let mut process = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", place.netns))
            .arg(std::env::current_exe()?)
            .env(ENV, &place.cgroup)
            .env(CPU, cpu.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().context("stdout")?);
        Ok(Self {
            process,
            stdin,
            stdout,
        })
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

    /// Ports of new listeners, TCP; UDP sockets are there too, so that what is sent is taken.
    pub fn listen(&mut self, n: usize) -> anyhow::Result<Vec<u16>> {
        let answer = self.ask(&format!("listen {n}"))?;
        answer.split(' ').map(|p| Ok(p.parse()?)).collect()
    }

    pub fn measure(&mut self, op: &str, to: SocketAddr, n: u32) -> anyhow::Result<Sample> {
        let answer = self.ask(&format!("{op} {to} {n}"))?;
        let (wall, cpu) = answer.split_once(' ').context(answer.clone())?;
        let per = |text: &str| -> anyhow::Result<f64> { Ok(text.parse::<f64>()? / f64::from(n)) };
        Ok(Sample {
            wall_ns: per(wall)?,
            cpu_ns: per(cpu)?,
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
pub fn serve(cgroup: &Path) -> anyhow::Result<()> {
    std::fs::write(cgroup.join("cgroup.procs"), "0")?;
    let cpu: usize = std::env::var(CPU)?.parse()?;
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
    let mut listeners: Vec<TcpListener> = Vec::new();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["listen", n] => {
                for _ in 0..n.parse::<usize>()? {
                    let l = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                    l.set_nonblocking(true)?;
                    listeners.push(l);
                }
                let ports = listeners
                    .iter()
                    .map(|l| Ok(l.local_addr()?.port().to_string()))
                    .collect::<io::Result<Vec<String>>>()?;
                ports.join(" ")
            }
            [op, to, n] => {
                let (to, n) = (to.parse()?, n.parse()?);
                let (cpu, at) = (cpu_ns()?, Instant::now());
                match op {
                    "udp-same" => udp_same(to, n)?,
                    "packet" => packet(n)?,
                    "udp-new" => udp_new(to, n)?,
                    "peer" => peer(to, n)?,
                    "tcp" => tcp(&listeners, to, n)?,
                    _ => bail!("unknown operation {op:?}"),
                }
                let wall = at.elapsed().as_nanos();
                format!("{wall} {}", cpu_ns()? - cpu)
            }
            _ => bail!("unknown command {line:?}"),
        };
        println!("{MARK}{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}

fn cpu_ns() -> anyhow::Result<i64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let ns = |t: nix::sys::time::TimeVal| (t.tv_sec() * 1_000_000 + t.tv_usec()) * 1_000;
    Ok(ns(usage.user_time()) + ns(usage.system_time()))
}

fn udp_same(to: SocketAddr, n: u32) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    (0..n).try_for_each(|_| socket.connect(to))
}

/// From a socket to itself: out and in.
fn packet(n: u32) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = socket.local_addr()?;
    let mut buffer = [0; 64];
    (0..n).try_for_each(|_| {
        socket.send_to(&[1; 64], to)?;
        socket.recv(&mut buffer).map(drop)
    })
}

fn udp_new(to: SocketAddr, n: u32) -> io::Result<()> {
    (0..n).try_for_each(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.connect(to))
}

fn peer(to: SocketAddr, n: u32) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    for _ in 0..n {
        std::hint::black_box(socket.peer_addr()?);
    }
    Ok(())
}

/// Connects, accepts, resets. A direct client goes round the listeners, so that all have the same fan-out.
fn tcp(listeners: &[TcpListener], to: SocketAddr, n: u32) -> anyhow::Result<()> {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let ports = listeners
        .iter()
        .map(|l| Ok(l.local_addr()?.port()))
        .collect::<io::Result<Vec<u16>>>()?;
    for i in 0..n as usize {
        let to = if to.ip().is_loopback() {
            SocketAddr::new(to.ip(), ports[i % ports.len()])
        } else {
            to
        };
        let client = TcpStream::connect(to)?;
        let server = listeners
            .iter()
            .find_map(|l| l.accept().ok())
            .context("nobody was connected to")?;
        setsockopt(&client, Linger, &at_once)?;
        drop(client);
        drop(server);
    }
    Ok(())
}
