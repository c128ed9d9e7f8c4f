//! UDP: one thread for each address, which takes and sends many datagrams with one call.
//!
//! What can be answered at once is answered on this thread; the rest goes to the runtime, and its answers are
//! sent from there over the same socket. The thread sleeps while there is nothing to do.

use std::{
    io::IoSliceMut,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{
        MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg, sendto,
        setsockopt, sockopt,
    },
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Shared,
    answer::{Answerer, Step},
    askers::Finder,
    counters::add,
    log::{Asker, Source},
    replies::{Replies, SEND_PATIENCE},
    slow,
};

/// Datagrams that one call takes.
pub(super) const BATCH: usize = 64;
/// Longest question that is read. Names have 255 bytes; the rest is for EDNS options.
const MAX_QUESTION: usize = 1232;
/// Bytes that the kernel may hold for us while we are not scheduled, about two thousand questions.
const RECEIVE_BUFFER: usize = 2 << 20;
/// Average questions of a batch from which on the thread pauses instead of waiting to be woken.
const BUSY: usize = 6;
/// How long it pauses.
const PAUSE: Duration = Duration::from_micros(20);
/// How exactly (the kernel's default is 50 us).
const TIMER_SLACK_NS: u64 = 5000;
/// How often a thread that waits looks whether it is to stop.
const LOOK_UP: Duration = Duration::from_secs(2);

/// How often that is looked at.
const SEND_TRIES: u32 = 4;

/// A question for the runtime.
pub(super) struct Job {
    pub(super) packet: Box<[u8]>,
    pub(super) peer: SocketAddr,
    cgroup: Option<u64>,
}

/// An address as the kernel's calls take it.
pub(super) trait Peer: SockaddrLike + Copy {
    fn addr(&self) -> SocketAddr;
    /// Equal for equal addresses, and hardly for others.
    fn key(&self) -> u64;
}

impl Peer for SockaddrIn {
    fn addr(&self) -> SocketAddr {
        SocketAddrV4::from(*self).into()
    }

    fn key(&self) -> u64 {
        u64::from(u32::from(self.ip())) << 16 | u64::from(self.port())
    }
}

impl Peer for SockaddrIn6 {
    fn addr(&self) -> SocketAddr {
        SocketAddrV6::from(*self).into()
    }

    fn key(&self) -> u64 {
        let [.., a, b] = self.ip().segments();
        u64::from(a) << 32 | u64::from(b) << 16 | u64::from(self.port())
    }
}

/// Makes room for bursts (as much as the kernel allows is enough) and lets the thread wait in the socket.
pub(super) fn prepare(socket: &UdpSocket) -> std::io::Result<()> {
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(LOOK_UP))
}

/// Answers until `stop` says so and something arrives (or [`LOOK_UP`] is over).
pub(super) fn serve(
    shared: &Arc<Shared>,
    socket: &UdpSocket,
    stop: &AtomicBool,
    jobs: &mpsc::Sender<Job>,
) {
    let ended = match socket.local_addr() {
        Ok(own) if own.is_ipv4() => run::<SockaddrIn>(shared, socket, own, stop, jobs),
        Ok(own) => run::<SockaddrIn6>(shared, socket, own, stop, jobs),
        Err(_) => Err(Errno::EBADF),
    };
    if let Err(error) = ended {
        tracing::error!(%error, "a dns socket failed; names are not answered on it any more");
    }
}

/// How to wait for the next batch. While many questions come at once, a short sleep costs less than being woken for each
/// first one of them: the asker pays for waking too.
#[derive(Default)]
struct Pace {
    /// Average size of the last batches, in sixteenths.
    recent: usize,
}

impl Pace {
    fn took(&mut self, n: usize) {
        self.recent = (self.recent * 3 + n * 16) / 4;
    }

    /// There is nothing: whether to look again after [`PAUSE`].
    fn pauses(&mut self) -> bool {
        let busy = self.recent >= BUSY * 16;
        if busy {
            // Where nothing comes after some pauses, the next one blocks.
            self.recent = self.recent * 3 / 4;
        }
        busy
    }
}

fn run<P: Peer>(
    shared: &Arc<Shared>,
    socket: &UdpSocket,
    own: SocketAddr,
    stop: &AtomicBool,
    jobs: &mpsc::Sender<Job>,
) -> nix::Result<()> {
    let fd = socket.as_raw_fd();
    let _ = nix::sys::prctl::set_timerslack(TIMER_SLACK_NS);
    let mut answerer = Answerer::new(Arc::clone(shared));
    let mut buffers = vec![[0u8; MAX_QUESTION]; BATCH];
    let mut headers = MultiHeaders::<P>::preallocate(BATCH, None);
    let mut replies = Replies::<P>::new();
    let mut peers: Vec<(Option<P>, usize, bool)> = Vec::with_capacity(BATCH);
    let mut pace = Pace::default();
    let mut finder = Finder::new(own);
    let mut flags = MsgFlags::MSG_WAITFORONE;
    while !stop.load(Ordering::Relaxed) {
        let begun;
        {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
            match recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None) {
                Ok(received) => {
                    begun = Instant::now();
                    peers.clear();
                    for message in received {
                        let long = message.flags.contains(MsgFlags::MSG_TRUNC);
                        peers.push((message.address, message.bytes, long));
                    }
                }
                Err(Errno::EAGAIN) => {
                    if pace.pauses() {
                        gather();
                    } else {
                        flags = MsgFlags::MSG_WAITFORONE;
                    }
                    continue;
                }
                // An earlier answer's failure, or a signal.
                Err(Errno::EINTR | Errno::ECONNREFUSED | Errno::ENOMEM | Errno::ENOBUFS) => {
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        flags = MsgFlags::MSG_DONTWAIT;
        pace.took(peers.len());
        answerer.refresh();
        replies.clear();
        for (i, buffer) in buffers.iter().enumerate().take(peers.len()) {
            let (Some(peer), len, long) = peers[i] else {
                continue;
            };
            let packet = &buffer[..len.min(MAX_QUESTION)];
            let from = peer.addr();
            let asker = Asker {
                ip: from.ip(),
                cgroup: finder.count(&shared.askers, from, begun),
                tcp: false,
            };
            if long {
                too_long(shared, packet, &mut replies.bytes);
            } else {
                match answerer.step(packet, asker, begun, &mut replies.bytes) {
                    Step::Done | Step::Silent => {}
                    Step::Wait => {
                        let job = Job {
                            packet: packet.into(),
                            cgroup: asker.cgroup,
                            peer: from,
                        };
                        if jobs.try_send(job).is_err() {
                            slow::turned_away(shared, packet, false, &mut replies.bytes);
                        }
                    }
                }
            }
            replies.push(peer);
        }
        let n = replies.len();
        if n > 0 {
            replies.send(socket, shared);
            shared.counting.took(begun.elapsed(), n as u64);
        }
    }
    Ok(())
}

/// Lets questions gather for a batch.
#[allow(
    clippy::disallowed_methods,
    reason = "nothing is waited for: to be woken for the first question is what this saves"
)]
fn gather() {
    std::thread::sleep(PAUSE);
}

/// Ends a thread that waits for datagrams.
pub(super) fn wake(socket: &UdpSocket) {
    if let Ok(own) = socket.local_addr() {
        // No answer is made for it. Where it can't be sent, the thread looks up by itself.
        let _ = socket.send_to(&[], own);
    }
}

/// A question that did not fit is answered with FORMERR if its head can be read.
fn too_long(shared: &Shared, packet: &[u8], out: &mut Vec<u8>) {
    use waggle_overlay_plan::wire::{Fault, Query, rcode, write_error};
    let counting = &shared.counting;
    add(&counting.udp_queries);
    counting.fault(Fault::Long);
    let reply = match Query::parse(packet) {
        Ok(query) => Some(query.error(rcode::FORMERR)),
        Err(refused) => refused.reply,
    };
    if let Some(reply) = reply {
        write_error(&reply, shared.forwarder.has_upstreams(), out);
        counting.answered(false, Source::Nobody, reply.code);
    }
}

/// Answers what the thread handed over, many at the same time.
pub(super) async fn serve_slow(
    shared: Arc<Shared>,
    socket: Arc<UdpSocket>,
    mut jobs: mpsc::Receiver<Job>,
) {
    // They end with this one, so that a socket is free when its server is gone.
    let mut running = tokio::task::JoinSet::new();
    while let Some(job) = jobs.recv().await {
        while running.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&shared.waiting).try_acquire_owned() else {
            let mut out = Vec::new();
            slow::turned_away(&shared, &job.packet, false, &mut out);
            send(&shared, &socket, &out, job.peer).await;
            continue;
        };
        let (shared, socket) = (Arc::clone(&shared), Arc::clone(&socket));
        running.spawn(async move {
            let _permit = permit;
            let asker = Asker {
                ip: job.peer.ip(),
                cgroup: job.cgroup,
                tcp: false,
            };
            let out = slow::answer(&shared, &job.packet, asker).await;
            send(&shared, &socket, &out, job.peer).await;
        });
    }
}

/// The socket is not the runtime's: each datagram that comes for the thread would wake the runtime as well.
async fn send(shared: &Shared, socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    if bytes.is_empty() {
        return;
    }
    for _ in 0..SEND_TRIES {
        let sent = match to {
            SocketAddr::V4(to) => send_now(socket, bytes, &SockaddrIn::from(to)),
            SocketAddr::V6(to) => send_now(socket, bytes, &SockaddrIn6::from(to)),
        };
        match sent {
            Ok(_) => return,
            Err(Errno::EAGAIN) => tokio::time::sleep(SEND_PATIENCE / SEND_TRIES).await,
            Err(_) => break,
        }
    }
    add(&shared.counting.send_failures);
}

fn send_now(socket: &UdpSocket, bytes: &[u8], to: &dyn SockaddrLike) -> nix::Result<usize> {
    sendto(socket.as_raw_fd(), bytes, to, MsgFlags::MSG_DONTWAIT)
}
