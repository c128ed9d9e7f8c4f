//! Questions that must be waited for: the first zone after a start, and upstreams.

use std::sync::Arc;

use tokio::time::Instant;
use waggle_overlay_plan::wire::{Limits, Query, rcode, write_error};

use super::{
    Shared,
    answer::{Answerer, Step},
    counters::add,
    log::{Asker, Entry, Source},
};
use crate::forward::{ForwardError, Got};

/// Answers a question that [`Answerer::step`] left open.
pub(super) async fn answer(shared: &Arc<Shared>, packet: &[u8], asker: Asker) -> Vec<u8> {
    let tcp = asker.tcp;
    let counting = &shared.counting;
    let begun = Instant::now();
    let mut out = Vec::with_capacity(512);
    let Ok(query) = Query::parse(packet) else {
        return out;
    };
    let ra = shared.forwarder.has_upstreams();
    let name = query.name();
    let (code, from) = if shared.is_ours(&name, shared.zone.load().as_deref()) {
        if shared.first_zone().await {
            // Counted once already.
            let n = if tcp {
                &counting.tcp_queries
            } else {
                &counting.udp_queries
            };
            n.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            let mut answerer = Answerer::brief(Arc::clone(shared));
            answerer.refresh();
            if answerer.step(packet, asker, begun, &mut out) == Step::Done {
                counting.took(begun.elapsed(), 1);
                return out;
            }
        }
        add(&counting.no_zone);
        (rcode::SERVFAIL, Source::Nobody)
    } else {
        let limits = Limits {
            max: if tcp {
                usize::from(u16::MAX)
            } else {
                query.udp_limit()
            },
            recursion_available: ra,
        };
        match shared.forwarder.ask(&query, &name, counting).await {
            Ok(got) => {
                let from = match &got {
                    Got::Fresh(_) => Source::Upstream,
                    Got::Stale(_) => Source::Stale,
                };
                let written = got.write(&query, limits, &mut out);
                shared.tell(asker.ip, &name, &out);
                if written.truncated {
                    add(&counting.truncated);
                }
                counting.answered(tcp, from, written.code);
                counting.took(begun.elapsed(), 1);
                shared.log(|| Entry::new(&query, asker, written.code, from));
                return out;
            }
            Err(error) => {
                add(match *error {
                    ForwardError::Busy { .. } => &counting.forward_dropped,
                    _ => &counting.forward_failures,
                });
                tracing::debug!(%error, %name, "a question was not answered by upstreams");
                (rcode::SERVFAIL, Source::Nobody)
            }
        }
    };
    write_error(&query.error(code), ra, &mut out);
    counting.answered(tcp, from, code);
    counting.took(begun.elapsed(), 1);
    shared.log(|| Entry::new(&query, asker, code, from));
    out
}

/// The answer for who can't be waited for: too many are.
pub(super) fn turned_away(shared: &Shared, packet: &[u8], tcp: bool, out: &mut Vec<u8>) {
    let counting = &shared.counting;
    add(&counting.wait_dropped);
    if let Ok(query) = Query::parse(packet) {
        let ra = shared.forwarder.has_upstreams();
        write_error(&query.error(rcode::SERVFAIL), ra, out);
        counting.answered(tcp, Source::Nobody, rcode::SERVFAIL);
    }
}
