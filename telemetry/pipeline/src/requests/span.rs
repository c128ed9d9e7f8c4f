//! What a tracer hands out.

use waggle_types::TraceContext;

use crate::{Attrs, names::SpanSide};

/// A request that one end of a connection has seen the end of. Its resource is that of the task in the cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSpan {
    /// cgroup id of the task.
    pub cgroup: u64,
    /// Its ids.
    pub context: TraceContext,
    /// The span that it is part of, of the same trace.
    pub parent: Option<u64>,
    /// Whether the parent is another task's, or what the wire says.
    pub parent_is_remote: bool,
    /// Spans that it belongs to without being their child.
    pub links: Vec<TraceContext>,
    /// Client or server.
    pub side: SpanSide,
    /// `GET /cart/{id}`, `shop.Cart/Add`.
    pub name: String,
    /// The request's first byte, Unix nanoseconds.
    pub start_ns: u64,
    /// The response's last byte, or what `waggle.request.end` says.
    pub end_ns: u64,
    /// Names are in the registry.
    pub attrs: Attrs,
    /// Whether it failed, by the semantic conventions' rules; why is `error.type`.
    pub failed: bool,
}
