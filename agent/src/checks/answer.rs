//! As much of HTTP/1 as a check needs: the status of the final answer (RFC 9112).

/// Most bytes that are read for a status.
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
        }
    }
}
