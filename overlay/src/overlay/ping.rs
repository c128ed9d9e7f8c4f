//! Echo requests (RFC 792) from this node to others' endpoints, which go through the tunnel like a container's packets.
//!
//! Each node is asked with a short packet and with one as long as containers may send; neither may be fragmented.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
    },
};

/// How long a round waits for answers.
const WAIT: Duration = Duration::from_millis(400);
/// Who has not answered is asked so often: the first packet may wait for a neighbour's address.
const ROUNDS: usize = 3;
/// Nodes that are asked at once: their answers fit the socket's buffer.
const AT_ONCE: usize = 32;
/// Length of the short packet, bytes.
const SHORT: u16 = 84;
const IP_HEADER: usize = 20;
const ICMP_HEADER: usize = 8;

/// What came of asking one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Echo {
    /// How long the short packet took.
    pub rtt: Option<Duration>,
    /// Whether the long one came back.
    pub is_whole: bool,
}

/// Asks all, in order. Blocks for at most 1.2 s for each 32 of them.
///
/// # Errors
/// Of the sockets. A node that can't be asked has not answered.
pub fn ping(from: Ipv4Addr, to: &[Ipv4Addr], length: u16) -> io::Result<Vec<Echo>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let raw = |protocol| socket(AddressFamily::Inet, SockType::Raw, flags, protocol);
    // With headers of our own nothing is fragmented, whatever the kernel believes of the path.
    let asking = Asking {
        sender: raw(SockProtocol::Raw)?,
        receiver: raw(SockProtocol::Icmp)?,
        from,
    };
    let mut echoes = Vec::with_capacity(to.len());
    for some in to.chunks(AT_ONCE) {
        echoes.extend(asking.chunk(some, length)?);
    }
    Ok(echoes)
}

struct Asking {
    sender: OwnedFd,
    receiver: OwnedFd,
    from: Ipv4Addr,
}

impl Asking {
    fn chunk(&self, to: &[Ipv4Addr], length: u16) -> io::Result<Vec<Echo>> {
        let token: [u8; 8] = rand::random();
        let mut echoes = vec![Echo::default(); to.len()];
        // By sequence number: twice the position, and one for the long packet.
        let mut asked: BTreeMap<u16, Instant> = BTreeMap::new();
        for _ in 0..ROUNDS {
            for (echo, (ip, seq)) in echoes.iter().zip(to.iter().zip((0_u16..).step_by(2))) {
                let mut ask = |seq: u16, length: u16| {
                    asked.insert(seq, Instant::now());
                    self.send(&request(self.from, *ip, token, seq, length), *ip);
                };
                if echo.rtt.is_none() {
                    ask(seq, SHORT);
                }
                if !echo.is_whole {
                    ask(seq + 1, length);
                }
            }
            let until = Instant::now() + WAIT;
            while echoes.iter().any(|e| e.rtt.is_none() || !e.is_whole) {
                let Some((ip, seq)) = self.receive(token, until)? else {
                    break;
                };
                let at = usize::from(seq / 2);
                let (Some(echo), Some(begun)) = (echoes.get_mut(at), asked.get(&seq)) else {
                    continue;
                };
                if to.get(at) != Some(&ip) {
                    continue;
                }
                if seq % 2 == 0 {
                    echo.rtt.get_or_insert_with(|| begun.elapsed());
                } else {
                    echo.is_whole = true;
                }
            }
        }
        Ok(echoes)
    }

    /// What can't be sent has no answer.
    fn send(&self, packet: &[u8], to: Ipv4Addr) {
        let [a, b, c, d] = to.octets();
        let address = SockaddrIn::new(a, b, c, d, 0);
        let sent = sendto(
            self.sender.as_raw_fd(),
            packet,
            &address,
            MsgFlags::MSG_DONTWAIT,
        );
        if let Err(error) = sent {
            tracing::debug!(%error, %to, "an echo request could not be sent");
        }
    }

    /// The next answer to one of ours; none by then.
    fn receive(&self, token: [u8; 8], until: Instant) -> io::Result<Option<(Ipv4Addr, u16)>> {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            match recv(
                self.receiver.as_raw_fd(),
                &mut buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(n) => {
                    if let Some(found) = reply(&buffer[..n], token) {
                        return Ok(Some(found));
                    }
                }
                Err(Errno::EAGAIN) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    let mut fds = [PollFd::new(self.receiver.as_fd(), PollFlags::POLLIN)];
                    let left = left.as_millis().saturating_add(1);
                    let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
                    match poll(&mut fds, left) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            // A flood of others' messages is no reason to stay.
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }
}

/// A packet of `length` bytes, at least [`SHORT`]. The kernel fills in the header's checksum.
fn request(from: Ipv4Addr, to: Ipv4Addr, token: [u8; 8], seq: u16, length: u16) -> Vec<u8> {
    let length = length.max(SHORT);
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    // Don't fragment, 64 hops, ICMP.
    packet.extend([0, 0, 0x40, 0, 64, 1, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend([8, 0, 0, 0]);
    packet.extend(&token[..2]);
    packet.extend(seq.to_be_bytes());
    packet.extend(token);
    packet.resize(length.into(), 0);
    let sum = checksum(&packet[IP_HEADER..]);
    packet[IP_HEADER + 2..IP_HEADER + 4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Who answers to a request with this token, and its sequence number. Of any other bytes nothing.
fn reply(packet: &[u8], token: [u8; 8]) -> Option<(Ipv4Addr, u16)> {
    let header = usize::from(packet.first()? & 15) * 4;
    let from = packet.get(12..16)?.first_chunk::<4>()?;
    let message = packet.get(header.max(IP_HEADER)..)?;
    let rest = message.get(ICMP_HEADER..)?;
    let is_ours = message.starts_with(&[0, 0]) && rest.starts_with(&token);
    let seq = message.get(6..8)?.first_chunk::<2>()?;
    is_ours.then(|| (Ipv4Addr::from(*from), u16::from_be_bytes(*seq)))
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);
    const TOKEN: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn only_whole_answers_to_us_are_read() {
        let mut packet = request(THERE, HERE, TOKEN, 513, 100);
        assert_eq!(packet.len(), 100);
        assert_eq!(checksum(&packet[IP_HEADER..]), 0, "its own checksum");
        assert_eq!(reply(&packet, TOKEN), None, "a request");
        packet[IP_HEADER] = 0;
        assert_eq!(reply(&packet, TOKEN), Some((THERE, 513)));
        assert_eq!(reply(&packet, [0; 8]), None, "another's");
        for length in 0..IP_HEADER + ICMP_HEADER + TOKEN.len() {
            assert_eq!(reply(&packet[..length], TOKEN), None, "{length}");
        }
        // A header that says that it is longer than the packet.
        packet[0] = 0x4f;
        packet.truncate(50);
        assert_eq!(reply(&packet, TOKEN), None);
    }

    #[test]
    fn nodes_answer_or_do_not() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: raw sockets need root");
            return;
        }
        let nobody = Ipv4Addr::new(240, 0, 0, 1);
        let echoes = ping(HERE, &[THERE, nobody, HERE], 1500).unwrap();
        assert!(echoes[0].rtt.is_some() && echoes[0].is_whole, "{echoes:?}");
        assert_eq!(echoes[1], Echo::default());
        assert!(echoes[2].rtt.is_some() && echoes[2].is_whole, "{echoes:?}");
    }
}
