//! Traffic between containers.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use waggle_tests_support::netns::NetNs;
use waggle_tests_support::wait_until;

pub const LIMIT: Duration = Duration::from_secs(10);

/// Sends bytes there and back over TCP; the server checks who is calling.
pub fn tcp(
    client: &NetNs,
    server: &NetNs,
    from: IpAddr,
    to: IpAddr,
    n: usize,
) -> anyhow::Result<()> {
    let listener = server.run(|| TcpListener::bind((to, 0)))??;
    let at = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> anyhow::Result<SocketAddr> {
        let (mut stream, from) = listener.accept()?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        stream.write_all(&bytes)?;
        Ok(from)
    });
    let mut stream = client.connect(at, LIMIT)?;
    exchange(&mut stream, n)?;
    let seen = echo.join().map_err(|_| anyhow::anyhow!("the server"))??;
    ensure!(seen.ip() == from, "the server saw {seen}, not {from}");
    Ok(())
}

fn exchange(stream: &mut TcpStream, n: usize) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let bytes: Vec<u8> = (0..n).map(|i| (i % 251) as u8).collect();
    stream.write_all(&bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut echo = Vec::new();
    stream
        .read_to_end(&mut echo)
        .with_context(|| format!("{} of {n} bytes came back", echo.len()))?;
    ensure!(echo == bytes, "{} of {n} bytes", echo.len());
    Ok(())
}

/// Sends datagrams of these lengths there and back.
pub fn udp(client: &NetNs, server: &NetNs, to: IpAddr, lengths: &[usize]) -> anyhow::Result<()> {
    let server = server.run(|| UdpSocket::bind((to, 0)))??;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let client = client.run(|| UdpSocket::bind(any))??;
    client.connect(server.local_addr()?)?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    }
    for length in lengths {
        let sent: Vec<u8> = (0..*length).map(|i| (i % 241) as u8).collect();
        client
            .send(&sent)
            .with_context(|| format!("send {length}"))?;
        let mut buffer = vec![0; 65_536];
        let (n, from) = server
            .recv_from(&mut buffer)
            .with_context(|| format!("{length} bytes there"))?;
        ensure!(buffer[..n] == sent, "{n} of {length} bytes there");
        server.send_to(&sent, from)?;
        let n = client
            .recv(&mut buffer)
            .with_context(|| format!("{length} bytes back"))?;
        ensure!(buffer[..n] == sent, "{n} of {length} bytes back");
    }
    Ok(())
}

/// Sends one buffer as datagrams of a segment each (`UDP_SEGMENT`); all must come.
pub fn udp_segments(
    client: &NetNs,
    server: &NetNs,
    to: IpAddr,
    segment: usize,
    n: usize,
) -> anyhow::Result<()> {
    let server = server.run(|| UdpSocket::bind((to, 0)))??;
    server.set_read_timeout(Some(Duration::from_secs(3)))?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let client = client.run(|| UdpSocket::bind(any))??;
    client.connect(server.local_addr()?)?;
    let size = libc::c_int::try_from(segment)?;
    // SAFETY: an integer, and its length.
    let set = unsafe {
        libc::setsockopt(
            client.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    ensure!(set == 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
    let bytes: Vec<u8> = (0..segment * n).map(|i| (i / segment) as u8).collect();
    client.send(&bytes)?;
    let mut buffer = vec![0; 65_536];
    for i in 0..n {
        let length = server
            .recv(&mut buffer)
            .with_context(|| format!("segment {i} of {n}"))?;
        ensure!(length == segment, "segment {i}: {length} bytes");
        ensure!(
            buffer[..length].iter().all(|b| *b == i as u8),
            "segment {i}"
        );
    }
    Ok(())
}

/// Sends a frame as it is.
pub fn raw(device: &str, frame: &[u8]) -> anyhow::Result<()> {
    let ifindex = nix::net::if_::if_nametoindex(device)?;
    // SAFETY: plain system calls on a descriptor of our own; the address is whole, and the frame as long as is said.
    unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        ensure!(socket >= 0, "socket: {}", std::io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(socket);
        let mut to: libc::sockaddr_ll = std::mem::zeroed();
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = i32::try_from(ifindex)?;
        to.sll_halen = 6;
        let sent = libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        );
        let error = std::io::Error::last_os_error();
        // Who sends by a netkit device is told that a program has dropped it.
        ensure!(
            usize::try_from(sent) == Ok(frame.len()) || error.raw_os_error() == Some(libc::ENOBUFS),
            "send {} bytes: {error}",
            frame.len()
        );
    }
    Ok(())
}

/// Makes a socket send nothing that would have to be cut.
pub fn never_fragment(socket: &UdpSocket, is_v4: bool) -> anyhow::Result<()> {
    let (level, option, value) = if is_v4 {
        (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        )
    } else {
        (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        )
    };
    // SAFETY: an integer, and its length.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    ensure!(set == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}

/// The error that doing something comes to, at the latest after a while.
pub fn error_of<T>(
    mut act: impl FnMut() -> std::io::Result<T>,
    what: &str,
) -> anyhow::Result<std::io::Error> {
    wait_until(LIMIT, what, || act().err())
}
