//! The one place that builds listeners. TLS and identities will attach here and nowhere else.
//!
//! Plain HTTP and gRPC bind loopback unless the operator names an address (`--http-address`): old
//! Mesos and Marathon clients speak nothing else, so the choice is explicit. The resolver's sockets
//! are the exception: they are bound by `waggle-overlay` on the addresses that it owns.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use tokio::net::{TcpListener, TcpSocket};

use crate::error::CliError;

/// Connections that the kernel holds for us to accept.
const BACKLOG: u32 = 1024;

/// Binds one listener; the error names what it is for.
pub fn bind(purpose: &str, ip: IpAddr, port: u16) -> Result<TcpListener, CliError> {
    let address = SocketAddr::new(ip, port);
    Ok(open(address).with_context(|| format!("cannot listen on {address} for the {purpose}"))?)
}

fn open(address: SocketAddr) -> std::io::Result<TcpListener> {
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
