//! The asker: many questions in one call, so that it is not the bottleneck for longer than it must be.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::bail;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt,
};
use waggle_overlay_plan::{DnsName, RType, wire};

use crate::servers;

const BATCH: usize = 64;
/// After so long without any answer what is in flight is lost.
const PATIENCE: Duration = Duration::from_millis(40);

/// A question and how its answer begins.
pub struct Question {
    packet: Vec<u8>,
    code: u8,
    n_answers: u8,
}

impl Question {
    /// One about each name, in an order that no cache likes; or about as many that are not there.
    pub fn all_of(n: usize, there: bool) -> Vec<Self> {
        // Coprime to every power of ten.
        let step = 7919;
        let names = (0..n).map(|i| i * step % n);
        names
            .map(|i| {
                let text = if there {
                    servers::name(i)
                } else {
                    format!("no-{}", servers::name(i))
                };
                let name = DnsName::parse(&text).unwrap_or_default();
                Self {
                    packet: wire::question(0, &name, RType::A),
                    code: if there { 0 } else { 3 },
                    n_answers: u8::from(there),
                }
            })
            .collect()
    }

    fn is_answered_by(&self, bytes: &[u8]) -> bool {
        bytes.len() > 12 && bytes[3] & 15 == self.code && bytes[7] == self.n_answers
    }
}

/// How to ask.
pub struct Load {
    /// Questions in flight.
    pub window: usize,
    /// Sockets that they are asked from.
    pub askers: usize,
    /// For how long.
    pub time: Duration,
}

/// What came of it.
pub struct Done {
    pub answered: u64,
    pub time: Duration,
}

fn connect(to: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20));
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}

impl Load {
    /// Keeps the window full. A wrong answer is an error.
    pub fn saturate(&self, to: SocketAddr, asked: &[Question]) -> anyhow::Result<Done> {
        let n_askers = self.askers.max(1);
        let mut askers = (0..n_askers)
            .map(|_| {
                Ok(Asker {
                    socket: connect(to)?,
                    in_flight: 0,
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let window = (self.window / n_askers).max(1);
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        let mut buffers = vec![[0u8; 512]; BATCH];
        let mut packets: Vec<Vec<u8>> = asked.iter().map(|q| q.packet.clone()).collect();
        let none = [None::<SockaddrIn>; BATCH];
        let flags = if n_askers == 1 {
            MsgFlags::MSG_WAITFORONE
        } else {
            MsgFlags::MSG_DONTWAIT
        };
        let begun = Instant::now();
        let mut heard = begun;
        let (mut next, mut answered) = (0usize, 0u64);
        while begun.elapsed() < self.time {
            for asker in &mut askers {
                let fd = asker.socket.as_raw_fd();
                while asker.in_flight < window {
                    let n = (window - asker.in_flight)
                        .min(BATCH)
                        .min(packets.len() - next);
                    for (i, packet) in packets[next..next + n].iter_mut().enumerate() {
                        // The low bits of its place, to know the question by.
                        let id = u16::try_from((next + i) & 0xffff).unwrap_or(0);
                        packet[..2].copy_from_slice(&id.to_be_bytes());
                    }
                    let slices: Vec<[IoSlice<'_>; 1]> = packets[next..next + n]
                        .iter()
                        .map(|p| [IoSlice::new(p)])
                        .collect();
                    let sent =
                        sendmmsg(fd, &mut headers, &slices, &none[..n], [], MsgFlags::empty());
                    let sent = sent.map_or(0, Iterator::count);
                    asker.in_flight += sent;
                    next = (next + sent) % packets.len();
                    if sent < n {
                        break;
                    }
                }
                let mut slices: Vec<[IoSliceMut<'_>; 1]> = buffers
                    .iter_mut()
                    .take(window.min(BATCH))
                    .map(|b| [IoSliceMut::new(b)])
                    .collect();
                let got = recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None);
                let lens: Vec<usize> =
                    got.map_or_else(|_| vec![], |m| m.map(|m| m.bytes).collect());
                if !lens.is_empty() {
                    heard = Instant::now();
                } else if heard.elapsed() > PATIENCE {
                    // Lost on the way: the window is filled again.
                    asker.in_flight = 0;
                }
                for (buffer, len) in buffers.iter().zip(&lens) {
                    let id = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
                    let Some(question) = asked.get(id) else {
                        bail!("an answer to no question: {:?}", &buffer[..*len]);
                    };
                    if !question.is_answered_by(&buffer[..*len]) {
                        bail!("a wrong answer: {:?}", &buffer[..*len]);
                    }
                }
                asker.in_flight = asker.in_flight.saturating_sub(lens.len());
                answered += lens.len() as u64;
            }
        }
        Ok(Done {
            answered,
            time: begun.elapsed(),
        })
    }
}

struct Asker {
    socket: UdpSocket,
    in_flight: usize,
}

/// Latencies of one turn.
pub struct Latency {
    pub p50_ns: f64,
    pub p99_ns: f64,
    pub lost: usize,
}

/// Asks at fixed times, whatever is answered; counts from the time that was intended.
pub fn open_loop(
    to: SocketAddr,
    asked: &[Question],
    rate: u64,
    time: Duration,
) -> anyhow::Result<Latency> {
    let socket = connect(to)?;
    socket.set_nonblocking(true)?;
    let gap = Duration::from_nanos(1_000_000_000 / rate.max(1));
    let n = usize::try_from(time.as_nanos() / gap.as_nanos().max(1))?.min(65_535);
    let mut latencies: Vec<f64> = Vec::with_capacity(n);
    let mut answered = vec![false; n];
    let begun = Instant::now();
    let intended = |i: usize| begun + gap * u32::try_from(i).unwrap_or(u32::MAX);
    let mut sent = 0;
    let mut buffer = [0; 512];
    let deadline = begun + time + Duration::from_millis(200);
    while latencies.len() < n && Instant::now() < deadline {
        if sent < n && Instant::now() >= intended(sent) {
            let mut packet = asked[sent % asked.len()].packet.clone();
            let id = u16::try_from(sent).unwrap_or(0);
            packet[..2].copy_from_slice(&id.to_be_bytes());
            if socket.send(&packet).is_ok() {
                sent += 1;
            }
        }
        if let Ok(len) = socket.recv(&mut buffer)
            && len > 2
        {
            let id = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
            if id < sent && !answered[id] {
                answered[id] = true;
                latencies.push(intended(id).elapsed().as_nanos() as f64);
            }
        }
    }
    let lost = n - latencies.len();
    latencies.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let place = latencies.len() * percent / 100;
        latencies
            .get(place.min(latencies.len().saturating_sub(1)))
            .copied()
    };
    Ok(Latency {
        p50_ns: at(50).unwrap_or(f64::NAN),
        p99_ns: at(99).unwrap_or(f64::NAN),
        lost,
    })
}
