//! What tasks send: OTLP over gRPC and over HTTP, taken in under the sender's identity.
//!
//! Who sends is said by whoever serves the connection ([`Sender`] among the request's extensions), never by what is sent: a
//! task's claims about itself are kept as far as they contradict nothing that is known of it. What is taken goes the way of
//! everything else: queue, spool, endpoint.

mod grpc;
mod http;
mod take;

use std::sync::{Arc, Mutex};

use axum::Router;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use waggle_telemetry_pipeline::{AttrValue, LogBudget, LogRate, TaskLabels, names};

use crate::pipe::{Pipe, Signal, lock, now_ns};

/// Longest request in bytes, as sent and decompressed.
pub(crate) const MAX_REQUEST: usize = 4 << 20;
/// What a task may send: items and bytes a second.
const RATE: LogRate = LogRate {
    lines_s: 20_000,
    bytes_s: 8 << 20,
};

/// Most items of a request.
pub(crate) const MAX_ITEMS: u64 = 20_000;

/// A task that may send, with what it may still send.
#[derive(Debug)]
pub struct Sender {
    labels: Arc<TaskLabels>,
    budget: Mutex<LogBudget>,
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
            budget: Mutex::new(LogBudget::new(rate, now_ns())),
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
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Nobody knows who sends.
    Stranger,
    /// It has sent too much; later there is room.
    Rate,
    /// It has more items than a request may have.
    Large,
    /// It is no request.
    Invalid,
}

impl Refusal {
    const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Rate => "rate",
            Self::Large => "large",
            Self::Invalid => "invalid",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Stranger => "only tasks of this node may send",
            Self::Rate => "too much at once, try again later",
            Self::Large => "a request may have 20000 items: send several",
            Self::Invalid => "not a request of OTLP",
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
        Self { pipe }
    }

    /// gRPC's services and HTTP's paths. Requests must have an `Arc<Sender>` among their extensions.
    pub fn routes(&self) -> Router {
        grpc::routes(self).merge(http::routes(self))
    }

    /// A connection came from nobody who may send.
    pub fn turned_away(&self) {
        self.count(None, Refusal::Stranger.name(), 1);
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
