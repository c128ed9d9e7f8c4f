//! The process of one configuration: asks and answers itself over loopback, and says what that took.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use nix::sys::resource::{UsageWho, getrusage};

use crate::ground::Place;

/// The cgroup to join; set in children only.
pub const ENV: &str = "WAGGLE_BENCH_CGROUP";
const CPU: &str = "WAGGLE_BENCH_CPU";
const MARK: &str = "ANSWER ";
const REQUEST: &[u8] = b"GET /cart/17 HTTP/1.1\r\nHost: shop.marathon.l4lb\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello, world";

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

    /// What it took, in the unit of what was asked for.
    pub fn ask(&mut self, command: &str) -> anyhow::Result<f64> {
        writeln!(self.stdin.as_mut().context("stdin")?, "{command}")?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.stdout.read_line(&mut line)? == 0 {
                bail!("the process ended at {command:?}");
            }
            if let Some(answer) = line.strip_prefix(MARK) {
                return Ok(answer.trim().parse()?);
            }
        }
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
    let cpu = std::env::var(CPU)?.parse()?;
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (what, n) = line.split_once(' ').context("no number")?;
        let n: u32 = n.parse()?;
        let took = match what {
            "kept" => {
                let (mut client, mut server) = pair(&listener)?;
                let begun = cpu_us()?;
                for _ in 0..n {
                    exchange(&mut client, &mut server)?;
                }
                (cpu_us()? - begun) / f64::from(n)
            }
            "short" => {
                let begun = cpu_us()?;
                for _ in 0..n {
                    let (mut client, mut server) = pair(&listener)?;
                    exchange(&mut client, &mut server)?;
                }
                (cpu_us()? - begun) / f64::from(n)
            }
            "bulk" => bulk(&listener, n)?,
            _ => bail!("unknown command {line:?}"),
        };
        println!("{MARK}{took}");
        io::stdout().flush()?;
    }
    Ok(())
}

fn pair(listener: &TcpListener) -> io::Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    Ok((client, server))
}

fn exchange(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<()> {
    let mut bytes = [0; 256];
    client.write_all(REQUEST)?;
    read_head(server)?;
    server.write_all(ANSWER)?;
    client.read_exact(&mut bytes[..ANSWER.len()])
}

/// As long as it is: there may be a header in it that was not sent.
fn read_head(server: &mut TcpStream) -> io::Result<()> {
    let (mut bytes, mut n) = ([0; 512], 0);
    while !bytes[..n].ends_with(b"\r\n\r\n") {
        match server.read(&mut bytes[n..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => n += more,
        }
    }
    Ok(())
}

/// Milliseconds for an answer of so many MiB.
fn bulk(listener: &TcpListener, mib: u32) -> anyhow::Result<f64> {
    let (mut client, mut server) = pair(listener)?;
    let length = u64::from(mib) << 20;
    client.write_all(REQUEST)?;
    read_head(&mut server)?;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    let begun = Instant::now();
    let writer = std::thread::spawn(move || -> io::Result<()> {
        server.write_all(head.as_bytes())?;
        let part = vec![b'x'; 1 << 18];
        for _ in 0..mib * 4 {
            server.write_all(&part)?;
        }
        Ok(())
    });
    let mut part = vec![0; 1 << 18];
    while client.read(&mut part)? > 0 {}
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    writer
        .join()
        .map_err(|_| io::Error::other("the writer panicked"))??;
    Ok(took)
}

/// CPU time of this process, softirqs that run in its name included.
fn cpu_us() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let us = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 * 1e6 + t.tv_usec() as f64;
    Ok(us(usage.user_time()) + us(usage.system_time()))
}
