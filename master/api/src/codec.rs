//! Protobuf over gRPC with a bound on what a request takes in memory.
//!
//! A message of some megabytes can decode to gigabytes: two bytes say "one more task", which is some hundred
//! bytes even when it is empty. So before a request is decoded, what it would take is counted along its
//! bytes, and too much is refused. Shapes of all messages are generated from the `.proto` files, with the
//! rest of `gen/`. Answers are not bounded: who asks trusts whom it asks.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
pub use waggle_types::expansion::{Shape, decoded_size, entry_size};

/// What a request may take in memory, in bytes, to within a factor of four: lists may have room for more, and
/// a list's numbers can be one byte each on the wire.
pub const MAX_DECODED: usize = 128 << 20;

/// A message whose shape is known.
pub trait Shaped {
    /// Whether somebody sends it as a request.
    const REQUEST: bool;
    /// The shape.
    fn shape() -> &'static Shape;
}

/// tonic's codec for `T` out and `U` in.
#[derive(Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Shaped + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Writer<T>;
    type Decoder = Reader<U>;

    fn encoder(&mut self) -> Writer<T> {
        Writer(PhantomData)
    }

    fn decoder(&mut self) -> Reader<U> {
        Reader(PhantomData)
    }
}

/// Encodes messages.
#[derive(Debug)]
pub struct Writer<T>(PhantomData<T>);

impl<T: Message> Encoder for Writer<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(out)
            .map_err(|e| Status::internal(e.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Decodes messages; requests within [`MAX_DECODED`].
#[derive(Debug)]
pub struct Reader<U>(PhantomData<U>);

impl<U: Message + Shaped + Default> Decoder for Reader<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        use prost::bytes::Buf;
        // In one piece as tonic has it; else this makes it one.
        let all = bytes.copy_to_bytes(bytes.remaining());
        read(all).map(Some)
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Decodes a message; a request within [`MAX_DECODED`]. The error says what is wrong with it.
pub fn read<U: Message + Shaped + Default>(bytes: prost::bytes::Bytes) -> Result<U, Status> {
    if U::REQUEST && decoded_size(&bytes, U::shape(), MAX_DECODED) > MAX_DECODED {
        let message =
            format!("the message takes more than {MAX_DECODED} bytes decoded: send less at once");
        return Err(Status::resource_exhausted(message));
    }
    U::decode(bytes).map_err(|e| {
        if U::REQUEST {
            Status::invalid_argument(e.to_string())
        } else {
            Status::internal(e.to_string())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{framework as pb, session};

    /// A field with bytes: key, length, value.
    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        prost::encode_length_delimiter(value.len(), &mut out).unwrap();
        out.extend_from_slice(value);
        out
    }

    fn refused<U: Message + Shaped + Default>(bytes: Vec<u8>) -> tonic::Code {
        read::<U>(bytes.into()).map(|_| ()).unwrap_err().code()
    }

    #[test]
    fn a_small_message_does_not_become_a_large_one() {
        let empty = |number, n| field(number, &[]).repeat(n);
        let n = 1 << 20;
        let exhausted = tonic::Code::ResourceExhausted;
        // Tasks, also deep in operations; roles; ids; an agent's tasks.
        assert_eq!(refused::<pb::AcceptRequest>(empty(3, n)), exhausted);
        let operation = field(6, &field(1, &empty(1, n)));
        assert_eq!(refused::<pb::AcceptRequest>(operation), exhausted);
        assert_eq!(refused::<pb::SubscribeRequest>(empty(5, n)), exhausted);
        assert_eq!(refused::<pb::DeclineRequest>(empty(2, 8 * n)), exhausted);
        let register = field(1, &empty(2, n));
        assert_eq!(refused::<session::AgentMessage>(register), exhausted);
        // What is broken behind it does not matter.
        let mut broken = empty(3, n);
        broken.push(0xff);
        assert_eq!(refused::<pb::AcceptRequest>(broken), exhausted);
        let invalid = tonic::Code::InvalidArgument;
        assert_eq!(refused::<pb::AcceptRequest>(vec![0xff]), invalid);
        // An answer may be as long as it is.
        assert!(read::<pb::CallResponse>(empty(1, n).into()).is_ok());
    }

    #[test]
    fn what_holds_its_own_kind_is_bounded_in_depth() {
        use crate::proto::mesos;
        let nested = |depth: usize| {
            let leaf = mesos::ContainerId {
                value: "c".to_owned(),
                parent: None,
            };
            (0..depth).fold(leaf, |parent, _| mesos::ContainerId {
                value: "c".to_owned(),
                parent: Some(Box::new(parent)),
            })
        };
        let size = |id: &mesos::ContainerId| {
            decoded_size(
                &id.encode_to_vec(),
                mesos::ContainerId::shape(),
                MAX_DECODED,
            )
        };
        let one = size_of::<mesos::ContainerId>();
        assert!((11 * one..MAX_DECODED).contains(&size(&nested(10))));
        // No recursion follows what nobody would decode: this would take the whole stack.
        let mut bytes = Vec::new();
        for _ in 0..100_000 {
            let mut outer = vec![2 << 3 | 2];
            prost::encode_length_delimiter(bytes.len(), &mut outer).unwrap();
            if bytes.len() > 64 << 10 {
                break;
            }
            outer.extend(&bytes);
            bytes = outer;
        }
        let counted = decoded_size(&bytes, mesos::ContainerId::shape(), MAX_DECODED);
        assert!(counted > MAX_DECODED);
        assert!(mesos::ContainerId::decode(bytes.as_slice()).is_err());
    }

    #[test]
    fn what_is_usual_passes() {
        let task = pb::TaskInfo {
            task_id: "batch-0001".into(),
            command: Some(pb::task_info::Command::Shell("run 40".into())),
            resources: Some(session::Resources {
                cpus_milli: 100,
                ports: vec![session::PortRange::default(); 2],
                ..session::Resources::default()
            }),
            env: [("A".to_owned(), "x".repeat(100))].into(),
            ..pb::TaskInfo::default()
        };
        let request = pb::AcceptRequest {
            launch: vec![task; 10_000],
            ..pb::AcceptRequest::default()
        };
        let bytes = request.encode_to_vec();
        let size = decoded_size(&bytes, pb::AcceptRequest::shape(), usize::MAX);
        assert!(size > 10_000 * (size_of::<pb::TaskInfo>() + 100), "{size}");
        assert!(size < MAX_DECODED / 6, "{size}");
        assert_eq!(read::<pb::AcceptRequest>(bytes.into()).unwrap(), request);
    }
}
