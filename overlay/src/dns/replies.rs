//! Answers of one batch, and how they are sent with few calls.
//!
//! An asker that has many questions at once gets its answers of one length as one send that the kernel cuts up
//! (UDP_SEGMENT): most of what an answer costs is its way through the kernel, and so they go it together. All others go
//! with `sendmmsg`.

use std::{
    io::IoSlice,
    net::UdpSocket,
    os::fd::{AsFd as _, AsRawFd as _},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessage, MsgFlags, MultiHeaders, sendmmsg, sendmsg},
};

use super::{
    Shared,
    counters::add,
    udp::{BATCH, Peer},
};

/// How long an answer waits for room in the socket's send buffer.
pub(super) const SEND_PATIENCE: Duration = Duration::from_millis(20);
/// Answers that are worth a send of their own.
const MIN_TOGETHER: usize = 3;
/// Most answers and bytes that the kernel cuts up.
const MAX_TOGETHER: usize = 64;
const MAX_BYTES: usize = 60_000;

struct Reply<P> {
    from: usize,
    end: usize,
    to: P,
    /// Of its asker; equal for equal askers.
    key: u64,
}

/// Answers of one batch, one after the other in one buffer.
pub(super) struct Replies<P> {
    pub(super) bytes: Vec<u8>,
    list: Vec<Reply<P>>,
    headers: MultiHeaders<P>,
    to: Vec<Option<P>>,
    /// This kernel and device do it.
    together: bool,
}

impl<P: Peer> Replies<P> {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(BATCH * 256),
            list: Vec::with_capacity(BATCH),
            headers: MultiHeaders::preallocate(BATCH, None),
            to: Vec::with_capacity(BATCH),
            together: true,
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// What was appended to `bytes` since the last call is an answer to this peer, if it is anything.
    pub(super) fn push(&mut self, to: P) {
        let from = self.list.last().map_or(0, |r| r.end);
        if self.bytes.len() > from {
            self.list.push(Reply {
                from,
                end: self.bytes.len(),
                key: to.key(),
                to,
            });
        }
    }

    /// Sends all. What can't be sent is counted.
    pub(super) fn send(&mut self, socket: &UdpSocket, shared: &Shared) {
        if self.together && self.list.len() >= MIN_TOGETHER {
            self.list.sort_unstable_by_key(|r| (r.key, r.end - r.from));
        }
        let mut slices: Vec<[IoSlice<'_>; 1]> = Vec::with_capacity(self.list.len());
        self.to.clear();
        let mut rest = self.list.as_slice();
        while let Some(first) = rest.first() {
            let len = first.end - first.from;
            let same = |r: &&Reply<P>| {
                r.key == first.key && r.end - r.from == len && r.to.addr() == first.to.addr()
            };
            let most = MAX_TOGETHER.min(MAX_BYTES / len.max(1));
            let n = if self.together {
                rest.iter().take(most).take_while(same).count()
            } else {
                1
            };
            let (group, others) = rest.split_at(n.max(1));
            rest = others;
            if group.len() >= MIN_TOGETHER {
                let parts: Vec<IoSlice<'_>> = group
                    .iter()
                    .map(|r| IoSlice::new(&self.bytes[r.from..r.end]))
                    .collect();
                // An answer has at most 1232 bytes.
                let segment = u16::try_from(len).unwrap_or(u16::MAX);
                let control = [ControlMessage::UdpGsoSegments(&segment)];
                let flags = MsgFlags::MSG_DONTWAIT;
                match sendmsg(socket.as_raw_fd(), &parts, &control, flags, Some(&first.to)) {
                    Ok(_) => continue,
                    Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => {}
                    Err(error) => {
                        tracing::debug!(%error, "answers are sent one by one");
                        self.together = false;
                    }
                }
            }
            for reply in group {
                slices.push([IoSlice::new(&self.bytes[reply.from..reply.end])]);
                self.to.push(Some(reply.to));
            }
        }
        let mut done = 0;
        let mut waited = false;
        while done < slices.len() {
            let sent = sendmmsg(
                socket.as_raw_fd(),
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
