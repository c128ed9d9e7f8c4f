//! Who on this node may send telemetry, and which connection is whose.
//!
//! A task that has an address of its own is known by it: nobody else on the node has it. A connection from an address of the
//! node itself is known by the cgroup of the socket at its other end, which the kernel tells (`sock_diag`); what is in no task's
//! cgroup is nobody's. Nothing that a task says about itself is asked.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};
use waggle_telemetry::Sender;
use waggle_telemetry_pipeline::TaskLabels;
use waggle_types::TaskId;

use crate::{cgroup::TaskCgroup, networks::Own};

/// How far below a task's cgroup a process may be, and how many directories are looked at.
const MAX_DEPTH: usize = 4;
const MAX_DIRS: usize = 256;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// `INET_DIAG_CGROUP_ID`, since Linux 5.9.
const CGROUP_ID: u16 = 21;
/// Any socket, without its cookie.
const NO_COOKIE: [u8; 8] = [0xff; 8];
const TCP_LISTEN: u8 = 10;

#[derive(Debug)]
struct Known {
    sender: Arc<Sender>,
    own: Own,
    cgroup_id: u64,
    cgroup: Option<PathBuf>,
}

/// The tasks that run on this node.
#[derive(Debug, Default)]
pub struct Senders {
    known: RwLock<BTreeMap<TaskId, Known>>,
}

impl Senders {
    /// A task runs.
    pub fn add(&self, labels: &Arc<TaskLabels>, cgroup: &TaskCgroup, own: Own) {
        let known = Known {
            sender: Arc::new(Sender::new(Arc::clone(labels))),
            own,
            cgroup_id: labels.cgroup_id,
            cgroup: cgroup.v2.clone(),
        };
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(labels.task_id.clone(), known);
    }

    /// A task is over.
    pub fn remove(&self, task_id: &TaskId) {
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        all.remove(task_id);
    }

    /// Whose connection it is, seen from the end that accepted it. Blocking, for a moment.
    pub fn of(&self, peer: SocketAddr, local: SocketAddr) -> Option<Arc<Sender>> {
        let ip = peer.ip().to_canonical();
        let has = |own: &Own| match ip {
            IpAddr::V4(v4) => own.v4 == Some(v4),
            IpAddr::V6(v6) => own.v6 == Some(v6),
        };
        // The lock is not held while the kernel and files are asked: who adds a task must not wait for these.
        let mut of_host = Vec::new();
        {
            let all = self.known.read().unwrap_or_else(PoisonError::into_inner);
            for known in all.values() {
                let sender = Arc::clone(&known.sender);
                if has(&known.own) {
                    return Some(sender);
                }
                if known.own.is_empty() {
                    of_host.push((known.cgroup_id, known.cgroup.clone(), sender));
                }
            }
        }
        let id = match cgroup_of(peer, local) {
            Ok(id) => id?,
            Err(e) => {
                tracing::debug!(error = %e, %peer, "the kernel does not say whose socket this is");
                return None;
            }
        };
        let at = of_host.iter().find(|(own, _, _)| *own == id);
        let is_in = |dir: &Option<PathBuf>| dir.as_deref().is_some_and(|d| is_below(d, id));
        let below = || of_host.iter().find(|(_, dir, _)| is_in(dir));
        at.or_else(below).map(|(_, _, sender)| Arc::clone(sender))
    }
}

/// Whether a cgroup is one of those below a directory: its id is the directory's inode.
fn is_below(top: &Path, id: u64) -> bool {
    let mut left = vec![(top.to_owned(), 0)];
    let mut seen = 0;
    while let Some((dir, depth)) = left.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if !meta.is_dir() {
                continue;
            }
            seen += 1;
            if meta.ino() == id {
                return true;
            }
            if seen >= MAX_DIRS {
                return false;
            }
            if depth + 1 < MAX_DEPTH {
                left.push((entry.path(), depth + 1));
            }
        }
    }
    false
}

/// The cgroup of the socket that a connection came from, where that is in this network namespace.
fn cgroup_of(peer: SocketAddr, local: SocketAddr) -> io::Result<Option<u64>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    socket.send(&question(peer, local), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    Ok(cgroup_in(&answer))
}

/// Asks for the socket whose own end is `peer`.
fn question(peer: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + REQUEST);
    let total = u32::try_from(HEADER + REQUEST).unwrap_or_default();
    out.extend_from_slice(&total.to_ne_bytes());
    out.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    out.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    let family = if peer.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let protocol = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
    out.extend_from_slice(&[u8::try_from(family).unwrap_or_default(), protocol, 0, 0]);
    out.extend_from_slice(&u32::MAX.to_ne_bytes());
    out.extend_from_slice(&peer.port().to_be_bytes());
    out.extend_from_slice(&local.port().to_be_bytes());
    for ip in [peer.ip(), local.ip()] {
        let mut field = [0; 16];
        match ip {
            IpAddr::V4(v4) => field[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => field = v6.octets(),
        }
        out.extend_from_slice(&field);
    }
    // Any device.
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&NO_COOKIE);
    out
}

/// The cgroup id in an answer; `None` for a refusal and for a listener, which is no connection's end.
fn cgroup_in(answer: &[u8]) -> Option<u64> {
    let u16_at = |at: usize| -> Option<u16> {
        Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?))
    };
    if u16_at(4)? != BY_FAMILY || *answer.get(HEADER + 1)? == TCP_LISTEN {
        return None;
    }
    let mut at = HEADER + MESSAGE;
    while let (Some(len), Some(kind)) = (u16_at(at), u16_at(at + 2)) {
        let len = usize::from(len);
        if kind == CGROUP_ID {
            let value = answer.get(at + 4..at + 12)?;
            return Some(u64::from_ne_bytes(value.try_into().ok()?));
        }
        if len < 4 {
            return None;
        }
        at += len.next_multiple_of(4);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_tells_whose_socket_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (served, peer) = listener.accept().unwrap();
        let local = served.local_addr().unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let v2 = own.lines().find_map(|l| l.strip_prefix("0::")).unwrap();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find_map(|l| {
            let mut words = l.split(' ').skip(1);
            let (dir, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| dir.to_owned())
        });
        let Some(mount) = mount else {
            eprintln!("SKIP: no cgroup2 here");
            return;
        };
        let dir = Path::new(&mount).join(v2.trim_start_matches('/'));
        let Ok(meta) = fs::metadata(dir) else {
            eprintln!("SKIP: this process's cgroup is not to be seen here");
            return;
        };
        assert_eq!(cgroup_of(peer, local).unwrap(), Some(meta.ino()));
        drop(client);
        // Nobody is at that port.
        let nobody = SocketAddr::new(peer.ip(), 1);
        assert_eq!(cgroup_of(nobody, local).unwrap_or(None), None);
    }

    #[test]
    fn any_answer_is_survived() {
        for n in 0..200 {
            let _ = cgroup_in(&vec![1; n]);
            let _ = cgroup_in(&vec![0; n]);
        }
    }
}
