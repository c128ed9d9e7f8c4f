//! The DNS server of a node: cluster names from the zone, everything else from upstreams.
//!
//! hickory reads and writes the messages; the zone is one immutable value behind an atomic pointer, so that
//! a query sees one zone whole and takes no lock.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use hickory_proto::{
    op::{Edns, Header, HeaderCounts, LowerQuery, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData as WireData, Record, rdata},
};
use hickory_server::{
    Server,
    net::{runtime::Time, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{Mutex, Semaphore, watch},
    time::Instant,
};
use waggle_overlay_plan::{
    Answer, DnsName, Outcome, Question, RData, RType, Rr, Zone, zone::Scope,
};

use crate::forward::{Asked, ForwardError, Forwarder};

/// Largest UDP answer: fits every path without fragments (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;
/// Refresh, retry and expire of the SOA: there are no secondaries, so nobody uses them.
const SOA_TIMES: (i32, i32, i32) = (60, 180, 86_400);

/// What a DNS server is told.
#[derive(Debug, Clone)]
pub struct DnsServerConfig {
    /// Where to answer, UDP and TCP. A port of 0 picks one (the same for both).
    pub listen: Vec<SocketAddr>,
    /// Whom to ask for other names, in order; those that are this server itself are left out.
    pub upstreams: Vec<SocketAddr>,
    /// Questions to upstreams in flight at once; more are answered SERVFAIL.
    pub max_forwards: usize,
    /// How long an upstream is given.
    pub forward_timeout: Duration,
    /// How long a cluster name waits for the first zone after a start; then SERVFAIL.
    pub first_zone_wait: Duration,
    /// How long an idle TCP connection is kept.
    pub tcp_timeout: Duration,
    /// How long to try for an address that another process (the one that this replaces) still holds.
    pub bind_timeout: Duration,
}

impl DnsServerConfig {
    /// Defaults.
    pub fn new(listen: Vec<SocketAddr>, upstreams: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            upstreams,
            max_forwards: 512,
            forward_timeout: Duration::from_secs(2),
            first_zone_wait: Duration::from_secs(2),
            tcp_timeout: Duration::from_secs(10),
            bind_timeout: Duration::from_secs(5),
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
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What the server has counted since it started.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct DnsCounters {
            $($(#[$doc])* pub $name: u64,)*
            /// Answers by code on the wire (0 NOERROR, 2 SERVFAIL, 3 NXDOMAIN, 5 REFUSED).
            pub rcodes: BTreeMap<u16, u64>,
        }

        #[derive(Debug, Default)]
        struct Counting {
            $($name: AtomicU64,)*
            rcodes: [AtomicU64; 24],
        }

        impl Counting {
            fn read(&self) -> DnsCounters {
                let n = |a: &AtomicU64| a.load(Ordering::Relaxed);
                DnsCounters {
                    $($name: n(&self.$name),)*
                    rcodes: (0u16..)
                        .zip(self.rcodes.iter().map(n))
                        .filter(|(_, n)| *n > 0)
                        .collect(),
                }
            }
        }
    };
}

counters! {
    /// Questions over UDP.
    udp_queries,
    /// Questions over TCP.
    tcp_queries,
    /// Answers with TC, to be asked again over TCP.
    truncated,
    /// Questions answered by an upstream.
    forwarded,
    /// Questions that no upstream answered in time or at all.
    forward_failures,
    /// Questions turned away because too many were in flight.
    forward_dropped,
    /// Questions about cluster names turned away because too many waited for the first zone.
    wait_dropped,
    /// Questions about cluster names before there was a zone.
    no_zone,
    /// Answers that could not be sent.
    send_failures,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct Shared {
    zone: ArcSwapOption<Zone>,
    has_zone: watch::Sender<bool>,
    /// Who may wait for the first zone.
    waiting: Semaphore,
    first_zone_wait: Duration,
    forwarder: Forwarder,
    counting: Counting,
}

/// A running server; it answers until it is shut down or dropped.
pub struct DnsServer {
    shared: Arc<Shared>,
    server: Mutex<Server<Handler>>,
    addrs: Vec<SocketAddr>,
}

impl DnsServer {
    /// Binds and starts to answer.
    pub async fn start(config: DnsServerConfig) -> Result<Self, DnsError> {
        let upstreams: Vec<SocketAddr> = config
            .upstreams
            .iter()
            .filter(|u| !config.listen.contains(u))
            .copied()
            .collect();
        if upstreams.len() < config.upstreams.len() {
            tracing::warn!("an upstream resolver is this server itself and is left out");
        }
        let shared = Arc::new(Shared {
            zone: ArcSwapOption::empty(),
            has_zone: watch::Sender::new(false),
            waiting: Semaphore::new(1024),
            first_zone_wait: config.first_zone_wait,
            forwarder: Forwarder::new(upstreams, config.max_forwards, config.forward_timeout),
            counting: Counting::default(),
        });
        let mut server = Server::new(Handler(Arc::clone(&shared)));
        let deadline = Instant::now() + config.bind_timeout;
        let mut addrs = Vec::new();
        for listen in &config.listen {
            let (udp, tcp) = bind(*listen, deadline).await?;
            addrs.extend(udp.local_addr().ok());
            server.register_socket(udp);
            server.register_listener(tcp, config.tcp_timeout, 32);
        }
        tracing::info!(?addrs, "dns answers");
        Ok(Self {
            shared,
            server: Mutex::new(server),
            addrs,
        })
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

    /// What it has counted.
    pub fn counters(&self) -> DnsCounters {
        self.shared.counting.read()
    }

    /// Where it answers.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Stops answering and closes the sockets.
    pub async fn shutdown(&self) {
        let mut server = self.server.lock().await;
        if let Err(error) = server.shutdown_gracefully().await {
            tracing::warn!(%error, "dns server ended with an error");
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
                let DnsError::Bind { source, .. } = &error;
                if source.kind() != io::ErrorKind::AddrInUse || Instant::now() >= deadline {
                    return Err(error);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A reply's records and code, before it is put into a message.
struct Reply {
    metadata: Metadata,
    answers: Vec<Record>,
    authority: Vec<Record>,
    additional: Vec<Record>,
}

impl Reply {
    fn new(request: &Request, code: ResponseCode) -> Self {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = code;
        Self {
            metadata,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
        }
    }
}

struct Handler(Arc<Shared>);

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let counting = &self.0.counting;
        let is_udp = request.protocol() == Protocol::Udp;
        add(if is_udp {
            &counting.udp_queries
        } else {
            &counting.tcp_queries
        });
        let mut reply = self.reply(request).await;
        reply.metadata.recursion_available = self.0.forwarder.has_upstreams();
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            // hickory takes the reply's figure as the bound for UDP: never more than the asker takes.
            edns.set_max_payload(asked.max_payload().clamp(512, UDP_PAYLOAD))
                .set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        let message = MessageResponseBuilder::new(&request.queries, edns.as_ref()).build(
            reply.metadata,
            &reply.answers,
            &reply.authority,
            [],
            &reply.additional,
        );
        match response_handle.send_response(message).await {
            Ok(info) => {
                let code = usize::from(u16::from(info.response_code));
                if let Some(counter) = counting.rcodes.get(code) {
                    add(counter);
                }
                if info.truncation {
                    add(&counting.truncated);
                }
                info
            }
            Err(error) => {
                add(&counting.send_failures);
                tracing::debug!(%error, "failed to send a dns answer");
                let mut metadata = reply.metadata;
                metadata.response_code = ResponseCode::ServFail;
                let counts = HeaderCounts::default();
                Header { metadata, counts }.into()
            }
        }
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query {
            return Reply::new(request, ResponseCode::NotImp);
        }
        let [query] = request.queries.queries() else {
            return Reply::new(request, ResponseCode::FormErr);
        };
        if request.edns.as_ref().is_some_and(|e| e.version() > 0) {
            return Reply::new(request, ResponseCode::BADVERS);
        }
        let Ok(name) = DnsName::from_labels(query.original().name().iter()) else {
            return Reply::new(request, ResponseCode::FormErr);
        };
        let ours = Scope::default().is_ours(&name)
            || self
                .0
                .zone
                .load()
                .as_ref()
                .is_some_and(|z| z.is_ours(&name));
        if !ours {
            return self.forward(request, query).await;
        }
        if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return Reply::new(request, ResponseCode::Refused);
        }
        let Some(zone) = self.zone().await else {
            add(&self.0.counting.no_zone);
            return Reply::new(request, ResponseCode::ServFail);
        };
        let rtype = RType(query.query_type().into());
        from_zone(request, query, zone.answer(&Question { name, rtype }))
    }

    /// The zone; right after a start waits a moment for the first one.
    async fn zone(&self) -> Option<Arc<Zone>> {
        if let Some(zone) = self.0.zone.load_full() {
            return Some(zone);
        }
        let Ok(_permit) = self.0.waiting.try_acquire() else {
            add(&self.0.counting.wait_dropped);
            return None;
        };
        let mut has_zone = self.0.has_zone.subscribe();
        let wait = has_zone.wait_for(|has| *has);
        // Late or not: what counts is whether there is one now.
        let _ = tokio::time::timeout(self.0.first_zone_wait, wait).await;
        self.0.zone.load_full()
    }

    async fn forward(&self, request: &Request, query: &LowerQuery) -> Reply {
        let counting = &self.0.counting;
        let asked = Asked {
            query: query.original().clone(),
            recursion_desired: request.metadata.recursion_desired,
            checking_disabled: request.metadata.checking_disabled,
            dnssec_ok: request.edns.as_ref().map(|e| e.flags().dnssec_ok),
            tcp: request.protocol() != Protocol::Udp,
        };
        match self.0.forwarder.ask(&asked).await {
            Ok(message) => {
                add(&counting.forwarded);
                let mut reply = Reply::new(request, message.metadata.response_code);
                reply.metadata.truncation = message.metadata.truncation;
                reply.metadata.authentic_data = message.metadata.authentic_data;
                reply.answers = message.answers;
                reply.authority = message.authorities;
                reply.additional = message.additionals;
                reply
            }
            Err(ForwardError::NoUpstream) => Reply::new(request, ResponseCode::Refused),
            Err(error) => {
                add(match error {
                    ForwardError::Busy { .. } => &counting.forward_dropped,
                    _ => &counting.forward_failures,
                });
                tracing::debug!(%error, "a question was not answered by upstreams");
                Reply::new(request, ResponseCode::ServFail)
            }
        }
    }
}

/// A plan's answer as records.
fn from_zone(request: &Request, query: &LowerQuery, answer: Answer) -> Reply {
    let code = match answer.outcome {
        Outcome::Found | Outcome::NoData => ResponseCode::NoError,
        Outcome::NxDomain => ResponseCode::NXDomain,
        // `is_ours` and the zone agree, so the second does not happen; refusing is right for both.
        Outcome::Refused | Outcome::NotOurs => ResponseCode::Refused,
    };
    let mut reply = Reply::new(request, code);
    reply.metadata.authoritative = code != ResponseCode::Refused;
    // Owners as they were asked, letter case too: some resolvers check that (0x20).
    let asked = query.original().name();
    reply.answers = answer
        .answers
        .into_iter()
        .filter_map(|rr| record(asked.clone(), &rr))
        .collect();
    // Clients take the first address: begin at another one each time. Ids are as good as dice here.
    if !reply.answers.is_empty() {
        let first = usize::from(request.metadata.id) % reply.answers.len();
        reply.answers.rotate_left(first);
    }
    let with_owner = |rr: &Rr| record(wire_name(&rr.owner)?, rr);
    reply.authority = answer.authority.iter().filter_map(with_owner).collect();
    reply.additional = answer.additional.iter().filter_map(with_owner).collect();
    reply
}

/// Wire form of a plan's name; both have RFC 1035's limits, so there always is one.
fn wire_name(name: &DnsName) -> Option<Name> {
    let labels: Vec<&[u8]> = name.labels_from_root().collect();
    let mut name = Name::from_labels(labels.into_iter().rev()).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn record(owner: Name, rr: &Rr) -> Option<Record> {
    let data = match &rr.data {
        RData::A(ip) => WireData::A(rdata::A(*ip)),
        RData::Aaaa(ip) => WireData::AAAA(rdata::AAAA(*ip)),
        RData::Ptr(name) => WireData::PTR(rdata::PTR(wire_name(name)?)),
        RData::Txt(strings) => WireData::TXT(rdata::TXT::new(strings.clone())),
        RData::Ns(name) => WireData::NS(rdata::NS(wire_name(name)?)),
        RData::Soa {
            mname,
            rname,
            serial,
            minimum,
        } => {
            let (refresh, retry, expire) = SOA_TIMES;
            let (mname, rname) = (wire_name(mname)?, wire_name(rname)?);
            WireData::SOA(rdata::SOA::new(
                mname, rname, *serial, refresh, retry, expire, *minimum,
            ))
        }
        RData::Srv { port, target } => {
            WireData::SRV(rdata::SRV::new(0, 0, *port, wire_name(target)?))
        }
    };
    Some(Record::from_rdata(owner, rr.ttl, data))
}
