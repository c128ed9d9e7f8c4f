//! Frames and their bytes.

use serde::{Deserialize, Serialize};

use super::MAX_PAYLOAD;

/// Bytes before a frame's payload.
pub const HEADER: usize = 5;

/// One message of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// To the agent: input.
    Stdin(Vec<u8>),
    /// To the agent: there is no more input.
    StdinEnd,
    /// To the agent: the terminal has this size now.
    Resize(Winsize),
    /// To the agent: this signal for the command's process group.
    Signal(u8),
    /// Both ways: still here.
    Ping,
    /// To the client, once and first: it runs.
    Started(Started),
    /// To the client: output; all of it where there is a terminal.
    Stdout(Vec<u8>),
    /// To the client: error output.
    Stderr(Vec<u8>),
    /// To the client: so many more bytes of input may be sent.
    Window(u32),
    /// To the client: something that its user should know.
    Note(String),
    /// To the client, last: how it ended.
    Ended(Ended),
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Winsize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

impl Default for Winsize {
    fn default() -> Self {
        Self { rows: 24, cols: 80 }
    }
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Started {
    /// The task, with its whole id.
    pub task_id: String,
    /// The command's process on its node; the task's own for an attached one.
    pub pid: u32,
    /// Whether input reaches it.
    pub input: bool,
    /// Whether it has a terminal.
    pub tty: bool,
}

/// How it ended. All empty: it is not known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ended {
    /// Exit code.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Why, for people; empty where the number says it all.
    pub message: String,
}

impl Ended {
    /// The exit code that a shell would give: the command's own, 128 and the signal's number, or 255 where neither
    /// is known.
    pub fn exit_code(&self) -> u8 {
        let number = match (self.code, self.signal) {
            (Some(code), _) => Some(code & 0xff),
            (None, Some(signal)) => Some(128 + signal),
            (None, None) => None,
        };
        number.and_then(|n| u8::try_from(n).ok()).unwrap_or(255)
    }
}

/// Bytes that are no frame; the session is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that this version does not know.
    #[error("frame: kind {0} is not known")]
    Kind(u8),
    /// More than [`MAX_PAYLOAD`].
    #[error("frame: length must be at most {MAX_PAYLOAD}, is {0}")]
    Length(u32),
    /// A payload that its kind can't have.
    #[error("frame: bad payload of kind {0}")]
    Payload(u8),
}

impl Frame {
    /// Appends the frame's bytes. What is longer than [`MAX_PAYLOAD`] is split where it is a stream of bytes, and cut
    /// where it is text.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Stdin(bytes) => stream(0, bytes, out),
            Self::StdinEnd => put(1, &[], out),
            Self::Resize(size) => {
                let mut four = [0; 4];
                four[..2].copy_from_slice(&size.rows.to_be_bytes());
                four[2..].copy_from_slice(&size.cols.to_be_bytes());
                put(2, &four, out);
            }
            Self::Signal(number) => put(3, &[*number], out),
            Self::Ping => put(4, &[], out),
            Self::Started(started) => put(16, &json(started), out),
            Self::Stdout(bytes) => stream(17, bytes, out),
            Self::Stderr(bytes) => stream(18, bytes, out),
            Self::Window(n) => put(19, &n.to_be_bytes(), out),
            Self::Note(text) => put(20, cut(text, MAX_PAYLOAD).as_bytes(), out),
            Self::Ended(ended) => {
                let mut ended = ended.clone();
                // Room for the rest of the object, also when every character is escaped.
                ended.message = cut(&ended.message, MAX_PAYLOAD / 8).to_owned();
                put(21, &json(&ended), out);
            }
        }
    }

    /// The frame's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}

/// The first frame of `bytes` and how many of them it took; `None` when it is not whole yet.
pub fn parse(bytes: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    let Some((kind, after)) = bytes.split_first() else {
        return Ok(None);
    };
    let Some((length, rest)) = after.split_first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    let n = usize::try_from(length).unwrap_or(usize::MAX);
    // Before its bytes are waited for.
    if n > MAX_PAYLOAD {
        return Err(FrameError::Length(length));
    }
    if !matches!(*kind, 0..=4 | 16..=21) {
        return Err(FrameError::Kind(*kind));
    }
    let Some(payload) = rest.get(..n) else {
        return Ok(None);
    };
    let frame = read(*kind, payload).ok_or(FrameError::Payload(*kind))?;
    Ok(Some((frame, HEADER + n)))
}

fn read(kind: u8, payload: &[u8]) -> Option<Frame> {
    Some(match (kind, payload) {
        (0, bytes) => Frame::Stdin(bytes.to_vec()),
        (1, []) => Frame::StdinEnd,
        (2, [a, b, c, d]) => Frame::Resize(Winsize {
            rows: u16::from_be_bytes([*a, *b]),
            cols: u16::from_be_bytes([*c, *d]),
        }),
        (3, [number]) => Frame::Signal(*number),
        (4, []) => Frame::Ping,
        (16, bytes) => Frame::Started(serde_json::from_slice(bytes).ok()?),
        (17, bytes) => Frame::Stdout(bytes.to_vec()),
        (18, bytes) => Frame::Stderr(bytes.to_vec()),
        (19, bytes) => Frame::Window(u32::from_be_bytes(bytes.try_into().ok()?)),
        (20, bytes) => Frame::Note(String::from_utf8(bytes.to_vec()).ok()?),
        (21, bytes) => Frame::Ended(serde_json::from_slice(bytes).ok()?),
        _ => return None,
    })
}

fn stream(kind: u8, bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.is_empty() {
        put(kind, bytes, out);
    }
    for part in bytes.chunks(MAX_PAYLOAD) {
        put(kind, part, out);
    }
}

fn put(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    // Callers keep to the bound; one that did not would be refused by the reader, not misread.
    let n = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend(n.to_be_bytes());
    out.extend(payload);
}

/// Structs of strings and numbers always serialize.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..200);
        let winsize = (any::<u16>(), any::<u16>()).prop_map(|(rows, cols)| Winsize { rows, cols });
        prop_oneof![
            bytes().prop_map(Frame::Stdin),
            Just(Frame::StdinEnd),
            winsize.prop_map(Frame::Resize),
            any::<u8>().prop_map(Frame::Signal),
            Just(Frame::Ping),
            ("[a-z.]{0,30}", any::<u32>(), any::<bool>(), any::<bool>()).prop_map(
                |(task_id, pid, input, tty)| Frame::Started(Started {
                    task_id,
                    pid,
                    input,
                    tty
                })
            ),
            bytes().prop_map(Frame::Stdout),
            bytes().prop_map(Frame::Stderr),
            any::<u32>().prop_map(Frame::Window),
            ".{0,40}".prop_map(Frame::Note),
            (any::<Option<i32>>(), any::<Option<i32>>(), ".{0,40}").prop_map(
                |(code, signal, message)| Frame::Ended(Ended {
                    code,
                    signal,
                    message
                })
            ),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_back_one_by_one(frames in prop::collection::vec(frame(), 0..8)) {
            let mut bytes = Vec::new();
            for f in &frames {
                f.write(&mut bytes);
            }
            let mut rest = bytes.as_slice();
            let mut seen = Vec::new();
            while let Some((f, n)) = parse(rest).unwrap() {
                seen.push(f);
                rest = &rest[n..];
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((_, n))) = parse(&bytes) {
                prop_assert!(n <= bytes.len());
            }
        }

        #[test]
        fn a_part_of_a_frame_is_waited_for(frame in frame(), cut in any::<prop::sample::Index>()) {
            let bytes = frame.bytes();
            let part = &bytes[..cut.index(bytes.len())];
            prop_assert_eq!(parse(part), Ok(None));
        }
    }

    #[test]
    fn a_long_frame_is_refused_before_it_is_here() {
        let bytes = [17, 0, 2, 0, 0];
        assert_eq!(parse(&bytes), Err(FrameError::Length(131_072)));
        assert_eq!(parse(&[9, 0, 0, 0, 0]), Err(FrameError::Kind(9)));
        assert_eq!(parse(&[3, 0, 0, 0, 0]), Err(FrameError::Payload(3)));
    }

    #[test]
    fn long_output_is_split_and_long_text_is_cut() {
        let bytes = Frame::Stdout(vec![7; MAX_PAYLOAD + 1]).bytes();
        let (first, n) = parse(&bytes).unwrap().unwrap();
        assert_eq!(first, Frame::Stdout(vec![7; MAX_PAYLOAD]));
        let (second, _) = parse(&bytes[n..]).unwrap().unwrap();
        assert_eq!(second, Frame::Stdout(vec![7]));
        let ended = Ended {
            message: "\u{1}".repeat(MAX_PAYLOAD),
            ..Ended::default()
        };
        assert!(parse(&Frame::Ended(ended).bytes()).unwrap().is_some());
    }

    #[test]
    fn exit_codes_are_a_shells() {
        let of = |code, signal| {
            Ended {
                code,
                signal,
                message: String::new(),
            }
            .exit_code()
        };
        assert_eq!(of(Some(3), None), 3);
        assert_eq!(of(None, Some(9)), 137);
        assert_eq!(of(None, None), 255);
        assert_eq!(of(Some(256 + 7), None), 7);
    }
}
