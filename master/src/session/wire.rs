//! gRPC's framing for sessions, in both directions.
//!
//! By hand, since a master has a stream for each agent and nearly all of them are quiet nearly always: a
//! general library keeps, for each stream and direction, a buffer as large as the longest message that ever
//! went through it. Here nothing is kept but what is under way. No compression.
//!
//! Source: gRPC over HTTP2, "Length-Prefixed-Message"
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body::{Body, Frame};
use prost::Message as _;
use tonic::{Status, metadata::GRPC_CONTENT_TYPE};
use waggle_api::{
    codec,
    proto::session::{AgentMessage, MasterMessage},
};

use super::{
    Outbox,
    shared::{Said, State},
    tally::Tally,
};

/// Longest message: a registration with some ten thousand tasks.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Compressed or not, and the length.
const HEADER: usize = 5;
/// Messages that are ready together go out in one frame, up to about so many bytes.
const TOGETHER: usize = 16 << 10;

/// What an agent says.
pub(super) struct Incoming {
    body: tonic::body::Body,
    /// Whole messages, and perhaps the beginning of another one.
    rest: Bytes,
    /// The beginning of a message; `rest` is empty then.
    part: BytesMut,
}

impl Incoming {
    pub(super) fn new(body: tonic::body::Body) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            part: BytesMut::new(),
        }
    }

    /// The next message; `None` at the end. Safe to cancel.
    pub(super) async fn message(&mut self) -> Result<Option<AgentMessage>, Status> {
        std::future::poll_fn(|cx| self.poll_message(cx)).await
    }

    /// See [`Incoming::message`].
    pub(super) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<AgentMessage>, Status>> {
        loop {
            if let Some(message) = self.cut()? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()? {
                // Trailers say nothing that is not said.
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        self.push(data)?;
                    }
                }
                None if self.part.is_empty() => return Poll::Ready(Ok(None)),
                None => {
                    let cut_off = Status::internal("the stream ended within a message");
                    return Poll::Ready(Err(cut_off));
                }
            }
        }
    }

    fn push(&mut self, data: Bytes) -> Result<(), Status> {
        if self.part.is_empty() {
            self.rest = data;
            return Ok(());
        }
        self.part.extend_from_slice(&data);
        if wanted(&self.part)? <= self.part.len() {
            self.rest = std::mem::take(&mut self.part).freeze();
        }
        Ok(())
    }

    /// Takes a whole message off what has come.
    fn cut(&mut self) -> Result<Option<AgentMessage>, Status> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let wanted = wanted(&self.rest)?;
        if self.rest.len() < wanted {
            self.part = BytesMut::from(&*std::mem::take(&mut self.rest));
            return Ok(None);
        }
        self.rest.advance(HEADER);
        codec::read(self.rest.split_to(wanted - HEADER)).map(Some)
    }
}

/// How long the message is that begins here, as far as that can be seen.
fn wanted(bytes: &[u8]) -> Result<usize, Status> {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(HEADER);
    };
    let [flag, len @ ..] = *header;
    if flag != 0 {
        return Err(Status::unimplemented("compressed messages are not read"));
    }
    let len = u32::from_be_bytes(len) as usize;
    if len > MAX_MESSAGE_BYTES {
        let message = format!("a message has {len} bytes, the limit is {MAX_MESSAGE_BYTES}");
        return Err(Status::out_of_range(message));
    }
    Ok(HEADER + len)
}

/// What goes to an agent, until either side ends the session: when the master stops, its loop lets go.
/// `G` lives as long as the stream.
pub(super) struct Outgoing<G> {
    outbox: Arc<Outbox>,
    tally: Arc<Tally>,
    _guard: G,
    /// The rest of a message whose beginning is out.
    rest: VecDeque<Bytes>,
    ended: bool,
}

impl<G> Outgoing<G> {
    pub(super) fn new(outbox: Arc<Outbox>, tally: Arc<Tally>, guard: G) -> Self {
        Self {
            outbox,
            tally,
            _guard: guard,
            rest: VecDeque::new(),
            ended: false,
        }
    }
}

fn put(out: &mut BytesMut, tally: &Tally, message: &MasterMessage) {
    if let Some(kind) = &message.kind {
        tally.said(kind);
    }
    let len = message.encoded_len();
    out.reserve(HEADER + len);
    put_header(out, len);
    message.encode_raw(out);
}

fn put_header(out: &mut BytesMut, len: usize) {
    out.put_u8(0);
    // What the master says is far below that.
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
}

impl<G: Unpin> Body for Outgoing<G> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(bytes) = self.rest.pop_front() {
            if self.rest.is_empty() {
                self.rest = VecDeque::new();
            }
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let Some(first) = ready!(self.outbox.poll_next(cx)) else {
            self.ended = true;
            let mut trailers = http::HeaderMap::new();
            Status::ok("").add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        };
        let (mut out, mut next) = (BytesMut::new(), Some(first));
        while let Some(said) = next {
            match said {
                Said::One(message) => put(&mut out, &self.tally, &message),
                Said::State(state) => {
                    self.rest = begin(&mut out, &self.tally, state);
                    break;
                }
            }
            if out.len() >= TOGETHER {
                break;
            }
            next = match self.outbox.poll_next(cx) {
                Poll::Ready(next) => next,
                Poll::Pending => None,
            };
        }
        Poll::Ready(Some(Ok(Frame::data(out.freeze()))))
    }
}

/// Begins a message; answers the rest of it, which is not copied.
fn begin(out: &mut BytesMut, tally: &Tally, state: State) -> VecDeque<Bytes> {
    tally.said(&state.own);
    let shared = state.shared.clone();
    let parts: VecDeque<Bytes> = [Some(shared), state.own_bytes()]
        .into_iter()
        .flatten()
        .filter(|b| !b.is_empty())
        .collect();
    put_header(out, parts.iter().map(Bytes::len).sum());
    parts
}

impl<G> Drop for Outgoing<G> {
    fn drop(&mut self) {
        self.outbox.gone();
    }
}

/// A response with this body.
pub(super) fn response(
    body: Outgoing<impl Unpin + Send + 'static>,
) -> http::Response<tonic::body::Body> {
    let mut response = http::Response::new(tonic::body::Body::new(body));
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use proptest::prelude::*;
    use waggle_api::proto::session::{self as pb, agent_message::Kind, master_message};
    use waggle_types::{Cause, Generation, NetSnapshot, TaskId, TraceContext};

    use super::*;

    fn framed(messages: &[AgentMessage]) -> Vec<u8> {
        let mut out = Vec::new();
        for m in messages {
            out.put_u8(0);
            out.put_u32(u32::try_from(m.encoded_len()).unwrap());
            m.encode(&mut out).unwrap();
        }
        out
    }

    /// Cut at these places.
    fn incoming(bytes: &[u8], cuts: &[usize]) -> Incoming {
        let mut at = 0;
        let mut chunks = Vec::new();
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            let cut = cut.clamp(at, bytes.len());
            chunks.push(Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(
                &bytes[at..cut],
            ))));
            at = cut;
        }
        let body = StreamBody::new(futures::stream::iter(chunks));
        Incoming::new(tonic::body::Body::new(body))
    }

    fn beat(at_ms: u64) -> AgentMessage {
        let kind = Some(Kind::Heartbeat(pb::Heartbeat { at_ms }));
        AgentMessage { kind }
    }

    async fn all(mut incoming: Incoming) -> Result<Vec<AgentMessage>, Status> {
        let mut out = Vec::new();
        while let Some(m) = incoming.message().await? {
            out.push(m);
        }
        Ok(out)
    }

    fn block_on<T>(f: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(f)
    }

    proptest! {
        #[test]
        fn messages_come_through_however_they_are_cut(
            beats in prop::collection::vec(any::<u64>(), 0..8),
            mut cuts in prop::collection::vec(0usize..120, 0..12),
        ) {
            cuts.sort_unstable();
            let messages: Vec<_> = beats.into_iter().map(beat).collect();
            let bytes = framed(&messages);
            let got = block_on(all(incoming(&bytes, &cuts))).unwrap();
            prop_assert_eq!(got, messages);
        }

        #[test]
        fn nonsense_is_an_error_or_little(bytes: Vec<u8>, mut cuts in prop::collection::vec(0usize..40, 0..4)) {
            cuts.sort_unstable();
            // It must come to an end, however it is cut.
            let _ = block_on(all(incoming(&bytes, &cuts)));
        }
    }

    #[test]
    fn what_breaks_the_framing_is_said() {
        let code = |bytes: &[u8]| block_on(all(incoming(bytes, &[]))).unwrap_err().code();
        assert_eq!(code(&[1, 0, 0, 0, 0]), tonic::Code::Unimplemented);
        assert_eq!(code(&[0, 0xff, 0xff, 0xff, 0xff]), tonic::Code::OutOfRange);
        assert_eq!(code(&[0, 0, 0, 0, 9, 1]), tonic::Code::Internal);
        assert_eq!(code(&[0, 0, 0, 0, 1, 0xff]), tonic::Code::InvalidArgument);
    }

    #[test]
    fn what_is_ready_together_goes_together_and_the_end_says_so() {
        let outbox = Arc::new(Outbox::default());
        for n in 0..3 {
            let kind = master_message::Kind::Heartbeat(pb::Heartbeat { at_ms: n });
            outbox.send(MasterMessage { kind: Some(kind) });
        }
        outbox.close();
        let collected = block_on(Outgoing::new(outbox, Arc::default(), ()).collect()).unwrap();
        let status = collected.trailers().unwrap()["grpc-status"].clone();
        assert_eq!(status, "0");
        let mut bytes = collected.to_bytes();
        let mut n = 0;
        while bytes.has_remaining() {
            let wanted = wanted(&bytes).unwrap();
            bytes.advance(HEADER);
            MasterMessage::decode(bytes.split_to(wanted - HEADER)).unwrap();
            n += 1;
        }
        assert_eq!(n, 3);
    }

    #[test]
    fn desired_state_is_one_message_however_many_parts_it_has() {
        let outbox = Arc::new(Outbox::default());
        let beat = |n| MasterMessage {
            kind: Some(master_message::Kind::Heartbeat(pb::Heartbeat { at_ms: n })),
        };
        outbox.send(beat(1));
        let cause = Cause {
            task_id: TaskId::new("web.1").unwrap(),
            trace: TraceContext {
                trace_id: 1,
                span_id: 2,
                flags: 1,
            },
        };
        let snapshot = |n| {
            Arc::new(NetSnapshot {
                generation: Generation(n),
                ..NetSnapshot::default()
            })
        };
        let mut out = Outgoing::new(Arc::clone(&outbox), Arc::default(), ());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut bytes = BytesMut::new();
        for n in [7, 8] {
            outbox.put(snapshot(n), std::slice::from_ref(&cause));
            outbox.send(beat(n));
            while let Poll::Ready(frame) = Pin::new(&mut out).poll_frame(&mut cx) {
                bytes.extend(frame.unwrap().unwrap().into_data().unwrap());
            }
        }
        let (mut bytes, mut heard) = (bytes.freeze(), Vec::new());
        while bytes.has_remaining() {
            let wanted = wanted(&bytes).unwrap();
            bytes.advance(HEADER);
            let read = MasterMessage::decode(bytes.split_to(wanted - HEADER)).unwrap();
            heard.push(match read.kind.unwrap() {
                master_message::Kind::Heartbeat(_) => 0,
                master_message::Kind::Desired(s) => {
                    assert_eq!(s.causes, [pb::Cause::from(&cause)]);
                    s.generation
                }
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(heard, [0, 0, 7, 0, 8]);
    }
}
