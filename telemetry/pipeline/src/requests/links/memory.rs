//! What is remembered of requests: clients' ends of this node, contexts that came in, and that some were not seen.

use waggle_types::TraceContext;

use super::{Begins, HopSeen, Links, NodeId, WireSeen};

/// How long ends of one node find each other.
const HOPS_NS: u64 = 60_000_000_000;
/// How long contexts of requests are remembered.
const WIRES_NS: u64 = 600_000_000_000;
/// How long a request may go on that was not seen.
const DOUBT_NS: u64 = 600_000_000_000;

impl Links {
    /// Requests of a task were not seen: they may be in flight.
    pub(in crate::requests) fn doubt(&mut self, cgroup: u64, at: u64) {
        let until = at.saturating_add(DOUBT_NS);
        if self.doubts.len() < self.limits.threads || self.doubts.contains_key(&cgroup) {
            self.doubts.insert(cgroup, until);
        } else {
            self.doubtful_until = self.doubtful_until.max(until);
        }
    }

    /// So may requests of any task.
    pub(in crate::requests) fn doubt_all(&mut self) {
        self.doubtful_until = self.now.saturating_add(DOUBT_NS);
    }

    pub(super) fn is_doubtful(&self, cgroup: u64) -> bool {
        let of_it = self.doubts.get(&cgroup).copied().unwrap_or(0);
        self.now < self.doubtful_until.max(of_it)
    }

    /// The one request of a task that came with a context, and is in flight.
    pub(super) fn request_with(&self, begins: &Begins, context: TraceContext) -> Option<u64> {
        let key = (begins.cgroup, context.trace_id, context.span_id);
        let seen = self.wires.get(&key)?;
        let is_sure = seen.n == 1 && seen.is_open && begins.at >= self.wires_doubtful_until;
        let is_sure = is_sure && !self.is_doubtful(begins.cgroup);
        let node = self.nodes.get(&seen.node)?;
        is_sure.then_some(node.span_id)
    }

    pub(super) fn remember_wire(&mut self, begins: &Begins, context: TraceContext, node: NodeId) {
        let key = (begins.cgroup, context.trace_id, context.span_id);
        let is_full = self.wires.len() >= self.limits.hops;
        if is_full && !self.wires.contains_key(&key) {
            self.wires_doubtful_until = begins.at.saturating_add(WIRES_NS);
            return;
        }
        let at = begins.at;
        let seen = self.wires.entry(key).or_insert(WireSeen {
            n: 0,
            node,
            is_open: true,
            at,
        });
        seen.n = seen.n.saturating_add(1);
        (seen.node, seen.is_open, seen.at) = (node, true, at);
    }

    pub(super) fn remember_hop(&mut self, begins: &Begins, node: NodeId) {
        let key = begins.hop.key();
        while self.hops_by_age.len() >= self.limits.hops {
            if let Some((_, oldest)) = self.hops_by_age.pop_front() {
                self.hops.remove(&oldest);
            }
        }
        self.hops_by_age.push_back((begins.at, key));
        let span_id = begins.hop.client_span();
        let seen = HopSeen {
            node,
            span_id,
            place: None,
        };
        self.hops.insert(key, seen);
    }

    /// Forgets what is old.
    pub(super) fn forget_old(&mut self, now: u64) {
        while let Some((at, key)) = self.hops_by_age.front().copied() {
            if now.saturating_sub(at) <= HOPS_NS {
                break;
            }
            self.hops_by_age.pop_front();
            self.hops.remove(&key);
        }
        self.wires
            .retain(|_, w| w.is_open || now.saturating_sub(w.at) <= WIRES_NS);
        self.now = self.now.max(now);
        self.doubts.retain(|_, until| *until > now);
    }
}
