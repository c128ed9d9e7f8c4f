//! Questions about names outside of the cluster, passed on to upstream resolvers.
//!
//! The longest suffix with upstreams of its own decides whom to ask. Two are asked at once and the first useful
//! answer wins (CONTRACTS section 3); then the next two. Answers are kept for their time (`cache`). Of the same
//! question only one is in flight, which also takes the ground from who guesses ids; questions in flight are
//! bounded: one more is turned away at once, and counted. A question that comes back to its own resolver, over
//! however many others, finds itself in flight and waits for itself until its time is over: it is not sent again.

mod cache;
mod exchange;
mod tls;

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use waggle_overlay_plan::{
    DnsName, RType,
    wire::{Limits, Query, Scan, Written, question, rcode},
};

use self::{
    cache::{Cache, Hit, Key},
    exchange::Server,
    tls::TlsRoots,
};
pub use self::{
    cache::{CacheConfig, CacheCounters},
    exchange::UpstreamCounters,
    tls::TlsError,
};
use crate::dns::{Counting, add};

/// How long a question waits before an old answer is good enough (RFC 8767 section 5).
const STALE_AFTER: Duration = Duration::from_millis(1800);

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Where.
    pub addr: SocketAddr,
    /// Over TLS, with a certificate for this name.
    pub tls: Option<String>,
}

impl Upstream {
    /// Over UDP, and TCP for long answers.
    pub const fn plain(addr: SocketAddr) -> Self {
        Self { addr, tls: None }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tls {
            Some(name) => write!(f, "tls://{}#{name}", self.addr),
            None => write!(f, "{}", self.addr),
        }
    }
}

/// How to forward.
#[derive(Debug, Clone)]
pub struct ForwardConfig {
    /// Whom to ask for names below a suffix, in order; none means that such names are refused.
    pub zones: Vec<(DnsName, Vec<Upstream>)>,
    /// Whom to ask for all others.
    pub upstreams: Vec<Upstream>,
    /// Different questions to upstreams in flight at once; more are answered SERVFAIL.
    pub max_in_flight: usize,
    /// How long a pair of upstreams is given.
    pub timeout: Duration,
    /// What is kept.
    pub cache: CacheConfig,
    /// File with the certificates (PEM) that upstreams' certificates are checked against; needed for TLS.
    pub tls_roots: Option<std::path::PathBuf>,
}

impl ForwardConfig {
    /// Defaults.
    pub fn new(upstreams: Vec<Upstream>) -> Self {
        Self {
            zones: Vec::new(),
            upstreams,
            max_in_flight: 512,
            timeout: Duration::from_secs(2),
            cache: CacheConfig::default(),
            tls_roots: None,
        }
    }

    /// Leaves upstreams out that are one of these addresses; whether there were any.
    pub(crate) fn leave_out(&mut self, own: &[SocketAddr]) -> bool {
        let mut any = false;
        let lists = self.zones.iter_mut().map(|(_, list)| list);
        for list in lists.chain([&mut self.upstreams]) {
            let n = list.len();
            list.retain(|u| !own.contains(&u.addr));
            any |= list.len() < n;
        }
        any
    }
}

/// Why a question was not answered by an upstream.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// None is configured.
    #[error("no upstream resolver is configured")]
    NoUpstream,
    /// As many questions as allowed are in flight.
    #[error("{max} questions to upstream resolvers are in flight")]
    Busy {
        /// The bound.
        max: usize,
    },
    /// No useful answer in time.
    #[error("no upstream resolver answered within {after:?}")]
    Timeout {
        /// How long each was given.
        after: Duration,
    },
    /// Every upstream failed otherwise.
    #[error("failed to ask upstream resolver {upstream}")]
    Io {
        /// The last that failed.
        upstream: Upstream,
        /// How.
        #[source]
        source: io::Error,
    },
    /// The work was cancelled: the server ends.
    #[error("the server ends")]
    Cancelled,
}

/// Where a name outside of the cluster is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The suffix that has these upstreams; the root for all others.
    pub suffix: DnsName,
    /// In order.
    pub upstreams: Vec<String>,
    /// For how many more seconds a kept answer is good (to who asks without DNSSEC, recursion desired).
    pub kept_for: Option<u64>,
}

/// An answer to pass on.
#[derive(Debug)]
pub(crate) enum Got {
    /// Just come.
    Fresh(Hit),
    /// Kept, and older than it should be.
    Stale(Hit),
}

impl Got {
    pub(crate) fn write(&self, query: &Query<'_>, limits: Limits, out: &mut Vec<u8>) -> Written {
        let (Self::Fresh(hit) | Self::Stale(hit)) = self;
        hit.write(query, limits, out)
    }
}

type Outcome = Option<Result<Arc<Scan>, Arc<ForwardError>>>;

#[derive(Debug)]
struct Inner {
    /// Longest suffix first; the last one is the root.
    routes: Vec<(DnsName, Vec<Arc<Server>>)>,
    permits: Arc<Semaphore>,
    max_in_flight: usize,
    timeout: Duration,
    cache: Cache,
    flights: Mutex<HashMap<Key, watch::Receiver<Outcome>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Forwarder(Arc<Inner>);

impl Forwarder {
    pub(crate) fn new(config: ForwardConfig) -> Result<Self, TlsError> {
        let lists = config.zones.iter().map(|(_, list)| list);
        let any_tls = lists
            .chain([&config.upstreams])
            .flatten()
            .any(|u| u.tls.is_some());
        let roots = any_tls
            .then(|| TlsRoots::read(config.tls_roots.as_deref()))
            .transpose()?;
        let mut zones = config.zones;
        zones.push((DnsName::default(), config.upstreams));
        // Longest first; the sort is stable.
        zones.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.labels_from_root().count()));
        let mut routes = Vec::new();
        for (suffix, upstreams) in zones {
            let mut servers = Vec::new();
            for upstream in upstreams {
                let tls = match (&roots, &upstream.tls) {
                    (Some(roots), Some(name)) => Some(roots.client(upstream.addr, name)?),
                    _ => None,
                };
                servers.push(Arc::new(Server::new(upstream, tls)));
            }
            routes.push((suffix, servers));
        }
        Ok(Self(Arc::new(Inner {
            routes,
            permits: Arc::new(Semaphore::new(config.max_in_flight)),
            max_in_flight: config.max_in_flight,
            timeout: config.timeout,
            cache: Cache::new(config.cache),
            flights: Mutex::default(),
        })))
    }

    /// Whether any name is asked of anybody.
    pub(crate) fn has_upstreams(&self) -> bool {
        self.0.routes.iter().any(|(_, servers)| !servers.is_empty())
    }

    fn servers(&self, name: &DnsName) -> Option<&(DnsName, Vec<Arc<Server>>)> {
        let mut routes = self.0.routes.iter();
        routes
            .find(|(suffix, _)| name.is_within(suffix))
            .filter(|(_, servers)| !servers.is_empty())
    }

    /// Whether somebody is asked for this name.
    pub(crate) fn is_routed(&self, name: &DnsName) -> bool {
        self.servers(name).is_some()
    }

    pub(crate) fn route(&self, name: &DnsName, rtype: RType) -> Option<Route> {
        let (suffix, servers) = self.servers(name)?;
        let packet = question(0, name, rtype);
        let query = Query::parse(&packet).ok();
        Some(Route {
            kept_for: query.and_then(|q| self.0.cache.peek(&Key::new(&q), Instant::now())),
            suffix: suffix.clone(),
            upstreams: servers.iter().map(|s| s.upstream.to_string()).collect(),
        })
    }

    /// What is kept of an answer to this question.
    pub(crate) fn cached(&self, query: &Query<'_>, now: Instant) -> Option<Hit> {
        self.0.cache.get(&Key::new(query), now)
    }

    pub(crate) fn cache_counters(&self) -> CacheCounters {
        self.0.cache.counters()
    }

    pub(crate) fn upstream_counters(&self) -> Vec<UpstreamCounters> {
        let servers = self.0.routes.iter().flat_map(|(_, servers)| servers);
        servers.map(|s| s.counters()).collect()
    }

    /// Asks, or joins who asks the same already.
    pub(crate) async fn ask(
        &self,
        query: &Query<'_>,
        name: &DnsName,
        counting: &Counting,
    ) -> Result<Got, Arc<ForwardError>> {
        let key = Key::new(query);
        let mut flight = self.flight(&key, query, name, counting)?;
        let old = || self.0.cache.stale(&key, Instant::now()).map(Got::Stale);
        let wait = flight.wait_for(Option::is_some);
        let outcome = if old().is_some() {
            match timeout(STALE_AFTER, wait).await {
                Ok(outcome) => outcome,
                Err(_) => return old().ok_or_else(|| Arc::new(ForwardError::Cancelled)),
            }
        } else {
            wait.await
        };
        let answer = match outcome {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        let answer = answer.unwrap_or_else(|| Err(Arc::new(ForwardError::Cancelled)));
        match answer {
            Ok(scan) if is_useful(&scan) => Ok(Got::Fresh(Hit::new(scan))),
            Ok(scan) => Ok(old().unwrap_or_else(|| Got::Fresh(Hit::new(scan)))),
            Err(error) => old().ok_or(error),
        }
    }

    fn flight(
        &self,
        key: &Key,
        query: &Query<'_>,
        name: &DnsName,
        counting: &Counting,
    ) -> Result<watch::Receiver<Outcome>, Arc<ForwardError>> {
        let mut flights = self
            .0
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key) {
            add(&counting.coalesced);
            return Ok(flight.clone());
        }
        let servers = match self.servers(name) {
            Some((_, servers)) => servers.clone(),
            None => return Err(Arc::new(ForwardError::NoUpstream)),
        };
        let Ok(permit) = Arc::clone(&self.0.permits).try_acquire_owned() else {
            return Err(Arc::new(ForwardError::Busy {
                max: self.0.max_in_flight,
            }));
        };
        let (sender, receiver) = watch::channel(None);
        flights.insert(key.clone(), receiver.clone());
        let inner = Arc::clone(&self.0);
        let landing = Landing {
            inner: Arc::clone(&inner),
            key: key.clone(),
        };
        // The question outlives its packet: others may have joined.
        let question = query.write(0, query.edns.is_some());
        tokio::spawn(async move {
            let _permit = permit;
            let answer = match Query::parse(&question) {
                Ok(query) => inner.race(&servers, &query).await,
                Err(_) => Err(ForwardError::Cancelled),
            };
            let now = Instant::now();
            let useful = answer.as_ref().is_ok_and(is_useful);
            let answer = answer.map(Arc::new).map_err(Arc::new);
            match &answer {
                Ok(scan) if useful => inner.cache.put(landing.key.clone(), Arc::clone(scan), now),
                _ => inner.cache.failed(&landing.key, now),
            }
            drop(landing);
            sender.send_replace(Some(answer));
        });
        Ok(receiver)
    }
}

/// Takes a question out of those in flight, whatever happens to who asks.
struct Landing {
    inner: Arc<Inner>,
    key: Key,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = self
            .inner
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        flights.remove(&self.key);
    }
}

impl Inner {
    /// The first useful answer of two at once, pair by pair.
    async fn race(&self, servers: &[Arc<Server>], query: &Query<'_>) -> Result<Scan, ForwardError> {
        let mut last = ForwardError::Timeout {
            after: self.timeout,
        };
        let mut unhelpful: Option<Scan> = None;
        for pair in servers.chunks(2) {
            let mut racing: FuturesUnordered<_> = pair
                .iter()
                .map(async |server| (server, server.ask(query, self.timeout).await))
                .collect();
            while let Some((server, answer)) = racing.next().await {
                match answer {
                    Ok(scan) if is_useful(&scan) => return Ok(scan),
                    Ok(scan) => unhelpful = Some(scan),
                    Err(source) if source.kind() == io::ErrorKind::TimedOut => {}
                    Err(source) => {
                        last = ForwardError::Io {
                            upstream: server.upstream.clone(),
                            source,
                        };
                    }
                }
            }
        }
        // A SERVFAIL or REFUSED of theirs says more than one of ours.
        unhelpful.ok_or(last)
    }
}

/// Whether another upstream can't say it better.
fn is_useful(scan: &Scan) -> bool {
    matches!(scan.code, rcode::NOERROR | rcode::NXDOMAIN)
}
