//! Input and output of containers: Mesos's `ProcessIO` against the frames of sessions. Pure.

use std::time::Duration;

use waggle_api::{
    exec::{Ended, Frame, Winsize},
    mesos::{Media, recordio},
    proto::mesos::{self as pb, attach_container_input, process_control, process_data, process_io},
};

use super::{id::Id, order};

/// Between two heartbeats of an output stream (Mesos's switchboard's).
pub const HEARTBEAT: Duration = Duration::from_secs(30);

/// What a client types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// Input.
    Data(Vec<u8>),
    /// There is no more.
    End,
    /// The terminal has this size now.
    Resize(Winsize),
    /// The client is still there.
    Heartbeat,
}

/// One call of a stream that is input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The first: whose input it is.
    Of(Id),
    /// The others.
    Typed(Typed),
}

/// What a record of an input stream says; the error is Mesos's, or like it.
pub fn input(call: pb::AgentCall) -> Result<Input, String> {
    let body = call.attach_container_input;
    let body = body.ok_or("Expecting 'attach_container_input' to be present")?;
    match body.r#type() {
        attach_container_input::Type::Unknown => {
            Err("Expecting 'attach_container_input.type' to be present".to_owned())
        }
        attach_container_input::Type::ContainerId => {
            let invalid = |e| format!("'attach_container_input.container_id' is invalid: {e}");
            let id = Id::read(body.container_id.as_ref()).map_err(invalid)?;
            Ok(Input::Of(id))
        }
        attach_container_input::Type::ProcessIo => {
            let io = body.process_io;
            let io = io.ok_or("Expecting 'attach_container_input.process_io' to be present")?;
            typed(io).map(Input::Typed)
        }
    }
}

fn typed(io: pb::ProcessIo) -> Result<Typed, String> {
    let missing = |what: &str| Err(format!("Expecting '{what}' to be present"));
    match io.r#type() {
        process_io::Type::Unknown => missing("process_io.type"),
        process_io::Type::Data => {
            let Some(data) = io.data else {
                return missing("process_io.data");
            };
            if data.r#type() != process_data::Type::Stdin {
                return Err("Expecting 'process_io.data.type' to be STDIN".to_owned());
            }
            let bytes = data.data.unwrap_or_default();
            // The convention for the end of input.
            Ok(if bytes.is_empty() {
                Typed::End
            } else {
                Typed::Data(bytes)
            })
        }
        process_io::Type::Control => {
            let Some(control) = io.control else {
                return missing("process_io.control");
            };
            match control.r#type() {
                process_control::Type::Unknown => missing("process_io.control.type"),
                process_control::Type::Heartbeat => Ok(Typed::Heartbeat),
                process_control::Type::TtyInfo => match &control.tty_info {
                    Some(tty) if tty.window_size.is_some() => Ok(Typed::Resize(order::size(tty))),
                    _ => missing("process_io.control.tty_info.window_size"),
                },
            }
        }
    }
}

/// What a frame shows, as a record; none for what is no output.
pub fn record(frame: &Frame, media: Media) -> Option<Vec<u8>> {
    let (kind, bytes) = match frame {
        Frame::Stdout(bytes) => (process_data::Type::Stdout, bytes),
        Frame::Stderr(bytes) => (process_data::Type::Stderr, bytes),
        _ => return None,
    };
    let io = pb::ProcessIo {
        r#type: Some(process_io::Type::Data.into()),
        data: Some(pb::ProcessData {
            r#type: Some(kind.into()),
            data: Some(bytes.clone()),
        }),
        control: None,
    };
    Some(recordio::frame(&media.write(&io)))
}

/// That the agent is still there, as a record.
pub fn heartbeat(media: Media) -> Vec<u8> {
    let nanoseconds = i64::try_from(HEARTBEAT.as_nanos()).unwrap_or(i64::MAX);
    let io = pb::ProcessIo {
        r#type: Some(process_io::Type::Control.into()),
        data: None,
        control: Some(pb::ProcessControl {
            r#type: Some(process_control::Type::Heartbeat.into()),
            tty_info: None,
            heartbeat: Some(pb::ProcessHeartbeat {
                interval: Some(pb::DurationInfo { nanoseconds }),
            }),
        }),
    };
    recordio::frame(&media.write(&io))
}

/// How a container ended, as a message: its exit status is what wait(2) gives.
pub fn end(ended: &Ended) -> pb::ContainerEnd {
    let status = match (ended.code, ended.signal) {
        (Some(code), _) => Some((code & 0xff) << 8),
        (None, Some(signal)) => Some(signal & 0x7f),
        (None, None) => None,
    };
    pb::ContainerEnd {
        exit_status: status,
        state: None,
        reason: None,
        message: Some(ended.message.clone()).filter(|m| !m.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use waggle_api::mesos::json;

    use super::*;

    fn read(process_io: &str) -> Result<Input, String> {
        let text = format!(
            r#"{{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{{"type":"PROCESS_IO","process_io":{process_io}}}}}"#
        );
        input(json::read(text.as_bytes()).unwrap())
    }

    #[test]
    fn input_is_what_clients_send() {
        let first = r#"{"type":"ATTACH_CONTAINER_INPUT","attach_container_input":{"type":"CONTAINER_ID",
            "container_id":{"value":"c","parent":{"value":"web.1"}}}}"#;
        let Ok(Input::Of(id)) = input(json::read(first.as_bytes()).unwrap()) else {
            panic!("{first}");
        };
        assert_eq!(id.to_string(), "web.1.c");
        for (text, want) in [
            (
                r#"{"type":"DATA","data":{"type":"STDIN","data":"YWI="}}"#,
                Typed::Data(b"ab".to_vec()),
            ),
            (
                r#"{"type":"DATA","data":{"type":"STDIN","data":""}}"#,
                Typed::End,
            ),
            (r#"{"type":"DATA","data":{"type":"STDIN"}}"#, Typed::End),
            (
                r#"{"type":"CONTROL","control":{"type":"TTY_INFO","tty_info":{"window_size":{"rows":3,"columns":4}}}}"#,
                Typed::Resize(Winsize { rows: 3, cols: 4 }),
            ),
            (
                r#"{"type":"CONTROL","control":{"type":"HEARTBEAT","heartbeat":{"interval":{"nanoseconds":1}}}}"#,
                Typed::Heartbeat,
            ),
        ] {
            assert_eq!(read(text), Ok(Input::Typed(want)), "{text}");
        }
        for text in [
            "{}",
            r#"{"type":"DATA"}"#,
            r#"{"type":"DATA","data":{"type":"STDOUT","data":"YWI="}}"#,
            r#"{"type":"CONTROL"}"#,
            r#"{"type":"CONTROL","control":{}}"#,
            r#"{"type":"CONTROL","control":{"type":"TTY_INFO","tty_info":{}}}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(input(pb::AgentCall::default()).is_err());
    }

    #[test]
    fn output_is_what_clients_read() {
        let got = record(&Frame::Stderr(b"ab".to_vec()), Media::Json).unwrap();
        let text = r#"{"type":"DATA","data":{"type":"STDERR","data":"YWI="}}"#;
        assert_eq!(got, format!("{}\n{text}", text.len()).into_bytes());
        assert_eq!(record(&Frame::Ping, Media::Json), None);
        let beat = String::from_utf8(heartbeat(Media::Json)).unwrap();
        assert!(
            beat.contains("\"HEARTBEAT\"") && beat.contains("30000000000"),
            "{beat}"
        );
    }

    #[test]
    fn ends_are_wait_statuses() {
        let of = |code, signal| {
            end(&Ended {
                code,
                signal,
                message: String::new(),
            })
        };
        assert_eq!(of(Some(3), None).exit_status, Some(3 << 8));
        assert_eq!(of(None, Some(9)).exit_status, Some(9));
        assert_eq!(of(None, None).exit_status, None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_input_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(call) = pb::AgentCall::decode(bytes.as_slice()) {
                let _ = input(call);
            }
            if let Ok(call) = json::read::<pb::AgentCall>(&bytes) {
                let _ = input(call);
            }
        }

        /// What one side writes the other reads, in both encodings, however the stream is cut.
        #[test]
        fn output_comes_back(
            parts in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 1..50)), 0..6),
            cut in 1usize..40,
        ) {
            for media in [Media::Json, Media::Protobuf] {
                let frame = |(err, bytes): &(bool, Vec<u8>)| if *err {
                    Frame::Stderr(bytes.clone())
                } else {
                    Frame::Stdout(bytes.clone())
                };
                let stream: Vec<u8> = parts.iter().filter_map(|p| record(&frame(p), media)).flatten().collect();
                let (mut reader, mut got) = (recordio::Reader::default(), Vec::new());
                for piece in stream.chunks(cut) {
                    reader.push(piece);
                    while let Some(record) = reader.next_record().unwrap() {
                        let io: pb::ProcessIo = media.read(&record).unwrap();
                        let data = io.data.unwrap();
                        let err = data.r#type() == process_data::Type::Stderr;
                        got.push((err, data.data.unwrap()));
                    }
                }
                prop_assert_eq!(&got, &parts);
            }
        }
    }
}
