//! Who asks: the cgroup of the socket that a question came from, as the kernel's socket diagnosis has it.
//!
//! Tasks in host mode share the node's addresses, so an address says nothing about them; their sockets do. One
//! look-up takes some 10 us, so that there is a budget for each second: within it every question is attributed, what is
//! beyond it is counted as not attributed. Sockets of other network namespaces are not found; they have
//! addresses of their own.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::SocketAddr,
    sync::{Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use tokio::time::Instant;

use super::counters::add;
use crate::sock_diag::{SockDiag, Transport};

/// Look-ups of one thread in a second: a thousandth of its time, and under load too few to show in the slowest hundredth
/// of the answers.
const BUDGET: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);
/// The kernel answers at once or not at all.
const PATIENCE: Duration = Duration::from_millis(20);
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
    diag: Option<SockDiag>,
    own: SocketAddr,
    left: u32,
    since: Instant,
}

impl Finder {
    /// For questions that come to `own`.
    pub(super) fn new(own: SocketAddr) -> Self {
        let diag = SockDiag::open(PATIENCE);
        if let Err(error) = &diag {
            tracing::debug!(%error, "dns questions are not attributed to tasks");
        }
        Self {
            diag: diag.ok(),
            own,
            left: BUDGET,
            since: Instant::now(),
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
        let diag = self.diag.as_mut()?;
        let found = diag.cgroup_of(Transport::Udp, asker, self.own);
        // A late answer is passed over by the next question.
        let late = [
            ErrorKind::WouldBlock,
            ErrorKind::TimedOut,
            ErrorKind::Interrupted,
        ];
        if let Err(error) = &found
            && !late.contains(&error.kind())
        {
            tracing::debug!(%error, "dns questions are attributed to tasks no more");
            self.diag = None;
        }
        found.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, UdpSocket};

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
}
