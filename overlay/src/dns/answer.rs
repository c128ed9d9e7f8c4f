//! One question in, one answer out, as far as no waiting is needed; the rest is for [`super::slow`].

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;
use waggle_overlay_plan::{
    Outcome, Question, RType, Zone,
    wire::{Limits, Query, Rendered, Written, rcode, write_error},
};

use super::{
    Shared,
    counters::add,
    log::{Asker, Entry, Source},
};

/// Answers that one thread keeps ready; all are dropped when there are more, and when the zone changes.
const MAX_READY: usize = 16_384;
/// The same about names that are not there. Search domains ask for the same ones again and again, but there is no end of
/// them: they have a place of their own, so that they drive nothing else out.
const MAX_MISSING: usize = 2048;
/// Classes: IN, and any.
const CLASSES: [u16; 2] = [1, 255];

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The answer was appended.
    Done,
    /// It must be waited for: a first zone, an upstream, or who must know first what is told.
    Wait,
    /// Nothing is to be said.
    Silent,
}

/// The part of a listener that answers. It is one thread's or one connection's: a question takes no lock
/// but, for names outside of the cluster, that of a part of the cache.
pub(super) struct Answerer {
    shared: Arc<Shared>,
    zone: Option<Arc<Zone>>,
    ready: HashMap<Box<[u8]>, Rendered>,
    missing: HashMap<Box<[u8]>, Rendered>,
    keeps: bool,
    key: Vec<u8>,
}

impl Answerer {
    /// For many questions.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            zone: None,
            ready: HashMap::new(),
            missing: HashMap::new(),
            keeps: true,
            key: Vec::with_capacity(260),
        }
    }

    /// For a few questions: keeps nothing.
    pub(super) fn brief(shared: Arc<Shared>) -> Self {
        Self {
            keeps: false,
            ..Self::new(shared)
        }
    }

    /// Takes the zone of this moment, for the questions until the next call.
    pub(super) fn refresh(&mut self) {
        let newest = self.shared.zone.load();
        let same = match (&self.zone, &*newest) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.zone.clone_from(&newest);
            self.ready.clear();
            self.missing.clear();
        }
    }

    /// Answers, if it can be done at once. `now` may be a little old.
    pub(super) fn step(
        &mut self,
        packet: &[u8],
        asker: Asker,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Step {
        let tcp = asker.tcp;
        let shared = &*self.shared;
        let counting = &shared.counting;
        add(if tcp {
            &counting.tcp_queries
        } else {
            &counting.udp_queries
        });
        let ra = shared.forwarder.has_upstreams();
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(refused) => {
                counting.fault(refused.fault);
                let Some(reply) = refused.reply else {
                    return Step::Silent;
                };
                write_error(&reply, ra, out);
                counting.answered(tcp, Source::Nobody, reply.code);
                return Step::Done;
            }
        };
        let limits = Limits {
            max: if tcp {
                usize::from(u16::MAX)
            } else {
                query.udp_limit()
            },
            recursion_available: ra,
        };
        let done = |written: Written, from: Source| {
            counting.answered(tcp, from, written.code);
            if written.truncated {
                add(&counting.truncated);
            }
            shared.log(|| Entry::new(&query, asker, written.code, from));
            Step::Done
        };
        let has_class = CLASSES.contains(&query.class);
        self.key.clear();
        self.key.extend_from_slice(query.name_wire());
        self.key.make_ascii_lowercase();
        self.key.extend_from_slice(&query.rtype.0.to_be_bytes());
        let key = self.key.as_slice();
        let ready = self.ready.get(key).or_else(|| self.missing.get(key));
        if has_class && let Some(ready) = ready {
            return done(ready.write(&query, limits, out), Source::Zone);
        }
        let error = |code: u16, from: Source, out: &mut Vec<u8>| {
            write_error(&query.error(code), ra, out);
            let truncated = false;
            done(Written { code, truncated }, from)
        };
        let name = query.name();
        if !shared.is_ours(&name, self.zone.as_deref()) {
            let is_transfer = matches!(query.rtype, RType::AXFR | RType::IXFR);
            if !has_class || is_transfer {
                return error(rcode::REFUSED, Source::Nobody, out);
            }
            if !shared.forwarder.is_routed(&name) {
                add(&counting.no_upstream);
                return error(rcode::REFUSED, Source::Nobody, out);
            }
            if shared.must_tell(asker.ip) {
                return Step::Wait;
            }
            let Some(hit) = shared.forwarder.cached(&query, now) else {
                return Step::Wait;
            };
            let written = hit.write(&query, limits, out);
            return done(written, Source::Cache);
        }
        if !has_class {
            return error(rcode::REFUSED, Source::Nobody, out);
        }
        let Some(zone) = &self.zone else {
            return Step::Wait;
        };
        let answer = zone.answer(&Question {
            name: name.clone(),
            rtype: query.rtype,
        });
        let rendered = Rendered::new(&name, &answer);
        let written = rendered.write(&query, limits, out);
        let (kept, most) = match answer.outcome {
            Outcome::Found | Outcome::NoData => (&mut self.ready, MAX_READY),
            _ => (&mut self.missing, MAX_MISSING),
        };
        if self.keeps {
            if kept.len() >= most {
                kept.clear();
            }
            kept.insert(self.key.as_slice().into(), rendered);
        }
        done(written, Source::Zone)
    }
}
