//! Mesos's HTTP API as clients use it: a stream, and a connection that is kept for calls.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use waggle_api::mesos::{json, recordio::Reader};

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Json,
    Protobuf,
}

impl Media {
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/x-protobuf",
        }
    }

    pub fn write<M: prost::Message + Serialize>(self, message: &M) -> Vec<u8> {
        match self {
            Self::Json => json::write(message),
            Self::Protobuf => message.encode_to_vec(),
        }
    }

    pub fn read<M: prost::Message + Default + DeserializeOwned>(
        self,
        bytes: &[u8],
    ) -> anyhow::Result<M> {
        match self {
            Self::Json => serde_json::from_slice(bytes).context("read an event"),
            Self::Protobuf => M::decode(bytes).context("read an event"),
        }
    }
}

fn head(path: &str, media: Media, more: &str, len: usize) -> String {
    let name = media.name();
    format!(
        "POST {path} HTTP/1.1\r\nHost: m\r\nContent-Type: {name}\r\nAccept: {name}\r\n{more}Content-Length: {len}\r\n\r\n"
    )
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

/// A stream of records.
pub struct Stream {
    socket: TcpStream,
    pub id: String,
    raw: Vec<u8>,
    /// What of `raw` is done with.
    at: usize,
    reader: Reader,
}

impl Stream {
    pub async fn open(
        to: SocketAddr,
        path: &str,
        media: Media,
        body: &[u8],
    ) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(to).await?;
        socket.set_nodelay(true)?;
        socket
            .write_all(head(path, media, "", body.len()).as_bytes())
            .await?;
        socket.write_all(body).await?;
        let mut raw = Vec::new();
        let end = loop {
            if socket.read_buf(&mut raw).await? == 0 {
                bail!("the stream ends: {}", String::from_utf8_lossy(&raw));
            }
            if let Some(end) = find(&raw, b"\r\n\r\n") {
                break end;
            }
        };
        let text = String::from_utf8_lossy(&raw[..end]).into_owned();
        if !text.starts_with("HTTP/1.1 200") {
            bail!("no stream: {text}");
        }
        let id = text.lines().find_map(|l| {
            let (name, value) = l.split_once(": ")?;
            name.eq_ignore_ascii_case("mesos-stream-id")
                .then(|| value.to_owned())
        });
        Ok(Self {
            socket,
            id: id.unwrap_or_default(),
            raw,
            at: end + 4,
            reader: Reader::default(),
        })
    }

    /// Takes whole chunks out of what has come.
    fn chunks(&mut self) -> anyhow::Result<()> {
        while let Some(line) = find(&self.raw[self.at..], b"\r\n") {
            let len = std::str::from_utf8(&self.raw[self.at..self.at + line])?;
            let len = usize::from_str_radix(len, 16).context("a chunk's length")?;
            let begin = self.at + line + 2;
            if self.raw.len() < begin + len + 2 {
                break;
            }
            self.reader.push(&self.raw[begin..begin + len]);
            self.at = begin + len + 2;
        }
        self.raw.drain(..self.at);
        self.at = 0;
        Ok(())
    }

    /// The next record.
    pub async fn next(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(record) = self.reader.next_record()? {
                return Ok(record);
            }
            if self.socket.read_buf(&mut self.raw).await? == 0 {
                bail!("the stream ended");
            }
            self.chunks()?;
        }
    }
}

/// A connection for calls, one after the other; one that the master has closed while nothing was said is opened again.
pub struct Calls {
    to: SocketAddr,
    socket: TcpStream,
    raw: Vec<u8>,
}

async fn connect(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

impl Calls {
    pub async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self {
            to,
            socket: connect(to).await?,
            raw: Vec::new(),
        })
    }

    /// A call that must be taken.
    pub async fn send(
        &mut self,
        path: &str,
        media: Media,
        stream: &str,
        body: &[u8],
    ) -> anyhow::Result<()> {
        let more = format!("Mesos-Stream-Id: {stream}\r\n");
        let mut out = head(path, media, &more, body.len()).into_bytes();
        out.extend_from_slice(body);
        if self.answered(&out).await? {
            return Ok(());
        }
        self.socket = connect(self.to).await?;
        if !self.answered(&out).await? {
            bail!("the connection ended");
        }
        Ok(())
    }

    /// Whether there was an answer; without one the connection had been closed.
    async fn answered(&mut self, call: &[u8]) -> anyhow::Result<bool> {
        if self.socket.write_all(call).await.is_err() {
            return Ok(false);
        }
        loop {
            if let Some(end) = find(&self.raw, b"\r\n\r\n") {
                if !self.raw.starts_with(b"HTTP/1.1 202") {
                    bail!("refused: {}", String::from_utf8_lossy(&self.raw));
                }
                self.raw.drain(..end + 4);
                return Ok(true);
            }
            let n = self.socket.read_buf(&mut self.raw).await;
            if n.is_err() || n.is_ok_and(|n| n == 0) {
                self.raw.clear();
                return Ok(false);
            }
        }
    }
}

/// A read: its body.
pub async fn get(to: SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut socket = TcpStream::connect(to).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut all = Vec::new();
    socket.read_to_end(&mut all).await?;
    let end = find(&all, b"\r\n\r\n").context("no answer")?;
    if !all.starts_with(b"HTTP/1.1 200") {
        bail!("{path}: {}", String::from_utf8_lossy(&all[..end]));
    }
    Ok(all.split_off(end + 4))
}
