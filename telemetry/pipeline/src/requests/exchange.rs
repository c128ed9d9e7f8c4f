//! A request with its response, as one end has seen it, and the span that it becomes (semantic conventions 1.44.0, HTTP and RPC).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use waggle_types::TraceContext;

use super::{
    RequestSpan,
    head::{Head, Line},
    http2,
    links::NodeId,
    template,
};
use crate::{AttrValue, Attrs, names::SpanSide};

/// What is the same for all requests of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) cgroup: u64,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) vip: Option<SocketAddr>,
    pub(super) is_server: bool,
    pub(super) is_older: bool,
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) node: NodeId,
    pub(super) request: Box<Head>,
    pub(super) response: Option<Box<Head>>,
    pub(super) is_http2: bool,
    /// The response lasts until the connection closes.
    pub(super) until_close: bool,
    grpc_status: Option<u16>,
    is_grpc: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With the response's last byte.
    Whole,
    /// Some time after the response's head.
    Unseen,
    /// The connection was closed.
    Closed,
    /// The stream was reset.
    Reset(u32),
    /// What came of it was lost.
    Lost,
    /// It has taken too long.
    GivenUp,
}

impl Exchange {
    pub(super) fn new(node: NodeId, request: Box<Head>, is_http2: bool) -> Self {
        Self {
            node,
            is_grpc: request.is_grpc,
            request,
            response: None,
            is_http2,
            until_close: false,
            grpc_status: None,
        }
    }

    pub(super) fn method(&self) -> Option<&str> {
        match &self.request.line {
            Line::Request { method, .. } => method.as_deref(),
            Line::Response { .. } => None,
        }
    }

    /// Head or trailers of the response.
    pub(super) fn answer(&mut self, head: Box<Head>) {
        self.grpc_status = head.grpc_status.or(self.grpc_status);
        self.is_grpc |= head.is_grpc || head.grpc_status.is_some();
        self.response.get_or_insert(head);
    }

    fn status(&self) -> Option<u16> {
        match self.response.as_ref()?.line {
            Line::Response { status } => status,
            Line::Request { .. } => None,
        }
    }

    fn path(&self) -> Option<&str> {
        match &self.request.line {
            Line::Request { path, .. } => path.as_deref(),
            Line::Response { .. } => None,
        }
    }

    /// Whether something of the heads is not known.
    pub(super) fn is_unknown(&self) -> bool {
        let response = self.response.as_ref();
        let no_status = response.is_some() && self.status().is_none();
        self.request.is_cut || self.method().is_none() || self.path().is_none() || no_status
    }

    /// The span, but for its ids. `name` bounds what it is called by.
    pub(super) fn span(
        &self,
        ends: &Ends,
        end: End,
        at: u64,
        name: impl FnOnce(Named<'_>) -> Arc<str>,
    ) -> RequestSpan {
        let answered = self.response.as_ref().map(|r| r.whole_at);
        let end_ns = match end {
            End::Unseen | End::Lost => answered.unwrap_or(at),
            _ => at,
        };
        let start_ns = self.request.at;
        let mut attrs: Attrs = Vec::with_capacity(20);
        let (name, failure) = if self.is_grpc {
            self.rpc(ends, end, &mut attrs, name)
        } else {
            self.http(ends, end, &mut attrs, name)
        };
        self.ends(ends, &mut attrs);
        if let Some(response) = &self.response {
            let first = response.at.saturating_sub(start_ns) as f64 / 1e9;
            attrs.push(("waggle.request.time_to_first_byte", first.into()));
        }
        let how = match end {
            End::Whole | End::Reset(_) => None,
            End::Unseen => Some("head"),
            End::Closed => (!self.until_close).then_some("closed"),
            End::Lost => Some("lost"),
            End::GivenUp => Some("given_up"),
        };
        attrs.extend(how.map(|h| ("waggle.request.end", h.into())));
        if self.is_unknown() {
            let why = if ends.is_older { "older" } else { "lost" };
            attrs.push(("waggle.request.unknown_head", why.into()));
        }
        if ends.is_older {
            attrs.push(("waggle.request.older_connection", true.into()));
        }
        let failed = failure.is_some();
        attrs.extend(failure.map(|f| ("error.type", f)));
        RequestSpan {
            cgroup: ends.cgroup,
            context: TraceContext {
                trace_id: 0,
                span_id: 0,
                flags: 0,
            },
            parent: None,
            parent_is_remote: false,
            links: Vec::new(),
            side: if ends.is_server {
                SpanSide::Server
            } else {
                SpanSide::Client
            },
            name,
            start_ns,
            end_ns: end_ns.max(start_ns),
            attrs,
            failed,
        }
    }

    /// Attributes of HTTP; name, and what failed.
    fn http(
        &self,
        ends: &Ends,
        end: End,
        attrs: &mut Attrs,
        template: impl FnOnce(Named<'_>) -> Arc<str>,
    ) -> (String, Option<AttrValue>) {
        let method = self.method();
        let known = method.filter(|m| METHODS.contains(m));
        attrs.push(("http.request.method", known.unwrap_or("_OTHER").into()));
        if let (Some(text), None) = (method, known) {
            attrs.push(("http.request.method_original", text.into()));
        }
        attrs.push(("url.scheme", "http".into()));
        let mut name = known.unwrap_or("HTTP").to_owned();
        if let Some(path) = self.path() {
            attrs.push(("url.path", path.into()));
            if !ends.is_server && path.starts_with('/') {
                let to = ends.vip.unwrap_or(ends.remote).to_string();
                let said = self.request.authority.as_deref();
                let said = said.filter(|a| host_and_port(a).is_some());
                let authority = said.unwrap_or(&to);
                attrs.push(("url.full", format!("http://{authority}{path}").into()));
            }
            let template = template(Named::Path(path));
            name = format!("{name} {template}");
            attrs.push(("waggle.http.template", template.as_ref().into()));
        }
        let status = self.status();
        attrs.extend(status.map(|s| ("http.response.status_code", s.into())));
        let sizes = [
            ("http.request.body.size", self.request.body_bytes),
            (
                "http.response.body.size",
                self.response.as_ref().and_then(|r| r.body_bytes),
            ),
        ];
        attrs.extend(sizes.into_iter().filter_map(|(k, n)| Some((k, n?.into()))));
        // A client's error is 400 and more, a server's 500 and more.
        let limit = if ends.is_server { 500 } else { 400 };
        let by_status = status.filter(|s| *s >= limit).map(|s| s.to_string().into());
        (name, by_status.or_else(|| self.broken(end)))
    }

    /// Attributes of RPC; name, and what failed.
    fn rpc(
        &self,
        ends: &Ends,
        end: End,
        attrs: &mut Attrs,
        bounded: impl FnOnce(Named<'_>) -> Arc<str>,
    ) -> (String, Option<AttrValue>) {
        attrs.push(("rpc.system.name", "grpc".into()));
        let method = self.path().and_then(|p| p.strip_prefix('/'));
        let method = method.filter(|m| is_rpc_method(m));
        let method = method.map(|m| bounded(Named::Method(m)));
        let method = method
            .as_deref()
            .map(|m| if m == template::OTHER { "_OTHER" } else { m });
        attrs.extend(method.map(|m| ("rpc.method", m.into())));
        let status = self.grpc_status;
        let named = status.map(grpc_name);
        attrs.extend(named.map(|n| ("rpc.response.status_code", n.into())));
        let is_error = |code: u16| {
            // Of a server's only what is its own fault.
            let is_fault = matches!(code, 2 | 4 | 12 | 13 | 14 | 15) || code > 16;
            code != 0 && (is_fault || !ends.is_server)
        };
        let by_status = status.filter(|s| is_error(*s)).map(|s| grpc_name(s).into());
        let name = method.unwrap_or("grpc").to_owned();
        // HTTP's own statuses are answers of what stands between.
        let between = self.status().filter(|s| *s != 200 && status.is_none());
        let by_http = between.map(|s| s.to_string().into());
        (name, by_status.or(by_http).or_else(|| self.broken(end)))
    }

    /// What failed beside what the response says.
    fn broken(&self, end: End) -> Option<AttrValue> {
        match end {
            End::Reset(0) if self.response.is_some() => None,
            End::Reset(code) => Some(http2::code_name(code).into()),
            End::Closed if self.response.is_none() => Some("connection_closed".into()),
            _ => None,
        }
    }

    fn ends(&self, ends: &Ends, attrs: &mut Attrs) {
        let server = if ends.is_server {
            ends.local
        } else {
            ends.vip.unwrap_or(ends.remote)
        };
        let said = self.request.authority.as_deref().and_then(host_and_port);
        let (host, port) = said.unwrap_or((None, None));
        let address = host.unwrap_or_else(|| ip(server));
        attrs.push(("server.address", address.into()));
        attrs.push(("server.port", port.unwrap_or(server.port()).into()));
        if ends.is_server {
            attrs.push(("client.address", ip(ends.remote).into()));
        }
        attrs.push(("network.peer.address", ip(ends.remote).into()));
        attrs.push(("network.peer.port", ends.remote.port().into()));
        attrs.push(("network.transport", "tcp".into()));
        attrs.push(("network.protocol.name", "http".into()));
        let version = match (&self.request.line, self.is_http2) {
            (_, true) => Some("2"),
            (Line::Request { minor, .. }, _) => match minor {
                Some(0) => Some("1.0"),
                Some(_) => Some("1.1"),
                None => None,
            },
            _ => None,
        };
        attrs.extend(version.map(|v| ("network.protocol.version", v.into())));
        if let (Some(vip), false) = (ends.vip, ends.is_server) {
            attrs.push(("waggle.vip.address", vip.to_string().into()));
        }
    }
}

/// RFC 9110 and PATCH, QUERY: what the conventions know.
const METHODS: [&str; 10] = [
    "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE", "QUERY",
];

/// `package.Service/Method`: nothing that a program made up of values.
fn is_rpc_method(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    let parts = text.split('/').count();
    text.len() <= 200 && parts == 2 && text.bytes().all(is_plain)
}

fn ip(at: SocketAddr) -> String {
    at.ip().to_canonical().to_string()
}

/// Host and port of an authority. Text that is none is not repeated.
fn host_and_port(authority: &str) -> Option<(Option<String>, Option<u16>)> {
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return Some((Some(address.ip().to_string()), Some(address.port())));
    }
    if let Ok(address) = authority.parse::<IpAddr>() {
        return Some((Some(address.to_string()), None));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (authority, None),
    };
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let is_fine = !host.is_empty() && host.len() <= 253 && host.bytes().all(is_name);
    is_fine.then(|| (Some(host.to_ascii_lowercase()), port))
}

/// Names of gRPC's status codes.
fn grpc_name(code: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    // gRPC: a code that is not known is UNKNOWN.
    let name = NAMES.get(usize::from(code));
    name.copied().unwrap_or("UNKNOWN")
}

/// What a span is called by, which must be bounded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Named<'a> {
    /// A path, of which a template is made.
    Path(&'a str),
    /// A method of an RPC.
    Method(&'a str),
}
