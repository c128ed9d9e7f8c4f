//! What becomes of a request and of calls that may be its own, once it is answered, and once it is over.

use super::{Answer, Links, NodeId, Place, Ready, RequestSpan, Unlinked, Verdict};
use waggle_types::TraceContext;

impl Links {
    /// The head of the answer: who reads (a client) or sends it.
    pub(in crate::requests) fn answered(
        &mut self,
        id: NodeId,
        is_server: bool,
        at: u64,
        thread: Option<u64>,
    ) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.answered = Some(Answer { thread });
        if let (true, Some(read), Some(answers)) = (is_server, node.thread, thread)
            && read != answers
        {
            let key = (node.cgroup, read);
            self.threads.odd(key, Unlinked::HandsOver, at);
        }
    }

    /// A connection is read by another thread than before.
    pub(in crate::requests) fn moved(&mut self, cgroup: u64, thread: u64, at: u64) {
        self.threads.odd((cgroup, thread), Unlinked::HandsOver, at);
    }

    /// It is over, at this end.
    pub(in crate::requests) fn finished(
        &mut self,
        id: NodeId,
        span: Box<RequestSpan>,
        is_server: bool,
        at: u64,
    ) {
        if is_server {
            self.request_over(id, at);
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.done = Some(span);
            node.is_over = true;
        }
        self.emit(id);
    }

    /// A request's calls can be judged.
    fn request_over(&mut self, id: NodeId, at: u64) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.is_over = true;
        let (cgroup, read, answer) = (node.cgroup, node.thread, node.answered);
        let (wire, calls) = (node.wire, std::mem::take(&mut node.calls));
        if let Some(open) = self.open_by_cgroup.get_mut(&cgroup) {
            open.n = open.n.saturating_sub(1);
            open.n_unread -= usize::from(read.is_none()).min(open.n_unread);
            if open.n == 0 {
                self.open_by_cgroup.remove(&cgroup);
            }
        }
        if let Some(context) = wire {
            let key = (cgroup, context.trace_id, context.span_id);
            if let Some(seen) = self.wires.get_mut(&key)
                && seen.node == id
            {
                seen.is_open = false;
            }
        }
        let mut is_own = false;
        if let Some(read) = read {
            let key = (cgroup, read);
            match answer {
                None => self.threads.odd(key, Unlinked::NotAnswered, at),
                Some(answer) => is_own = answer.thread == Some(read),
            }
            self.threads.ended(key, id, is_own);
        }
        for call in calls {
            self.one_less(call, id, is_own, read);
        }
    }

    /// One of those that a call waits for is over.
    fn one_less(&mut self, call: NodeId, over: NodeId, is_own: bool, thread: Option<u64>) {
        let Some(node) = self.nodes.get_mut(&call) else {
            return;
        };
        let answer = node.answered;
        let Verdict::Awaits {
            request,
            others,
            fits,
            ..
        } = &mut node.verdict
        else {
            return;
        };
        others.remove(&over);
        if *request == over {
            // The call is answered, and by that thread, as far as it is known.
            let by_it = answer.is_some_and(|a| a.thread.is_none() || a.thread == thread);
            *fits = Some(is_own && by_it);
        }
        if others.is_empty() {
            self.judge(call, None);
        }
    }

    /// Says whether a call is a request's own; `why` if it can't wait any longer.
    pub(super) fn judge(&mut self, call: NodeId, why: Option<Unlinked>) {
        let Some(node) = self.nodes.get_mut(&call) else {
            return;
        };
        let verdict = std::mem::replace(&mut node.verdict, Verdict::None);
        let Verdict::Awaits {
            request,
            is_link,
            fits,
            ..
        } = verdict
        else {
            return;
        };
        let node_cgroup = node.cgroup;
        let thread = node.thread.map(|t| (node_cgroup, t));
        let odd = thread.and_then(|t| self.threads.distrust(t));
        let lost = self.is_doubtful(node_cgroup).then_some(Unlinked::Lost);
        let why = why.or(odd).or(lost).or(match fits {
            Some(true) => None,
            Some(false) => Some(Unlinked::HandsOver),
            None => Some(Unlinked::Undecided),
        });
        let to = self.nodes.get(&request);
        let link = to.and_then(|r| Some((r.place?.trace_id, r.span_id)));
        let Some(node) = self.nodes.get_mut(&call) else {
            return;
        };
        match (why, is_link) {
            (Some(why), _) => {
                node.unlinked = Some(why);
                let place = Place {
                    trace_id: node.hop.trace(),
                    parent: None,
                    is_remote: false,
                    is_sampled: None,
                };
                if node.place.is_none() {
                    self.settle(call, place);
                }
            }
            // Where that request's own trace isn't known yet, it is told when it is.
            (None, false) => self.follow(call, request),
            (None, true) => {
                if let Some((trace_id, span_id)) = link {
                    node.links.push(TraceContext {
                        trace_id,
                        span_id,
                        flags: 1,
                    });
                } else {
                    node.unlinked = Some(Unlinked::Undecided);
                }
            }
        }
        self.emit(call);
        if let Some(to) = self.nodes.get_mut(&request) {
            to.n_undecided = to.n_undecided.saturating_sub(1);
        }
        self.emit(request);
    }

    /// Becomes the child of one whose place may not be known yet.
    pub(super) fn follow(&mut self, id: NodeId, whom: NodeId) {
        let Some(leader) = self.nodes.get_mut(&whom) else {
            return;
        };
        match leader.place {
            None => leader.followers.push(id),
            Some(place) => {
                let parent = leader.span_id;
                self.settle_below(id, place, parent);
            }
        }
    }

    fn settle_below(&mut self, id: NodeId, place: Place, parent: u64) {
        let is_remote = self.nodes.get(&id).is_some_and(|n| n.is_server);
        let place = Place {
            parent: Some(parent),
            is_remote,
            ..place
        };
        self.settle(id, place);
    }

    /// A node's place is known, and with it that of all who follow it.
    pub(super) fn settle(&mut self, id: NodeId, place: Place) {
        let mut todo = vec![(id, place)];
        while let Some((id, place)) = todo.pop() {
            let Some(node) = self.nodes.get_mut(&id) else {
                continue;
            };
            node.place = Some(place);
            let parent = Some(node.span_id);
            let followers = std::mem::take(&mut node.followers);
            if let Some(seen) = self.hops.get_mut(&node.hop.key())
                && seen.node == id
            {
                seen.place = Some(place);
            }
            for follower in followers {
                let is_remote = self.nodes.get(&follower).is_some_and(|n| n.is_server);
                let below = Place {
                    parent,
                    is_remote,
                    ..place
                };
                todo.push((follower, below));
            }
            self.emit(id);
        }
    }

    /// Hands a span out, if it is over and all is said about it; its node goes when nobody asks for its place any more.
    fn emit(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let (Some(place), Verdict::None, true) = (node.place, &node.verdict, node.is_over) else {
            return;
        };
        if let Some(mut span) = node.done.take() {
            span.context = TraceContext {
                trace_id: place.trace_id,
                span_id: node.span_id,
                flags: 1,
            };
            span.parent = place.parent;
            span.parent_is_remote = place.is_remote && place.parent.is_some();
            span.links = std::mem::take(&mut node.links);
            node.is_emitted = true;
            self.ready.push(Ready {
                span,
                is_sampled: place.is_sampled,
                unlinked: node.unlinked,
            });
        }
        if node.n_undecided == 0 && node.is_emitted {
            self.nodes.remove(&id);
        }
    }
}
