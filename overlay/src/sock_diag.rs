//! The kernel's list of sockets (`sock_diag`): whose a socket is, which are connected to an address, and their end.
//!
//! Only sockets of the network namespace are seen in which it was opened. Every call waits for the kernel's answer, for as long
//! as it was opened with at most; what comes late is an answer to nothing.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt,
            socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// `INET_DIAG_CGROUP_ID`, since Linux 5.9.
const CGROUP_ID: u16 = 21;
/// Of `struct nlmsghdr`, `struct inet_diag_sockid`, `struct inet_diag_msg`; where the id is in the last.
const HEADER: usize = 16;
const ID: usize = 48;
const MESSAGE: usize = 72;
const ID_AT: usize = HEADER + 4;
const STATE_AT: usize = HEADER + 1;
/// `TCP_ESTABLISHED`, which is what a connected UDP socket is.
const CONNECTED: u32 = 1 << 1;
const TCP_LISTEN: u8 = 10;
/// Answers to earlier questions that are passed over.
const MAX_LATE: usize = 8;

/// The protocol of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
}

/// A connection to the kernel's socket diagnosis.
#[derive(Debug)]
pub struct SockDiag {
    fd: OwnedFd,
    seq: u32,
}

/// A socket as the kernel names it: family, and `struct inet_diag_sockid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketId {
    family: u8,
    id: [u8; ID],
}

impl SockDiag {
    /// Opens it; no answer is waited for longer than that.
    pub fn open(patience: Duration) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        let millis = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(millis))?;
        Ok(Self { fd, seq: 0 })
    }

    /// The cgroup of the socket at `owner` that speaks with `other`; `None` where there is no such socket here. An error means
    /// that the kernel can't say, now or ever.
    pub fn cgroup_of(
        &mut self,
        transport: Transport,
        owner: SocketAddr,
        other: SocketAddr,
    ) -> io::Result<Option<u64>> {
        // A UDP socket is looked up as for a datagram that arrives at it.
        let (from, to) = match transport {
            Transport::Tcp => (owner, other),
            Transport::Udp => (other, owner),
        };
        let id = id_of(from, to);
        // No extensions are asked for, and any state will do: the cgroup comes by itself.
        self.ask(SOCK_DIAG_BY_FAMILY, 0, transport, u32::MAX, id)?;
        let mut buffer = [0; 1024];
        let answer = self.answer(&mut buffer)?;
        if answer.kind == NLMSG_ERROR {
            let error = answer.error();
            let none = error.raw_os_error() == Some(Errno::ENOENT as i32);
            return if none { Ok(None) } else { Err(error) };
        }
        Ok(answer.cgroup(owner.port()))
    }

    /// The first message of the answer to the last question; what comes late is passed over.
    fn answer<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Message<'a>> {
        for _ in 0..MAX_LATE {
            let n = recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty())?;
            if Messages(&buffer[..n]).any(|m| m.seq == self.seq) {
                let found = Messages(&buffer[..n]).find(|m| m.seq == self.seq);
                return found.ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// The UDP sockets that are connected to one of these addresses. Takes as long as the kernel takes to list all of them.
    pub(crate) fn udp_connected_to(
        &mut self,
        gone: &BTreeSet<SocketAddr>,
    ) -> io::Result<Vec<SocketId>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let family = family_number(family);
            let all = SocketId {
                family,
                id: [0; ID],
            };
            let (udp, flags) = (Transport::Udp, NLM_F_DUMP);
            self.ask(SOCK_DIAG_BY_FAMILY, flags, udp, CONNECTED, all)?;
            self.list(family, gone, &mut found)?;
        }
        Ok(found)
    }

    fn list(
        &mut self,
        family: u8,
        gone: &BTreeSet<SocketAddr>,
        found: &mut Vec<SocketId>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let n = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for message in Messages(&buffer[..n]).filter(|m| m.seq == self.seq) {
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return Err(message.error()),
                    SOCK_DIAG_BY_FAMILY => {
                        let id = message.bytes.get(ID_AT..ID_AT + ID);
                        let id = id.and_then(|id| <[u8; ID]>::try_from(id).ok());
                        let id = id.map(|id| SocketId { family, id });
                        found.extend(id.filter(|id| id.peer().is_some_and(|p| gone.contains(&p))));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Ends a UDP socket: its program's next call says ECONNABORTED. Whether it was there.
    pub(crate) fn destroy(&mut self, id: SocketId) -> io::Result<bool> {
        self.ask(SOCK_DESTROY, NLM_F_ACK, Transport::Udp, CONNECTED, id)?;
        let mut buffer = [0; 1024];
        let answer = self.answer(&mut buffer)?;
        if answer.kind != NLMSG_ERROR {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let error = answer.error();
        match error.raw_os_error() {
            Some(0) => Ok(true),
            // It ended by itself meanwhile.
            Some(e) if e == Errno::ENOENT as i32 => Ok(false),
            _ => Err(error),
        }
    }

    /// Sends a `struct inet_diag_req_v2`. All that is not an address or a port is in the machine's byte order.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        transport: Transport,
        states: u32,
        SocketId { family, id }: SocketId,
    ) -> io::Result<()> {
        self.seq = self.seq.wrapping_add(1);
        let mut out = Vec::with_capacity(HEADER + 8 + ID);
        let len = u32::try_from(HEADER + 8 + ID).unwrap_or_default();
        out.extend_from_slice(&len.to_ne_bytes());
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        out.extend_from_slice(&self.seq.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&[family, transport as u8, 0, 0]);
        out.extend_from_slice(&states.to_ne_bytes());
        out.extend_from_slice(&id);
        send(self.fd.as_raw_fd(), &out, MsgFlags::empty())?;
        Ok(())
    }
}

fn family_number(family: AddressFamily) -> u8 {
    u8::try_from(family as i32).unwrap_or_default()
}

/// A socket by its two ends, on any device, whatever its cookie.
fn id_of(from: SocketAddr, to: SocketAddr) -> SocketId {
    let family = if from.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let mut id = [0; ID];
    id[..2].copy_from_slice(&from.port().to_be_bytes());
    id[2..4].copy_from_slice(&to.port().to_be_bytes());
    for (at, ip) in [(4, from.ip()), (20, to.ip())] {
        match ip {
            IpAddr::V4(v4) => id[at..at + 4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => id[at..at + 16].copy_from_slice(&v6.octets()),
        }
    }
    id[40..].fill(0xff);
    SocketId {
        family: family_number(family),
        id,
    }
}

impl SocketId {
    /// Whom it is connected to; an IPv4-mapped address is the IPv4 one.
    fn peer(&self) -> Option<SocketAddr> {
        let port = u16::from_be_bytes([self.id[2], self.id[3]]);
        let bytes: [u8; 16] = self.id[20..36].try_into().ok()?;
        let ip = if self.family == family_number(AddressFamily::Inet) {
            IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
        } else {
            IpAddr::V6(Ipv6Addr::from_octets(bytes)).to_canonical()
        };
        Some(SocketAddr::new(ip, port))
    }
}

/// Messages of a datagram, up to the first that is cut off.
struct Messages<'a>(&'a [u8]);

struct Message<'a> {
    kind: u16,
    seq: u32,
    bytes: &'a [u8],
}

impl Message<'_> {
    /// What an error message says; 0 is an acknowledgement.
    fn error(&self) -> io::Error {
        let code = self.bytes.get(HEADER..HEADER + 4);
        let code = code.and_then(|c| c.try_into().ok()).map(i32::from_ne_bytes);
        code.map_or_else(
            || io::ErrorKind::InvalidData.into(),
            |c| io::Error::from_raw_os_error(c.saturating_neg()),
        )
    }

    /// The cgroup in what is said of a socket on this port; `None` for a listener, which is no connection's end.
    fn cgroup(&self, port: u16) -> Option<u64> {
        let u16_at = |at: usize| -> Option<u16> {
            Some(u16::from_ne_bytes(
                self.bytes.get(at..at + 2)?.try_into().ok()?,
            ))
        };
        let is_listener = *self.bytes.get(STATE_AT)? == TCP_LISTEN;
        let own_port = self.bytes.get(ID_AT..ID_AT + 2)?;
        if self.kind != SOCK_DIAG_BY_FAMILY || is_listener || own_port != port.to_be_bytes() {
            return None;
        }
        let mut at = HEADER + MESSAGE;
        loop {
            let len = usize::from(u16_at(at)?);
            if len < 4 {
                return None;
            }
            if u16_at(at + 2)? == CGROUP_ID {
                let id = self.bytes.get(at + 4..at + 12)?;
                return Some(u64::from_ne_bytes(id.try_into().ok()?));
            }
            at += len.next_multiple_of(4);
        }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = u32::from_ne_bytes(self.0.get(..4)?.try_into().ok()?);
        let kind = u16::from_ne_bytes(self.0.get(4..6)?.try_into().ok()?);
        let seq = u32::from_ne_bytes(self.0.get(8..12)?.try_into().ok()?);
        let len = usize::try_from(len).ok().filter(|len| *len >= HEADER)?;
        let bytes = self.0.get(..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, seq, bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernel_tells_whose_socket_it_is() {
        use std::os::unix::fs::MetadataExt as _;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (served, peer) = listener.accept().unwrap();
        let local = served.local_addr().unwrap();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let v2 = own.lines().find_map(|l| l.strip_prefix("0::")).unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find_map(|l| {
            let mut words = l.split(' ').skip(1);
            let (dir, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| dir.to_owned())
        });
        let Some(mount) = mount else {
            eprintln!("SKIP: no cgroup2 here");
            return;
        };
        let Ok(meta) = std::fs::metadata(format!("{mount}{v2}")) else {
            eprintln!("SKIP: this process's cgroup is not to be seen here");
            return;
        };
        let mut diag = SockDiag::open(Duration::from_secs(1)).unwrap();
        let tcp = Transport::Tcp;
        assert_eq!(diag.cgroup_of(tcp, peer, local).unwrap(), Some(meta.ino()));
        // Nobody is at that port; the next question is answered all the same.
        let nobody = SocketAddr::new(peer.ip(), 1);
        assert_eq!(diag.cgroup_of(tcp, nobody, local).unwrap(), None);
        assert_eq!(diag.cgroup_of(tcp, peer, local).unwrap(), Some(meta.ino()));
        drop(client);
    }

    #[test]
    fn an_answer_to_an_earlier_question_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (own, other) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let mut diag = SockDiag::open(Duration::from_secs(1)).unwrap();
        // One asked and went away before the answer came.
        let (kind, any) = (SOCK_DIAG_BY_FAMILY, u32::MAX);
        diag.ask(kind, 0, Transport::Tcp, any, id_of(own, other))
            .unwrap();
        let nobody = id_of(own, SocketAddr::new(other.ip(), 1));
        // What may be answered depends on who asks and on the kernel: the same as without the other question.
        let alone = SockDiag::open(Duration::from_secs(1))
            .unwrap()
            .destroy(nobody);
        let after = diag.destroy(nobody);
        let words = |r: io::Result<bool>| r.map_err(|e| e.raw_os_error());
        assert_eq!(words(after), words(alone));
        drop(client);
    }

    #[test]
    fn answers_that_are_cut_off_name_nobody() {
        let mut answer = vec![0; HEADER + MESSAGE];
        answer.extend_from_slice(&12u16.to_ne_bytes());
        answer.extend_from_slice(&CGROUP_ID.to_ne_bytes());
        answer.extend_from_slice(&7u64.to_ne_bytes());
        let of = |bytes: &[u8], port| {
            let message = Message {
                kind: SOCK_DIAG_BY_FAMILY,
                seq: 0,
                bytes,
            };
            message.cgroup(port)
        };
        assert_eq!(of(&answer, 0), Some(7));
        assert_eq!(of(&answer, 1), None);
        for n in 0..answer.len() {
            assert_eq!(of(&answer[..n], 0), None, "{n}");
        }
        // An attribute of no length would never end.
        answer[HEADER + MESSAGE] = 0;
        assert_eq!(of(&answer, 0), None);
        answer[STATE_AT] = TCP_LISTEN;
        assert_eq!(of(&answer, 0), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            port: u16,
        ) {
            for message in Messages(&bytes) {
                prop_assert!(message.bytes.len() >= HEADER);
                let _ = (message.error(), message.cgroup(port));
            }
        }
    }
}
