//! What is known of threads that read requests: whether a call that one sends can be put down to a request.
//!
//! Only of a process that works as one did before there were event loops can it be said: a thread reads a request, works on it and
//! nothing else, and answers it. Each of these says that a process works otherwise, and is remembered as long as the process is:
//! - a thread has two requests in flight at once, or reads from a second connection while the first is open;
//! - a connection is read by two threads, or a request is answered by another thread than has read it;
//! - a request ends without an answer: whoever works on it may go on. That is forgotten after ten minutes, and shown anew.
//!
//! Of a thread that calls while it has no request it is known that it has business of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::{NodeId, Unlinked};

/// A process, or a thread of it, of which nothing was seen for so long is forgotten.
const IDLE_NS: u64 = 600_000_000_000;
/// Requests that a process has in flight; with more nothing is said of it.
const MAX_OPEN: usize = 256;

/// Requests that a call may have to wait for.
const MAX_AWAITED: usize = 64;

/// A thread of a task: cgroup, then `pid_tgid`.
pub(super) type ThreadKey = (u64, u64);

#[derive(Debug)]
struct Thread {
    open: Vec<NodeId>,
    /// The connection that it has read last.
    socket: u64,
    has_own_business: bool,
    at: u64,
}

#[derive(Debug, Default)]
struct Process {
    open: BTreeSet<NodeId>,
    distrust: Option<(Unlinked, u64)>,
    /// Requests that were read and answered by one thread.
    n_proofs: u32,
    at: u64,
}

impl Process {
    fn odd(&mut self, why: Unlinked, at: u64) {
        match &mut self.distrust {
            Some((Unlinked::NotAnswered, was)) => *was = at,
            Some(_) => return,
            None => {}
        }
        if !matches!((self.distrust, why), (Some(_), Unlinked::NotAnswered)) {
            self.distrust = Some((why, at));
        }
    }

    fn may_be_forgiven(&mut self, at: u64) {
        if let Some((Unlinked::NotAnswered, since)) = self.distrust
            && at.saturating_sub(since) > IDLE_NS
        {
            self.distrust = None;
            self.n_proofs = 0;
        }
    }
}

/// Whom a call may be put down to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Candidate {
    /// A request, if nothing that is seen until these have ended says otherwise.
    Request(NodeId, BTreeSet<NodeId>),
    Unlinked(Unlinked),
}

#[derive(Debug)]
pub(super) struct Threads {
    all: BTreeMap<ThreadKey, Thread>,
    processes: BTreeMap<(u64, u64), Process>,
    /// Threads and processes that are remembered.
    most: usize,
    /// Something was not remembered: until then nothing is said.
    doubtful_until: u64,
    n_full: u64,
}

fn process((cgroup, thread): ThreadKey) -> (u64, u64) {
    (cgroup, thread >> 32)
}

impl Threads {
    pub(super) fn new(most: usize) -> Self {
        Self {
            all: BTreeMap::new(),
            processes: BTreeMap::new(),
            most,
            doubtful_until: 0,
            n_full: 0,
        }
    }

    /// How often there was no room.
    pub(super) fn n_full(&self) -> u64 {
        self.n_full
    }

    /// Why nothing is said of a process any more.
    pub(super) fn distrust(&self, thread: ThreadKey) -> Option<Unlinked> {
        let process = self.processes.get(&process(thread))?;
        process.distrust.map(|(why, _)| why)
    }

    /// Its process doesn't work in the plain way.
    pub(super) fn odd(&mut self, thread: ThreadKey, why: Unlinked, at: u64) {
        if let Some(process) = self.processes.get_mut(&process(thread)) {
            process.odd(why, at);
        }
    }

    /// A thread has read a request from a connection; `is_open` says which others are.
    pub(super) fn read(
        &mut self,
        key: ThreadKey,
        node: NodeId,
        socket: u64,
        at: u64,
        is_open: impl Fn(u64) -> bool,
    ) {
        let has_room = self.all.len() < self.most && self.processes.len() < self.most;
        if !has_room && !self.all.contains_key(&key) {
            self.n_full += 1;
            self.doubtful_until = at.saturating_add(IDLE_NS);
            return;
        }
        let process = self.processes.entry(process(key)).or_default();
        let thread = self.all.entry(key).or_insert_with(|| Thread {
            open: Vec::new(),
            socket,
            has_own_business: false,
            at,
        });
        let other = thread.socket != socket && is_open(thread.socket);
        if other || !thread.open.is_empty() {
            process.odd(Unlinked::Multiplexes, at);
        }
        if process.open.len() >= MAX_OPEN {
            process.odd(Unlinked::NoRoom, at);
        } else {
            process.open.insert(node);
            thread.open.push(node);
        }
        thread.socket = socket;
        (thread.at, process.at) = (at, at);
    }

    /// A request that a thread has read is over; whether it was that thread that has answered.
    pub(super) fn ended(&mut self, key: ThreadKey, node: NodeId, is_proof: bool) {
        if let Some(thread) = self.all.get_mut(&key) {
            thread.open.retain(|n| *n != node);
        }
        if let Some(process) = self.processes.get_mut(&process(key)) {
            process.open.remove(&node);
            process.n_proofs = process.n_proofs.saturating_add(u32::from(is_proof));
        }
    }

    /// Requests that a thread works on.
    pub(super) fn works_on(&self, key: ThreadKey) -> &[NodeId] {
        self.all.get(&key).map_or(&[], |thread| &thread.open)
    }

    /// A thread has sent a request of its own.
    pub(super) fn calls(&mut self, key: ThreadKey, at: u64, proof: u32) -> Candidate {
        if at < self.doubtful_until {
            return Candidate::Unlinked(Unlinked::NoRoom);
        }
        let Some(process) = self.processes.get_mut(&process(key)) else {
            return Candidate::Unlinked(Unlinked::Idle);
        };
        process.at = at;
        process.may_be_forgiven(at);
        let distrust = process.distrust.map(|(why, _)| why);
        let Some(thread) = self.all.get_mut(&key) else {
            let why = distrust.unwrap_or(Unlinked::Idle);
            return Candidate::Unlinked(why);
        };
        thread.at = at;
        thread.has_own_business |= thread.open.is_empty();
        let why = match (thread.open.as_slice(), distrust) {
            (_, Some(why)) => why,
            ([], _) => Unlinked::Idle,
            (_, _) if thread.has_own_business => Unlinked::OwnBusiness,
            (_, _) if process.n_proofs < proof => Unlinked::Unproven,
            (_, _) if process.open.len() > MAX_AWAITED => Unlinked::NoRoom,
            ([one], _) => return Candidate::Request(*one, process.open.clone()),
            _ => Unlinked::Multiplexes,
        };
        Candidate::Unlinked(why)
    }

    /// Forgets what was not seen for long.
    pub(super) fn tick(&mut self, now: u64) {
        let is_old = |at: u64| now.saturating_sub(at) > IDLE_NS;
        self.all.retain(|_, t| !(t.open.is_empty() && is_old(t.at)));
        self.processes
            .retain(|_, p| !(p.open.is_empty() && is_old(p.at)));
    }

    /// A task is gone with all its threads.
    pub(super) fn forget(&mut self, cgroup: u64) {
        self.all.retain(|(c, _), _| *c != cgroup);
        self.processes.retain(|(c, _), _| *c != cgroup);
    }
}
