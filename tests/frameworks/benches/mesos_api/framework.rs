//! Frameworks over Mesos's HTTP API: each takes all that it is offered, for tasks of one size, and acknowledges
//! every update with a call of its own, as pymesos does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use waggle_api::proto::mesos as pb;

use super::agent::Fleet;
use super::wire::{Calls, Media, Stream};

const PATH: &str = "/api/v1/scheduler";

/// What all frameworks saw.
#[derive(Default)]
pub struct Seen {
    pub running: AtomicU64,
    pub ended: AtomicU64,
    pub wrong: AtomicU64,
    pub subscribed: AtomicU64,
    measuring: AtomicBool,
    offer_ns: Mutex<Vec<u64>>,
}

impl Seen {
    pub fn measure(&self) {
        self.take();
        self.measuring.store(true, Ordering::Relaxed);
    }

    pub fn measured(&self) -> Vec<u64> {
        self.measuring.store(false, Ordering::Relaxed);
        self.take()
    }

    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.offer_ns.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub async fn run(
    n: usize,
    master: SocketAddr,
    media: Media,
    fleet: Arc<Fleet>,
    seen: Arc<Seen>,
) -> anyhow::Result<()> {
    let info = pb::FrameworkInfo {
        user: Some("root".into()),
        name: Some(format!("bench {n}")),
        failover_timeout: Some(3600.0),
        role: Some(format!("bench-{n}")),
        ..pb::FrameworkInfo::default()
    };
    let subscribe = pb::Call {
        r#type: Some(pb::call::Type::Subscribe.into()),
        subscribe: Some(pb::Subscribe {
            framework_info: Some(info),
            ..pb::Subscribe::default()
        }),
        ..pb::Call::default()
    };
    let mut events = Stream::open(master, PATH, media, &media.write(&subscribe)).await?;
    let mut calls = Calls::open(master).await?;
    let stream = events.id.clone();
    let (mut id, mut launched) = (None, 0_u64);
    loop {
        let event: pb::Event = media.read(&events.next().await?)?;
        if let Some(s) = event.subscribed {
            id = s.framework_id;
            seen.subscribed.fetch_add(1, Ordering::Relaxed);
        }
        for offer in event.offers.into_iter().flat_map(|o| o.offers) {
            let room = room(&offer);
            note(&fleet, &seen, &offer, room);
            let tasks = (0..room).map(|_| {
                launched += 1;
                task(&offer, format!("{n}.{launched}"))
            });
            let accept = pb::Accept {
                operations: vec![pb::OfferOperation {
                    r#type: Some(pb::offer_operation::Type::Launch.into()),
                    launch: Some(pb::Launch {
                        task_infos: tasks.collect(),
                    }),
                    ..pb::OfferOperation::default()
                }],
                offer_ids: offer.id.clone().into_iter().collect(),
                filters: Some(pb::Filters {
                    refuse_seconds: Some(0.0),
                }),
            };
            let call = pb::Call {
                framework_id: id.clone(),
                r#type: Some(pb::call::Type::Accept.into()),
                accept: Some(accept),
                ..pb::Call::default()
            };
            calls
                .send(PATH, media, &stream, &media.write(&call))
                .await?;
        }
        if let Some(status) = event.update.and_then(|u| u.status) {
            match status.state() {
                pb::TaskState::TaskRunning => &seen.running,
                pb::TaskState::TaskFinished => &seen.ended,
                _ => &seen.wrong,
            }
            .fetch_add(1, Ordering::Relaxed);
            if status.uuid.is_some() {
                let call = pb::Call {
                    framework_id: id.clone(),
                    r#type: Some(pb::call::Type::Acknowledge.into()),
                    acknowledge: Some(pb::Acknowledge {
                        agent_id: status.agent_id,
                        task_id: status.task_id,
                        uuid: status.uuid,
                    }),
                    ..pb::Call::default()
                };
                calls
                    .send(PATH, media, &stream, &media.write(&call))
                    .await?;
            }
        }
        if let Some(e) = event.error {
            return Err(anyhow::anyhow!(e.message)).context("the master says");
        }
    }
}

/// Tasks of one CPU that an offer has room for.
fn room(offer: &pb::Offer) -> usize {
    let cpus = offer.resources.iter().find(|r| r.name == "cpus");
    let cpus = cpus.and_then(|r| r.scalar).map_or(0.0, |s| s.value);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small number"
    )]
    let room = cpus as usize;
    room
}

fn note(fleet: &Fleet, seen: &Seen, offer: &pb::Offer, room: usize) {
    let agent = offer
        .agent_id
        .as_ref()
        .and_then(|a| Fleet::number(&a.value));
    let Some(agent) = agent else {
        return;
    };
    let now = fleet.now_ns();
    let due = fleet.offered(agent, room);
    if seen.measuring.load(Ordering::Relaxed) {
        let mut all = seen.offer_ns.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(due.into_iter().map(|at| now.saturating_sub(at)));
    }
}

fn task(offer: &pb::Offer, id: String) -> pb::TaskInfo {
    let scalar = |name: &str, value: f64| pb::Resource {
        name: name.into(),
        r#type: Some(pb::value::Type::Scalar.into()),
        scalar: Some(pb::ValueScalar { value }),
        ..pb::Resource::default()
    };
    pb::TaskInfo {
        name: Some(id.clone()),
        task_id: Some(pb::TaskId { value: id }),
        agent_id: offer.agent_id.clone(),
        resources: vec![scalar("cpus", 1.0), scalar("mem", 128.0)],
        command: Some(pb::CommandInfo {
            value: Some("sleep 1".into()),
            ..pb::CommandInfo::default()
        }),
        ..pb::TaskInfo::default()
    }
}
