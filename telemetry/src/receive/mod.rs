//! What tasks send: OTLP over gRPC and over HTTP, taken in under the sender's identity.
//!
//! Who sends is said by whoever serves the connection ([`Sender`] among the request's extensions), never by what is sent: a
//! task's claims about itself are kept as far as they contradict nothing that is known of it. What is taken goes the way of
//! everything else: queue, spool, endpoint.

mod apps;
mod decode;
mod gate;
mod grpc;
mod http;
mod shapes;
mod take;
mod words;

use std::sync::{Arc, Mutex};

use axum::Router;
use gate::Gate;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use tokio::sync::Semaphore;
use tonic::Code;
use waggle_telemetry_pipeline::{AttrValue, LogBudget, LogRate, TaskLabels, names};

use crate::pipe::{Pipe, Signal, lock, now_ns};

/// Longest request in bytes, as sent and decompressed.
const MAX_REQUEST: usize = 4 << 20;
/// What a task may send: items and bytes a second.
const RATE: LogRate = LogRate {
    lines_s: 20_000,
    bytes_s: 8 << 20,
};
/// How many seconds of that it may send at once.
const BURST_S: u64 = 2;
/// Most items of a request: no more than half of a queue.
const MAX_ITEMS: u64 = 8192;

/// A task that may send, with what it may still send.
#[derive(Debug)]
pub struct Sender {
    labels: Arc<TaskLabels>,
    budget: Mutex<LogBudget>,
    /// Its requests that are not answered yet.
    places: Arc<Semaphore>,
    /// The first of them.
    first: Arc<Semaphore>,
}

impl Sender {
    /// A task that has sent nothing yet.
    pub fn new(labels: Arc<TaskLabels>) -> Self {
        Self::at_most(labels, RATE)
    }

    /// The same with a rate of its own: items, and bytes, a second.
    pub fn at_most(labels: Arc<TaskLabels>, rate: LogRate) -> Self {
        Self {
            labels,
            budget: Mutex::new(LogBudget::with_burst(rate, BURST_S, now_ns())),
            places: Arc::new(Semaphore::new(gate::OF_TASK)),
            first: Arc::new(Semaphore::new(1)),
        }
    }

    /// Who it is.
    pub fn labels(&self) -> &Arc<TaskLabels> {
        &self.labels
    }

    fn may_send(&self, items: u64, bytes: usize) -> bool {
        lock(&self.budget).take(items, bytes as u64, now_ns())
    }
}

/// Under what a task sent something.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) labels: Arc<TaskLabels>,
    /// What it says of itself, as far as that is its to say.
    pub(crate) claims: Arc<[KeyValue]>,
    pub(crate) scope: Option<InstrumentationScope>,
    pub(crate) schema_url: String,
}

/// Takes what tasks send.
#[derive(Debug, Clone)]
pub struct Inbox {
    pipe: Arc<Pipe>,
    gate: Gate,
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Nobody knows who sends.
    Stranger,
    /// It has sent too much, or all have; later there is room.
    Rate,
    /// It has too many connections.
    Connections,
    /// It has more bytes or items than a request may have.
    Large,
    /// Such signals of tasks are left off: the node's telemetry costs too much.
    Shed,
    /// It takes too long to come.
    Slow,
    /// It is in a form that is not read.
    Form,
    /// It is no request.
    Invalid,
}

impl Refusal {
    /// Value of `waggle.outcome`.
    const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Rate => "rate",
            Self::Connections => "connections",
            Self::Large => "large",
            Self::Shed => "shed",
            Self::Slow => "slow",
            Self::Form => "form",
            Self::Invalid => "invalid",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Stranger => "only tasks of this node may send",
            Self::Rate => "too much at once, try again later",
            Self::Connections => "too many connections",
            Self::Large => "too much for one request: send several",
            Self::Shed => "the node takes none of these now: its telemetry costs too much",
            Self::Slow => "the request did not come in time",
            Self::Form => {
                "the content type must be application/grpc, application/x-protobuf or application/json, the encoding gzip or none"
            }
            Self::Invalid => "not a request of OTLP",
        }
    }

    const fn code(self) -> Code {
        match self {
            Self::Stranger => Code::PermissionDenied,
            // What SDKs try again.
            Self::Rate | Self::Connections | Self::Shed | Self::Slow => Code::Unavailable,
            Self::Large => Code::ResourceExhausted,
            Self::Form => Code::Unimplemented,
            Self::Invalid => Code::InvalidArgument,
        }
    }
}

/// What became of a request that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Taken {
    /// Items that can't be passed on.
    rejected: i64,
}

impl Taken {
    fn words(self) -> String {
        if self.rejected == 0 {
            String::new()
        } else {
            "items without a name, a value or valid ids, or with a name of the node's own"
                .to_owned()
        }
    }
}

impl Inbox {
    pub(crate) fn new(pipe: Arc<Pipe>) -> Self {
        Self {
            pipe,
            gate: Gate::default(),
        }
    }

    /// gRPC's services and HTTP's paths. Requests must have an `Arc<Sender>` among their extensions.
    pub fn routes(&self) -> Router {
        grpc::routes(self).merge(http::routes(self))
    }

    /// Samples that came by statsd have come to something.
    pub fn samples(&self, outcome: &'static str, n: u64) {
        if n > 0 {
            let attrs = vec![(names::OUTCOME, AttrValue::from(outcome))];
            self.pipe.own_add(&names::TELEMETRY_STATSD, attrs, n);
        }
    }

    /// Scrapes of tasks' ports have come to something.
    pub fn scraped(&self, outcome: &'static str, n: u64) {
        if n > 0 {
            let attrs = vec![(names::OUTCOME, AttrValue::from(outcome))];
            self.pipe.own_add(&names::TELEMETRY_SCRAPES, attrs, n);
        }
    }

    /// A connection came from nobody who may send.
    pub fn turned_away(&self) {
        self.count(None, Refusal::Stranger.name(), 1);
    }

    /// A known task has more connections than it may have.
    pub fn too_many(&self) {
        self.count(None, Refusal::Connections.name(), 1);
    }

    fn count(&self, signal: Option<Signal>, outcome: &'static str, n: u64) {
        if n == 0 {
            return;
        }
        let mut attrs = vec![(names::OUTCOME, AttrValue::from(outcome))];
        attrs.extend(signal.map(|s| (names::SIGNAL, s.name().into())));
        self.pipe.own_add(&names::TELEMETRY_RECEIVED, attrs, n);
    }
}
