//! W3C trace context, so that one deployment is one trace over every process.

use std::{fmt, str::FromStr};

/// A span's identity as it travels: trace id, span id, flags.
///
/// Text form is the `traceparent` header of W3C Trace Context level 1 (version 00).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceContext {
    /// 16 bytes, never zero in a valid context.
    pub trace_id: u128,
    /// 8 bytes, never zero in a valid context.
    pub span_id: u64,
    /// Bit 0 is "sampled".
    pub flags: u8,
}

/// A string that is not a `traceparent`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent of the form 00-<32 hex>-<16 hex>-<2 hex>")]
pub struct TraceParseError;

impl FromStr for TraceContext {
    type Err = TraceParseError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = s.split('-').collect();
        let [version, trace, span, flags] = parts.as_slice() else {
            return Err(TraceParseError);
        };
        let lens_ok =
            version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
        let hex = |p: &str| {
            p.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        if !lens_ok || *version == "ff" || !parts.iter().all(|p| hex(p)) {
            return Err(TraceParseError);
        }
        let out = Self {
            trace_id: u128::from_str_radix(trace, 16).map_err(|_| TraceParseError)?,
            span_id: u64::from_str_radix(span, 16).map_err(|_| TraceParseError)?,
            flags: u8::from_str_radix(flags, 16).map_err(|_| TraceParseError)?,
        };
        if out.trace_id == 0 || out.span_id == 0 {
            Err(TraceParseError)
        } else {
            Ok(out)
        }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.span_id, self.flags
        )
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_round_trips(t in 1u128.., s in 1u64.., f in 0u8..) {
            let ctx = TraceContext { trace_id: t, span_id: s, flags: f };
            prop_assert_eq!(ctx.to_string().parse::<TraceContext>().unwrap(), ctx);
        }

        #[test]
        fn any_text_is_survived(s in ".*") {
            let _ = s.parse::<TraceContext>();
        }
    }
}
