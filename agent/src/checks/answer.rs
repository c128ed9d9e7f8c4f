//! As much of HTTP/1 as a check needs: the status of the final answer, and what it begins with where that is to be told
//! (RFC 9112).

use waggle_types::{CheckResponse, MAX_RESPONSE_BODY};

/// Longest type of content that is told, in bytes; more is cut off.
const MAX_TYPE: usize = 256;

/// Most bytes that are read of an answer.
pub const MAX_ANSWER: usize = 4096;

/// What the bytes so far say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// Not enough to say.
    More,
    /// The final status.
    Status(u16),
    /// This is no HTTP/1.
    Bad,
}

/// Reads answers from the beginning of a connection; interim ones (1xx) are passed over.
pub fn scan(mut bytes: &[u8]) -> Scan {
    loop {
        match status(bytes) {
            Scan::Status(s) if (100..200).contains(&s) && s != 101 => match head_end(bytes) {
                Some(end) => bytes = &bytes[end..],
                None => return Scan::More,
            },
            other => return other,
        }
    }
}

/// The content of an answer, as far as it is read and told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    content_type: String,
    body: Vec<u8>,
}

impl Answer {
    /// As it is told of check `idx`.
    pub fn told(self, idx: usize) -> CheckResponse {
        CheckResponse {
            idx,
            status: self.status,
            content_type: self.content_type,
            body: cut(
                String::from_utf8_lossy(&self.body).into_owned(),
                MAX_RESPONSE_BODY,
            ),
        }
    }
}

fn cut(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text
}

/// The final answer, as far as it is there, and whether there is more that is worth waiting for. An answer whose head is
/// not whole has no content yet.
pub fn answer(mut bytes: &[u8], status: u16) -> (Answer, bool) {
    let nothing = Answer {
        status,
        content_type: String::new(),
        body: Vec::new(),
    };
    let end = loop {
        let Some(end) = head_end(bytes) else {
            return (nothing, true);
        };
        match self::status(bytes) {
            Scan::Status(s) if (100..200).contains(&s) && s != 101 => bytes = &bytes[end..],
            _ => break end,
        }
    };
    let (head, rest) = bytes.split_at(end);
    let head = String::from_utf8_lossy(head);
    let header = |name: &str| {
        let mut lines = head.lines().skip(1).filter_map(|l| l.split_once(':'));
        lines
            .find(|(n, _)| n.trim().eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim())
    };
    let chunked = header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
    let length = header("content-length").and_then(|v| v.parse::<usize>().ok());
    let (body, more) = match length {
        _ if chunked => chunks(rest),
        Some(n) => (rest[..rest.len().min(n)].to_vec(), rest.len() < n),
        None => (rest.to_vec(), true),
    };
    let without = matches!(status, 101 | 204 | 304);
    let more = more && !without && body.len() < MAX_RESPONSE_BODY;
    let content_type = cut(header("content-type").unwrap_or_default().into(), MAX_TYPE);
    let answer = Answer {
        content_type,
        body,
        ..nothing
    };
    (answer, more)
}

/// What is in chunks, and whether the last one is missing. What is no chunk ends it.
fn chunks(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    loop {
        let Some(line) = bytes.iter().position(|b| *b == b'\n') else {
            return (out, true);
        };
        let size = String::from_utf8_lossy(&bytes[..line]);
        let size = size.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else {
            return (out, false);
        };
        if size == 0 {
            return (out, false);
        }
        let rest = &bytes[line + 1..];
        out.extend_from_slice(&rest[..rest.len().min(size)]);
        // Each ends with a line of its own.
        let Some(next) = size.checked_add(2).and_then(|end| rest.get(end..)) else {
            return (out, true);
        };
        bytes = next;
    }
}

/// `HTTP/1.1 200`, and something after it.
fn status(bytes: &[u8]) -> Scan {
    const BEGINS: &[u8] = b"HTTP/1.";
    let n = bytes.len().min(BEGINS.len());
    if bytes[..n] != BEGINS[..n] {
        return Scan::Bad;
    }
    let [minor, b' ', a, b, c, after, ..] = bytes[n..] else {
        // What is there must still be able to become one.
        let fine = bytes[n..].iter().enumerate().all(|(i, byte)| match i {
            1 => *byte == b' ',
            _ => byte.is_ascii_digit(),
        });
        return if fine && bytes.len() < BEGINS.len() + 6 {
            Scan::More
        } else {
            Scan::Bad
        };
    };
    let digits = [minor, a, b, c].iter().all(u8::is_ascii_digit);
    if !digits || !matches!(after, b' ' | b'\r' | b'\n') {
        return Scan::Bad;
    }
    let digit = |b: u8| u16::from(b - b'0');
    Scan::Status(digit(a) * 100 + digit(b) * 10 + digit(c))
}

/// Where the empty line after a head ends; a bare line feed ends a line as well.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut line_is_empty = false;
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if line_is_empty => return Some(i + 1),
            b'\n' => line_is_empty = true,
            b'\r' => {}
            _ => line_is_empty = false,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_of_real_servers() {
        let nginx =
            b"HTTP/1.1 503 Service Unavailable\r\nServer: nginx\r\nContent-Type: text/html\r\n\
            Content-Length: 7\r\nConnection: close\r\n\r\nwarming up";
        for (bytes, status, want) in [
            (&nginx[..], 503, ("text/html", "warming", false)),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\ncontent-type: a/b\n\nhalf",
                200,
                ("a/b", "half", true),
            ),
            (b"HTTP/1.1 204 No Content\r\n\r\n", 204, ("", "", false)),
            (b"HTTP/1.1 200 OK\r\nContent-Type: te", 200, ("", "", true)),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
                200,
                ("", "short", true),
            ),
        ] {
            let (answer, more) = answer(bytes, status);
            let told = answer.told(3);
            assert_eq!((told.content_type.as_str(), told.body.as_str(), more), want);
            assert_eq!((told.idx, told.status), (3, status));
        }
        let mut long = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        long.extend("\u{e4}".repeat(MAX_RESPONSE_BODY).bytes());
        let (answer, more) = answer(&long, 200);
        assert!(!more, "enough");
        assert_eq!(answer.told(0).body, "\u{e4}".repeat(MAX_RESPONSE_BODY / 2));
    }

    #[test]
    fn answers_of_real_servers() {
        for (bytes, want) in [
            (
                &b"HTTP/1.1 200 OK\r\nServer: nginx\r\n"[..],
                Scan::Status(200),
            ),
            (b"HTTP/1.0 204 No Content\r\n\r\n", Scan::Status(204)),
            (b"HTTP/1.1 503\r\n", Scan::Status(503)),
            (b"HTTP/1.1 404\n", Scan::Status(404)),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\n",
                Scan::Status(302),
            ),
            (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n", Scan::More),
            (b"HTTP/1.1 101 Switching Protocols\r\n", Scan::Status(101)),
            (b"", Scan::More),
            (b"HTT", Scan::More),
            (b"HTTP/1.1 20", Scan::More),
            (b"HTTP/1.1 200", Scan::More),
            (b"HTTP/2 200 OK", Scan::Bad),
            (b"SSH-2.0-OpenSSH_9.2", Scan::Bad),
            (b"HTTP/1.1 2x0 OK", Scan::Bad),
            (b"HTTP/1.1 2000 OK", Scan::Bad),
            (b"HTTP/1.1  200", Scan::Bad),
        ] {
            assert_eq!(scan(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        /// However the bytes arrive, the last word is that of all of them, and "more" is never taken back for less.
        #[test]
        fn pieces_say_what_the_whole_says(
            interim in prop::collection::vec(prop::sample::select(vec![100u16, 102, 103]), 0..3),
            status in prop_oneof![200u16..600, Just(101)],
            reason in "[ -~]{0,12}",
            cut in 0usize..80,
        ) {
            let mut text = String::new();
            for s in interim {
                text += &format!("HTTP/1.1 {s} Wait\r\nA: b\r\n\r\n");
            }
            text += &format!("HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\n\r\n");
            prop_assert_eq!(scan(text.as_bytes()), Scan::Status(status));
            let part = scan(&text.as_bytes()[..cut.min(text.len())]);
            prop_assert!(part == Scan::More || part == Scan::Status(status), "{part:?}");
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = scan(&bytes);
            let _ = answer(&bytes, 200);
            let mut with_head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            with_head.extend(bytes);
            let (answer, _) = answer(&with_head, 200);
            prop_assert!(answer.told(0).body.len() <= MAX_RESPONSE_BODY);
        }

        /// However a body is cut into chunks, and wherever the reading stops: it is a beginning of the body, and whole
        /// when nothing more is waited for.
        #[test]
        fn chunks_are_joined(body in "[a-z]{1,60}", cuts in prop::collection::vec(1usize..20, 1..6), stop in 0usize..200) {
            let mut text = "HTTP/1.1 503 No\r\nTransfer-Encoding: Chunked\r\n\r\n".to_owned();
            let (mut rest, mut cuts) = (body.as_str(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                text += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
                rest = after;
            }
            text += "0\r\n\r\n";
            let (whole, more) = answer(text.as_bytes(), 503);
            prop_assert_eq!((whole.told(0).body, more), (body.clone(), false));
            let (part, more) = answer(&text.as_bytes()[..stop.min(text.len())], 503);
            let part = part.told(0).body;
            prop_assert!(body.starts_with(&part));
            prop_assert!(more || part == body);
        }
    }
}
