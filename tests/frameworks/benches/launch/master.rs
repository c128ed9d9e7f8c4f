//! The master under test: the release binary in a process of its own, on loopback, with a store on disk.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use waggle_tests_support::process;
use waggle_tests_support::wait::sleep;

/// Longest wait for it to listen, and to end.
const LIMIT: Duration = Duration::from_secs(20);

/// A running master; ended, by its pid, when dropped.
pub struct Master {
    child: Child,
    command: Command,
    /// Where agents and frameworks connect.
    pub session: SocketAddr,
    /// Mesos's API.
    pub mesos: SocketAddr,
    /// Marathon's API.
    pub marathon: SocketAddr,
    _dir: tempfile::TempDir,
}

/// Between looks at whether it listens.
const LOOK: Duration = Duration::from_millis(5);

/// Free ports; another program could take one before the master does, which then says so.
fn ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port");
    let all = (0..N).map(|_| bind()).collect::<anyhow::Result<Vec<_>>>()?;
    let mut out = [0; N];
    for (port, listener) in out.iter_mut().zip(&all) {
        *port = listener.local_addr()?.port();
    }
    Ok(out)
}

impl Master {
    /// Starts it and waits until it listens.
    pub fn start(binary: &Path) -> anyhow::Result<Self> {
        // Beside the binary: a temporary directory in memory would make fsync free.
        let beside = binary.parent().context("the binary has no directory")?;
        let dir = tempfile::Builder::new()
            .prefix("bench-launch-")
            .tempdir_in(beside)
            .context("make a directory for the store")?;
        let [session, http, marathon] = ports()?;
        let mut command = Command::new(binary);
        command
            .arg("master")
            .args(["--name", "bench", "--log", "warn", "--agent-timeout", "60s"])
            .args(["--session-port", &session.to_string()])
            .args(["--master-port", &http.to_string()])
            .args(["--marathon-port", &marathon.to_string()])
            .arg("--work-dir")
            .arg(dir.path())
            .stdin(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut out = Self {
            child,
            command,
            session: at(session),
            mesos: at(http),
            marathon: at(marathon),
            _dir: dir,
        };
        out.listens()?;
        Ok(out)
    }

    fn listens(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + LIMIT;
        while std::net::TcpStream::connect(self.session).is_err() {
            if let Some(status) = self.child.try_wait().context("look at the master")? {
                bail!("the master ended: {status}");
            }
            if Instant::now() > deadline {
                bail!("the master does not listen after {LIMIT:?}");
            }
            sleep(LOOK);
        }
        Ok(())
    }

    /// Kills it (SIGKILL) and starts another one on the same store and ports; answers how long it took to listen again.
    pub fn replace(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.child.kill().context("kill the master")?;
        self.child.wait().context("wait for the master's end")?;
        self.child = self.command.spawn().context("start another master")?;
        self.listens()?;
        Ok(begun.elapsed())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    /// Resident bytes now.
    pub fn rss(&self) -> anyhow::Result<u64> {
        let kib = process::rss_kib(self.pid()).context("the master is gone")?;
        Ok(kib * 1024)
    }

    /// CPU seconds used so far.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        let ticks = process::cpu_ticks(self.pid()).context("the master is gone")?;
        Ok(ticks as f64 / 100.0)
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        process::terminate(self.pid());
        let deadline = Instant::now() + LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // It has had its time.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }
}
