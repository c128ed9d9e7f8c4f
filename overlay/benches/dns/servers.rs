//! The servers: ours in a process of its own, dnsmasq with a hosts file, unbound with local data; all on CPU 0, all with
//! the same names and TTLs.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use waggle_overlay::dns::{DnsServer, DnsServerConfig};
use waggle_overlay_plan::{LocalFacts, zone};
use waggle_types::{NetSnapshot, Protocol, VipLease, VipName};

use crate::hammer::{Load, Question};

/// Port of the first server.
const FIRST_PORT: u16 = 15_301;

/// Which server. Numbers are places in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Ours,
    /// The same again, for the noise.
    OursAgain,
    /// dnsmasq.
    Dnsmasq,
    /// unbound.
    Unbound,
}

/// A name that all of them have.
pub fn name(i: usize) -> String {
    format!("svc{i}.marathon.l4lb.thisdcos.directory")
}

/// Its address.
pub fn address(i: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0001 + u32::try_from(i).unwrap_or(0))
}

/// Serves until it is killed.
pub fn serve(n: usize, port: u16) -> anyhow::Result<()> {
    let lease = |i| VipLease {
        ip6: None,
        ip: address(i),
        ports: vec![(Protocol::Tcp, 80)],
    };
    let vip = |i| VipName {
        label: format!("svc{i}"),
        framework: "marathon".to_owned(),
    };
    let snapshot = NetSnapshot {
        vips: (0..n)
            .map(|i| (vip(i), lease(i)))
            .collect::<BTreeMap<_, _>>(),
        ..NetSnapshot::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
        let server = DnsServer::start(DnsServerConfig::new(listen, vec![])).await?;
        server.publish(Arc::new(zone(&snapshot, &LocalFacts::new(), 1)));
        std::future::pending::<()>().await;
        server.shutdown().await;
        anyhow::Ok(())
    })
}

/// A server that runs until it is dropped.
pub struct Running {
    pub kind: Kind,
    child: Child,
    addr: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    pub fn start(kind: Kind, n: usize, dir: &Path) -> anyhow::Result<Self> {
        // Below those that the kernel hands out.
        let port = FIRST_PORT + kind as u16;
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]);
        match kind {
            Kind::Ours | Kind::OursAgain => {
                command.arg(std::env::current_exe()?);
                command.args(["--serve", &n.to_string(), "--port", &port.to_string()]);
            }
            Kind::Dnsmasq => {
                let hosts = dir.join("hosts");
                let lines = (0..n).map(|i| format!("{} {}\n", address(i), name(i)));
                fs::write(&hosts, lines.collect::<String>())?;
                command.args(["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null"]);
                command.args([
                    "--no-resolv",
                    "--no-hosts",
                    "--local-ttl=5",
                    "--bind-interfaces",
                ]);
                command.args([
                    "--local=/thisdcos.directory/",
                    "--cache-size=10000",
                    "--user=root",
                ]);
                command
                    .arg("--listen-address=127.0.0.1")
                    .arg(format!("--port={port}"));
                command.arg(format!("--addn-hosts={}", hosts.display()));
                command.arg(format!("--pid-file={}", dir.join("dnsmasq.pid").display()));
            }
            Kind::Unbound => {
                let config = dir.join("unbound.conf");
                let mut text = format!(
                    "server:\n interface: 127.0.0.1\n port: {port}\n num-threads: 1\n do-ip6: no\n \
                     do-daemonize: no\n chroot: \"\"\n username: \"\"\n use-syslog: no\n verbosity: 0\n \
                     pidfile: \"{}\"\n minimal-responses: yes\n so-rcvbuf: 2m\n msg-cache-size: 64m\n \
                     rrset-cache-size: 128m\n local-zone: \"thisdcos.directory.\" static\n",
                    dir.join("unbound.pid").display()
                );
                for i in 0..n {
                    text.push_str(&format!(
                        " local-data: \"{}. 5 IN A {}\"\n",
                        name(i),
                        address(i)
                    ));
                }
                text.push_str("remote-control:\n control-enable: no\n");
                fs::write(&config, text)?;
                command.args(["unbound", "-d", "-c"]).arg(&config);
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let child = command
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {kind:?}"))?;
        Ok(Self {
            kind,
            child,
            addr: (Ipv4Addr::LOCALHOST, port).into(),
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Until it answers rightly.
    pub fn wait(&self, asked: &[Question]) -> anyhow::Result<()> {
        let load = Load {
            window: 1,
            askers: 1,
            time: Duration::from_millis(20),
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if load
                .saturate(self.addr, asked)
                .is_ok_and(|d| d.answered > 0)
            {
                return Ok(());
            }
        }
        bail!("{:?} does not answer", self.kind)
    }

    /// Time that its threads have run.
    pub fn cpu_ns(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let ran: u64 = text.split(' ').next().unwrap_or_default().parse()?;
            sum += ran;
        }
        Ok(sum)
    }
}

/// Puts this process on a CPU.
pub fn pin_self(cpu: usize) -> anyhow::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    Ok(nix::sched::sched_setaffinity(
        nix::unistd::Pid::from_raw(0),
        &set,
    )?)
}

pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
        .split(':')
        .map(|dir| Path::new(dir).join(program))
        .find(|p| p.is_file())
}

/// The first line with a number in it of what a program says of itself.
pub fn version(program: &str, args: &[&str]) -> String {
    let said = find(program).and_then(|p| Command::new(p).args(args).output().ok());
    let text = said.map_or_else(String::new, |out| {
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
    });
    let mut lines = text
        .lines()
        .filter(|l| l.to_lowercase().contains("version"));
    let line = lines.next().unwrap_or(program);
    let short: Vec<&str> = line.split_whitespace().take(3).collect();
    let short = short.join(" ");
    if short.to_lowercase().contains(program) {
        short
    } else {
        format!("{program} {short}")
    }
}

pub fn words(file: &str, n: usize) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().take(n).collect();
    words.join(" ")
}
