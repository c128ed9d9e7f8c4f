//! Heads of HTTP/1.x, whole or as far as they were seen.

use crate::requests::{
    head::{Framing, Head, Line, MAX_TEXT, path_of},
    wire,
};

/// Whether bytes may begin a head: `is_start` asks for the whole of what tells it, else a beginning will do.
pub(super) fn looks_like(bytes: &[u8], is_request: bool, is_start: bool) -> bool {
    if is_request {
        looks_like_request(bytes, is_start)
    } else {
        let version = b"HTTP/1.";
        let n = bytes.len().min(version.len());
        (n == version.len() || !is_start) && bytes.get(..n) == version.get(..n)
    }
}

/// RFC 9110: a method is a token; those that are in use are upper-case letters and dashes.
fn looks_like_request(bytes: &[u8], is_start: bool) -> bool {
    const LONGEST: usize = 20;
    let is_method = |b: &u8| b.is_ascii_uppercase() || *b == b'-';
    let n = bytes.iter().take_while(|b| is_method(b)).count();
    if bytes.starts_with(b"HTTP/") || n > LONGEST {
        return false;
    }
    match bytes.get(n..) {
        Some([b' ', target, ..]) => n >= 3 && (target.is_ascii_graphic()),
        Some([b' '] | []) => !is_start && (n > 0 || bytes.is_empty()),
        _ => false,
    }
}

/// Where the head ends: behind its empty line. Lone line feeds count, as with most servers.
pub(super) fn end_of(bytes: &[u8]) -> Option<usize> {
    let mut line = 0;
    for (i, b) in bytes.iter().enumerate() {
        if *b == b'\n' {
            let text = bytes.get(line..i)?;
            if line > 0 && (text.is_empty() || text == b"\r") {
                return Some(i + 1);
            }
            line = i + 1;
        }
    }
    None
}

/// Reads a head. `None`: its first line is none.
pub(super) fn parse(bytes: &[u8], is_request: bool, is_whole: bool) -> Option<Head> {
    let mut lines = bytes.split(|b| *b == b'\n');
    let first = trim(lines.next()?);
    let line = if is_request {
        request_line(first, is_whole)?
    } else {
        status_line(first)?
    };
    let mut head = Head::new(line);
    head.is_cut = !is_whole;
    let mut fields = Fields::default();
    let mut lines = lines.peekable();
    while let Some(line) = lines.next() {
        let line = trim(line);
        // What may go on is not said.
        if !is_whole && lines.peek().is_none() {
            break;
        }
        if line.is_empty() {
            break;
        }
        fields.read(line, &mut head);
    }
    head.context = fields.context.filter(|_| fields.n_contexts == 1);
    head.is_upgrade = fields.is_upgrade;
    head.framing = fields.framing();
    head.body_bytes = match head.framing {
        Framing::Length(n) => Some(n),
        _ => None,
    };
    Some(head)
}

fn request_line(line: &[u8], is_whole: bool) -> Option<Line> {
    let mut words = line.split(|b| *b == b' ').filter(|w| !w.is_empty());
    let method = words.next()?;
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    if method.len() > 32 || !method.iter().all(is_token) {
        return None;
    }
    let target = words.next();
    let minor = match words.next() {
        Some(b"HTTP/1.1") => Some(1),
        Some(b"HTTP/1.0") => Some(0),
        None if !is_whole => None,
        _ => return None,
    };
    // A target without a version behind it may be cut.
    let target = target.filter(|_| minor.is_some());
    let path = target.map(|t| path_of(&String::from_utf8_lossy(t)));
    Some(Line::Request {
        method: Some(String::from_utf8_lossy(method).into_owned()),
        path,
        minor,
    })
}

fn status_line(line: &[u8]) -> Option<Line> {
    let mut words = line.split(|b| *b == b' ');
    let version = words.next()?;
    if !matches!(version, b"HTTP/1.1" | b"HTTP/1.0") {
        return None;
    }
    let status = std::str::from_utf8(words.next()?).ok()?;
    let is_status = status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit());
    let status = status.parse().ok().filter(|n| *n >= 100);
    is_status.then_some(Line::Response { status })
}

#[derive(Default)]
struct Fields {
    length: Option<u64>,
    has_bad_length: bool,
    /// The last coding is `chunked`.
    chunked: Option<bool>,
    is_upgrade: bool,
    context: Option<waggle_types::TraceContext>,
    n_contexts: usize,
}

impl Fields {
    fn read(&mut self, line: &[u8], head: &mut Head) {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            return;
        };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default();
        let value = String::from_utf8_lossy(value.get(..MAX_TEXT).unwrap_or(value));
        let value = value.trim();
        match name.to_ascii_lowercase().as_slice() {
            b"content-length" => {
                let number = || value.bytes().all(|b| b.is_ascii_digit());
                let length = Some(value)
                    .filter(|_| number())
                    .and_then(|v| v.parse().ok());
                let differs = self.length.is_some() && self.length != length;
                self.has_bad_length |= length.is_none() || differs;
                self.length = length;
            }
            b"transfer-encoding" => {
                let last = value.rsplit(',').next().unwrap_or_default().trim();
                self.chunked = Some(last.eq_ignore_ascii_case("chunked"));
            }
            b"upgrade" => self.is_upgrade = true,
            b"host" if head.authority.is_none() => head.authority = Some(value.to_owned()),
            b"content-type" => head.is_grpc |= value.starts_with("application/grpc"),
            b"traceparent" => {
                self.n_contexts += 1;
                self.context = wire::context(value);
            }
            _ => {}
        }
    }

    /// RFC 9112, 6.3: a coding overrides a length; what contradicts itself says nothing.
    fn framing(&self) -> Framing {
        match (self.chunked, self.length) {
            (Some(true), _) => Framing::Chunked,
            (Some(false), _) => Framing::Unknown,
            (None, _) if self.has_bad_length => Framing::Unknown,
            (None, Some(n)) => Framing::Length(n),
            (None, None) => Framing::None,
        }
    }
}

fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}
