//! W3C trace context, as the wire has it.

use waggle_types::TraceContext;

/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// Reads a `traceparent`. Version ff, ids of zeros and whatever else is not in the standard's form is none. A later version may go
/// on behind a dash (W3C Trace Context, "Versioning of traceparent").
pub(super) fn context(value: &str) -> Option<TraceContext> {
    let known = match value.get(LENGTH..) {
        Some("") => value,
        Some(more) if more.starts_with('-') && !value.starts_with("00") => value.get(..LENGTH)?,
        _ => return None,
    };
    known.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strictly_by_the_standard() {
        let ids = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
        let fine = [
            format!("00-{ids}-01"),
            format!("01-{ids}-00"),
            format!("cc-{ids}-01-more-of-it"),
        ];
        for text in fine {
            let context = context(&text).unwrap();
            assert_eq!(context.span_id, 0x00f0_67aa_0ba9_02b7);
        }
        let zeros = "0".repeat(32);
        let bad = [
            format!("ff-{ids}-01"),
            format!("00-{ids}-01-more"),
            format!("cc-{ids}-01.more"),
            format!("00-{ids}-1"),
            format!("00-{ids}"),
            format!("00-{}-01", ids.to_uppercase()),
            format!("00-{zeros}-00f067aa0ba902b7-01"),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01".to_owned(),
            String::new(),
            "é".repeat(28),
        ];
        for text in bad {
            assert_eq!(context(&text), None, "{text}");
        }
    }
}
