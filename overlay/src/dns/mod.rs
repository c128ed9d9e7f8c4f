//! The DNS server of a node: cluster names from the zone, everything else from upstreams.
//!
//! The zone is one immutable value behind an atomic pointer, so that a question sees one zone whole and takes no
//! lock. Messages are read and written by `waggle_overlay_plan::wire`. Each address has a thread that answers
//! over UDP (`udp`) and a task that accepts connections (`tcp`); what must wait is the runtime's (`slow`).

mod answer;
mod askers;
mod counters;
mod log;
mod replies;
mod slow;
mod tcp;
mod told;
mod udp;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use waggle_overlay_plan::{DnsName, Question, Zone, wire, zone::Scope};

pub(crate) use self::counters::{Counting, add};
pub use self::counters::{DnsCounters, LATENCY_BUCKETS};
pub use self::told::{MaySend, Names, Told};
use crate::forward::{ForwardConfig, Forwarder, Route, Upstream};

/// Questions that a thread may hand to the runtime before it takes them.
const MAX_HANDED: usize = 1024;
/// Stack of a thread that answers: it recurses nowhere.
const STACK: usize = 256 << 10;

/// What a DNS server is told.
#[derive(Debug, Clone)]
pub struct DnsServerConfig {
    /// Where to answer, UDP and TCP. A port of 0 picks one (the same for both).
    pub listen: Vec<SocketAddr>,
    /// Which names are the cluster's.
    pub scope: Scope,
    /// Whom to ask for other names. Upstreams that are this server itself are left out.
    pub forward: ForwardConfig,
    /// Questions that may wait at once, for upstreams or for a first zone; more are answered SERVFAIL.
    pub max_waiting: usize,
    /// How long a cluster name waits for the first zone after a start; then SERVFAIL.
    pub first_zone_wait: Duration,
    /// How long an idle TCP connection is kept.
    pub tcp_timeout: Duration,
    /// How long to try for an address that another process (the one that this replaces) still holds.
    pub bind_timeout: Duration,
    /// Log one of so many questions; 0 logs none.
    pub log_one_in: u64,
    /// Who must know what is told about names that are not the cluster's.
    pub told: Option<Told>,
}

impl DnsServerConfig {
    /// Defaults, with upstreams that are asked over UDP.
    pub fn new(listen: Vec<SocketAddr>, upstreams: Vec<SocketAddr>) -> Self {
        let upstreams = upstreams.into_iter().map(Upstream::plain).collect();
        Self {
            listen,
            scope: Scope::default(),
            forward: ForwardConfig::new(upstreams),
            max_waiting: 2048,
            first_zone_wait: Duration::from_secs(2),
            tcp_timeout: Duration::from_secs(10),
            bind_timeout: Duration::from_secs(5),
            log_one_in: 0,
            told: None,
        }
    }
}

/// Why the server can't start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A socket.
    #[error("failed to bind {protocol} {addr}")]
    Bind {
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// The address.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread or a copy of a socket.
    #[error("failed to start to answer on {addr}")]
    Start {
        /// The address.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// DNS over TLS.
    #[error("failed to set up dns over tls")]
    Tls(#[from] crate::forward::TlsError),
}

struct Shared {
    told: Option<Told>,
    zone: ArcSwapOption<Zone>,
    has_zone: watch::Sender<bool>,
    scope: Scope,
    /// Who may wait for an answer.
    waiting: Arc<Semaphore>,
    first_zone_wait: Duration,
    forwarder: Forwarder,
    counting: Counting,
    log: Option<log::Log>,
    n_logged: AtomicU64,
    askers: askers::Askers,
}

impl Shared {
    fn is_ours(&self, name: &DnsName, zone: Option<&Zone>) -> bool {
        self.scope.is_ours(name) || zone.is_some_and(|z| z.is_ours(name))
    }

    /// Whether somebody must know what this one is told: then no thread that answers tells it.
    fn must_tell(&self, asker: IpAddr) -> bool {
        self.told.as_ref().is_some_and(|t| t.0.wants(asker))
    }

    /// An answer about a name that is not the cluster's is about to be sent. Whether it may be.
    async fn tell(&self, asker: IpAddr, name: &DnsName, answer: &[u8]) -> bool {
        let Some(told) = self.told.as_ref().filter(|t| t.0.wants(asker)) else {
            return true;
        };
        let addresses = wire::told(answer);
        if addresses.is_empty() {
            return true;
        }
        let name = name.to_string().to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        told.0.told(asker, name, &addresses).await
    }

    /// Waits a moment for the first zone; whether there is one.
    async fn first_zone(&self) -> bool {
        let mut has_zone = self.has_zone.subscribe();
        let wait = has_zone.wait_for(|has| *has);
        // Late or not: what counts is whether there is one now.
        let _ = tokio::time::timeout(self.first_zone_wait, wait).await;
        self.zone.load().is_some()
    }
}

/// A thread that answers, and what ends it.
struct Thread {
    stop: Arc<AtomicBool>,
    socket: Arc<std::net::UdpSocket>,
    handle: std::thread::JoinHandle<()>,
}

impl Thread {
    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        udp::wake(&self.socket);
    }
}

#[derive(Default)]
struct Running {
    threads: Vec<Thread>,
    tasks: JoinSet<()>,
}

/// A running server; it answers until it is shut down or dropped.
pub struct DnsServer {
    shared: Arc<Shared>,
    running: Mutex<Running>,
    addrs: Vec<SocketAddr>,
}

impl DnsServer {
    /// Binds and starts to answer.
    pub async fn start(mut config: DnsServerConfig) -> Result<Self, DnsError> {
        if config.forward.leave_out(&config.listen) {
            tracing::warn!("an upstream resolver is this server itself and is left out");
        }
        let mut running = Running::default();
        let mut log = None;
        if config.log_one_in > 0 {
            let (lines, receiver) = mpsc::channel(log::MAX_WAITING);
            running.tasks.spawn(log::write(receiver));
            log = Some(log::Log {
                one_in: config.log_one_in,
                lines,
            });
        }
        let shared = Arc::new(Shared {
            zone: ArcSwapOption::empty(),
            told: config.told,
            has_zone: watch::Sender::new(false),
            scope: config.scope,
            waiting: Arc::new(Semaphore::new(config.max_waiting)),
            first_zone_wait: config.first_zone_wait,
            forwarder: Forwarder::new(config.forward)?,
            counting: Counting::default(),
            log,
            n_logged: AtomicU64::new(0),
            askers: askers::Askers::default(),
        });
        let deadline = Instant::now() + config.bind_timeout;
        let mut server = Self {
            shared,
            running: Mutex::new(running),
            addrs: Vec::new(),
        };
        for listen in &config.listen {
            let (udp, tcp) = bind(*listen, deadline).await?;
            let addr = udp.local_addr().unwrap_or(*listen);
            let started = server.answer_on(udp, tcp, config.tcp_timeout);
            started.map_err(|source| DnsError::Start { addr, source })?;
            server.addrs.push(addr);
        }
        tracing::info!(addrs = ?server.addrs, "dns answers");
        Ok(server)
    }

    fn answer_on(&mut self, udp: UdpSocket, tcp: TcpListener, idle: Duration) -> io::Result<()> {
        let udp = Arc::new(udp.into_std()?);
        udp::prepare(&udp)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, jobs) = mpsc::channel(MAX_HANDED);
        let shared = Arc::clone(&self.shared);
        let (socket, stopped) = (Arc::clone(&udp), Arc::clone(&stop));
        let handle = std::thread::Builder::new()
            .name("waggle-dns".to_owned())
            .stack_size(STACK)
            .spawn(move || udp::serve(&shared, &socket, &stopped, &sender))?;
        let running = self
            .running
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let socket = Arc::clone(&udp);
        running.threads.push(Thread {
            stop,
            socket,
            handle,
        });
        let shared = Arc::clone(&self.shared);
        running.tasks.spawn(udp::serve_slow(shared, udp, jobs));
        let shared = Arc::clone(&self.shared);
        running.tasks.spawn(tcp::serve(shared, tcp, idle));
        Ok(())
    }

    /// Answers from this zone from now on.
    pub fn publish(&self, zone: Arc<Zone>) {
        self.shared.zone.store(Some(zone));
        self.shared.has_zone.send_replace(true);
    }

    /// The zone that is served.
    pub fn zone(&self) -> Option<Arc<Zone>> {
        self.shared.zone.load_full()
    }

    /// Questions over UDP by the cgroup of who asked, as far as it is known ([`DnsCounters::unattributed`] has the others).
    pub fn by_cgroup(&self) -> BTreeMap<u64, u64> {
        self.shared.askers.read()
    }

    /// A cgroup is gone; its number may come again.
    pub fn forget_cgroup(&self, cgroup_id: u64) {
        self.shared.askers.forget(cgroup_id);
    }

    /// What it has counted.
    pub fn counters(&self) -> DnsCounters {
        DnsCounters {
            unattributed: self.shared.askers.unknown.load(Ordering::Relaxed),
            cache: self.shared.forwarder.cache_counters(),
            upstreams: self.shared.forwarder.upstream_counters(),
            ..self.shared.counting.read()
        }
    }

    /// Whom a name outside of the cluster is asked of, and whether an answer is kept; none where nobody is.
    pub fn route(&self, question: &Question) -> Option<Route> {
        let Question { name, rtype } = question;
        self.shared.forwarder.route(name, *rtype)
    }

    /// Where it answers.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Stops answering and closes the sockets.
    pub async fn shutdown(&self) {
        let Running { threads, mut tasks } = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *running)
        };
        tasks.shutdown().await;
        let ended = tokio::task::spawn_blocking(move || {
            for thread in &threads {
                thread.end();
            }
            for thread in threads {
                if thread.handle.join().is_err() {
                    tracing::warn!("a dns thread ended with a panic");
                }
            }
        });
        // Only a runtime that shuts down cancels it.
        let _ = ended.await;
    }
}

/// Dropped without [`DnsServer::shutdown`] it stops too, only nobody waits for it.
impl Drop for DnsServer {
    fn drop(&mut self) {
        let running = self.running.get_mut();
        let running = running.unwrap_or_else(PoisonError::into_inner);
        for thread in &running.threads {
            thread.end();
        }
    }
}

/// Both sockets on one port. The process that this one replaces may still hold it for a moment.
async fn bind(addr: SocketAddr, deadline: Instant) -> Result<(UdpSocket, TcpListener), DnsError> {
    let failed = |protocol| {
        move |source| DnsError::Bind {
            protocol,
            addr,
            source,
        }
    };
    loop {
        let bound = async {
            let udp = UdpSocket::bind(addr).await.map_err(failed("udp"))?;
            let same = udp.local_addr().map_err(failed("udp"))?;
            let tcp = TcpListener::bind(same).await.map_err(failed("tcp"))?;
            Ok((udp, tcp))
        };
        match bound.await {
            Ok(sockets) => return Ok(sockets),
            Err(error) => {
                let in_use = matches!(&error, DnsError::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse);
                if !in_use || Instant::now() >= deadline {
                    return Err(error);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
