//! What the programs that put a `traceparent` into requests remember, and the arithmetic by which they decide.
//!
//! Both sides share it so that it can be tested where there is no kernel: [`head`] finds a head and what follows it, [`ids`] makes the
//! ids that both ends of a connection come to.

#![allow(
    clippy::cast_possible_truncation,
    reason = "bytes and halves of words, as the kernel's programs take them"
)]
#![allow(
    clippy::inline_always,
    reason = "programs have no calls to spare, and little stack"
)]

pub mod head;
pub mod ids;

/// Most cgroups whose requests get a header.
pub const MAX_INJECTED: u32 = 4096;
/// Most connections that get one at once; more are left alone, and counted.
pub const MAX_MEMBERS: u32 = 16_384;
/// Threads and processes that are remembered; the oldest are forgotten, and must prove themselves anew.
pub const MAX_THREADS: u32 = 16_384;
/// Bytes of a message in which a head must end.
pub const WINDOW: usize = 2048;
/// Requests that a process must have answered in the plain way before a call of its threads is put down to a request.
pub const PROOF: u32 = 8;
/// For how long nothing is said of a process after a request without an answer.
pub const DOUBT_NS: u64 = 600_000_000_000;
/// For good.
pub const FOREVER: u64 = u64::MAX;

/// Where an outgoing connection is.
pub mod state {
    /// The next byte is the first of a request.
    pub const BEGIN: u32 = 0;
    /// The body goes on until [`super::Caller::end`].
    pub const BODY: u32 = 1;
    /// Left alone for good.
    pub const OFF: u32 = 2;
}

/// Beginning of a message, and the walk over it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// What was found. Here, and not on a program's stack, since verifiers before Linux 6.7 believe that what a loop's function changes
    /// there is after many steps as it is after one.
    pub scan: head::Scan,
    /// Its bytes.
    pub bytes: [u8; WINDOW],
}

/// An outgoing connection of a task that asked for it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Its cookie, under which it is a member.
    pub cookie: u64,
    /// Its cgroup.
    pub cgroup_id: u64,
    /// Where an address is written to be read as a number.
    pub scratch: u64,
    /// TCP's number of the byte after the body. Not how much is left: what a sender that doesn't wait could not send comes again.
    pub end: u32,
    /// [`state`].
    pub state: u32,
    /// 1 while it is in the map that makes the program see what it sends.
    pub is_member: u32,
    /// Zero.
    pub pad0: u32,
    /// Beginning of the message at hand. Here since whoever sends holds the socket: memory of a CPU could be taken by another.
    pub window: Window,
    /// What is written into the message.
    pub header: [u8; head::HEADER],
    /// Zero.
    pub pad: [u8; 2],
}

/// An incoming connection of such a task.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Served {
    /// Its cookie.
    pub cookie: u64,
    /// Its cgroup.
    pub cgroup_id: u64,
    /// Where an address is written to be read as a number.
    pub scratch: u64,
    /// Trace of the last request, high half.
    pub trace_high: u64,
    /// Low half; both 0 where it is not known.
    pub trace_low: u64,
    /// Who has read from it, `tgid << 32 | tid`; 0 for nobody.
    pub reader: u64,
    /// Number of the next byte.
    pub next: u32,
    /// Number of the request's first byte.
    pub first: u32,
    /// 1 until somebody has read the request.
    pub is_pending: u32,
    /// Requests without an answer.
    pub in_flight: u32,
    /// What the wire says of sampling, or 1.
    pub is_sampled: u32,
    /// [`crate::requests::closed`].
    pub closed: u32,
    /// 1 once [`Served::next`] is known.
    pub is_known: u32,
    /// 1 where a request came before the one before it was answered.
    pub is_queued: u32,
}

/// A thread, or a process, of a task.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ThreadKey {
    /// The task's cgroup.
    pub cgroup_id: u64,
    /// `tgid << 32 | tid`; of a process `tgid << 32`.
    pub id: u64,
}

/// What is known of a thread that reads requests.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Thread {
    /// Cookie of the connection that it has read last; 0 once that is closed.
    pub socket: u64,
    /// Trace of the request that it works on.
    pub trace_high: u64,
    /// Low half.
    pub trace_low: u64,
    /// 1 while it works on a request.
    pub is_open: u32,
    /// Whether that trace is sampled.
    pub is_sampled: u32,
    /// 1 once it has called while it had no request.
    pub has_own_business: u32,
    /// Zero.
    pub pad: u32,
}

/// What is known of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Process {
    /// Until then nothing is said of it.
    pub distrusted_until: u64,
    /// Requests that were read and answered by one thread.
    pub n_proofs: u32,
    /// Zero.
    pub pad: u32,
}

impl Caller {
    /// One that is a member.
    pub fn member(cookie: u64, cgroup_id: u64, state: u32) -> Self {
        Self {
            cookie,
            cgroup_id,
            scratch: 0,
            end: 0,
            state,
            is_member: 1,
            pad0: 0,
            window: Window {
                scan: head::Scan::default(),
                bytes: [0; WINDOW],
            },
            header: [0; head::HEADER],
            pad: [0; 2],
        }
    }
}

impl Thread {
    /// A thread reads a request from a connection. `true`: its process works on several things at once.
    #[inline(always)]
    pub fn reads(&mut self, socket: u64, trace: (u64, u64), is_sampled: u32) -> bool {
        let is_odd = self.is_open != 0 || self.socket != 0 && self.socket != socket;
        self.socket = socket;
        (self.trace_high, self.trace_low) = trace;
        self.is_sampled = is_sampled;
        self.is_open = 1;
        is_odd
    }

    /// A connection that it has read is over. `true`: a request was left without an answer.
    #[inline(always)]
    pub fn closed(&mut self, socket: u64) -> bool {
        if self.socket != socket {
            return false;
        }
        let is_odd = self.is_open != 0;
        self.socket = 0;
        self.is_open = 0;
        is_odd
    }
}

impl Process {
    /// It works on several things at once, or hands them over.
    #[inline(always)]
    pub fn is_odd(&mut self) {
        self.distrusted_until = FOREVER;
    }

    /// A request was left without an answer: whoever works on it may go on.
    #[inline(always)]
    pub fn left_unanswered(&mut self, now: u64) {
        if self.distrusted_until != FOREVER {
            self.distrusted_until = now.saturating_add(DOUBT_NS);
        }
        self.n_proofs = 0;
    }

    /// Whether a call of a thread of it can be put down to the request that the thread works on.
    #[inline(always)]
    pub fn is_plain(&self, now: u64) -> bool {
        now >= self.distrusted_until && self.n_proofs >= PROOF
    }
}

/// Positions in the array of counts.
pub mod count {
    /// Requests that got a header in the trace of the request that their thread works on.
    pub const CHILD: u32 = 0;
    /// Requests that got one of a trace that begins with them.
    pub const FRESH: u32 = 1;
    /// Requests that had one.
    pub const HAS_CONTEXT: u32 = 2;
    /// Connections left alone: what was sent is no HTTP/1.1 request.
    pub const NOT_HTTP: u32 = 3;
    /// Its head does not end within [`super::WINDOW`].
    pub const LONG_HEAD: u32 = 4;
    /// Its head was not sent at once.
    pub const SPLIT_HEAD: u32 = 5;
    /// How long the body is can't be said.
    pub const BAD_LENGTH: u32 = 6;
    /// The body is sent in chunks: not followed.
    pub const CHUNKED: u32 = 7;
    /// A request was sent before the one before it had arrived, or more than one at once.
    pub const PIPELINED: u32 = 8;
    /// It is to become another protocol.
    pub const UPGRADE: u32 = 9;
    /// No memory, or no room.
    pub const NO_MEMORY: u32 = 10;
    /// The body is longer than TCP's numbers tell.
    pub const LONG_BODY: u32 = 11;
    /// Number of counts.
    pub const COUNT: u32 = 12;
    /// Names, by position.
    pub const NAMES: [&str; COUNT as usize] = [
        "child",
        "fresh",
        "has_context",
        "not_http",
        "long_head",
        "split_head",
        "bad_length",
        "chunked",
        "pipelined",
        "upgrade",
        "no_memory",
        "long_body",
    ];
}

/// Places of fields, by position: bytes from the beginning of the structure.
pub mod at {
    /// `task_struct.pid`, which `tgid` follows.
    pub const TASK_PID: usize = 0;
    /// `sock.sk_lock` and `socket_lock_t.owned` added up.
    pub const SK_OWNED: usize = 1;
    /// `tcp_sock.copied_seq`.
    pub const COPIED_SEQ: usize = 2;
    /// `tcp_sock.write_seq`.
    pub const WRITE_SEQ: usize = 3;
    /// `tcp_sock.snd_una`.
    pub const SND_UNA: usize = 4;
    /// Number of places.
    pub const COUNT: usize = 5;
}

const _: () = {
    assert!(size_of::<Window>() == 48 + WINDOW);
    assert!(size_of::<Caller>() == 40 + size_of::<Window>() + 72);
    assert!(size_of::<Served>() == 80);
    assert!(size_of::<Thread>() == 40);
    assert!(size_of::<Process>() == 16);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_reads_one_thing_after_the_other_is_plain() {
        let mut thread = Thread::default();
        let mut process = Process::default();
        for n in 0..PROOF {
            assert!(!process.is_plain(1));
            assert!(!thread.reads(7, (1, u64::from(n)), 1));
            thread.is_open = 0;
            process.n_proofs += 1;
        }
        assert!(process.is_plain(1));
        assert!(!thread.closed(7));
        assert!(!thread.reads(8, (1, 2), 1), "the one before is closed");
    }

    #[test]
    fn a_thread_that_reads_two_connections_is_not() {
        let mut thread = Thread::default();
        thread.reads(7, (1, 1), 1);
        thread.is_open = 0;
        assert!(thread.reads(8, (1, 2), 1), "the other is open");
        let mut thread = Thread::default();
        thread.reads(7, (1, 1), 1);
        assert!(thread.reads(7, (1, 2), 1), "two requests at once");
    }

    #[test]
    fn a_request_without_an_answer_casts_doubt_for_a_while() {
        let mut thread = Thread::default();
        thread.reads(7, (1, 1), 1);
        assert!(!thread.closed(9), "another's");
        assert!(thread.closed(7));
        let mut process = Process {
            n_proofs: PROOF,
            ..Process::default()
        };
        process.left_unanswered(5);
        process.n_proofs = PROOF;
        assert!(!process.is_plain(DOUBT_NS));
        assert!(process.is_plain(DOUBT_NS + 5));
        process.is_odd();
        process.left_unanswered(6);
        process.n_proofs = PROOF;
        assert!(!process.is_plain(u64::MAX - 1), "not forgiven");
    }
}
