//! One question to one upstream.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use waggle_overlay_plan::wire::{Query, Scan, ScanError, rcode, scan};

use super::{Upstream, tls::Tls};

/// What came of asking one upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamCounters {
    /// Which: `10.0.0.53:53`, `tls://10.0.0.53:853#dns.corp`.
    pub upstream: String,
    /// Questions sent to it.
    pub asked: u64,
    /// Its answers, whatever they say.
    pub answered: u64,
    /// Questions that it did not answer in time, or at all.
    pub failed: u64,
    /// Messages from its address that were no answers to what was asked: forged, or late.
    pub foreign: u64,
    /// Answers that were refused because they are malformed.
    pub malformed: u64,
    /// Microseconds that its answers took, all together.
    pub took_us: u64,
}

#[derive(Debug, Default)]
struct Counting {
    asked: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    foreign: AtomicU64,
    malformed: AtomicU64,
    took_us: AtomicU64,
}

/// An upstream and what came of it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) upstream: Upstream,
    tls: Option<Tls>,
    counting: Counting,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Server {
    pub(super) fn new(upstream: Upstream, tls: Option<Tls>) -> Self {
        Self {
            upstream,
            tls,
            counting: Counting::default(),
        }
    }

    pub(super) fn counters(&self) -> UpstreamCounters {
        let n = |a: &AtomicU64| a.load(Ordering::Relaxed);
        UpstreamCounters {
            upstream: self.upstream.to_string(),
            asked: n(&self.counting.asked),
            answered: n(&self.counting.answered),
            failed: n(&self.counting.failed),
            foreign: n(&self.counting.foreign),
            malformed: n(&self.counting.malformed),
            took_us: n(&self.counting.took_us),
        }
    }

    /// Asks, and over TCP again if the answer does not fit UDP.
    pub(super) async fn ask(&self, query: &Query<'_>, patience: Duration) -> io::Result<Scan> {
        add(&self.counting.asked);
        let begun = tokio::time::Instant::now();
        let answer = match timeout(patience, self.exchange(query, patience)).await {
            Ok(answer) => answer,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        if answer.is_ok() {
            add(&self.counting.answered);
            let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.counting.took_us.fetch_add(us, Ordering::Relaxed);
        } else {
            add(&self.counting.failed);
        }
        answer
    }

    async fn exchange(&self, query: &Query<'_>, patience: Duration) -> io::Result<Scan> {
        if let Some(tls) = &self.tls {
            return tls.ask(self, query).await;
        }
        let mut answer = self.over_udp(query, patience, true).await?;
        // Servers that do not know EDNS say so (RFC 6891 section 7).
        if matches!(answer.code, rcode::FORMERR | rcode::NOTIMP) {
            answer = self.over_udp(query, patience, false).await?;
        }
        if answer.truncated {
            let mut stream = TcpStream::connect(self.upstream.addr).await?;
            answer = self.over_stream(&mut stream, query).await?;
        }
        Ok(answer)
    }

    async fn over_udp(
        &self,
        query: &Query<'_>,
        patience: Duration,
        with_edns: bool,
    ) -> io::Result<Scan> {
        // The id is a guard against forged answers, together with the source port that the kernel picks.
        let id: u16 = rand::random();
        let bytes = query.write(id, with_edns);
        let any: IpAddr = match self.upstream.addr {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        // From now on the kernel takes datagrams of nobody else.
        socket.connect(self.upstream.addr).await?;
        socket.send(&bytes).await?;
        let mut buf = vec![0; 4096];
        let mut again = Some(patience / 3);
        loop {
            let received = match again {
                None => socket.recv(&mut buf).await,
                Some(after) => {
                    let Ok(received) = timeout(after, socket.recv(&mut buf)).await else {
                        // One of both datagrams may be lost.
                        again = None;
                        socket.send(&bytes).await?;
                        continue;
                    };
                    received
                }
            };
            match scan(&buf[..received?], id, query.question) {
                Ok(answer) => return Ok(answer),
                // Forged or late: wait on.
                Err(ScanError::Foreign) => add(&self.counting.foreign),
                Err(ScanError::Malformed) => return Err(self.malformed()),
            }
        }
    }

    /// The same over a stream, with a length before each message (RFC 1035 section 4.2.2).
    pub(super) async fn over_stream(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        query: &Query<'_>,
    ) -> io::Result<Scan> {
        let id: u16 = rand::random();
        let message = query.write(id, true);
        // A question has far less than 64 KiB.
        let len = u16::try_from(message.len()).unwrap_or(0);
        let bytes = [&len.to_be_bytes(), message.as_slice()].concat();
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        let n = stream.read_u16().await?;
        let mut buf = vec![0; usize::from(n)];
        stream.read_exact(&mut buf).await?;
        match scan(&buf, id, query.question) {
            Ok(answer) => Ok(answer),
            Err(ScanError::Foreign) => {
                add(&self.counting.foreign);
                let why = "the answer is not to the question";
                Err(io::Error::new(io::ErrorKind::InvalidData, why))
            }
            Err(ScanError::Malformed) => Err(self.malformed()),
        }
    }

    fn malformed(&self) -> io::Error {
        add(&self.counting.malformed);
        io::Error::new(io::ErrorKind::InvalidData, ScanError::Malformed)
    }
}
