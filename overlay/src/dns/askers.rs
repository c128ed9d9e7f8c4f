//! Who asks: the cgroup of the socket that a question came from, as the kernel's socket diagnosis has it.
//!
//! Tasks in host mode share the node's addresses, so an address says nothing about them; their sockets do. One
//! look-up takes some 10 us, so that there is a budget for each second: within it every question is attributed, what is
//! beyond it is counted as not attributed. Sockets of other network namespaces are not found; they have
//! addresses of their own.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
        sockopt,
    },
    time::{TimeVal, TimeValLike as _},
};
use tokio::time::Instant;

use super::counters::add;

/// Look-ups of one thread in a second: a thousandth of its time, and under load too few to show in the slowest hundredth
/// of the answers.
const BUDGET: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);
/// cgroups that are told apart; questions of others are counted as not attributed.
const MAX_CGROUPS: usize = 4096;

/// Questions by cgroup.
#[derive(Debug, Default)]
pub(super) struct Askers {
    by_cgroup: Mutex<BTreeMap<u64, u64>>,
    /// Questions over UDP whose asker is not known.
    pub(super) unknown: AtomicU64,
}

impl Askers {
    fn count(&self, cgroup: u64) {
        let mut all = self
            .by_cgroup
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_CGROUPS || all.contains_key(&cgroup) {
            *all.entry(cgroup).or_default() += 1;
        } else {
            add(&self.unknown);
        }
    }

    /// Questions of each cgroup.
    pub(super) fn read(&self) -> BTreeMap<u64, u64> {
        let all = self
            .by_cgroup
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }

    /// A cgroup is gone.
    pub(super) fn forget(&self, cgroup: u64) {
        let mut all = self
            .by_cgroup
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.remove(&cgroup);
    }
}

/// One thread's access to the kernel's list of sockets.
pub(super) struct Finder {
    /// None once the kernel has said that it can't.
    diag: Option<OwnedFd>,
    own: SocketAddr,
    left: u32,
    since: Instant,
    seq: u32,
}

impl Finder {
    /// For questions that come to `own`.
    pub(super) fn new(own: SocketAddr) -> Self {
        let diag = open();
        if let Err(error) = &diag {
            tracing::debug!(%error, "dns questions are not attributed to tasks");
        }
        Self {
            diag: diag.ok(),
            own,
            left: BUDGET,
            since: Instant::now(),
            seq: 0,
        }
    }

    /// Counts a question for its asker, if the kernel knows which cgroup that is. Before it is answered: the asker's socket may be gone right after.
    pub(super) fn count(
        &mut self,
        askers: &Askers,
        asker: SocketAddr,
        now: Instant,
    ) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= SECOND {
            (self.since, self.left) = (now, BUDGET);
        }
        let found = match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                self.find(asker)
            }
            None => None,
        };
        match found {
            Some(cgroup) => askers.count(cgroup),
            None => add(&askers.unknown),
        }
        found
    }

    fn find(&mut self, asker: SocketAddr) -> Option<u64> {
        let diag = self.diag.as_ref()?;
        self.seq = self.seq.wrapping_add(1);
        let request = request(self.seq, self.own, asker)?;
        let mut answer = [0; 512];
        let asked = send(diag.as_raw_fd(), &request, MsgFlags::empty())
            .and_then(|_| recv(diag.as_raw_fd(), &mut answer, MsgFlags::empty()));
        let Ok(n) = asked else {
            // Late answers would be taken for others.
            self.diag = None;
            return None;
        };
        cgroup(&answer[..n], self.seq, asker.port())
    }
}

fn open() -> nix::Result<OwnedFd> {
    let diag = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    // The kernel answers at once or not at all.
    setsockopt(&diag, sockopt::ReceiveTimeout, &TimeVal::milliseconds(20))?;
    Ok(diag)
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Of `struct nlmsghdr`, `struct inet_diag_req_v2`, `struct inet_diag_msg`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;
const INET_DIAG_CGROUP_ID: u16 = 21;

/// Asks for the socket that takes datagrams from `own` to `asker` (the kernel looks it up as for one that arrives).
fn request(seq: u32, own: SocketAddr, asker: SocketAddr) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(HEADER + REQUEST);
    // All that is not an address or a port is in the machine's byte order.
    let len = u32::try_from(HEADER + REQUEST).ok()?;
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend_from_slice(&1u16.to_ne_bytes());
    out.extend_from_slice(&seq.to_ne_bytes());
    out.extend_from_slice(&0u32.to_ne_bytes());
    let family = if own.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    out.push(u8::try_from(family as i32).ok()?);
    out.push(17);
    // No extensions are asked for, and any state will do: the cgroup comes by itself.
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&u32::MAX.to_ne_bytes());
    out.extend_from_slice(&own.port().to_be_bytes());
    out.extend_from_slice(&asker.port().to_be_bytes());
    for ip in [own.ip(), asker.ip()] {
        let mut bytes = [0; 16];
        match ip {
            IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes = ip.octets(),
        }
        out.extend_from_slice(&bytes);
    }
    // Any device, any cookie.
    out.extend_from_slice(&0u32.to_ne_bytes());
    out.extend_from_slice(&[0xff; 8]);
    Some(out)
}

/// The cgroup in an answer, if it is one about a socket on this port.
fn cgroup(answer: &[u8], seq: u32, port: u16) -> Option<u64> {
    let u16_at = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    let is_socket = u16_at(4)? == SOCK_DIAG_BY_FAMILY && u32_at(8)? == seq;
    let source_port = answer.get(HEADER + 4..HEADER + 6)?;
    if !is_socket || source_port != port.to_be_bytes() {
        return None;
    }
    let mut at = HEADER + MESSAGE;
    loop {
        let len = usize::from(u16_at(at)?);
        if len < 4 {
            return None;
        }
        if u16_at(at + 2)? == INET_DIAG_CGROUP_ID {
            let id = answer.get(at + 4..at + 12)?;
            return Some(u64::from_ne_bytes(id.try_into().ok()?));
        }
        at += len.next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// The cgroup2 that this process is in, by the inode that its id is.
    fn own_cgroup() -> Option<u64> {
        use std::os::unix::fs::MetadataExt as _;
        let lines = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = lines
            .lines()
            .find_map(|l| l.strip_prefix("0::"))?
            .to_owned();
        let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
        let mount = mounts
            .lines()
            .find(|l| l.split(' ').nth(2) == Some("cgroup2"))?;
        let at = format!("{}{path}", mount.split(' ').nth(1)?);
        Some(std::fs::metadata(at).ok()?.ino())
    }

    #[test]
    fn an_asker_is_known_by_its_socket() {
        let Some(own) = own_cgroup() else {
            eprintln!("SKIP: no cgroup2 here");
            return;
        };
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let Ok(server) = UdpSocket::bind((ip, 0)) else {
                eprintln!("SKIP: no {ip} here");
                continue;
            };
            let addr = server.local_addr().unwrap();
            let client = UdpSocket::bind((ip, 0)).unwrap();
            let asker = client.local_addr().unwrap();
            let askers = Askers::default();
            let mut finder = Finder::new(addr);
            let now = Instant::now();
            // Not connected, connected, gone.
            finder.count(&askers, asker, now);
            client.connect(addr).unwrap();
            finder.count(&askers, asker, now);
            if askers.read().is_empty() && finder.find(addr).is_none() {
                eprintln!("SKIP: this kernel has no socket diagnosis for UDP");
                return;
            }
            assert_eq!(askers.read(), BTreeMap::from([(own, 2)]));
            drop(client);
            finder.count(&askers, asker, now);
            assert_eq!(askers.read(), BTreeMap::from([(own, 2)]));
            // The budget of a second.
            finder.left = 0;
            finder.count(&askers, addr, now);
            let unknown = askers.unknown.load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!(unknown, 2);
            finder.count(&askers, addr, now + SECOND);
            assert_eq!(askers.read()[&own], 3);
            askers.forget(own);
            assert!(askers.read().is_empty());
        }
    }

    #[test]
    fn answers_that_are_cut_off_name_nobody() {
        let mut answer = vec![0; HEADER + MESSAGE];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer.extend_from_slice(&12u16.to_ne_bytes());
        answer.extend_from_slice(&INET_DIAG_CGROUP_ID.to_ne_bytes());
        answer.extend_from_slice(&7u64.to_ne_bytes());
        assert_eq!(cgroup(&answer, 0, 0), Some(7));
        assert_eq!(cgroup(&answer, 0, 1), None);
        for n in 0..answer.len() {
            assert_eq!(cgroup(&answer[..n], 0, 0), None, "{n}");
        }
        // An attribute of no length would never end.
        answer[HEADER + MESSAGE] = 0;
        assert_eq!(cgroup(&answer, 0, 0), None);
    }
}
