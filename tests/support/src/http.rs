//! A small HTTP/1.1 client whose socket is made inside a network namespace.
//!
//! One request per connection, bodies bounded, every step under a timeout. Enough for tests and the
//! demo; not a general client.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::netns::NetNs;

/// The largest answer that is read; more is an error.
const MAX_BODY_BYTES: u64 = 64 * 1024 * 1024;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header names in lower case, with values.
    pub headers: Vec<(String, String)>,
    /// The body, as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| {
            let start: String = self.body.chars().take(200).collect();
            format!("status {}: body is not JSON: {start}", self.status)
        })
    }

    /// The answer itself when the status is 2xx, else an error that shows it.
    pub fn ok(self) -> anyhow::Result<Self> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let start: String = self.body.chars().take(500).collect();
        bail!("status {}: {start}", self.status)
    }
}

/// Sends requests from inside `netns`.
#[derive(Debug, Clone)]
pub struct Client {
    netns: NetNs,
    timeout: Duration,
}

impl Client {
    /// A client with a timeout per step.
    #[must_use]
    pub fn new(netns: NetNs, timeout: Duration) -> Self {
        Self { netns, timeout }
    }

    /// GET.
    pub fn get(&self, addr: SocketAddr, path: &str) -> anyhow::Result<Answer> {
        self.request("GET", addr, path, None, &[])
    }

    /// Any method; a body is sent as JSON.
    pub fn request(
        &self,
        method: &str,
        addr: SocketAddr,
        path: &str,
        body: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        self.exchange(method, addr, path, body, headers)
            .with_context(|| format!("{method} http://{addr}{path}"))
    }

    fn exchange(
        &self,
        method: &str,
        addr: SocketAddr,
        path: &str,
        body: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        let mut stream = self.netns.connect(addr, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nAccept: application/json\r\nConnection: close\r\n"
        );
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if let Some(body) = body {
            let length = body.len();
            let _ = write!(
                head,
                "Content-Type: application/json\r\nContent-Length: {length}\r\n"
            );
        }
        head.push_str("\r\n");
        stream
            .write_all(head.as_bytes())
            .context("send the request")?;
        if let Some(body) = body {
            // A server that refuses a large body may answer and close before it has read all.
            let _ = stream.write_all(body);
        }
        let mut raw = Vec::new();
        let read = stream.take(MAX_BODY_BYTES).read_to_end(&mut raw);
        if raw.is_empty() {
            read.context("read the answer")?;
        }
        parse(&raw)
    }
}

fn parse(raw: &[u8]) -> anyhow::Result<Answer> {
    let split = raw
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("the answer ended before its headers did")?;
    let head = String::from_utf8_lossy(&raw[..split]);
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .context("no status line")?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value.contains("chunked"));
    let rest = &raw[split + 4..];
    let body = if chunked {
        unchunk(rest)?
    } else {
        rest.to_vec()
    };
    Ok(Answer {
        status,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn unchunk(mut rest: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest
            .windows(2)
            .position(|w| w == b"\r\n")
            .context("a chunk without a size")?;
        let size = std::str::from_utf8(&rest[..end])?
            .split(';')
            .next()
            .unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 16).context("a chunk's size")?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..size).context("a chunk is cut short")?);
        rest = rest.get(size + 2..).context("a chunk without its end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_chunked_answers() {
        let plain = parse(b"HTTP/1.1 201 Created\r\nX-A: b\r\n\r\n{\"a\":1}").unwrap();
        assert_eq!(
            (plain.status, plain.json().unwrap()["a"].as_i64()),
            (201, Some(1))
        );
        assert_eq!(plain.headers, [("x-a".to_owned(), "b".to_owned())]);
        let chunked = parse(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        );
        assert_eq!(chunked.unwrap().body, "abcde");
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc").is_err());
    }
}
