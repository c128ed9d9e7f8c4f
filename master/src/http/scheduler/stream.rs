//! SUBSCRIBE: a stream of events that ends when the framework, or the master, wants it to.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use futures::Stream as Events;
use tokio_util::sync::CancellationToken;
use waggle_api::{
    mesos::{
        Media,
        event::{self, AgentAt, Master, Scribe},
        framework::subscription,
        recordio,
        resources::Paths,
    },
    proto::mesos as pb,
};
use waggle_types::{
    AgentId, CallRejection, FrameworkId, Millis, Offer, RejectReason, SchedulerEvent, StatusSource,
    VolumeId,
};

use super::{No, STREAM_ID};
use crate::{
    framework::{FrameworkEvent, HEARTBEAT, OpenGuard, Queued, SchedulerDoor, Subscriber},
    handle::MasterHandle,
    http::Api,
    queue::Next,
    view::ClusterView,
};

pub(super) async fn subscribe(
    api: &Api,
    door: &SchedulerDoor,
    call: &pb::Call,
    media: Media,
    cut: CancellationToken,
) -> Result<Response, No> {
    let ended = door.stop.child_token();
    let guard = OpenGuard {
        open: Arc::clone(&door.open),
        ended: ended.clone(),
    };
    if door.open.fetch_add(1, Ordering::Relaxed) >= door.max_open {
        let message = format!("the limit of {} subscriptions is reached", door.max_open);
        return Ok(refused(media, message));
    }
    let said = call.subscribe.as_ref();
    let Some(said) = said.filter(|s| s.framework_info.is_some()) else {
        return Err(No::bad(
            "Expecting 'subscribe.framework_info' to be present",
        ));
    };
    let info = match subscription(call.framework_id.as_ref(), said) {
        Ok(info) => Box::new(info),
        Err(e) => return Ok(refused(media, e.to_string())),
    };
    let own = said.framework_info.clone().unwrap_or_default();
    let subscription = door.subscription();
    let stream = Arc::new(Subscriber::new(subscription, own, cut));
    let link = door.link(&stream);
    // Before the loop hears of it, so that an end at any moment is told.
    door.watch_end(ended, subscription);
    let called = door
        .ask(|reply| FrameworkEvent::Subscribe {
            subscription,
            info,
            link,
            reply,
        })
        .await?;
    if let Err(all) = called {
        return Ok(refused(media, why(all)));
    }
    tell_again(door, &stream);
    let id = stream.id.clone();
    let out = write(api.handle.clone(), stream, media, door.stop.clone(), guard);
    Ok(streaming(media, &id, Body::from_stream(out)))
}

/// Who comes back hears again how its operations ended, until it says that it knows.
fn tell_again(door: &SchedulerDoor, stream: &Subscriber) {
    let Some(id) = stream.framework_id() else {
        return;
    };
    for o in door.outcomes.unacknowledged(id) {
        let status = event::operation_status(o.status.clone());
        stream.queue.push(Queued::Ready(Box::new(status)));
    }
}

fn why(all: Vec<CallRejection>) -> String {
    let unknown = CallRejection::new(RejectReason::Refused, "subscription", "refused");
    let first = all.into_iter().next().unwrap_or(unknown);
    match first.reason {
        RejectReason::FrameworkRemoved => "Framework has been removed".to_owned(),
        _ => first.to_string(),
    }
}

/// A stream that says why it is none.
fn refused(media: Media, message: String) -> Response {
    let record = recordio::frame(&media.write(&event::error(message)));
    // A stream, so that it is chunked: clients take nothing else.
    let once = futures::stream::iter([Ok::<_, Infallible>(Bytes::from(record))]);
    let id = uuid::Uuid::new_v4().to_string();
    streaming(media, &id, Body::from_stream(once))
}

fn streaming(media: Media, id: &str, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static(media.name());
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(STREAM_ID, id);
    }
    response
}

/// What goes to the framework: queued events, heartbeats in between, and at last why it ends.
fn write(
    handle: MasterHandle,
    stream: Arc<Subscriber>,
    media: Media,
    stop: CancellationToken,
    guard: OpenGuard,
) -> impl Events<Item = Result<Bytes, Infallible>> {
    async_stream::stream! {
        let _open = guard;
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        beat.tick().await;
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = stream.queue.next() => match next {
                    Next::Event(Queued::Ready(event)) => *event,
                    Next::Event(Queued::Record(record)) => {
                        yield Ok(record);
                        continue;
                    }
                    Next::Event(Queued::Event(e)) => {
                        let view = knowing(&handle, &e).await;
                        match stream.framework_id() {
                            Some(id) => scribe(&view, &stream, id, |s| s.event(&e)),
                            None => continue,
                        }
                    }
                    Next::End(Some(why)) => {
                        yield Ok(record(media, &event::error(why)));
                        break;
                    }
                    Next::End(None) => break,
                },
                _ = beat.tick() => event::heartbeat(),
            };
            yield Ok(record(media, &event));
        }
    }
}

/// A view that knows what an event is about: the one that there is, else a new one. (None is made while nobody
/// asks.)
async fn knowing(handle: &MasterHandle, event: &SchedulerEvent) -> Arc<ClusterView> {
    let view = handle.view();
    let known = |id: &AgentId| view.agents.contains_key(id);
    // A view that shows a volume shows its path, too, if it has one.
    let placed = |o: &Offer| {
        let mut volumes = o.resources.custom.volumes();
        let at = view.mounts.get(&o.agent_id);
        let on = view.agents.get(&o.agent_id);
        volumes.all(|(id, _)| {
            let path = at.is_some_and(|at| at.contains_key(id.as_str()));
            let mut reserved = on.iter().flat_map(|a| &a.reserved);
            path || reserved.any(|p| p.resources.custom.volume(id).is_some())
        })
    };
    let enough = match event {
        SchedulerEvent::Subscribed { .. } => view.leader.is_some(),
        SchedulerEvent::Offers(offers) => offers.iter().all(|o| known(&o.agent_id) && placed(o)),
        SchedulerEvent::Update(s) => s.source == StatusSource::Master || known(&s.agent_id),
        _ => true,
    };
    if !enough {
        handle.fresh().await;
    }
    handle.view()
}

fn record(media: Media, event: &pb::Event) -> Bytes {
    recordio::frame(&media.write(event)).into()
}

/// Has something written as this stream's framework reads it.
pub(super) fn scribe<T>(
    view: &ClusterView,
    stream: &Subscriber,
    framework_id: &FrameworkId,
    write: impl FnOnce(&Scribe<'_>) -> T,
) -> T {
    let master = master(view);
    let agent = |id: &AgentId| {
        let a = view.agents.get(id)?;
        Some(AgentAt {
            ip: a.info.ip,
            port: a.info.http_port,
        })
    };
    let paths = |id: &AgentId| {
        let all = view.mounts.get(id)?.iter();
        let known = all.filter_map(|(v, p)| Some((VolumeId::new(v.clone()).ok()?, p.clone())));
        Some(known.collect::<Paths>())
    };
    write(&Scribe {
        dialect: stream.said().dialect,
        framework_id,
        master: &master,
        heartbeat: Millis(u64::try_from(HEARTBEAT.as_millis()).unwrap_or(u64::MAX)),
        agent: &agent,
        paths: &paths,
    })
}

/// The master as frameworks are told of it.
pub(in crate::http) fn master(view: &ClusterView) -> Master {
    match &view.leader {
        Some(m) => Master {
            id: m.id.clone(),
            ip: m.ip,
            port: m.mesos_port,
            hostname: m.hostname.clone(),
        },
        None => Master {
            id: String::new(),
            ip: std::net::Ipv4Addr::UNSPECIFIED,
            port: 0,
            hostname: String::new(),
        },
    }
}
