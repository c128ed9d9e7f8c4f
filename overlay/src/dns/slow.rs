//! Questions that must be waited for: the first zone after a start, upstreams, and who must know first what is told.

use std::sync::Arc;

use tokio::time::Instant;
use waggle_overlay_plan::{
    DnsName,
    wire::{Limits, Query, rcode, write_error},
};

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
        match find(shared, &query, &name, asker).await {
            Ok((got, from)) => {
                let written = got.write(&query, limits, &mut out);
                if shared.tell(asker.ip, &name, &out).await {
                    if written.truncated {
                        add(&counting.truncated);
                    }
                    counting.answered(tcp, from, written.code);
                    counting.took(begun.elapsed(), 1);
                    shared.log(|| Entry::new(&query, asker, written.code, from));
                    return out;
                }
                out.clear();
                add(&counting.told_failures);
                (rcode::SERVFAIL, Source::Nobody)
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

/// What is kept for an asker whose answers nobody else sends, else what upstreams say.
async fn find(
    shared: &Shared,
    query: &Query<'_>,
    name: &DnsName,
    asker: Asker,
) -> Result<(Got, Source), Arc<ForwardError>> {
    if shared.must_tell(asker.ip)
        && let Some(hit) = shared.forwarder.cached(query, Instant::now())
    {
        return Ok((Got::Fresh(hit), Source::Cache));
    }
    let got = shared.forwarder.ask(query, name, &shared.counting).await?;
    let from = match &got {
        Got::Fresh(_) => Source::Upstream,
        Got::Stale(_) => Source::Stale,
    };
    Ok((got, from))
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
