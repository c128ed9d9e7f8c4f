//! As much of an HTTP/1.1 client as measuring needs: one connection, one request after the other, and a stream of events.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// One connection that is kept.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub async fn connect(to: SocketAddr) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(to).await.context("connect a client")?;
        tcp.set_nodelay(true)?;
        Ok(Self(BufReader::new(tcp)))
    }

    /// A request with the whole answer: status and body.
    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<(u16, Vec<u8>)> {
        self.say(method, path, body).await?;
        let (status, length) = self.head().await?;
        let length = length.context("an answer without a length")?;
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).await?;
        Ok((status, bytes))
    }

    /// Reads a stream of events; `each` gets the lines of data.
    pub async fn events(mut self, path: &str, mut each: impl FnMut(&str)) -> anyhow::Result<()> {
        self.say("GET", path, "").await?;
        let (status, _) = self.head().await?;
        if status != 200 {
            bail!("the event stream is refused: {status}");
        }
        let mut line = String::new();
        loop {
            line.clear();
            // Sizes of chunks are lines between the others.
            if self.0.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if let Some(data) = line.strip_prefix("data: ") {
                each(data);
            }
        }
    }

    async fn say(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<()> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(head.as_bytes()).await?;
        Ok(())
    }

    async fn head(&mut self) -> anyhow::Result<(u16, Option<usize>)> {
        let (mut status, mut length, mut line) = (None, None, String::new());
        loop {
            line.clear();
            if self.0.read_line(&mut line).await? == 0 {
                bail!("the master closed a connection");
            }
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if status.is_none() {
                status = text.split(' ').nth(1).and_then(|s| s.parse().ok());
            } else if let Some((name, value)) = text.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok();
            }
        }
        Ok((status.context("an answer without a status")?, length))
    }
}
