//! Executors that frameworks bring along, on this node: their processes, and what is said between them and the agent.
//!
//! An executor's container is a task like any other to everything that has to do with processes: it has a directory,
//! a shim, cgroups and a sandbox below its container's name. Its tasks have a directory for what is durable of them,
//! and share its sandbox. It talks to the agent by Mesos's executor API (`api`), in Mesos's words (`wire`); what it says
//! goes through the agent's loop, one thing after the other.

mod api;
mod container;
mod wire;

use std::collections::BTreeMap;

use axum::body::Bytes;
use tokio::sync::{mpsc, oneshot};
use waggle_api::{convert, mesos::Media, proto::session as pb};
use waggle_lifecycle::{Event, ExecutorWord, Exit};
use waggle_telemetry::names;
use waggle_types::{
    ExecutorEnd, ExecutorKey, ExecutorRecord, Resources, TaskId, TaskSpec, TaskStatus,
};

pub use api::routes;
pub(crate) use container::{mesos_duration, record, spec as container_spec, variables};
pub(crate) use wire::{agent_info, executor_info, framework_info};

use crate::{
    run::{Agent, blocking},
    session,
};

/// Events that wait for one executor; one that does not take them is cut off and has to subscribe again.
const STREAM: usize = 1024;

/// What an executor asks for.
#[derive(Debug)]
pub enum Call {
    /// To be told what to do from now on.
    Subscribe {
        /// Tasks that it has and no update of which was acknowledged to it.
        tasks: Vec<TaskId>,
        /// Updates that were not acknowledged to it.
        updates: Vec<TaskStatus>,
        /// How it wants to be spoken to.
        media: Media,
    },
    /// How a task is.
    Update(Box<TaskStatus>),
    /// For its framework.
    Message(Vec<u8>),
    /// That it lives.
    Heartbeat,
}

/// A call of an executor, for the agent's loop.
#[derive(Debug)]
pub struct Asked {
    key: ExecutorKey,
    call: Call,
    reply: oneshot::Sender<Result<Done, Refused>>,
}

/// A call that was taken.
#[derive(Debug)]
pub enum Done {
    /// Nothing to say.
    Accepted,
    /// Its events.
    Stream(Stream),
}

/// A call that was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// There is no such executor.
    Unknown(String),
    /// It did not subscribe.
    NotSubscribed,
}

/// What an executor's connection gets.
#[derive(Debug)]
pub struct Stream {
    /// Records, framed.
    events: mpsc::Receiver<Bytes>,
    /// Which stream of the agent's life it is.
    number: u64,
}

/// The word that a stream is over.
#[derive(Debug)]
pub struct Gone {
    key: ExecutorKey,
    number: u64,
}

struct Open {
    events: mpsc::Sender<Bytes>,
    media: Media,
    number: u64,
}

/// Executors that listen.
#[derive(Default)]
pub struct Streams {
    open: BTreeMap<ExecutorKey, Open>,
    last: u64,
}

impl Agent {
    /// One call of an executor.
    pub(crate) async fn executor_asks(&mut self, asked: Asked) {
        let Asked { key, call, reply } = asked;
        let answer = self.executor_call(key, call).await;
        // Who asked may be gone; then nobody is told.
        let _ = reply.send(answer);
    }

    async fn executor_call(&mut self, key: ExecutorKey, call: Call) -> Result<Done, Refused> {
        if !self.core.may_subscribe(&key) {
            let frameworks = self.core.executors();
            let mut frameworks = frameworks.filter(|(e, _)| e.framework_id == key.framework_id);
            return Err(Refused::Unknown(match frameworks.next() {
                Some(_) => "Executor cannot be found".to_owned(),
                None => "Framework cannot be found".to_owned(),
            }));
        }
        let listens = self.streams.open.contains_key(&key);
        match call {
            Call::Heartbeat => {}
            Call::Subscribe {
                tasks,
                updates,
                media,
            } => {
                // Nobody reads before the answer is there: an acknowledgement of each update and a word of each task fit.
                let room = STREAM + updates.len() + self.core.tasks().count();
                let (tx, events) = mpsc::channel(room);
                self.streams.last += 1;
                let number = self.streams.last;
                let open = Open {
                    events: tx,
                    media,
                    number,
                };
                // One that was open ends with this.
                self.streams.open.insert(key.clone(), open);
                tracing::info!(executor = %key, "executor subscribed");
                self.handle(Event::ExecutorSubscribed {
                    key,
                    tasks,
                    updates,
                })
                .await;
                return Ok(Done::Stream(Stream { events, number }));
            }
            _ if !listens => return Err(Refused::NotSubscribed),
            Call::Update(status) => self.handle(Event::ExecutorUpdate { key, status }).await,
            Call::Message(data) => self.handle(Event::ExecutorSays { key, data }).await,
        }
        Ok(Done::Accepted)
    }

    /// A connection of an executor has ended.
    pub(crate) async fn executor_gone(&mut self, gone: Gone) {
        let open = self.streams.open.get(&gone.key);
        if open.is_some_and(|o| o.number == gone.number) {
            self.streams.open.remove(&gone.key);
            tracing::info!(executor = %gone.key, "executor's stream has ended");
            self.handle(Event::ExecutorLeft(gone.key)).await;
        }
    }

    /// Says something to an executor, if it listens. What follows when it does not take it.
    pub(crate) async fn tell_executor(
        &mut self,
        key: ExecutorKey,
        word: ExecutorWord,
    ) -> Option<Event> {
        if let ExecutorWord::Acknowledged { task_id, .. } = &word
            && !self.save(task_id).await
        {
            // Not durable: an executor that is not told keeps it, and says it again at its next subscription.
            return None;
        }
        let Some(open) = self.streams.open.get(&key) else {
            let what = [(names::DROP_REASON, "executor_not_subscribed".into())];
            self.telemetry.count(&names::SESSION_DROPPED, &what, 1);
            return None;
        };
        let record = wire::event(&word, &self.info, open.media);
        if open.events.try_send(record.into()).is_ok() {
            return None;
        }
        tracing::warn!(executor = %key, "executor does not take its events: its stream ends");
        let what = [(names::DROP_REASON, "executor_slow".into())];
        self.telemetry.count(&names::SESSION_DROPPED, &what, 1);
        self.streams.open.remove(&key);
        Some(Event::ExecutorLeft(key))
    }

    /// Makes an executor durable and starts its container.
    pub(crate) async fn launch_executor(
        &mut self,
        record: &ExecutorRecord,
        name: TaskId,
    ) -> Option<Event> {
        let resources = self.core.container_resources(&record.key());
        let spec = container::spec(record, &name, resources.unwrap_or_default());
        tracing::info!(executor = %record.key(), container = %name, "executor starts");
        let dir = self.work.task(&name);
        let (to, what) = (dir.clone(), spec.clone());
        if let Err(e) = blocking(move || to.write_spec(&what)).await {
            let why = format!("failed to checkpoint the executor: {e}");
            let exit = Exit::LaunchFailed(why);
            return Some(Event::Exited {
                task_id: name,
                exit,
            });
        }
        self.tasks.launch(spec, dir);
        None
    }

    /// Makes the spec of a task durable that an executor will run.
    pub(crate) async fn accept_on(&mut self, spec: TaskSpec, container: &TaskId) {
        tracing::info!(task_id = %spec.task_id, %container, "task received for an executor");
        let (dir, on) = (self.work.task(&spec.task_id), self.work.task(container));
        if let Err(e) = blocking(move || dir.write_spec_on(&spec, &on)).await {
            // An agent after this one will not know it: its executor, and the master, are told then.
            tracing::error!(error = %e, "a task of an executor is not durable");
        }
    }

    /// What a container may use has changed.
    pub(crate) fn limit_executor(&mut self, container: &TaskId, resources: &Resources) {
        self.tasks.limit(container, resources);
    }

    /// Tells the master what an executor says to its framework.
    pub(crate) fn tell_framework(&self, key: &ExecutorKey, data: Vec<u8>) {
        let message = convert::executor_message_to_wire(key, data);
        self.say(session::message(pb::agent_message::Kind::ExecutorMessage(
            message,
        )));
    }

    /// An executor is over: its connection ends, and the master hears of it before it hears anything that rests on
    /// that.
    pub(crate) fn executor_ended(&mut self, end: ExecutorEnd) {
        tracing::info!(executor = %end.key, status = end.status, why = end.message, "executor ended");
        self.streams.open.remove(&end.key);
        self.ended_executors.push(end);
        self.tell_ended();
    }

    /// Says which executors have ended, as far as there is room; a master that is not there hears it by what is
    /// registered.
    pub(crate) fn tell_ended(&mut self) {
        let Some(outbox) = &self.outbox else {
            self.ended_executors.clear();
            return;
        };
        while let Some(end) = self.ended_executors.first() {
            let kind = pb::agent_message::Kind::ExecutorEnded(end.into());
            if outbox.try_send(session::message(kind)).is_err() {
                return;
            }
            self.ended_executors.remove(0);
        }
    }

    /// Executors for a registration.
    pub(crate) fn registered_executors(&self) -> Vec<pb::RegisteredExecutor> {
        let all = self.core.executors();
        all.map(|(record, _)| record.into()).collect()
    }
}

/// What handlers of the API have.
#[derive(Debug, Clone)]
pub struct Door {
    /// The agent's loop.
    pub inputs: mpsc::Sender<crate::run::Input>,
}
