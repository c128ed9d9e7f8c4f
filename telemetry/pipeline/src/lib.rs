//! The pure half of telemetry: what is measured, how it is named, how log lines are read, and what was lost.
//!
//! Shells (`waggle-telemetry`, the agent) hand in bytes, figures and times; this crate turns them into
//! [`Point`]s and [`LogRecord`]s under one registry of [`names`], keeps them in bounded [`Queue`]s that
//! account for every item, and renders the Prometheus text. Names follow the semantic conventions 1.44.0;
//! what those lack is under `waggle.*`.
//!
//! # Invariants
//! - A [`MetricDef`] can only be made by the table in [`names`]: nothing is emitted that is not in the registry.
//! - One function makes a task's resource, for all three signals: [`TaskLabels::resource_attributes`].
//! - [`Queue`]: in = exported + held + dropped(reason), exactly, after every call.
//! - [`decode_line`] and [`decode_entry`] are total: any bytes give a record, bounded in depth and size.
//! - [`Joiner`] loses no line: what it hands out is what it was given.
//! - [`Statsd`] and [`read_scraped`] are total, within limits, and count what they leave out.
//! - [`Merge`] keeps the order of each source, and gives up on none of them but for time.
//! - [`SeriesStore`] holds a bounded number of series; what does not fit is folded and counted.
//!
//! # What it never does
//! No clock, no entropy, no I/O, no exporter: times and ids are arguments.
#![forbid(unsafe_code)]

pub mod names;
pub mod requests;

mod app;
mod attr;
mod contract;
mod decode;
mod edges;
mod exemplar;
mod exposition;
mod hist;
mod join;
mod labels;
mod limit;
mod lines;
mod merge;
mod point;
mod prometheus;
mod queue;
mod record;
mod scraped;
mod series;
mod statsd;

pub use app::{AppData, AppHistogram, AppLabels, AppMetric, AppPoint, AppSummary};
pub use attr::{AttrValue, Attrs};
pub use contract::{Change, Cost, Feature, Shed, Why};
pub use decode::decode_line;
pub use edges::{Amount, Busiest, Shown};
pub use exemplar::Exemplar;
pub use exposition::Exposition;
pub use hist::{SECONDS_BOUNDS, log2_us_bounds, log2_us_histogram};
pub use join::{Entry, Joiner, decode_entry};
pub use labels::{HostFacts, TaskLabels, component_resource, service_name};
pub use limit::{Dropped, LogBudget, LogDefaults, LogPolicy, LogRate, LogRules, MAX_LOG_FILES};
pub use lines::{Line, LineSplitter, MAX_LINE};
pub use merge::{Merge, Merged};
pub use names::{Kind, MetricDef};
pub use point::{Point, PointData};
pub use prometheus::{PromResource, exposition, prometheus_name, prometheus_text};
pub use queue::{Batch, Counts, DropReason, Limits, Queue};
pub use record::{IoStream, LogRecord, Severity, line_uid, uid_text};
pub use scraped::{Scraped, read_scraped};
pub use series::{ResourceKey, SeriesStore};
pub use statsd::{Statsd, StatsdCounts};
