//! Decoding, on a corpus of lines as real programs write them and on any bytes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::fmt::Write as _;

use proptest::prelude::*;
use waggle_telemetry_pipeline::{
    AttrValue, Entry, IoStream, Joiner, LineSplitter, LogRecord, decode_entry, decode_line,
};

/// 2026-11-23T04:14:52Z: a second or two after the corpus was written.
const READ: u64 = 1_795_407_292_000_000_000;

fn decode(line: &[u8]) -> LogRecord {
    decode_line(line, IoStream::Stdout, READ)
}

/// One record as text: time relative to the reading, severity, ids, attributes, body if it is not the line.
fn render(line: &str, rec: &LogRecord) -> String {
    let ago_us = (i128::from(READ) - i128::from(rec.time_ns)) / 1000;
    let time = match ago_us {
        0 => "read".to_owned(),
        us => format!("-{us}us"),
    };
    let severity = format!("{} {:?}", rec.severity.number(), rec.severity_text);
    let mut out = format!("{line}\n    {time} | {severity}");
    if rec.body.as_str() != Some(line) {
        let _ = write!(out, " | body {}", rec.body.to_text().escape_debug());
    }
    if let Some(t) = rec.trace {
        let _ = write!(out, " | trace {t}");
    }
    if let Some(e) = &rec.event_name {
        let _ = write!(out, " | event {e}");
    }
    for (k, v) in &rec.attrs {
        let _ = write!(out, " | {k}={}", v.to_text().escape_debug());
    }
    out.push('\n');
    out
}

#[test]
fn corpus() {
    let mut out = String::new();
    for line in include_str!("../../../tests/fixtures/logs/lines.txt").lines() {
        if line.starts_with("# ") {
            let _ = writeln!(out, "{line}");
        } else {
            out.push_str(&render(line, &decode(line.as_bytes())).replace('\u{1b}', "<ESC>"));
        }
    }
    insta::assert_snapshot!(out);
}

/// What is joined: entries of each part of the corpus, one to a paragraph.
#[test]
fn stacks() {
    let mut out = String::new();
    let text = include_str!("../../../tests/fixtures/logs/stacks.txt");
    for part in text.split("# ").filter(|p| !p.is_empty()) {
        // Parts of PHP's stacks are numbered with the same mark and a digit.
        let (title, lines) = part.split_once('\n').unwrap();
        let _ = writeln!(out, "# {title}");
        for entry in entries(lines.as_bytes()) {
            let record = decode_entry(&entry, IoStream::Stderr, READ);
            let body = record
                .body
                .to_text()
                .replace('\n', "\n    ")
                .replace('\t', "<TAB>");
            let n = entry.n_lines;
            let severity = record.severity.number();
            let _ = writeln!(
                out,
                "  {n} | {severity} {:?} | {body}",
                record.severity_text
            );
        }
    }
    insta::assert_snapshot!(out);
}

fn entries(text: &[u8]) -> Vec<Entry> {
    let (mut splitter, mut joiner) = (LineSplitter::default(), Joiner::default());
    let lines = splitter.push(text);
    let mut out: Vec<Entry> = lines.into_iter().flat_map(|l| joiner.push(l)).collect();
    out.extend(joiner.flush());
    out
}

#[test]
fn bounds_are_kept() {
    let deep = format!(
        "{{\"msg\":\"x\",\"a\":{}1{}}}",
        "[".repeat(100),
        "]".repeat(100)
    );
    let rec = decode(deep.as_bytes());
    let mut depth = 0;
    let mut v = rec.attr("a");
    while let Some(AttrValue::List(l)) = v {
        depth += 1;
        v = l.first();
    }
    assert!((1..=10).contains(&depth), "{depth}");
    // Too deep for the parser: still a record, with the line as its body.
    let abyss = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(decode(abyss.as_bytes()).body.as_str(), Some(abyss.as_str()));

    let wide: Vec<String> = (0..500).map(|i| format!("\"k{i}\":{i}")).collect();
    let rec = decode(format!("{{\"msg\":\"x\",{}}}", wide.join(",")).as_bytes());
    assert!(rec.attrs.len() <= 66, "{}", rec.attrs.len());
    assert_eq!(
        rec.attr("waggle.log.attributes.dropped"),
        Some(&AttrValue::I64(436))
    );
}

#[test]
fn bad_utf8_nul_and_crlf_are_survived() {
    let rec = decode(b"caf\xe9 \0 end\r\n");
    assert_eq!(rec.body.as_str(), Some("caf\u{fffd} \0 end"));
    assert_eq!(
        rec.attr("waggle.log.invalid_utf8"),
        Some(&AttrValue::Bool(true))
    );
}

#[test]
fn stderr_is_not_a_severity() {
    let rec = decode_line(b"hello", IoStream::Stderr, READ);
    assert_eq!(rec.severity.number(), 0);
    assert_eq!((rec.time_ns, rec.observed_ns), (READ, READ));
}

/// Bytes that are likely to get deep into the parsers: the corpus, cut and spliced.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let lines: Vec<&str> = include_str!("../../../tests/fixtures/logs/lines.txt")
        .lines()
        .collect();
    let line = || prop::sample::select(lines.clone());
    let (head, tail) = (line(), line());
    (head, tail, any::<prop::sample::Index>(), any::<Vec<u8>>()).prop_map(|(a, b, cut, junk)| {
        let head = &a.as_bytes()[..cut.index(a.len() + 1)];
        let tail = &b.as_bytes()[cut.index(b.len() + 1)..];
        [head, &junk, tail].concat()
    })
}

proptest! {
    /// From pieces of a pipe to records: whatever is written, every byte is in one of them, and what is read again in other
    /// pieces is the same.
    #[test]
    fn whole_on_any_bytes(
        lines in prop::collection::vec(prop_oneof![any::<Vec<u8>>(), mutated()], 0..12),
        cuts in prop::collection::vec(1usize..300, 1..20),
    ) {
        let text = lines.join(&b'\n');
        let whole = |cuts: &[usize]| {
            let (mut splitter, mut joiner) = (LineSplitter::new(200), Joiner::default());
            let (mut out, mut rest) = (Vec::new(), text.as_slice());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                out.extend(splitter.push(now).into_iter().flat_map(|l| joiner.push(l)));
                rest = later;
            }
            out.extend(splitter.flush().into_iter().flat_map(|l| joiner.push(l)));
            out.extend(joiner.flush());
            out
        };
        let entries = whole(&cuts);
        let mut at = 0;
        for entry in &entries {
            prop_assert_eq!(entry.start_offset, at);
            at = entry.end_offset;
            let record = decode_entry(entry, IoStream::Stdout, READ);
            prop_assert!(record.severity.number() <= 24);
        }
        prop_assert_eq!(at, text.len() as u64);
        prop_assert_eq!(whole(&[1000]), entries);
    }

    #[test]
    fn total_on_any_bytes(
        line in prop_oneof![any::<Vec<u8>>(), mutated()],
        read in prop_oneof![Just(READ), any::<u64>()],
    ) {
        let rec = decode_line(&line, IoStream::Stderr, read);
        prop_assert_eq!(rec.observed_ns, read);
        prop_assert!(rec.severity.number() <= 24);
        prop_assert!(rec.attrs.len() <= 66);
        prop_assert!(rec.time_ns <= read.saturating_add(86_400_000_000_000));
        // Replacement characters and JSON numbers may grow; nothing else does.
        prop_assert!(rec.approx_bytes() <= 1024 + 16 * line.len());
        // The same bytes give the same record.
        prop_assert_eq!(decode_line(&line, IoStream::Stderr, read), rec);
    }
}
