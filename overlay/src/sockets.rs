//! UDP sockets that are connected to a backend which is gone: they are ended, so that their programs hear of it.
//!
//! A connected UDP socket has no connection that could break: it would send to nobody for as long as its program lives
//! (resolvers and loggers live long). The kernel's socket diagnosis lists them and, where it can (`INET_DIAG_DESTROY`),
//! aborts them: the program's next call says ECONNABORTED, and it connects anew. Only sockets of this network
//! namespace are seen.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
        sockopt,
    },
    time::{TimeVal, TimeValLike as _},
};

const ENOENT: i32 = nix::errno::Errno::ENOENT as i32;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Of `struct nlmsghdr`, `struct inet_diag_sockid`; where the id is in `struct inet_diag_msg`.
const HEADER: usize = 16;
const ID: usize = 48;
const ID_AT: usize = HEADER + 4;
/// `TCP_ESTABLISHED`, which is what a connected UDP socket is.
const CONNECTED: u32 = 1 << 1;
const UDP: u8 = 17;

/// Ends the UDP sockets that are connected to one of these addresses; how many there were. Blocks for as long as the
/// kernel takes to list all UDP sockets.
pub(crate) fn free(gone: &BTreeSet<SocketAddr>) -> io::Result<usize> {
    let diag = open()?;
    let mut n = 0;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let family = u8::try_from(family as i32).unwrap_or_default();
        for id in connected(&diag, family, gone)? {
            n += usize::from(destroy(&diag, family, &id)?);
        }
    }
    Ok(n)
}

fn open() -> io::Result<OwnedFd> {
    let diag = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    setsockopt(&diag, sockopt::ReceiveTimeout, &TimeVal::seconds(1))?;
    Ok(diag)
}

/// `struct inet_diag_req_v2` for UDP.
fn request(kind: u16, flags: u16, family: u8, id: &[u8; ID]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + 8 + ID);
    let len = u32::try_from(HEADER + 8 + ID).unwrap_or_default();
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[family, UDP, 0, 0]);
    out.extend_from_slice(&CONNECTED.to_ne_bytes());
    out.extend_from_slice(id);
    out
}

/// Ids of the sockets that are connected to one of `gone`.
fn connected(diag: &OwnedFd, family: u8, gone: &BTreeSet<SocketAddr>) -> io::Result<Vec<[u8; ID]>> {
    let ask = request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, &[0; ID]);
    send(diag.as_raw_fd(), &ask, MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = recv(diag.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for message in Messages(&buffer[..n]) {
            match message.kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(message.error()),
                SOCK_DIAG_BY_FAMILY => {
                    let id = message.bytes.get(ID_AT..ID_AT + ID);
                    let id = id.and_then(|id| <[u8; ID]>::try_from(id).ok());
                    found.extend(
                        id.filter(|id| peer(family, id).is_some_and(|p| gone.contains(&p))),
                    );
                }
                _ => {}
            }
        }
    }
}

/// Whom a socket is connected to; an IPv4-mapped address is the IPv4 one.
fn peer(family: u8, id: &[u8; ID]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([id[2], id[3]]);
    let bytes: [u8; 16] = id[20..36].try_into().ok()?;
    let ip = if family == u8::try_from(AddressFamily::Inet as i32).ok()? {
        IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
    } else {
        IpAddr::V6(Ipv6Addr::from_octets(bytes)).to_canonical()
    };
    Some(SocketAddr::new(ip, port))
}

/// Whether it was there.
fn destroy(diag: &OwnedFd, family: u8, id: &[u8; ID]) -> io::Result<bool> {
    let ask = request(SOCK_DESTROY, NLM_F_ACK, family, id);
    send(diag.as_raw_fd(), &ask, MsgFlags::empty())?;
    let mut buffer = [0; 1024];
    let n = recv(diag.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let Some(answer) = Messages(&buffer[..n]).next() else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let error = answer.error();
    match error.raw_os_error() {
        Some(0) => Ok(true),
        // It ended by itself meanwhile.
        Some(ENOENT) => Ok(false),
        _ => Err(error),
    }
}

/// Messages of a datagram, up to the first that is cut off.
struct Messages<'a>(&'a [u8]);

struct Message<'a> {
    kind: u16,
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
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = u32::from_ne_bytes(self.0.get(..4)?.try_into().ok()?);
        let kind = u16::from_ne_bytes(self.0.get(4..6)?.try_into().ok()?);
        let len = usize::try_from(len).ok().filter(|len| *len >= HEADER)?;
        let bytes = self.0.get(..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sockets_to_who_is_gone_are_ended_and_no_others() {
        let server = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (dead, alive) = (server(), server());
        let client = |to: &UdpSocket, from: &str| {
            let socket = UdpSocket::bind(from).unwrap();
            let to = to.local_addr().unwrap();
            let to = match socket.local_addr().unwrap() {
                SocketAddr::V4(_) => to,
                SocketAddr::V6(_) => {
                    SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), to.port())
                }
            };
            socket.connect(to).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let (bound, kept) = (client(&dead, "127.0.0.1:0"), client(&alive, "127.0.0.1:0"));
        let dual = UdpSocket::bind("[::]:0")
            .is_ok()
            .then(|| client(&dead, "[::]:0"));
        let gone = BTreeSet::from([dead.local_addr().unwrap()]);
        let n = match free(&gone) {
            Ok(n) => n,
            // Not root, or a kernel that can't.
            Err(e) => {
                eprintln!("SKIP: sockets can't be ended here: {e}");
                return;
            }
        };
        assert_eq!(n, 1 + dual.iter().count());
        for socket in std::iter::once(&bound).chain(&dual) {
            let said = socket.recv(&mut [0; 8]).unwrap_err();
            assert_eq!(
                said.raw_os_error(),
                Some(nix::errno::Errno::ECONNABORTED as i32)
            );
        }
        let said = kept.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(said.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(free(&gone).unwrap(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in Messages(&bytes) {
                prop_assert!(message.bytes.len() >= HEADER);
                let _ = message.error();
            }
        }
    }
}
