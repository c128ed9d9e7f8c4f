//! SUBSCRIBE: what changes in the cluster, as a stream of events.
//!
//! One task compares each view with the one before, writes each event once, and hands it to all who listen. Who does
//! not read is cut off when too much waits; what waits for several is in memory once. A subscriber begins with all of
//! the cluster as of a comparison, and what has been said since ([`hub`](super::hub)), so that nothing is missing in
//! between and nothing comes twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    iter::Peekable,
    sync::Arc,
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use prost::Message as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use waggle_api::{
    mesos::{Media, event::state, recordio},
    proto::mesos as pb,
};
use waggle_telemetry::{Telemetry, names};
use waggle_types::TaskId;

use super::{
    super::{Api, reader, scheduler::No},
    as_protobuf, busy,
    hub::{Hub, MAX_SUBSCRIBERS, Start},
    id,
    reads::{self, DIALECT},
};
use crate::{
    framework::{HEARTBEAT, Queued},
    handle::MasterHandle,
    queue::{Next, Queue},
    view::{ClusterView, FrameworkView, TaskView},
};

/// Between two comparisons: Mesos says each change at once, here one that is undone meanwhile is not said.
const PAUSE: Duration = Duration::from_millis(50);

async fn compare(hub: Hub, handle: MasterHandle, telemetry: Telemetry) {
    loop {
        tokio::time::sleep(PAUSE).await;
        handle.fresh().await;
        match hub.say(&handle.view(), changes, record_of) {
            None => return,
            Some(0) => {}
            Some(n) => {
                let attrs = [(names::DROP_REASON, "slow_subscriber".into())];
                telemetry.count(&names::SCHED_HTTP_CLOSED, &attrs, n);
            }
        }
    }
}

fn record_of(media: Media, event: &Value) -> Bytes {
    let record = match media {
        Media::Json => event.to_string().into_bytes(),
        Media::Protobuf => {
            let written = as_protobuf::<pb::OperatorEvent>(event.clone());
            debug_assert!(written.is_ok(), "all events can be written: {event}");
            // Said as an event of no known kind, which readers skip.
            written.unwrap_or_else(|no| {
                tracing::error!(error = no.1, "an event is lost");
                pb::OperatorEvent {
                    r#type: Some(pb::operator_event::Type::Unknown.into()),
                    ..pb::OperatorEvent::default()
                }
                .encode_to_vec()
            })
        }
    };
    recordio::frame(&record).into()
}

/// Ends a listener's queue with its stream.
struct Leaves(Arc<Queue<Queued>>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

pub(super) async fn subscribe(
    api: &Api,
    media: Media,
    cut: CancellationToken,
) -> Result<Response, No> {
    let queue = Arc::new(Queue::new(cut));
    let leaves = Leaves(Arc::clone(&queue));
    let Some(begin) = api.hub.join(media, Arc::clone(&queue), || api.view()) else {
        let message = format!("the limit of {MAX_SUBSCRIBERS} subscribers is reached");
        return Err(No(StatusCode::SERVICE_UNAVAILABLE, message));
    };
    if begin.is_first {
        let (handle, telemetry) = (api.handle.clone(), api.telemetry.clone());
        tokio::spawn(compare(api.hub.clone(), handle, telemetry));
    }
    let stop = api.scheduler.as_ref().map(|d| d.stop.clone());
    let stop = stop.unwrap_or_default();
    let Start { view, record } = begin.start;
    let write = || reader::read(move || record_of(media, &subscribed(&view)));
    let subscribed = record.get_or_try_init(write).await;
    let subscribed = subscribed.map_err(busy)?.clone();
    let since = begin.since;
    let events = async_stream::stream! {
        let _leaves = leaves;
        yield Ok::<_, Infallible>(subscribed);
        for record in since {
            yield Ok(record);
        }
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        beat.tick().await;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = queue.next() => match next {
                    Next::Event(Queued::Record(record)) => yield Ok(record),
                    Next::Event(_) => {}
                    Next::End(_) => break,
                },
                _ = beat.tick() => yield Ok(record_of(media, &json!({ "type": "HEARTBEAT" }))),
            }
        }
    };
    let mut response = Response::new(Body::from_stream(events));
    let kind = HeaderValue::from_static(media.name());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// What is said first: all of the cluster.
fn subscribed(view: &ClusterView) -> Value {
    json!({
        "type": "SUBSCRIBED",
        "subscribed": {
            "get_state": reads::state(view),
            "heartbeat_interval_seconds": HEARTBEAT.as_secs_f64(),
        },
    })
}

/// What of a framework is told when it changes: how it is there, and what it says of itself.
fn said(f: &FrameworkView) -> impl PartialEq + '_ {
    (
        (f.active, f.connected, f.reregistered_at),
        (&f.roles, f.capabilities, &f.about, f.failover_timeout),
    )
}

/// What happened from one view to the next.
fn changes(old: &ClusterView, new: &ClusterView) -> Vec<Value> {
    let mut out = Vec::new();
    for (id, f) in &new.frameworks {
        let kind = match old.frameworks.get(id) {
            None => "FRAMEWORK_ADDED",
            Some(o) if said(o) == said(f) => continue,
            Some(_) => "FRAMEWORK_UPDATED",
        };
        let said = json!({ "framework": reads::framework(f) });
        out.push(event(kind, said));
    }
    let there = |v: &ClusterView| -> BTreeSet<_> {
        let all = v.agents.iter().filter(|(_, a)| a.reachable);
        all.map(|(id, _)| id.clone()).collect()
    };
    let (before, after) = (there(old), there(new));
    for agent in after.difference(&before) {
        if let Some(a) = new.agents.get(agent) {
            out.push(event("AGENT_ADDED", json!({ "agent": reads::agent(a) })));
        }
    }
    tasks(old, new, &mut out);
    for agent in before.difference(&after) {
        out.push(event("AGENT_REMOVED", json!({ "agent_id": id(agent) })));
    }
    for (id, f) in &old.frameworks {
        if !new.frameworks.contains_key(id) {
            let said = json!({ "framework_info": reads::info(f) });
            out.push(event("FRAMEWORK_REMOVED", said));
        }
    }
    out
}

fn event(kind: &str, said: Value) -> Value {
    let mut out = json!({ "type": kind });
    out[kind.to_ascii_lowercase()] = said;
    out
}

fn added(t: &TaskView) -> Value {
    event("TASK_ADDED", json!({ "task": reads::task(t) }))
}

fn updated(t: &TaskView) -> Option<Value> {
    let status = reads::status(t)?;
    let said = json!({
        "framework_id": id(&t.spec.framework_id),
        "status": status,
        "state": state(t.state(), DIALECT).as_str_name(),
    });
    Some(event("TASK_UPDATED", said))
}

/// Tasks of two views side by side, in order.
fn side_by_side<'a>(
    old: Peekable<impl Iterator<Item = &'a Arc<TaskView>>>,
    new: Peekable<impl Iterator<Item = &'a Arc<TaskView>>>,
    mut each: impl FnMut(Option<&'a Arc<TaskView>>, Option<&'a Arc<TaskView>>),
) {
    let (mut old, mut new) = (old, new);
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(o), Some(n)) => o.id.cmp(&n.id),
        };
        match order {
            std::cmp::Ordering::Less => each(old.next(), None),
            std::cmp::Ordering::Greater => each(None, new.next()),
            std::cmp::Ordering::Equal => each(old.next(), new.next()),
        }
    }
}

fn tasks(old: &ClusterView, new: &ClusterView, out: &mut Vec<Value>) {
    // Since the last view, newest first.
    let last = old.completed.last();
    let ended = new.completed.iter().rev();
    let ended = ended.take_while(|t| last.is_none_or(|l| !Arc::ptr_eq(l, t)));
    let mut ended: BTreeMap<&TaskId, &Arc<TaskView>> = ended.map(|t| (&t.id, t)).collect();
    let heard = |t: &TaskView| (t.state(), t.health, t.ready, t.heard_at());
    side_by_side(
        old.tasks.values().peekable(),
        new.tasks.values().peekable(),
        |o, n| match (o, n) {
            (Some(o), Some(n)) if Arc::ptr_eq(o, n) || heard(o) == heard(n) => {}
            (Some(_), Some(n)) => out.extend(updated(n)),
            (None, Some(n)) => {
                out.push(added(n));
                out.extend(updated(n));
            }
            (Some(o), None) => {
                if let Some(t) = ended.remove(&o.id) {
                    out.extend(updated(t));
                }
            }
            (None, None) => {}
        },
    );
    // Began and ended in between.
    for t in ended.into_values() {
        out.push(added(t));
        out.extend(updated(t));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::http::tests::busy;

    #[test]
    fn what_a_framework_says_of_itself_is_told_when_it_changes() {
        let old = busy();
        assert_eq!(changes(&old, &old), Vec::<Value>::new());
        let changed = |change: &dyn Fn(&mut FrameworkView)| {
            let mut new = old.clone();
            new.frameworks.values_mut().for_each(change);
            let mut events = changes(&old, &new);
            assert_eq!(events.len(), 1, "{events:?}");
            let event = events.remove(0);
            assert_eq!(event["type"], "FRAMEWORK_UPDATED");
            let written = record_of(Media::Protobuf, &event);
            assert!(written.len() > 20, "as protobuf, too");
            event["framework_updated"]["framework"]["framework_info"].clone()
        };
        let info = changed(&|f| f.failover_timeout = Some(waggle_types::Millis(7000)));
        assert_eq!(info["failover_timeout"], json!(7.0));
        let info = changed(&|f| Arc::make_mut(&mut f.about).webui_url = "http://x".into());
        assert_eq!(info["webui_url"], "http://x");
        changed(&|f| f.capabilities.revocable = true);
        changed(&|f| f.connected = false);
    }
}
