//! Trace and span ids under the keys that loggers use.

use waggle_types::TraceContext;

/// Ids as they are found.
#[derive(Debug, Default)]
pub(super) struct Ids {
    trace_id: Option<u128>,
    span_id: Option<u64>,
    flags: u8,
}

impl Ids {
    /// Takes a value when its key names an id; `true` when it was taken. Never `parent_*`.
    pub(super) fn take(&mut self, key: &str, value: &str) -> bool {
        match key {
            "trace_id" | "traceid" | "traceId" | "trace-id" | "trace.id" | "TraceId" | "@tr" => {
                self.trace_id = self.trace_id.or_else(|| hex128(value));
                hex128(value).is_some()
            }
            // Google writes the resource's name: `projects/p/traces/<id>`.
            "logging.googleapis.com/trace" => {
                let id = value.rsplit('/').next().and_then(hex128);
                self.trace_id = self.trace_id.or(id);
                id.is_some()
            }
            "span_id"
            | "spanid"
            | "logging.googleapis.com/spanId"
            | "spanId"
            | "span-id"
            | "span.id"
            | "SpanId"
            | "@sp" => {
                self.span_id = self.span_id.or_else(|| hex64(value));
                hex64(value).is_some()
            }
            // Datadog writes 64-bit decimals, newer tracers 128-bit hex.
            "dd.trace_id" => {
                let id = hex128(value).or_else(|| value.parse().ok().filter(|n| *n != 0));
                self.trace_id = self.trace_id.or(id);
                id.is_some()
            }
            "dd.span_id" => {
                let id = value.parse().ok().filter(|n| *n != 0);
                self.span_id = self.span_id.or(id);
                id.is_some()
            }
            "trace_flags" | "traceFlags" | "trace-flags" => {
                let flags = u8::from_str_radix(value, 16).ok();
                self.flags = flags.unwrap_or(self.flags);
                flags.is_some()
            }
            "traceparent" => match value.parse::<TraceContext>() {
                Ok(c) => {
                    self.trace_id = Some(c.trace_id);
                    self.span_id = Some(c.span_id);
                    self.flags = c.flags;
                    true
                }
                Err(_) => false,
            },
            _ => false,
        }
    }

    /// A span id without a trace id says nothing.
    pub(super) fn context(&self) -> Option<TraceContext> {
        self.trace_id.map(|trace_id| TraceContext {
            trace_id,
            span_id: self.span_id.unwrap_or(0),
            flags: self.flags,
        })
    }
}

fn is_hex(s: &str, len: usize) -> bool {
    s.len() == len && s.bytes().all(|b| b.is_ascii_hexdigit())
}

fn hex128(s: &str) -> Option<u128> {
    // With the dashes of a UUID too.
    let s = &s.replace('-', "");
    (is_hex(s, 32) || is_hex(s, 16))
        .then(|| u128::from_str_radix(s, 16).ok())
        .flatten()
        .filter(|n| *n != 0)
}

fn hex64(s: &str) -> Option<u64> {
    is_hex(s, 16)
        .then(|| u64::from_str_radix(s, 16).ok())
        .flatten()
        .filter(|n| *n != 0)
}
