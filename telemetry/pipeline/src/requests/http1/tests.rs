use super::*;

fn heads(bytes: &[u8], is_request: bool, may_begin: bool, is_start: bool) -> Vec<Said> {
    let mut reader = Reader::default();
    if is_start {
        reader.begins_at(5);
    }
    let mut segment = Segment {
        at: 1,
        sequence: 5,
        length: distance(bytes.len()),
        thread: None,
        bytes,
        is_fresh: true,
    };
    let permit = Permit {
        is_request,
        may_begin,
        is_bodiless: false,
        is_connect: false,
    };
    std::iter::from_fn(|| reader.step(&mut segment, permit)).collect()
}

fn n_heads(bytes: &[u8], is_request: bool) -> usize {
    let said = heads(bytes, is_request, true, true);
    said.iter().filter(|s| matches!(s, Said::Head(_))).count()
}

#[test]
fn what_looks_like_a_request() {
    for (bytes, is_one) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], true),
        (b"M-SEARCH * HTTP/1.1\n\n", true),
        (b"GET /\r\n\r\n", false),
        (b"GET / HTTP/2.0\r\n\r\n", false),
        (b"get / HTTP/1.1\r\n\r\n", false),
        (b"HTTP/1.1 200 OK\r\n\r\n", false),
        (b"\x16\x03\x01 GET / HTTP/1.1\r\n\r\n", false),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false),
    ] {
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(n_heads(bytes, true) == 1, is_one, "{shown}");
    }
    assert_eq!(n_heads(b"HTTP/1.1 200\r\n\r\n", false), 1);
    assert_eq!(n_heads(b"HTTP/1.1 2000 OK\r\n\r\n", false), 0);
    assert_eq!(n_heads(b"HTTP/1.1 2x0 OK\r\n\r\n", false), 0);
}

#[test]
fn where_nobody_knows_it_needs_leave() {
    let bytes = b"GET /a HTTP/1.1\r\n\r\n";
    assert_eq!(heads(bytes, true, false, false).len(), 0);
    // A head, and its end.
    assert_eq!(heads(bytes, true, true, false).len(), 2);
    // In the middle of a packet it can't begin.
    assert_eq!(
        heads(b"xGET /a HTTP/1.1\r\n\r\n", true, true, false).len(),
        0
    );
    assert_eq!(side_of(bytes), Some(true));
    assert_eq!(side_of(b"HTTP/1.1 200 OK"), Some(false));
    assert_eq!(side_of(b"\0\0\x04"), None);
}

#[test]
fn lengths_that_contradict_themselves_say_nothing() {
    let body = "GET /x HTTP/1.1\r\n\r\n";
    for (fields, n) in [
        ("Content-Length: 19\r\n", 1),
        ("Content-Length: 19\r\nContent-Length: 19\r\n", 1),
        ("Content-Length: 0\r\n", 2),
        ("Content-Length: 0\r\nContent-Length: 19\r\n", 1),
        ("Content-Length: +0\r\n", 1),
        ("Content-Length: 0\r\nTransfer-Encoding: gzip\r\n", 1),
        (
            "Content-Length: 0\r\nTransfer-Encoding: gzip, chunked\r\n",
            1,
        ),
    ] {
        let bytes = format!("POST /a HTTP/1.1\r\n{fields}\r\n{body}");
        assert_eq!(n_heads(bytes.as_bytes(), true), n, "{fields}");
    }
}

#[test]
fn two_contexts_are_none() {
    let one = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    for (fields, is_one) in [(one.to_owned(), true), (one.repeat(2), false)] {
        let bytes = format!("GET /a HTTP/1.1\r\n{fields}\r\n");
        let said = heads(bytes.as_bytes(), true, true, true);
        let Some(Said::Head(head)) = said.first() else {
            panic!("{said:?}")
        };
        assert_eq!(head.context.is_some(), is_one);
    }
}

#[test]
fn bodies_of_many_gigabytes_end_where_they_end() {
    let mut reader = Reader::default();
    reader.begins_at(0);
    let permit = Permit {
        is_request: true,
        may_begin: false,
        is_bodiless: false,
        is_connect: false,
    };
    let mut step = |sequence: u32, bytes: &[u8]| {
        let mut segment = Segment {
            at: 1,
            sequence,
            length: distance(bytes.len()),
            thread: None,
            bytes,
            is_fresh: true,
        };
        let said = std::iter::from_fn(|| reader.step(&mut segment, permit));
        said.filter(|s| matches!(s, Said::Head(_))).count()
    };
    let head = b"PUT /big HTTP/1.1\r\nContent-Length: 8589934592\r\n\r\n";
    assert_eq!(step(0, head), 1);
    let body = distance(head.len());
    assert_eq!(
        step(body.wrapping_add(1_000_000_000), b"GET /x HTTP/1.1\r\n\r\n"),
        0
    );
    assert_eq!(
        step(body.wrapping_add(4_000_000_000), b"GET /x HTTP/1.1\r\n\r\n"),
        0
    );
    // Twice around.
    assert_eq!(step(body, b"GET /y HTTP/1.1\r\n\r\n"), 1);
}
