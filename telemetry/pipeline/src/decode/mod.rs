//! From a line to a record. Total: any bytes give a record.

mod time;

pub(crate) use time::format_rfc3339;

use crate::{IoStream, LogRecord};

/// Reads one line.
pub fn decode_line(line: &[u8], stream: IoStream, read_ns: u64) -> LogRecord {
    let mut rec = LogRecord::text(String::from_utf8_lossy(line), read_ns);
    rec.stream = Some(stream);
    rec
}
