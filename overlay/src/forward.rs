//! Questions about names outside of the cluster, passed on to upstream resolvers.
//!
//! Two upstreams are asked at once and the first useful answer wins (CONTRACTS section 3); then the next
//! two. Questions in flight are bounded: one more is turned away at once, and counted.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

/// Largest UDP answer that upstreams may send: fits every path without fragments (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;

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
        upstream: SocketAddr,
        /// How.
        #[source]
        source: io::Error,
    },
    /// The question can't be put into a message.
    #[error("failed to encode a question")]
    Encode(#[source] hickory_proto::ProtoError),
}

/// What to ask of upstreams.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) query: Query,
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
    /// The asker sent EDNS, and with the DO bit or without.
    pub(crate) dnssec_ok: Option<bool>,
    /// Over TCP, since the asker came by TCP and wants all of it.
    pub(crate) tcp: bool,
}

#[derive(Debug)]
pub(crate) struct Forwarder {
    upstreams: Vec<SocketAddr>,
    permits: Arc<Semaphore>,
    max_in_flight: usize,
    timeout: Duration,
}

impl Forwarder {
    pub(crate) fn new(upstreams: Vec<SocketAddr>, max_in_flight: usize, timeout: Duration) -> Self {
        Self {
            upstreams,
            permits: Arc::new(Semaphore::new(max_in_flight)),
            max_in_flight,
            timeout,
        }
    }

    pub(crate) fn has_upstreams(&self) -> bool {
        !self.upstreams.is_empty()
    }

    pub(crate) async fn ask(&self, asked: &Asked) -> Result<Message, ForwardError> {
        if self.upstreams.is_empty() {
            return Err(ForwardError::NoUpstream);
        }
        let Ok(_permit) = self.permits.try_acquire() else {
            return Err(ForwardError::Busy {
                max: self.max_in_flight,
            });
        };
        let mut last = ForwardError::Timeout {
            after: self.timeout,
        };
        let mut unhelpful: Option<Message> = None;
        for pair in self.upstreams.chunks(2) {
            let mut racing: FuturesUnordered<_> =
                pair.iter().map(|u| self.ask_one(*u, asked)).collect();
            while let Some(answer) = racing.next().await {
                match answer {
                    Ok(message) if is_useful(&message) => return Ok(message),
                    Ok(message) => unhelpful = Some(message),
                    Err(error) => last = error,
                }
            }
        }
        // A SERVFAIL or REFUSED of theirs says more than one of ours.
        unhelpful.ok_or(last)
    }

    async fn ask_one(&self, upstream: SocketAddr, asked: &Asked) -> Result<Message, ForwardError> {
        // The id is a guard against forged answers, together with the source port that the kernel picks.
        let id: u16 = rand::random();
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = asked.recursion_desired;
        message.metadata.checking_disabled = asked.checking_disabled;
        message.add_query(asked.query.clone());
        if let Some(dnssec_ok) = asked.dnssec_ok {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(dnssec_ok);
            message.set_edns(edns);
        }
        let bytes = message.to_vec().map_err(ForwardError::Encode)?;
        let exchange = async {
            if asked.tcp {
                exchange_tcp(upstream, &bytes, id, &asked.query).await
            } else {
                exchange_udp(upstream, &bytes, id, &asked.query).await
            }
        };
        match timeout(self.timeout, exchange).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(source)) => Err(ForwardError::Io { upstream, source }),
            Err(_) => Err(ForwardError::Timeout {
                after: self.timeout,
            }),
        }
    }
}

/// Whether another upstream can't say it better.
fn is_useful(message: &Message) -> bool {
    matches!(
        message.metadata.response_code,
        ResponseCode::NoError | ResponseCode::NXDomain
    )
}

/// The answer in `bytes`, if it is one to this question (RFC 5452 section 9.1).
fn accept(bytes: &[u8], id: u16, query: &Query) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let is_answer = message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && message.queries.len() == 1
        && message.queries.first() == Some(query);
    is_answer.then_some(message)
}

async fn exchange_udp(
    upstream: SocketAddr,
    bytes: &[u8],
    id: u16,
    query: &Query,
) -> io::Result<Message> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buf = vec![0; 4096];
    loop {
        let n = socket.recv(&mut buf).await?;
        // Anything else that arrives here is forged or late: wait on.
        if let Some(message) = accept(&buf[..n], id, query) {
            return Ok(message);
        }
    }
}

async fn exchange_tcp(
    upstream: SocketAddr,
    bytes: &[u8],
    id: u16,
    query: &Query,
) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    let len = u16::try_from(bytes.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "question is too long"))?;
    stream
        .write_all(&[&len.to_be_bytes(), bytes].concat())
        .await?;
    let n = stream.read_u16().await?;
    let mut buf = vec![0; usize::from(n)];
    stream.read_exact(&mut buf).await?;
    accept(&buf, id, query)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "answer is not to the question"))
}
