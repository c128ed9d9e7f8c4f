//! UDP sockets that are connected to a backend which is gone: they are ended, so that their programs hear of it.
//!
//! A connected UDP socket has no connection that could break: it would send to nobody for as long as its program lives
//! (resolvers and loggers live long). The kernel's socket diagnosis lists them and, where it can (`INET_DIAG_DESTROY`),
//! aborts them: the program's next call says ECONNABORTED, and it connects anew. Only sockets of this network
//! namespace are seen.

use std::{collections::BTreeSet, io, net::SocketAddr, time::Duration};

use crate::sock_diag::SockDiag;

/// The kernel lists all UDP sockets meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// Ends the UDP sockets that are connected to one of these addresses; how many there were. Blocks for as long as the
/// kernel takes to list all UDP sockets.
pub(crate) fn free(gone: &BTreeSet<SocketAddr>) -> io::Result<usize> {
    let mut diag = SockDiag::open(PATIENCE)?;
    let mut n = 0;
    for id in diag.udp_connected_to(gone)? {
        n += usize::from(diag.destroy(id)?);
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

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
}
