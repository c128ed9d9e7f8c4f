//! The session protocol on bare HTTP/2: what an agent says and hears, framed as gRPC has it, without the
//! layers of a client library, so that fifty thousand agents leave the CPU to the master.
//!
//! The messages are those of session.proto. What the bench does not look at (a task's command, network
//! snapshots) is skipped while decoding.

use anyhow::{Context as _, bail};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use prost::Message;
use waggle_api::proto::session as pb;

/// Of a master's message, what an emulated agent acts on.
#[derive(Clone, PartialEq, Message)]
pub struct Heard {
    #[prost(message, optional, tag = "1")]
    pub registered: Option<Registered>,
    #[prost(message, optional, tag = "3")]
    pub launch: Option<Launch>,
    #[prost(message, optional, tag = "4")]
    pub kill: Option<Kill>,
    #[prost(message, optional, tag = "5")]
    pub ack: Option<Ack>,
    #[prost(message, optional, tag = "7")]
    pub refused: Option<Refused>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Registered {
    #[prost(uint64, tag = "1")]
    pub heartbeat_interval_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Launch {
    #[prost(message, optional, tag = "1")]
    pub spec: Option<Spec>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Spec {
    #[prost(string, tag = "1")]
    pub task_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Kill {
    #[prost(string, tag = "1")]
    pub task_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Ack {
    #[prost(string, tag = "1")]
    pub task_id: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub uuid: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub struct Refused {
    #[prost(string, tag = "1")]
    pub reason: String,
}

/// Appends a message with gRPC's prefix: not compressed, length.
pub fn frame(out: &mut BytesMut, message: &pb::AgentMessage) {
    let len = message.encoded_len();
    out.reserve(len + 5);
    out.put_u8(0);
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    message.encode_raw(out);
}

/// What came in, cut into messages.
#[derive(Debug, Default)]
pub struct Frames {
    buf: BytesMut,
}

impl Frames {
    /// Takes a chunk and hands each whole message to `each`.
    pub fn take(
        &mut self,
        chunk: Bytes,
        mut each: impl FnMut(Heard) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        // Mostly a chunk is whole messages: nothing is copied then.
        let mut rest = if self.buf.is_empty() {
            chunk
        } else {
            self.buf.extend_from_slice(&chunk);
            self.buf.split().freeze()
        };
        while rest.len() >= 5 {
            let len = u32::from_be_bytes([rest[1], rest[2], rest[3], rest[4]]) as usize;
            if rest[0] != 0 {
                bail!("a compressed message");
            }
            if rest.len() < 5 + len {
                break;
            }
            rest.advance(5);
            each(Heard::decode(rest.split_to(len)).context("a message of the master")?)?;
        }
        self.buf.extend_from_slice(&rest);
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
        }
        Ok(())
    }
}

/// Opens a session's stream.
pub fn open(
    connection: &mut SendRequest<Bytes>,
) -> anyhow::Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>)> {
    let request = http::Request::post("http://127.0.0.1/waggle.session.v1.Session/Connect")
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .context("make a request")?;
    connection
        .send_request(request, false)
        .context("open a session")
}
