//! Mesos's HTTP APIs, byte by byte: what is sent is what stands in the test.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use waggle_api::mesos::recordio::Reader;

use super::PATIENCE;

/// An answer with its whole body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn head_of(method: &str, path: &str, headers: &[(&str, &str)], len: usize) -> String {
    let mut out = format!("{method} {path} HTTP/1.1\r\nHost: m\r\nContent-Length: {len}\r\n");
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    out
}

/// One request on a connection of its own.
pub async fn send(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut headers = headers.to_vec();
    headers.push(("Connection", "close"));
    let mut s = TcpStream::connect(to).await.unwrap();
    let head = head_of(method, path, &headers, body.len());
    s.write_all(head.as_bytes()).await.unwrap();
    s.write_all(body).await.unwrap();
    let mut all = Vec::new();
    timeout(PATIENCE, s.read_to_end(&mut all))
        .await
        .unwrap()
        .unwrap();
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut body = all[end + 4..].to_vec();
    if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        let mut chunks = Chunks(body);
        body = Vec::new();
        while let Some(Some(c)) = chunks.next() {
            body.extend(c);
        }
    }
    Answer { status, head, body }
}

/// HTTP's chunks, as they come.
#[derive(Default)]
struct Chunks(Vec<u8>);

impl Chunks {
    /// The next one; `Some(None)` at the end.
    #[allow(clippy::option_option, reason = "not yet, the end, a chunk")]
    fn next(&mut self) -> Option<Option<Vec<u8>>> {
        let end = self.0.windows(2).position(|w| w == b"\r\n")?;
        let len = std::str::from_utf8(&self.0[..end]).unwrap();
        let len = usize::from_str_radix(len, 16).unwrap();
        if self.0.len() < end + 2 + len + 2 {
            return None;
        }
        let chunk = self.0[end + 2..end + 2 + len].to_vec();
        self.0.drain(..end + 2 + len + 2);
        Some((!chunk.is_empty()).then_some(chunk))
    }
}

/// A stream of records.
pub struct Records {
    socket: TcpStream,
    pub head: String,
    chunks: Chunks,
    reader: Reader,
}

impl Records {
    /// Asks for one; the answer's head is there when this is done.
    pub async fn open(to: SocketAddr, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut socket = TcpStream::connect(to).await.unwrap();
        // As pymesos does: the stream is chunked all the same.
        let mut headers = headers.to_vec();
        headers.push(("Connection", "close"));
        let head = head_of("POST", path, &headers, body.len());
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(body).await.unwrap();
        let mut got = Vec::new();
        let end = loop {
            let mut buf = [0; 4096];
            let n = timeout(PATIENCE, socket.read(&mut buf))
                .await
                .unwrap()
                .unwrap();
            assert!(n > 0, "the answer ends: {}", String::from_utf8_lossy(&got));
            got.extend_from_slice(&buf[..n]);
            if let Some(end) = got.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
        };
        let head = String::from_utf8(got[..end].to_vec()).unwrap();
        Self {
            socket,
            head,
            chunks: Chunks(got[end + 4..].to_vec()),
            reader: Reader::default(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|l| {
            let (n, v) = l.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }

    /// The next record; none at the end of the stream.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(record) = self.reader.next_record().unwrap() {
                return Some(record);
            }
            match self.chunks.next() {
                Some(Some(chunk)) => self.reader.push(&chunk),
                Some(None) => return None,
                None => {
                    let read = timeout(PATIENCE, self.socket.read_buf(&mut self.chunks.0));
                    match read.await.expect("more of the stream in time") {
                        Ok(0) | Err(_) => return None,
                        Ok(_) => {}
                    }
                }
            }
        }
    }

    /// The next event of a type, as JSON.
    pub async fn event(&mut self, kind: &str) -> Value {
        loop {
            let record = self
                .next()
                .await
                .unwrap_or_else(|| panic!("the stream ends before {kind}"));
            let event: Value = serde_json::from_slice(&record).unwrap();
            if event["type"] == kind {
                return event[kind.to_lowercase()].clone();
            }
        }
    }
}
