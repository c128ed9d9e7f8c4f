//! UDP: one thread for each address, which takes and sends many datagrams with one call.
//!
//! What can be answered at once is answered on this thread; the rest goes to the runtime, and its answers are
//! sent from there over the same socket. The thread sleeps in `poll` while there is nothing to do.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    os::unix::net::UnixStream,
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg, sendmmsg,
        setsockopt, sockopt,
    },
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Shared,
    answer::{Answerer, Step},
    counters::add,
    log::Source,
    slow,
};

/// Datagrams that one call takes.
const BATCH: usize = 64;
/// Longest question that is read. Names have 255 bytes; the rest is for EDNS options.
const MAX_QUESTION: usize = 1232;
/// Bytes that the kernel may hold for us while we are not scheduled, about two thousand questions.
const RECEIVE_BUFFER: usize = 2 << 20;
/// How long an answer waits for room in the socket's send buffer.
const SEND_PATIENCE: Duration = Duration::from_millis(20);

/// A question for the runtime.
pub(super) struct Job {
    pub(super) packet: Box<[u8]>,
    pub(super) peer: SocketAddr,
}

/// An address as the kernel's calls take it.
trait Peer: SockaddrLike + Copy {
    fn addr(&self) -> SocketAddr;
}

impl Peer for SockaddrIn {
    fn addr(&self) -> SocketAddr {
        SocketAddrV4::from(*self).into()
    }
}

impl Peer for SockaddrIn6 {
    fn addr(&self) -> SocketAddr {
        SocketAddrV6::from(*self).into()
    }
}

/// Makes room for bursts. As much as the kernel allows is enough.
pub(super) fn prepare(socket: &UdpSocket) {
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
}

/// Answers until the other end of `stop` is gone.
pub(super) fn serve(
    shared: &Arc<Shared>,
    socket: &UdpSocket,
    stop: &UnixStream,
    jobs: &mpsc::Sender<Job>,
) {
    let is_v4 = socket.local_addr().is_ok_and(|a| a.is_ipv4());
    let run = if is_v4 {
        run::<SockaddrIn>
    } else {
        run::<SockaddrIn6>
    };
    if let Err(error) = run(shared, socket, stop, jobs) {
        tracing::error!(%error, "a dns socket failed; names are not answered on it any more");
    }
}

fn run<P: Peer>(
    shared: &Arc<Shared>,
    socket: &UdpSocket,
    stop: &UnixStream,
    jobs: &mpsc::Sender<Job>,
) -> nix::Result<()> {
    let fd = socket.as_raw_fd();
    let mut answerer = Answerer::new(Arc::clone(shared));
    let mut buffers = vec![[0u8; MAX_QUESTION]; BATCH];
    let mut headers = MultiHeaders::<P>::preallocate(BATCH, None);
    let mut replies = Replies::<P>::new();
    loop {
        let begun;
        let n_received;
        {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
            match recvmmsg(
                fd,
                &mut headers,
                slices.iter_mut(),
                MsgFlags::MSG_DONTWAIT,
                None,
            ) {
                Ok(received) => {
                    begun = Instant::now();
                    replies.peers.clear();
                    for message in received {
                        let long = message.flags.contains(MsgFlags::MSG_TRUNC);
                        replies.peers.push((message.address, message.bytes, long));
                    }
                    n_received = replies.peers.len();
                }
                Err(Errno::EAGAIN) => {
                    if wait(socket, stop)? {
                        return Ok(());
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
        answerer.refresh();
        replies.clear();
        for (i, buffer) in buffers.iter().enumerate().take(n_received) {
            let (Some(peer), len, long) = replies.peers[i] else {
                continue;
            };
            let packet = &buffer[..len.min(MAX_QUESTION)];
            let from = peer.addr();
            let at = replies.bytes.len();
            if long {
                too_long(shared, packet, &mut replies.bytes);
            } else {
                match answerer.step(packet, from.ip(), false, begun, &mut replies.bytes) {
                    Step::Done | Step::Silent => {}
                    Step::Wait => {
                        let job = Job {
                            packet: packet.into(),
                            peer: from,
                        };
                        if jobs.try_send(job).is_err() {
                            slow::turned_away(shared, packet, false, &mut replies.bytes);
                        }
                    }
                }
            }
            if replies.bytes.len() > at {
                replies.ends.push(replies.bytes.len());
                replies.to.push(Some(peer));
            }
        }
        let n = replies.to.len();
        if n > 0 {
            replies.send(fd, socket, shared);
            shared.counting.took(begun.elapsed(), n as u64);
        }
    }
}

/// Waits for datagrams; true when it is time to stop.
fn wait(socket: &UdpSocket, stop: &UnixStream) -> nix::Result<bool> {
    let mut fds = [
        PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        PollFd::new(stop.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => Ok(fds[1].revents().is_some_and(|r| !r.is_empty())),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error),
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

/// Answers of one batch, one after the other in one buffer.
struct Replies<P> {
    peers: Vec<(Option<P>, usize, bool)>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    to: Vec<Option<P>>,
    headers: MultiHeaders<P>,
}

impl<P: Peer> Replies<P> {
    fn new() -> Self {
        Self {
            peers: Vec::with_capacity(BATCH),
            bytes: Vec::with_capacity(BATCH * 256),
            ends: Vec::with_capacity(BATCH),
            to: Vec::with_capacity(BATCH),
            headers: MultiHeaders::preallocate(BATCH, None),
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.to.clear();
    }

    fn send(&mut self, fd: i32, socket: &UdpSocket, shared: &Shared) {
        let mut slices: Vec<[IoSlice<'_>; 1]> = Vec::with_capacity(self.to.len());
        let mut from = 0;
        for end in &self.ends {
            slices.push([IoSlice::new(&self.bytes[from..*end])]);
            from = *end;
        }
        let mut done = 0;
        let mut waited = false;
        while done < slices.len() {
            let sent = sendmmsg(
                fd,
                &mut self.headers,
                &slices[done..],
                &self.to[done..],
                [],
                MsgFlags::MSG_DONTWAIT,
            )
            .map(Iterator::count);
            match sent {
                Ok(n) if n > 0 => done += n,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if !waited => {
                    waited = true;
                    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                    let patience =
                        PollTimeout::try_from(SEND_PATIENCE).unwrap_or(PollTimeout::ZERO);
                    let _ = poll(&mut fds, patience);
                }
                // This one can't be sent; the others may.
                _ => {
                    add(&shared.counting.send_failures);
                    done += 1;
                }
            }
        }
    }
}

/// Answers what the thread handed over, many at the same time.
pub(super) async fn serve_slow(
    shared: Arc<Shared>,
    socket: Arc<tokio::net::UdpSocket>,
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
            let ip: IpAddr = job.peer.ip();
            let out = slow::answer(&shared, &job.packet, ip, false).await;
            send(&shared, &socket, &out, job.peer).await;
        });
    }
}

async fn send(shared: &Shared, socket: &tokio::net::UdpSocket, bytes: &[u8], to: SocketAddr) {
    if !bytes.is_empty() && socket.send_to(bytes, to).await.is_err() {
        add(&shared.counting.send_failures);
    }
}
