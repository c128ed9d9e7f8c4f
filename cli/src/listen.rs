//! The one place that builds listeners. TLS and identities will attach here and nowhere else.
//!
//! Plain HTTP and gRPC bind loopback unless the operator names an address (`--http-address`): old
//! Mesos and Marathon clients speak nothing else, so the choice is explicit. The resolver's sockets
//! are the exception: they are bound by `waggle-overlay` on the addresses that it owns.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    net::{TcpListener, TcpSocket, UdpSocket},
    time::{Instant, sleep},
};

use crate::error::CliError;

/// Connections that the kernel holds for us to accept.
const BACKLOG: u32 = 1024;

/// How long an address may still be held: the kernel closes the sockets of a killed predecessor a
/// moment after its end is visible.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(20);

/// Binds one listener; the error names what it is for.
pub async fn bind(purpose: &str, ip: IpAddr, port: u16) -> Result<TcpListener, CliError> {
    patiently(purpose, SocketAddr::new(ip, port), open).await
}

/// The same for datagrams.
pub async fn bind_udp(purpose: &str, ip: IpAddr, port: u16) -> Result<UdpSocket, CliError> {
    let open = |address| {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    patiently(purpose, SocketAddr::new(ip, port), open).await
}

async fn patiently<T>(
    purpose: &str,
    address: SocketAddr,
    open: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<T, CliError> {
    let deadline = Instant::now() + PATIENCE;
    let opened = loop {
        match open(address) {
            Err(e) if e.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                sleep(RETRY).await;
            }
            other => break other,
        }
    };
    Ok(opened.with_context(|| format!("cannot listen on {address} for the {purpose}"))?)
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // A restarted node must not wait for its predecessor's TIME_WAIT connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn an_address_that_is_still_held_is_waited_for() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let held = bind("test", ip, 0).await.unwrap();
        let port = held.local_addr().unwrap().port();
        let waiting = tokio::spawn(async move { bind("test", ip, port).await });
        tokio::task::yield_now().await;
        drop(held);
        assert_eq!(
            waiting.await.unwrap().unwrap().local_addr().unwrap().port(),
            port
        );
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let held = bind("test", ip, 0).await.unwrap();
        let port = held.local_addr().unwrap().port();
        let error = bind("agent API", ip, port).await.unwrap_err();
        let CliError::Failed(chain) = error else {
            panic!("{error}")
        };
        assert!(
            format!("{chain:#}").contains("for the agent API"),
            "{chain:#}"
        );
    }
}
