//! Whose child a span is. The law: a parent is right, or there is none.
//!
//! # With a `traceparent` on the wire
//! It says the trace. A server's span is the child of the span of the client's end if this node traces that end, else of whom the wire
//! names. A client's span is the child of the request of its task that came with just these ids and is in flight, if there is one and never was
//! another: a program that makes no spans has handed the header on. Else it is the child of whom the wire names.
//!
//! Where the kernel has put it in (an agent's `--trace-inject`), the wire names the client's own span, and says only the trace: the
//! request that the sender's thread works on is the parent, if that is the only one and of this trace.
//!
//! # Without
//! A hop is a trace by itself, whose ids both ends make by hashing ([`ids`](super::ids)): the client's span its root, the server's the
//! child. Of a client on another node only that node knows whether it is traced: the server's span then has no parent, and says so; both
//! are in one trace all the same. A client's span belongs to the request that its thread works on, if that can be said ([`threads`]), and if nothing that is seen
//! until that request and all others that were then in flight in its process have ended says otherwise: it was answered by
//! the thread that read it, after the call was. Then:
//! - if no other node has to agree (the callee is on this node, where both ends find each other here, or is none of the cluster's), the
//!   client's span is that request's child, in its trace;
//! - else the hop stays a trace of its own, and the client's span has a link to that request.
//!
//! A span that isn't put down to a request says why, in `waggle.request.unlinked`.
//!
//! Requests that were not seen may be in flight, too: while it is known that some of a task's were lost, and while the reader of one is not
//! known, nothing is said about that task.
//!
//! # What can't be told
//! A program with an event loop that has never had more than one connection and one request at a time, and has never called while it had none,
//! looks like a plain one, and a call that its timer makes looks like one of the request's. [`Options::proof`](super::Options) requests must
//! have gone by before anything is said.

mod memory;
mod threads;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
};

use threads::{Candidate, Threads};
use waggle_types::TraceContext;

use super::{Peer, RequestSpan, Role, ids::Hop};

pub(super) type NodeId = u64;

/// Why a call is not put down to a request, or a request not to its client's span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unlinked {
    NoThread,
    Idle,
    OwnBusiness,
    Unproven,
    Multiplexes,
    HandsOver,
    NotAnswered,
    Undecided,
    NoRoom,
    UnknownHead,
    Lost,
    OtherNode,
}

impl Unlinked {
    /// Value of `waggle.request.unlinked`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NoThread => "no_thread",
            Self::Idle => "idle",
            Self::OwnBusiness => "own_business",
            Self::Unproven => "unproven",
            Self::Multiplexes => "multiplexes",
            Self::HandsOver => "hands_over",
            Self::NotAnswered => "not_answered",
            Self::Undecided => "undecided",
            Self::NoRoom => "no_room",
            Self::UnknownHead => "unknown_head",
            Self::Lost => "lost",
            Self::OtherNode => "other_node",
        }
    }
}

/// A request that begins, at one end.
#[derive(Debug)]
pub(super) struct Begins {
    pub(super) at: u64,
    pub(super) cgroup: u64,
    pub(super) socket: u64,
    pub(super) hop: Hop,
    /// Who reads (a server) or sends it.
    pub(super) thread: Option<u64>,
    /// What the wire says.
    pub(super) context: Option<TraceContext>,
    /// A context may be in what was not seen.
    pub(super) is_unsure: bool,
    /// What is at the other end.
    pub(super) peer: Peer,
}

/// Where a span belongs.
#[derive(Debug, Clone, Copy)]
struct Place {
    trace_id: u128,
    parent: Option<u64>,
    is_remote: bool,
    /// What the wire said of sampling.
    is_sampled: Option<bool>,
}

#[derive(Debug)]
struct Node {
    begun_at: u64,
    cgroup: u64,
    is_server: bool,
    span_id: u64,
    thread: Option<u64>,
    wire: Option<TraceContext>,
    place: Option<Place>,
    followers: Vec<NodeId>,
    verdict: Verdict,
    links: Vec<TraceContext>,
    unlinked: Option<Unlinked>,
    answered: Option<Answer>,
    is_over: bool,
    is_emitted: bool,
    done: Option<Box<RequestSpan>>,
    hop: Hop,
    /// Calls that wait for its end.
    calls: Vec<NodeId>,
    /// Of these, how many may be its own and are not judged.
    n_undecided: usize,
}

/// Whether a call is a request's own.
#[derive(Debug)]
enum Verdict {
    /// There is nothing to say.
    None,
    /// Once these are over.
    Awaits {
        request: NodeId,
        others: BTreeSet<NodeId>,
        /// Whether it is to be a link, not a parent.
        is_link: bool,
        /// The request is over, and it is.
        fits: Option<bool>,
    },
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    thread: Option<u64>,
}

/// Where a client's span belongs whose context the kernel has put in.
#[derive(Debug)]
enum Injected {
    /// It is the child of a request, in its trace.
    Within(u64),
    /// It may belong to a request of another trace: once that is over, by a link.
    Beside(NodeId, BTreeSet<NodeId>),
    /// The root of a trace, or nobody's child in one.
    Alone(Unlinked),
}

/// Calls of one request that are put down to it.
const MAX_CALLS: usize = 1024;
/// A finished span, or one whose trace is not to be kept.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) span: Box<RequestSpan>,
    pub(super) is_sampled: Option<bool>,
    pub(super) unlinked: Option<Unlinked>,
}

/// Requests in flight, those that wait for a verdict, and what is remembered to reach one.
#[derive(Debug)]
pub(super) struct Links {
    nodes: BTreeMap<NodeId, Node>,
    next: NodeId,
    threads: Threads,
    /// Clients' ends of this node by hop; with the place once it is known.
    hops: BTreeMap<u128, HopSeen>,
    hops_by_age: VecDeque<(u64, u128)>,
    wires: BTreeMap<(u64, u128, u64), WireSeen>,
    wires_doubtful_until: u64,
    open_by_cgroup: BTreeMap<u64, Open>,
    doubts: BTreeMap<u64, u64>,
    /// So of all tasks.
    doubtful_until: u64,
    now: u64,
    ready: Vec<Ready>,
    limits: Limits,
}

/// Requests of a task in flight.
#[derive(Debug, Default)]
struct Open {
    n: usize,
    /// Of which nobody knows who has read them.
    n_unread: usize,
}

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) nodes: usize,
    pub(super) threads: usize,
    pub(super) hops: usize,
    pub(super) proof: u32,
    pub(super) decide_ns: u64,
}

#[derive(Debug)]
struct HopSeen {
    node: NodeId,
    span_id: u64,
    place: Option<Place>,
}

#[derive(Debug)]
struct WireSeen {
    n: u32,
    node: NodeId,
    is_open: bool,
    at: u64,
}

impl Links {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            nodes: BTreeMap::new(),
            next: 0,
            threads: Threads::new(limits.threads),
            hops: BTreeMap::new(),
            hops_by_age: VecDeque::new(),
            wires: BTreeMap::new(),
            wires_doubtful_until: 0,
            open_by_cgroup: BTreeMap::new(),
            doubts: BTreeMap::new(),
            doubtful_until: 0,
            now: 0,
            ready: Vec::new(),
            limits,
        }
    }

    /// Whether one more can be followed.
    pub(super) fn has_room(&self) -> bool {
        self.nodes.len() < self.limits.nodes
    }

    /// How often threads were not remembered.
    pub(super) fn n_full(&self) -> u64 {
        self.threads.n_full()
    }

    /// Spans whose place is known.
    pub(super) fn ready(&mut self) -> Vec<Ready> {
        std::mem::take(&mut self.ready)
    }

    fn add(&mut self, begins: &Begins, is_server: bool) -> NodeId {
        self.next += 1;
        self.now = self.now.max(begins.at);
        let node = Node {
            begun_at: begins.at,
            cgroup: begins.cgroup,
            is_server,
            span_id: if is_server {
                begins.hop.server_span()
            } else {
                begins.hop.client_span()
            },
            thread: begins.thread,
            wire: begins.context,
            place: None,
            followers: Vec::new(),
            verdict: Verdict::None,
            links: Vec::new(),
            unlinked: None,
            answered: None,
            is_over: false,
            is_emitted: false,
            done: None,
            hop: begins.hop,
            calls: Vec::new(),
            n_undecided: 0,
        };
        self.nodes.insert(self.next, node);
        self.next
    }

    /// A request comes in. `is_open` says which other connections are.
    pub(super) fn server(&mut self, begins: &Begins, is_open: impl Fn(u64) -> bool) -> NodeId {
        let hop = begins.hop;
        let id = self.add(begins, true);
        let open = self.open_by_cgroup.entry(begins.cgroup).or_default();
        open.n += 1;
        open.n_unread += usize::from(begins.thread.is_none());
        if let Some(thread) = begins.thread {
            let key = (begins.cgroup, thread);
            self.threads
                .read(key, id, begins.socket, begins.at, is_open);
        }
        let here = self.hops.get(&hop.key());
        let client = here.map(|seen| seen.span_id);
        let mut place = Place {
            trace_id: hop.trace(),
            parent: None,
            is_remote: true,
            is_sampled: None,
        };
        if let Some(context) = begins.context {
            self.remember_wire(begins, context, id);
            place.trace_id = context.trace_id;
            place.parent = Some(client.unwrap_or(context.span_id));
            place.is_sampled = Some(is_sampled(context));
        } else if begins.is_unsure {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.unlinked = Some(Unlinked::UnknownHead);
            }
        } else if let Some(seen) = here {
            let Some(of_client) = seen.place else {
                let client = seen.node;
                self.follow(id, client);
                return id;
            };
            place = Place {
                parent: client,
                is_remote: true,
                ..of_client
            };
        } else if begins.peer == Peer::Elsewhere
            && let Some(node) = self.nodes.get_mut(&id)
        {
            node.unlinked = Some(Unlinked::OtherNode);
        }
        self.settle(id, place);
        id
    }

    /// A request goes out.
    pub(super) fn client(&mut self, begins: &Begins) -> NodeId {
        let hop = begins.hop;
        let id = self.add(begins, false);
        let mut place = Place {
            trace_id: hop.trace(),
            parent: None,
            is_remote: false,
            is_sampled: None,
        };
        // Evidence counts whether or not it is needed here.
        let candidate = self.candidate(begins);
        let mut unlinked = None;
        let injected = begins
            .context
            .filter(|context| context.span_id == hop.client_span());
        if let Some(context) = injected {
            match self.injected(begins, context, candidate) {
                Injected::Within(parent) => {
                    place.trace_id = context.trace_id;
                    place.parent = Some(parent);
                }
                Injected::Beside(request, others) => {
                    place.trace_id = context.trace_id;
                    if self.put_down(id, request, others, true) {
                        place.is_sampled = Some(is_sampled(context));
                        self.remember_hop(begins, id);
                        self.settle(id, place);
                        return id;
                    }
                    unlinked = Some(Unlinked::NoRoom);
                }
                Injected::Alone(why) => {
                    place.trace_id = context.trace_id;
                    unlinked = Some(why);
                }
            }
            place.is_sampled = Some(is_sampled(context));
        } else if let Some(context) = begins.context {
            let own = self.request_with(begins, context);
            place.trace_id = context.trace_id;
            place.parent = Some(own.unwrap_or(context.span_id));
            place.is_remote = own.is_none();
            place.is_sampled = Some(is_sampled(context));
        } else if begins.is_unsure {
            unlinked = Some(Unlinked::UnknownHead);
        } else {
            match candidate {
                Candidate::Request(request, others) => {
                    let is_link = begins.peer == Peer::Elsewhere;
                    if self.put_down(id, request, others, is_link) {
                        self.remember_hop(begins, id);
                        if is_link {
                            self.settle(id, place);
                        }
                        return id;
                    }
                    unlinked = Some(Unlinked::NoRoom);
                }
                Candidate::Unlinked(why) => unlinked = Some(why),
            }
        }
        // Where nothing is served there is nothing that it could belong to.
        let serves = self.open_by_cgroup.contains_key(&begins.cgroup);
        let is_plain = matches!(unlinked, Some(Unlinked::Idle | Unlinked::NoThread));
        if is_plain && self.is_doubtful(begins.cgroup) {
            unlinked = Some(Unlinked::Lost);
        }
        let is_plain = is_plain && unlinked != Some(Unlinked::Lost);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.unlinked = unlinked.filter(|_| serves || !is_plain);
        }
        self.remember_hop(begins, id);
        self.settle(id, place);
        id
    }

    /// The wire names the client's own span: the kernel has put the context in. In whose trace it did so was decided by what it knew then;
    /// the parent is the request that the thread works on, if that is of this trace.
    fn injected(&self, begins: &Begins, context: TraceContext, candidate: Candidate) -> Injected {
        let key = begins.thread.map(|thread| (begins.cgroup, thread));
        let open = key.map_or(&[][..], |key| self.threads.works_on(key));
        let trace = |id: &NodeId| self.nodes.get(id)?.place.map(|place| place.trace_id);
        if let [one] = open
            && trace(one) == Some(context.trace_id)
            && let Some(node) = self.nodes.get(one)
        {
            return Injected::Within(node.span_id);
        }
        match candidate {
            Candidate::Request(request, others) => Injected::Beside(request, others),
            Candidate::Unlinked(why) => Injected::Alone(why),
        }
    }

    fn candidate(&mut self, begins: &Begins) -> Candidate {
        let Some(thread) = begins.thread else {
            return Candidate::Unlinked(Unlinked::NoThread);
        };
        let key = (begins.cgroup, thread);
        let found = self.threads.calls(key, begins.at, self.limits.proof);
        let open = self.open_by_cgroup.get(&begins.cgroup);
        let is_unread = open.is_some_and(|o| o.n_unread > 0);
        match found {
            Candidate::Request(..) if self.is_doubtful(begins.cgroup) => {
                Candidate::Unlinked(Unlinked::Lost)
            }
            Candidate::Request(..) if is_unread => Candidate::Unlinked(Unlinked::NoThread),
            found => found,
        }
    }

    /// `false`: that request has too many calls.
    fn put_down(
        &mut self,
        call: NodeId,
        request: NodeId,
        others: BTreeSet<NodeId>,
        is_link: bool,
    ) -> bool {
        let Some(node) = self.nodes.get_mut(&request) else {
            return false;
        };
        if node.calls.len() >= MAX_CALLS {
            return false;
        }
        node.calls.push(call);
        node.n_undecided += 1;
        for other in &others {
            if let Some(other) = self.nodes.get_mut(other)
                && other.calls.last() != Some(&call)
            {
                other.calls.push(call);
            }
        }
        if let Some(node) = self.nodes.get_mut(&call) {
            node.verdict = Verdict::Awaits {
                request,
                others,
                is_link,
                fits: None,
            };
        }
        true
    }

    /// Gives up what has waited for too long, forgets what is old.
    pub(super) fn tick(&mut self, now: u64) {
        let limit = self.limits.decide_ns;
        let waits = |n: &Node| {
            let awaits = matches!(n.verdict, Verdict::Awaits { .. });
            awaits && n.done.is_some() && now.saturating_sub(n.begun_at) > limit
        };
        let nodes = self.nodes.iter();
        let late: Vec<NodeId> = nodes.filter(|(_, n)| waits(n)).map(|(id, _)| *id).collect();
        for id in late {
            self.judge(id, Some(Unlinked::Undecided));
        }
        self.forget_old(now);
        self.threads.tick(now);
    }

    /// A task is gone.
    pub(super) fn forget(&mut self, cgroup: u64) {
        self.threads.forget(cgroup);
        self.doubts.remove(&cgroup);
    }

    /// How many are in flight or wait.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
}

fn is_sampled(context: TraceContext) -> bool {
    context.flags & 1 != 0
}

/// Asked of the address at the other end, and of which end that is.
pub(super) type Peers = std::sync::Arc<dyn Fn(SocketAddr, Role) -> Peer + Send + Sync>;
