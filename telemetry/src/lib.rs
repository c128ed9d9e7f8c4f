//! Telemetry of a process: OTLP out, over gRPC and HTTP, to any number of endpoints; Prometheus text, own logs on stderr.
//!
//! [`Telemetry`] is a cheap handle on one pipeline per process. Callers hand in log records, metric
//! points and spans, tasks send them ([`Inbox`]); for each endpoint and signal there are tasks that ship them over OTLP from bounded
//! queues. What the names are and how lines are read is `waggle-telemetry-pipeline`'s business.
//!
//! # Invariants
//! - No call blocks or waits for the network. Full queues drop their oldest items.
//! - Per signal, in = exported + held + dropped(reason), exactly; the books are exported as
//!   `waggle.telemetry.{in,exported,held,dropped}` and returned by [`Telemetry::losses`].
//! - A task's log records, points and spans carry the same resource, made by one function.
//! - Telemetry traffic makes no telemetry: events of the transport's crates and of this crate never
//!   enter the log queue.
//! - With a spool, what was handed in goes to disk first and is kept until the endpoint has answered for it, also over the
//!   process's end; it is delivered at least once (log records have an id) or counted as lost.
//! - What tasks send ([`Inbox`]) carries the identity of the connection that it came by, whatever it says of itself.
//! - Without an OTLP endpoint nothing is queued; Prometheus and stderr work all the same.
//!
//! # What it never does
//! It reads no kernel map and no task's file: finished values are handed in. What it reads is what this process costs.
#![forbid(unsafe_code)]

mod bridge;
mod config;
mod contract;
mod destination;
mod disks;
mod export;
mod link;
mod otlp;
mod own;
mod pipe;
mod receive;
mod recent;
mod requests;
mod sdk;
pub mod served;
mod spans;
mod spool;
mod spooled;
mod telemetry;
mod verbosity;

pub use bridge::BridgeLayer;
pub use config::{BUDGET, SpoolConfig, TelemetryConfig, TelemetryError};
pub use contract::{CpuMeter, Metered};
pub use destination::{Destination, Health, Protocol, State};
pub use opentelemetry::trace::SpanKind;
pub use pipe::{Losses, Signal};
pub use receive::{Inbox, Sender};
pub use recent::{RecentSpan, SpanLink};
pub use spans::{ActiveSpan, SpanBuilder};
pub use telemetry::{Guard, Telemetry};
pub use verbosity::{MAX_VERBOSITY, Verbosity};
pub use waggle_telemetry_pipeline as pipeline;
pub use waggle_telemetry_pipeline::{
    AttrValue, Attrs, Exposition, Feature, IoStream, LogRecord, MetricDef, Point, PointData,
    TaskLabels, names,
};
